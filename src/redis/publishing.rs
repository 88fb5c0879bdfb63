//! A connection for commands that are not waited for one by one: what other nodes are told is
//! written as it comes, and the answers are read as they come.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::time::{self, Instant};

use super::resp::Reply;
use super::subscription::Connection;
use super::{Failure, Timing};

/// A connection that is logged in. After a failure it is of no use any more.
pub struct Publishing {
    connection: Connection,
    timing: Timing,
    address: String,
    /// Publishing that were written, or are to be, and have not been answered.
    unanswered: usize,
    /// Since when nothing has been answered.
    silent: Instant,
}

/// `PUBLISH`, for [`Publishing::turn`].
pub fn publish_command(channel: &str, message: &[u8], to: &mut BytesMut) {
    to.extend_from_slice(
        format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n", channel.len(), message.len()).as_bytes(),
    );
    to.extend_from_slice(message);
    to.extend_from_slice(b"\r\n");
}

impl Publishing {
    pub(super) fn new(connection: Connection, timing: Timing, address: String) -> Self {
        Self { connection, timing, address, unanswered: 0, silent: Instant::now() }
    }

    /// So many commands have been put where [`Publishing::turn`] takes them.
    pub fn sent(&mut self, commands: usize) {
        if self.unanswered == 0 {
            self.silent = Instant::now();
        }
        self.unanswered += commands;
    }

    /// Writes what it can of `unsent` and reads answers, until anything has been done. Dropped before its
    /// end, it has done nothing.
    ///
    /// # Errors
    /// Redis refuses a command, or is gone or silent.
    pub async fn turn(&mut self, unsent: &mut BytesMut) -> Result<(), Failure> {
        let deadline = self.silent + self.timing.answer_max;
        let is_waiting = self.unanswered > 0;
        tokio::select! {
            biased;
            done = std::future::poll_fn(|context| self.poll(context, unsent)) => done,
            () = time::sleep_until(deadline), if is_waiting => Err(self.is_silent()),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>, unsent: &mut BytesMut) -> Poll<Result<(), Failure>> {
        let mut has_done = false;
        while !unsent.is_empty() {
            match Pin::new(&mut self.connection.stream).poll_write(context, unsent) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.closed(""))),
                Poll::Ready(Ok(bytes)) => {
                    unsent.advance(bytes);
                    has_done = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.closed(&format!(" ({error})")))),
                Poll::Pending => break,
            }
        }
        // What TLS keeps back goes out, too.
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.connection.stream).poll_flush(context) {
            return Poll::Ready(Err(self.closed(&format!(" ({error})"))));
        }
        let mut buffer = ReadBuf::new(self.connection.replies.room());
        match Pin::new(&mut self.connection.stream).poll_read(context, &mut buffer) {
            Poll::Pending if has_done => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.closed(&format!(" ({error})")))),
            Poll::Ready(Ok(())) => {
                let bytes = buffer.filled().len();
                if bytes == 0 {
                    return Poll::Ready(Err(self.closed("")));
                }
                self.connection.replies.filled(bytes);
                Poll::Ready(self.answered())
            }
        }
    }

    fn answered(&mut self) -> Result<(), Failure> {
        loop {
            match self.connection.replies.next() {
                Ok(None) => return Ok(()),
                Ok(Some(Reply::Error(text))) => {
                    let error = String::from_utf8_lossy(text).into_owned();
                    return Err(self.refused(&error));
                }
                Ok(Some(_)) => {
                    self.unanswered = self.unanswered.saturating_sub(1);
                    self.silent = Instant::now();
                }
                Err(_) => {
                    return Err(Failure(format!("What answers at {} does not speak Redis' protocol.", self.address)));
                }
            }
        }
    }

    fn refused(&self, error: &str) -> Failure {
        let error: String = error.chars().filter(|character| !character.is_control()).take(200).collect();
        Failure(format!(
            "Redis at {} does not take what is for other nodes: {error}. If it is NOPERM, see docs/cluster.md for what to allow.",
            self.address
        ))
    }

    fn closed(&self, why: &str) -> Failure {
        Failure(format!("Redis at {} closed the connection{why}.", self.address))
    }

    fn is_silent(&self) -> Failure {
        Failure(format!("Redis at {} has not answered for {:?}.", self.address, self.timing.answer_max))
    }
}

impl fmt::Debug for Publishing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Publishing at {}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_any_bytes_is_published() {
        let mut bytes = BytesMut::new();
        publish_command("a:bus", b"\0\r\n", &mut bytes);
        assert_eq!(&bytes[..], b"*3\r\n$7\r\nPUBLISH\r\n$5\r\na:bus\r\n$3\r\n\0\r\n\r\n");
    }
}
