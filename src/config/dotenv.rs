//! Variables of the environment, and the `.env` files that stand in for them.
//!
//! The process' own variables win over `.env` in the working directory (where the old server
//! looked), and that over `.env` beside the configuration file (where its users expected it). The
//! rules of `.env` are those of the old server's dotenv 8: no `export`, no value over several lines, and no
//! comments behind a value but for variables of others, such as `REVERB_APP_KEY`: the file is Laravel's, who
//! knows them. The process' environment itself is never changed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A `.env` longer than this is something else.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The variables in which `${NAME}` stands for another one.
const OWN_PREFIX: &str = "LARAVEL_ECHO_SERVER_";

/// Where variables are looked up.
#[derive(Debug, Default)]
pub struct DotEnv {
    /// The content of `.env` files; earlier ones win.
    files: Vec<HashMap<String, String>>,
    /// What was odd. Sentences.
    pub warnings: Vec<String>,
}

impl DotEnv {
    /// Reads `.env` in the working directory and in `directory`, as far as there is one.
    pub fn read(directory: &Path) -> Self {
        let mut dotenv = Self::default();
        let same = |one: &Path, other: &Path| one.canonicalize().ok() == other.canonicalize().ok();
        let here = Path::new(".");
        dotenv.add(&here.join(".env"));
        if !same(here, directory) {
            dotenv.add(&directory.join(".env"));
        }
        dotenv
    }

    fn add(&mut self, path: &Path) {
        let mut bytes = Vec::new();
        match File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)) {
            Ok(_) => self.files.push(parse(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.warnings.push(format!("{} cannot be read and is ignored: {error}.", path.display())),
        }
    }

    /// The variable's value, `${…}` filled in if it is one of this server's own.
    pub fn get(&self, name: &str) -> Option<String> {
        let value = self.plain(name)?;
        if !name.starts_with(OWN_PREFIX) {
            return Some(value);
        }
        Some(fill_in(&value, |name| self.plain(name)))
    }

    fn plain(&self, name: &str) -> Option<String> {
        let of_files = || self.files.iter().find_map(|file| file.get(name)).cloned();
        std::env::var(name).ok().or_else(of_files)
    }
}

/// Replaces each `${NAME}` by the variable's value, one level deep; by nothing if there is none.
/// (The old server lost the text around it: `a${B}` was the value of `B`.)
fn fill_in(value: &str, find: impl Fn(&str) -> Option<String>) -> String {
    let mut filled = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("${") {
        filled.push_str(before);
        match after.split_once('}') {
            Some((name, after)) => {
                filled.push_str(&find(name).unwrap_or_default());
                rest = after;
            }
            None => {
                filled.push_str("${");
                rest = after;
            }
        }
    }
    filled + rest
}

/// The pairs of a `.env` file; of two of one name the last.
pub(crate) fn parse(text: &str) -> HashMap<String, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().filter_map(pair).collect()
}

fn pair(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once('=')?;
    let (name, value) = (name.trim(), value.trim());
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_name) {
        return None;
    }
    let value = if name.starts_with(OWN_PREFIX) { value } else { without_comment(value) };
    let within = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    let value = match (within('"'), within('\'')) {
        (Some(text), _) => text.replace("\\n", "\n"),
        (None, Some(text)) => text.to_owned(),
        (None, None) => value.to_owned(),
    };
    Some((name.to_owned(), value))
}

/// `a # comment` is `a`, and `"a # b" # comment` is `"a # b"`.
fn without_comment(value: &str) -> &str {
    let quoted = value.starts_with(['"', '\'']).then(|| value[1..].find(&value[..1]).map(|end| end + 2)).flatten();
    match quoted {
        Some(end) if value[end..].trim_start().starts_with('#') => &value[..end],
        Some(_) => value,
        None => value.split_once(" #").map_or(value, |(value, _)| value.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dotenv_file_by_the_rules_of_the_old_server() {
        let pairs = parse(
            "\u{feff}# a comment\nA=1\n B = two words \r\nC=\"x\\ny\"\nD='a\\nb'\nE=\nF=v # a comment\nL=\"v # w\"  # a comment\nM=v#w\nN=\"open # x\n\
             LARAVEL_ECHO_SERVER_X=v # none\nexport G=1\n\
             no pair\nH=a=b\nA=2\nI=\"open\nJ.k-l=ok\n=x\nK=\"\n",
        );
        let get = |name: &str| pairs.get(name).map(String::as_str);
        for (name, value) in [
            ("A", Some("2")),
            ("B", Some("two words")),
            ("C", Some("x\ny")),
            ("D", Some("a\\nb")),
            ("E", Some("")),
            ("F", Some("v")),
            ("L", Some("v # w")),
            ("M", Some("v#w")),
            ("N", Some("\"open")),
            ("LARAVEL_ECHO_SERVER_X", Some("v # none")),
            ("G", None),
            ("export G", None),
            ("H", Some("a=b")),
            ("I", Some("\"open")),
            ("J.k-l", Some("ok")),
            ("K", Some("\"")),
            ("", None),
        ] {
            assert_eq!(get(name), value, "{name}");
        }
    }

    #[test]
    fn variables_within_variables() {
        let find = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "NESTED" => Some("${A}".to_owned()),
            _ => None,
        };
        for (value, filled) in [
            ("${A}", "1"),
            ("x${A}y${A}", "x1y1"),
            ("${NONE}", ""),
            ("a${NONE}b", "ab"),
            ("${NESTED}", "${A}"),
            ("$A ${", "$A ${"),
            ("${A", "${A"),
            ("plain", "plain"),
        ] {
            assert_eq!(fill_in(value, find), filled, "{value}");
        }
    }

    #[test]
    fn the_first_file_wins() {
        let file = |text: &str| parse(text);
        let dotenv = DotEnv {
            files: vec![
                file("LARAVEL_ECHO_SERVER_TEST_X=${OTHER_TEST_X}\n"),
                file("LARAVEL_ECHO_SERVER_TEST_X=b\nOTHER_TEST_X=c${d}\n"),
            ],
            warnings: Vec::new(),
        };
        assert_eq!(dotenv.get("LARAVEL_ECHO_SERVER_TEST_X").as_deref(), Some("c${d}"));
        // Other variables stay as they are.
        assert_eq!(dotenv.get("OTHER_TEST_X").as_deref(), Some("c${d}"));
        assert_eq!(dotenv.get("LARAVEL_ECHO_SERVER_TEST_Y"), None);
    }
}
