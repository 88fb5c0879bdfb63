//! Deliveries that a shard had no room for, for sources that must not stand still meanwhile.

use std::collections::VecDeque;

use bytes::Bytes;

use super::Publisher;
use crate::inbox::Delivery;

/// How much may wait for busy shards, in bytes. Beyond it the subscription is given up, as Redis itself
/// gives up on slow subscribers (by default at 32 MB); an outage that the log tells of, instead of
/// memory without end.
pub const BACKLOG_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Deliveries in order.
#[derive(Debug, Default)]
pub struct Backlog {
    deliveries: VecDeque<Delivery>,
    bytes: usize,
    /// The shard at which the first one stands.
    shard: usize,
    are_from_nodes: bool,
}

impl Backlog {
    /// Of events of other nodes.
    pub fn of_nodes() -> Self {
        Self { are_from_nodes: true, ..Self::default() }
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    /// More waits than may.
    pub fn is_over(&self) -> bool {
        self.bytes > BACKLOG_BYTES_MAX
    }

    /// Delivers, or lets it wait if there is no room or others wait already.
    pub fn publish(&mut self, delivery: Delivery, publisher: &Publisher) {
        if self.deliveries.is_empty() {
            self.shard = 0;
            let taken = match self.are_from_nodes {
                true => publisher.offer_from_node(&delivery, &mut self.shard),
                false => publisher.offer(&delivery, &mut self.shard),
            };
            if taken {
                return;
            }
        }
        self.bytes += Self::bytes(&delivery);
        self.deliveries.push_back(delivery);
    }

    /// Waits for room and delivers what waits. Dropped before its end, nothing is lost or doubled.
    pub async fn deliver(&mut self, publisher: &Publisher) {
        while let Some(first) = self.deliveries.front() {
            match self.are_from_nodes {
                true => publisher.publish_from_node(first, &mut self.shard).await,
                false => publisher.publish_from(first, &mut self.shard).await,
            }
            self.bytes -= Self::bytes(first);
            self.deliveries.pop_front();
            self.shard = 0;
        }
    }

    /// What a delivery counts: its frame in all forms, and what it costs beside them, since a flood
    /// may be of empty ones.
    fn bytes(delivery: &Delivery) -> usize {
        let others = [&delivery.socketio, &delivery.deflated].into_iter().flatten().map(Bytes::len).sum::<usize>();
        delivery.frame.len() + others + 128
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::{AppIndex, EVENTS_MAX, inbox};
    use crate::protocol::channel::ChannelName;

    #[test]
    fn what_waits_counts_in_all_its_forms() {
        for channel in ["x", "presence-x"] {
            let (shard, inbox) = inbox();
            let publisher = Publisher::new(vec![shard]);
            let app = AppIndex(0);
            inbox.interest.add(publisher.hash(app, channel));
            let bytes = |count| Bytes::from(vec![0; count]);
            let channel = ChannelName::published(channel);
            let (frame, socketio, deflated) = (bytes(10), Some(bytes(20)), Some(bytes(5)));
            let delivery = Delivery { socketio, deflated, is_kept: true, ..Delivery::new(app, channel, frame) };
            let mut backlog = Backlog::of_nodes();
            (0..EVENTS_MAX).for_each(|_| backlog.publish(delivery.clone(), &publisher));
            assert!(backlog.is_empty());
            backlog.publish(delivery, &publisher);
            assert_eq!(backlog.bytes, 10 + 20 + 5 + 128);
        }
    }
}
