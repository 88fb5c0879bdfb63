//! What this node tells the others: the handle by which shards and the HTTP API do it.
//!
//! The other end is the task in `cluster`, which owns the connections to Redis. Nobody waits for it:
//! a node that cannot reach Redis serves its own clients as if it were alone. As long as it is alone,
//! an event costs one look at a counter.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::inbox::{AppIndex, Coming, Delivery, Found, Query};
use crate::protocol::channel::ChannelName;

/// What every message between nodes begins with; no event of Laravel's does.
pub const MAGIC: &[u8] = b"\0les";

/// How much may wait to be told, in bytes. Events beyond it are for this node's clients alone, and counted.
pub const WAITING_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Something for the other nodes.
#[derive(Debug)]
pub enum Said {
    /// An event that this node's clients have got.
    Event(Delivery, Waiting),
    /// The first of this node's connections has come to a presence channel as this user, with this
    /// info, or the last has gone. Without a channel: it is signed in as this user.
    User { app: AppIndex, channel: Option<ChannelName>, user_id: Arc<str>, info: Option<Arc<str>> },
    /// End the user's connections.
    Terminate { app: AppIndex, user_id: Arc<str> },
    /// These connections will be closed or were lost, and may come to other nodes.
    Coming(Vec<Coming>),
    /// How many subscriptions there are elsewhere.
    Count { app: AppIndex, query: Query, reply: oneshot::Sender<Found> },
    /// This node stops. Answered when the others have been told.
    Leave(Duration, oneshot::Sender<()>),
}

/// The way to the other nodes. A clone shares everything.
#[derive(Clone, Debug)]
pub struct Bus {
    said: Option<mpsc::UnboundedSender<Said>>,
    shared: Arc<Shared>,
    status: watch::Receiver<Status>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Other nodes that live.
    others: AtomicUsize,
    waiting_bytes: AtomicUsize,
    lost_events: AtomicU64,
    /// Another node says what only one shall say.
    another_speaks: AtomicBool,
    /// This node's number.
    own: AtomicU64,
}

/// The end of a [`Bus`] that the task in `cluster` holds.
#[derive(Debug)]
pub struct BusEnd {
    /// What has been said. Its length is bounded by what connections may do, as that of shards' control messages,
    /// and events by [`WAITING_BYTES_MAX`].
    pub said: mpsc::UnboundedReceiver<Said>,
    /// For the task to keep up to date.
    pub status: watch::Sender<Status>,
    shared: Arc<Shared>,
}

/// What is known of the nodes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Status {
    /// All of them, this one first; empty: this node has never been able to hear itself.
    pub nodes: Vec<Node>,
    /// Another node tells backends of what all see.
    pub another_speaks: bool,
    /// Messages of others that were published and did not arrive here.
    pub missed: u64,
    /// Differences between what this node knew of another one's users and what was, found and healed.
    pub healed: u64,
    /// Messages that this version cannot read.
    pub unreadable: u64,
    /// Events that were delivered to this node's clients alone, since Redis was away or slow.
    pub lost_events: u64,
}

/// One node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Node {
    /// Of the process: 16 hexadecimal digits.
    pub id: String,
    /// The server's version.
    pub version: String,
    /// How many connections it has.
    pub connections: usize,
    /// How long a message of its own takes to come back to it through Redis.
    pub lag: Duration,
    /// It has said that it stops.
    pub is_leaving: bool,
    /// Members of presence channels, users that are signed in, and counted channels that it has told of.
    pub members: usize,
    /// By app, in the configuration's order.
    pub app_connections: Vec<usize>,
}

/// Makes the two ends.
pub fn bus() -> (Bus, BusEnd) {
    let (say, said) = mpsc::unbounded_channel();
    let (status, known) = watch::channel(Status::default());
    let shared = Arc::new(Shared::default());
    (Bus { said: Some(say), shared: shared.clone(), status: known }, BusEnd { said, status, shared })
}

impl Bus {
    /// Without other nodes.
    pub fn none() -> Self {
        Self { said: None, shared: Arc::default(), status: watch::channel(Status::default()).1 }
    }

