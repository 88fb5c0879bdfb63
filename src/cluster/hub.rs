//! What this node knows of the others, and when it says what: the rules, without I/O and clock.
//!
//! Time is counted in *beats*: every node publishes one a second, and hears its own come back from
//! Redis. A node counts as gone when it has been silent while so many of one's own came back. So
//! nobody is taken for gone because Redis, the link or this process stood still.
//!
//! Each beat says the digests of what the node has. Whoever holds something else asks for the
//! buckets that differ; whatever was lost, and for whatever reason, is healed by that alone.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::held::{BUCKETS, Changed, Held, Place, Tag};
use super::message::{self, Beat, Body, Change, Header, NodeId, Unreadable, decode};
use crate::inbox::{AppIndex, Coming, Query};
use crate::protocol::channel::ChannelName;
use crate::protocol::resume::BrowserId;
use crate::protocol::session::Millis;

/// A node is gone when it is silent while so many beats of one's own came back, and one more.
pub const SILENT_BEATS: u32 = 5;

/// How long between two beats.
pub const BEAT: Millis = 1000;

/// Two beats that come back closer than this were held up somewhere, and count as one.
const BEAT_MIN: Millis = 800;

/// After so many beats an answer counts as lost.
const ANSWER_BEATS: u32 = 2;

/// How many other nodes are known at most.
const PEERS_MAX: usize = 256;

/// About how long a part of a snapshot or of changes may be, in bytes.
const PART_BYTES: usize = 256 * 1024;

/// What is to be done.
#[derive(Debug, Eq, PartialEq)]
pub enum Effect {
    /// Publish these bytes on the bus. With what they are: an event is counted if it is lost.
    Publish { message: Vec<u8>, is_event: bool },
    /// Deliver another node's event.
    Event { app: AppIndex, channel: ChannelName, except: Option<String>, text: String },
    /// What has changed among a node's users, in order.
    Changed { node: NodeId, changes: Vec<Changed> },
    /// End the user's connections.
    Terminate { app: AppIndex, user_id: Arc<str> },
    /// A connection of another node may come here.
    Coming(Coming),
    /// What a node has said in this time is not known, and it will not say it again: messages were missed, or it has ended
    /// without having said so.
    Unheard { node: NodeId, silent: Millis },
    /// Count subscriptions, for [`Hub::counted`].
    Count { node: NodeId, id: u64, app: AppIndex, query: Query },
    /// A part of an answer has come.
    Counted { node: NodeId, id: u64, is_last: bool, channels: Vec<(ChannelName, u32)> },
}

/// What went wrong so far.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Messages that were lost on their way.
    pub missed: u64,
    /// Buckets that had to be sent anew to a node that had known them.
    pub healed: u64,
    /// Messages that this version cannot read.
    pub unreadable: u64,
}

/// Another node.
#[derive(Debug)]
pub struct Peer {
    /// The server's version.
    pub version: String,
    /// By app.
    pub connections: HashMap<Tag, u32>,
    /// See [`Beat::lag_ms`].
    pub lag_ms: u32,
    /// What it has.
    pub held: Held,
    /// Of its last message.
    number: u64,
    /// When it was heard last, in beats and by the clock.
    heard: u32,
    heard_at: Millis,
    /// When it was asked last, in beats.
    asked: Option<u32>,
    /// The buckets that it was asked for and has not sent yet.
    awaited: u64,
    /// It has been known as it is, the last time that it could be compared.
    is_known: bool,
    /// Until when its users are kept, in beats.
    leaves_at: Option<u32>,
    /// The bucket that is arriving.
    arriving: Option<(u8, Held)>,
}

/// This node among the others.
#[derive(Debug)]
pub struct Hub {
    own: NodeId,
    apps: Vec<Tag>,
    number: u64,
    held: Held,
    peers: BTreeMap<NodeId, Peer>,
    /// Own beats that came back.
    beats: u32,
    beat_sent: Option<(u64, Millis)>,
    beat_heard: Option<Millis>,
    lag: Millis,
    /// Buckets that others have asked for.
    owed: u64,
    /// Changes that are known here and not yet said.
    unsaid: Vec<Changed>,
    unsaid_bytes: usize,
    is_leaving: bool,
    counters: Counters,
}

