//! Nothing missed after a lost connection, for browsers that know nothing of it: what was delivered lately is
//! kept (`log`), and of a connection that was lost, how far it had got (`away`). When its browser, known by
//! a cookie, comes back and subscribes anew, what it missed follows `subscription_succeeded`.
//!
//! The front gives a browser's connections all to one shard. So the order in which the log holds events is the one in
//! which they were delivered, and nobody else need be asked. How far a connection has got is known from WebSocket pings
//! with a position in them: the pong that comes back has seen all before it.
//!
//! Not here: who may subscribe. Who comes back is authorised as anybody.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::Shard;
use super::channels::{Change, Slot};
use crate::config::Config;
use crate::inbox::{AppIndex, ConnKey, Delivery, Form, Origin, Returning};
use crate::protocol::SocketId;
use crate::protocol::channel::{Access, ChannelName};
use crate::protocol::resume::{self, BrowserId, Mode, Modes};
use crate::protocol::session::{Input, Millis};
use crate::ws::frame;
use away::{Away, Claim, Claims, Key, Lost, LostSeat};

pub use log::{Bounds, Log};

mod away;
mod handover;
mod log;

/// For so long after its handshake a connection's subscriptions may be those of one that was lost.
const CLAIM_TIME: Millis = 30_000;

/// How long the other connections of a browser that has come back may take to show that they live. A tab that is
/// alive answers within a round trip, so nobody waits that long whose other tabs are.
const PROBE_TIME: Millis = 2_000;

/// How often connections are asked how far they have got: those to which something was sent.
pub const ASK_EVERY: Duration = Duration::from_millis(100);

/// How many of them each time: so what this costs a shard is bounded, and where there are more, each has its turn later.
const ASKED_MAX: usize = 100;

/// What a connection may say while it waits for the others' signs of life, in bytes.
const HELD_BACK_MAX: usize = 64 * 1024;

/// Ids of its own that a connection remembers, from one loss to the next.
const SOCKET_IDS_MAX: usize = 8;

/// What is kept, and for how long.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of the log.
    pub bounds: Bounds,
    /// See `resume.channels`.
    pub modes: Modes,
    /// See `resume.seconds`.
    pub time: Millis,
    /// Subscriptions of those who are away.
    pub seats_max: usize,
}

/// Subscriptions of those who are away, over all shards.
const AWAY_MAX: usize = 1024 * 1024;

/// A lost connection may be noticed this much later than it was lost, and what it missed is kept as long.
const LOSS_NOTICED: Duration = Duration::from_secs(15);

impl Settings {
    /// A shard's part of what the configuration says.
    pub fn of(config: &Config) -> Option<Self> {
        let resume = config.resume.as_ref()?;
        Some(Self {
            bounds: Bounds {
                bytes: resume.bytes / config.shards,
                events_per_channel: resume.events_per_channel,
                time: (resume.time + LOSS_NOTICED).as_millis() as u64,
            },
            modes: resume.modes.clone(),
            time: resume.time.as_millis() as u64,
            seats_max: AWAY_MAX / config.shards,
        })
    }

    /// A log within these bounds.
    pub fn log(&self) -> Log {
        Log::new(self.bounds.clone(), self.modes.clone())
    }
}

/// What a shard knows of those who are away and may come back.
#[derive(Debug)]
pub struct Resume {
    time: Millis,
    away: Away,
    /// The connections of each browser.
    browsers: HashMap<Key, Vec<ConnKey>>,
    /// Browsers that were connected to another process before, and until when they are told so.
    strangers: HashMap<Key, Millis>,
    /// Connections that wait until others of their browser have shown that they live.
    waiting: Vec<ConnKey>,
    /// The Unix time at which the shard's clock began, in milliseconds.
    epoch: u64,
}

