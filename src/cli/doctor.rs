//! `doctor`: the options, the lock file's word on which server runs, and how the report is shown.
//!
//! What is looked at is [`crate::doctor`]'s. Exit codes: 0 nothing to do, 1 warnings, 2 problems.

use std::io::{self, BufRead, IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use url::Url;

use super::lock::{self, Holder};
use super::{FileOptions, say};
use crate::config::Secret;
use crate::doctor::{self, Question, Running};

/// A cookie or token longer than this is none.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Options of `doctor`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    file: FileOptions,
    /// The Laravel application's folder [default: that of the config file, or the current one].
    #[arg(long, value_name = "DIR")]
    app: Option<PathBuf>,
    /// How long to listen to what is published in Redis.
    #[arg(long, value_name = "SECONDS", default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=3600))]
    listen: u64,
    /// Where browsers connect, as https://example.com: what stands between is tested, too.
    #[arg(long, value_name = "URL", value_parser = public_url)]
    url: Option<Url>,
    /// The channel to ask Laravel about, as private-user.1.
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// The Cookie header to ask Laravel with; - reads it from standard input.
    #[arg(long, value_name = "COOKIE")]
    cookie: Option<String>,
    /// The bearer token to ask Laravel with; - reads it from standard input.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Report as JSON.
    #[arg(long)]
    json: bool,
}

/// `ws://` and `wss://` are meant as well.
fn public_url(text: &str) -> Result<Url, String> {
    let text = text
        .strip_prefix("ws")
        .filter(|rest| rest.starts_with("://") || rest.starts_with("s://"))
        .map_or_else(|| text.to_owned(), |rest| format!("http{rest}"));
    match Url::parse(&text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty() => Ok(url),
        _ => Err("it must be a URL, as https://example.com".to_owned()),
    }
}

/// Looks at everything and says what it found.
///
/// # Errors
/// Standard input cannot be read, or there are no threads to be had.
pub fn run(options: Options) -> anyhow::Result<ExitCode> {
    let path = options.file.path();
    let running = match lock::holder(&lock::path_for(&path)) {
        Holder::Here(pid) => u32::try_from(pid.as_raw_nonzero().get()).ok().map(Running::Here),
        Holder::Elsewhere => Some(Running::Elsewhere),
        Holder::None | Holder::Gone | Holder::Unreadable => None,
    };
    let question = Question {
        dir: options.file.dir,
        config: options.file.config,
        app: options.app,
        listen: Duration::from_secs(options.listen),
        url: options.url,
        channel: options.channel,
        cookie: options.cookie.map(secret).transpose()?,
        token: options.token.map(secret).transpose()?,
        running,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("The threads could not be started")?;
    let report = runtime.block_on(doctor::examine(&question));
    // A name service that hangs must not hold up the end.
    runtime.shutdown_background();
    if options.json {
        say(format_args!("{}", report.json().context("The report could not be written down")?));
    } else {
        let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        say(format_args!("{}", report.text(colours).trim_matches('\n')));
    }
    Ok(ExitCode::from(report.exit_code()))
}

/// `-` is a line of standard input: the command line is for everybody on the machine to see.
fn secret(text: String) -> anyhow::Result<Secret> {
    if text != "-" {
        return Ok(Secret::new(text));
    }
    let mut line = String::new();
    io::stdin().lock().take(SECRET_BYTES_MAX).read_line(&mut line).context("Standard input could not be read")?;
    Ok(Secret::new(line.trim_end_matches(['\r', '\n'])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_urls() {
        for (text, expected) in [
            ("https://example.com", Some("https://example.com/")),
            ("wss://example.com/a", Some("https://example.com/a")),
            ("ws://example.com:81", Some("http://example.com:81/")),
            ("example.com", None),
            ("ftp://example.com", None),
            ("https://user:password@example.com", None),
        ] {
            assert_eq!(public_url(text).ok().map(String::from).as_deref(), expected, "{text}");
        }
    }
}
