//! Prometheus' text format, version 0.0.4, as `/metrics` answers.

use std::fmt::Write as _;

use super::kinds::BOUNDS_MICROS;
use super::table::Description;

/// A page that is being written, one metric after the other.
#[derive(Debug)]
pub struct Page {
    text: String,
    apps: Vec<String>,
    /// The metric that was written last.
    last: &'static str,
}

impl Page {
    pub(super) fn new(apps: Vec<String>) -> Self {
        Self { text: String::with_capacity(32 * 1024), apps, last: "" }
    }

    /// What the label `app` says.
    pub fn apps(&self) -> Vec<String> {
        self.apps.clone()
    }

    /// Adds a value. All of one metric must come in a row.
    pub fn sample(&mut self, of: &'static Description, labels: &[&str], value: f64) {
        self.head(of);
        self.line(of.name, "", of.labels.iter().copied().zip(labels.iter().copied()), value);
    }

    /// Adds a histogram: how many fell into each bucket and beyond the last one, and the sum in seconds.
    pub(super) fn histogram(
        &mut self,
        of: &'static Description,
        labels: &[&str],
        counts: &[u64; BOUNDS_MICROS.len() + 1],
        sum: f64,
    ) {
        self.head(of);
        let labels = || of.labels.iter().copied().zip(labels.iter().copied());
        let mut so_far = 0;
        for (index, count) in counts.iter().enumerate() {
            so_far += count;
            let bound = BOUNDS_MICROS.get(index).map_or("+Inf".to_owned(), |micros| (*micros as f64 / 1e6).to_string());
            self.line(of.name, "_bucket", labels().chain([("le", bound.as_str())]), so_far as f64);
        }
        self.line(of.name, "_sum", labels(), sum);
        self.line(of.name, "_count", labels(), so_far as f64);
    }

    /// The page's text.
    pub fn finish(self) -> String {
        self.text
    }

    fn head(&mut self, of: &'static Description) {
        if self.last != of.name {
            let _ = writeln!(self.text, "# HELP {} {}\n# TYPE {} {}", of.name, of.help, of.name, of.of_type);
            self.last = of.name;
        }
    }

    fn line<'a>(&mut self, name: &str, suffix: &str, labels: impl Iterator<Item = (&'a str, &'a str)>, value: f64) {
        self.text.push_str(name);
        self.text.push_str(suffix);
        let mut before = '{';
        for (name, value) in labels {
            self.text.push(before);
            before = ',';
            let _ = write!(self.text, "{name}=\"");
            for character in value.chars() {
                match character {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    other => self.text.push(other),
                }
            }
            self.text.push('"');
        }
        if before == ',' {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}
