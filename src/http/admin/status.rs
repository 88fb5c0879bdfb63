//! How the server is: one look at what its parts say of themselves. Nothing here waits or counts channels.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde::Serialize;

use crate::http::Front;
use crate::inbox::AppIndex;
use crate::metrics::BOUNDS_MICROS;
use crate::process::Usage;
use crate::redis;
use crate::webhook::Counters;

/// The answer. Times are in seconds, unless the name says milliseconds.
#[derive(Serialize)]
pub(super) struct Status {
    version: &'static str,
    pid: u32,
    uptime_seconds: f64,
    /// Where it listens, and whether with TLS.
    listening: Listening,
    /// The configuration file.
    configuration: String,
    /// What was odd in it.
    warnings: Vec<String>,
    /// Of this node.
    connections: usize,
    connections_max: usize,
    /// Of all nodes.
    cluster_connections: usize,
    shards: usize,
    memory_bytes: u64,
    open_files: u64,
    files_max: u64,
    counted: Counted,
    redis: Redis,
    /// All of them, this one first; empty without a cluster.
    nodes: Vec<Node>,
    /// What went wrong between nodes; absent without a cluster.
    bus: Option<Bus>,
    apps: Vec<App>,
    webhooks: Vec<Webhook>,
}

#[derive(Serialize)]
struct Listening {
    /// Addresses with their ports, and paths of unix sockets.
    places: Vec<String>,
    protocol: &'static str,
}

/// What has happened since the start, on this node.
#[derive(Serialize)]
struct Counted {
    events_received: u64,
    /// Of those: for nobody on this node.
    events_unheard: u64,
    messages_delivered: u64,
    messages_received: u64,
    connections_opened: u64,
    subscriptions_refused: u64,
    slow_consumers_closed: u64,
    /// How many events took no longer than each of the bounds until they were delivered, and all.
    delivery_counts: Vec<u64>,
    /// In microseconds.
    delivery_bounds_us: &'static [u64],
}

#[derive(Serialize)]
struct Redis {
    /// `connected`, `away`, or `off`: it is not listened to.
    state: &'static str,
    address: String,
    /// How long it has been so.
    seconds: f64,
    /// Why it is away, and what to do.
    reason: Option<String>,
    key_prefix: Option<String>,
}

#[derive(Serialize)]
struct Node {
    id: String,
    version: String,
    connections: usize,
    lag_ms: u64,
    is_leaving: bool,
    members: usize,
    is_this: bool,
}

#[derive(Serialize)]
struct Bus {
    missed: u64,
    healed: u64,
    unreadable: u64,
    lost_events: u64,
}

#[derive(Serialize)]
struct App {
    id: String,
    key: String,
    has_own_secret: bool,
    /// Of this node.
    connections: usize,
    connections_max: usize,
    /// Of all nodes.
    cluster_connections: usize,
}

#[derive(Serialize)]
struct Webhook {
    app: String,
    url: String,
    delivered: u64,
    failed_requests: u64,
    given_up: u64,
    overflowed: u64,
}

pub(super) fn status(front: &Front) -> Status {
    let config = &front.config;
    let bus = front.publisher.bus().status().borrow().clone();
    let (connections, usage) = (front.connections(), Usage::now());
    let elsewhere = bus.nodes.iter().skip(1);
    Status {
        version: env!("CARGO_PKG_VERSION"),
        pid: std::process::id(),
        uptime_seconds: seconds(front.since),
        listening: Listening {
            places: front.admin.places.iter().map(ToString::to_string).collect(),
            protocol: if config.https_port.is_some() { "http and https" } else { config.scheme() },
        },
        configuration: config.path.display().to_string(),
        warnings: config.warnings.clone(),
        connections,
        connections_max: front.room(),
        cluster_connections: connections + elsewhere.clone().map(|node| node.connections).sum::<usize>(),
        shards: config.shards,
        memory_bytes: usage.resident_bytes,
        open_files: usage.open_files,
        files_max: usage.files_max,
        counted: counted(front),
        redis: redis(front),
        apps: apps(front, &bus),
        webhooks: webhooks(front),
        bus: config.cluster.as_ref().map(|_| Bus {
            missed: bus.missed,
            healed: bus.healed,
            unreadable: bus.unreadable,
            lost_events: bus.lost_events,
        }),
        nodes: bus
            .nodes
            .into_iter()
            .enumerate()
            .map(|(index, node)| Node {
                id: node.id,
                version: node.version,
                connections: node.connections,
                lag_ms: node.lag.as_millis() as u64,
                is_leaving: node.is_leaving,
                members: node.members,
                is_this: index == 0,
            })
            .collect(),
    }
}

