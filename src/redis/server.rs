//! One server: Redis, a node of a cluster, or a sentinel. How it is reached, and what to say when it
//! is not.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpStream, UnixStream};

use super::resp::{self, Replies, Reply};
use super::subscription::{Connection, Transport};
use super::{Failure, tls};
use crate::config::{Family, Node, RedisTls, Secret};

/// Where a server is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    Unix(String),
    Tcp(Node),
}

/// The server that a connection leads to, for a second one to the same.
#[derive(Clone, Debug)]
pub struct Reached {
    pub(super) place: Place,
    /// Which of the host's addresses it was; `None`: a unix socket.
    pub(super) address: Option<SocketAddr>,
}

/// A server, and how to log in.
#[derive(Clone, Debug)]
pub(super) struct Server<'a> {
    pub place: Place,
    /// Its address, if it is not to be looked up.
    pub address: Option<SocketAddr>,
    pub username: Option<&'a str>,
    pub password: Option<&'a Secret>,
    pub tls: Option<&'a RedisTls>,
    pub family: Option<Family>,
}

impl Server<'_> {
    /// Connects and logs in. Replies may have texts of so many bytes.
    pub async fn connect(&self, text_bytes_max: usize) -> Result<Connection, Failure> {
        let (stream, address) = self.open().await?;
        let reached = Reached { place: self.place.clone(), address };
        let mut connection = Connection { stream, replies: Replies::new(text_bytes_max), reached };
        if let Some(password) = self.password {
            let mut login = vec!["AUTH"];
            login.extend(self.username);
            login.push(password.expose());
            self.ask(&mut connection, &login).await?;
        }
        Ok(connection)
    }

    async fn open(&self) -> Result<(Box<dyn Transport>, Option<SocketAddr>), Failure> {
        let node = match &self.place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| self.unreachable(&error))?;
                return Ok((Box::new(stream), None));
            }
            Place::Tcp(node) => node,
        };
        let addresses = match self.address {
            Some(address) => vec![address],
            None => self.look_up(node).await?,
        };
        let stream = TcpStream::connect(&addresses[..]).await.map_err(|error| self.unreachable(&error))?;
        let address = stream.peer_addr().ok();
        let _ = stream.set_nodelay(true);
        match self.tls {
            None => Ok((Box::new(stream), address)),
            Some(options) => {
                let secured = tls::connect(stream, &node.host, options).await;
                Ok((Box::new(secured.map_err(|why| Failure(format!("TLS with {self} {why}")))?), address))
            }
        }
    }

    /// The addresses of the host, of the family that is wanted; at least one.
    async fn look_up(&self, node: &Node) -> Result<Vec<SocketAddr>, Failure> {
        let found = tokio::net::lookup_host((node.host.as_str(), node.port)).await;
        let found = found.map_err(|error| {
            Failure(format!("The host {:?} of Redis is unknown ({error}). {CHECK_HOST}", node.host))
        })?;
        let addresses: Vec<_> = found
            .filter(|address| match self.family {
                None => true,
                Some(Family::V4) => address.is_ipv4(),
                Some(Family::V6) => address.is_ipv6(),
            })
            .collect();
        if addresses.is_empty() {
            let kind = match self.family {
                None => "",
                Some(Family::V4) => " of IPv4 (\"family\")",
                Some(Family::V6) => " of IPv6 (\"family\")",
            };
            return Err(Failure(format!("The host {:?} of Redis has no address{kind}. {CHECK_HOST}", node.host)));
        }
        Ok(addresses)
    }

    /// Sends a command and waits for the reply; an error is explained.
    pub async fn ask(&self, connection: &mut Connection, words: &[&str]) -> Result<(), Failure> {
        self.query(connection, words, |_| ()).await
    }

    /// Sends a command and shows the reply to `see`, unless it is an error, which is explained.
    pub async fn query<T>(
        &self,
        connection: &mut Connection,
        words: &[&str],
        see: impl FnOnce(Reply<'_>) -> T,
    ) -> Result<T, Failure> {
        connection.send(&resp::command(words)).await.map_err(|error| self.broken(&error))?;
        let seen = connection.reply(|reply| match reply {
            Reply::Error(text) => Err(String::from_utf8_lossy(text).into_owned()),
            reply => Ok(see(reply)),
        });
        seen.await.map_err(|error| self.broken(&error))?.map_err(|error| self.refused(&error, words))
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
        let may_want_tls = self.tls.is_none() && matches!(self.place, Place::Tcp(_));
        Failure(match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => format!(
                "Redis at {self} closed the connection while it was being made.{} Its log may say why.",
                if may_want_tls { " If it expects TLS, put \"tls\": {} into databaseConfig.redis." } else { "" }
            ),
            _ => format!("Redis at {self} cannot be used: {error}."),
        })
    }

    /// Explains an error of Redis, which begins with a code in capitals.
    fn refused(&self, error: &str, words: &[&str]) -> Failure {
        let user = self.username.unwrap_or("default");
        Failure(match error.split(' ').next().unwrap_or_default() {
            "WRONGPASS" => format!(
                "Redis at {self} refuses the password of user {user:?} (WRONGPASS). Check \"username\" and \"password\" in \
                 databaseConfig.redis; if Redis has no password, remove them."
            ),
            "NOAUTH" => format!(
                "Redis at {self} wants a password (NOAUTH). Put \"password\", and with ACL users \"username\", into \
                 databaseConfig.redis."
            ),
            "NOPERM" => match words {
                [command @ ("PSUBSCRIBE" | "SUBSCRIBE"), name] => format!(
                    "Redis at {self} does not allow user {user:?} to subscribe to {name:?} (NOPERM). Allow it in Redis: \
                     ACL SETUSER {user} +{} +ping &{name}",
                    command.to_lowercase()
                ),
                ["PUBLISH", channel, _] => format!(
                    "Redis at {self} does not allow user {user:?} to publish to {channel:?} (NOPERM). Allow it in Redis: \
                     ACL SETUSER {user} +publish &{}*",
                    channel.trim_end_matches(|digit: char| digit.is_ascii_hexdigit())
                ),
                _ => format!(
                    "Redis at {self} does not allow user {user:?} to use {} (NOPERM). Allow it in Redis with ACL SETUSER.",
                    words.first().unwrap_or(&"this command")
                ),
            },
            "DENIED" | "-DENIED" => format!(
                "Redis at {self} is in protected mode and serves only its own machine. Set a password in redis.conf \
                 (requirepass) and in databaseConfig.redis."
            ),
            _ => format!("Redis at {self} cannot be used: {}.", self.without_password(error)),
        })
    }

    /// Whatever an unusual server sends back, a password in it stops here.
    fn without_password(&self, text: &str) -> String {
        match self.password.map(Secret::expose) {
            Some(password) if !password.is_empty() => text.replace(password, "(hidden)"),
            _ => text.to_owned(),
        }
    }
}

impl fmt::Display for Server<'_> {
    /// The address: `127.0.0.1:6379`, `/run/redis/redis.sock`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Unix(path) => f.write_str(path),
            Place::Tcp(node) => node.fmt(f),
        }
    }
}

const CHECK_HOST: &str = "Check \"host\" in databaseConfig.redis and the name service of this machine.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_in_an_answer_is_hidden() {
        let password = Secret::new("s3cret");
        let place = Place::Tcp(Node { host: "::1".to_owned(), port: 6379 });
        let server =
            Server { place, address: None, username: None, password: Some(&password), tls: None, family: None };
        let said = server.refused("ERR unknown command AUTH s3cret", &["AUTH", "s3cret"]).to_string();
        assert_eq!(said, "Redis at [::1]:6379 cannot be used: ERR unknown command AUTH (hidden).");
        assert!(!format!("{server:?}").contains("s3cret"));
    }
}
