//! How many connections are subscribed to each channel, over all shards and nodes: the channel's *home* is
//! told by the shards what changes, and tells other nodes' homes. It tells backends (`channel_occupied`, `channel_vacated`) and, where
//! the app wants it, the subscribers themselves (`subscription_count`).
//!
//! Only for apps that have webhooks or counts; the others pay nothing. An entry lives as long as the
//! channel has subscribers.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::{Context, Shard};
use crate::inbox::{AppIndex, Control, Delivery};
use crate::protocol::channel::{Access, ChannelName};
use crate::protocol::pusher;
use crate::protocol::session::Millis;
use crate::protocol::webhook::{Event, Kind};
use crate::ws::frame;

/// With more subscribers than this a count is told at most every [`COUNT_EVERY`] (protocol section 6).
const SMALL: u64 = 100;

/// See [`SMALL`].
const COUNT_EVERY: Millis = 5_000;

/// What a shard knows of the number of subscribers.
#[derive(Debug)]
pub struct Occupancy {
    /// For each app.
    is_counted: Vec<bool>,
    /// Of this shard's connections, in this turn.
    changes: HashMap<Key, i64>,
    /// The channels whose home is here.
    occupied: HashMap<Key, Occupied>,
    /// Those of them whose count is to be told later.
    late: HashSet<Key>,
    /// Those of which other nodes do not know the count yet.
    unsaid: HashSet<Key>,
}

type Key = (AppIndex, ChannelName);

#[derive(Debug, Default)]
struct Occupied {
    /// On this node.
    here: u64,
    /// On each other node that has some.
    elsewhere: Vec<(u64, u64)>,
    told_at: Option<Millis>,
}

impl Occupied {
    /// Never 0 between two changes.
    fn subscribers(&self) -> u64 {
        self.here + self.elsewhere.iter().map(|(_, count)| count).sum::<u64>()
    }

    fn was_told_recently(&self, now: Millis) -> bool {
        self.told_at.is_some_and(|told_at| now < told_at + COUNT_EVERY)
    }
}

impl Occupancy {
    pub fn new(context: &Context) -> Self {
        Self {
            is_counted: is_counted(context),
            changes: HashMap::new(),
            occupied: HashMap::new(),
            late: HashSet::new(),
            unsaid: HashSet::new(),
        }
    }

    /// A connection of this shard has entered a channel (1) or left it (-1).
    pub fn count(&mut self, app: AppIndex, channel: &ChannelName, more: i64) {
        // A user's own channel is nobody else's business.
        if self.is_counted[usize::from(app.0)] && channel.access() != Access::User {
            *self.changes.entry((app, channel.clone())).or_default() += more;
        }
    }
}

/// For each app, whether anybody wants to know of its channels' subscribers.
fn is_counted(context: &Context) -> Vec<bool> {
    let counts = context.settings.subscription_counts.iter().enumerate();
    let hears = |app| context.webhooks.hears(AppIndex(app), Kind::ChannelOccupied);
    counts.map(|(app, counts)| *counts || hears(app as u16)).collect()
}

impl Shard {
    /// The settings or webhooks have changed: what has not been counted so far is, from now on. What has been goes
    /// on to be, or those who leave would have to be counted for ever by somebody else.
    pub(super) fn count_what_was_not(&mut self) {
        let mut counted = is_counted(&self.context);
        self.occupancy.is_counted.resize(counted.len(), false);
        for (app, (now, before)) in counted.iter_mut().zip(&self.occupancy.is_counted).enumerate() {
            *now |= *before;
            if *now && !*before {
                let channels = self.channels.counts(AppIndex(app as u16));
                let channels = channels.filter(|(channel, _)| channel.access() != Access::User);
                let changes = channels.map(|(channel, count)| ((AppIndex(app as u16), channel.clone()), count as i64));
                self.occupancy.changes.extend(changes);
            }
        }
        self.occupancy.is_counted = counted;
    }

    /// Tells the homes what has changed in this turn.
    pub(super) fn tell_homes_of_changes(&mut self) {
        if self.occupancy.changes.is_empty() {
            return;
        }
        for ((app, channel), more) in std::mem::take(&mut self.occupancy.changes) {
            if more != 0 {
                let home = self.context.publisher.home(app, channel.as_str());
                home.tell(Control::Occupancy { app, channel, more });
            }
        }
    }

