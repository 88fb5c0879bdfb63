//! What has become of a URL's events, and how often the log says what was lost: at once, and then
//! not more than every ten seconds, however much it is.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The log says a loss of one kind at most so often.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Counted since the start.
#[derive(Debug)]
pub struct Counters {
    /// Events that were answered with 2xx.
    pub delivered: AtomicU64,
    /// Requests that were not.
    pub failed_requests: AtomicU64,
    /// Events that were tried for five minutes, or until the server ended, and not delivered.
    pub given_up: AtomicU64,
    /// Events that found no room in the queue.
    pub overflowed: AtomicU64,
    given_up_said: Said,
    overflowed_said: Said,
    started: Instant,
}

/// How much of a counter is in the log.
#[derive(Debug, Default)]
struct Said {
    count: AtomicU64,
    /// In milliseconds since the start; 0: never.
    at: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            delivered: AtomicU64::new(0),
            failed_requests: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            overflowed: AtomicU64::new(0),
            given_up_said: Said::default(),
            overflowed_said: Said::default(),
            started: Instant::now(),
        }
    }
}

impl Counters {
    /// Counts events that found no room. Some: it is time to say so, of as many.
    pub(super) fn overflowed(&self, count: u64) -> Option<u64> {
        let all = self.overflowed.fetch_add(count, Ordering::Relaxed) + count;
        self.overflowed_said.unsaid(all, self.started)
    }

    /// Counts events that were given up. Some: it is time to say so, of as many.
    pub(super) fn gave_up(&self, count: u64) -> Option<u64> {
        let all = self.given_up.fetch_add(count, Ordering::Relaxed) + count;
        self.given_up_said.unsaid(all, self.started)
    }

    /// How many of either kind the log does not tell of yet; it does after this.
    pub(super) fn rest(&self) -> (u64, u64) {
        let rest = |counter: &AtomicU64, said: &Said| {
            let all = counter.load(Ordering::Relaxed);
            all.saturating_sub(said.count.swap(all, Ordering::Relaxed))
        };
        (rest(&self.given_up, &self.given_up_said), rest(&self.overflowed, &self.overflowed_said))
    }
}

impl Said {
    fn unsaid(&self, all: u64, started: Instant) -> Option<u64> {
        let now = started.elapsed().as_millis() as u64 + 1;
        let at = self.at.load(Ordering::Relaxed);
        let is_due = at == 0 || now.saturating_sub(at) >= SAY_EVERY.as_millis() as u64;
        // Of several threads at once one says it.
        if !is_due || self.at.compare_exchange(at, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return None;
        }
        Some(all.saturating_sub(self.count.swap(all, Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn said_at_once_and_then_together() {
        let counters = Counters::default();
        assert_eq!(counters.overflowed(1), Some(1));
        assert_eq!((counters.overflowed(1), counters.overflowed(2)), (None, None));
        assert_eq!(counters.gave_up(5), Some(5), "another kind of loss");
        assert_eq!(counters.rest(), (0, 3));
        assert_eq!(counters.rest(), (0, 0));
        assert_eq!(counters.overflowed.load(Ordering::Relaxed), 4);
        counters.overflowed_said.at.store(0, Ordering::Relaxed);
        assert_eq!(counters.overflowed(1), Some(1));
    }
}
