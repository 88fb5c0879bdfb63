//! Another configuration while the server runs: on SIGHUP, and when one of its files has changed.
//!
//! What can fail comes first, so that a configuration is taken as a whole or not at all. Then the parts have it one
//! after the other, so that none hears of an app before those behind it know it: webhooks, shards, other nodes and
//! Redis, and the front, which lets clients in, last.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::files::Files;
use super::systemd::Notifier;
use crate::auth::callback::{KnownPrefixes, Laravel};
use crate::cluster::{self, NewApps};
use crate::config::{self, Config};
use crate::http::operations::Operations;
use crate::http::{Front, Fronts};
use crate::inbox::{Control, Settings};
use crate::ingress::{self, Audiences};
use crate::log;
use crate::presence_store::{self, Prefixes};
use crate::protocol::app_tag;
use crate::publish::Publisher;
use crate::tls::{self, Expiry};
use crate::webhook;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where another configuration comes from.
#[derive(Clone)]
pub struct Origin {
    /// Reads it.
    pub load: Arc<dyn Fn() -> anyhow::Result<Config> + Send + Sync>,
    /// The files that it reads, beside those that a configuration names.
    pub files: Vec<PathBuf>,
}

/// The parts of the server that go by a configuration.
pub struct Parts {
    pub config: Arc<Config>,
    pub publisher: Publisher,
    pub fronts: Fronts,
    pub webhooks: webhook::Running,
    pub known_prefixes: KnownPrefixes,
    pub ingress: mpsc::UnboundedSender<ingress::Change>,
    pub presence_prefixes: watch::Sender<Prefixes>,
    pub new_apps: NewApps,
    pub operations: Arc<Operations>,
    pub systemd: Notifier,
}

/// Reloads whenever there is a reason, until the server stops; gives back what is to be ended then.
pub async fn run(
    mut parts: Parts,
    origin: Option<Origin>,
    wanted: Arc<Notify>,
    mut stop: watch::Receiver<bool>,
) -> webhook::Running {
    let stopped = async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    tokio::pin!(stopped);
    let Some(origin) = origin else {
        stopped.await;
        return parts.webhooks;
    };
    let mut files = Files::default();
    files.follow(files_of(&origin, &parts.config));
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let why = tokio::select! {
            () = &mut stopped => return parts.webhooks,
            () = wanted.notified() => {
                files.are_read();
                "SIGHUP"
            }
            _ = look.tick() => {
                // A file system that hangs must not hold up anybody else.
                let (looked, has_changed) = match tokio::task::spawn_blocking(move || {
                    let has_changed = files.have_changed();
                    (files, has_changed)
                }).await {
                    Ok(looked) => looked,
                    Err(_) => return parts.webhooks,
                };
                files = looked;
                if !has_changed {
                    continue;
                }
                "a file has changed"
            }
        };
        parts.systemd.reloading();
        parts.reload(&origin, why).await;
        parts.systemd.ready();
        files.follow(files_of(&origin, &parts.config));
    }
}

fn files_of(origin: &Origin, config: &Config) -> Vec<PathBuf> {
    let tls = config.tls.iter().flat_map(|tls| [Some(&tls.certificate), Some(&tls.key), tls.chain.as_ref()]);
    origin.files.iter().chain(tls.flatten()).cloned().collect()
}

