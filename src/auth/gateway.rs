//! The auth endpoints on this server's own port: Laravel's yes becomes a Pusher signature, for a
//! channel at `authEndpoint`, for a user who signs in at the `user-auth` beside it.
//!
//! pusher-js asks at an HTTP endpoint for leave and takes the signature it gets to the socket.
//! Laravel's redis broadcaster says yes without signing. So the browser's request comes here,
//! goes on to Laravel with all its credentials, and the signature is put in on the way back.
//! Laravel's no goes back as it is.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use serde_json::json;

use super::callback::{Laravel, log_refusal, not_allowed};
use super::fields::{self, Fields};
use super::headers;
use super::laravel::{About, Body, Failure, Inquiry, Reply};
use super::origin::{OriginVerdict, allowed};
use super::reply::{self, No, Yes};
use crate::config::{App, Auth};
use crate::metrics::Way;
use crate::protocol::channel::{Access, ChannelName};
use crate::protocol::{SocketId, app_tag, signature};

/// The longest body that is taken, in bytes; the caller need not read more.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// Answers `POST <authEndpoint>` and [`Auth::user_endpoint`].
pub async fn gateway(laravel: &Laravel, apps: &[App], parts: &Parts, body: Bytes) -> Response<Bytes> {
    let page = Page::of(parts, laravel.auth());
    let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let laravel = &laravel.of_page(header(header::ORIGIN).or_else(|| header(header::REFERER)));
    let mut response = match page.refusal(parts) {
        Some(refusal) => refusal,
        None => match answer(laravel, apps, parts, &body, &page).await {
            Ok(response) => response,
            Err(NoQuestion(status, sentence)) => {
                tracing::warn!(status = status.as_u16(), "auth request refused: {sentence}");
                message(status, &sentence)
            }
        },
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    page.put_cors(headers);
    response
}

/// The answer to a request of an address that asks more often than it may.
pub fn too_many(auth: &Auth, parts: &Parts, per_second: u32) -> Response<Bytes> {
    let sentence = format!(
        "Your address asks for leave more than {per_second} times in a second; wait a moment (limits.authRequestsPerSecond)."
    );
    let mut response = message(StatusCode::TOO_MANY_REQUESTS, &sentence);
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Page::of(parts, auth).put_cors(headers);
    response
}

/// Answers `OPTIONS <authEndpoint>`, which browsers ask before a POST with a token from a page
/// of another origin (another port is another origin).
pub fn preflight(auth: &Auth, parts: &Parts) -> Response<Bytes> {
    let page = Page::of(parts, auth);
    let mut response = match &page {
        Page::NotAllowed(origin) => message(StatusCode::FORBIDDEN, &not_allowed(origin)),
        _ => status_only(StatusCode::NO_CONTENT),
    };
    let headers = response.headers_mut();
    page.put_cors(headers);
    headers.append(header::VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
    if matches!(page, Page::NotAllowed(_)) {
        return response;
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("7200"));
    let requested = parts.headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
    if let Some(requested) = requested.filter(|list| is_header_list(list)) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, requested.clone());
    }
    response
}

/// A request that cannot be put to Laravel: the status and the sentence for the browser.
struct NoQuestion(StatusCode, String);

async fn answer(
    laravel: &Laravel,
    apps: &[App],
    parts: &Parts,
    body: &[u8],
    page: &Page,
) -> Result<Response<Bytes>, NoQuestion> {
    let bad = |sentence: String| NoQuestion(StatusCode::BAD_REQUEST, sentence);
    let fields = read_fields(&parts.headers, body)?;
    let channel = match parts.uri.path() == laravel.auth().user_endpoint() {
        true => None,
        false => Some(guarded_channel(fields.channel_name().map_err(|why| bad(why.to_string()))?)?),
    };
    let about = channel.as_ref().map_or(About::User, About::Channel);
    let socket_id: SocketId = fields.socket_id.parse().map_err(|why| bad(format!("socket_id: {why}.")))?;
    let Some(app) = apps.iter().find(|app| !app.is_removed && app_tag(&app.key) == socket_id.app_tag()) else {
        return Err(bad("This socket id was not issued by this server for one of its apps: the page's WebSocket seems to go to another server, or with another app key, than its authEndpoint.".to_owned()));
    };
    let inquiry = Inquiry {
        way: Way::Gateway,
        about,
        socket_id,
        fields: &fields.others,
        query: &fields::query(parts.uri.query().unwrap_or_default()),
        headers: page.headers_for_laravel(&parts.headers),
    };
    let outcome = laravel.exchange_now(inquiry, HEAD_BYTES + body.len()).await;
    let signed = match about {
        About::Channel(channel) => signed_channel(laravel, app, socket_id, channel, &outcome),
        About::User => reply::judge_user(laravel, &outcome).map(|user_data| signed_user(app, socket_id, &user_data)),
    };
    laravel.count(Way::Gateway, &outcome, signed.is_ok());
    let mut response = signed.unwrap_or_else(|no| {
        log_refusal(laravel, about, socket_id, &no);
        match &outcome {
            // Laravel's own body says nothing of what is missing there.
            Ok(_) if matches!((about, no.refusal.status), (About::User, 403 | 404)) => refusal(&no.refusal),
            Ok(reply) => passed_on(reply, &no.refusal),
            Err(_) => refusal(&no.refusal),
        }
    });
    if let (Ok(reply), true) = (&outcome, page.may_have_cookies()) {
        for cookie in reply.headers.get_all(header::SET_COOKIE) {
            response.headers_mut().append(header::SET_COOKIE, cookie.clone());
        }
    }
    Ok(response)
}

