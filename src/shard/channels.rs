//! Who is subscribed to what, on one shard. Both directions are kept, so that entering, leaving
//! and a connection's end cost the same however many others there are. A channel may be held without
//! subscribers, for those who are away ([`super::resume`]).

use std::collections::HashMap;

use slab::Slab;

use super::resume::Log;
use crate::inbox::{AppIndex, Delivery};
use crate::protocol::channel::ChannelName;
use crate::protocol::resume::Mode;
use crate::protocol::session::Millis;

/// A connection's place in the shard's table.
pub type Slot = u32;

/// The shard's subscribers by channel.
#[derive(Debug, Default)]
pub struct Channels {
    /// For each app.
    by_name: Vec<HashMap<ChannelName, u32>>,
    channels: Slab<Channel>,
    /// For each connection slot, where it sits.
    seats: Vec<Vec<Seat>>,
    /// What was lately delivered to them, if that is kept.
    pub log: Option<Log>,
}

#[derive(Debug)]
struct Channel {
    app: AppIndex,
    name: ChannelName,
    subscribers: Vec<Subscriber>,
    /// By how many who are away.
    held: u32,
}

/// One subscriber: the connection, and which of its seats this is.
#[derive(Clone, Copy, Debug)]
struct Subscriber {
    slot: Slot,
    seat: u32,
}

/// One subscription of a connection: the channel, and the place among its subscribers.
#[derive(Clone, Copy, Debug)]
struct Seat {
    channel: u32,
    place: u32,
    /// What it is to get: all that is after this position of the log.
    position: u64,
}

/// What a change means to the rest of the process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// The channel has its first subscriber here, or has lost its last one.
    Edge,
    /// Neither.
    None,
}

impl Channels {
    /// None yet.
    pub fn new(log: Option<Log>) -> Self {
        Self { log, ..Self::default() }
    }

    /// Enters a connection that is not in the channel yet. It gets what comes after this position of the log;
    /// `None`: from now on.
    pub fn subscribe(
        &mut self,
        app: AppIndex,
        name: &ChannelName,
        slot: Slot,
        position: Option<u64>,
        now: Millis,
    ) -> Change {
        let id = self.id_or_new(app, name, now);
        let position = position.unwrap_or_else(|| self.log.as_ref().map_or(0, Log::newest));
        if self.seats.len() <= slot as usize {
            self.seats.resize_with(slot as usize + 1, Vec::new);
        }
        let seats = &mut self.seats[slot as usize];
        let subscribers = &mut self.channels[id as usize].subscribers;
        seats.push(Seat { channel: id, place: subscribers.len() as u32, position });
        subscribers.push(Subscriber { slot, seat: seats.len() as u32 - 1 });
        if subscribers.len() == 1 { Change::Edge } else { Change::None }
    }

    /// Takes a connection out of a channel.
    pub fn unsubscribe(&mut self, app: AppIndex, name: &ChannelName, slot: Slot) -> Change {
        let Some(id) = self.id(app, name) else { return Change::None };
        let seats = self.seats.get(slot as usize).map(Vec::as_slice).unwrap_or_default();
        let Some(index) = seats.iter().position(|seat| seat.channel == id) else { return Change::None };
        self.vacate(slot, index);
        if !self.channels[id as usize].subscribers.is_empty() {
            return Change::None;
        }
        self.remove_if_unused(id);
        Change::Edge
    }

    /// Keeps a channel that somebody who is away was subscribed to. Gives its name if it was not held before.
    pub fn hold(&mut self, id: u32) -> Option<(AppIndex, &ChannelName)> {
        let channel = self.channels.get_mut(id as usize)?;
        channel.held += 1;
        (channel.held == 1).then_some((channel.app, &channel.name))
    }

    /// Keeps a channel that somebody on another node is subscribed to; gives its id, and whether it was not held before.
    pub fn hold_named(&mut self, app: AppIndex, name: &ChannelName, now: Millis) -> (u32, bool) {
        let id = self.id_or_new(app, name, now);
        (id, self.hold(id).is_some())
    }

