//! Laravel's events out of Redis (or, in the demo, out of a queue), to the publisher.
//!
//! [`from_redis`] keeps a subscription alive and hands each message to [`Ingress::take`],
//! which reads it, decides under which channel names it goes out, makes one frame per name
//! and publishes that to every app. Nothing here knows connections or other nodes: Redis tells
//! every node by itself. Messages of one Redis connection keep their order.

use std::fmt::{self, Write};
use std::time::Instant;

use tokio::sync::{mpsc, watch};

use crate::bus;
use crate::inbox::Delivery;
use crate::metrics::{IgnoredBecause, Metrics, Source};
use crate::protocol::channel::{self, ChannelName};
use crate::protocol::event::{self, BroadcastError};
use crate::protocol::prefix::News;
use crate::publish::{Backlog, Publisher, event_frame, socketio_event_frame};
use crate::redis::{Backoff, Failure, Published, Reporter, Status};
use crate::tap::{self, Origin, Tap, What};
use links::Listening;

pub use crate::publish::BACKLOG_BYTES_MAX;
pub use audience::Audiences;
pub use heartbeat::{channels as heartbeat_channels, is_heartbeat};
pub use links::Links;

mod audience;
mod heartbeat;
mod links;
mod positions;

/// The longest payload that is looked at, in bytes. Laravel's events are small; what is bigger
/// than this is something else's, or a mistake that no browser should have to swallow.
pub const PAYLOAD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A message of the demo, which publishes in this process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// The channel, prefix included.
    pub channel: Vec<u8>,
    /// What was published.
    pub payload: Vec<u8>,
}

/// What an [`Ingress`] goes by from now on.
#[derive(Debug)]
pub struct Change {
    /// Which apps there are; `None`: the same.
    pub audiences: Option<Audiences>,
    /// See [`Ingress::new`].
    pub frame_bytes_max: usize,
}

/// Where messages become deliveries.
#[derive(Debug)]
pub struct Ingress {
    audiences: Audiences,
    changes: Option<mpsc::UnboundedReceiver<Change>>,
    publisher: Publisher,
    frame_bytes_max: usize,
    ignored: Ignored,
    backlog: Backlog,
    /// When what is being taken has arrived.
    now: Instant,
}

impl Ingress {
    /// Publishes to these apps. `frame_bytes_max` is what one connection's outbox takes: a longer
    /// frame would close every subscriber that it goes to.
    pub fn new(audiences: Audiences, publisher: Publisher, frame_bytes_max: usize) -> Self {
        let (ignored, backlog) = (Ignored::default(), Backlog::default());
        Self { audiences, changes: None, publisher, frame_bytes_max, ignored, backlog, now: Instant::now() }
    }

    /// Goes by what comes here, from then on.
    pub fn with_changes(self, changes: mpsc::UnboundedReceiver<Change>) -> Self {
        Self { changes: Some(changes), ..self }
    }

    /// True: another pattern is to be subscribed to.
    fn change(&mut self, change: Change) -> bool {
        let prefix = self.audiences.prefix().to_owned();
        if let Some(audiences) = change.audiences {
            let before = std::mem::replace(&mut self.audiences, audiences);
            self.audiences.follow(before);
        }
        self.frame_bytes_max = change.frame_bytes_max;
        self.audiences.prefix() != prefix
    }

