//! Who comes back, in which order, and what those who want to harm could make of it.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};

use super::*;
use proptest::prelude::*;

thread_local! {
    /// How often a channel has been looked for among those of a lost connection.
    pub static LOOKUPS: Cell<usize> = const { Cell::new(0) };
}

const KEY: Key = (AppIndex(0), BrowserId(1));

fn lost(n: u64, seats: &[(u64, u64)], at: Millis) -> Lost {
    let seat = |(hash, position): &(u64, u64)| LostSeat {
        hash: *hash,
        channel: *hash as u32,
        position: *position,
        ..LostSeat::default()
    };
    let seats = seats.iter().map(seat).collect();
    Lost { socket_ids: vec![SocketId::new(n, 0)], address: None, known_at: at, lost_at: at, seats }
}

fn browser(n: u128) -> Key {
    (AppIndex(0), BrowserId(n))
}

/// Channels with hashes from `first` on, all at this position.
fn channels(first: u64, count: u64, position: u64) -> Vec<(u64, u64)> {
    (first..first + count).map(|hash| (hash, position)).collect()
}

impl Away {
    /// What is counted is what is there.
    fn assert_consistent(&self) {
        let lots = || self.browsers.iter().flat_map(|(key, lot)| lot.tickets.iter().map(move |ticket| (key, ticket)));
        assert_eq!(self.seats, lots().map(|(_, ticket)| ticket.lost.seats.len()).sum::<usize>());
        let entries: usize = self.queues.iter().map(BTreeMap::len).sum();
        assert_eq!(entries, lots().count());
        for (key, ticket) in lots() {
            assert_eq!(self.queues[ticket.kind as usize].get(&(ticket.until, ticket.id)), Some(key));
            assert_eq!(ticket.claimed, ticket.lost.seats.iter().filter(|seat| seat.is_claimed).count());
        }
        for lot in self.browsers.values() {
            assert_eq!(lot.left, lot.open.values().map(|open| (open.lost - open.claimed) as usize).sum::<usize>());
            let open: u32 = lot.open.values().map(|open| open.lost).sum();
            let unbound = lot.tickets.iter().filter(|ticket| !ticket.is_bound);
            assert_eq!(open as usize, unbound.map(|ticket| ticket.lost.seats.len()).sum::<usize>());
            assert!(lot.tickets.len() <= LOST_MAX);
            assert!(lot.tickets.iter().map(|ticket| ticket.lost.seats.len()).sum::<usize>() <= SEATS_MAX);
        }
        let held = lots().filter(|(_, it)| it.kind == Kind::Held && it.lost.address.is_some());
        let held: usize = held.map(|(_, ticket)| ticket.lost.seats.len()).sum();
        assert_eq!(self.held.values().sum::<usize>(), held);
    }

    /// How often channels are held.
    fn holds(&self) -> HashMap<u32, usize> {
        let mut holds = HashMap::new();
        for channel in self.browsers.values().flat_map(|lot| &lot.tickets).flat_map(Ticket::held) {
            *holds.entry(channel).or_default() += 1;
        }
        holds
    }
}

fn position(away: &mut Away, hash: u64, claims: &mut Claims) -> Option<u64> {
    away.claim(&KEY, None, hash, claims, 100).map(|claim| claim.position.unwrap())
}

#[test]
fn tabs_are_told_apart_by_their_channels() {
    let mut away = Away::new(1000, 100);
    away.put(KEY, lost(1, &[(1, 5), (2, 5)], 0), &Claims::default(), 0);
    away.put(KEY, lost(2, &[(1, 8), (3, 8)], 0), &Claims::default(), 0);
    let (mut first, mut second) = (Claims::default(), Claims::default());
    assert_eq!(position(&mut away, 3, &mut second), Some(8));
    assert_eq!(position(&mut away, 1, &mut second), Some(8), "it is the one with channel 3");
    assert_eq!(position(&mut away, 1, &mut first), Some(5));
    let claim = away.claim(&KEY, None, 2, &mut first, 100).unwrap();
    assert_eq!((claim.position, claim.socket_ids, claim.released), (Some(5), vec![SocketId::new(1, 0)], vec![1, 2]));
    assert!(!away.browsers.contains_key(&KEY));
    assert_eq!(position(&mut away, 1, &mut Claims::default()), None, "each is claimed once");
    assert_eq!(away.seats, 0);
}

#[test]
fn tabs_with_the_same_channels_get_what_any_of_them_missed() {
    let mut away = Away::new(1000, 100);
    for n in [8, 5, 7] {
        away.put(KEY, lost(n, &[(1, n)], 0), &Claims::default(), 0);
    }
    let positions: Vec<_> = (0..4).map(|_| position(&mut away, 1, &mut Claims::default())).collect();
    assert_eq!(positions, [Some(5), Some(5), Some(5), None]);
}

