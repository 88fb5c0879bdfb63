//! Reach Redis, and know when it is away.
//!
//! [`Link`] connects and subscribes within a time limit, and a [`Subscription`] notices when
//! the other side has gone silent, whether it closed the connection or not. Failures are
//! sentences for whoever runs the server. What is done with the messages is
//! [`ingress`](crate::ingress)'s business, and so is the loop that connects again; what it
//! needs for that stands beside it: [`Backoff`] and the [`Reporter`] of the [`Status`].

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::{PubSubSink, PubSubStream};
use ::redis::io::tcp::TcpSettings;
use ::redis::{Client, ConnectionAddr, ErrorKind, IntoConnectionInfo, RedisConnectionInfo, RedisError};
use futures_util::StreamExt;
use tokio::time;

use crate::config;

mod outage;

pub use outage::{Backoff, Reporter, Status};

/// How long things may take. The defaults suit a server in use; tests are less patient.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From looking up the host to the confirmed subscription.
    pub connect_max: Duration,
    /// Redis is pinged when nothing has been heard of it for this long.
    pub ping_after: Duration,
    /// The connection counts as dead when nothing has been heard for this long after a ping.
    pub answer_max: Duration,
    /// The wait after a first failure. It doubles with each further one.
    pub retry_min: Duration,
    /// The longest wait between two attempts.
    pub retry_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect_max: Duration::from_secs(5),
            ping_after: Duration::from_secs(5),
            answer_max: Duration::from_secs(10),
            retry_min: Duration::from_millis(50),
            retry_max: Duration::from_secs(2),
        }
    }
}

/// Why Redis cannot be used just now: a sentence that names the address, the cause and the
/// cure, and never a password.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

impl Failure {
    /// Says this sentence.
    pub fn new(sentence: String) -> Self {
        Self(sentence)
    }
}

/// Where Redis is, and how to log in.
#[derive(Clone, Debug)]
pub struct Link {
    config: config::Redis,
    timing: Timing,
}

impl Link {
    /// A link with the usual patience. Connects nothing yet.
    pub fn new(config: config::Redis) -> Self {
        Self::with_timing(config, Timing::default())
    }

    /// A link with other limits.
    pub fn with_timing(config: config::Redis, timing: Timing) -> Self {
        Self { config, timing }
    }

    /// The configuration.
    pub fn config(&self) -> &config::Redis {
        &self.config
    }

    /// The limits.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// Connects, logs in and subscribes to the pattern.
    ///
    /// No database is selected: pub/sub does not know databases, and a wrong number is no
    /// reason to miss events.
    pub async fn subscribe(&self, pattern: &str) -> Result<Subscription, Failure> {
        match time::timeout(self.timing.connect_max, self.try_subscribe(pattern)).await {
            Ok(Ok(subscription)) => Ok(subscription),
            Ok(Err(failure)) => Err(failure),
            Err(_) => Err(Failure(format!(
                "Redis at {self} did not answer within {:?}. Is it overloaded or stopped, or does a firewall drop the packets?{}",
                self.timing.connect_max,
                if self.config.tls { " Does it speak TLS on this port?" } else { "" }
            ))),
        }
    }

    async fn try_subscribe(&self, pattern: &str) -> Result<Subscription, Failure> {
        self.look_up().await?;
        let client = self.client().map_err(|error| self.explain(&error, pattern))?;
        let pubsub = client.get_async_pubsub().await.map_err(|error| self.explain(&error, pattern))?;
        let (mut sink, stream) = pubsub.split();
        sink.psubscribe(pattern).await.map_err(|error| self.explain(&error, pattern))?;
        Ok(Subscription {
            sink,
            stream,
            ping: None,
            heard: time::Instant::now(),
            timing: self.timing,
            address: self.to_string(),
        })
    }

