//! The HTTP API: backends publish here, ask who is there, and end a user's connections.
//!
//! Pusher's (protocol section 5) is that of requests which are signed; statuses and bodies are those of the hosted
//! service, errors an object with a sentence. This part knows the paths and the order of the checks; `signed` says
//! whether a request may speak for an app, `events` what it publishes, `channels` what it is told. The old server's,
//! for requests that name the key alone, is in `legacy`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::{Body, Front, collect, discard, error, json};
use crate::address::Source;
use crate::config::Limits;
use crate::inbox::AppIndex;
use crate::tap::{self, What};
use signed::Parameters;

mod channels;
mod cors;
mod events;
mod legacy;
mod signed;

pub(super) use cors::put as allow_pages;
pub(super) use legacy::{came_straight_from_here, health};

/// Reads any bytes as the bodies of requests.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(body: &[u8]) {
    events::fuzz(body);
}

/// Whether a query without a secret passes for a signed one.
#[cfg(any(test, fuzzing))]
pub(crate) fn is_signed(query: &str, now: std::time::SystemTime) -> bool {
    use crate::config::{App, Limits, Secret};
    let app = App {
        id: "1".into(),
        key: "key".into(),
        secret: Secret::new("secret"),
        secret_is_random: false,
        is_removed: false,
        previous_secrets: Vec::new(),
        limits: Limits::default(),
        key_prefix: None,
        subscription_count: false,
        webhooks: Vec::new(),
    };
    signed::verify(&app, &http::Method::POST, "/apps/1/events", &Parameters::parse(query), now).is_ok()
}

/// Room in a request beside the events' data, in bytes: names, channels, what JSON needs.
const BODY_BYTES_EXTRA: usize = 64 * 1024;

/// A refusal: status and a sentence for whoever reads the client library's error.
#[derive(Debug, Eq, PartialEq)]
struct Refusal {
    /// HTTP status.
    status: StatusCode,
    /// What was wrong.
    error: String,
}

fn refusal<T>(status: StatusCode, error: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { status, error: error.into() })
}

fn bad_request<T>(error: impl Into<String>) -> Result<T, Refusal> {
    refusal(StatusCode::BAD_REQUEST, error)
}

/// Which app a request says that it speaks for.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Named {
    /// `/apps/{id}/…`.
    Id(String),
    /// By `auth_key` alone: PyPI `pusher` 3.3.4 leaves `/apps/{id}` out when it ends a user's connections.
    Key,
}

/// What a request asks for. Names are decoded.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Endpoint {
    Events,
    BatchEvents,
    Channels,
    Channel(String),
    Users(String),
    Terminate(String),
    /// Reverb's own.
    Connections,
    /// The old server's own.
    Status,
}

impl Endpoint {
    fn method(&self) -> Method {
        match self {
            Self::Events | Self::BatchEvents | Self::Terminate(_) => Method::POST,
            Self::Channels | Self::Channel(_) | Self::Users(_) | Self::Connections | Self::Status => Method::GET,
        }
    }
}

/// A path of this API.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Route {
    app: Named,
    /// Where there is one.
    endpoint: Option<Endpoint>,
}

/// Whether the request is for this API.
pub(super) fn route(path: &str, query: Option<&str>) -> Option<Route> {
    let text = |segment: &str| percent_decode_str(segment).decode_utf8_lossy().into_owned();
    // As with the old server, a path may end with a slash, and its words (not the names between them) be in
    // upper case.
    let path = path.strip_suffix('/').unwrap_or(path).strip_prefix('/')?;
    let word = |(index, segment): (usize, &str)| match index % 2 {
        0 => segment.to_ascii_lowercase(),
        _ => segment.to_owned(),
    };
    let segments: Vec<String> = path.split('/').enumerate().map(word).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let endpoint = match segments[..] {
        ["users", id, "terminate_connections"] => {
            // Without a signature it may be a path of the application, which the proxy passes on.
            let is_signed = query.is_some_and(|query| query.contains("auth_signature="));
            return is_signed.then(|| Route { app: Named::Key, endpoint: Some(Endpoint::Terminate(text(id))) });
        }
        ["apps", _, "events"] => Some(Endpoint::Events),
        ["apps", _, "batch_events"] => Some(Endpoint::BatchEvents),
        ["apps", _, "channels"] => Some(Endpoint::Channels),
        ["apps", _, "channels", name] => Some(Endpoint::Channel(text(name))),
        ["apps", _, "channels", name, "users"] => Some(Endpoint::Users(text(name))),
        ["apps", _, "users", id, "terminate_connections"] => Some(Endpoint::Terminate(text(id))),
        ["apps", _, "connections"] => Some(Endpoint::Connections),
        ["apps", _, "status"] => Some(Endpoint::Status),
        ["apps", ..] => None,
        _ => return None,
    };
    Some(Route { app: Named::Id(text(segments.get(1)?)), endpoint })
}

