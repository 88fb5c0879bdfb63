//! Reach Redis, and know when it is away.
//!
//! [`Link`] connects and subscribes within a time limit, and a [`Subscription`] notices when
//! the other side has gone silent, whether it closed the connection or not. Failures are
//! sentences for whoever runs the server. What is done with the messages is
//! [`ingress`](crate::ingress)'s business, and so is the loop that connects again; what it
//! needs for that stands beside it: [`Backoff`] and the [`Reporter`] of the [`Status`].

use std::fmt;
use std::time::Duration;

use tokio::time;

use crate::config;
use resp::Reply;
use server::{Place, Server};
use subscription::Connection;

mod commands;
mod outage;
mod publishing;
pub(crate) mod resp;
mod server;
mod subscription;
mod tls;

pub use commands::{Commands, Pipeline};
pub use outage::{Backoff, Reporter, Status};
pub use publishing::{Publishing, publish_command};
pub use server::Reached;
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
        let usual = Timing::default();
        let timing = Timing { connect_max: config.connect_timeout.unwrap_or(usual.connect_max), ..usual };
        Self { config, timing, text_bytes_max: payload_bytes_max }
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
        let connection = self.connect(&["PSUBSCRIBE", pattern]).await?;
        Ok(Subscription::new(connection, self.timing, self.to_string()))
    }

    /// The same at the server that another connection has reached.
    pub async fn subscribe_at(&self, reached: &Reached, pattern: &str) -> Result<Subscription, Failure> {
        let connection = self.make(&self.same_server(reached), &["PSUBSCRIBE", pattern]).await?;
        Ok(Subscription::new(connection, self.timing, self.to_string()))
    }

    /// The same for one channel.
    pub async fn subscribe_to_channel(&self, channel: &str) -> Result<Subscription, Failure> {
        let connection = self.connect(&["SUBSCRIBE", channel]).await?;
        Ok(Subscription::new(connection, self.timing, self.to_string()))
    }

    /// Connects and logs in for commands, in the configured database.
    pub async fn commands(&self) -> Result<Commands, Failure> {
        let connection = self.connect(&["SELECT", &self.config.db.to_string()]).await?;
        Ok(Commands::new(connection, self))
    }

    /// Connects and logs in for commands on one key: in a Redis Cluster at the node that has it.
    pub async fn commands_for(&self, key: &str) -> Result<Commands, Failure> {
        let mut commands = self.commands().await?;
        if self.config.cluster.is_empty() {
            return Ok(commands);
        }
        let Some(node) = commands.moved(key).await else { return Ok(commands) };
        Ok(Commands::new(self.make(&self.server(Place::Tcp(node)), &["PING"]).await?, self))
    }

    /// Connects and logs in to publish. No database is selected: pub/sub does not know databases.
    pub async fn publishing(&self) -> Result<Publishing, Failure> {
        // Whoever may not publish finds out at the first message.
        let connection = self.connect(&["PING"]).await?;
        Ok(Publishing::new(connection, self.timing, self.to_string()))
    }

    /// Connects to the server that another connection has reached, and publishes there; what it gives can go on with that.
    pub async fn publish_at(&self, reached: &Reached, channel: &str, message: &str) -> Result<Commands, Failure> {
        let connection = self.make(&self.same_server(reached), &["PUBLISH", channel, message]).await?;
        Ok(Commands::new(connection, self))
    }

    /// Makes a connection to the server that is the right one just now: the only one, the sentinels'
    /// master, or any node of the cluster, since each hears what is published at any. The command is
    /// part of it: who may not use it there has no connection.
    async fn connect(&self, then: &[&str]) -> Result<Connection, Failure> {
        if let Some(sentinel) = &self.config.sentinel {
            let master = self.server(Place::Tcp(self.find_master(sentinel).await?));
            let demoted = async {
                let mut connection = master.connect(INFO_BYTES_MAX).await?;
                master.query(&mut connection, &["INFO", "replication"], is_replica).await
            };
            // Sentinels take seconds to notice; what is published meanwhile would not be heard here.
            // Who may not ask has to believe them.
            if let Ok(true) = self.in_time(&master, demoted).await {
                let what = "is a replica by now, and the sentinels have not noticed yet.";
                return Err(Failure(format!("Redis at {master} {what}")));
            }
            return self.make(&master, then).await;
        }
        if self.config.cluster.is_empty() {
            let server = self.server(match &self.config.path {
                Some(path) => Place::Unix(path.clone()),
                None => Place::Tcp(config::Node { host: self.config.host.clone(), port: self.config.port }),
            });
            return self.make(&server, then).await;
        }
        let mut last = String::new();
        for node in &self.config.cluster {
            let server = self.server(Place::Tcp(node.clone()));
            match self.make(&server, then).await {
                Ok(connection) => return Ok(connection),
                Err(failure) => last = failure.0,
            }
        }
        Err(Failure(format!("No node of {self} can be used. Of the last one: {last}")))
    }

    async fn make(&self, server: &Server<'_>, then: &[&str]) -> Result<Connection, Failure> {
        let made = async {
            let mut connection = server.connect(self.text_bytes_max).await?;
            server.ask(&mut connection, then).await?;
            Ok(connection)
        };
        self.in_time(server, made).await
    }

    fn same_server(&self, reached: &Reached) -> Server<'_> {
        Server { address: reached.address, ..self.server(reached.place.clone()) }
    }

    fn server(&self, place: Place) -> Server<'_> {
        let config = &self.config;
        Server {
            place,
            address: None,
            username: config.username.as_deref(),
            password: config.password.as_ref(),
            tls: config.tls.then_some(&config.tls_options),
            family: config.family,
        }
    }

    /// Asks one sentinel after the other.
    async fn find_master(&self, sentinel: &config::Sentinel) -> Result<config::Node, Failure> {
        let mut last = String::new();
        for node in &sentinel.nodes {
            let server = Server {
                place: Place::Tcp(node.clone()),
                address: None,
                username: sentinel.username.as_deref(),
                password: sentinel.password.as_ref(),
                tls: sentinel.tls.then_some(&self.config.tls_options),
                family: self.config.family,
            };
            let asked = async {
                let mut connection = server.connect(self.text_bytes_max).await?;
                let question = ["SENTINEL", "get-master-addr-by-name", sentinel.name.as_str()];
                server.query(&mut connection, &question, address).await
            };
            match self.in_time(&server, asked).await {
                Ok(Some(master)) => return Ok(master),
                Ok(None) => {
                    let name = &sentinel.name;
                    last = format!("it knows no master {name:?}; check \"name\" in databaseConfig.redis.");
                }
                Err(failure) => last = failure.0,
            }
            last = format!("The sentinel {node}: {last}");
        }
        Err(Failure(format!("No sentinel says where the master of Redis is. {last}")))
    }

    async fn in_time<T>(
        &self,
        server: &Server<'_>,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        time::timeout(self.timing.connect_max, work).await.unwrap_or_else(|_| {
            Err(Failure(format!(
                "Redis at {server} did not answer within {:?}. Is it overloaded or stopped, or does a firewall drop the packets?{}",
                self.timing.connect_max,
                if server.tls.is_some() { " Does it speak TLS on this port?" } else { "" }
            )))
        })
    }
}

/// What `INFO replication` may have, in bytes.
const INFO_BYTES_MAX: usize = 64 * 1024;

fn is_replica(reply: Reply<'_>) -> bool {
    let Reply::Text(Some(text)) = reply else { return false };
    text.split(|byte| *byte == b'\n').any(|line| line.trim_ascii() == b"role:slave")
}

/// The answer of a sentinel: host and port, or null.
fn address(reply: Reply<'_>) -> Option<config::Node> {
    let Reply::Array(items) = reply else { return None };
    let [host, port] = items[..] else { return None };
    let port = std::str::from_utf8(port).ok()?.parse().ok()?;
    Some(config::Node { host: String::from_utf8(host.to_vec()).ok()?, port })
}

impl fmt::Display for Link {
    /// The address: `127.0.0.1:6379`, `/run/redis/redis.sock`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let mut link = Link::new(config::Redis::default(), 100);
        assert_eq!(link.to_string(), "127.0.0.1:6379");
        link.config.host = "::1".to_owned();
        assert_eq!(link.to_string(), "[::1]:6379");
        link.config.path = Some("/run/redis.sock".to_owned());
        assert_eq!(link.to_string(), "/run/redis.sock");
    }
}
