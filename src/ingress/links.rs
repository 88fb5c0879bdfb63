//! The connections over which Redis is heard: one, or two of which one may be lost.
//!
//! With two, the *active* one's messages are delivered, and the *standby* hears the same. When the active one fails
//! or falls silent, the standby goes on from exactly there ([`positions`](super::positions)), and another standby is
//! made; that is no outage, and nobody but the log hears of it. Only when both are lost at once is Redis away. Not
//! here: connecting again after that, and what is done with the messages.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::heartbeat::{BEAT, Heartbeat};
use super::positions::{HELD_BYTES_MAX, Heard, Held, Positions};
use super::unix_millis;
use crate::metrics::Metrics;
use crate::protocol::prefix;
use crate::redis::{Backoff, Failure, Link, Published, Reached, Subscription};

/// A connection is silent when it has not brought so many heartbeats that Redis has taken, nor anything else.
const MISSED: u32 = 3;

/// The same, if there is no other one that could take over: then patience may be the smaller loss.
const MISSED_ALONE: u32 = 10;

/// How Redis is heard.
#[derive(Debug)]
pub struct Links {
    link: Link,
    are_two: bool,
    /// The log knows that heartbeats are not possible.
    has_said: Arc<AtomicBool>,
}

impl Links {
    /// Over one connection.
    pub fn one(link: Link) -> Self {
        Self { link, are_two: false, has_said: Arc::default() }
    }

    /// Over two. It takes heartbeats, published by this server to itself; where Redis refuses them there is one.
    pub fn two(link: Link) -> Self {
        Self { are_two: true, ..Self::one(link) }
    }

    /// Where to, and with which patience.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Subscribes to what has this key prefix. The second connection follows by itself.
    pub(super) async fn open(&self, prefix: &str, metrics: &Metrics) -> Result<Listening, Failure> {
        let active = self.link.subscribe(&prefix::pattern(prefix)).await?;
        let heartbeat = match self.are_two {
            true => Heartbeat::start(&self.link, active.reached(), prefix, self.has_said.clone()),
            false => None,
        };
        let twin = heartbeat.map(|heartbeat| Twin {
            heartbeat,
            positions: Positions::default(),
            standby: Standby::Absent,
            connecting: Connect {
                link: self.link.clone(),
                reached: active.reached().clone(),
                pattern: prefix::pattern(prefix),
            },
            backoff: Backoff::new(self.link.timing()),
            recent: [0; MISSED as usize],
            due: VecDeque::new(),
            news: None,
            is_alone: true,
            has_said_alone: false,
            metrics: metrics.clone(),
        });
        Ok(Listening { active, twin, heard: unix_millis(), marker: 0 })
    }
}

/// Redis is heard. After a failure it is of no use any more.
#[derive(Debug)]
pub(super) struct Listening {
    active: Subscription,
    twin: Option<Twin>,
    /// When anything was last heard, in Unix milliseconds.
    heard: u64,
    /// The last heartbeat that was heard.
    marker: u64,
}

impl Listening {
    /// Everything that was published before this time, in Unix milliseconds, has been heard.
    pub(super) fn heard_until(&self) -> u64 {
        // Heartbeats may have ended long ago, though the connection lives.
        let is_recent = self.marker.saturating_add(2 * BEAT.as_millis() as u64) >= self.heard;
        if is_recent { self.marker.min(self.heard) } else { self.heard }
    }

    /// Waits for more. Dropped before its end, it has done nothing.
    pub(super) async fn fill(&mut self) -> Result<(), Failure> {
        let Self { active, twin: Some(twin), heard, .. } = self else {
            self.active.fill().await?;
            self.heard = unix_millis();
            return Ok(());
        };
        // Each has its turn, however much comes over the other.
        let mut failure = twin.hear_now();
        loop {
            if let Some(failure) = failure {
                *active = twin.take_over(failure)?;
                return Ok(());
            }
            failure = tokio::select! {
                biased;
                filled = active.fill() => match filled {
                    Ok(()) => {
                        twin.active_lives();
                        *heard = unix_millis();
                        return Ok(());
                    }
                    Err(failure) => Some(failure),
                },
                event = twin.standby.next() => twin.note(event),
                marker = twin.heartbeat.taken() => twin.judge(marker, active.silent_for()),
            };
        }
    }

