//! The only file that knows everybody: builds, wires, starts and stops in order.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::auth::Asked;
use crate::auth::callback::Laravel;
use crate::bus::{self, Bus};
use crate::cluster;
use crate::config::Config;
use crate::http::operations::Operations;
use crate::http::{self, Front};
use crate::inbox::{self, Control, Inbox};
use crate::ingress::{self, Audiences, Ingress};
use crate::listen::{self, Place};
use crate::metrics::Metrics;
use crate::presence_store::PresenceStore;
use crate::protocol::app_tag;
use crate::protocol::engineio::Timing;
use crate::protocol::session::Rules;
use crate::publish::Publisher;
use crate::redis::Status;
use crate::shard;
use crate::webhook::Webhooks;

/// How long the copies of presence lists may take to be deleted at the end.
const STORE_WAIT: Duration = Duration::from_secs(2);

/// How long the others may take to begin to keep events for connections of this node that stops.
const HAND_OVER_WAIT: Duration = Duration::from_millis(200);

/// How long it may take to tell the other nodes that this one stops.
const LEAVE_WAIT: Duration = Duration::from_millis(500);

/// Where events come from.
pub enum Source {
    /// Redis, as the configuration says.
    Redis,
    /// A queue in this process: the demo.
    Queue(mpsc::Receiver<ingress::Message>),
}

/// Runs the server until SIGINT or SIGTERM. `ready` is called once it listens, with the places.
pub fn run(mut config: Config, source: Source, ready: impl FnOnce(&[Place])) -> anyhow::Result<()> {
    // Fails only if there is one already, which is as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match listen::files::report(listen::files::raise(), &config) {
        Ok(enough) => tracing::info!("{enough}"),
        Err(sentence) => tracing::warn!("{sentence}"),
    }
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
        let store = PresenceStore::new(&config, publisher.shards(), publisher.bus());
        let context = shard::Context {
            publisher: publisher.clone(),
            asker,
            rules: rules(&config),
            message_bytes_max: config.limits.message_bytes,
            outbound_bytes_max: config.limits.outbound_bytes,
            socketio: Timing {
                ping_interval: config.socketio.ping_interval.as_millis() as u64,
                ping_timeout: config.socketio.ping_timeout.as_millis() as u64,
            },
            presence_members_max: config.apps.iter().map(|app| app.limits.presence_members).collect(),
            presence_changes: store.as_ref().map(PresenceStore::changes),
            cache_time: config.limits.cache_time,
            cache_bytes_max: config.limits.cache_bytes / config.shards,
            subscription_counts: config.apps.iter().map(|app| app.subscription_count).collect(),
            webhooks: webhooks.clone(),
            resume: resume(&config),
        };
        let shards = start_shards(inboxes, &context).context("the threads could not be started")?;
        drop(context);
        tokio::spawn(publisher.clone().wake_shards());

        let own_prefixes: Vec<_> = config.apps.iter().map(|app| app.key_prefix.clone()).collect();
        let (audiences, known_prefixes) = Audiences::new(&own_prefixes, config.redis.key_prefix.as_deref());
        let ingress = Ingress::new(audiences, publisher.clone(), config.limits.outbound_bytes);
        let tags = config.apps.iter().map(|app| app_tag(&app.key));
        let laravel = Laravel::new(&config.auth, tags.zip(known_prefixes).collect(), metrics.clone())?;
        tokio::spawn(answer(asked, laravel.clone(), publisher.clone()));
        let redis = match source {
            Source::Redis if !config.subscribers.redis => {
                tracing::info!("Redis is not listened to");
                None
            }
            Source::Redis => {
                let (status, known) = watch::channel(Status::starting());
                tokio::spawn(ingress::from_redis(config.redis.clone(), ingress, status));
                Some(known)
            }
            Source::Queue(queue) => {
                tokio::spawn(ingress::from_queue(queue, ingress));
                None
            }
        };
        let operations = Arc::new(Operations::new(redis, webhooks));
        let app_connections: Arc<[Arc<AtomicUsize>]> = config.apps.iter().map(|_| Arc::default()).collect();
        // Before anybody is let in: a member list shall hold those of the other nodes.
        let node = cluster::start(&config, &publisher, bus_end, app_connections.clone()).await;
        let process = node.map_or_else(getrandom::u64, Ok).context("the system gives no random numbers")?;
        let (stop, stopped) = watch::channel(false);
        let front = Arc::new(Front::new(
            config.clone(),
            publisher.clone(),
            laravel,
            operations.clone(),
            app_connections,
            process,
        )?);
        if let Some(address) = config.metrics.as_ref().and_then(|access| access.listen) {
            let listener = tokio::net::TcpListener::bind(address).await.with_context(|| {
                format!("cannot listen on {address} for metrics; see \"metrics\" in {}", config.path.display())
            })?;
            tracing::info!("Metrics are at http://{}/metrics", listener.local_addr().unwrap_or(address));
            tokio::spawn(http::operations::serve(listener, front.clone()));
        }
        let store = store.map(|store| tokio::spawn(store.run(stopped.clone())));
        let serving: Vec<_> = listeners
            .into_iter()
            .map(|listener| tokio::spawn(http::serve(listener, front.clone(), stopped.clone())))
            .collect();
        let mut signals = Signals::listen().context("signals cannot be listened to")?;
        ready(&places);

        let signal = signals.next().await;
        tracing::info!("{signal}: closing all connections; clients will reconnect");
        tokio::spawn(async move {
            let again = signals.next().await;
            tracing::warn!("{again} again: ending at once");
            crate::log::flush();
            std::process::exit(1);
        });
        operations.drain();
        let handed_over = shard::resume::hand_over(&publisher).await;
        // Before any of them is closed: the others shall not take that for leaving.
        let _ = tokio::time::timeout(LEAVE_WAIT, publisher.bus().leave()).await;
        if handed_over > 0 {
            // The others keep what comes from now on: until they do, it is delivered here.
            tokio::time::sleep(HAND_OVER_WAIT).await;
        }
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
        anyhow::Ok((shards, webhooks_running))
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

