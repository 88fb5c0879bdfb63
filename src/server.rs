//! The only file that knows everybody: builds, wires, starts and stops in order.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, watch};

use crate::auth;
use crate::auth::callback::Laravel;
use crate::bus::{self, Bus};
use crate::cluster;
use crate::config::Config;
use crate::http::admin::Admin;
use crate::http::operations::Operations;
use crate::http::{self, Front, Fronts};
use crate::inbox::{self, AppIndex, Control, Inbox, Query, Settings};
use crate::ingress::{self, Ingress, Links};
use crate::listen::{self, Listener, Place};
use crate::metrics::Metrics;
use crate::presence_store::{self, PresenceStore};
use crate::publish::Publisher;
use crate::query::Everybody;
use crate::redis::{Link, Status};
use crate::shard;
use crate::tap::Tap;
use crate::webhook::{self, Webhooks};
use reload::Parts;
use signals::Signals;
use systemd::Notifier;

mod files;
mod reload;
mod signals;
mod systemd;

pub use reload::Origin;

/// How long the copies of presence lists may take to be deleted at the end.
const STORE_WAIT: Duration = Duration::from_secs(2);

/// How long connections that have just been accepted may take until a shard has them.
const HANDSHAKES_WAIT: Duration = http::FIRST_REQUEST_WAIT.saturating_add(Duration::from_millis(300));

/// How long requests that are being answered may take when everything else has ended.
const REQUESTS_WAIT: Duration = Duration::from_secs(1);

/// Of so many connections each takes a millisecond of the time within which all are closed, unless
/// `shutdownSeconds` says another.
const CLOSED_WITHIN_MAX: Duration = Duration::from_secs(5);

/// How long it may take to tell the other nodes that this one stops.
const LEAVE_WAIT: Duration = Duration::from_millis(500);

/// Where events come from.
pub enum Source {
    /// Redis, as the configuration says.
    Redis,
    /// A queue in this process: the demo.
    Queue(mpsc::Receiver<ingress::Message>),
}

