//! Engine.IO, versions 3 and 4, as values: the session's id, packets, and the payloads of the
//! polling transport. What the packets carry is [`socketio`](super::socketio)'s; who is asked
//! when, and over which transport, is the shard's.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use super::SocketId;
use super::session::Millis;

/// Packets that one POST may bring. A client sends as many as it has gathered since its last.
pub const PACKETS_MAX: usize = 1_000;

/// The protocol that a client speaks, as it says in `EIO`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    /// socket.io-client 1 and 2: the client pings.
    V3,
    /// socket.io-client 3 and 4: the server pings.
    V4,
}

/// What clients are told in the handshake, and held to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timing {
    /// Between two pings.
    pub ping_interval: Millis,
    /// How long the other side may take to answer.
    pub ping_timeout: Millis,
}

/// The longest body of a POST, in bytes: the old server's `maxHttpBufferSize`.
pub const BODY_BYTES_MAX: usize = 1_000_000;

/// A session's id on the wire: the socket id, the shard that owns the session, and a secret.
///
/// Whoever knows it can take the session over, so it is not guessable and never printed by
/// `Debug`. To clients of version 3 it is the socket id as well (`Echo.socketId()`), which they send to
/// Laravel; it is made of digits and one dot, since Pusher's server libraries refuse any other.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Sid {
    /// The connection's id, which is no secret.
    pub socket_id: SocketId,
    /// Index of the shard.
    pub shard: u16,
    secret: u128,
}

/// Digits of a sid after the dot: of the socket id's second half, the shard, the secret.
const LOW_DIGITS: usize = 10;
const SHARD_DIGITS: usize = 5;
const SECRET_DIGITS: usize = 39;

impl Sid {
    /// A sid with 128 random bits.
    pub fn new(socket_id: SocketId, shard: u16, secret: u128) -> Self {
        Self { socket_id, shard, secret }
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (high, low) = self.socket_id.halves();
        write!(f, "{high}.{low:0LOW_DIGITS$}{:0SHARD_DIGITS$}{:0SECRET_DIGITS$}", self.shard, self.secret)
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sid of {}", self.socket_id)
    }
}

/// The text is no sid of this server's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NotASid;

impl FromStr for Sid {
    type Err = NotASid;

    /// Accepts exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, NotASid> {
        let (high, rest) = text.split_once('.').ok_or(NotASid)?;
        if rest.len() != LOW_DIGITS + SHARD_DIGITS + SECRET_DIGITS || !rest.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(NotASid);
        }
        let (low, rest) = rest.split_at(LOW_DIGITS);
        let (shard, secret) = rest.split_at(SHARD_DIGITS);
        let low: u32 = low.parse().map_err(|_| NotASid)?;
        let sid = Self {
            socket_id: format!("{high}.{low}").parse().map_err(|_| NotASid)?,
            shard: shard.parse().map_err(|_| NotASid)?,
            secret: secret.parse().map_err(|_| NotASid)?,
        };
        Ok(sid)
    }
}

/// The socket id in what a client gave Laravel as its own: a Pusher client's is the id itself, a
/// Socket.IO client's may be its sid. `None`: it is the id of no connection here.
pub fn socket_id_of_client(text: &str) -> Option<SocketId> {
    text.parse().ok().or_else(|| text.parse().ok().map(|sid: Sid| sid.socket_id))
}

/// A packet's kind.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// `0`: the server's handshake.
    Open,
    /// `1`.
    Close,
    /// `2`.
    Ping,
    /// `3`.
    Pong,
    /// `4`: for Socket.IO.
    Message,
    /// `5`: the WebSocket takes over.
    Upgrade,
    /// `6`: nothing; it ends a poll.
    Noop,
}

/// Reads a packet: its kind, and what it carries.
pub fn packet(text: &str) -> Option<(Kind, &str)> {
    let kind = match text.as_bytes().first()? {
        b'0' => Kind::Open,
        b'1' => Kind::Close,
        b'2' => Kind::Ping,
        b'3' => Kind::Pong,
        b'4' => Kind::Message,
        b'5' => Kind::Upgrade,
        b'6' => Kind::Noop,
        _ => return None,
    };
    Some((kind, &text[1..]))
}

