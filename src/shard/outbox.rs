//! What one connection has yet to be sent: shared frames, by reference. Written at once; only
//! what the kernel refuses stays.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};

use bytes::Bytes;
use rustls::ServerConnection;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Frames that go out in one system call.
const SLICES_MAX: usize = 64;

/// What a frame that waits costs beside its bytes: its place in the queue, and what owns the
/// bytes, which may be nobody else's.
const FRAME_COST: usize = 64;

/// What a TLS record holds.
const RECORD_BYTES: usize = 16 * 1024;

/// Frames of one connection, in order.
#[derive(Debug, Default)]
pub struct Outbox {
    frames: VecDeque<Bytes>,
    /// How much of the first frame is written already.
    written: usize,
    /// What is left of all frames, in bytes.
    bytes: usize,
}

impl Outbox {
    /// Adds a frame, or several in one piece.
    pub fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// Writes a frame at once if nothing waits before it; what the kernel refuses is kept.
    /// False: something waits, and [`Outbox::flush`] must follow.
    pub fn push_through(&mut self, frame: &Bytes, stream: &TcpStream) -> bool {
        if self.frames.is_empty() {
            match send(stream, frame) {
                Ok(written) if written == frame.len() => return true,
                Ok(written) => {
                    self.push(frame.clone());
                    self.advance(written);
                    return false;
                }
                // An error is met again by the flush that follows.
                Err(_) => {}
            }
        }
        self.push(frame.clone());
        false
    }

    /// What waits behind the frame that is on its way, in bytes, with what each frame costs beside
    /// its own. The first one does not count: a client that reads gets it, however long it is.
    pub fn waiting(&self) -> usize {
        match self.frames.front() {
            None => 0,
            Some(first) => self.bytes - (first.len() - self.written) + (self.frames.len() - 1) * FRAME_COST,
        }
    }

    /// What is left of all frames, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes until all is gone (`Ok(true)`) or the kernel takes no more (`Ok(false)`). With TLS
    /// the frames are encrypted a record at a time, and only when the one before is gone: what
    /// waits, waits here, where it is shared and counted.
    pub fn flush(&mut self, stream: &TcpStream, tls: Option<&mut ServerConnection>) -> io::Result<bool> {
        let Some(tls) = tls else { return self.flush_plain(stream) };
        loop {
            if !write_tls(stream, tls)? {
                return Ok(false);
            }
            if self.frames.is_empty() {
                return Ok(true);
            }
            let mut room = RECORD_BYTES;
            while let Some(first) = self.frames.front().filter(|_| room > 0) {
                let rest = &first[self.written..];
                let bytes = tls.writer().write(&rest[..rest.len().min(room)])?;
                if bytes == 0 {
                    break;
                }
                room -= bytes;
                self.advance(bytes);
            }
        }
    }

