//! Browsers of which something is not known here: whoever comes back is told of a gap. Bounded: when there is no
//! room, all browsers that were here before count as such. So nothing is lost in silence.

use std::collections::HashMap;

use super::away::Key;
use crate::protocol::session::Millis;

#[derive(Debug)]
pub struct Marks {
    browsers: HashMap<Key, Mark>,
    /// For all, of which some found no room.
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
        Self { browsers: HashMap::new(), all: None, max }
    }

    /// Up to `known_at` the browser's connections had got everything (0: nobody knows); it is told until then.
    pub fn put(&mut self, key: Key, known_at: Millis, until: Millis) {
        let mark = Mark { known_at, until };
        let has_room = self.browsers.len() < self.max;
        match self.browsers.get_mut(&key) {
            Some(known) => known.merge(mark),
            None if has_room => drop(self.browsers.insert(key, mark)),
            None => self.all.get_or_insert(mark).merge(mark),
        }
    }

    /// Up to when its connections had got everything, if the browser is to be told.
    pub fn get(&self, key: &Key, now: Millis) -> Option<Millis> {
        let marks = self.browsers.get(key).into_iter().chain(&self.all);
        marks.filter(|mark| mark.until > now).map(|mark| mark.known_at).min()
    }

    /// Gives up what is too old.
    pub fn expire(&mut self, now: Millis) {
        self.browsers.retain(|_, mark| mark.until > now);
        self.all = self.all.filter(|mark| mark.until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::AppIndex;
    use crate::protocol::resume::BrowserId;

    fn key(n: u128) -> Key {
        (AppIndex(0), BrowserId(n))
    }

    #[test]
    fn a_mark_lasts_as_long_as_the_longest_and_knows_the_earliest() {
        let mut marks = Marks::new(10);
        marks.put(key(1), 50, 100);
        marks.put(key(1), 40, 90);
        assert_eq!((marks.get(&key(1), 99), marks.get(&key(2), 99)), (Some(40), None));
        assert_eq!(marks.get(&key(1), 100), None);
        marks.expire(100);
        assert!(marks.browsers.is_empty());
    }

    #[test]
    fn without_room_all_are_told_and_no_more_is_kept() {
        let mut marks = Marks::new(2);
        for n in 0..1000 {
            marks.put(key(n), 7 + n as u64, 100 + n as u64);
        }
        assert_eq!(marks.browsers.len(), 2);
        assert_eq!(marks.get(&key(5000), 1098), Some(9));
        marks.expire(1098);
        assert_eq!((marks.browsers.len(), marks.get(&key(5000), 1098)), (0, Some(9)));
        marks.expire(1099);
        assert_eq!(marks.get(&key(5000), 0), None);
    }
}