impl Hub {
    /// A node with these apps.
    pub fn new(own: NodeId, apps: Vec<Tag>) -> Self {
        Self {
            own,
            apps,
            number: 0,
            held: Held::default(),
            peers: BTreeMap::new(),
            beats: 0,
            beat_sent: None,
            beat_heard: None,
            lag: 0,
            owed: 0,
            unsaid: Vec::new(),
            unsaid_bytes: 0,
            is_leaving: false,
            counters: Counters::default(),
        }
    }

    /// Its id.
    pub fn id(&self) -> NodeId {
        self.own
    }

    /// The others, those that leave included.
    pub fn peers(&self) -> &BTreeMap<NodeId, Peer> {
        &self.peers
    }

    /// Those that live.
    pub fn live(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().filter(|(_, peer)| !peer.is_leaving()).map(|(id, _)| *id)
    }

    /// What went wrong so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How long its last beat took to come back.
    pub fn lag(&self) -> Millis {
        self.lag
    }

    /// Its own users.
    pub fn held(&self) -> &Held {
        &self.held
    }

    /// Whether this node hears itself.
    pub fn is_heard(&self) -> bool {
        self.beats > 0
    }

    /// Whether all nodes that live are known as they are.
    pub fn is_settled(&self) -> bool {
        self.peers.values().all(|peer| peer.is_known || peer.is_leaving())
    }

    /// Whether another node says what only one shall say. That is the oldest, who has seen it all.
    pub fn another_speaks(&self) -> bool {
        self.is_leaving || self.live().any(|node| node < self.own)
    }

    fn is_alone(&self) -> bool {
        self.live().next().is_none()
    }

    fn publish(&mut self, body: &Body<'_>, out: &mut Vec<Effect>) {
        self.number += 1;
        let message = body.encode(Header { node: self.own, number: self.number });
        out.push(Effect::Publish { message, is_event: matches!(body, Body::Event { .. }) });
    }

    // --- what this node says ---------------------------------------------------------------

    /// Says that it lives, and what it has.
    pub fn beat(&mut self, now: Millis, connections: &[u32], out: &mut Vec<Effect>) {
        if self.is_leaving {
            return;
        }
        self.say_changes(out);
        let apps = self.apps.iter().copied().zip(connections.iter().copied().chain(std::iter::repeat(0))).collect();
        let beat =
            Beat { version: env!("CARGO_PKG_VERSION"), lag_ms: self.lag as u32, apps, digests: *self.held.digests() };
        self.publish(&Body::Beat(Box::new(beat)), out);
        self.beat_sent = Some((self.number, now));
    }

    /// A user has come to a channel of this node (or, without a name, signed in), or is gone.
    pub fn user(
        &mut self,
        app: AppIndex,
        channel: &str,
        user_id: Arc<str>,
        info: Option<Arc<str>>,
        out: &mut Vec<Effect>,
    ) {
        let Some(tag) = self.apps.get(usize::from(app.0)) else { return };
        let place: Place = (*tag, channel.into());
        // Who is disconnected because this node stops has not left.
        if self.is_leaving || !self.held.set(&place, &user_id, info.as_ref()) || self.is_alone() {
            return;
        }
        self.unsaid_bytes += channel.len() + user_id.len() + info.as_ref().map_or(0, |info| info.len()) + 32;
        self.unsaid.push((place, user_id, info));
        if self.unsaid_bytes >= PART_BYTES {
            self.say_changes(out);
        }
    }

    /// Says what has not been said yet. What comes at once is said at once, in one message.
    pub fn say_changes(&mut self, out: &mut Vec<Effect>) {
        self.unsaid_bytes = 0;
        let unsaid = std::mem::take(&mut self.unsaid);
        if unsaid.is_empty() {
            return;
        }
        let changes = unsaid.iter().map(|((app, channel), user_id, info)| Change {
            app: *app,
            channel,
            user_id,
            info: info.as_deref(),
        });
        self.publish(&Body::Changes(changes.collect()), out);
    }

    /// Tells of an event.
    pub fn event(&mut self, app: AppIndex, channel: &str, except: Option<String>, text: &str, out: &mut Vec<Effect>) {
        let Some(app) = self.apps.get(usize::from(app.0)).copied() else { return };
        self.say_changes(out);
        self.publish(&Body::Event { app, channel, except: except.as_deref(), text }, out);
    }

