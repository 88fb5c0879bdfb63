//! A value of the configuration together with where it was written, so that whoever finds
//! something odd in it can say the file, the line, the key and the value.
//!
//! The values stay slices of the file's text: where a slice begins is where the value stands.
//! The conversions take what the old server took: numbers as texts, `"true"` for true.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use serde_json::value::RawValue;

use super::error::{ConfigError, Shown, may_hold_secret};

/// A file whose text is known to be JSON.
#[derive(Debug)]
pub(super) struct Document<'a> {
    path: &'a Path,
    text: &'a str,
}

/// A value that is there: neither absent nor `null`, which mean the same.
#[derive(Clone, Debug)]
pub(super) struct Setting<'a> {
    source: Source<'a>,
    /// As `databaseConfig.redis.port` or `clients[0].key`; empty for the whole file.
    pub(super) key: String,
}

#[derive(Clone, Debug)]
enum Source<'a> {
    /// JSON that is part of the document's text.
    File { document: &'a Document<'a>, json: &'a str },
    /// A variable of the environment.
    Variable { name: &'static str, value: String },
}

impl<'a> Document<'a> {
    /// Checks the syntax of the whole text.
    pub(super) fn parse(path: &'a Path, text: &'a str) -> Result<Self, ConfigError> {
        // The value is thrown away: it has no places. It checks more than skipping would
        // (escapes, numbers), so that no part can fail later.
        match serde_json::from_str::<serde_json::Value>(text) {
            Ok(_) => Ok(Self { path, text }),
            Err(error) => Err(ConfigError::from_json(path, text, &error)),
        }
    }

    /// The whole file as one value.
    pub(super) fn root(&'a self) -> Setting<'a> {
        Setting { source: Source::File { document: self, json: self.text.trim() }, key: String::new() }
    }
}

impl<'a> Setting<'a> {
    /// A value of the environment, which stands for the key.
    pub(super) fn variable(name: &'static str, value: String, key: &str) -> Self {
        Self { source: Source::Variable { name, value }, key: key.to_owned() }
    }

    /// The members of an object in the order of the file; of two of one name the last, as in
    /// JavaScript. Those that are `null` are left out.
    pub(super) fn object(&self) -> Result<Vec<(String, Setting<'a>)>, ConfigError> {
        let Some((document, members)) = self.parse_json::<BTreeMap<String, &'a RawValue>>() else {
            return Err(self.wrong("must be an object in braces, as { \"name\": \"value\" }"));
        };
        let mut members: Vec<_> = members.into_iter().filter(|(_, value)| value.get() != "null").collect();
        members.sort_by_key(|(_, value)| value.get().as_ptr());
        let place = |(name, value): (String, &'a RawValue)| {
            let key = if self.key.is_empty() { name.clone() } else { format!("{}.{name}", self.key) };
            (name, Setting { source: Source::File { document, json: value.get() }, key })
        };
        Ok(members.into_iter().map(place).collect())
    }

    /// The elements of a list.
    pub(super) fn list(&self) -> Result<Vec<Setting<'a>>, ConfigError> {
        let Some((document, elements)) = self.parse_json::<Vec<&'a RawValue>>() else {
            return Err(self.wrong("must be a list in brackets, as [ … ]"));
        };
        let place = |(index, element): (usize, &'a RawValue)| Setting {
            source: Source::File { document, json: element.get() },
            key: format!("{}[{index}]", self.key),
        };
        Ok(elements.into_iter().enumerate().map(place).collect())
    }

    /// A text; a number is taken as the text that it was written as.
    pub(super) fn text(&self) -> Result<String, ConfigError> {
        self.scalar().ok_or_else(|| self.wrong("must be a text in double quotes"))
    }

    /// A whole number, or a text of digits. `must` says what would be right.
    pub(super) fn whole(&self, range: RangeInclusive<u64>, must: impl Display) -> Result<u64, ConfigError> {
        let number = self.scalar().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        match number.and_then(|text| text.parse().ok()) {
            Some(number) if range.contains(&number) => Ok(number),
            _ => Err(self.wrong(must)),
        }
    }

    /// A switch. The old server took nothing but `true` and `"true"` for on, and so do we: an odd
    /// value is off, with a warning.
    pub(super) fn flag(&self, warnings: &mut Vec<String>) -> bool {
        match self.unquoted().as_str() {
            "true" => true,
            "false" | "" => false,
            _ => {
                warnings.push(self.odd("only true switches it on, so it is off"));
                false
            }
        }
    }

    /// What JavaScript takes for true, for those old keys that were not compared with `true`.
    pub(super) fn is_truthy(&self) -> bool {
        !matches!(self.unquoted().as_str(), "" | "0") && !matches!(self.raw(), "false" | "0.0")
    }

    /// Whether it is an object, a list or neither.
    pub(super) fn is_object(&self) -> bool {
        matches!(self.source, Source::File { .. }) && self.raw().starts_with('{')
    }

    /// See [`Setting::is_object`].
    pub(super) fn is_list(&self) -> bool {
        matches!(self.source, Source::File { .. }) && self.raw().starts_with('[')
    }

    /// An object or a list with something in it.
    pub(super) fn has_members(&self) -> bool {
        (self.is_object() || self.is_list()) && self.raw().chars().any(|c| !c.is_whitespace() && !"{}[]".contains(c))
    }

    /// Where it stands: `laravel-echo-server.json, line 5: "port"`.
    pub(super) fn place(&self) -> String {
        match &self.source {
            Source::File { document, .. } if self.key.is_empty() => format!("{}:", document.path.display()),
            Source::File { document, .. } => {
                let quoted = Shown(&self.key);
                format!("{}, line {}: \"{quoted}\"", document.path.display(), self.line())
            }
            Source::Variable { name, .. } => format!("The variable {name} (of the environment, or in .env)"),
        }
    }

    /// The error `<place> is <value>; it <must>.`
    pub(super) fn wrong(&self, must: impl Display) -> ConfigError {
        if self.key.is_empty() {
            return self.error(format_args!("the file {must}"));
        }
        self.error(format_args!("is {}; it {must}", self.shown()))
    }

    /// The error `<place> <what>.`
    pub(super) fn error(&self, what: impl Display) -> ConfigError {
        ConfigError::Setting { place: self.place(), what: what.to_string() }
    }

    /// The warning `<place> is <value>; <what>.`
    pub(super) fn odd(&self, what: impl Display) -> String {
        format!("{} is {}; {what}.", self.place(), self.shown())
    }

    /// The warning `<place> <what>.`
    pub(super) fn warning(&self, what: impl Display) -> String {
        format!("{} {what}.", self.place())
    }

    /// The value as it was written, as far as others may see it.
    pub(super) fn shown(&self) -> String {
        if self.is_object() {
            return "an object".to_owned();
        }
        if self.is_list() {
            return "a list".to_owned();
        }
        let value = self.raw();
        if may_hold_secret(&self.key) || may_hold_secret(value) {
            return "not shown here, as it may hold a secret".to_owned();
        }
        match &self.source {
            Source::File { .. } => Shown(value).to_string(),
            Source::Variable { .. } => format!("\"{}\"", Shown(value)),
        }
    }

    /// The content of a text or a number.
    fn scalar(&self) -> Option<String> {
        match &self.source {
            Source::Variable { value, .. } => Some(value.clone()),
            Source::File { json, .. } if json.starts_with('"') => serde_json::from_str(json).ok(),
            Source::File { json, .. } => {
                let is_number = json.starts_with(|first: char| first == '-' || first.is_ascii_digit());
                is_number.then(|| (*json).to_owned())
            }
        }
    }

    fn unquoted(&self) -> String {
        self.scalar().unwrap_or_else(|| self.raw().to_owned())
    }

    fn raw(&self) -> &str {
        match &self.source {
            Source::File { json, .. } => json,
            Source::Variable { value, .. } => value,
        }
    }

    fn parse_json<T: serde::Deserialize<'a>>(&self) -> Option<(&'a Document<'a>, T)> {
        match &self.source {
            Source::File { document, json } => Some((document, serde_json::from_str(json).ok()?)),
            Source::Variable { .. } => None,
        }
    }

    /// The bytes of the document's text that it is.
    pub(super) fn span(&self) -> Range<usize> {
        let Source::File { document, json } = &self.source else { return 0..0 };
        // `json` is a slice of the document's text; the difference of the addresses is its offset.
        let offset = (json.as_ptr() as usize).saturating_sub(document.text.as_ptr() as usize);
        offset..offset + json.len()
    }

    fn line(&self) -> usize {
        let Source::File { document, .. } = &self.source else { return 1 };
        let before = document.text.as_bytes().iter().take(self.span().start);
        before.filter(|byte| **byte == b'\n').count() + 1
    }
}