    /// The client below looks the host up again. It is asked for here because only here a
    /// host that does not exist can be told from other failures.
    async fn look_up(&self) -> Result<(), Failure> {
        if self.config.path.is_some() {
            return Ok(());
        }
        let host = &self.config.host;
        let found = tokio::net::lookup_host((host.as_str(), self.config.port)).await.map(|mut found| found.next());
        match found {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Failure(format!("The host {host:?} of Redis has no address. {CHECK_HOST}"))),
            Err(error) => Err(Failure(format!("The host {host:?} of Redis is unknown ({error}). {CHECK_HOST}"))),
        }
    }

    fn client(&self) -> Result<Client, RedisError> {
        let config = &self.config;
        let address = match &config.path {
            Some(path) => ConnectionAddr::Unix(path.into()),
            None if config.tls => {
                // The client panics without a provider. `server` installs one; whoever uses
                // this module alone may not have.
                if rustls::crypto::CryptoProvider::get_default().is_none() {
                    let _ = rustls::crypto::ring::default_provider().install_default();
                }
                ConnectionAddr::TcpTls {
                    host: config.host.clone(),
                    port: config.port,
                    insecure: false,
                    tls_params: None,
                }
            }
            None => ConnectionAddr::Tcp(config.host.clone(), config.port),
        };
        // Without CLIENT SETINFO: its answer is thrown away, and with it the reason why Redis
        // turns somebody away (protected mode, too many clients).
        let mut login = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(username) = &config.username {
            login = login.set_username(username);
        }
        if let Some(password) = &config.password {
            login = login.set_password(password.expose());
        }
        let info = address.into_connection_info()?;
        Client::open(info.set_redis_settings(login).set_tcp_settings(TcpSettings::default().set_nodelay(true)))
    }

    fn explain(&self, error: &RedisError, pattern: &str) -> Failure {
        let user = self.config.username.as_deref().unwrap_or("default");
        let tls = self.config.tls && self.config.path.is_none();
        Failure(match (error.kind(), error.code(), io_kind(error)) {
            (ErrorKind::AuthenticationFailed, ..) => format!(
                "Redis at {self} refuses the password of user {user:?} (WRONGPASS). Check \"username\" and \"password\" in \
                 databaseConfig.redis; if Redis has no password, remove them."
            ),
            (_, Some("NOAUTH"), _) => format!(
                "Redis at {self} wants a password (NOAUTH). Put \"password\", and with ACL users \"username\", into \
                 databaseConfig.redis."
            ),
            (_, Some("NOPERM"), _) => format!(
                "Redis at {self} does not allow user {user:?} to subscribe to {pattern:?} (NOPERM). Allow it in Redis: \
                 ACL SETUSER {user} +psubscribe +ping &{pattern}"
            ),
            (_, Some("DENIED"), _) => format!(
                "Redis at {self} is in protected mode and serves only its own machine. Set a password in redis.conf \
                 (requirepass) and in databaseConfig.redis."
            ),
            (.., Some(io::ErrorKind::ConnectionRefused)) => format!(
                "Nothing listens at {self} (connection refused). Start Redis, or correct the address in databaseConfig.redis."
            ),
            (.., Some(io::ErrorKind::NotFound)) => {
                format!("There is no socket {self}. Start Redis, or correct \"path\" in databaseConfig.redis.")
            }
            (.., Some(io::ErrorKind::PermissionDenied)) => format!(
                "This user may not open {self} (permission denied). See unixsocketperm in redis.conf, or use host and port."
            ),
            (.., Some(kind)) if tls && matches!(kind, io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
                format!(
                    "TLS with {self} failed: {error}. Does Redis speak TLS on this port, with a certificate that this machine \
                 trusts and that names the host?"
                )
            }
            _ if error.is_connection_dropped() => format!(
                "Redis at {self} closed the connection while it was being made.{} Its log may say why.",
                if tls { "" } else { " If it expects TLS, put \"tls\": {} into databaseConfig.redis." }
            ),
            _ => format!("Redis at {self} cannot be used: {}.", self.without_password(&error.to_string())),
        })
    }

    /// Whatever an unusual server sends back, a password in it stops here.
    fn without_password(&self, text: &str) -> String {
        match self.config.password.as_ref().map(config::Secret::expose) {
            Some(password) if !password.is_empty() => text.replace(password, "(hidden)"),
            _ => text.to_owned(),
        }
    }
}

