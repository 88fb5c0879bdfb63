//! Who is away: for each connection that was lost, how far it is known to have got on which channels, until its
//! browser comes back. A browser may come back with several tabs at once, and nothing in a handshake says which
//! is which; what tells them apart is their channels. Where that is not enough each gets what any of them
//! may have missed: so nobody misses anything.
//!
//! All of it is bounded, for each browser, for each address, and in all, and what a claim costs is so, too: whoever opens
//! and drops connections without end is forgotten for it. Who was forgotten is told of a gap.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::ADDRESS_PART;
use super::marks::Marks;
use crate::address::Counted;
use crate::inbox::AppIndex;
use crate::protocol::SocketId;
use crate::protocol::resume::BrowserId;
use crate::protocol::session::Millis;

/// A browser with one app.
pub type Key = (AppIndex, BrowserId);

/// How long it is remembered of a connection that it was lost, after what it missed is given up: who comes back
/// even later is told that there is a gap.
pub const REMEMBERED: Millis = 24 * 60 * 60 * 1000;

/// Lost connections of one browser. Beyond, those that were lost first are forgotten.
const LOST_MAX: usize = 64;

/// Subscriptions of the lost connections of one browser.
const SEATS_MAX: usize = 8192;

/// What a connection that is lost again has yet to claim from before goes on to be its own, up to so many subscriptions in all.
const MERGED_MAX: usize = 1024;

/// For so many subscriptions that there is room for, one browser may be remembered to have been forgotten.
const FORGOTTEN_PART: usize = 16;

/// Subscriptions that are given up at once; more have their turn later.
const EXPIRED_MAX: usize = 64 * 1024;

/// A lost connection.
#[derive(Clone, Debug)]
pub struct Lost {
    /// The ids that it has had, the last one first: what these have sent themselves is not for it.
    pub socket_ids: Vec<SocketId>,
    /// The address that it came from, if that is one client's.
    pub address: Option<Counted>,
    /// Up to when it is known to have got everything.
    pub known_at: Millis,
    /// When it was lost.
    pub lost_at: Millis,
    /// What it was subscribed to.
    pub seats: Vec<LostSeat>,
}

/// A subscription of a lost connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct LostSeat {
    /// Of the channel's name.
    pub hash: u64,
    /// The channel's id on this shard, for as long as it is held.
    pub channel: u32,
    /// In the log.
    pub position: u64,
    /// What came before the position may not have arrived, and is not to be sent again.
    pub is_unsure: bool,
    /// Its connection has come back, and for this channel.
    pub is_claimed: bool,
}

/// What is known of a lost connection. Without room, the first kinds are forgotten first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// Another node has lost it, and keeps what it misses.
    Noted,
    /// What it misses is kept no more.
    Late,
    /// Its channels are held.
    Held,
}

#[derive(Debug)]
struct Ticket {
    id: u64,
    kind: Kind,
    /// It is of this kind until then.
    until: Millis,
    /// The seats are in the order of their hashes.
    lost: Lost,
    /// It is known which connection has come back for it.
    is_bound: bool,
    /// How many seats are claimed.
    claimed: usize,
}

/// The lost connections of one browser, those that were lost first before others.
#[derive(Debug, Default)]
struct Lot {
    tickets: Vec<Ticket>,
    /// By the channel's hash, for those of which it is not known who has come back for them.
    open: HashMap<u64, Open>,
    /// How many of their seats nobody has claimed.
    left: usize,
}

/// How many of the connections were on a channel, and how many have claimed it since.
#[derive(Debug, Default)]
struct Open {
    lost: u32,
    claimed: u32,
}

/// What a connection that has come back has claimed so far.
#[derive(Debug, Default)]
pub struct Claims {
    /// The lost connections that it may be; `None`: any.
    among: Option<Vec<u64>>,
    /// The one that it is.
    bound: Option<u64>,
    /// Channels that it has claimed when that was not known, or not of that one.
    made: HashSet<u64>,
}

