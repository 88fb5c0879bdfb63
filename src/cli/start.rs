//! `start`: configuration, log, lock file, banner; the rest is [`crate::server`]'s.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use tracing_subscriber::EnvFilter;

use super::StartOptions;
use super::banner::banner;
use super::lock::{self, Holder, Lock};
use crate::config::{Config, DotEnv};
use crate::server;

/// Runs the server until it is told to stop.
///
/// # Errors
/// The configuration is wrong, a server runs with it already, or the server cannot run.
pub fn run(options: &StartOptions) -> anyhow::Result<()> {
    let file = &options.file;
    let path = file.path();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dotenv = DotEnv::read(folder);
    let variables = |name: &str| dotenv.get(name);
    let mut config = Config::load(file.dir.as_deref(), file.config.as_deref(), &variables)?;
    config.dev_mode |= options.dev;
    set_up_log(config.dev_mode);
    for warning in dotenv.warnings.iter().chain(&config.warnings) {
        tracing::warn!("{warning}");
    }
    let _lock = take_lock(lock::path_for(&path), options.force)?;
    let for_banner = config.clone();
    server::run(config, server::Source::Redis, move |places| {
        // `print` panics when nobody listens any more; the server has no need of a listener.
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(banner(&for_banner, places).as_bytes()).and_then(|()| stdout.flush());
    })
}

/// Two servers with one configuration would be after one port. A server without a lock file is
/// better than none.
fn take_lock(path: PathBuf, force: bool) -> anyhow::Result<Option<Lock>> {
    match lock::holder(&path) {
        Holder::Here(pid) if force => {
            let number = pid.as_raw_nonzero();
            super::say(format_args!("Warning: Closing process {number} because you used the '--force' option."));
            lock::end(pid)?;
        }
        Holder::Here(pid) => anyhow::bail!(
            "There is already a server running! Use the option '--force' to stop it and start another one. It has the \
             process id {}, as {} says",
            pid.as_raw_nonzero(),
            path.display()
        ),
        Holder::Unreadable => tracing::warn!("{} is no lock file that can be read; it is replaced", path.display()),
        Holder::None | Holder::Gone | Holder::Elsewhere => {}
    }
    match Lock::take(path.clone()) {
        Ok(Some(lock)) => return Ok(Some(lock)),
        Ok(None) => {
            tracing::info!("{} is held by a server in another container; `stop` will not find this one", path.display())
        }
        Err(error) => {
            tracing::warn!("Cannot write lock file {}: {error}; `stop` will not find this server", path.display());
        }
    }
    Ok(None)
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
