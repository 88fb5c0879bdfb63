//! Who may join a guarded channel, when no signature says so: Laravel is asked.
//!
//! Begin with [`callback::Laravel`], which asks on behalf of a socket, and
//! [`gateway::gateway`], which passes a browser's own question on and signs the yes.

pub mod callback;
#[cfg(test)]
pub(crate) mod fake;
mod fields;
pub mod gateway;
pub(crate) mod headers;
mod laravel;
pub mod origin;
mod reply;

use http::HeaderValue;

use crate::protocol::SocketId;
use crate::protocol::channel::ChannelName;
use crate::protocol::presence::Member;

/// What the handshake, or the client itself, said of who is asking. Never logged.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// `Cookie` of the handshake.
    pub cookie: Option<HeaderValue>,
    /// `Authorization` of the handshake.
    pub authorization: Option<HeaderValue>,
    /// `Origin` of the handshake: the page that opened the socket. No browser leaves it out.
    pub origin: Option<String>,
    /// `Host` of the handshake.
    pub host: Option<String>,
    /// `User-Agent` of the handshake, passed on so that Laravel's logs make sense.
    pub user_agent: Option<HeaderValue>,
}

/// A question for Laravel: may this socket join this channel?
#[derive(Clone, Debug)]
pub struct Question {
    /// The channel as the client named it.
    pub channel: ChannelName,
    /// The socket.
    pub socket_id: SocketId,
    /// From the handshake.
    pub credentials: std::sync::Arc<Credentials>,
    /// `auth.headers` of the subscribe message, where a client sends them.
    pub headers: Vec<(String, String)>,
}

/// What came of a question.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Yes, to a private channel.
    Yes,
    /// Yes, to a presence channel, as this member.
    Member(Member),
    /// No.
    No(Refusal),
}

/// A refusal: what the browser is told. The log has been told more already.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// HTTP status that Laravel gave, or that fits.
    pub status: u16,
    /// A sentence that says the cause and the cure.
    pub error: String,
}
