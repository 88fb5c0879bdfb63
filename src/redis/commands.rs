//! Commands to Redis, many in one write, each reply awaited.

use std::time::Duration;

use tokio::time;

use super::resp::{self, Reply};
use super::subscription::Connection;
use super::{Failure, Link};
use crate::config;

/// Commands that go out together.
#[derive(Debug, Default)]
pub struct Pipeline {
    bytes: Vec<u8>,
    commands: usize,
}

impl Pipeline {
    /// Adds a command: its name and its arguments.
    pub fn push(&mut self, words: &[&str]) {
        self.bytes.extend_from_slice(&resp::command(words));
        self.commands += 1;
    }

    /// How many bytes it has by now.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// A connection for commands, in the configured database. After a failure it is of no use any more.
pub struct Commands {
    connection: Connection,
    answer_max: Duration,
    address: String,
}

impl Commands {
    pub(super) fn new(connection: Connection, link: &Link) -> Self {
        Self { connection, answer_max: link.timing().answer_max, address: link.to_string() }
    }

    /// The cluster's node that has this key, if it is another one than this.
    pub(super) async fn moved(&mut self, key: &str) -> Option<config::Node> {
        let connection = &mut self.connection;
        let work = async {
            connection.send(&resp::command(&["GET", key])).await.ok()?;
            let answer = connection.reply(|reply| match reply {
                Reply::Error(text) => moved(text),
                _ => None,
            });
            answer.await.ok()?
        };
        // Whatever else is wrong, the next command will say.
        time::timeout(self.answer_max, work).await.ok().flatten()
    }

    /// Sends one command and waits for its reply: a text, or `None` for null.
    ///
    /// # Errors
    /// It was refused, or there is no answer.
    pub async fn ask(&mut self, words: &[&str]) -> Result<Option<String>, Failure> {
        let connection = &mut self.connection;
        let work = async {
            connection.send(&resp::command(words)).await.map_err(|error| error.to_string())?;
            let answer = connection.reply(|reply| match reply {
                Reply::Error(text) => Err(String::from_utf8_lossy(text).into_owned()),
                Reply::Status(text) | Reply::Text(Some(text)) => Ok(Some(String::from_utf8_lossy(text).into_owned())),
                _ => Ok(None),
            });
            answer.await.map_err(|error| error.to_string())?
        };
        let outcome = time::timeout(self.answer_max, work).await;
        let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {:?}", self.answer_max)));
        outcome.map_err(|why| Failure(format!("Redis at {} does not take commands: {why}.", self.address)))
    }

    /// Sends the commands and waits for their replies, of which it says how many were 0.
    ///
    /// # Errors
    /// One of them was refused, or there is no answer.
    pub async fn run(&mut self, pipeline: Pipeline) -> Result<usize, Failure> {
        let Pipeline { bytes, commands } = pipeline;
        let connection = &mut self.connection;
        let work = async {
            connection.send(&bytes).await.map_err(|error| error.to_string())?;
            let mut zeros = 0;
            for _ in 0..commands {
                let answer = connection.reply(|reply| match reply {
                    Reply::Error(text) => Err(String::from_utf8_lossy(text).into_owned()),
                    reply => Ok(reply == Reply::Status(b"0")),
                });
                zeros += usize::from(answer.await.map_err(|error| error.to_string())??);
            }
            Ok::<_, String>(zeros)
        };
        let outcome = time::timeout(self.answer_max, work).await;
        let outcome = outcome.unwrap_or_else(|_| Err(format!("no answer within {:?}", self.answer_max)));
        outcome.map_err(|why| Failure(format!("Redis at {} does not take commands: {why}.", self.address)))
    }
}

/// The node of `MOVED 3999 127.0.0.1:6381`.
fn moved(error: &[u8]) -> Option<config::Node> {
    let place = std::str::from_utf8(error).ok()?.strip_prefix("MOVED ")?.split(' ').nth(1)?;
    let (host, port) = place.rsplit_once(':')?;
    Some(config::Node { host: host.to_owned(), port: port.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_another_node_has() {
        let node = moved(b"MOVED 3999 127.0.0.1:6381").unwrap();
        assert_eq!((node.host.as_str(), node.port), ("127.0.0.1", 6381));
        assert_eq!(moved(b"MOVED 1 ::1:7000").unwrap().host, "::1");
        for other in ["MOVED", "MOVED 1 a", "MOVED 1 a:b", "NOPERM 1 a:1"] {
            assert!(moved(other.as_bytes()).is_none(), "{other}");
        }
    }
}
