//! How many connections are subscribed to each channel, over all shards: the channel's *home* is told
//! by the shards what changes. It tells backends (`channel_occupied`, `channel_vacated`) and, where
//! the app wants it, the subscribers themselves (`subscription_count`).
//!
//! Only for apps that have webhooks or counts; the others pay nothing. An entry lives as long as the
//! channel has subscribers.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::{Context, Shard};
use crate::inbox::{AppIndex, Control};
use crate::protocol::channel::{Access, ChannelName};
use crate::protocol::pusher;
use crate::protocol::session::Millis;
use crate::protocol::webhook::{Event, Kind};

/// With more subscribers than this a count is told at most every [`COUNT_EVERY`] (protocol section 6).
const SMALL: u64 = 100;

/// See [`SMALL`].
const COUNT_EVERY: Millis = 5_000;

/// What a shard knows of the number of subscribers.
#[derive(Debug)]
pub struct Occupancy {
    /// For each app.
    is_counted: Box<[bool]>,
    /// Of this shard's connections, in this turn.
    changes: HashMap<Key, i64>,
    /// The channels whose home is here.
    occupied: HashMap<Key, Occupied>,
    /// Those of them whose count is to be told later.
    late: HashSet<Key>,
}

type Key = (AppIndex, ChannelName);

#[derive(Debug, Default)]
struct Occupied {
    /// Never 0 between two changes.
    subscribers: u64,
    told_at: Option<Millis>,
}

impl Occupied {
    fn was_told_recently(&self, now: Millis) -> bool {
        self.told_at.is_some_and(|told_at| now < told_at + COUNT_EVERY)
    }
}

impl Occupancy {
    pub fn new(context: &Context) -> Self {
        let is_counted = |(index, counts): (usize, &bool)| {
            let hears = |kind| context.webhooks.hears(AppIndex(index as u16), kind);
            *counts || hears(Kind::ChannelOccupied)
        };
        Self {
            is_counted: context.subscription_counts.iter().enumerate().map(is_counted).collect(),
            changes: HashMap::new(),
            occupied: HashMap::new(),
            late: HashSet::new(),
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

impl Shard {
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
        if self.stopping {
            return;
        }
        let mut entry = match self.occupancy.occupied.entry((app, channel.clone())) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => entry.insert_entry(Occupied::default()),
        };
        let before = entry.get().subscribers;
        // Each shard's changes arrive in order, so the sum is never below 0.
        let subscribers = before.saturating_add_signed(more);
        entry.get_mut().subscribers = subscribers;
        if subscribers == 0 {
            entry.remove();
        }
        if before == 0 && subscribers > 0 {
            self.tell_backend(app, &channel, Event::ChannelOccupied);
        }
        self.tell_count(app, &channel, subscribers);
        if before > 0 && subscribers == 0 {
            self.tell_backend(app, &channel, Event::ChannelVacated);
        }
    }

    /// Tells the count now or, of a large channel, later.
    fn tell_count(&mut self, app: AppIndex, channel: &ChannelName, subscribers: u64) {
        if !self.context.subscription_counts[usize::from(app.0)] || channel.access() == Access::Presence {
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
            self.relay(app, channel.clone(), &text, None);
        }
        self.occupancy.late.remove(&key);
        self.tell_backend(app, channel, Event::SubscriptionCount(subscribers));
    }

    /// Tells the counts that had to wait.
    pub(super) fn tell_late_counts(&mut self, now: Millis) {
        let Occupancy { occupied, late, .. } = &self.occupancy;
        let count = |key: &Key| occupied.get(key).filter(|it| !it.was_told_recently(now)).map(|it| it.subscribers);
        let due: Vec<(Key, u64)> = late.iter().filter_map(|key| Some((key.clone(), count(key)?))).collect();
        for ((app, channel), subscribers) in due {
            self.tell_count(app, &channel, subscribers);
        }
    }

    /// Offers an event to the app's webhooks, if it has some.
    pub(super) fn tell_backend(&self, app: AppIndex, channel: &ChannelName, event: Event<'_>) {
        if !self.stopping {
            self.context.webhooks.offer(app, channel, event);
        }
    }

    /// The server stops: as home, everybody has left. Other shards' leaves may come too late to be
    /// heard, and without this a backend would count on people who never come back.
    pub(super) fn tell_backends_of_the_end(&self) {
        for (app, channel, member) in self.homes.everybody() {
            self.tell_backend(app, channel, Event::MemberRemoved(&member.user_id));
        }
        for (app, channel) in self.occupancy.occupied.keys() {
            if self.context.subscription_counts[usize::from(app.0)] && channel.access() != Access::Presence {
                self.tell_backend(*app, channel, Event::SubscriptionCount(0));
            }
            self.tell_backend(*app, channel, Event::ChannelVacated);
        }
    }
}