/// What somebody who has come back is to be sent of a channel.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Claim {
    /// All after this; `None`: nothing is there any more.
    pub position: Option<u64>,
    /// Up to then it had got everything; 0: nobody knows.
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
    /// Of each kind, those whose time is over first before others.
    queues: [BTreeMap<(Millis, u64), Key>; 3],
    /// Seats that are held, by address.
    held: HashMap<Counted, usize>,
    /// Browsers of which a lost connection was forgotten before its time.
    forgotten: Marks,
    /// Of how many not all is kept, since [`Away::take_forgotten`].
    count: u64,
    next: u64,
    seats: usize,
    seats_max: usize,
    time: Millis,
}

impl Ticket {
    fn seat(&self, hash: u64) -> Option<&LostSeat> {
        self.index(hash).map(|index| &self.lost.seats[index])
    }

    fn index(&self, hash: u64) -> Option<usize> {
        #[cfg(test)]
        tests::LOOKUPS.set(tests::LOOKUPS.get() + 1);
        self.lost.seats.binary_search_by_key(&hash, |seat| seat.hash).ok()
    }

    /// The channels that are held for it.
    fn held(&self) -> impl Iterator<Item = u32> {
        let is_held = self.kind == Kind::Held;
        self.lost.seats.iter().filter(move |_| is_held).map(|seat| seat.channel)
    }
}

impl Lot {
    fn add(&mut self, ticket: Ticket) {
        for seat in &ticket.lost.seats {
            self.open.entry(seat.hash).or_default().lost += 1;
        }
        self.left += ticket.lost.seats.len();
        self.tickets.push(ticket);
    }

    /// These seats are open no more. Of claims it is known, or taken for granted, which were made for them.
    fn withdraw(&mut self, seats: &[LostSeat], was_claimed: impl Fn(u64) -> bool) {
        for seat in seats {
            let Some(open) = self.open.get_mut(&seat.hash) else { continue };
            open.lost -= 1;
            if open.claimed > 0 && (was_claimed(seat.hash) || open.claimed > open.lost) {
                open.claimed -= 1;
            } else {
                self.left -= 1;
            }
            if open.lost == 0 {
                self.open.remove(&seat.hash);
            }
        }
    }

    fn position(&self, id: u64) -> Option<usize> {
        self.tickets.iter().position(|ticket| ticket.id == id)
    }

    fn fitting(&self, hash: u64, among: Option<&[u64]>) -> Vec<(&Ticket, &LostSeat)> {
        let mut tickets = self.tickets.iter().filter(|ticket| !ticket.is_bound).collect::<Vec<_>>();
        tickets.retain(|ticket| among.is_none_or(|among| among.contains(&ticket.id)));
        tickets.into_iter().filter_map(|ticket| Some((ticket, ticket.seat(hash)?))).collect()
    }

    /// What a connection is to be sent of a channel, and notes that it has claimed it.
    fn claim(&mut self, hash: u64, claims: &mut Claims, now: Millis) -> Option<Claim> {
        if let Some(ticket) = claims.bound.and_then(|id| self.position(id)).map(|index| &mut self.tickets[index])
            && let Some(index) = ticket.index(hash)
        {
            if std::mem::replace(&mut ticket.lost.seats[index].is_claimed, true) {
                return None;
            }
            ticket.claimed += 1;
            return Some(claim_of(&[(ticket, &ticket.lost.seats[index])], now));
        }
        self.open.get(&hash).filter(|open| open.claimed < open.lost && !claims.made.contains(&hash))?;
        let mut fitting = self.fitting(hash, claims.among.as_deref());
        if fitting.is_empty() {
            fitting = self.fitting(hash, None);
        } else {
            claims.among = Some(fitting.iter().map(|(ticket, _)| ticket.id).collect());
        }
        let claim = claim_of(&fitting, now);
        let only = if let [(only, _)] = fitting[..] { Some(only.id) } else { None };
        if let Some(open) = self.open.get_mut(&hash) {
            open.claimed += 1;
            self.left -= 1;
        }
        claims.made.insert(hash);
        if let Some(id) = only.filter(|_| claims.bound.is_none()) {
            (claims.bound, claims.among) = (Some(id), None);
            self.bind(id, &claims.made);
        }
        Some(claim)
    }

