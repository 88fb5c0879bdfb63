//! How many files the process may have open: each connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Files that are needed beside connections: Redis, webhooks, the other end of proxied requests, threads' own, and
/// [`REFUSED`].
const RESERVE: usize = 256;

/// Of these, what sockets may have that are only told that there is no room for them.
pub const REFUSED: usize = 128;

/// Raises the limit as far as this process may: the usual one of 1,024 is a surprise at the 1,025th. Gives the
/// limit that holds.
pub fn raise() -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!("the limit of open files stays at {:?}: {error}", limit.current);
    }
    max()
}

/// The limit that holds; without one, a number that nobody reaches.
pub fn max() -> usize {
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}

/// How many connections have room under a limit of so many files. At least one, or nothing could be tried.
pub fn connections(files: usize, config: &Config) -> usize {
    files.saturating_sub(RESERVE + config.auth.concurrency).max(1)
}

/// How many files `limits.connections` needs.
pub fn needed(config: &Config) -> usize {
    config.limits.connections.saturating_add(RESERVE + config.auth.concurrency)
}

/// What the log says of the limit at the start; `Err` where `limits.connections` does not fit.
///
/// # Errors
/// The numbers, and what to do.
pub fn report(files: usize, config: &Config) -> Result<String, String> {
    let wanted = config.limits.connections;
    let (room, needed) = (connections(files, config), needed(config));
    if room >= wanted {
        let files = if files == usize::MAX { "Any number of".to_owned() } else { format!("Up to {files}") };
        return Ok(format!("{files} files may be open, which is enough for {wanted} connections (limits.connections)"));
    }
    Err(format!(
        "Only {files} files may be open, and {wanted} connections (limits.connections) need {needed}: those over {room} are \
         refused. Allow more, with LimitNOFILE={needed} in the systemd unit, --ulimit nofile={needed} for a container, or \
         ulimit -n {needed} before the start; or lower limits.connections"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_does_not_fit_is_said_with_the_cure() {
        let text = r#"{ "clients": [ { "appId": "a", "key": "k" } ], "limits": { "connections": 1000 }, "authConcurrency": 44 }"#;
        let config = Config::parse(Path::new("f.json"), text.as_bytes(), &|_| None).unwrap();
        assert!(report(1300, &config).unwrap().starts_with("Up to 1300 files may be open"));
        assert!(report(usize::MAX, &config).unwrap().starts_with("Any number of files"));
        let warning = report(1299, &config).unwrap_err();
        assert!(warning.starts_with("Only 1299 files may be open, and 1000 connections (limits.connections) need 1300: those over 999 are refused."));
        assert!(warning.contains("LimitNOFILE=1300"));
        assert_eq!((connections(1300, &config), connections(0, &config)), (1000, 1));
    }
}
