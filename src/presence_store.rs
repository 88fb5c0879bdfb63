//! Copies of the presence lists in Redis, for applications that read them there, in the old
//! server's form: key `<keyPrefix><channel>:members`, and `PresenceChannelUpdated` messages.
//!
//! Nothing here is ever read back. A home shard owns its lists and only remembers which have changed; this
//! asks for them when it can write them, so many changes of one channel become one write, and
//! a slow Redis costs no memory. The old server read, changed and wrote, and lost what others had written
//! between. Each key expires unless it is refreshed, so what a crash leaves behind is gone within
//! `KEPT_SECS`; a server that stops deletes its own. Of several nodes, which all know the same lists, one
//! writes them: the one that speaks for all ([`crate::bus`]). Of others' members it knows no socket ids.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{self, MissedTickBehavior};

use crate::bus::{Bus, Status};
use crate::config::{self, Config};
use crate::inbox::{Control, PresenceChanges, PresenceList, ShardHandle};
use crate::redis::{Backoff, Commands, Failure, Link, Pipeline};

/// Keys that are not refreshed are gone after so many seconds.
const KEPT_SECS: u64 = 120;

/// How often keys are refreshed: two may fail.
const REFRESH_EVERY: Duration = Duration::from_secs(40);

/// Commands that go out together at most, and their bytes.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 256 * 1024;

/// The longest text of an answer: nothing is read but whether it worked.
const ANSWER_BYTES_MAX: usize = 4096;

/// The Redis channel of the old server's messages. It has no prefix, not even with a `keyPrefix`.
pub const UPDATED: &str = "PresenceChannelUpdated";

/// For each app what stands before its channels' names; `None`: its lists are not kept.
pub type Prefixes = Vec<Option<String>>;

/// Keeps the copies.
#[derive(Debug)]
pub struct PresenceStore {
    link: Link,
    /// What stands before the channel's name, for each app; `None`: not kept.
    prefixes: watch::Receiver<Prefixes>,
    publish: bool,
    changes: PresenceChanges,
    shards: Vec<ShardHandle>,
    bus: Bus,
    /// Keys that Redis has from here, and what their lists were, as a hash.
    written: HashMap<String, u64>,
}

impl PresenceStore {
    /// As the configuration says; `None` if it does not ask for copies. The prefixes are [`prefixes`] of it, and of
    /// another one, if apps come or go.
    pub fn new(
        config: &Config,
        prefixes: watch::Receiver<Prefixes>,
        shards: &[ShardHandle],
        bus: &Bus,
    ) -> Option<Self> {
        let store = config.presence_store?;
        Some(Self {
            link: Link::new(config.redis.clone(), ANSWER_BYTES_MAX),
            prefixes,
            publish: store.publish,
            changes: PresenceChanges::default(),
            shards: shards.to_vec(),
            bus: bus.clone(),
            written: HashMap::new(),
        })
    }

    /// For the home shards.
    pub fn changes(&self) -> PresenceChanges {
        self.changes.clone()
    }