    /// It is known now who has come back for this one, and so what these claims were made for.
    fn bind(&mut self, id: u64, made: &HashSet<u64>) {
        let Some(index) = self.position(id) else { return };
        let ticket = &mut self.tickets[index];
        ticket.is_bound = true;
        for seat in ticket.lost.seats.iter_mut().filter(|seat| made.contains(&seat.hash)) {
            seat.is_claimed = true;
            ticket.claimed += 1;
        }
        let seats = std::mem::take(&mut ticket.lost.seats);
        self.withdraw(&seats, |hash| made.contains(&hash));
        self.tickets[index].lost.seats = seats;
    }

    /// The lost connections of which every channel has been claimed.
    fn done(&self) -> Vec<u64> {
        let is_done = |ticket: &&Ticket| match ticket.is_bound {
            true => ticket.claimed == ticket.lost.seats.len(),
            false => self.left == 0,
        };
        self.tickets.iter().filter(is_done).map(|ticket| ticket.id).collect()
    }
}

impl Away {
    /// Holds channels for `time`, and has room for so many subscriptions.
    pub fn new(time: Millis, seats_max: usize) -> Self {
        Self {
            browsers: HashMap::new(),
            queues: Default::default(),
            held: HashMap::new(),
            forgotten: Marks::new(seats_max / FORGOTTEN_PART),
            count: 0,
            next: 0,
            seats: 0,
            seats_max,
            time,
        }
    }

    /// A connection was lost, and its channels are held. `claims` are those that it has made, if it had been lost before:
    /// what it has not claimed yet goes on to be its own. Without room, the longest lost are forgotten; gives
    /// the channels that are held once less.
    pub fn put(&mut self, key: Key, mut lost: Lost, claims: &Claims, now: Millis) -> Vec<u32> {
        let mut is_whole = lost.seats.len() <= SEATS_MAX;
        let beyond = lost.seats.drain(SEATS_MAX.min(lost.seats.len())..);
        let mut released: Vec<u32> = beyond.map(|seat| seat.channel).collect();
        lost.seats.sort_unstable_by_key(|seat| seat.hash);
        if let Some(mut before) = claims.bound.and_then(|id| self.take(&key, id)) {
            let own = lost.seats.len();
            let is_own = |seat: &LostSeat| lost.seats.binary_search_by_key(&seat.hash, |own| own.hash).is_ok();
            let (mut rest, over): (Vec<LostSeat>, Vec<LostSeat>) =
                before.lost.seats.drain(..).partition(|seat| !seat.is_claimed && !is_own(seat));
            if before.kind == Kind::Held {
                let beyond = rest.split_off(rest.len().min(MERGED_MAX.saturating_sub(own)));
                is_whole &= beyond.is_empty();
                if !rest.is_empty() || !is_whole {
                    lost.known_at = lost.known_at.min(before.lost.known_at);
                }
                released.extend(over.iter().chain(&beyond).map(|seat| seat.channel));
                lost.seats.append(&mut rest);
                lost.seats.sort_unstable_by_key(|seat| seat.hash);
            } else {
                before.lost.seats = rest;
                self.enter(key, before.lost, before.kind, before.until);
            }
        }
        if !is_whole {
            self.count += 1;
            self.forgotten.put(key, lost.address, lost.known_at, now + self.time + REMEMBERED);
        }
        let held = lost.address.and_then(|address| self.held.get(&address)).copied().unwrap_or(0);
        if lost.address.is_some() && held + lost.seats.len() > self.seats_max / ADDRESS_PART {
            self.count += 1;
            released.extend(lost.seats.iter().map(|seat| seat.channel));
            self.enter(key, lost, Kind::Late, now + REMEMBERED);
        } else {
            self.enter(key, lost, Kind::Held, now + self.time);
        }
        self.make_room(&key, &mut released);
        released
    }

