//! Socket.IO over Engine.IO, and what laravel-echo's `socket.io` connector says over it (events
//! `subscribe`, `unsubscribe`, `client event`), as the old server understood it.
//!
//! [`Link`] translates: what a Socket.IO client sends into the inputs of a [`Session`], and the
//! session's actions into what such a client understands. So who may join what is decided in
//! one place for all clients, and a link keeps nothing but the connection's own life.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::SocketId;
use super::engineio::{self, Kind, Sid, Timing, Version};
use super::presence::Member;
use super::pusher::{self, ClientMessage, push_json_string};
use super::session::{Action, Input, Millis, Rules, Session};

/// The longest namespace that is named back to a client, in bytes.
const NAMESPACE_BYTES_MAX: usize = 200;

/// The life of one Socket.IO connection, whatever its transport.
#[derive(Debug)]
pub struct Link {
    version: Version,
    timing: Timing,
    socket_id: SocketId,
    /// In the namespace `/`, the only one there is.
    connected: bool,
    heard_at: Millis,
    /// Version 4: when the last ping went out.
    pinged_at: Millis,
}

impl Link {
    /// A new connection; says hello.
    pub fn open(
        version: Version,
        sid: Sid,
        may_upgrade: bool,
        timing: Timing,
        now: Millis,
        actions: &mut Vec<Action>,
    ) -> Self {
        actions.push(Action::Send(engineio::open(version, sid, may_upgrade, timing)));
        let connected = version == Version::V3;
        if connected {
            actions.push(Action::Send("40".into()));
        }
        Self { version, timing, socket_id: sid.socket_id, connected, heard_at: now, pinged_at: now }
    }

    /// The protocol that the client speaks.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Takes what happened and appends what is to be done. [`Input::Text`] is an Engine.IO packet,
    /// and so is each [`Action::Send`].
    pub fn input(
        &mut self,
        input: Input<'_>,
        session: &mut Session,
        rules: &Rules,
        now: Millis,
        actions: &mut Vec<Action>,
    ) {
        match input {
            Input::Text(text) => {
                self.heard_at = now;
                match engineio::packet(text) {
                    // Without what the ping carried, as the old server: a probe is no session's.
                    Some((Kind::Ping, _)) => actions.push(Action::Send("3".into())),
                    Some((Kind::Message, text)) => self.packet(text, session, rules, now, actions),
                    Some((Kind::Close, _)) => actions.push(Action::Close { code: 1000, reason: "" }),
                    Some((Kind::Pong | Kind::Noop | Kind::Upgrade | Kind::Open, _)) => {}
                    None => actions.push(NONSENSE),
                }
            }
            Input::SignOfLife => self.heard_at = now,
            Input::Tick => {
                self.tick(now, actions);
                // Whether the client is there is judged here; the session need not.
                forward(Input::SignOfLife, session, rules, now, actions);
                forward(Input::Tick, session, rules, now, actions);
            }
            other => forward(other, session, rules, now, actions),
        }
    }

    /// Whether [`Input::Tick`] would do anything now.
    pub fn is_due(&self, session: &Session, rules: &Rules, now: Millis) -> bool {
        self.is_gone(now) || self.is_to_be_pinged(now) || session.is_due(rules, now)
    }

    fn is_gone(&self, now: Millis) -> bool {
        now.saturating_sub(self.heard_at) >= self.timing.ping_interval + self.timing.ping_timeout
    }

    fn is_to_be_pinged(&self, now: Millis) -> bool {
        self.version == Version::V4 && now.saturating_sub(self.pinged_at) >= self.timing.ping_interval
    }

    fn tick(&mut self, now: Millis, actions: &mut Vec<Action>) {
        if self.is_gone(now) {
            actions.push(Action::Close { code: 4201, reason: "No sign of life: ping timeout" });
        } else if self.is_to_be_pinged(now) {
            self.pinged_at = now;
            actions.push(Action::Send("2".into()));
        }
    }

