//! What Laravel's `redis` broadcaster publishes, read no further than needed.
//!
//! A payload is `{"event":NAME,"data":…,"socket":…}`. The event's name and the socket are
//! read; `data` stays the text that Laravel wrote, since decoding and encoding it again would
//! cost time and change its numbers and escapes. Channel names are not looked at here: the
//! Redis key prefix is [`prefix`](super::prefix)'s business. Begin with [`parse`].

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::{SocketId, engineio};

/// One event as published. Borrows from the payload.
#[derive(Clone, Debug, PartialEq)]
pub struct Broadcast<'a> {
    /// The event's name: what `broadcastAs()` gave, or the class.
    pub event: Cow<'a, str>,
    /// `data`, JSON exactly as published; `null` where there is none.
    pub data: &'a str,
    /// The connection that shall not get it (`toOthers()`), where `socket` is the id of one.
    pub except: Option<SocketId>,
    /// `socket` stands in the payload and again within `data`, as Laravel alone writes it.
    /// Payloads made by hand have it once or not at all.
    pub from_laravel: bool,
    /// `socket` is there and not `null`.
    names_a_socket: bool,
    /// Where in `data` that inner `socket` stands, with one of its commas.
    inner_socket: Option<Range<usize>>,
}

/// Why a payload is no event. Never contains any of the payload, which may be private.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BroadcastError {
    /// A number, a word, a keyspace notification, a serialised PHP value.
    #[error("the payload is not a JSON object")]
    NotAnObject,
    /// Laravel escapes everything beyond ASCII, so this is something else's or compressed.
    #[error("the payload is not UTF-8 (first wrong byte at {0})")]
    NotUtf8(usize),
    /// Begins like a JSON object, but is none.
    #[error("the payload is not valid JSON (line {line}, column {column})")]
    NotJson {
        /// Counted from 1.
        line: usize,
        /// In bytes, counted from 1.
        column: usize,
    },
    /// JSON, but of something else.
    #[error("the payload has no \"event\"")]
    NoEvent,
    /// As in the old server's own `PresenceChannelUpdated`.
    #[error("the payload's \"event\" is not a string")]
    EventNotAString,
}

/// Reads a payload.
///
/// Of a key that occurs twice the last one counts, as in PHP and JavaScript. `data` may be
/// nested as deeply as it likes: it is skipped without recursion.
pub fn parse(payload: &[u8]) -> Result<Broadcast<'_>, BroadcastError> {
    // First of all, since other traffic of a shared Redis ends here: cheaply.
    if payload.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(BroadcastError::NotAnObject);
    }
    let text = std::str::from_utf8(payload).map_err(|error| BroadcastError::NotUtf8(error.valid_up_to()))?;
    let envelope: Envelope<'_> = serde_json::from_str(text)
        .map_err(|error| BroadcastError::NotJson { line: error.line(), column: error.column() })?;
    let event = string(envelope.event.ok_or(BroadcastError::NoEvent)?).ok_or(BroadcastError::EventNotAString)?;
    let data = envelope.data.unwrap_or("null");
    let inner_socket = envelope.socket.and_then(|socket| inner_socket(data, socket));
    Ok(Broadcast {
        event,
        data,
        except: envelope.socket.and_then(string).and_then(|socket| engineio::socket_id_of_client(&socket)),
        from_laravel: inner_socket.is_some(),
        names_a_socket: envelope.socket.is_some_and(|socket| socket != "null"),
        inner_socket,
    })
}

impl<'a> Broadcast<'a> {
    /// `data` as Laravel's `pusher` driver would have sent it.
    ///
    /// Laravel puts `socket` into `data` too, and its pusher driver takes it out again. So the
    /// member `socket` of `data` is removed if its value is that of the outer one, to the byte,
    /// with the spaces around it; all else is kept. Laravel appends it as the last member, unless the event's own data
    /// had that key: then the value is replaced where it stood.
    pub fn data_for_pusher(&self) -> Cow<'a, str> {
        match &self.inner_socket {
            None => Cow::Borrowed(self.data),
            Some(member) => Cow::Owned([&self.data[..member.start], &self.data[member.end..]].concat()),
        }
    }

    /// `data` for Socket.IO clients: as published, `"socket":null` included, as the old server sent
    /// it. But whose event it is, nobody else need know: with a polling client's id one could take its session over.
    pub fn data_for_socketio(&self) -> Cow<'a, str> {
        if self.names_a_socket { self.data_for_pusher() } else { Cow::Borrowed(self.data) }
    }
}

