//! Pusher's signed HTTP API (protocol section 5): backends publish here.

use std::borrow::Cow;
use std::time::SystemTime;

use http::{Method, StatusCode};
use md5::{Digest, Md5};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::config::{App, Limits};
use crate::inbox::{AppIndex, Delivery};
use crate::protocol::channel::{ChannelName, NAME_BYTES_MAX};
use crate::protocol::signature;
use crate::protocol::{engineio, socketio};
use crate::publish::{Publisher, event_frame, socketio_event_frame};

/// How far a request's clock may be off, in seconds.
const TIMESTAMP_SECS_MAX: u64 = 600;

/// Channels that one request may name.
const CHANNELS_MAX: usize = 100;

/// A refusal: status and a sentence for whoever reads the client library's error.
#[derive(Debug, Eq, PartialEq)]
pub struct Refusal {
    /// HTTP status.
    pub status: StatusCode,
    /// What was wrong.
    pub error: String,
}

fn refusal<T>(status: StatusCode, error: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { status, error: error.into() })
}

/// Whether the request may speak for the app: key, timestamp, body digest and signature.
pub fn verify(
    app: &App,
    method: &Method,
    path: &str,
    query: &str,
    body: &[u8],
    now: SystemTime,
) -> Result<(), Refusal> {
    let parameters: Vec<(Cow<str>, Cow<str>)> = form_urlencoded::parse(query.as_bytes()).collect();
    let value = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref());
    let denied = |error: &str| refusal(StatusCode::UNAUTHORIZED, error);
    let Some(signature) = value("auth_signature") else {
        return denied("auth_signature is missing: requests must be signed with the app's secret");
    };
    if value("auth_key") != Some(&app.key) {
        return denied("auth_key is not the key of this app");
    }
    if value("auth_version") != Some("1.0") {
        return denied("auth_version must be 1.0");
    }
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    match value("auth_timestamp").and_then(|text| text.parse::<u64>().ok()) {
        Some(timestamp) if timestamp.abs_diff(now) <= TIMESTAMP_SECS_MAX => {}
        Some(timestamp) => {
            let error =
                format!("auth_timestamp {timestamp} is over {TIMESTAMP_SECS_MAX} s from this server's clock, {now}");
            return refusal(StatusCode::UNAUTHORIZED, error);
        }
        None => return denied("auth_timestamp is missing or no number"),
    }
    match value("body_md5") {
        Some(digest) if digest == signature::hex(&Md5::digest(body)) => {}
        Some(_) => return denied("body_md5 is not the digest of this body"),
        None if body.is_empty() => {}
        None => return denied("body_md5 is missing"),
    }
    let text = signature::request_text(method.as_str(), path, &parameters);
    if !signature::verify(app.secret.expose(), &text, signature) {
        return denied("the signature is wrong: the request was signed with another secret than clients[].secret");
    }
    Ok(())
}

/// An event as `POST /apps/{id}/events` takes it.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow, default)]
    channel: Option<Cow<'a, str>>,
    #[serde(default)]
    channels: Option<Vec<String>>,
    #[serde(borrow, default)]
    socket_id: Option<Cow<'a, str>>,
}

