//! What is published on the bus: in order, on one connection, without anybody waiting for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::BytesMut;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::bus::WAITING_BYTES_MAX;
use crate::redis::{Backoff, Failure, Link, Publishing, publish_command};

/// So many bytes are handed to the connection at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Whether Redis takes what is published.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum State {
    Starting,
    Up,
    Away,
}

enum Out {
    Message(Vec<u8>),
    /// Answered when all before it has been written.
    Mark(oneshot::Sender<()>),
}

/// The near end of the connection.
pub struct Outbound {
    queue: mpsc::UnboundedSender<Out>,
    waiting: Arc<Waiting>,
    state: watch::Receiver<State>,
}

#[derive(Default)]
struct Waiting {
    bytes: AtomicUsize,
    taken: Notify,
}

impl Outbound {
    /// Connects, and connects again, for as long as this lives.
    pub fn start(link: Link, channel: String) -> Self {
        let (queue, waits) = mpsc::unbounded_channel();
        let (known, state) = watch::channel(State::Starting);
        let waiting = Arc::new(Waiting::default());
        tokio::spawn(keep_publishing(link, channel, waits, waiting.clone(), known));
        Self { queue, waiting, state }
    }

    /// Queues a message. False: it is lost, since Redis is away, or since it is an event and too much waits.
    pub fn send(&self, message: Vec<u8>, is_event: bool) -> bool {
        let is_full = is_event && self.waiting.bytes.load(Ordering::Relaxed) > WAITING_BYTES_MAX;
        if is_full || self.state() != State::Up {
            return false;
        }
        self.waiting.bytes.fetch_add(message.len(), Ordering::Relaxed);
        self.queue.send(Out::Message(message)).is_ok()
    }

    /// Answers when all that was sent before has been written, or cannot be.
    pub fn mark(&self, reply: oneshot::Sender<()>) {
        if self.state() == State::Up {
            let _ = self.queue.send(Out::Mark(reply));
        }
    }

    /// Waits until little waits.
    pub async fn room(&self) {
        loop {
            let taken = self.waiting.taken.notified();
            if self.waiting.bytes.load(Ordering::Relaxed) < PIECE_BYTES {
                return;
            }
            taken.await;
        }
    }

    /// To wait for another state.
    pub fn states(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Whether Redis takes what is published.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }
}

async fn keep_publishing(
    link: Link,
    channel: String,
    mut queue: mpsc::UnboundedReceiver<Out>,
    waiting: Arc<Waiting>,
    state: watch::Sender<State>,
) {
    let mut backoff = Backoff::new(link.timing());
    let mut said: Option<String> = None;
    loop {
        let failure = match link.publishing().await {
            Err(failure) => failure,
            Ok(mut redis) => {
                let since = Instant::now();
                if said.take().is_some() {
                    tracing::info!("Other nodes can be told of events and members again");
                }
                state.send_replace(State::Up);
                let outcome = publish(&mut redis, &channel, &mut queue, &waiting).await;
                state.send_replace(State::Away);
                backoff.connection_lasted(since.elapsed());
                match outcome {
                    Ok(()) => return,
                    Err(failure) => failure,
                }
            }
        };
        // What waits was for those who are now out of reach; they ask for what they have missed of members.
        while let Ok(out) = queue.try_recv() {
            drop(taken(out, &waiting));
        }
        state.send_replace(State::Away);
        if said.as_deref() != Some(&failure.to_string()) {
            tracing::warn!(
                "{failure} Until that is over, other nodes are not told of client events and members. \"cluster\": false does \
                 without them."
            );
            said = Some(failure.to_string());
        }
        backoff.pause().await;
    }
}

/// Until the connection fails, or nobody is left to say anything.
async fn publish(
    redis: &mut Publishing,
    channel: &str,
    queue: &mut mpsc::UnboundedReceiver<Out>,
    waiting: &Waiting,
) -> Result<(), Failure> {
    let mut unsent = BytesMut::new();
    let mut marks: Vec<oneshot::Sender<()>> = Vec::new();
    loop {
        if unsent.is_empty() {
            marks.drain(..).for_each(|mark| {
                let _ = mark.send(());
            });
        }
        let mut next = tokio::select! {
            biased;
            out = queue.recv(), if unsent.len() < PIECE_BYTES => match out {
                Some(out) => Some(out),
                None => return Ok(()),
            },
            done = redis.turn(&mut unsent) => {
                done?;
                None
            }
        };
        while let Some(out) = next {
            match taken(out, waiting) {
                Out::Message(message) => {
                    publish_command(channel, &message, &mut unsent);
                    redis.sent(1);
                }
                Out::Mark(mark) => marks.push(mark),
            }
            next = if unsent.len() < PIECE_BYTES { queue.try_recv().ok() } else { None };
        }
    }
}

fn taken(out: Out, waiting: &Waiting) -> Out {
    if let Out::Message(message) = &out {
        waiting.bytes.fetch_sub(message.len(), Ordering::Relaxed);
        waiting.taken.notify_waiters();
    }
    out
}
