//! Who is away: for each connection that was lost, how far it is known to have got on which channels, until its
//! browser comes back. A browser may come back with several tabs at once, and nothing in a handshake says which
//! is which; what tells them apart is their channels. Where that is not enough each gets what any of them
//! may have missed: so nobody misses anything.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::inbox::AppIndex;
use crate::protocol::SocketId;
use crate::protocol::resume::BrowserId;
use crate::protocol::session::Millis;

/// A browser with one app.
pub type Key = (AppIndex, BrowserId);

/// How long it is remembered of a connection that it was lost, after what it missed is given up: who comes back
/// even later is told that there is a gap.
const REMEMBERED: Millis = 24 * 60 * 60 * 1000;

/// A lost connection.
#[derive(Clone, Debug)]
pub struct Lost {
    /// The ids that it has had, the last one first: what these have sent themselves is not for it.
    pub socket_ids: Vec<SocketId>,
    /// Up to when it is known to have got everything.
    pub known_at: Millis,
    /// When it was lost.
    pub lost_at: Millis,
    /// What it was subscribed to.
    pub seats: Vec<LostSeat>,
}

/// A subscription of a lost connection.
#[derive(Clone, Copy, Debug)]
pub struct LostSeat {
    /// Of the channel's name.
    pub hash: u64,
    /// The channel's id on this shard, for as long as it is held.
    pub channel: u32,
    /// In the log.
    pub position: u64,
    /// What came before the position may not have arrived, and is not to be sent again.
    pub is_unsure: bool,
}

#[derive(Debug)]
struct Ticket {
    id: u64,
    lost: Lost,
    /// The channels are held no more.
    is_late: bool,
    /// It is known which connection has come back for it.
    is_bound: bool,
    /// The channels that this one has claimed, by their hashes.
    claimed: Vec<u64>,
}

/// The lost connections of one browser.
#[derive(Debug, Default)]
struct Lot {
    tickets: Vec<Ticket>,
    /// What was claimed by connections of which it is not known which they are.
    claimed: Vec<u64>,
}

/// What a connection that has come back has claimed so far.
#[derive(Debug, Default)]
pub struct Claims {
    /// The lost connections that it may be; `None`: any.
    among: Option<Vec<u64>>,
    /// The one that it is.
    bound: Option<u64>,
    made: Vec<u64>,
}

/// What somebody who has come back is to be sent of a channel.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Claim {
    /// All after this; `None`: nothing is there any more.
    pub position: Option<u64>,
    /// Up to then it had got everything.
    pub known_at: Millis,
    /// What was from then to this time may be lost.
    pub gap_until: Option<Millis>,
    /// The ids that it has had.
    pub socket_ids: Vec<SocketId>,
    /// Channels that are held once less.
    pub released: Vec<u32>,
}

/// All who are away.
#[derive(Debug)]
pub struct Away {
    browsers: HashMap<Key, Lot>,
    /// Tickets whose channels are held, and those whose channels are not, the oldest first.
    held: VecDeque<(Millis, Key, u64)>,
    late: VecDeque<(Millis, Key, u64)>,
    /// Those that other nodes have lost.
    noted: VecDeque<(Millis, Key, u64)>,
    next: u64,
    seats: usize,
    seats_max: usize,
    time: Millis,
}

impl Ticket {
    fn seat(&self, hash: u64) -> Option<&LostSeat> {
        self.lost.seats.iter().find(|seat| seat.hash == hash)
    }

    fn held(self) -> impl Iterator<Item = u32> {
        let is_held = !self.is_late;
        self.lost.seats.into_iter().filter(move |_| is_held).map(|seat| seat.channel)
    }
}

impl Lot {
    fn fitting(&self, hash: u64, among: Option<&[u64]>) -> Vec<&Ticket> {
        let fits = |ticket: &&Ticket| {
            !ticket.is_bound && ticket.seat(hash).is_some() && among.is_none_or(|among| among.contains(&ticket.id))
        };
        self.tickets.iter().filter(fits).collect()
    }
}

