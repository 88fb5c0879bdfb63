//! The configuration that the program sees: typed, valid, immutable.
//!
//! [`Config::load`] makes it out of the user's file and environment (`file`); whoever holds a
//! [`Config`] need check nothing more. Not here: the command line (see `cli`), and whether Redis and
//! Laravel answer.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::address::TrustedProxies;
use crate::protocol::resume::{Modes, SameSite};
use crate::protocol::signature;

mod admin;
pub(crate) mod dotenv;
pub mod edit;
mod environment;
mod error;
mod file;
mod json;
mod known;
mod limits;
mod listen;
mod old;
mod operations;
mod redis;
mod reload;
mod resume;
mod socketio;
#[cfg(test)]
mod tests;
mod webhook;

pub use dotenv::DotEnv;
pub use error::ConfigError;
pub use file::{FILE_NAME, Variables};
pub use limits::Limits;
pub use reload::Reload;
pub use webhook::Webhook;

/// Everything that `start` needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from, as the user named it.
    pub path: PathBuf,
    /// Address to listen on; `None`: all interfaces.
    pub host: Option<String>,
    /// TCP port; 0: any free one.
    pub port: u16,
    /// `httpsPort`: another one, which speaks https, while `port` speaks http. With it there is a certificate in `tls`.
    pub https_port: Option<u16>,
    /// `socket`: a unix socket to listen on.
    pub socket: Option<UnixSocket>,
    /// `trustedProxies`: whose word counts about where a request comes from.
    pub trusted_proxies: TrustedProxies,
    /// `proxyProtocol`: trusted proxies say with a PROXY protocol header who connects.
    pub proxy_protocol: bool,
    /// The certificate, if there is a port with TLS: [`Config::scheme`] and `https_port` say which.
    pub tls: Option<Tls>,
    /// The apps of `clients`, never empty. Those that have been removed since the start keep their places.
    pub apps: Vec<App>,
    /// Index of the first app of `clients`, which clients get that name none.
    pub first_app: usize,
    /// How Laravel is asked who may join.
    pub auth: Auth,
    /// `httpApiKeyAuth`: from where an app's key alone will do for the old server's HTTP API.
    pub key_auth: KeyAuth,
    /// `admin`: who may use the dashboard and the commands that ask the running server; `None`: nobody.
    pub admin: Option<Admin>,
    /// Pass what is not the server's own path on to authHost (development).
    pub proxy: bool,
    /// Where Laravel publishes.
    pub redis: Redis,
    /// `subscribers`: what may bring events.
    pub subscribers: Subscribers,
    /// `apiOriginAllow`, if it allows anybody: CORS headers for the HTTP API.
    pub api_cors: Option<ApiCors>,
    /// Keep presence lists in Redis, as the old server did.
    pub presence_store: Option<PresenceStore>,
    /// `cluster`: how nodes on the same Redis find each other; `None`: each is alone.
    pub cluster: Option<Cluster>,
    /// Say more in the log.
    pub dev_mode: bool,
    /// `logFormat`: how lines of the log look.
    pub log_format: LogFormat,
    /// `metrics`: who may read them; `None`: nobody.
    pub metrics: Option<MetricsAccess>,
    /// `perMessageDeflate`: compress for Pusher clients that offer it.
    pub per_message_deflate: bool,
    /// How Socket.IO clients are served.
    pub socketio: SocketIo,
    /// `resume`: what is kept for browsers whose connection was lost; `None`: nothing.
    pub resume: Option<Resume>,
    /// Bounds on what clients may do.
    pub limits: Limits,
    /// `shutdownSeconds`: within which time connections are closed when the server stops; `None`: by their number.
    pub shutdown_time: Option<Duration>,
    /// Engine threads that own the connections; default: one per core.
    pub shards: usize,
    /// What was taken from the environment of another server's user, as "port from SOKETI_PORT".
    pub taken: Vec<String>,
    /// What was odd in the file but no error: unknown keys and the like. Sentences.
    pub warnings: Vec<String>,
}