    /// Another node has lost a connection: whoever comes back here instead is told of a gap. As [`Away::put`].
    pub fn note(&mut self, key: Key, mut lost: Lost, now: Millis) -> Vec<u32> {
        if lost.seats.len() > SEATS_MAX {
            lost.seats.truncate(SEATS_MAX);
            self.forgotten.put(key, lost.address, lost.known_at, now + self.time);
        }
        lost.seats.sort_unstable_by_key(|seat| seat.hash);
        self.enter(key, lost, Kind::Noted, now + self.time);
        let mut released = Vec::new();
        self.make_room(&key, &mut released);
        released
    }

    fn enter(&mut self, key: Key, lost: Lost, kind: Kind, until: Millis) {
        if lost.seats.is_empty() {
            return;
        }
        self.next += 1;
        self.seats += lost.seats.len();
        self.queues[kind as usize].insert((until, self.next), key);
        if let Some(address) = lost.address.filter(|_| kind == Kind::Held) {
            *self.held.entry(address).or_default() += lost.seats.len();
        }
        let ticket = Ticket { id: self.next, kind, until, lost, is_bound: false, claimed: 0 };
        self.browsers.entry(key).or_default().add(ticket);
    }

    /// Forgets what there is no room for, of this browser and in all.
    fn make_room(&mut self, key: &Key, released: &mut Vec<u32>) {
        loop {
            let tickets = self.browsers.get(key).map(|lot| lot.tickets.as_slice()).unwrap_or_default();
            let seats: usize = tickets.iter().map(|ticket| ticket.lost.seats.len()).sum();
            let mut oldest = tickets.first().filter(|_| tickets.len() > LOST_MAX || seats > SEATS_MAX);
            let mut of = *key;
            if oldest.is_none() && self.seats > self.seats_max {
                let first = self.queues.iter().find_map(BTreeMap::first_key_value);
                let Some(((_, id), key)) = first else { return };
                oldest = self.browsers.get(key).and_then(|lot| lot.tickets.iter().find(|ticket| ticket.id == *id));
                of = *key;
            }
            let Some(oldest) = oldest else { return };
            let until = oldest.until + if oldest.kind == Kind::Held { REMEMBERED } else { 0 };
            let (id, address, known_at) = (oldest.id, oldest.lost.address, oldest.lost.known_at);
            self.count += 1;
            self.forgotten.put(of, address, known_at, until);
            released.extend(self.take(&of, id).iter().flat_map(Ticket::held));
        }
    }

    /// A connection that has claimed something has ended for good; gives the channels that are held once less.
    pub fn leave(&mut self, key: &Key, claims: &Claims) -> Vec<u32> {
        claims.bound.and_then(|id| self.take(key, id)).iter().flat_map(Ticket::held).collect()
    }

    /// What a connection of this browser, from this address, is to be sent of a channel.
    pub fn claim(
        &mut self,
        key: &Key,
        address: Option<Counted>,
        hash: u64,
        claims: &mut Claims,
        now: Millis,
    ) -> Option<Claim> {
        let forgotten = self.forgotten.get(key, address, now);
        let lot = self.browsers.get_mut(key);
        let claim = lot.and_then(|lot| Some((lot.claim(hash, claims, now)?, lot.done())));
        let mut claim = claim.map(|(mut claim, done)| {
            for id in done {
                claim.released.extend(self.take(key, id).iter().flat_map(Ticket::held));
            }
            claim
        });
        // The one that was forgotten may be this one, whatever else has been found.
        if let Some(known_at) = forgotten {
            let claim = claim.get_or_insert_with(|| Claim { known_at, ..Claim::default() });
            (claim.known_at, claim.gap_until) = (claim.known_at.min(known_at), Some(now));
        }
        claim
    }

