//! Commands to Redis, many in one write, each reply awaited.

use std::time::Duration;

use tokio::time;

use super::resp::{self, Reply};
use super::subscription::Connection;
use super::{Failure, Link};

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