impl fmt::Display for Link {
    /// The address: `127.0.0.1:6379`, `/run/redis/redis.sock`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.config.path {
            Some(path) => f.write_str(path),
            None if self.config.host.contains(':') => write!(f, "[{}]:{}", self.config.host, self.config.port),
            None => write!(f, "{}:{}", self.config.host, self.config.port),
        }
    }
}

const CHECK_HOST: &str = "Check \"host\" in databaseConfig.redis and the name service of this machine.";

fn io_kind(error: &RedisError) -> Option<io::ErrorKind> {
    let inner = error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    inner.downcast_ref::<io::Error>().map(io::Error::kind)
}

/// A ping under way.
struct Ping {
    sent: time::Instant,
    /// Ends when Redis has answered anything, be it that this user may not ping.
    answer: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// A confirmed subscription.
pub struct Subscription {
    sink: PubSubSink,
    stream: PubSubStream,
    ping: Option<Ping>,
    heard: time::Instant,
    timing: Timing,
    address: String,
}

impl Subscription {
    /// The next message. After a failure the subscription is of no use any more.
    ///
    /// What arrives is kept without bound until it is asked for here, so ask at once.
    pub async fn next(&mut self) -> Result<::redis::Msg, Failure> {
        loop {
            // Counted from the ping and not from the last sign of life alone: a process that was
            // itself stopped for a while must not take that for Redis' silence.
            let deadline = match &self.ping {
                None => self.heard + self.timing.ping_after,
                Some(ping) => self.heard.max(ping.sent) + self.timing.answer_max,
            };
            let answer = async {
                match &mut self.ping {
                    Some(ping) => ping.answer.as_mut().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Messages first: they are also a sign of life, and the reading of the clock
                // that follows is their only cost.
                biased;
                message = self.stream.next() => {
                    self.heard = time::Instant::now();
                    return message.ok_or_else(|| Failure(format!(
                        "Redis at {} closed the connection. It was stopped or restarted, or it dropped this server as a \
                         reader that was too slow (client-output-buffer-limit pubsub in redis.conf).",
                        self.address
                    )));
                }
                () = answer => {
                    self.ping = None;
                    self.heard = time::Instant::now();
                }
                () = time::sleep_until(deadline) => {
                    if self.ping.is_some() {
                        return Err(Failure(format!(
                            "Redis at {} has been silent and has not answered PING for {:?}. It hangs, or the network \
                             between is cut.",
                            self.address, self.timing.answer_max
                        )));
                    }
                    let mut sink = self.sink.clone();
                    let answer = Box::pin(async move {
                        let _ = sink.ping::<::redis::Value>().await;
                    });
                    self.ping = Some(Ping { sent: time::Instant::now(), answer });
                }
            }
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subscription at {}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_an_answer_is_hidden() {
        let mut link = Link::new(config());
        link.config.password = Some(config::Secret::new("s3cret"));
        let error = RedisError::from((ErrorKind::Client, "odd", "unknown command AUTH s3cret".to_owned()));
        let said = link.explain(&error, "*").to_string();
        assert!(said.contains("unknown command AUTH (hidden)"), "{said}");
        assert!(!format!("{link:?}").contains("s3cret"));
    }

    #[test]
    fn addresses() {
        let mut link = Link::new(config());
        assert_eq!(link.to_string(), "127.0.0.1:6379");
        link.config.host = "::1".to_owned();
        assert_eq!(link.to_string(), "[::1]:6379");
        link.config.path = Some("/run/redis.sock".to_owned());
        assert_eq!(link.to_string(), "/run/redis.sock");
    }

    fn config() -> config::Redis {
        config::Redis::default()
    }
}