#[test]
fn who_is_lost_again_goes_on_where_it_was() {
    let mut away = Away::new(1000, 100);
    away.put(KEY, lost(1, &[(1, 5), (2, 6)], 50), &Claims::default(), 60);
    let mut claims = Claims::default();
    assert_eq!(position(&mut away, 1, &mut claims), Some(5));
    let released = away.put(KEY, lost(2, &[(1, 9)], 150), &claims, 160);
    assert_eq!(released, [1], "as often as it is held for the former one");
    let mut claims = Claims::default();
    assert_eq!(position(&mut away, 2, &mut claims), Some(6));
    let claim = away.claim(&KEY, None, 1, &mut claims, 200).unwrap();
    assert_eq!((claim.position, claim.known_at, claim.released), (Some(9), 50, vec![1, 2]));
    assert!(away.browsers.is_empty());
}

#[test]
fn who_comes_too_late_is_told_of_a_gap() {
    let mut away = Away::new(1000, 100);
    away.put(KEY, lost(1, &[(1, 5), (2, 6)], 50), &Claims::default(), 60);
    assert!(away.expire(1059).is_empty());
    assert_eq!(away.expire(1060), [1, 2]);
    let claim = away.claim(&KEY, None, 1, &mut Claims::default(), 5000).unwrap();
    assert_eq!((claim.position, claim.known_at, claim.gap_until, claim.released), (None, 50, Some(5000), vec![]));
    away.expire(1060 + REMEMBERED);
    assert!(!away.browsers.contains_key(&KEY));
    assert_eq!(away.seats, 0);
}

#[test]
fn without_room_the_longest_lost_is_forgotten_and_told() {
    let mut away = Away::new(1000, 100);
    away.seats_max = 3;
    assert!(away.put(browser(1), lost(1, &[(1, 1), (2, 1)], 50), &Claims::default(), 60).is_empty());
    assert_eq!(away.put(browser(2), lost(2, &[(3, 2), (4, 2)], 60), &Claims::default(), 61), [1, 2]);
    away.assert_consistent();
    let claim = away.claim(&browser(1), None, 1, &mut Claims::default(), 100).unwrap();
    assert_eq!((claim.position, claim.known_at, claim.gap_until), (None, 50, Some(100)));
    let claim = away.claim(&browser(2), None, 3, &mut Claims::default(), 100).unwrap();
    assert_eq!((claim.position, claim.gap_until), (Some(2), None));
    assert_eq!(away.claim(&browser(3), None, 1, &mut Claims::default(), 100), None, "one that was never here");
    away.expire(60 + 1000 + REMEMBERED);
    assert_eq!(away.claim(&browser(1), None, 1, &mut Claims::default(), 60 + 1000 + REMEMBERED), None);
}

#[test]
fn of_one_browser_so_many_are_remembered_and_the_others_told_of() {
    let mut away = Away::new(1000, 1_000_000);
    for n in 0..1000 {
        away.put(KEY, lost(n, &[(n, n)], n), &Claims::default(), n);
        away.assert_consistent();
    }
    assert_eq!((away.seats, away.take_forgotten()), (LOST_MAX, 1000 - LOST_MAX as u64));
    // Whoever was forgotten may be any of those who come back.
    let claim = away.claim(&KEY, None, 999, &mut Claims::default(), 1000).unwrap();
    assert_eq!((claim.position, claim.known_at, claim.gap_until), (Some(999), 0, Some(1000)));
    let claim = away.claim(&KEY, None, 5, &mut Claims::default(), 1000).unwrap();
    assert_eq!((claim.position, claim.gap_until), (None, Some(1000)));
}

#[test]
fn what_is_lost_again_and_again_does_not_grow() {
    let mut away = Away::new(1_000_000, 1_000_000);
    let (mut claims, mut holds) = (Claims::default(), HashMap::<u32, usize>::new());
    for round in 0..100_u64 {
        // One old channel is claimed, and a hundred new ones come.
        let lost = lost(round, &channels(round * 100, 101, round), round);
        for seat in &lost.seats {
            *holds.entry(seat.channel).or_default() += 1;
        }
        for channel in away.put(KEY, lost, &claims, round) {
            *holds.get_mut(&channel).unwrap() -= 1;
        }
        away.assert_consistent();
        assert_eq!(away.browsers[&KEY].tickets.len(), 1);
        claims = Claims::default();
        let claim = away.claim(&KEY, None, round * 100 + 100, &mut claims, round).unwrap();
        assert!(claim.position.is_some() && claim.released.is_empty());
        assert_eq!(claim.gap_until.is_some(), round * 100 + 101 > MERGED_MAX as u64, "round {round}");
    }
    assert_eq!(away.seats, MERGED_MAX);
    holds.retain(|_, count| *count > 0);
    assert_eq!(away.holds(), holds);
    assert_eq!(away.leave(&KEY, &claims).len(), MERGED_MAX);
}

