//! Counters, gauges and histograms: numbers that any thread may add to at any time, by labels.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::page::Page;
use super::table::{Description, Type};

/// The labels of a metric: a value that has a place among all that there are.
pub trait Labels: Copy {
    /// What the labels are called.
    const NAMES: &'static [&'static str];

    /// How many values there are, if there is room for so many apps.
    fn count(apps: usize) -> usize;

    /// The place of this one; `None`: there is no room for it.
    fn place(self, apps: usize) -> Option<usize>;

    /// The texts of all values that are shown, each with its place.
    fn texts(apps: &[String], room: usize) -> Vec<(usize, Vec<&str>)>;
}

impl Labels for () {
    const NAMES: &'static [&'static str] = &[];

    fn count(_: usize) -> usize {
        1
    }

    fn place(self, _: usize) -> Option<usize> {
        Some(0)
    }

    fn texts(_: &[String], _: usize) -> Vec<(usize, Vec<&str>)> {
        vec![(0, Vec::new())]
    }
}

/// What [`Counters`](super::Counters) is made of.
pub(super) trait Metric {
    const TYPE: Type;
    const LABELS: &'static [&'static str];

    fn new(apps: usize) -> Self;

    /// Writes the sums of these, which are the same metric of front and shards.
    fn write(these: &[&Self], description: &'static Description, page: &mut Page);
}

/// Numbers on cache lines of their own: a shard that counts takes none from another one.
#[derive(Debug)]
struct Values(Box<[Line]>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Line([AtomicU64; LINE]);

const LINE: usize = 16;

impl Values {
    fn new(count: usize) -> Self {
        Self((0..count.div_ceil(LINE)).map(|_| Line::default()).collect())
    }

    fn at(&self, place: usize) -> &AtomicU64 {
        &self.0[place / LINE].0[place % LINE]
    }

    fn get(&self, place: usize) -> u64 {
        self.at(place).load(Ordering::Relaxed)
    }

    fn add(&self, place: usize, count: u64) {
        self.at(place).fetch_add(count, Ordering::Relaxed);
    }

    /// Of a gauge: what it is taken for, a number that may be below zero.
    fn sum(&self) -> u64 {
        self.0.iter().flat_map(|line| &line.0).fold(0, |sum, value| sum.wrapping_add(value.load(Ordering::Relaxed)))
    }
}

/// Goes up only.
#[derive(Debug)]
pub struct Counter<L> {
    values: Values,
    apps: usize,
    labels: PhantomData<fn(L)>,
}

impl<L: Labels> Counter<L> {
    /// One more.
    pub fn add(&self, labels: L) {
        self.add_many(labels, 1);
    }

    /// So many more.
    pub fn add_many(&self, labels: L, count: u64) {
        if let Some(place) = labels.place(self.apps) {
            self.values.add(place, count);
        }
    }

    /// How many there are with these labels.
    pub fn of(&self, labels: L) -> u64 {
        labels.place(self.apps).map_or(0, |place| self.values.get(place))
    }

    /// How many there are in all.
    pub fn total(&self) -> u64 {
        self.values.sum()
    }
}

impl<L: Labels> Metric for Counter<L> {
    const TYPE: Type = Type::Counter;
    const LABELS: &'static [&'static str] = L::NAMES;

    fn new(apps: usize) -> Self {
        Self { values: Values::new(L::count(apps)), apps, labels: PhantomData }
    }

    fn write(these: &[&Self], description: &'static Description, page: &mut Page) {
        let apps = page.apps();
        for (place, texts) in L::texts(&apps, these[0].apps) {
            let sum: u64 = these.iter().map(|one| one.values.get(place)).sum();
            page.sample(description, &texts, sum as f64);
        }
    }
}

/// Time that adds up.
#[derive(Debug)]
pub struct Seconds<L>(Counter<L>);

impl<L: Labels> Seconds<L> {
    /// So much more.
    pub fn add(&self, labels: L, time: Duration) {
        self.0.add_many(labels, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How much it is with these labels.
    pub fn of(&self, labels: L) -> Duration {
        Duration::from_nanos(self.0.of(labels))
    }
}

impl<L: Labels> Metric for Seconds<L> {
    const TYPE: Type = Type::Counter;
    const LABELS: &'static [&'static str] = L::NAMES;

    fn new(apps: usize) -> Self {
        Self(Counter::new(apps))
    }

    fn write(these: &[&Self], description: &'static Description, page: &mut Page) {
        let apps = page.apps();
        for (place, texts) in L::texts(&apps, these[0].0.apps) {
            let sum: u64 = these.iter().map(|one| one.0.values.get(place)).sum();
            page.sample(description, &texts, sum as f64 / 1e9);
        }
    }
}

/// Goes up and down. Front and shards each have a part of it.
#[derive(Debug)]
pub struct Gauge<L> {
    values: Values,
    apps: usize,
    labels: PhantomData<fn(L)>,
}

impl<L: Labels> Gauge<L> {
    /// One more.
    pub fn more(&self, labels: L) {
        self.change(labels, 1);
    }

