//! As much of PHP as Laravel's configuration files are written in: `return [ … ];` with texts, numbers,
//! lists, `env()`, `Str::slug()`, concatenation, `?:` and `??`. It runs nothing; what it does not know is
//! [`Value::Unknown`], and the rest of the file is read all the same. `bootstrap/cache/config.php` is of this
//! kind, too.

use std::iter::Peekable;
use std::str::Chars;

/// Arrays within arrays; deeper ones are unknown.
const DEPTH_MAX: usize = 40;

/// A value of PHP.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A text, or a number as it is written.
    Text(String),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
    /// Keys and values; a list's elements have no keys.
    Array(Vec<(Option<String>, Value)>),
    /// Something that only PHP can tell.
    Unknown,
}

impl Value {
    /// The value at the end of these keys; null, as in Laravel, if it is not there.
    pub fn at(&self, keys: &[&str]) -> &Self {
        let Some((first, rest)) = keys.split_first() else { return self };
        let members = match self {
            Self::Array(members) => members,
            Self::Unknown => return &Self::Unknown,
            _ => return &Self::Null,
        };
        let member = members.iter().rev().find(|(key, _)| key.as_deref() == Some(*first));
        member.map_or(&Self::Null, |(_, value)| value.at(rest))
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn is_truthy(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty() && text != "0",
            Self::Bool(value) => *value,
            Self::Null | Self::Unknown => false,
            Self::Array(members) => !members.is_empty(),
        }
    }
}

