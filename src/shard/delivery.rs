//! The delivery path: a batch of events into the sockets of their subscribers. No lock, no task
//! that is woken, no copy per connection.

use bytes::{Bytes, BytesMut};
use tokio::task::spawn_local;

use super::channels::Slot;
use super::{Shard, conn};
use crate::inbox::{AppIndex, ConnKey, Delivery, Form};
use crate::metrics;
use crate::protocol::channel::ChannelName;
use crate::protocol::webhook::Event;
use crate::protocol::{SocketId, pusher, socketio};
use crate::ws::frame;

/// How long events of one channel may become when they are joined, in bytes: what a write takes
/// well, and little enough to be the piece that a slow reader is never denied.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// One piece of several frames; of a single one, itself.
fn joined<'a>(mut frames: impl Iterator<Item = &'a Bytes> + Clone) -> Bytes {
    let rest = frames.clone();
    match (frames.next(), frames.next()) {
        (None, _) => Bytes::new(),
        (Some(one), None) => one.clone(),
        _ => {
            let mut joined = BytesMut::with_capacity(rest.clone().map(Bytes::len).sum());
            rest.for_each(|frame| joined.extend_from_slice(frame));
            joined.freeze()
        }
    }
}

impl Shard {
    /// Sends to a channel's other subscribers on this node: to Pusher clients `text`, to Socket.IO clients
    /// what `socketio` makes.
    pub(super) fn relay(
        &self,
        app: AppIndex,
        channel: &ChannelName,
        text: &str,
        socketio: impl FnOnce() -> String,
        except: Option<SocketId>,
    ) {
        self.context.publisher.relay(&self.delivery(app, channel, text, socketio, except));
    }

    /// The same, ready to be sent.
    pub(super) fn delivery(
        &self,
        app: AppIndex,
        channel: &ChannelName,
        text: &str,
        socketio: impl FnOnce() -> String,
        except: Option<SocketId>,
    ) -> Delivery {
        let publisher = &self.context.publisher;
        let socketio = publisher.for_socketio(|| frame::encode_text(&socketio()));
        let frame = frame::encode_text(text);
        let deflated = publisher.deflated(&frame);
        Delivery { socketio, deflated, except, ..Delivery::new(app, channel.clone(), frame) }
    }

    /// Sends a client event to the channel's other subscribers, on all nodes.
    pub(super) fn whisper(&mut self, app: AppIndex, channel: &ChannelName, event: Event<'_>) {
        self.tell_backend(app, channel, event);
        let Event::ClientEvent { event, data, socket_id, user_id } = event else { return };
        let text = pusher::client_event(channel.as_str(), event, data, user_id);
        let socketio = || socketio::channel_event(channel.as_str(), event, data.unwrap_or("null"));
        let mut delivery = self.delivery(app, channel, &text, socketio, Some(socket_id));
        delivery.trace = self.trace(app, socket_id, channel, event, data);
        self.measure.events_received.add(metrics::Source::Client);
        self.context.publisher.relay_everywhere(&delivery);
    }

    pub(super) fn deliver_relayed(&mut self) {
        let mut relayed = std::mem::take(&mut self.relayed);
        self.deliver(&mut relayed);
        self.relayed = relayed;
    }

