//! What Socket.IO clients have beside Pusher's: sessions without a socket, whose outbox is
//! emptied by HTTP requests, and the WebSocket that takes such a session over.
//!
//! The session is a connection like any other. While it polls, what is for it waits in its outbox
//! as WebSocket frames; a poll takes their texts. When a WebSocket takes over, it writes the frames
//! that are left: nothing is lost, doubled or moved by the upgrade.

use std::cell::RefCell;
use std::rc::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::channels::Slot;
use super::conn::{self, Conn};
use super::{Action, Input, Millis, Shard};
use crate::inbox::{self, ConnKey, Poll, PollAnswer, PollRequest};
use crate::protocol::engineio::{self, Sid};
use crate::protocol::socketio::Link;
use crate::ws::frame::{self, Sent};

/// How long a WebSocket may take to take a session over.
const UPGRADE_WAIT: Millis = 10_000;

/// How long a client may take to come back to the session that it has opened. A request opens one, and holds
/// no socket afterwards: without this, sessions would cost nothing but requests.
const FIRST_WAIT: Millis = 10_000;

/// A client that is about to upgrade waits for its poll's end; it has that within this time.
const POLL_CHECK: Duration = Duration::from_millis(100);

/// What a connection is to Socket.IO.
#[derive(Debug)]
pub enum SocketIo {
    /// A client's session.
    Session(Engine),
    /// A WebSocket that is to take over a session that polls.
    Probe(Probe),
}

/// A session, whatever its transport.
#[derive(Debug)]
pub struct Engine {
    /// The protocol's view.
    pub link: Link,
    sid: Sid,
    /// The poll that waits for something to come.
    poll: Option<(u64, oneshot::Sender<PollAnswer>)>,
    /// The WebSocket that is to take over.
    probe: Option<ConnKey>,
    /// Until when the client must come back. `None`: it has.
    expected: Option<Millis>,
}

/// See [`SocketIo::Probe`].
#[derive(Debug)]
pub struct Probe {
    /// The session.
    of: ConnKey,
    /// When it is given up.
    until: Millis,
    /// It has been answered, and its session's polls are let go.
    answered: bool,
    /// The client has said that it takes over: what it says from now on is the session's.
    upgraded: bool,
}

impl Conn {
    /// Whether it is a WebSocket that has not taken over its session yet.
    pub fn is_probe(&self) -> bool {
        matches!(self.socketio.as_deref(), Some(SocketIo::Probe(_)))
    }

    /// Whether its client was to go on by now, and has not.
    pub fn is_given_up(&self, now: Millis) -> bool {
        match self.socketio.as_deref() {
            None => false,
            Some(SocketIo::Session(engine)) => engine.expected.is_some_and(|until| now >= until),
            Some(SocketIo::Probe(probe)) => now >= probe.until,
        }
    }

    fn engine(&mut self) -> Option<&mut Engine> {
        match self.socketio.as_deref_mut() {
            Some(SocketIo::Session(engine)) => Some(engine),
            _ => None,
        }
    }
}

impl Shard {
    /// What a new connection is.
    pub(super) fn socketio(&mut self, what: inbox::SocketIo, actions: &mut Vec<Action>) -> SocketIo {
        let now = self.now();
        match what {
            inbox::SocketIo::WebSocket(sid, version) => {
                let link = Link::open(version, sid, false, self.context.settings.socketio, now, actions);
                SocketIo::Session(Engine { link, sid, poll: None, probe: None, expected: None })
            }
            inbox::SocketIo::Polling { sid, version, may_upgrade } => {
                let link = Link::open(version, sid, may_upgrade, self.context.settings.socketio, now, actions);
                self.polled.insert(sid.socket_id, self.conns.vacant_key() as Slot);
                SocketIo::Session(Engine { link, sid, poll: None, probe: None, expected: Some(now + FIRST_WAIT) })
            }
            inbox::SocketIo::Upgrade(sid) => {
                let session = self.session(sid).filter(|key| {
                    self.conn(*key).is_some_and(|conn| {
                        conn.stream.is_none() && conn.engine().is_some_and(|engine| engine.probe.is_none())
                    })
                });
                let of = session.unwrap_or(NOBODY);
                if session.is_none() {
                    actions.push(Action::Close { code: 4100, reason: "Session ID unknown" });
                } else {
                    // It is entered next, and has this generation already.
                    let probe = ConnKey { slot: self.conns.vacant_key() as Slot, generation: self.generation };
                    if let Some(engine) = self.conn(of).and_then(Conn::engine) {
                        engine.probe = Some(probe);
                        engine.expected = None;
                    }
                }
                SocketIo::Probe(Probe { of, until: now + UPGRADE_WAIT, answered: false, upgraded: false })
            }
        }
    }

