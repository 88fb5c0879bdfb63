//! One connection's side of the Pusher protocol, as a state machine: what arrives goes in, with
//! the time; what is to be done comes out as actions. It performs no I/O and reads no clock, so
//! a test can walk it through an hour in a microsecond.

use std::sync::Arc;

use bytes::Bytes;

use super::SocketId;
use super::channel::{Access, ChannelName, NameError};
use super::presence::Member;
use super::pusher::{self, ClientMessage, Subscribe};
use authorise::{Authorised, authorise, too_big};

mod authorise;
mod reauthorize;

/// Milliseconds since some moment before the first input; it only ever grows.
pub type Millis = u64;

/// Names one attempt to subscribe, so that a late answer cannot be taken for another's.
pub type Ticket = u32;

/// Questions to Laravel that one connection may have under way; further ones wait their turn.
pub const ASKING_MAX: usize = 4;

/// Messages that make no sense before a connection is closed.
const BAD_MESSAGES_MAX: u8 = 50;

/// What holds for all connections of an app.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The public key, the first half of each `auth`.
    pub app_key: String,
    /// Verifies `auth`.
    pub secret: String,
    /// See `limits.subscriptionsPerConnection`.
    pub subscriptions_max: usize,
    /// See `limits.clientEventsPerSecond`.
    pub client_events_per_second: u32,
    /// See `limits.clientEventBytes`.
    pub client_event_bytes_max: usize,
    /// See `limits.presenceMemberBytes`.
    pub presence_member_bytes_max: usize,
    /// Told to the client, which pings after this much silence of ours.
    pub activity_timeout: Millis,
    /// How long a pinged client may take to answer.
    pub pong_timeout: Millis,
    /// See `reauthorizeMinutes`: after so long Laravel is asked again about what it has allowed.
    pub reauthorize_after: Option<Millis>,
}

/// What came of asking Laravel.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Yes, to a private channel.
    Yes,
    /// Yes, to a presence channel, as this member.
    Member(Member),
    /// No.
    No(Refusal),
}

/// A refusal: what the browser is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// HTTP status that Laravel gave, or that fits.
    pub status: u16,
    /// A sentence that says the cause and the cure.
    pub error: String,
    /// What Laravel replied, where it was asked and `status` may be another; 0: nothing. Socket.IO
    /// clients are told this, as the old server did.
    pub replied: Option<u16>,
}

impl Refusal {
    /// One that Laravel has no part in.
    pub fn new(status: u16, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), replied: None }
    }
}