/// The packet `0`, the first one of a session.
pub fn open(version: Version, sid: Sid, may_upgrade: bool, timing: Timing) -> String {
    let upgrades = if may_upgrade { r#"["websocket"]"# } else { "[]" };
    let Timing { ping_interval, ping_timeout } = timing;
    let mut text = format!(
        r#"0{{"sid":"{sid}","upgrades":{upgrades},"pingInterval":{ping_interval},"pingTimeout":{ping_timeout}"#
    );
    if version == Version::V4 {
        text.push_str(&format!(r#","maxPayload":{BODY_BYTES_MAX}"#));
    }
    text.push('}');
    text
}

/// The answer to a probe, and what a probe says.
pub const PROBE: &str = "2probe";
/// See [`PROBE`].
pub const PROBED: &str = "3probe";
/// The packet that ends a poll with nothing.
pub const NOOP: &str = "6";
/// The packet that says that the session has ended.
pub const CLOSE: &str = "1";
/// The packet that says that the WebSocket takes over.
pub const UPGRADE: &str = "5";

const SEPARATOR: char = '\u{1e}';

/// Adds a packet to the body of a polling response.
pub fn push_to_payload(version: Version, payload: &mut String, packet: &str) {
    match version {
        Version::V3 => {
            payload.push_str(&utf16_units(packet).to_string());
            payload.push(':');
        }
        Version::V4 if payload.is_empty() => {}
        Version::V4 => payload.push(SEPARATOR),
    }
    payload.push_str(packet);
}

/// The length of a JavaScript string.
fn utf16_units(text: &str) -> usize {
    // Every character has one byte that continues none; those of four bytes are two units.
    text.bytes().filter(|byte| byte & 0xc0 != 0x80).count() + text.bytes().filter(|byte| *byte >= 0xf0).count()
}

/// The body of a POST is no payload.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct BadPayload(pub &'static str);

/// Takes the body of a POST apart. Binary packets carry nothing here and are refused.
pub fn payload(version: Version, body: &[u8]) -> Result<Vec<Cow<'_, str>>, BadPayload> {
    let packets = match (version, body.first()) {
        (Version::V3, Some(0 | 1)) => binary_payload(body)?,
        _ => {
            let text = std::str::from_utf8(body).map_err(|_| BadPayload("the body is not UTF-8"))?;
            match version {
                Version::V3 => counted_payload(text)?,
                Version::V4 => text.split(SEPARATOR).take(PACKETS_MAX + 1).map(Cow::Borrowed).collect(),
            }
        }
    };
    if packets.len() > PACKETS_MAX {
        return Err(BadPayload("the body has too many packets"));
    }
    Ok(packets)
}

/// `<length>:<packet>`, one after the other.
fn counted_payload(mut text: &str) -> Result<Vec<Cow<'_, str>>, BadPayload> {
    const LENGTH: BadPayload = BadPayload("a packet has no length before it");
    let mut packets = Vec::new();
    while !text.is_empty() && packets.len() <= PACKETS_MAX {
        let (length, rest) = text.split_once(':').ok_or(LENGTH)?;
        if length.len() > 9 || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(LENGTH);
        }
        let mut units: usize = length.parse().map_err(|_| LENGTH)?;
        let mut end = rest.len();
        for (at, character) in rest.char_indices() {
            if units == 0 {
                end = at;
                break;
            }
            units = units
                .checked_sub(character.len_utf16())
                .ok_or(BadPayload("a packet's length ends within a character"))?;
        }
        if units > 0 {
            return Err(BadPayload("a packet is shorter than its length"));
        }
        packets.push(Cow::Borrowed(&rest[..end]));
        text = &rest[end..];
    }
    Ok(packets)
}

/// The form of clients that have binary packets to send: `0` (text) or `1` (binary), the
/// length in bytes digit by digit, 255, the packet.
fn binary_payload(mut body: &[u8]) -> Result<Vec<Cow<'_, str>>, BadPayload> {
    const LENGTH: BadPayload = BadPayload("a packet has no length before it");
    let mut packets = Vec::new();
    while let [kind, rest @ ..] = body {
        if packets.len() > PACKETS_MAX {
            break;
        }
        if *kind != 0 {
            return Err(BadPayload("a packet is binary, and nothing binary is understood here"));
        }
        let digits = rest.iter().take(10).position(|byte| *byte == 255).ok_or(LENGTH)?;
        let mut units = 0;
        for digit in &rest[..digits] {
            if *digit > 9 {
                return Err(LENGTH);
            }
            units = units * 10 + usize::from(*digit);
        }
        let rest = &rest[digits + 1..];
        if rest.len() < units {
            return Err(BadPayload("a packet is shorter than its length"));
        }
        let (packet, rest) = rest.split_at(units);
        packets.push(Cow::Borrowed(std::str::from_utf8(packet).map_err(|_| BadPayload("the body is not UTF-8"))?));
        body = rest;
    }
    Ok(packets)
}

#[cfg(test)]
mod tests;
