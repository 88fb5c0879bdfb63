//! How a connection ends: with a close frame and a code, since that decides whether the client comes back, or with its
//! socket.

use std::sync::atomic::Ordering;

use super::Shard;
use super::channels::Slot;
use super::conn::{CLOSE_WAIT, Closing};
use crate::protocol::session::Input;
use crate::ws::frame;

impl Shard {
    /// Sends a close frame and nothing after it. The connection's subscriptions end now, the
    /// connection itself when the client has answered, or after [`CLOSE_WAIT`].
    pub(super) fn close(&mut self, slot: Slot, code: u16, reason: &str) {
        let until = self.now() + CLOSE_WAIT;
        let Some(conn) = self.conns.get_mut(slot as usize).filter(|conn| conn.closing.is_none()) else { return };
        conn.closing = Some(Closing { until, code, heard: false, deaf: false });
        conn.outbox.push(frame::encode_close(code, reason));
        tracing::debug!("{} is closed with {code} {reason}", conn.socket_id);
        self.touch(slot);
        self.tell_of_close(slot, code, reason);
        self.lost(slot, Some(code));
        self.end_session(slot);
    }

    fn end_session(&mut self, slot: Slot) {
        let now = self.now();
        let Some(conn) = self.conns.get_mut(slot as usize) else { return };
        let mut actions = Vec::new();
        conn.session.input(Input::Ended, &self.context.settings.rules[usize::from(conn.app.0)], now, &mut actions);
        self.act(slot, actions);
    }

    /// Drops a connection. Its reading task sees the socket's end and finds nothing.
    pub(super) fn remove(&mut self, slot: Slot, reason: &str) {
        self.lost(slot, None);
        self.end_session(slot);
        let Some(conn) = self.conns.try_remove(slot as usize) else { return };
        self.measure.ended(&conn);
        tracing::debug!("{} disconnected ({reason})", conn.socket_id);
        self.tell_of_end(&conn, reason);
        if let Some(stream) = &conn.stream {
            let _ = socket2::SockRef::from(&**stream).shutdown(std::net::Shutdown::Both);
        }
        self.connections.fetch_sub(1, Ordering::Relaxed);
        if let Some(socketio) = conn.socketio {
            self.removed(&socketio);
        }
    }
}
