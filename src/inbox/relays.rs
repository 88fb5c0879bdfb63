//! How many events of cache channels are between their homes and other shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use super::EVENTS_MAX;

/// Events of cache channels on their way from a home shard to the shards with subscribers. Control
/// messages have no bound of their own, so this is where the sources wait.
#[derive(Debug, Default)]
pub struct Relays {
    under_way: AtomicUsize,
    arrived: Notify,
}

impl Relays {
    /// For sources: whether no more are under way than may be.
    pub fn has_room(&self) -> bool {
        self.under_way.load(Ordering::SeqCst) < EVENTS_MAX
    }

    /// For sources: waits while too many are under way.
    pub async fn room(&self) {
        loop {
            // What arrives from here on is heard of; what arrived before is seen.
            let arrived = self.arrived.notified();
            if self.has_room() {
                return;
            }
            arrived.await;
        }
    }

    /// For home shards: one more is under way, as long as the answer lives.
    pub fn one_more(self: &Arc<Self>) -> UnderWay {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        UnderWay(self.clone())
    }
}

/// One event of [`Relays`]; it has arrived when this is dropped.
#[derive(Debug)]
pub struct UnderWay(Arc<Relays>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        // Only the step below the limit can make room for anybody.
        if self.0.under_way.fetch_sub(1, Ordering::SeqCst) == EVENTS_MAX {
            self.0.arrived.notify_waiters();
        }
    }
}