impl Config {
    /// What `port` and `socket` speak: `https` with `"protocol": "https"`, else `http`.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() && self.https_port.is_none() { "https" } else { "http" }
    }

    /// Who looks for this server at this port finds it at that one, which speaks that scheme: at `httpsPort` if it is that,
    /// else at `port`.
    pub fn port_for(&self, wanted: Option<u16>) -> (u16, &'static str) {
        match self.https_port {
            Some(port) if wanted == Some(port) => (port, "https"),
            _ => (self.port, self.scheme()),
        }
    }
}

/// `logFormat`: how lines of the log look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum LogFormat {
    /// As text on a terminal or in dev mode, as JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Text,
    /// An object in each line, for programs.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(()),
        }
    }
}

/// `metrics`: who may read them. Without a token and a port of their own: programs on this machine that have not
/// come through a proxy.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MetricsAccess {
    /// `metrics.token`: whoever sends it (`Authorization: Bearer`), from anywhere.
    pub token: Option<Secret>,
    /// `metrics.host` and `metrics.port`: they are read there, and not on the port of clients.
    pub listen: Option<std::net::SocketAddr>,
}

/// `socket` and `socketMode`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnixSocket {
    /// `socket`: absolute, so that it is the same wherever the server is started.
    pub path: PathBuf,
    /// `socketMode`: the file's permissions.
    pub mode: u32,
    /// No port was named: nothing else is listened on.
    pub is_alone: bool,
}

/// `subscribers`: what may bring events.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Subscribers {
    /// `subscribers.http`: events posted to the HTTP API. Its other routes are always there.
    pub http: bool,
    /// `subscribers.redis`: what is published to Redis.
    pub redis: bool,
}

/// `apiOriginAllow`: the texts of the three `Access-Control-Allow-…` headers, as they stand. None
/// has a line break or another sign that a header cannot hold.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ApiCors {
    /// `allowOrigin`.
    pub origin: String,
    /// `allowMethods`.
    pub methods: String,
    /// `allowHeaders`.
    pub headers: String,
}

/// `httpApiKeyAuth`: from where the old server's HTTP API may be used with an app's key, which stands in
/// every browser and is no secret.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum KeyAuth {
    /// From this machine, if the request has come straight from there.
    #[default]
    Loopback,
    /// From anywhere, as the old server took it.
    Anywhere,
    /// Not at all: requests must be signed.
    Off,
}

/// `admin`: the dashboard, and the API behind it, may be used from this machine, if `httpApiKeyAuth` does not say
/// that requests from this machine may be anybody's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Admin {
    /// Who may use it from anywhere; `None`: nobody.
    pub login: Option<Login>,
}

/// A user and a password.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Login {
    /// `admin.user`, without a colon.
    pub user: String,
    /// `admin.password`, or `LARAVEL_ECHO_SERVER_ADMIN_PASSWORD`.
    pub password: Secret,
}

/// Presence lists in Redis: `"database": "redis"`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PresenceStore {
    /// `databaseConfig.publishPresence`: also publish each list that has changed.
    pub publish: bool,
}

/// One entry of `clients`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct App {
    /// `appId`: names the app in the HTTP API. Empty if the file has no app: then this one is there for
    /// Socket.IO clients, which name none, and nobody knows its key.
    pub id: String,
    /// `key`: names the app in browsers. Public.
    pub key: String,
    /// Signs subscriptions and HTTP API requests.
    pub secret: Secret,
    /// `previousSecrets`: take what is signed with these, too.
    pub previous_secrets: Vec<Secret>,
    /// The file had no secret; `secret` was made at random for this run.
    pub secret_is_random: bool,
    /// The file has had this app and does so no more. Its place among the apps stays; nobody knows its key. See
    /// [`Config::reload`].
    pub is_removed: bool,
    /// `limits` of the file, with this app's own on top.
    pub limits: Limits,
    /// `keyPrefix`: the app gets exactly the events of Redis that are published under this
    /// prefix; `None`: those of all apps.
    pub key_prefix: Option<String>,
    /// `subscriptionCount`: subscribers are told how many they are.
    pub subscription_count: bool,
    /// `webhooks`: who is told of what happens on the app's channels.
    pub webhooks: Vec<Webhook>,
}