#[test]
fn a_connection_with_more_channels_than_are_kept_is_told() {
    let mut away = Away::new(1000, 1_000_000);
    let released = away.put(KEY, lost(1, &channels(0, SEATS_MAX as u64 + 3, 7), 1), &Claims::default(), 1);
    assert_eq!(released.len(), 3);
    let mut claims = Claims::default();
    for hash in 0..SEATS_MAX as u64 + 3 {
        let claim = away.claim(&KEY, None, hash, &mut claims, 2).unwrap();
        assert_eq!((claim.position.is_some(), claim.gap_until), (hash < SEATS_MAX as u64, Some(2)));
    }
}

#[test]
fn one_address_takes_nobody_elses_room() {
    let address = |n: u32| Counted::of(IpAddr::V4(Ipv4Addr::from_bits(0xcb00_7100 + n)));
    let mut away = Away::new(1000, 800);
    away.put(KEY, Lost { address: address(1), ..lost(1, &channels(0, 10, 5), 1) }, &Claims::default(), 1);
    let mut released = 0;
    for n in 0..1000 {
        let lost = Lost { address: address(2), ..lost(n, &channels(n * 10, 10, 6), 2) };
        released += away.put(browser(1000 + u128::from(n)), lost, &Claims::default(), 2).len();
        away.assert_consistent();
    }
    assert_eq!(released, 9900, "an eighth of the room is held");
    assert!(away.take_forgotten() >= 990);
    // What is not held is told, and of who was forgotten, too.
    let claim = away.claim(&browser(1999), None, 9990, &mut Claims::default(), 3).unwrap();
    assert_eq!((claim.position, claim.gap_until), (None, Some(3)));
    let claim = away.claim(&browser(1020), address(2), 200, &mut Claims::default(), 3).unwrap();
    assert_eq!((claim.position, claim.gap_until), (None, Some(3)));
    let claim = away.claim(&KEY, address(1), 0, &mut Claims::default(), 3).unwrap();
    assert_eq!((claim.position, claim.gap_until), (Some(5), None));
    // And when its time is over there is room again.
    away.expire(1002);
    away.assert_consistent();
    assert!(away.held.is_empty());
    assert!(
        away.put(KEY, Lost { address: address(2), ..lost(1, &channels(0, 10, 5), 1) }, &Claims::default(), 1003)
            .is_empty()
    );
}

#[test]
fn a_claim_costs_the_same_however_many_were_made() {
    let mut away = Away::new(1000, 1_000_000);
    let each = SEATS_MAX as u64 / LOST_MAX as u64;
    // All alike, so that none can be told from the others.
    for n in 0..LOST_MAX as u64 {
        away.put(KEY, lost(n, &channels(0, each, n), 1), &Claims::default(), 1);
    }
    LOOKUPS.set(0);
    let mut made = 0;
    for _ in 0..LOST_MAX {
        let mut claims = Claims::default();
        for hash in 0..each {
            made += usize::from(away.claim(&KEY, None, hash, &mut claims, 2).is_some());
        }
    }
    assert_eq!((made, away.seats), (SEATS_MAX, 0));
    assert!(LOOKUPS.get() <= made * (LOST_MAX + 1), "{} for {made} claims", LOOKUPS.get());
    // Nor do those who come and go leave anything.
    for n in 0..10_000 {
        away.put(KEY, lost(n, &[(1, n)], n), &Claims::default(), n);
        assert!(away.claim(&KEY, None, 1, &mut Claims::default(), n).is_some());
    }
    away.assert_consistent();
    assert_eq!(away.queues.iter().map(BTreeMap::len).sum::<usize>(), 0);
}

#[test]
fn nobody_claims_a_channel_twice() {
    let mut away = Away::new(1000, 100);
    for n in [1, 2] {
        away.put(KEY, lost(n, &[(1, n)], 0), &Claims::default(), 0);
    }
    let (mut first, mut second) = (Claims::default(), Claims::default());
    assert_eq!(position(&mut away, 1, &mut first), Some(1));
    assert_eq!(position(&mut away, 1, &mut first), None, "what is there yet is the other's");
    assert_eq!(position(&mut away, 1, &mut second), Some(1));
}

#[test]
fn what_came_too_late_and_was_not_claimed_is_told_after_another_loss() {
    let mut away = Away::new(1000, 100);
    away.put(KEY, lost(1, &[(1, 5), (2, 6)], 50), &Claims::default(), 60);
    away.expire(1060);
    let mut claims = Claims::default();
    assert!(away.claim(&KEY, None, 1, &mut claims, 2000).is_some());
    assert!(away.put(KEY, lost(2, &[(1, 9)], 2100), &claims, 2100).is_empty());
    away.assert_consistent();
    let mut claims = Claims::default();
    let claim = away.claim(&KEY, None, 1, &mut claims, 2200).unwrap();
    assert_eq!((claim.position, claim.gap_until), (Some(9), None));
    let claim = away.claim(&KEY, None, 2, &mut claims, 2200).unwrap();
    assert_eq!((claim.position, claim.known_at, claim.gap_until), (None, 50, Some(2200)));
}