/// What a connection is to this.
#[derive(Debug)]
pub struct Browser {
    id: BrowserId,
    opened: Millis,
    /// It is known to have got everything up to here that has been sent to it, and when it had.
    position: u64,
    known_at: Millis,
    /// What it was asked last, when, and whether the answer has yet to come.
    asked: u64,
    asked_at: Millis,
    is_asked: bool,
    /// It has yet to show that it lives.
    is_probed: bool,
    /// What it has claimed of those that were lost.
    claims: Claims,
    /// The ids of those that it was.
    former_ids: Vec<SocketId>,
    /// What it has said, if others of its browser have yet to show that they live.
    held_back: Option<HeldBack>,
}

#[derive(Debug)]
struct HeldBack {
    until: Millis,
    texts: Vec<String>,
    bytes: usize,
}

/// Whether a client comes back after this code. A browser closes with 1001 when the page is left; pusher-js stays away
/// after those of the 4000s.
fn comes_back(code: u16) -> bool {
    code != 1001 && !(4000..4100).contains(&code)
}

impl Resume {
    pub fn new(settings: &Settings) -> Self {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self {
            time: settings.time,
            away: Away::new(settings.time, settings.seats_max),
            browsers: HashMap::new(),
            strangers: HashMap::new(),
            waiting: Vec::new(),
            epoch: since_epoch.as_millis() as u64,
        }
    }
}

impl Shard {
    /// A connection has come, of a browser that is known by its cookie.
    pub(super) fn arrived(&mut self, at: ConnKey, returning: &Returning) {
        let now = self.now();
        let newest = self.newest();
        let Some(resume) = &mut self.resume else { return };
        let Some(conn) = self.conns.get_mut(at.slot as usize) else { return };
        let key = (conn.app, returning.browser);
        if let Origin::Elsewhere = returning.origin {
            resume.strangers.insert(key, now + resume.time);
        }
        let others = resume.browsers.entry(key).or_default();
        let are_others = !others.is_empty();
        let held_back = are_others.then(|| HeldBack { until: now + PROBE_TIME, texts: Vec::new(), bytes: 0 });
        conn.browser = Some(Box::new(Browser {
            id: returning.browser,
            opened: now,
            position: 0,
            known_at: now,
            asked: newest,
            asked_at: now,
            is_asked: false,
            is_probed: false,
            claims: Claims::default(),
            former_ids: Vec::new(),
            held_back,
        }));
        let probed: Vec<ConnKey> = others.clone();
        others.push(at);
        if are_others {
            resume.waiting.push(at);
        }
        // Any of the others may be the same tab's: its network has changed, and nobody has told the server.
        for other in probed {
            self.ask(other.slot, now);
            if let Some(browser) = self.conn(other).and_then(|conn| conn.browser.as_mut()) {
                browser.is_probed = true;
            }
        }
    }

    /// Asks a connection how far it has got.
    fn ask(&mut self, slot: Slot, now: Millis) {
        let newest = self.newest();
        let Some(conn) = self.conns.get_mut(slot as usize) else { return };
        let Some(browser) = &mut conn.browser else { return };
        (browser.asked, browser.asked_at, browser.is_asked) = (newest, now, true);
        conn.has_news = false;
        conn.outbox.push(frame::encode_ping(&newest.to_be_bytes()));
        self.touch(slot);
    }

    /// It has got everything up to the position in the answer.
    pub(super) fn answered_ping(&mut self, at: ConnKey, payload: &[u8]) {
        let Ok(position) = payload.try_into().map(u64::from_be_bytes) else { return };
        let Some(conn) = self.conn(at) else { return };
        let app = conn.app;
        let Some(browser) = &mut conn.browser else { return };
        if position > browser.asked {
            return;
        }
        browser.position = browser.position.max(position);
        if position == browser.asked {
            (browser.is_asked, browser.known_at) = (false, browser.asked_at);
            if conn.has_news {
                self.news.push_back(at.slot);
            }
        }
        let Some(browser) = self.conn(at).and_then(|conn| conn.browser.as_mut()) else { return };
        if std::mem::take(&mut browser.is_probed) {
            let key = (app, browser.id);
            self.listen_again(&key);
        }
    }

