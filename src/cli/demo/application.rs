//! What the stand-in application says and publishes: Laravel's part, without HTTP.
//!
//! Channel rules as `routes/channels.php` would have them, answers as Laravel's redis broadcaster
//! gives them, events as it publishes them, byte for byte: PHP's escapes included.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::ingress::Message;

/// What Laravel puts before each channel's name in Redis: a slug of the application's name.
pub const KEY_PREFIX: &str = "demo_database_";

/// Somebody who can sign in.
#[derive(Debug)]
pub struct User {
    /// The number that channel names and presence members carry.
    pub id: u32,
    /// First name.
    pub first_name: &'static str,
    /// Last name.
    pub last_name: &'static str,
    /// The bearer token. No secret: the page shows it to everybody.
    pub token: &'static str,
}

/// The two users of the page.
pub const USERS: [User; 2] = [
    User { id: 1, first_name: "John", last_name: "Doe", token: "token-john" },
    User { id: 2, first_name: "Jane", last_name: "Roe", token: "token-jane" },
];

impl User {
    /// The user of an `Authorization` header. As in Laravel, `Bearer` has a capital B.
    pub fn of_authorization(header: &str) -> Option<&'static User> {
        let token = header.strip_prefix("Bearer ")?;
        USERS.iter().find(|user| user.token == token)
    }

    /// The user with this number.
    pub fn find(id: u32) -> Option<&'static User> {
        USERS.iter().find(|user| user.id == id)
    }

    /// First and last name.
    pub fn name(&self) -> String {
        format!("{} {}", self.first_name, self.last_name)
    }

    /// The body of the 200 with which Laravel's redis broadcaster lets this user into a channel;
    /// `None`: the channel's rule says no, or there is no such channel.
    pub fn permission(&self, channel: &str) -> Option<String> {
        // Laravel looks up the rule without its own Redis prefix and without the guard's word.
        let channel = channel.strip_prefix(KEY_PREFIX).unwrap_or(channel);
        let rule = channel.strip_prefix("private-").or_else(|| channel.strip_prefix("presence-"))?;
        let allowed = match rule.split_once('.') {
            None if rule == "online-users" => {
                let user_info = MemberInfo { id: self.id, name: self.name(), avatar: None };
                return Some(php_json(&Member { channel_data: ChannelData { user_id: self.id, user_info } }));
            }
            Some(("user", id)) => id.parse() == Ok(self.id),
            Some(("conversation", ids)) => ids.split('-').take(2).any(|id| id.parse() == Ok(self.id)),
            _ => false,
        };
        allowed.then(|| "true".to_owned())
    }
}

/// `MessageSent`: to the recipient and to the conversation.
#[derive(Clone, Debug, Serialize)]
pub struct MessageSent {
    id: u64,
    content: String,
    sender_id: u32,
    recipient_id: u32,
    job_id: Option<u32>,
    is_read: bool,
    created_at: String,
    sender: Sender,
}

impl MessageSent {
    /// A message that was stored under `id` just now.
    pub fn new(id: u64, content: String, sender: &User, recipient: &User, now: SystemTime) -> Self {
        Self {
            id,
            content,
            sender_id: sender.id,
            recipient_id: recipient.id,
            job_id: None,
            is_read: false,
            created_at: zulu(now),
            sender: Sender { id: sender.id, first_name: sender.first_name, last_name: sender.last_name, avatar: None },
        }
    }

    /// What Laravel publishes for `broadcast(new MessageSent($message))->toOthers()`.
    pub fn to_others(&self, socket: Option<&str>) -> Vec<Message> {
        let conversation = conversation(self.sender_id, self.recipient_id);
        broadcast(&[&format!("private-user.{}", self.recipient_id), &conversation], "message.sent", self, socket)
    }
}

/// `UserTyping`: to the conversation.
#[derive(Clone, Debug, Serialize)]
pub struct UserTyping {
    user_id: u32,
    user_name: String,
    is_typing: bool,
    timestamp: String,
    #[serde(skip)]
    recipient_id: u32,
}

impl UserTyping {
    /// `user` has begun or ceased to type to `recipient`.
    pub fn new(user: &User, recipient: &User, is_typing: bool, now: SystemTime) -> Self {
        let timestamp = zulu(now);
        Self { user_id: user.id, user_name: user.name(), is_typing, timestamp, recipient_id: recipient.id }
    }

    /// What Laravel publishes for `broadcast(new UserTyping(…))->toOthers()`.
    pub fn to_others(&self, socket: Option<&str>) -> Vec<Message> {
        broadcast(&[&conversation(self.user_id, self.recipient_id)], "user.typing", self, socket)
    }
}

fn conversation(a: u32, b: u32) -> String {
    format!("private-conversation.{}-{}", a.min(b), a.max(b))
}

/// One payload, published to each channel in order. `socket` is the request's `X-Socket-ID`; it
/// stands both beside the data and in them.
fn broadcast(channels: &[&str], event: &str, data: &impl Serialize, socket: Option<&str>) -> Vec<Message> {
    let payload = php_json(&Broadcast { event, data: BroadcastData { data, socket }, socket });
    let message = |channel: &&str| Message {
        channel: format!("{KEY_PREFIX}{channel}").into_bytes(),
        payload: payload.clone().into_bytes(),
    };
    channels.iter().map(message).collect()
}

