//! The port: HTTP/1.1 and the opening handshakes of WebSockets. After its handshake a socket is
//! handed to the shard with the fewest connections; nothing of HTTP stays with it.
//!
//! This is the front: beside several shards it runs on threads of its own, so that a storm of
//! handshakes does not delay deliveries.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::auth::callback::Laravel;
use crate::auth::gateway;
use crate::config::Config;
use crate::inbox::{AppIndex, Credentials, Form, Handover, NewClient, OneMore, ShardHandle};
use crate::protocol::{SocketId, app_tag, pusher};
use crate::publish::Publisher;
use crate::query::Everybody;
use crate::tls;
use crate::ws::{self, deflate, frame};
use pace::Pace;
use proxy::Proxy;

mod api;
mod browser;
mod client_script;
mod pace;
pub mod proxy;
mod socketio;

pub use proxy::Body;

/// The longest request head, in bytes: a Laravel page's cookies have room.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// How long a client that is refused may take to answer the close frame.
const REFUSED_WAIT: Duration = Duration::from_secs(5);

/// How long the rest of a body that is refused is read.
const DISCARD_WAIT: Duration = Duration::from_secs(5);

/// What the front needs to answer requests.
pub struct Front {
    config: Arc<Config>,
    publisher: Publisher,
    everybody: Everybody,
    /// How many connections each app has.
    app_connections: Arc<[Arc<AtomicUsize>]>,
    laravel: Laravel,
    user_endpoint: String,
    proxy: Option<Proxy>,
    tls: Option<TlsAcceptor>,
    /// What pages get as `socket.io.js`.
    client_script: Option<Bytes>,
    /// Sockets that are open here, before a handshake or without one.
    open: AtomicUsize,
    /// Polls of Socket.IO clients so far.
    polls: AtomicU64,
    /// Turns of long POSTs of Socket.IO clients.
    long_bodies: Semaphore,
    /// When the server started.
    since: Instant,
    /// Tells this process from those before it and beside it.
    process: u64,
}

impl Front {
    /// A front for these shards, which counts each app's connections.
    pub fn new(
        config: Arc<Config>,
        publisher: Publisher,
        laravel: Laravel,
        app_connections: Arc<[Arc<AtomicUsize>]>,
    ) -> anyhow::Result<Self> {
        let proxy = config
            .proxy
            .then(|| Proxy::new(&config.auth, if config.tls.is_some() { "https" } else { "http" }))
            .transpose()?;
        let tls = config.tls.as_ref().map(tls::server_config).transpose()?.map(TlsAcceptor::from);
        let user_endpoint = config.auth.user_endpoint();
        let everybody = Everybody::new(publisher.shards()).with_bus(publisher.bus().clone());
        let client_script = client_script::load(&config)?;
        let (open, polls) = (AtomicUsize::new(0), AtomicU64::new(0));
        Ok(Self {
            config,
            publisher,
            everybody,
            app_connections,
            laravel,
            user_endpoint,
            proxy,
            tls,
            client_script,
            open,
            polls,
            long_bodies: Semaphore::new(socketio::LONG_BODIES_MAX),
            since: Instant::now(),
            process: getrandom::u64().context("the system gives no random numbers")?,
        })
    }

    fn connections(&self) -> usize {
        self.publisher.shards().iter().map(|shard| shard.connections().load(Ordering::Relaxed)).sum()
    }

    /// Counts a connection among its app's and those of its form, until the answer is dropped.
    fn count(&self, app: AppIndex, form: Form) -> [Option<OneMore>; 2] {
        [Some(OneMore::of(&self.app_connections[usize::from(app.0)])), self.publisher.count(form)]
    }

    /// The shard with the fewest connections, and its index.
    fn idle_shard(&self) -> (&ShardHandle, usize) {
        let shards = self.publisher.shards();
        let connections = |index: &usize| shards[*index].connections().load(Ordering::Relaxed);
        let index = (0..shards.len()).min_by_key(connections).unwrap_or_default();
        (&shards[index], index)
    }
}