/// Answers a request from this source.
pub(super) async fn respond(
    front: Arc<Front>,
    request: Request<Incoming>,
    route: Route,
    source: &Source,
) -> Response<Body> {
    let mut response = if request.method() == Method::OPTIONS {
        cors::preflight(route.endpoint.as_ref().map(Endpoint::method))
    } else if legacy::is_meant(&front.config, &request, &route) {
        legacy::respond(&front, request, route, source).await
    } else {
        respond_to_signed(&front, request, route).await
    };
    cors::put(&front.config, &mut response);
    response
}

/// Publishes an event that whoever runs the server has written, as for `POST /apps/{id}/events`.
///
/// # Errors
/// Status and sentence of a refusal.
pub(super) async fn publish_for_operator(
    front: &Front,
    app: AppIndex,
    body: Incoming,
) -> Result<String, (StatusCode, String)> {
    let limits = &front.config.apps[usize::from(app.0)].limits;
    let body = collect(front, body, body_bytes_max(&Endpoint::Events, limits)).await?;
    events::publish(front, app, limits, &body).await.map_err(|refusal| (refusal.status, refusal.error))
}

/// A refusal is logged: the backend's own log may not say what the body said.
fn log(front: &Front, refusal: &Refusal) {
    // A path and a name may be long, and hold what a terminal would obey.
    let harmless = |character: char| if character.is_control() { ' ' } else { character };
    let sentence: String = refusal.error.chars().take(400).map(harmless).collect();
    let what = What::RequestRefused { status: refusal.status.as_u16(), error: tap::sentence(&refusal.error) };
    front.publisher.tap().refuse(what);
    tracing::warn!("an HTTP API request was refused with {}: {sentence}", refusal.status);
}

async fn respond_to_signed(front: &Front, request: Request<Incoming>, route: Route) -> Response<Body> {
    let method = route.endpoint.as_ref().map(Endpoint::method);
    match answer(front, request, route).await {
        Ok(text) => json(StatusCode::OK, text),
        Err(refusal) => {
            log(front, &refusal);
            let mut response = error(refusal.status, &refusal.error);
            if refusal.status == StatusCode::METHOD_NOT_ALLOWED
                && let Some(Ok(method)) = method.map(|method| HeaderValue::from_str(method.as_str()))
            {
                response.headers_mut().insert(header::ALLOW, method);
            }
            response
        }
    }
}

