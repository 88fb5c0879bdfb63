//! One request to Laravel's auth endpoint: how it is built, sent, bounded and read.
//!
//! Not what the answer means; that is [`reply`](super::reply).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use reqwest::redirect;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use url::Url;

use super::hosts;
use crate::config::Auth;
use crate::metrics::{Answered, Metrics, Way};
use crate::protocol::SocketId;
use crate::protocol::channel::{self, ChannelName};

/// The longest answer that is read, in bytes. A yes has some hundred; Laravel's error pages
/// with stack traces may be longer and need not be read to the end.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How many times `authTimeoutMs` a question may wait for its turn. After a restart all
/// clients subscribe at once and Laravel answers a few at a time; a client that is refused does not
/// ask again until it reconnects, so waiting is better than refusing.
const PATIENCE: u32 = 6;

/// An unused connection is closed before the web servers do it (Apache after 5 s), which would
/// look like a lost answer.
const IDLE: Duration = Duration::from_secs(4);

/// Laravel, as the one who says who may join. A clone shares everything.
///
/// Its connections belong to the runtime that opened them: ask on a runtime that lives as long
/// as the server.
#[derive(Clone)]
pub struct Laravel {
    inner: Arc<Inner>,
    /// What is asked there.
    urls: Arc<Urls>,
}

struct Urls {
    channel: Url,
    user: Url,
}

struct Inner {
    client: reqwest::Client,
    auth: Auth,
    turns: Semaphore,
    known_prefixes: KnownPrefixes,
    metrics: Metrics,
}

/// The Redis key prefix of each app that is known at the moment (configured, or the only one recognised),
/// by the app's tag: Laravel knows its channels without it.
pub type KnownPrefixes = HashMap<u16, watch::Receiver<Option<String>>>;

/// Laravel cannot be asked at all with this configuration.
#[derive(Debug, thiserror::Error)]
pub enum CannotAsk {
    /// authHost and authEndpoint do not make a URL.
    #[error("authHost \"{host}\" and authEndpoint \"{endpoint}\" do not make a URL: {why}")]
    Url {
        /// As configured, without user and password.
        host: String,
        /// As configured.
        endpoint: String,
        /// What the URL parser says.
        why: url::ParseError,
    },
    /// The process has not chosen an implementation of TLS's cryptography.
    #[error("no cryptography for TLS was installed in this process")]
    NoCryptography,
    /// The HTTP client would not start (certificate store and the like).
    #[error("the HTTP client for authHost could not be made")]
    Client(#[source] reqwest::Error),
}

fn urls(host: &Url, auth: &Auth) -> Result<Urls, CannotAsk> {
    let mut host = host.clone();
    // A user in authHost would overwrite the client's own Authorization.
    let _ = host.set_username("");
    let _ = host.set_password(None);
    let host = host.as_str().trim_end_matches('/').to_owned();
    let url = |endpoint: &str| {
        Url::parse(&format!("{host}{endpoint}")).map_err(|why| CannotAsk::Url {
            host: host.clone(),
            endpoint: endpoint.to_owned(),
            why,
        })
    };
    Ok(Urls { channel: url(&auth.endpoint)?, user: url(&auth.user_endpoint())? })
}

impl Laravel {
    /// Laravel at authHost.
    pub fn new(auth: &Auth, known_prefixes: KnownPrefixes, metrics: Metrics) -> Result<Self, CannotAsk> {
        // The HTTP client would panic.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(CannotAsk::NoCryptography);
        }
        let urls = Arc::new(urls(&auth.host, auth)?);
        let client = reqwest::Client::builder()
            // A 302 to /login would end in a 200 and let everybody in.
            .redirect(redirect::Policy::none())
            // Laravel is ours; credentials must not pass through somebody's HTTP_PROXY.
            .no_proxy()
            .referer(false)
            .pool_idle_timeout(IDLE);
        // The machine's certificates cannot be read where there are none, as in an empty container.
        let client = if auth.is_by_tls() { client } else { client.tls_certs_only([]) };
        let client = client.build().map_err(CannotAsk::Client)?;
        let turns = Semaphore::new(auth.concurrency.clamp(1, Semaphore::MAX_PERMITS));
        let inner = Arc::new(Inner { client, auth: auth.clone(), turns, known_prefixes, metrics });
        Ok(Self { inner, urls })
    }

