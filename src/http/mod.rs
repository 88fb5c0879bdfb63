//! The port: HTTP/1.1 and the opening handshakes of WebSockets. After its handshake a socket is
//! handed to the shard with the fewest connections; nothing of HTTP stays with it.
//!
//! This is the front: beside several shards it runs on threads of its own, so that a storm of
//! handshakes does not delay deliveries.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::address::{Counted, Source};
use crate::auth::callback::Laravel;
use crate::auth::gateway;
use crate::config::Config;
use crate::inbox::{AppIndex, Credentials, Form, Handover, NewClient, OneMore, ShardHandle};
use crate::listen::files;
use crate::metrics::{Limit, Refused, Route};
use crate::protocol::{SocketId, app_tag, pusher};
use crate::publish::Publisher;
use crate::query::Everybody;
use crate::tap;
use crate::tls::{self, Served};
use crate::ws::{self, deflate, frame};
use accept::{Open, Stream};
use addresses::Addresses;
use admin::Admin;
use operations::Operations;
use proxy::Proxy;

mod accept;
mod addresses;
pub mod admin;
pub(crate) mod api;
mod browser;
mod client_script;
pub mod operations;
mod pace;
mod patience;
pub mod proxy;
pub(crate) mod proxy_protocol;
mod socketio;

pub use accept::{FIRST_REQUEST_WAIT, serve};
pub use proxy::Body;

/// How long a client that is refused may take to answer the close frame.
const REFUSED_WAIT: Duration = Duration::from_secs(5);

/// How long the rest of a body that is refused is read.
const DISCARD_WAIT: Duration = Duration::from_secs(5);

/// The front that answers now. When the configuration changes, another one takes its place; who has begun with one ends
/// with it.
pub type Fronts = Arc<ArcSwap<Front>>;

/// What the front needs to answer requests.
pub struct Front {
    config: Arc<Config>,
    publisher: Publisher,
    everybody: Everybody,
    /// How many connections each app has.
    app_connections: Arc<[Arc<AtomicUsize>]>,
    laravel: Laravel,
    operations: Arc<Operations>,
    user_endpoint: String,
    proxy: Option<Proxy>,
    tls: Option<(TlsAcceptor, Served)>,
    /// What pages get as `socket.io.js`.
    client_script: Option<Bytes>,
    /// Sockets that are open here, before a handshake or without one.
    open: Arc<AtomicUsize>,
    /// How many connections have room under the limit of open files.
    files_room: usize,
    /// What each client's address has.
    addresses: Arc<Addresses>,
    has_told_of_proxy: AtomicBool,
    /// Polls of Socket.IO clients so far.
    polls: Arc<AtomicU64>,
    /// Turns of long POSTs of Socket.IO clients.
    long_bodies: Arc<Semaphore>,
    /// When the server started.
    since: Instant,
    admin: Arc<Admin>,
}

impl Front {
    /// A front for these shards, which counts each app's connections.
    pub fn new(
        config: Arc<Config>,
        publisher: Publisher,
        laravel: Laravel,
        operations: Arc<Operations>,
        app_connections: Arc<[Arc<AtomicUsize>]>,
    ) -> anyhow::Result<Self> {
        let proxy = config.proxy.then(|| Proxy::new(&config.auth)).transpose()?;
        let tls = config.tls.as_ref().map(tls::read_served).transpose()?;
        let tls = tls.map(|served| (TlsAcceptor::from(served.config.clone()), served));
        let user_endpoint = config.auth.user_endpoint();
        let everybody = Everybody::new(publisher.shards()).with_bus(publisher.bus().clone());
        let client_script = client_script::load(&config)?;
        let (open, polls) = (Arc::default(), Arc::default());
        let files_room = files::connections(files::max(), &config);
        Ok(Self {
            config,
            publisher,
            everybody,
            app_connections,
            laravel,
            operations,
            user_endpoint,
            proxy,
            tls,
            client_script,
            open,
            files_room,
            addresses: Arc::default(),
            has_told_of_proxy: AtomicBool::new(false),
            polls,
            long_bodies: Arc::new(Semaphore::new(socketio::LONG_BODIES_MAX)),
            since: Instant::now(),
            admin: Arc::default(),
        })
    }

