//! How often the login may be guessed: a few times a minute from each address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::address;

/// Wrong logins of one address within [`WINDOW`].
const FAILURES_MAX: u32 = 10;

/// See [`FAILURES_MAX`].
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are remembered. Those beyond share one account.
const ADDRESSES_MAX: usize = 4096;

/// Wrong logins of late.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<Source, Failures>>);

/// Whom failures are counted of: an address, of IPv6 the network that one customer has.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Source {
    Network(IpAddr),
    /// All for whom there is no room.
    Others,
}

#[derive(Debug)]
struct Failures {
    count: u32,
    since: Instant,
}

impl Attempts {
    /// Whether a login from there is looked at.
    pub(super) fn may_try(&self, source: &address::Source) -> bool {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of = failures.get(&Source::of(source)).or_else(|| failures.get(&Source::Others));
        of.is_none_or(|failures| failures.count < FAILURES_MAX || failures.since.elapsed() >= WINDOW)
    }

    /// A login from there was wrong.
    pub(super) fn failed(&self, source: &address::Source) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut account = Source::of(source);
        if !all.contains_key(&account) && all.len() >= ADDRESSES_MAX {
            all.retain(|_, failures| failures.since.elapsed() < WINDOW);
            if all.len() >= ADDRESSES_MAX {
                account = Source::Others;
            }
        }
        let failures = all.entry(account).or_insert_with(|| Failures { count: 0, since: Instant::now() });
        if failures.since.elapsed() >= WINDOW {
            *failures = Failures { count: 0, since: Instant::now() };
        }
        failures.count += 1;
        if failures.count == FAILURES_MAX {
            tracing::warn!("{source} has tried {FAILURES_MAX} wrong logins for the dashboard; it must wait a minute");
        }
    }
}

impl Source {
    /// The client's, where a trusted proxy tells it, and else that of whoever has connected.
    fn of(source: &address::Source) -> Self {
        match source.client.or(source.peer).map(|address| address.to_canonical()) {
            Some(IpAddr::V6(address)) => {
                let mut octets = address.octets();
                octets[8..].fill(0);
                Self::Network(octets.into())
            }
            Some(address) => Self::Network(address),
            None => Self::Others,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::{Connection, Proxied, TrustedProxies};

    fn from(peer: IpAddr) -> address::Source {
        let connection = Connection { peer: Some(peer), proxied: Proxied::No, is_tls: false };
        address::Source::of(connection, &http::HeaderMap::new(), &TrustedProxies::default())
    }

    #[test]
    fn a_few_each_and_bounded_in_all() {
        let attempts = Attempts::default();
        let fail = |peer: &str, times: u32| (0..times).for_each(|_| attempts.failed(&from(peer.parse().unwrap())));
        let may = |peer: &str| attempts.may_try(&from(peer.parse().unwrap()));
        fail("192.0.2.1", FAILURES_MAX - 1);
        assert!(may("192.0.2.1"));
        fail("::ffff:192.0.2.1", 1);
        assert!(!may("192.0.2.1"));
        assert!(may("192.0.2.2"));
        fail("2001:db8:1:2::1", FAILURES_MAX);
        assert!(!may("2001:db8:1:2:ffff::9"), "the same network");
        assert!(may("2001:db8:1:3::1"));
        for number in 0..ADDRESSES_MAX as u32 * 2 {
            attempts.failed(&from(IpAddr::from((0x0a00_0000 + number).to_be_bytes())));
        }
        assert!(attempts.0.lock().unwrap().len() <= ADDRESSES_MAX + 1);
        assert!(!may("198.51.100.1"), "those for whom there is no room share one account");
    }

    #[test]
    fn after_a_minute_all_is_forgotten() {
        let attempts = Attempts::default();
        let peer = from("192.0.2.1".parse().unwrap());
        (0..FAILURES_MAX).for_each(|_| attempts.failed(&peer));
        let Some(long_ago) = Instant::now().checked_sub(WINDOW) else { return };
        attempts.0.lock().unwrap().values_mut().for_each(|failures| failures.since = long_ago);
        assert!(attempts.may_try(&peer));
        attempts.failed(&peer);
        assert_eq!(attempts.0.lock().unwrap().values().next().map(|failures| failures.count), Some(1));
    }
}
