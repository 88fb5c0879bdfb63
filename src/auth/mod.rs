//! Who may join a guarded channel, when no signature says so: Laravel is asked.
//!
//! Begin with [`callback::Laravel`], which asks on behalf of a socket, and
//! [`gateway::gateway`], which passes a browser's own question on and signs the yes.

pub mod callback;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod fields;
pub mod gateway;
pub(crate) mod headers;
mod hosts;
mod laravel;
pub mod origin;
pub mod probe;
pub mod queue;
mod reply;
#[cfg(any(test, fuzzing))]
pub(crate) use reply::fuzz as fuzz_answer;

pub use crate::protocol::session::{Answer, Refusal};

use crate::inbox::ConnKey;
pub use crate::inbox::Credentials;
use crate::protocol::SocketId;
use crate::protocol::channel::ChannelName;
use crate::protocol::session::Ticket;
use std::sync::{Arc, Weak};

/// A question for Laravel: may this socket join this channel?
#[derive(Clone, Debug)]
pub struct Question {
    /// The channel as the client named it.
    pub channel: ChannelName,
    /// The socket.
    pub socket_id: SocketId,
    /// From the handshake.
    pub credentials: Arc<Credentials>,
    /// `auth.headers` of the subscribe message, where a client sends them.
    pub headers: Vec<(String, String)>,
}

/// A question on its way from a shard, and where the answer is waited for.
#[derive(Debug)]
pub struct Asked {
    /// Index of the shard.
    pub shard: usize,
    /// The connection that asks.
    pub conn: ConnKey,
    /// Comes back with the answer.
    pub ticket: Ticket,
    /// The channel as the client named it.
    pub channel: ChannelName,
    /// The socket.
    pub socket_id: SocketId,
    /// The connection's; gone when it is.
    pub credentials: Weak<Credentials>,
    /// `auth.headers` of the subscribe message, where a client sends them.
    pub headers: Vec<(String, String)>,
}

impl Asked {
    /// About what it takes while it waits, in bytes.
    fn bytes(&self) -> usize {
        const WITHOUT_HEADERS: usize = 512;
        WITHOUT_HEADERS + self.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
    }

    /// What to ask; `None`: the connection is gone, and nobody waits for the answer.
    fn question(&mut self) -> Option<Question> {
        let credentials = self.credentials.upgrade()?;
        let headers = std::mem::take(&mut self.headers);
        Some(Question { channel: self.channel.clone(), socket_id: self.socket_id, credentials, headers })
    }
}
