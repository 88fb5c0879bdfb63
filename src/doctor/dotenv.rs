//! A Laravel application's `.env`, by the rules of the library that Laravel reads it with: `export`, quotes,
//! comments, `${NAME}`. Not this server's own `.env`; see `config`.

use std::collections::HashMap;

/// Its variables, and on which line each stands.
#[derive(Debug, Default)]
pub struct DotEnv(HashMap<String, (String, usize)>);

impl DotEnv {
    /// Reads the text.
    pub fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.trim();
            let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
            let Some((name, value)) = line.split_once('=') else { continue };
            let name = name.trim();
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte)) {
                continue;
            }
            let value = all.value(value.trim());
            all.0.insert(name.to_owned(), (value, index + 1));
        }
        all
    }

    /// The variable's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|(value, _)| value.as_str())
    }

    /// The line on which it stands, from 1.
    pub fn line(&self, name: &str) -> Option<usize> {
        self.0.get(name).map(|(_, line)| *line)
    }

    fn value(&self, text: &str) -> String {
        if let Some(rest) = text.strip_prefix('\'') {
            return rest.split('\'').next().unwrap_or_default().to_owned();
        }
        let raw = match text.strip_prefix('"') {
            Some(rest) => {
                let mut value = String::new();
                let mut chars = rest.chars();
                while let Some(next) = chars.next() {
                    match next {
                        '"' => break,
                        '\\' => value.extend(chars.next().map(|c| if c == 'n' { '\n' } else { c })),
                        c => value.push(c),
                    }
                }
                value
            }
            None if text.starts_with('#') => String::new(),
            None => text.split(" #").next().unwrap_or_default().trim_end().to_owned(),
        };
        self.filled_in(&raw)
    }

    /// Only variables that stand before count, as there.
    fn filled_in(&self, text: &str) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let Some((name, after)) = after.split_once('}') else { break };
            filled.push_str(before);
            filled.push_str(self.get(name).unwrap_or_default());
            rest = after;
        }
        filled + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_laravel_reads_it() {
        let dotenv = DotEnv::parse(
            "\u{feff}APP_NAME=\"My Shop\"\n# A=1\nexport B=two # comment\nC='x ${B}'\nVITE=\"${APP_NAME}!\"\nE=\nF= # none\nG=a#b\nH=\"a\\\"b\" # c\nB=last\nno pair\n",
        );
        for (name, value) in [
            ("APP_NAME", Some("My Shop")),
            ("A", None),
            ("B", Some("last")),
            ("C", Some("x ${B}")),
            ("VITE", Some("My Shop!")),
            ("E", Some("")),
            ("F", Some("")),
            ("G", Some("a#b")),
            ("H", Some("a\"b")),
        ] {
            assert_eq!(dotenv.get(name), value, "{name}");
        }
        assert_eq!((dotenv.line("APP_NAME"), dotenv.line("B"), dotenv.line("A")), (Some(1), Some(10), None));
    }
}