    /// The same, with what only the dashboard needs.
    pub fn with_admin(self, admin: Admin) -> Self {
        Self { admin: Arc::new(admin), ..self }
    }

    /// The dashboard.
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// Takes the place of another one, and goes on with what that has counted.
    pub fn follow(self, before: &Self) -> Self {
        Self {
            everybody: before.everybody.clone(),
            open: before.open.clone(),
            polls: before.polls.clone(),
            long_bodies: before.long_bodies.clone(),
            addresses: before.addresses.clone(),
            since: before.since,
            admin: before.admin.clone(),
            ..self
        }
    }

    /// Asks Laravel.
    pub fn laravel(&self) -> &Laravel {
        &self.laravel
    }

    /// The configuration that it goes by.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Waits until no request is being answered and nobody is about to make one.
    pub async fn is_empty(&self) {
        while self.open.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The certificate that new connections get, with those after it; none without TLS.
    pub fn certificate(&self) -> &[CertificateDer<'static>] {
        self.tls.as_ref().map_or(&[], |(_, served)| &served.certificates)
    }

    /// How many connections each app has.
    pub fn app_connections(&self) -> &Arc<[Arc<AtomicUsize>]> {
        &self.app_connections
    }

    fn connections(&self) -> usize {
        self.publisher.shards().iter().map(|shard| shard.connections().load(Ordering::Relaxed)).sum()
    }

    /// How many connections there may be: as many as are allowed, and as files may be open.
    fn room(&self) -> usize {
        self.config.limits.connections.min(self.files_room)
    }

    /// Says once that somebody seems to be a proxy whose word does not count: from the public network anybody can
    /// seem so.
    fn tell_of_proxy(&self, source: &Source) {
        let (Some(header), Some(peer)) = (&source.forwarded_by, source.peer) else { return };
        let is_news = !self.config.trusted_proxies.trusts(source.peer) && Counted::of(peer).is_none();
        if is_news && !self.has_told_of_proxy.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{peer} sends the header {header}, which does not count, since it is none of \"trustedProxies\". If it is a \
                 proxy of yours, add it there, so that the addresses of clients are known: \"trustedProxies\": \
                 [\"127.0.0.1\", \"::1\", \"{peer}\"]"
            );
        }
    }

    /// Counts a connection that is not let in, and the limit that it has met.
    fn refused(&self, why: Refused, limit: Option<Limit>) {
        let metrics = self.publisher.metrics();
        metrics.connections_refused.add(why);
        if let Some(limit) = limit {
            metrics.limit_reached.add(limit);
        }
    }

    /// Counts a connection among its app's and those of its form, until the answer is dropped.
    fn count(&self, app: AppIndex, form: Form, by_address: Option<OneMore>) -> [Option<OneMore>; 3] {
        [Some(OneMore::of(&self.app_connections[usize::from(app.0)])), self.publisher.count(form), by_address]
    }

    /// The shard with the fewest connections, and its index.
    fn idle_shard(&self) -> (&ShardHandle, usize) {
        let shards = self.publisher.shards();
        let connections = |index: &usize| shards[*index].connections().load(Ordering::Relaxed);
        let index = (0..shards.len()).min_by_key(connections).unwrap_or_default();
        (&shards[index], index)
    }
}

/// Answers, and counts what was asked for.
async fn respond<S: Stream>(open: Arc<Open>, request: Request<Incoming>) -> Response<Body> {
    let front = open.front.clone();
    // A proxy's connection carries requests of many: each is somebody else's.
    let source = Source::of(open.connection, request.headers(), &front.config.trusted_proxies);
    open.is_backend.store(false, Ordering::Relaxed);
    front.tell_of_proxy(&source);
    let (route, response) = answer::<S>(open, request, &source).await;
    if let Some(route) = route {
        front.publisher.metrics().http_requests.add((route, response.status().as_u16().into()));
    }
    response
}

