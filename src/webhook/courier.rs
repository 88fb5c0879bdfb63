//! Takes one URL's events there: several in a request, signed, in order, and again if it fails.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant as Moment, sleep, sleep_until, timeout_at};

use super::leaves::Leaves;
use super::queue::Waiting;
use super::{Bounds, Endpoint};
use crate::protocol::{signature, webhook};

/// What is read of an answer, so that its connection can be used again. It is not looked at.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// One URL's task.
pub struct Courier {
    endpoint: Arc<Endpoint>,
    client: reqwest::Client,
    bounds: Bounds,
    waiting: mpsc::UnboundedReceiver<Waiting>,
    leaves: Leaves,
    ready: VecDeque<Waiting>,
    /// The last request has failed.
    is_failing: bool,
    stopped: watch::Receiver<bool>,
}

impl Courier {
    pub fn new(
        endpoint: Arc<Endpoint>,
        client: reqwest::Client,
        bounds: Bounds,
        waiting: mpsc::UnboundedReceiver<Waiting>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let leaves = Leaves::new(bounds.leave_delay);
        Self { endpoint, client, bounds, waiting, leaves, ready: VecDeque::new(), is_failing: false, stopped }
    }

    /// Runs until the server stops and everything is sent or lost.
    pub async fn run(mut self) {
        loop {
            if self.ready.is_empty() {
                self.say_rest();
                self.wait().await;
            }
            // Before the queue is emptied: what comes later than that is nobody's any more.
            let is_last = self.is_stopped();
            while let Ok(event) = self.waiting.try_recv() {
                self.leaves.take(event, &mut self.ready);
            }
            if is_last {
                self.leaves.pass_all(&mut self.ready);
            } else {
                self.leaves.pass(Instant::now(), &mut self.ready);
            }
            // Some are here only because they undo others.
            let endpoint = &self.endpoint;
            self.ready.retain(|event| endpoint.is_told(event.kind));
            if self.ready.is_empty() && is_last {
                return self.say_rest();
            }
            let batch = self.batch();
            if !batch.is_empty() {
                self.deliver(batch).await;
            }
        }
    }

    fn is_stopped(&self) -> bool {
        *self.stopped.borrow() || self.stopped.has_changed().is_err()
    }

    /// Waits for the first event, and then a little for others to go with it.
    async fn wait(&mut self) {
        let Self { waiting, leaves, ready, stopped, bounds, .. } = self;
        let due = leaves.due().map(Moment::from_std);
        tokio::select! {
            event = waiting.recv() => match event {
                Some(event) => leaves.take(event, ready),
                // Whoever could offer events has gone, without a word: the process ends.
                None => std::future::pending().await,
            },
            () = until(due) => return,
            () = stop(stopped) => return,
        }
        tokio::select! {
            () = sleep(bounds.batch_delay) => {}
            () = stop(stopped) => {}
        }
    }

    /// Those that go in one request.
    fn batch(&mut self) -> Vec<Waiting> {
        let mut bytes = 0;
        let fits = |event: &&Waiting| {
            bytes += event.text.len();
            bytes <= self.bounds.batch_bytes_max
        };
        let count = self.ready.iter().take(self.bounds.batch_events_max).take_while(fits).count().max(1);
        self.ready.drain(..count.min(self.ready.len())).collect()
    }

