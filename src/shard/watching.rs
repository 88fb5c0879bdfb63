//! What a shard says to those who look ([`Tap`]): who comes and goes, who is refused, and how many got an event; and to
//! those who are refused.

use super::Shard;
use super::channels::Slot;
use super::conn::Conn;
use crate::inbox::{AppIndex, Delivery, Form};
use crate::protocol::channel::ChannelName;
use crate::protocol::session::Refusal;
use crate::protocol::{SocketId, pusher};
use crate::tap::{self, Origin, Tap, Traced, What};
use crate::ws::frame;

impl Shard {
    fn tap(&self) -> &Tap {
        self.context.publisher.tap()
    }

    pub(super) fn tell_of_connection(&self, app: AppIndex, socket_id: SocketId, form: Form) {
        let client = if form == Form::SocketIo { "socket.io" } else { "pusher" };
        self.tap().say(|tap| What::Connected { app: tap.app(app.0), socket_id, client });
    }

    pub(super) fn tell_of_subscription(&self, app: AppIndex, socket_id: SocketId, channel: &ChannelName) {
        self.tap().say(|tap| What::Subscribed { app: tap.app(app.0), socket_id, channel: channel.to_string() });
    }

    pub(super) fn tell_of_unsubscription(&self, app: AppIndex, socket_id: SocketId, channel: &ChannelName) {
        self.tap().say(|tap| What::Unsubscribed { app: tap.app(app.0), socket_id, channel: channel.to_string() });
    }

    /// Tells the client that it may not join.
    pub(super) fn refuse_subscription(
        &mut self,
        slot: Slot,
        app: AppIndex,
        channel: &str,
        kind: &str,
        refusal: &Refusal,
    ) {
        self.measure.subscriptions_refused.add((app.into(), refusal.why));
        let error = if self.context.explains { &refusal.error } else { refusal.why.short() };
        let text = pusher::subscription_error(channel, kind, error, refusal.status);
        self.send(slot, frame::encode_text(&text));
    }

    /// A refusal that Laravel has no part in, of a channel or a signin; those of Laravel's are told where it is asked.
    pub(super) fn tell_of_refusal(&self, app: AppIndex, socket_id: SocketId, channel: Option<String>, error: &str) {
        match &channel {
            Some(channel) => tracing::warn!("{socket_id} may not join {channel:?}: {error}"),
            None => tracing::warn!("{socket_id} may not sign in: {error}"),
        }
        let (app, error) = (Some(self.tap().app(app.0)), tap::sentence(error));
        self.tap().refuse(What::Refused { app, socket_id, channel, status: None, error, detail: String::new() });
    }

    /// A close frame goes out. Without a reason it answers the client's.
    pub(super) fn tell_of_close(&self, slot: Slot, code: u16, reason: &str) {
        let Some(Conn { app, socket_id, .. }) = self.conns.get(slot as usize) else { return };
        let by = if reason.is_empty() { "client" } else { "server" };
        let (app, socket_id, code) = (*app, *socket_id, Some(code));
        let reason = || tap::sentence(reason);
        self.tap().say(|tap| What::Disconnected { app: tap.app(app.0), socket_id, code, reason: reason(), by });
    }

    /// A connection has ended, as was told if there was a close frame.
    pub(super) fn tell_of_end(&self, conn: &Conn, reason: &str) {
        if conn.closing.is_some() {
            return;
        }
        let (app, socket_id, reason) = (conn.app, conn.socket_id, || tap::sentence(reason));
        self.tap().say(|tap| What::Disconnected {
            app: tap.app(app.0),
            socket_id,
            code: None,
            reason: reason(),
            by: "client",
        });
    }

    /// Follows a client event.
    pub(super) fn trace(
        &self,
        app: AppIndex,
        socket_id: SocketId,
        channel: &ChannelName,
        event: &str,
        data: Option<&str>,
    ) -> Option<Traced> {
        let from = || Origin::Client { socket_id };
        let target = [(app.0, channel.as_str())];
        let trace = self.tap().trace(event, data.unwrap_or("null"), Some(socket_id), from, target)?;
        Some(trace.traced(0))
    }

    /// Counts who gets these events of one channel, where somebody looks.
    pub(super) fn count_for_watchers(&self, run: &[Delivery]) {
        for (delivery, traced) in run.iter().filter_map(|delivery| Some((delivery, delivery.trace.as_ref()?))) {
            let id = self.channels.id(delivery.app, &delivery.channel);
            let mut subscribers = id.into_iter().flat_map(|id| self.channels.subscribers(id));
            let is_left_out = |slot: Slot| delivery.except == Some(self.conns[slot as usize].socket_id);
            let excluded = usize::from(delivery.except.is_some() && subscribers.any(is_left_out));
            traced.count(self.channels.count(delivery.app, &delivery.channel) - excluded, excluded);
        }
    }
}