fn rules(config: &Config) -> Arc<[Rules]> {
    let rules = |app: &crate::config::App| Rules {
        app_key: app.key.clone(),
        secret: app.secret.expose().to_owned(),
        subscriptions_max: app.limits.subscriptions_per_connection,
        subscribes_per_second: app
            .limits
            .subscribes_per_second
            .unwrap_or(u32::try_from(app.limits.subscriptions_per_connection).unwrap_or(u32::MAX)),
        presence_joins_per_minute: app.limits.presence_joins_per_minute,
        channel_name_bytes_max: app.limits.channel_name_bytes,
        client_events_per_second: app.limits.client_events_per_second,
        client_event_bytes_max: app.limits.client_event_bytes,
        presence_member_bytes_max: app.limits.presence_member_bytes,
        user_authentication_timeout: app.limits.user_authentication_timeout.map(|timeout| timeout.as_millis() as u64),
        activity_timeout: app.limits.activity_timeout.as_millis() as u64,
        pong_timeout: app.limits.pong_timeout.as_millis() as u64,
        reauthorize_after: config.auth.reauthorize_after.map(|after| after.as_millis() as u64),
    };
    config.apps.iter().map(rules).collect()
}

/// Subscriptions of those who are away, over all shards.
const AWAY_MAX: usize = 1024 * 1024;

/// A lost connection may be noticed this much later than it was lost, and what it missed is kept as long.
const LOSS_NOTICED: Duration = Duration::from_secs(15);

fn resume(config: &Config) -> Option<shard::resume::Settings> {
    let resume = config.resume.as_ref()?;
    Some(shard::resume::Settings {
        bounds: shard::resume::Bounds {
            bytes: resume.bytes / config.shards,
            events_per_channel: resume.events_per_channel,
            time: (resume.time + LOSS_NOTICED).as_millis() as u64,
        },
        modes: resume.modes.clone(),
        time: resume.time.as_millis() as u64,
        seats_max: AWAY_MAX / config.shards,
    })
}

/// Takes the shards' questions to Laravel and the answers back. The number under way is bounded
/// by what each connection may ask at once, and by [`Laravel`] itself.
async fn answer(mut asked: mpsc::UnboundedReceiver<Asked>, laravel: Laravel, publisher: Publisher) {
    while let Some(Asked { shard, conn, ticket, question }) = asked.recv().await {
        let (laravel, publisher) = (laravel.clone(), publisher.clone());
        tokio::spawn(async move {
            let answer = laravel.ask(&question).await;
            publisher.shards()[shard].tell(Control::Answered { conn, ticket, answer });
        });
    }
}

/// The signals that end the server.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    /// From now on they no longer end the process by themselves.
    fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