#[derive(Serialize)]
struct Broadcast<'a, D> {
    event: &'a str,
    data: BroadcastData<'a, D>,
    socket: Option<&'a str>,
}

#[derive(Serialize)]
struct BroadcastData<'a, D> {
    #[serde(flatten)]
    data: D,
    socket: Option<&'a str>,
}

#[derive(Clone, Debug, Serialize)]
struct Sender {
    id: u32,
    first_name: &'static str,
    last_name: &'static str,
    avatar: Option<String>,
}

#[derive(Serialize)]
struct Member {
    channel_data: ChannelData,
}

#[derive(Serialize)]
struct ChannelData {
    user_id: u32,
    user_info: MemberInfo,
}

#[derive(Serialize)]
struct MemberInfo {
    id: u32,
    name: String,
    avatar: Option<String>,
}

/// JSON as PHP's `json_encode` writes it: slashes and everything beyond ASCII escaped.
pub fn php_json(value: &impl Serialize) -> String {
    // The types of this file have string keys and no failing parts, so there is always a text.
    let json = serde_json::to_string(value).unwrap_or_default();
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            // In JSON a slash stands only within strings, and so does whatever is not ASCII.
            '/' => text.push_str("\\/"),
            '\u{7f}'.. => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    text.push_str(&format!("\\u{unit:04x}"));
                }
            }
            _ => text.push(character),
        }
    }
    text
}

/// A time as Carbon's `toIso8601ZuluString()` writes it: `2026-11-23T09:30:00Z`.
fn zulu(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years are counted from 1 March 0000, so that the leap day is a year's last.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use super::*;

    const JOHN: &User = &USERS[0];
    const JANE: &User = &USERS[1];

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn texts(messages: Vec<Message>) -> Vec<(String, String)> {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        messages.into_iter().map(|message| (text(message.channel), text(message.payload))).collect()
    }

    #[test]
    fn tokens_name_users() {
        assert_eq!(User::of_authorization("Bearer token-jane").map(|user| user.id), Some(2));
        for header in ["", "Bearer", "Bearer ", "Bearer token-jan", "bearer token-jane", "token-jane"] {
            assert!(User::of_authorization(header).is_none(), "{header:?}");
        }
    }

    #[test]
    fn private_channels_are_answered_true_or_not_at_all() {
        for allowed in ["private-user.1", "private-conversation.1-2", "demo_database_private-user.1"] {
            assert_eq!(JOHN.permission(allowed).as_deref(), Some("true"), "{allowed}");
        }
        for refused in [
            "private-user.2",
            "private-user.",
            "private-user",
            "private-user.abc",
            "private-conversation.2-3",
            "private-conversation.2-3-1",
            "private-nope",
            "user.1",
            "orders",
            "",
            "other_database_private-user.1",
        ] {
            assert_eq!(JOHN.permission(refused), None, "{refused}");
        }
    }

    #[test]
    fn presence_is_answered_with_an_object_and_a_number() {
        assert_eq!(
            JOHN.permission("presence-online-users").as_deref(),
            Some(r#"{"channel_data":{"user_id":1,"user_info":{"id":1,"name":"John Doe","avatar":null}}}"#)
        );
    }

    #[test]
    fn a_message_is_published_to_recipient_and_conversation_as_laravel_does() {
        let message = MessageSent::new(7, "1/2 Zoë 😀 \"hi\"".into(), JOHN, JANE, at(1_795_426_200));
        let payload = concat!(
            r#"{"event":"message.sent","data":{"id":7,"content":"1\/2 Zo\u00eb \ud83d\ude00 \"hi\"","sender_id":1,"#,
            r#""recipient_id":2,"job_id":null,"is_read":false,"created_at":"2026-11-23T09:30:00Z","#,
            r#""sender":{"id":1,"first_name":"John","last_name":"Doe","avatar":null},"socket":"12.34"},"socket":"12.34"}"#
        );
        assert_eq!(
            texts(message.to_others(Some("12.34"))),
            [
                ("demo_database_private-user.2".to_owned(), payload.to_owned()),
                ("demo_database_private-conversation.1-2".to_owned(), payload.to_owned()),
            ]
        );
    }

    #[test]
    fn typing_is_published_to_the_conversation_and_without_a_socket_it_is_null() {
        let typing = UserTyping::new(JANE, JOHN, true, at(0));
        let payload = concat!(
            r#"{"event":"user.typing","data":{"user_id":2,"user_name":"Jane Roe","is_typing":true,"#,
            r#""timestamp":"1970-01-01T00:00:00Z","socket":null},"socket":null}"#
        );
        assert_eq!(
            texts(typing.to_others(None)),
            [("demo_database_private-conversation.1-2".to_owned(), payload.to_owned())]
        );
    }

    #[test]
    fn times_are_written_as_carbon_does() {
        for (seconds, text) in [
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(zulu(at(seconds)), text);
        }
    }
}