    /// Shows each message that has been read as a whole to `take`: each once, in the order of Redis.
    pub(super) fn each(&mut self, mut take: impl FnMut(Published<'_>)) -> Result<(), Failure> {
        let Self { active, twin: Some(twin), marker, .. } = self else {
            return self.active.each(take);
        };
        let Twin { heartbeat, positions, due, .. } = twin;
        for held in due.drain(..) {
            match held.heard() {
                Heard::Marker(number) => *marker = number,
                Heard::Message(message) => take(message),
            }
        }
        active.each(|message| match heartbeat.marker(message.channel, message.payload) {
            Some(number) => {
                *marker = number;
                positions.active(Heard::Marker(number));
            }
            None => {
                if positions.active(Heard::Message(message)) {
                    take(message);
                }
            }
        })?;
        twin.settle();
        Ok(())
    }
}

type Connecting = Pin<Box<dyn Future<Output = Result<Box<Subscription>, Failure>> + Send>>;

/// The second connection.
enum Standby {
    /// Not before the first heartbeat has been heard.
    Absent,
    Connecting(Connecting),
    Connected(Box<Subscription>, Instant),
}

enum Event {
    Connected(Result<Box<Subscription>, Failure>),
    Filled(Result<(), Failure>),
}

impl Standby {
    /// Waits until something happens. Dropped before its end, it has done nothing.
    async fn next(&mut self) -> Event {
        match self {
            Self::Absent => std::future::pending().await,
            Self::Connecting(connecting) => Event::Connected(connecting.await),
            Self::Connected(subscription, _) => Event::Filled(subscription.fill().await),
        }
    }
}

impl std::fmt::Debug for Standby {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Absent => "Absent",
            Self::Connecting(_) => "Connecting",
            Self::Connected(..) => "Connected",
        })
    }
}

/// How the second connection is made: to the same server, since only there is the order the same.
#[derive(Debug)]
struct Connect {
    link: Link,
    reached: Reached,
    pattern: String,
}

impl Connect {
    fn after(&self, pause: Duration) -> Connecting {
        let Self { link, reached, pattern } = self;
        let (link, reached, pattern) = (link.clone(), reached.clone(), pattern.clone());
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            link.subscribe_at(&reached, &pattern).await.map(Box::new)
        })
    }
}

/// What has happened that the log is told when it is known how it went on.
#[derive(Debug)]
enum News {
    /// The standby has taken over, and whether it lives itself is not known yet.
    TakenOver(Failure),
    /// The standby was lost.
    StandbyLost(Failure),
}

/// What belongs to the second connection.
#[derive(Debug)]
struct Twin {
    heartbeat: Heartbeat,
    positions: Positions,
    standby: Standby,
    connecting: Connect,
    backoff: Backoff,
    /// The last markers that Redis has taken, the oldest first.
    recent: [u64; MISSED as usize],
    /// What the standby had heard when it took over, to be delivered before anything else.
    due: VecDeque<Held>,
    news: Option<News>,
    /// The standby could not take over just now.
    is_alone: bool,
    has_said_alone: bool,
    metrics: Metrics,
}

impl Twin {
    /// The standby's turn, if there is something to read. A failure is one of the active connection.
    fn hear_now(&mut self) -> Option<Failure> {
        let Standby::Connected(subscription, _) = &mut self.standby else { return None };
        match subscription.fill_now() {
            Ok(false) => None,
            Ok(true) => self.note(Event::Filled(Ok(()))),
            Err(failure) => self.note(Event::Filled(Err(failure))),
        }
    }

    /// Something has happened to the standby. A failure is one of the active connection.
    fn note(&mut self, event: Event) -> Option<Failure> {
        match event {
            Event::Connected(Ok(subscription)) => {
                self.standby = Standby::Connected(subscription, Instant::now());
                self.positions.begin_standby(self.heartbeat.made());
                // Both know the same place from then on.
                self.heartbeat.beat();
                None
            }
            Event::Connected(Err(failure)) => {
                if !std::mem::replace(&mut self.has_said_alone, true) {
                    tracing::warn!(
                        "{failure} So there is no second connection: what is published while the first one is lost is missed."
                    );
                }
                self.standby = Standby::Connecting(self.connecting.after(self.backoff.next_wait()));
                None
            }
            Event::Filled(filled) => match filled.and_then(|()| self.hear()) {
                Ok(()) => {
                    self.settle();
                    self.relieve()
                }
                Err(failure) => {
                    self.lose_standby(failure);
                    None
                }
            },
        }
    }

    fn hear(&mut self) -> Result<(), Failure> {
        let Self { standby: Standby::Connected(subscription, _), heartbeat, positions, .. } = self else {
            return Ok(());
        };
        subscription.each(|message| {
            positions.standby(match heartbeat.marker(message.channel, message.payload) {
                Some(number) => Heard::Marker(number),
                None => Heard::Message(message),
            });
        })
    }