impl Away {
    /// Holds channels for `time`, and has room for so many subscriptions.
    pub fn new(time: Millis, seats_max: usize) -> Self {
        let (browsers, held, late, noted) = (HashMap::new(), VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self { browsers, held, late, noted, next: 0, seats: 0, seats_max, time }
    }

    /// A connection was lost, and its channels are held. `claims` are those that it has made, if it had been lost before:
    /// what it has not claimed yet goes on to be its own. Without room, the longest lost are forgotten; gives
    /// the channels that are held once less.
    pub fn put(&mut self, key: Key, mut lost: Lost, claims: &Claims, now: Millis) -> Vec<u32> {
        let mut released = Vec::new();
        if let Some(before) = claims.bound.and_then(|id| self.take(&key, id)) {
            let (is_late, claimed, known_at) = (before.is_late, before.claimed, before.lost.known_at);
            // There may be very many, if somebody wants that.
            let mut known: HashSet<u64> = claimed.into_iter().chain(lost.seats.iter().map(|seat| seat.hash)).collect();
            for seat in before.lost.seats.into_iter().filter(|_| !is_late) {
                if known.insert(seat.hash) {
                    lost.seats.push(seat);
                    lost.known_at = lost.known_at.min(known_at);
                } else {
                    released.push(seat.channel);
                }
            }
        }
        if lost.seats.is_empty() {
            return released;
        }
        self.next += 1;
        self.seats += lost.seats.len();
        self.held.push_back((now + self.time, key, self.next));
        let ticket = Ticket { id: self.next, lost, is_late: false, is_bound: false, claimed: Vec::new() };
        self.browsers.entry(key).or_default().tickets.push(ticket);
        released.extend(self.make_room());
        released
    }

    /// Another node has lost a connection: whoever comes back here instead is told of a gap. As [`Away::put`].
    pub fn note(&mut self, key: Key, lost: Lost, now: Millis) -> Vec<u32> {
        self.next += 1;
        self.seats += lost.seats.len();
        self.noted.push_back((now + self.time, key, self.next));
        let ticket = Ticket { id: self.next, lost, is_late: true, is_bound: false, claimed: Vec::new() };
        self.browsers.entry(key).or_default().tickets.push(ticket);
        self.make_room()
    }

    fn make_room(&mut self) -> Vec<u32> {
        let mut released = Vec::new();
        while self.seats > self.seats_max {
            let oldest = self.noted.pop_front().or_else(|| self.late.pop_front()).or_else(|| self.held.pop_front());
            let Some((_, key, id)) = oldest else { break };
            released.extend(self.take(&key, id).into_iter().flat_map(Ticket::held));
        }
        released
    }

    /// A connection that has claimed something has ended for good; gives the channels that are held once less.
    pub fn leave(&mut self, key: &Key, claims: &Claims) -> Vec<u32> {
        claims.bound.and_then(|id| self.take(key, id)).into_iter().flat_map(Ticket::held).collect()
    }

    /// What a connection of this browser is to be sent of a channel.
    pub fn claim(&mut self, key: &Key, hash: u64, claims: &mut Claims, now: Millis) -> Option<Claim> {
        let lot = self.browsers.get_mut(key)?;
        if let Some(ticket) = lot.tickets.iter_mut().find(|ticket| Some(ticket.id) == claims.bound)
            && ticket.seat(hash).is_some()
        {
            if ticket.claimed.contains(&hash) {
                return None;
            }
            ticket.claimed.push(hash);
            let mut claim = claim_of(&[ticket], hash, now);
            claim.released = self.take_what_is_done(key);
            return Some(claim);
        }
        let any = lot.fitting(hash, None);
        let claimed = lot.claimed.iter().filter(|claimed| **claimed == hash).count();
        if claimed >= any.len() {
            return None;
        }
        let mut fitting = lot.fitting(hash, claims.among.as_deref());
        if fitting.is_empty() {
            fitting = any;
        } else {
            claims.among = Some(fitting.iter().map(|ticket| ticket.id).collect());
        }
        let mut claim = claim_of(&fitting, hash, now);
        let only = if let [only] = fitting[..] { Some(only.id) } else { None };
        claims.made.push(hash);
        lot.claimed.push(hash);
        if let Some(id) = only.filter(|_| claims.bound.is_none())
            && let Some(ticket) = lot.tickets.iter_mut().find(|ticket| ticket.id == id)
        {
            // Now it is known which it is, and so whose its earlier claims were.
            claims.bound = Some(id);
            ticket.is_bound = true;
            for made in std::mem::take(&mut claims.made) {
                if ticket.seat(made).is_some()
                    && let Some(at) = lot.claimed.iter().position(|claimed| *claimed == made)
                {
                    lot.claimed.swap_remove(at);
                    ticket.claimed.push(made);
                }
            }
        }
        claim.released = self.take_what_is_done(key);
        Some(claim)
    }

    /// Gives up what is too old; gives the channels that are held once less for it.
    pub fn expire(&mut self, now: Millis) -> Vec<u32> {
        let mut released = Vec::new();
        while let Some((_, key, id)) = self.held.pop_front_if(|(until, _, _)| *until <= now) {
            let lot = self.browsers.get_mut(&key);
            if let Some(ticket) = lot.and_then(|lot| lot.tickets.iter_mut().find(|ticket| ticket.id == id)) {
                ticket.is_late = true;
                released.extend(ticket.lost.seats.iter().map(|seat| seat.channel));
                self.late.push_back((now + REMEMBERED, key, id));
            }
        }
        for queue in [&mut self.late, &mut self.noted] {
            while let Some((_, key, id)) = queue.pop_front_if(|(until, _, _)| *until <= now) {
                take(&mut self.browsers, &mut self.seats, &key, id);
            }
        }
        released
    }

    /// Takes out the lost connections of which every channel has been claimed; gives the channels that are held once less.
    fn take_what_is_done(&mut self, key: &Key) -> Vec<u32> {
        let Some(lot) = self.browsers.get_mut(key) else { return Vec::new() };
        let unbound: usize = lot.tickets.iter().filter(|it| !it.is_bound).map(|it| it.lost.seats.len()).sum();
        let all_unbound = unbound == lot.claimed.len();
        if all_unbound {
            lot.claimed.clear();
        }
        let is_done = |ticket: &&Ticket| match ticket.is_bound {
            true => ticket.claimed.len() == ticket.lost.seats.len(),
            false => all_unbound,
        };
        let done: Vec<u64> = lot.tickets.iter().filter(is_done).map(|ticket| ticket.id).collect();
        done.into_iter().filter_map(|id| self.take(key, id)).flat_map(Ticket::held).collect()
    }

    fn take(&mut self, key: &Key, id: u64) -> Option<Ticket> {
        take(&mut self.browsers, &mut self.seats, key, id)
    }
}

fn take(browsers: &mut HashMap<Key, Lot>, seats: &mut usize, key: &Key, id: u64) -> Option<Ticket> {
    let lot = browsers.get_mut(key)?;
    let at = lot.tickets.iter().position(|ticket| ticket.id == id)?;
    let ticket = lot.tickets.swap_remove(at);
    if lot.tickets.is_empty() {
        browsers.remove(key);
    }
    *seats -= ticket.lost.seats.len();
    Some(ticket)
}

/// What one of these has missed at most.
fn claim_of(tickets: &[&Ticket], hash: u64, now: Millis) -> Claim {
    let seats = || tickets.iter().filter_map(|ticket| Some((ticket, ticket.seat(hash)?)));
    let gap = |(ticket, seat): (&&Ticket, &LostSeat)| match (ticket.is_late, seat.is_unsure) {
        (true, _) => Some(now),
        (false, true) => Some(ticket.lost.lost_at),
        (false, false) => None,
    };
    Claim {
        position: seats().filter(|(ticket, _)| !ticket.is_late).map(|(_, seat)| seat.position).min(),
        known_at: seats().map(|(ticket, _)| ticket.lost.known_at).min().unwrap_or(now),
        gap_until: seats().filter_map(gap).max(),
        // What one of several has sent, the others have not seen.
        socket_ids: if let [only] = tickets { only.lost.socket_ids.clone() } else { Vec::new() },
        released: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: Key = (AppIndex(0), BrowserId(1));

    fn lost(n: u64, seats: &[(u64, u64)], at: Millis) -> Lost {
        let seat = |(hash, position): &(u64, u64)| LostSeat {
            hash: *hash,
            channel: *hash as u32,
            position: *position,
            is_unsure: false,
        };
        let seats = seats.iter().map(seat).collect();
        Lost { socket_ids: vec![SocketId::new(n, 0)], known_at: at, lost_at: at, seats }
    }

    fn position(away: &mut Away, hash: u64, claims: &mut Claims) -> Option<u64> {
        away.claim(&KEY, hash, claims, 100).map(|claim| claim.position.unwrap())
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
        let claim = away.claim(&KEY, 2, &mut first, 100).unwrap();
        assert_eq!(
            (claim.position, claim.socket_ids, claim.released),
            (Some(5), vec![SocketId::new(1, 0)], vec![1, 2])
        );
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
        let claim = away.claim(&KEY, 1, &mut claims, 200).unwrap();
        assert_eq!((claim.position, claim.known_at, claim.released), (Some(9), 50, vec![1, 2]));
        assert!(away.browsers.is_empty());
    }

    #[test]
    fn who_comes_too_late_is_told_of_a_gap() {
        let mut away = Away::new(1000, 100);
        away.put(KEY, lost(1, &[(1, 5), (2, 6)], 50), &Claims::default(), 60);
        assert!(away.expire(1059).is_empty());
        assert_eq!(away.expire(1060), [1, 2]);
        let claim = away.claim(&KEY, 1, &mut Claims::default(), 5000).unwrap();
        assert_eq!((claim.position, claim.known_at, claim.gap_until, claim.released), (None, 50, Some(5000), vec![]));
        away.expire(1060 + REMEMBERED);
        assert!(!away.browsers.contains_key(&KEY));
        assert_eq!(away.seats, 0);
    }

    #[test]
    fn without_room_the_longest_lost_is_forgotten() {
        let mut away = Away::new(1000, 3);
        assert!(away.put(KEY, lost(1, &[(1, 1), (2, 1)], 0), &Claims::default(), 0).is_empty());
        assert_eq!(away.put(KEY, lost(2, &[(3, 2), (4, 2)], 0), &Claims::default(), 1), [1, 2]);
        assert_eq!(away.seats, 2);
        assert_eq!(position(&mut away, 1, &mut Claims::default()), None);
        assert_eq!(position(&mut away, 3, &mut Claims::default()), Some(2));
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
    }
}