    /// Delivers one message. What a shard has no room for waits here, and all that comes after it,
    /// until [`Ingress::catch_up`] has delivered it. What is no event of Laravel's is ignored: a
    /// shared Redis carries all sorts of things. What nodes say to each other is heard elsewhere.
    pub fn take(&mut self, message: Published<'_>) {
        let payload = match message.payload {
            Some(payload) if payload.len() <= PAYLOAD_BYTES_MAX => payload,
            _ => return self.ignore(Ignorable::TooLong, message.channel),
        };
        if payload.starts_with(bus::MAGIC) || is_heartbeat(payload) {
            return;
        }
        let broadcast = match event::parse(payload) {
            Ok(broadcast) => broadcast,
            Err(error) => return self.ignore(Ignorable::NoEvent(error), message.channel),
        };
        let Ok(name) = std::str::from_utf8(message.channel) else {
            return self.ignore(Ignorable::NameNotUtf8, message.channel);
        };
        if name.contains(channel::USER_PREFIX) {
            return self.ignore(Ignorable::UserChannel, message.channel);
        }
        let Some(audience) = self.audiences.of(name) else {
            self.publisher.metrics().redis_messages_ignored.add(IgnoredBecause::OtherPrefix);
            return tell_watchers(self.publisher.tap(), Unheard::NoApp, message.channel);
        };
        let route = audience.prefix.route(name, broadcast.from_laravel);
        if let Some(news) = &route.news {
            tell(news);
            audience.known_prefix.send_replace(audience.prefix.known().map(str::to_owned));
        }
        if let Some(name) = route.names().next() {
            tracing::debug!("Channel: {}", Printable(name.as_bytes()));
            tracing::debug!("Event: {}", Printable(broadcast.event.as_bytes()));
        }
        let tap = self.publisher.tap();
        if route.names().next().is_none() {
            return tell_watchers(tap, Unheard::NoChannel, message.channel);
        }
        let targets = || route.names().flat_map(|name| audience.apps.iter().map(move |app| (app.0, name)));
        let from = || Origin::Redis { channel: tap::cut(name, PRINTED_BYTES_MAX) };
        let trace = match tap.is_watched() {
            true => tap.trace(&broadcast.event, &broadcast.data_for_pusher(), broadcast.except, from, targets()),
            false => None,
        };
        let metrics = self.publisher.metrics();
        metrics.events_received.add(Source::Redis);
        let mut data = None;
        for (index, name) in route.names().enumerate() {
            if !audience.apps.iter().any(|app| self.publisher.has_subscribers(*app, name)) {
                continue;
            }
            let data = data.get_or_insert_with(|| broadcast.data_for_pusher());
            let frame = event_frame(name, &broadcast.event, data);
            if frame.len() > self.frame_bytes_max {
                let reason = Ignorable::OverOutbox(frame.len(), self.frame_bytes_max);
                tell_watchers(tap, reason, name.as_bytes());
                self.ignored.note(reason, name.as_bytes(), self.publisher.metrics());
                continue;
            }
            let socketio = self
                .publisher
                .for_socketio(|| socketio_event_frame(name, &broadcast.event, &broadcast.data_for_socketio()));
            let deflated = self.publisher.deflated(&frame);
            let channel = ChannelName::published(name);
            for (app_index, app) in audience.apps.iter().enumerate() {
                let target = index * audience.apps.len() + app_index;
                let delivery = Delivery {
                    app: *app,
                    channel: channel.clone(),
                    frame: frame.clone(),
                    socketio: socketio.clone(),
                    deflated: deflated.clone(),
                    except: broadcast.except,
                    is_kept: true,
                    trace: trace.as_ref().map(|trace| trace.traced(target)),
                    taken_at: Some(self.now),
                };
                self.backlog.publish(delivery, &self.publisher);
            }
        }
        if data.is_none() {
            metrics.events_unheard.add(Source::Redis);
        }
    }

    /// What is taken from here on has arrived now.
    fn arrives(&mut self) {
        self.now = Instant::now();
    }

    fn ignore(&mut self, reason: Ignorable, channel: &[u8]) {
        tell_watchers(self.publisher.tap(), reason, channel);
        self.ignored.note(reason, channel, self.publisher.metrics());
    }

    /// Waits for room and delivers what waits. Dropped before its end, nothing is lost or doubled.
    pub async fn catch_up(&mut self) {
        self.backlog.deliver(&self.publisher).await;
    }
}

