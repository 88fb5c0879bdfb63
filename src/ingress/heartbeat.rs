//! Heartbeats: markers that this server publishes to itself, twice a second, to know exactly how far it has heard.
//!
//! A marker is the time at which it was published; what Redis took before it has been heard when it is. It goes over a
//! connection of its own, to a channel of its own that the subscribed pattern matches. Other servers hear it too, and
//! [`is_heartbeat`] tells them that it is no event.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::unix_millis;
use crate::redis::{Backoff, Failure, Link, Reached, Timing};

/// How often one is published.
pub const BEAT: Duration = Duration::from_millis(500);

/// What each begins with: JSON without `event`, which no server takes for one, not even the old one.
const MAGIC: &str = "{\"echo-server-heartbeat\":";

/// Redis takes a marker in this time, or the connection is made anew.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// After Redis has refused to publish it is asked again after this time: rights may be given.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// Whether a payload is a heartbeat, of whichever server.
pub fn is_heartbeat(payload: &[u8]) -> bool {
    payload.starts_with(MAGIC.as_bytes())
}

/// The channels on which servers with this key prefix publish them, as a pattern for an ACL without its `*`.
pub fn channels(prefix: &str) -> String {
    format!("{prefix}echo-server:heartbeat:")
}

fn payload(marker: u64) -> String {
    format!("{MAGIC}{marker}}}")
}

/// The near end of the task that publishes. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Heartbeat {
    channel: String,
    taken: watch::Receiver<u64>,
    made: Arc<AtomicU64>,
    wanted: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Heartbeat {
    /// Publishes at this server, under this key prefix. `has_said`: the log knows that it cannot be done.
    pub(super) fn start(link: &Link, reached: &Reached, prefix: &str, has_said: Arc<AtomicBool>) -> Option<Self> {
        let id = getrandom::u64().ok()?;
        let channel = format!("{}{id:016x}", channels(prefix));
        let (sender, taken) = watch::channel(0);
        let (made, wanted) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let timing = Timing { answer_max: ANSWER_MAX.min(link.timing().answer_max), ..*link.timing() };
        let publisher = Publisher {
            link: link.clone().with_timing(timing),
            reached: reached.clone(),
            channel: channel.clone(),
            taken: sender,
            wanted: wanted.clone(),
            made: made.clone(),
            has_said,
        };
        Some(Self { channel, taken, made, wanted, task: tokio::spawn(publisher.run()) })
    }

    /// The last marker that was made, whether Redis has taken it yet or not.
    pub(super) fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    /// The marker that a message is, if it is one of these: one that was never made is somebody else's.
    pub(super) fn marker(&self, channel: &[u8], payload: Option<&[u8]>) -> Option<u64> {
        if channel != self.channel.as_bytes() {
            return None;
        }
        let digits = payload?.strip_prefix(MAGIC.as_bytes())?.strip_suffix(b"}")?;
        std::str::from_utf8(digits).ok()?.parse().ok().filter(|marker| *marker <= self.made())
    }

    /// Waits until Redis has taken another marker.
    pub(super) async fn taken(&mut self) -> u64 {
        match self.taken.changed().await {
            Ok(()) => *self.taken.borrow_and_update(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Publishes one at once.
    pub(super) fn beat(&self) {
        self.wanted.notify_one();
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Publisher {
    link: Link,
    reached: Reached,
    channel: String,
    taken: watch::Sender<u64>,
    wanted: Arc<Notify>,
    made: Arc<AtomicU64>,
    has_said: Arc<AtomicBool>,
}

impl Publisher {
    async fn run(self) {
        let mut backoff = Backoff::new(self.link.timing());
        let mut failures = 0;
        loop {
            let message = self.next();
            match self.link.publish_at(&self.reached, &self.channel, &message).await {
                Ok(mut commands) => {
                    let since = Instant::now();
                    failures = 0;
                    if self.has_said.swap(false, Ordering::Relaxed) {
                        tracing::info!("Redis at {} takes heartbeats now", self.link);
                    }
                    loop {
                        self.taken.send_replace(self.made.load(Ordering::SeqCst));
                        let _ = timeout(BEAT, self.wanted.notified()).await;
                        let message = self.next();
                        if commands.ask(&["PUBLISH", &self.channel, &message]).await.is_err() {
                            break;
                        }
                    }
                    backoff.connection_lasted(since.elapsed());
                }
                Err(failure) => {
                    failures += 1;
                    let is_refused = failure.to_string().contains("NOPERM");
                    // If Redis is gone altogether, others find that out at once, and say it.
                    if is_refused || failures > 1 {
                        self.say(&failure);
                    }
                    if is_refused {
                        tokio::time::sleep(REFUSED_PAUSE).await;
                    }
                }
            }
            backoff.pause().await;
        }
    }

    /// Later than any before, even if the clock is set back.
    fn next(&self) -> String {
        let marker = unix_millis().max(self.made.load(Ordering::SeqCst) + 1);
        self.made.store(marker, Ordering::SeqCst);
        payload(marker)
    }

    fn say(&self, failure: &Failure) {
        if !self.has_said.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "{failure} Without heartbeats, for which \"resume\" wants that, there is one connection to Redis and no \
                 second one: what is published while it is lost is missed, and told as a gap."
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::event;

    #[test]
    fn a_heartbeat_is_known_by_what_it_says_and_is_no_event() {
        let payload = payload(1_764_000_000_123);
        assert!(is_heartbeat(payload.as_bytes()));
        assert!(!is_heartbeat(br#"{"event":"e"}"#));
        let value: serde_json::Value = serde_json::from_str(&payload).unwrap();
        assert_eq!(value, serde_json::json!({"echo-server-heartbeat": 1_764_000_000_123_u64}));
        assert!(event::parse(payload.as_bytes()).is_err());
    }

    #[tokio::test]
    async fn a_marker_is_one_of_its_own() {
        let (_, taken) = watch::channel(0);
        let heartbeat = Heartbeat {
            channel: "p_echo-server:heartbeat:07".to_owned(),
            taken,
            made: Arc::new(AtomicU64::new(12)),
            wanted: Arc::default(),
            task: tokio::spawn(async {}),
        };
        let channel = b"p_echo-server:heartbeat:07";
        assert_eq!(heartbeat.marker(channel, Some(payload(12).as_bytes())), Some(12));
        assert_eq!(heartbeat.marker(channel, Some(payload(13).as_bytes())), None, "it was never made");
        assert_eq!(heartbeat.marker(b"p_echo-server:heartbeat:08", Some(payload(12).as_bytes())), None);
        for other in
            [None, Some(&b"12"[..]), Some(b"{\"echo-server-heartbeat\":-1}"), Some(b"{\"echo-server-heartbeat\":")]
        {
            assert_eq!(heartbeat.marker(channel, other), None);
        }
    }
}