    /// As the channel's home: another shard, or this one, has so many more subscribers.
    pub(super) fn occupancy_changed(&mut self, app: AppIndex, channel: ChannelName, more: i64) {
        // Everybody's end has been told already.
        if self.stopping.is_some() {
            return;
        }
        let key = (app, channel);
        let occupied = self.occupancy.occupied.entry(key.clone()).or_default();
        let (before, before_here) = (occupied.subscribers(), occupied.here);
        // Each shard's changes arrive in order, so the sum is never below 0.
        let here = before_here.saturating_add_signed(more);
        occupied.here = here;
        // Others hear at once of the first and the last, and of how many there are once a second.
        if (before_here == 0) == (here == 0) {
            self.occupancy.unsaid.insert(key.clone());
        } else {
            self.occupancy.unsaid.remove(&key);
            self.context.publisher.bus().subscribers(app, &key.1, here);
        }
        self.subscribers_changed(key, before);
    }

    /// As the channel's home: another node has so many subscribers.
    pub(super) fn occupancy_elsewhere(&mut self, app: AppIndex, channel: ChannelName, node: u64, count: u64) {
        if self.stopping.is_some() || !self.occupancy.is_counted[usize::from(app.0)] {
            return;
        }
        let key = (app, channel);
        let occupied = self.occupancy.occupied.entry(key.clone()).or_default();
        let before = occupied.subscribers();
        occupied.elsewhere.retain(|(other, _)| *other != node);
        if count > 0 {
            occupied.elsewhere.push((node, count));
        }
        self.subscribers_changed(key, before);
    }

    fn subscribers_changed(&mut self, key: Key, before: u64) {
        let Entry::Occupied(entry) = self.occupancy.occupied.entry(key.clone()) else { return };
        let subscribers = entry.get().subscribers();
        if subscribers == 0 {
            entry.remove();
        }
        let (app, channel) = key;
        if before == 0 && subscribers > 0 {
            self.tell_backend_for_all(app, &channel, Event::ChannelOccupied);
        }
        if before != subscribers {
            self.tell_count(app, &channel, subscribers);
        }
        if before > 0 && subscribers == 0 {
            self.tell_backend_for_all(app, &channel, Event::ChannelVacated);
        }
    }

    /// Tells the count now or, of a large channel, later.
    fn tell_count(&mut self, app: AppIndex, channel: &ChannelName, subscribers: u64) {
        if !self.context.settings.subscription_counts[usize::from(app.0)] || channel.access() == Access::Presence {
            return;
        }
        let (now, key) = (self.now(), (app, channel.clone()));
        if let Some(occupied) = self.occupancy.occupied.get_mut(&key) {
            if subscribers > SMALL && occupied.was_told_recently(now) {
                self.occupancy.late.insert(key);
                return;
            }
            occupied.told_at = Some(now);
            let text = pusher::subscription_count(channel.as_str(), subscribers);
            // Socket.IO clients know no such event.
            let (frame, publisher) = (frame::encode_text(&text), &self.context.publisher);
            let deflated = publisher.deflated(&frame);
            publisher.relay(&Delivery { deflated, ..Delivery::new(app, channel.clone(), frame) });
        }
        self.occupancy.late.remove(&key);
        self.tell_backend_for_all(app, channel, Event::SubscriptionCount(subscribers));
    }

    /// Tells the counts that had to wait.
    pub(super) fn tell_late_counts(&mut self, now: Millis) {
        for key in std::mem::take(&mut self.occupancy.unsaid) {
            if let Some(occupied) = self.occupancy.occupied.get(&key).filter(|occupied| occupied.here > 0) {
                self.context.publisher.bus().subscribers(key.0, &key.1, occupied.here);
            }
        }
        let Occupancy { occupied, late, .. } = &self.occupancy;
        let count = |key: &Key| occupied.get(key).filter(|it| !it.was_told_recently(now)).map(Occupied::subscribers);
        let due: Vec<(Key, u64)> = late.iter().filter_map(|key| Some((key.clone(), count(key)?))).collect();
        for ((app, channel), subscribers) in due {
            self.tell_count(app, &channel, subscribers);
        }
    }

    /// Offers an event to the app's webhooks, if it has some.
    pub(super) fn tell_backend(&self, app: AppIndex, channel: &ChannelName, event: Event<'_>) {
        let is_about_people = !matches!(event, Event::ClientEvent { .. } | Event::CacheMiss);
        if self.stopping.is_none() || !is_about_people {
            self.context.webhooks.offer(app, channel, event);
        }
    }

    /// The same, of what all nodes see: one of them tells it.
    pub(super) fn tell_backend_for_all(&self, app: AppIndex, channel: &ChannelName, event: Event<'_>) {
        if self.context.publisher.bus().speaks_for_all() {
            self.tell_backend(app, channel, event);
        }
    }

