//! Which cache channels backends were told to be empty a moment ago: thousands of clients that come
//! back at once are one `cache_miss` (protocol section 6).

use std::collections::HashSet;

use super::last_events::Key;
use crate::protocol::session::Millis;

/// A channel that is still empty after so long is told of again: what was told may have been lost.
const AGAIN_AFTER: Millis = 10_000;

/// So many channels are known; of further ones each miss is told.
const CHANNELS_MAX: usize = 10_000;

/// Channels that were missed, in two halves of time.
#[derive(Debug, Default)]
pub struct Misses {
    now: HashSet<Key>,
    before: HashSet<Key>,
    /// When `now` began.
    since: Millis,
}

impl Misses {
    /// Whether this is to be told. It is not if it was told within the last ten seconds, and may
    /// not be for as long again.
    pub fn is_new(&mut self, key: &Key, now: Millis) -> bool {
        let age = now.saturating_sub(self.since);
        if age >= AGAIN_AFTER {
            let recent = std::mem::take(&mut self.now);
            self.before = if age < 2 * AGAIN_AFTER { recent } else { HashSet::new() };
            self.since = now;
        }
        if self.now.contains(key) || self.before.contains(key) {
            return false;
        }
        if self.now.len() < CHANNELS_MAX {
            self.now.insert(key.clone());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::AppIndex;
    use crate::protocol::channel::ChannelName;

    fn key(app: u16, n: usize) -> Key {
        (AppIndex(app), ChannelName::published(&format!("cache-{n}")))
    }

    #[test]
    fn once_within_ten_seconds_and_again_within_twenty() {
        let mut misses = Misses::default();
        assert!(misses.is_new(&key(0, 1), 9_000));
        assert!(!misses.is_new(&key(0, 1), 9_000));
        assert!(misses.is_new(&key(1, 1), 9_000), "another app's channel");
        assert!(!misses.is_new(&key(0, 1), 18_999));
        assert!(misses.is_new(&key(0, 1), 29_000));
        assert!(misses.is_new(&key(0, 1), 60_000));
    }

    #[test]
    fn bounded() {
        let mut misses = Misses::default();
        for n in 0..2 * CHANNELS_MAX {
            assert!(misses.is_new(&key(0, n), 0));
        }
        assert_eq!(misses.now.len(), CHANNELS_MAX);
        assert!(!misses.is_new(&key(0, 0), 0) && misses.is_new(&key(0, CHANNELS_MAX), 0));
    }
}
