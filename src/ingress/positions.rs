//! Two connections that hear the same: how far each has got, and what the one has that the other has yet to bring.
//!
//! Redis sends what is published to all its subscribers in one order. So after a *marker*, a message with a
//! number that both hear, the n-th message of the one is the n-th of the other, and marker and count say
//! exactly where a connection stands. The *active* one's messages are delivered. What the *standby* hears first
//! is held until the active one brings it; if that never comes, [`Positions::take_over`] gives it out, and
//! nothing is missed or doubled. No I/O and no clock; which connection is which knows `links`.

use std::collections::VecDeque;

use crate::redis::Published;

/// How much of what the active connection has yet to bring is held, in bytes: several times what one message may have.
pub(super) const HELD_BYTES_MAX: usize = 4 * super::PAYLOAD_BYTES_MAX;

/// What a message that is held costs beside its bytes.
const ITEM_BYTES: usize = 64;

/// What a connection heard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Heard<'a> {
    Marker(u64),
    Message(Published<'a>),
}

/// The same, kept.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Held {
    Marker(u64),
    Message { channel: Box<[u8]>, payload: Option<Box<[u8]>> },
}

impl Held {
    fn of(heard: Heard<'_>) -> Self {
        match heard {
            Heard::Marker(number) => Self::Marker(number),
            Heard::Message(Published { channel, payload }) => {
                Self::Message { channel: channel.into(), payload: payload.map(Into::into) }
            }
        }
    }

    pub(super) fn heard(&self) -> Heard<'_> {
        match self {
            Self::Marker(number) => Heard::Marker(*number),
            Self::Message { channel, payload } => Heard::Message(Published { channel, payload: payload.as_deref() }),
        }
    }

    fn bytes(&self) -> usize {
        ITEM_BYTES
            + match self {
                Self::Marker(_) => 0,
                Self::Message { channel, payload } => channel.len() + payload.as_ref().map_or(0, |bytes| bytes.len()),
            }
    }
}

/// A place among all that is published.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Position {
    marker: u64,
    /// Messages since.
    count: u64,
}

impl Position {
    /// Goes on by what was heard. A marker that is not higher than the last says nothing.
    fn pass(this: &mut Option<Self>, heard: Heard<'_>) {
        match (heard, this) {
            (Heard::Marker(marker), this) if this.is_none_or(|position| position.marker < marker) => {
                *this = Some(Self { marker, count: 0 });
            }
            (Heard::Message(_), Some(position)) => position.count += 1,
            _ => {}
        }
    }
}

/// Where both connections stand.
#[derive(Debug, Default)]
pub(super) struct Positions {
    /// How far has been delivered; `None` before the first marker.
    delivered: Option<Position>,
    /// Where the active connection stands, if it took over and has yet to come to what is delivered already.
    behind: Option<Position>,
    standby: Option<Position>,
    /// The first marker that the standby heard and that counts: from there on it has everything.
    standby_from: u64,
    /// A marker up to here counts for no standby that has yet to begin: it may come late, behind a higher one that the
    /// active connection goes by and the standby has not heard.
    standby_after: u64,
    /// What the standby has heard after what is delivered, or, until that has come so far, after `standby_from`.
    held: VecDeque<Held>,
    held_bytes: usize,
}

impl Positions {
    /// The active connection heard this. Whether it is to be delivered.
    pub(super) fn active(&mut self, heard: Heard<'_>) -> bool {
        if self.behind.is_some() {
            Position::pass(&mut self.behind, heard);
            if self.behind < self.delivered {
                return false;
            }
            let at = self.behind.take();
            if at == self.delivered {
                return false;
            }
        }
        self.deliver(heard);
        true
    }

    fn deliver(&mut self, heard: Heard<'_>) {
        let before = self.delivered;
        Position::pass(&mut self.delivered, heard);
        // Where the standby has begun, what is held comes next.
        if self.delivered == before || !self.is_ready() || heard == Heard::Marker(self.standby_from) {
            return;
        }
        match self.held.pop_front() {
            Some(first) if first.heard() == heard => self.held_bytes -= first.bytes(),
            // They do not hear the same, whatever it is that sends it.
            Some(_) => self.forget_standby(),
            None => {}
        }
    }

    /// The standby heard this.
    pub(super) fn standby(&mut self, heard: Heard<'_>) {
        let before = self.standby;
        if before.is_none() && matches!(heard, Heard::Marker(marker) if marker <= self.standby_after) {
            return;
        }
        Position::pass(&mut self.standby, heard);
        match (before, self.standby) {
            (None, Some(first)) => self.standby_from = first.marker,
            (before, at) if at == before || at <= self.delivered => {}
            _ => {
                let held = Held::of(heard);
                self.held_bytes += held.bytes();
                self.held.push_back(held);
            }
        }
    }

    /// Whether the standby has everything that comes after what is delivered.
    pub(super) fn is_ready(&self) -> bool {
        self.standby.is_some() && self.delivered.is_some_and(|delivered| delivered.marker >= self.standby_from)
    }

