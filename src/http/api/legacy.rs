//! The old server's HTTP API: the same paths as Pusher's, with bodies of its own, for requests that name an
//! app's key in place of a signature (the old server's specification, section 4).
//!
//! The key stands in every browser, so it is no secret. It is taken from this machine alone, from a request
//! that has come straight from there: through no proxy, and from no web page but those of `apiOriginAllow`. A page
//! of any site that is open in a browser on this machine can send requests here, or have its own name
//! lead here. `httpApiKeyAuth` decides otherwise.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::cors::{page, preflight};
use super::events::{self, Written};
use super::signed::{self, Parameters};
use super::{BODY_BYTES_EXTRA, Endpoint, Named, Refusal, Route, body_bytes_max, is_switched_on, log, text};
use crate::address::Source;
use crate::config::{Config, KeyAuth, Limits};
use crate::http::{Body, Front, collect, discard, error, full};
use crate::inbox::{AppIndex, Counts, Found, Query};
use crate::protocol::channel::{Access, ChannelName, access};
use crate::protocol::presence::Member;

mod admission;

/// Whether a program on this machine has sent the request, and no proxy on this machine for somebody else.
pub(in crate::http) fn came_straight_from_here(parts: &http::request::Parts, source: &Source) -> bool {
    admission::came_straight_from_here(parts, source).is_ok()
}

/// What the old server said, for scripts, and a sentence for people.
#[derive(Debug, Eq, PartialEq)]
struct Denied {
    status: StatusCode,
    error: String,
    message: Option<String>,
}

impl Denied {
    fn unauthorized(message: impl Into<String>) -> Self {
        Self { status: StatusCode::FORBIDDEN, error: "Unauthorized".into(), message: Some(message.into()) }
    }

    fn no_event(message: impl Into<String>) -> Self {
        let error = "Event must include channel, event name and data".into();
        Self { status: StatusCode::BAD_REQUEST, error, message: Some(message.into()) }
    }
}

impl From<Refusal> for Denied {
    fn from(Refusal { status, error }: Refusal) -> Self {
        Self { status, error, message: None }
    }
}

/// Whether the old server's answer is meant: it knows the path, and the request is not signed. Laravel's
/// `pusher` driver signs also where nobody has given it the secret, and the old server did not look.
pub(super) fn is_meant<B>(config: &Config, request: &Request<B>, route: &Route) -> bool {
    use Endpoint::{Channel, Channels, Events, Status, Users};
    let is_old = matches!(route.endpoint, Some(Events | Channels | Channel(_) | Users(_) | Status));
    if !is_old || config.key_auth == KeyAuth::Off {
        return false;
    }
    let parameters = Parameters::parse(request.uri().query().unwrap_or_default());
    if parameters.get("auth_signature").is_none() {
        return true;
    }
    let Named::Id(id) = &route.app else { return false };
    let app = config.apps.iter().find(|app| app.id == *id);
    let is_signed =
        |app| signed::verify(app, request.method(), request.uri().path(), &parameters, SystemTime::now()).is_ok();
    app.is_some_and(|app| app.secret_is_random && !is_signed(app))
}

/// Answers a request from this source.
pub(super) async fn respond(
    front: &Front,
    request: Request<Incoming>,
    route: Route,
    source: &Source,
) -> Response<Body> {
    let (status, text) = match answer(front, request, route, source).await {
        Ok(text) => (StatusCode::OK, text),
        Err(denied) => {
            let sentence = denied.message.clone().unwrap_or_else(|| denied.error.clone());
            log(front, &Refusal { status: denied.status, error: sentence });
            (denied.status, refusal_text(&denied))
        }
    };
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

fn refusal_text(denied: &Denied) -> String {
    #[derive(Serialize)]
    struct Answer<'a> {
        error: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<&'a str>,
    }
    let answer = Answer { error: &denied.error, message: denied.message.as_deref() };
    text(&answer).unwrap_or_else(|refusal| refusal.error)
}

