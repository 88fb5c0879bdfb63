//! Asking connections: how far they have got, and, when their browser opens another one, whether they live. Any of them
//! may be that one's own, whose network has changed and of which nobody has told the server. Until all have answered,
//! or are given up, the new one is not listened to.
//!
//! However many others come, a connection is asked for their sake at most once in [`ASK_EVERY`], and never twice at once.

use std::collections::VecDeque;

use super::away::Key;
use super::{ASK_EVERY, ASKED_MAX, Browser};
use crate::inbox::ConnKey;
use crate::protocol::session::{Input, Millis};
use crate::shard::Shard;
use crate::shard::channels::Slot;
use crate::ws::frame;

/// How long the other connections of a browser that has come back may take to show that they live. A tab that is
/// alive answers within a round trip, so nobody waits that long whose other tabs are.
pub const PROBE_TIME: Millis = 2_000;

/// How long one waits for the others at most. Those that were there before it have been asked and given up by then.
const WAIT_MAX: Millis = PROBE_TIME + 500;

/// What a connection may say while it waits for the others' signs of life, in bytes.
const HELD_BACK_MAX: usize = 64 * 1024;

/// What all of them may, over all shards. Beyond, one is listened to at once, and told of a gap.
pub const HELD_BACK_ALL_MAX: usize = 64 * 1024 * 1024;

/// The connections of a browser.
#[derive(Debug, Default)]
pub struct Connections {
    /// In the order in which they came.
    pub all: Vec<ConnKey>,
    /// How many have yet to show that they live.
    probed: usize,
}

/// Whether a connection has yet to show that it lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Probe {
    /// It need not.
    None,
    /// It is to be asked as soon as it may be.
    Due,
    /// It has been asked.
    Asked,
}

/// Connections that wait until others of their browser have shown that they live.
#[derive(Debug)]
pub struct Waiting {
    /// Until when; some may have gone, or be listened to already.
    until: VecDeque<(Millis, ConnKey)>,
    /// Those for which they wait, and when these were asked; some may have answered since.
    probed: VecDeque<(Millis, ConnKey)>,
    /// To be asked, because of [`Probe::Due`].
    due: Vec<ConnKey>,
    /// What they have said, in bytes.
    bytes: usize,
    bytes_max: usize,
}

/// What a connection has said that waits.
#[derive(Debug, Default)]
pub struct HeldBack {
    texts: Vec<String>,
    bytes: usize,
}

impl Waiting {
    pub fn new(bytes_max: usize) -> Self {
        Self { until: VecDeque::new(), probed: VecDeque::new(), due: Vec::new(), bytes: 0, bytes_max }
    }
}

impl Browser {
    fn may_be_asked(&self, now: Millis) -> bool {
        self.is_asked || self.asked_at == 0 || now >= self.asked_at + ASK_EVERY.as_millis() as Millis
    }
}

impl Shard {
    /// Enters a new connection of the browser, and finds out whether the others live.
    pub(super) fn probe_others(&mut self, key: Key, at: ConnKey, now: Millis) {
        let Some(resume) = &mut self.resume else { return };
        let connections = resume.browsers.entry(key).or_default();
        let others = connections.all.clone();
        connections.all.push(at);
        if others.is_empty() {
            return;
        }
        resume.waiting.until.push_back((now + WAIT_MAX, at));
        if let Some(browser) = self.browser(at) {
            browser.held_back = Some(HeldBack::default());
        }
        for other in others {
            let Some(browser) = self.browser(other).filter(|browser| browser.probe == Probe::None) else { continue };
            browser.probe = Probe::Due;
            let may_be_asked = browser.may_be_asked(now);
            let Some(resume) = &mut self.resume else { return };
            if let Some(connections) = resume.browsers.get_mut(&key) {
                connections.probed += 1;
            }
            match may_be_asked {
                true => self.ask_for_life(other, now),
                false => resume.waiting.due.push(other),
            }
        }
    }

    /// Asks a connection for a sign of life. What it has yet to answer is as good as another question.
    fn ask_for_life(&mut self, at: ConnKey, now: Millis) {
        let Some(browser) = self.browser(at) else { return };
        (browser.probe, browser.probed_at) = (Probe::Asked, now);
        let is_asked = browser.is_asked;
        if let Some(resume) = &mut self.resume {
            resume.waiting.probed.push_back((now, at));
        }
        if !is_asked {
            self.ask(at.slot, now);
        }
    }

    fn browser(&mut self, at: ConnKey) -> Option<&mut Browser> {
        self.conn(at)?.browser.as_deref_mut()
    }

    /// Asks a connection that owes no answer how far it has got.
    fn ask(&mut self, slot: Slot, now: Millis) {
        let newest = self.newest();
        let Some(conn) = self.conns.get_mut(slot as usize) else { return };
        let Some(browser) = &mut conn.browser else { return };
        (browser.asked, browser.asked_at, browser.is_asked) = (newest, now, true);
        conn.has_news = false;
        conn.outbox.push(frame::encode_ping(&newest.to_be_bytes()));
        self.touch(slot);
    }

