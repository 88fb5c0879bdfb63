//! The last event of each cache channel, for those who subscribe later. Bounded in bytes: when there
//! is no room, the channel whose last event is the oldest loses it.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::inbox::{AppIndex, Settings};
use crate::protocol::channel::ChannelName;
use crate::protocol::session::Millis;

/// A cache channel of an app.
pub type Key = (AppIndex, ChannelName);

/// What an event costs beside its frame and its channel's name, in bytes: its places in both tables.
/// So the number of events is bounded, too, however short they are.
const EVENT_COST: usize = 256;

/// The last events of the channels whose home is here.
#[derive(Debug)]
pub struct LastEvents {
    events: HashMap<Key, LastEvent>,
    /// The channels in the order of their last events.
    by_age: BTreeMap<u64, Key>,
    number: u64,
    bytes: usize,
    bytes_max: usize,
    time: Millis,
}

#[derive(Debug)]
struct LastEvent {
    frame: Bytes,
    until: Millis,
    number: u64,
}

impl LastEvents {
    /// Keeps each for `cache_time`, and `cache_bytes_max` in all.
    pub fn new(settings: &Settings) -> Self {
        Self::with(settings.cache_time.as_millis() as Millis, settings.cache_bytes_max)
    }

    fn with(time: Millis, bytes_max: usize) -> Self {
        Self { events: HashMap::new(), by_age: BTreeMap::new(), number: 0, bytes: 0, bytes_max, time }
    }

    /// From now on by these. What is kept already is kept for as long as it was to be.
    pub fn change(&mut self, settings: &Settings) {
        (self.time, self.bytes_max) = (settings.cache_time.as_millis() as Millis, settings.cache_bytes_max);
        while self.bytes > self.bytes_max && self.remove_oldest() {}
    }

    /// This is the channel's last event from now on. One that is too long for the bound leaves the
    /// channel without: the one before would be wrong.
    pub fn put(&mut self, key: Key, frame: Bytes, now: Millis) {
        self.remove(&key);
        let cost = cost(&key, &frame);
        if cost > self.bytes_max {
            return;
        }
        while self.bytes + cost > self.bytes_max && self.remove_oldest() {}
        self.bytes += cost;
        self.number += 1;
        self.by_age.insert(self.number, key.clone());
        self.events.insert(key, LastEvent { frame, until: now + self.time, number: self.number });
    }

    /// The frame of the channel's last event, unless that is too old.
    pub fn get(&self, key: &Key, now: Millis) -> Option<Bytes> {
        self.get_with_time(key, now).map(|(frame, _)| frame.clone())
    }

    /// The same, and for how long it is kept yet.
    pub fn get_with_time(&self, key: &Key, now: Millis) -> Option<(&Bytes, Millis)> {
        self.events.get(key).filter(|event| now < event.until).map(|event| (&event.frame, event.until - now))
    }

    /// Forgets what is too old.
    pub fn expire(&mut self, now: Millis) {
        while let Some((_, oldest)) = self.by_age.first_key_value()
            && self.events.get(oldest).is_none_or(|event| event.until <= now)
        {
            self.remove_oldest();
        }
    }

    fn remove_oldest(&mut self) -> bool {
        let Some((_, key)) = self.by_age.pop_first() else { return false };
        self.remove(&key);
        true
    }

    fn remove(&mut self, key: &Key) {
        if let Some(event) = self.events.remove(key) {
            self.by_age.remove(&event.number);
            self.bytes -= cost(key, &event.frame);
        }
    }
}

fn cost(key: &Key, frame: &Bytes) -> usize {
    key.1.as_str().len() + frame.len() + EVENT_COST
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: u8) -> Key {
        (AppIndex(0), ChannelName::published(&format!("cache-{n}")))
    }

    #[test]
    fn the_last_one_for_as_long_as_it_is_kept() {
        let mut last = LastEvents::with(1000, 10_000);
        assert_eq!(last.get(&key(1), 0), None);
        last.put(key(1), Bytes::from_static(b"first"), 0);
        last.put(key(1), Bytes::from_static(b"second"), 10);
        last.put((AppIndex(1), key(1).1), Bytes::from_static(b"another app's"), 20);
        assert_eq!(last.get(&key(1), 1009), Some(Bytes::from_static(b"second")));
        assert_eq!(last.get_with_time(&key(1), 1009), Some((&Bytes::from_static(b"second"), 1)));
        assert_eq!(last.get(&key(1), 1010), None);
        last.expire(1010);
        assert_eq!((last.events.len(), last.by_age.len()), (1, 1));
        last.expire(1020);
        assert_eq!((last.events.len(), last.by_age.len(), last.bytes), (0, 0, 0));
    }

    #[test]
    fn the_oldest_goes_first_when_there_is_no_room() {
        let mut last = LastEvents::with(1000, 3 * (EVENT_COST + 20));
        for n in [1, 2, 3, 1, 4] {
            last.put(key(n), Bytes::from(vec![n; 10]), 0);
        }
        let kept: Vec<u8> = (1..=4).filter(|n| last.get(&key(*n), 0).is_some()).collect();
        assert_eq!(kept, [1, 3, 4], "2 has the oldest event");
        last.put(key(3), Bytes::from(vec![3; 2000]), 0);
        let kept: Vec<u8> = (1..=4).filter(|n| last.get(&key(*n), 0).is_some()).collect();
        assert_eq!(kept, [1, 4], "a frame over the bound has no room, and takes nobody's");
    }

    proptest! {
        #[test]
        fn within_the_bounds_and_in_order(steps in prop::collection::vec((0u8..20, 0usize..2000, 0u64..50), 0..200)) {
            let (mut last, mut now) = (LastEvents::with(500, 5000), 0);
            for (n, bytes, later) in steps {
                now += later;
                last.put(key(n), Bytes::from(vec![n; bytes]), now);
                last.expire(now);
                prop_assert!(last.bytes <= 5000);
                prop_assert_eq!(last.events.len(), last.by_age.len());
                prop_assert_eq!(last.bytes, last.events.iter().map(|(key, event)| cost(key, &event.frame)).sum::<usize>());
                prop_assert_eq!(last.get(&key(n), now).map(|frame| frame.len()), Some(bytes));
            }
        }
    }
}
