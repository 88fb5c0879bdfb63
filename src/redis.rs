//! Reach Redis, and know when it is away.
//!
//! [`Link`] connects and subscribes within a time limit, and a [`Subscription`] notices when
//! the other side has gone silent, whether it closed the connection or not. Failures are
//! sentences for whoever runs the server. What is done with the messages is
//! [`ingress`](crate::ingress)'s business, and so is the loop that connects again; what it
//! needs for that stands beside it: [`Backoff`] and the [`Reporter`] of the [`Status`].

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls_platform_verifier::ConfigVerifierExt as _;
use tokio::net::{TcpStream, UnixStream};
use tokio::time;
use tokio_rustls::TlsConnector;

use crate::config;
use resp::{Replies, Reply};
use subscription::{Connection, Transport};

mod outage;
mod resp;
mod subscription;

pub use outage::{Backoff, Reporter, Status};
pub use subscription::{Published, Subscription};

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
    text_bytes_max: usize,
}

impl Link {
    /// A link with the usual patience, for payloads of at most so many bytes: longer ones are told
    /// of, not kept. Connects nothing yet.
    pub fn new(config: config::Redis, payload_bytes_max: usize) -> Self {
        Self { config, timing: Timing::default(), text_bytes_max: payload_bytes_max }
    }

    /// The same with other limits.
    pub fn with_timing(self, timing: Timing) -> Self {
        Self { timing, ..self }
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
        let stream = self.connect().await?;
        let mut connection = Connection { stream, replies: Replies::new(self.text_bytes_max) };
        let mut login = vec!["AUTH"];
        login.extend(self.config.username.as_deref());
        login.extend(self.config.password.as_ref().map(config::Secret::expose));
        if self.config.password.is_some() {
            self.ask(&mut connection, &login, pattern).await?;
        }
        self.ask(&mut connection, &["PSUBSCRIBE", pattern], pattern).await?;
        Ok(Subscription::new(connection, self.timing, self.to_string()))
    }

    async fn connect(&self) -> Result<Box<dyn Transport>, Failure> {
        let config = &self.config;
        if let Some(path) = &config.path {
            let stream = UnixStream::connect(path).await.map_err(|error| self.unreachable(&error))?;
            return Ok(Box::new(stream));
        }
        let found = tokio::net::lookup_host((config.host.as_str(), config.port)).await;
        let addresses: Vec<_> = found
            .map_err(|error| {
                Failure(format!("The host {:?} of Redis is unknown ({error}). {CHECK_HOST}", config.host))
            })?
            .collect();
        if addresses.is_empty() {
            return Err(Failure(format!("The host {:?} of Redis has no address. {CHECK_HOST}", config.host)));
        }
        let stream = TcpStream::connect(&addresses[..]).await.map_err(|error| self.unreachable(&error))?;
        let _ = stream.set_nodelay(true);
        if !config.tls {
            return Ok(Box::new(stream));
        }
        // rustls panics without a provider. `server` installs one; whoever uses this module alone may not have.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let trust = rustls::ClientConfig::with_platform_verifier().map_err(|error| {
            Failure(format!("TLS with {self} is impossible: this machine's trusted certificates: {error}"))
        })?;
        let name = ServerName::try_from(config.host.clone()).map_err(|_| {
            Failure(format!("TLS with {self} is impossible: no certificate names such a host. {CHECK_HOST}"))
        })?;
        let stream = TlsConnector::from(Arc::new(trust)).connect(name, stream).await.map_err(|error| {
            Failure(format!(
                "TLS with {self} failed: {error}. Does Redis speak TLS on this port, with a certificate that this machine \
                 trusts and that names the host?"
            ))
        })?;
        Ok(Box::new(stream))
    }

    /// Sends a command and waits for the reply; an error is explained.
    async fn ask(&self, connection: &mut Connection, words: &[&str], pattern: &str) -> Result<(), Failure> {
        let broken = |error: &io::Error| self.broken(error);
        connection.send(&resp::command(words)).await.map_err(|error| broken(&error))?;
        let refused = |reply: Reply<'_>| match reply {
            Reply::Error(text) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        };
        match connection.reply(refused).await.map_err(|error| broken(&error))? {
            None => Ok(()),
            Some(error) => Err(self.refused(&error, pattern)),
        }
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        Failure(match error.kind() {
            io::ErrorKind::ConnectionRefused => format!(
                "Nothing listens at {self} (connection refused). Start Redis, or correct the address in databaseConfig.redis."
            ),
            io::ErrorKind::NotFound => {
                format!("There is no socket {self}. Start Redis, or correct \"path\" in databaseConfig.redis.")
            }
            io::ErrorKind::PermissionDenied => format!(
                "This user may not open {self} (permission denied). See unixsocketperm in redis.conf, or use host and port."
            ),
            _ => format!("Redis at {self} cannot be used: {error}."),
        })
    }

    fn broken(&self, error: &io::Error) -> Failure {
        let tls = self.config.tls || self.config.path.is_some();
        Failure(match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => format!(
                "Redis at {self} closed the connection while it was being made.{} Its log may say why.",
                if tls { "" } else { " If it expects TLS, put \"tls\": {} into databaseConfig.redis." }
            ),
            _ => format!("Redis at {self} cannot be used: {error}."),
        })
    }

    /// Explains an error of Redis, which begins with a code in capitals.
    fn refused(&self, error: &str, pattern: &str) -> Failure {
        let user = self.config.username.as_deref().unwrap_or("default");
        Failure(match error.split(' ').next().unwrap_or_default() {
            "WRONGPASS" => format!(
                "Redis at {self} refuses the password of user {user:?} (WRONGPASS). Check \"username\" and \"password\" in \
                 databaseConfig.redis; if Redis has no password, remove them."
            ),
            "NOAUTH" => format!(
                "Redis at {self} wants a password (NOAUTH). Put \"password\", and with ACL users \"username\", into \
                 databaseConfig.redis."
            ),
            "NOPERM" => format!(
                "Redis at {self} does not allow user {user:?} to subscribe to {pattern:?} (NOPERM). Allow it in Redis: \
                 ACL SETUSER {user} +psubscribe +ping &{pattern}"
            ),
            "DENIED" | "-DENIED" => format!(
                "Redis at {self} is in protected mode and serves only its own machine. Set a password in redis.conf \
                 (requirepass) and in databaseConfig.redis."
            ),
            _ => format!("Redis at {self} cannot be used: {}.", self.without_password(error)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_an_answer_is_hidden() {
        let mut link = Link::new(config(), 100);
        link.config.password = Some(config::Secret::new("s3cret"));
        let said = link.refused("ERR unknown command AUTH s3cret", "*").to_string();
        assert!(said.contains("unknown command AUTH (hidden)"), "{said}");
        assert!(!format!("{link:?}").contains("s3cret"));
    }

    #[test]
    fn addresses() {
        let mut link = Link::new(config(), 100);
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
