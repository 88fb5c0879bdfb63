//! Everything that can reach a shard, and the handles by which others reach it.
//!
//! A shard has three queues. *Events* come from sources that can wait (Redis, the HTTP API):
//! the queue is bounded and a full one makes the source wait. *Control* is what shards and the
//! front say to each other; it is never waited for, so no two shards can wait for one another.
//! Its length is bounded by what connections may have under way (joins, authorisations) and
//! by the rate limit of client events. *Arrivals* are new connections, as many as there may be; a
//! storm of them must not stand before anything else.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_queue::ArrayQueue;
use http::HeaderValue;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::metrics;
use crate::protocol::SocketId;
use crate::protocol::channel::ChannelName;
use crate::protocol::engineio::Sid;
use crate::protocol::presence::Member;
use crate::protocol::session::{Answer, Refusal, Ticket};
use crate::tap::Traced;

mod browsers;
mod presence_lists;
mod relays;
mod settings;
mod socketio;

pub use browsers::{Coming, Origin, Returning};
pub use presence_lists::{PresenceChanges, PresenceList};
pub use relays::{Relays, UnderWay};
pub use settings::Settings;
pub use socketio::{Poll, PollAnswer, PollRequest, SocketIo};

/// How many events may wait for one shard.
pub const EVENTS_MAX: usize = 8 * 1024;

/// Index of an app in the configuration's `clients`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct AppIndex(pub u16);

impl From<AppIndex> for metrics::App {
    fn from(app: AppIndex) -> Self {
        Self(app.0)
    }
}

/// One ready frame for all subscribers of one channel.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The app whose channel it is.
    pub app: AppIndex,
    /// The channel.
    pub channel: ChannelName,
    /// The WebSocket frame, header included; the same bytes go to every Pusher client.
    pub frame: Bytes,
    /// The frame for Socket.IO clients. `None`: there were none when the event was taken in.
    pub socketio: Option<Bytes>,
    /// `frame`, compressed, for clients that have agreed to that. `None`: they get `frame`.
    pub deflated: Option<Bytes>,
    /// The connection that shall not get it (`toOthers`, the sender of a client event).
    pub except: Option<SocketId>,
    /// It is kept for those who are away: an event of the application, and none of clients or of members.
    pub is_kept: bool,
    /// Somebody looks at what becomes of it.
    pub trace: Option<Traced>,
    /// When it arrived here, of an event of Laravel's or of a backend's. Those that came in one piece have the same.
    pub taken_at: Option<Instant>,
}

impl Delivery {
    /// To all subscribers who speak the Pusher protocol, uncompressed; and neither kept nor looked at.
    pub fn new(app: AppIndex, channel: ChannelName, frame: Bytes) -> Self {
        Self {
            app,
            channel,
            frame,
            socketio: None,
            deflated: None,
            except: None,
            is_kept: false,
            trace: None,
            taken_at: None,
        }
    }
}

/// In which form a connection is sent events.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// As text, in the Pusher protocol.
    Plain,
    /// The same, compressed (permessage-deflate).
    Deflated,
    /// As Socket.IO clients understand them.
    SocketIo,
}

/// A connection of a shard. A key whose connection has gone is never used again.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ConnKey {
    /// The place in the shard's table.
    pub slot: u32,
    /// Tells this connection from those that had the place before.
    pub generation: u32,
}

