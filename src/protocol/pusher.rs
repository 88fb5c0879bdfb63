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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subscribed(text: &str) -> Subscribe<'_> {
        match ClientMessage::parse(text) {
            Ok(ClientMessage::Subscribe(subscribe)) => subscribe,
            other => panic!("{text}: {other:?}"),
        }
    }

    /// The exact bytes of pusher-js 4.4 to 8.6 and pysher (protocol section 2).
    #[test]
    fn subscribes_of_real_clients() {
        for text in [
            r#"{"event":"pusher:subscribe","data":{"auth":"","channel":"pub"}}"#,
            r#"{"event":"pusher:subscribe","data":{"channel":"pub"}}"#,
            r#"{"event":"pusher:subscribe","data":{"auth":null,"channel":"pub"}}"#,
            r#"{"event": "pusher:subscribe", "data": {"channel": "pub"}}"#,
            r#"{"event":"pusher:subscribe","data":"{\"channel\":\"pub\"}"}"#,
            r#"{"event":"pusher:subscribe","data":{"channel_data":{"user_id":7},"channel":"pub"}}"#,
        ] {
            let expected = Subscribe { channel: "pub".into(), auth: None, channel_data: None, headers: vec![] };
            assert_eq!(subscribed(text), expected, "{text}");
        }
        let text = r#"{"event":"pusher:subscribe","data":{"auth":"k:41","channel_data":"{\"user_id\":7,\"user_info\":{\"name\":\"Ann\"}}","channel":"presence-room"}}"#;
        let presence = subscribed(text);
        assert_eq!(presence.auth.as_deref(), Some("k:41"));
        assert_eq!(presence.channel_data.as_deref(), Some(r#"{"user_id":7,"user_info":{"name":"Ann"}}"#));
        let text = r#"{"event":"pusher:subscribe","data":{"channel":"private-x","auth":{"headers":{"Authorization":"Bearer t","X-Tenant":5,"bad":[]}}}}"#;
        let expected =
            vec![("Authorization".to_owned(), "Bearer t".to_owned()), ("X-Tenant".to_owned(), "5".to_owned())];
        assert_eq!(subscribed(text).headers, expected);
    }

    #[test]
    fn auth_headers_are_bounded() {
        let with = |headers: serde_json::Value| {
            let data = serde_json::json!({"channel": "private-x", "auth": {"headers": headers}});
            let text = serde_json::json!({"event": "pusher:subscribe", "data": data}).to_string();
            subscribed(&text).headers.len()
        };
        let many: serde_json::Map<_, _> = (0..1000).map(|n| (format!("X-{n}"), "v".into())).collect();
        assert_eq!(with(many.into()), HEADERS_MAX);
        let long = "v".repeat(HEADER_BYTES_MAX);
        assert_eq!(with(serde_json::json!({"X-A": "v", "X-B": long, "X-C": "v"})), 1);
    }

    #[test]
    fn other_messages() {
        for text in [
            r#"{"event":"pusher:ping","data":{}}"#,
            r#"{"event":"pusher:ping","data":""}"#,
            r#"{"event":"pusher:ping"}"#,
        ] {
            assert!(matches!(ClientMessage::parse(text), Ok(ClientMessage::Ping)));
        }
        assert!(matches!(ClientMessage::parse(r#"{"event":"pusher:pong","data":{}}"#), Ok(ClientMessage::Pong)));
        assert!(matches!(ClientMessage::parse(r#"{"event":"pusher:signin","data":{}}"#), Ok(ClientMessage::Unknown)));
        match ClientMessage::parse(r#"{"event":"pusher:unsubscribe","data":{"channel":"private-priv"}}"#) {
            Ok(ClientMessage::Unsubscribe(channel)) => assert_eq!(channel, "private-priv"),
            other => panic!("{other:?}"),
        }
        match ClientMessage::parse(
            r#"{"event":"client-typing","data":{"a": 1.0},"channel":"private-priv","user_id":"9"}"#,
        ) {
            Ok(ClientMessage::ClientEvent { event, channel, data }) => {
                assert_eq!(
                    (event.as_ref(), channel.as_ref(), data),
                    ("client-typing", "private-priv", Some(r#"{"a": 1.0}"#))
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bad_messages_are_named() {
        let deep = format!(r#"{{"event":"pusher:subscribe","data":{}1{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
        for text in [
            "",
            "null",
            "[]",
            "{}",
            "{",
            "\"x\"",
            r#"{"event":5}"#,
            r#"{"event":null}"#,
            r#"{"event":"pusher:subscribe"}"#,
            r#"{"event":"pusher:subscribe","data":5}"#,
            r#"{"event":"pusher:subscribe","data":{}}"#,
            r#"{"event":"pusher:subscribe","data":{"channel":5}}"#,
            r#"{"event":"pusher:subscribe","data":"{"}"#,
            r#"{"event":"client-x","data":{}}"#,
            r#"{"event":"client-x","channel":5}"#,
            r#"{"event":"pusher:ping","event":"pusher:ping"}"#,
            &deep,
        ] {
            assert!(ClientMessage::parse(text).is_err(), "{text:.60}");
        }
        let deep_data =
            format!(r#"{{"event":"client-x","channel":"c","data":{}{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
        let _ = ClientMessage::parse(&deep_data);
    }

    #[test]
    fn bytes_on_the_wire() {
        let socket_id: SocketId = "218656.9503498".parse().unwrap();
        assert_eq!(
            connection_established(socket_id, 120),
            r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\"218656.9503498\",\"activity_timeout\":120}"}"#
        );
        assert_eq!(
            subscription_succeeded("pub"),
            r#"{"event":"pusher_internal:subscription_succeeded","data":"{}","channel":"pub"}"#
        );
        let member = Member { user_id: "9".into(), user_info: r#"{"name":"Bob"}"#.into(), id_is_number: false };
        assert_eq!(
            member_added("presence-room", &member),
            r#"{"event":"pusher_internal:member_added","data":"{\"user_id\":\"9\",\"user_info\":{\"name\":\"Bob\"}}","channel":"presence-room"}"#
        );
        assert_eq!(
            member_removed("presence-room", "9"),
            r#"{"event":"pusher_internal:member_removed","data":"{\"user_id\":\"9\"}","channel":"presence-room"}"#
        );
        assert_eq!(
            error(Some(4001), "Application does not exist"),
            r#"{"event":"pusher:error","data":{"code":4001,"message":"Application does not exist"}}"#
        );
        assert_eq!(
            subscription_error("private-nope", "AuthError", "no", 401),
            r#"{"event":"pusher:subscription_error","channel":"private-nope","data":{"type":"AuthError","error":"no","status":401}}"#
        );
        assert_eq!(
            client_event("presence-room", "client-typing", Some(r#"{"a":1}"#), Some("7")),
            r#"{"event":"client-typing","channel":"presence-room","data":{"a":1},"user_id":"7"}"#
        );
        assert_eq!(
            channel_event("pub", r"App\Events\Ping", r#"{"x":"\u00fc\/"}"#),
            r#"{"event":"App\\Events\\Ping","channel":"pub","data":"{\"x\":\"\\u00fc\\/\"}"}"#
        );
    }

    proptest! {
        #[test]
        fn json_strings_round_trip(value in any::<String>()) {
            let mut text = String::new();
            push_json_string(&mut text, &value);
            prop_assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
        }

        #[test]
        fn any_text_is_a_message_or_a_sentence(text in any::<String>()) {
            let _ = ClientMessage::parse(&text);
        }
    }
}