impl App {
    /// Whether the text is signed with one of the app's secrets; the signature is in hex.
    pub fn has_signed(&self, text: &str, hex: &str) -> bool {
        std::iter::once(&self.secret)
            .chain(&self.previous_secrets)
            .any(|secret| signature::verify(secret.expose(), text, hex))
    }
}

/// The certificate of `"protocol": "https"` or `httpsPort`. Paths are relative to the working directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tls {
    /// `sslCertPath`: PEM, the server's certificate first.
    pub certificate: PathBuf,
    /// `sslKeyPath`: PEM.
    pub key: PathBuf,
    /// `sslPassphrase`: what the key is encrypted with.
    pub passphrase: Option<Secret>,
    /// `sslCertChainPath`: PEM, the certificates between the server's and a known authority's.
    pub chain: Option<PathBuf>,
}

/// A text that never appears in a log or an error.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A new one, 32 random bytes in hex.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(signature::hex(&bytes)))
    }

    /// The text itself, for signing and logging in only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// Asking Laravel (`authHost`, `authEndpoint` and the settings beside them).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Auth {
    /// `authHost`: `http` or `https` and a host; it may have a path, under which the application
    /// lives. It has no user, password, query or fragment. See [`Auth::url`].
    pub host: url::Url,
    /// All entries of `authHost`, where it does more than name one: then the page decides, and `host` is
    /// for pages of nobody's.
    pub hosts: Vec<AuthHost>,
    /// `authEndpoint`: a path that begins with a slash.
    pub endpoint: String,
    /// `allowedOrigins`: `https://app.example.com`, `https://*.example.com` or `*`, beside the
    /// origins that are always allowed.
    pub allowed_origins: Vec<String>,
    /// `authTimeoutMs`: how long Laravel may take to answer.
    pub timeout: Duration,
    /// `authConcurrency`: how many requests to Laravel may be under way at once.
    pub concurrency: usize,
    /// `reauthorizeMinutes`: how long after a yes Laravel is asked again; `None`: never.
    pub reauthorize_after: Option<Duration>,
    /// `authAcceptAny200`: take any 200 for a yes on private channels, as the old server did.
    pub accept_any_200: bool,
}

/// An entry of `authHost`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AuthHost {
    /// As [`Auth::host`].
    Url(url::Url),
    /// `.example.com`: each host one label below that domain. Scheme and port are those of the
    /// entry; without them the page's scheme, and its usual port.
    SubDomains {
        /// `http` or `https`.
        scheme: Option<String>,
        /// Begins with a dot.
        domain: String,
        /// TCP port.
        port: Option<u16>,
    },
}

impl AuthHost {
    /// If it names one host.
    pub fn url(&self) -> Option<&url::Url> {
        match self {
            Self::Url(url) => Some(url),
            Self::SubDomains { .. } => None,
        }
    }
}

impl Auth {
    /// Whether one of the hosts may be asked by TLS.
    pub fn is_by_tls(&self) -> bool {
        let is_https = |host: &AuthHost| match host {
            AuthHost::Url(url) => url.scheme() == "https",
            AuthHost::SubDomains { scheme, .. } => scheme.as_deref() != Some("http"),
        };
        self.host.scheme() == "https" || self.hosts.iter().any(is_https)
    }

    /// The path at which users sign in: beside `authEndpoint`, as Laravel's own
    /// `/broadcasting/user-auth` is beside `/broadcasting/auth`.
    pub fn user_endpoint(&self) -> String {
        let parent = self.endpoint.rsplit_once('/').map_or("", |(parent, _)| parent);
        format!("{parent}/user-auth")
    }

    /// Where Laravel is asked: `authHost` and `authEndpoint`, one after the other, so that an
    /// application in a sub-directory is found.
    pub fn url(&self) -> url::Url {
        let mut url = self.host.clone();
        let path = format!("{}{}", self.host.path().trim_end_matches('/'), self.endpoint);
        url.set_path(&path);
        url
    }
}

