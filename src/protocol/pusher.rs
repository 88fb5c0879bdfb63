//! Pusher messages, both directions (protocol section 2). What goes out is written here as text;
//! the WebSocket frame around it is another module's.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::SocketId;
use super::presence::Member;

/// What a client says.
#[derive(Debug)]
pub enum ClientMessage<'a> {
    /// `pusher:ping`: answered with [`PONG`].
    Ping,
    /// `pusher:pong`: a sign of life.
    Pong,
    /// `pusher:subscribe`.
    Subscribe(Subscribe<'a>),
    /// `pusher:unsubscribe`, with the channel's name.
    Unsubscribe(Cow<'a, str>),
    /// `pusher:signin`: who the connection's user is.
    Signin(Signin<'a>),
    /// `client-…`: for the others on the channel.
    ClientEvent {
        /// The event's name.
        event: Cow<'a, str>,
        /// The channel's name.
        channel: Cow<'a, str>,
        /// JSON as the client wrote it.
        data: Option<&'a str>,
    },
    /// Any other event; the protocol says to ignore it.
    Unknown,
}

/// The data of `pusher:subscribe`.
#[derive(Debug, Eq, PartialEq)]
pub struct Subscribe<'a> {
    /// The channel's name, unchecked.
    pub channel: Cow<'a, str>,
    /// `key:signature`; an empty one counts as none.
    pub auth: Option<Cow<'a, str>>,
    /// The text that the signature covers. An object, which pusher-js sends when Laravel's redis
    /// broadcaster answered (protocol 7.2), is no such text.
    pub channel_data: Option<Cow<'a, str>>,
    /// `auth.headers` of a client that lets the server ask Laravel, as those of the old server do.
    pub headers: Vec<(String, String)>,
}

/// The data of `pusher:signin`.
#[derive(Debug, Eq, PartialEq)]
pub struct Signin<'a> {
    /// `key:signature`.
    pub auth: Cow<'a, str>,
    /// The text that the signature covers.
    pub user_data: Cow<'a, str>,
}

/// How many of `auth.headers` are kept; they may wait until Laravel is asked.
const HEADERS_MAX: usize = 32;

/// How long `auth.headers` may be together, in bytes.
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// A message that is none; the sentence goes back to the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct BadMessage(pub &'static str);

impl<'a> ClientMessage<'a> {
    /// Reads a text message.
    pub fn parse(text: &'a str) -> Result<Self, BadMessage> {
        #[derive(Deserialize)]
        struct Envelope<'a> {
            #[serde(borrow)]
            event: Cow<'a, str>,
            #[serde(borrow, default)]
            channel: Option<Cow<'a, str>>,
            #[serde(borrow, default)]
            data: Option<&'a RawValue>,
        }
        let envelope: Envelope = serde_json::from_str(text)
            .map_err(|_| BadMessage("a message is a JSON object with an event, which is a text"))?;
        match envelope.event.as_ref() {
            "pusher:ping" => Ok(Self::Ping),
            "pusher:pong" => Ok(Self::Pong),
            "pusher:subscribe" => subscribe(envelope.data).map(Self::Subscribe),
            "pusher:unsubscribe" => subscribe(envelope.data).map(|data| Self::Unsubscribe(data.channel)),
            "pusher:signin" => signin(envelope.data).map(Self::Signin),
            event if event.starts_with("client-") => match envelope.channel {
                Some(channel) => {
                    Ok(Self::ClientEvent { event: envelope.event, channel, data: envelope.data.map(RawValue::get) })
                }
                None => Err(BadMessage("a client event needs a channel")),
            },
            _ => Ok(Self::Unknown),
        }
    }
}

/// `data` of subscribe and unsubscribe: an object, or its JSON text as a string.
pub(super) fn subscribe<'a>(data: Option<&'a RawValue>) -> Result<Subscribe<'a>, BadMessage> {
    #[derive(Deserialize)]
    struct Data<'a> {
        #[serde(borrow)]
        channel: Cow<'a, str>,
        #[serde(borrow, default)]
        auth: Option<&'a RawValue>,
        #[serde(borrow, default)]
        channel_data: Option<&'a RawValue>,
    }
    const BAD: BadMessage = BadMessage("the data of a subscription is an object with a channel, which is a text");
    fn read(text: &str) -> Result<Subscribe<'_>, BadMessage> {
        let data: Data = serde_json::from_str(text).map_err(|_| BAD)?;
        Ok(Subscribe {
            channel: data.channel,
            auth: data.auth.and_then(string).filter(|auth| !auth.is_empty()),
            channel_data: data.channel_data.and_then(string),
            headers: data.auth.map(headers).unwrap_or_default(),
        })
    }
    let data = data.ok_or(BAD)?;
    match string(data) {
        None => read(data.get()),
        Some(text) => {
            let subscribe = read(&text)?;
            Ok(Subscribe {
                channel: Cow::Owned(subscribe.channel.into_owned()),
                auth: subscribe.auth.map(|auth| Cow::Owned(auth.into_owned())),
                channel_data: subscribe.channel_data.map(|data| Cow::Owned(data.into_owned())),
                headers: subscribe.headers,
            })
        }
    }
}

