//! Redis is away: how long to wait, whom to tell, and what to say.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::{Failure, Link, Timing};

/// Whether events of Laravel's can arrive.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Status {
    /// Connected and subscribed.
    Connected {
        /// Since the subscription was confirmed.
        since: Instant,
    },
    /// Not connected, trying again.
    Away {
        /// Since the connection was lost, or the start.
        since: Instant,
        /// A sentence that says why, and what to do.
        reason: String,
    },
}

impl Status {
    /// Before the first attempt has ended.
    pub fn starting() -> Self {
        Self::Away { since: Instant::now(), reason: "The first connection is being made.".to_owned() }
    }

    /// Whether events can arrive.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }
}

/// The waits between attempts: doubling, with jitter, so that many servers do not come back
/// in step.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    min: Duration,
    max: Duration,
}

impl Backoff {
    /// Begins with `timing.retry_min`.
    pub fn new(timing: &Timing) -> Self {
        Self { next: timing.retry_min, min: timing.retry_min, max: timing.retry_max }
    }

    /// Waits before the next attempt.
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.next_wait()).await;
    }

    /// How long to wait before the next attempt.
    pub fn next_wait(&mut self) -> Duration {
        // Without a random number the waits are merely in step with those of other servers.
        self.step(getrandom::u32().unwrap_or(0))
    }

    /// How long to wait now: between half of the current step and all of it, as `random` says.
    fn step(&mut self, random: u32) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.max);
        step / 2 + (step / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Begins anew, if the connection has lasted: a server that accepts and drops at once
    /// is not asked twenty times a second.
    pub fn connection_lasted(&mut self, lasted: Duration) {
        if lasted >= self.max {
            self.next = self.min;
        }
    }
}

/// Tells the status to other parts, and the log what matters of it: once when Redis goes away,
/// again when the reason changes and every minute, and when it is back.
#[derive(Debug)]
pub struct Reporter {
    address: String,
    status: watch::Sender<Status>,
    outage: Option<Outage>,
}

#[derive(Debug)]
struct Outage {
    since: Instant,
    reason: String,
    said: Option<Instant>,
}

const SAY_AGAIN_AFTER: Duration = Duration::from_secs(60);
const SAY_NEW_REASON_AFTER: Duration = Duration::from_secs(5);

impl Outage {
    fn begin(since: Instant) -> Self {
        Self { since, reason: String::new(), said: None }
    }

    /// Whether this reason is worth a line in the log now.
    fn is_worth_saying(&mut self, reason: &str, now: Instant) -> bool {
        let patience = if self.reason == reason { SAY_AGAIN_AFTER } else { SAY_NEW_REASON_AFTER };
        let is_worth_it = self.said.is_none_or(|said| now.duration_since(said) >= patience);
        if is_worth_it {
            self.said = Some(now);
            reason.clone_into(&mut self.reason);
        }
        is_worth_it
    }
}

impl Reporter {
    /// Begins as away, without a word.
    pub fn new(link: &Link, status: watch::Sender<Status>) -> Self {
        Self { address: link.to_string(), status, outage: Some(Outage::begin(Instant::now())) }
    }

    /// The connection was lost, or an attempt failed.
    pub fn away(&mut self, failure: &Failure) {
        let now = Instant::now();
        let outage = self.outage.get_or_insert_with(|| Outage::begin(now));
        let is_first = outage.said.is_none();
        if outage.is_worth_saying(&failure.0, now) {
            let rest = if is_first {
                "The server runs on and keeps trying; until then no events arrive from Laravel.".to_owned()
            } else {
                format!("No events have arrived from Laravel for {}; still trying.", rounded(now - outage.since))
            };
            tracing::warn!("{failure} {rest}");
        }
        self.status.send_replace(Status::Away { since: outage.since, reason: failure.0.clone() });
    }

    /// The subscription is confirmed.
    pub fn connected(&mut self) {
        let now = Instant::now();
        match self.outage.take() {
            Some(outage) if outage.said.is_some() => tracing::info!(
                "Redis at {} is back after {}. Events published meanwhile were not received: Redis keeps nothing for \
                 subscribers that are away.",
                self.address,
                rounded(now - outage.since)
            ),
            _ => tracing::info!("Listening for events from Redis at {}", self.address),
        }
        self.status.send_replace(Status::Connected { since: now });
    }
}

/// A duration for people: `350 ms`, `4.2 s`, `3 min 20 s`.
fn rounded(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f32()),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_off_grows_to_its_limit_and_begins_anew() {
        let timing = Timing::default();
        let mut backoff = Backoff::new(&timing);
        let steps: Vec<u128> = (0..8).map(|_| backoff.step(u32::MAX).as_millis()).collect();
        assert_eq!(steps, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(backoff.step(0), Duration::from_secs(1));
        backoff.connection_lasted(Duration::from_secs(1));
        assert_eq!(backoff.step(u32::MAX), Duration::from_secs(2));
        backoff.connection_lasted(Duration::from_secs(2));
        assert_eq!(backoff.step(0), Duration::from_millis(25));
    }

    #[test]
    fn an_outage_is_said_once_then_now_and_again() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut outage = Outage::begin(start);
        let said: Vec<bool> = [
            (0, "refused"),
            (1, "refused"),
            (2, "wrong password"),
            (6, "wrong password"),
            (7, "wrong password"),
            (65, "wrong password"),
            (66, "wrong password"),
        ]
        .into_iter()
        .map(|(seconds, reason)| outage.is_worth_saying(reason, at(seconds)))
        .collect();
        assert_eq!(said, [true, false, false, true, false, false, true]);
    }

    #[test]
    fn durations_for_people() {
        for (ms, text) in [(350, "350 ms"), (4_210, "4.2 s"), (200_900, "3 min 20 s")] {
            assert_eq!(rounded(Duration::from_millis(ms)), text);
        }
    }
}
