//! A confirmed subscription: what is published, and the notice that the other side has gone
//! silent, whether it closed the connection or not.

use std::fmt;
use std::io;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time;

use super::resp::{Malformed, Replies, Reply};
use super::server::Reached;
use super::{Failure, Timing};

/// What a connection runs over: TCP, TLS on it, or a unix socket.
pub(super) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// A connection whose replies are read one by one while it is being made.
pub(super) struct Connection {
    pub stream: Box<dyn Transport>,
    pub replies: Replies,
    pub reached: Reached,
}

impl Connection {
    /// Sends a command. What answers it is read with [`Connection::reply`].
    pub async fn send(&mut self, command: &[u8]) -> io::Result<()> {
        self.stream.write_all(command).await
    }

    /// Waits for one reply and shows it to `see`.
    pub async fn reply<T>(&mut self, see: impl FnOnce(Reply<'_>) -> T) -> io::Result<T> {
        loop {
            if let Some(reply) = self.replies.next().map_err(malformed)? {
                return Ok(see(reply));
            }
            match self.stream.read(self.replies.room()).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                bytes => self.replies.filled(bytes),
            }
        }
    }
}

fn malformed(_: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what it says is not Redis' protocol")
}

/// What somebody published.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Published<'a> {
    /// The Redis channel, prefix included. Redis asks for no encoding.
    pub channel: &'a [u8],
    /// The payload; `None` if it is longer than was asked for.
    pub payload: Option<&'a [u8]>,
}

/// A confirmed subscription. After a failure it is of no use any more.
pub struct Subscription {
    connection: Connection,
    /// When Redis was pinged, if it has not said anything since.
    pinged: Option<time::Instant>,
    heard: time::Instant,
    timing: Timing,
    address: String,
}

impl Subscription {
    pub(super) fn new(connection: Connection, timing: Timing, address: String) -> Self {
        Self { connection, pinged: None, heard: time::Instant::now(), timing, address }
    }

    /// Waits for more. Dropped before its end, it has done nothing.
    pub async fn fill(&mut self) -> Result<(), Failure> {
        loop {
            // Counted from the ping and not from the last sign of life alone: a process that was
            // itself stopped for a while must not take that for Redis' silence.
            let deadline = match self.pinged {
                None => self.heard + self.timing.ping_after,
                Some(pinged) => self.heard.max(pinged) + self.timing.answer_max,
            };
            let Connection { stream, replies, .. } = &mut self.connection;
            tokio::select! {
                // What is there first: it is also a sign of life, and the reading of the clock
                // that follows is its only cost.
                biased;
                read = stream.read(replies.room()) => {
                    return self.has_read(read);
                }
                () = time::sleep_until(deadline) => {
                    if self.pinged.is_some() {
                        return Err(Failure(format!(
                            "Redis at {} has been silent and has not answered PING for {:?}. It hangs, or the network \
                             between is cut.",
                            self.address, self.timing.answer_max
                        )));
                    }
                    self.pinged = Some(time::Instant::now());
                }
            }
            // Whatever is answered, be it that this user may not ping, is a sign of life. Not even
            // these few bytes may be waited for without end.
            let ping = self.connection.stream.write_all(b"*1\r\n$4\r\nPING\r\n");
            if !matches!(time::timeout(self.timing.answer_max, ping).await, Ok(Ok(()))) {
                return Err(Failure(format!("Redis at {} takes no PING: the connection is broken.", self.address)));
            }
        }
    }

    /// Reads what is there already; false: nothing.
    pub fn fill_now(&mut self) -> Result<bool, Failure> {
        let Connection { stream, replies, .. } = &mut self.connection;
        match stream.read(replies.room()).now_or_never() {
            Some(read) => self.has_read(read).map(|()| true),
            None => Ok(false),
        }
    }

    fn has_read(&mut self, read: io::Result<usize>) -> Result<(), Failure> {
        let why = match read {
            Ok(bytes @ 1..) => {
                self.connection.replies.filled(bytes);
                self.pinged = None;
                self.heard = time::Instant::now();
                return Ok(());
            }
            Ok(0) => String::new(),
            Err(error) => format!(" ({error})"),
        };
        Err(Failure(format!(
            "Redis at {} closed the connection{why}. It was stopped or restarted, or it dropped this server as a \
             reader that was too slow (client-output-buffer-limit pubsub in redis.conf).",
            self.address
        )))
    }

    /// The server that it leads to.
    pub fn reached(&self) -> &Reached {
        &self.connection.reached
    }

    /// For how long nothing has been heard.
    pub fn silent_for(&self) -> Duration {
        self.heard.elapsed()
    }

    /// Shows each message that has been read as a whole to `take`.
    pub fn each(&mut self, mut take: impl FnMut(Published<'_>)) -> Result<(), Failure> {
        loop {
            let (items, is_whole) = match self.connection.replies.next() {
                Ok(Some(Reply::Array(items))) => (items, true),
                Ok(Some(Reply::TooLong(items))) => (items, false),
                // Answers to PING.
                Ok(Some(_)) => continue,
                Ok(None) => return Ok(()),
                Err(Malformed) => {
                    return Err(Failure(format!("What answers at {} does not speak Redis' protocol.", self.address)));
                }
            };
            match (&items[..], is_whole) {
                ([b"pmessage", _, channel, payload], true) | ([b"message", channel, payload], true) => {
                    take(Published { channel, payload: Some(payload) });
                }
                ([b"pmessage", _, channel] | [b"message", channel], false) => {
                    take(Published { channel, payload: None })
                }
                _ => {}
            }
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subscription at {}", self.address)
    }
}
