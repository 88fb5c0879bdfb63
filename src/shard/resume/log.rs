//! What has lately been delivered on this shard, for those who were away: one log of all its channels in
//! the order of delivery, so that *one* number says of a connection how far it has got on each of them.
//! Bounded in bytes, in age, and in events for each channel, so that a busy one does not take the others' room.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::inbox::Delivery;
use crate::protocol::SocketId;
use crate::protocol::channel::ChannelName;
use crate::protocol::resume::{Mode, Modes};
use crate::protocol::session::Millis;

/// What an event costs beside its frames, in bytes: its places in the log and in its channel's list, and what owns
/// the bytes.
pub const EVENT_COST: usize = 192;

/// What may be kept.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// A shard's part of `resume.bytes`.
    pub bytes: usize,
    /// See `resume.eventsPerChannel`.
    pub events_per_channel: usize,
    /// For so long.
    pub time: Millis,
}

/// The log. Events are numbered from 1; a *position* is the number of the last event that counts as received.
#[derive(Debug)]
pub struct Log {
    bounds: Bounds,
    modes: Modes,
    entries: VecDeque<Entry>,
    /// The number of the first entry.
    first: u64,
    bytes: usize,
    /// By the channel's id on this shard. `None`: nothing is kept of it.
    channels: Vec<Option<Kept>>,
}

#[derive(Debug)]
struct Entry {
    channel: u32,
    at: Millis,
    /// `None`: given up before its time.
    event: Option<Event>,
}

/// An event as it was delivered.
#[derive(Clone, Debug)]
pub struct Event {
    pub frame: Bytes,
    pub deflated: Option<Bytes>,
    pub except: Option<SocketId>,
}

impl Event {
    fn bytes(&self) -> usize {
        self.frame.len() + self.deflated.as_ref().map_or(0, Bytes::len)
    }
}

/// A channel's part.
#[derive(Debug)]
struct Kept {
    mode: Mode,
    numbers: VecDeque<u64>,
    /// All after this number are there, and when the last of the others was.
    floor: (u64, Millis),
}

impl Log {
    pub fn new(bounds: Bounds, modes: Modes) -> Self {
        Self { bounds, modes, entries: VecDeque::new(), first: 1, bytes: 0, channels: Vec::new() }
    }

    /// The position of somebody who has got all.
    pub fn newest(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    /// The channel gets this id on the shard.
    pub fn begin(&mut self, channel: u32, name: &ChannelName, now: Millis) {
        let index = channel as usize;
        if self.channels.len() <= index {
            self.channels.resize_with(index + 1, || None);
        }
        let mode = self.modes.of(name);
        let kept = || Kept { mode, numbers: VecDeque::new(), floor: (self.newest(), now) };
        self.channels[index] = (mode != Mode::Off).then(kept);
    }

    /// The id is nobody's any more.
    pub fn end(&mut self, channel: u32) {
        let Some(kept) = self.channels.get_mut(channel as usize).and_then(Option::take) else { return };
        for number in kept.numbers {
            self.give_up(number);
        }
    }

    /// How the channel is resumed.
    pub fn mode(&self, channel: u32) -> Mode {
        self.channels.get(channel as usize).and_then(Option::as_ref).map_or(Mode::Off, |kept| kept.mode)
    }

    /// Keeps an event that is being delivered.
    pub fn put(&mut self, channel: u32, delivery: &Delivery, now: Millis) {
        let number = self.newest() + 1;
        let Some(Some(kept)) = self.channels.get_mut(channel as usize) else { return };
        kept.numbers.push_back(number);
        let oldest = (kept.numbers.len() > self.bounds.events_per_channel).then(|| kept.numbers.pop_front()).flatten();
        let event =
            Event { frame: delivery.frame.clone(), deflated: delivery.deflated.clone(), except: delivery.except };
        self.bytes += event.bytes() + EVENT_COST;
        self.entries.push_back(Entry { channel, at: now, event: Some(event) });
        if let Some(oldest) = oldest {
            self.sink(channel, oldest);
            self.give_up(oldest);
        }
        while self.bytes > self.bounds.bytes && self.drop_first() {}
    }

    /// Forgets what is too old.
    pub fn expire(&mut self, now: Millis) {
        while self.entries.front().is_some_and(|entry| entry.at + self.bounds.time <= now) {
            self.drop_first();
        }
    }

    /// Whether there is anything after the position.
    pub fn has_after(&self, channel: u32, position: u64) -> bool {
        let kept = self.channels.get(channel as usize).and_then(Option::as_ref);
        kept.is_some_and(|kept| kept.numbers.back().is_some_and(|last| *last > position) || kept.floor.0 > position)
    }

    /// If events after the position are missing, the time of the last such; and those that are there, in order.
    pub fn after(
        &self,
        channel: u32,
        position: u64,
    ) -> (Option<Millis>, impl DoubleEndedIterator<Item = (Millis, &Event)>) {
        let kept = self.channels.get(channel as usize).and_then(Option::as_ref);
        let gap = kept.filter(|kept| position < kept.floor.0).map(|kept| kept.floor.1);
        let numbers = kept.into_iter().flat_map(move |kept| {
            let start = kept.numbers.partition_point(|number| *number <= position);
            kept.numbers.range(start..)
        });
        let events = numbers.filter_map(|number| {
            let entry = self.entry(*number)?;
            entry.event.as_ref().map(|event| (entry.at, event))
        });
        (gap, events)
    }

    /// How many events are kept, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    fn entry(&self, number: u64) -> Option<&Entry> {
        self.entries.get(number.checked_sub(self.first)? as usize)
    }

