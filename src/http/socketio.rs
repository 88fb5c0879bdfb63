//! Engine.IO's requests: the polling transport, and the handshake of its WebSockets. The sessions
//! are the shards'; a request goes to the one that its sid names, and waits here for the answer.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::{Body as _, Incoming};
use tokio::sync::oneshot;

use super::{
    Body, Front, Open, Stream, collect, credentials, error, full, hand_over, has_no_room, json, new_socket_id, switch,
};
use crate::address::Source;
use crate::inbox::{AppIndex, Control, Form, NewClient, OneMore, Poll, PollAnswer, PollRequest, ShardHandle, SocketIo};
use crate::protocol::engineio::{BODY_BYTES_MAX, Sid, Version};
use crate::protocol::pusher;
use crate::ws;

/// A refusal as Engine.IO words it; its clients know the codes.
struct Refusal(StatusCode, u8, Cow<'static, str>);

const TRANSPORT_UNKNOWN: Refusal = Refusal(StatusCode::BAD_REQUEST, 0, Cow::Borrowed("Transport unknown"));
const SID_UNKNOWN: Refusal = Refusal(StatusCode::BAD_REQUEST, 1, Cow::Borrowed("Session ID unknown"));
const BAD_METHOD: Refusal = Refusal(StatusCode::BAD_REQUEST, 2, Cow::Borrowed("Bad handshake method"));
const FORBIDDEN: Refusal = Refusal(StatusCode::FORBIDDEN, 4, Cow::Borrowed("Forbidden"));
const BAD_VERSION: Refusal = Refusal(StatusCode::BAD_REQUEST, 5, Cow::Borrowed("Unsupported protocol version"));

const TOO_BUSY: Refusal =
    Refusal(StatusCode::SERVICE_UNAVAILABLE, 3, Cow::Borrowed("Too many long bodies are arriving"));

/// POSTs with longer bodies than this, in bytes, take turns.
const BODY_BYTES_SHORT: u64 = 64 * 1024;

/// How many of them may arrive at once.
pub(super) const LONG_BODIES_MAX: usize = 32;

/// How long one waits for its turn.
const TURN_WAIT: Duration = Duration::from_secs(30);

fn over_capacity() -> Refusal {
    Refusal(StatusCode::SERVICE_UNAVAILABLE, 3, "Over capacity".into())
}

fn bad_request(message: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, 3, message.into())
}

/// The longest list of headers that a page may ask leave for, in bytes.
const REQUESTED_HEADERS_BYTES_MAX: usize = 1024;

/// What the query of a request says.
#[derive(Default)]
struct Query {
    version: Option<String>,
    transport: String,
    sid: Option<String>,
    key: Option<String>,
    is_jsonp: bool,
}

impl Query {
    fn read(query: &str) -> Self {
        let mut read = Self::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "EIO" => read.version = Some(value.into_owned()),
                "transport" => read.transport = value.into_owned(),
                "sid" => read.sid = Some(value.into_owned()),
                "key" => read.key = Some(value.into_owned()),
                "j" => read.is_jsonp = true,
                _ => {}
            }
        }
        read
    }

    /// The old server asked nobody, and spoke version 3.
    fn version(&self) -> Result<Version, Refusal> {
        match self.version.as_deref() {
            None | Some("3") => Ok(Version::V3),
            Some("4") => Ok(Version::V4),
            Some(_) => Err(BAD_VERSION),
        }
    }
}

