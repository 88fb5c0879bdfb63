//! What was published, what arrived, and what that says: lost, doubled, out of order; and how
//! long deliveries took. No socket, no clock.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// The books of one run. An event has a number among those of its publisher on its channel;
/// between two publishers no order is promised.
#[derive(Debug)]
pub struct Account {
    publishers: usize,
    /// For each connection, its channel; `None`: does not count (yet, or any more).
    channel_of: Vec<Option<u32>>,
    /// By channel: how many connections count.
    readers: Vec<u32>,
    /// By channel and publisher: how many events.
    published: Vec<u32>,
    /// By connection and publisher: the number that must come next.
    next: Vec<u32>,
    /// By connection and publisher: numbers that were passed over.
    missing: HashMap<usize, Vec<Range<u32>>>,
    by_channel: BTreeMap<u32, Trouble>,
    totals: Totals,
}

/// What is wrong on one channel.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Trouble {
    /// Deliveries that never arrived.
    pub lost: u64,
    /// Deliveries that arrived again.
    pub doubled: u64,
    /// Deliveries that arrived after one that was published later.
    pub out_of_order: u64,
}

/// Sums over all channels.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Events given to publishers.
    pub events: u64,
    /// Deliveries that should arrive.
    pub expected: u64,
    /// Deliveries that did, each counted once.
    pub received: u64,
    /// Expected by connections that were closed before.
    pub given_up: u64,
    /// Arrived where they do not belong.
    pub strays: u64,
}

/// What one delivery is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Receipt {
    /// The one that was due.
    InOrder,
    /// Not seen before, but later ones were.
    Late,
    /// Seen before.
    Doubled,
    /// Not for this connection, or never published.
    Stray,
}

impl Account {
    /// Books for so many connections, channels and publishers.
    pub fn new(connections: usize, channels: usize, publishers: usize) -> Self {
        Self {
            publishers,
            channel_of: vec![None; connections],
            readers: vec![0; channels],
            published: vec![0; channels * publishers],
            next: vec![0; connections * publishers],
            missing: HashMap::new(),
            by_channel: BTreeMap::new(),
            totals: Totals::default(),
        }
    }

    /// From now on the connection is expected to get its channel's events.
    pub fn subscribed(&mut self, connection: usize, channel: u32) {
        self.channel_of[connection] = Some(channel);
        self.readers[channel as usize] += 1;
        let (from, to) = (channel as usize * self.publishers, connection * self.publishers);
        self.next[to..to + self.publishers].copy_from_slice(&self.published[from..from + self.publishers]);
    }

    /// The connection is no more. What it has not got by now is lost.
    pub fn closed(&mut self, connection: usize) {
        let Some(channel) = self.channel_of[connection].take() else { return };
        self.readers[channel as usize] -= 1;
        let owed = self.owed(connection, channel);
        for publisher in 0..self.publishers {
            self.missing.remove(&(connection * self.publishers + publisher));
        }
        self.totals.given_up += owed;
        if owed > 0 {
            self.by_channel.entry(channel).or_default().lost += owed;
        }
    }

    /// An event is given to a publisher; its number.
    pub fn publish(&mut self, channel: u32, publisher: usize) -> u32 {
        self.totals.events += 1;
        self.totals.expected += u64::from(self.readers[channel as usize]);
        let published = &mut self.published[channel as usize * self.publishers + publisher];
        *published += 1;
        *published - 1
    }

    /// A connection got an event.
    pub fn receive(&mut self, connection: usize, channel: u32, publisher: usize, sequence: u32) -> Receipt {
        let known = self.channel_of[connection] == Some(channel) && publisher < self.publishers;
        if !known || sequence >= self.published[channel as usize * self.publishers + publisher] {
            self.totals.strays += 1;
            return Receipt::Stray;
        }
        let place = connection * self.publishers + publisher;
        let next = &mut self.next[place];
        if sequence >= *next {
            if sequence > *next {
                self.missing.entry(place).or_default().push(*next..sequence);
            }
            *next = sequence + 1;
            self.totals.received += 1;
            return Receipt::InOrder;
        }
        let trouble = self.by_channel.entry(channel).or_default();
        if take(self.missing.get_mut(&place), sequence) {
            trouble.out_of_order += 1;
            self.totals.received += 1;
            Receipt::Late
        } else {
            trouble.doubled += 1;
            Receipt::Doubled
        }
    }