    /// More is held than may be: the active connection stands still.
    pub(super) fn is_full(&self) -> bool {
        self.held_bytes > HELD_BYTES_MAX
    }

    /// The standby is another one from now on, which has subscribed after all markers up to this one were made.
    pub(super) fn begin_standby(&mut self, after: u64) {
        self.forget_standby();
        self.standby_after = self.standby_after.max(after);
    }

    /// There is no standby, or it begins anew with the next marker.
    pub(super) fn forget_standby(&mut self) {
        let passed = self.delivered.max(self.standby).map_or(0, |position| position.marker);
        self.standby_after = self.standby_after.max(passed);
        self.standby = None;
        self.held = VecDeque::new();
        self.held_bytes = 0;
    }

    /// The standby becomes the active connection. What it has heard, for delivery; `None`: it is not [ready](Self::is_ready).
    pub(super) fn take_over(&mut self) -> Option<VecDeque<Held>> {
        if !self.is_ready() {
            return None;
        }
        self.behind = self.standby.filter(|_| self.standby < self.delivered);
        let held = std::mem::take(&mut self.held);
        self.forget_standby();
        held.iter().for_each(|held| Position::pass(&mut self.delivered, held.heard()));
        Some(held)
    }

    /// The last marker that the active connection heard.
    pub(super) fn active_marker(&self) -> Option<u64> {
        self.behind.or(self.delivered).map(|position| position.marker)
    }

    /// The last marker that the standby heard.
    pub(super) fn standby_marker(&self) -> Option<u64> {
        self.standby.map(|position| position.marker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(payload: &[u8]) -> Heard<'_> {
        Heard::Message(Published { channel: b"c", payload: Some(payload) })
    }

    fn heard(marker: Option<u64>, text: &str) -> Heard<'_> {
        marker.map_or(message(text.as_bytes()), Heard::Marker)
    }

    /// A Redis that has published all that it ever will.
    struct World {
        published: Vec<Option<u64>>,
        texts: Vec<String>,
        positions: Positions,
        /// How much of it the connections have heard.
        active: usize,
        standby: Option<usize>,
        /// What was delivered, by its place.
        delivered: Vec<usize>,
        told: bool,
    }

    impl World {
        /// `markers` says of each thing that is published whether it is one; of three of them `late` come behind one that
        /// was made later.
        fn new(markers: &[bool], late: u64) -> Self {
            let mut number = 100;
            let mut next = |is_marker: &bool| {
                is_marker.then(|| {
                    number += 7;
                    if number % 3 < late { number - 10 } else { number }
                })
            };
            Self {
                published: markers.iter().map(&mut next).collect(),
                // Many are alike, so that comparing them does not help.
                texts: (0..markers.len()).map(|place| (place % 3).to_string()).collect(),
                positions: Positions::default(),
                active: 0,
                standby: None,
                delivered: Vec::new(),
                told: false,
            }
        }

        fn active_reads(&mut self, count: usize) {
            for _ in 0..count.min(self.published.len() - self.active) {
                let place = self.active;
                self.active += 1;
                let heard = heard(self.published[place], &self.texts[place]);
                if self.positions.active(heard) && self.published[place].is_none() {
                    self.delivered.push(place);
                }
            }
        }

        fn standby_reads(&mut self, count: usize) {
            let Some(standby) = self.standby else { return };
            let to = self.published.len().min(standby + count);
            for place in standby..to {
                let heard = heard(self.published[place], &self.texts[place]);
                self.positions.standby(heard);
            }
            self.standby = Some(to);
        }

        /// A standby subscribes; what was published before the later of the two is not for it.
        fn standby_comes(&mut self, ahead: usize) {
            let place = self.published.len().min(self.active + ahead);
            let made = self.published[..place].iter().flatten().max();
            self.positions.begin_standby(made.copied().unwrap_or_default());
            self.standby = Some(place);
        }

        fn active_ends(&mut self) {
            let Some(standby) = self.standby.take() else { return };
            match self.positions.take_over() {
                Some(held) => {
                    // Which places these were is known from where delivery stood.
                    let mut place = self.delivered.last().map_or(0, |last| last + 1);
                    for held in &held {
                        if let Held::Message { payload, .. } = held {
                            while self.published[place].is_some() {
                                place += 1;
                            }
                            assert_eq!(payload.as_deref(), Some(self.texts[place].as_bytes()));
                            self.delivered.push(place);
                            place += 1;
                        }
                    }
                    self.active = standby;
                }
                None => self.told = true,
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Active(usize),
        Standby(usize),
        Comes(usize),
        Ends,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1usize..12).prop_map(Step::Active),
            4 => (1usize..12).prop_map(Step::Standby),
            1 => (0usize..6).prop_map(Step::Comes),
            1 => Just(Step::Ends),
        ];
        prop::collection::vec(step, 1..120)
    }