async fn answer(
    front: &Front,
    request: Request<Incoming>,
    Route { app, endpoint }: Route,
    source: &Source,
) -> Result<String, Denied> {
    let (parts, mut body) = request.into_parts();
    let checked = admission::admit(&front.config, &app, &parts, source).and_then(|index| match endpoint {
        Some(endpoint) if endpoint.method() == parts.method || is_head_of(&endpoint, &parts.method) => {
            is_switched_on(front, &endpoint)?;
            Ok((index, endpoint))
        }
        _ => {
            let error = format!("Cannot {} {}", parts.method, parts.uri.path());
            Err(Denied { status: StatusCode::NOT_FOUND, error, message: None })
        }
    });
    let (index, endpoint) = match checked {
        Ok(checked) => checked,
        Err(denied) => {
            discard(&mut body).await;
            return Err(denied);
        }
    };
    let limits = &front.config.apps[usize::from(index.0)].limits;
    match endpoint {
        Endpoint::Events => publish(front, index, limits, source, body).await,
        Endpoint::Channels => channels(front, index, &Parameters::parse(parts.uri.query().unwrap_or_default())).await,
        Endpoint::Channel(name) => channel(front, index, &name).await,
        Endpoint::Users(name) => users(front, index, &name).await,
        _ => Ok(status(front, index)),
    }
}

fn is_head_of(endpoint: &Endpoint, method: &Method) -> bool {
    method == Method::HEAD && endpoint.method() == Method::GET
}

// --- What they are told --------------------------------------------------------------------

async fn ask(front: &Front, app: AppIndex, query: Query) -> Result<Found, Denied> {
    front.everybody.ask(app, query).await.map_err(|busy| Denied {
        status: StatusCode::SERVICE_UNAVAILABLE,
        error: busy.to_string(),
        message: None,
    })
}

#[derive(Serialize)]
struct Channel {
    subscription_count: usize,
    occupied: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_count: Option<usize>,
}

impl Channel {
    fn of(Counts { subscriptions, .. }: Counts) -> Self {
        Self { subscription_count: subscriptions, occupied: subscriptions > 0, user_count: None }
    }
}

async fn channels(front: &Front, app: AppIndex, parameters: &Parameters<'_>) -> Result<String, Denied> {
    #[derive(Serialize)]
    struct Channels<'a> {
        channels: BTreeMap<&'a str, Channel>,
    }
    let prefix = parameters.get("filter_by_prefix").unwrap_or_default();
    let found = ask(front, app, Query::Prefix(prefix.into())).await?;
    let occupied = found.channels.iter().filter(|(_, counts)| counts.subscriptions > 0);
    let channels = occupied.map(|(name, counts)| (name.as_str(), Channel::of(*counts))).collect();
    Ok(text(&Channels { channels })?)
}

async fn channel(front: &Front, app: AppIndex, name: &str) -> Result<String, Denied> {
    // A name that can have no subscribers has none.
    let counts = match ChannelName::parse(name) {
        Ok(channel) => {
            let found = ask(front, app, Query::Channels([channel.clone()].into())).await?;
            found.channels.get(&channel).copied().unwrap_or_default()
        }
        Err(_) => Counts::default(),
    };
    let user_count = (access(name) == Access::Presence).then_some(counts.users);
    Ok(text(&Channel { user_count, ..Channel::of(counts) })?)
}

async fn users(front: &Front, app: AppIndex, name: &str) -> Result<String, Denied> {
    if access(name) != Access::Presence {
        let error = "User list is only possible for Presence Channels".into();
        return Err(Denied { status: StatusCode::BAD_REQUEST, error, message: None });
    }
    let members = match ChannelName::parse(name) {
        Ok(channel) => ask(front, app, Query::Members(channel)).await?.members,
        Err(_) => Vec::new(),
    };
    let users: Vec<String> = members.iter().map(user).collect();
    Ok(format!("{{\"users\":[{}]}}", users.join(",")))
}

/// A member as Laravel wrote it, under the old server's name of the id.
fn user(member: &Member) -> String {
    let member = member.to_json();
    member.strip_prefix("{\"user_id\":").map_or_else(|| member.clone(), |rest| format!("{{\"id\":{rest}"))
}

