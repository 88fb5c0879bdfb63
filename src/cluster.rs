//! Many nodes on one Redis: the *node bus*, on which each tells the others of client events, events of
//! the HTTP API, users of presence channels, and who is to be closed.
//!
//! One task owns it all. The rules are in `hub`, which knows no Redis and no clock; what nodes say to
//! each other in `message`; the users of a node, and how two nodes notice that they do not know the
//! same, in `held`. Not here: what Laravel publishes, which each node hears by itself.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use crate::bus::{BusEnd, Node, Said, Status};
use crate::config::{self, Config};
use crate::inbox::{AppIndex, Control, Counts, Delivery, Found, Query, UserChange};
use crate::metrics::Source;
use crate::protocol::channel::ChannelName;
use crate::protocol::session::Millis;
use crate::protocol::{pusher, resume, socketio};
use crate::publish::{Backlog, Publisher};
use crate::query::Everybody;
use crate::redis::{Backoff, Failure, Link, Subscription, Timing};
use crate::tap::{Origin, Traced};
use crate::ws::frame;
use held::{Changed, Tag};
use hub::{BEAT, Effect, Hub};
use message::NodeId;
use outbound::{Outbound, State};

pub mod held;
pub mod hub;
pub mod message;
mod outbound;
mod secrets;

pub use secrets::share_secrets;

/// The longest message that is heard, in bytes: the longest event and what belongs to it.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// How long other nodes may take to count; who has not answered then is left out.
const COUNT_PATIENCE: Millis = 1000;

/// How often this is looked at.
const TICK: Duration = Duration::from_millis(250);

/// How long a starting node waits for the others' first words, which they say at once.
const FIRST_WORDS: Duration = Duration::from_millis(150);

/// How long it waits until it knows all of them.
const START_WAIT: Duration = Duration::from_secs(2);

/// Messages of shards that are taken in one turn.
const BATCH: usize = 256;

/// A link that is broken is noticed sooner than that of Laravel's events, since nodes that are not
/// heard are taken for gone; and there is a beat every second.
const TIMING: Timing = Timing {
    connect_max: Duration::from_secs(3),
    ping_after: Duration::from_secs(2),
    answer_max: Duration::from_secs(3),
    retry_min: Duration::from_millis(50),
    retry_max: Duration::from_secs(1),
};

/// Tells the task of apps that come while it runs.
#[derive(Clone, Debug)]
pub struct NewApps(mpsc::UnboundedSender<(Vec<Tag>, Connections)>);

/// How many connections each app has on this node.
pub type Connections = Arc<[Arc<AtomicUsize>]>;

impl NewApps {
    /// These come behind those that are known already; the connections are those of all apps. Shards know them.
    pub fn add(&self, apps: &[config::App], redis: &config::Redis, connections: Connections) {
        // Without other nodes nobody listens.
        let _ = self.0.send((apps.iter().map(|app| Tag::of(app, redis)).collect(), connections));
    }
}

/// Joins the other nodes, if the configuration says so. Comes back when it knows them, or cannot.
pub async fn start(config: &Config, publisher: &Publisher, end: BusEnd, connections: Connections) -> NewApps {
    let (add, new_apps) = mpsc::unbounded_channel();
    if let Some(cluster) = &config.cluster {
        join(config, cluster, publisher, end, connections, new_apps).await;
    }
    NewApps(add)
}

async fn join(
    config: &Config,
    cluster: &config::Cluster,
    publisher: &Publisher,
    end: BusEnd,
    connections: Connections,
    new_apps: mpsc::UnboundedReceiver<(Vec<Tag>, Connections)>,
) {
    let own = match getrandom::u64() {
        Ok(random) => NodeId::new(std::time::SystemTime::now(), random),
        Err(error) => {
            return tracing::error!("Other nodes are not joined: the system gives no random numbers: {error}");
        }
    };
    let (ready, is_ready) = oneshot::channel();
    end.set_own(own.0);
    let task = Task::new(own, config, cluster, publisher.clone(), end, connections, ready);
    tokio::spawn(task.run(cluster.clone(), config.redis.clone(), new_apps));
    let _ = tokio::time::timeout(START_WAIT, is_ready).await;
}

