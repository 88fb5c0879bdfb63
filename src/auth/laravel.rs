//! One request to Laravel's auth endpoint: how it is built, sent, bounded and read.
//!
//! Not what the answer means; that is [`reply`](super::reply).

use std::collections::HashMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
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
use crate::tap::Tap;

/// The longest answer that is read, in bytes. A yes has some hundred; Laravel's error pages
/// with stack traces may be longer and need not be read to the end.
pub const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// How many times `authTimeoutMs` a socket's question may wait for its turn. After a restart all
/// clients subscribe at once and Laravel answers a few at a time; a client that is refused does not
/// ask again until it reconnects, so waiting is better than refusing.
const SOCKETS_PATIENCE: u32 = 30;

/// The same for a question at the gateway: a proxy in front waits a minute for an answer.
const GATEWAYS_PATIENCE: u32 = 4;

/// Before a question is put again: at first, and at most. Half of it by chance.
const PAUSE: RangeInclusive<Duration> = Duration::from_millis(200)..=Duration::from_secs(2);

/// What all questions may take that wait or are under way, in bytes: some 60,000.
const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;

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
    tap: Tap,
}

struct Urls {
    channel: Url,
    user: Url,
}

struct Inner {
    client: reqwest::Client,
    auth: Auth,
    turns: Semaphore,
    /// What waits or is under way, in bytes.
    waiting: AtomicUsize,
    /// How long a question is put again while Laravel is away.
    away_patience: Duration,
    /// Laravel is away, and the log has been told.
    is_away: AtomicBool,
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
        // A restart of PHP takes seconds; who has given a wrong authHost shall not look at a silent page for longer.
        let away_patience = auth.timeout;
        let inner = Inner {
            client,
            auth: auth.clone(),
            turns,
            waiting: AtomicUsize::new(0),
            away_patience,
            is_away: AtomicBool::new(false),
            known_prefixes,
            metrics,
        };
        let inner = Arc::new(inner);
        Ok(Self { inner, urls, tap: Tap::default() })
    }

    /// The same, whose refusals are seen through this tap.
    pub fn with_tap(self, tap: Tap) -> Self {
        Self { tap, ..self }
    }

    /// Where refusals are told.
    pub(super) fn tap(&self) -> &Tap {
        &self.tap
    }

    /// The same, to ask the one of several hosts whose page it is.
    pub(super) fn of_page(&self, page: Option<&str>) -> Self {
        let host = page.and_then(|page| hosts::choose(&self.inner.auth, page));
        // A host that makes no URL was none of the configuration's.
        let urls = host.and_then(|host| urls(&host, &self.inner.auth).ok());
        Self { urls: urls.map_or_else(|| self.urls.clone(), Arc::new), ..self.clone() }
    }

    /// The same, but what may pass is not waited for.
    #[cfg(test)]
    pub fn without_patience(auth: &Auth, known_prefixes: KnownPrefixes) -> Self {
        let mut laravel = Self::new(auth, known_prefixes, Metrics::new(0, Vec::new())).unwrap();
        Arc::get_mut(&mut laravel.inner).unwrap().away_patience = Duration::ZERO;
        laravel
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

    /// Room for one more question of so many bytes, if there is.
    pub(super) fn place(&self, bytes: usize) -> Option<Place> {
        let add = |waiting: usize| waiting.checked_add(bytes).filter(|sum| *sum <= WAITING_BYTES_MAX);
        self.inner.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(Place { inner: self.inner.clone(), bytes })
    }

    /// A question of the gateway, from now on.
    pub(super) async fn exchange_now(&self, inquiry: Inquiry<'_>, bytes: usize) -> Result<Reply, Failure> {
        let Some(_place) = self.place(bytes) else { return Err(self.busy()) };
        self.exchange(inquiry, Instant::now(), GATEWAYS_PATIENCE).await
    }

    /// A socket's question, which is there since then.
    pub(super) async fn exchange_since(&self, inquiry: Inquiry<'_>, since: Instant) -> Result<Reply, Failure> {
        self.exchange(inquiry, since, SOCKETS_PATIENCE).await
    }

    /// A question that is put once, and not again.
    pub(super) async fn exchange_once(&self, inquiry: Inquiry<'_>) -> Result<Reply, Failure> {
        let time = self.inner.auth.timeout;
        timeout(time, self.send(self.request(inquiry))).await.unwrap_or(Err(Failure::Timeout(time)))
    }

    /// There is no turn for a question.
    pub(super) fn busy(&self) -> Failure {
        Failure::Busy(self.inner.auth.concurrency)
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
            Err(Failure::Unreachable { .. } | Failure::Broken { .. }) => Answered::Unreachable,
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

    async fn exchange(&self, inquiry: Inquiry<'_>, since: Instant, patience: u32) -> Result<Reply, Failure> {
        let way = inquiry.way;
        let outcome = self.exchange_in_time(inquiry, since, patience).await;
        self.inner.metrics.auth_request_seconds.observe(way, since.elapsed());
        outcome
    }

    /// Asks, within all bounds; again, while nobody is there to answer.
    async fn exchange_in_time(&self, inquiry: Inquiry<'_>, since: Instant, patience: u32) -> Result<Reply, Failure> {
        let request = self.request(inquiry);
        let time = self.inner.auth.timeout;
        let mut pause = *PAUSE.start();
        loop {
            let waits = time.saturating_mul(patience).saturating_sub(since.elapsed());
            let Ok(Ok(turn)) = timeout(waits, self.inner.turns.acquire()).await else { return Err(self.busy()) };
            let Some(attempt) = request.try_clone() else { return Err(self.busy()) };
            let outcome = timeout(time, self.send(attempt)).await.unwrap_or(Err(Failure::Timeout(time)));
            drop(turn);
            let Some(after) = away(&outcome) else {
                self.answers();
                return outcome;
            };
            self.is_away(&outcome);
            let wait = after.max(pause / 2 + pause.mul_f64(by_chance() / 2.0));
            if since.elapsed() + wait > self.inner.away_patience {
                return outcome;
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(*PAUSE.end());
        }
    }

    fn is_away(&self, outcome: &Result<Reply, Failure>) {
        if self.inner.is_away.swap(true, Ordering::Relaxed) {
            return;
        }
        let why = match outcome {
            Ok(Reply { body: Body::Broken(why), .. })
            | Err(Failure::Unreachable { why, .. } | Failure::Broken { why, .. }) => why.clone(),
            Ok(reply) => format!("status {}", reply.status.as_u16()),
            Err(Failure::Busy(_) | Failure::Timeout(_)) => String::new(),
        };
        let seconds = self.inner.away_patience.as_secs_f64();
        tracing::warn!(
            url = &self.urls.channel[..url::Position::AfterPath],
            "Laravel is away: {why}. Each question is put again for {seconds} s before it is refused"
        );
    }

    fn answers(&self) {
        if self.inner.is_away.load(Ordering::Relaxed) && self.inner.is_away.swap(false, Ordering::Relaxed) {
            tracing::info!("Laravel answers again");
        }
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

/// Room for a question, until it is dropped.
pub(super) struct Place {
    inner: Arc<Inner>,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.inner.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Whether this is what comes of a Laravel that is being restarted, and not of one that says no or is slow: then how
/// long it asks to be left alone.
fn away(outcome: &Result<Reply, Failure>) -> Option<Duration> {
    match outcome {
        Err(Failure::Unreachable { may_pass, .. } | Failure::Broken { may_pass, .. }) => {
            may_pass.then_some(Duration::ZERO)
        }
        Err(Failure::Busy(_) | Failure::Timeout(_)) => None,
        Ok(Reply { body: Body::Broken(_), .. }) => Some(Duration::ZERO),
        Ok(reply) if matches!(reply.status.as_u16(), 502..=504) => {
            let after = reply.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            Some(Duration::from_secs(after.unwrap_or(0)))
        }
        Ok(_) => None,
    }
}

/// Between 0 and 1.
fn by_chance() -> f64 {
    // Without chance all come at the same time; that is no reason to fail.
    f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX)
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
    Unreachable { why: String, may_pass: bool },
    /// A connection, but no answer that is HTTP; the reason, for the log.
    Broken { why: String, may_pass: bool },
}

impl Failure {
    fn from_client(error: reqwest::Error) -> Self {
        let is_connect = error.is_connect();
        // Its URL may carry a token in the query.
        let error = error.without_url();
        let why = chain(&error);
        // A certificate that is not trusted, or what is no HTTP, stays so.
        let is_final = causes(&error).any(|cause| {
            let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            let is_http = !cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse);
            io == Some(std::io::ErrorKind::InvalidData) || !is_http
        });
        let may_pass = !is_final;
        if is_connect { Self::Unreachable { why, may_pass } } else { Self::Broken { why, may_pass } }
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
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    causes(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// An error and its causes.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
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
