//! The Pusher protocol, and that of Socket.IO clients, as values: names, events, messages,
//! signatures, and one connection's state. Nothing here does I/O, reads a clock or makes a random number;
//! time and ids are arguments.

use std::fmt;
use std::str::FromStr;

pub mod channel;
pub mod engineio;
pub mod event;
pub mod prefix;
pub mod presence;
pub mod pusher;
pub mod resume;
pub mod session;
pub mod signature;
pub mod socketio;
pub mod user;
pub mod webhook;
pub mod why;

/// A connection's id, `digits.digits` on the wire (protocol section 1, handshake).
///
/// Server libraries refuse any other shape. The low 16 bits of the first number are the
/// tag of the app that the connection belongs to ([`app_tag`]), so that the gateway knows
/// which secret signs for a socket without asking the shards (or another node).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SocketId(u64);

impl SocketId {
    /// Makes an id out of 64 random bits and the tag of the connection's app.
    pub fn new(random: u64, app_tag: u16) -> Self {
        Self((random & !0xffff_0000_0000) | (u64::from(app_tag) << 32))
    }

    /// The two numbers.
    pub fn halves(self) -> (u32, u32) {
        ((self.0 >> 32) as u32, self.0 as u32)
    }

    /// The tag given to [`SocketId::new`].
    pub fn app_tag(self) -> u16 {
        ((self.0 >> 32) & 0xffff) as u16
    }
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl serde::Serialize for SocketId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text is not the id of a socket that this server could have made.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a socket id is two numbers joined by a dot, as 218656.9503498")]
pub struct NotASocketId;

impl FromStr for SocketId {
    type Err = NotASocketId;

    /// Accepts exactly what [`fmt::Display`] writes: no sign, no leading zero.
    fn from_str(text: &str) -> Result<Self, NotASocketId> {
        let (high, low) = text.split_once('.').ok_or(NotASocketId)?;
        let high: u32 = high.parse().map_err(|_| NotASocketId)?;
        let low: u32 = low.parse().map_err(|_| NotASocketId)?;
        let id = Self((u64::from(high) << 32) | u64::from(low));
        if id.to_string() == text { Ok(id) } else { Err(NotASocketId) }
    }
}

/// A 16-bit tag of an app key, the same on every node (FNV-1a, folded).
pub fn app_tag(app_key: &str) -> u16 {
    let mut hash: u32 = 0x811c_9dc5;
    for byte in app_key.bytes() {
        hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    }
    (hash ^ (hash >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_id_round_trips_and_keeps_its_app_tag() {
        for (random, tag) in [(0, 0), (u64::MAX, 0xabcd), (0x1234_5678_9abc_def0, 7)] {
            let id = SocketId::new(random, tag);
            assert_eq!(id.app_tag(), tag);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn socket_id_accepts_only_its_own_spelling() {
        for text in ["", ".", "1", "1.", ".1", "1.2.3", "01.2", "1.02", "+1.2", "1.-2", "4294967296.1", "a.b", " 1.2"] {
            assert_eq!(text.parse::<SocketId>(), Err(NotASocketId), "{text:?}");
        }
        assert_eq!("1234.5678".parse::<SocketId>().unwrap().to_string(), "1234.5678");
    }
}