/// What a request says of its session.
type Asked<'a> = (&'a Query, Version, Option<(Sid, &'a ShardHandle)>);

/// Answers a request for `socketio.path`.
pub(super) async fn respond<S: Stream>(open: Arc<Open>, request: Request<Incoming>, source: &Source) -> Response<Body> {
    let front = open.front.clone();
    let path = request.uri().path().strip_prefix(front.config.socketio.path.as_str()).unwrap_or_default();
    if path.len() > 1 {
        return script(&front, path);
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    let is_upgrade = request.headers().contains_key(header::UPGRADE);
    let requested = request.headers().get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let mut response = match answer::<S>(open, request, source).await {
        Ok(response) => response,
        Err(Refusal(status, _, message)) if is_upgrade => {
            let mut response = Response::new(full(Bytes::from(message.into_owned())));
            *response.status_mut() = status;
            response
        }
        Err(Refusal(status, code, message)) => {
            let mut text = format!("{{\"code\":{code},\"message\":");
            pusher::push_json_string(&mut text, &message);
            text.push('}');
            json(status, text)
        }
    };
    put_cors(response.headers_mut(), origin, requested);
    response
}

/// The Socket.IO client, for pages that load it from here.
fn script(front: &Front, path: &str) -> Response<Body> {
    match &front.client_script {
        Some(script) if path == "/socket.io.js" => {
            let mut response = Response::new(full(script.clone()));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/javascript; charset=utf-8"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=3600"));
            response
        }
        _ => error(
            StatusCode::NOT_FOUND,
            "the Socket.IO client is not here: take it from the npm package socket.io-client, version 2 for \
             laravel-echo, into your bundle, or name a copy of its dist/socket.io.js as socketio.clientScript",
        ),
    }
}

/// Any page may read what its own session gets, as with a WebSocket, to which CORS does not apply. A
/// page of another site gains nothing by the visitor's cookie: `auth::callback` leaves it out.
fn put_cors(headers: &mut HeaderMap, origin: Option<HeaderValue>, requested: Option<HeaderValue>) {
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if origin.is_some() {
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.unwrap_or(HeaderValue::from_static("*")));
    let is_list = |value: &HeaderValue| {
        value.len() <= REQUESTED_HEADERS_BYTES_MAX
            && value.to_str().is_ok_and(|list| list.split(',').all(|name| name.trim().parse::<HeaderName>().is_ok()))
    };
    if let Some(requested) = requested.filter(is_list) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, requested);
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
        headers.append(header::VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
    }
}

async fn answer<S: Stream>(
    open: Arc<Open>,
    request: Request<Incoming>,
    source: &Source,
) -> Result<Response<Body>, Refusal> {
    let front = open.front.clone();
    let settings = &front.config.socketio;
    let query = Query::read(request.uri().query().unwrap_or_default());
    if let Some(origin) = request.headers().get(header::ORIGIN)
        && !settings.origins.is_empty()
        && !settings.origins.iter().any(|entry| matches_entry(entry, origin.to_str().unwrap_or_default()))
    {
        return Err(FORBIDDEN);
    }
    if request.method() == Method::OPTIONS {
        return Ok(Response::new(full(Bytes::new())));
    }
    if query.is_jsonp {
        return Err(bad_request("JSONP polling is not supported; every browser since 2012 can do without"));
    }
    let version = query.version()?;
    let sid = match &query.sid {
        None => None,
        Some(text) => {
            let sid: Sid = text.parse().map_err(|_| SID_UNKNOWN)?;
            let shard = front.publisher.shards().get(usize::from(sid.shard)).ok_or(SID_UNKNOWN)?;
            Some((sid, shard))
        }
    };
    match query.transport.as_str() {
        "polling" if settings.polling => polling(&open, request, (&query, version, sid), source).await,
        "websocket" if settings.websocket => websocket::<S>(open, request, (&query, version, sid), source),
        _ => Err(TRANSPORT_UNKNOWN),
    }
}

// --- polling -------------------------------------------------------------------------------