    /// It has got everything up to the position in the answer.
    pub(in crate::shard) fn answered_ping(&mut self, at: ConnKey, payload: &[u8]) {
        let Ok(position) = payload.try_into().map(u64::from_be_bytes) else { return };
        let Some(conn) = self.conn(at) else { return };
        let (app, has_news) = (conn.app, conn.has_news);
        let Some(browser) = conn.browser.as_deref_mut().filter(|it| it.is_asked && it.asked == position) else {
            return;
        };
        browser.position = position;
        (browser.is_asked, browser.known_at) = (false, browser.asked_at);
        let key = (app, browser.id);
        let was_probed = browser.probe == Probe::Asked;
        if was_probed {
            browser.probe = Probe::None;
        }
        if has_news {
            self.news.push_back(at.slot);
        }
        if was_probed && self.one_less_probed(&key) {
            self.listen_again(&key);
        }
    }

    /// One has shown that it lives, or has ended; whether that was the last.
    fn one_less_probed(&mut self, key: &Key) -> bool {
        let Some(connections) = self.resume.as_mut().and_then(|resume| resume.browsers.get_mut(key)) else {
            return false;
        };
        connections.probed = connections.probed.saturating_sub(1);
        connections.probed == 0
    }

    /// A connection has ended. Whether those that wait for it are to be listened to.
    pub(super) fn forget_connection(&mut self, key: &Key, at: ConnKey, browser: &Browser) -> bool {
        let was_last = browser.probe != Probe::None && self.one_less_probed(key);
        let Some(resume) = &mut self.resume else { return false };
        resume.waiting.bytes -= browser.held_back.as_ref().map_or(0, |held_back| held_back.bytes);
        if let Some(connections) = resume.browsers.get_mut(key) {
            connections.all.retain(|other| *other != at);
            if connections.all.is_empty() {
                resume.browsers.remove(key);
            }
        }
        was_last
    }

    /// Listens to those who have waited for others of their browser.
    pub(super) fn listen_again(&mut self, key: &Key) {
        let connections = self.resume.as_ref().and_then(|resume| resume.browsers.get(key));
        for at in connections.map(|connections| connections.all.clone()).unwrap_or_default() {
            self.let_speak(at);
        }
    }

    fn let_speak(&mut self, at: ConnKey) {
        let Some(held_back) = self.browser(at).and_then(|browser| browser.held_back.take()) else { return };
        if let Some(resume) = &mut self.resume {
            resume.waiting.bytes -= held_back.bytes;
        }
        for text in held_back.texts {
            self.input(at, Input::Text(&text));
        }
    }

    /// Keeps what a connection says while it is not known which of its browser's connections have been lost.
    /// False: it is to be listened to now.
    pub(in crate::shard) fn holds_back(&mut self, at: ConnKey, text: &str) -> bool {
        let Some(resume) = &self.resume else { return false };
        let bytes = text.len() + size_of::<String>();
        let is_full = resume.waiting.bytes + bytes > resume.waiting.bytes_max;
        let Some(browser) = self.browser(at) else { return false };
        let Some(held_back) = &mut browser.held_back else { return false };
        if is_full || held_back.bytes + bytes > HELD_BACK_MAX {
            // What it may have missed will not be found out.
            browser.is_unsure = true;
            self.let_speak(at);
            return false;
        }
        held_back.texts.push(text.to_owned());
        held_back.bytes += bytes;
        if let Some(resume) = &mut self.resume {
            resume.waiting.bytes += bytes;
        }
        true
    }

    /// Whoever has not shown in time that it lives does not: one that waits may be the same tab's.
    fn end_waits(&mut self, now: Millis) {
        let is_late = |(asked, _): &mut (Millis, ConnKey)| *asked + PROBE_TIME <= now;
        while let Some((asked, at)) = self.resume.as_mut().and_then(|it| it.waiting.probed.pop_front_if(is_late)) {
            if self.browser(at).is_some_and(|browser| browser.probe == Probe::Asked && browser.probed_at == asked) {
                self.remove(at.slot, "its browser has come back without it");
            }
        }
        let is_over = |(until, _): &mut (Millis, ConnKey)| *until <= now;
        while let Some((_, at)) = self.resume.as_mut().and_then(|it| it.waiting.until.pop_front_if(is_over)) {
            self.let_speak(at);
        }
    }

    /// Asks those whose browser waits for them, and those who have been sent something since they were asked last, and
    /// have answered that.
    pub(in crate::shard) fn ask_around(&mut self) {
        let now = self.now();
        self.end_waits(now);
        let due = self.resume.as_mut().map(|resume| std::mem::take(&mut resume.waiting.due)).unwrap_or_default();
        for at in due {
            let Some(browser) = self.browser(at).filter(|browser| browser.probe == Probe::Due) else { continue };
            if browser.may_be_asked(now) {
                self.ask_for_life(at, now);
            } else if let Some(resume) = &mut self.resume {
                resume.waiting.due.push(at);
            }
        }
        let mut asked = 0;
        while asked < ASKED_MAX
            && let Some(slot) = self.news.pop_front()
        {
            let conn = self.conns.get(slot as usize).filter(|conn| conn.has_news && conn.closing.is_none());
            // Who has yet to answer has its turn then.
            if conn.and_then(|conn| conn.browser.as_ref()).is_some_and(|browser| !browser.is_asked) {
                self.ask(slot, now);
                asked += 1;
            }
        }
        self.flush();
    }
}
