//! What passes between home shards and whoever keeps copies of presence lists.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::AppIndex;
use crate::protocol::channel::ChannelName;

/// The members of a presence channel, as its home knows them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PresenceList {
    /// The app whose channel it is.
    pub app: AppIndex,
    /// The channel.
    pub channel: ChannelName,
    /// JSON: an object for each connection of a member; `[]` when the last one has left.
    pub members: String,
}

/// How home shards say that presence lists have changed, to whoever keeps copies of them.
#[derive(Clone, Debug, Default)]
pub struct PresenceChanges(Arc<PresenceChangesInner>);

#[derive(Debug, Default)]
struct PresenceChangesInner {
    wanted: AtomicBool,
    some: Notify,
}

impl PresenceChanges {
    /// For home shards: whether somebody wants to know. While nobody does, nothing need be remembered.
    pub fn are_wanted(&self) -> bool {
        self.0.wanted.load(Ordering::Relaxed)
    }

    /// For home shards: there is something to ask for.
    pub fn tell(&self) {
        self.0.some.notify_one();
    }

    /// For the one who keeps copies: begins or ends to want changes. Those of before are not told.
    pub fn want(&self, wanted: bool) {
        self.0.wanted.store(wanted, Ordering::Relaxed);
    }

    /// For the one who keeps copies: waits until there is something to ask for.
    pub async fn some(&self) {
        self.0.some.notified().await;
    }
}