    /// Keeps the copies until it is to stop, whatever becomes of Redis meanwhile; then deletes them.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut backoff = Backoff::new(self.link.timing());
        let mut said = String::new();
        let mut status = self.bus.status();
        loop {
            tokio::select! {
                () = another_speaks(&mut status, false) => {}
                () = told(&mut stop) => return,
            }
            let outcome = self.try_run(&mut stop, &mut said).await;
            self.changes.want(false);
            let failure = match outcome {
                Ok(End::AnotherSpeaks) => continue,
                Ok(End::Stop) => return,
                Err(failure) => failure,
            };
            let failure = failure.to_string();
            // The ingress says what becomes of Redis; here once is enough.
            if said.is_empty() {
                tracing::warn!("{failure} Presence lists in Redis are not up to date; still trying.");
            }
            said = failure;
            tokio::select! {
                () = backoff.pause() => {}
                // What is in Redis expires.
                () = told(&mut stop) => return,
            }
        }
    }

    /// Writes all lists, then each that changes, until the end or a failure.
    async fn try_run(&mut self, stop: &mut watch::Receiver<bool>, said: &mut String) -> Result<End, Failure> {
        let mut status = self.bus.status();
        let mut redis = self.link.commands().await?;
        self.changes.want(true);
        self.write(&mut redis, true).await?;
        if !std::mem::take(said).is_empty() {
            tracing::info!("Presence lists are kept in Redis at {} again", self.link);
        }
        let mut refresh = time::interval_at(time::Instant::now() + REFRESH_EVERY, REFRESH_EVERY);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.changes.some() => self.write(&mut redis, false).await?,
                _ = refresh.tick() => {
                    // A key that is no more shows that Redis has lost its data.
                    if self.refresh(&mut redis).await? > 0 {
                        self.write(&mut redis, true).await?;
                    }
                }
                () = another_speaks(&mut status, true) => {
                    // What that one does not write expires.
                    self.written.clear();
                    return Ok(End::AnotherSpeaks);
                }
                () = told(stop) => {
                    if self.bus.is_alone() {
                        self.delete_all(&mut redis).await?;
                    }
                    return Ok(End::Stop);
                }
            }
        }
    }

    /// Writes the lists that have changed, or all; then also takes back those that are no more.
    async fn write(&mut self, redis: &mut Commands, all: bool) -> Result<(), Failure> {
        let mut seen = HashSet::new();
        for shard in self.shards.clone() {
            let mut again = all;
            loop {
                let (answer, lists) = oneshot::channel();
                shard.tell(Control::PresenceLists { all: again, answer });
                again = false;
                // A shard that has ended has no lists.
                let lists = lists.await.unwrap_or_default();
                if lists.is_empty() {
                    break;
                }
                let lists = lists
                    .into_iter()
                    .filter_map(|list| Some((self.key(&list)?, list.channel.as_str().to_owned(), list.members)));
                let lists: Vec<_> = lists.collect();
                if all {
                    seen.extend(lists.iter().map(|(key, ..)| key.clone()));
                }
                self.put(redis, lists).await?;
            }
        }
        if !all {
            return Ok(());
        }
        let gone: Vec<_> = self.written.keys().filter(|key| !seen.contains(*key)).cloned().collect();
        let gone = gone.into_iter().filter_map(|key| {
            let channel = self.channel_of(&key)?;
            Some((key, channel, "[]".to_owned()))
        });
        let gone: Vec<_> = gone.collect();
        self.put(redis, gone).await
    }

    /// Writes lists: key, channel, members.
    async fn put(&mut self, redis: &mut Commands, lists: Vec<(String, String, String)>) -> Result<(), Failure> {
        let kept = KEPT_SECS.to_string();
        let mut pipeline = Pipeline::default();
        for (key, channel, members) in lists {
            pipeline.push(&["SET", &key, &members, "EX", &kept]);
            let hash = hash(&members);
            // An empty list is left to expire, as if it had never been there.
            let before = match members.as_str() {
                "[]" => self.written.remove(&key),
                _ => self.written.insert(key, hash),
            };
            if self.publish && before != Some(hash) {
                pipeline.push(&["PUBLISH", UPDATED, &updated(&channel, &members)]);
            }
            if pipeline.bytes() > BATCH_BYTES {
                redis.run(std::mem::take(&mut pipeline)).await?;
            }
        }
        redis.run(pipeline).await.map(drop)
    }

    /// How many of the keys are no more.
    async fn refresh(&self, redis: &mut Commands) -> Result<usize, Failure> {
        let kept = KEPT_SECS.to_string();
        let mut gone = 0;
        for keys in self.written.keys().collect::<Vec<_>>().chunks(BATCH) {
            let mut pipeline = Pipeline::default();
            keys.iter().for_each(|key| pipeline.push(&["EXPIRE", key, &kept]));
            gone += redis.run(pipeline).await?;
        }
        Ok(gone)
    }

    async fn delete_all(&mut self, redis: &mut Commands) -> Result<(), Failure> {
        let keys: Vec<_> = std::mem::take(&mut self.written).into_keys().collect();
        for keys in keys.chunks(BATCH) {
            let mut pipeline = Pipeline::default();
            for key in keys {
                pipeline.push(&["DEL", key]);
                if let (true, Some(channel)) = (self.publish, self.channel_of(key)) {
                    pipeline.push(&["PUBLISH", UPDATED, &updated(&channel, "[]")]);
                }
            }
            redis.run(pipeline).await?;
        }
        Ok(())
    }

    fn key(&self, list: &PresenceList) -> Option<String> {
        let prefixes = self.prefixes.borrow();
        let prefix = prefixes.get(usize::from(list.app.0))?.as_ref()?;
        Some(format!("{prefix}{}:members", list.channel.as_str()))
    }

    fn channel_of(&self, key: &str) -> Option<String> {
        let name = key.strip_suffix(":members")?;
        // Of several prefixes, the longest that fits is the one.
        let prefixes = self.prefixes.borrow();
        let fitting = prefixes.iter().flatten().filter_map(|prefix| name.strip_prefix(prefix.as_str()));
        fitting.min_by_key(|name| name.len()).map(str::to_owned)
    }
}

/// Why nothing is written any more.
enum End {
    Stop,
    AnotherSpeaks,
}

/// Waits until another node speaks for all, or does not.
async fn another_speaks(status: &mut watch::Receiver<Status>, wanted: bool) {
    // Without other nodes nobody keeps a status.
    if status.wait_for(|status| status.another_speaks == wanted).await.is_err() {
        std::future::pending().await
    }
}

/// Waits until it is to stop. Without anybody who could say so any more, that is now.
async fn told(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// For each app what stands before its channels. Two apps with one prefix would overwrite each other's
/// lists, so the first one has it.
pub fn prefixes(config: &Config) -> Prefixes {
    let mut taken = HashSet::new();
    let prefix = |app: &config::App| {
        if app.is_removed {
            return None;
        }
        let prefix = app.key_prefix.as_ref().or(config.redis.key_prefix.as_ref()).cloned().unwrap_or_default();
        taken.insert(prefix.clone()).then_some(prefix)
    };
    let prefixes: Vec<_> = config.apps.iter().map(prefix).collect();
    let without = config.apps.iter().zip(&prefixes).filter(|(app, prefix)| prefix.is_none() && !app.is_removed);
    let without: Vec<&str> = without.map(|(app, _)| app.id.as_str()).collect();
    if !without.is_empty() {
        tracing::warn!(
            "The presence lists of {} are not kept in Redis: they would have the keys of another app's. Give each client a \
             \"keyPrefix\".",
            without.join(", ")
        );
    }
    prefixes
}

/// The old server's message: the key, less the prefix, and the list.
fn updated(channel: &str, members: &str) -> String {
    let channel = serde_json::Value::from(format!("{channel}:members"));
    format!("{{\"event\":{{\"channel\":{channel},\"members\":{members}}}}}")
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