fn guarded_channel(name: &str) -> Result<ChannelName, NoQuestion> {
    let bad = |sentence: String| NoQuestion(StatusCode::BAD_REQUEST, sentence);
    let channel = ChannelName::parse(name).map_err(|why| bad(format!("channel_name: {why}.")))?;
    match channel.access() {
        Access::Private | Access::Presence => Ok(channel),
        Access::Public => Err(bad(format!(
            "The channel {channel} is public: anybody may join, and there is nothing to authorise. A channel for some only begins with private- or presence-."
        ))),
        Access::User => Err(bad(format!(
            "The channel {channel} is for connections that are signed in as this user; there is nothing to authorise."
        ))),
    }
}

fn read_fields(headers: &HeaderMap, body: &[u8]) -> Result<Fields, NoQuestion> {
    if body.len() > BODY_BYTES_MAX {
        return Err(NoQuestion(
            StatusCode::PAYLOAD_TOO_LARGE,
            "The request's body is too long for channel_name and socket_id.".to_owned(),
        ));
    }
    let media_type = headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("?"));
    let media_type = media_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let fields = match media_type.as_str() {
        "" | "application/x-www-form-urlencoded" => Fields::from_form(body),
        json if json == "application/json" || json.ends_with("+json") => Fields::from_json(body),
        _ => {
            return Err(NoQuestion(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body must be application/x-www-form-urlencoded or application/json.".to_owned(),
            ));
        }
    };
    fields.map_err(|why| NoQuestion(StatusCode::BAD_REQUEST, why.to_string()))
}

fn signed_channel(
    laravel: &Laravel,
    app: &App,
    socket_id: SocketId,
    channel: &ChannelName,
    outcome: &Result<Reply, Failure>,
) -> Result<Response<Bytes>, No> {
    let yes = reply::judge(laravel, channel, outcome)?;
    if channel.is_encrypted() && yes.shared_secret.is_none() {
        tracing::warn!(%channel, "refused: Laravel's yes to an encrypted channel came without shared_secret");
        return Ok(message(
            StatusCode::FORBIDDEN,
            "Laravel said yes, but without the key of the encrypted channel: only Laravel's pusher driver makes one.",
        ));
    }
    Ok(signed(app, socket_id, channel, &yes))
}

fn signed_user(app: &App, socket_id: SocketId, user_data: &str) -> Response<Bytes> {
    let signature = signature::sign(app.secret.expose(), &signature::user_text(socket_id, user_data));
    json_response(StatusCode::OK, &json!({ "auth": format!("{}:{signature}", app.key), "user_data": user_data }))
}

/// Laravel's yes as pusher-js wants it. If Laravel's pusher driver has signed, our signature
/// takes the place of its own: the same one if the secrets agree, and the valid one if not.
fn signed(app: &App, socket_id: SocketId, channel: &ChannelName, yes: &Yes) -> Response<Bytes> {
    let channel_data = yes.channel_data.as_deref();
    let text = signature::channel_text(socket_id, channel.as_str(), channel_data);
    let auth = format!("{}:{}", app.key, signature::sign(app.secret.expose(), &text));
    let mut body = json!({ "auth": auth });
    if let Some(channel_data) = channel_data {
        body["channel_data"] = channel_data.into();
    }
    if let (Some(shared_secret), true) = (&yes.shared_secret, channel.is_encrypted()) {
        body["shared_secret"] = shared_secret.as_str().into();
    }
    json_response(StatusCode::OK, &body)
}