/// Runs the server until SIGINT or SIGTERM. With an `origin` it takes another configuration on SIGHUP, and when a file has
/// changed. `ready` is called once it listens, with the places.
pub fn run(
    mut config: Config,
    source: Source,
    origin: Option<Origin>,
    ready: impl FnOnce(&[Place]),
) -> anyhow::Result<()> {
    // Fails only if there is one already, which is as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let inherited = systemd::sockets()?;
    let systemd = Notifier::from_environment();
    match listen::files::report(listen::files::raise(), &config) {
        Ok(enough) => tracing::info!("{enough}"),
        Err(sentence) => tracing::warn!("{sentence}"),
    }
    let (handles, inboxes): (Vec<_>, Vec<_>) = (0..config.shards).map(|_| inbox::inbox()).unzip();
    let (bus, bus_end) = match config.cluster {
        Some(_) => bus::bus(),
        None => (Bus::none(), bus::bus().1),
    };
    let metrics = Metrics::new(config.shards, reload::app_names(&config));
    let publisher = Publisher::new(handles)
        .with_bus(bus)
        .with_tap(Tap::new(reload::tagged_apps(&config)))
        .with_metrics(metrics.clone());
    // With one shard, front and shard share one thread: on one core a second one would only
    // make the kernel switch between them, for each event that comes alone twice.
    let mut front = match config.shards {
        1 => tokio::runtime::Builder::new_current_thread(),
        shards => {
            let mut threads = tokio::runtime::Builder::new_multi_thread();
            threads.worker_threads(shards).thread_name("front");
            threads
        }
    };
    let front = front.enable_all().build().context("the threads could not be started")?;
    front.block_on(cluster::share_secrets(&mut config));
    let config = Arc::new(config);
    let local = tokio::task::LocalSet::new();
    let outcome = local.block_on(&front, async {
        let listeners = listeners(&config, inherited)?;
        let places: Vec<Place> = listeners.iter().map(|listener| listener.place().clone()).collect();
        let (asker, asked) = mpsc::unbounded_channel();
        let (webhooks, webhooks_running) =
            Webhooks::start(&config.apps).context("the HTTP client for webhooks could not be made")?;
        let (prefixes, prefixes_in_redis) = watch::channel(presence_store::prefixes(&config));
        let store = PresenceStore::new(&config, prefixes_in_redis, publisher.shards(), publisher.bus());
        let context = shard::Context {
            publisher: publisher.clone(),
            asker,
            settings: Settings::of(&config),
            presence_changes: store.as_ref().map(PresenceStore::changes),
            webhooks: webhooks.clone(),
            resume: shard::resume::Settings::of(&config),
            explains: config.dev_mode,
        };
        let shards = start_shards(inboxes, &context).context("the threads could not be started")?;
        drop(context);
        tokio::spawn(publisher.clone().wake_shards());

        let (audiences, known_prefixes) = reload::audiences(&config);
        let (ingress_changes, changes) = mpsc::unbounded_channel();
        let ingress = Ingress::new(audiences, publisher.clone(), config.limits.outbound_bytes).with_changes(changes);
        let laravel = Laravel::new(&config.auth, known_prefixes.clone(), metrics.clone())?;
        let laravel = laravel.with_tap(publisher.tap().clone());
        let redis = match source {
            Source::Redis if !config.subscribers.redis => {
                tracing::info!("Redis is not listened to");
                None
            }
            Source::Redis => {
                let (status, known) = watch::channel(Status::starting());
                let link = Link::new(config.redis.clone(), ingress::PAYLOAD_BYTES_MAX);
                let links = if config.resume.is_some() { Links::two(link) } else { Links::one(link) };
                tokio::spawn(ingress::from_redis(links, ingress, status));
                Some(known)
            }
            Source::Queue(queue) => {
                tokio::spawn(ingress::from_queue(queue, ingress));
                None
            }
        };
        let operations = Arc::new(Operations::new(redis, webhooks));
        let app_connections: Arc<[Arc<AtomicUsize>]> = config.apps.iter().map(|_| Arc::default()).collect();
        publisher.bus().set_own(getrandom::u64().context("the system gives no random numbers")?);
        // Before anybody is let in: a member list shall hold those of the other nodes.
        let new_apps = cluster::start(&config, &publisher, bus_end, app_connections.clone()).await;
        let (stop, stopped) = watch::channel(false);
        let front = Front::new(config.clone(), publisher.clone(), laravel, operations.clone(), app_connections)?;
        let front = front.with_admin(Admin::new(places.clone(), stopped.clone()));
        front.admin().goes_by(&config);
        let fronts: Fronts = Arc::new(ArcSwap::from_pointee(front));
        let (askers, current) = (publisher.clone(), fronts.clone());
        let current = move || current.load().laravel().clone();
        tokio::spawn(auth::queue::answer(asked, current, move |asked, answer| {
            let (conn, ticket) = (asked.conn, asked.ticket);
            askers.shards()[asked.shard].tell(Control::Answered { conn, ticket, answer });
        }));
        if let Some(address) = config.metrics.as_ref().and_then(|access| access.listen) {
            let listener = tokio::net::TcpListener::bind(address).await.with_context(|| {
                format!("cannot listen on {address} for metrics; see \"metrics\" in {}", config.path.display())
            })?;
            tracing::info!("Metrics are at http://{}/metrics", listener.local_addr().unwrap_or(address));
            tokio::spawn(http::operations::serve(listener, fronts.clone()));
        }
        reload::tell_expiry(&fronts.load(), true);
        tokio::spawn(reload::watch_expiry(fronts.clone()));
        let (stop_store, store_stopped) = watch::channel(false);
        let store = store.map(|store| tokio::spawn(store.run(store_stopped)));
        let serving: Vec<_> = listeners
            .into_iter()
            .map(|listener| tokio::spawn(http::serve(listener, fronts.clone(), stopped.clone())))
            .collect();
        let reload = Arc::new(Notify::new());
        let mut signals =
            Signals::listen(origin.is_some().then_some(reload.clone())).context("signals cannot be listened to")?;
        let parts = Parts {
            config,
            publisher: publisher.clone(),
            fronts: fronts.clone(),
            webhooks: webhooks_running,
            known_prefixes,
            ingress: ingress_changes,
            presence_prefixes: prefixes,
            new_apps,
            operations: operations.clone(),
            systemd: systemd.clone(),
        };
        let reloading = tokio::spawn(reload::run(parts, origin, reload, stopped));
        ready(&places);
        systemd.ready();
        let watchdog = systemd::watchdog_interval()
            .map(|every| tokio::spawn(say_alive(every, publisher.clone(), systemd.clone())));

        let signal = signals.next().await;
        operations.drain();
        let connections = publisher.shards().iter().map(|shard| shard.connections().load(Ordering::Relaxed)).sum();
        let within = closed_within(fronts.load().config(), connections);
        tokio::spawn(async move {
            let again = signals.next().await;
            tracing::warn!("{again} again: ending at once");
            crate::log::flush();
            std::process::exit(1);
        });
        systemd.stopping(
            within
                + HANDSHAKES_WAIT
                + LEAVE_WAIT
                + STORE_WAIT
                + shard::ANSWER_WAIT
                + webhook::STOP_TIME
                + REQUESTS_WAIT,
        );
        let _ = stop.send(true);
        for serving in serving {
            let _ = serving.await;
        }
        match connections {
            0 => tracing::info!("{signal}: ending; nobody is connected"),
            _ => {
                tracing::info!("{signal}: closing {connections} connections within {within:?}; clients will reconnect")
            }
        }
        // A handshake that has begun leads to a shard that is there yet.
        let _ = tokio::time::timeout(HANDSHAKES_WAIT, fronts.load().is_empty()).await;
        // Before any of them is closed: the others shall not take that for leaving.
        let _ = tokio::time::timeout(LEAVE_WAIT, publisher.bus().leave(within)).await;
        // Nor are the lists in Redis to become empty first, and then to go.
        let _ = stop_store.send(true);
        if let Some(store) = store {
            // Redis may be away: then the keys expire by themselves.
            let _ = tokio::time::timeout(STORE_WAIT, store).await;
        }
        for shard in publisher.shards() {
            shard.tell(Control::Stop(within));
        }
        // Meanwhile events go on to those who are there, and requests are answered.
        shards.ended().await?;
        // The shards have said who has left by their end.
        let webhooks = reloading.await.map_err(|_| anyhow::anyhow!("a reload has panicked; please report this"))?;
        webhooks.finish().await;
        let _ = tokio::time::timeout(REQUESTS_WAIT, fronts.load().is_empty()).await;
        if let Some(watchdog) = watchdog {
            watchdog.abort();
        }
        anyhow::Ok(())
    });
    front.shutdown_background();
    outcome
}

