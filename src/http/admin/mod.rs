//! For whoever runs the server: a dashboard in the browser, and the API behind it and behind the commands `status`,
//! `channels`, `users`, `publish` and `listen`. All of it stands under [`PATH`].
//!
//! It shows everything: who is there, and what is said. `admission` decides who may see it, before anything else is
//! looked at. This file knows the paths and what every answer carries; `status`, `channels` and `feed` know the
//! answers, `page` the files of the dashboard. Backends have an API of their own (`http::api`).

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::watch;

use super::{Body, Front, api, discard, error, json};
use crate::address::Source;
use crate::config::{App, Config};
use crate::inbox::AppIndex;
use crate::listen::Place;
use admission::{Access, Denied, What};
use attempts::Attempts;

mod admission;
mod attempts;
mod channels;
mod feed;
mod page;
mod status;

/// Where all of it is. An application behind `"proxy": true` is not likely to have this path, as it may have `/admin`.
pub const PATH: &str = "/echo-server";

/// What the dashboard has beside what the front knows. It outlives a front.
pub struct Admin {
    /// Where the server listens.
    places: Vec<Place>,
    /// True when the server stops.
    stopped: watch::Receiver<bool>,
    /// By what requests are admitted now.
    access: watch::Sender<Access>,
    attempts: Attempts,
    /// Feeds that are open.
    feeds: Arc<AtomicUsize>,
}

impl Admin {
    /// Of a server that listens at these places, until it stops.
    pub fn new(places: Vec<Place>, stopped: watch::Receiver<bool>) -> Self {
        let access = watch::Sender::new(Access::default());
        Self { places, stopped, access, attempts: Attempts::default(), feeds: Arc::default() }
    }

    /// Requests are admitted by this configuration from now on: what others have admitted and goes on yet, ends.
    pub fn goes_by(&self, config: &Config) {
        let access = Access::of(config);
        self.access.send_if_modified(|current| std::mem::replace(current, access) != *current);
    }
}

impl Default for Admin {
    /// Of a server that listens nowhere.
    fn default() -> Self {
        Self::new(Vec::new(), watch::channel(true).1)
    }
}

/// A refusal that is no question of who asks.
struct Refusal(StatusCode, String);

impl From<(StatusCode, String)> for Refusal {
    fn from((status, error): (StatusCode, String)) -> Self {
        Self(status, error)
    }
}

/// The rest of a path that is for this module.
pub(super) fn route(path: &str) -> Option<&str> {
    path.strip_prefix(PATH).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Answers a request.
pub(super) async fn respond(front: Arc<Front>, request: Request<Incoming>, source: &Source) -> Response<Body> {
    let (parts, mut body) = request.into_parts();
    let path = route(parts.uri.path()).unwrap_or_default().to_owned();
    let what = if path.starts_with("/api/") { What::Data } else { What::Page };
    let answer = match admission::admit(&front.config, &front.admin.attempts, &parts, source, what) {
        Ok(()) => answer(&front, &parts, &path, body).await,
        Err(denied) => {
            discard(&mut body).await;
            return with_headers(refused(&denied));
        }
    };
    let mut response = answer.unwrap_or_else(|Refusal(status, sentence)| error(status, &sentence));
    if parts.method == Method::HEAD {
        *response.body_mut() = super::full(bytes::Bytes::new());
    }
    with_headers(response)
}

async fn answer(
    front: &Arc<Front>,
    parts: &http::request::Parts,
    path: &str,
    body: Incoming,
) -> Result<Response<Body>, Refusal> {
    let parameters = Parameters::of(parts.uri.query().unwrap_or_default());
    let is_get = matches!(parts.method, Method::GET | Method::HEAD);
    match path {
        "/api/events" if parts.method == Method::POST => publish(front, parts, &parameters, body).await,
        "/api/events" => Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "events are sent here with POST".to_owned())),
        _ if !is_get => Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "this path is asked with GET".to_owned())),
        "/api/status" => text(status::status(front)),
        "/api/channels" => text(channels::list(front, &parameters).await?),
        "/api/users" => text(channels::users(front, &parameters).await?),
        "/api/refusals" => text(feed::refusals(front)),
        "/api/feed" if parts.method == Method::GET => feed::feed(front, &parameters),
        _ => page::file(path)
            .ok_or_else(|| Refusal(StatusCode::NOT_FOUND, format!("nothing is here; the dashboard is at {PATH}/"))),
    }
}

