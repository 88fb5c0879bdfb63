//! What the front says to shards of Socket.IO clients: how they connect, and what their requests want.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::NewClient;
use crate::protocol::engineio::{Sid, Version};

/// What a Socket.IO client connects for.
#[derive(Clone, Copy, Debug)]
pub enum SocketIo {
    /// A new session over a WebSocket.
    WebSocket(Sid, Version),
    /// A new session that polls.
    Polling {
        /// Its id.
        sid: Sid,
        /// The protocol that the client speaks.
        version: Version,
        /// A WebSocket may take over later.
        may_upgrade: bool,
    },
    /// A WebSocket that is to take over a session that polls.
    Upgrade(Sid),
}

/// An HTTP request of a Socket.IO client, on its way to the shard that owns the session.
#[derive(Debug)]
pub struct PollRequest {
    /// Whose it is.
    pub sid: Sid,
    /// What it wants.
    pub what: Poll,
    /// The request is answered with this. Dropped, the session is unknown.
    pub answer: oneshot::Sender<PollAnswer>,
}

/// What a request of the polling transport wants.
#[derive(Debug)]
pub enum Poll {
    /// A new session. It is a poll as well, with the number 0.
    Open(NewClient),
    /// GET: what there is, as soon as there is anything. No two polls have the same number.
    Get(u64),
    /// POST: packets of the client's.
    Post(Bytes),
}

/// The answer to a [`PollRequest`].
#[derive(Debug, Eq, PartialEq)]
pub enum PollAnswer {
    /// The body of a poll's response.
    Payload(String),
    /// The POST is taken.
    Ok,
    /// The session has a WebSocket, or the body is no payload.
    Bad(&'static str),
    /// There was a poll already; the session has ended.
    Twice,
}