type Connecting = Pin<Box<dyn Future<Output = Result<Subscription, Failure>> + Send>>;

struct Task {
    hub: Hub,
    end: BusEnd,
    publisher: Publisher,
    shards: Everybody,
    connections: Connections,
    outbound: Outbound,
    backlog: Backlog,
    counts: HashMap<u64, Counting>,
    next_count: u64,
    answers: mpsc::UnboundedSender<Answer>,
    answered: Option<mpsc::UnboundedReceiver<Answer>>,
    grace: Duration,
    started: Instant,
    beat_at: Millis,
    ready: Option<oneshot::Sender<()>>,
    heard_itself: Option<Instant>,
    /// How many events had been lost when the log was told.
    said_lost: u64,
    effects: Vec<Effect>,
}

/// What a node that has asked is answered.
type Answer = (NodeId, u64, Vec<(ChannelName, u32)>);

/// Other nodes are counting.
struct Counting {
    missing: Vec<NodeId>,
    found: Found,
    reply: oneshot::Sender<Found>,
    until: Millis,
}

impl Task {
    fn new(
        own: NodeId,
        config: &Config,
        cluster: &config::Cluster,
        publisher: Publisher,
        end: BusEnd,
        connections: Connections,
        ready: oneshot::Sender<()>,
    ) -> Self {
        let apps = config.apps.iter().map(|app| Tag::of(app, &config.redis)).collect();
        let link = Link::new(config.redis.clone(), MESSAGE_BYTES_MAX).with_timing(TIMING);
        let (answers, answered) = mpsc::unbounded_channel();
        Self {
            hub: Hub::new(own, apps),
            shards: Everybody::new(publisher.shards()),
            end,
            publisher,
            connections,
            outbound: Outbound::start(link, channel(cluster)),
            backlog: Backlog::of_nodes(),
            counts: HashMap::new(),
            next_count: 0,
            answers,
            answered: Some(answered),
            grace: cluster.presence_grace,
            started: Instant::now(),
            beat_at: 0,
            ready: Some(ready),
            heard_itself: None,
            said_lost: 0,
            effects: Vec::new(),
        }
    }

