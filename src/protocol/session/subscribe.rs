//! Subscriptions of one connection: from `pusher:subscribe` over Laravel's or the home shard's
//! answer to `subscription_succeeded`, and their end.

use bytes::Bytes;

use super::authorise::{Authorised, TOO_BIG, authorise, too_big};
use super::{
    ASKING_MAX, Action, Answer, Consent, Limit, MINUTE, Millis, Refusal, Rules, Session, State, Subscription, Ticket,
};
use crate::protocol::channel::{Access, ChannelName, NAME_BYTES_MAX, NameError};
use crate::protocol::presence::Member;
use crate::protocol::pusher::{self, Subscribe};

impl Session {
    pub(super) fn subscribe(
        &mut self,
        subscribe: Subscribe<'_>,
        rules: &Rules,
        now: Millis,
        actions: &mut Vec<Action>,
    ) {
        let channel = match parse_name(&subscribe.channel, rules) {
            Ok(channel) => channel,
            Err(error) => {
                let is_too_long = matches!(error, NameError::TooLong(..));
                if is_too_long {
                    actions.push(Action::Limited(Limit::ChannelName));
                }
                let status = if is_too_long { 4009 } else { 400 };
                // pusher-js hands an error to the channel of exactly this name, which `messageBytes`
                // bounds; the log does with its beginning.
                let error = error.to_string();
                let shown = subscribe.channel.chars().take(NAME_BYTES_MAX).collect();
                let refusal = Refusal::new(status, error.clone());
                actions.push(subscription_error(&subscribe.channel, "LimitReached", refusal));
                actions.push(Action::Refused { channel: shown, error });
                return;
            }
        };
        let authorised = match authorise(&channel, &subscribe, self.socket_id, self.user.as_deref(), rules) {
            Ok(authorised) => authorised,
            Err(refusal) => {
                if refusal.status == TOO_BIG {
                    actions.push(Action::Limited(Limit::PresenceMember));
                }
                return refuse(channel.as_str(), "AuthError", refusal, actions);
            }
        };
        if let Some(index) = self.position(channel.as_str()) {
            return self.subscribe_again(index, actions);
        }
        if self.subscriptions.len() >= rules.subscriptions_max {
            let error = format!("This connection has {} subscriptions; no more are allowed", rules.subscriptions_max);
            actions.push(Action::Limited(Limit::Subscriptions));
            return refuse(channel.as_str(), "LimitReached", Refusal::new(4009, error), actions);
        }
        let joins = rules.presence_joins_per_minute;
        // Each comes with an announcement to all members, and mostly with one that it has gone.
        if channel.access() == Access::Presence && !self.presence_joins.take(joins, MINUTE, now) {
            let error = format!(
                "This connection has come to presence channels {joins} times within a minute; no more are allowed \
                 (limits.presenceJoinsPerMinute)"
            );
            actions.push(Action::Limited(Limit::PresenceJoins));
            return actions.push(subscription_error(channel.as_str(), "LimitReached", Refusal::new(4009, error)));
        }
        let ticket = self.next_ticket();
        let mut subscription = Subscription { channel, ticket, state: State::Joining, user_id: None, consent: None };
        match authorised {
            Authorised::Yes => self.admit(&mut subscription, None, actions),
            Authorised::As(member) => self.admit(&mut subscription, Some(member), actions),
            Authorised::AskLaravel => subscription.state = State::Waiting(subscribe.headers),
        }
        self.subscriptions.push(subscription);
        self.ask_next(rules, now, actions);
    }

    /// Idempotent (protocol section 8): says once more that it has succeeded. A subscription
    /// under way will be answered anyway.
    fn subscribe_again(&mut self, index: usize, actions: &mut Vec<Action>) {
        let ticket = self.next_ticket();
        let subscription = &mut self.subscriptions[index];
        if !matches!(subscription.state, State::Subscribed) {
            return;
        }
        if subscription.has_home() {
            subscription.ticket = ticket;
            actions.push(Action::List { ticket, channel: subscription.channel.clone() });
        } else {
            actions.push(Action::Send(pusher::subscription_succeeded(subscription.channel.as_str())));
        }
    }

    pub(super) fn unsubscribe(&mut self, channel: &str, rules: &Rules, now: Millis, actions: &mut Vec<Action>) {
        if let Some(index) = self.position(channel) {
            leave(self.subscriptions.remove(index), actions);
            self.ask_next(rules, now, actions);
        }
    }

