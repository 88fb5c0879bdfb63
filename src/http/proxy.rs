//! `"proxy": true`: what is not this server's own path goes on to authHost.
//!
//! For development. The application opened on this server's port sees one origin for its pages
//! and its socket, so that bearer tokens and presence work with nothing changed. It is no
//! production web server: one connection to authHost per request, no caching, no WebSockets.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::ConfigVerifierExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use url::{Host, Position, Url};

use crate::address::Source;
use crate::auth::headers::{remove_forwarding, remove_hop_by_hop};
use crate::auth::origin::{same_or_both_loopback, url_host};
use crate::config::Auth;

/// How long a connection to authHost may take to be made, TLS included. How long Laravel may
/// take to answer is not limited: it may stand in a debugger.
const CONNECT: Duration = Duration::from_secs(5);

/// What went wrong while a body was on its way.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body that streams.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The way to authHost. A clone shares everything.
#[derive(Clone)]
pub struct Proxy(Arc<Inner>);

struct Inner {
    /// authHost, without user and password.
    host: Url,
    /// authHost's host and port as in a `Host` header.
    authority: HeaderValue,
    /// Whether Laravel shall see the browser's own `Host`.
    keeps_host: bool,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// authHost cannot be passed on to.
#[derive(Debug, thiserror::Error)]
pub enum CannotProxy {
    /// authHost has no host, or one that no `Host` header can name.
    #[error("authHost \"{0}\" names no host to pass requests on to")]
    Host(Url),
    /// TLS to authHost is not possible (certificate store and the like).
    #[error("TLS to authHost is not possible")]
    Tls(#[source] rustls::Error),
}

impl Proxy {
    /// The way to `auth.host`.
    pub fn new(auth: &Auth) -> Result<Self, CannotProxy> {
        let mut host = auth.host.clone();
        let _ = host.set_username("");
        let _ = host.set_password(None);
        let authority = host
            .host()
            .map(|name| match host.port() {
                Some(port) => format!("{}:{port}", url_host(&name)),
                None => url_host(&name),
            })
            .and_then(|text| HeaderValue::try_from(text).ok());
        let (Some(authority), Some(name)) = (authority, host.host().map(|name| name.to_owned())) else {
            return Err(CannotProxy::Host(host));
        };
        // By an address or localhost Laravel has one site only and makes its URLs out of the
        // Host: with the browser's, they lead back here. A name may choose among several sites.
        let keeps_host = match &name {
            Host::Domain(name) => name == "localhost",
            Host::Ipv4(_) | Host::Ipv6(_) => true,
        };
        let tls = if host.scheme() == "https" {
            if rustls::crypto::CryptoProvider::get_default().is_none() {
                return Err(CannotProxy::Tls(rustls::Error::General("no cryptography was installed".to_owned())));
            }
            let config = rustls::ClientConfig::with_platform_verifier().map_err(CannotProxy::Tls)?;
            let name = match name {
                Host::Domain(name) => ServerName::try_from(name).map_err(|_| CannotProxy::Host(host.clone()))?,
                Host::Ipv4(address) => ServerName::from(IpAddr::from(address)),
                Host::Ipv6(address) => ServerName::from(IpAddr::from(address)),
            };
            Some((TlsConnector::from(Arc::new(config)), name))
        } else {
            None
        };
        Ok(Self(Arc::new(Inner { host, authority, keeps_host, tls })))
    }

    /// Passes a request on and the answer back, both streaming. Never fails: what
    /// goes wrong is an answer, too.
    pub async fn forward<B>(&self, request: Request<B>, source: &Source) -> Response<Body>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let Some(request) = self.outgoing(request, source) else {
            return sentence(StatusCode::METHOD_NOT_ALLOWED, "This server passes no such request on.");
        };
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        match self.exchange(request).await {
            Ok(response) if response.status().is_informational() => {
                self.failed(&method, &path, "it switched protocols")
            }
            Ok(response) => self.incoming(response),
            Err(why) => self.failed(&method, &path, &why.to_string()),
        }
    }

