//! One connection's side of the Pusher protocol, as a state machine: what arrives goes in, with
//! the time; what is to be done comes out as actions. It performs no I/O and reads no clock, so
//! a test can walk it through an hour in a microsecond.
//!
//! Here is what a session is, and its liveness; what a client asks for is in the modules below:
//! `subscribe`, `client_event`, `signin`.

use std::sync::Arc;

use bytes::Bytes;

use super::SocketId;
use super::channel::ChannelName;
use super::presence::Member;
use super::pusher::{self, ClientMessage};
use super::signature;
use super::user::User;
use super::why::Why;

mod authorise;
mod client_event;
mod reauthorize;
mod signin;
mod subscribe;

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
    /// So do these yet, while an application changes its secret.
    pub previous_secrets: Vec<String>,
    /// See `limits.subscriptionsPerConnection`.
    pub subscriptions_max: usize,
    /// See `limits.subscribesPerSecond`.
    pub subscribes_per_second: u32,
    /// See `limits.presenceJoinsPerMinute`.
    pub presence_joins_per_minute: u32,
    /// See `limits.channelNameBytes`.
    pub channel_name_bytes_max: usize,
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
    /// See `limits.userAuthenticationTimeout`.
    pub user_authentication_timeout: Option<Millis>,
    /// See `reauthorizeMinutes`: after so long Laravel is asked again about what it has allowed.
    pub reauthorize_after: Option<Millis>,
}

impl Rules {
    /// Whether the application has signed this text.
    pub fn verify(&self, text: &str, hex: &str) -> bool {
        std::iter::once(&self.secret).chain(&self.previous_secrets).any(|secret| signature::verify(secret, text, hex))
    }
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
    /// Which of the reasons it is.
    pub why: Why,
    /// What Laravel replied, where it was asked and `status` may be another; 0: nothing. Socket.IO
    /// clients are told this, as the old server did.
    pub replied: Option<u16>,
}

impl Refusal {
    /// One that Laravel has no part in.
    pub fn new(status: u16, error: impl Into<String>) -> Self {
        Self { status, error: error.into(), why: Why::of_status(status), replied: None }
    }