/// The answer and what the request was for; `None`: a WebSocket.
async fn answer<S: Stream>(
    open: Arc<Open>,
    request: Request<Incoming>,
    source: &Source,
) -> (Option<Route>, Response<Body>) {
    let front = open.front.clone();
    let path = request.uri().path();
    let method = request.method();
    if let Some(key) = path.strip_prefix("/app/") {
        let key = key.trim_end_matches('/').to_owned();
        return (None, upgrade::<S>(open, request, &key, source));
    }
    if let Some(rest) = path.strip_prefix(front.config.socketio.path.as_str())
        && (rest.is_empty() || rest.starts_with('/'))
    {
        let response = socketio::respond::<S>(open, request, source).await;
        let is_websocket = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        return ((!is_websocket).then_some(Route::Polling), response);
    }
    if let Some(route) = api::route(path, request.uri().query()) {
        // Anybody may ask what a browser asks before a request.
        let is_preflight = method == Method::OPTIONS;
        let response = api::respond(front, request, route, source).await;
        if response.status().is_success() && !is_preflight {
            open.is_backend.store(true, Ordering::Relaxed);
        }
        return (Some(Route::Api), response);
    }
    if admin::route(path).is_some() {
        let response = admin::respond(front, request, source).await;
        if response.status().is_success() {
            open.is_backend.store(true, Ordering::Relaxed);
        }
        return (Some(Route::Operations), response);
    }
    if path == front.config.auth.endpoint || path == front.user_endpoint {
        match *method {
            Method::POST => return (Some(Route::Gateway), authorise(front, request, source).await),
            Method::OPTIONS => {
                let parts = request.into_parts().0;
                return (Some(Route::Gateway), gateway::preflight(&front.config.auth, &parts).map(full));
            }
            _ if front.proxy.is_none() => {
                let response = error(StatusCode::METHOD_NOT_ALLOWED, "authorisation is asked for with POST");
                return (Some(Route::Gateway), response);
            }
            _ => {}
        }
    }
    if matches!(path, "/health" | "/ready" | "/metrics") {
        let (parts, body) = request.into_parts();
        if let Some(response) = operations::respond(&front, &parts, source).await {
            return (Some(Route::Operations), response);
        }
        return pass_on(&front, Request::from_parts(parts, body), source).await;
    }
    pass_on(&front, request, source).await
}

/// What is nothing of the server's own.
async fn pass_on(front: &Front, request: Request<Incoming>, source: &Source) -> (Option<Route>, Response<Body>) {
    match &front.proxy {
        Some(proxy) => (Some(Route::Proxy), proxy.forward(request, source).await),
        None => {
            let (route, mut response) = match request.uri().path() {
                "/" => (Route::Operations, api::health(request.method())),
                _ => {
                    let nothing = "nothing is here; WebSockets connect to /app/{key}";
                    (Route::NotFound, error(StatusCode::NOT_FOUND, nothing))
                }
            };
            api::allow_pages(&front.config, &mut response);
            (Some(route), response)
        }
    }
}

// --- WebSocket -----------------------------------------------------------------------------