async fn polling(
    open: &Open,
    request: Request<Incoming>,
    (query, version, sid): Asked<'_>,
    source: &Source,
) -> Result<Response<Body>, Refusal> {
    let front = &*open.front;
    let method = request.method().clone();
    match (sid, method) {
        (None, Method::GET) => {
            let (app, sid, shard, by_address) = admit(open, query, source)?;
            let settings = &front.config.socketio;
            let may_upgrade = settings.websocket && settings.allow_upgrades;
            let client = NewClient {
                app,
                socket_id: sid.socket_id,
                credentials: Arc::new(credentials(request.headers())),
                counted: front.count(app, Form::SocketIo, by_address),
                form: Form::SocketIo,
                inflates: false,
                socketio: Some(SocketIo::Polling { sid, version, may_upgrade }),
                browser: None,
            };
            shard.connections().fetch_add(1, Ordering::Relaxed);
            wait(shard, sid, 0, Poll::Open(client)).await
        }
        (None, _) => Err(BAD_METHOD),
        (Some((sid, shard)), Method::GET) => {
            let number = front.polls.fetch_add(1, Ordering::Relaxed) + 1;
            wait(shard, sid, number, Poll::Get(number)).await
        }
        (Some((sid, shard)), Method::POST) => post(front, request.into_body(), sid, shard).await,
        _ => Err(bad_request("Bad request")),
    }
}

async fn post(front: &Front, body: Incoming, sid: Sid, shard: &ShardHandle) -> Result<Response<Body>, Refusal> {
    // Whose session it is shows when the body is here, and anybody can send one: until its turn nothing of it is read.
    let is_long = body.size_hint().upper().is_none_or(|bytes| bytes > BODY_BYTES_SHORT);
    let mut _turn = None;
    if is_long {
        let turn = tokio::time::timeout(TURN_WAIT, front.long_bodies.acquire());
        _turn = Some(turn.await.map_err(|_| TOO_BUSY)?);
    }
    match collect(front, body, BODY_BYTES_MAX).await {
        Ok(body) => ask(shard, sid, Poll::Post(body)).await,
        Err((status, sentence)) => Err(Refusal(status, 3, sentence.into())),
    }
}

/// A poll that the client waits for. Dropped before its answer is there, it tells the shard.
struct Waiting<'a> {
    shard: &'a ShardHandle,
    sid: Sid,
    number: u64,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.shard.tell(Control::PollGone { sid: self.sid, number: self.number });
        }
    }
}

async fn wait(shard: &ShardHandle, sid: Sid, number: u64, what: Poll) -> Result<Response<Body>, Refusal> {
    let mut waiting = Waiting { shard, sid, number, answered: false };
    let answer = ask(shard, sid, what).await;
    waiting.answered = true;
    answer
}

async fn ask(shard: &ShardHandle, sid: Sid, what: Poll) -> Result<Response<Body>, Refusal> {
    let (answer, answered) = oneshot::channel();
    shard.tell(Control::Poll(Box::new(PollRequest { sid, what, answer })));
    let text = |media_type, text: String| {
        let mut response = Response::new(full(Bytes::from(text)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
        response
    };
    match answered.await {
        Ok(PollAnswer::Payload(payload)) => Ok(text("text/plain; charset=UTF-8", payload)),
        Ok(PollAnswer::Ok) => Ok(text("text/html", "ok".to_owned())),
        Ok(PollAnswer::Bad(why)) => Err(bad_request(why)),
        Ok(PollAnswer::Twice) => {
            let what = "Two polls at once: the session has ended";
            Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, 3, what.into()))
        }
        Err(_) => Err(SID_UNKNOWN),
    }
}

// --- WebSocket -----------------------------------------------------------------------------