    fn id_or_new(&mut self, app: AppIndex, name: &ChannelName, now: Millis) -> u32 {
        if self.by_name.len() <= usize::from(app.0) {
            self.by_name.resize_with(usize::from(app.0) + 1, HashMap::new);
        }
        let (channels, log) = (&mut self.channels, &mut self.log);
        *self.by_name[usize::from(app.0)].entry(name.clone()).or_insert_with(|| {
            let id = channels.insert(Channel { app, name: name.clone(), subscribers: Vec::new(), held: 0 }) as u32;
            if let Some(log) = log {
                log.begin(id, name, now);
            }
            id
        })
    }

    /// Undoes [`Channels::hold`]. Gives the name of a channel that is not held any more.
    pub fn release(&mut self, id: u32) -> Option<(AppIndex, ChannelName)> {
        let channel = self.channels.get_mut(id as usize)?;
        channel.held -= 1;
        let name = (channel.held == 0).then(|| (channel.app, channel.name.clone()));
        self.remove_if_unused(id);
        name
    }

    fn remove_if_unused(&mut self, id: u32) {
        let channel = &self.channels[id as usize];
        if !channel.subscribers.is_empty() || channel.held > 0 {
            return;
        }
        self.by_name[usize::from(channel.app.0)].remove(&channel.name);
        self.channels.remove(id as usize);
        if let Some(log) = &mut self.log {
            log.end(id);
        }
    }