    /// Of how many lost connections, since the last time, not all is kept for as long as it should be.
    pub fn take_forgotten(&mut self) -> u64 {
        std::mem::take(&mut self.count)
    }

    /// Gives up what is too old; gives the channels that are held once less for it.
    pub fn expire(&mut self, now: Millis) -> Vec<u32> {
        let mut released = Vec::new();
        while released.len() < EXPIRED_MAX
            && let Some((key, id)) = self.first(Kind::Held, now)
        {
            self.queues[Kind::Held as usize].pop_first();
            let lot = self.browsers.get_mut(&key);
            let Some(ticket) = lot.and_then(|lot| lot.tickets.iter_mut().find(|ticket| ticket.id == id)) else {
                continue;
            };
            released.extend(ticket.held());
            (ticket.kind, ticket.until) = (Kind::Late, now + REMEMBERED);
            self.queues[Kind::Late as usize].insert((ticket.until, id), key);
            let (address, seats) = (ticket.lost.address, ticket.lost.seats.len());
            self.hold_less(address, seats);
        }
        for kind in [Kind::Late, Kind::Noted] {
            while let Some((key, id)) = self.first(kind, now) {
                self.queues[kind as usize].pop_first();
                self.take(&key, id);
            }
        }
        self.forgotten.expire(now);
        released
    }

    /// The first of this kind whose time is over.
    fn first(&self, kind: Kind, now: Millis) -> Option<(Key, u64)> {
        let ((until, id), key) = self.queues[kind as usize].first_key_value()?;
        (*until <= now).then_some((*key, *id))
    }

    fn take(&mut self, key: &Key, id: u64) -> Option<Ticket> {
        let lot = self.browsers.get_mut(key)?;
        let ticket = lot.tickets.remove(lot.position(id)?);
        if lot.tickets.is_empty() {
            self.browsers.remove(key);
        } else if !ticket.is_bound {
            // Whoever comes yet is to find no less than there is.
            lot.withdraw(&ticket.lost.seats, |_| true);
        }
        self.queues[ticket.kind as usize].remove(&(ticket.until, id));
        self.seats -= ticket.lost.seats.len();
        if ticket.kind == Kind::Held {
            self.hold_less(ticket.lost.address, ticket.lost.seats.len());
        }
        Some(ticket)
    }

    fn hold_less(&mut self, address: Option<Counted>, seats: usize) {
        let Some(address) = address else { return };
        if let Some(held) = self.held.get_mut(&address) {
            *held -= seats;
            if *held == 0 {
                self.held.remove(&address);
            }
        }
    }
}

/// What one of these has missed at most.
fn claim_of(seats: &[(&Ticket, &LostSeat)], now: Millis) -> Claim {
    let is_held = |ticket: &Ticket| ticket.kind == Kind::Held;
    let gap = |(ticket, seat): &(&Ticket, &LostSeat)| match (is_held(ticket), seat.is_unsure) {
        (false, _) => Some(now),
        (true, true) => Some(ticket.lost.lost_at),
        (true, false) => None,
    };
    Claim {
        position: seats.iter().filter(|(ticket, _)| is_held(ticket)).map(|(_, seat)| seat.position).min(),
        known_at: seats.iter().map(|(ticket, _)| ticket.lost.known_at).min().unwrap_or(now),
        gap_until: seats.iter().filter_map(gap).max(),
        // What one of several has sent, the others have not seen.
        socket_ids: if let [(only, _)] = seats { only.lost.socket_ids.clone() } else { Vec::new() },
        released: Vec::new(),
    }
}

#[cfg(test)]
mod tests;