    /// One fewer.
    pub fn fewer(&self, labels: L) {
        self.change(labels, -1);
    }

    /// So many more, or fewer.
    pub fn change(&self, labels: L, by: i64) {
        if let Some(place) = labels.place(self.apps) {
            // Two's complement: what is below zero in this part is so in the sum.
            self.values.add(place, by as u64);
        }
    }

    /// This part of it is now so much.
    pub fn set(&self, labels: L, value: i64) {
        if let Some(place) = labels.place(self.apps) {
            self.values.at(place).store(value as u64, Ordering::Relaxed);
        }
    }

    /// What this part of it is with these labels.
    pub fn of(&self, labels: L) -> i64 {
        labels.place(self.apps).map_or(0, |place| self.values.get(place) as i64)
    }

    /// What this part of it is with all labels.
    pub fn total(&self) -> i64 {
        self.values.sum() as i64
    }
}

impl<L: Labels> Metric for Gauge<L> {
    const TYPE: Type = Type::Gauge;
    const LABELS: &'static [&'static str] = L::NAMES;

    fn new(apps: usize) -> Self {
        Self { values: Values::new(L::count(apps)), apps, labels: PhantomData }
    }

    fn write(these: &[&Self], description: &'static Description, page: &mut Page) {
        let apps = page.apps();
        for (place, texts) in L::texts(&apps, these[0].apps) {
            let sum: i64 = these.iter().map(|one| one.values.get(place) as i64).sum();
            page.sample(description, &texts, sum as f64);
        }
    }
}

/// How long things take.
#[derive(Debug)]
pub struct Histogram<L> {
    /// For each of the labels' values: as many as there are of [`BOUNDS_MICROS`], those that took longer, and
    /// the sum of all in nanoseconds.
    values: Values,
    apps: usize,
    labels: PhantomData<fn(L)>,
}

/// Up to how many microseconds an observation counts where: from the time of a delivery to that of a Laravel
/// that is about to be given up.
pub const BOUNDS_MICROS: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
    10_000_000,
];

/// Numbers for one of the labels' values.
const STRIDE: usize = BOUNDS_MICROS.len() + 2;

impl<L: Labels> Histogram<L> {
    /// It took so long.
    pub fn observe(&self, labels: L, took: Duration) {
        self.observe_many(labels, took, 1);
    }

    /// So many took so long each.
    pub fn observe_many(&self, labels: L, took: Duration, count: u64) {
        let Some(place) = labels.place(self.apps) else { return };
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MICROS.partition_point(|bound| bound * 1_000 < nanos);
        self.values.add(place * STRIDE + bucket, count);
        self.values.add(place * STRIDE + STRIDE - 1, nanos.saturating_mul(count));
    }

    /// How many were observed with bounds in microseconds: for each bound those that took no longer, and all.
    pub fn cumulated(&self, labels: L) -> [u64; BOUNDS_MICROS.len() + 1] {
        let mut sums = [0; BOUNDS_MICROS.len() + 1];
        if let Some(place) = labels.place(self.apps) {
            let mut so_far = 0;
            for (at, sum) in sums.iter_mut().enumerate() {
                so_far += self.values.get(place * STRIDE + at);
                *sum = so_far;
            }
        }
        sums
    }
}

impl<L: Labels> Metric for Histogram<L> {
    const TYPE: Type = Type::Histogram;
    const LABELS: &'static [&'static str] = L::NAMES;

    fn new(apps: usize) -> Self {
        Self { values: Values::new(L::count(apps) * STRIDE), apps, labels: PhantomData }
    }

    fn write(these: &[&Self], description: &'static Description, page: &mut Page) {
        let apps = page.apps();
        for (place, texts) in L::texts(&apps, these[0].apps) {
            let value = |at: usize| -> u64 { these.iter().map(|one| one.values.get(place * STRIDE + at)).sum() };
            let mut counts = [0; BOUNDS_MICROS.len() + 1];
            for (at, count) in counts.iter_mut().enumerate() {
                *count = value(at);
            }
            page.histogram(description, &texts, &counts, value(STRIDE - 1) as f64 / 1e9);
        }
    }
}