    /// The slots of a channel's subscribers.
    pub fn subscribers(&self, id: u32) -> impl Iterator<Item = Slot> + '_ {
        self.channels[id as usize].subscribers.iter().map(|subscriber| subscriber.slot)
    }

    /// A connection's channels by their ids and names, and from which position on it is to get each.
    pub fn seats(&self, slot: Slot) -> impl Iterator<Item = (u32, &ChannelName, u64)> {
        let seats = self.seats.get(slot as usize).map(Vec::as_slice).unwrap_or_default();
        seats.iter().map(|seat| (seat.channel, &self.channels[seat.channel as usize].name, seat.position))
    }

    /// Keeps of these events those that are for people who are away, too; whether it has kept any.
    pub fn keep(&mut self, id: u32, deliveries: &[Delivery], now: Millis) -> bool {
        let Some(log) = self.log.as_mut().filter(|log| log.mode(id) != Mode::Off) else { return false };
        let mut is_kept = false;
        for delivery in deliveries.iter().filter(|delivery| delivery.is_kept) {
            log.put(id, delivery, now);
            is_kept = true;
        }
        is_kept
    }

    /// The name of a channel.
    pub fn name(&self, id: u32) -> Option<&ChannelName> {
        self.channels.get(id as usize).map(|channel| &channel.name)
    }

    /// All channels.
    pub fn all(&self) -> impl Iterator<Item = (AppIndex, &ChannelName)> {
        self.channels.iter().map(|(_, channel)| (channel.app, &channel.name))
    }

    /// All channels of an app, each with the number of its subscribers, which is never 0.
    pub fn counts(&self, app: AppIndex) -> impl Iterator<Item = (&ChannelName, usize)> {
        let channels = self.by_name.get(usize::from(app.0)).into_iter().flatten();
        let counts = channels.map(|(name, id)| (name, self.channels[*id as usize].subscribers.len()));
        counts.filter(|(_, count)| *count > 0)
    }

    /// How many subscribers a channel has.
    pub fn count(&self, app: AppIndex, name: &ChannelName) -> usize {
        self.id(app, name).map_or(0, |id| self.channels[id as usize].subscribers.len())
    }

    /// A channel's id, for as long as it has subscribers or is held.
    pub fn id(&self, app: AppIndex, name: &ChannelName) -> Option<u32> {
        self.by_name.get(usize::from(app.0))?.get(name).copied()
    }

    /// Removes a seat from both tables; whoever is moved into its place is told.
    fn vacate(&mut self, slot: Slot, index: usize) {
        let seat = self.seats[slot as usize].swap_remove(index);
        let subscribers = &mut self.channels[seat.channel as usize].subscribers;
        subscribers.swap_remove(seat.place as usize);
        if let Some(moved) = subscribers.get(seat.place as usize) {
            self.seats[moved.slot as usize][moved.seat as usize].place = seat.place;
        }
        // The connection's own last seat has moved to `index`: its subscriber entry must know.
        if let Some(moved) = self.seats[slot as usize].get(index).copied() {
            self.channels[moved.channel as usize].subscribers[moved.place as usize].seat = index as u32;
        }
        if self.seats[slot as usize].is_empty() {
            self.seats[slot as usize] = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const APP: AppIndex = AppIndex(0);

    fn name(n: u8) -> ChannelName {
        ChannelName::published(&format!("c{n}"))
    }

    fn subscribers(channels: &Channels, app: AppIndex, name: &ChannelName) -> Vec<Slot> {
        channels.id(app, name).map(|id| channels.subscribers(id).collect()).unwrap_or_default()
    }

    #[test]
    fn apps_are_apart() {
        let mut channels = Channels::default();
        assert_eq!(channels.subscribe(APP, &name(1), 0, None, 0), Change::Edge);
        assert_eq!(channels.subscribe(AppIndex(1), &name(1), 1, None, 0), Change::Edge);
        assert_eq!(subscribers(&channels, APP, &name(1)), [0]);
        assert_eq!(channels.unsubscribe(AppIndex(1), &name(1), 0), Change::None);
        assert_eq!(subscribers(&channels, AppIndex(1), &name(1)), [1]);
    }

    #[test]
    fn a_channel_that_is_held_stays_without_being_there() {
        let mut channels = Channels::default();
        channels.subscribe(APP, &name(1), 0, None, 0);
        let id = channels.id(APP, &name(1)).unwrap();
        assert!(channels.hold(id).is_some());
        assert!(channels.hold(id).is_none());
        assert_eq!(channels.unsubscribe(APP, &name(1), 0), Change::Edge);
        assert_eq!(channels.counts(APP).count(), 0);
        assert_eq!(channels.release(id), None);
        assert_eq!(channels.subscribe(APP, &name(1), 0, None, 0), Change::Edge);
        assert_eq!(channels.id(APP, &name(1)), Some(id));
        assert_eq!(channels.unsubscribe(APP, &name(1), 0), Change::Edge);
        assert_eq!(channels.release(id), Some((APP, name(1))));
        assert_eq!((channels.id(APP, &name(1)), channels.channels.len()), (None, 0));
    }

    proptest! {
        /// Any walk of subscribes and unsubscribes leaves what a plain map of sets would hold.
        #[test]
        fn as_a_map_of_sets(steps in prop::collection::vec((any::<bool>(), 0u8..5, 0u32..6), 0..200)) {
            let mut channels = Channels::default();
            let mut model: BTreeMap<u8, BTreeSet<Slot>> = BTreeMap::new();
            for (enter, n, slot) in steps {
                let set = model.entry(n).or_default();
                if enter && !set.contains(&slot) {
                    set.insert(slot);
                    let change = channels.subscribe(APP, &name(n), slot, None, 0);
                    prop_assert_eq!(change == Change::Edge, set.len() == 1);
                } else if !enter {
                    let was_there = set.remove(&slot);
                    let change = channels.unsubscribe(APP, &name(n), slot);
                    prop_assert_eq!(change == Change::Edge, was_there && set.is_empty());
                }
                for (n, set) in &model {
                    let mut there: Vec<Slot> = subscribers(&channels, APP, &name(*n));
                    there.sort_unstable();
                    prop_assert_eq!(&there, &set.iter().copied().collect::<Vec<_>>());
                    prop_assert_eq!(channels.count(APP, &name(*n)), set.len());
                }
            }
            let counted: BTreeMap<String, usize> = channels.counts(APP).map(|(n, count)| (n.to_string(), count)).collect();
            let expected = model.iter().filter(|(_, set)| !set.is_empty()).map(|(n, set)| (format!("c{n}"), set.len()));
            prop_assert_eq!(counted, expected.collect());
            prop_assert_eq!(channels.channels.len(), model.values().filter(|set| !set.is_empty()).count());
        }
    }
}