    /// Listens to those who have waited for others of their browser, if these have all shown that they live, or have ended.
    fn listen_again(&mut self, key: &Key) {
        let Some(resume) = &self.resume else { return };
        let Some(connections) = resume.browsers.get(key).cloned() else { return };
        let browser = |at: &ConnKey| self.conns.get(at.slot as usize).and_then(|conn| conn.browser.as_deref());
        if connections.iter().filter_map(browser).any(|browser| browser.is_probed) {
            return;
        }
        for at in connections {
            self.let_speak(at);
        }
    }

    fn let_speak(&mut self, at: ConnKey) {
        let held_back =
            self.conn(at).and_then(|conn| conn.browser.as_mut()).and_then(|browser| browser.held_back.take());
        let Some(held_back) = held_back else { return };
        if let Some(resume) = &mut self.resume {
            resume.waiting.retain(|waiting| *waiting != at);
        }
        for text in held_back.texts {
            self.input(at, Input::Text(&text));
        }
    }

    /// Keeps what a connection says while it is not known which of its browser's connections have been lost.
    /// False: it is to be listened to now.
    pub(super) fn holds_back(&mut self, at: ConnKey, text: &str) -> bool {
        let browser = self.conn(at).and_then(|conn| conn.browser.as_mut());
        let Some(held_back) = browser.and_then(|browser| browser.held_back.as_mut()) else { return false };
        held_back.texts.push(text.to_owned());
        held_back.bytes += text.len() + size_of::<String>();
        if held_back.bytes > HELD_BACK_MAX {
            self.let_speak(at);
        }
        true
    }

    /// A connection ends; its subscriptions are still there. With this code it may come back, and what it misses until
    /// then is kept.
    pub(super) fn lost(&mut self, slot: Slot, code: Option<u16>) {
        let now = self.now();
        let Some(conn) = self.conns.get_mut(slot as usize) else { return };
        let Some(mut browser) = conn.browser.take() else { return };
        let (key, at) = ((conn.app, browser.id), ConnKey { slot, generation: conn.generation });
        let newest = self.newest();
        let conn = &self.conns[slot as usize];
        if !conn.has_news && !browser.is_asked {
            (browser.position, browser.known_at) = (newest, now);
        }
        let mut socket_ids = vec![conn.socket_id];
        socket_ids.append(&mut browser.former_ids);
        socket_ids.truncate(SOCKET_IDS_MAX);
        let may_come_back = code.is_none_or(comes_back);
        let mut seats = Vec::new();
        if let Some(log) = self.channels.log.as_ref().filter(|_| may_come_back) {
            for (channel, name, since) in self.channels.seats(slot) {
                let hash = self.context.publisher.hash(key.0, name.as_str());
                let position = since.max(browser.position);
                let seat = LostSeat { hash, channel, position, is_unsure: false };
                match log.mode(channel) {
                    Mode::Off => {}
                    Mode::AtLeastOnce => seats.push(seat),
                    Mode::AtMostOnce => {
                        let is_unsure = log.has_after(channel, position);
                        seats.push(LostSeat { position: newest, is_unsure, ..seat });
                    }
                }
            }
        }
        let lost = Lost { socket_ids, known_at: browser.known_at, lost_at: now, seats };
        self.tell_of_lost(key, &lost);
        let Some(resume) = &mut self.resume else { return };
        if let Some(connections) = resume.browsers.get_mut(&key) {
            connections.retain(|other| *other != at);
            if connections.is_empty() {
                resume.browsers.remove(&key);
            }
        }
        resume.waiting.retain(|waiting| *waiting != at);
        for seat in &lost.seats {
            if let Some((app, name)) = self.channels.hold(seat.channel) {
                self.interest.add(self.context.publisher.hash(app, name.as_str()));
            }
        }
        let released = match may_come_back {
            true => resume.away.put(key, lost, &browser.claims, now),
            false => resume.away.leave(&key, &browser.claims),
        };
        released.into_iter().for_each(|channel| self.release(channel));
        if browser.is_probed {
            self.listen_again(&key);
        }
    }