/// What anybody but an event source says to a shard.
#[derive(Debug)]
pub enum Control {
    /// A request of a Socket.IO client that polls.
    Poll(Box<PollRequest>),
    /// The client of the poll with this number has hung up.
    PollGone { sid: Sid, number: u64 },
    /// Deliver an event that came from a shard.
    Deliver(Delivery),
    /// From the home shard of a cache channel: deliver an event that was published.
    Relayed(Delivery, UnderWay),
    /// Laravel's answer to a question of this connection.
    Answered { conn: ConnKey, ticket: Ticket, answer: Answer },
    /// To the channel's home shard: let this connection in, as a member of a presence channel.
    Join { app: AppIndex, channel: ChannelName, member: Option<Member>, joiner: Joiner },
    /// To the channel's home shard: tell the joiner once more what it was told when it came.
    List { app: AppIndex, channel: ChannelName, joiner: Joiner },
    /// To a presence channel's home shard: this connection has left.
    Leave { app: AppIndex, channel: ChannelName, user_id: Arc<str>, socket_id: SocketId },
    /// To a presence channel's home shard: who has come to another node or left it, with the info of who
    /// has come.
    Elsewhere { app: AppIndex, channel: ChannelName, node: u64, changes: Vec<(Arc<str>, Option<Arc<str>>)> },
    /// To the home shard of a presence or cache channel: pass on an event of another node.
    PassOn(Delivery, UnderWay),
    /// From the home shard: the join is done, and the frame is the ready `subscription_succeeded`
    /// with what belongs after it; or the channel is full.
    Joined { conn: ConnKey, ticket: Ticket, outcome: Result<Bytes, Refusal> },
    /// To the channel's home shard: so many more of the shard's connections are subscribed, or fewer.
    Occupancy { app: AppIndex, channel: ChannelName, more: i64 },
    /// To the user's home shard: what has changed on the shard `from`, or on the node of this id.
    User { app: AppIndex, user_id: Arc<str>, from: usize, change: UserChange },
    /// From the user's home shard, to those that watch: whether the user is online.
    UserStatus { app: AppIndex, user_id: Arc<str>, is_online: bool },
    /// To the channel's home shard: how many subscribers another node has, where channels are counted.
    SubscribersElsewhere { app: AppIndex, channel: ChannelName, node: u64, count: u64 },
    /// Say what this shard has of the app's channels.
    Query { app: AppIndex, query: Query, reply: mpsc::UnboundedSender<Found> },
    /// Close the connections that are signed in as this user.
    Terminate { app: AppIndex, user_id: Arc<str> },
    /// To a home shard: tell the lists of presence channels that have changed since the last time, or
    /// of all; some of them, none when there are no more.
    PresenceLists { all: bool, answer: oneshot::Sender<Vec<PresenceList>> },
    /// Redis was away, and what it sent between these Unix times, in milliseconds, is not known here.
    Missed { since: u64, until: u64 },
    /// A connection of another node may come here.
    Coming(Coming),
    /// What another node has said since then is not known.
    Unheard(Instant),
    /// Go by these from now on, and say so. Connections of apps that are removed are closed.
    Settings(Box<Settings>, oneshot::Sender<()>),
    /// Close every connection within this time, then end.
    Stop(Duration),
}

/// What a shard is asked about an app's channels. Of the members of a presence channel only its
/// home shard knows; the others have none to tell.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Query {
    /// All channels whose names begin so, that have subscribers or members.
    Prefix(Arc<str>),
    /// These channels.
    Channels(Arc<[ChannelName]>),
    /// Who is in this presence channel.
    Members(ChannelName),
    /// What this cache channel keeps.
    Cached(ChannelName),
}

/// What a shard, or several together, have found.
#[derive(Debug, Default)]
pub struct Found {
    /// Channels without subscribers and members need not be there.
    pub channels: HashMap<ChannelName, Counts>,
    /// Each user once.
    pub members: Vec<Member>,
    /// What the cache channel's home keeps.
    pub cached: Option<Cached>,
}

/// How many there are in a channel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    /// Connections that are subscribed.
    pub subscriptions: usize,
    /// Users that are members.
    pub users: usize,
}

impl Found {
    /// Adds what another shard has found for the same query.
    pub fn merge(&mut self, other: Self) {
        for (channel, counts) in other.channels {
            let sum = self.channels.entry(channel).or_default();
            sum.subscriptions += counts.subscriptions;
            sum.users += counts.users;
        }
        self.members.extend(other.members);
        self.cached = self.cached.take().or(other.cached);
    }
}

/// What a shard tells the home shard of a user.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UserChange {
    /// The first of the shard's connections has signed in as this user.
    Online,
    /// The last one has ended.
    Offline,
    /// The first of the shard's connections watches this user; [`Control::UserStatus`] comes back,
    /// now and whenever it changes.
    Watch,
    /// Nobody of the shard does any more.
    Unwatch,
}

/// The last event of a cache channel, as the HTTP API tells of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cached {
    /// The event's data.
    pub data: String,
    /// For how many seconds it is kept yet.
    pub ttl_secs: u64,
}

