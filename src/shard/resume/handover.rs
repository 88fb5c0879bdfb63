//! From node to node. One that stops says whose connections are about to be closed, and what they are subscribed to: the
//! others keep events for them from then on, so wherever a browser comes back, nothing is missing. What arrives here
//! between that and the close comes twice.
//!
//! One that has lost a connection says so, too. What that misses is kept where it was lost alone: whoever comes back to another
//! node is told of a gap.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Shard;
use super::away::{Claims, Key, Lost, LostSeat};
use crate::inbox::{Coming, Control};
use crate::protocol::channel::ChannelName;
use crate::protocol::resume::{self, Mode};
use crate::publish::Publisher;
use crate::ws::frame;

/// How long the shards may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Connections that are told of in one message.
const TOLD_MAX: usize = 100;

/// Tells the other nodes of all browsers that are connected here; gives how many connections they have.
pub async fn hand_over(publisher: &Publisher) -> usize {
    if publisher.bus().is_alone() {
        return 0;
    }
    let mut told = Vec::new();
    for shard in publisher.shards() {
        let (reply, count) = oneshot::channel();
        shard.tell(Control::HandOver(reply));
        told.push(count);
    }
    let all = futures_util::future::join_all(told);
    let counts = tokio::time::timeout(PATIENCE, all).await.unwrap_or_default();
    counts.into_iter().map(Result::unwrap_or_default).sum()
}

impl Shard {
    pub(in super::super) fn hand_over(&self) -> usize {
        let mut told = 0;
        let mut coming = Vec::new();
        let Some(log) = &self.channels.log else { return 0 };
        for (slot, conn) in &self.conns {
            let Some(browser) = conn.browser.as_ref().filter(|_| conn.closing.is_none()) else { continue };
            let seats = self.channels.seats(slot as u32);
            // What is to come once at most cannot be handed over, since it is not known here what the others have kept.
            let channels = seats.filter(|(id, _, _)| log.mode(*id) == Mode::AtLeastOnce);
            let channels: Vec<_> = channels.map(|(_, name, _)| name.clone()).collect();
            if channels.is_empty() {
                continue;
            }
            told += 1;
            let (app, browser, socket_id) = (conn.app, browser.id, conn.socket_id);
            coming.push(Coming { app, browser, socket_id, channels, known_at: None });
            if coming.len() == TOLD_MAX {
                self.context.publisher.bus().coming(std::mem::take(&mut coming));
            }
        }
        if !coming.is_empty() {
            self.context.publisher.bus().coming(coming);
        }
        told
    }

    /// Tells the other nodes of a connection that was lost here.
    pub(super) fn tell_of_lost(&self, key: Key, lost: &Lost) {
        let Some(resume) = self.resume.as_ref().filter(|_| !self.stopping) else { return };
        if self.context.publisher.bus().is_alone() {
            return;
        }
        let names = lost.seats.iter().filter_map(|seat| self.channels.name(seat.channel));
        let channels: Vec<_> = names.cloned().collect();
        let (Some(socket_id), false) = (lost.socket_ids.first().copied(), channels.is_empty()) else { return };
        let known_at = Some(resume.epoch + lost.known_at);
        self.context.publisher.bus().coming(vec![Coming { app: key.0, browser: key.1, socket_id, channels, known_at }]);
    }

    /// A connection of another node was lost. If its browser is here already, it is told what it may have missed.
    fn lost_elsewhere(&mut self, coming: &Coming, known_at: u64) {
        let now = self.now();
        let key = (coming.app, coming.browser);
        let Some(resume) = &mut self.resume else { return };
        let (since, until) = (known_at.saturating_sub(resume.epoch), resume.epoch + now);
        let connections = resume.browsers.get(&key).cloned().unwrap_or_default();
        let mut told = Vec::new();
        for at in connections {
            let conn = self.conns.get(at.slot as usize);
            if conn.and_then(|conn| conn.browser.as_ref()).is_none_or(|browser| browser.opened < since) {
                continue;
            }
            let here = self.channels.seats(at.slot).map(|(_, name, _)| name);
            told.extend(here.filter(|name| coming.channels.contains(name)).map(|name| (at.slot, name.clone())));
        }
        if told.is_empty() {
            let seat = |name: &ChannelName| {
                let hash = self.context.publisher.hash(coming.app, name.as_str());
                LostSeat { hash, channel: u32::MAX, position: 0, is_unsure: false }
            };
            let seats = coming.channels.iter().map(seat).collect();
            let lost = Lost { socket_ids: vec![coming.socket_id], known_at: since, lost_at: now, seats };
            for channel in resume.away.note(key, lost, now) {
                self.release(channel);
            }
        }
        for (slot, name) in told.into_iter().filter(|(_, name)| !name.is_encrypted()) {
            self.send(slot, frame::encode_text(&resume::gap(name.as_str(), Some(known_at), until)));
        }
    }

    /// A connection of another node may come here. If it is about to be closed, what it misses from now on is kept.
    pub(in super::super) fn expect(&mut self, coming: Coming) {
        if let Some(known_at) = coming.known_at {
            return self.lost_elsewhere(&coming, known_at);
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
            seats.push(LostSeat { hash, channel, position, is_unsure: false });
        }
        let lost = Lost { socket_ids: vec![coming.socket_id], known_at: now, lost_at: now, seats };
        let key = (coming.app, coming.browser);
        for channel in resume.away.put(key, lost, &Claims::default(), now) {
            self.release(channel);
        }
    }
}