    fn release(&mut self, channel: u32) {
        if let Some((app, name)) = self.channels.release(channel) {
            self.interest.remove(self.context.publisher.hash(app, name.as_str()));
        }
    }

    /// Enters a connection into a channel, and sends it what it has missed there. `welcome` is what the home of a cache
    /// channel has answered: that it has succeeded, and the last event.
    pub(super) fn enter(&mut self, slot: Slot, app: AppIndex, channel: &ChannelName, welcome: Option<Bytes>) {
        let now = self.now();
        let claim = self.claim(slot, app, channel, now);
        let position = claim.as_ref().and_then(|claim| claim.position);
        let first = self.channels.subscribe(app, channel, slot, position, now) == Change::Edge;
        let first = first.then(|| self.context.publisher.hash(app, channel.as_str()));
        if let Some(hash) = first {
            self.interest.add(hash);
        }
        self.measure.subscribed(app, channel, first);
        self.occupancy.count(app, channel, 1);
        let (gap, events) = match claim {
            Some(claim) => {
                let missed = self.missed(slot, app, channel, &claim, now);
                claim.released.into_iter().for_each(|channel| self.release(channel));
                missed
            }
            None => (None, None),
        };
        match welcome {
            // The last event is among those that it has missed.
            Some(welcome) if events.is_some() => self.send(slot, frame::first(&welcome)),
            Some(welcome) => self.send(slot, welcome),
            None => {}
        }
        gap.into_iter().chain(events).for_each(|frame| self.send(slot, frame));
    }

    /// Whether the connection has been here before, and how far it had got.
    fn claim(&mut self, slot: Slot, app: AppIndex, channel: &ChannelName, now: Millis) -> Option<Claim> {
        let resume = self.resume.as_mut()?;
        let browser = self.conns.get_mut(slot as usize)?.browser.as_mut()?;
        if now > browser.opened + CLAIM_TIME {
            return None;
        }
        let key = (app, browser.id);
        let hash = self.context.publisher.hash(app, channel.as_str());
        let claim = resume.away.claim(&key, hash, &mut browser.claims, now);
        let is_stranger = resume.strangers.contains_key(&key);
        if let Some(claim) = &claim {
            browser.known_at = browser.known_at.min(claim.known_at);
            for id in &claim.socket_ids {
                if browser.former_ids.len() < SOCKET_IDS_MAX && !browser.former_ids.contains(id) {
                    browser.former_ids.push(*id);
                }
            }
        }
        claim.or_else(|| is_stranger.then(|| Claim { gap_until: Some(now), ..Claim::default() }))
    }

    /// The frames of what it has missed: that there is a gap, and the events that are there, in one piece.
    fn missed(
        &mut self,
        slot: Slot,
        app: AppIndex,
        channel: &ChannelName,
        claim: &Claim,
        now: Millis,
    ) -> (Option<Bytes>, Option<Bytes>) {
        let (Some(resume), Some(log)) = (&self.resume, &self.channels.log) else { return (None, None) };
        let Some(id) = self.channels.id(app, channel).filter(|id| log.mode(*id) != Mode::Off) else {
            return (None, None);
        };
        let conn = &mut self.conns[slot as usize];
        // The log of a process that knows nothing of it begins now.
        let position = claim.position.unwrap_or_else(|| log.newest());
        let (mut gap_until, kept) = log.after(id, position);
        gap_until = gap_until.max(claim.gap_until);
        let is_own = |except: Option<SocketId>| except.is_some_and(|except| claim.socket_ids.contains(&except));
        let mut events = Vec::new();
        let mut room = self.context.settings.outbound_bytes_max.saturating_sub(conn.outbox.waiting()) / 2;
        for (at, event) in kept.rev().filter(|(_, event)| !is_own(event.except)) {
            let frame = match (conn.form, &event.deflated) {
                (Form::Deflated, Some(deflated)) => deflated,
                _ => &event.frame,
            };
            let Some(rest) = room.checked_sub(frame.len()) else {
                gap_until = gap_until.max(Some(at));
                break;
            };
            room = rest;
            events.push(frame);
        }
        let mut piece = BytesMut::with_capacity(events.iter().map(|frame| frame.len()).sum());
        events.iter().rev().for_each(|frame| piece.put_slice(frame));
        if !events.is_empty() {
            if !std::mem::replace(&mut conn.has_news, true) {
                self.news.push_back(slot);
            }
            tracing::debug!("{} is sent {} events that it has missed on {channel}", conn.socket_id, events.len());
        }
        // pusher-js cannot be told on an encrypted channel: whatever comes there it decrypts.
        let gap = gap_until.filter(|_| !channel.is_encrypted()).map(|until| {
            let is_known = claim.position.is_some() || claim.known_at > 0;
            let since = is_known.then(|| resume.epoch + claim.known_at.min(now));
            frame::encode_text(&resume::gap(channel.as_str(), since, resume.epoch + until))
        });
        (gap, Some(piece.freeze()).filter(|piece| !piece.is_empty()))
    }

