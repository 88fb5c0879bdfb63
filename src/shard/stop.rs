//! The end of a shard: its connections are closed one after the other, so that clients do not all come back at once,
//! while events go on to those that are still there.
//!
//! Nobody counts as having left by being closed: members stay on the lists of those who are closed later, and other
//! nodes, which have been told, keep them until they have come back there.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Shard, Slot};
use crate::inbox::ConnKey;
use crate::protocol::session::Millis;

/// How close to each other two steps are at most.
pub const STEP: Duration = Duration::from_millis(20);

/// How long the clients get to answer the close frames, after the last of them.
pub const ANSWER_WAIT: Duration = Duration::from_secs(3);

/// How long before a connection is closed the other nodes are told, so that they keep events for it. The other shards, too, have
/// heard of the end by then: a home that had not would take it for leaving, and no backend would hear of that any more.
const HANDED_OVER: Millis = 200;

/// A shard that is ending.
#[derive(Debug)]
pub struct Stopping {
    /// Who is to be closed, and when.
    due: VecDeque<(Millis, ConnKey)>,
    /// Who of them is to be handed over before, and when.
    handed_over: VecDeque<(Millis, ConnKey)>,
    /// When the last of any shard's are.
    last: Millis,
}

impl Shard {
    /// Closes all connections within this time, evenly.
    pub(super) fn stop(&mut self, within: Duration) {
        if self.stopping.is_some() {
            return;
        }
        self.tell_backends_of_the_end();
        let (now, within) = (self.now(), within.as_millis() as Millis);
        let count = self.conns.len().max(1) as u64;
        let (before, hands_over) = (HANDED_OVER, self.hands_over());
        let at = |index: usize| now + before + (index as u64 * within + random(within)) / count;
        let conns = self.conns.iter().enumerate().map(|(index, (slot, conn))| {
            let key = ConnKey { slot: slot as Slot, generation: conn.generation };
            (at(index), key)
        });
        let due: VecDeque<(Millis, ConnKey)> = conns.collect();
        let handed_over = due.iter().filter(|_| hands_over).map(|(at, key)| (at - before, *key)).collect();
        self.stopping = Some(Stopping { due, handed_over, last: now + before + within });
    }

    /// Closes those whose time it is.
    pub(super) fn close_due(&mut self) {
        let now = self.now();
        if let Some(stopping) = &mut self.stopping {
            let next = std::iter::from_fn(|| stopping.handed_over.pop_front_if(|(at, _)| *at <= now));
            let next: Vec<ConnKey> = next.map(|(_, key)| key).collect();
            self.hand_over(next.into_iter());
        }
        while let Some(stopping) = &mut self.stopping
            && let Some((_, key)) = stopping.due.pop_front_if(|(due, _)| *due <= now)
        {
            if self.conn(key).is_some() {
                self.close(key.slot, 1012, "The server is restarting");
            }
        }
    }

    /// Whether nothing is left to be done. A shard without connections is yet the home of others' channels.
    pub(super) fn is_done(&self) -> bool {
        let Some(stopping) = &self.stopping else { return false };
        let now = self.now();
        let others = self.context.publisher.shards().iter();
        let is_last =
            now >= stopping.last || others.map(|shard| shard.connections().load(Ordering::Relaxed)).sum::<usize>() == 0;
        (self.conns.is_empty() && is_last) || now >= stopping.last + ANSWER_WAIT.as_millis() as Millis
    }
}

/// Below this bound, or 0.
fn random(below: Millis) -> Millis {
    // Without random numbers the steps are only more even.
    getrandom::u64().unwrap_or_default().checked_rem(below).unwrap_or_default()
}

/// A shard that has panicked would be silent: its connections open and deaf, its inbox full, and
/// the sources waiting for it. A supervisor starts a process that has ended; clients come back.
pub struct EndsTheProcess(pub usize);

impl Drop for EndsTheProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("shard {} has panicked (see above), so the server ends; please report this", self.0);
            crate::log::flush();
            std::process::exit(1);
        }
    }
}
