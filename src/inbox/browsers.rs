//! Browsers that are known again.

use crate::inbox::AppIndex;
use crate::protocol::SocketId;
use crate::protocol::channel::ChannelName;
use crate::protocol::resume::BrowserId;

/// A browser that is known by its cookie.
#[derive(Clone, Copy, Debug)]
pub struct Returning {
    /// It.
    pub browser: BrowserId,
    /// Where it has been before.
    pub origin: Origin,
}

/// Where a browser's cookie is from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// From this process, now or before.
    Here,
    /// From another process, of which nothing is known.
    Elsewhere,
}

/// A connection of another node that is about to be closed, or that was lost: its browser may come here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Coming {
    /// The app.
    pub app: AppIndex,
    /// The browser.
    pub browser: BrowserId,
    /// The connection's id.
    pub socket_id: SocketId,
    /// What it is subscribed to.
    pub channels: Vec<ChannelName>,
    /// It was lost, and is known to have got everything up to this Unix time, in milliseconds; `None`: it will be closed.
    pub known_at: Option<u64>,
}