    /// The channel's events up to this one are not there any more.
    fn sink(&mut self, channel: u32, number: u64) {
        let Some(at) = self.entry(number).map(|entry| entry.at) else { return };
        if let Some(Some(kept)) = self.channels.get_mut(channel as usize) {
            kept.floor = (number, at);
        }
    }

    /// Lets go of an event before its time; its place stays.
    fn give_up(&mut self, number: u64) {
        let index = number.wrapping_sub(self.first) as usize;
        if let Some(event) = self.entries.get_mut(index).and_then(|entry| entry.event.take()) {
            self.bytes -= event.bytes();
        }
    }

    fn drop_first(&mut self) -> bool {
        let Some(entry) = self.entries.front() else { return false };
        let (number, channel) = (self.first, entry.channel);
        if let Some(event) = &entry.event {
            self.bytes -= event.bytes();
            self.sink(channel, number);
            if let Some(Some(kept)) = self.channels.get_mut(channel as usize) {
                kept.numbers.pop_front();
            }
        }
        self.bytes -= EVENT_COST;
        self.entries.pop_front();
        self.first += 1;
        // A burst that is over needs no memory.
        if self.entries.is_empty() && self.entries.capacity() > 1024 {
            self.entries = VecDeque::new();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::AppIndex;
    use proptest::prelude::*;

    fn delivery(bytes: usize, tag: u8) -> Delivery {
        let frame = Bytes::from(vec![tag; bytes]);
        let channel = ChannelName::published("c");
        Delivery { is_kept: true, ..Delivery::new(AppIndex(0), channel, frame) }
    }

    fn tags(log: &Log, channel: u32, position: u64) -> (Option<Millis>, Vec<u8>) {
        let (gap, events) = log.after(channel, position);
        (gap, events.map(|(_, event)| event.frame[0]).collect())
    }

    fn log(bytes: usize, events_per_channel: usize) -> Log {
        let modes = Modes::new(vec![("off".into(), Mode::Off)]);
        Log::new(Bounds { bytes, events_per_channel, time: 1000 }, modes)
    }

    #[test]
    fn what_came_after_a_position_and_whether_that_is_all() {
        let mut log = log(100_000, 3);
        let name = ChannelName::published("c");
        log.begin(0, &name, 0);
        log.begin(1, &name, 0);
        assert_eq!(tags(&log, 0, log.newest()), (None, vec![]));
        log.put(0, &delivery(1, 1), 10);
        let position = log.newest();
        log.put(1, &delivery(1, 9), 11);
        log.put(0, &delivery(1, 2), 12);
        log.put(0, &delivery(1, 3), 13);
        assert_eq!(tags(&log, 0, 0), (None, vec![1, 2, 3]));
        assert_eq!(tags(&log, 0, position), (None, vec![2, 3]));
        assert_eq!(tags(&log, 1, position), (None, vec![9]));
        log.put(0, &delivery(1, 4), 14);
        assert_eq!(tags(&log, 0, 0), (Some(10), vec![2, 3, 4]), "only three are kept");
        assert_eq!(tags(&log, 0, position), (None, vec![2, 3, 4]));
        assert!(log.has_after(0, position) && !log.has_after(0, log.newest()));
        log.expire(1012);
        assert_eq!(tags(&log, 0, position), (Some(12), vec![3, 4]));
        assert_eq!(tags(&log, 1, position), (Some(11), vec![]));
        log.begin(2, &name, 1012);
        assert_eq!(tags(&log, 2, position), (Some(1012), vec![]), "nobody knows what was before");
    }

    #[test]
    fn a_channel_that_is_off_or_over_costs_nothing() {
        let mut log = log(100_000, 3);
        log.begin(0, &ChannelName::published("off"), 0);
        log.put(0, &delivery(100, 1), 1);
        assert_eq!(log.size(), (0, 0));
        log.begin(0, &ChannelName::published("on"), 0);
        log.put(0, &delivery(100, 1), 1);
        log.end(0);
        assert_eq!(log.size(), (1, EVENT_COST), "its place goes with the others' of its time");
        log.begin(0, &ChannelName::published("another"), 0);
        log.put(0, &delivery(100, 2), 1);
        log.expire(1001);
        assert_eq!(log.size(), (0, 0));
    }

    proptest! {
        /// Whatever happens, what comes out for a position is what was put after it, or a gap is told.
        #[test]
        fn all_or_a_gap(steps in prop::collection::vec((0u32..3, 0usize..400, 0u64..100, 0u8..20), 1..200)) {
            let mut log = log(4000, 5);
            let name = ChannelName::published("c");
            (0..3).for_each(|channel| log.begin(channel, &name, 0));
            let (mut all, mut now) = (vec![Vec::new(); 3], 0);
            for (n, (channel, bytes, later, what)) in steps.into_iter().enumerate() {
                now += later;
                if what == 0 {
                    log.end(channel);
                    log.begin(channel, &name, now);
                    all[channel as usize].clear();
                } else {
                    log.put(channel, &delivery(bytes + 1, n as u8), now);
                    all[channel as usize].push((log.newest(), n as u8));
                }
                log.expire(now);
                let bytes: usize = log.entries.iter().map(|entry| entry.event.as_ref().map_or(0, Event::bytes) + EVENT_COST).sum();
                prop_assert_eq!(log.bytes, bytes);
                prop_assert!(log.bytes <= 4000);
                for channel in 0..3 {
                    let all = &all[channel as usize];
                    for position in 0..=log.newest() {
                        let (gap, events) = tags(&log, channel, position);
                        let expected: Vec<u8> = all.iter().filter(|(number, _)| *number > position).map(|(_, tag)| *tag).collect();
                        prop_assert!(expected.ends_with(&events));
                        prop_assert!(events.len() <= 5);
                        prop_assert!(gap.is_some() || events == expected);
                    }
                }
            }
        }
    }
}
