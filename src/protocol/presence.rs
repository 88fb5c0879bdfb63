//! The members of a presence channel (protocol section 2, design 5). A member is a user id,
//! however many sockets the user has.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::SocketId;
use super::channel::{NAME_BYTES_MAX, USER_PREFIX};
use super::pusher::push_json_string;

/// Who a subscriber of a presence channel is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Member {
    /// The user's id; a number in Laravel's answer is its decimal text here.
    pub user_id: Arc<str>,
    /// `user_info`, JSON as Laravel wrote it; `null` where there is none.
    pub user_info: Arc<str>,
    /// Laravel wrote the id as a number: so Socket.IO clients, and those who read the list in Redis, get it.
    pub id_is_number: bool,
}

/// Why a `channel_data` names nobody.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MemberError {
    /// Not an object with a `user_id`.
    #[error("channel_data must be a JSON object with a user_id")]
    NoUserId,
    /// `user_id` is neither a text nor a whole number.
    #[error("the user_id in channel_data must be a non-empty text or a whole number")]
    UserId,
    /// More than [`USER_ID_BYTES_MAX`] bytes.
    #[error("the user_id in channel_data has {0} bytes; {USER_ID_BYTES_MAX} are allowed")]
    UserIdTooLong(usize),
}

/// The longest user id, in bytes: with one as long, the user's own channel still has a name that is
/// allowed. (The hosted service takes 128 characters, protocol section 3.)
pub const USER_ID_BYTES_MAX: usize = NAME_BYTES_MAX - USER_PREFIX.len();

/// Reads a user's id out of JSON: a text that is not empty, or a whole number, which is its decimal
/// text from here on, so that both spellings are one user.
pub(super) fn user_id(id: &RawValue) -> Option<Arc<str>> {
    let id = id.get();
    if id.starts_with('"') {
        return serde_json::from_str::<String>(id).ok().filter(|id| !id.is_empty()).map(Arc::from);
    }
    // As it is written: an id may have more digits than a machine's integer.
    id.strip_prefix('-').unwrap_or(id).bytes().all(|byte| byte.is_ascii_digit()).then(|| id.into())
}

impl Member {
    /// Reads `channel_data`: `{"user_id":1,"user_info":{…}}`.
    pub fn parse(channel_data: &str) -> Result<Self, MemberError> {
        #[derive(Deserialize)]
        struct ChannelData<'a> {
            #[serde(borrow)]
            user_id: &'a RawValue,
            #[serde(borrow, default)]
            user_info: Option<&'a RawValue>,
        }
        let data: ChannelData = serde_json::from_str(channel_data).map_err(|_| MemberError::NoUserId)?;
        let user_id = user_id(data.user_id).ok_or(MemberError::UserId)?;
        if user_id.len() > USER_ID_BYTES_MAX {
            return Err(MemberError::UserIdTooLong(user_id.len()));
        }
        let id_is_number = !data.user_id.get().starts_with('"');
        Ok(Self { user_id, user_info: data.user_info.map_or("null", RawValue::get).into(), id_is_number })
    }

    /// As Laravel wrote it: `{"user_id":1,"user_info":{…}}`.
    pub fn to_json(&self) -> String {
        let mut text = String::with_capacity(self.user_id.len() + self.user_info.len() + 32);
        self.push_json(&mut text);
        text
    }

    fn push_json(&self, text: &mut String) {
        text.push_str("{\"user_id\":");
        if self.id_is_number {
            text.push_str(&self.user_id);
        } else {
            push_json_string(text, &self.user_id);
        }
        text.push_str(",\"user_info\":");
        text.push_str(&self.user_info);
        text.push('}');
    }
}

/// Through whom a user is a member.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Holder {
    /// A connection of this node.
    Socket(SocketId),
    /// Connections of another node, which tells of the first and the last alone.
    Node(u64),
}

impl From<SocketId> for Holder {
    fn from(socket_id: SocketId) -> Self {
        Self::Socket(socket_id)
    }
}