    /// More is held than may be: the standby takes over, or begins anew where it cannot.
    fn relieve(&mut self) -> Option<Failure> {
        if !self.positions.is_full() {
            return None;
        }
        if !self.positions.is_ready() {
            self.positions.forget_standby();
            return None;
        }
        Some(Failure::new(format!(
            "One of the two connections to Redis at {} is {} MB behind the other.",
            self.connecting.link,
            HELD_BYTES_MAX / (1024 * 1024)
        )))
    }

    fn lose_standby(&mut self, failure: Failure) {
        if !matches!(self.news, Some(News::TakenOver(_))) {
            self.news = Some(News::StandbyLost(failure));
        }
        self.replace_standby();
    }

    fn replace_standby(&mut self) {
        if let Standby::Connected(_, since) = &self.standby {
            self.backoff.connection_lasted(since.elapsed());
        }
        self.positions.forget_standby();
        self.is_alone = true;
        self.standby = Standby::Connecting(self.connecting.after(self.backoff.next_wait()));
    }

    /// The active connection has failed: the standby goes on in its place.
    fn take_over(&mut self, failure: Failure) -> Result<Subscription, Failure> {
        let Standby::Connected(subscription, since) = std::mem::replace(&mut self.standby, Standby::Absent) else {
            return Err(failure);
        };
        // If the one that took over last has not shown life, that was the end of both.
        let Some(held) = self.positions.take_over() else { return Err(failure) };
        self.due.extend(held);
        self.backoff.connection_lasted(since.elapsed());
        self.news = Some(News::TakenOver(failure));
        self.replace_standby();
        Ok(*subscription)
    }

    /// The active connection has brought something.
    fn active_lives(&mut self) {
        match self.news.take() {
            Some(News::TakenOver(failure)) => {
                self.metrics.redis_takeovers.add(());
                tracing::warn!("{failure} The second connection has taken its place, and nothing was missed.");
            }
            other => self.news = other,
        }
    }

    /// After either has been read.
    fn settle(&mut self) {
        if let (Standby::Absent, Some(_)) = (&self.standby, self.positions.active_marker()) {
            self.standby = Standby::Connecting(self.connecting.after(Duration::ZERO));
        }
        if self.is_alone && self.positions.is_ready() {
            self.is_alone = false;
            self.has_said_alone = false;
            if let Some(News::StandbyLost(failure)) = self.news.take_if(|news| matches!(news, News::StandbyLost(_))) {
                tracing::warn!(
                    "{failure} That was the second connection, which has been made anew; nothing was missed."
                );
            }
            tracing::info!(
                "Redis at {} is heard over two connections: one may be lost, and nothing is missed",
                self.connecting.link
            );
        }
    }

    /// Redis has taken this marker. A failure: the active connection, which has been silent for so long, is broken.
    fn judge(&mut self, marker: u64, active_silent_for: Duration) -> Option<Failure> {
        self.recent.rotate_left(1);
        self.recent[self.recent.len() - 1] = marker;
        let oldest = self.recent[0];
        if oldest > 0 && self.positions.active_marker().is_none() && !std::mem::replace(&mut self.has_said_alone, true)
        {
            tracing::warn!(
                "Redis at {} takes heartbeats and does not bring them: other servers answer at this address in turn. So there is no \
                 second connection: what is published while the first one is lost is missed, and told as a gap.",
                self.connecting.link
            );
        }
        let is_missed = |heard: Option<u64>| heard.is_some_and(|heard| heard < oldest);
        if let Standby::Connected(subscription, _) = &self.standby
            && is_missed(self.positions.standby_marker())
            && subscription.silent_for() >= BEAT * MISSED
        {
            let failure = self.is_silent(subscription.silent_for());
            self.lose_standby(failure);
        }
        let patience = if self.positions.is_ready() { MISSED } else { MISSED_ALONE };
        let is_broken = is_missed(self.positions.active_marker()) && active_silent_for >= BEAT * patience;
        is_broken.then(|| self.is_silent(active_silent_for))
    }

    fn is_silent(&self, silent_for: Duration) -> Failure {
        Failure::new(format!(
            "Redis at {} has sent nothing over one connection for {:.1} s, not even the heartbeats that it has taken \
             meanwhile: something between drops it.",
            self.connecting.link,
            silent_for.as_secs_f32()
        ))
    }
}