    fn flush_plain(&mut self, stream: &TcpStream) -> io::Result<bool> {
        while let Some(first) = self.frames.front() {
            let result = if self.frames.len() == 1 {
                send(stream, &first[self.written..])
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let count = self.frames.len().min(SLICES_MAX);
                for (slice, frame) in slices.iter_mut().zip(&self.frames) {
                    *slice = IoSlice::new(frame);
                }
                slices[0] = IoSlice::new(&first[self.written..]);
                stream.try_write_vectored(&slices[..count])
            };
            match result {
                Ok(written) => self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Puts another outbox, of which nothing has been written, behind this one.
    pub fn append(&mut self, mut later: Self) {
        self.bytes += later.bytes;
        self.frames.append(&mut later.frames);
    }

    /// Takes all out, of which nothing has been written.
    pub fn take(&mut self) -> VecDeque<Bytes> {
        self.bytes = 0;
        std::mem::take(&mut self.frames)
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Gives up what waits, but for the rest of a frame that is half written: after it the
    /// stream is whole, and a close frame may follow.
    pub fn give_up(&mut self) {
        self.frames.truncate(usize::from(self.written > 0));
        self.bytes = self.frames.front().map_or(0, |frame| frame.len() - self.written);
    }

    fn advance(&mut self, mut bytes: usize) {
        self.bytes -= bytes;
        while let Some(first) = self.frames.front() {
            let left = first.len() - self.written;
            if bytes < left {
                self.written += bytes;
                return;
            }
            bytes -= left;
            self.written = 0;
            self.frames.pop_front();
        }
        // A burst that is over needs no memory.
        if self.frames.capacity() > SLICES_MAX {
            self.frames = VecDeque::new();
        }
    }
}

/// Writes without asking tokio first whether the socket is writable: it nearly always is, and
/// the question costs a look at memory that is far away. A refusal is told to tokio.
fn send(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match SockRef::from(stream).send(bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            stream.try_io(Interest::WRITABLE, || Err(io::ErrorKind::WouldBlock.into()))
        }
        result => result,
    }
}

/// Writes what TLS has ready; false when the kernel takes no more.
fn write_tls(stream: &TcpStream, tls: &mut ServerConnection) -> io::Result<bool> {
    while tls.wants_write() {
        match tls.write_tls(&mut Socket(stream)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// A socket as rustls wants it: reads and writes that do not wait.
pub struct Socket<'a>(pub &'a TcpStream);

impl io::Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl io::Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// A connected pair; the first one's send buffer is as small as the kernel allows.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        socket2::SockRef::from(&server).set_send_buffer_size(1).unwrap();
        server.writable().await.unwrap();
        (server, client)
    }

    /// Numbered frames of many sizes come out whole and in order, though the kernel takes them in pieces.
    #[tokio::test]
    async fn nothing_is_lost_or_moved_when_the_kernel_refuses() {
        let (server, mut client) = pair().await;
        let mut outbox = Outbox::default();
        let mut expected = Vec::new();
        for n in 0..2000usize {
            let frame = vec![n as u8; 1 + (n * 7919) % 3000];
            expected.extend_from_slice(&frame);
            outbox.push(frame.into());
        }
        assert_eq!(outbox.bytes, expected.len());
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            all
        });
        let mut refused = 0;
        while !outbox.flush(&server, None).unwrap() {
            refused += 1;
            server.writable().await.unwrap();
        }
        assert!(refused > 0);
        assert_eq!((outbox.bytes, outbox.waiting()), (0, 0));
        drop(server);
        assert_eq!(reader.await.unwrap(), expected);
    }

    /// The same, pushed through: each frame is written at once as long as nothing waits.
    #[tokio::test]
    async fn pushing_through_keeps_the_order() {
        let (server, mut client) = pair().await;
        let mut outbox = Outbox::default();
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            all
        });
        let mut expected = Vec::new();
        let (mut through, mut waited) = (0, 0);
        for n in 0..2000usize {
            let frame = Bytes::from(vec![n as u8; 1 + (n * 7919) % 3000]);
            expected.extend_from_slice(&frame);
            if outbox.push_through(&frame, &server) {
                through += 1;
            } else {
                waited += 1;
            }
            if n % 50 == 0 {
                while !outbox.flush(&server, None).unwrap() {
                    server.writable().await.unwrap();
                }
            }
        }
        while !outbox.flush(&server, None).unwrap() {
            server.writable().await.unwrap();
        }
        assert!(through > 0 && waited > 0, "{through} {waited}");
        drop(server);
        assert_eq!(reader.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn giving_up_keeps_the_half_written_frame() {
        let (server, mut client) = pair().await;
        let mut outbox = Outbox::default();
        for _ in 0..50 {
            outbox.push(vec![b'x'; 100_000].into());
        }
        assert!(!outbox.flush(&server, None).unwrap());
        let sent = 5_000_000 - outbox.bytes;
        let rest = outbox.frames.front().unwrap().len() - outbox.written;
        assert_eq!(outbox.waiting(), outbox.bytes - rest + (outbox.frames.len() - 1) * FRAME_COST);
        outbox.give_up();
        assert_eq!(outbox.waiting(), 0);
        assert_eq!((sent + outbox.bytes) % 100_000, 0);
        outbox.push(Bytes::from_static(b"end"));
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            client.read_to_end(&mut all).await.unwrap();
            all
        });
        while !outbox.flush(&server, None).unwrap() {
            server.writable().await.unwrap();
        }
        drop(server);
        let all = reader.await.unwrap();
        assert_eq!(all.len() % 100_000, 3);
        assert!(all.ends_with(b"xend"));
    }
}
