//! The table of all metrics. A line is a name in the code, the kind with its labels, the name that operators
//! see, and, as its comment, what they are told of it. docs/monitoring.md has the same lines; a test holds it.

use std::sync::Arc;

use super::kinds::{Counter, Gauge, Histogram, Metric, Seconds};
use super::labels::*;
use super::page::Page;
use crate::protocol::why::Why;

/// What Prometheus calls the type of a metric.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Type {
    /// Goes up only.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

/// What there is to say of a metric.
#[derive(Debug, Eq, PartialEq)]
pub struct Description {
    /// As operators know it, with its unit.
    pub name: &'static str,
    /// What it says, in a sentence.
    pub help: &'static str,
    /// Its type.
    pub of_type: Type,
    /// The names of its labels.
    pub labels: &'static [&'static str],
}

macro_rules! counted {
    ($($(#[doc = $help:literal])+ $field:ident: $kind:ty = $name:literal;)+) => {
        /// What is counted where it happens. A set of these belongs to the front, one to each shard.
        #[derive(Debug)]
        pub struct Counters { $($(#[doc = $help])+ pub $field: $kind,)+ }

        impl Counters {
            pub(super) fn new(apps: usize) -> Self {
                Self { $($field: Metric::new(apps),)+ }
            }
        }

        static COUNTED: &[Description] = &[$(Description {
            name: $name,
            help: concat!($($help),+).trim_ascii_start(),
            of_type: <$kind as Metric>::TYPE,
            labels: <$kind as Metric>::LABELS,
        },)+];

        /// Writes the sums of front and shards.
        pub(super) fn write(counters: &[Arc<Counters>], page: &mut Page) {
            let mut descriptions = COUNTED.iter();
            $(if let Some(description) = descriptions.next() {
                let these: Vec<_> = counters.iter().map(|counters| &counters.$field).collect();
                Metric::write(&these, description, page);
            })+
        }
    };
}

macro_rules! asked {
    ($($(#[doc = $help:literal])+ $id:ident: $of_type:ident[$($label:literal),*] = $name:literal;)+) => {
        $($(#[doc = $help])+ pub static $id: Description = Description {
            name: $name,
            help: concat!($($help),+).trim_ascii_start(),
            of_type: Type::$of_type,
            labels: &[$($label),*],
        };)+

        static ASKED: &[&Description] = &[$(&$id,)+];
    };
}

/// All metrics that there are.
pub fn all() -> impl Iterator<Item = &'static Description> {
    ASKED.iter().copied().chain(COUNTED)
}

counted! {
    // --- connections
    /// WebSocket connections and polling sessions that were let in.
    connections_opened: Counter<(App, Protocol)> = "laravel_echo_server_connections_opened_total";
    /// Connections that have ended, by the code of the close frame; 1006: without one.
    connections_closed: Counter<Closed> = "laravel_echo_server_connections_closed_total";
    /// Connections that were refused, by reason.
    connections_refused: Counter<Refused> = "laravel_echo_server_connections_refused_total";
    /// Connections that are open.
    connections: Gauge<(App, Protocol)> = "laravel_echo_server_connections";
    /// Connections that were closed because they read too slowly.
    slow_consumers_closed: Counter<App> = "laravel_echo_server_slow_consumers_closed_total";
    /// Bytes that wait for connections to read them, as of the last second.
    outbound_buffered_bytes: Gauge<()> = "laravel_echo_server_outbound_buffered_bytes";

    // --- events and messages
    /// Events that were taken in, by where they come from.
    events_received: Counter<Source> = "laravel_echo_server_events_received_total";
    /// Events that were taken in and had no subscribers on this node, by where they come from.
    events_unheard: Counter<Source> = "laravel_echo_server_events_unheard_total";
    /// Messages on Redis that were no event for anybody here, by reason.
    redis_messages_ignored: Counter<IgnoredBecause> = "laravel_echo_server_redis_messages_ignored_total";
    /// Events that were sent to connections, each counted for each connection.
    messages_delivered: Counter<App> = "laravel_echo_server_messages_delivered_total";
    /// Bytes of events that were sent to connections, with WebSocket's head and before TLS.
    delivered_bytes: Counter<App> = "laravel_echo_server_delivered_bytes_total";
    /// Messages that connections have sent.
    messages_received: Counter<App> = "laravel_echo_server_messages_received_total";
    /// Time from an event's arrival here (out of Redis or over the HTTP API) until a shard has written it to its subscribers.
    event_delivery_seconds: Histogram<()> = "laravel_echo_server_event_delivery_seconds";

    // --- channels
    /// Channels that have subscribers on this node.
    channels: Gauge<(App, ChannelKind)> = "laravel_echo_server_channels";
    /// Subscriptions of this node's connections.
    subscriptions: Gauge<(App, ChannelKind)> = "laravel_echo_server_subscriptions";
    /// Subscriptions that were made.
    subscribes: Counter<(App, ChannelKind)> = "laravel_echo_server_subscribes_total";
    /// Subscriptions that were refused, by reason.
    subscriptions_refused: Counter<(App, Why)> = "laravel_echo_server_subscriptions_refused_total";
    /// Members of presence channels, each user once in each channel, on all nodes.
    presence_members: Gauge<App> = "laravel_echo_server_presence_members";
    /// Users that are signed in, each once, on all nodes.
    users_online: Gauge<App> = "laravel_echo_server_users_online";

    // --- Redis
    /// Connections to Redis for events that were lost.
    redis_disconnects: Counter<()> = "laravel_echo_server_redis_disconnects_total";
    /// Times that one of two connections to Redis was lost and the other took its place (`resume`), so that nothing was missed.
    redis_takeovers: Counter<()> = "laravel_echo_server_redis_takeovers_total";
    /// Lost connections of which not all is kept for as long as it should be, since there is no room (`resume`); who comes back is told of a gap.
    resume_forgotten: Counter<()> = "laravel_echo_server_resume_forgotten_total";
    /// Attempts to connect to Redis for events that failed.
    redis_connect_failures: Counter<()> = "laravel_echo_server_redis_connect_failures_total";

    /// Time for which Redis was away since the start; what was published meanwhile did not arrive.
    redis_gap_seconds: Seconds<()> = "laravel_echo_server_redis_gap_seconds_total";

    // --- Laravel
    /// Questions to Laravel whether somebody may join or who somebody is, by what came of them.
    auth_requests: Counter<(Way, Answered)> = "laravel_echo_server_auth_requests_total";
    /// Time that questions to Laravel take, with waiting for their turn.
    auth_request_seconds: Histogram<Way> = "laravel_echo_server_auth_request_seconds";

    // --- HTTP, limits, log
    /// Requests over HTTP, by what they were for and how they were answered.
    http_requests: Counter<(Route, StatusClass)> = "laravel_echo_server_http_requests_total";
    /// How often a limit of the configuration was reached, by its key.
    limit_reached: Counter<Limit> = "laravel_echo_server_limit_reached_total";
}

asked! {
    /// 1: this version runs.
    BUILD_INFO: Gauge["version"] = "laravel_echo_server_build_info";
    /// 1: Redis is connected and events can arrive; 0: it is away, or not listened to.
    REDIS_CONNECTED: Gauge[] = "laravel_echo_server_redis_connected";
    /// 1: the server answers /ready with 200.
    READY: Gauge[] = "laravel_echo_server_ready";
    /// For how long a shard has not had its turn, which comes each second; of all the longest.
    SHARD_SILENCE_SECONDS: Gauge[] = "laravel_echo_server_shard_silence_seconds";
    /// Questions to Laravel that are under way.
    AUTH_REQUESTS_UNDER_WAY: Gauge[] = "laravel_echo_server_auth_requests_under_way";
    /// Threads that deliver.
    SHARDS: Gauge[] = "laravel_echo_server_shards";
    /// Events that wait for shards.
    EVENTS_WAITING: Gauge[] = "laravel_echo_server_events_waiting";
    /// Sockets that are open without a handshake, or for HTTP.
    HTTP_CONNECTIONS: Gauge[] = "laravel_echo_server_http_connections";
    /// Nodes of the cluster that are known to live, this one included; 0: without a cluster.
    CLUSTER_NODES: Gauge[] = "laravel_echo_server_cluster_nodes";
    /// How long a message to all nodes takes through Redis, of this node.
    CLUSTER_LAG_SECONDS: Gauge[] = "laravel_echo_server_cluster_lag_seconds";
    /// Messages of other nodes that did not arrive here.
    CLUSTER_MISSED: Counter[] = "laravel_echo_server_cluster_missed_total";
    /// Differences in what nodes know of each other that were found and healed.
    CLUSTER_HEALED: Counter[] = "laravel_echo_server_cluster_healed_total";
    /// Messages of other nodes that this version cannot read.
    CLUSTER_UNREADABLE: Counter[] = "laravel_echo_server_cluster_unreadable_total";
    /// Events that reached this node's clients alone, since Redis was away or slow.
    CLUSTER_EVENTS_LOST: Counter[] = "laravel_echo_server_cluster_events_lost_total";
    /// Events that webhooks were told of.
    WEBHOOK_EVENTS_DELIVERED: Counter["app"] = "laravel_echo_server_webhook_events_delivered_total";
    /// Requests of webhooks that were not answered with 2xx.
    WEBHOOK_REQUESTS_FAILED: Counter["app"] = "laravel_echo_server_webhook_requests_failed_total";
    /// Events that webhooks were not told of: given up, or no room for them.
    WEBHOOK_EVENTS_LOST: Counter["app"] = "laravel_echo_server_webhook_events_lost_total";
    /// Lines that the log had no room for.
    LOG_LINES_DROPPED: Counter[] = "laravel_echo_server_log_lines_dropped_total";
    /// Lines that were left out of the log, as too many of one kind.
    LOG_LINES_SUPPRESSED: Counter[] = "laravel_echo_server_log_lines_suppressed_total";
    /// Memory that the process has in RAM, in bytes.
    RESIDENT_MEMORY_BYTES: Gauge[] = "process_resident_memory_bytes";
    /// Files and sockets that the process has open.
    OPEN_FDS: Gauge[] = "process_open_fds";
    /// Files and sockets that the process may have open.
    MAX_FDS: Gauge[] = "process_max_fds";
    /// CPU time that the process has used, in seconds.
    CPU_SECONDS: Counter[] = "process_cpu_seconds_total";
    /// When the process started, in seconds since 1970.
    START_TIME_SECONDS: Gauge[] = "process_start_time_seconds";
}