/// Those that systemd has handed over, or else those of the configuration.
fn listeners(config: &Config, inherited: Vec<(OwnedFd, bool)>) -> anyhow::Result<Vec<Listener>> {
    if inherited.is_empty() {
        return listen::open(config);
    }
    let listeners = listen::take_over(config, inherited)?;
    let places: Vec<String> = listeners.iter().map(|listener| listener.place().to_string()).collect();
    tracing::info!(
        "Listening where systemd has opened it: {} (\"host\", the ports and \"socket\" do not count)",
        places.join(", ")
    );
    Ok(listeners)
}

/// How long it takes to close so many connections: few at once, and of many not all clients come back in one moment.
fn closed_within(config: &Config, connections: usize) -> Duration {
    match config.shutdown_time {
        _ if connections == 0 => Duration::ZERO,
        Some(time) => time,
        None => CLOSED_WITHIN_MAX.min(Duration::from_millis(connections as u64)),
    }
}

/// Tells systemd's watchdog that the server is not stuck, as long as that is so: as long as all shards answer.
async fn say_alive(every: Duration, publisher: Publisher, systemd: Notifier) {
    let everybody = Everybody::new(publisher.shards());
    loop {
        if everybody.ask(AppIndex(0), Query::Channels([].into())).await.is_ok() {
            systemd.alive();
        }
        tokio::time::sleep(every).await;
    }
}

/// Where the shards run.
enum Shards {
    /// The only one, as a task of the front's thread.
    Here(tokio::task::JoinHandle<()>),
    /// Each in a thread of its own.
    Threads(Vec<std::thread::JoinHandle<()>>),
}

impl Shards {
    /// Waits until all have ended.
    async fn ended(self) -> anyhow::Result<()> {
        let panicked = || anyhow::anyhow!("a shard has ended in a panic; please report this with the log");
        match self {
            Self::Here(task) => task.await.map_err(|_| panicked()),
            Self::Threads(threads) => {
                let join = move || threads.into_iter().try_for_each(|thread| thread.join().map_err(drop));
                tokio::task::spawn_blocking(join).await.ok().and_then(Result::ok).ok_or_else(panicked)
            }
        }
    }
}

fn start_shards(inboxes: Vec<Inbox>, context: &shard::Context) -> std::io::Result<Shards> {
    let mut inboxes = inboxes.into_iter().enumerate();
    if inboxes.len() == 1
        && let Some((index, inbox)) = inboxes.next()
    {
        return Ok(Shards::Here(tokio::task::spawn_local(shard::run(index, inbox, context.clone()))));
    }
    inboxes
        .map(|(index, inbox)| shard::spawn(index, inbox, context.clone()))
        .collect::<Result<_, _>>()
        .map(Shards::Threads)
}