async fn answer(front: &Front, request: Request<Incoming>, route: Route) -> Result<String, Refusal> {
    let (parts, mut body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default();
    let parameters = Parameters::parse(query);
    let checked = find(front, &route.app, &parameters).and_then(|index| {
        let app = &front.config.apps[usize::from(index.0)];
        // The signature covers the body's digest, so nothing of a body is kept for strangers.
        signed::verify(app, &parts.method, parts.uri.path(), &parameters, SystemTime::now())?;
        let Some(endpoint) = route.endpoint else {
            return refusal(StatusCode::NOT_FOUND, "this part of the HTTP API does not exist here");
        };
        is_switched_on(front, &endpoint)?;
        let method = endpoint.method();
        if parts.method != method {
            return refusal(StatusCode::METHOD_NOT_ALLOWED, format!("this path is asked with {method}"));
        }
        Ok((index, app, endpoint))
    });
    let (index, app, endpoint) = match checked {
        Ok(checked) => checked,
        Err(refusal) => {
            discard(&mut body).await;
            return Err(refusal);
        }
    };
    let limits = &app.limits;
    let body = collect(front, body, body_bytes_max(&endpoint, limits))
        .await
        .map_err(|(status, error)| Refusal { status, error })?;
    signed::verify_digest(&parameters, &body)?;
    match endpoint {
        Endpoint::Events => events::publish(front, index, limits, &body).await,
        Endpoint::BatchEvents => events::publish_batch(front, index, limits, &body).await,
        Endpoint::Channels => {
            channels::list(front, index, parameters.get("filter_by_prefix"), parameters.get("info")).await
        }
        Endpoint::Channel(name) => channels::one(front, index, limits, &name, parameters.get("info")).await,
        Endpoint::Users(name) => channels::users(front, index, limits, &name).await,
        Endpoint::Terminate(user_id) => {
            front.publisher.terminate(index, &user_id);
            Ok("{}".to_owned())
        }
        Endpoint::Connections => {
            let app = usize::from(index.0);
            let here = front.app_connections[app].load(Ordering::Relaxed);
            // What the others said last, a second ago at the most.
            let status = front.publisher.bus().status();
            let elsewhere = status.borrow().nodes.iter().skip(1).map(|node| node.app_connections[app]).sum::<usize>();
            let connections = here + elsewhere;
            Ok(format!("{{\"connections\":{connections}}}"))
        }
        Endpoint::Status => Ok(legacy::status(front, index)),
    }
}

/// `subscribers.http` is about events alone.
fn is_switched_on(front: &Front, endpoint: &Endpoint) -> Result<(), Refusal> {
    if matches!(endpoint, Endpoint::Events | Endpoint::BatchEvents) && !front.config.subscribers.http {
        return refusal(StatusCode::NOT_FOUND, "events over HTTP are switched off here (\"subscribers.http\")");
    }
    Ok(())
}

fn find(front: &Front, named: &Named, parameters: &Parameters<'_>) -> Result<AppIndex, Refusal> {
    let key = parameters.get("auth_key").unwrap_or_default();
    let position = front.config.apps.iter().position(|app| match named {
        Named::Id(id) => app.id == *id,
        Named::Key => app.key == key,
    });
    let (status, what, name) = match named {
        Named::Id(id) => (StatusCode::NOT_FOUND, "appId", id.as_str()),
        Named::Key => (StatusCode::UNAUTHORIZED, "key", key),
    };
    match position {
        Some(index) => Ok(AppIndex(index as u16)),
        None => refusal(status, format!("no app has the {what} {name:.64?} (clients[].{what})")),
    }
}

/// How long the body may be, so that none that keeps to the limits is refused: a text's escapes take up
/// to six bytes for one.
fn body_bytes_max(endpoint: &Endpoint, limits: &Limits) -> usize {
    let event = limits.event_bytes.saturating_mul(6);
    let channels = limits.channels_per_event.saturating_mul(limits.channel_name_bytes.saturating_mul(2));
    let events = match endpoint {
        Endpoint::Events => event.saturating_add(channels),
        Endpoint::BatchEvents => event.saturating_add(4096).saturating_mul(limits.events_per_batch),
        _ => 0,
    };
    events.saturating_add(BODY_BYTES_EXTRA)
}

/// The text of an answer.
fn text(answer: &impl Serialize) -> Result<String, Refusal> {
    serde_json::to_string(answer).or_else(|error| {
        refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer could not be written: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let unknown = Some(Route { app: Named::Id("3".into()), endpoint: None });
        let id = |endpoint| Some(Route { app: Named::Id("3".into()), endpoint: Some(endpoint) });
        for (path, expected) in [
            ("/apps/3/events", id(Endpoint::Events)),
            ("/apps/3/batch_events", id(Endpoint::BatchEvents)),
            ("/apps/3/channels", id(Endpoint::Channels)),
            ("/apps/3/channels/presence-a", id(Endpoint::Channel("presence-a".into()))),
            ("/apps/3/channels/%23server-to-user-7", id(Endpoint::Channel("#server-to-user-7".into()))),
            ("/apps/3/channels/presence-a/users", id(Endpoint::Users("presence-a".into()))),
            ("/apps/3/users/u%20v/terminate_connections", id(Endpoint::Terminate("u v".into()))),
            ("/apps/3/connections", id(Endpoint::Connections)),
            ("/apps/3/status", id(Endpoint::Status)),
            ("/Apps/3/CHANNELS/Presence-A/users/", id(Endpoint::Users("Presence-A".into()))),
            ("/apps/3", unknown.clone()),
            ("/apps/3/channels/a/b", unknown),
            ("/users/7/terminate_connections", None),
            ("/apps", None),
            ("/", None),
            ("/app/key", None),
        ] {
            assert_eq!(route(path, None), expected, "{path}");
        }
        let by_key = Some(Route { app: Named::Key, endpoint: Some(Endpoint::Terminate("7".into())) });
        assert_eq!(route("/users/7/terminate_connections", Some("auth_key=k&auth_signature=00")), by_key);
    }
}