/// Laravel's own no, so that the page sees what it would have seen without us. What the page
/// could take for a yes, or would follow, becomes ours.
fn passed_on(reply: &Reply, no: &super::Refusal) -> Response<Bytes> {
    let is_refusal = reply.status.is_client_error() || reply.status.is_server_error();
    let mut response = match &reply.body {
        Body::Whole(body) if is_refusal => {
            let mut response = status_only(reply.status);
            *response.body_mut() = body.clone();
            if let Some(media_type) = reply.headers.get(header::CONTENT_TYPE) {
                response.headers_mut().insert(header::CONTENT_TYPE, media_type.clone());
            }
            response
        }
        // The browser's XHR would follow a redirect, and a 302 means not signed in.
        _ if reply.status.is_redirection() => message(StatusCode::UNAUTHORIZED, &no.error),
        _ => refusal(no),
    };
    if let Some(retry_after) = reply.headers.get(header::RETRY_AFTER) {
        response.headers_mut().insert(header::RETRY_AFTER, retry_after.clone());
    }
    response
}

fn refusal(no: &super::Refusal) -> Response<Bytes> {
    message(StatusCode::from_u16(no.status).unwrap_or(StatusCode::FORBIDDEN), &no.error)
}

/// An answer in the form of Laravel's own JSON errors.
fn message(status: StatusCode, sentence: &str) -> Response<Bytes> {
    json_response(status, &json!({ "message": sentence }))
}

fn json_response(status: StatusCode, body: &serde_json::Value) -> Response<Bytes> {
    let mut response = status_only(status);
    *response.body_mut() = body.to_string().into();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn status_only(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

/// The page that asks, by its `Origin`.
enum Page {
    /// No browser, or one that sees no need to say (same origin).
    Unnamed,
    /// One of ours.
    Ours(HeaderValue),
    /// Allowed by `*` alone.
    Any,
    /// Somebody else's.
    NotAllowed(String),
}

impl Page {
    fn of(parts: &Parts, auth: &Auth) -> Self {
        let mut origins = parts.headers.get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else {
            return Self::Unnamed;
        };
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| parts.uri.authority().map(|authority| authority.as_str()));
        let text = match (origin.to_str(), origins.next()) {
            (Ok(text), None) => text,
            _ => return Self::NotAllowed(String::new()),
        };
        match allowed(text, host, auth) {
            OriginVerdict::SameOrListed => Self::Ours(origin.clone()),
            // Behind nginx the Host may be ours and not the page's. Then the browser itself
            // says that page and request are of one origin; no page can write this header.
            _ if parts.headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "same-origin") => {
                Self::Ours(origin.clone())
            }
            OriginVerdict::OnlyByStar => Self::Any,
            OriginVerdict::No => Self::NotAllowed(text.to_owned()),
        }
    }

    /// The refusal of a foreign page that uses the visitor's cookie. Without a cookie it has
    /// only what its own author gave it.
    fn refusal(&self, parts: &Parts) -> Option<Response<Bytes>> {
        let Self::NotAllowed(origin) = self else { return None };
        if !parts.headers.contains_key(header::COOKIE) {
            return None;
        }
        let sentence =
            format!("{} Behind nginx, pass the page's host on: proxy_set_header Host $http_host;", not_allowed(origin));
        tracing::warn!("auth request refused: {sentence}");
        Some(message(StatusCode::FORBIDDEN, &sentence))
    }

    fn may_have_cookies(&self) -> bool {
        matches!(self, Self::Unnamed | Self::Ours(_))
    }

    fn headers_for_laravel(&self, headers: &HeaderMap) -> HeaderMap {
        let mut headers = headers::from_request(headers);
        if !self.may_have_cookies() {
            headers.remove(header::COOKIE);
        }
        headers
    }

    fn put_cors(&self, headers: &mut HeaderMap) {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        match self {
            Self::Ours(origin) => {
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
            Self::Any => {
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            }
            Self::Unnamed | Self::NotAllowed(_) => {}
        }
    }
}

fn is_header_list(value: &HeaderValue) -> bool {
    value.len() <= REQUESTED_HEADERS_BYTES_MAX
        && value.to_str().is_ok_and(|list| list.split(',').all(|name| name.trim().parse::<HeaderName>().is_ok()))
}

/// About what the rest of a request takes while it waits.
const HEAD_BYTES: usize = 4 * 1024;

const REQUESTED_HEADERS_BYTES_MAX: usize = 1024;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

#[cfg(test)]
mod tests;