    /// The server stops: as home, everybody has left. Other shards' leaves may come too late to be
    /// heard, and without this a backend would count on people who never come back.
    pub(super) fn tell_backends_of_the_end(&self) {
        // Other nodes tell it of those who do not come back there.
        if !self.context.publisher.bus().is_alone() {
            return;
        }
        for (app, channel, member) in self.homes.everybody() {
            self.tell_backend(app, channel, Event::MemberRemoved(&member.user_id));
        }
        for (app, channel) in self.occupancy.occupied.keys() {
            if self.context.settings.subscription_counts[usize::from(app.0)] && channel.access() != Access::Presence {
                self.tell_backend(*app, channel, Event::SubscriptionCount(0));
            }
            self.tell_backend(*app, channel, Event::ChannelVacated);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::*;
    use crate::inbox::{Inbox, inbox};
    use crate::publish::Publisher;
    use crate::shard::test::context;

    const APP: AppIndex = AppIndex(0);

    /// The only shard, so every channel's home, in nobody's thread.
    fn alone(is_counted: bool) -> (Rc<RefCell<Shard>>, Inbox) {
        let (handle, inbox) = inbox();
        let mut context = context(&Publisher::new(vec![handle]));
        context.settings.subscription_counts = vec![is_counted];
        let Inbox { events, interest, connections, .. } = &inbox;
        let (events, interest, connections) = (events.clone(), interest.clone(), connections.clone());
        let shard =
            Rc::new_cyclic(|this| RefCell::new(Shard::new(0, context, events, interest, connections, this.clone())));
        (shard, inbox)
    }

    /// Ends a turn and lets the home hear of it; gives how many messages that took.
    fn turn(shard: &mut Shard, inbox: &mut Inbox) -> usize {
        shard.tell_homes_of_changes();
        let said: Vec<Control> = std::iter::from_fn(|| inbox.control.try_recv().ok()).collect();
        let count = said.iter().filter(|message| matches!(message, Control::Occupancy { .. })).count();
        said.into_iter().for_each(|message| shard.control(message));
        count
    }

    fn channel(name: &str) -> ChannelName {
        ChannelName::published(name)
    }

    #[test]
    fn a_turn_is_one_message_and_nobody_is_no_entry() {
        let (shard, mut inbox) = alone(true);
        let shard = &mut *shard.borrow_mut();
        (0..5).for_each(|_| shard.occupancy.count(APP, &channel("a"), 1));
        assert_eq!(turn(shard, &mut inbox), 1);
        assert_eq!(shard.occupancy.occupied[&(APP, channel("a"))].subscribers(), 5);
        shard.occupancy.count(APP, &channel("a"), 1);
        shard.occupancy.count(APP, &channel("a"), -1);
        assert_eq!(turn(shard, &mut inbox), 0, "nothing has changed");
        shard.occupancy.count(APP, &channel("a"), -5);
        assert_eq!(turn(shard, &mut inbox), 1);
        assert!(shard.occupancy.occupied.is_empty() && shard.occupancy.late.is_empty());
    }

    #[test]
    fn nothing_for_apps_that_do_not_count_nor_for_a_users_own_channel() {
        let (shard, mut inbox) = alone(false);
        shard.borrow_mut().occupancy.count(APP, &channel("a"), 1);
        assert_eq!(turn(&mut shard.borrow_mut(), &mut inbox), 0);
        let (shard, mut inbox) = alone(true);
        shard.borrow_mut().occupancy.count(APP, &channel("#server-to-user-7"), 1);
        assert_eq!(turn(&mut shard.borrow_mut(), &mut inbox), 0);
    }

    proptest! {
        /// However changes fall into turns, the home knows what a plain count would.
        #[test]
        fn as_a_plain_count(steps in prop::collection::vec((0u8..4, any::<bool>(), any::<bool>()), 0..200)) {
            let (shard, mut inbox) = alone(true);
            let shard = &mut *shard.borrow_mut();
            let mut model: BTreeMap<String, u64> = BTreeMap::new();
            for (n, enters, ends_turn) in steps {
                let name = format!("c{n}");
                let count = model.entry(name.clone()).or_default();
                if enters || *count > 0 {
                    let more = if enters { 1 } else { -1 };
                    *count = count.saturating_add_signed(more);
                    shard.occupancy.count(APP, &channel(&name), more);
                }
                if ends_turn {
                    turn(shard, &mut inbox);
                    model.retain(|_, count| *count > 0);
                    let known = shard.occupancy.occupied.iter();
                    let known = known.map(|((_, name), occupied)| (name.to_string(), occupied.subscribers()));
                    prop_assert_eq!(&known.collect::<BTreeMap<_, _>>(), &model);
                }
            }
        }
    }
}
