//! The queue of one URL: bounded in events and bytes, from the moment an event is taken until it is
//! delivered or given up, wherever it waits meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{Bounds, Endpoint};
use crate::protocol::channel::ChannelName;
use crate::protocol::webhook::Kind;

/// What an event costs beside its text, in bytes.
const EVENT_COST: usize = 256;

/// Who has come or gone: a channel's subscribers as a whole, or a user.
pub type Who = (ChannelName, Option<Arc<str>>);

/// One event on its way to one URL.
#[derive(Debug)]
pub struct Waiting {
    pub kind: Kind,
    pub who: Who,
    /// The event as JSON.
    pub text: Arc<str>,
    /// When it happened.
    pub at: Instant,
    held: Option<Held>,
}

impl Waiting {
    pub fn new(kind: Kind, channel: &ChannelName, user_id: Option<&str>, text: Arc<str>, at: Instant) -> Self {
        Self { kind, who: (channel.clone(), user_id.map(Into::into)), text, at, held: None }
    }
}

/// Where events for one URL are put. A clone shares everything.
#[derive(Clone, Debug)]
pub struct Queue {
    endpoint: Arc<Endpoint>,
    room: Arc<Room>,
    waiting: mpsc::UnboundedSender<Waiting>,
}

/// Makes the queue and its other end.
pub fn queue(endpoint: Arc<Endpoint>, bounds: Bounds) -> (Queue, mpsc::UnboundedReceiver<Waiting>) {
    let (sender, waiting) = mpsc::unbounded_channel();
    let room = Arc::new(Room { bounds, events: AtomicUsize::new(0), bytes: AtomicUsize::new(0) });
    (Queue { endpoint, room, waiting: sender }, waiting)
}

impl Queue {
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether both are one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.endpoint, &other.endpoint)
    }

    /// Takes an event if there is room.
    pub fn offer(&self, mut event: Waiting) {
        event.held = self.room.hold(event.text.len() + EVENT_COST);
        if event.held.is_some() && self.waiting.send(event).is_ok() {
            return;
        }
        if let Some(count) = self.endpoint.counters.overflowed(1) {
            self.say_full(count);
        }
    }

    fn say_full(&self, count: u64) {
        let Bounds { events_max, bytes_max, .. } = self.room.bounds;
        let Endpoint { place, app_id, .. } = &*self.endpoint;
        tracing::warn!(
            "webhook {place} of the app {app_id} takes events more slowly than they happen: {count} were lost, since \
             {events_max} events or {bytes_max} bytes of them may wait"
        );
    }

    /// The courier has been ended with events left.
    pub fn lost_at_the_end(&self, time: Duration) {
        let count = self.room.events.load(Ordering::Relaxed) as u64;
        let unsaid = self.endpoint.counters.gave_up(count).unwrap_or(count);
        let Endpoint { place, app_id, .. } = &*self.endpoint;
        tracing::warn!(
            "webhook {place} of the app {app_id}: {unsaid} events are lost, since the server ends and it did not take \
             them within {} s",
            time.as_secs_f32()
        );
    }
}

/// What may wait, and what does.
#[derive(Debug)]
struct Room {
    bounds: Bounds,
    events: AtomicUsize,
    bytes: AtomicUsize,
}

impl Room {
    fn hold(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let events_before = self.events.fetch_add(1, Ordering::Relaxed);
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // Given back by the drop if there is no room.
        let held = Held { room: self.clone(), bytes };
        let fits = events_before < self.bounds.events_max && bytes_before + bytes <= self.bounds.bytes_max;
        fits.then_some(held)
    }
}

/// An event's part of the room, as long as this lives.
#[derive(Debug)]
struct Held {
    room: Arc<Room>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.events.fetch_sub(1, Ordering::Relaxed);
        self.room.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
