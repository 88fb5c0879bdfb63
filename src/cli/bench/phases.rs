//! The course of a run: connect, subscribe, idle, joins, warm-up, the measured events, the end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::bail;

use super::account::Histogram;
use super::load::Load;
use super::process::{Cpu, Process};
use super::progress::Progress;

/// How often memory is looked at while events are published.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The server's CPU time by thread, and the generator's own.
#[derive(Clone, Debug, Default)]
pub struct Spent {
    /// How long it took by the clock.
    pub wall: Duration,
    /// The server's; `None` where it cannot be read.
    pub server: Option<BTreeMap<String, Duration>>,
    /// The generator's.
    pub own: Duration,
}

impl Spent {
    /// The server's CPU time in all.
    pub fn server_total(&self) -> Option<Duration> {
        self.server.as_ref().map(|threads| threads.values().sum())
    }
}

/// Begins a measurement.
pub struct Meter {
    server: Option<(Process, Cpu)>,
    own: Option<Cpu>,
    began: Instant,
}

impl Meter {
    /// From now.
    pub fn start(server: Option<Process>) -> Self {
        let server = server.and_then(|process| Some((process, process.cpu()?)));
        Self { server, own: Process::own().cpu(), began: Instant::now() }
    }

    /// Until now.
    pub fn stop(self) -> Spent {
        let wall = self.began.elapsed();
        let server = self.server.and_then(|(process, before)| Some(process.cpu()?.since(&before)));
        let own = self.own.and_then(|before| Some(Process::own().cpu()?.since(&before).values().sum()));
        Spent { wall, server, own: own.unwrap_or_default() }
    }
}

/// What came of joining or leaving, one after the other.
#[derive(Clone, Debug)]
pub struct Joins {
    /// How many joined (or left).
    pub count: u64,
    /// What the others should have been told.
    pub expected: u64,
    /// What they were.
    pub received: u64,
    /// What it took.
    pub spent: Spent,
}

/// What came of publishing.
#[derive(Clone, Debug)]
pub struct Published {
    /// Events.
    pub events: u64,
    /// Deliveries.
    pub received: u64,
    /// See [`Load::latency`].
    pub latency: Histogram,
    /// What it took.
    pub spent: Spent,
    /// The server's memory at its largest, in KiB.
    pub rss_peak: Option<u64>,
}

/// A wait that ends when nothing happens for too long.
struct Patience {
    limit: Duration,
    mark: u64,
    since: Instant,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self { limit, mark: 0, since: Instant::now() }
    }

    /// `mark` is anything that changes when something happens.
    fn is_over(&mut self, mark: u64) -> bool {
        if self.mark != mark {
            self.mark = mark;
            self.since = Instant::now();
        }
        self.since.elapsed() > self.limit
    }
}