fn upgrade<S: Stream>(open: Arc<Open>, request: Request<Incoming>, key: &str, source: &Source) -> Response<Body> {
    let accept = match ws::accept_key(request.method(), request.headers()) {
        Ok(accept) => accept,
        Err(why) => {
            open.front.refused(Refused::NoWebSocket, None);
            return no_websocket(why);
        }
    };
    let admission = admit(&open, key, request.uri().query(), source);
    let credentials = Arc::new(credentials(request.headers()));
    let agreed = open.front.config.per_message_deflate.then(|| deflate::agree(request.headers())).flatten();
    let form = if agreed.as_ref().is_some_and(|agreed| agreed.deflates) { Form::Deflated } else { Form::Plain };
    let inflates = agreed.is_some();
    let mut known = admission.is_ok().then(|| browser::known(&open.front, request.headers(), source)).flatten();
    let set_cookie = known.as_mut().and_then(|known| known.set_cookie.take());
    let mut response = switch(request, &accept, async move |stream: S, leftover| match admission {
        Ok((app, socket_id, by_address)) => {
            let front = &open.front;
            let shard = match &known {
                Some(known) => &front.publisher.shards()[known.shard],
                None => front.idle_shard().0,
            };
            let counted = front.count(app, form, by_address);
            let browser = known.map(|known| known.returning);
            let client = NewClient { app, socket_id, credentials, counted, form, inflates, socketio: None, browser };
            hand_over(shard, stream, leftover, client);
            drop(open);
        }
        // It is counted until it is gone.
        Err(refusal) => {
            let what = tap::What::Rejected { code: refusal.code, error: refusal.message.clone() };
            open.front.publisher.tap().refuse(what);
            refuse(stream, refusal).await;
            drop(open);
        }
    });
    if let Some(cookie) = set_cookie {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    if let Some(agreed) = agreed {
        response.headers_mut().insert(header::SEC_WEBSOCKET_EXTENSIONS, agreed.answer);
    }
    response
}

fn no_websocket(why: ws::HandshakeError) -> Response<Body> {
    let status =
        if why == ws::HandshakeError::Version { StatusCode::UPGRADE_REQUIRED } else { StatusCode::BAD_REQUEST };
    let mut response = error(status, &why.to_string());
    response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

/// Makes the request's connection a WebSocket, which `then` gets with what has been read beyond the request.
fn switch<S: Stream, F: Future<Output = ()> + Send>(
    mut request: Request<Incoming>,
    accept: &str,
    then: impl FnOnce(S, Bytes) -> F + Send + 'static,
) -> Response<Body> {
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<S>>() else { return };
        then(parts.io.into_inner(), parts.read_buf).await;
    });
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = accept.parse() {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// Close code and text of a connection that is refused after its handshake: the browser can
/// read nothing of a handshake that fails (protocol section 1).
struct Refusal {
    code: u16,
    message: String,
}

fn admit(
    open: &Open,
    key: &str,
    query: Option<&str>,
    source: &Source,
) -> Result<(AppIndex, SocketId, Option<OneMore>), Refusal> {
    let front = &open.front;
    let Some(index) = front.config.apps.iter().position(|app| app.key == key) else {
        front.refused(Refused::UnknownKey, None);
        tracing::warn!(
            "a client was refused: no app has the key {key:.64?} (clients[].key in {}); it came from {source}",
            front.config.path.display()
        );
        return Err(Refusal { code: 4001, message: "Application does not exist".into() });
    };
    let version = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).find(|(name, _)| name == "protocol");
    if let Some((_, version)) = version
        && !matches!(version.parse::<u32>(), Ok(4..=7))
    {
        front.refused(Refused::ProtocolVersion, None);
        return Err(Refusal { code: 4007, message: "Unsupported protocol version: 4 to 7 are spoken here".into() });
    }
    let full = |message: &str| Refusal { code: 4100, message: message.into() };
    let socket_id = new_socket_id(front, index, source).ok_or_else(|| full("Over capacity"))?;
    let by_address = open.count_client(source).ok_or_else(|| full("Too many connections from this address"))?;
    Ok((AppIndex(index as u16), socket_id, by_address))
}

/// Whether there are as many connections as there may be; the log says so.
fn has_no_room(front: &Front, source: &Source) -> bool {
    let limit = front.room();
    let is_full = front.connections() >= limit;
    if is_full {
        front.refused(Refused::OverCapacity, Some(Limit::Connections));
        tracing::warn!(
            "a client was refused: there are {limit} connections already (limits.connections); it came from {source}"
        );
    }
    is_full
}

/// The id of one more connection of this app; `None`: there are too many, and the log says so.
fn new_socket_id(front: &Front, index: usize, source: &Source) -> Option<SocketId> {
    if has_no_room(front, source) {
        return None;
    }
    let app = &front.config.apps[index];
    if front.app_connections[index].load(Ordering::Relaxed) >= app.limits.connections {
        let (id, limit) = (&app.id, app.limits.connections);
        front.refused(Refused::AppOverCapacity, Some(Limit::AppConnections));
        tracing::warn!(
            "a client was refused: the app {id} has {limit} connections already (clients[].limits.connections); it came \
             from {source}"
        );
        return None;
    }
    match getrandom::u64() {
        Ok(random) => Some(SocketId::new(random, app_tag(&app.key))),
        Err(error) => {
            tracing::error!("no random number for a socket id: {error}");
            None
        }
    }
}

fn credentials(headers: &HeaderMap) -> Credentials {
    // A header that is there twice or is no text must not look like one that is missing: a client
    // without an Origin is taken for no browser.
    let text = |name| {
        let mut values = headers.get_all(name).iter();
        let first = values.next()?;
        let only = values.next().is_none();
        Some(first.to_str().ok().filter(|_| only).unwrap_or_default().to_owned())
    };
    Credentials {
        cookie: headers.get(header::COOKIE).cloned(),
        authorization: headers.get(header::AUTHORIZATION).cloned(),
        origin: text(header::ORIGIN),
        referer: text(header::REFERER),
        host: text(header::HOST),
        user_agent: headers.get(header::USER_AGENT).cloned(),
    }
}

fn hand_over(shard: &ShardHandle, stream: impl Stream, leftover: Bytes, client: NewClient) {
    let (stream, tls) = stream.into_parts();
    let stream = match stream.into_std() {
        Ok(stream) => stream,
        Err(error) => return tracing::warn!("a new connection was dropped: {error}"),
    };
    shard.hand_over(Handover { stream, tls, leftover, client });
}

async fn refuse(mut stream: impl Stream, refusal: Refusal) {
    let mut frames = frame::encode_text(&pusher::error(Some(refusal.code), &refusal.message)).to_vec();
    frames.extend_from_slice(&frame::encode_close(refusal.code, &refusal.message));
    let closing = async {
        stream.write_all(&frames).await?;
        // The client answers with its own close frame; dropped before, ours might be lost.
        let mut answer = [0; 256];
        while stream.read(&mut answer).await? > 0 {
            if answer[0] & 0x0f == 8 {
                break;
            }
        }
        Ok::<_, std::io::Error>(())
    };
    let _ = tokio::time::timeout(REFUSED_WAIT, closing).await;
}

// --- HTTP ----------------------------------------------------------------------------------

async fn authorise(front: Arc<Front>, request: Request<Incoming>, source: &Source) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if let (Some(limit), Some(address)) = (front.config.limits.auth_requests_per_second, source.counted_as())
        && !front.addresses.may_ask(address, limit, Instant::now())
    {
        front.publisher.metrics().limit_reached.add(Limit::AuthRequestsPerSecond);
        tracing::warn!(
            "an auth request was refused: {address} asks more than {limit} times in a second (limits.authRequestsPerSecond)"
        );
        return gateway::too_many(&front.config.auth, &parts, limit).map(full);
    }
    match collect(&front, body, gateway::BODY_BYTES_MAX).await {
        Ok(body) => gateway::gateway(&front.laravel, &front.config.apps, &parts, body).await.map(full),
        Err((status, sentence)) => error(status, &sentence),
    }
}