    /// The request as Laravel shall see it; `None`: it is none to pass on.
    fn outgoing<B>(&self, request: Request<B>, source: &Source) -> Option<Request<Body>>
    where
        B: hyper::body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        if matches!(parts.method, Method::CONNECT | Method::TRACE) {
            return None;
        }
        let from_uri = parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        // Of an absolute request target only the path counts; it cannot lead elsewhere.
        parts.uri = Uri::from(parts.uri.path_and_query()?.clone());
        let browser_host = from_uri.or_else(|| parts.headers.get(header::HOST).cloned());
        let headers = &mut parts.headers;
        // With them goes the framing; the HTTP client makes it anew from the body's length.
        remove_hop_by_hop(headers);
        remove_forwarding(headers);
        headers.remove(header::EXPECT);
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(if source.is_https { "https" } else { "http" }));
        let address = source.client.or(source.peer).map(|address| HeaderValue::try_from(address.to_string()));
        if let Some(Ok(address)) = address {
            headers.insert(X_FORWARDED_FOR, address);
        }
        if let Some(host) = &browser_host {
            headers.insert(X_FORWARDED_HOST, host.clone());
        }
        let host = browser_host.filter(|_| self.0.keeps_host).unwrap_or_else(|| self.0.authority.clone());
        headers.insert(header::HOST, host);
        parts.version = http::Version::HTTP_11;
        Some(Request::from_parts(parts, body.map_err(Into::into).boxed_unsync()))
    }

    async fn exchange(&self, request: Request<Body>) -> Result<Response<hyper::body::Incoming>, BoxError> {
        let stream = timeout(CONNECT, self.connect())
            .await
            .map_err(|_| format!("no connection within {} s", CONNECT.as_secs()))??;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the answer's body, or when the browser's going away drops our side.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to authHost ended");
            }
        });
        Ok(sender.send_request(request).await?)
    }

    async fn connect(&self) -> Result<Box<dyn Stream>, BoxError> {
        let host = &self.0.host;
        let port = host.port_or_known_default().unwrap_or(80);
        let stream = match host.host() {
            Some(Host::Domain(name)) => TcpStream::connect((name, port)).await?,
            Some(Host::Ipv4(address)) => TcpStream::connect((address, port)).await?,
            Some(Host::Ipv6(address)) => TcpStream::connect((address, port)).await?,
            None => return Err("authHost names no host".into()),
        };
        stream.set_nodelay(true)?;
        match &self.0.tls {
            Some((connector, name)) => Ok(Box::new(connector.connect(name.clone(), stream).await?)),
            None => Ok(Box::new(stream)),
        }
    }

    /// The answer as the browser shall see it.
    fn incoming(&self, response: Response<hyper::body::Incoming>) -> Response<Body> {
        let (mut parts, body) = response.into_parts();
        remove_hop_by_hop(&mut parts.headers);
        self.rewrite_location(&mut parts.headers);
        parts.version = http::Version::HTTP_11;
        parts.extensions.clear();
        Response::from_parts(parts, body.map_err(BoxError::from).boxed_unsync())
    }

    /// A redirect to authHost itself stays with us.
    fn rewrite_location(&self, headers: &mut HeaderMap) {
        let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        // A path alone is right as it is.
        let Some(location) = location.filter(|text| !text.starts_with('/') || text.starts_with("//")) else {
            return;
        };
        let Some(target) = self.0.host.join(location).ok().filter(|target| self.is_auth_host(target)) else {
            return;
        };
        let path = &target[Position::BeforePath..];
        // `//evil.example/` would be another host.
        let path = if path.starts_with("//") { format!("/.{path}") } else { path.to_owned() };
        if let Ok(path) = HeaderValue::try_from(path) {
            headers.insert(header::LOCATION, path);
        }
    }

    fn is_auth_host(&self, target: &Url) -> bool {
        let host = &self.0.host;
        target.scheme() == host.scheme()
            && target.port_or_known_default() == host.port_or_known_default()
            && match (target.host(), host.host()) {
                (Some(one), Some(other)) => same_or_both_loopback(&url_host(&one), &url_host(&other)),
                _ => false,
            }
    }

    fn failed(&self, method: &Method, path: &str, why: &str) -> Response<Body> {
        let host = self.0.host.origin().ascii_serialization();
        tracing::warn!(%method, path, "not passed on to authHost {host}: {why}");
        sentence(
            StatusCode::BAD_GATEWAY,
            &format!(
                "laravel-echo-server cannot get an answer from the application at {host} (authHost in laravel-echo-server.json): {why}.\nStart the application (php artisan serve), or correct authHost."
            ),
        )
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy to {}", self.0.host)
    }
}

fn sentence(status: StatusCode, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(format!("{text}\n"))).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A connection to authHost, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

#[cfg(test)]
mod tests;
