//! Client events (whispers): what a client may say to the others of its channel
//! (protocol section 2, rules).

use super::{Action, Limit, Millis, Rules, SECOND, Session, State};
use crate::protocol::channel::{Access, NAME_BYTES_MAX};

impl Session {
    /// Passes an event on, or says with which code and sentence it is refused.
    pub(super) fn client_event(
        &mut self,
        event: &str,
        channel: &str,
        data: Option<&str>,
        rules: &Rules,
        now: Millis,
        actions: &mut Vec<Action>,
    ) -> Result<(), (Option<u16>, String)> {
        let subscription = self
            .position(channel)
            .map(|index| &self.subscriptions[index])
            .filter(|subscription| matches!(subscription.state, State::Subscribed));
        let Some(subscription) = subscription else {
            return Err((None, "Client event refused: this connection is not subscribed to the channel".into()));
        };
        if !matches!(subscription.channel.access(), Access::Private | Access::Presence)
            || subscription.channel.is_encrypted()
        {
            let error =
                "Client event refused: they are allowed on private and presence channels, not on encrypted ones";
            return Err((None, error.into()));
        }
        if event.len() > NAME_BYTES_MAX {
            return Err((None, "Client event refused: its name is over 200 bytes long".into()));
        }
        if data.is_some_and(|data| data.len() > rules.client_event_bytes_max) {
            let limit = rules.client_event_bytes_max;
            actions.push(Action::Limited(Limit::ClientEvent));
            return Err((None, format!("Client event refused: its data is over the limit of {limit} bytes")));
        }
        let limit = rules.client_events_per_second;
        if !self.client_events.take(limit, SECOND, now) {
            actions.push(Action::Limited(Limit::ClientEvents));
            return Err((Some(4301), format!("Client event refused: over the limit of {limit} in a second")));
        }
        actions.push(Action::Whisper {
            channel: subscription.channel.clone(),
            event: event.to_owned(),
            data: data.map(str::to_owned),
            user_id: subscription.user_id.clone(),
        });
        Ok(())
    }
}
