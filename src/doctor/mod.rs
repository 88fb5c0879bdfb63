//! `laravel-echo-server doctor`: looks at everything that has to fit together, and says which line to change.
//!
//! Each file here is one group of checks. It *probes* (asks Redis, Laravel, the operating system; within a time
//! limit, all groups at once) and *judges* what came of it, without I/O, into [`Finding`]s. Nothing is changed
//! anywhere, and no secret, cookie or token is ever in a finding. Not here: the command line (see `cli`), and
//! which server runs (its lock file is `cli`'s, too).

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::timeout;
use url::Url;

use crate::config::{Config, DotEnv, Secret};

pub mod application;
mod auth;
mod certificate;
mod clock;
mod dotenv;
mod file;
mod finding;
mod handshake;
mod laravel;
mod php;
mod port;
mod prefix;
mod proxy;
mod redis;
mod report;
mod ways;

pub use application::Application;
pub use finding::{Finding, IDS, Level};
pub use report::Report;

/// How long a group of checks may take beside listening to Redis; each probe has a shorter limit of its own.
const GROUP_MAX: Duration = Duration::from_secs(20);

/// What is to be looked at.
#[derive(Debug)]
pub struct Question {
    /// `--dir`.
    pub dir: Option<PathBuf>,
    /// `--config`.
    pub config: Option<PathBuf>,
    /// The Laravel application; `None`: the one beside the file, or in the current directory.
    pub app: Option<PathBuf>,
    /// How long to listen to Redis.
    pub listen: Duration,
    /// Where browsers connect, if a proxy stands between.
    pub url: Option<Url>,
    /// The channel about which Laravel is asked.
    pub channel: Option<String>,
    /// The `Cookie` header to ask it with.
    pub cookie: Option<Secret>,
    /// The bearer token to ask it with.
    pub token: Option<Secret>,
    /// The process that runs with this file.
    pub running: Option<Running>,
}

/// A server that runs with this file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Running {
    /// With this process id.
    Here(u32),
    /// In another container.
    Elsewhere,
}

/// What is looked at, once the file has been read.
pub(crate) struct Subject {
    config: Config,
    /// The configuration file, for people.
    file: String,
    application: Option<Application>,
    running: Option<Running>,
}

impl Subject {
    /// The name and the driver of the application's broadcast connection.
    fn broadcast(&self) -> Option<(String, String)> {
        let application = self.application.as_ref()?;
        let connection = application.connection()?;
        let driver = application.driver(&connection);
        Some((connection, driver))
    }

    /// Laravel's events come by Redis: by its own driver, or by one of the application that does the same.
    fn publishes_to_redis(&self) -> bool {
        self.broadcast().is_some_and(|(_, driver)| !laravel::WITHOUT_REDIS.contains(&driver.as_str()))
    }

    /// Where this server is reached on this machine.
    fn local_url(&self) -> String {
        let scheme = self.config.scheme();
        let host = match self.config.host.as_deref() {
            None | Some("0.0.0.0" | "::") => "127.0.0.1".to_owned(),
            Some(host) if host.contains(':') => format!("[{host}]"),
            Some(host) => host.to_owned(),
        };
        format!("{scheme}://{host}:{}", self.config.port)
    }
}

/// Looks at everything, and takes no longer than listening and the time limits of the probes.
pub async fn examine(question: &Question) -> Report {
    // Fails only if there is one already, which is as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (mut findings, subject) = read(question);
    let Some(subject) = subject else { return Report::new(findings) };
    findings.extend(laravel::judge(&subject));
    let limit = question.listen + GROUP_MAX;
    let (redis, auth, certificate, port, proxy) = tokio::join!(
        timeout(limit, redis::probe(&subject, question.listen)),
        timeout(limit, auth::probe(&subject, question)),
        timeout(limit, certificate::probe(&subject, question.url.as_ref())),
        timeout(limit, port::probe(&subject)),
        timeout(limit, proxy::probe(&subject, question.url.as_ref())),
    );
    let redis = redis.unwrap_or_else(|_| redis::Facts {
        failure: Some(format!("Redis did not answer everything within {limit:?}.")),
        ..redis::Facts::default()
    });
    let auth = auth.unwrap_or_default();
    findings.extend(redis::judge(&subject, &redis));
    findings.extend(auth::judge(&subject, question, &auth));
    findings.extend(ways::judge(&subject, &auth));
    findings.extend(certificate.unwrap_or_default());
    findings.extend(port.map(|facts| port::judge(&subject, &facts)).unwrap_or_default());
    findings.extend(proxy.map(|facts| proxy::judge(&subject, &facts)).unwrap_or_default());
    findings.extend(clock::judge(&subject, auth.clock_ahead, redis.clock_ahead));
    Report::new(findings)
}

/// The file, and the application beside it.
fn read(question: &Question) -> (Vec<Finding>, Option<Subject>) {
    let name = question.config.as_deref().unwrap_or(Path::new(crate::config::FILE_NAME));
    let path = question.dir.as_deref().map_or_else(|| name.to_owned(), |dir| dir.join(name));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dotenv = DotEnv::read(folder);
    let config = Config::load(question.dir.as_deref(), question.config.as_deref(), &|name| dotenv.get(name));
    let mut findings = file::judge(&config, &dotenv.warnings);
    let application = match &question.app {
        Some(folder) => Application::read(folder),
        None => Application::read(folder).or_else(|| Application::read(Path::new("."))),
    };
    let Ok(config) = config else { return (findings, None) };
    findings.push(laravel::found(application.as_ref(), question.app.as_deref()));
    let file = config.path.display().to_string();
    (findings, Some(Subject { config, file, application, running: question.running }))
}

/// `a, b and c`.
fn in_list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    match items.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => items.concat(),
    }
}

/// The names under which a host is this machine.
fn is_this_machine(host: &str) -> bool {
    matches!(host.trim_matches(['[', ']']), "localhost" | "127.0.0.1" | "::1" | "0.0.0.0")
}

#[cfg(test)]
impl Subject {
    /// With these settings, and an application that has these files.
    fn of(settings: serde_json::Value, files: &[(&str, &str)]) -> Self {
        let config = Config::parse(Path::new("echo.json"), settings.to_string().as_bytes(), &|_| None).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self { config, file: "echo.json".to_owned(), application: Application::read(dir.path()), running: None }
    }
}