    proptest! {
        /// However the two are read and whenever one is lost: everything once and in order, or it is known that not.
        #[test]
        fn everything_once_and_in_order(
            markers in prop::collection::vec(prop::bool::weighted(0.2), 1..300),
            late in 0u64..2,
            steps in steps(),
        ) {
            let mut world = World::new(&markers, late);
            for step in steps {
                match step {
                    Step::Active(count) => world.active_reads(count),
                    Step::Standby(count) => world.standby_reads(count),
                    Step::Comes(ahead) => world.standby_comes(ahead),
                    Step::Ends => world.active_ends(),
                }
                if world.told {
                    break;
                }
            }
            if !world.told {
                world.active_reads(usize::MAX);
                let all: Vec<usize> = (0..markers.len()).filter(|place| !markers[*place]).collect();
                prop_assert_eq!(&world.delivered, &all);
            } else {
                let until = world.delivered.len();
                let all = (0..markers.len()).filter(|place| !markers[*place]).take(until);
                prop_assert!(world.delivered.iter().copied().eq(all));
            }
        }
    }

    fn world(text: &str) -> World {
        World::new(&text.bytes().map(|byte| byte == b'|').collect::<Vec<_>>(), 0)
    }

    #[test]
    fn a_standby_is_ready_when_both_have_heard_its_first_marker() {
        let mut world = world("..|..|..|");
        world.active_reads(3);
        world.standby_comes(0);
        world.standby_reads(2);
        assert!(!world.positions.is_ready(), "it has no marker");
        world.standby_reads(2);
        assert!(!world.positions.is_ready(), "the other one does not know this marker");
        world.active_reads(3);
        assert!(world.positions.is_ready());
        world.active_ends();
        world.active_reads(9);
        assert_eq!(world.delivered, [0, 1, 3, 4, 6, 7]);
    }

    #[test]
    fn what_is_held_goes_when_it_has_been_delivered() {
        let mut world = world("|......");
        world.standby_comes(0);
        world.active_reads(1);
        world.standby_reads(5);
        assert_eq!(world.positions.held.len(), 4);
        world.active_reads(3);
        assert_eq!(world.positions.held.len(), 1);
        world.active_reads(3);
        assert_eq!((world.positions.held.len(), world.positions.held_bytes), (0, 0));
        world.standby_reads(2);
        assert_eq!((world.positions.held.len(), world.positions.held_bytes), (0, 0), "delivered before it came");
        assert!(world.positions.is_ready());
    }

    #[test]
    fn who_does_not_hear_the_same_is_no_standby() {
        let mut positions = Positions::default();
        positions.active(Heard::Marker(1));
        positions.standby(Heard::Marker(1));
        positions.standby(message(b"a"));
        assert!(positions.is_ready());
        positions.active(message(b"b"));
        assert!(!positions.is_ready() && positions.take_over().is_none());
        positions.standby(Heard::Marker(2));
        positions.active(Heard::Marker(2));
        assert!(positions.is_ready());
    }

    #[test]
    fn a_marker_that_is_repeated_says_nothing() {
        let mut positions = Positions::default();
        for number in [5, 6, 5, 6] {
            positions.active(Heard::Marker(number));
            positions.active(message(b"a"));
        }
        assert_eq!(positions.delivered, Some(Position { marker: 6, count: 3 }));
        for number in [5, 6, 7] {
            positions.standby(Heard::Marker(number));
            positions.standby(message(b"a"));
        }
        positions.active(Heard::Marker(7));
        positions.active(message(b"a"));
        assert!(positions.is_ready() && positions.held.is_empty());
    }

    /// Marker 1 was made before 2, over a connection that broke, and Redis took it after 2. The standby has subscribed in
    /// between: by the count since marker 1 it would be elsewhere than the active one by its count since 2.
    #[test]
    fn a_standby_begins_with_no_marker_that_came_late() {
        let mut positions = Positions::default();
        positions.active(Heard::Marker(2));
        positions.begin_standby(2);
        let late = [Heard::Marker(1), message(b"a"), message(b"b"), message(b"c")];
        late.iter().for_each(|heard| positions.standby(*heard));
        assert!(positions.active(Heard::Marker(1)) && positions.active(message(b"a")));
        assert!(!positions.is_ready() && positions.take_over().is_none());
        positions.standby(Heard::Marker(3));
        assert!([message(b"b"), message(b"c"), Heard::Marker(3)].iter().all(|heard| positions.active(*heard)));
        assert!(positions.is_ready());
    }

    #[test]
    fn so_much_is_held_and_no_more() {
        let mut positions = Positions::default();
        positions.active(Heard::Marker(1));
        positions.standby(Heard::Marker(1));
        let payload = vec![0; HELD_BYTES_MAX / 4];
        (0..3).for_each(|_| positions.standby(message(&payload)));
        assert!(!positions.is_full());
        positions.standby(message(&payload));
        assert!(positions.is_full());
        assert_eq!(positions.take_over().map(|held| held.len()), Some(4));
        assert!(!positions.is_full());
    }
}
