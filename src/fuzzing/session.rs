//! One connection's life as bytes tell it: what its client says, what Laravel and the home shards answer, in any order
//! and at any time; and what must hold all along.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use crate::protocol::channel::{Access, ChannelName};
use crate::protocol::engineio::{Sid, Timing, Version};
use crate::protocol::presence::Member;
use crate::protocol::session::{ASKING_MAX, Action, Answer, Input, Millis, Refusal, Rules, Session, Ticket};
use crate::protocol::socketio::Link;
use crate::protocol::{SocketId, signature};

const CHANNELS: &[&str] = &[
    "news",
    "private-a",
    "presence-a",
    "cache-a",
    "private-cache-a",
    "presence-cache-a",
    "private-encrypted-a",
    "app_database_private-a",
    "#server-to-user-1",
    "private-b",
];

const MEMBERS: &[&str] = &[r#"{"user_id":1}"#, r#"{"user_id":"2","user_info":{"a":1}}"#, r#"{"user_id":""}"#, "7", ""];

fn rules() -> Rules {
    Rules {
        app_key: "key".into(),
        secret: "secret".into(),
        previous_secrets: Vec::new(),
        subscriptions_max: 4,
        client_events_per_second: 3,
        client_event_bytes_max: 100,
        presence_member_bytes_max: 60,
        channel_name_bytes_max: 100,
        presence_joins_per_minute: 3,
        subscribes_per_second: 5,
        activity_timeout: 30_000,
        pong_timeout: 20_000,
        user_authentication_timeout: Some(60_000),
        reauthorize_after: Some(40_000),
    }
}

/// What the session has said so far, as its shard would keep it.
#[derive(Default)]
struct Books {
    subscribed: BTreeSet<String>,
    /// At the home shard, how many times.
    joined: HashMap<String, i32>,
    asked: Vec<(Ticket, String)>,
    joining: Vec<Ticket>,
    /// A right signature was shown, or Laravel said yes.
    allowed: BTreeSet<String>,
    signed_in: Option<String>,
    closed: bool,
}

impl Books {
    fn keep(&mut self, actions: Vec<Action>, rules: &Rules) {
        for action in actions {
            match action {
                Action::Subscribe(channel) => {
                    let name = channel.as_str().to_owned();
                    match channel.access() {
                        Access::Public => {}
                        Access::User => assert_eq!(channel.user_id(), self.signed_in.as_deref()),
                        Access::Private | Access::Presence => {
                            assert!(self.allowed.contains(&name), "{name} without leave");
                        }
                    }
                    assert!(self.subscribed.insert(name), "subscribed twice");
                    assert!(self.subscribed.len() <= rules.subscriptions_max);
                }
                Action::Unsubscribe(channel) => assert!(self.subscribed.remove(channel.as_str()), "never subscribed"),
                Action::Ask { ticket, channel, .. } => {
                    assert_ne!(channel.access(), Access::Public);
                    self.asked.push((ticket, channel.as_str().to_owned()));
                    assert!(self.asked.len() <= ASKING_MAX);
                }
                Action::Join { ticket, channel, .. } => {
                    *self.joined.entry(channel.as_str().to_owned()).or_default() += 1;
                    assert_eq!(self.joined[channel.as_str()], 1, "joined twice");
                    self.joining.push(ticket);
                }
                Action::List { ticket, channel } => {
                    assert!(self.subscribed.contains(channel.as_str()));
                    self.joining.push(ticket);
                }
                Action::Leave { channel, .. } => {
                    let count = self.joined.get_mut(channel.as_str()).map(|count| {
                        *count -= 1;
                        *count
                    });
                    assert_eq!(count, Some(0), "left without having joined");
                }
                Action::Whisper { channel, .. } => assert!(self.subscribed.contains(channel.as_str())),
                Action::SignIn { user_id, .. } => {
                    assert_eq!(self.signed_in.replace(user_id.to_string()), None, "signed in twice");
                }
                Action::SignOut { user_id } => assert_eq!(self.signed_in.take().as_deref(), Some(&*user_id)),
                Action::Close { .. } => self.closed = true,
                Action::Send(_)
                | Action::SendFrame(_)
                | Action::SubscriptionError { .. }
                | Action::Refused { .. }
                | Action::Limited(_)
                | Action::SigninRefused { .. } => {}
            }
        }
    }
}

/// Two bytes for each step: what happens, and to which.
pub(super) fn walk(data: &[u8]) {
    let rules = rules();
    let (how, mut data) = super::split(data);
    let socket_id = SocketId::new(1, 2);
    let (mut now, mut actions, mut books): (Millis, _, _) = (0, Vec::new(), Books::default());
    let mut session = Session::open(socket_id, &rules, now, &mut actions);
    let mut link = match how % 3 {
        0 => None,
        version => {
            let version = if version == 1 { Version::V3 } else { Version::V4 };
            let timing = Timing { ping_interval: 25_000, ping_timeout: 20_000 };
            let sid = Sid::new(socket_id, 0, 5);
            Some(Link::open(version, sid, true, timing, now, &mut actions))
        }
    };
    while let [what, which, rest @ ..] = data {
        data = rest;
        // A Socket.IO client has no words for these.
        if link.is_some() && matches!(what % 10, 1 | 2 | 8) {
            continue;
        }
        let channel = CHANNELS[usize::from(*which) % CHANNELS.len()];
        let member = MEMBERS[usize::from(*which >> 4) % MEMBERS.len()];
        let mut text = String::new();
        let input = match what % 10 {
            0 => {
                let (said, rest) = data.split_at(usize::from(*which).min(data.len()));
                data = rest;
                text.push_str(&String::from_utf8_lossy(said));
                Input::Text(&text)
            }
            1 | 2 => {
                let with = ChannelName::parse(channel).is_ok_and(|c| c.access() == Access::Presence).then_some(member);
                let secret = if what % 10 == 1 { "secret" } else { "guess" };
                let hex = signature::sign(secret, &signature::channel_text(socket_id, channel, with));
                text = pusher_subscribe(channel, Some(&format!("key:{hex}")), with);
                // Socket.IO clients show no signature.
                if what % 10 == 1 && link.is_none() {
                    books.allowed.insert(channel.to_owned());
                }
                Input::Text(&text)
            }
            3 => {
                text = match link {
                    None => pusher_subscribe(channel, None, None),
                    Some(_) => format!(r#"42["subscribe",{{"channel":"{channel}","auth":{{"headers":{{"a":"b"}}}}}}]"#),
                };
                Input::Text(&text)
            }
            4 => {
                text = match link {
                    None => format!(r#"{{"event":"pusher:unsubscribe","data":{{"channel":"{channel}"}}}}"#),
                    Some(_) => format!(r#"42["unsubscribe",{{"channel":"{channel}"}}]"#),
                };
                Input::Text(&text)
            }
            5 => {
                let Some((ticket, asked)) = books.asked.pop() else { continue };
                let parsed = ChannelName::parse(&asked).map(|channel| channel.access());
                let answer = match (which & 3, parsed) {
                    (0, _) => Answer::No(Refusal::new(403, "no")),
                    (_, Ok(Access::Presence)) => match Member::parse(member) {
                        Ok(member) => Answer::Member(member),
                        Err(_) => Answer::No(Refusal::new(403, "no member")),
                    },
                    _ => Answer::Yes,
                };
                if !matches!(answer, Answer::No(_)) {
                    books.allowed.insert(asked);
                }
                Input::Answered(ticket, answer)
            }
            6 => {
                let Some(ticket) = books.joining.pop() else { continue };
                match which & 3 {
                    0 => Input::Joined(ticket, Err(Refusal::new(4004, "full"))),
                    _ => Input::Joined(ticket, Ok(Bytes::from_static(b"frame"))),
                }
            }
            7 => {
                now += Millis::from(*which) * 200;
                Input::Tick
            }
            8 => {
                let user = format!(r#"{{"id":"{}"}}"#, which & 1);
                let secret = if which & 2 == 0 { "secret" } else { "guess" };
                let auth = signature::sign(secret, &signature::user_text(socket_id, &user));
                text = serde_json::json!({"event": "pusher:signin", "data": {"auth": format!("key:{auth}"), "user_data": user}})
                    .to_string();
                Input::Text(&text)
            }
            _ => {
                text = match link {
                    None => format!(r#"{{"event":"client-a","channel":"{channel}","data":{{}}}}"#),
                    Some(_) => {
                        format!(r#"42["client event",{{"channel":"{channel}","event":"client-a","data":null}}]"#)
                    }
                };
                Input::Text(&text)
            }
        };
        let mut actions = Vec::new();
        match &mut link {
            None => session.input(input, &rules, now, &mut actions),
            Some(link) => link.input(input, &mut session, &rules, now, &mut actions),
        }
        books.keep(actions, &rules);
        if books.closed {
            break;
        }
    }
    let mut actions = Vec::new();
    session.input(Input::Ended, &rules, now, &mut actions);
    books.keep(actions, &rules);
    assert!(books.subscribed.is_empty() && books.signed_in.is_none(), "something stays");
    assert!(books.joined.values().all(|count| *count == 0), "a member stays: {:?}", books.joined);
}

fn pusher_subscribe(channel: &str, auth: Option<&str>, channel_data: Option<&str>) -> String {
    serde_json::json!({"event": "pusher:subscribe", "data": {"channel": channel, "auth": auth, "channel_data": channel_data}})
        .to_string()
}
