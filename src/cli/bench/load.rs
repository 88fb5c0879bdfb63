//! The load itself: one thread, one epoll loop, all connections. Cheap, since the generator often
//! shares the machine with the server: a read may give many events, an event is not parsed.

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use mio::{Events, Interest, Poll, Token};

use super::account::{Account, Histogram};
use super::options::{Dialect, Plan};
use super::socket::{Conn, Got, Pipe, Publisher, READ_BYTES, Stage};
use super::wire::{self, Api, Filler, Stamp};
use crate::protocol::signature;

/// Tokens from here on are publishers'.
pub(super) const PUBLISHERS: usize = 1 << 40;

/// Socket.IO clients ping; the server gives up after 45 s of silence.
const PING_EVERY: Duration = Duration::from_secs(20);

/// What happened to the connections so far.
#[derive(Debug, Default)]
pub struct Counts {
    /// Subscribed, or greeted and waiting for their turn to join.
    pub settled: usize,
    /// `member_added` that arrived.
    pub member_added: u64,
    /// `member_removed` that arrived.
    pub member_removed: u64,
    /// `member_added` that were missing (or too many) when all had subscribed.
    pub unannounced: u64,
    /// Events that Redis gave to nobody.
    pub nobody_listens: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// By close code (1006: none was seen): how many, and the first one's reason.
    pub closes: BTreeMap<u16, (u64, String)>,
    /// Stalled readers that were closed.
    pub stalled_closed: u64,
}

/// All connections and what is known of them.
pub struct Load<'a> {
    /// What to do.
    pub plan: &'a Plan,
    /// Who got what.
    pub account: Account,
    /// From sending an event to reading it, in nanoseconds.
    pub latency: Histogram,
    /// See [`Counts`].
    pub counts: Counts,
    pub(super) conns: Vec<Conn>,
    pub(super) publishers: Vec<Publisher>,
    pub(super) poll: Poll,
    events: Option<Events>,
    buffer: Vec<u8>,
    pub(super) body: Vec<u8>,
    started: Instant,
    pinged_at: Instant,
    pub(super) run: u16,
    pub(super) channels: Vec<String>,
    pub(super) filler: Filler,
    pub(super) api: Api,
}

impl<'a> Load<'a> {
    /// Nothing is connected yet.
    pub fn new(plan: &'a Plan) -> anyhow::Result<Self> {
        let options = &plan.options;
        let connections = (options.connections + options.joins) as usize;
        let api = Api {
            host: plan.host.clone(),
            app_id: options.app_id.clone().unwrap_or_default(),
            key: options.key.clone(),
            secret: plan.secret.clone(),
            timestamp: 0,
        };
        Ok(Self {
            plan,
            account: Account::new(connections, options.channels as usize, options.publishers as usize),
            latency: Histogram::default(),
            counts: Counts::default(),
            conns: Vec::with_capacity(connections),
            publishers: Vec::new(),
            poll: Poll::new().context("epoll is not to be had")?,
            events: Some(Events::with_capacity(4096)),
            buffer: vec![0; READ_BYTES],
            body: Vec::new(),
            started: Instant::now(),
            pinged_at: Instant::now(),
            run: getrandom::u32().unwrap_or_else(|_| std::process::id()) as u16,
            channels: (0..options.channels).map(|number| plan.channel(number)).collect(),
            filler: Filler::new(options.data_bytes as usize),
            api,
        })
    }