/// Listens to Redis for ever: connects, subscribes, hands on, connects again.
pub async fn from_redis(links: Links, mut ingress: Ingress, status: watch::Sender<Status>) {
    let mut reporter = Reporter::new(links.link(), status);
    let mut backoff = Backoff::new(links.link().timing());
    let mut changes = ingress.changes.take();
    let metrics = ingress.publisher.metrics().clone();
    let mut away_since = Instant::now();
    let mut heard_until = None;
    loop {
        while let Some(Ok(change)) = changes.as_mut().map(|changes| changes.try_recv()) {
            ingress.change(change);
        }
        let opened = links.open(ingress.audiences.prefix(), &metrics).await;
        metrics.redis_gap_seconds.add((), away_since.elapsed());
        away_since = Instant::now();
        match opened {
            Err(failure) => {
                metrics.redis_connect_failures.add(());
                reporter.away(&failure);
            }
            Ok(mut listening) => {
                let since = Instant::now();
                reporter.connected();
                if let Some(since) = heard_until {
                    // What was published meanwhile is lost, and nobody knows how much that is.
                    ingress.publisher.tell_of_gap(since, unix_millis());
                }
                let failure = listen(&mut listening, &mut ingress, &mut changes).await;
                heard_until = Some(listening.heard_until());
                drop(listening);
                away_since = Instant::now();
                let Some(failure) = failure else {
                    tracing::info!("Other key prefixes are listened to: subscribing to Redis anew");
                    ingress.catch_up().await;
                    continue;
                };
                metrics.redis_disconnects.add(());
                reporter.away(&failure);
                ingress.catch_up().await;
                backoff.connection_lasted(since.elapsed());
            }
        }
        backoff.pause().await;
    }
}

/// Reads until Redis is away, or more waits than may. `None`: the subscription is no longer the right one.
///
/// It is read without waiting for shards, so that PING is answered and a dead connection is noticed however busy
/// they are.
async fn listen(
    listening: &mut Listening,
    ingress: &mut Ingress,
    changes: &mut Option<mpsc::UnboundedReceiver<Change>>,
) -> Option<Failure> {
    loop {
        let is_behind = !ingress.backlog.is_empty();
        tokio::select! {
            filled = listening.fill() => if let Err(failure) = filled {
                return Some(failure);
            },
            () = ingress.catch_up(), if is_behind => {}
            change = next(changes) => if ingress.change(change) {
                return None;
            },
        }
        ingress.arrives();
        if let Err(failure) = listening.each(|message| ingress.take(message)) {
            return Some(failure);
        }
        if ingress.backlog.is_over() {
            return Some(Failure::new(format!(
                "Redis publishes faster than this server delivers: {} MB of events wait, so the connection was dropped \
                 until they are delivered. What is published until then is lost. Use more cores (\"shards\"), or see \
                 what floods Redis.",
                BACKLOG_BYTES_MAX / (1024 * 1024)
            )));
        }
        // A flood must not keep others from their turn.
        tokio::task::yield_now().await;
    }
}

fn unix_millis() -> u64 {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since_epoch.as_millis() as u64
}

async fn next(changes: &mut Option<mpsc::UnboundedReceiver<Change>>) -> Change {
    if let Some(changes) = changes
        && let Some(change) = changes.recv().await
    {
        return change;
    }
    std::future::pending().await
}

/// Takes messages from a queue until its senders are gone.
pub async fn from_queue(mut queue: mpsc::Receiver<Message>, mut ingress: Ingress) {
    while let Some(Message { channel, payload }) = queue.recv().await {
        ingress.arrives();
        ingress.take(Published { channel: &channel, payload: Some(&payload) });
        ingress.catch_up().await;
    }
}

/// Says what was found out about the prefix, with the line for the configuration.
fn tell(news: &News) {
    match news {
        News::FirstPrefix(prefix) if prefix.is_empty() => {
            tracing::info!(
                "Laravel publishes without a key prefix; channels have the names that Laravel's code gives them."
            );
        }
        News::FirstPrefix(prefix) => tracing::info!(
            "Laravel puts the key prefix {prefix:?} before channel names; events go to the channels without it. To make \
             this fixed, put this line into databaseConfig.redis of laravel-echo-server.json: \"keyPrefix\": {prefix:?}"
        ),
        News::SecondPrefix { first, second } => tracing::error!(
            "Two applications publish to this Redis: one {}, one {}. So that neither gets the other's events, from now on \
             each event goes only to the channel of its full name, prefix included. Say which application this server is \
             for: put \"keyPrefix\": {first:?} or \"keyPrefix\": {second:?} into databaseConfig.redis of \
             laravel-echo-server.json, and restart it.",
            with(first),
            with(second),
        ),
    }
}

fn with(prefix: &str) -> String {
    if prefix.is_empty() { "without a key prefix".to_owned() } else { format!("with the key prefix {prefix:?}") }
}