    /// The most connections that one channel has.
    pub fn readers_max(&self) -> u64 {
        self.readers.iter().copied().max().unwrap_or(0).into()
    }

    /// Deliveries that may still arrive.
    pub fn outstanding(&self) -> u64 {
        self.totals.expected - self.totals.received - self.totals.given_up
    }

    /// The sums so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// What is wrong, by channel, if nothing more arrives.
    pub fn trouble(&self) -> BTreeMap<u32, Trouble> {
        let mut trouble = self.by_channel.clone();
        for (connection, channel) in self.channel_of.iter().enumerate() {
            let Some(channel) = *channel else { continue };
            let owed = self.owed(connection, channel);
            if owed > 0 {
                trouble.entry(channel).or_default().lost += owed;
            }
        }
        trouble
    }

    fn owed(&self, connection: usize, channel: u32) -> u64 {
        let owed = |publisher| {
            let place = connection * self.publishers + publisher;
            let published = self.published[channel as usize * self.publishers + publisher];
            let ranges = self.missing.get(&place).map(Vec::as_slice).unwrap_or_default();
            let missing: u64 = ranges.iter().map(|range| range.len() as u64).sum();
            u64::from(published - self.next[place]) + missing
        };
        (0..self.publishers).map(owed).sum()
    }
}

/// Takes one number out of the ranges; false if none has it.
fn take(ranges: Option<&mut Vec<Range<u32>>>, number: u32) -> bool {
    let Some(ranges) = ranges else { return false };
    let Some(index) = ranges.iter().position(|range| range.contains(&number)) else { return false };
    let range = ranges.swap_remove(index);
    ranges.extend([range.start..number, number + 1..range.end].into_iter().filter(|range| !range.is_empty()));
    true
}

/// Durations in nanoseconds, counted in buckets 1.6 % wide.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

/// Buckets for each power of two.
const STEPS: u64 = 64;

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; 59 * STEPS as usize], count: 0, max: 0 }
    }
}

impl Histogram {
    /// Adds one.
    pub fn add(&mut self, value: u64) {
        // Of the value's bits the first seven count.
        let shift = u64::from(57 - (value | STEPS).leading_zeros());
        self.buckets[(shift * STEPS + (value >> shift)) as usize] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// The value that this share (0 to 1) of all do not exceed, to 1.6 %; 0 if there are none.
    pub fn percentile(&self, share: f64) -> u64 {
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                let shift = (index as u64 / STEPS).saturating_sub(1);
                let upper = (u128::from(index as u64 - shift * STEPS + 1) << shift) - 1;
                return u64::try_from(upper).unwrap_or(u64::MAX).min(self.max);
            }
        }
        self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two connections on channel 0, one on channel 1, two publishers.
    fn account() -> Account {
        let mut account = Account::new(3, 2, 2);
        account.subscribed(0, 0);
        account.subscribed(1, 0);
        account.subscribed(2, 1);
        account
    }

    fn publish(account: &mut Account, channel: u32, events: u32) {
        for n in 0..events {
            assert_eq!(account.publish(channel, 0), n);
        }
    }

    #[test]
    fn all_is_well() {
        let mut account = account();
        publish(&mut account, 0, 3);
        assert_eq!(account.publish(0, 1), 0);
        for connection in 0..2 {
            // Publishers overtake each other freely.
            for (publisher, sequence) in [(0, 0), (1, 0), (0, 1), (0, 2)] {
                assert_eq!(account.receive(connection, 0, publisher, sequence), Receipt::InOrder);
            }
        }
        assert_eq!(account.outstanding(), 0);
        assert!(account.trouble().is_empty());
        let totals = Totals { events: 4, expected: 8, received: 8, given_up: 0, strays: 0 };
        assert_eq!(account.totals(), totals);
    }