fn websocket<S: Stream>(
    open: Arc<Open>,
    request: Request<Incoming>,
    (query, version, sid): Asked<'_>,
    source: &Source,
) -> Result<Response<Body>, Refusal> {
    let front = open.front.clone();
    let accept = ws::accept_key(request.method(), request.headers())
        .map_err(|why| bad_request(format!("Bad request: {why}")))?;
    let mut by_address = None;
    let (app, sid, what) = match sid {
        // Beside its session it is a connection of its own, until it takes over; refused, the client polls on.
        Some(_) if has_no_room(&front, source) => return Err(over_capacity()),
        Some((sid, _)) if front.config.socketio.allow_upgrades => (AppIndex(0), sid, SocketIo::Upgrade(sid)),
        Some(_) => return Err(bad_request("Bad request: upgrades are switched off (socketio.allowUpgrades)")),
        None => {
            let (app, sid, _, counted) = admit(&open, query, source)?;
            by_address = counted;
            (app, sid, SocketIo::WebSocket(sid, version))
        }
    };
    let credentials = Arc::new(credentials(request.headers()));
    Ok(switch(request, &accept, async move |stream: S, leftover| {
        let shard = &open.front.publisher.shards()[usize::from(sid.shard)];
        let counted = match what {
            SocketIo::Upgrade(_) => [None, None, None],
            _ => open.front.count(app, Form::SocketIo, by_address),
        };
        let client = NewClient {
            app,
            socket_id: sid.socket_id,
            credentials,
            counted,
            form: Form::SocketIo,
            inflates: false,
            socketio: Some(what),
            browser: None,
        };
        hand_over(shard, stream, leftover, client);
    }))
}

/// A new session's app, sid and shard. Clients of the old server name no app; they get the first one,
/// unless `key` in the query names another.
fn admit<'a>(
    open: &'a Open,
    query: &Query,
    source: &Source,
) -> Result<(AppIndex, Sid, &'a ShardHandle, Option<OneMore>), Refusal> {
    let front = &*open.front;
    let apps = &front.config.apps;
    let index = match &query.key {
        None => front.config.first_app,
        Some(key) => apps
            .iter()
            .position(|app| app.key == *key)
            .ok_or_else(|| bad_request("no app has this key (clients[].key)"))?,
    };
    let socket_id = new_socket_id(front, index, source).ok_or_else(over_capacity)?;
    let by_address = open.count_client(source).ok_or_else(over_capacity)?;
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).map_err(|error| {
        tracing::error!("no random number for a session id: {error}");
        over_capacity()
    })?;
    let (shard, shard_index) = front.idle_shard();
    let sid = Sid::new(socket_id, shard_index as u16, u128::from_ne_bytes(secret));
    Ok((AppIndex(index as u16), sid, shard, by_address))
}

/// An entry of `socketio.origins`, in the forms of Socket.IO 2: `*:*`, `host:port` where each may be
/// `*`, with or without the scheme. Without a port it is any.
fn matches_entry(entry: &str, origin: &str) -> bool {
    let entry = entry.trim().trim_end_matches('/');
    if matches!(entry, "*" | "*:*") {
        return true;
    }
    let Ok(origin) = url::Url::parse(origin) else { return false };
    let (scheme, authority) = match entry.split_once("://") {
        Some((scheme, authority)) => (Some(scheme), authority),
        None => (None, entry),
    };
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, "*"),
    };
    scheme.is_none_or(|scheme| scheme.eq_ignore_ascii_case(origin.scheme()))
        && (host == "*" || origin.host_str().is_some_and(|it| it.eq_ignore_ascii_case(host)))
        && (port == "*" || origin.port_or_known_default().is_some_and(|it| it.to_string() == port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_in_the_forms_of_socketio() {
        for (entry, origin, expected) in [
            ("*:*", "https://a.test", true),
            ("*", "null", true),
            ("https://a.test", "https://a.test", true),
            ("https://a.test", "http://a.test", false),
            ("https://a.test:443", "https://a.test", true),
            ("a.test:*", "http://a.test:8080", true),
            ("a.test:80", "http://a.test", true),
            ("a.test:80", "https://a.test", false),
            ("*:8080", "http://b.test:8080", true),
            ("a.test", "http://a.test.evil.test", false),
            ("a.test", "null", false),
            ("[::1]:8080", "http://[::1]:8080", true),
        ] {
            assert_eq!(matches_entry(entry, origin), expected, "{entry} {origin}");
        }
    }
}