    /// A Socket.IO packet: kind, namespace, id of an acknowledgement, JSON.
    fn packet(&mut self, text: &str, session: &mut Session, rules: &Rules, now: Millis, actions: &mut Vec<Action>) {
        let Some(kind) = text.bytes().next().filter(u8::is_ascii_graphic) else { return actions.push(NONSENSE) };
        let rest = &text[1..];
        let (namespace, rest) = match rest.starts_with('/') {
            true => rest.split_once(',').unwrap_or((rest, "")),
            false => ("/", rest),
        };
        // The namespace may have a query, which nobody needs here.
        let namespace = namespace.split('?').next().unwrap_or_default();
        match kind {
            b'0' if namespace == "/" => self.connect(actions),
            b'0' if namespace.len() <= NAMESPACE_BYTES_MAX => actions.push(Action::Send(match self.version {
                Version::V3 => format!(r#"44{namespace},"Invalid namespace""#),
                Version::V4 => format!(r#"44{namespace},{{"message":"Invalid namespace"}}"#),
            })),
            b'1' if namespace == "/" => {
                self.connected = false;
                forward(Input::Ended, session, rules, now, actions);
            }
            b'2' if namespace == "/" && self.connected => {
                let json = rest.trim_start_matches(|character: char| character.is_ascii_digit());
                match serde_json::from_str::<Vec<&RawValue>>(json) {
                    Ok(arguments) => event(&arguments, session, rules, now, actions),
                    Err(_) if serde_json::from_str::<IgnoredAny>(json).is_ok() => {}
                    Err(_) => actions.push(NONSENSE),
                }
            }
            b'5' | b'6' => actions.push(Action::Close { code: 1003, reason: "Nothing binary is understood here" }),
            _ => {}
        }
    }

    fn connect(&mut self, actions: &mut Vec<Action>) {
        if self.connected {
            return;
        }
        self.connected = true;
        actions.push(Action::Send(match self.version {
            Version::V3 => "40".to_owned(),
            Version::V4 => format!(r#"40{{"sid":"{}"}}"#, self.socket_id),
        }));
    }
}

const NONSENSE: Action = Action::Close { code: 4100, reason: "The message is no Socket.IO packet" };

/// Gives the session what happened, and takes from what it answers what a Socket.IO client understands.
fn forward(input: Input<'_>, session: &mut Session, rules: &Rules, now: Millis, actions: &mut Vec<Action>) {
    let mut answers = Vec::new();
    session.input(input, rules, now, &mut answers);
    actions.extend(answers.into_iter().filter_map(|action| match action {
        // A message of the Pusher protocol.
        Action::Send(_) => None,
        // The answer of a channel's home that has nothing to tell.
        Action::SendFrame(frame) if frame.is_empty() => None,
        Action::SubscriptionError { channel, refusal, .. } => {
            Some(Action::Send(subscription_error(&channel, refusal.replied.unwrap_or(refusal.status))))
        }
        other => Some(other),
    }));
}

/// What a client emits. Anything else is ignored, as the old server did.
fn event(arguments: &[&RawValue], session: &mut Session, rules: &Rules, now: Millis, actions: &mut Vec<Action>) {
    let [name, argument, ..] = arguments else { return };
    let mut message = |message| forward(Input::Message(message), session, rules, now, actions);
    match name.get() {
        "\"subscribe\"" => {
            if let Ok(subscribe) = pusher::subscribe(Some(argument)) {
                // Who may join is asked for here, whatever the client says of signatures.
                message(ClientMessage::Subscribe(pusher::Subscribe { auth: None, channel_data: None, ..subscribe }));
            }
        }
        "\"unsubscribe\"" => {
            if let Ok(subscribe) = pusher::subscribe(Some(argument)) {
                message(ClientMessage::Unsubscribe(subscribe.channel));
            }
        }
        "\"client event\"" => {
            // Some clients send the object as its JSON text.
            let text = match argument.get().starts_with('"') {
                true => serde_json::from_str(argument.get()).map_or(Cow::Borrowed(""), Cow::Owned),
                false => Cow::Borrowed(argument.get()),
            };
            #[derive(Deserialize)]
            struct ClientEvent<'a> {
                #[serde(borrow)]
                channel: Cow<'a, str>,
                #[serde(borrow)]
                event: Cow<'a, str>,
                #[serde(borrow, default)]
                data: Option<&'a RawValue>,
            }
            let Ok(ClientEvent { channel, event, data }) = serde_json::from_str(&text) else { return };
            if event.starts_with("client-") {
                message(ClientMessage::ClientEvent { event, channel, data: data.map(RawValue::get) });
            }
        }
        _ => {}
    }
}

/// An event on a channel; `data` is JSON.
pub fn channel_event(channel: &str, event: &str, data: &str) -> String {
    let mut text = String::with_capacity(channel_event_bytes(channel, event, data));
    push_channel_event(&mut text, channel, event, data);
    text
}

/// About how long [`push_channel_event`] makes a text.
pub fn channel_event_bytes(channel: &str, event: &str, data: &str) -> usize {
    channel.len() + event.len() + data.len() + 16
}

/// Appends what [`channel_event`] gives.
pub fn push_channel_event(text: &mut String, channel: &str, event: &str, data: &str) {
    text.push_str("42[");
    push_json_string(text, event);
    text.push(',');
    push_json_string(text, channel);
    text.push(',');
    text.push_str(data);
    text.push(']');
}

/// What an event's `data` of the HTTP API is to a Socket.IO client: the value that it is the JSON text
/// of, as Pusher's libraries send it, or the text itself.
pub fn data_of_text(data: &str) -> Cow<'_, str> {
    if serde_json::from_str::<IgnoredAny>(data).is_ok() {
        return Cow::Borrowed(data);
    }
    let mut text = String::with_capacity(data.len() + 2);
    push_json_string(&mut text, data);
    Cow::Owned(text)
}

/// An event of a channel, from its text in the Pusher protocol.
pub fn from_pusher(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Event<'a> {
        #[serde(borrow)]
        event: Cow<'a, str>,
        #[serde(borrow)]
        channel: Cow<'a, str>,
        #[serde(borrow, default)]
        data: Option<&'a RawValue>,
    }
    let Event { event, channel, data } = serde_json::from_str(text).ok()?;
    let data = data.map_or("null", RawValue::get);
    // What a client says is JSON as it stands, what a backend says a text.
    let is_text = data.starts_with('"') && !event.starts_with("client-");
    let data = if is_text { Cow::Owned(serde_json::from_str::<String>(data).ok()?) } else { Cow::Borrowed(data) };
    Some(channel_event(&channel, &event, &if is_text { data_of_text(&data) } else { data.clone() }))
}

/// The answer to a presence channel's subscriber; `members` is [`super::presence::Members::newest_first`].
pub fn presence_subscribed(channel: &str, members: &str) -> String {
    channel_event(channel, "presence:subscribed", members)
}

/// For everybody but the joiner.
pub fn presence_joining(channel: &str, member: &Member) -> String {
    channel_event(channel, "presence:joining", &member.to_json())
}

/// After the last socket of a user has left.
pub fn presence_leaving(channel: &str, member: &Member) -> String {
    channel_event(channel, "presence:leaving", &member.to_json())
}

/// A refusal; `status` is Laravel's HTTP status, 0 where it did not answer.
pub fn subscription_error(channel: &str, status: u16) -> String {
    channel_event(channel, "subscription_error", &status.to_string())
}

#[cfg(test)]
mod tests;
