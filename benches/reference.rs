//! The least that a server can do, as the physical limit to compare with: one epoll loop that
//! writes a ready frame to the sockets of a channel's subscribers, several frames for one socket
//! in one turn joined into one write. It speaks just enough of the Pusher protocol and its HTTP
//! API for the load generator, and checks nothing: no signature, no limits, no timeouts.
//!
//! `cargo run --release --example reference -- 127.0.0.1:7000`

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};

use http::{HeaderMap, Method, header};
use laravel_echo_server::protocol::pusher;
use laravel_echo_server::ws::{self, frame};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

const LISTENER: Token = Token(usize::MAX);

struct Conn {
    stream: TcpStream,
    /// Bytes of an incomplete request; empty on a WebSocket that is idle.
    input: Vec<u8>,
    websocket: bool,
    output: Vec<u8>,
    dirty: bool,
}

struct Server {
    conns: slab::Slab<Conn>,
    channels: HashMap<String, Vec<usize>>,
    dirty: Vec<usize>,
}

fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7000".into());
    let address = address.parse().map_err(|_| std::io::Error::other("an address is wanted, as 127.0.0.1:7000"))?;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&std::net::SocketAddr::into(address))?;
    socket.listen(4096)?;
    let mut listener = TcpListener::from_std(socket.into());
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(1024);
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut server = Server { conns: slab::Slab::new(), channels: HashMap::new(), dirty: Vec::new() };
    let mut buffer = vec![0; 64 * 1024];
    println!("Running on {}", listener.local_addr()?);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            if event.token() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    let conn = Conn { stream, input: Vec::new(), websocket: false, output: Vec::new(), dirty: false };
                    let key = server.conns.insert(conn);
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    poll.registry().register(&mut server.conns[key].stream, Token(key), interest)?;
                }
            } else {
                server.ready(event.token().0, &mut buffer);
            }
        }
        for key in std::mem::take(&mut server.dirty) {
            server.flush(key);
        }
    }
}

impl Server {
    fn ready(&mut self, key: usize, buffer: &mut [u8]) {
        loop {
            let Some(conn) = self.conns.get_mut(key) else { return };
            match conn.stream.read(buffer) {
                Ok(0) => {
                    self.conns.remove(key);
                    self.channels.values_mut().for_each(|subscribers| subscribers.retain(|other| *other != key));
                    return;
                }
                Ok(bytes) => {
                    conn.input.extend_from_slice(&buffer[..bytes]);
                    while self.input(key) {}
                    // The buffer was not filled, so there is no more: one system call is saved.
                    if bytes < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return,
            }
        }
        self.mark(key);
    }

    /// Handles one request or frame; false when none is complete.
    fn input(&mut self, key: usize) -> bool {
        if self.conns[key].websocket { self.frame(key) } else { self.request(key) }
    }

    fn request(&mut self, key: usize) -> bool {
        let input = &self.conns[key].input;
        let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) else {
            return false;
        };
        let head = String::from_utf8_lossy(&input[..end]).into_owned();
        let value = |name: &str| {
            let line =
                head.lines().find(|line| line.len() > name.len() && line[..name.len()].eq_ignore_ascii_case(name))?;
            Some(line.split_once(':')?.1.trim())
        };
        if let Some(websocket_key) = value("sec-websocket-key") {
            let mut headers = HeaderMap::new();
            headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, header::HeaderValue::from_static("13"));
            if let Ok(websocket_key) = websocket_key.parse() {
                headers.insert(header::SEC_WEBSOCKET_KEY, websocket_key);
            }
            let accept = ws::accept_key(&Method::GET, &headers).unwrap_or_default();
            let hello = pusher::connection_established(laravel_echo_server::protocol::SocketId::new(key as u64, 0), 30);
            let conn = &mut self.conns[key];
            let response = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            conn.output.extend_from_slice(response.as_bytes());
            conn.output.extend_from_slice(&frame::encode_text(&hello));
            conn.websocket = true;
            conn.input.drain(..end);
            return true;
        }
        let length: usize = value("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        if input.len() < end + length {
            return false;
        }
        let body: serde_json::Value = serde_json::from_slice(&input[end..end + length]).unwrap_or_default();
        let conn = &mut self.conns[key];
        conn.input.drain(..end + length);
        conn.output
            .extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
        let channel = body["channel"].as_str().or(body["channels"][0].as_str()).unwrap_or_default();
        let event = body["name"].as_str().unwrap_or_default();
        let frame =
            frame::encode_text(&pusher::channel_event(channel, event, body["data"].as_str().unwrap_or_default()));
        for &subscriber in self.channels.get(channel).map(Vec::as_slice).unwrap_or_default() {
            let conn = &mut self.conns[subscriber];
            conn.output.extend_from_slice(&frame);
            if !conn.dirty {
                conn.dirty = true;
                self.dirty.push(subscriber);
            }
        }
        true
    }

    fn frame(&mut self, key: usize) -> bool {
        let mut input = std::mem::take(&mut self.conns[key].input);
        let mut subscribed = None;
        let _ = frame::Decoder::default().feed(&mut input, 64 * 1024, |message| {
            if let frame::Message::Text(text) = message
                && let Ok(pusher::ClientMessage::Subscribe(subscribe)) = pusher::ClientMessage::parse(&text)
            {
                subscribed = Some(subscribe.channel.into_owned());
            }
            true
        });
        if let Some(channel) = subscribed {
            self.conns[key].output.extend_from_slice(&frame::encode_text(&pusher::subscription_succeeded(&channel)));
            self.channels.entry(channel).or_default().push(key);
        }
        false
    }

    fn mark(&mut self, key: usize) {
        if let Some(conn) = self.conns.get_mut(key).filter(|conn| !conn.dirty && !conn.output.is_empty()) {
            conn.dirty = true;
            self.dirty.push(key);
        }
    }

    fn flush(&mut self, key: usize) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        conn.dirty = false;
        if let Ok(bytes) = conn.stream.write(&conn.output) {
            if bytes == conn.output.len() {
                conn.output.clear();
            } else {
                conn.output.drain(..bytes);
            }
        }
        if conn.websocket && conn.output.is_empty() && conn.output.capacity() > 4096 {
            conn.output = Vec::new();
        }
    }
}