/// What can happen to a connection.
#[derive(Debug)]
pub enum Input<'a> {
    /// A text message arrived.
    Text(&'a str),
    /// A message arrived, and has been read.
    Message(ClientMessage<'a>),
    /// Something arrived that is no text message: a sign of life.
    SignOfLife,
    /// Laravel's answer to [`Action::Ask`].
    Answered(Ticket, Answer),
    /// The home shard's answer to [`Action::Join`]: the ready `subscription_succeeded`.
    Joined(Ticket, Bytes),
    /// Time has passed.
    Tick,
    /// The connection ends.
    Ended,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send a text message to this client.
    Send(String),
    /// Send a ready frame to this client.
    SendFrame(Bytes),
    /// Enter the connection into the channel's subscribers: it gets events from now on.
    Subscribe(ChannelName),
    /// Take it out again.
    Unsubscribe(ChannelName),
    /// Ask Laravel; the answer comes back as [`Input::Answered`].
    Ask {
        /// Comes back with the answer.
        ticket: Ticket,
        /// The channel as the client named it.
        channel: ChannelName,
        /// `auth.headers` of the message.
        headers: Vec<(String, String)>,
    },
    /// Tell the channel's home shard that this member joins; [`Input::Joined`] comes back.
    Join {
        /// Comes back with the answer.
        ticket: Ticket,
        /// The presence channel.
        channel: ChannelName,
        /// Who joins.
        member: Member,
    },
    /// Ask the channel's home shard for the list of members once more; [`Input::Joined`] comes back.
    List {
        /// Comes back with the answer.
        ticket: Ticket,
        /// The presence channel, joined before.
        channel: ChannelName,
    },
    /// Tell the channel's home shard that this connection has left. There is one for each
    /// [`Action::Join`].
    Leave {
        /// The presence channel.
        channel: ChannelName,
        /// Who leaves.
        user_id: Arc<str>,
    },
    /// Send a client event to the channel's other subscribers.
    Whisper {
        /// The channel.
        channel: ChannelName,
        /// The event's name.
        event: String,
        /// JSON as the client wrote it.
        data: Option<String>,
        /// Who says it, on presence channels.
        user_id: Option<Arc<str>>,
    },
    /// Tell this client that it may not join.
    SubscriptionError {
        /// As the client named it.
        channel: String,
        /// Pusher's `type`: `AuthError` or `LimitReached`.
        kind: &'static str,
        /// Why.
        refusal: Refusal,
    },
    /// A subscription was refused here, not by Laravel: for the log.
    Refused {
        /// As the client named it.
        channel: String,
        /// What the client was told.
        error: String,
    },
    /// Close the connection with this code and reason.
    Close {
        /// Pusher's close code.
        code: u16,
        /// For people.
        reason: &'static str,
    },
}

/// One connection's state.
#[derive(Debug)]
pub struct Session {
    socket_id: SocketId,
    subscriptions: Vec<Subscription>,
    /// Questions under way, those that nobody waits for any more included.
    asking: usize,
    next_ticket: Ticket,
    heard_at: Millis,
    pinged_at: Option<Millis>,
    /// When the next subscription is to be asked about again.
    reauthorize_at: Option<Millis>,
    client_events: Allowance,
    /// Of subscribes: as many in a second as a connection may have in all.
    subscribes: Allowance,
    bad_messages: u8,
}

#[derive(Debug)]
struct Subscription {
    channel: ChannelName,
    ticket: Ticket,
    state: State,
    /// Presence only, from the moment of joining.
    user_id: Option<Arc<str>>,
    /// Allowed by Laravel, and to be asked about again.
    consent: Option<Box<Consent>>,
}

/// Laravel's yes, which may not hold for ever.
#[derive(Debug)]
struct Consent {
    /// To ask with again.
    headers: Vec<(String, String)>,
    /// When Laravel was asked last.
    asked_at: Millis,
    /// The question that is under way.
    ticket: Option<Ticket>,
}

#[derive(Debug)]
enum State {
    /// Waits until fewer than [`ASKING_MAX`] questions are under way.
    Waiting(Vec<(String, String)>),
    /// Laravel is asked.
    Asking,
    /// The home shard is told.
    Joining,
    Subscribed,
}

impl Session {
    /// A new connection; says hello.
    pub fn open(socket_id: SocketId, rules: &Rules, now: Millis, actions: &mut Vec<Action>) -> Self {
        actions.push(Action::Send(pusher::connection_established(socket_id, rules.activity_timeout / 1000)));
        Self {
            socket_id,
            subscriptions: Vec::new(),
            asking: 0,
            next_ticket: 0,
            heard_at: now,
            pinged_at: None,
            reauthorize_at: None,
            client_events: Allowance::default(),
            subscribes: Allowance::default(),
            bad_messages: 0,
        }
    }

    /// Takes what happened and appends what is to be done.
    pub fn input(&mut self, input: Input<'_>, rules: &Rules, now: Millis, actions: &mut Vec<Action>) {
        match input {
            Input::Text(text) => {
                self.heard(now);
                self.text(text, rules, now, actions);
            }
            Input::Message(message) => {
                self.heard(now);
                self.message(message, rules, now, actions);
            }
            Input::SignOfLife => self.heard(now),
            Input::Answered(ticket, answer) => {
                self.asking = self.asking.saturating_sub(1);
                self.answered(ticket, answer, rules, actions);
                self.ask_next(rules, now, actions);
            }
            Input::Joined(ticket, frame) => self.joined(ticket, frame, actions),
            Input::Tick => self.tick(rules, now, actions),
            Input::Ended => {
                for subscription in std::mem::take(&mut self.subscriptions) {
                    leave(subscription, actions);
                }
            }
        }
    }

    fn heard(&mut self, now: Millis) {
        self.heard_at = now;
        self.pinged_at = None;
    }

    fn text(&mut self, text: &str, rules: &Rules, now: Millis, actions: &mut Vec<Action>) {
        match ClientMessage::parse(text) {
            Ok(message) => self.message(message, rules, now, actions),
            Err(bad) => {
                actions.push(Action::Send(pusher::error(None, bad.0)));
                self.bad_messages += 1;
                if self.bad_messages == BAD_MESSAGES_MAX {
                    actions.push(Action::Close { code: 4100, reason: "Too many messages that make no sense" });
                    self.bad_messages = 0;
                }
            }
        }
    }

    fn message(&mut self, message: ClientMessage<'_>, rules: &Rules, now: Millis, actions: &mut Vec<Action>) {
        match message {
            ClientMessage::Ping => actions.push(Action::Send(pusher::PONG.into())),
            ClientMessage::Pong | ClientMessage::Unknown => {}
            ClientMessage::Subscribe(subscribe) => {
                let limit = rules.subscriptions_max as u32;
                if self.subscribes.take(limit, now) {
                    return self.subscribe(subscribe, rules, now, actions);
                }
                let error =
                    format!("This connection has subscribed {limit} times within a second; no more are allowed");
                actions.push(subscription_error(&subscribe.channel, "LimitReached", Refusal::new(4009, error)));
            }
            ClientMessage::Unsubscribe(channel) => self.unsubscribe(&channel, rules, now, actions),
            ClientMessage::ClientEvent { event, channel, data } => {
                if let Err((code, message)) = self.client_event(&event, &channel, data, rules, now, actions) {
                    actions.push(Action::Send(pusher::error(code, &message)));
                }
            }
        }
    }

    fn subscribe(&mut self, subscribe: Subscribe<'_>, rules: &Rules, now: Millis, actions: &mut Vec<Action>) {
        let channel = match ChannelName::parse(&subscribe.channel) {
            Ok(channel) => channel,
            Err(error) => {
                let status = if matches!(error, NameError::TooLong(_)) { 4009 } else { 400 };
                // pusher-js hands an error to the channel of exactly this name, which `messageBytes`
                // bounds; the log does with its beginning.
                let error = error.to_string();
                let shown = subscribe.channel.chars().take(super::channel::NAME_BYTES_MAX).collect();
                let refusal = Refusal::new(status, error.clone());
                actions.push(subscription_error(&subscribe.channel, "LimitReached", refusal));
                actions.push(Action::Refused { channel: shown, error });
                return;
            }
        };
        let authorised = match authorise(&channel, &subscribe, self.socket_id, rules) {
            Ok(authorised) => authorised,
            Err(refusal) => return refuse(channel.as_str(), "AuthError", refusal, actions),
        };
        if let Some(index) = self.position(channel.as_str()) {
            return self.subscribe_again(index, actions);
        }
        if self.subscriptions.len() >= rules.subscriptions_max {
            let error = format!("This connection has {} subscriptions; no more are allowed", rules.subscriptions_max);
            return refuse(channel.as_str(), "LimitReached", Refusal::new(4009, error), actions);
        }
        let ticket = self.next_ticket();
        let mut subscription = Subscription { channel, ticket, state: State::Joining, user_id: None, consent: None };
        match authorised {
            Authorised::Yes => admit(&mut subscription, Answer::Yes, actions),
            Authorised::As(member) => admit(&mut subscription, Answer::Member(member), actions),
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
        match &subscription.user_id {
            None => actions.push(Action::Send(pusher::subscription_succeeded(subscription.channel.as_str()))),
            Some(_) => {
                subscription.ticket = ticket;
                actions.push(Action::List { ticket, channel: subscription.channel.clone() });
            }
        }
    }

    fn unsubscribe(&mut self, channel: &str, rules: &Rules, now: Millis, actions: &mut Vec<Action>) {
        if let Some(index) = self.position(channel) {
            leave(self.subscriptions.remove(index), actions);
            self.ask_next(rules, now, actions);
        }
    }

    fn answered(&mut self, ticket: Ticket, answer: Answer, rules: &Rules, actions: &mut Vec<Action>) {
        if self.reauthorized(ticket, &answer, actions) {
            return;
        }
        // The client may have left, or left and come again, since Laravel was asked.
        let Some(index) =
            self.subscriptions.iter().position(|s| s.ticket == ticket && matches!(s.state, State::Asking))
        else {
            return;
        };
        let refusal = match &answer {
            Answer::No(refusal) => Some(refusal.clone()),
            Answer::Member(member) => too_big(member, rules),
            Answer::Yes => None,
        };
        match refusal {
            Some(refusal) => {
                let channel = self.subscriptions.remove(index).channel;
                actions.push(subscription_error(channel.as_str(), "AuthError", refusal));
            }
            None => admit(&mut self.subscriptions[index], answer, actions),
        }
    }

    fn joined(&mut self, ticket: Ticket, frame: Bytes, actions: &mut Vec<Action>) {
        let Some(subscription) = self.subscriptions.iter_mut().find(|s| s.ticket == ticket) else { return };
        actions.push(Action::SendFrame(frame));
        if matches!(subscription.state, State::Joining) {
            subscription.state = State::Subscribed;
            actions.push(Action::Subscribe(subscription.channel.clone()));
        }
    }

    /// Asks Laravel about those who wait, as many at once as are allowed.
    fn ask_next(&mut self, rules: &Rules, now: Millis, actions: &mut Vec<Action>) {
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

    fn client_event(
        &mut self,
        event: &str,
        channel: &str,
        data: Option<&str>,
        rules: &Rules,
        now: Millis,
        actions: &mut Vec<Action>,
    ) -> Result<(), (Option<u16>, String)> {
        let subscription = self
            .position(channel)
            .map(|index| &self.subscriptions[index])
            .filter(|subscription| matches!(subscription.state, State::Subscribed));
        let Some(subscription) = subscription else {
            return Err((None, "Client event refused: this connection is not subscribed to the channel".into()));
        };
        if subscription.channel.access() == Access::Public || subscription.channel.is_encrypted() {
            let error =
                "Client event refused: they are allowed on private and presence channels, not on encrypted ones";
            return Err((None, error.into()));
        }
        if event.len() > super::channel::NAME_BYTES_MAX {
            return Err((None, "Client event refused: its name is over 200 bytes long".into()));
        }
        if data.is_some_and(|data| data.len() > rules.client_event_bytes_max) {
            let limit = rules.client_event_bytes_max;
            return Err((None, format!("Client event refused: its data is over the limit of {limit} bytes")));
        }
        if !self.client_events.take(rules.client_events_per_second, now) {
            let limit = rules.client_events_per_second;
            return Err((Some(4301), format!("Client event refused: over the limit of {limit} in a second")));
        }
        actions.push(Action::Whisper {
            channel: subscription.channel.clone(),
            event: event.to_owned(),
            data: data.map(str::to_owned),
            user_id: subscription.user_id.clone(),
        });
        Ok(())
    }

    /// Whether [`Input::Tick`] would do anything now.
    pub fn is_due(&self, rules: &Rules, now: Millis) -> bool {
        self.is_silent(rules, now) || self.reauthorize_at.is_some_and(|at| now >= at)
    }

    fn is_silent(&self, rules: &Rules, now: Millis) -> bool {
        match self.pinged_at {
            Some(pinged_at) => now.saturating_sub(pinged_at) >= rules.pong_timeout,
            // The client pings by itself after this much silence; wait a little longer than it does.
            None => now.saturating_sub(self.heard_at) >= rules.activity_timeout * 3 / 2,
        }
    }

    fn tick(&mut self, rules: &Rules, now: Millis, actions: &mut Vec<Action>) {
        if let Some(after) = rules.reauthorize_after
            && self.reauthorize_at.is_some_and(|at| now >= at)
        {
            self.reauthorize(after, now, actions);
        }
        if !self.is_silent(rules, now) {
            return;
        }
        match self.pinged_at {
            Some(_) => {
                let reason = "Pong reply not received: ping was sent to the client, but no reply was received";
                actions.push(Action::Send(pusher::error(Some(4201), reason)));
                actions.push(Action::Close { code: 4201, reason });
            }
            None => {
                self.pinged_at = Some(now);
                actions.push(Action::Send(pusher::PING.into()));
            }
        }
    }

    fn position(&self, channel: &str) -> Option<usize> {
        self.subscriptions.iter().position(|subscription| subscription.channel.as_str() == channel)
    }

    fn next_ticket(&mut self) -> Ticket {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        self.next_ticket
    }
}

/// The subscription is allowed: subscribe, or join first.
fn admit(subscription: &mut Subscription, answer: Answer, actions: &mut Vec<Action>) {
    let (ticket, channel) = (subscription.ticket, subscription.channel.clone());
    if let Answer::Member(member) = answer {
        subscription.state = State::Joining;
        subscription.user_id = Some(member.user_id.clone());
        actions.push(Action::Join { ticket, channel, member });
    } else {
        subscription.state = State::Subscribed;
        actions.push(Action::Send(pusher::subscription_succeeded(channel.as_str())));
        actions.push(Action::Subscribe(channel));
    }
}

fn leave(subscription: Subscription, actions: &mut Vec<Action>) {
    let Subscription { channel, state, user_id, .. } = subscription;
    if matches!(state, State::Subscribed) {
        actions.push(Action::Unsubscribe(channel.clone()));
    }
    if let Some(user_id) = user_id {
        actions.push(Action::Leave { channel, user_id });
    }
}

fn refuse(channel: &str, kind: &'static str, refusal: Refusal, actions: &mut Vec<Action>) {
    let error = refusal.error.clone();
    actions.push(subscription_error(channel, kind, refusal));
    actions.push(Action::Refused { channel: channel.to_owned(), error });
}

fn subscription_error(channel: &str, kind: &'static str, refusal: Refusal) -> Action {
    Action::SubscriptionError { channel: channel.to_owned(), kind, refusal }
}

/// So many in each second.
#[derive(Debug, Default)]
struct Allowance {
    used: u32,
    second: u32,
}

impl Allowance {
    fn take(&mut self, per_second: u32, now: Millis) -> bool {
        let second = (now / 1000) as u32;
        if self.second != second {
            *self = Self { used: 0, second };
        }
        let allowed = self.used < per_second;
        self.used = self.used.saturating_add(1);
        allowed
    }
}

#[cfg(test)]
mod tests;