/// `POST /api/events`: a test event, written as for the HTTP API.
async fn publish(
    front: &Arc<Front>,
    parts: &http::request::Parts,
    parameters: &Parameters,
    body: Incoming,
) -> Result<Response<Body>, Refusal> {
    // A page of another site cannot send this type without asking first, and is told nothing then.
    let media_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if media_type.split(';').next().unwrap_or_default().trim() != "application/json" {
        return Err(Refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be application/json".to_owned()));
    }
    let app = parameters.one_app(front)?;
    let text = api::publish_for_operator(front, app, body).await?;
    Ok(json(StatusCode::OK, text))
}

fn text(answer: impl serde::Serialize) -> Result<Response<Body>, Refusal> {
    match serde_json::to_string(&answer) {
        Ok(text) => Ok(json(StatusCode::OK, text)),
        Err(error) => {
            Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer could not be written: {error}")))
        }
    }
}

fn refused(denied: &Denied) -> Response<Body> {
    let mut response = error(denied.status, &denied.error);
    if denied.status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Basic realm=\"laravel-echo-server\", charset=\"UTF-8\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}

/// No other site may frame, embed or guess at any of this, and nothing of it is kept.
fn with_headers(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::CONTENT_SECURITY_POLICY, page::POLICY),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The parameters of a query; of two of one name the first counts.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn of(query: &str) -> Self {
        // `form_urlencoded` takes + for a space, as browsers write it.
        let pairs = form_urlencoded::parse(query.as_bytes()).take(20);
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let value = self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        value.filter(|value| !value.is_empty())
    }

    /// The apps that are meant: the one that `app` names, or all.
    fn apps(&self, front: &Front) -> Result<Vec<AppIndex>, Refusal> {
        let apps = front.config.apps.iter().enumerate().filter(|(_, app)| !app.is_removed);
        let index = |(index, _): (usize, &App)| AppIndex(index as u16);
        let Some(id) = self.get("app") else {
            return Ok(apps.map(index).collect());
        };
        match apps.clone().find(|(_, app)| app.id == id).map(index) {
            Some(index) => Ok(vec![index]),
            None => {
                let known: Vec<&str> = apps.take(10).map(|(_, app)| app.id.as_str()).collect();
                let error = format!("no app has the appId {id:.64?}; there are {}", known.join(", "));
                Err(Refusal(StatusCode::NOT_FOUND, error))
            }
        }
    }

    /// The app that is meant: the one that `app` names, or the first.
    fn one_app(&self, front: &Front) -> Result<AppIndex, Refusal> {
        match self.get("app") {
            None => Ok(AppIndex(front.config.first_app as u16)),
            Some(_) => Ok(self.apps(front)?[0]),
        }
    }
}

/// Whether a name is meant by a pattern: with `*`, which stands for anything, the pattern is that of the whole name;
/// without, it is a part of it.
fn matches(pattern: &str, name: &str) -> bool {
    if !pattern.contains('*') {
        return name.contains(pattern);
    }
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        for (path, rest) in [
            ("/echo-server", Some("")),
            ("/echo-server/", Some("/")),
            ("/echo-server/api/status", Some("/api/status")),
            ("/echo-servers", None),
            ("/admin", None),
            ("/", None),
        ] {
            assert_eq!(route(path), rest, "{path}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("", "orders", true),
            ("order", "shop_database_orders", true),
            ("orders.", "orders", false),
            ("*", "orders", true),
            ("private-user.*", "private-user.1", true),
            ("private-user.*", "x-private-user.1", false),
            ("*user.1", "private-user.1", true),
            ("*user.1", "private-user.11", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
            ("**", "", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