impl Parts {
    async fn reload(&mut self, origin: &Origin, why: &str) {
        let (load, path) = (origin.load.clone(), self.config.path.display().to_string());
        let loaded = tokio::task::spawn_blocking(move || load()).await.context("reading it has panicked");
        let outcome = match loaded.and_then(|loaded| loaded) {
            Ok(config) => self.take(config).await,
            Err(error) => Err(error),
        };
        let (changed, needs_restart) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                return tracing::error!(
                    "{path} is not taken ({why}), and the configuration stays as it was. {error:#}"
                );
            }
        };
        log::set_dev_mode(self.config.dev_mode);
        let changed = if changed.is_empty() { "nothing has changed".to_owned() } else { changed.join(", ") };
        tracing::info!("Reloaded {path} ({why}): {changed}");
        if !needs_restart.is_empty() {
            tracing::warn!("Of {path} this needs a restart and is as it was: {}", needs_restart.join(", "));
        }
    }

    /// Gives what has changed, and what needs a restart.
    async fn take(&mut self, new: Config) -> anyhow::Result<(Vec<String>, Vec<String>)> {
        // Also of one that needs a restart: the file is good for that, or it is not taken.
        new.tls.as_ref().map(tls::read_served).transpose()?;
        let config::Reload { mut config, mut changed, needs_restart } = self.config.reload(new)?;
        for warning in config.warnings.iter().filter(|warning| !self.config.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        let (known, apps) = (self.config.apps.len(), |config: &Config| {
            config.apps.iter().map(|app| (app.id.clone(), app.key.clone())).collect::<Vec<_>>()
        });
        if config.apps[known..].iter().any(|app| app.secret_is_random) {
            cluster::share_secrets(&mut config).await;
        }
        let config = Arc::new(config);
        let audiences = (apps(&config) != apps(&self.config)).then(|| audiences(&config));
        let known_prefixes = audiences.as_ref().map_or(&self.known_prefixes, |(_, known_prefixes)| known_prefixes);
        let before = self.fronts.load_full();
        let laravel = Laravel::new(&config.auth, known_prefixes.clone(), self.publisher.metrics().clone())?;
        let laravel = laravel.with_tap(self.publisher.tap().clone());
        let connections: Vec<_> = before.app_connections().to_vec();
        let more = std::iter::repeat_with(Arc::default).take(config.apps.len() - connections.len());
        let connections: cluster::Connections = connections.into_iter().chain(more).collect();
        let (publisher, operations) = (self.publisher.clone(), self.operations.clone());
        let front = Front::new(config.clone(), publisher, laravel, operations, connections.clone())?.follow(&before);
        if front.certificate() != before.certificate() {
            tell_expiry(&front, true);
            changed.push("the certificate".to_owned());
        }
        self.webhooks.change(&config.apps).context("the HTTP client for webhooks could not be made")?;

        let settings = Settings::of(&config);
        let mut taken = Vec::new();
        for shard in self.publisher.shards() {
            let (done, is_done) = oneshot::channel();
            shard.tell(Control::Settings(Box::new(settings.clone()), done));
            taken.push(is_done);
        }
        for taken in taken {
            // A shard that has ended needs none.
            let _ = taken.await;
        }
        self.publisher.metrics().set_apps(app_names(&config));
        self.publisher.tap().set_apps(tagged_apps(&config));
        if config.apps.len() > known {
            self.new_apps.add(&config.apps[known..], &config.redis, connections);
        }
        self.presence_prefixes.send_if_modified(|prefixes| {
            let new = presence_store::prefixes(&config);
            std::mem::replace(prefixes, new) != *prefixes
        });
        let frame_bytes_max = config.limits.outbound_bytes;
        let audiences = audiences.map(|(audiences, known_prefixes)| {
            self.known_prefixes = known_prefixes;
            audiences
        });
        // With a source that takes no changes nobody listens.
        let _ = self.ingress.send(ingress::Change { audiences, frame_bytes_max });
        self.fronts.store(Arc::new(front));
        self.fronts.load().admin().goes_by(&config);
        self.config = config;
        Ok((changed, needs_restart))
    }
}

/// Says until when the certificate is good; if not `always`, only when that is soon.
pub fn tell_expiry(front: &Front, always: bool) {
    let certificate = front.certificate().first();
    let Some(expiry) = certificate.and_then(|certificate| Expiry::of(certificate, SystemTime::now())) else { return };
    let Expiry { at, days_left } = &expiry;
    match expiry.is_soon() {
        true if *days_left < 0 => {
            tracing::error!("The certificate (sslCertPath) has expired: {at}. Browsers refuse it.")
        }
        true => tracing::warn!("The certificate (sslCertPath) expires in {days_left} days: {at}"),
        false if always => tracing::info!("The certificate (sslCertPath) is good for {days_left} days, until {at}"),
        false => {}
    }
}

/// Says so each day that it is soon.
pub async fn watch_expiry(fronts: Fronts) {
    loop {
        tokio::time::sleep(Duration::from_secs(24 * 60 * 60)).await;
        tell_expiry(&fronts.load(), false);
    }
}

/// What the apps are called in metrics, each otherwise.
pub fn app_names(config: &Config) -> Vec<String> {
    let name = |(index, app): (usize, &config::App)| match app.is_removed {
        true => format!("(removed {index})"),
        false => app.id.clone(),
    };
    config.apps.iter().enumerate().map(name).collect()
}

/// The apps as those who look know them: the tag of an app's socket ids, and its id.
pub fn tagged_apps(config: &Config) -> Vec<(u16, String)> {
    let tags = config.apps.iter().map(|app| app_tag(&app.key));
    tags.zip(config.apps.iter().map(|app| app.id.clone())).collect()
}

/// Which apps hear what of Redis, and where the prefixes will be known.
pub fn audiences(config: &Config) -> (Audiences, KnownPrefixes) {
    let (audiences, known) = Audiences::configured(config);
    let apps = config.apps.iter().filter(|app| !app.is_removed);
    (audiences, apps.map(|app| app_tag(&app.key)).zip(known).collect())
}