/// Where the member `socket` with this raw value stands in `data`.
fn inner_socket(data: &str, socket: &str) -> Option<Range<usize>> {
    if !data.starts_with('{') {
        return None;
    }
    // A quote that follows a comma directly begins a string (within a string it would be
    // escaped, and one that ends a string cannot be followed by a bare word), so this is
    // the last member of the outermost object.
    let rest = data.strip_suffix('}').and_then(|rest| rest.strip_suffix(socket));
    match rest.and_then(|rest| rest.strip_suffix(",\"socket\":")) {
        Some(rest) => Some(rest.len()..data.len() - 1),
        None => find_member(data, "\"socket\"", socket),
    }
}

/// The last member of the object with this key (as spelled, quotes included) and this value,
/// with one of its commas. `object` must be valid JSON; if it is not, the answer is wrong but
/// still within bounds.
fn find_member(object: &str, key: &str, value: &str) -> Option<Range<usize>> {
    let bytes = object.as_bytes();
    let mut found = None;
    let mut depth = 0_usize;
    // Of the member being read: its comma or brace, its first byte, and where its value begins.
    let (mut lead, mut start, mut value_start) = (0, 0, None);
    let mut at = 0;
    while at < bytes.len() {
        let here = at;
        at += 1;
        match bytes[here] {
            b'"' => {
                at = string_end(bytes, here);
                if depth == 1 && value_start.is_none() {
                    start = here;
                }
            }
            b'[' => depth += 1,
            b'{' => {
                depth += 1;
                if depth == 1 {
                    lead = here;
                }
            }
            b':' if depth == 1 => value_start = Some(at),
            byte @ (b',' | b']' | b'}') => {
                if depth == 1 {
                    if value_start.is_some_and(|value_start| {
                        object[start..value_start - 1].trim_end() == key && object[value_start..here].trim() == value
                    }) {
                        found = Some(match (bytes[lead], byte) {
                            (b',', _) => lead..here,
                            (_, b',') => start..at,
                            _ => start..here,
                        });
                    }
                    (lead, value_start) = (here, None);
                }
                if byte != b',' {
                    depth = depth.saturating_sub(1);
                }
            }
            _ => {}
        }
    }
    found
}

/// The index after the string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The content of a JSON string, given raw; `None` for other values.
fn string(raw: &str) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

    serde_json::from_str::<Text<'_>>(raw).ok().map(|text| text.0)
}

/// The outermost object. By hand, since a derived one would refuse a key that occurs twice
/// and could not tell `null` from nothing.
#[derive(Default)]
struct Envelope<'a> {
    event: Option<&'a str>,
    data: Option<&'a str>,
    socket: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Event,
    Data,
    Socket,
    #[serde(other)]
    Other,
}

impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;

        impl<'de> Visitor<'de> for Members {
            type Value = Envelope<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Envelope<'de>, A::Error> {
                let mut envelope = Envelope::default();
                while let Some(key) = members.next_key()? {
                    let value = match key {
                        Key::Event => &mut envelope.event,
                        Key::Data => &mut envelope.data,
                        Key::Socket => &mut envelope.socket,
                        Key::Other => {
                            members.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *value = Some(members.next_value::<&RawValue>()?.get());
                }
                Ok(envelope)
            }
        }

        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn read(payload: &str) -> Broadcast<'_> {
        parse(payload.as_bytes()).unwrap()
    }

    fn pusher_data(data: &str, socket: &str) -> String {
        read(&format!(r#"{{"event":"e","data":{data},"socket":{socket}}}"#)).data_for_pusher().into_owned()
    }

    #[test]
    fn what_laravel_publishes() {
        let payload = concat!(
            r#"{"event":"message.sent","data":{"id":2,"content":"\u00dcn\u00ef\/\"q\" <b> \ud83c\udf89 \u2028","#,
            r#""rate":1.0,"socket":"1234.5678"},"socket":"1234.5678"}"#
        );
        let broadcast = read(payload);
        assert_eq!(broadcast.event, "message.sent");
        assert_eq!(broadcast.except, "1234.5678".parse().ok());
        assert!(broadcast.except.is_some() && broadcast.from_laravel);
        assert_eq!(
            broadcast.data_for_pusher(),
            r#"{"id":2,"content":"\u00dcn\u00ef\/\"q\" <b> \ud83c\udf89 \u2028","rate":1.0}"#
        );

        let broadcast =
            read(r#"{"event":"App\\Events\\PlainEvent","data":{"data":{"n":1},"socket":null},"socket":null}"#);
        assert_eq!(broadcast.event, "App\\Events\\PlainEvent");
        assert_eq!((broadcast.except, broadcast.from_laravel), (None, true));
        assert_eq!(broadcast.data_for_pusher(), r#"{"data":{"n":1}}"#);

        assert_eq!(pusher_data(r#"{"socket":null}"#, "null"), "{}");
        assert_eq!(pusher_data(r#"{"0":1,"1":2,"socket":null}"#, "null"), r#"{"0":1,"1":2}"#);
        assert_eq!(pusher_data(r#"{"list":[],"map":[],"socket":""}"#, r#""""#), r#"{"list":[],"map":[]}"#);
    }

    #[test]
    fn only_a_socket_id_excludes() {
        for socket in ["null", r#""""#, r#""abcDEF_-123""#, "1234.5678", r#""01.2""#, r#"{"a":1}"#, "[]"] {
            let payload = format!(r#"{{"event":"e","data":{{"socket":{socket}}},"socket":{socket}}}"#);
            assert_eq!(read(&payload).except, None, "{socket}");
            assert!(read(&payload).from_laravel);
        }
        assert_eq!(read(r#"{"socket":"\u0031.2","event":"e"}"#).except, "1.2".parse().ok());
    }

    #[test]
    fn what_other_hands_publish() {
        let broadcast = read(r#" { "event" : "e" } "#);
        assert_eq!((broadcast.data, broadcast.from_laravel), ("null", false));
        assert!(!read(r#"{"event":"e","data":1}"#).from_laravel);
        assert!(!read(r#"{"event":"e","socket":null}"#).from_laravel);
        assert!(!read(r#"{"event":"e","data":{"id":1},"socket":null}"#).from_laravel);
        assert_eq!(read(r#"{"event":"a","\u0065vent":"b","data":1,"x":{"data":3},"data":2}"#).data, "2");
        assert_eq!(read(r#"{"event":"a","\u0065vent":"b"}"#).event, "b");
        // Without an outer socket, the inner one is the application's own.
        assert_eq!(read(r#"{"event":"e","data":{"socket":null}}"#).data_for_pusher(), r#"{"socket":null}"#);
    }

    #[test]
    fn errors_say_what_was_wrong() {
        use BroadcastError::*;
        for (payload, error) in [
            (&b""[..], NotAnObject),
            (b"set", NotAnObject),
            (b"null", NotAnObject),
            (b"[{\"event\":\"e\"}]", NotAnObject),
            (b"\"text\"", NotAnObject),
            (b"{\"event\":\"\xff\"}", NotUtf8(10)),
            (b"{", NotJson { line: 1, column: 1 }),
            (b"{\"event\":\"e\"} x", NotJson { line: 1, column: 15 }),
            (b"{\n1:2}", NotJson { line: 2, column: 1 }),
            (b"{\"event\":\"e\",\"data\":{\"a\":}}", NotJson { line: 1, column: 26 }),
            (b"{}", NoEvent),
            (b"{\"Event\":\"e\"}", NoEvent),
            (b"{\"event\":null}", EventNotAString),
            (b"{\"event\":7}", EventNotAString),
            (b"{\"event\":{\"channel\":\"presence-k:members\",\"members\":[]}}", EventNotAString),
        ] {
            assert_eq!(parse(payload), Err(error), "{}", payload.escape_ascii());
        }
    }

    #[test]
    fn errors_never_quote_the_payload() {
        for payload in
            ["{\"event\":\"s3cret", "{\"s3cret\":1}", "s3cret", "{\"event\":s3cret}", "{\"event\":[\"s3cret\"]}"]
        {
            assert!(!parse(payload.as_bytes()).unwrap_err().to_string().contains("s3cret"));
        }
    }

    /// On a thread with a stack that recursion would soon exhaust.
    #[test]
    fn deep_nesting_needs_no_stack() {
        let run = || {
            let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
            let objects = format!("{}1{}", r#"{"socket":"#.repeat(100_000), "}".repeat(100_000));
            for data in [&deep, &objects] {
                let payload = format!(r#"{{"event":"e","x":{deep},"data":{data},"socket":null}}"#);
                assert_eq!(read(&payload).data_for_pusher(), *data);
            }
            let payload = format!(r#"{{"event":{deep},"data":1,"socket":{deep}}}"#);
            assert_eq!(parse(payload.as_bytes()), Err(BroadcastError::EventNotAString));
            assert!(parse("{\"data\":[".repeat(100_000).as_bytes()).is_err());
        };
        std::thread::Builder::new().stack_size(256 * 1024).spawn(run).unwrap().join().unwrap();
    }

    #[test]
    fn inner_socket_wherever_it_stands() {
        for (data, expected) in [
            (r#"{"socket":null,"a":1}"#, r#"{"a":1}"#),
            (r#"{"a":1,"socket":null,"b":2}"#, r#"{"a":1,"b":2}"#),
            (r#"{ "socket" : null }"#, r#"{ }"#),
            (r#"{ "a" : 1 , "socket" : null }"#, r#"{ "a" : 1 }"#),
            (r#"{ "socket" : null , "a" : 1 }"#, r#"{  "a" : 1 }"#),
            (r#"{"a":{"socket":null}}"#, r#"{"a":{"socket":null}}"#),
            (r#"{"a":[{"b":1,"socket":null}]}"#, r#"{"a":[{"b":1,"socket":null}]}"#),
            (r#"{"a":[1,"socket",null]}"#, r#"{"a":[1,"socket",null]}"#),
            (r#"{"a":"socket","b":null}"#, r#"{"a":"socket","b":null}"#),
            (r#"{"a":",\"socket\":null}"}"#, r#"{"a":",\"socket\":null}"}"#),
            (r#"{"a":"\\","socket":null}"#, r#"{"a":"\\"}"#),
            (r#"{"a":"{","socket":null,"b":"}"}"#, r#"{"a":"{","b":"}"}"#),
            (r#"{"socket":{"socket":null}}"#, r#"{"socket":{"socket":null}}"#),
            (r#"{"socket":1,"a":null}"#, r#"{"socket":1,"a":null}"#),
            (r#"{"sockets":null}"#, r#"{"sockets":null}"#),
            (r#"["socket",null]"#, r#"["socket",null]"#),
            (r#""socket""#, r#""socket""#),
            ("null", "null"),
            ("{}", "{}"),
        ] {
            assert_eq!(pusher_data(data, "null"), expected, "{data}");
        }
        assert_eq!(pusher_data(r#"{"socket":{"a":[1,","]},"b":1}"#, r#"{"a":[1,","]}"#), r#"{"b":1}"#);
        assert_eq!(pusher_data(r#"{"b":1,"socket":"9"}"#, r#""8""#), r#"{"b":1,"socket":"9"}"#);
    }

    /// Texts that would mislead a scan which does not know strings.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-z\"\\\\{}\\[\\],:é\u{1f389}]{0,12}",
            Just("socket".to_owned()),
            Just("sockets".to_owned()),
            Just(",\"socket\":null}".to_owned()),
            Just("\"socket\":\"1.2\",".to_owned()),
            Just("\\".to_owned()),
        ]
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            text().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((text(), inner), 0..5).prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    fn write(members: &[(String, Value)], pretty: bool) -> String {
        let write = |value: &Value| {
            if pretty { serde_json::to_string_pretty(value).unwrap() } else { value.to_string() }
        };
        let gap = if pretty { " \n" } else { "" };
        let members: Vec<String> =
            members.iter().map(|(key, value)| format!("{gap}{}{gap}:{gap}{}{gap}", json!(key), write(value))).collect();
        format!("{{{gap}{}}}", members.join(","))
    }

    proptest! {
        #[test]
        fn removes_just_the_inner_socket(
            others in prop::collection::btree_map(text().prop_filter("own key", |key| key != "socket"), value(), 0..5),
            socket in value(),
            inner in prop::option::of(any::<prop::sample::Index>()),
            same in any::<bool>(),
            pretty in any::<bool>(),
        ) {
            let mut members: Vec<(String, Value)> = others.into_iter().collect();
            let expected: Map<String, Value> = members.iter().cloned().collect();
            let mut with_socket = expected.clone();
            if let Some(index) = inner {
                let inner = if same { socket.clone() } else { json!({ "other": socket }) };
                with_socket.insert("socket".to_owned(), inner.clone());
                members.insert(index.index(members.len() + 1), ("socket".to_owned(), inner));
            }
            let data = write(&members, pretty);
            let raw_socket = if pretty { serde_json::to_string_pretty(&socket).unwrap() } else { socket.to_string() };
            let payload = format!(r#"{{"event":"e","data":{data},"socket":{raw_socket}}}"#);
            let broadcast = read(&payload);
            prop_assert_eq!(broadcast.data, &data);
            let out = broadcast.data_for_pusher();
            let expected = if inner.is_some() && !same { with_socket } else { expected };
            prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), Value::from(expected));
            if inner.is_none() || !same {
                prop_assert_eq!(out, data);
            } else if !pretty {
                let without: Vec<_> = members.into_iter().filter(|(key, _)| key != "socket").collect();
                prop_assert_eq!(out, write(&without, false));
            }
        }

        #[test]
        fn any_bytes_give_an_answer(payload in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&payload).map(|broadcast| broadcast.data_for_pusher().len());
        }

        #[test]
        fn any_json_like_text_gives_an_answer(data in "[a-z\"\\\\{}\\[\\],: é0-9]{0,40}") {
            let payload = format!(r#"{{"event":"e","data":{data},"socket":null}}"#);
            if let Ok(broadcast) = parse(payload.as_bytes()) {
                let out = broadcast.data_for_pusher();
                prop_assert!(serde_json::from_str::<IgnoredAny>(&out).is_ok(), "{}", out);
            }
        }
    }
}
