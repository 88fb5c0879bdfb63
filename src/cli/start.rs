//! `start`: configuration, log, lock file, banner; the rest is [`crate::server`]'s.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StartOptions;
use super::banner::banner;
use super::lock::{self, Holder, Lock};
use crate::config::{Config, DotEnv};
use crate::listen::Place;
use crate::log;
use crate::server::{self, Origin};

/// Runs the server until it is told to stop.
///
/// # Errors
/// The configuration is wrong, a server runs with it already, or the server cannot run.
pub fn run(options: &StartOptions) -> anyhow::Result<()> {
    let path = options.file.path();
    let config = load(options)?;
    log::set_up(options.log_format.unwrap_or(config.log_format), config.dev_mode);
    for warning in &config.warnings {
        tracing::warn!(target: log::ALWAYS, "{warning}");
    }
    let again = options.clone();
    let origin = Origin {
        load: Arc::new(move || load(&again)),
        files: vec![path.clone(), folder(&path).join(".env"), PathBuf::from(".env")],
    };
    let lock = take_lock(lock::path_for(&path), options.force)?;
    let for_banner = config.clone();
    let noted = |port| lock.as_ref().is_none_or(|lock| lock.note_port(port).is_ok());
    let done = server::run(config, server::Source::Redis, Some(origin), |places| {
        let port = places.iter().find_map(Place::address).map(|address| address.port());
        if !port.is_none_or(noted) {
            tracing::warn!("the lock file does not say the port; commands ask at the one of the configuration");
        }
        log::banner(&banner(&for_banner, places));
    });
    log::flush();
    done
}

fn load(options: &StartOptions) -> anyhow::Result<Config> {
    let file = &options.file;
    let dotenv = DotEnv::read(folder(&file.path()));
    let mut config = Config::load(file.dir.as_deref(), file.config.as_deref(), &|name: &str| dotenv.get(name))?;
    config.dev_mode |= options.dev;
    config.warnings.splice(0..0, dotenv.warnings);
    Ok(config)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
