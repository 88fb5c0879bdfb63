//! Laravel's yes may not hold for ever: after `reauthorizeMinutes` it is asked again.

use super::authorise::unsigned;
use super::subscribe::{leave, subscription_error};
use super::{ASKING_MAX, Action, Answer, Millis, Session, State, Subscription, Ticket};

impl Session {
    /// Asks Laravel again about what it allowed long ago, a few at a time.
    pub(super) fn reauthorize(&mut self, after: Millis, now: Millis, actions: &mut Vec<Action>) {
        let mut next = None;
        for subscription in &mut self.subscriptions {
            let Some(consent) = &mut subscription.consent else { continue };
            // The first question may still wait for its turn.
            let is_answered = !matches!(subscription.state, State::Waiting(_) | State::Asking);
            if is_answered && now >= consent.asked_at + after && consent.ticket.is_none() && self.asking < ASKING_MAX {
                self.next_ticket = self.next_ticket.wrapping_add(1);
                self.asking += 1;
                consent.ticket = Some(self.next_ticket);
                consent.asked_at = now;
                let (channel, headers) = (subscription.channel.clone(), consent.headers.clone());
                actions.push(Action::Ask { ticket: self.next_ticket, channel, headers });
            }
            next = Some(next.unwrap_or(Millis::MAX).min(consent.asked_at + after));
        }
        self.reauthorize_at = next;
    }

    /// Whether this answers [`Session::reauthorize`]; a no ends the subscription.
    pub(super) fn reauthorized(&mut self, ticket: Ticket, answer: &Answer, actions: &mut Vec<Action>) -> bool {
        let asked = |s: &Subscription| s.consent.as_ref().is_some_and(|consent| consent.ticket == Some(ticket));
        let Some(index) = self.subscriptions.iter().position(asked) else { return false };
        let subscription = &mut self.subscriptions[index];
        if let Some(consent) = &mut subscription.consent {
            consent.ticket = None;
        }
        let refusal = match answer {
            Answer::Yes => return true,
            Answer::Member(member) if Some(&member.user_id) == subscription.user_id.as_ref() => return true,
            Answer::Member(_) => unsigned(format!("{}: Laravel now says another user", subscription.channel)),
            // Only Laravel's own no counts; that it cannot be asked just now takes nothing away.
            Answer::No(refusal) if refusal.status == 429 || refusal.status >= 500 => return true,
            Answer::No(refusal) => refusal.clone(),
        };
        let subscription = self.subscriptions.remove(index);
        let error = subscription_error(subscription.channel.as_str(), "AuthError", refusal);
        leave(subscription, actions);
        actions.push(error);
        true
    }
}