    /// Tells the other nodes of an event that has been delivered here.
    pub fn event(&self, delivery: &Delivery) {
        if self.is_alone() {
            return;
        }
        match Waiting::new(&self.shared, delivery.frame.len()) {
            // The other forms each node makes for those who need them.
            Some(waiting) => {
                let delivery = Delivery { socketio: None, deflated: None, trace: None, ..delivery.clone() };
                self.say(Said::Event(delivery, waiting));
            }
            None => {
                self.shared.lost_events.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A user of a presence channel has come to this node, or left it.
    pub fn member(&self, app: AppIndex, channel: &ChannelName, user_id: &Arc<str>, info: Option<Arc<str>>) {
        if self.said.is_some() {
            self.say(Said::User { app, channel: Some(channel.clone()), user_id: user_id.clone(), info });
        }
    }

    /// A user has signed in on this node, or nobody is any more as this user.
    pub fn online(&self, app: AppIndex, user_id: &Arc<str>, is_online: bool) {
        let info = is_online.then(|| Arc::from(""));
        self.say(Said::User { app, channel: None, user_id: user_id.clone(), info });
    }

    /// So many of this node's connections are subscribed to a channel.
    pub fn subscribers(&self, app: AppIndex, channel: &ChannelName, count: u64) {
        // No user has an empty id.
        let info = (count > 0).then(|| count.to_string().into());
        self.member(app, channel, &"".into(), info);
    }

    /// Whether it is for this node to tell backends of what all nodes see.
    pub fn speaks_for_all(&self) -> bool {
        !self.shared.another_speaks.load(Ordering::Relaxed)
    }

    /// Ends the user's connections on the other nodes.
    pub fn terminate(&self, app: AppIndex, user_id: &Arc<str>) {
        if !self.is_alone() {
            self.say(Said::Terminate { app, user_id: user_id.clone() });
        }
    }

    /// These connections of this node may come to the others.
    pub fn coming(&self, connections: Vec<Coming>) {
        if !self.is_alone() {
            self.say(Said::Coming(connections));
        }
    }

    /// This process's number, on all nodes: 0 until it has one.
    pub fn own(&self) -> u64 {
        self.shared.own.load(Ordering::Relaxed)
    }

    /// Gives this process a number, where it does not get one as a node.
    pub fn set_own(&self, own: u64) {
        self.shared.own.store(own, Ordering::Relaxed);
    }

    /// Whether another node that lives and goes on has this number.
    pub fn is_node(&self, id: u64) -> bool {
        let id = format!("{id:016x}");
        self.status.borrow().nodes.iter().any(|node| node.id == id && !node.is_leaving)
    }

    /// How many subscriptions the others have; nodes that do not answer in time are left out.
    pub async fn count(&self, app: AppIndex, query: &Query) -> Found {
        if self.is_alone() || !matches!(query, Query::Prefix(_) | Query::Channels(_)) {
            return Found::default();
        }
        let (reply, found) = oneshot::channel();
        self.say(Said::Count { app, query: query.clone(), reply });
        found.await.unwrap_or_default()
    }

    /// Tells the others that this node stops, so that its users are kept until they have come back
    /// elsewhere; the last of them is closed within this time.
    pub async fn leave(&self, within: Duration) {
        let (reply, told) = oneshot::channel();
        self.say(Said::Leave(within, reply));
        let _ = told.await;
    }

    /// What is known of the nodes.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// No other node is known to live.
    pub fn is_alone(&self) -> bool {
        self.shared.others.load(Ordering::Relaxed) == 0
    }

    fn say(&self, what: Said) {
        if let Some(said) = &self.said {
            let _ = said.send(what);
        }
    }
}

impl BusEnd {
    /// How many other nodes live, and whether it is for one of them to say what only one shall say.
    pub fn set_others(&self, count: usize, another_speaks: bool) {
        self.shared.others.store(count, Ordering::Relaxed);
        self.shared.another_speaks.store(another_speaks, Ordering::Relaxed);
    }

    /// This node's number.
    pub fn set_own(&self, own: u64) {
        self.shared.own.store(own, Ordering::Relaxed);
    }

    /// Events that were not told.
    pub fn lost_events(&self) -> u64 {
        self.shared.lost_events.load(Ordering::Relaxed)
    }

    /// One more was not.
    pub fn event_lost(&self) {
        self.shared.lost_events.fetch_add(1, Ordering::Relaxed);
    }
}

/// So many bytes of an event, counted for as long as it waits.
#[derive(Debug)]
pub struct Waiting {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Waiting {
    fn new(shared: &Arc<Shared>, bytes: usize) -> Option<Self> {
        // What an empty one costs, too.
        let bytes = bytes + 128;
        let waiting = Self { shared: shared.clone(), bytes };
        (shared.waiting_bytes.fetch_add(bytes, Ordering::Relaxed) < WAITING_BYTES_MAX).then_some(waiting)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shared.waiting_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn delivery(bytes: usize) -> Delivery {
        let channel = ChannelName::published("a");
        Delivery { is_kept: true, ..Delivery::new(AppIndex(0), channel, Bytes::from(vec![0; bytes])) }
    }

    #[test]
    fn nothing_waits_while_there_is_no_other_node_and_not_without_end() {
        let (bus, mut end) = bus();
        bus.event(&delivery(1));
        assert!(end.said.try_recv().is_err());
        end.set_others(1, false);
        (0..20).for_each(|_| bus.event(&delivery(1024 * 1024)));
        assert_eq!(end.lost_events(), 4, "the sixteenth still begins within the bound");
        end.said.try_recv().unwrap();
        bus.event(&delivery(1));
        assert_eq!(end.lost_events(), 4);
    }
}
