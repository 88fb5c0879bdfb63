//! How often the login may be guessed: a few times a minute from each address.
//!
//! Whoever has many addresses, as each customer of an IPv6 provider has, must neither guess without end nor lock out those who have guessed
//! nothing. So failures are not kept in a list that gets full, but in a table of fixed size that all addresses share
//! (a count-min sketch): each has a counter in every row, and the smallest of them counts. What is counted for an address is
//! never too little; it is too much only if in each row another one with failures has the same counter.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::address::{Source, network_of};

/// Wrong logins of one address within [`WINDOW`].
const FAILURES_MAX: u8 = 10;

/// See [`FAILURES_MAX`]. A window is one for all: it begins with the first wrong login after the one before.
const WINDOW: Duration = Duration::from_secs(60);

/// Rows of the table. With wrong logins from 5,000 networks within a window, one of some 30,000 others is locked out.
const ROWS: usize = 4;

/// Counters of a row: as many as 16 bits can name.
const COUNTERS: usize = 1 << 16;

/// Wrong logins of late.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Nobody can find addresses that share their counters with somebody else's.
    hasher: RandomState,
    failures: Mutex<Option<Failures>>,
}

#[derive(Debug)]
struct Failures {
    since: Instant,
    counters: Vec<[u8; ROWS]>,
}

impl Attempts {
    /// Whether a login from there is looked at.
    pub(super) fn may_try(&self, source: &Source) -> bool {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let current = failures.as_ref().filter(|failures| failures.since.elapsed() < WINDOW);
        current.is_none_or(|failures| failures.count(self.places(source)) < FAILURES_MAX)
    }

    /// A login from there was wrong.
    pub(super) fn failed(&self, source: &Source) {
        let places = self.places(source);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let current = failures.take().filter(|failures| failures.since.elapsed() < WINDOW);
        let failures = failures
            .insert(current.unwrap_or_else(|| Failures { since: Instant::now(), counters: vec![[0; ROWS]; COUNTERS] }));
        if failures.add(places) == FAILURES_MAX {
            tracing::warn!("{source} has tried {FAILURES_MAX} wrong logins for the dashboard; it must wait a minute");
        }
    }

    /// The address's counter in each row. The address is the client's, where a trusted proxy tells it, and else that of whoever
    /// has connected; of IPv6 it is the network that one customer has.
    fn places(&self, source: &Source) -> [usize; ROWS] {
        let hash = self.hasher.hash_one(source.client.or(source.peer).map(network_of));
        std::array::from_fn(|row| (hash >> (16 * row)) as usize % COUNTERS)
    }
}

impl Failures {
    fn count(&self, places: [usize; ROWS]) -> u8 {
        let counters = places.iter().enumerate().map(|(row, place)| self.counters[*place][row]);
        counters.min().unwrap_or_default()
    }

    /// One more; gives how many there are. Counters that are higher have it of others.
    fn add(&mut self, places: [usize; ROWS]) -> u8 {
        let count = self.count(places).saturating_add(1);
        for (row, place) in places.into_iter().enumerate() {
            let counter = &mut self.counters[place][row];
            *counter = count.max(*counter);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::address::{Connection, Proxied, TrustedProxies};

    fn from(peer: IpAddr) -> Source {
        let connection = Connection { peer: Some(peer), proxied: Proxied::No, is_tls: false };
        Source::of(connection, &http::HeaderMap::new(), &TrustedProxies::default())
    }

    #[test]
    fn a_few_for_each_address() {
        let attempts = Attempts::default();
        let fail = |peer: &str, times: u8| (0..times).for_each(|_| attempts.failed(&from(peer.parse().unwrap())));
        let may = |peer: &str| attempts.may_try(&from(peer.parse().unwrap()));
        fail("192.0.2.1", FAILURES_MAX - 1);
        assert!(may("192.0.2.1"));
        fail("::ffff:192.0.2.1", 1);
        assert!(!may("192.0.2.1"));
        assert!(may("192.0.2.2"));
        fail("2001:db8:1:2::1", FAILURES_MAX);
        assert!(!may("2001:db8:1:2:ffff::9"), "the same network");
        assert!(may("2001:db8:1:3::1"));
        // However often it is wrong.
        fail("192.0.2.1", u8::MAX);
        assert!(!may("192.0.2.1"));
    }

    #[test]
    fn whoever_has_many_addresses_locks_out_nobody_else() {
        let attempts = Attempts::default();
        let networks = |of: u128| {
            (0..5000_u128).map(move |number| from(IpAddr::from(((of << 96) + (number << 64)).to_be_bytes())))
        };
        for source in networks(0x2001_0db8) {
            (0..FAILURES_MAX).for_each(|_| attempts.failed(&source));
        }
        assert!(networks(0x2001_0db8).all(|source| !attempts.may_try(&source)), "none of them goes on guessing");
        let locked_out = networks(0x2001_0db9).filter(|source| !attempts.may_try(source)).count();
        // 0.2 are expected.
        assert!(locked_out <= 10, "{locked_out} of 5000 who have guessed nothing");
    }

    #[test]
    fn after_a_minute_all_is_forgotten() {
        let attempts = Attempts::default();
        let peer = from("192.0.2.1".parse().unwrap());
        (0..FAILURES_MAX).for_each(|_| attempts.failed(&peer));
        assert!(!attempts.may_try(&peer));
        let Some(long_ago) = Instant::now().checked_sub(WINDOW) else { return };
        attempts.failures.lock().unwrap().as_mut().unwrap().since = long_ago;
        assert!(attempts.may_try(&peer));
        attempts.failed(&peer);
        assert_eq!(attempts.failures.lock().unwrap().as_ref().unwrap().count(attempts.places(&peer)), 1);
    }
}
