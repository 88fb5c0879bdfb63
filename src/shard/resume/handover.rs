//! From node to node. One that stops says whose connections are about to be closed, and what they are subscribed to: the
//! others keep events for them from then on, so wherever a browser comes back, nothing is missing. What arrives here
//! between that and the close comes twice. What cannot be handed over it tells of as of what is lost.
//!
//! One that has lost a connection says so, too. What that misses is kept where it was lost alone: whoever comes back to another
//! node is told of a gap.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::away::{Claims, Key, Lost, LostSeat};
use super::probe::PROBE_TIME;
use super::{Shard, unix};
use crate::inbox::{Coming, ConnKey};
use crate::protocol::channel::ChannelName;
use crate::protocol::resume::{self, Mode};
use crate::protocol::session::Millis;
use crate::ws::frame;

/// What another node says of a loss may have been on its way for so long, which its age does not tell.
const ON_ITS_WAY: Millis = 5_000;

impl Shard {
    /// Whether anybody is to be handed over when this node stops.
    pub(in super::super) fn hands_over(&self) -> bool {
        self.resume.is_some() && !self.context.publisher.bus().is_alone()
    }

    /// Tells the other nodes that these connections will be closed.
    pub(in super::super) fn hand_over(&self, connections: impl Iterator<Item = ConnKey>) {
        let coming: Vec<Coming> = connections.flat_map(|at| self.coming(at)).collect();
        if !coming.is_empty() {
            self.context.publisher.bus().coming(coming);
        }
    }

    fn coming(&self, at: ConnKey) -> impl Iterator<Item = Coming> {
        let now = self.now();
        let conn = self.conns.get(at.slot as usize).filter(|conn| conn.generation == at.generation);
        let conn = conn.filter(|conn| conn.closing.is_none());
        let (mut kept, mut told) = (Vec::new(), Vec::new());
        if let (Some(log), Some(browser)) = (&self.channels.log, conn.and_then(|conn| conn.browser.as_ref())) {
            // Its network may be gone, and with it what was sent before.
            let is_silent = browser.is_asked && now >= browser.asked_at + PROBE_TIME;
            for (id, name, _) in self.channels.seats(at.slot) {
                match log.mode(id) {
                    Mode::Off => {}
                    Mode::AtLeastOnce if !is_silent => kept.push(name.clone()),
                    // What is to come once at most cannot be handed over, since it is not known here what the others have
                    // kept.
                    Mode::AtLeastOnce | Mode::AtMostOnce => told.push(name.clone()),
                }
            }
        }
        let coming = move |(channels, is_lost): (Vec<ChannelName>, bool)| {
            let (conn, browser) = conn.and_then(|conn| Some((conn, conn.browser.as_ref()?)))?;
            let known_ago = is_lost.then(|| now.saturating_sub(browser.known_at));
            let (app, browser, socket_id) = (conn.app, browser.id, conn.socket_id);
            (!channels.is_empty()).then_some(Coming { app, browser, socket_id, channels, known_ago })
        };
        [(kept, false), (told, true)].into_iter().filter_map(coming)
    }

    /// Tells the other nodes of a connection that was lost here, but for those that are closed when this node stops: these are
    /// handed over.
    pub(super) fn tell_of_lost(&self, key: Key, lost: &Lost, is_closed: bool) {
        if self.resume.is_none() || self.stopping.is_some() && is_closed || self.context.publisher.bus().is_alone() {
            return;
        }
        let names = lost.seats.iter().filter_map(|seat| self.channels.name(seat.channel));
        let channels: Vec<_> = names.cloned().collect();
        let (Some(socket_id), false) = (lost.socket_ids.first().copied(), channels.is_empty()) else { return };
        let known_ago = Some(lost.lost_at.saturating_sub(lost.known_at));
        self.context.publisher.bus().coming(vec![Coming {
            app: key.0,
            browser: key.1,
            socket_id,
            channels,
            known_ago,
        }]);
    }

    /// A connection of another node was lost. If its browser is here already, it is told what it may have missed.
    fn lost_elsewhere(&mut self, coming: &Coming, known_ago: Millis) {
        let now = self.now();
        let key = (coming.app, coming.browser);
        let Some(resume) = &mut self.resume else { return };
        let known_at = now.saturating_sub(known_ago);
        let (since, until) = (unix(known_ago), unix(0));
        let ids = coming.channels.iter().filter_map(|name| self.channels.id(coming.app, name));
        let (ids, mut frames): (HashSet<u32>, HashMap<u32, Bytes>) = (ids.collect(), HashMap::new());
        let (mut told, mut is_here) = (Vec::new(), false);
        for at in resume.browsers.get(&key).into_iter().flat_map(|connections| &connections.all) {
            let conn = self.conns.get_mut(at.slot as usize);
            let browser =
                conn.and_then(|conn| conn.browser.as_mut()).filter(|browser| browser.opened + ON_ITS_WAY >= known_at);
            let Some(browser) = browser else { continue };
            for (id, name, _) in self.channels.seats(at.slot).filter(|(id, _, _)| ids.contains(id)) {
                // It may have yet to subscribe to others of them.
                (is_here, browser.is_unsure) = (is_here || browser.opened >= known_at, true);
                if !name.is_encrypted() {
                    let frame = || frame::encode_text(&resume::gap(name.as_str(), Some(since), until));
                    told.push((at.slot, frames.entry(id).or_insert_with(frame).clone()));
                }
            }
        }
        if !is_here {
            let seat = |name: &ChannelName| {
                let hash = self.context.publisher.hash(coming.app, name.as_str());
                LostSeat { hash, channel: u32::MAX, ..LostSeat::default() }
            };
            let seats = coming.channels.iter().map(seat).collect();
            let lost = Lost { socket_ids: vec![coming.socket_id], address: None, known_at, lost_at: now, seats };
            for channel in resume.away.note(key, lost, now) {
                self.release(channel);
            }
        }
        told.into_iter().for_each(|(slot, frame)| self.send(slot, frame));
    }

    /// A connection of another node may come here. If it is about to be closed, what it misses from now on is kept.
    pub(in super::super) fn expect(&mut self, coming: Coming) {
        if let Some(known_ago) = coming.known_ago {
            return self.lost_elsewhere(&coming, known_ago);
        }
        let now = self.now();
        let position = self.newest();
        let Some(resume) = &mut self.resume else { return };
        let mut seats = Vec::new();
        for name in &coming.channels {
            let hash = self.context.publisher.hash(coming.app, name.as_str());
            let (channel, is_first) = self.channels.hold_named(coming.app, name, now);
            if is_first {
                self.interest.add(hash);
            }
            seats.push(LostSeat { hash, channel, position, ..LostSeat::default() });
        }
        let lost = Lost { socket_ids: vec![coming.socket_id], address: None, known_at: now, lost_at: now, seats };
        let key = (coming.app, coming.browser);
        for channel in resume.away.put(key, lost, &Claims::default(), now) {
            self.release(channel);
        }
    }
}