impl Load<'_> {
    /// Opens all connections and subscribes them.
    pub fn connect_all(&mut self, progress: &Progress) -> anyhow::Result<Duration> {
        let options = &self.plan.options;
        let total = (options.connections + options.joins) as usize;
        let opening = options.opening as usize;
        let mut patience = Patience::new(self.plan.patience);
        let began = Instant::now();
        while self.counts.settled < total {
            while self.conns.len() < total && self.conns.len() - self.counts.settled < opening {
                self.open()?;
            }
            self.turn(LOOK_EVERY)?;
            progress.show(self.counts.settled as u64);
            if patience.is_over(self.counts.settled as u64 + self.counts.member_added) {
                bail!("{} of {total} connections are subscribed, and no more get there", self.counts.settled);
            }
        }
        let took = began.elapsed();
        // Whoever joins a presence channel is announced to those that are there.
        let each = u64::from(options.connections / options.channels);
        let larger = u64::from(options.connections % options.channels);
        let pairs = |members: u64| members * members.saturating_sub(1) / 2;
        let expected = larger * pairs(each + 1) + (u64::from(options.channels) - larger) * pairs(each);
        if options.presence {
            self.await_members(expected, |counts| counts.member_added)?;
            // Stalled readers do not hear all of it.
            if options.slow == 0 {
                self.counts.unannounced = expected.abs_diff(self.counts.member_added);
            }
        }
        Ok(took)
    }

    fn await_members(&mut self, expected: u64, count: impl Fn(&super::load::Counts) -> u64) -> anyhow::Result<()> {
        let mut patience = Patience::new(self.plan.patience);
        while count(&self.counts) < expected && !patience.is_over(count(&self.counts)) {
            self.turn(LOOK_EVERY)?;
        }
        Ok(())
    }

    /// Reads on until the readers that had stalled are closed, or nothing more comes for a while.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        let mut patience = Patience::new(Duration::from_secs(1));
        while self.counts.stalled_closed < u64::from(self.plan.options.slow) && !patience.is_over(self.counts.bytes) {
            self.turn(LOOK_EVERY)?;
        }
        Ok(())
    }

    /// Lets time pass.
    pub fn idle(&mut self, progress: &Progress) -> anyhow::Result<()> {
        let began = Instant::now();
        while began.elapsed() < self.plan.idle {
            self.turn(LOOK_EVERY.min(self.plan.idle))?;
            progress.show(began.elapsed().as_secs());
        }
        Ok(())
    }

    /// The joiners join one after the other; then they leave.
    pub fn joins(&mut self, server: Option<Process>) -> anyhow::Result<Option<(Joins, Joins)>> {
        let options = &self.plan.options;
        let (first, count) = (options.connections as usize, options.joins as usize);
        if count == 0 {
            return Ok(None);
        }
        let mut members = vec![0u64; options.channels as usize];
        self.conns[..first].iter().for_each(|conn| members[conn.channel as usize] += 1);
        let before = self.counts.member_added;
        let (mut expected, meter) = (0, Meter::start(server));
        for index in first..first + count {
            let channel = self.conns[index].channel as usize;
            expected += members[channel];
            members[channel] += 1;
            self.subscribe(index)?;
            self.await_members(before + expected, |counts| counts.member_added)?;
        }
        let joins =
            Joins { count: count as u64, expected, received: self.counts.member_added - before, spent: meter.stop() };
        let before = self.counts.member_removed;
        let (mut expected, meter) = (0, Meter::start(server));
        for index in first..first + count {
            let channel = self.conns[index].channel as usize;
            members[channel] -= 1;
            expected += members[channel];
            self.unsubscribe(index)?;
            self.await_members(before + expected, |counts| counts.member_removed)?;
        }
        let received = self.counts.member_removed - before;
        Ok(Some((joins, Joins { count: count as u64, expected, received, spent: meter.stop() })))
    }

    /// Publishes so many events and waits for their deliveries.
    pub fn publish_all(
        &mut self,
        count: u32,
        server: Option<Process>,
        progress: &Progress,
    ) -> anyhow::Result<Published> {
        let options = &self.plan.options;
        let (count, burst) = (u64::from(count), u64::from(options.burst));
        let gap = if options.rate > 0.0 { 1.0 / options.rate } else { 0.0 };
        let before = self.account.totals();
        let mut sent = 0;
        let mut rss_peak = None;
        let mut looked_at = Instant::now();
        let mut patience = Patience::new(self.plan.patience);
        self.latency = Histogram::default();
        let meter = Meter::start(server);
        let began = Instant::now();
        while sent < count || self.awaiting() > 0 || self.account.outstanding() > 0 {
            let mut timeout = LOOK_EVERY;
            while sent < count {
                let size = burst.min(count - sent);
                let due = began + Duration::from_secs_f64(gap * sent as f64);
                timeout = due.saturating_duration_since(Instant::now()).min(LOOK_EVERY);
                if !timeout.is_zero() {
                    break;
                }
                if !self.has_room(size) {
                    timeout = LOOK_EVERY;
                    break;
                }
                self.burst(sent, size, (gap > 0.0).then_some(due))?;
                sent += size;
            }
            self.turn(timeout)?;
            let now = Instant::now();
            if now - looked_at > LOOK_EVERY {
                looked_at = now;
                rss_peak = rss_peak.max(server.and_then(Process::rss));
                progress.show(sent);
            }
            if patience.is_over(sent + self.account.totals().received + self.account.totals().given_up) {
                break;
            }
        }
        let spent = meter.stop();
        let totals = self.account.totals();
        Ok(Published {
            events: totals.events - before.events,
            received: totals.received - before.received,
            latency: std::mem::take(&mut self.latency),
            rss_peak: rss_peak.max(server.and_then(Process::rss)),
            spent,
        })
    }

    /// Whether so many more events may be under way.
    fn has_room(&self, events: u64) -> bool {
        let room = self.plan.in_flight;
        self.awaiting() + events <= room
            && self.account.outstanding() <= room.saturating_sub(events) * self.account.readers_max()
    }

    /// Events number `first` and on go to the channels in turn. A channel keeps its publisher
    /// if there are enough channels, as events of one model come from one queue in most applications.
    fn burst(&mut self, first: u64, size: u64, due: Option<Instant>) -> anyhow::Result<()> {
        self.renew_timestamp();
        let (channels, publishers) = (u64::from(self.plan.options.channels), u64::from(self.plan.options.publishers));
        for number in first..first + size {
            let channel = number % channels;
            let publisher = if channels >= publishers { channel } else { number } % publishers;
            let sent_at = due.map_or_else(|| self.now(), |due| self.stamp_of(due));
            self.publish(channel as u32, publisher as usize, sent_at);
        }
        self.flush_publishers()
    }
}
