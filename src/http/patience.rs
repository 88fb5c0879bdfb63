//! How long a client is waited for that does not do its part: one that reads no answer would have its connection
//! for ever, and one that goes on sending while it is refused would miss why.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a write may wait for the other end to read.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long what a client still sends is read after the last answer. A socket that is closed with something unread is
/// reset, and the answer may be lost with it.
const LINGER: Duration = Duration::from_secs(2);

/// Reads of what nobody wants, in one turn.
const DISCARDS_MAX: usize = 16;

/// A stream, and since when it waits.
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
    /// Runs when all has been written.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// The stream, of which a write may wait so long.
    pub fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, waiting: None, lingering: None }
    }

    /// The stream alone.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// What a write has come to, or that it has taken too long.
    fn judge<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(self.patience)));
        ready!(waiting.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.judge(context, flushed)
    }

    /// Says that nothing more comes, and reads until the client says so, too.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            let shut = Pin::new(&mut this.stream).poll_shutdown(context);
            ready!(this.judge(context, shut))?;
        }
        let lingering = this.lingering.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut bytes = [MaybeUninit::uninit(); 4096];
        for _ in 0..DISCARDS_MAX {
            let mut buffer = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut this.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return lingering.as_mut().poll(context).map(Ok),
            }
        }
        // Others have their turn.
        context.waker().wake_by_ref();
        lingering.as_mut().poll(context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_given_up() {
        let (one, mut other) = duplex(8);
        let mut patient = Patient::new(one, Duration::from_millis(50));
        let mut buffer = [0; 8];
        // Each write waits its own time.
        for _ in 0..3 {
            patient.write_all(b"12345678").await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
            other.read_exact(&mut buffer).await.unwrap();
        }
        patient.write_all(b"12345678").await.unwrap();
        assert_eq!(patient.write_all(b"9").await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    /// What is refused is still being sent: the refusal must not be lost with it.
    #[tokio::test]
    async fn what_is_still_coming_is_read_before_the_end() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut patient = Patient::new(listener.accept().await.unwrap().0, PATIENCE);
        client.write_all(&[b'x'; 100_000]).await.unwrap();
        patient.write_all(b"no").await.unwrap();
        let closing = async move { patient.shutdown().await.unwrap() };
        let reading = async {
            client.write_all(&[b'x'; 100_000]).await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            drop(client);
            answer
        };
        let ((), answer) = tokio::join!(closing, reading);
        assert_eq!(answer, b"no");
    }
}
