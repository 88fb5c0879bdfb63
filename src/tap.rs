//! What passes, for whoever looks: each event and what became of it, refusals with their reasons, connections
//! that come and go. "Why did my event not arrive?" is answered here.
//!
//! While nobody looks, an event costs one look at a counter and nothing is kept but the latest refusals. While
//! somebody does, each event carries a [`Trace`], which all who deliver it count in; when the last of them is done,
//! the trace becomes a [`Line`]. A watcher that reads too slowly misses lines and is told how many: nobody ever
//! waits for it. Who may look, and how lines leave the process, is `http::admin`'s business.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::broadcast::{
    self,
    error::{RecvError, TryRecvError},
};

use crate::protocol::SocketId;

/// Lines that a watcher may be behind.
const BEHIND_MAX: usize = 1024;

/// Refusals that are kept for those who look afterwards.
const REFUSALS_MAX: usize = 100;

/// How much of an event's data is shown, in bytes.
const DATA_BYTES_MAX: usize = 4096;

/// How much of a name or a sentence is shown, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

/// Channels of one event that are shown.
const TARGETS_MAX: usize = 100;

/// Where lines are said and heard. A clone shares everything.
#[derive(Clone, Debug)]
pub struct Tap(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    watchers: AtomicUsize,
    lines: broadcast::Sender<Arc<Line>>,
    /// For each app the tag of its socket ids, and its id.
    apps: RwLock<Vec<(u16, String)>>,
    refusals: Mutex<VecDeque<Arc<Line>>>,
}

/// Something that happened.
#[derive(Debug, Serialize)]
pub struct Line {
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened. The names of the fields are those of the feed.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// An event passed.
    Event {
        /// Where from.
        from: Origin,
        /// Its name.
        event: String,
        /// Its data as subscribers get it, or the beginning of it.
        data: String,
        /// How long the data is, in bytes.
        data_bytes: usize,
        /// The connection that is not to get it (`toOthers`, the sender of a client event).
        except: Option<SocketId>,
        /// Under which names it went out, and to how many connections of this node.
        to: Vec<Reached>,
        /// From its arrival until the last shard had it in its connections' outboxes, in microseconds.
        took_us: u64,
    },
    /// A message of Redis that is no event for anybody here.
    Ignored {
        /// The channel of Redis, prefix included.
        redis_channel: String,
        /// A sentence.
        reason: String,
    },
    /// Somebody may not subscribe or sign in.
    Refused {
        /// The app's id, where it is known.
        app: Option<String>,
        /// The connection.
        socket_id: SocketId,
        /// `None`: it was a signin.
        channel: Option<String>,
        /// Laravel's status, or what stands for it.
        status: Option<u16>,
        /// What the client was told.
        error: String,
        /// More for the operator; may be empty.
        detail: String,
    },
    /// A WebSocket that was refused after its handshake.
    Rejected {
        /// The close code.
        code: u16,
        /// What the client was told.
        error: String,
    },
    /// A request of the HTTP API that was refused.
    RequestRefused {
        /// The HTTP status.
        status: u16,
        /// What the backend was told.
        error: String,
    },
    /// A client has come.
    Connected {
        /// The app's id.
        app: String,
        /// The connection.
        socket_id: SocketId,
        /// What it speaks: `pusher` or `socket.io`.
        client: &'static str,
    },
    /// A connection has ended, or is about to.
    Disconnected {
        /// The app's id.
        app: String,
        /// The connection.
        socket_id: SocketId,
        /// The code of the close frame; `None`: it broke off.
        code: Option<u16>,
        /// Why.
        reason: String,
        /// Who ended it: `server` or `client`.
        by: &'static str,
    },
    /// A connection is subscribed from now on.
    Subscribed {
        /// The app's id.
        app: String,
        /// The connection.
        socket_id: SocketId,
        /// The channel.
        channel: String,
    },
    /// A subscription has ended.
    Unsubscribed {
        /// The app's id.
        app: String,
        /// The connection.
        socket_id: SocketId,
        /// The channel.
        channel: String,
    },
}

/// Where an event came from.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum Origin {
    /// Published to Redis on this channel, prefix included.
    Redis {
        /// The channel.
        channel: String,
    },
    /// The HTTP API.
    Http,
    /// A client event of this connection.
    Client {
        /// The connection.
        socket_id: SocketId,
    },
    /// Another node's client event or HTTP API event.
    Node,
}

/// One channel that an event was for.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Reached {
    /// The app's id.
    pub app: String,
    /// The channel.
    pub channel: String,
    /// Connections of this node that got it.
    pub delivered: usize,
    /// Connections that were left out (`toOthers`).
    pub excluded: usize,
}

impl Tap {
    /// A tap for these apps: the tag of an app's socket ids, and its id.
    pub fn new(apps: impl IntoIterator<Item = (u16, String)>) -> Self {
        let apps = RwLock::new(apps.into_iter().collect());
        let shared = Shared {
            watchers: AtomicUsize::new(0),
            lines: broadcast::Sender::new(BEHIND_MAX),
            apps,
            refusals: Mutex::default(),
        };
        Self(Arc::new(shared))
    }