/// Why a message was ignored.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Ignorable {
    #[error("the payload has more than {} MB", PAYLOAD_BYTES_MAX / (1024 * 1024))]
    TooLong,
    #[error("it takes {0} bytes on the wire, and a connection may have {1} waiting (limits.outboundBytes)")]
    OverOutbox(usize, usize),
    #[error("events for a user are published over the HTTP API only, so that no other program on Redis can send them")]
    UserChannel,
    #[error("the channel's name is not UTF-8")]
    NameNotUtf8,
    #[error(transparent)]
    NoEvent(BroadcastError),
}

impl Ignorable {
    /// How it is counted, and whether it looks like an event gone wrong, rather than
    /// like other traffic of a shared Redis.
    fn class(self) -> (IgnoredBecause, bool) {
        match self {
            Self::TooLong => (IgnoredBecause::TooLong, true),
            Self::NameNotUtf8 => (IgnoredBecause::ChannelNotUtf8, false),
            Self::NoEvent(BroadcastError::NotAnObject) => (IgnoredBecause::NotAnObject, false),
            Self::NoEvent(BroadcastError::NotUtf8(_)) => (IgnoredBecause::PayloadNotUtf8, true),
            Self::NoEvent(BroadcastError::NotJson { .. }) => (IgnoredBecause::NotJson, true),
            Self::NoEvent(BroadcastError::NoEvent) => (IgnoredBecause::NoEvent, false),
            Self::NoEvent(BroadcastError::EventNotAString) => (IgnoredBecause::EventNotAString, false),
            Self::OverOutbox(..) => (IgnoredBecause::OverOutbox, true),
            Self::UserChannel => (IgnoredBecause::UserChannel, true),
        }
    }
}

/// Why a message is for nobody here: the usual thing where applications share a Redis.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Unheard {
    #[error("no app has a key prefix (clients[].keyPrefix, databaseConfig.redis.keyPrefix) that this name begins with")]
    NoApp,
    #[error("the name does not begin with the key prefix of this server's apps")]
    NoChannel,
}

/// For those who look.
fn tell_watchers(tap: &Tap, reason: impl fmt::Display, channel: &[u8]) {
    tap.say(|_| What::Ignored { redis_channel: Printable(channel).to_string(), reason: tap::sentence(reason) });
}

/// Counts what was ignored, by reason; the 1st, 10th, 100th … of each is logged.
#[derive(Debug, Default)]
struct Ignored([u64; IgnoredBecause::VALUES.len()]);

impl Ignored {
    fn note(&mut self, reason: Ignorable, channel: &[u8], metrics: &Metrics) {
        let (class, is_suspicious) = reason.class();
        metrics.redis_messages_ignored.add(class);
        let count = &mut self.0[class as usize];
        *count += 1;
        if *count != 10_u64.pow(count.ilog10()) {
            return;
        }
        let channel = Printable(channel);
        if is_suspicious {
            tracing::warn!("Ignored a message on Redis channel {channel}: {reason} ({count} so far)");
        } else {
            tracing::debug!("Ignored a message on Redis channel {channel}, no event: {reason} ({count} so far)");
        }
    }
}

/// How much of a name is shown.
const PRINTED_BYTES_MAX: usize = 200;

