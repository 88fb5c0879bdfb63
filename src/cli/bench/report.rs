//! What a run found, as text for people and as JSON for scripts.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::account::{Totals, Trouble};
use super::options::Plan;
use super::phases::{Joins, Published, Spent};

/// Channels that are named when something is wrong on them.
const CHANNELS_NAMED: usize = 10;

/// All that is known at the end.
pub struct Report<'a> {
    /// What was asked for.
    pub plan: &'a Plan,
    /// The server's process id, if it is known.
    pub pid: Option<u32>,
    /// How long connecting and subscribing took.
    pub connected_in: Duration,
    /// Server memory in KiB: before, and with all subscribed.
    pub rss: (Option<u64>, Option<u64>),
    /// Joins and leaves.
    pub joins: Option<(Joins, Joins)>,
    /// The measured events.
    pub published: Published,
    /// All events, warm-up included.
    pub totals: Totals,
    /// By channel.
    pub trouble: BTreeMap<u32, Trouble>,
    /// Deliveries that readers may still wait for.
    pub closes: BTreeMap<u16, (u64, String)>,
    /// Stalled readers that were closed.
    pub stalled_closed: u64,
    /// `member_added` that were missing when all had subscribed.
    pub unannounced: u64,
    /// Events that Redis gave to nobody.
    pub nobody_listens: u64,
}

