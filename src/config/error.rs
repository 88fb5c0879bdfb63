//! Why a configuration cannot be used, in sentences: what is wrong, where, and what would be right.
//!
//! No error shows a password or a secret, not even as part of a line of the file.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The smallest file that is of use, for those who have none yet.
const EXAMPLE: &str = r#"{
  "authHost": "http://localhost:8000",
  "clients": [ { "appId": "my-app", "key": "my-app-key" } ],
  "databaseConfig": { "redis": { "host": "127.0.0.1", "port": 6379 } }
}"#;

/// Longest part of a line that an error shows, in characters.
const EXCERPT_CHARS_MAX: usize = 100;

/// The configuration cannot be used. The text is meant for the user as it stands.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such file.
    #[error(
        "There is no file {}. Create it, for example with\n\n{EXAMPLE}\n\nor say where it is with --dir (its directory) or --config (its name).",
        path.display()
    )]
    Missing {
        /// The file that was looked for, absolute.
        path: PathBuf,
    },
    /// Not even the directory is there.
    #[error("There is no directory {}, so there is no file {} in it. Check --dir and --config.", directory(path), path.display())]
    NoDirectory {
        /// The file that was looked for, absolute.
        path: PathBuf,
    },
    /// It is no file.
    #[error("{} is a directory. Name the configuration file with --config, or its directory with --dir.", path.display())]
    IsADirectory {
        /// What was named.
        path: PathBuf,
    },
    /// The user that runs the server may not read it.
    #[error("{} may not be read by the user that runs this server: permission denied. Change its owner or mode.", path.display())]
    PermissionDenied {
        /// The file.
        path: PathBuf,
    },
    /// The operating system could not read it.
    #[error("{} cannot be read: {reason}.", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: io::Error,
    },
    /// Longer than any configuration.
    #[error("{} is longer than {max_bytes} bytes; that cannot be a configuration file.", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        max_bytes: u64,
    },
    /// No characters but white space.
    #[error("{} is empty. It must hold a JSON object, for example\n\n{EXAMPLE}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Not UTF-8.
    #[error("{}, line {line}: the file is not UTF-8 here. Save it as UTF-8.", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Line number from 1.
        line: usize,
    },
    /// Not JSON.
    #[error("{}, line {line}, column {column}: {what}{excerpt}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line number from 1.
        line: usize,
        /// Column in characters from 1.
        column: usize,
        /// A sentence: what is wrong and what would be right.
        what: String,
        /// The line with a caret under the place, on lines of its own; or empty.
        excerpt: String,
    },
    /// JSON, but a setting makes no sense.
    #[error("{place} {what}.")]
    Setting {
        /// File, line and key; or the variable.
        place: String,
        /// Its value, and what would be right.
        what: String,
    },
    /// A server that runs has no place for another app.
    #[error(
        "{count} apps have been added since the start, and there is room for {max}, those that were removed included. \
         Restart the server."
    )]
    TooManyApps {
        /// How many there would be.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// The operating system has no random numbers for a secret.
    #[error("No secret could be made, because the operating system gave no random numbers: {0}.")]
    NoRandomNumbers(getrandom::Error),
}

impl ConfigError {
    /// The file named could not be opened or read.
    pub(super) fn from_io(path: &Path, reason: io::Error) -> Self {
        // An absolute path, because the reader of a service's log does not know its directory.
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        match reason.kind() {
            io::ErrorKind::NotFound => match absolute.parent() {
                Some(directory) if !directory.exists() => Self::NoDirectory { path: absolute },
                _ => Self::Missing { path: absolute },
            },
            io::ErrorKind::IsADirectory => Self::IsADirectory { path: absolute },
            io::ErrorKind::PermissionDenied => Self::PermissionDenied { path: absolute },
            _ => Self::Unreadable { path: absolute, reason },
        }
    }

    /// The JSON parser stopped.
    pub(super) fn from_json(path: &Path, text: &str, error: &serde_json::Error) -> Self {
        let at = Spot::find(text, error.line(), error.column());
        Self::Syntax {
            path: path.to_owned(),
            line: at.line,
            column: at.column,
            what: explain(text, &at, error),
            excerpt: excerpt(text, &at),
        }
    }
}

