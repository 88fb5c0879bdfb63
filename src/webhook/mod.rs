//! Webhooks: backends are told over HTTP what happens on an app's channels (protocol section 6).
//!
//! [`Webhooks::offer`] puts an event into the bounded queue of each URL that wants it, and never
//! waits: a backend that hangs or is away costs memory up to the bound, and then its own events. Each
//! URL has a task of its own (`courier`), which keeps leaves back for a while (`leaves`), makes
//! requests of several events, signs them, and tries again. What is lost is counted and logged.
//!
//! Not here: when something happens on a channel (the channel's home shard knows), and how an event
//! looks (`protocol::webhook`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use crate::config::{App, Secret, Webhook};
use crate::inbox::AppIndex;
use crate::protocol::channel::ChannelName;
use crate::protocol::webhook::{Event, Kind};
use courier::Courier;
use queue::{Queue, Waiting};

mod courier;
mod leaves;
mod losses;
mod queue;
#[cfg(test)]
mod tests;

pub use losses::Counters;

/// An unused connection is closed before the web servers do it (Apache after 5 s), which would
/// look like a failure.
const IDLE: Duration = Duration::from_secs(4);

/// Bounds and times; tests have smaller ones.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Events that may wait for one URL.
    events_max: usize,
    /// What they may take together, in bytes.
    bytes_max: usize,
    /// Events in one request.
    batch_events_max: usize,
    /// Bytes of one request, unless a single event is longer.
    batch_bytes_max: usize,
    /// How long an event waits for others to go with it.
    batch_delay: Duration,
    /// How long it takes until somebody who does not return has left.
    leave_delay: Duration,
    /// How long a backend may take to answer.
    answer_time: Duration,
    /// The longest pause before the second attempt; each further one is twice as long.
    first_pause: Duration,
    /// The longest pause.
    last_pause: Duration,
    /// How old the youngest event of a request is when it is given up, after one attempt at least.
    patience: Duration,
    /// What is left when the server stops has so long to go out.
    stop_time: Duration,
}

/// How long what is left may take to go out at the end.
pub const STOP_TIME: Duration = Duration::from_secs(5);

const BOUNDS: Bounds = Bounds {
    events_max: 10_000,
    bytes_max: 16 * 1024 * 1024,
    batch_events_max: 100,
    batch_bytes_max: 256 * 1024,
    batch_delay: Duration::from_millis(50),
    leave_delay: Duration::from_secs(3),
    answer_time: Duration::from_secs(10),
    first_pause: Duration::from_secs(1),
    last_pause: Duration::from_secs(60),
    patience: Duration::from_secs(5 * 60),
    stop_time: STOP_TIME,
};

/// The webhooks of all apps. A clone shares everything; the default has none.
#[derive(Clone, Debug, Default)]
pub struct Webhooks {
    apps: Arc<ArcSwap<Queues>>,
}

/// For each app.
type Queues = Vec<Vec<Queue>>;

/// Whose a URL is, and what its requests are signed with.
#[derive(Debug)]
struct Endpoint {
    app_id: String,
    app_key: String,
    /// Of the app, which may get another one.
    secret: ArcSwap<Secret>,
    webhook: Webhook,
    /// The URL as it may be shown.
    place: Arc<str>,
    counters: Arc<Counters>,
}

impl Endpoint {
    /// Whether an event matters, be it only because a leave is not told of after it.
    fn hears(&self, kind: Kind) -> bool {
        self.is_told(kind) || kind.opposite().is_some_and(|opposite| self.is_told(opposite))
    }

    fn is_told(&self, kind: Kind) -> bool {
        self.webhook.events.contains(kind)
    }

    fn is_about(&self, channel: &str) -> bool {
        channel.starts_with(&self.webhook.channel_name_starts_with)
            && channel.ends_with(&self.webhook.channel_name_ends_with)
    }
}

impl Webhooks {
    /// Starts a task for each URL, on this runtime.
    ///
    /// # Errors
    /// The HTTP client could not be made (certificate store and the like).
    pub fn start(apps: &[App]) -> Result<(Self, Running), reqwest::Error> {
        Self::start_with(apps, BOUNDS)
    }

    fn start_with(apps: &[App], bounds: Bounds) -> Result<(Self, Running), reqwest::Error> {
        let webhooks = Self::default();
        let mut running = Running { webhooks: webhooks.clone(), bounds, client: None, couriers: Vec::new() };
        running.change(apps)?;
        Ok((webhooks, running))
    }

    /// Whether anybody wants to know of such events of an app.
    pub fn hears(&self, app: AppIndex, kind: Kind) -> bool {
        of(&self.apps.load(), app).iter().any(|queue| queue.endpoint().hears(kind))
    }