    /// Ends a user's connections elsewhere.
    pub fn terminate(&mut self, app: AppIndex, user_id: &str, out: &mut Vec<Effect>) {
        let Some(app) = self.apps.get(usize::from(app.0)).copied() else { return };
        self.publish(&Body::Terminate { app, user_id }, out);
    }

    /// Tells of connections that may come to other nodes.
    pub fn coming(&mut self, connections: &[Coming], out: &mut Vec<Effect>) {
        for of_app in connections.chunk_by(|one, next| one.app == next.app) {
            let Some(app) = self.apps.get(usize::from(of_app[0].app.0)).copied() else { continue };
            let ids: Vec<String> = of_app.iter().map(|coming| coming.socket_id.to_string()).collect();
            let connections = of_app.iter().zip(&ids).map(|(coming, socket_id)| message::Coming {
                browser: coming.browser.0,
                socket_id,
                channels: coming.channels.iter().map(ChannelName::as_str).collect(),
                known_ago: coming.known_ago,
            });
            self.publish(&Body::Coming { app, connections: connections.collect() }, out);
        }
    }

    /// Asks all others how many subscriptions they have.
    pub fn count(&mut self, id: u64, app: AppIndex, query: &Query, out: &mut Vec<Effect>) {
        let Some(app) = self.apps.get(usize::from(app.0)).copied() else { return };
        match query {
            Query::Prefix(prefix) => self.publish(&Body::CountPrefix { id, app, prefix }, out),
            Query::Channels(channels) => {
                let channels = channels.iter().map(ChannelName::as_str).collect();
                self.publish(&Body::Count { id, app, channels }, out);
            }
            Query::Members(_) | Query::Cached(_) => {}
        }
    }

    /// Answers a node that has asked.
    pub fn counted(&mut self, node: NodeId, id: u64, channels: &[(ChannelName, u32)], out: &mut Vec<Effect>) {
        // Names have at most some hundred bytes.
        let parts = channels.chunks(1000).collect::<Vec<_>>();
        let last = parts.len().saturating_sub(1);
        for (index, part) in parts.iter().enumerate() {
            let channels = part.iter().map(|(name, count)| (name.as_str(), *count)).collect();
            self.publish(&Body::Counted { node, id, is_last: index == last, channels }, out);
        }
        if parts.is_empty() {
            self.publish(&Body::Counted { node, id, is_last: true, channels: Vec::new() }, out);
        }
    }

    /// Says that it stops. From now on it says nothing of its users any more.
    pub fn leave(&mut self, grace_secs: u32, out: &mut Vec<Effect>) {
        self.say_changes(out);
        self.publish(&Body::Leaving { grace_secs }, out);
        self.is_leaving = true;
    }

    /// Whether others have asked for something that they have not been sent.
    pub fn owes(&self) -> bool {
        self.owed != 0
    }

