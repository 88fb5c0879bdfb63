//! Who may join a guarded channel, when no signature says so: Laravel is asked.

use http::HeaderValue;

pub use crate::protocol::session::{Answer, Refusal};

use crate::protocol::SocketId;
use crate::protocol::channel::ChannelName;

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