    #[test]
    fn loss_is_noticed_in_the_middle_and_at_the_end() {
        let mut account = account();
        publish(&mut account, 0, 5);
        for sequence in [0, 2, 3] {
            account.receive(0, 0, 0, sequence);
        }
        for sequence in 0..5 {
            account.receive(1, 0, 0, sequence);
        }
        assert_eq!(account.outstanding(), 2);
        assert_eq!(account.trouble()[&0], Trouble { lost: 2, doubled: 0, out_of_order: 0 });
    }

    #[test]
    fn doubling_is_noticed() {
        let mut account = account();
        publish(&mut account, 1, 2);
        let receipts: Vec<_> = [0, 0, 1, 0, 1].into_iter().map(|n| account.receive(2, 1, 0, n)).collect();
        use Receipt::{Doubled, InOrder};
        assert_eq!(receipts, [InOrder, Doubled, InOrder, Doubled, Doubled]);
        assert_eq!(account.trouble()[&1], Trouble { lost: 0, doubled: 3, out_of_order: 0 });
        assert_eq!(account.outstanding(), 0);
    }

    #[test]
    fn disorder_is_noticed_and_is_no_loss() {
        let mut account = account();
        publish(&mut account, 1, 6);
        for sequence in [4, 1, 0, 1, 5, 3] {
            account.receive(2, 1, 0, sequence);
        }
        assert_eq!(account.trouble()[&1], Trouble { lost: 1, doubled: 1, out_of_order: 3 });
        assert_eq!(account.receive(2, 1, 0, 2), Receipt::Late);
        assert_eq!(account.trouble()[&1], Trouble { lost: 0, doubled: 1, out_of_order: 4 });
    }

    #[test]
    fn strays_are_no_deliveries() {
        let mut account = account();
        publish(&mut account, 0, 1);
        assert_eq!(account.receive(2, 0, 0, 0), Receipt::Stray, "another channel's");
        assert_eq!(account.receive(0, 0, 0, 1), Receipt::Stray, "not published yet");
        assert_eq!(account.receive(0, 0, 9, 0), Receipt::Stray, "no such publisher");
        assert_eq!((account.totals().strays, account.totals().received), (3, 0));
    }

    #[test]
    fn a_closed_connection_loses_what_it_had_not_got_and_is_owed_no_more() {
        let mut account = account();
        publish(&mut account, 0, 3);
        account.receive(0, 0, 0, 1);
        account.closed(0);
        account.publish(0, 0);
        for sequence in 0..4 {
            account.receive(1, 0, 0, sequence);
        }
        assert_eq!(account.outstanding(), 0);
        assert_eq!(account.trouble()[&0].lost, 2);
        account.closed(1);
        assert_eq!(account.trouble()[&0].lost, 2);
    }

    #[test]
    fn percentiles_are_near_the_truth() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.percentile(0.5), 0);
        for value in 1..=100_000u64 {
            histogram.add(value * 1000);
        }
        for (share, truth) in [(0.5, 50_000_000u64), (0.95, 95_000_000), (0.99, 99_000_000), (1.0, 100_000_000)] {
            let value = histogram.percentile(share);
            assert!(value >= truth && value <= truth + truth / 60, "{share}: {value}");
        }
        assert_eq!(histogram.percentile(1.0), 100_000_000);
    }

    #[test]
    fn every_value_has_a_bucket_that_holds_it() {
        for bit in 0..64 {
            for value in [1u64 << bit, (1u64 << bit) - 1, (1u64 << bit) | 1] {
                let mut histogram = Histogram::default();
                histogram.add(value);
                histogram.add(u64::MAX);
                let found = histogram.percentile(0.5);
                assert!(found >= value && found - value <= value / 64, "{value}: {found}");
            }
        }
    }
}