    /// The apps have changed (a reload), in the order of their index.
    pub fn set_apps(&self, apps: Vec<(u16, String)>) {
        *self.0.apps.write().unwrap_or_else(PoisonError::into_inner) = apps;
    }

    fn find_app(&self, find: impl FnOnce(&[(u16, String)]) -> Option<&(u16, String)>) -> Option<String> {
        let apps = self.0.apps.read().unwrap_or_else(PoisonError::into_inner);
        find(&apps).map(|(_, id)| id.clone())
    }

    /// Whether anybody looks.
    pub fn is_watched(&self) -> bool {
        self.0.watchers.load(Ordering::Relaxed) > 0
    }

    /// Looks from now on.
    pub fn watch(&self) -> Watcher {
        let lines = self.0.lines.subscribe();
        self.0.watchers.fetch_add(1, Ordering::Relaxed);
        Watcher { lines, tap: self.clone() }
    }

    /// Says what happened, if anybody looks; else it is not even made.
    pub fn say(&self, what: impl FnOnce(&Self) -> What) {
        if self.is_watched() {
            self.send(Arc::new(Line::now(what(self))));
        }
    }

    /// Says a refusal, and keeps it for those who look afterwards.
    pub fn refuse(&self, what: What) {
        let line = Arc::new(Line::now(what));
        {
            let mut refusals = self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            if refusals.len() == REFUSALS_MAX {
                refusals.pop_front();
            }
            refusals.push_back(line.clone());
        }
        self.send(line);
    }

    /// The latest refusals, oldest first.
    pub fn refusals(&self) -> Vec<Arc<Line>> {
        self.0.refusals.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// The id of the app with this index in the configuration.
    pub fn app(&self, index: u16) -> String {
        self.find_app(|apps| apps.get(usize::from(index))).unwrap_or_default()
    }

    /// The id of the app that a connection belongs to.
    pub fn app_of(&self, socket_id: SocketId) -> Option<String> {
        self.find_app(|apps| apps.iter().find(|(tag, _)| *tag == socket_id.app_tag()))
    }

    /// Follows an event, if anybody looks. It has as many targets as it is delivered to channels and apps, in the
    /// order of the targets that [`Trace::traced`] is given.
    pub fn trace<'a>(
        &self,
        event: &str,
        data: &str,
        except: Option<SocketId>,
        from: impl FnOnce() -> Origin,
        targets: impl IntoIterator<Item = (u16, &'a str)>,
    ) -> Option<Arc<Trace>> {
        if !self.is_watched() {
            return None;
        }
        let target = |(app, channel)| Target { app, channel: cut(channel, TEXT_BYTES_MAX), ..Target::default() };
        let what = What::Event {
            from: from(),
            event: cut(event, TEXT_BYTES_MAX),
            data: cut(data, DATA_BYTES_MAX),
            data_bytes: data.len(),
            except,
            to: Vec::new(),
            took_us: 0,
        };
        let targets = targets.into_iter().take(TARGETS_MAX).map(target).collect();
        Some(Arc::new(Trace { tap: self.clone(), line: Some(Line::now(what)), since: Instant::now(), targets }))
    }

    fn send(&self, line: Arc<Line>) {
        // Fails if nobody looks any more.
        let _ = self.0.lines.send(line);
    }
}

impl Default for Tap {
    fn default() -> Self {
        Self::new([])
    }
}

impl Line {
    fn now(what: What) -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { at: since.as_millis() as u64, what }
    }

    /// The channels that it is about, also that of Redis.
    pub fn channels(&self) -> impl Iterator<Item = &str> {
        let (one, to): (Option<&str>, &[Reached]) = match &self.what {
            What::Event { from: Origin::Redis { channel }, to, .. } => (Some(channel), to),
            What::Event { to, .. } => (None, to),
            What::Ignored { redis_channel, .. } => (Some(redis_channel), &[]),
            What::Refused { channel, .. } => (channel.as_deref(), &[]),
            What::Subscribed { channel, .. } | What::Unsubscribed { channel, .. } => (Some(channel), &[]),
            What::Rejected { .. }
            | What::RequestRefused { .. }
            | What::Connected { .. }
            | What::Disconnected { .. } => (None, &[]),
        };
        one.into_iter().chain(to.iter().map(|reached| reached.channel.as_str()))
    }
}

/// Somebody who looks.
#[derive(Debug)]
pub struct Watcher {
    lines: broadcast::Receiver<Arc<Line>>,
    tap: Tap,
}

/// What a watcher sees next.
#[derive(Debug)]
pub enum Seen {
    /// This happened.
    Line(Arc<Line>),
    /// So many lines came faster than they were read, and are lost.
    Missed(u64),
}