    /// Opens the next connection; it subscribes by itself unless it is a joiner.
    pub fn open(&mut self) -> anyhow::Result<()> {
        let index = self.conns.len();
        let stalls = self.stalls(index);
        let no_socket = || format!("connection {index} to {} could not be opened", self.plan.address);
        let mut pipe =
            Pipe::connect(self.plan.address, self.plan.source_address(index), stalls).with_context(no_socket)?;
        let key = &self.plan.options.key;
        let path = match self.plan.options.dialect {
            Dialect::Pusher => format!("/app/{key}?protocol=7&client=bench&version=1.0&flash=false"),
            Dialect::Socketio => "/socket.io/?EIO=3&transport=websocket".to_owned(),
        };
        pipe.out().extend_from_slice(
            format!(
                "GET {path} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bGFyYXZlbC1lY2hvLWJlbg==\r\n\r\n",
                self.plan.host
            )
            .as_bytes(),
        );
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut pipe.stream, Token(index), interest).with_context(no_socket)?;
        self.conns.push(Conn {
            pipe,
            stage: Stage::Opening,
            channel: (index % self.channels.len()) as u32,
            hint: 0,
            socket_id: String::new(),
            stalled: false,
        });
        Ok(())
    }

    fn is_joiner(&self, index: usize) -> bool {
        index >= self.plan.options.connections as usize
    }

    fn stalls(&self, index: usize) -> bool {
        let options = &self.plan.options;
        !self.is_joiner(index) && index >= (options.connections - options.slow) as usize
    }

    /// Nanoseconds since the run began, as the stamps have it.
    pub fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// A moment as the stamps have it.
    pub fn stamp_of(&self, moment: Instant) -> u64 {
        moment.saturating_duration_since(self.started).as_nanos() as u64
    }

    /// Waits until something happens, or for so long, and handles it.
    pub fn turn(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let Some(mut events) = self.events.take() else { bail!("a turn within a turn") };
        let mut buffer = mem::take(&mut self.buffer);
        let result = self.handle(&mut events, &mut buffer, timeout);
        self.events = Some(events);
        self.buffer = buffer;
        result
    }

    fn handle(&mut self, events: &mut Events, buffer: &mut [u8], timeout: Duration) -> anyhow::Result<()> {
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error).context("epoll failed"),
            _ => {}
        }
        for event in &*events {
            let token = event.token().0;
            if token >= PUBLISHERS {
                self.publisher_ready(token - PUBLISHERS, buffer)?;
                continue;
            }
            if event.is_writable()
                && let Err(error) = self.conns[token].pipe.flush()
            {
                self.closed(token, 1006, &error.to_string())?;
                continue;
            }
            if event.is_readable() && !self.conns[token].stalled {
                self.read(token, buffer)?;
            }
        }
        if self.plan.options.dialect == Dialect::Socketio && self.pinged_at.elapsed() > PING_EVERY {
            self.pinged_at = Instant::now();
            for index in 0..self.conns.len() {
                self.say(index, 1, b"2")?;
            }
        }
        Ok(())
    }

    fn read(&mut self, index: usize, buffer: &mut [u8]) -> anyhow::Result<()> {
        loop {
            let conn = &mut self.conns[index];
            if conn.stage == Stage::Closed {
                return Ok(());
            }
            match conn.pipe.read(buffer) {
                Ok(Got::More(bytes)) => self.received(index, &buffer[..bytes])?,
                Ok(Got::Last(bytes)) => return self.received(index, &buffer[..bytes]),
                Ok(Got::End) => return self.closed(index, 1006, "the connection ended without a close frame"),
                Err(error) => return self.closed(index, 1006, &error.to_string()),
            }
        }
    }

    /// Lets the stalled readers read again, so that the reason of their end is seen.
    pub fn resume(&mut self) -> anyhow::Result<()> {
        let mut buffer = mem::take(&mut self.buffer);
        for index in 0..self.conns.len() {
            if mem::take(&mut self.conns[index].stalled) {
                // With the small buffer, megabytes would take their time.
                let _ = socket2::SockRef::from(&self.conns[index].pipe.stream).set_recv_buffer_size(READ_BYTES);
                self.read(index, &mut buffer)?;
            }
        }
        self.buffer = buffer;
        Ok(())
    }

    fn received(&mut self, index: usize, bytes: &[u8]) -> anyhow::Result<()> {
        let now = self.now();
        self.counts.bytes += bytes.len() as u64;
        let mut partial = mem::take(&mut self.conns[index].pipe.partial);
        if partial.is_empty() {
            let used = self.frames(index, bytes, now)?;
            partial.extend_from_slice(&bytes[used..]);
        } else {
            partial.extend_from_slice(bytes);
            let used = self.frames(index, &partial, now)?;
            partial.drain(..used);
        }
        self.conns[index].pipe.partial = partial;
        Ok(())
    }

    /// Handles all that is whole; how many bytes that was.
    fn frames(&mut self, index: usize, input: &[u8], now: u64) -> anyhow::Result<usize> {
        let mut at = 0;
        if self.conns[index].stage == Stage::Opening {
            let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(0) };
            let head = String::from_utf8_lossy(&input[..end]);
            if head.get(9..12) != Some("101") {
                bail!("the server refused the WebSocket: {}", head.lines().next().unwrap_or_default());
            }
            self.conns[index].stage = Stage::Greeting;
            at = end + 4;
        }
        while let Some(frame) = wire::frame(input, at)? {
            let payload = &input[frame.payload.clone()];
            at = frame.payload.end;
            match frame.opcode {
                8 => {
                    let code = payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code));
                    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default()).into_owned();
                    self.say(index, 8, payload.get(..2).unwrap_or_default())?;
                    self.closed(index, code, &reason)?;
                    return Ok(input.len());
                }
                9 => self.say(index, 10, payload)?,
                10 => {}
                _ => self.text(index, payload, now)?,
            }
        }
        Ok(at)
    }

    fn text(&mut self, index: usize, payload: &[u8], now: u64) -> anyhow::Result<()> {
        let conn = &mut self.conns[index];
        if conn.stage == Stage::Subscribed
            && let Some(stamp) = Stamp::find(payload, &mut conn.hint)
        {
            let counts = stamp.run == self.run && !self.stalls(index);
            if counts {
                self.account.receive(index, stamp.channel, usize::from(stamp.publisher), stamp.sequence);
                self.latency.add(now.saturating_sub(stamp.sent_at));
            }
            return Ok(());
        }
        match self.plan.options.dialect {
            Dialect::Pusher => self.pusher_text(index, payload),
            Dialect::Socketio => self.socketio_text(index, payload),
        }
    }

    fn pusher_text(&mut self, index: usize, payload: &[u8]) -> anyhow::Result<()> {
        const NAME_WITHIN: usize = 80;
        let is = |name| wire::says(payload, name, NAME_WITHIN);
        if is("member_added") {
            self.counts.member_added += 1;
        } else if is("member_removed") {
            self.counts.member_removed += 1;
        } else if is("subscription_succeeded") {
            self.subscribed(index);
        } else if is("pusher:ping") {
            self.say(index, 1, br#"{"event":"pusher:pong","data":{}}"#)?;
        } else if is("connection_established") {
            let Some(id) = wire::socket_id(payload) else { bail!("the server's greeting has no socket id") };
            self.conns[index].socket_id = id.to_owned();
            self.greeted(index)?;
        } else if is("pusher:error") || is("subscription_error") {
            let text: String = String::from_utf8_lossy(payload).chars().take(400).collect();
            bail!("the server refused connection {index}: {text}");
        }
        Ok(())
    }

    fn socketio_text(&mut self, index: usize, payload: &[u8]) -> anyhow::Result<()> {
        match payload {
            b"40" => self.greeted(index)?,
            // The old server does not answer a subscription; the answer to a ping sent after it does.
            b"3" if self.conns[index].stage == Stage::Subscribing => self.subscribed(index),
            _ => {}
        }
        Ok(())
    }

    fn greeted(&mut self, index: usize) -> anyhow::Result<()> {
        if self.conns[index].stage != Stage::Greeting {
            return Ok(());
        }
        self.conns[index].stage = Stage::Greeted;
        if self.is_joiner(index) {
            self.counts.settled += 1;
            return Ok(());
        }
        self.subscribe(index)
    }

    /// Asks for the connection's channel.
    pub fn subscribe(&mut self, index: usize) -> anyhow::Result<()> {
        let conn = &mut self.conns[index];
        let channel = &self.channels[conn.channel as usize];
        conn.stage = Stage::Subscribing;
        if self.plan.options.dialect == Dialect::Socketio {
            let text = format!(r#"42["subscribe",{{"channel":"{channel}"}}]"#);
            self.say(index, 1, text.as_bytes())?;
            return self.say(index, 1, b"2");
        }
        let socket_id = &conn.socket_id;
        let sign = |text: String| {
            let secret = self.plan.secret.as_ref().map_or("", |secret| secret.expose());
            format!("{}:{}", self.plan.options.key, signature::sign(secret, &text))
        };
        let data = if self.plan.options.presence {
            let member = format!(r#"{{"user_id":{index},"user_info":{{"name":"User {index}"}}}}"#);
            let auth = sign(format!("{socket_id}:{channel}:{member}"));
            let member = member.replace('"', "\\\"");
            format!(r#"{{"auth":"{auth}","channel_data":"{member}","channel":"{channel}"}}"#)
        } else if self.plan.options.private {
            let auth = sign(format!("{socket_id}:{channel}"));
            format!(r#"{{"auth":"{auth}","channel":"{channel}"}}"#)
        } else {
            format!(r#"{{"auth":"","channel":"{channel}"}}"#)
        };
        self.say(index, 1, format!(r#"{{"event":"pusher:subscribe","data":{data}}}"#).as_bytes())
    }

    /// Leaves the connection's channel.
    pub fn unsubscribe(&mut self, index: usize) -> anyhow::Result<()> {
        let channel = &self.channels[self.conns[index].channel as usize];
        let text = format!(r#"{{"event":"pusher:unsubscribe","data":{{"channel":"{channel}"}}}}"#);
        self.conns[index].stage = Stage::Greeted;
        self.say(index, 1, text.as_bytes())
    }

    fn subscribed(&mut self, index: usize) {
        let (is_joiner, stalls) = (self.is_joiner(index), self.stalls(index));
        let conn = &mut self.conns[index];
        if conn.stage != Stage::Subscribing {
            return;
        }
        conn.stage = Stage::Subscribed;
        conn.stalled = stalls;
        let channel = conn.channel;
        if !is_joiner {
            self.counts.settled += 1;
        }
        if !is_joiner && !stalls {
            self.account.subscribed(index, channel);
        }
    }

    fn say(&mut self, index: usize, opcode: u8, payload: &[u8]) -> anyhow::Result<()> {
        let conn = &mut self.conns[index];
        if conn.stage == Stage::Closed {
            return Ok(());
        }
        wire::push_client_frame(conn.pipe.out(), opcode, payload);
        match conn.pipe.flush() {
            Ok(()) => Ok(()),
            Err(error) => self.closed(index, 1006, &error.to_string()),
        }
    }

    fn closed(&mut self, index: usize, code: u16, reason: &str) -> anyhow::Result<()> {
        let stalls = self.stalls(index);
        let conn = &mut self.conns[index];
        let stage = mem::replace(&mut conn.stage, Stage::Closed);
        match stage {
            Stage::Closed => return Ok(()),
            Stage::Subscribed | Stage::Greeted => {}
            Stage::Opening | Stage::Greeting | Stage::Subscribing => {
                bail!("connection {index} was closed before it was subscribed: {code} {reason}");
            }
        }
        let _ = self.poll.registry().deregister(&mut conn.pipe.stream);
        let _ = conn.pipe.stream.shutdown(std::net::Shutdown::Both);
        let (count, _) = self.counts.closes.entry(code).or_insert_with(|| (0, reason.to_owned()));
        *count += 1;
        if stalls {
            self.counts.stalled_closed += 1;
        }
        self.account.closed(index);
        Ok(())
    }
}