/// Reads on without keeping anything, for a moment: a client that is still sending would miss the answer.
async fn discard(body: &mut Incoming) {
    let reading = async { while let Some(Ok(_)) = body.frame().await {} };
    let _ = tokio::time::timeout(DISCARD_WAIT, reading).await;
}

/// The whole body, or the status and the sentence for its refusal.
async fn collect(front: &Front, mut body: Incoming, limit: usize) -> Result<Bytes, (StatusCode, String)> {
    let limit_reached = &front.publisher.metrics().limit_reached;
    // A body must come as quickly as a head: nothing here waits for a client without end.
    let patience = front.config.limits.handshake_timeout * 3;
    match tokio::time::timeout(patience, Limited::new(&mut body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(why)) if why.is::<LengthLimitError>() => {
            limit_reached.add(Limit::BodyBytes);
            discard(&mut body).await;
            Err((StatusCode::PAYLOAD_TOO_LARGE, format!("the body is over the limit of {limit} bytes")))
        }
        Ok(Err(_)) => Err((StatusCode::BAD_REQUEST, "the body broke off".to_owned())),
        Err(_) => {
            limit_reached.add(Limit::HandshakeTimeout);
            Err((StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".to_owned()))
        }
    }
}

fn error(status: StatusCode, sentence: &str) -> Response<Body> {
    let mut text = String::from("{\"error\":");
    pusher::push_json_string(&mut text, sentence);
    text.push_str(&format!(",\"code\":{}}}", status.as_u16()));
    json(status, text)
}

fn json(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(full(text.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}