fn directory(path: &Path) -> std::path::Display<'_> {
    path.parent().unwrap_or(path).display()
}

/// A place in the text.
struct Spot {
    /// Line number from 1.
    line: usize,
    /// Column in characters from 1.
    column: usize,
    /// Offset in bytes, at most the text's length.
    offset: usize,
}

impl Spot {
    /// The parser counts columns in bytes, and 0 stands for the end of the line before.
    fn find(text: &str, line: usize, column: usize) -> Self {
        let line = line.max(1);
        let start = match line {
            1 => 0,
            _ => text.match_indices('\n').nth(line - 2).map_or(text.len(), |(newline, _)| newline + 1),
        };
        let offset = text.floor_char_boundary((start + column.saturating_sub(1)).min(text.len()));
        let column = text[start..offset.max(start)].chars().count() + 1;
        Self { line, column, offset: offset.max(start) }
    }
}

/// What the parser's complaint means for somebody who writes a file by hand.
fn explain(text: &str, at: &Spot, error: &serde_json::Error) -> String {
    let rest = &text[at.offset..];
    // The parser appends the place, which is given already.
    let complaint = error.to_string();
    let complaint = complaint.split(" at line ").next().unwrap_or_default();
    if rest.starts_with('/') || rest.starts_with('#') {
        return "JSON allows no comments; remove this one.".to_owned();
    }
    if rest.starts_with('\'') {
        return "names and texts stand in double quotes (\"), not in single ones.".to_owned();
    }
    if error.is_eof() {
        return "the file ends too early; a closing \", ] or } is missing.".to_owned();
    }
    match complaint {
        "trailing comma" => "JSON allows no comma before this closing bracket; remove it.".to_owned(),
        "expected `,` or `}`" | "expected `,` or `]`" => {
            "a comma or a closing bracket is missing before this place.".to_owned()
        }
        "expected `:`" => "a colon is missing between a key and its value.".to_owned(),
        "key must be a string" => "a key in double quotes must stand here, as \"port\".".to_owned(),
        "expected value" | "expected ident" => {
            "a value must stand here: a \"text\", a number, true, false, null, [ ] or { }.".to_owned()
        }
        "invalid escape" => "a backslash within a text is written twice: \\\\.".to_owned(),
        "trailing characters" => "the JSON object ends before this place; nothing may follow it.".to_owned(),
        "recursion limit exceeded" => "the brackets are nested too deep.".to_owned(),
        other if other.starts_with("control character") => {
            "a text must end on the line on which it begins; a closing \" is missing.".to_owned()
        }
        other => format!("this is not JSON: {other}."),
    }
}

/// The line with its number, and a caret under the place.
fn excerpt(text: &str, at: &Spot) -> String {
    let mut lines = text.lines();
    let before = lines.by_ref().take(at.line - 1).filter(|line| !line.trim().is_empty()).last().unwrap_or_default();
    let line = lines.next().unwrap_or_default();
    // A value may stand on the line after its key.
    if line.trim().is_empty() || may_hold_secret(before) || may_hold_secret(line) {
        return String::new();
    }
    let first = at.column.saturating_sub(EXCERPT_CHARS_MAX / 2 + 1);
    let shown: String = line
        .chars()
        .skip(first)
        .take(EXCERPT_CHARS_MAX)
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect();
    let number = at.line.to_string();
    let gutter = " ".repeat(number.len());
    let indent = " ".repeat(at.column.saturating_sub(first + 1));
    format!("\n\n  {number} | {}\n  {gutter} | {indent}^", shown.trim_end())
}

/// Whether a text of the file must not be shown.
pub(super) fn may_hold_secret(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["pass", "secret", "token", "@"].iter().any(|word| text.contains(word))
}

/// A value as an error shows it.
pub(super) struct Shown<'a>(pub &'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CHARS_MAX: usize = 60;
        for character in self.0.chars().take(CHARS_MAX) {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?
            } else {
                write!(f, "{character}")?
            }
        }
        if self.0.chars().nth(CHARS_MAX).is_some() { f.write_str("…") } else { Ok(()) }
    }
}