impl Watcher {
    /// Waits for the next line.
    pub async fn next(&mut self) -> Seen {
        match self.lines.recv().await {
            Ok(line) => Seen::Line(line),
            Err(RecvError::Lagged(count)) => Seen::Missed(count),
            // The tap lives as long as its watchers.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }

    /// The next line, if it is there already.
    pub fn try_next(&mut self) -> Option<Seen> {
        match self.lines.try_recv() {
            Ok(line) => Some(Seen::Line(line)),
            Err(TryRecvError::Lagged(count)) => Some(Seen::Missed(count)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.tap.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An event on its way while somebody looks. It is said when the last who delivers it lets go of it.
#[derive(Debug)]
pub struct Trace {
    tap: Tap,
    /// `None` once it has been said.
    line: Option<Line>,
    since: Instant,
    targets: Vec<Target>,
}

#[derive(Debug, Default)]
struct Target {
    app: u16,
    channel: String,
    delivered: AtomicUsize,
    excluded: AtomicUsize,
}

impl Trace {
    /// For the delivery to the target with this index.
    pub fn traced(self: &Arc<Self>, target: usize) -> Traced {
        Traced { trace: self.clone(), target }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let Some(mut line) = self.line.take() else { return };
        if let What::Event { to, took_us, .. } = &mut line.what {
            *took_us = self.since.elapsed().as_micros() as u64;
            *to = std::mem::take(&mut self.targets)
                .into_iter()
                .map(|target| Reached {
                    app: self.tap.app(target.app),
                    channel: target.channel,
                    delivered: target.delivered.into_inner(),
                    excluded: target.excluded.into_inner(),
                })
                .collect();
        }
        self.tap.send(Arc::new(line));
    }
}

/// One delivery of an event that is followed.
#[derive(Clone, Debug)]
pub struct Traced {
    trace: Arc<Trace>,
    target: usize,
}

impl Traced {
    /// A shard has delivered to so many connections and left out so many.
    pub fn count(&self, delivered: usize, excluded: usize) {
        if let Some(target) = self.trace.targets.get(self.target) {
            target.delivered.fetch_add(delivered, Ordering::Relaxed);
            target.excluded.fetch_add(excluded, Ordering::Relaxed);
        }
    }
}

/// The beginning of a text.
pub fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(bytes_max)])
}

/// A sentence of which no more than is shown is kept.
pub fn sentence(text: impl std::fmt::Display) -> String {
    cut(&text.to_string(), TEXT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tap() -> Tap {
        Tap::new([(7, "shop".to_owned()), (9, "blog".to_owned())])
    }

    fn trace(tap: &Tap) -> Option<Arc<Trace>> {
        let targets = [(0, "orders"), (1, "orders")];
        tap.trace("shipped", "{}", None, || Origin::Redis { channel: "p_orders".to_owned() }, targets)
    }

    #[tokio::test]
    async fn an_event_is_said_when_all_have_delivered_it() {
        let tap = tap();
        assert!(trace(&tap).is_none(), "nobody looks");
        let mut watcher = tap.watch();
        let trace = trace(&tap).unwrap();
        let (one, other) = (trace.traced(0), trace.traced(1));
        drop(trace);
        one.count(2, 1);
        let again = one.clone();
        drop(one);
        other.count(0, 0);
        again.count(3, 0);
        drop(other);
        let mut next = Box::pin(watcher.next());
        assert!(futures_util::poll!(next.as_mut()).is_pending(), "a shard has not delivered yet");
        drop(again);
        let Seen::Line(line) = next.await else { panic!("missed") };
        assert_eq!(line.channels().collect::<Vec<_>>(), ["p_orders", "orders", "orders"]);
        let What::Event { to, .. } = &line.what else { panic!("{line:?}") };
        let reached = |app: &str, delivered, excluded| Reached {
            app: app.into(),
            channel: "orders".to_owned(),
            delivered,
            excluded,
        };
        assert_eq!(*to, [reached("shop", 5, 1), reached("blog", 0, 0)]);
    }

    #[tokio::test]
    async fn who_reads_slowly_is_told_how_much_was_missed() {
        let tap = tap();
        let mut watcher = tap.watch();
        for _ in 0..BEHIND_MAX + 10 {
            drop(trace(&tap));
        }
        assert!(matches!(watcher.next().await, Seen::Missed(10)));
        assert!(matches!(watcher.next().await, Seen::Line(_)));
        drop(watcher);
        assert!(!tap.is_watched());
    }

    #[test]
    fn refusals_are_kept_though_nobody_looks() {
        let tap = tap();
        for code in 0..REFUSALS_MAX as u16 + 5 {
            tap.refuse(What::Rejected { code, error: sentence("no") });
        }
        let kept = tap.refusals();
        assert_eq!(kept.len(), REFUSALS_MAX);
        assert!(matches!(kept[0].what, What::Rejected { code: 5, .. }));
        let text = serde_json::to_string(&*kept[0]).unwrap();
        assert!(text.ends_with(r#""kind":"rejected","code":5,"error":"no"}"#), "{text}");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("ééé", 3), "é…");
        assert_eq!(cut("abc", 3), "abc");
    }
}
