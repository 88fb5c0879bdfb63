//! What each client's address has: connections, and requests for leave. For addresses that are one client's
//! alone, see [`Counted`].

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::address::Counted;
use crate::inbox::OneMore;

/// Addresses that are kept before those are looked for that have nothing any more.
const ADDRESSES_MIN: usize = 1024;

/// Who has asked for nothing for a while may ask so many seconds' worth at once: a page that loads asks for all
/// of its channels.
const BURST_SECONDS: f64 = 10.0;

/// The addresses that have something.
#[derive(Debug, Default)]
pub struct Addresses(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Counted, Entry>,
    /// How many there were when they were last gone through.
    swept: usize,
}

#[derive(Debug, Default)]
struct Entry {
    connections: Arc<AtomicUsize>,
    /// Seconds' worth of requests that have been used up, as of `asked_at`.
    used: f64,
    asked_at: Option<Instant>,
}

impl Entry {
    fn used(&self, now: Instant) -> f64 {
        let since = self.asked_at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        (self.used - since).max(0.0)
    }

    fn has_something(&self, now: Instant) -> bool {
        Arc::strong_count(&self.connections) > 1 || self.used(now) > 0.0
    }
}

impl Addresses {
    /// One more connection of this address, counted until the answer is dropped; and how many there are now.
    pub fn connect(&self, address: Counted, now: Instant) -> (OneMore, usize) {
        let mut table = self.table();
        let entry = table.entry(address, now);
        let one = OneMore::of(&entry.connections);
        (one, entry.connections.load(Ordering::Relaxed))
    }

    /// Whether the address may ask for leave once more.
    pub fn may_ask(&self, address: Counted, per_second: u32, now: Instant) -> bool {
        let mut table = self.table();
        let entry = table.entry(address, now);
        let used = entry.used(now) + 1.0 / f64::from(per_second.max(1));
        if used > BURST_SECONDS {
            return false;
        }
        (entry.used, entry.asked_at) = (used, Some(now));
        true
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // The table is whole at any time.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn entry(&mut self, address: Counted, now: Instant) -> &mut Entry {
        // Twice as many as were left the last time: going through them costs each newcomer little.
        if self.entries.len() >= ADDRESSES_MIN.max(2 * self.swept) {
            self.entries.retain(|_, entry| entry.has_something(now));
            self.swept = self.entries.len();
        }
        self.entries.entry(address).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::Duration;

    fn counted(number: u32) -> Counted {
        Counted::of(IpAddr::V4(Ipv4Addr::from_bits(0xcb00_0000 + number))).unwrap()
    }

    #[test]
    fn connections_count_while_they_last() {
        let (addresses, now) = (Addresses::default(), Instant::now());
        let (one, count) = addresses.connect(counted(1), now);
        assert_eq!(count, 1);
        let (_two, count) = addresses.connect(counted(1), now);
        assert_eq!(count, 2);
        assert_eq!(addresses.connect(counted(2), now).1, 1, "another's");
        drop(one);
        assert_eq!(addresses.connect(counted(1), now).1, 2);
    }

    #[test]
    fn requests_have_a_rate_and_a_burst() {
        let (addresses, start) = (Addresses::default(), Instant::now());
        let asked = |after: u64| {
            let now = start + Duration::from_secs(after);
            (0..1000).filter(|_| addresses.may_ask(counted(1), 5, now)).count()
        };
        assert_eq!(asked(0), 50);
        assert_eq!(asked(0), 0);
        assert_eq!(asked(1), 5);
        assert_eq!(asked(3), 10);
        assert_eq!(asked(100), 50);
        assert!(addresses.may_ask(counted(2), 5, start), "another's");
    }

    #[test]
    fn addresses_that_have_nothing_are_forgotten() {
        let (addresses, start) = (Addresses::default(), Instant::now());
        let kept: Vec<_> = (0..100).map(|number| addresses.connect(counted(number), start).0).collect();
        for number in 0..50_000 {
            let now = start + Duration::from_millis(number.into());
            drop(addresses.connect(counted(1000 + number), now));
            assert!(addresses.may_ask(counted(1000 + number), 1, now));
        }
        let count = addresses.table().entries.len();
        assert!(count <= 4096, "{count}");
        assert!(kept.len() == 100 && (0..100).all(|number| addresses.connect(counted(number), start).1 == 2));
    }
}