/// `databaseConfig.redis`, with ioredis' names in the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Redis {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Unix socket; wins over host and port.
    pub path: Option<String>,
    /// Database number; pub/sub does not care, presence keys do.
    pub db: u32,
    /// ACL user.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Connect with TLS.
    pub tls: bool,
    /// `tls` as an object.
    pub tls_options: RedisTls,
    /// `family`: only addresses of this kind.
    pub family: Option<Family>,
    /// `connectTimeout`: how long connecting may take, if the file says so.
    pub connect_timeout: Option<Duration>,
    /// `sentinels`: who says where the master is; then host, port and path do not count.
    pub sentinel: Option<Sentinel>,
    /// `cluster`: the nodes of a Redis Cluster, if it is one; then host, port and path do not count.
    pub cluster: Vec<Node>,
    /// `keyPrefix`: exactly what Laravel puts before each channel's name; `None`: find out.
    pub key_prefix: Option<String>,
}

/// `socketio`, with Socket.IO's names in the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SocketIo {
    /// `path`: begins with a slash and does not end with one.
    pub path: String,
    /// `pingInterval`.
    pub ping_interval: Duration,
    /// `pingTimeout`.
    pub ping_timeout: Duration,
    /// `transports` has `polling`.
    pub polling: bool,
    /// `transports` has `websocket`.
    pub websocket: bool,
    /// `allowUpgrades`: a session may go on over a WebSocket.
    pub allow_upgrades: bool,
    /// `origins`: pages that may connect, as `https://example.com:443`, `example.com:*` or `*:*`;
    /// empty: all.
    pub origins: Vec<String>,
    /// `clientScript`: the file that pages get as `socket.io.js`; `None`: one that npm has installed, if any.
    pub client_script: Option<PathBuf>,
}

impl Default for SocketIo {
    fn default() -> Self {
        Self {
            path: "/socket.io".into(),
            ping_interval: Duration::from_secs(25),
            ping_timeout: Duration::from_secs(20),
            polling: true,
            websocket: true,
            allow_upgrades: true,
            origins: Vec::new(),
            client_script: None,
        }
    }
}

/// `resume`: what is kept for browsers whose connection was lost, so that they get it when they come back.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resume {
    /// `seconds`: for how long.
    pub time: Duration,
    /// `eventsPerChannel`: how many of each channel.
    pub events_per_channel: usize,
    /// `bytes`: what all events that are kept may take.
    pub bytes: usize,
    /// `channels`: which of them are resumed how.
    pub modes: Modes,
    /// `sameSite`: pages of which sites get the cookie.
    pub same_site: SameSite,
}

impl Default for Resume {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(120),
            events_per_channel: 1000,
            bytes: 64 * 1024 * 1024,
            modes: Modes::default(),
            same_site: SameSite::Lax,
        }
    }
}

/// Options of TLS with Redis, by Node's names in the file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RedisTls {
    /// `rejectUnauthorized` is false: take any certificate.
    pub any_certificate: bool,
    /// `ca`: PEM text, or the path of a file with it, of authorities to trust in place of the machine's.
    pub authorities: Option<String>,
    /// `servername`: the name that the certificate must have, if not the host's.
    pub server_name: Option<String>,
}

/// `family`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One of several Redis servers or sentinels.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Redis Sentinel, by ioredis' names in the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sentinel {
    /// `sentinels`, never empty.
    pub nodes: Vec<Node>,
    /// `name`: what the sentinels call the master.
    pub name: String,
    /// `sentinelUsername`.
    pub username: Option<String>,
    /// `sentinelPassword`.
    pub password: Option<Secret>,
    /// `sentinelTLS` or `enableTLSForSentinelMode`: speak TLS with the sentinels themselves.
    pub tls: bool,
}

/// Several nodes on one Redis.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cluster {
    /// `cluster.name`: nodes of one name find each other. Without it a name that all have, and each
    /// database of Redis another.
    pub name: String,
    /// `cluster.presenceGraceSeconds`: how long the members of a node that stops are kept, since they
    /// come back elsewhere.
    pub presence_grace: Duration,
}