/// What a join changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Joined {
    /// The user was not there before: the others hear `member_added`.
    First,
    /// The user was there with another socket.
    Again,
    /// This very socket was there: nothing has changed.
    Already,
}

/// The members of one channel.
#[derive(Debug, Default)]
pub struct Members {
    /// Sorted, so that every list of the same members is the same text.
    users: BTreeMap<Arc<str>, Vec<Seat>>,
    /// How many have joined so far.
    joins: u64,
}

/// One socket of a user, or all that another node has.
#[derive(Debug)]
struct Seat {
    holder: Holder,
    member: Member,
    /// [`Members::joins`] when it joined.
    number: u64,
}

impl Members {
    /// Adds a holder of a user. The same socket again changes nothing; the same node at the most the info.
    pub fn join(&mut self, holder: impl Into<Holder>, member: Member) -> Joined {
        let holder = holder.into();
        let sockets = self.users.entry(member.user_id.clone()).or_default();
        if let Some(seat) = sockets.iter_mut().find(|seat| seat.holder == holder) {
            if matches!(holder, Holder::Node(_)) {
                seat.member = member;
            }
            return Joined::Already;
        }
        self.joins += 1;
        sockets.push(Seat { holder, member, number: self.joins });
        if sockets.len() == 1 { Joined::First } else { Joined::Again }
    }

    /// Removes a holder of a user; gives the member if that was the user's last.
    pub fn leave(&mut self, holder: impl Into<Holder>, user_id: &str) -> Option<Member> {
        let holder = holder.into();
        let sockets = self.users.get_mut(user_id)?;
        let index = sockets.iter().position(|seat| seat.holder == holder)?;
        let Seat { member, .. } = sockets.remove(index);
        if !sockets.is_empty() {
            return None;
        }
        self.users.remove(user_id);
        Some(member)
    }

    /// Whether this user is there.
    pub fn contains(&self, user_id: &str) -> bool {
        self.users.contains_key(user_id)
    }

    /// Whether this user is there with a connection of this node.
    pub fn is_here(&self, user_id: &str) -> bool {
        let seats = self.users.get(user_id);
        seats.is_some_and(|seats| seats.iter().any(|seat| matches!(seat.holder, Holder::Socket(_))))
    }

    /// How many users are there.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// The members, each with the info of the socket that has been there longest.
    pub fn members(&self) -> impl Iterator<Item = Member> {
        self.users.values().filter_map(|sockets| sockets.first()).map(|seat| seat.member.clone())
    }