    /// The same, for this reason, where the status alone does not tell.
    pub fn because(self, why: Why) -> Self {
        Self { why, ..self }
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
    /// The home shard's answer to [`Action::Join`] or [`Action::List`]: the ready
    /// `subscription_succeeded` with what belongs after it, or that the channel is full.
    Joined(Ticket, Result<Bytes, Refusal>),
    /// The application ends all connections of this one's user.
    Terminated,
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
    /// Ask the channel's home shard to be let in, as a member where there are members;
    /// [`Input::Joined`] comes back.
    Join {
        /// Comes back with the answer.
        ticket: Ticket,
        /// The presence or cache channel.
        channel: ChannelName,
        /// Who joins a presence channel.
        member: Option<Member>,
    },
    /// Ask the channel's home shard once more for what it tells a joiner; [`Input::Joined`] comes back.
    List {
        /// Comes back with the answer.
        ticket: Ticket,
        /// The channel, joined before.
        channel: ChannelName,
    },
    /// Tell the channel's home shard that this connection has left. There is one for each
    /// [`Action::Join`].
    Leave {
        /// The presence or cache channel.
        channel: ChannelName,
        /// Who leaves a presence channel.
        user_id: Option<Arc<str>>,
    },
    /// The connection's user is known from now on. It comes once in a session.
    SignIn {
        /// The user's id.
        user_id: Arc<str>,
        /// Whose coming and going the connection is told of.
        watchlist: Vec<Arc<str>>,
    },
    /// A connection that was signed in ends.
    SignOut {
        /// The user's id.
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
    /// A limit was reached, and the client is told: to be counted.
    Limited(Limit),
    /// A signin was refused: for the log.
    SigninRefused {
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

/// The limits that a session holds a client to; see `limits` in the configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Limit {
    /// `subscriptionsPerConnection`.
    Subscriptions,
    /// `subscribesPerSecond`.
    Subscribes,
    /// `presenceJoinsPerMinute`.
    PresenceJoins,
    /// `channelNameBytes`.
    ChannelName,
    /// `presenceMemberBytes`.
    PresenceMember,
    /// `presenceMembers`.
    PresenceMembers,
    /// `clientEventsPerSecond`.
    ClientEvents,
    /// `clientEventBytes`.
    ClientEvent,
    /// `userAuthenticationTimeout`.
    UserAuthentication,
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
    /// When the connection is closed unless something has said by then who it is.
    unauthorised_until: Option<Millis>,
    /// Whom the connection is signed in as; most never are.
    user: Option<Box<User>>,
    client_events: Allowance,
    /// Of subscribes and signins in a second.
    subscribes: Allowance,
    /// Of joins of presence channels in a minute.
    presence_joins: Allowance,
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
            unauthorised_until: rules.user_authentication_timeout.map(|timeout| now + timeout),
            user: None,
            client_events: Allowance::default(),
            subscribes: Allowance::default(),
            presence_joins: Allowance::default(),
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
            Input::Joined(ticket, Ok(frame)) => self.joined(ticket, frame, actions),
            Input::Joined(ticket, Err(refusal)) => self.full(ticket, &refusal, actions),
            Input::Terminated => close(4009, "The application has ended this user's connections", actions),
            Input::Tick => self.tick(rules, now, actions),
            Input::Ended => {
                if let Some(user) = self.user.take() {
                    actions.push(Action::SignOut { user_id: user.id });
                }
                for subscription in std::mem::take(&mut self.subscriptions) {
                    subscribe::leave(subscription, actions);
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
                let limit = rules.subscribes_per_second;
                if self.subscribes.take(limit, SECOND, now) {
                    return self.subscribe(subscribe, rules, now, actions);
                }
                let error =
                    format!("This connection has subscribed {limit} times within a second; no more are allowed");
                let refusal = Refusal::new(4009, error);
                actions.push(Action::Limited(Limit::Subscribes));
                actions.push(subscribe::subscription_error(&subscribe.channel, "LimitReached", refusal));
            }
            ClientMessage::Unsubscribe(channel) => self.unsubscribe(&channel, rules, now, actions),
            ClientMessage::Signin(signin) => self.signin(&signin, rules, now, actions),
            ClientMessage::ClientEvent { event, channel, data } => {
                if let Err((code, message)) = self.client_event(&event, &channel, data, rules, now, actions) {
                    actions.push(Action::Send(pusher::error(code, &message)));
                }
            }
        }
    }

    /// Whether [`Input::Tick`] would do anything now.
    pub fn is_due(&self, rules: &Rules, now: Millis) -> bool {
        let has_come = |moment: Option<Millis>| moment.is_some_and(|at| now >= at);
        self.is_silent(rules, now) || has_come(self.reauthorize_at) || has_come(self.unauthorised_until)
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
        if self.unauthorised_until.is_some_and(|at| now >= at) {
            actions.push(Action::Limited(Limit::UserAuthentication));
            return close(4009, "Connection not authorized within timeout", actions);
        }
        if !self.is_silent(rules, now) {
            return;
        }
        match self.pinged_at {
            Some(_) => {
                let reason = "Pong reply not received: ping was sent to the client, but no reply was received";
                close(4201, reason, actions);
            }
            None => {
                self.pinged_at = Some(now);
                actions.push(Action::Send(pusher::PING.into()));
            }
        }
    }

    /// Something has said who this is.
    fn authorised(&mut self) {
        self.unauthorised_until = None;
    }

    fn position(&self, channel: &str) -> Option<usize> {
        self.subscriptions.iter().position(|subscription| subscription.channel.as_str() == channel)
    }

    fn next_ticket(&mut self) -> Ticket {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        self.next_ticket
    }
}

/// Says why, and closes.
fn close(code: u16, reason: &'static str, actions: &mut Vec<Action>) {
    actions.push(Action::Send(pusher::error(Some(code), reason)));
    actions.push(Action::Close { code, reason });
}

/// So many in each second or minute.
#[derive(Debug, Default)]
struct Allowance {
    used: u32,
    period: u32,
}

const SECOND: Millis = 1000;
const MINUTE: Millis = 60 * SECOND;

impl Allowance {
    fn take(&mut self, most: u32, length: Millis, now: Millis) -> bool {
        let period = (now / length) as u32;
        if self.period != period {
            *self = Self { used: 0, period };
        }
        let allowed = self.used < most;
        self.used = self.used.saturating_add(1);
        allowed
    }
}

#[cfg(test)]
pub(super) mod tests;