fn counted(front: &Front) -> Counted {
    let metrics = front.publisher.metrics();
    Counted {
        events_received: metrics.sum(|counters| counters.events_received.total()),
        events_unheard: metrics.sum(|counters| counters.events_unheard.total()),
        messages_delivered: metrics.sum(|counters| counters.messages_delivered.total()),
        messages_received: metrics.sum(|counters| counters.messages_received.total()),
        connections_opened: metrics.sum(|counters| counters.connections_opened.total()),
        subscriptions_refused: metrics.sum(|counters| counters.subscriptions_refused.total()),
        slow_consumers_closed: metrics.sum(|counters| counters.slow_consumers_closed.total()),
        delivery_counts: (0..=BOUNDS_MICROS.len())
            .map(|bound| metrics.sum(|counters| counters.event_delivery_seconds.cumulated(())[bound]))
            .collect(),
        delivery_bounds_us: &BOUNDS_MICROS,
    }
}

fn redis(front: &Front) -> Redis {
    let config = &front.config.redis;
    let (state, since, reason) = match front.operations.redis.as_ref().map(|status| status.borrow().clone()) {
        None => ("off", None, None),
        Some(redis::Status::Connected { since }) => ("connected", Some(since), None),
        Some(redis::Status::Away { since, reason }) => ("away", Some(since), Some(reason)),
    };
    Redis {
        state,
        address: config.to_string(),
        seconds: since.map_or(0.0, seconds),
        reason,
        key_prefix: config.key_prefix.clone(),
    }
}

fn apps(front: &Front, bus: &crate::bus::Status) -> Vec<App> {
    let app = |(index, app): (usize, &crate::config::App)| {
        let connections = front.app_connections[index].load(Ordering::Relaxed);
        let elsewhere = bus.nodes.iter().skip(1).filter_map(|node| node.app_connections.get(index)).sum::<usize>();
        App {
            id: app.id.clone(),
            key: if app.id.is_empty() { String::new() } else { app.key.clone() },
            has_own_secret: !app.secret_is_random,
            connections,
            connections_max: app.limits.connections,
            cluster_connections: connections + elsewhere,
        }
    };
    front.config.apps.iter().enumerate().filter(|(_, app)| !app.is_removed).map(app).collect()
}

fn webhooks(front: &Front) -> Vec<Webhook> {
    let webhook = |(app, url, counters): (AppIndex, Arc<str>, Arc<Counters>)| Webhook {
        app: front.config.apps.get(usize::from(app.0)).map(|app| app.id.clone()).unwrap_or_default(),
        url: url.to_string(),
        delivered: counters.delivered.load(Ordering::Relaxed),
        failed_requests: counters.failed_requests.load(Ordering::Relaxed),
        given_up: counters.given_up.load(Ordering::Relaxed),
        overflowed: counters.overflowed.load(Ordering::Relaxed),
    };
    front.operations.webhooks.counters().into_iter().map(webhook).collect()
}

/// To the millisecond.
fn seconds(since: Instant) -> f64 {
    since.elapsed().as_millis() as f64 / 1000.0
}
