//! Browsers of which something is not known here: whoever comes back is told of a gap. Bounded, for each address and
//! in all: where there is no room, all browsers of that address, or simply all, count as such. So nothing is lost in silence.

use std::collections::HashMap;

use super::ADDRESS_PART;
use super::away::Key;
use crate::address::Counted;
use crate::protocol::session::Millis;

#[derive(Debug)]
pub struct Marks {
    browsers: HashMap<Key, (Mark, Option<Counted>)>,
    /// How many browsers of an address are marked.
    counts: HashMap<Counted, usize>,
    /// Addresses of which some browsers found no room, and all, of which some did not.
    addresses: HashMap<Counted, Mark>,
    all: Option<Mark>,
    max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    known_at: Millis,
    until: Millis,
}

impl Mark {
    fn merge(&mut self, other: Self) {
        self.known_at = self.known_at.min(other.known_at);
        self.until = self.until.max(other.until);
    }
}

impl Marks {
    /// With room for so many browsers.
    pub fn new(max: usize) -> Self {
        Self { browsers: HashMap::new(), counts: HashMap::new(), addresses: HashMap::new(), all: None, max }
    }

    /// The browser's connections, of this address, had got everything up to `known_at` (0: nobody knows). It is told
    /// of a gap until then.
    pub fn put(&mut self, key: Key, address: Option<Counted>, known_at: Millis, until: Millis) {
        let mark = Mark { known_at, until };
        if let Some((known, _)) = self.browsers.get_mut(&key) {
            return known.merge(mark);
        }
        let count = address.and_then(|address| self.counts.get(&address)).copied().unwrap_or(0);
        if let Some(address) = address.filter(|_| count >= self.max / ADDRESS_PART)
            && (self.addresses.contains_key(&address) || self.addresses.len() < self.max)
        {
            self.addresses.entry(address).or_insert(mark).merge(mark);
        } else if self.browsers.len() < self.max {
            self.browsers.insert(key, (mark, address));
            address.into_iter().for_each(|address| *self.counts.entry(address).or_default() += 1);
        } else {
            self.all.get_or_insert(mark).merge(mark);
        }
    }

    /// Up to when its connections had got everything, if the browser, which is at this address now, is to be told.
    pub fn get(&self, key: &Key, address: Option<Counted>, now: Millis) -> Option<Millis> {
        let of_address = address.and_then(|address| self.addresses.get(&address));
        let marks = self.browsers.get(key).map(|(mark, _)| mark).into_iter().chain(of_address).chain(&self.all);
        marks.filter(|mark| mark.until > now).map(|mark| mark.known_at).min()
    }

    /// Gives up what is too old.
    pub fn expire(&mut self, now: Millis) {
        let Self { browsers, counts, .. } = self;
        browsers.retain(|_, (mark, address)| {
            let stays = mark.until > now;
            if let Some(address) = address.filter(|_| !stays)
                && let Some(count) = counts.get_mut(&address)
            {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&address);
                }
            }
            stays
        });
        self.addresses.retain(|_, mark| mark.until > now);
        self.all = self.all.filter(|mark| mark.until > now);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::inbox::AppIndex;
    use crate::protocol::resume::BrowserId;

    fn key(n: u128) -> Key {
        (AppIndex(0), BrowserId(n))
    }

    fn address(n: u32) -> Option<Counted> {
        Counted::of(IpAddr::V4(Ipv4Addr::from_bits(0xcb00_7100 + n)))
    }

    #[test]
    fn a_mark_lasts_as_long_as_the_longest_and_knows_the_earliest() {
        let mut marks = Marks::new(10);
        marks.put(key(1), None, 50, 100);
        marks.put(key(1), None, 40, 90);
        assert_eq!((marks.get(&key(1), None, 99), marks.get(&key(2), None, 99)), (Some(40), None));
        assert_eq!(marks.get(&key(1), None, 100), None);
        marks.expire(100);
        assert!(marks.browsers.is_empty());
    }

    #[test]
    fn without_room_all_are_told_and_no_more_is_kept() {
        let mut marks = Marks::new(2);
        for n in 0..1000 {
            marks.put(key(n), None, 7 + n as u64, 100 + n as u64);
        }
        assert_eq!(marks.browsers.len(), 2);
        assert_eq!(marks.get(&key(5000), None, 1098), Some(9));
        marks.expire(1098);
        assert_eq!((marks.browsers.len(), marks.get(&key(5000), None, 1098)), (0, Some(9)));
        marks.expire(1099);
        assert_eq!(marks.get(&key(5000), None, 0), None);
    }

    #[test]
    fn what_one_address_does_is_told_there_alone() {
        let mut marks = Marks::new(80);
        marks.put(key(0), address(1), 5, 100);
        for n in 1..1000 {
            marks.put(key(n), address(2), 6, 100);
        }
        assert_eq!((marks.browsers.len(), marks.addresses.len(), marks.counts[&address(2).unwrap()]), (11, 1, 10));
        assert_eq!(marks.get(&key(0), address(1), 9), Some(5));
        assert_eq!(marks.get(&key(3), address(3), 9), Some(6), "wherever it comes from");
        assert_eq!(marks.get(&key(999), address(2), 9), Some(6));
        assert_eq!(marks.get(&key(5000), address(1), 9), None);
        assert_eq!(marks.get(&key(5000), None, 9), None);
        marks.expire(100);
        assert!(marks.browsers.is_empty() && marks.counts.is_empty() && marks.addresses.is_empty());
    }
}
