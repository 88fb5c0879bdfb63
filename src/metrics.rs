//! What is counted, for operators: every metric stands in one place, [`table`], with its name, what it says,
//! and its labels.
//!
//! Begin with [`Metrics`], the handle that `server` makes and everybody is given. To count something new: one
//! line in [`table`], and `metrics.its_name.add(labels)` where it happens.
//!
//! Counting never waits: values are atomic numbers, each shard has its own, on memory of its own, and they are
//! added up when somebody reads them. On the way of an event a batch is counted, never a delivery.
//!
//! Labels have few values, known in advance: apps, reasons, sources. Never channels, users or addresses: each
//! would be a series that Prometheus keeps for ever, and names are nobody's business who may read numbers.
//!
//! Not here: who may read them, and what others know anyway (`http::metrics` asks them).

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

pub use channels::Channels;
pub use kinds::{BOUNDS_MICROS, Counter, Gauge, Histogram, Labels, Seconds};
pub use labels::*;
pub use page::Page;
pub use table::{Counters, Description, Type, all};

mod channels;
mod kinds;
mod labels;
mod page;
pub mod table;

/// How many apps have numbers of their own; what others do is not counted by app. More than this a
/// configuration may have, if it has them at the start.
const APPS_MIN: usize = 64;

/// All that is counted in this process. A clone shares everything.
///
/// Of itself it is the [`Counters`] of the front: `metrics.webhook_requests.add(…)`. A shard counts in its own,
/// see [`Metrics::of_shard`].
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The front's, then each shard's.
    counters: Box<[Arc<Counters>]>,
    channels: Channels,
    /// What the label `app` says, in the configuration's order.
    apps: RwLock<Vec<String>>,
    started: SystemTime,
    /// When each shard last had its turn, in milliseconds since `since`.
    turns: Box<[AtomicU64]>,
    since: Instant,
}

impl Metrics {
    /// Nothing has been counted yet, for so many shards and the apps of these ids.
    pub fn new(shards: usize, apps: Vec<String>) -> Self {
        let room = apps.len().max(APPS_MIN);
        Self(Arc::new(Inner {
            counters: (0..=shards).map(|_| Arc::new(Counters::new(room))).collect(),
            channels: Channels::default(),
            apps: RwLock::new(apps),
            started: SystemTime::now(),
            turns: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            since: Instant::now(),
        }))
    }

    /// What the shard with this index counts in; nobody else writes there.
    pub fn of_shard(&self, index: usize) -> Arc<Counters> {
        self.0.counters[(index + 1).min(self.0.counters.len() - 1)].clone()
    }

    /// The channels that have subscribers on any shard.
    pub fn channels(&self) -> &Channels {
        &self.0.channels
    }

    /// The apps have changed (a reload): their ids, in the order of their index. An index keeps its numbers.
    pub fn set_apps(&self, apps: Vec<String>) {
        *self.0.apps.write().unwrap_or_else(PoisonError::into_inner) = apps;
    }

    /// When the server started.
    pub fn started(&self) -> SystemTime {
        self.0.started
    }