/// Who joins a channel that has a home, and where its shard waits for the answer.
#[derive(Clone, Copy, Debug)]
pub struct Joiner {
    /// Index of the shard that owns the connection.
    pub shard: usize,
    /// The connection.
    pub conn: ConnKey,
    /// Comes back in the answer.
    pub ticket: Ticket,
    /// The connection's id.
    pub socket_id: SocketId,
    /// It speaks Socket.IO.
    pub is_socketio: bool,
}

/// A socket on its way from the front to a shard.
#[derive(Debug)]
pub struct Handover {
    /// The socket, non-blocking.
    pub stream: std::net::TcpStream,
    /// Its TLS session, where it has one.
    pub tls: Option<Box<rustls::ServerConnection>>,
    /// Bytes that were read beyond the handshake.
    pub leftover: Bytes,
    /// Whose it is.
    pub client: NewClient,
}

/// Who has connected.
#[derive(Debug)]
pub struct NewClient {
    /// The app that it connected to.
    pub app: AppIndex,
    /// Its id.
    pub socket_id: SocketId,
    /// What the handshake said of who it is.
    pub credentials: Arc<Credentials>,
    /// Counts it: among its app's, and among those of its form.
    pub counted: [Option<OneMore>; 3],
    /// In which form it is sent events.
    pub form: Form,
    /// It may send compressed messages.
    pub inflates: bool,
    /// It speaks Socket.IO and not the Pusher protocol.
    pub socketio: Option<SocketIo>,
    /// The browser, if it is to get what it misses.
    pub browser: Option<Returning>,
}

/// One more of something, for as long as this lives.
#[derive(Debug)]
pub struct OneMore(Arc<AtomicUsize>);

impl OneMore {
    /// One more.
    pub fn of(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for OneMore {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a handshake said of who is asking. Never logged.
#[derive(Clone, Default)]
pub struct Credentials {
    /// `Cookie`.
    pub cookie: Option<HeaderValue>,
    /// `Authorization`.
    pub authorization: Option<HeaderValue>,
    /// `Origin`: the page that opened the socket. No browser leaves it out.
    pub origin: Option<String>,
    /// `Referer`: the page where there is no `Origin`, and `authHost` names several.
    pub referer: Option<String>,
    /// `Host`.
    pub host: Option<String>,
    /// `User-Agent`, passed on so that Laravel's logs make sense.
    pub user_agent: Option<HeaderValue>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credentials (hidden)")
    }
}

/// How others reach one shard.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    arrivals: mpsc::UnboundedSender<Handover>,
    control: mpsc::UnboundedSender<Control>,
    events: Arc<Events>,
    interest: Arc<Interest>,
    connections: Arc<AtomicUsize>,
}

/// The shard's end of a [`ShardHandle`].
#[derive(Debug)]
pub struct Inbox {
    /// Sockets whose opening handshakes are done.
    pub arrivals: mpsc::UnboundedReceiver<Handover>,
    /// What others say.
    pub control: mpsc::UnboundedReceiver<Control>,
    /// Events of Redis and the HTTP API.
    pub events: Arc<Events>,
    /// For the shard to keep up to date.
    pub interest: Arc<Interest>,
    /// How many connections the shard owns, for the shard to keep up to date.
    pub connections: Arc<AtomicUsize>,
}

/// Makes the two ends.
pub fn inbox() -> (ShardHandle, Inbox) {
    let (arrivals_in, arrivals) = mpsc::unbounded_channel();
    let (control_in, control) = mpsc::unbounded_channel();
    let events = Arc::new(Events::default());
    let interest = Arc::new(Interest::default());
    let connections = Arc::new(AtomicUsize::new(0));
    (
        ShardHandle {
            arrivals: arrivals_in,
            control: control_in,
            events: events.clone(),
            interest: interest.clone(),
            connections: connections.clone(),
        },
        Inbox { arrivals, control, events, interest, connections },
    )
}

impl ShardHandle {
    /// Says something to the shard. After its end nobody listens, which is fine.
    pub fn tell(&self, message: Control) {
        let _ = self.control.send(message);
    }

    /// Hands the shard a socket, which counts as its connection from now on. After its end the
    /// socket is closed.
    pub fn hand_over(&self, handover: Handover) {
        // Counted here, so that the next of a storm already sees it.
        self.connections.fetch_add(1, Ordering::Relaxed);
        let _ = self.arrivals.send(handover);
    }

