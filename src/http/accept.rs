//! New connections: accepted within bounds, TLS, HTTP/1.1 on them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;

use super::pace::Pace;
use super::{Front, HEAD_BYTES_MAX, respond};
use crate::listen::{Listener, Peer};

/// Accepts connections until told to stop.
pub async fn serve(listener: Listener, front: Arc<Front>, mut stop: watch::Receiver<bool>) {
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
pub(super) struct Open {
    pub(super) front: Arc<Front>,
    /// A backend that has signed a request: its events do not wait for strangers' handshakes.
    pub(super) is_backend: AtomicBool,
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

async fn connection(open: Arc<Open>, stream: TcpStream, peer: Peer) {
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

async fn http<S: Stream>(open: &Arc<Open>, stream: S, peer: Peer) {
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