    /// Nobody is there.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// The list as the old server stored it: a JSON object for each socket, in the order in which they joined.
    /// For all that a user has on another node there is one, without a socket's id.
    pub fn stored(&self) -> String {
        let mut seats: Vec<&Seat> = self.users.values().flatten().collect();
        seats.sort_unstable_by_key(|seat| seat.number);
        let mut text = String::with_capacity(2 + seats.len() * 96);
        text.push('[');
        for (index, Seat { holder, member, .. }) in seats.into_iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            member.push_json(&mut text);
            if let Holder::Socket(socket_id) = holder {
                text.pop();
                text.push_str(",\"socketId\":");
                push_json_string(&mut text, &socket_id.to_string());
                text.push('}');
            }
        }
        text.push(']');
        text
    }

    /// The data of `subscription_succeeded`. A user's info is that of the socket that has been
    /// there longest.
    pub fn list(&self) -> String {
        use std::fmt::Write;
        let mut text = String::with_capacity(64 + self.users.len() * 64);
        let _ = write!(text, "{{\"presence\":{{\"count\":{},\"ids\":[", self.users.len());
        for (index, user_id) in self.users.keys().enumerate() {
            if index > 0 {
                text.push(',');
            }
            push_json_string(&mut text, user_id);
        }
        text.push_str("],\"hash\":{");
        for (index, (user_id, sockets)) in self.users.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            push_json_string(&mut text, user_id);
            text.push(':');
            text.push_str(sockets.first().map_or("null", |seat| &seat.member.user_info));
        }
        text.push_str("}}}");
        text
    }

    /// The members for a Socket.IO client, as the old server listed them: each user once, by the
    /// socket that joined last, and of these the last one first.
    pub fn newest_first(&self) -> String {
        let mut seats: Vec<&Seat> = self.users.values().filter_map(|sockets| sockets.last()).collect();
        seats.sort_unstable_by_key(|seat| std::cmp::Reverse(seat.number));
        let mut text = String::with_capacity(2 + seats.len() * 64);
        text.push('[');
        for (index, seat) in seats.into_iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            seat.member.push_json(&mut text);
        }
        text.push(']');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn member(user_id: &str, info: &str) -> Member {
        Member { user_id: user_id.into(), user_info: info.into(), id_is_number: false }
    }

    fn socket(n: u64) -> SocketId {
        SocketId::new(n, 0)
    }

    #[test]
    fn channel_data_in_every_form() {
        for (data, user_id, user_info) in [
            (r#"{"user_id":1,"user_info":{"name":"Ann"}}"#, "1", r#"{"name":"Ann"}"#),
            (r#"{"user_id": "1", "user_info": null}"#, "1", "null"),
            (r#"{"user_info":[1, 2],"user_id":"é\"","x":{}}"#, "é\"", "[1, 2]"),
            (r#"{"user_id":-7}"#, "-7", "null"),
            (r#"{"user_id":184467440737095516150}"#, "184467440737095516150", "null"),
        ] {
            let id_is_number = !data.contains("\"user_id\":\"") && !data.contains("\"user_id\": \"");
            assert_eq!(Member::parse(data), Ok(Member { id_is_number, ..member(user_id, user_info) }), "{data}");
        }
    }

    #[test]
    fn channel_data_that_names_nobody() {
        for data in ["", "true", "null", "[]", "{}", r#"{"user_info":{}}"#, "{"] {
            assert_eq!(Member::parse(data), Err(MemberError::NoUserId), "{data}");
        }
        for data in [
            r#"{"user_id":""}"#,
            r#"{"user_id":null}"#,
            r#"{"user_id":1.5}"#,
            r#"{"user_id":true}"#,
            r#"{"user_id":{}}"#,
        ] {
            assert_eq!(Member::parse(data), Err(MemberError::UserId), "{data}");
        }
        let with = |bytes| Member::parse(&format!(r#"{{"user_id":"{}"}}"#, "x".repeat(bytes)));
        assert!(with(USER_ID_BYTES_MAX).is_ok());
        assert_eq!(with(USER_ID_BYTES_MAX + 1), Err(MemberError::UserIdTooLong(USER_ID_BYTES_MAX + 1)));
    }

    #[test]
    fn one_user_with_two_sockets() {
        let mut members = Members::default();
        assert_eq!(members.join(socket(1), member("7", r#"{"tab":1}"#)), Joined::First);
        assert_eq!(members.join(socket(2), member("7", r#"{"tab":2}"#)), Joined::Again);
        assert_eq!(members.join(socket(2), member("7", r#"{"tab":3}"#)), Joined::Already);
        assert_eq!(members.list(), r#"{"presence":{"count":1,"ids":["7"],"hash":{"7":{"tab":1}}}}"#);
        assert_eq!(members.members().collect::<Vec<_>>(), [member("7", r#"{"tab":1}"#)]);
        assert_eq!(members.len(), 1);
        assert_eq!(members.leave(socket(1), "7"), None);
        assert_eq!(members.list(), r#"{"presence":{"count":1,"ids":["7"],"hash":{"7":{"tab":2}}}}"#);
        assert_eq!(members.leave(socket(9), "7"), None);
        assert_eq!(members.leave(socket(9), "8"), None);
        assert_eq!(members.leave(socket(2), "7"), Some(member("7", r#"{"tab":2}"#)));
        assert!(!members.is_here("7"));
        assert_eq!(members.join(Holder::Node(1), member("7", "1")), Joined::First);
        assert_eq!(members.join(Holder::Node(1), member("7", "2")), Joined::Already);
        assert!(!members.is_here("7"), "but elsewhere");
        assert_eq!(members.join(socket(1), member("7", "3")), Joined::Again);
        assert!(members.is_here("7"));
        assert_eq!(members.list(), r#"{"presence":{"count":1,"ids":["7"],"hash":{"7":2}}}"#);
        assert_eq!(members.leave(Holder::Node(1), "7"), None);
        assert_eq!(members.leave(socket(1), "7"), Some(member("7", "3")));
        assert!(members.is_empty());
        assert_eq!(members.list(), r#"{"presence":{"count":0,"ids":[],"hash":{}}}"#);
    }

    /// As the old server listed them (its specification, 6.4 and 7.5).
    #[test]
    fn socketio_clients_get_the_newest_first() {
        let mut members = Members::default();
        let parse = |data| Member::parse(data).unwrap();
        members.join(socket(1), parse(r#"{"user_id":1,"user_info":{"tab":1}}"#));
        members.join(socket(2), parse(r#"{"user_id":"2","user_info":null}"#));
        assert_eq!(members.newest_first(), r#"[{"user_id":"2","user_info":null},{"user_id":1,"user_info":{"tab":1}}]"#);
        members.join(socket(3), parse(r#"{"user_id":1,"user_info":{"tab":3}}"#));
        assert_eq!(members.newest_first(), r#"[{"user_id":1,"user_info":{"tab":3}},{"user_id":"2","user_info":null}]"#);
    }

    /// As the old server stored them (its specification, 5.4).
    #[test]
    fn the_stored_list_has_every_socket_in_order() {
        let mut members = Members::default();
        assert_eq!(members.stored(), "[]");
        let parse = |data| Member::parse(data).unwrap();
        members.join(socket(1), parse(r#"{"user_id":2,"user_info":{"tab":1}}"#));
        members.join(socket(2), parse(r#"{"user_id":"1"}"#));
        members.join(socket(3), parse(r#"{"user_id":2,"user_info":[]}"#));
        let [first, second, third] = [1, 2, 3].map(|n| socket(n).to_string());
        let expected = format!(
            r#"[{{"user_id":2,"user_info":{{"tab":1}},"socketId":"{first}"}},{{"user_id":"1","user_info":null,"socketId":"{second}"}},{{"user_id":2,"user_info":[],"socketId":"{third}"}}]"#
        );
        assert_eq!(members.stored(), expected);
    }

    proptest! {
        /// Who follows the list and the added and removed after it knows the truth.
        #[test]
        fn changes_add_up_to_the_list(steps in prop::collection::vec((any::<bool>(), 0u64..6, 0u8..4), 0..60)) {
            let mut members = Members::default();
            let mut followed = std::collections::BTreeSet::new();
            for (join, n, user) in steps {
                let user_id = user.to_string();
                if join {
                    if members.join(socket(n), member(&user_id, "null")) == Joined::First {
                        prop_assert!(followed.insert(user_id));
                    }
                } else if members.leave(socket(n), &user_id).is_some() {
                    prop_assert!(followed.remove(&user_id));
                }
                let list: serde_json::Value = serde_json::from_str(&members.list()).unwrap();
                let ids: Vec<String> = serde_json::from_value(list["presence"]["ids"].clone()).unwrap();
                prop_assert_eq!(&ids, &followed.iter().cloned().collect::<Vec<_>>());
                prop_assert_eq!(list["presence"]["count"].as_u64().unwrap() as usize, ids.len());
                prop_assert_eq!(list["presence"]["hash"].as_object().unwrap().len(), ids.len());
            }
        }
    }
}