    /// Hands the shard an event; it is not woken by it. False: there is no room, see
    /// [`ShardHandle::room`].
    pub fn offer(&self, delivery: &Delivery) -> bool {
        let taken = self.events.queue.push(delivery.clone()).is_ok();
        self.events.pushed.store(true, Ordering::SeqCst);
        taken
    }

    /// Waits until there may be room for an event.
    pub async fn room(&self) {
        self.events.room().await;
    }

    /// How many events wait.
    pub fn waiting(&self) -> usize {
        self.events.queue.len()
    }

    /// Wakes the shard if it has been handed events since the last time.
    pub fn wake(&self) {
        self.events.wake();
    }

    /// Whether the shard may have subscribers of the channel with this hash.
    pub fn is_interested(&self, hash: u64) -> bool {
        self.interest.contains(hash)
    }

    /// How many connections the shard owns.
    pub fn connections(&self) -> &AtomicUsize {
        &self.connections
    }
}

/// The queue of events to one shard. Handing one over and waking the shard are two steps: a
/// wake-up costs as much as a delivery, and one is enough for all that is published in one turn.
pub struct Events {
    queue: ArrayQueue<Delivery>,
    /// Something was pushed since the last wake-up.
    pushed: AtomicBool,
    ready: Notify,
    /// How many wait for room, and what they wait for.
    waiting: AtomicUsize,
    room: Notify,
}

/// One more of something, as long as this lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Default for Events {
    fn default() -> Self {
        Self {
            queue: ArrayQueue::new(EVENTS_MAX),
            pushed: AtomicBool::new(false),
            ready: Notify::new(),
            waiting: AtomicUsize::new(0),
            room: Notify::new(),
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Events ({} waiting)", self.queue.len())
    }
}

impl Events {
    /// Waits until there may be room.
    async fn room(&self) {
        // Room that is made from here on is heard of; room made before is seen.
        let room = self.room.notified();
        // Also counted down when the source gives up waiting.
        let _waiting = Counted::new(&self.waiting);
        self.ready.notify_one();
        if self.queue.is_full() {
            room.await;
        }
    }

    fn wake(&self) {
        if self.pushed.swap(false, Ordering::SeqCst) {
            self.ready.notify_one();
        }
    }

    /// For the shard: waits to be woken. Events that are here already may be the first of many
    /// that their source is just handing over.
    pub async fn ready(&self) {
        self.ready.notified().await;
    }

    /// Whether no events wait.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// For the shard: takes up to `most` events, in order. What is left makes it ready again.
    pub fn take(&self, most: usize, into: &mut Vec<Delivery>) {
        into.extend(std::iter::from_fn(|| self.queue.pop()).take(most));
        if into.len() == most {
            self.ready.notify_one();
        }
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.room.notify_waiters();
        }
    }

    /// For tests: waits for the next event. It needs no wake-up.
    #[doc(hidden)]
    pub async fn next(&self) -> Delivery {
        loop {
            let mut one = Vec::new();
            self.take(1, &mut one);
            match one.pop() {
                Some(delivery) => return delivery,
                None => tokio::task::yield_now().await,
            }
        }
    }
}

/// Which channels a shard has subscribers of or joiners to, readable from any thread without a lock: a table
/// of counters indexed by the channel's hash. Two channels may share a counter; then the shard
/// is woken in vain, and never the other way round.
pub struct Interest(Box<[AtomicU32]>);

const INTEREST_SLOTS: usize = 1 << 16;

impl Interest {
    fn slot(&self, hash: u64) -> &AtomicU32 {
        &self.0[hash as usize & (INTEREST_SLOTS - 1)]
    }

    /// The channel got its first subscriber, or one is on its way.
    pub fn add(&self, hash: u64) {
        self.slot(hash).fetch_add(1, Ordering::SeqCst);
    }

    /// What was added has ended.
    pub fn remove(&self, hash: u64) {
        self.slot(hash).fetch_sub(1, Ordering::SeqCst);
    }

    fn contains(&self, hash: u64) -> bool {
        self.slot(hash).load(Ordering::SeqCst) > 0
    }
}

impl Default for Interest {
    fn default() -> Self {
        Self((0..INTEREST_SLOTS).map(|_| AtomicU32::new(0)).collect())
    }
}

impl std::fmt::Debug for Interest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interest")
    }
}
