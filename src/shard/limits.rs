//! What is said and counted when a client reaches a limit: each time a number, a line of the log for each
//! limit once in a while, or a client that floods would flood the log.

use super::Shard;
use crate::metrics;
use crate::protocol::SocketId;
use crate::protocol::session::{Limit, Millis};
use crate::ws::frame::Violation;

/// How long a limit is not spoken of again.
const QUIET: Millis = 10_000;

/// Limits that have been spoken of, by their place among the label's values.
#[derive(Debug, Default)]
pub struct Reached(Vec<Spoken>);

#[derive(Debug)]
struct Spoken {
    limit: metrics::Limit,
    at: Millis,
    /// How often it was reached since.
    unsaid: u64,
}

impl Reached {
    /// Notes a limit that was reached; `Some`: to be said, with how often it was since the last time.
    fn note(&mut self, limit: metrics::Limit, now: Millis) -> Option<u64> {
        let Some(spoken) = self.0.iter_mut().find(|spoken| spoken.limit == limit) else {
            self.0.push(Spoken { limit, at: now, unsaid: 0 });
            return Some(1);
        };
        spoken.unsaid += 1;
        if now.saturating_sub(spoken.at) < QUIET {
            return None;
        }
        spoken.at = now;
        Some(std::mem::take(&mut spoken.unsaid))
    }
}

impl Shard {
    /// A session has held its client to a limit.
    pub(super) fn limited(&mut self, socket_id: SocketId, limit: Limit) {
        self.reached(limit.into(), || format!("{socket_id} was refused something"));
    }

    /// A client has sent what is no WebSocket, or a message over `limits.messageBytes`.
    pub(super) fn violated(&mut self, violation: &Violation) {
        tracing::debug!("a client broke the WebSocket protocol: {violation}");
        if matches!(violation, Violation::TooBig { .. }) {
            self.reached(metrics::Limit::MessageBytes, || format!("a client is closed with {}", violation.code()));
        }
    }

    /// A limit was reached by what is said here.
    fn reached(&mut self, limit: metrics::Limit, who: impl FnOnce() -> String) {
        self.context.publisher.metrics().limit_reached.add(limit);
        if let Some(times) = self.reached.note(limit, self.now()) {
            let (who, key) = (who(), limit.text());
            tracing::warn!(
                "{who}: a limit was reached (limits.{key}), on this shard {times} times since this was said last"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_one_line_in_a_while() {
        let mut reached = Reached::default();
        let event = metrics::Limit::ClientEventsPerSecond;
        assert_eq!(reached.note(event, 0), Some(1));
        let said: Vec<_> = (1..9_999).filter_map(|now| reached.note(event, now)).collect();
        assert!(said.is_empty(), "{said:?}");
        assert_eq!(reached.note(metrics::Limit::MessageBytes, 5_000), Some(1), "another one");
        assert_eq!(reached.note(event, 10_000), Some(9_999));
        assert_eq!(reached.note(event, 10_001), None);
        assert_eq!(reached.note(event, 30_000), Some(2));
    }
}