/// Accepts connections until told to stop.
pub async fn serve(listener: TcpListener, front: Arc<Front>, mut stop: watch::Receiver<bool>) {
    let pace = Arc::new(Pace::default());
    tokio::spawn(pace.clone().run());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let open = Open::one_more(&front);
                if front.open.load(Ordering::Relaxed) > front.config.limits.connections {
                    // Not even a refusal: whoever opens so many sockets without a handshake gets none.
                    tracing::debug!("dropped a connection from {peer}: too many wait for a handshake");
                    continue;
                }
                let known = open.clone();
                let is_exempt = move || known.is_backend.load(Ordering::Relaxed);
                tokio::spawn(pace.paced(connection(open, stream, peer), is_exempt));
            }
            Err(error) => {
                // Out of file descriptors, most likely: waiting lets some be closed.
                tracing::error!("no connection could be accepted: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A socket that the front has, counted as long as this lives.
struct Open {
    front: Arc<Front>,
    /// A backend that has signed a request: its events do not wait for strangers' handshakes.
    is_backend: AtomicBool,
}

impl Open {
    fn one_more(front: &Arc<Front>) -> Arc<Self> {
        front.open.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { front: front.clone(), is_backend: AtomicBool::new(false) })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.front.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(open: Arc<Open>, stream: TcpStream, peer: SocketAddr) {
    let _ = stream.set_nodelay(true);
    let front = &open.front;
    match &front.tls {
        None => http(&open, stream, peer).await,
        Some(tls) => match tokio::time::timeout(front.config.limits.handshake_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => http(&open, stream, peer).await,
            Ok(Err(error)) => tracing::debug!("no TLS with {peer}: {error}"),
            Err(_) => tracing::debug!("no TLS with {peer}: it did not come in time"),
        },
    }
}

async fn http<S: Stream>(open: &Arc<Open>, stream: S, peer: SocketAddr) {
    let service = service_fn(|request| {
        let open = open.clone();
        async move { Ok::<_, Infallible>(respond::<S>(open, request, peer).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(open.front.config.limits.handshake_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        // Answers to requests that came together go out together.
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!("a connection from {peer} ended: {error}");
    }
}

/// What a connection runs over: plain TCP, or TLS on it.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    /// The socket, and what goes on with it in a shard.
    fn into_parts(self) -> (TcpStream, Option<Box<rustls::ServerConnection>>);
}

impl Stream for TcpStream {
    fn into_parts(self) -> (TcpStream, Option<Box<rustls::ServerConnection>>) {
        (self, None)
    }
}

impl Stream for TlsStream<TcpStream> {
    fn into_parts(self) -> (TcpStream, Option<Box<rustls::ServerConnection>>) {
        let (stream, tls) = self.into_inner();
        (stream, Some(Box::new(tls)))
    }
}

async fn respond<S: Stream>(open: Arc<Open>, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
    let front = open.front.clone();
    let path = request.uri().path();
    let method = request.method();
    if let Some(key) = path.strip_prefix("/app/") {
        let key = key.trim_end_matches('/').to_owned();
        return upgrade::<S>(open, request, &key);
    }
    if let Some(rest) = path.strip_prefix(front.config.socketio.path.as_str())
        && (rest.is_empty() || rest.starts_with('/'))
    {
        return socketio::respond::<S>(open, request).await;
    }
    if let Some(route) = api::route(path, request.uri().query()) {
        // Anybody may ask what a browser asks before a request.
        let is_preflight = method == Method::OPTIONS;
        let response = api::respond(front, request, route, peer.ip()).await;
        if response.status().is_success() && !is_preflight {
            open.is_backend.store(true, Ordering::Relaxed);
        }
        return response;
    }
    if path == front.config.auth.endpoint || path == front.user_endpoint {
        match *method {
            Method::POST => return authorise(front, request).await,
            Method::OPTIONS => {
                let parts = request.into_parts().0;
                return gateway::preflight(&front.config.auth, &parts).map(full);
            }
            _ if front.proxy.is_none() => {
                return error(StatusCode::METHOD_NOT_ALLOWED, "authorisation is asked for with POST");
            }
            _ => {}
        }
    }
    match &front.proxy {
        Some(proxy) => proxy.forward(request, peer.ip()).await,
        None => {
            let mut response = match path {
                "/" => api::health(method),
                _ => error(StatusCode::NOT_FOUND, "nothing is here; WebSockets connect to /app/{key}"),
            };
            api::allow_pages(&front.config, &mut response);
            response
        }
    }
}

// --- WebSocket -----------------------------------------------------------------------------

fn upgrade<S: Stream>(open: Arc<Open>, request: Request<Incoming>, key: &str) -> Response<Body> {
    let accept = match ws::accept_key(request.method(), request.headers()) {
        Ok(accept) => accept,
        Err(why) => return no_websocket(why),
    };
    let admission = admit(&open.front, key, request.uri().query());
    let credentials = Arc::new(credentials(request.headers()));
    let deflates = open.front.config.per_message_deflate && deflate::is_offered(request.headers());
    let form = if deflates { Form::Deflated } else { Form::Plain };
    let mut known = admission.is_ok().then(|| browser::known(&open.front, request.headers())).flatten();
    let set_cookie = known.as_mut().and_then(|known| known.set_cookie.take());
    let mut response = switch(request, &accept, async move |stream: S, leftover| match admission {
        Ok((app, socket_id)) => {
            let front = &open.front;
            let shard = match &known {
                Some(known) => &front.publisher.shards()[known.shard],
                None => front.idle_shard().0,
            };
            let counted = front.count(app, form);
            let browser = known.map(|known| known.returning);
            let client = NewClient { app, socket_id, credentials, counted, form, socketio: None, browser };
            hand_over(shard, stream, leftover, client);
        }
        // It is counted until it is gone.
        Err(refusal) => refuse(stream, refusal).await,
    });
    if let Some(cookie) = set_cookie {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    if deflates {
        let agreed = HeaderValue::from_static(deflate::AGREED);
        response.headers_mut().insert(header::SEC_WEBSOCKET_EXTENSIONS, agreed);
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

fn admit(front: &Front, key: &str, query: Option<&str>) -> Result<(AppIndex, SocketId), Refusal> {
    let Some(index) = front.config.apps.iter().position(|app| app.key == key) else {
        tracing::warn!(
            "a client was refused: no app has the key {key:.64?} (clients[].key in {})",
            front.config.path.display()
        );
        return Err(Refusal { code: 4001, message: "Application does not exist".into() });
    };
    let version = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).find(|(name, _)| name == "protocol");
    if let Some((_, version)) = version
        && !matches!(version.parse::<u32>(), Ok(4..=7))
    {
        return Err(Refusal { code: 4007, message: "Unsupported protocol version: 4 to 7 are spoken here".into() });
    }
    match new_socket_id(front, index) {
        Some(socket_id) => Ok((AppIndex(index as u16), socket_id)),
        None => Err(Refusal { code: 4100, message: "Over capacity".into() }),
    }
}

/// Whether there are as many connections as there may be; the log says so.
fn has_no_room(front: &Front) -> bool {
    let limit = front.config.limits.connections;
    let is_full = front.connections() >= limit;
    if is_full {
        tracing::warn!("a client was refused: there are {limit} connections already (limits.connections)");
    }
    is_full
}

/// The id of one more connection of this app; `None`: there are too many, and the log says so.
fn new_socket_id(front: &Front, index: usize) -> Option<SocketId> {
    if has_no_room(front) {
        return None;
    }
    let app = &front.config.apps[index];
    if front.app_connections[index].load(Ordering::Relaxed) >= app.limits.connections {
        let (id, limit) = (&app.id, app.limits.connections);
        tracing::warn!(
            "a client was refused: the app {id} has {limit} connections already (clients[].limits.connections)"
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

async fn authorise(front: Arc<Front>, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    match collect(body, gateway::BODY_BYTES_MAX).await {
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
async fn collect(mut body: Incoming, limit: usize) -> Result<Bytes, (StatusCode, String)> {
    // A body must come as quickly as a head: nothing here waits for a client without end.
    match tokio::time::timeout(Duration::from_secs(30), Limited::new(&mut body, limit).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(why)) if why.is::<LengthLimitError>() => {
            discard(&mut body).await;
            Err((StatusCode::PAYLOAD_TOO_LARGE, format!("the body is over the limit of {limit} bytes")))
        }
        Ok(Err(_)) => Err((StatusCode::BAD_REQUEST, "the body broke off".to_owned())),
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time".to_owned())),
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