/// How the server is: connections of the app, seconds since the start, memory in bytes.
pub(super) fn status(front: &Front, app: AppIndex) -> String {
    let connections = front.app_connections[usize::from(app.0)].load(Ordering::Relaxed);
    let uptime = front.since.elapsed().as_millis() as f64 / 1000.0;
    let (rss, heap) = memory();
    // There is one heap here, and it is never larger than what is in use of it.
    format!(
        "{{\"subscription_count\":{connections},\"uptime\":{uptime},\"memory_usage\":{{\"rss\":{rss},\
         \"heapTotal\":{heap},\"heapUsed\":{heap},\"external\":0,\"arrayBuffers\":0}}}}"
    )
}

/// Resident memory, and the part of it that is no file's, in bytes; 0 where the system does not say.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib * 1024)
    };
    (bytes("VmRSS:").unwrap_or(0), bytes("RssAnon:").unwrap_or(0))
}

// --- What they publish ---------------------------------------------------------------------

/// The body of `POST /apps/{id}/events`. JavaScript decided what is there: `0` and `""` are not.
#[derive(Deserialize)]
struct Posted<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    channel: Option<&'a RawValue>,
    #[serde(borrow)]
    channels: Option<&'a RawValue>,
    #[serde(borrow)]
    socket_id: Option<&'a RawValue>,
}

impl<'a> Posted<'a> {
    fn parse(body: &'a [u8]) -> Result<Written<'a>, Denied> {
        let posted: Self = serde_json::from_slice(body)
            .map_err(|error| Denied::no_event(format!("the body is no JSON object: {error}")))?;
        let there = |value: Option<&'a RawValue>| value.filter(|value| is_truthy(value));
        let (Some(name), Some(data)) = (there(posted.name), there(posted.data)) else {
            return Err(Denied::no_event("\"name\" and \"data\" must be there, and neither empty nor 0 nor false"));
        };
        let string = |value: &RawValue| serde_json::from_str::<String>(value.get()).ok();
        let name = string(name).ok_or_else(|| Denied::no_event("\"name\" must be a text"))?;
        let channels = match (there(posted.channels), there(posted.channel)) {
            (Some(several), _) => serde_json::from_str::<Vec<String>>(several.get()).ok(),
            (None, Some(one)) => string(one).map(|one| vec![one]),
            (None, None) => None,
        };
        let channels =
            channels.ok_or_else(|| Denied::no_event("\"channels\" must be a list of texts, or \"channel\" a text"))?;
        Ok(Written {
            name: name.into(),
            data,
            channel: None,
            channels: Some(channels),
            // Anything but a socket's id leaves nobody out.
            socket_id: posted.socket_id.and_then(string).map(Into::into),
            info: None,
        })
    }
}

/// See [`super::fuzz`].
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(body: &[u8]) {
    let _ = Posted::parse(body);
}

fn is_truthy(value: &RawValue) -> bool {
    let text = value.get();
    !matches!(text, "null" | "false" | "\"\"") && text.parse::<f64>() != Ok(0.0)
}

async fn publish(
    front: &Front,
    app: AppIndex,
    limits: &Limits,
    source: &Source,
    body: Incoming,
) -> Result<String, Denied> {
    // The old server had no limit. Who is on this machine may send what Redis may bring.
    let is_local = front.config.key_auth == KeyAuth::Loopback && source.is_this_machine();
    let event_bytes = if is_local { limits.event_bytes.max(limits.outbound_bytes) } else { limits.event_bytes };
    let body_bytes = match is_local {
        true => event_bytes.saturating_add(BODY_BYTES_EXTRA),
        false => body_bytes_max(&Endpoint::Events, limits),
    };
    let body = collect(front, body, body_bytes).await.map_err(|(status, error)| Refusal { status, error })?;
    let written = Posted::parse(&body)?;
    // To nobody, as before.
    if written.channels.as_ref().is_some_and(|channels| !channels.is_empty()) {
        events::send(front, app, &Limits { event_bytes, ..limits.clone() }, written).await?;
    }
    Ok("{\"message\":\"ok\"}".to_owned())
}

// --- Without an app ------------------------------------------------------------------------

/// `GET /`: the old server's sign of life.
pub(in crate::http) fn health(method: &Method) -> Response<Body> {
    match *method {
        Method::GET | Method::HEAD => page("OK"),
        Method::OPTIONS => preflight(Some(Method::GET)),
        _ => error(StatusCode::NOT_FOUND, "this path is asked with GET"),
    }
}
