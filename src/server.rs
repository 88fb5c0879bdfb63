//! The only file that knows everybody: builds, wires, starts and stops in order.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};

use crate::auth::Asked;
use crate::auth::callback::Laravel;
use crate::bus::{self, Bus};
use crate::cluster;
use crate::config::Config;
use crate::http::{self, Front, Fronts};
use crate::inbox::{self, Control, Inbox, Settings};
use crate::ingress::{self, Ingress};
use crate::listen::{self, Place};
use crate::metrics::Metrics;
use crate::presence_store::{self, PresenceStore};
use crate::publish::Publisher;
use crate::redis::Status;
use crate::shard;
use crate::webhook::Webhooks;
use reload::Parts;

mod files;
mod reload;

pub use reload::Origin;

/// How long the copies of presence lists may take to be deleted at the end.
const STORE_WAIT: Duration = Duration::from_secs(2);

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
    raise_file_limit();
    let (handles, inboxes): (Vec<_>, Vec<_>) = (0..config.shards).map(|_| inbox::inbox()).unzip();
    let (bus, bus_end) = match config.cluster {
        Some(_) => bus::bus(),
        None => (Bus::none(), bus::bus().1),
    };
    let metrics = Metrics::new(config.shards, config.apps.iter().map(|app| app.id.clone()).collect());
    let publisher = Publisher::new(handles).with_bus(bus).with_metrics(metrics.clone());
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
    let (shards, webhooks) = local.block_on(&front, async {
        let listeners = listen::open(&config)?;
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
            webhooks,
        };
        let shards = start_shards(inboxes, &context).context("the threads could not be started")?;
        drop(context);
        tokio::spawn(publisher.clone().wake_shards());

        let (audiences, known_prefixes) = reload::audiences(&config);
        let (ingress_changes, changes) = mpsc::unbounded_channel();
        let ingress = Ingress::new(audiences, publisher.clone(), config.limits.outbound_bytes).with_changes(changes);
        let laravel = Laravel::new(&config.auth, known_prefixes.clone())?;
        match source {
            Source::Redis if !config.subscribers.redis => {
                tracing::info!("Redis is not listened to");
            }
            Source::Redis => {
                let (status, _) = watch::channel(Status::starting());
                tokio::spawn(ingress::from_redis(config.redis.clone(), ingress, status));
            }
            Source::Queue(queue) => {
                tokio::spawn(ingress::from_queue(queue, ingress));
            }
        }
        let app_connections: Arc<[Arc<AtomicUsize>]> = config.apps.iter().map(|_| Arc::default()).collect();
        // Before anybody is let in: a member list shall hold those of the other nodes.
        let new_apps = cluster::start(&config, &publisher, bus_end, app_connections.clone()).await;
        let (stop, stopped) = watch::channel(false);
        let front = Front::new(config.clone(), publisher.clone(), laravel, app_connections)?;
        let fronts: Fronts = Arc::new(ArcSwap::from_pointee(front));
        tokio::spawn(answer(asked, fronts.clone(), publisher.clone()));
        let store = store.map(|store| tokio::spawn(store.run(stopped.clone())));
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
            fronts,
            webhooks: webhooks_running,
            known_prefixes,
            ingress: ingress_changes,
            presence_prefixes: prefixes,
            new_apps,
        };
        let reloading = tokio::spawn(reload::run(parts, origin, reload, stopped));
        ready(&places);

        let signal = signals.next().await;
        tracing::info!("{signal}: closing all connections; clients will reconnect");
        tokio::spawn(async move {
            let again = signals.next().await;
            tracing::warn!("{again} again: ending at once");
            std::process::exit(1);
        });
        // Before any of them is closed: the others shall not take that for leaving.
        let _ = tokio::time::timeout(LEAVE_WAIT, publisher.bus().leave()).await;
        let _ = stop.send(true);
        for serving in serving {
            let _ = serving.await;
        }
        for shard in publisher.shards() {
            shard.tell(Control::Stop);
        }
        if let Some(store) = store {
            // Redis may be away: then the keys expire by themselves.
            let _ = tokio::time::timeout(STORE_WAIT, store).await;
        }
        let shards = match shards {
            Shards::Here(task) => task.await.map_err(|_| a_shard_panicked()).map(|()| Vec::new())?,
            Shards::Threads(threads) => threads,
        };
        let webhooks = reloading.await.map_err(|_| anyhow::anyhow!("a reload has panicked; please report this"))?;
        anyhow::Ok((shards, webhooks))
    })?;
    for thread in shards {
        thread.join().map_err(|_| a_shard_panicked())?;
    }
    // The shards have said who has left by their end.
    front.block_on(webhooks.finish());
    front.shutdown_background();
    Ok(())
}

/// Where the shards run.
enum Shards {
    /// The only one, as a task of the front's thread.
    Here(tokio::task::JoinHandle<()>),
    /// Each in a thread of its own.
    Threads(Vec<std::thread::JoinHandle<()>>),
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

fn a_shard_panicked() -> anyhow::Error {
    anyhow::anyhow!("a shard has ended in a panic; please report this with the log")
}

/// Takes the shards' questions to Laravel and the answers back. The number under way is bounded
/// by what each connection may ask at once, and by [`Laravel`] itself.
async fn answer(mut asked: mpsc::UnboundedReceiver<Asked>, fronts: Fronts, publisher: Publisher) {
    while let Some(Asked { shard, conn, ticket, question }) = asked.recv().await {
        let (laravel, publisher) = (fronts.load().laravel().clone(), publisher.clone());
        tokio::spawn(async move {
            let answer = laravel.ask(&question).await;
            publisher.shards()[shard].tell(Control::Answered { conn, ticket, answer });
        });
    }
}

/// Every connection is a file; the usual soft limit of 1,024 is a surprise at the 1,025th.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::warn!("the limit of open files stays at {:?}: {error}", limit.current);
    }
}

/// The signals that the server hears.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<(Signal, Arc<Notify>)>,
    has_terminal: bool,
}

impl Signals {
    /// From now on they no longer end the process by themselves; SIGHUP only if somebody reloads on it.
    fn listen(reload: Option<Arc<Notify>>) -> std::io::Result<Self> {
        let hangup = reload.map(|reload| signal(SignalKind::hangup()).map(|hangup| (hangup, reload))).transpose()?;
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
            has_terminal: std::io::stdout().is_terminal(),
        })
    }

    /// The next one that ends the server. SIGHUP does if it says that the terminal has gone in which the server was
    /// started; else it is a wish to reload.
    async fn next(&mut self) -> &'static str {
        loop {
            let hung_up = async {
                match &mut self.hangup {
                    Some((hangup, reload)) => {
                        hangup.recv().await;
                        reload.clone()
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.terminate.recv() => return "SIGTERM",
                reload = hung_up => {
                    if self.has_terminal && !std::io::stdout().is_terminal() {
                        return "SIGHUP (the terminal was closed)";
                    }
                    reload.notify_one();
                }
            }
        }
    }
}