/// `POST /apps/{id}/events`: one event, for each of its channels.
pub fn deliveries(
    app: AppIndex,
    limits: &Limits,
    body: &[u8],
    publisher: &Publisher,
) -> Result<Vec<Delivery>, Refusal> {
    let event: Event = match serde_json::from_slice(body) {
        Ok(event) => event,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, format!("the body is no event: {error}")),
    };
    // Libraries send a string; anything else goes out as its JSON text.
    let data: Cow<str> = match serde_json::from_str::<String>(event.data.get()) {
        Ok(text) => Cow::Owned(text),
        Err(_) => Cow::Borrowed(event.data.get()),
    };
    if data.len() > limits.event_bytes {
        let (bytes, limit) = (data.len(), limits.event_bytes);
        let error = format!("the event's data has {bytes} bytes; {limit} are allowed (limits.eventBytes)");
        return refusal(StatusCode::PAYLOAD_TOO_LARGE, error);
    }
    if event.name.is_empty() || event.name.len() > NAME_BYTES_MAX {
        return refusal(StatusCode::BAD_REQUEST, format!("the event's name must have 1 to {NAME_BYTES_MAX} bytes"));
    }
    let names = match (event.channels, event.channel) {
        (Some(names), _) => names,
        (None, Some(name)) => vec![name.into_owned()],
        (None, None) => return refusal(StatusCode::BAD_REQUEST, "the event names no channel"),
    };
    if names.len() > CHANNELS_MAX {
        let error = format!("the event names {} channels; {CHANNELS_MAX} are allowed", names.len());
        return refusal(StatusCode::BAD_REQUEST, error);
    }
    // An id that is none of ours excludes nobody, as with the hosted service.
    let except = event.socket_id.and_then(|id| engineio::socket_id_of_client(&id));
    let delivery = |name: String| match ChannelName::parse(&name) {
        Ok(channel) => {
            let frame = event_frame(channel.as_str(), &event.name, &data);
            let socketio = publisher
                .for_socketio(|| socketio_event_frame(channel.as_str(), &event.name, &socketio::data_of_text(&data)));
            Ok(Delivery { app, channel, frame, socketio, except })
        }
        Err(error) => refusal(StatusCode::BAD_REQUEST, error.to_string()),
    };
    names.into_iter().map(delivery).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::ws::frame;
    use std::time::Duration;

    const BODY: &[u8] = br#"{"name":"foo","channels":["project-3"],"data":"{\"some\":\"data\"}"}"#;
    const QUERY: &str = "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0&body_md5=ec365a775a4cd0599faeb73354201b6f&auth_signature=da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c";

    fn app() -> App {
        App {
            id: "3".into(),
            key: "278d425bdf160c739803".into(),
            secret: Secret::new("7ad3773142a6692b25b8"),
            secret_is_random: false,
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn check(query: &str, body: &[u8], seconds: u64) -> Result<(), Refusal> {
        verify(&app(), &Method::POST, "/apps/3/events", query, body, at(seconds))
    }

    /// The worked example of protocol section 5.
    #[test]
    fn the_worked_example_is_accepted() {
        assert_eq!(check(QUERY, BODY, 1_353_088_179), Ok(()));
        assert_eq!(check(QUERY, BODY, 1_353_088_179 + 600), Ok(()));
        let signature_first: String = {
            let (rest, signature) = QUERY.rsplit_once('&').unwrap();
            format!("{signature}&{rest}")
        };
        assert_eq!(check(&signature_first, BODY, 1_353_088_179), Ok(()));
    }

    #[test]
    fn anything_else_is_refused() {
        let now = 1_353_088_179;
        for (query, body, seconds, word) in [
            (QUERY.to_owned(), BODY, now + 601, "auth_timestamp"),
            (QUERY.to_owned(), BODY, now - 601, "auth_timestamp"),
            (QUERY.to_owned(), &b"{}"[..], now, "body_md5"),
            (QUERY.replace("body_md5", "other"), BODY, now, "body_md5"),
            (QUERY.replace("6e6c", "6e6d").replace("457e6c", "457e6d"), BODY, now, "signature"),
            (QUERY.replace("auth_key=2", "auth_key=3"), BODY, now, "auth_key"),
            (QUERY.replace("1.0", "2.0"), BODY, now, "auth_version"),
            (format!("{QUERY}&extra=1"), BODY, now, "signature"),
            (String::new(), BODY, now, "auth_signature"),
        ] {
            let refusal = check(&query, body, seconds).unwrap_err();
            assert_eq!(refusal.status, StatusCode::UNAUTHORIZED);
            assert!(refusal.error.contains(word), "{query}: {}", refusal.error);
        }
        let path = verify(&app(), &Method::POST, "/apps/4/events", QUERY, BODY, at(now));
        assert_eq!(path.unwrap_err().status, StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn an_event_becomes_a_delivery_for_each_channel() {
        let body = br#"{"name":"foo","channels":["a","private-b"],"data":"{\"x\":1}","socket_id":"1.2"}"#;
        let deliveries = deliveries(AppIndex(0), &Limits::default(), body, &Publisher::new(Vec::new())).unwrap();
        assert_eq!(deliveries.len(), 2);
        let frame = frame::encode_text(r#"{"event":"foo","channel":"private-b","data":"{\"x\":1}"}"#);
        assert_eq!(deliveries[1].frame, frame);
        assert_eq!(deliveries[1].except, "1.2".parse().ok());
    }

    #[test]
    fn events_that_are_refused() {
        let many: Vec<String> = (0..101).map(|n| format!("c{n}")).collect();
        let many = format!(r#"{{"name":"e","data":"","channels":{}}}"#, serde_json::to_string(&many).unwrap());
        let large = format!(r#"{{"name":"e","data":"{}","channel":"c"}}"#, "x".repeat(10 * 1024 + 1));
        for (body, status) in [
            ("", 400),
            ("null", 400),
            (r#"{"data":"","channel":"c"}"#, 400),
            (r#"{"name":"e","channel":"c"}"#, 400),
            (r#"{"name":"e","data":""}"#, 400),
            (r#"{"name":"","data":"","channel":"c"}"#, 400),
            (r#"{"name":"e","data":"","channel":"a b"}"#, 400),
            (r#"{"name":"e","data":"","channels":"c"}"#, 400),
            (&many, 400),
            (&large, 413),
        ] {
            let refusal =
                deliveries(AppIndex(0), &Limits::default(), body.as_bytes(), &Publisher::new(Vec::new())).unwrap_err();
            assert_eq!(refusal.status.as_u16(), status, "{body:.60}");
        }
        assert_eq!(
            deliveries(
                AppIndex(0),
                &Limits::default(),
                br#"{"name":"e","data":"","channel":"c"}"#,
                &Publisher::new(Vec::new())
            )
            .unwrap()
            .len(),
            1
        );
    }
}