impl Report<'_> {
    fn sum(&self) -> Trouble {
        self.trouble.values().fold(Trouble::default(), |sum, one| Trouble {
            lost: sum.lost + one.lost,
            doubled: sum.doubled + one.doubled,
            out_of_order: sum.out_of_order + one.out_of_order,
        })
    }

    fn closed(&self) -> u64 {
        self.closes.values().map(|(count, _)| count).sum::<u64>() - self.stalled_closed
    }

    /// What was not as it must be, in one sentence; `None` if all was well.
    pub fn complaint(&self) -> Option<String> {
        let sum = self.sum();
        let (joins, leaves) = self.joins.as_ref().map_or((0, 0), |(joins, leaves)| {
            (joins.expected.abs_diff(joins.received), leaves.expected.abs_diff(leaves.received))
        });
        let complaints: Vec<String> = [
            (sum.lost, "deliveries lost"),
            (sum.doubled, "doubled"),
            (sum.out_of_order, "out of order"),
            (self.totals.strays, "where they do not belong"),
            (self.closed(), "connections closed by the server"),
            (self.unannounced + joins, "member_added too few or too many"),
            (leaves, "member_removed too few or too many"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
        (!complaints.is_empty()).then(|| complaints.join(", "))
    }

    fn connections(&self) -> u64 {
        u64::from(self.plan.options.connections + self.plan.options.joins)
    }

    fn kib_per_connection(&self) -> Option<f64> {
        let (before, after) = (self.rss.0?, self.rss.1?);
        Some((after as f64 - before as f64) / self.connections() as f64)
    }

    /// For scripts. Keys whose values cannot be known are null.
    pub fn json(&self) -> Value {
        let options = &self.plan.options;
        let published = &self.published;
        let (sum, spent) = (self.sum(), &published.spent);
        let percentile = |share| published.latency.percentile(share) as f64 / 1e6;
        let channels: Map<String, Value> = self
            .trouble
            .iter()
            .take(CHANNELS_NAMED)
            .map(|(channel, trouble)| {
                let Trouble { lost, doubled, out_of_order } = trouble;
                let value = json!({"lost": lost, "doubled": doubled, "out_of_order": out_of_order});
                (self.plan.channel(*channel), value)
            })
            .collect();
        let closes: Map<String, Value> = self
            .closes
            .iter()
            .map(|(code, (count, reason))| (code.to_string(), json!({"count": count, "reason": reason})))
            .collect();
        let threads: Option<BTreeMap<&str, f64>> = spent
            .server
            .as_ref()
            .map(|all| all.iter().map(|(name, time)| (name.as_str(), time.as_secs_f64())).collect());
        let joins = |joins: &Joins| {
            json!({
                "count": joins.count, "deliveries_expected": joins.expected, "deliveries": joins.received,
                "seconds": joins.spent.wall.as_secs_f64(),
                "cpu_us_per_join": micros(&joins.spent, joins.count),
                "cpu_us_per_delivery": micros(&joins.spent, joins.received),
            })
        };
        json!({
            "connections": options.connections, "channels": options.channels, "publishers": options.publishers,
            "rate": options.rate, "burst": options.burst, "data_bytes": options.data_bytes,
            "connect": {
                "seconds": self.connected_in.as_secs_f64(),
                "per_second": self.connections() as f64 / self.connected_in.as_secs_f64(),
            },
            "total": {
                "events": self.totals.events, "expected": self.totals.expected, "received": self.totals.received,
                "lost": sum.lost, "doubled": sum.doubled, "out_of_order": sum.out_of_order,
                "strays": self.totals.strays, "unannounced": self.unannounced, "nobody_listens": self.nobody_listens,
            },
            "channels_in_trouble": self.trouble.len(), "trouble": channels,
            "measured": {
                "events": published.events, "deliveries": published.received,
                "seconds": spent.wall.as_secs_f64(),
                "events_per_second": rate(published.events, spent.wall),
                "deliveries_per_second": rate(published.received, spent.wall),
                "latency_ms": {
                    "p50": percentile(0.5), "p95": percentile(0.95), "p99": percentile(0.99), "max": percentile(1.0),
                },
            },
            "server": {
                "pid": self.pid,
                "cpu_seconds": spent.server_total().map(|time| time.as_secs_f64()), "threads": threads,
                "cpu_us_per_delivery": micros(spent, published.received),
                "cpu_us_per_event": micros(spent, published.events),
                "rss_kib": {"before": self.rss.0, "subscribed": self.rss.1, "peak": published.rss_peak},
                "kib_per_connection": self.kib_per_connection(),
            },
            "generator": {"cpu_seconds": spent.own.as_secs_f64()},
            "joins": self.joins.as_ref().map(|(one, _)| joins(one)),
            "leaves": self.joins.as_ref().map(|(_, other)| joins(other)),
            "closes": closes, "closed": self.closed(), "stalled_closed": self.stalled_closed,
            "complaint": self.complaint(),
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |label: &str, value: String| {
            let _ = writeln!(text, "{label:<18}{value}");
        };
        let (sum, published) = (self.sum(), &self.published);
        let spent = &published.spent;
        let known =
            |value: Option<f64>, unit: &str| value.map_or("unknown".to_owned(), |value| format!("{value:.2} {unit}"));
        let per_second = self.connections() as f64 / self.connected_in.as_secs_f64();
        line("Connections", format!("{} in {:.2?}, {per_second:.0}/s", self.connections(), self.connected_in));
        if published.events > 0 {
            line(
                "Deliveries",
                format!(
                    "{} of {} events in {:.2?}, {:.0}/s",
                    published.received,
                    published.events,
                    spent.wall,
                    rate(published.received, spent.wall)
                ),
            );
            line("Wrong", format!("{} lost, {} doubled, {} out of order", sum.lost, sum.doubled, sum.out_of_order));
            for (channel, one) in self.trouble.iter().take(CHANNELS_NAMED) {
                line(
                    &format!("  {}", self.plan.channel(*channel)),
                    format!("{} lost, {} doubled, {} out of order", one.lost, one.doubled, one.out_of_order),
                );
            }
            let ms = |share| published.latency.percentile(share) as f64 / 1e6;
            line(
                "Latency",
                format!("p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms, max {:.2} ms", ms(0.5), ms(0.95), ms(0.99), ms(1.0)),
            );
            line(
                "Server CPU",
                format!(
                    "{} per delivery, {} per event",
                    known(micros(spent, published.received), "µs"),
                    known(micros(spent, published.events), "µs")
                ),
            );
            let share = 100.0 * spent.own.as_secs_f64() / spent.wall.as_secs_f64();
            line("Generator CPU", format!("{share:.0} % of one core; near 100 the generator is the limit"));
        }
        if let Some((joins, leaves)) = &self.joins {
            for (label, one) in [("Joins", joins), ("Leaves", leaves)] {
                let cpu = known(micros(&one.spent, one.count), "µs");
                line(label, format!("{}, {} of {} deliveries, {cpu} CPU each", one.count, one.received, one.expected));
            }
        }
        let kib = |value: Option<u64>| value.map_or("unknown".to_owned(), |kib| format!("{kib} KiB"));
        line(
            "Server memory",
            format!(
                "{} before, {} with all subscribed ({} each), {} at most",
                kib(self.rss.0),
                kib(self.rss.1),
                known(self.kib_per_connection(), "KiB"),
                kib(published.rss_peak)
            ),
        );
        for (code, (count, reason)) in &self.closes {
            line("Closed", format!("{count} with {code} {reason}"));
        }
        if self.nobody_listens > 0 {
            line("Redis", format!("{} events had no listener: is the server on this Redis?", self.nobody_listens));
        }
        text
    }
}

fn rate(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

fn micros(spent: &Spent, count: u64) -> Option<f64> {
    let total = spent.server_total()?;
    (count > 0).then(|| total.as_secs_f64() * 1e6 / count as f64)
}