    async fn run(
        mut self,
        cluster: config::Cluster,
        redis: config::Redis,
        mut new_apps: mpsc::UnboundedReceiver<(Vec<Tag>, Connections)>,
    ) {
        let link = Link::new(redis, MESSAGE_BYTES_MAX).with_timing(TIMING);
        let channel = channel(&cluster);
        let Some(mut answered) = self.answered.take() else { return };
        let mut states = self.outbound.states();
        let mut backoff = Backoff::new(link.timing());
        let mut subscription: Option<Subscription> = None;
        let mut connecting = connect(&link, &channel, Duration::ZERO);
        let (mut since, mut has_said) = (Instant::now(), false);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let (is_behind, owes) = (!self.backlog.is_empty(), self.hub.owes());
            tokio::select! {
                heard = listen(&mut subscription, &mut connecting) => {
                    let heard = match heard {
                        Ok(Some(new)) => {
                            (subscription, since, has_said) = (Some(new), Instant::now(), false);
                            self.beat();
                            Ok(())
                        }
                        Ok(None) => self.hear(subscription.as_mut()),
                        Err(failure) => Err(failure),
                    };
                    if let Err(failure) = heard {
                        // If nothing can be published either, that has been said.
                        if !std::mem::replace(&mut has_said, true) && self.outbound.state() == State::Up {
                            tracing::warn!("{failure} Until then other nodes are not heard; \"cluster\": false does without them.");
                        }
                        subscription = None;
                        backoff.connection_lasted(since.elapsed());
                        connecting = connect(&link, &channel, backoff.next_wait());
                        self.is_ready();
                    }
                }
                said = self.end.said.recv() => {
                    // None: the server has ended.
                    let Some(said) = said else { return };
                    self.say(said);
                    for _ in 0..BATCH {
                        let Ok(said) = self.end.said.try_recv() else { break };
                        self.say(said);
                    }
                    self.hub.say_changes(&mut self.effects);
                }
                Ok(()) = states.changed() => match self.outbound.state() {
                    State::Up => self.beat(),
                    State::Away => self.is_ready(),
                    State::Starting => {}
                },
                _ = tick.tick() => self.tick(),
                Some((node, id, channels)) = answered.recv() => {
                    self.hub.counted(node, id, &channels, &mut self.effects);
                }
                Some((apps, connections)) = new_apps.recv() => {
                    self.connections = connections;
                    self.hub.add_apps(apps, &mut self.effects);
                    self.beat();
                }
                () = self.backlog.deliver(&self.publisher), if is_behind => {}
                () = self.outbound.room(), if owes => self.hub.pay(&mut self.effects),
            }
            self.act();
            // A flood must not keep others from their turn.
            tokio::task::yield_now().await;
        }
    }

    fn now(&self) -> Millis {
        self.started.elapsed().as_millis() as Millis
    }

    fn own_connections(&self) -> Vec<u32> {
        self.connections.iter().map(|count| count.load(Ordering::Relaxed) as u32).collect()
    }

    fn is_ready(&mut self) {
        if let Some(ready) = self.ready.take() {
            let _ = ready.send(());
        }
    }

    fn beat(&mut self) {
        let (now, connections) = (self.now(), self.own_connections());
        self.beat_at = now + BEAT;
        self.hub.beat(now, &connections, &mut self.effects);
    }

    fn tick(&mut self) {
        let now = self.now();
        if now >= self.beat_at {
            self.beat();
        }
        let late = self.counts.extract_if(|_, counting| now >= counting.until);
        for (_, counting) in late {
            let _ = counting.reply.send(counting.found);
        }
        if self.ready.is_some() && self.hub.is_heard() {
            let since = *self.heard_itself.get_or_insert_with(Instant::now);
            if since.elapsed() >= FIRST_WORDS && self.hub.is_settled() {
                self.is_ready();
            }
        }
        let lost = self.end.lost_events();
        if lost > 0 && lost >= self.said_lost * 10 {
            self.said_lost = lost;
            tracing::warn!("{lost} events so far were not told to other nodes, since Redis was away or slow");
        }
        self.tell_status();
    }

    fn tell_status(&self) {
        let own = self.own_connections();
        let this = Node {
            id: self.hub.id().to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            connections: own.iter().map(|count| *count as usize).sum(),
            lag: Duration::from_millis(self.hub.lag()),
            is_leaving: false,
            members: self.hub.held().count(),
            app_connections: own.iter().map(|count| *count as usize).collect(),
        };
        let mut nodes = vec![this];
        for (id, peer) in self.hub.peers() {
            let of_app = |index| {
                let mine = peer.connections.iter().find(|(tag, _)| self.hub.app(**tag) == Some(AppIndex(index)));
                mine.map_or(0, |(_, count)| *count as usize)
            };
            nodes.push(Node {
                id: id.to_string(),
                version: peer.version.clone(),
                connections: peer.connections.values().map(|count| *count as usize).sum(),
                lag: Duration::from_millis(peer.lag_ms.into()),
                is_leaving: peer.is_leaving(),
                members: peer.held.count(),
                app_connections: (0..own.len() as u16).map(of_app).collect(),
            });
        }
        let counters = self.hub.counters();
        let status = Status {
            nodes: if self.hub.is_heard() { nodes } else { Vec::new() },
            another_speaks: self.hub.another_speaks(),
            missed: counters.missed,
            healed: counters.healed,
            unreadable: counters.unreadable,
            lost_events: self.end.lost_events(),
        };
        self.end.status.send_if_modified(|known| std::mem::replace(known, status.clone()) != status);
    }

    // --- from this node to the others ------------------------------------------------------

    fn say(&mut self, said: Said) {
        let out = &mut self.effects;
        match said {
            Said::Event(delivery, _waiting) => {
                let Some(text) = frame::text(&delivery.frame) else { return };
                let except = delivery.except.map(|socket_id| socket_id.to_string());
                self.hub.event(delivery.app, delivery.channel.as_str(), except, text, out);
            }
            Said::User { app, channel, user_id, info } => {
                let channel = channel.as_ref().map_or("", ChannelName::as_str);
                self.hub.user(app, channel, user_id, info, out);
            }
            Said::Terminate { app, user_id } => self.hub.terminate(app, &user_id, out),
            Said::Coming(connections) => self.hub.coming(&connections, out),
            Said::Count { app, query, reply } => {
                let missing: Vec<NodeId> = self.hub.live().collect();
                if missing.is_empty() || self.outbound.state() != State::Up {
                    let _ = reply.send(Found::default());
                    return;
                }
                self.next_count += 1;
                self.hub.count(self.next_count, app, &query, &mut self.effects);
                let until = self.now() + COUNT_PATIENCE;
                self.counts.insert(self.next_count, Counting { missing, found: Found::default(), reply, until });
            }
            Said::Leave(within, reply) => {
                // It counts from the last client that is closed.
                self.hub.leave((self.grace + within).as_secs_f32().round() as u32, out);
                self.act();
                self.outbound.mark(reply);
            }
        }
    }

    // --- from the others to this node ------------------------------------------------------

    fn hear(&mut self, subscription: Option<&mut Subscription>) -> Result<(), Failure> {
        let Some(subscription) = subscription else { return Ok(()) };
        let (now, connections) = (self.now(), self.own_connections());
        let Self { hub, effects, .. } = self;
        subscription.each(|published| {
            // One that is too long is missed, as the next one's number shows.
            if let Some(payload) = published.payload {
                hub.hear(payload, now, &connections, effects);
            }
        })?;
        self.act();
        if self.backlog.is_over() {
            return Err(Failure::new("Other nodes publish faster than this server delivers.".to_owned()));
        }
        Ok(())
    }

    fn act(&mut self) {
        self.end.set_others(self.hub.live().count(), self.hub.another_speaks());
        let mut effects: VecDeque<Effect> = std::mem::take(&mut self.effects).into();
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Publish { message, is_event } => {
                    if !self.outbound.send(message, is_event) && is_event {
                        self.end.event_lost();
                    }
                }
                Effect::Event { app, channel, except, text } => {
                    let trace = self.trace(app, &channel, except.as_deref(), &text);
                    self.publisher.metrics().events_received.add(Source::Node);
                    if self.publisher.has_subscribers(app, channel.as_str()) {
                        let except = except.and_then(|except| except.parse().ok());
                        let frame = frame::encode_text(&text);
                        let publisher = &self.publisher;
                        let for_socketio = || frame::encode_text(&socketio::from_pusher(&text).unwrap_or_default());
                        let (socketio, deflated) = (publisher.for_socketio(for_socketio), publisher.deflated(&frame));
                        let is_kept = !resume::is_client_event(&text);
                        let taken_at = None;
                        let delivery =
                            Delivery { app, channel, frame, socketio, deflated, except, is_kept, taken_at, trace };
                        self.backlog.publish(delivery, &self.publisher);
                    } else {
                        self.publisher.metrics().events_unheard.add(Source::Node);
                    }
                }
                Effect::Changed { node, changes } => self.changed(node, changes),
                Effect::Terminate { app, user_id } => self.publisher.terminate_here(app, &user_id),
                Effect::Coming(coming) => self.publisher.expect(coming),
                Effect::Unheard { silent, .. } => {
                    // If it is gone, whoever comes from it from now on comes from nowhere.
                    self.tell_status();
                    let heard = Instant::now().checked_sub(Duration::from_millis(silent));
                    self.publisher.unheard(heard.unwrap_or(self.started));
                }
                Effect::Count { node, id, app, query } => self.answer(node, id, app, query),
                Effect::Counted { node, id, is_last, channels } => self.counted(node, id, is_last, channels),
            }
        }
    }

    /// For those who look.
    fn trace(&self, app: AppIndex, channel: &ChannelName, except: Option<&str>, text: &str) -> Option<Traced> {
        if !self.publisher.tap().is_watched() {
            return None;
        }
        let (event, data) = pusher::event_and_data(text)?;
        let except = except.and_then(|except| except.parse().ok());
        let target = [(app.0, channel.as_str())];
        Some(self.publisher.tap().trace(&event, &data, except, || Origin::Node, target)?.traced(0))
    }

    /// Tells the homes, one message for neighbours of one channel.
    fn changed(&mut self, node: NodeId, changes: Vec<Changed>) {
        let mut changes = changes.into_iter().peekable();
        while let Some((place, user_id, info)) = changes.next() {
            let mut of_channel = vec![(user_id, info)];
            while let Some((_, user_id, info)) = changes.next_if(|(other, ..)| *other == place) {
                of_channel.push((user_id, info));
            }
            let (tag, channel) = place;
            // An app that this node does not serve, while a new configuration is rolled out.
            let Some(app) = self.hub.app(tag) else { continue };
            if channel.is_empty() {
                of_channel.into_iter().for_each(|(user_id, info)| self.online(app, user_id, node, info.is_some()));
                continue;
            }
            let channel = ChannelName::published(&channel);
            let home = self.publisher.home(app, channel.as_str());
            // Under no user's id: how many subscribers there are.
            of_channel.retain(|(user_id, info)| {
                if user_id.is_empty() {
                    let count = info.as_ref().map_or(0, |info| info.parse().unwrap_or(0));
                    let channel = channel.clone();
                    home.tell(Control::SubscribersElsewhere { app, channel, node: node.0, count });
                }
                !user_id.is_empty()
            });
            if !of_channel.is_empty() {
                home.tell(Control::Elsewhere { app, channel, node: node.0, changes: of_channel });
            }
        }
    }

    /// To the homes of users a node is one more shard.
    fn online(&self, app: AppIndex, user_id: Arc<str>, node: NodeId, is_online: bool) {
        let change = if is_online { UserChange::Online } else { UserChange::Offline };
        self.publisher.user_home(app, &user_id).tell(Control::User { app, user_id, from: node.0 as usize, change });
    }

    fn answer(&self, node: NodeId, id: u64, app: AppIndex, query: Query) {
        let (shards, answers) = (self.shards.clone(), self.answers.clone());
        tokio::spawn(async move {
            // Who is too busy to count is left out.
            let Ok(found) = shards.ask(app, query).await else { return };
            let counts = found.channels.into_iter().filter(|(_, counts)| counts.subscriptions > 0);
            let _ =
                answers.send((node, id, counts.map(|(name, counts)| (name, counts.subscriptions as u32)).collect()));
        });
    }

    fn counted(&mut self, node: NodeId, id: u64, is_last: bool, channels: Vec<(ChannelName, u32)>) {
        let Some(counting) = self.counts.get_mut(&id) else { return };
        let counts = |count: u32| Counts { subscriptions: count as usize, users: 0 };
        let channels = channels.into_iter().map(|(name, count)| (name, counts(count))).collect();
        counting.found.merge(Found { channels, ..Found::default() });
        if is_last {
            counting.missing.retain(|missing| *missing != node);
        }
        if counting.missing.is_empty()
            && let Some(counting) = self.counts.remove(&id)
        {
            let _ = counting.reply.send(counting.found);
        }
    }
}

/// The Redis channel of the bus.
pub fn channel(cluster: &config::Cluster) -> String {
    format!("{}:bus", cluster.name)
}

fn connect(link: &Link, channel: &str, wait: Duration) -> Connecting {
    let (link, channel) = (link.clone(), channel.to_owned());
    Box::pin(async move {
        tokio::time::sleep(wait).await;
        link.subscribe_to_channel(&channel).await
    })
}

/// Waits for more on the subscription, or for a subscription.
async fn listen(
    subscription: &mut Option<Subscription>,
    connecting: &mut Connecting,
) -> Result<Option<Subscription>, Failure> {
    match subscription {
        Some(subscription) => subscription.fill().await.map(|()| None),
        None => connecting.await.map(Some),
    }
}
