//! New connections: accepted within bounds, TLS, HTTP/1.1 on them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::header::{self, HeaderValue};
use http::{HeaderMap, Request};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

use super::pace::Pace;
use super::patience::{PATIENCE, Patient};
use super::proxy_protocol::{self, Told};
use super::{Front, Fronts, respond};
use crate::address::{Connection, Proxied, Source};
use crate::inbox::OneMore;
use crate::listen::{self, Listener, Peer, files};
use crate::metrics::{Limit, Refused};

/// How long nothing is accepted when there are no more files.
const OUT_OF_FILES_WAIT: Duration = Duration::from_millis(100);

/// How long the first request of a connection that has been accepted is waited for when the server stops: the client was
/// not refused, so it shall not be dropped without an answer either.
pub const FIRST_REQUEST_WAIT: Duration = Duration::from_secs(1);

/// Sockets of one address over `limits.connectionsPerAddress` that are told so before others are dropped.
const TOLD_MAX: usize = 100;

/// Accepts connections until told to stop.
pub async fn serve(listener: Listener, fronts: Fronts, mut stop: watch::Receiver<bool>) {
    let is_tls = listener.is_tls();
    let pace = Arc::new(Pace::default());
    tokio::spawn(pace.clone().run());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let front = fronts.load();
                let counted = OneMore::of(&front.open);
                let open = front.open.load(Ordering::Relaxed);
                if open > front.config.limits.connections
                    || open + front.connections() > front.files_room + files::REFUSED
                {
                    // Not even a refusal: whoever opens so many sockets without a handshake gets none.
                    front.refused(Refused::TooManyOpen, Some(Limit::Connections));
                    tracing::warn!(
                        "a connection from {peer} was dropped: {open} sockets wait for a handshake, or are open for HTTP, \
                         and no more have room (limits.connections)"
                    );
                    continue;
                }
                let is_backend = Arc::new(AtomicBool::new(false));
                let known = is_backend.clone();
                let is_exempt = move || known.load(Ordering::Relaxed);
                let connection = Connection { peer: peer.ip(), proxied: Proxied::No, is_tls };
                let accepted = Accepted { stream, peer, connection, counted, is_backend };
                tokio::spawn(pace.paced(serve_one(fronts.clone(), stop.clone(), accepted), is_exempt));
            }
            Err(error) => {
                let is_out_of_files = listen::is_out_of_files(&error);
                let cure = match is_out_of_files {
                    true => format!(
                        ". {} files may be open: allow more (LimitNOFILE in the systemd unit, ulimit -n), or lower \
                         limits.connections. Clients wait meanwhile",
                        files::max()
                    ),
                    false => String::new(),
                };
                tracing::error!("no connection could be accepted: {error}{cure}");
                if is_out_of_files {
                    // Trying again at once would be in vain, and again; waiting lets some be closed.
                    tokio::time::sleep(OUT_OF_FILES_WAIT).await;
                } else {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

/// A socket that the front has, counted as long as this lives.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) front: Arc<Front>,
    /// The last request was a backend's that has signed it: its events do not wait for strangers' handshakes.
    pub(super) is_backend: Arc<AtomicBool>,
    /// Who connects, as far as that is known without a request.
    pub(super) connection: Connection,
    counted: Arc<Counted>,
}

/// What counts the socket, as long as this lives.
struct Counted {
    _open: OneMore,
    /// The same among the connections of its address, if it is a client's own.
    by_address: Option<OneMore>,
}

impl Open {
    /// One more WebSocket or session of this client; `None`: its address has too many, and the log says so.
    pub(super) fn count_client(&self, source: &Source) -> Option<Option<OneMore>> {
        let (Some(limit), Some(address)) = (self.front.config.limits.connections_per_address, source.counted_as())
        else {
            return Some(None);
        };
        let (one, count) = self.front.addresses.connect(address, Instant::now());
        // This socket itself is one of them, until it is a WebSocket.
        if count - usize::from(self.counted.by_address.is_some()) > limit {
            self.front.refused(Refused::AddressOverCapacity, Some(Limit::ConnectionsPerAddress));
            tracing::warn!(
                "a client was refused: {address} has {limit} connections already (limits.connectionsPerAddress)"
            );
            return None;
        }
        Some(Some(one))
    }
}

/// What a listener has accepted.
struct Accepted {
    stream: TcpStream,
    peer: Peer,
    /// As the socket says.
    connection: Connection,
    counted: OneMore,
    is_backend: Arc<AtomicBool>,
}

async fn serve_one(fronts: Fronts, stop: watch::Receiver<bool>, accepted: Accepted) {
    let Accepted { mut stream, peer, mut connection, counted, is_backend } = accepted;
    let _ = stream.set_nodelay(true);
    let front = fronts.load_full();
    let limits = &front.config.limits;
    if front.config.proxy_protocol && front.config.trusted_proxies.trusts(connection.peer) {
        match timeout(limits.handshake_timeout, proxy_protocol::read(&mut stream)).await {
            Ok(Ok(Told::Client(address))) => {
                connection = Connection { peer: Some(address), proxied: Proxied::Told, ..connection };
            }
            Ok(Ok(Told::Unknown)) => connection.proxied = Proxied::Untold,
            Ok(Err(error)) => {
                front.refused(Refused::NoProxyHeader, None);
                return tracing::debug!("{peer} was closed: {error} (proxyProtocol)");
            }
            Err(_) => {
                front.refused(Refused::NoProxyHeader, Some(Limit::HandshakeTimeout));
                return tracing::debug!("{peer} was closed: no PROXY protocol header came in time (proxyProtocol)");
            }
        }
    }
    let source = Source::of(connection, &HeaderMap::new(), &front.config.trusted_proxies);
    let mut by_address = None;
    if let (Some(limit), Some(address)) = (limits.connections_per_address, source.counted_as()) {
        let (one, count) = front.addresses.connect(address, Instant::now());
        if count > limit.saturating_add(TOLD_MAX) {
            front.refused(Refused::AddressOverCapacity, Some(Limit::ConnectionsPerAddress));
            return tracing::debug!("a connection from {address} was dropped (limits.connectionsPerAddress)");
        }
        by_address = Some(one);
    }
    let counted = Arc::new(Counted { _open: counted, by_address });
    let open = Open { front: front.clone(), is_backend, connection, counted };
    match &front.tls {
        _ if !connection.is_tls => http(fronts, stop, open, stream, &source).await,
        // A configuration without a certificate is not taken while there is a port with TLS.
        None => {}
        Some((tls, _)) => match timeout(limits.handshake_timeout, tls.accept(stream)).await {
            Ok(Ok(stream)) => http(fronts, stop, open, stream, &source).await,
            Ok(Err(error)) => {
                front.refused(Refused::Tls, None);
                tracing::debug!("no TLS with {source}: {error}");
            }
            Err(_) => {
                front.refused(Refused::Tls, Some(Limit::HandshakeTimeout));
                tracing::debug!("no TLS with {source}: it did not come in time");
            }
        },
    }
}

async fn http<S: Stream>(fronts: Fronts, mut stop: watch::Receiver<bool>, open: Open, stream: S, source: &Source) {
    let asked = Notify::new();
    let service = service_fn(|request: Request<Incoming>| {
        asked.notify_one();
        // A backend's connection may outlive many configurations.
        let open = Arc::new(Open { front: fronts.load_full(), ..open.clone() });
        // Whoever stands in between may take a length that stands beside it for the right one, and what we would
        // take for the next request for a part of this body: so there is no next one.
        let is_last = request.headers().contains_key(header::TRANSFER_ENCODING);
        async move {
            let mut response = respond::<Patient<S>>(open, request).await;
            if is_last {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(response)
        }
    });
    let limits = &open.front.config.limits;
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.handshake_timeout)
        .max_buf_size(limits.head_bytes)
        // Not `pipeline_flush`: with it the last answer, as the refusal of a head, is lost if more has been read.
        .serve_connection(TokioIo::new(Patient::new(stream, PATIENCE)), service)
        .with_upgrades();
    tokio::pin!(connection);
    let stopping = async {
        let _ = stop.wait_for(|stop| *stop).await;
        // Hyper drops a connection of which nothing has been read.
        let _ = timeout(FIRST_REQUEST_WAIT, asked.notified()).await;
    };
    let served = tokio::select! {
        served = &mut connection => served,
        // What has begun is answered, and nothing more is waited for.
        () = stopping => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    let Err(error) = served else { return };
    tracing::debug!("a connection from {source} ended: {error}");
    if error.is_parse_too_large() {
        open.front.refused(Refused::NoRequest, Some(Limit::HeadBytes));
    } else if error.is_parse() {
        open.front.refused(Refused::NoRequest, None);
    } else if error.is_timeout() {
        open.front.refused(Refused::NoRequest, Some(Limit::HandshakeTimeout));
    }
}

/// What a connection runs over: plain TCP, or TLS on it.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
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

impl<S: Stream> Stream for Patient<S> {
    fn into_parts(self) -> (TcpStream, Option<Box<rustls::ServerConnection>>) {
        self.into_inner().into_parts()
    }
}
