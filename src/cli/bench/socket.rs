//! The generator's sockets: subscribers' connections and publishers, without blocking.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::net::TcpStream;
use socket2::{Domain, Protocol, Socket, Type};

/// What is read at once; one buffer serves all.
pub const READ_BYTES: usize = 256 * 1024;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stage {
    /// The opening handshake is out, or waits for the socket to connect.
    Opening,
    /// The handshake is answered; the server's first message is awaited.
    Greeting,
    /// Greeted. Joiners wait here for their turn.
    Greeted,
    /// The subscription's answer is awaited.
    Subscribing,
    /// Gets events.
    Subscribed,
    /// Over.
    Closed,
}

/// A stream with what could not be written yet and what has not arrived whole.
#[derive(Debug)]
pub struct Pipe {
    /// The socket.
    pub stream: TcpStream,
    /// The beginning of something whose end has not arrived.
    pub partial: Vec<u8>,
    out: Vec<u8>,
    written: usize,
}

/// One subscriber.
#[derive(Debug)]
pub struct Conn {
    /// Its socket.
    pub pipe: Pipe,
    /// See [`Stage`].
    pub stage: Stage,
    /// Its channel's number.
    pub channel: u32,
    /// Where the stamp stood in the last event.
    pub hint: usize,
    /// As the server named it.
    pub socket_id: String,
    /// Has stopped reading, on purpose.
    pub stalled: bool,
}

/// What a read gave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Got {
    /// So many bytes, and there may be more.
    More(usize),
    /// So many bytes, and no more now.
    Last(usize),
    /// The other side has closed.
    End,
}

impl Pipe {
    /// Begins to connect. A small receive buffer makes the sender notice a stalled reader soon.
    pub fn connect(to: SocketAddr, from: Option<SocketAddr>, small_buffer: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if small_buffer {
            socket.set_recv_buffer_size(4096)?;
        }
        if let Some(from) = from {
            socket.bind(&from.into())?;
        }
        match socket.connect(&to.into()) {
            Ok(()) => {}
            // EINPROGRESS has no kind of its own in the standard library.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        Ok(Self { stream: TcpStream::from_std(socket.into()), partial: Vec::new(), out: Vec::new(), written: 0 })
    }

    /// What is to be written; [`Pipe::flush`] does it.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Writes what the socket takes.
    pub fn flush(&mut self) -> io::Result<()> {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(bytes) => self.written += bytes,
                // A socket that is not connected yet says NotConnected: it will be writable later.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads once.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Ok(Got::End),
                Ok(bytes) if bytes == buffer.len() => return Ok(Got::More(bytes)),
                Ok(bytes) => return Ok(Got::Last(bytes)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Got::Last(0)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// One way for events to the server.
#[derive(Debug)]
pub struct Publisher {
    /// Its socket.
    pub pipe: Pipe,
    /// Events that have not been answered.
    pub awaiting: u64,
}