#[derive(Clone, Debug)]
enum Step {
    Lose(Vec<u64>),
    Note(Vec<u64>),
    Claim(u64),
    Leave,
    Later(Millis),
}

fn step() -> impl Strategy<Value = Step> {
    let channels = || prop::collection::btree_set(0u64..6, 1..5).prop_map(|set| set.into_iter().collect());
    prop_oneof![
        4 => channels().prop_map(Step::Lose),
        1 => channels().prop_map(Step::Note),
        6 => (0u64..6).prop_map(Step::Claim),
        1 => Just(Step::Leave),
        2 => (1u64..600).prop_map(Step::Later),
    ]
}

proptest! {
    /// Whichever tabs come back, in whichever order, with their channels in whichever order: none gets less than
    /// it has missed.
    #[test]
    fn nobody_misses_anything(
        tabs in prop::collection::vec(prop::collection::hash_map(0u64..4, 1u64..50, 1..4), 1..5),
        order in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 20),
    ) {
        let mut away = Away::new(1000, 1000);
        for (n, tab) in tabs.iter().enumerate() {
            let seats: Vec<(u64, u64)> = tab.iter().map(|(hash, position)| (*hash, *position)).collect();
            away.put(KEY, lost(n as u64, &seats, 0), &Claims::default(), 0);
        }
        let mut rest: Vec<(usize, Vec<u64>)> = tabs.iter().map(|tab| tab.keys().copied().collect()).enumerate().collect();
        let mut among = (0..tabs.len()).map(|_| Claims::default()).collect::<Vec<_>>();
        let mut order = order.into_iter();
        while !rest.is_empty() {
            let (tab, channel) = order.next().unwrap();
            let tab = tab.index(rest.len());
            let channel = channel.index(rest[tab].1.len());
            let hash = rest[tab].1.swap_remove(channel);
            let n = rest[tab].0;
            let got = position(&mut away, hash, &mut among[n]);
            prop_assert!(got.is_some_and(|position| position <= tabs[n][&hash]), "{got:?} for {}", tabs[n][&hash]);
            if rest[tab].1.is_empty() {
                rest.swap_remove(tab);
            }
        }
        prop_assert_eq!(away.seats, 0);
        prop_assert!(!away.browsers.contains_key(&KEY));
    }

    /// Whatever happens, in whichever order: what is counted is true, and a channel is held as often as it is let go.
    #[test]
    fn the_books_are_right(
        steps in prop::collection::vec((step(), 0u128..3, 0usize..3), 1..200),
        seats_max in 1usize..60,
    ) {
        let mut away = Away::new(1000, seats_max);
        let (mut now, mut holds) = (0, HashMap::<u32, usize>::new());
        let mut claims: Vec<Claims> = (0..9).map(|_| Claims::default()).collect();
        for (n, (step, of, tab)) in steps.into_iter().enumerate() {
            let (key, at) = (browser(of), of as usize * 3 + tab);
            let seats = |hashes: Vec<u64>| -> Vec<(u64, u64)> { hashes.into_iter().map(|hash| (hash, n as u64)).collect() };
            let released = match step {
                Step::Lose(hashes) => {
                    for hash in &hashes {
                        *holds.entry(*hash as u32).or_default() += 1;
                    }
                    let address = Counted::of(IpAddr::V4(Ipv4Addr::from_bits(0xcb00_7100 + tab as u32)));
                    let lost = Lost { address: address.filter(|_| tab > 0), ..lost(n as u64, &seats(hashes), now) };
                    away.put(key, lost, &std::mem::take(&mut claims[at]), now)
                }
                Step::Note(hashes) => away.note(key, lost(n as u64, &seats(hashes), now), now),
                Step::Claim(hash) => {
                    away.claim(&key, None, hash, &mut claims[at], now).map(|claim| claim.released).unwrap_or_default()
                }
                Step::Leave => away.leave(&key, &std::mem::take(&mut claims[at])),
                Step::Later(more) => {
                    now += more;
                    away.expire(now)
                }
            };
            for channel in released {
                *holds.get_mut(&channel).unwrap() -= 1;
            }
            holds.retain(|_, count| *count > 0);
            away.assert_consistent();
            prop_assert_eq!(away.holds(), holds.clone());
            prop_assert!(away.seats <= seats_max);
        }
        away.expire(now + 1001);
        away.expire(now + 1001 + REMEMBERED);
        prop_assert_eq!(away.seats, 0);
    }
}