    /// Takes an event for those who want to know of it. Never waits: where there is no room, the event
    /// is lost, counted and logged.
    pub fn offer(&self, app: AppIndex, channel: &ChannelName, event: Event<'_>) {
        let kind = event.kind();
        let mut made: Option<(Arc<str>, Instant)> = None;
        for queue in of(&self.apps.load(), app) {
            if !queue.endpoint().hears(kind) || !queue.endpoint().is_about(channel.as_str()) {
                continue;
            }
            let make = || (event.to_json(channel.as_str()).into(), Instant::now());
            let (text, at) = made.get_or_insert_with(make);
            queue.offer(Waiting::new(kind, channel, event.user_id(), text.clone(), *at));
        }
    }

    /// What has become of the events of each app's URLs so far. A URL comes without password and query.
    pub fn counters(&self) -> Vec<(AppIndex, Arc<str>, Arc<Counters>)> {
        let apps = self.apps.load();
        let apps = apps.iter().enumerate().flat_map(|(index, queues)| {
            queues.iter().map(move |queue| {
                let Endpoint { place, counters, .. } = queue.endpoint();
                (AppIndex(index as u16), place.clone(), counters.clone())
            })
        });
        apps.collect()
    }
}

fn of(apps: &Queues, app: AppIndex) -> &[Queue] {
    apps.get(usize::from(app.0)).map(Vec::as_slice).unwrap_or_default()
}

/// The tasks behind [`Webhooks`].
#[derive(Debug)]
pub struct Running {
    webhooks: Webhooks,
    bounds: Bounds,
    client: Option<reqwest::Client>,
    couriers: Vec<RunningCourier>,
}

/// One URL's task.
#[derive(Debug)]
struct RunningCourier {
    queue: Queue,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    /// Has these webhooks from now on. Those that are as they were go on, with what waits for them; the others send what
    /// they have, as at the end.
    ///
    /// # Errors
    /// As [`Webhooks::start`]; then nothing has changed.
    pub fn change(&mut self, apps: &[App]) -> Result<(), reqwest::Error> {
        // Making the client reads the machine's certificates; without webhooks it is not made.
        if self.client.is_none() && apps.iter().any(|app| !app.webhooks.is_empty()) {
            self.client = Some(client()?);
        }
        let before = self.webhooks.apps.load_full();
        let mut apps_queues = Queues::with_capacity(apps.len());
        for (index, app) in apps.iter().enumerate() {
            let mut old: Vec<Queue> = of(&before, AppIndex(index as u16)).to_vec();
            let queues = app.webhooks.iter().filter_map(|webhook| {
                match old.iter().position(|queue| queue.endpoint().webhook == *webhook) {
                    Some(at) => {
                        let queue = old.swap_remove(at);
                        queue.endpoint().secret.store(Arc::new(app.secret.clone()));
                        Some(queue)
                    }
                    None => self.start_courier(app, webhook),
                }
            });
            apps_queues.push(queues.collect());
        }
        let is_used = |queue: &Queue| apps_queues.iter().flatten().any(|used| used.is(queue));
        let (used, unused): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.couriers).into_iter().partition(|courier| is_used(&courier.queue));
        self.couriers = used;
        self.webhooks.apps.store(Arc::new(apps_queues));
        let stop_time = self.bounds.stop_time;
        if !unused.is_empty() {
            tokio::spawn(finish(unused, stop_time));
        }
        Ok(())
    }

    fn start_courier(&mut self, app: &App, webhook: &Webhook) -> Option<Queue> {
        let endpoint = Arc::new(Endpoint {
            app_id: app.id.clone(),
            app_key: app.key.clone(),
            secret: ArcSwap::from_pointee(app.secret.clone()),
            webhook: webhook.clone(),
            place: webhook.place().into(),
            counters: Arc::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let (queue, waiting) = queue::queue(endpoint.clone(), self.bounds);
        let courier = Courier::new(endpoint, self.client.clone()?, self.bounds, waiting, stopped);
        let task = tokio::spawn(courier.run());
        self.couriers.push(RunningCourier { queue: queue.clone(), stop, task });
        Some(queue)
    }

    /// Sends what there is, leaves included, within some seconds. What cannot be sent by then is lost,
    /// and the log says so. Nothing that is offered afterwards is sent.
    pub async fn finish(self) {
        finish(self.couriers, self.bounds.stop_time).await;
    }
}

async fn finish(couriers: Vec<RunningCourier>, stop_time: Duration) {
    let until = tokio::time::Instant::now() + stop_time;
    for courier in &couriers {
        let _ = courier.stop.send(true);
    }
    for RunningCourier { queue, mut task, .. } in couriers {
        if timeout_at(until, &mut task).await.is_err() {
            queue.lost_at_the_end(stop_time);
            task.abort();
        }
    }
}

fn client() -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        // A redirect would turn the POST into a GET, or take signed events elsewhere.
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .pool_idle_timeout(IDLE)
        .user_agent(concat!("laravel-echo-server/", env!("CARGO_PKG_VERSION")))
        .build()
}