    /// The shard with this index has its turn, as it must each second.
    pub fn has_turn(&self, shard: usize) {
        if let Some(turn) = self.0.turns.get(shard) {
            turn.store(self.0.since.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
    }

    /// How long it is that each shard has had its turn.
    pub fn silence(&self) -> Duration {
        let oldest = self.0.turns.iter().map(|turn| turn.load(Ordering::Relaxed)).min();
        let oldest = Duration::from_millis(oldest.unwrap_or_default());
        self.0.since.elapsed().saturating_sub(oldest)
    }

    /// Adds up a number over front and shards: `metrics.sum(|counters| counters.messages_delivered.total())`.
    pub fn sum<N: std::iter::Sum>(&self, of: impl Fn(&Counters) -> N) -> N {
        self.0.counters.iter().map(|counters| of(counters)).sum()
    }

    /// All that is counted, in Prometheus' text format. The caller adds what it has asked others for.
    pub fn page(&self) -> Page {
        let apps = self.0.apps.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut page = Page::new(apps);
        table::write(&self.0.counters, &mut page);
        page
    }
}

impl Deref for Metrics {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        &self.0.counters[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn front_and_shards_are_added_up() {
        let metrics = Metrics::new(2, vec!["one".to_owned(), "two".to_owned()]);
        metrics.limit_reached.add(Limit::MessageBytes);
        metrics.of_shard(1).limit_reached.add_many(Limit::MessageBytes, 2);
        metrics.of_shard(0).messages_delivered.add_many(App(1), 5);
        metrics.of_shard(0).subscriptions.more((App(0), ChannelKind::Private));
        metrics.of_shard(1).subscriptions.fewer((App(0), ChannelKind::Private));
        metrics.of_shard(1).event_delivery_seconds.observe_many((), Duration::from_millis(3), 2);
        let page = metrics.page().finish();
        for line in [
            "# HELP laravel_echo_server_limit_reached_total How often a limit of the configuration was reached, by its key.",
            "# TYPE laravel_echo_server_limit_reached_total counter",
            "laravel_echo_server_limit_reached_total{limit=\"messageBytes\"} 3",
            "laravel_echo_server_limit_reached_total{limit=\"bodyBytes\"} 0",
            "laravel_echo_server_messages_delivered_total{app=\"one\"} 0",
            "laravel_echo_server_messages_delivered_total{app=\"two\"} 5",
            "laravel_echo_server_subscriptions{app=\"one\",kind=\"private\"} 0",
            "# TYPE laravel_echo_server_event_delivery_seconds histogram",
            "laravel_echo_server_event_delivery_seconds_bucket{le=\"0.0025\"} 0",
            "laravel_echo_server_event_delivery_seconds_bucket{le=\"0.005\"} 2",
            "laravel_echo_server_event_delivery_seconds_bucket{le=\"+Inf\"} 2",
            "laravel_echo_server_event_delivery_seconds_sum 0.006",
            "laravel_echo_server_event_delivery_seconds_count 2",
        ] {
            assert!(page.lines().any(|other| other == line), "{line}\n{page}");
        }
        assert_eq!(metrics.sum(|counters| counters.limit_reached.total()), 3);
    }

    /// A label's value may be anything that an operator calls an app, and an app that came with a reload beyond
    /// the room that there is has no numbers.
    #[test]
    fn apps_are_quoted_and_bounded() {
        let metrics = Metrics::new(1, vec!["a\"b\\c\nd".to_owned()]);
        metrics.messages_received.add(App(0));
        metrics.messages_received.add(App(u16::MAX));
        let page = metrics.page().finish();
        assert!(page.contains("laravel_echo_server_messages_received_total{app=\"a\\\"b\\\\c\\nd\"} 1\n"), "{page}");
        metrics.set_apps((0..APPS_MIN + 9).map(|n| format!("app{n}")).collect());
        let page = metrics.page().finish();
        assert!(page.contains("{app=\"app63\"}") && !page.contains("{app=\"app64\"}"), "{page}");
    }

    #[test]
    fn names_are_as_prometheus_wants_them() {
        let mut names = HashSet::new();
        for description in all() {
            let Description { name, help, of_type, labels } = description;
            assert!(names.insert(*name), "{name} stands there twice");
            assert!(name.starts_with("laravel_echo_server_") || name.starts_with("process_"), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), *of_type == Type::Counter, "{name}");
            assert!(help.trim() == *help && help.ends_with('.') && !help.contains('\n'), "{name}: {help:?}");
            for label in *labels {
                assert!(!matches!(*label, "channel" | "user_id" | "socket_id" | "key" | "address"), "{name}");
            }
        }
        assert!(names.len() > 40, "{names:?}");
    }
}