/// `data` of signin: an object, or its JSON text as a string.
fn signin<'a>(data: Option<&'a RawValue>) -> Result<Signin<'a>, BadMessage> {
    #[derive(Deserialize)]
    struct Data<'a> {
        #[serde(borrow)]
        auth: Cow<'a, str>,
        #[serde(borrow)]
        user_data: Cow<'a, str>,
    }
    const BAD: BadMessage = BadMessage("the data of a signin is an object with auth and user_data, which are texts");
    fn read(text: &str) -> Result<Signin<'_>, BadMessage> {
        let Data { auth, user_data } = serde_json::from_str(text).map_err(|_| BAD)?;
        Ok(Signin { auth, user_data })
    }
    let data = data.ok_or(BAD)?;
    match string(data) {
        None => read(data.get()),
        Some(text) => {
            let Signin { auth, user_data } = read(&text)?;
            Ok(Signin { auth: Cow::Owned(auth.into_owned()), user_data: Cow::Owned(user_data.into_owned()) })
        }
    }
}

fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    if !value.get().starts_with('"') {
        return None;
    }
    // Without escapes the text between the quotes is the value.
    let inner = &value.get()[1..value.get().len() - 1];
    if inner.contains('\\') {
        serde_json::from_str(value.get()).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

fn headers(auth: &RawValue) -> Vec<(String, String)> {
    #[derive(Deserialize)]
    struct Auth {
        headers: serde_json::Map<String, serde_json::Value>,
    }
    let Ok(auth) = serde_json::from_str::<Auth>(auth.get()) else { return Vec::new() };
    let text = |value| match value {
        serde_json::Value::String(text) => Some(text),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    let mut bytes = 0;
    auth.headers
        .into_iter()
        .filter_map(|(name, value)| Some((name, text(value)?)))
        .take(HEADERS_MAX)
        .take_while(|(name, value)| {
            bytes += name.len() + value.len();
            bytes <= HEADER_BYTES_MAX
        })
        .collect()
}

/// The answer to `pusher:ping`.
pub const PONG: &str = r#"{"event":"pusher:pong","data":"{}"}"#;

/// Asks an idle client whether it is there.
pub const PING: &str = r#"{"event":"pusher:ping","data":"{}"}"#;

/// The first message on a connection. `activity_timeout_secs` must not be 0: pusher-js would give up.
pub fn connection_established(socket_id: SocketId, activity_timeout_secs: u64) -> String {
    let data = format!(r#"{{"socket_id":"{socket_id}","activity_timeout":{}}}"#, activity_timeout_secs.max(1));
    let mut text = String::from(r#"{"event":"pusher:connection_established","data":"#);
    push_json_string(&mut text, &data);
    text.push('}');
    text
}

/// `pusher:error`. Without a code it is for the console only; with one some clients act on it.
pub fn error(code: Option<u16>, message: &str) -> String {
    let mut text = String::from(r#"{"event":"pusher:error","data":{"code":"#);
    match code {
        Some(code) => text.push_str(&code.to_string()),
        None => text.push_str("null"),
    }
    text.push_str(r#","message":"#);
    push_json_string(&mut text, message);
    text.push_str("}}");
    text
}

/// `subscription_succeeded` of a channel without members.
pub fn subscription_succeeded(channel: &str) -> String {
    internal("pusher_internal:subscription_succeeded", channel, "{}")
}

/// `subscription_succeeded` of a presence channel; `list` is [`super::presence::Members::list`].
pub fn presence_succeeded(channel: &str, list: &str) -> String {
    internal("pusher_internal:subscription_succeeded", channel, list)
}

/// `member_added`, for everybody but the joiner.
pub fn member_added(channel: &str, member: &Member) -> String {
    let mut data = String::from(r#"{"user_id":"#);
    push_json_string(&mut data, &member.user_id);
    data.push_str(r#","user_info":"#);
    data.push_str(&member.user_info);
    data.push('}');
    internal("pusher_internal:member_added", channel, &data)
}

/// `member_removed`, after the last socket of a user has left.
pub fn member_removed(channel: &str, user_id: &str) -> String {
    let mut data = String::from(r#"{"user_id":"#);
    push_json_string(&mut data, user_id);
    data.push('}');
    internal("pusher_internal:member_removed", channel, &data)
}

/// `subscription_count`: how many connections are subscribed to a channel without members.
pub fn subscription_count(channel: &str, count: u64) -> String {
    internal("pusher_internal:subscription_count", channel, &format!(r#"{{"subscription_count":{count}}}"#))
}

/// `pusher:signin_success`; `user_data` has the id as a text, which pusher-js wants.
pub fn signin_success(user_data: &str) -> String {
    let mut text = String::from(r#"{"event":"pusher:signin_success","data":{"user_data":"#);
    push_json_string(&mut text, user_data);
    text.push_str("}}");
    text
}

/// `watchlist_events`: who of a user's watchlist is online, and who is not.
pub fn watchlist_events(online: &[&str], offline: &[&str]) -> String {
    let mut data = String::from(r#"{"events":["#);
    for (name, user_ids) in [("online", online), ("offline", offline)] {
        if user_ids.is_empty() {
            continue;
        }
        if data.ends_with('}') {
            data.push(',');
        }
        data.push_str(&format!(r#"{{"name":"{name}","user_ids":["#));
        for (index, user_id) in user_ids.iter().enumerate() {
            if index > 0 {
                data.push(',');
            }
            push_json_string(&mut data, user_id);
        }
        data.push_str("]}");
    }
    data.push_str("]}");
    let mut text = String::from(r#"{"event":"pusher_internal:watchlist_events","data":"#);
    push_json_string(&mut text, &data);
    text.push('}');
    text
}

/// `cache_miss`: the cache channel has no event to begin with.
pub fn cache_miss(channel: &str) -> String {
    let mut text = String::from(r#"{"event":"pusher:cache_miss","channel":"#);
    push_json_string(&mut text, channel);
    text.push_str(r#","data":"{}"}"#);
    text
}

/// `pusher:subscription_error`, the only refusal that Echo's `.error()` sees. `kind` is Pusher's
/// `type`: `AuthError` or `LimitReached`.
pub fn subscription_error(channel: &str, kind: &str, error: &str, status: u16) -> String {
    let mut text = String::from(r#"{"event":"pusher:subscription_error","channel":"#);
    push_json_string(&mut text, channel);
    text.push_str(r#","data":{"type":"#);
    push_json_string(&mut text, kind);
    text.push_str(r#","error":"#);
    push_json_string(&mut text, error);
    text.push_str(&format!(r#","status":{status}}}}}"#));
    text
}

/// A client event as the others get it: `data` as the sender wrote it, `user_id` on presence channels.
pub fn client_event(channel: &str, event: &str, data: Option<&str>, user_id: Option<&str>) -> String {
    let mut text = String::from(r#"{"event":"#);
    push_json_string(&mut text, event);
    text.push_str(r#","channel":"#);
    push_json_string(&mut text, channel);
    if let Some(data) = data {
        text.push_str(r#","data":"#);
        text.push_str(data);
    }
    if let Some(user_id) = user_id {
        text.push_str(r#","user_id":"#);
        push_json_string(&mut text, user_id);
    }
    text.push('}');
    text
}

/// An event of the application's. `data` is put on the wire as a JSON *string* whose content is
/// `data`, byte for byte (protocol section 9).
pub fn channel_event(channel: &str, event: &str, data: &str) -> String {
    let mut text = String::with_capacity(channel_event_bytes(channel, event, data));
    push_channel_event(&mut text, channel, event, data);
    text
}

/// The data of a [`channel_event`].
pub fn channel_event_data(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Event {
        data: String,
    }
    serde_json::from_str::<Event>(text).ok().map(|event| event.data)
}

/// Name and data of a [`channel_event`] or [`client_event`].
pub fn event_and_data(text: &str) -> Option<(String, String)> {
    #[derive(Deserialize)]
    struct Event<'a> {
        event: String,
        #[serde(borrow)]
        data: Option<&'a RawValue>,
    }
    let Event { event, data } = serde_json::from_str(text).ok()?;
    let data = data.map_or("null", RawValue::get);
    Some((event, serde_json::from_str(data).unwrap_or_else(|_| data.to_owned())))
}

/// About how long [`push_channel_event`] makes a text.
pub fn channel_event_bytes(channel: &str, event: &str, data: &str) -> usize {
    channel.len() + event.len() + data.len() + data.len() / 4 + 48
}

/// Appends what [`channel_event`] gives.
pub fn push_channel_event(text: &mut String, channel: &str, event: &str, data: &str) {
    text.push_str(r#"{"event":"#);
    push_json_string(text, event);
    text.push_str(r#","channel":"#);
    push_json_string(text, channel);
    text.push_str(r#","data":"#);
    push_json_string(text, data);
    text.push('}');
}

fn internal(event: &str, channel: &str, data: &str) -> String {
    let mut text = String::with_capacity(event.len() + channel.len() + data.len() + data.len() / 4 + 48);
    text.push_str(r#"{"event":""#);
    text.push_str(event);
    text.push_str(r#"","data":"#);
    push_json_string(&mut text, data);
    text.push_str(r#","channel":"#);
    push_json_string(&mut text, channel);
    text.push('}');
    text
}

/// Appends `value` as a JSON string, quotes included.
pub fn push_json_string(text: &mut String, value: &str) {
    text.push('"');
    let mut plain = 0;
    for (index, byte) in value.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        text.push_str(&value[plain..index]);
        plain = index + 1;
        match byte {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            other => {
                use std::fmt::Write;
                let _ = write!(text, "\\u{other:04x}");
            }
        }
    }
    text.push_str(&value[plain..]);
    text.push('"');
}

#[cfg(test)]
mod tests;
