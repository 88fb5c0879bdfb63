//! All findings, for people and for programs.

use std::fmt::Write;

use serde::Serialize;

use super::finding::{Finding, Level};

/// What the doctor found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Of the program that looked.
    pub version: &'static str,
    /// The worst of all findings.
    pub level: Level,
    /// In the order in which they are shown.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(findings: Vec<Finding>) -> Self {
        let level = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
        Self { version: env!("CARGO_PKG_VERSION"), level, findings }
    }

    /// 0: nothing to do; 1: warnings; 2: problems.
    pub fn exit_code(&self) -> u8 {
        match self.level {
            Level::Ok => 0,
            Level::Warning => 1,
            Level::Problem => 2,
        }
    }

    /// For a terminal, with or without colours.
    pub fn text(&self, colours: bool) -> String {
        let paint =
            |code: &str, text: &str| if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() };
        let mut text = String::new();
        let mut group = "";
        for finding in &self.findings {
            let own = finding.id.split('.').next().unwrap_or_default();
            if own != group {
                group = own;
                let _ = writeln!(text, "\n{}", paint("1", title(group)));
            }
            let mark = match finding.level {
                Level::Ok => paint("32", "ok     "),
                Level::Warning => paint("33", "warning"),
                Level::Problem => paint("31", "problem"),
            };
            let _ = writeln!(text, "  {mark}  {} {}", inner(&finding.what), paint("2", &format!("[{}]", finding.id)));
            for more in [&finding.why, &finding.fix].into_iter().flatten() {
                let _ = writeln!(text, "           {}", inner(more));
            }
            if let Some(file) = &finding.file {
                let _ = writeln!(text, "             {file}:");
            }
            for line in &finding.lines {
                let _ = writeln!(text, "               {}", paint("36", line));
            }
        }
        let count = |level| self.findings.iter().filter(|finding| finding.level == level).count();
        let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
        let _ = writeln!(
            text,
            "\n{}",
            match (problems, warnings) {
                (0, 0) => "Nothing is wrong that the doctor can see.".to_owned(),
                _ => format!(
                    "{problems} {}, {warnings} {}. docs/doctor.md explains each by its name in brackets.",
                    plural(problems, "problem"),
                    plural(warnings, "warning")
                ),
            }
        );
        text
    }

    /// As JSON, on lines of its own.
    ///
    /// # Errors
    /// None that can happen to texts.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

/// Texts of several lines stay in their column; what peers said cannot steer the terminal.
fn inner(text: &str) -> String {
    let safe: String = text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect();
    safe.replace('\n', "\n           ")
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

fn title(group: &str) -> &'static str {
    match group {
        "file" => "Configuration",
        "redis" => "Redis",
        "laravel" => "Laravel",
        "auth" => "Who may join",
        "tls" => "Certificate",
        "port" => "Port",
        "limits" => "Limits of this machine",
        "server" => "The running server",
        "proxy" => "From outside",
        _ => "Clocks",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_it_is_shown() {
        let findings = vec![
            Finding::ok("file.read", "Good"),
            Finding::problem("redis.prefix", "Bad\x1b[2J").why("Because.").fix("Do:").line("a.json", "\"x\": 1"),
        ];
        let report = Report::new(findings);
        let expected = "\nConfiguration\n  ok       Good [file.read]\n\nRedis\n  problem  Bad [2J [redis.prefix]\n           Because.\n           Do:\n             a.json:\n               \"x\": 1\n\n1 problem, 0 warnings. docs/doctor.md explains each by its name in brackets.\n";
        assert_eq!(report.text(false), expected);
        assert_eq!(report.exit_code(), 2);
        assert!(report.text(true).contains("\x1b[31mproblem\x1b[0m"));
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(
            (json["level"].as_str(), json["findings"][1]["id"].as_str()),
            (Some("problem"), Some("redis.prefix"))
        );
        let fine = Report::new(vec![Finding::ok("file.read", "Good")]);
        assert_eq!(
            (fine.exit_code(), fine.text(false).lines().last()),
            (0, Some("Nothing is wrong that the doctor can see."))
        );
        assert_eq!(Report::new(vec![Finding::warning("file.settings", "Odd")]).exit_code(), 1);
    }
}