    /// The same, to ask the one of several hosts whose page it is.
    pub(super) fn of_page(&self, page: Option<&str>) -> Self {
        let host = page.and_then(|page| hosts::choose(&self.inner.auth, page));
        // A host that makes no URL was none of the configuration's.
        let urls = host.and_then(|host| urls(&host, &self.inner.auth).ok());
        Self { inner: self.inner.clone(), urls: urls.map_or_else(|| self.urls.clone(), Arc::new) }
    }

    /// The settings it was made with.
    pub(super) fn auth(&self) -> &Auth {
        &self.inner.auth
    }

    /// The URL that is asked. It holds no name and password; its query is not for logs.
    pub(super) fn url(&self, about: About<'_>) -> &Url {
        match about {
            About::Channel(_) => &self.urls.channel,
            About::User => &self.urls.user,
        }
    }

    /// Asks, within all bounds.
    pub(super) async fn exchange(&self, inquiry: Inquiry<'_>) -> Result<Reply, Failure> {
        let way = inquiry.way;
        let since = Instant::now();
        let outcome = self.exchange_in_time(inquiry).await;
        self.inner.metrics.auth_request_seconds.observe(way, since.elapsed());
        outcome
    }

    /// How many questions are under way.
    pub fn asking(&self) -> usize {
        self.inner.auth.concurrency.saturating_sub(self.inner.turns.available_permits())
    }

    /// Counts what a question has come to.
    pub(super) fn count(&self, way: Way, outcome: &Result<Reply, Failure>, is_yes: bool) {
        let answered = match outcome {
            _ if is_yes => Answered::Yes,
            Err(Failure::Busy(_)) => Answered::Busy,
            Err(Failure::Timeout(_)) => Answered::Timeout,
            Err(Failure::Unreachable(_) | Failure::Broken(_)) => Answered::Unreachable,
            Ok(Reply { status, .. }) => match status.as_u16() {
                200 => Answered::NotAYes,
                300..=399 => Answered::Redirected,
                401 => Answered::Unauthenticated,
                403 => Answered::Forbidden,
                404 => Answered::NotFound,
                419 => Answered::PageExpired,
                429 => Answered::TooManyRequests,
                500..=599 => Answered::ServerError,
                _ => Answered::OtherStatus,
            },
        };
        self.inner.metrics.auth_requests.add((way, answered));
    }

    async fn exchange_in_time(&self, inquiry: Inquiry<'_>) -> Result<Reply, Failure> {
        let time = self.inner.auth.timeout;
        let Ok(Ok(_turn)) = timeout(time.saturating_mul(PATIENCE), self.inner.turns.acquire()).await else {
            return Err(Failure::Busy(self.inner.auth.concurrency));
        };
        timeout(time, self.send(self.request(inquiry))).await.unwrap_or(Err(Failure::Timeout(time)))
    }

    /// The one place where a request to Laravel is put together.
    fn request(&self, inquiry: Inquiry<'_>) -> reqwest::Request {
        let mut url = self.url(inquiry.about).clone();
        if !inquiry.query.is_empty() {
            url.query_pairs_mut().extend_pairs(inquiry.query);
        }
        // PHP takes the last of two fields with one name, so ours come last.
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(inquiry.fields).append_pair("socket_id", &inquiry.socket_id.to_string());
        if let About::Channel(channel) = inquiry.about {
            let prefix = self.inner.known_prefixes.get(&inquiry.socket_id.app_tag());
            let prefix = prefix.and_then(|known| known.borrow().clone());
            body.append_pair("channel_name", without_prefix(channel.as_str(), prefix.as_deref()));
        }
        let body = body.finish();
        let mut request = reqwest::Request::new(Method::POST, url);
        let headers = request.headers_mut();
        *headers = inquiry.headers;
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        headers.insert(X_REQUESTED_WITH, HeaderValue::from_static("XMLHttpRequest"));
        *request.body_mut() = Some(body.into());
        request
    }