/// A name from outside, fit for a line of the log: not endless, no control characters.
struct Printable<'a>(&'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cut = &self.0[..self.0.len().min(PRINTED_BYTES_MAX)];
        for character in String::from_utf8_lossy(cut).chars() {
            if character.is_control() {
                write!(f, "{}", character.escape_default())?;
            } else {
                f.write_char(character)?;
            }
        }
        if cut.len() < self.0.len() { f.write_str("…") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::{AppIndex, EVENTS_MAX, Inbox, inbox};

    const LARAVEL: &str = r#"{"event":"message.sent","data":{"id":1,"socket":"1.2"},"socket":"1.2"}"#;
    const BY_HAND: &str = r#"{"event":"message.sent","data":{"id":1}}"#;

    const FRAME_BYTES_MAX: usize = 100_000;

    struct Fixture {
        ingress: Ingress,
        known: watch::Receiver<Option<String>>,
        inbox: Inbox,
    }

    fn fixture(prefix: Option<&str>, apps: u16, channels: &[&str]) -> Fixture {
        let (handle, inbox) = inbox();
        let publisher = Publisher::new(vec![handle]);
        for app in 0..apps {
            channels.iter().for_each(|channel| inbox.interest.add(publisher.hash(AppIndex(app), channel)));
        }
        let (audiences, mut known) = Audiences::new((0..apps).map(|app| (AppIndex(app), None)), prefix);
        let ingress = Ingress::new(audiences, publisher, FRAME_BYTES_MAX);
        Fixture { ingress, known: known.remove(0), inbox }
    }

    impl Fixture {
        async fn take(&mut self, channel: &str, payload: &str) -> Vec<Delivery> {
            self.ingress.take(Published { channel: channel.as_bytes(), payload: Some(payload.as_bytes()) });
            let mut deliveries = Vec::new();
            self.inbox.events.take(usize::MAX, &mut deliveries);
            deliveries
        }
    }

    fn text(delivery: &Delivery) -> &str {
        std::str::from_utf8(&delivery.frame[2..]).unwrap()
    }

    #[tokio::test]
    async fn one_event_one_frame_for_every_app() {
        let mut fixture = fixture(Some("p_"), 2, &["private-user.1"]);
        let deliveries = fixture.take("p_private-user.1", LARAVEL).await;
        let [first, second] = &deliveries[..] else { panic!("{deliveries:?}") };
        assert_eq!(text(first), r#"{"event":"message.sent","channel":"private-user.1","data":"{\"id\":1}"}"#);
        assert_eq!((first.app, second.app), (AppIndex(0), AppIndex(1)));
        assert_eq!(first.frame.as_ptr(), second.frame.as_ptr(), "the same bytes");
        assert_eq!(first.except, "1.2".parse().ok());
        assert!(fixture.take("private-user.1", LARAVEL).await.is_empty(), "another's channel");
        assert_eq!(fixture.known.borrow().as_deref(), Some("p_"));
    }

    #[tokio::test]
    async fn recognises_the_prefix_and_closes_at_a_second_one() {
        let mut fixture = fixture(None, 1, &["orders", "a_database_orders", "b_database_orders"]);
        let names = |deliveries: Vec<Delivery>| -> Vec<String> {
            deliveries.iter().map(|delivery| delivery.channel.to_string()).collect()
        };
        assert_eq!(names(fixture.take("orders", BY_HAND).await), ["orders"]);
        assert_eq!(*fixture.known.borrow(), None);
        assert_eq!(names(fixture.take("a_database_orders", LARAVEL).await), ["orders", "a_database_orders"]);
        assert_eq!(fixture.known.borrow().as_deref(), Some("a_database_"));
        assert_eq!(names(fixture.take("b_database_orders", BY_HAND).await), ["b_database_orders"]);
        assert_eq!(names(fixture.take("b_database_orders", LARAVEL).await), ["b_database_orders"]);
        assert_eq!(names(fixture.take("a_database_orders", LARAVEL).await), ["a_database_orders"]);
        assert_eq!(*fixture.known.borrow(), None);
    }

    #[tokio::test]
    async fn an_app_with_a_prefix_of_its_own_hears_that_and_nothing_else() {
        let mut fixture = fixture(None, 2, &["orders", "b_orders"]);
        fixture.ingress.audiences = Audiences::new([(AppIndex(0), None), (AppIndex(1), Some("b_"))], None).0;
        for (published, app, channel) in [("b_orders", 1, "orders"), ("orders", 0, "orders")] {
            let deliveries = fixture.take(published, LARAVEL).await;
            let [delivery] = &deliveries[..] else { panic!("{deliveries:?}") };
            assert_eq!((delivery.app, delivery.channel.as_str()), (AppIndex(app), channel));
        }
        fixture.ingress.audiences = Audiences::new([(AppIndex(0), Some("a_")), (AppIndex(1), Some("b_"))], None).0;
        assert_eq!(fixture.take("orders", LARAVEL).await.len(), 0, "nothing is guessed");
    }

    /// It would close every subscriber, again after each reconnect.
    #[tokio::test]
    async fn what_no_outbox_takes_goes_to_nobody() {
        let mut fixture = fixture(None, 1, &["orders"]);
        let event = |bytes| format!(r#"{{"event":"e","data":"{}"}}"#, "x".repeat(bytes));
        assert_eq!(fixture.take("orders", &event(FRAME_BYTES_MAX - 100)).await.len(), 1);
        assert_eq!(fixture.take("orders", &event(FRAME_BYTES_MAX)).await.len(), 0);
        assert_eq!(fixture.ingress.ignored.0[7], 1);
    }

    #[tokio::test]
    async fn events_for_a_user_do_not_come_over_redis() {
        let names = ["#server-to-user-7", "a_database_#server-to-user-7"];
        let mut fixture = fixture(None, 1, &names);
        for name in names {
            assert!(fixture.take(name, LARAVEL).await.is_empty(), "{name}");
        }
        assert_eq!(fixture.ingress.ignored.0[8], 2);
    }

    /// Its last event is kept for those who come.
    #[tokio::test]
    async fn a_cache_channel_needs_no_subscribers() {
        let mut fixture = fixture(None, 2, &[]);
        let deliveries = fixture.take("a_database_private-cache-x", LARAVEL).await;
        let names: Vec<&str> = deliveries.iter().map(|delivery| delivery.channel.as_str()).collect();
        assert_eq!(names, ["private-cache-x"; 2], "for each app, and only under the bare name");
    }

    #[tokio::test]
    async fn what_is_no_event_is_ignored_and_counted() {
        let mut fixture = fixture(None, 1, &["x"]);
        let long = format!("{{\"event\":\"e\",\"data\":\"{}\"}}", "x".repeat(PAYLOAD_BYTES_MAX));
        for payload in ["set", "null", "{", "{}", r#"{"event":{"channel":"presence-k:members"}}"#, &long] {
            assert!(fixture.take("x", payload).await.is_empty());
        }
        fixture.ingress.take(Published { channel: &[0xff], payload: Some(BY_HAND.as_bytes()) });
        fixture.ingress.take(Published { channel: b"x", payload: Some(b"{\xff}") });
        fixture.ingress.take(Published { channel: b"x", payload: None });
        assert_eq!(fixture.ingress.ignored.0, [2, 1, 2, 1, 1, 1, 1, 0, 0, 0]);
        assert_eq!(fixture.take("x", BY_HAND).await.len(), 1);
    }

    #[tokio::test]
    async fn heartbeats_of_any_server_are_not_even_ignored() {
        let mut fixture = fixture(None, 1, &["x"]);
        for channel in ["echo-server:heartbeat:01", "b_database_echo-server:heartbeat:02"] {
            assert!(fixture.take(channel, r#"{"echo-server-heartbeat":1764000000123}"#).await.is_empty());
        }
        assert_eq!(fixture.ingress.ignored.0, [0; IgnoredBecause::VALUES.len()]);
        fixture.take("a_database_x", LARAVEL).await;
        assert_eq!(fixture.known.borrow().as_deref(), Some("a_database_"), "no second application");
    }

    #[tokio::test]
    async fn a_queue_is_taken_in_order_and_a_full_inbox_waited_for() {
        let Fixture { ingress, inbox, known: _ } = fixture(Some(""), 1, &["x"]);
        let (queue, waiting) = mpsc::channel(1);
        let task = tokio::spawn(from_queue(waiting, ingress));
        let count = EVENTS_MAX + 100;
        let feed = async {
            for number in 0..count {
                let payload = format!(r#"{{"event":"e","data":{number}}}"#).into_bytes();
                queue.send(Message { channel: b"x".into(), payload }).await.unwrap();
            }
        };
        let read = async {
            for number in 0..count {
                let delivery = inbox.events.next().await;
                assert!(text(&delivery).ends_with(&format!(r#""data":"{number}"}}"#)));
            }
        };
        tokio::join!(feed, read);
        drop(queue);
        task.await.unwrap();
    }

    #[test]
    fn names_in_the_log_are_harmless() {
        assert_eq!(Printable(b"App\\Events\\X").to_string(), "App\\Events\\X");
        assert_eq!(Printable(b"a\x1b[31m\nb\xff").to_string(), "a\\u{1b}[31m\\nb\u{fffd}");
        assert_eq!(Printable(&[b'x'; 300]).to_string(), format!("{}…", "x".repeat(200)));
    }
}
