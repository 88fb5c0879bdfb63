//! One event, encoded once, into the inbox of each shard that has subscribers.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::sync::Notify;

use crate::bus::Bus;
use crate::inbox::{AppIndex, Coming, Control, Delivery, Form, OneMore, Relays, ShardHandle};
use crate::metrics::Metrics;
use crate::protocol::channel::{self, Access};
use crate::protocol::{pusher, socketio};
use crate::tap::Tap;
use crate::ws::frame;

pub use backlog::{BACKLOG_BYTES_MAX, Backlog};

mod backlog;

/// Turns of the front's runtime, some microseconds each, for which a shard is left asleep while
/// sources go on handing over events.
const TURNS_MAX: usize = 16;

/// So many events for one shard are worth a turn of its own.
const ENOUGH: usize = 256;

/// The frame of an application's event, made in one piece; the same bytes for every connection.
pub fn event_frame(channel: &str, event: &str, data: &str) -> Bytes {
    frame::build_text(pusher::channel_event_bytes(channel, event, data), |text| {
        pusher::push_channel_event(text, channel, event, data);
    })
}

/// The same for Socket.IO clients; `data` is JSON here.
pub fn socketio_event_frame(channel: &str, event: &str, data: &str) -> Bytes {
    frame::build_text(socketio::channel_event_bytes(channel, event, data), |text| {
        socketio::push_channel_event(text, channel, event, data);
    })
}

/// Puts deliveries into the shards' inboxes. A clone shares everything.
#[derive(Clone, Debug)]
pub struct Publisher {
    shards: Arc<[ShardHandle]>,
    hasher: RandomState,
    published: Arc<Notify>,
    /// How many connections are sent events in the forms that are not everybody's. Counted before the
    /// connection can be subscribed to anything, so that an event that it must get finds it here.
    socketio: Arc<AtomicUsize>,
    deflating: Arc<AtomicUsize>,
    relays: Arc<Relays>,
    bus: Bus,
    tap: Tap,
    metrics: Metrics,
}

impl Publisher {
    /// A publisher to these shards.
    pub fn new(shards: Vec<ShardHandle>) -> Self {
        Self {
            metrics: Metrics::new(shards.len(), Vec::new()),
            shards: shards.into(),
            hasher: RandomState::new(),
            published: Arc::default(),
            relays: Arc::default(),
            socketio: Arc::default(),
            deflating: Arc::default(),
            bus: Bus::none(),
            tap: Tap::default(),
        }
    }

    /// The same, with other nodes.
    pub fn with_bus(self, bus: Bus) -> Self {
        Self { bus, ..self }
    }

    /// The same, looked at through this tap.
    pub fn with_tap(self, tap: Tap) -> Self {
        Self { tap, ..self }
    }

    /// Where those look who want to know what passes.
    pub fn tap(&self) -> &Tap {
        &self.tap
    }

