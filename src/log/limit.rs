//! Too many lines of one kind: the first ones of ten seconds are said, the rest counted, and the count is said.
//!
//! A kind is a place in the code and, where the line has one, the status: a flood of 401 hides no 500. Only what is a
//! warning or an error is limited. What dev mode says on top is there to be seen.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::ALWAYS;

/// Lines of one kind that are said in each interval.
const LINES_MAX: u32 = 10;

/// The same in dev mode: who looks at each refusal misses none, and a flood is one yet.
const LINES_MAX_IN_DEV_MODE: u32 = 1000;

/// After so long the count of the rest is said, and the next ones are said again.
const INTERVAL: Duration = Duration::from_secs(10);

/// How much of a line names its kind, in characters.
const SHOWN_MAX: usize = 160;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    Say,
    TooMany,
}

/// What was said of late, by kind. There are as many as places in the code, and statuses.
#[derive(Default)]
pub(super) struct Kinds {
    kinds: Mutex<HashMap<(Identifier, u64), Kind>>,
    suppressed: AtomicU64,
    dev_mode: AtomicBool,
}

struct Kind {
    since: Instant,
    said: u32,
    left_out: u64,
    /// The last one that was left out.
    example: String,
}

impl Kinds {
    /// Says more of each kind, or less.
    pub fn set_dev_mode(&self, dev_mode: bool) {
        self.dev_mode.store(dev_mode, Ordering::Relaxed);
    }

    /// Whether to say this.
    pub fn judge(&self, event: &Event<'_>) -> Verdict {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN || metadata.target() == ALWAYS {
            return Verdict::Say;
        }
        let mut read = Read::default();
        event.record(&mut read);
        self.judge_at((metadata.callsite(), read.status), &read.message, Instant::now())
    }

    fn judge_at(&self, kind: (Identifier, u64), message: &str, now: Instant) -> Verdict {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.entry(kind).or_insert(Kind { since: now, said: 0, left_out: 0, example: String::new() });
        if now.duration_since(kind.since) >= INTERVAL && kind.left_out == 0 {
            (kind.since, kind.said) = (now, 0);
        }
        let max = if self.dev_mode.load(Ordering::Relaxed) { LINES_MAX_IN_DEV_MODE } else { LINES_MAX };
        if kind.said < max {
            kind.said += 1;
            return Verdict::Say;
        }
        kind.left_out += 1;
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        if kind.left_out == 1 {
            kind.example = message.chars().take(SHOWN_MAX).collect();
        }
        Verdict::TooMany
    }

    /// Says how many were left out of each kind whose interval is over. To be called now and again.
    pub fn tell(&self) {
        for (count, example) in self.due(Instant::now()) {
            tracing::warn!(target: ALWAYS, count, "{count} more like this in {} s: {example}", INTERVAL.as_secs());
        }
    }

    fn due(&self, now: Instant) -> Vec<(u64, String)> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let over = kinds.values_mut().filter(|kind| kind.left_out > 0 && now.duration_since(kind.since) >= INTERVAL);
        over.map(|kind| {
            (kind.since, kind.said) = (now, 0);
            (std::mem::take(&mut kind.left_out), std::mem::take(&mut kind.example))
        })
        .collect()
    }

    /// Lines that were left out.
    pub fn suppressed(&self) -> u64 {
        self.suppressed.load(Ordering::Relaxed)
    }
}

/// What of an event tells its kind.
#[derive(Default)]
struct Read {
    message: String,
    status: u64,
}

impl Visit for Read {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "status" {
            self.status = value;
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use tracing::Callsite;

    fn identifier() -> Identifier {
        static CALLSITE: tracing::callsite::DefaultCallsite = tracing::callsite::DefaultCallsite::new(&METADATA);
        static METADATA: tracing::Metadata<'static> = tracing::metadata! {
            name: "test",
            target: "test",
            level: Level::WARN,
            fields: &[],
            callsite: &CALLSITE,
            kind: tracing::metadata::Kind::EVENT,
        };
        assert_eq!(CALLSITE.metadata().name(), "test");
        Identifier(&CALLSITE)
    }

    #[test]
    fn the_first_are_said_and_the_rest_are_counted() {
        let kinds = Kinds::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let judge = |status, seconds| kinds.judge_at((identifier(), status), &format!("{status} refused"), at(seconds));
        let said = |status, seconds| (0..100).filter(|_| judge(status, seconds) == Verdict::Say).count();
        assert_eq!(said(401, 0), 10);
        assert_eq!(said(401, 5), 0);
        assert_eq!(said(500, 5), 10, "another kind");
        assert!(kinds.due(at(9)).is_empty());
        assert_eq!(kinds.due(at(10)), [(190, "401 refused".to_owned())]);
        assert!(kinds.due(at(11)).is_empty());
        assert_eq!(said(401, 11), 10);
        assert_eq!(kinds.suppressed(), 190 + 90 + 90);
        kinds.set_dev_mode(true);
        assert_eq!(said(403, 12), 100, "a developer sees each");
    }

    #[test]
    fn a_few_now_and_again_are_all_said() {
        let kinds = Kinds::default();
        let start = Instant::now();
        for second in 0..100 {
            let verdict = kinds.judge_at((identifier(), 0), "x", start + Duration::from_secs(second));
            assert_eq!(verdict, Verdict::Say, "{second}");
        }
    }
}
