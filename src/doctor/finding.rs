//! One thing that was looked at: how it is, why that matters, and which line to change.

use serde::Serialize;

/// How it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, or may work; somebody should look at it.
    Warning,
    /// Something does not work, or will not.
    Problem,
}

/// A finding. Its fields are those of `--json`, and stay as they are.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Finding {
    /// One of [`IDS`]; `docs/doctor.md` explains each.
    pub id: &'static str,
    /// How it is.
    pub level: Level,
    /// What was found: a sentence without a full stop.
    pub what: String,
    /// What follows from it, or where it comes from; sentences.
    pub why: Option<String>,
    /// What to do about it; sentences.
    pub fix: Option<String>,
    /// The file in which something is to be changed.
    pub file: Option<String>,
    /// The lines that are to stand there.
    pub lines: Vec<String>,
}

impl Finding {
    /// All is well.
    pub fn ok(id: &'static str, what: impl Into<String>) -> Self {
        Self::new(id, Level::Ok, what)
    }

    /// Somebody should look at it.
    pub fn warning(id: &'static str, what: impl Into<String>) -> Self {
        Self::new(id, Level::Warning, what)
    }

    /// It does not work.
    pub fn problem(id: &'static str, what: impl Into<String>) -> Self {
        Self::new(id, Level::Problem, what)
    }

    fn new(id: &'static str, level: Level, what: impl Into<String>) -> Self {
        debug_assert!(IDS.contains(&id), "{id} is not among the ids");
        let what = what.into();
        let what = what.strip_suffix('.').map(str::to_owned).unwrap_or(what);
        Self { id, level, what, why: None, fix: None, file: None, lines: Vec::new() }
    }

    /// Says why.
    pub fn why(self, why: impl Into<String>) -> Self {
        Self { why: Some(why.into()), ..self }
    }

    /// Says what to do.
    pub fn fix(self, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..self }
    }

    /// Says which line is to stand in which file; or several, with line breaks between them.
    pub fn line(mut self, file: impl Into<String>, line: impl Into<String>) -> Self {
        self.file = Some(file.into());
        self.lines.extend(line.into().lines().map(str::to_owned));
        self
    }
}

/// All ids, by group. They are for scripts and for the headings of `docs/doctor.md`, so they never change.
pub const IDS: &[&str] = &[
    "file.read",
    "file.settings",
    "redis.reach",
    "redis.rights",
    "redis.listeners",
    "redis.events",
    "redis.prefix",
    "redis.applications",
    "redis.same",
    "laravel.found",
    "laravel.cache",
    "laravel.driver",
    "laravel.key",
    "laravel.secret",
    "laravel.server",
    "laravel.frontend",
    "laravel.queue",
    "auth.reach",
    "auth.route",
    "auth.csrf",
    "auth.anonymous",
    "auth.answer",
    "auth.credentials",
    "auth.signature",
    "auth.way",
    "tls.files",
    "tls.dates",
    "tls.names",
    "tls.trust",
    "port.free",
    "limits.files",
    "server.running",
    "server.build",
    "proxy.reach",
    "proxy.tls",
    "proxy.app",
    "proxy.socketio",
    "clock.laravel",
    "clock.redis",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_as_json() {
        let finding = Finding::problem("redis.prefix", "It is wrong.").why("So.").fix("Do.").line("a.json", "\"a\": 1");
        assert_eq!(
            serde_json::to_string(&finding).unwrap(),
            r#"{"id":"redis.prefix","level":"problem","what":"It is wrong","why":"So.","fix":"Do.","file":"a.json","lines":["\"a\": 1"]}"#
        );
        assert!(Level::Ok < Level::Warning && Level::Warning < Level::Problem);
    }
}