/// What the file returns. `env` looks up variables.
pub fn returned(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Value {
    let tokens = tokens(text);
    let Some(start) = tokens.iter().position(|token| *token == Token::Name("return".to_owned())) else {
        return Value::Unknown;
    };
    Parser { tokens: &tokens[start + 1..], env }.expression(0)
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Text(String),
    /// A text with variables in it.
    Mixed,
    Number(String),
    /// `env`, `Str::slug`, `\Illuminate\Support\Str::slug`, `true`.
    Name(String),
    /// `=>`, `?:`, `??`, or a single character.
    Sign(&'static str),
    Other,
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(first) = chars.next() {
        let second = chars.peek().copied();
        let token = match (first, second) {
            (c, _) if c.is_whitespace() => continue,
            ('#', Some('[')) => Token::Other,
            ('#', _) | ('/', Some('/')) => {
                chars.by_ref().find(|c| *c == '\n');
                continue;
            }
            ('/', Some('*')) => {
                let mut last = ' ';
                chars.by_ref().skip(1).find(|c| std::mem::replace(&mut last, *c) == '*' && *c == '/');
                continue;
            }
            ('\'' | '"', _) => quoted(&mut chars, first),
            ('=', Some('>')) => two(&mut chars, "=>"),
            ('?', Some(':')) => two(&mut chars, "?:"),
            ('?', Some('?')) => two(&mut chars, "??"),
            ('[', _) => Token::Sign("["),
            (']', _) => Token::Sign("]"),
            ('(', _) => Token::Sign("("),
            (')', _) => Token::Sign(")"),
            (',', _) => Token::Sign(","),
            ('.', _) => Token::Sign("."),
            (';', _) => Token::Sign(";"),
            (c, _) if c.is_ascii_digit() || (c == '-' && second.is_some_and(|c| c.is_ascii_digit())) => {
                Token::Number(word(&mut chars, c, |c| c.is_ascii_digit() || c == '.'))
            }
            (c, _) if c.is_alphabetic() || c == '_' || c == '\\' => {
                Token::Name(word(&mut chars, c, |c| c.is_alphanumeric() || "_\\:".contains(c)))
            }
            _ => Token::Other,
        };
        tokens.push(token);
    }
    tokens
}

fn two(chars: &mut Peekable<Chars<'_>>, sign: &'static str) -> Token {
    chars.next();
    Token::Sign(sign)
}

fn word(chars: &mut Peekable<Chars<'_>>, first: char, is_part: impl Fn(char) -> bool) -> String {
    let mut word = String::from(first);
    while let Some(next) = chars.next_if(|c| is_part(*c)) {
        word.push(next);
    }
    word
}

fn quoted(chars: &mut Peekable<Chars<'_>>, quote: char) -> Token {
    let (mut text, mut is_mixed) = (String::new(), false);
    while let Some(next) = chars.next() {
        match next {
            c if c == quote => break,
            '\\' => match chars.next() {
                Some('n') if quote == '"' => text.push('\n'),
                Some(c) if c == quote || c == '\\' || (quote == '"' && c == '$') => text.push(c),
                other => {
                    text.push('\\');
                    text.extend(other);
                }
            },
            '$' if quote == '"' => is_mixed = true,
            c => text.push(c),
        }
    }
    if is_mixed { Token::Mixed } else { Token::Text(text) }
}

struct Parser<'a> {
    tokens: &'a [Token],
    env: &'a dyn Fn(&str) -> Option<String>,
}

impl Parser<'_> {
    fn take(&mut self, sign: &str) -> bool {
        match self.tokens.split_first() {
            Some((Token::Sign(found), rest)) if *found == sign => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }

    /// An expression, up to what ends it. With a sign in it that is not known here it is unknown as a whole.
    fn expression(&mut self, depth: usize) -> Value {
        let mut value = self.term(depth);
        loop {
            if self.take(".") {
                value = match (value, self.term(depth)) {
                    (Value::Text(left), Value::Text(right)) => Value::Text(left + &right),
                    (Value::Text(text), Value::Null) | (Value::Null, Value::Text(text)) => Value::Text(text),
                    _ => Value::Unknown,
                };
            } else if self.take("?:") {
                let other = self.expression(depth + 1);
                value = match value {
                    Value::Unknown => Value::Unknown,
                    value if value.is_truthy() => value,
                    _ => other,
                };
            } else if self.take("??") {
                let other = self.expression(depth + 1);
                value = if value == Value::Null { other } else { value };
            } else {
                break;
            }
        }
        if self.is_at_an_end() { value } else { self.skip() }
    }

    fn is_at_an_end(&self) -> bool {
        matches!(self.tokens.first(), None | Some(Token::Sign("," | "]" | ")" | "=>" | ";")))
    }

    /// Goes on behind what is not known.
    fn skip(&mut self) -> Value {
        let mut open = 0_usize;
        while let Some((token, rest)) = self.tokens.split_first() {
            match token {
                Token::Sign("[" | "(") => open += 1,
                Token::Sign("," | "]" | ")" | ";" | "=>") if open == 0 => break,
                Token::Sign("]" | ")") => open -= 1,
                _ => {}
            }
            self.tokens = rest;
        }
        Value::Unknown
    }

    fn term(&mut self, depth: usize) -> Value {
        if depth > DEPTH_MAX || self.is_at_an_end() {
            return self.skip();
        }
        let Some((token, rest)) = self.tokens.split_first() else { return Value::Unknown };
        match token {
            Token::Sign("(") => {
                self.tokens = rest;
                // A cast changes nothing about a text.
                if let [Token::Name(name), Token::Sign(")"), ..] = rest
                    && matches!(name.as_str(), "string" | "int" | "bool")
                {
                    self.tokens = &rest[2..];
                    return self.term(depth + 1);
                }
                let value = self.expression(depth + 1);
                self.take(")");
                value
            }
            Token::Sign("[") => {
                self.tokens = rest;
                self.array(depth, "]")
            }
            Token::Sign(_) | Token::Other => self.skip(),
            Token::Mixed => {
                self.tokens = rest;
                Value::Unknown
            }
            Token::Text(text) | Token::Number(text) => {
                self.tokens = rest;
                Value::Text(text.clone())
            }
            Token::Name(name) => {
                self.tokens = rest;
                self.name(name, depth)
            }
        }
    }

    fn array(&mut self, depth: usize, end: &str) -> Value {
        let mut members = Vec::new();
        while !self.tokens.is_empty() && !self.take(end) {
            let first = self.expression(depth + 1);
            let mut member = (None, first);
            // A second arrow is that of a function, of which nothing is known.
            while self.take("=>") {
                let value = self.expression(depth + 1);
                member = match member {
                    (None, key) => (Some(key.text().unwrap_or_default().to_owned()), value),
                    (key, _) => (key, Value::Unknown),
                };
            }
            members.push(member);
            // What ends with another bracket is not as it should be, and goes no further.
            if !self.take(",") {
                self.take(end);
                break;
            }
        }
        Value::Array(members)
    }

    fn name(&mut self, name: &str, depth: usize) -> Value {
        let short = name.rsplit('\\').next().unwrap_or(name);
        if !self.take("(") {
            return match short.to_ascii_lowercase().as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                "null" => Value::Null,
                _ => Value::Unknown,
            };
        }
        let arguments = self.array(depth, ")");
        let Value::Array(arguments) = arguments else { return Value::Unknown };
        let argument = |index: usize| arguments.get(index).map(|(_, value)| value);
        match (short, argument(0)) {
            ("array", _) => Value::Array(arguments),
            ("env" | "Env::get", Some(Value::Text(variable))) => match (self.env)(variable) {
                Some(value) => from_env(value),
                None => argument(1).cloned().unwrap_or(Value::Null),
            },
            ("Str::slug" | "str_slug", Some(Value::Text(title))) => {
                let separator = argument(1).and_then(Value::text).unwrap_or("-");
                slug(title, separator).map_or(Value::Unknown, Value::Text)
            }
            _ => Value::Unknown,
        }
    }
}

