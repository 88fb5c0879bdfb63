//! What a shard counts, beside its work.

use std::sync::Arc;
use std::time::Instant;

use super::Shard;
use super::conn::Conn;
use super::polling::SocketIo;
use crate::inbox::{AppIndex, Delivery};
use crate::metrics::{ChannelKind, Closed, Counters, Metrics, Protocol};
use crate::protocol::channel::{Access, ChannelName};

/// A shard's numbers.
#[derive(Debug)]
pub struct Measure {
    metrics: Metrics,
    own: Arc<Counters>,
    index: usize,
    /// When events of this turn were taken in, and how many then.
    taken: Vec<(Instant, u64)>,
}

impl std::ops::Deref for Measure {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        &self.own
    }
}

impl Measure {
    pub fn new(metrics: &Metrics, index: usize) -> Self {
        Self { metrics: metrics.clone(), own: metrics.of_shard(index), index, taken: Vec::new() }
    }

    /// A connection is there.
    pub fn opened(&self, conn: &Conn) {
        if let Some(protocol) = protocol(conn) {
            self.connections_opened.add((conn.app.into(), protocol));
            self.connections.more((conn.app.into(), protocol));
        }
    }

    /// A connection is no more.
    pub fn ended(&self, conn: &Conn) {
        if let Some(protocol) = protocol(conn) {
            self.connections.fewer((conn.app.into(), protocol));
            self.connections_closed.add(conn.closing.map_or(Closed::Lost, |closing| closing.code.into()));
        }
    }

    /// A session that polled goes on over a WebSocket.
    pub fn upgraded(&self, app: AppIndex) {
        self.connections.fewer((app.into(), Protocol::Polling));
        self.connections.more((app.into(), Protocol::SocketIo));
    }

    /// A connection is subscribed, perhaps as the channel's first one here, which has this hash then.
    pub fn subscribed(&self, app: AppIndex, channel: &ChannelName, first: Option<u64>) {
        let labels = (app.into(), kind(channel));
        self.subscribes.add(labels);
        self.subscriptions.more(labels);
        if first.is_some_and(|hash| self.metrics.channels().begin(hash)) {
            self.channels.more(labels);
        }
    }

    /// A connection is no longer subscribed, perhaps as the channel's last one here, which has this hash then.
    pub fn unsubscribed(&self, app: AppIndex, channel: &ChannelName, last: Option<u64>) {
        let labels = (app.into(), kind(channel));
        self.subscriptions.fewer(labels);
        if last.is_some_and(|hash| self.metrics.channels().end(hash)) {
            self.channels.fewer(labels);
        }
    }

    /// These events, neighbours of one channel, have gone into so many outboxes, in so many bytes.
    pub fn delivered(&mut self, run: &[Delivery], connections: u64, bytes: u64) {
        let Some(first) = run.first().filter(|_| connections > 0) else { return };
        self.messages_delivered.add_many(first.app.into(), connections * run.len() as u64);
        self.delivered_bytes.add_many(first.app.into(), bytes);
        for at in run.iter().filter_map(|delivery| delivery.taken_at) {
            match self.taken.last_mut() {
                // What Redis has sent together was taken in together.
                Some((last, count)) if *last == at => *count += 1,
                _ => self.taken.push((at, 1)),
            }
        }
    }

    /// The outboxes of this turn are written.
    pub fn written(&mut self) {
        if self.taken.is_empty() {
            return;
        }
        let now = Instant::now();
        for (at, count) in self.taken.drain(..) {
            self.own.event_delivery_seconds.observe_many((), now.saturating_duration_since(at), count);
        }
    }
}

impl Shard {
    /// Once a second: that the shard lives, and what waits for its connections.
    pub(super) fn measure_each_second(&self) {
        self.measure.metrics.has_turn(self.measure.index);
        let bytes: usize = self.conns.iter().map(|(_, conn)| conn.outbox.bytes()).sum();
        self.measure.outbound_buffered_bytes.set((), bytes as i64);
    }
}

/// `None`: it is a WebSocket that may take a session over, and counts with that.
fn protocol(conn: &Conn) -> Option<Protocol> {
    match conn.socketio.as_deref() {
        None => Some(Protocol::Pusher),
        Some(SocketIo::Session(_)) if conn.stream.is_some() => Some(Protocol::SocketIo),
        Some(SocketIo::Session(_)) => Some(Protocol::Polling),
        Some(SocketIo::Probe(_)) => None,
    }
}

fn kind(channel: &ChannelName) -> ChannelKind {
    match channel.access() {
        Access::Public => ChannelKind::Public,
        Access::Private if channel.is_encrypted() => ChannelKind::Encrypted,
        Access::Private => ChannelKind::Private,
        Access::Presence => ChannelKind::Presence,
        Access::User => ChannelKind::User,
    }
}
