//! Leaves that are told of only if nobody comes back at once (protocol section 6): a page that is
//! loaded anew would otherwise be a `member_removed` and a `member_added`.
//!
//! Time is that of the events, so however late they are looked at, the outcome is the same.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::queue::{Waiting, Who};
use crate::protocol::webhook::Kind;

/// Those who have left a moment ago, on the channels of one app.
#[derive(Debug)]
pub struct Leaves {
    delay: Duration,
    /// In the order of time.
    waiting: BTreeMap<u64, Waiting>,
    numbers: HashMap<Who, u64>,
    next: u64,
}

impl Leaves {
    /// A leave waits for `delay`.
    pub fn new(delay: Duration) -> Self {
        Self { delay, waiting: BTreeMap::new(), numbers: HashMap::new(), next: 0 }
    }

    /// Takes an event; what is to be told goes to `ready`.
    pub fn take(&mut self, event: Waiting, ready: &mut VecDeque<Waiting>) {
        self.pass(event.at, ready);
        match event.kind {
            Kind::ChannelVacated | Kind::MemberRemoved => {
                // Twice the same, after an event between them was lost: once is enough.
                self.forget(&event.who);
                self.next += 1;
                self.numbers.insert(event.who.clone(), self.next);
                self.waiting.insert(self.next, event);
            }
            Kind::ChannelOccupied | Kind::MemberAdded if self.forget(&event.who) => {}
            _ => ready.push_back(event),
        }
    }

    /// Time has come to `now`: the leaves before it are told.
    pub fn pass(&mut self, now: Instant, ready: &mut VecDeque<Waiting>) {
        while self.due().is_some_and(|due| due <= now) && self.tell_first(ready) {}
    }

    /// All leaves are told.
    pub fn pass_all(&mut self, ready: &mut VecDeque<Waiting>) {
        while self.tell_first(ready) {}
    }

    /// When the next one is to be told.
    pub fn due(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|(_, event)| event.at + self.delay)
    }

    fn tell_first(&mut self, ready: &mut VecDeque<Waiting>) -> bool {
        let Some((_, event)) = self.waiting.pop_first() else { return false };
        self.numbers.remove(&event.who);
        ready.push_back(event);
        true
    }

    fn forget(&mut self, who: &Who) -> bool {
        self.numbers.remove(who).and_then(|number| self.waiting.remove(&number)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::channel::ChannelName;

    /// Takes these (kind, channel, user, milliseconds), then lets time pass; gives what is told.
    fn told(events: &[(Kind, &str, Option<&str>, u64)], until: u64) -> Vec<String> {
        let start = Instant::now();
        let mut leaves = Leaves::new(Duration::from_millis(3000));
        let mut ready = VecDeque::new();
        for (kind, channel, user_id, at) in events {
            let at = start + Duration::from_millis(*at);
            let text = format!("{} {channel} {}", kind.name(), user_id.unwrap_or_default());
            let event = Waiting::new(*kind, &ChannelName::published(channel), *user_id, text.trim().into(), at);
            leaves.take(event, &mut ready);
        }
        leaves.pass(start + Duration::from_millis(until), &mut ready);
        assert_eq!(leaves.waiting.len(), leaves.numbers.len());
        ready.into_iter().map(|event| event.text.to_string()).collect()
    }

    const OCCUPIED: Kind = Kind::ChannelOccupied;
    const VACATED: Kind = Kind::ChannelVacated;

    #[test]
    fn who_returns_in_time_has_not_left() {
        let events = [(OCCUPIED, "a", None, 0), (VACATED, "a", None, 100), (OCCUPIED, "a", None, 3099)];
        assert_eq!(told(&events, 10_000), ["channel_occupied a"]);
    }

    #[test]
    fn who_returns_late_has_left() {
        let events = [(VACATED, "a", None, 100), (OCCUPIED, "a", None, 3100)];
        assert_eq!(told(&events, 3100), ["channel_vacated a", "channel_occupied a"]);
        assert_eq!(told(&events[..1], 3099), [""; 0]);
        assert_eq!(told(&events[..1], 3100), ["channel_vacated a"]);
    }

    #[test]
    fn each_user_and_each_channel_by_itself() {
        let events = [
            (Kind::MemberRemoved, "a", Some("1"), 0),
            (Kind::MemberRemoved, "a", Some("2"), 0),
            (VACATED, "a", None, 0),
            (Kind::MemberRemoved, "b", Some("1"), 0),
            (Kind::MemberAdded, "a", Some("1"), 50),
            (Kind::CacheMiss, "a", None, 60),
        ];
        let expected = ["cache_miss a", "member_removed a 2", "channel_vacated a", "member_removed b 1"];
        assert_eq!(told(&events, 5000), expected);
    }

    #[test]
    fn a_leave_after_a_return_waits_anew() {
        let events = [(VACATED, "a", None, 0), (OCCUPIED, "a", None, 2000), (VACATED, "a", None, 2500)];
        assert_eq!(told(&events, 5499), [""; 0]);
        assert_eq!(told(&events, 5500), ["channel_vacated a"]);
    }
}