    /// Sends a request until it is taken, or given up.
    async fn deliver(&mut self, batch: Vec<Waiting>) {
        let endpoint = self.endpoint.clone();
        let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let body = webhook::body(time_ms, batch.iter().map(|event| &*event.text));
        let signature = signature::sign(endpoint.secret.load().expose(), &body);
        let body = Bytes::from(body);
        let youngest = batch.iter().map(|event| event.at).max().unwrap_or_else(Instant::now);
        let mut pause = self.bounds.first_pause;
        loop {
            let why = match self.post(body.clone(), &signature).await {
                Ok(()) => {
                    endpoint.counters.delivered.fetch_add(batch.len() as u64, Ordering::Relaxed);
                    if std::mem::take(&mut self.is_failing) {
                        let Endpoint { place, app_id, .. } = &*endpoint;
                        tracing::info!("webhook {place} of the app {app_id} takes events again");
                    }
                    return;
                }
                Err(why) => why,
            };
            endpoint.counters.failed_requests.fetch_add(1, Ordering::Relaxed);
            if self.is_stopped() || youngest.elapsed() >= self.bounds.patience {
                return self.give_up(&batch, &why);
            }
            if !std::mem::replace(&mut self.is_failing, true) {
                let Endpoint { place, app_id, .. } = &*endpoint;
                tracing::warn!(
                    "webhook {place} of the app {app_id} did not take {}: {why:#}; it is tried again for {} minutes",
                    summary(&batch),
                    self.bounds.patience.as_secs().div_ceil(60)
                );
            }
            tokio::select! {
                () = sleep(with_jitter(pause)) => {}
                () = stop(&mut self.stopped) => {}
            }
            pause = (pause * 2).min(self.bounds.last_pause);
        }
    }

    fn give_up(&mut self, batch: &[Waiting], why: &anyhow::Error) {
        self.is_failing = true;
        let Endpoint { place, app_id, counters, .. } = &*self.endpoint;
        if let Some(count) = counters.gave_up(batch.len() as u64) {
            let when = if self.is_stopped() {
                "the server ends, or has it no longer in its configuration"
            } else {
                "it is too late to try again"
            };
            tracing::warn!(
                "webhook {place} of the app {app_id}: {count} events are lost, the last of them {}, since {when}: {why:#}",
                summary(batch)
            );
        }
    }

    /// Losses that the log has not told of, now that there is time.
    fn say_rest(&self) {
        let Endpoint { place, app_id, counters, .. } = &*self.endpoint;
        match counters.rest() {
            (0, 0) => {}
            (given_up, overflowed) => tracing::warn!(
                "webhook {place} of the app {app_id}: {given_up} more events were given up, and {overflowed} more found \
                 no room in the queue; they are lost"
            ),
        }
    }

    async fn post(&self, body: Bytes, signature: &str) -> anyhow::Result<()> {
        let until = Moment::now() + self.bounds.answer_time;
        let Endpoint { app_key, webhook, .. } = &*self.endpoint;
        let request = self
            .client
            .post(webhook.url.clone())
            .headers(webhook.headers.clone())
            .header("Content-Type", "application/json")
            .header("X-Pusher-Key", app_key)
            .header("X-Pusher-Signature", signature)
            .body(body);
        let Ok(response) = timeout_at(until, request.send()).await else {
            bail!("no answer within {} s", self.bounds.answer_time.as_secs_f32());
        };
        // Its URL may hold a password or token.
        let mut response = response.map_err(reqwest::Error::without_url)?;
        let status = response.status();
        let _ = timeout_at(until, async {
            let mut bytes = 0;
            while let Ok(Some(chunk)) = response.chunk().await
                && bytes < ANSWER_BYTES_MAX
            {
                bytes += chunk.len();
            }
        })
        .await;
        match status {
            status if status.is_success() => Ok(()),
            status if status.is_redirection() => bail!("it answered {status}, and redirects are not followed"),
            status => bail!("it answered {status}"),
        }
    }
}

/// `2 channel_occupied, 1 client_event`.
fn summary(batch: &[Waiting]) -> String {
    let count = |kind| batch.iter().filter(|event| event.kind == kind).count();
    let counts = webhook::Kind::ALL.into_iter().map(|kind| (count(kind), kind.name()));
    let texts: Vec<String> =
        counts.filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect();
    texts.join(", ")
}

/// Between half of it and all: many servers, or many URLs of one backend, do not come at once.
fn with_jitter(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    pause.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)
}

/// Waits until the server stops.
async fn stop(stopped: &mut watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

async fn until(moment: Option<Moment>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
