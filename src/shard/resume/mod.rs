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
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};

use super::Shard;
use super::channels::{Change, Slot};
use crate::address::Counted;
use crate::config::Config;
use crate::inbox::{AppIndex, ConnKey, Delivery, Form, Origin, Returning};
use crate::protocol::SocketId;
use crate::protocol::channel::{Access, ChannelName};
use crate::protocol::resume::{self, BrowserId, Mode, Modes};
use crate::protocol::session::Millis;
use crate::ws::frame;
use away::{Away, Claim, Claims, Key, Lost, LostSeat, REMEMBERED};
use marks::Marks;
use probe::{Connections, HeldBack, Probe, Waiting};

pub use log::{Bounds, Log};

mod away;
mod handover;
mod log;
mod marks;
mod probe;

/// For so long after its handshake a connection's subscriptions may be those of one that was lost.
const CLAIM_TIME: Millis = 30_000;

/// How often connections are asked how far they have got: those to which something was sent.
pub const ASK_EVERY: Duration = Duration::from_millis(100);

/// How many of them each time: so what this costs a shard is bounded, and where there are more, each has its turn later.
const ASKED_MAX: usize = 100;

/// Connections of one browser at once. Those beyond get nothing of this, as if `resume` were off.
const CONNECTIONS_MAX: usize = 64;

/// Of what is kept of those who are away one address may have one part of so many.
const ADDRESS_PART: usize = 8;

/// Browsers that were connected to another process before, over all shards. Beyond, all count as such.
const STRANGERS_MAX: usize = 64 * 1024;

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
    /// Browsers that come from another process and are to be told so.
    pub strangers_max: usize,
    /// See `probe::HELD_BACK_ALL_MAX`.
    pub held_back_max: usize,
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
            strangers_max: STRANGERS_MAX / config.shards,
            held_back_max: probe::HELD_BACK_ALL_MAX / config.shards,
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
    browsers: HashMap<Key, Connections>,
    /// Browsers that were connected to another process before.
    strangers: Marks,
    waiting: Waiting,
    /// Another node has ended without a word, or was not heard: until then whoever comes may have been lost by it, whatever the
    /// cookie says, which the tabs of a browser share.
    unsure_until: Millis,
}

/// What a connection is to this.
#[derive(Debug)]
pub struct Browser {
    id: BrowserId,
    address: Option<Counted>,
    /// The browser has been given its cookie with this connection.
    is_new: bool,
    opened: Millis,
    /// What it subscribes to until then may be what it was subscribed to when it was lost.
    claims_until: Millis,
    /// It may have missed something, of which nothing has been found out.
    is_unsure: bool,
    /// It is known to have got everything up to here that has been sent to it, and when it had.
    position: u64,
    known_at: Millis,
    /// What it was asked last, when, and whether the answer has yet to come.
    asked: u64,
    asked_at: Millis,
    is_asked: bool,
    probe: Probe,
    probed_at: Millis,
    /// What it has claimed of those that were lost.
    claims: Claims,
    /// The ids of those that it was.
    former_ids: Vec<SocketId>,
    /// What it has said, if others of its browser have yet to show that they live.
    held_back: Option<HeldBack>,
}

/// Whether a client comes back after this code. A browser closes with 1001 when the page is left; pusher-js stays away
/// after those of the 4000s.
fn comes_back(code: u16) -> bool {
    code != 1001 && !(4000..4100).contains(&code)
}

/// The Unix time so many milliseconds ago, in milliseconds: by the clock as it is set now, which may be better than it was.
fn unix(ago: Millis) -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since_epoch.as_millis() as u64).saturating_sub(ago)
}