    /// Sends one of the buckets that others have asked for: to all, since it tells each the same.
    pub fn pay(&mut self, out: &mut Vec<Effect>) {
        if self.owed == 0 || self.is_leaving {
            self.owed = 0;
            return;
        }
        self.say_changes(out);
        let bucket = self.owed.trailing_zeros() as u8;
        self.owed &= self.owed - 1;
        let mut parts: Vec<Vec<Change<'_>>> = vec![Vec::new()];
        let mut bytes = 0;
        for member in self.held.bucket(usize::from(bucket)) {
            if bytes >= PART_BYTES {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += member.channel.len() + member.user_id.len() + member.info.map_or(0, str::len) + 32;
            if let Some(part) = parts.last_mut() {
                part.push(member);
            }
        }
        let last = parts.len() - 1;
        for (index, members) in parts.into_iter().enumerate() {
            self.number += 1;
            let body = Body::Snapshot { bucket, is_first: index == 0, is_last: index == last, members };
            let message = body.encode(Header { node: self.own, number: self.number });
            out.push(Effect::Publish { message, is_event: false });
        }
    }

    // --- what this node hears --------------------------------------------------------------

    /// Takes a message off the bus.
    pub fn hear(&mut self, bytes: &[u8], now: Millis, connections: &[u32], out: &mut Vec<Effect>) {
        let (header, body) = match decode(bytes) {
            Ok(read) => read,
            Err(error) => return self.skip(error),
        };
        if header.node == self.own {
            if let Ok(Body::Beat(_)) = body {
                self.hear_own_beat(header.number, now, out);
            }
            return;
        }
        if let Some(peer) = self.peers.get_mut(&header.node) {
            // After a reconnect the rest of the old connection may come behind the new one.
            if header.number <= peer.number {
                return;
            }
            let missed = header.number - peer.number - 1;
            if missed > 0 {
                self.counters.missed = self.counters.missed.saturating_add(missed);
                peer.arriving = None;
                tracing::warn!("Missed {missed} messages of node {}; events among them are lost", header.node);
                out.push(Effect::Unheard { node: header.node, silent: now.saturating_sub(peer.heard_at) });
            }
            peer.number = header.number;
            (peer.heard, peer.heard_at) = (self.beats, now);
        }
        match body {
            Ok(body) => self.take(header, body, now, connections, out),
            Err(error) => self.skip(error),
        }
    }

    fn skip(&mut self, error: Unreadable) {
        self.counters.unreadable += 1;
        let count = self.counters.unreadable;
        if count == 10_u64.pow(count.ilog10()) {
            tracing::warn!("Skipped a message of another node: {error} ({count} so far)");
        }
    }

    fn take(&mut self, header: Header, body: Body<'_>, now: Millis, connections: &[u32], out: &mut Vec<Effect>) {
        let node = header.node;
        match body {
            Body::Beat(beat) => self.hear_beat(header, &beat, now, connections, out),
            Body::Event { app, channel, except, text } => {
                let Some(app) = self.app(app) else { return };
                let (channel, except) = (ChannelName::published(channel), except.map(str::to_owned));
                out.push(Effect::Event { app, channel, except, text: text.to_owned() });
            }
            Body::Changes(changes) => {
                let Some(peer) = self.peers.get_mut(&node).filter(|peer| !peer.is_leaving()) else { return };
                let changes = peer.held.apply(&changes);
                out.push(Effect::Changed { node, changes });
            }
            Body::Snapshot { bucket, is_first, is_last, members } => {
                let Some(peer) = self.peers.get_mut(&node).filter(|peer| !peer.is_leaving()) else { return };
                if usize::from(bucket) >= BUCKETS {
                    return;
                }
                if is_first {
                    peer.arriving = Some((bucket, Held::default()));
                }
                let Some((arriving, new)) = &mut peer.arriving else { return };
                if *arriving != bucket {
                    return;
                }
                new.apply(&members);
                if is_last {
                    let changes = peer.held.replace(bucket.into(), new);
                    peer.arriving = None;
                    peer.awaited &= !(1 << bucket);
                    peer.is_known |= peer.awaited == 0;
                    out.push(Effect::Changed { node, changes });
                }
            }
            Body::Want { node, buckets } if node == self.own => self.owed |= buckets,
            Body::Want { .. } => {}
            Body::Leaving { grace_secs } => {
                if let Some(peer) = self.peers.get_mut(&node) {
                    peer.leaves_at = Some(self.beats.saturating_add(grace_secs));
                    tracing::info!("Node {node} stops; its users are kept for {grace_secs} s");
                }
            }
            Body::Terminate { app, user_id } => {
                let Some(app) = self.app(app) else { return };
                out.push(Effect::Terminate { app, user_id: user_id.into() });
            }
            Body::Coming { app, connections } => {
                let Some(app) = self.app(app) else { return };
                for message::Coming { browser, socket_id, channels, known_ago } in connections {
                    let Ok(socket_id) = socket_id.parse() else { continue };
                    let channels = channels.into_iter().map(ChannelName::published).collect();
                    let browser = BrowserId(browser);
                    out.push(Effect::Coming(Coming { app, browser, socket_id, channels, known_ago }));
                }
            }
            Body::CountPrefix { id, app, prefix } => {
                let Some(app) = self.app(app) else { return self.counted(node, id, &[], out) };
                out.push(Effect::Count { node, id, app, query: Query::Prefix(prefix.into()) });
            }
            Body::Count { id, app, channels } => {
                let Some(app) = self.app(app) else { return self.counted(node, id, &[], out) };
                let channels = channels.into_iter().map(ChannelName::published).collect();
                out.push(Effect::Count { node, id, app, query: Query::Channels(channels) });
            }
            Body::Counted { node: asker, id, is_last, channels } if asker == self.own => {
                let channels = channels.into_iter().map(|(name, count)| (ChannelName::published(name), count));
                out.push(Effect::Counted { node, id, is_last, channels: channels.collect() });
            }
            Body::Counted { .. } => {}
        }
    }

    /// The app of this tag, if it is one of this node's. One that was removed and has come back has two places, of
    /// which the later one is in use.
    pub fn app(&self, tag: Tag) -> Option<AppIndex> {
        self.apps.iter().rposition(|own| *own == tag).map(|index| AppIndex(index as u16))
    }

    /// This node serves these, too. Who is there on other nodes is known already, and said now.
    pub fn add_apps(&mut self, apps: Vec<Tag>, out: &mut Vec<Effect>) {
        for (node, peer) in &self.peers {
            let changes = peer.held.of_apps(&apps);
            out.push(Effect::Changed { node: *node, changes });
        }
        self.apps.extend(apps);
    }

    fn hear_own_beat(&mut self, number: u64, now: Millis, out: &mut Vec<Effect>) {
        if let Some((_, sent)) = self.beat_sent.filter(|(sent, _)| *sent == number) {
            self.lag = now.saturating_sub(sent);
        }
        if self.beat_heard.is_some_and(|heard| now.saturating_sub(heard) < BEAT_MIN) {
            return;
        }
        self.beat_heard = Some(now);
        self.beats += 1;
        let beats = self.beats;
        let gone = self.peers.extract_if(.., |_, peer| match peer.leaves_at {
            Some(at) => beats >= at,
            None => beats - peer.heard > SILENT_BEATS,
        });
        for (node, peer) in gone {
            if peer.is_leaving() {
                tracing::info!("Node {node} has stopped");
            } else {
                tracing::warn!(
                    "Node {node} has been silent for {SILENT_BEATS} s: it was killed, hangs, or cannot reach Redis. Its \
                     {} users are taken off the lists until it is heard again.",
                    peer.held.count()
                );
                out.push(Effect::Unheard { node, silent: now.saturating_sub(peer.heard_at) });
            }
            out.push(Effect::Changed { node, changes: peer.held.into_gone() });
        }
    }

    fn hear_beat(&mut self, header: Header, beat: &Beat<'_>, now: Millis, connections: &[u32], out: &mut Vec<Effect>) {
        let node = header.node;
        if !beat.apps.iter().any(|(tag, _)| self.apps.contains(tag)) {
            return;
        }
        if !self.peers.contains_key(&node) {
            if self.peers.len() >= PEERS_MAX {
                return;
            }
            tracing::info!("Node {node} (version {}) is there", printable(beat.version));
            let peer = Peer {
                version: printable(beat.version),
                connections: HashMap::new(),
                lag_ms: 0,
                held: Held::default(),
                number: header.number,
                heard: self.beats,
                heard_at: now,
                asked: None,
                awaited: 0,
                is_known: false,
                leaves_at: None,
                arriving: None,
            };
            self.peers.insert(node, peer);
            // It may have just started, and shall not wait for the next beat.
            self.beat(now, connections, out);
        }
        let beats = self.beats;
        let Some(peer) = self.peers.get_mut(&node).filter(|peer| !peer.is_leaving()) else { return };
        peer.lag_ms = beat.lag_ms;
        peer.connections = beat.apps.iter().copied().collect();
        let buckets = peer.held.differing(&beat.digests);
        if buckets == 0 {
            peer.is_known = true;
            (peer.asked, peer.awaited) = (None, 0);
            return;
        }
        if peer.asked.is_some_and(|asked| beats - asked < ANSWER_BEATS) {
            return;
        }
        peer.asked = Some(beats);
        peer.awaited = buckets;
        if std::mem::take(&mut peer.is_known) {
            self.counters.healed += u64::from(buckets.count_ones());
            tracing::warn!(
                "What was known of the users of node {node} differed from what it has, in {} of {BUCKETS} parts: they are \
                 asked for anew",
                buckets.count_ones()
            );
        }
        self.publish(&Body::Want { node, buckets }, out);
    }
}

impl Peer {
    /// It has said that it stops.
    pub fn is_leaving(&self) -> bool {
        self.leaves_at.is_some()
    }
}

/// A version from outside, fit for a line of the log.
fn printable(version: &str) -> String {
    version.chars().filter(|character| character.is_ascii_graphic()).take(40).collect()
}

#[cfg(test)]
mod tests;
