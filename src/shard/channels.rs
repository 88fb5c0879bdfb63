//! Who is subscribed to what, on one shard. Both directions are kept, so that entering, leaving
//! and a connection's end cost the same however many others there are.

use std::collections::HashMap;

use slab::Slab;

use crate::inbox::AppIndex;
use crate::protocol::channel::ChannelName;

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
}

#[derive(Debug)]
struct Channel {
    app: AppIndex,
    name: ChannelName,
    subscribers: Vec<Subscriber>,
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
    /// Enters a connection that is not in the channel yet.
    pub fn subscribe(&mut self, app: AppIndex, name: &ChannelName, slot: Slot) -> Change {
        if self.by_name.len() <= usize::from(app.0) {
            self.by_name.resize_with(usize::from(app.0) + 1, HashMap::new);
        }
        let channels = &mut self.channels;
        let id = *self.by_name[usize::from(app.0)]
            .entry(name.clone())
            .or_insert_with(|| channels.insert(Channel { app, name: name.clone(), subscribers: Vec::new() }) as u32);
        if self.seats.len() <= slot as usize {
            self.seats.resize_with(slot as usize + 1, Vec::new);
        }
        let seats = &mut self.seats[slot as usize];
        let subscribers = &mut self.channels[id as usize].subscribers;
        seats.push(Seat { channel: id, place: subscribers.len() as u32 });
        subscribers.push(Subscriber { slot, seat: seats.len() as u32 - 1 });
        if subscribers.len() == 1 { Change::Edge } else { Change::None }
    }

    /// Takes a connection out of a channel.
    pub fn unsubscribe(&mut self, app: AppIndex, name: &ChannelName, slot: Slot) -> Change {
        let Some(id) = self.id(app, name) else { return Change::None };
        let seats = self.seats.get(slot as usize).map(Vec::as_slice).unwrap_or_default();
        let Some(index) = seats.iter().position(|seat| seat.channel == id) else { return Change::None };
        self.vacate(slot, index);
        let channel = &self.channels[id as usize];
        if !channel.subscribers.is_empty() {
            return Change::None;
        }
        self.by_name[usize::from(channel.app.0)].remove(&channel.name);
        self.channels.remove(id as usize);
        Change::Edge
    }

    /// The slots of a channel's subscribers.
    pub fn subscribers(&self, app: AppIndex, name: &ChannelName) -> impl Iterator<Item = Slot> + '_ {
        let channel = self.id(app, name).map(|id| &self.channels[id as usize]);
        channel.into_iter().flat_map(|channel| channel.subscribers.iter().map(|subscriber| subscriber.slot))
    }

    /// All channels of an app, each with the number of its subscribers, which is never 0.
    pub fn counts(&self, app: AppIndex) -> impl Iterator<Item = (&ChannelName, usize)> {
        let channels = self.by_name.get(usize::from(app.0)).into_iter().flatten();
        channels.map(|(name, id)| (name, self.channels[*id as usize].subscribers.len()))
    }

    /// How many subscribers a channel has.
    pub fn count(&self, app: AppIndex, name: &ChannelName) -> usize {
        self.id(app, name).map_or(0, |id| self.channels[id as usize].subscribers.len())
    }

    fn id(&self, app: AppIndex, name: &ChannelName) -> Option<u32> {
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

    #[test]
    fn apps_are_apart() {
        let mut channels = Channels::default();
        assert_eq!(channels.subscribe(APP, &name(1), 0), Change::Edge);
        assert_eq!(channels.subscribe(AppIndex(1), &name(1), 1), Change::Edge);
        assert_eq!(channels.subscribers(APP, &name(1)).collect::<Vec<_>>(), [0]);
        assert_eq!(channels.unsubscribe(AppIndex(1), &name(1), 0), Change::None);
        assert_eq!(channels.subscribers(AppIndex(1), &name(1)).collect::<Vec<_>>(), [1]);
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
                    let change = channels.subscribe(APP, &name(n), slot);
                    prop_assert_eq!(change == Change::Edge, set.len() == 1);
                } else if !enter {
                    let was_there = set.remove(&slot);
                    let change = channels.unsubscribe(APP, &name(n), slot);
                    prop_assert_eq!(change == Change::Edge, was_there && set.is_empty());
                }
                for (n, set) in &model {
                    let mut there: Vec<Slot> = channels.subscribers(APP, &name(*n)).collect();
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