impl Resume {
    pub fn new(settings: &Settings) -> Self {
        Self {
            time: settings.time,
            away: Away::new(settings.time, settings.seats_max),
            browsers: HashMap::new(),
            strangers: Marks::new(settings.strangers_max),
            waiting: Waiting::new(settings.held_back_max),
            unsure_until: 0,
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
        let Returning { browser: id, origin, address } = *returning;
        let key = (conn.app, id);
        match origin {
            Origin::Elsewhere => resume.strangers.put(key, address, 0, now + resume.time),
            Origin::Moved => resume.strangers.put(key, address, 0, now + REMEMBERED),
            Origin::New | Origin::Here | Origin::Node => {}
        }
        if resume.browsers.get(&key).is_some_and(|connections| connections.all.len() >= CONNECTIONS_MAX) {
            return tracing::debug!(
                "{} gets nothing that it misses: its browser has too many connections",
                conn.socket_id
            );
        }
        let is_new = origin == Origin::New;
        conn.browser = Some(Box::new(Browser {
            id,
            address,
            is_new,
            opened: now,
            claims_until: if is_new { 0 } else { now + CLAIM_TIME },
            is_unsure: !is_new && now < resume.unsure_until,
            position: 0,
            known_at: now,
            asked: newest,
            asked_at: 0,
            is_asked: false,
            probe: Probe::None,
            probed_at: 0,
            claims: Claims::default(),
            former_ids: Vec::new(),
            held_back: None,
        }));
        self.probe_others(key, at, now);
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
        let is_closed = conn.closing.is_some();
        let mut socket_ids = vec![conn.socket_id];
        socket_ids.append(&mut browser.former_ids);
        socket_ids.truncate(SOCKET_IDS_MAX);
        let may_come_back = code.is_none_or(comes_back);
        let mut seats = Vec::new();
        if let Some(log) = self.channels.log.as_ref().filter(|_| may_come_back) {
            for (channel, name, since) in self.channels.seats(slot) {
                let hash = self.context.publisher.hash(key.0, name.as_str());
                let position = since.max(browser.position);
                let seat = LostSeat { hash, channel, position, ..LostSeat::default() };
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
        let lost = Lost { socket_ids, address: browser.address, known_at: browser.known_at, lost_at: now, seats };
        self.tell_of_lost(key, &lost, is_closed);
        let others_live = self.forget_connection(&key, at, &browser);
        let Some(resume) = &mut self.resume else { return };
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
        if others_live {
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
        if now > browser.claims_until {
            return None;
        }
        let key = (app, browser.id);
        let hash = self.context.publisher.hash(app, channel.as_str());
        let mut claim = resume.away.claim(&key, browser.address, hash, &mut browser.claims, now);
        if browser.is_unsure || claim.is_none() && resume.strangers.get(&key, browser.address, now).is_some() {
            claim.get_or_insert_default().gap_until = Some(now);
        }
        if let Some(claim) = claim.as_ref().filter(|claim| claim.known_at > 0) {
            browser.known_at = browser.known_at.min(claim.known_at);
            for id in &claim.socket_ids {
                if browser.former_ids.len() < SOCKET_IDS_MAX && !browser.former_ids.contains(id) {
                    browser.former_ids.push(*id);
                }
            }
        }
        claim
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
        let Some(log) = &self.channels.log else { return (None, None) };
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
            let since = (claim.known_at > 0).then(|| unix(now.saturating_sub(claim.known_at)));
            frame::encode_text(&resume::gap(channel.as_str(), since, unix(now.saturating_sub(until))))
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

    /// Another node has ended without a word, or something that it has said was missed. Whoever has come back since it was heard
    /// before that, or shortly before, may have been lost by it, which it does not tell any more.
    pub(super) fn unheard(&mut self, heard: Instant) {
        let (now, heard) = (self.now(), heard.saturating_duration_since(self.started).as_millis() as Millis);
        let since = heard.saturating_sub(LOSS_NOTICED.as_millis() as Millis);
        let (Some(resume), Some(log)) = (&mut self.resume, &self.channels.log) else { return };
        resume.unsure_until = now + resume.time;
        let until = unix(0);
        let (mut told, mut frames) = (Vec::new(), HashMap::new());
        for (slot, conn) in &mut self.conns {
            let slot = slot as Slot;
            let browser = conn.browser.as_mut().filter(|it| !it.is_new && it.opened >= since);
            let Some(browser) = browser.filter(|_| conn.closing.is_none()) else { continue };
            browser.is_unsure = true;
            for (channel, name, _) in self.channels.seats(slot) {
                if log.mode(channel) != Mode::Off && !name.is_encrypted() {
                    let frame = || frame::encode_text(&resume::gap(name.as_str(), None, until));
                    told.push((slot, frames.entry(channel).or_insert_with(frame).clone()));
                }
            }
        }
        told.into_iter().for_each(|(slot, frame)| self.send(slot, frame));
    }

    /// Once a second: gives up what is too old.
    pub(super) fn tick_resume(&mut self) {
        let now = self.now();
        let Some(resume) = &mut self.resume else { return };
        let forgotten = resume.away.take_forgotten();
        self.context.publisher.metrics().resume_forgotten.add_many((), forgotten);
        if forgotten > 0 {
            tracing::warn!(
                "Not all that lost connections miss is kept ({forgotten} of them), since there is no room: who comes back is told \
                 of a gap. How much a browser and an address may have says docs/resume.md."
            );
        }
        resume.strangers.expire(now);
        for released in resume.away.expire(now) {
            self.release(released);
        }
        if let Some(log) = &mut self.channels.log {
            log.expire(now);
        }
    }

    fn newest(&self) -> u64 {
        self.channels.log.as_ref().map_or(0, Log::newest)
    }
}