    /// A session that began with polling.
    fn session(&self, sid: Sid) -> Option<ConnKey> {
        let slot = *self.polled.get(&sid.socket_id)?;
        let conn = self.conns.get(slot as usize)?;
        match conn.socketio.as_deref() {
            Some(SocketIo::Session(engine)) if engine.sid == sid => Some(ConnKey { slot, generation: conn.generation }),
            _ => None,
        }
    }

    // --- polling ---------------------------------------------------------------------------

    pub(super) fn poll(&mut self, PollRequest { sid, what, answer }: PollRequest) {
        let (number, key) = match what {
            Poll::Open(client) => (0, self.open(None, None, client)),
            // Without a session the sender is dropped, and the front says that it is unknown.
            Poll::Get(number) => match self.session(sid) {
                Some(key) => (number, key),
                None => return,
            },
            Poll::Post(body) => {
                if let Some(key) = self.session(sid) {
                    let _ = answer.send(self.posted(key, &body));
                }
                return;
            }
        };
        let Some(conn) = self.conn(key) else { return };
        if conn.stream.is_some() {
            let _ = answer.send(PollAnswer::Bad("the session has a WebSocket"));
            return;
        }
        let Some(engine) = conn.engine() else { return };
        if number > 0 {
            engine.expected = None;
        }
        match engine.poll.replace((number, answer)) {
            Some((_, first)) if !first.is_closed() => {
                let _ = first.send(PollAnswer::Twice);
                if let Some((_, second)) = engine.poll.take() {
                    let _ = second.send(PollAnswer::Twice);
                }
                self.remove(key.slot, "two polls at once");
            }
            _ => self.touch(key.slot),
        }
    }

    /// Whoever polled has hung up: the client, or what it was to be sent, is gone.
    pub(super) fn poll_gone(&mut self, sid: Sid, number: u64) {
        let Some(key) = self.session(sid) else { return };
        let Some(conn) = self.conn(key).filter(|conn| conn.stream.is_none()) else { return };
        // A poll that has come since shows that the client is there and has got all before it.
        if conn.engine().is_some_and(|engine| engine.poll.as_ref().is_none_or(|(waiting, _)| *waiting == number)) {
            self.remove(key.slot, "transport close");
        }
    }

    fn posted(&mut self, key: ConnKey, body: &[u8]) -> PollAnswer {
        let limit = self.context.settings.message_bytes_max;
        let Some(conn) = self.conn(key) else { return PollAnswer::Bad("the session has ended") };
        if conn.stream.is_some() {
            return PollAnswer::Bad("the session has a WebSocket");
        }
        let Some(engine) = conn.engine() else { return PollAnswer::Bad("the session has ended") };
        engine.expected = None;
        let version = engine.link.version();
        let app = conn.app;
        let packets = match engineio::payload(version, body) {
            Ok(packets) => packets,
            Err(bad) => {
                self.close(key.slot, 4100, bad.0);
                return PollAnswer::Bad(bad.0);
            }
        };
        for packet in packets {
            if packet.len() > limit {
                self.close(key.slot, 1009, "The message is over the limit");
                return PollAnswer::Bad("a packet is over limits.messageBytes");
            }
            self.measure.messages_received.add(app.into());
            self.input(key, Input::Text(&packet));
        }
        PollAnswer::Ok
    }

    /// Gives the poll that waits what has come.
    pub(super) fn answer_poll(&mut self, slot: Slot) {
        let Some(conn) = self.conns.get_mut(slot as usize).filter(|conn| !conn.outbox.is_empty()) else { return };
        let Some(SocketIo::Session(engine)) = conn.socketio.as_deref_mut() else { return };
        let Some((_, poll)) = engine.poll.take() else { return };
        let version = engine.link.version();
        let mut payload = String::with_capacity(conn.outbox.waiting() + 64);
        for piece in conn.outbox.take() {
            for sent in frame::sent(&piece) {
                match sent {
                    Sent::Text(packet) => engineio::push_to_payload(version, &mut payload, packet),
                    Sent::Close => engineio::push_to_payload(version, &mut payload, engineio::CLOSE),
                    Sent::Other => {}
                }
            }
        }
        let is_closing = conn.closing.is_some();
        if poll.send(PollAnswer::Payload(payload)).is_err() || is_closing {
            self.remove(slot, "transport close");
        }
    }