    async fn send(&self, request: reqwest::Request) -> Result<Reply, Failure> {
        let again = request.try_clone();
        let response = match self.inner.client.execute(request).await {
            // A kept connection that Laravel's web server closes in this very moment fails
            // without an answer. Asking changes nothing at Laravel, so ask once more.
            Err(error) if error.is_request() && !error.is_connect() => match again {
                Some(again) => self.inner.client.execute(again).await,
                None => Err(error),
            },
            other => other,
        };
        let mut response = response.map_err(Failure::from_client)?;
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        Ok(Reply { status, headers, body: read(response).await })
    }
}

impl fmt::Debug for Laravel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Laravel at {}", &self.urls.channel[..url::Position::AfterPath])
    }
}

/// What Laravel is asked about.
#[derive(Clone, Copy)]
pub(super) enum About<'a> {
    /// Whether this channel may be joined, named as the client named it, prefix included.
    Channel(&'a ChannelName),
    /// Who the user is.
    User,
}

/// What one request to Laravel says.
pub(super) struct Inquiry<'a> {
    /// Who asks.
    pub way: Way,
    pub about: About<'a>,
    pub socket_id: SocketId,
    /// Further fields of the body (`auth.params`).
    pub fields: &'a [(String, String)],
    /// Further fields of the query.
    pub query: &'a [(String, String)],
    /// Already sifted, see [`headers`](super::headers).
    pub headers: HeaderMap,
}

/// What Laravel answered.
pub(super) struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Body,
}

/// The body of an answer, as far as it could be read.
pub(super) enum Body {
    Whole(Bytes),
    /// More than [`ANSWER_BYTES_MAX`].
    TooLarge,
    /// The connection broke; the reason, for the log.
    Broken(String),
}

/// Why there is no answer.
pub(super) enum Failure {
    /// No turn among this many questions at once.
    Busy(usize),
    /// No whole answer in this time.
    Timeout(Duration),
    /// No connection; the reason, for the log.
    Unreachable(String),
    /// A connection, but no answer that is HTTP; the reason, for the log.
    Broken(String),
}

impl Failure {
    fn from_client(error: reqwest::Error) -> Self {
        let is_connect = error.is_connect();
        // Its URL may carry a token in the query.
        let why = chain(&error.without_url());
        if is_connect { Self::Unreachable(why) } else { Self::Broken(why) }
    }
}

async fn read(mut response: reqwest::Response) -> Body {
    if response.content_length().is_some_and(|length| length > ANSWER_BYTES_MAX as u64) {
        return Body::TooLarge;
    }
    let mut body = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > ANSWER_BYTES_MAX => return Body::TooLarge,
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Body::Whole(body.freeze()),
            Err(error) => return Body::Broken(chain(&error.without_url())),
        }
    }
}

/// The channel as Laravel knows it. Only the prefix of our own application is taken off:
/// another one's belongs to another one's channel. What is left must be guarded in the same
/// way, since Laravel answers for any bare name.
fn without_prefix<'a>(name: &'a str, prefix: Option<&str>) -> &'a str {
    match prefix.and_then(|prefix| name.strip_prefix(prefix)) {
        Some(bare) if channel::access(bare) == channel::access(name) => bare,
        _ => name,
    }
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

const X_REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_prefix_is_taken_off() {
        let ours = Some("talent2income_database_");
        for (name, prefix, expected) in [
            ("talent2income_database_private-user.1", ours, "private-user.1"),
            ("talent2income_database_presence-room", ours, "presence-room"),
            ("private-user.1", ours, "private-user.1"),
            ("other_database_private-user.1", ours, "other_database_private-user.1"),
            ("talent2income_database_private-user.1", None, "talent2income_database_private-user.1"),
            ("private-talent2income_database_user.1", ours, "private-talent2income_database_user.1"),
            ("private-user.1", Some(""), "private-user.1"),
            // Bare, these would be public, or guarded in another way.
            ("private-x_database_orders", Some("private-x_database_"), "private-x_database_orders"),
            ("private-x_presence-room", Some("private-x_"), "private-x_presence-room"),
            ("private-user.1", Some("private-"), "private-user.1"),
        ] {
            assert_eq!(without_prefix(name, prefix), expected);
        }
    }
}