/// As Laravel's `env()` takes it.
fn from_env(value: String) -> Value {
    match value.to_ascii_lowercase().as_str() {
        "true" | "(true)" => Value::Bool(true),
        "false" | "(false)" => Value::Bool(false),
        "null" | "(null)" => Value::Null,
        "empty" | "(empty)" => Value::Text(String::new()),
        _ => Value::Text(value),
    }
}

/// Laravel's `Str::slug`, of titles in ASCII: others it writes in ASCII first, by tables of its own.
fn slug(title: &str, separator: &str) -> Option<String> {
    if !title.is_ascii() || separator.len() != 1 {
        return None;
    }
    let flipped = if separator == "-" { '_' } else { '-' };
    let spaced = title.replace(flipped, separator).replace('@', &format!("{separator}at{separator}"));
    let is_gap = |c: char| c.is_ascii_whitespace() || separator.contains(c);
    let kept: String =
        spaced.to_ascii_lowercase().chars().filter(|c| c.is_ascii_alphanumeric() || is_gap(*c)).collect();
    Some(kept.split(is_gap).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(separator))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Value {
        let env = |name: &str| match name {
            "APP_NAME" => Some("Talent 2_Income@home".to_owned()),
            "ON" => Some("true".to_owned()),
            "NOTHING" => Some("null".to_owned()),
            _ => None,
        };
        returned(&format!("<?php\n\nuse Illuminate\\Support\\Str;\n\nreturn [\n{text}\n];\n"), &env)
    }

    #[test]
    fn what_configuration_files_say() {
        for (text, expected) in [
            ("'a' => 'it\\'s',", Some("it's")),
            ("'a' => \"b\", // 'a' => 'c'", Some("b")),
            ("/* 'a' => 1, */ 'a' => 2", Some("2")),
            ("'a' => 1, 'a' => -2", Some("-2")),
            ("'a' => env('NONE', 'default')", Some("default")),
            ("'a' => env('NONE', env('NONE', 'inner'))", Some("inner")),
            ("'a' => env('NOTHING') ?? 'x'", Some("x")),
            ("'a' => env('PUSHER_HOST') ?: 'api-'.env('CLUSTER', 'mt1').'.pusher.com'", Some("api-mt1.pusher.com")),
            (
                "'a' => Str::slug(env('APP_NAME', 'laravel'), '_').'_database_'",
                Some("talent_2_income_at_home_database_"),
            ),
            (
                "'a' => Str::slug((string) env('APP_NAME', 'laravel')).'-database-'",
                Some("talent-2-income-at-home-database-"),
            ),
            ("'a' => \\Illuminate\\Support\\Str::slug('Zoë')", None),
            ("'x' => fn () => ['a' => 1], 'a' => 'after'", Some("after")),
            ("'x' => env('A') === 'b' ? ['p'] : [1, 2], 'a' => 'after'", Some("after")),
            ("'x' => new Foo(['a' => 1]), 'a' => array('b'), 'a' => 'after'", Some("after")),
            ("'x' => (int) env('A', 5), 'a' => 'after',", Some("after")),
            ("'a' => \"x$y\"", None),
            ("'a' => 'b' . FOO", None),
            ("'a' => true", None),
        ] {
            assert_eq!(read(text).at(&["a"]).text(), expected, "{text}");
        }
        assert_eq!(read("'a' => env('ON')").at(&["a"]), &Value::Bool(true));
        assert_eq!(read("'a' => ['b' => ['c' => 'd']]").at(&["a", "b", "c"]).text(), Some("d"));
        assert_eq!(read("'a' => ['b' => 1]").at(&["a", "x"]), &Value::Null);
        assert_eq!(read("'a' => foo()").at(&["a", "x"]), &Value::Unknown);
    }

    #[test]
    fn a_cached_configuration() {
        let text = "<?php return array (\n  'redis' => \n  array (\n    'prefix' => 'shop:',\n    'n' => 0,\n  ),\n  'z' => NULL,\n);";
        let value = returned(text, &|_| None);
        assert_eq!(value.at(&["redis", "prefix"]).text(), Some("shop:"));
        assert_eq!(value.at(&["z"]), &Value::Null);
    }

    #[test]
    fn nothing_makes_it_panic_or_hang() {
        for text in [
            "",
            "<?php",
            "return",
            "return ]",
            "return [",
            "return [ ) ] => ; , (",
            "return 'a",
            "return /*",
            "return ?? ?: . .",
        ] {
            let _ = returned(text, &|_| None);
        }
        for piece in ["[", "(", "a ?: ", "a(", "(string)", "[[],", "-", "'a'.", "['a' =>"] {
            let _ = returned(&format!("return {}", piece.repeat(50_000)), &|_| None);
        }
    }
}
