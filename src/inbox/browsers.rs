//! Browsers that are known again.

use crate::address::Counted;
use crate::inbox::AppIndex;
use crate::protocol::SocketId;
use crate::protocol::channel::ChannelName;
use crate::protocol::resume::BrowserId;
use crate::protocol::session::Millis;

/// A browser, and its connection that has come.
#[derive(Clone, Copy, Debug)]
pub struct Returning {
    /// It.
    pub browser: BrowserId,
    /// Where it has been before.
    pub origin: Origin,
    /// The address that it comes from, if that is one client's.
    pub address: Option<Counted>,
}

/// Where a browser has been before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// Nowhere: it has been given its cookie with this connection.
    New,
    /// With this process.
    Here,
    /// With another node that lives: what its connections miss is kept there, and it tells of those that it has lost.
    Node,
    /// With a process of which nothing is known.
    Elsewhere,
    /// With another shard, as another browser; tabs of it may still be there.
    Moved,
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
    /// It was lost, and is known to have got everything up to so many milliseconds ago; `None`: it will be closed. An age and
    /// no time, since two machines' clocks may differ.
    pub known_ago: Option<Millis>,
}
