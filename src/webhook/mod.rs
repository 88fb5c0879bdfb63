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
    stop_time: Duration::from_secs(5),
};

/// The webhooks of all apps. A clone shares everything; the default has none.
#[derive(Clone, Debug, Default)]
pub struct Webhooks {
    /// For each app.
    apps: Arc<[Vec<Queue>]>,
}

/// Whose a URL is, and what its requests are signed with.
#[derive(Debug)]
struct Endpoint {
    app_id: String,
    app_key: String,
    secret: Secret,
    webhook: Webhook,
    /// The URL as it may be shown.
    place: String,
    counters: Counters,
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
        let (stop, stopped) = watch::channel(false);
        let mut running = Running { stop, stop_time: bounds.stop_time, couriers: Vec::new() };
        // Making the client reads the machine's certificates; without webhooks it is not made.
        if apps.iter().all(|app| app.webhooks.is_empty()) {
            return Ok((Self::default(), running));
        }
        let client = reqwest::Client::builder()
            // A redirect would turn the POST into a GET, or take signed events elsewhere.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .pool_idle_timeout(IDLE)
            .user_agent(concat!("laravel-echo-server/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let mut start = |app: &App, webhook: &Webhook| {
            let endpoint = Arc::new(Endpoint {
                app_id: app.id.clone(),
                app_key: app.key.clone(),
                secret: app.secret.clone(),
                webhook: webhook.clone(),
                place: webhook.place(),
                counters: Counters::default(),
            });
            let (queue, waiting) = queue::queue(endpoint.clone(), bounds);
            let courier = Courier::new(endpoint, client.clone(), bounds, waiting, stopped.clone());
            running.couriers.push((queue.clone(), tokio::spawn(courier.run())));
            queue
        };
        let apps = apps.iter().map(|app| app.webhooks.iter().map(|webhook| start(app, webhook)).collect()).collect();
        Ok((Self { apps }, running))
    }

    /// Whether anybody wants to know of such events of an app.
    pub fn hears(&self, app: AppIndex, kind: Kind) -> bool {
        self.of(app).iter().any(|queue| queue.endpoint().hears(kind))
    }

    /// Takes an event for those who want to know of it. Never waits: where there is no room, the event
    /// is lost, counted and logged.
    pub fn offer(&self, app: AppIndex, channel: &ChannelName, event: Event<'_>) {
        let kind = event.kind();
        let mut made: Option<(Arc<str>, Instant)> = None;
        for queue in self.of(app) {
            if !queue.endpoint().hears(kind) || !queue.endpoint().is_about(channel.as_str()) {
                continue;
            }
            let make = || (event.to_json(channel.as_str()).into(), Instant::now());
            let (text, at) = made.get_or_insert_with(make);
            queue.offer(Waiting::new(kind, channel, event.user_id(), text.clone(), *at));
        }
    }

    /// What has become of the events of each app's URLs so far. A URL comes without password and query.
    pub fn counters(&self) -> impl Iterator<Item = (AppIndex, &str, &Counters)> {
        self.apps.iter().enumerate().flat_map(|(index, queues)| {
            let app = AppIndex(index as u16);
            queues.iter().map(move |queue| (app, queue.endpoint().place.as_str(), &queue.endpoint().counters))
        })
    }

    fn of(&self, app: AppIndex) -> &[Queue] {
        self.apps.get(usize::from(app.0)).map(Vec::as_slice).unwrap_or_default()
    }
}

/// The tasks behind [`Webhooks`].
#[derive(Debug)]
pub struct Running {
    stop: watch::Sender<bool>,
    stop_time: Duration,
    couriers: Vec<(Queue, JoinHandle<()>)>,
}

impl Running {
    /// Sends what there is, leaves included, within some seconds. What cannot be sent by then is lost,
    /// and the log says so. Nothing that is offered afterwards is sent.
    pub async fn finish(self) {
        let until = tokio::time::Instant::now() + self.stop_time;
        let _ = self.stop.send(true);
        for (queue, mut courier) in self.couriers {
            if timeout_at(until, &mut courier).await.is_err() {
                queue.lost_at_the_end(self.stop_time);
                courier.abort();
            }
        }
    }
}