    /// The same, counting in these.
    pub fn with_metrics(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    /// What is counted.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The way to the other nodes.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// All shards, in the order of their index.
    pub fn shards(&self) -> &[ShardHandle] {
        &self.shards
    }

    /// Counts a connection that is sent events in this form.
    pub fn count(&self, form: Form) -> Option<OneMore> {
        match form {
            Form::Plain => None,
            Form::Deflated => Some(OneMore::of(&self.deflating)),
            Form::SocketIo => Some(OneMore::of(&self.socketio)),
        }
    }

    /// Makes the frame for Socket.IO clients, if there are any.
    pub fn for_socketio(&self, frame: impl FnOnce() -> Bytes) -> Option<Bytes> {
        (self.socketio.load(Ordering::SeqCst) > 0).then(frame)
    }

    /// Compresses a frame, if anybody has agreed to that and it is worth it.
    pub fn deflated(&self, frame: &[u8]) -> Option<Bytes> {
        (self.deflating.load(Ordering::SeqCst) > 0).then(|| frame::deflated(frame)).flatten()
    }

    /// The hash by which shards say which channels they have subscribers of.
    pub fn hash(&self, app: AppIndex, channel: &str) -> u64 {
        self.hasher.hash_one((app, channel))
    }

    /// The shard that keeps what there is to know of a channel (a presence channel's members, a
    /// cache channel's last event).
    pub fn home(&self, app: AppIndex, channel: &str) -> &ShardHandle {
        &self.shards[self.home_index(app, channel)]
    }

    fn home_index(&self, app: AppIndex, channel: &str) -> usize {
        // The low bits choose the slot of `Interest`; take others.
        (self.hash(app, channel) >> 32) as usize % self.shards.len()
    }

    /// The shard that knows where this user is online and who watches.
    pub fn user_home(&self, app: AppIndex, user_id: &str) -> &ShardHandle {
        let hash = self.hasher.hash_one((app, "user", user_id)) >> 32;
        &self.shards[hash as usize % self.shards.len()]
    }

    /// Closes every connection that is signed in as this user, on all nodes, with a code after
    /// which clients do not come back by themselves.
    pub fn terminate(&self, app: AppIndex, user_id: &str) {
        let user_id: Arc<str> = user_id.into();
        self.bus.terminate(app, &user_id);
        self.terminate_here(app, &user_id);
    }

    /// [`Publisher::terminate`] on this node alone.
    pub fn terminate_here(&self, app: AppIndex, user_id: &Arc<str>) {
        for shard in self.shards.iter() {
            shard.tell(Control::Terminate { app, user_id: user_id.clone() });
        }
    }

    /// Redis was away between these Unix times, in milliseconds, and what it has sent meanwhile is not known.
    pub fn tell_of_gap(&self, since: u64, until: u64) {
        for shard in self.shards.iter() {
            shard.tell(Control::Missed { since, until });
        }
    }

    /// What another node has said since this time is not known, or it has ended without a word: whom it has lost it does not
    /// tell any more.
    pub fn unheard(&self, heard: Instant) {
        for shard in self.shards.iter() {
            shard.tell(Control::Unheard(heard));
        }
    }

    /// A connection of another node may come to the shard that its browser belongs to.
    pub fn expect(&self, coming: Coming) {
        self.shards[coming.browser.shard(self.shards.len())].tell(Control::Coming(coming));
    }

    /// Whether any shard may have subscribers of the channel: encoding for nobody is saved by asking.
    /// A cache channel counts as having some, since its last event is kept for those who come.
    pub fn has_subscribers(&self, app: AppIndex, channel: &str) -> bool {
        if channel::is_cache(channel) {
            return true;
        }
        let hash = self.hash(app, channel);
        self.shards.iter().any(|shard| shard.is_interested(hash))
    }

    /// For Redis and the HTTP API: waits while a shard's inbox is full.
    pub async fn publish(&self, delivery: Delivery) {
        self.publish_from(&delivery, &mut 0).await;
    }

    /// Goes on with a delivery that has been offered to some shards; see [`Publisher::offer`].
    pub async fn publish_from(&self, delivery: &Delivery, from: &mut usize) {
        while !self.offer(delivery, from) {
            if delivery.channel.is_cache() {
                self.relays.room().await;
            }
            self.shards[*from].room().await;
        }
    }

    /// Hands a delivery to the shards with subscribers, from the one with this index on. False: a
    /// shard has no room; `from` is its index.
    ///
    /// An event of a cache channel goes to the channel's home alone, which keeps it and passes it
    /// on ([`Publisher::relay_published`]): a joiner, who is answered by the home through the same
    /// queue, then gets each event either as the kept one or live, and none twice.
    pub fn offer(&self, delivery: &Delivery, from: &mut usize) -> bool {
        if delivery.channel.is_cache() {
            *from = self.home_index(delivery.app, delivery.channel.as_str());
            let taken = self.relays.has_room() && self.shards[*from].offer(delivery);
            self.published.notify_one();
            return taken;
        }
        let hash = self.hash(delivery.app, delivery.channel.as_str());
        while let Some(shard) = self.shards.get(*from) {
            if shard.is_interested(hash) && !shard.offer(delivery) {
                return false;
            }
            *from += 1;
        }
        self.published.notify_one();
        true
    }

    /// Hands on an event of another node, as [`Publisher::offer`]. Those of presence channels go through the
    /// channel's home, as the members whom they are from.
    pub fn offer_from_node(&self, delivery: &Delivery, from: &mut usize) -> bool {
        if !goes_through_home(delivery) {
            return self.offer(delivery, from);
        }
        if !self.relays.has_room() {
            return false;
        }
        let home = self.home(delivery.app, delivery.channel.as_str());
        home.tell(Control::PassOn(delivery.clone(), self.relays.one_more()));
        true
    }

    /// Goes on with a delivery that has been offered to some shards; see [`Publisher::offer_from_node`].
    pub async fn publish_from_node(&self, delivery: &Delivery, from: &mut usize) {
        while !self.offer_from_node(delivery, from) {
            if goes_through_home(delivery) {
                self.relays.room().await;
            } else {
                self.shards[*from].room().await;
            }
        }
    }

    /// For the HTTP API: publishes all of these on all nodes, even if whoever waits for it is dropped meanwhile.
    pub async fn publish_all(&self, deliveries: Vec<Delivery>) {
        let publisher = self.clone();
        let mut publishing = Box::pin(async move {
            for delivery in deliveries {
                publisher.publish_from(&delivery, &mut 0).await;
                publisher.bus.event(&delivery);
            }
        });
        // It rarely has to wait for anything, and a task would make it wait for its turn.
        if futures_util::poll!(publishing.as_mut()).is_pending() {
            let _ = tokio::spawn(publishing).await;
        }
    }

    /// Runs beside the sources and wakes the shards that were handed events, after the sources
    /// have done what they could do at once: so a burst wakes a shard once, and a lone event as
    /// soon as the source waits for the next.
    pub async fn wake_shards(self) {
        loop {
            self.published.notified().await;
            // As long as each turn of the sources brings more, there may be more to come.
            for _ in 0..TURNS_MAX {
                tokio::task::yield_now().await;
                let is_enough = self.shards.iter().any(|shard| shard.waiting() >= ENOUGH);
                if is_enough || self.published.notified().now_or_never().is_none() {
                    break;
                }
            }
            for shard in self.shards.iter() {
                shard.wake();
            }
        }
    }

    /// For client events: [`Publisher::relay`], on all nodes.
    pub fn relay_everywhere(&self, delivery: &Delivery) {
        self.relay(delivery);
        self.bus.event(delivery);
    }

    /// For shards themselves (client events, presence): never waits.
    pub fn relay(&self, delivery: &Delivery) {
        let hash = self.hash(delivery.app, delivery.channel.as_str());
        for shard in self.shards.iter().filter(|shard| shard.is_interested(hash)) {
            shard.tell(Control::Deliver(delivery.clone()));
        }
    }

    /// For the home of a cache channel: never waits; [`Publisher::publish`] does, for it.
    pub fn relay_published(&self, delivery: &Delivery) {
        let hash = self.hash(delivery.app, delivery.channel.as_str());
        for shard in self.shards.iter().filter(|shard| shard.is_interested(hash)) {
            shard.tell(Control::Relayed(delivery.clone(), self.relays.one_more()));
        }
    }
}

/// Of another node's events.
fn goes_through_home(delivery: &Delivery) -> bool {
    delivery.channel.is_cache() || delivery.channel.access() == Access::Presence
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::{EVENTS_MAX, inbox};
    use crate::protocol::channel::ChannelName;

    const APP: AppIndex = AppIndex(0);

    /// A shard that is slow to take what a home passes on makes the sources wait.
    #[tokio::test]
    async fn sources_wait_for_what_home_shards_pass_on() {
        let (shard, mut inbox) = inbox();
        let publisher = Publisher::new(vec![shard]);
        inbox.interest.add(publisher.hash(APP, "cache-x"));
        let channel = ChannelName::published("cache-x");
        let delivery = Delivery { is_kept: true, ..Delivery::new(APP, channel, event_frame("cache-x", "e", "1")) };
        publisher.publish(delivery.clone()).await;
        (0..EVENTS_MAX).for_each(|_| publisher.relay_published(&delivery));
        let mut publishing = Box::pin(publisher.publish(delivery));
        assert!(futures_util::poll!(publishing.as_mut()).is_pending());
        let relayed = inbox.control.recv().await;
        assert!(matches!(relayed, Some(Control::Relayed(..))), "{relayed:?}");
        assert!(futures_util::poll!(publishing.as_mut()).is_pending(), "it has not arrived yet");
        drop(relayed);
        publishing.await;
        let mut events = Vec::new();
        inbox.events.take(EVENTS_MAX, &mut events);
        assert_eq!(events.len(), 2);
    }
}