    /// Redis was away: what it has sent in this time, in Unix milliseconds, nobody here knows. All subscribers are told.
    pub(super) fn tell_of_gap(&mut self, since: u64, until: u64) {
        if self.resume.is_none() {
            return;
        }
        let mut told = Vec::new();
        for (app, channel) in self.channels.all() {
            let is_of_redis = channel.access() != Access::User && !channel.is_encrypted();
            if is_of_redis && self.context.resume.as_ref().is_some_and(|it| it.modes.of(channel) != Mode::Off) {
                let frame = frame::encode_text(&resume::gap(channel.as_str(), Some(since), until));
                told.push(Delivery { is_kept: true, ..Delivery::new(app, channel.clone(), frame) });
            }
        }
        self.deliver(&mut told);
    }

    /// Once a second: gives up what is too old.
    pub(super) fn tick_resume(&mut self) {
        let now = self.now();
        let Some(resume) = &mut self.resume else { return };
        let late: Vec<ConnKey> = resume.waiting.clone();
        resume.strangers.retain(|_, until| *until > now);
        for released in resume.away.expire(now) {
            self.release(released);
        }
        if let Some(log) = &mut self.channels.log {
            log.expire(now);
        }
        for at in late {
            self.end_wait(at, now);
        }
    }

    /// Whoever has not shown by now that it lives does not: the connection that waits may be the same tab's.
    fn end_wait(&mut self, at: ConnKey, now: Millis) {
        let Some(conn) = self.conn(at) else { return };
        let app = conn.app;
        let Some(browser) = conn.browser.as_deref() else { return };
        if browser.held_back.as_ref().is_none_or(|held_back| held_back.until > now) {
            return;
        }
        let key = (app, browser.id);
        let connections =
            self.resume.as_ref().and_then(|resume| resume.browsers.get(&key)).cloned().unwrap_or_default();
        for other in connections.into_iter().filter(|other| *other != at) {
            if self.conn(other).and_then(|conn| conn.browser.as_ref()).is_some_and(|browser| browser.is_probed) {
                self.remove(other.slot, "its browser has come back without it");
            }
        }
        self.let_speak(at);
    }

    /// Asks those who have been sent something since they were asked last, and have answered that.
    pub(super) fn ask_around(&mut self) {
        let now = self.now();
        let mut asked = 0;
        while asked < ASKED_MAX
            && let Some(slot) = self.news.pop_front()
        {
            let conn = self.conns.get(slot as usize).filter(|conn| conn.has_news && conn.closing.is_none());
            // Who has yet to answer has its turn then.
            if conn.and_then(|conn| conn.browser.as_ref()).is_some_and(|browser| !browser.is_asked) {
                self.ask(slot, now);
                asked += 1;
            }
        }
        self.flush();
    }

    fn newest(&self) -> u64 {
        self.channels.log.as_ref().map_or(0, Log::newest)
    }
}