    // --- upgrade ---------------------------------------------------------------------------

    /// What a WebSocket says that is to take over a session.
    pub(super) fn probe(&mut self, key: ConnKey, text: &str) {
        let Some(SocketIo::Probe(probe)) = self.conn(key).and_then(|conn| conn.socketio.as_deref_mut()) else { return };
        let of = probe.of;
        match text {
            _ if probe.upgraded => self.input(of, Input::Text(text)),
            engineio::PROBE => {
                // A client may say it again and again; one task is enough.
                if !std::mem::replace(&mut probe.answered, true) {
                    spawn_local(release_polls(self.this.clone(), of, key));
                }
                self.send(key.slot, frame::encode_text(engineio::PROBED));
            }
            engineio::UPGRADE => probe.upgraded = true,
            _ => self.close(key.slot, 4100, "The message is no probe"),
        }
    }

    /// The session goes on over this WebSocket, if its client has said so.
    pub(super) fn take_over(&mut self, key: ConnKey) {
        let Some(conn) = self.conn(key) else { return };
        let Some(SocketIo::Probe(Probe { of, upgraded: true, .. })) = conn.socketio.as_deref() else { return };
        let (of, is_closing) = (*of, conn.closing.is_some());
        if is_closing && self.conn(of).is_some() {
            // It has taken over and ended, all at once.
            return self.remove(of.slot, "transport close");
        }
        if self.conn(of).is_none_or(|conn| conn.closing.is_some()) {
            return self.remove(key.slot, "its session has ended");
        }
        let mut socket = self.conns.remove(key.slot as usize);
        self.connections.fetch_sub(1, Ordering::Relaxed);
        let this = self.this.clone();
        let Some(conn) = self.conn(of) else { return };
        if let Some(engine) = conn.engine() {
            engine.probe = None;
            if let Some((_, poll)) = engine.poll.take() {
                let mut payload = String::new();
                engineio::push_to_payload(engine.link.version(), &mut payload, engineio::NOOP);
                let _ = poll.send(PollAnswer::Payload(payload));
            }
        }
        std::mem::swap(&mut conn.outbox, &mut socket.outbox);
        conn.outbox.append(socket.outbox);
        conn.decoder = socket.decoder;
        conn.tls = socket.tls;
        conn.draining = false;
        if let Some(stream) = &socket.stream {
            spawn_local(conn::read_on(this, of, stream.clone()));
        }
        conn.stream = socket.stream;
        tracing::debug!("{} goes on over a WebSocket", conn.socket_id);
        let app = conn.app;
        self.measure.upgraded(app);
        self.touch(of.slot);
    }

    /// Ends the poll of a session that is about to upgrade; false when there is no need any more.
    fn release_poll(&mut self, session: ConnKey, probe: ConnKey) -> bool {
        let Some(conn) = self.conn(session).filter(|conn| conn.stream.is_none()) else { return false };
        if conn.engine().is_none_or(|engine| engine.probe != Some(probe)) {
            return false;
        }
        if conn.outbox.is_empty() {
            conn.outbox.push(frame::encode_text(engineio::NOOP));
            self.answer_poll(session.slot);
            // Without a poll, there is nothing to end.
            if let Some(conn) = self.conn(session) {
                conn.outbox.give_up();
            }
        }
        true
    }

    /// A Socket.IO connection is no more.
    pub(super) fn removed(&mut self, socketio: &SocketIo) {
        match socketio {
            SocketIo::Session(engine) => {
                self.polled.remove(&engine.sid.socket_id);
                if let Some(probe) = engine.probe {
                    self.close(probe.slot, 1000, "The session has ended");
                }
            }
            SocketIo::Probe(probe) => {
                let of = probe.of;
                if let Some(engine) = self.conn(of).and_then(Conn::engine) {
                    engine.probe = None;
                }
            }
        }
    }
}

/// A key that no connection has.
const NOBODY: ConnKey = ConnKey { slot: Slot::MAX, generation: 0 };

/// Lets a client go that waits for its poll's end before it upgrades.
async fn release_polls(shard: Weak<RefCell<Shard>>, session: ConnKey, probe: ConnKey) {
    loop {
        tokio::time::sleep(POLL_CHECK).await;
        let Some(shard) = shard.upgrade() else { return };
        if !shard.borrow_mut().release_poll(session, probe) {
            return;
        }
    }
}