    pub(super) fn answered(&mut self, ticket: Ticket, answer: Answer, rules: &Rules, actions: &mut Vec<Action>) {
        if self.reauthorized(ticket, &answer, actions) {
            return;
        }
        // The client may have left, or left and come again, since Laravel was asked.
        let Some(index) =
            self.subscriptions.iter().position(|s| s.ticket == ticket && matches!(s.state, State::Asking))
        else {
            return;
        };
        let mut subscription = self.subscriptions.remove(index);
        let member = match answer {
            Answer::Yes => Ok(None),
            Answer::Member(member) => too_big(&member, rules).map_or(Ok(Some(member)), Err),
            Answer::No(refusal) => Err(refusal),
        };
        match member {
            Ok(member) => {
                self.admit(&mut subscription, member, actions);
                self.subscriptions.insert(index, subscription);
            }
            Err(refusal) => {
                if refusal.status == TOO_BIG {
                    actions.push(Action::Limited(Limit::PresenceMember));
                }
                actions.push(subscription_error(subscription.channel.as_str(), "AuthError", refusal));
            }
        }
    }

    pub(super) fn joined(&mut self, ticket: Ticket, frame: Bytes, actions: &mut Vec<Action>) {
        let Some(subscription) = self.subscriptions.iter_mut().find(|s| s.ticket == ticket) else { return };
        actions.push(Action::SendFrame(frame));
        if matches!(subscription.state, State::Joining) {
            subscription.state = State::Subscribed;
            actions.push(Action::Subscribe(subscription.channel.clone()));
        }
    }

    /// The home shard lets nobody else in.
    pub(super) fn full(&mut self, ticket: Ticket, refusal: &Refusal, actions: &mut Vec<Action>) {
        let Some(index) = self.subscriptions.iter().position(|s| s.ticket == ticket) else { return };
        let subscription = self.subscriptions.remove(index);
        actions.push(Action::Limited(Limit::PresenceMembers));
        refuse(subscription.channel.as_str(), "LimitReached", refusal.clone(), actions);
        leave(subscription, actions);
    }

    /// The subscription is allowed: subscribe, or join at the channel's home first.
    fn admit(&mut self, subscription: &mut Subscription, member: Option<Member>, actions: &mut Vec<Action>) {
        let (ticket, channel) = (subscription.ticket, subscription.channel.clone());
        if matches!(channel.access(), Access::Private | Access::Presence) {
            self.authorised();
        }
        subscription.user_id = member.as_ref().map(|member| member.user_id.clone());
        if subscription.has_home() {
            subscription.state = State::Joining;
            actions.push(Action::Join { ticket, channel, member });
        } else {
            subscription.state = State::Subscribed;
            actions.push(Action::Send(pusher::subscription_succeeded(channel.as_str())));
            actions.push(Action::Subscribe(channel));
        }
    }

    /// Asks Laravel about those who wait, as many at once as are allowed.
    pub(super) fn ask_next(&mut self, rules: &Rules, now: Millis, actions: &mut Vec<Action>) {
        for subscription in &mut self.subscriptions {
            if self.asking == ASKING_MAX {
                break;
            }
            if let State::Waiting(headers) = &mut subscription.state {
                let headers = std::mem::take(headers);
                if let Some(after) = rules.reauthorize_after {
                    subscription.consent =
                        Some(Box::new(Consent { headers: headers.clone(), asked_at: now, ticket: None }));
                    self.reauthorize_at = Some(self.reauthorize_at.unwrap_or(now + after));
                }
                subscription.state = State::Asking;
                self.asking += 1;
                actions.push(Action::Ask {
                    ticket: subscription.ticket,
                    channel: subscription.channel.clone(),
                    headers,
                });
            }
        }
    }
}

fn parse_name(name: &str, rules: &Rules) -> Result<ChannelName, NameError> {
    match ChannelName::parse(name)? {
        _ if name.len() > rules.channel_name_bytes_max => {
            Err(NameError::TooLong(name.len(), rules.channel_name_bytes_max))
        }
        channel => Ok(channel),
    }
}

impl Subscription {
    /// Whether the channel's home shard is asked before events may come: it keeps the members of
    /// presence channels, and the last event of cache channels.
    fn has_home(&self) -> bool {
        self.user_id.is_some() || self.channel.is_cache()
    }
}

pub(super) fn leave(subscription: Subscription, actions: &mut Vec<Action>) {
    let has_joined = subscription.has_home() && matches!(subscription.state, State::Joining | State::Subscribed);
    let Subscription { channel, state, user_id, .. } = subscription;
    if matches!(state, State::Subscribed) {
        actions.push(Action::Unsubscribe(channel.clone()));
    }
    if has_joined {
        actions.push(Action::Leave { channel, user_id });
    }
}

fn refuse(channel: &str, kind: &'static str, refusal: Refusal, actions: &mut Vec<Action>) {
    let error = refusal.error.clone();
    actions.push(subscription_error(channel, kind, refusal));
    actions.push(Action::Refused { channel: channel.to_owned(), error });
}

pub(super) fn subscription_error(channel: &str, kind: &'static str, refusal: Refusal) -> Action {
    Action::SubscriptionError { channel: channel.to_owned(), kind, refusal }
}
