//! Asking all shards about an app's channels: the one place that knows who is to be asked, adds up
//! what they say, and how long they may take. Each shard's own answer is in `shard`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::inbox::{AppIndex, Control, Found, Query, ShardHandle};

/// How long the answers may take, those before this one included. A shard answers between two
/// batches of events; one that does not for so long is overloaded.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many queries may be under way. Each takes the time of all shards, which deliver events
/// meanwhile to nobody.
const QUERIES_MAX: usize = 8;

/// Not all shards have answered in time: the server is overloaded.
#[derive(Debug, thiserror::Error)]
#[error("the server is too busy to count: its shards did not answer within {} s", PATIENCE.as_secs())]
pub struct TooBusy;

/// Everybody who owns connections. A clone shares everything.
#[derive(Clone, Debug)]
pub struct Everybody {
    shards: Arc<[ShardHandle]>,
    turns: Arc<Semaphore>,
    patience: Duration,
}

impl Everybody {
    /// Those behind these handles.
    pub fn new(shards: &[ShardHandle]) -> Self {
        Self { shards: shards.into(), turns: Arc::new(Semaphore::new(QUERIES_MAX)), patience: PATIENCE }
    }

    /// Asks all and adds up.
    ///
    /// # Errors
    /// Not everybody has answered in time. There are no partial answers.
    pub async fn ask(&self, app: AppIndex, query: Query) -> Result<Found, TooBusy> {
        timeout(self.patience, self.ask_without_end(app, query)).await.unwrap_or(Err(TooBusy))
    }

    async fn ask_without_end(&self, app: AppIndex, query: Query) -> Result<Found, TooBusy> {
        let _turn = self.turns.acquire().await.map_err(|_| TooBusy)?;
        let (reply, mut replies) = mpsc::unbounded_channel();
        for shard in self.shards.iter() {
            shard.tell(Control::Query { app, query: query.clone(), reply: reply.clone() });
        }
        drop(reply);
        let mut sum = Found::default();
        for _ in self.shards.iter() {
            // None: a shard has ended, as all do when the server stops.
            sum.merge(replies.recv().await.ok_or(TooBusy)?);
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::{Counts, inbox};
    use crate::protocol::channel::ChannelName;

    fn found(subscriptions: usize, users: usize) -> Found {
        let counts = Counts { subscriptions, users };
        Found { channels: [(ChannelName::published("presence-a"), counts)].into(), ..Found::default() }
    }

    #[tokio::test]
    async fn answers_are_added_up() {
        let (shards, mut inboxes): (Vec<_>, Vec<_>) = (0..3).map(|_| inbox()).unzip();
        let everybody = Everybody::new(&shards);
        let answers = async {
            for (index, inbox) in inboxes.iter_mut().enumerate() {
                let Some(Control::Query { app, query: Query::Prefix(prefix), reply }) = inbox.control.recv().await
                else {
                    panic!("no query")
                };
                assert_eq!((app, &*prefix), (AppIndex(4), "presence-"));
                reply.send(if index == 2 { Found::default() } else { found(index + 1, index) }).unwrap();
            }
        };
        let (sum, ()) = tokio::join!(everybody.ask(AppIndex(4), Query::Prefix("presence-".into())), answers);
        let counts: Vec<Counts> = sum.unwrap().channels.into_values().collect();
        assert_eq!(counts, [Counts { subscriptions: 3, users: 1 }]);
    }

    #[tokio::test]
    async fn a_shard_that_says_nothing_is_not_waited_for_without_end() {
        let (shard, inbox) = inbox();
        let everybody = Everybody { patience: Duration::from_millis(50), ..Everybody::new(&[shard]) };
        let query = Query::Prefix("".into());
        // More than may be under way at once: those that wait for a turn do not wait longer.
        let asked = (0..QUERIES_MAX * 2).map(|_| everybody.ask(AppIndex(0), query.clone()));
        let before = std::time::Instant::now();
        assert!(futures_util::future::join_all(asked).await.iter().all(Result::is_err));
        assert!(before.elapsed() < PATIENCE);
        drop(inbox);
        assert!(everybody.ask(AppIndex(0), query).await.is_err(), "a shard that has ended");
    }
}