    /// Puts a batch into the outboxes. Neighbours for the same channel become one piece, made
    /// once for all subscribers.
    pub(super) fn deliver(&mut self, batch: &mut Vec<Delivery>) {
        let mut rest = batch.as_slice();
        let now = if self.resume.is_some() { self.now() } else { 0 };
        while let Some(first) = rest.first() {
            let same = |other: &&Delivery| {
                other.app == first.app && other.except == first.except && other.channel == first.channel
            };
            let mut bytes = 0;
            let fits = |delivery: &&Delivery| {
                bytes += delivery.frame.len();
                bytes <= PIECE_BYTES_MAX
            };
            let run = rest.iter().take_while(same).take_while(fits).count().max(1);
            self.count_for_watchers(&rest[..run]);
            let Some(channel) = self.channels.id(first.app, &first.channel) else {
                self.measure.delivered(&rest[..run], 0, 0);
                rest = &rest[run..];
                continue;
            };
            let is_kept = self.channels.keep(channel, &rest[..run], now);
            let piece = joined(rest[..run].iter().map(|delivery| &delivery.frame));
            let socketio = joined(rest[..run].iter().filter_map(|delivery| delivery.socketio.as_ref()));
            let deflated = rest[..run].iter().any(|delivery| delivery.deflated.is_some()).then(|| {
                joined(rest[..run].iter().map(|delivery| delivery.deflated.as_ref().unwrap_or(&delivery.frame)))
            });
            // All that there is for anybody in this turn is written here and now, while the
            // connection is at hand; else each outbox is written once, at the turn's end.
            let is_all = run == batch.len() && self.dirty.is_empty();
            let (mut connections, mut bytes) = (0, 0);
            for slot in self.channels.subscribers(channel) {
                let conn = &mut self.conns[slot as usize];
                if first.except == Some(conn.socket_id) {
                    continue;
                }
                let piece = match conn.form {
                    Form::Plain => &piece,
                    Form::Deflated => deflated.as_ref().unwrap_or(&piece),
                    Form::SocketIo => &socketio,
                };
                if piece.is_empty() {
                    // Taken in before there was any Socket.IO client.
                    continue;
                }
                connections += 1;
                bytes += piece.len() as u64;
                if is_kept && !conn.has_news {
                    conn.has_news = true;
                    self.news.push_back(slot);
                }
                if is_all
                    && conn.tls.is_none()
                    && !conn.draining
                    && let Some(stream) = &conn.stream
                {
                    if conn.outbox.push_through(piece, stream) {
                        continue;
                    }
                } else {
                    conn.outbox.push(piece.clone());
                }
                if !conn.dirty {
                    conn.dirty = true;
                    self.dirty.push(slot);
                }
            }
            self.measure.delivered(&rest[..run], connections, bytes);
            rest = &rest[run..];
        }
        batch.clear();
    }

    /// Has the connection's outbox written at the end of this turn.
    pub(super) fn touch(&mut self, slot: Slot) {
        if let Some(conn) = self.conns.get_mut(slot as usize).filter(|conn| !conn.dirty) {
            conn.dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Writes every outbox that got something this turn.
    pub(super) fn flush(&mut self) {
        while !self.dirty.is_empty() {
            let mut dirty = std::mem::take(&mut self.dirty);
            for slot in dirty.drain(..) {
                self.flush_one(slot);
            }
            if self.dirty.is_empty() {
                self.dirty = dirty;
            }
        }
    }

    fn flush_one(&mut self, slot: Slot) {
        // A connection that has this place since has its own mark.
        let Some(conn) = self.conns.get_mut(slot as usize).filter(|conn| conn.dirty) else { return };
        conn.dirty = false;
        if conn.stream.is_none() {
            self.answer_poll(slot);
        } else if !conn.draining {
            match conn.flush() {
                Ok(true) => return self.flushed(slot),
                Ok(false) => {
                    conn.draining = true;
                    let key = ConnKey { slot, generation: conn.generation };
                    if let Some(stream) = &conn.stream {
                        spawn_local(conn::drain(self.this.clone(), key, stream.clone()));
                    }
                }
                Err(_) => return self.remove(slot, "transport error"),
            }
        }
        let Some(conn) = self.conns.get_mut(slot as usize) else { return };
        let waiting = conn.outbox.waiting();
        if waiting > self.context.settings.outbound_bytes_max && conn.closing.is_none() {
            tracing::warn!(
                "{} reads too slowly: {waiting} bytes wait for it, {} are allowed (limits.outboundBytes); it is closed and will reconnect",
                conn.socket_id,
                self.context.settings.outbound_bytes_max,
            );
            conn.outbox.give_up();
            self.context.publisher.metrics().limit_reached.add(metrics::Limit::OutboundBytes);
            self.measure.slow_consumers_closed.add(conn.app.into());
            self.close(slot, 4100, "Too slow: events were waiting to be read");
        }
    }

    /// The outbox is empty. A connection whose close frames have gone both ways ends here.
    fn flushed(&mut self, slot: Slot) {
        if self.conns[slot as usize].closing.is_some_and(|closing| closing.heard) {
            self.remove(slot, "client disconnect");
        }
    }

    /// The socket can take more; false when there is nothing left to wait for.
    pub(super) fn drain(&mut self, key: ConnKey) -> bool {
        let Some(conn) = self.conn(key) else { return false };
        match conn.flush() {
            Ok(false) => true,
            Ok(true) => {
                conn.draining = false;
                self.flushed(key.slot);
                false
            }
            Err(_) => {
                self.remove(key.slot, "transport error");
                false
            }
        }
    }
}
