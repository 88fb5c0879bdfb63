//! From a node that stops to those that go on: whose connections are about to be closed, and what they are subscribed
//! to. The others keep events for them from then on, so wherever a browser comes back, nothing is missing. What
//! arrives here between that and the close comes twice.
//!
//! Those who are away already are not handed over: they are told of a gap.

use std::time::Duration;

use tokio::sync::oneshot;

use super::Shard;
use super::away::{Claims, Lost, LostSeat};
use crate::inbox::{Coming, Control};
use crate::protocol::resume::Mode;
use crate::publish::Publisher;

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
            coming.push(Coming { app: conn.app, browser: browser.id, socket_id: conn.socket_id, channels });
            if coming.len() == TOLD_MAX {
                self.context.publisher.bus().coming(std::mem::take(&mut coming));
            }
        }
        if !coming.is_empty() {
            self.context.publisher.bus().coming(coming);
        }
        told
    }

    /// A connection of another node will be closed: from now on what it misses is kept here.
    pub(in super::super) fn expect(&mut self, coming: Coming) {
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
