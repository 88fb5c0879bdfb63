//! One connection: what a shard owns of it, and the two small tasks that wait for its socket.

use std::cell::RefCell;
use std::io::{self, Read};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use rustls::ServerConnection;
use tokio::net::TcpStream;

use super::Shard;
use super::outbox::{Outbox, Socket};
use super::polling::SocketIo;
use super::resume::Browser;
use crate::inbox::{AppIndex, ConnKey, Credentials, Form, OneMore};
use crate::protocol::SocketId;
use crate::protocol::session::{Action, Input, Millis, Rules, Session};
use crate::ws::frame::Decoder;

/// How long a client may take to answer a close frame before its socket is dropped.
pub const CLOSE_WAIT: Millis = 5_000;

/// Turns for which a client that has something to say waits while there are events to deliver. Not longer: a
/// flood of events must not make the server deaf.
const DEFERRED_MAX: usize = 8;

/// TLS records that may come to nothing before the others' turn.
const RECORDS_MAX: usize = 16;

/// A connection's state; its shard is the one owner.
///
/// What a delivery looks at stands first and together: among thousands of connections each
/// piece of memory that is looked at is far away, and costs as much as the rest of the work.
#[derive(Debug)]
#[repr(C)]
pub struct Conn {
    /// Its id.
    pub socket_id: SocketId,
    /// Shared with the tasks that wait for it, never written by them. `None`: a Socket.IO client
    /// that polls.
    pub stream: Option<Rc<TcpStream>>,
    /// Its TLS session, where it has one.
    pub tls: Option<Box<ServerConnection>>,
    /// The app that it connected to.
    pub app: AppIndex,
    /// Is on the shard's list of those to be flushed at the end of this turn.
    pub dirty: bool,
    /// The kernel took no more; [`drain`] waits until it does.
    pub draining: bool,
    /// In which form it is sent events.
    pub form: Form,
    /// It was sent something that is kept for those who are away, and has not been asked since whether it has it.
    pub has_news: bool,
    /// Bytes out.
    pub outbox: Outbox,
    /// See [`ConnKey::generation`].
    pub generation: u32,
    /// What it is to Socket.IO; a Pusher client has none of it.
    pub socketio: Option<Box<SocketIo>>,
    /// A close frame is on its way; nothing else is sent any more.
    pub closing: Option<Closing>,
    /// The protocol's view.
    pub session: Session,
    /// Bytes in.
    pub decoder: Decoder,
    /// Its browser, if it is to get what it misses.
    pub browser: Option<Box<Browser>>,
    /// For asking Laravel.
    pub credentials: Arc<Credentials>,
    /// See [`NewClient::counted`](crate::inbox::NewClient).
    pub _counted: [Option<OneMore>; 3],
}

impl Conn {
    /// Reads once. `Ok(0)` is the end of the stream.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(stream) = &self.stream else { return Err(io::ErrorKind::WouldBlock.into()) };
        let Some(tls) = &mut self.tls else { return stream.try_read(buffer) };
        for _ in 0..RECORDS_MAX {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            if tls.read_tls(&mut Socket(stream))? == 0 {
                return Ok(0);
            }
            tls.process_new_packets().map_err(io::Error::other)?;
        }
        // Records without content go on for ever. What is left makes the socket readable again.
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Writes what waits; see [`Outbox::flush`].
    pub fn flush(&mut self) -> io::Result<bool> {
        match &self.stream {
            Some(stream) => self.outbox.flush(stream, self.tls.as_deref_mut()),
            None => Ok(false),
        }
    }

    /// Gives the connection's protocol what happened.
    pub fn input(&mut self, input: Input<'_>, rules: &Rules, now: Millis, actions: &mut Vec<Action>) {
        match self.socketio.as_deref_mut() {
            None => self.session.input(input, rules, now, actions),
            Some(SocketIo::Session(engine)) => engine.link.input(input, &mut self.session, rules, now, actions),
            Some(SocketIo::Probe(_)) => {}
        }
    }

    /// Whether [`Input::Tick`] would do anything now.
    pub fn is_due(&self, rules: &Rules, now: Millis) -> bool {
        match self.socketio.as_deref() {
            None => self.session.is_due(rules, now),
            Some(SocketIo::Session(engine)) => engine.link.is_due(&self.session, rules, now),
            Some(SocketIo::Probe(_)) => false,
        }
    }
}

/// A connection that is ending.
#[derive(Clone, Copy, Debug)]
pub struct Closing {
    /// When the socket is dropped at the latest.
    pub until: Millis,
    /// Of the first close frame.
    pub code: u16,
    /// The client's close frame has arrived: drop the socket as soon as ours is out.
    pub heard: bool,
    /// What the client sends makes no sense; only its end is waited for.
    pub deaf: bool,
}

/// Reads for a connection as long as it lives.
pub async fn read(shard: Weak<RefCell<Shard>>, key: ConnKey, stream: Rc<TcpStream>) {
    loop {
        let readable = stream.readable().await;
        // Events go first: in a storm of new clients, each with something to say, they would wait for all of them.
        for _ in 0..DEFERRED_MAX {
            if !shard.upgrade().is_some_and(|shard| shard.borrow().has_events()) {
                break;
            }
            tokio::task::yield_now().await;
        }
        let Some(shard) = shard.upgrade() else { return };
        if readable.is_err() || !shard.borrow_mut().read(key) {
            return;
        }
        // A socket that is always readable would never wait, and nobody else would have a turn.
        drop(shard);
        tokio::task::yield_now().await;
    }
}

/// The same for a socket that another connection has read from: TLS may hold more than has been
/// read, which no readiness will tell of.
pub async fn read_on(shard: Weak<RefCell<Shard>>, key: ConnKey, stream: Rc<TcpStream>) {
    if shard.upgrade().is_some_and(|shard| shard.borrow_mut().read(key)) {
        read(shard, key, stream).await;
    }
}

/// Goes on writing for a connection whose socket was full, until its outbox is empty.
pub async fn drain(shard: Weak<RefCell<Shard>>, key: ConnKey, stream: Rc<TcpStream>) {
    loop {
        let writable = stream.writable().await;
        let Some(shard) = shard.upgrade() else { return };
        let mut shard = shard.borrow_mut();
        if writable.is_err() || !shard.drain(key) {
            return;
        }
    }
}
