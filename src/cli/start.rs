//! `start`: configuration, log, banner; the rest is [`crate::server`]'s.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;

use super::StartOptions;
use super::banner::banner;
use crate::config::Config;
use crate::server;

/// Runs the server until it is told to stop.
///
/// # Errors
/// The configuration is wrong, or the server cannot run.
pub fn run(options: &StartOptions) -> anyhow::Result<()> {
    let variables = |name: &str| std::env::var(name).ok();
    let mut config = Config::load(options.dir.as_deref(), options.config.as_deref(), &variables)?;
    config.dev_mode |= options.dev;
    set_up_log(config.dev_mode);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let for_banner = config.clone();
    server::run(config, server::Source::Redis, move |address| {
        // `print` panics when nobody listens any more; the server has no need of a listener.
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(banner(&for_banner, address).as_bytes()).and_then(|()| stdout.flush());
    })
}

/// Log lines go to stdout, where the old server's went. `RUST_LOG` wins over `dev_mode`.
pub fn set_up_log(dev_mode: bool) {
    let own = if dev_mode { "debug" } else { "info" };
    let default = || EnvFilter::new(format!("warn,laravel_echo_server={own}"));
    let (filter, wrong) = match std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty()) {
        None => (default(), None),
        Some(text) => match EnvFilter::try_new(&text) {
            Ok(filter) => (filter, None),
            Err(error) => (default(), Some(error)),
        },
    };
    let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    // Fails only if there is a log already, which is then used.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_target(false)
        .with_writer(io::stdout)
        // It would be said on stderr, with a panic if nobody listens there either.
        .log_internal_errors(false)
        .try_init();
    if let Some(error) = wrong {
        tracing::warn!("RUST_LOG is ignored, because it is no filter: {error}.");
    }
}
