//! Webhooks (protocol section 6): the events that a backend is told of, and the body of the request
//! that tells it. When each happens, and how the request is sent, is others' to know.

use super::SocketId;
use super::pusher::push_json_string;

/// What an event is about; the order is that of the protocol's table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// The channel has its first subscriber.
    ChannelOccupied,
    /// The channel has lost its last one.
    ChannelVacated,
    /// A user has come to a presence channel, with the first connection.
    MemberAdded,
    /// A user has left it, with the last one.
    MemberRemoved,
    /// A client event was passed on.
    ClientEvent,
    /// Somebody has subscribed to a cache channel that has no event.
    CacheMiss,
    /// The number of subscribers has changed.
    SubscriptionCount,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 7] = [
        Self::ChannelOccupied,
        Self::ChannelVacated,
        Self::MemberAdded,
        Self::MemberRemoved,
        Self::ClientEvent,
        Self::CacheMiss,
        Self::SubscriptionCount,
    ];

    /// The protocol's name, as `channel_occupied`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChannelOccupied => "channel_occupied",
            Self::ChannelVacated => "channel_vacated",
            Self::MemberAdded => "member_added",
            Self::MemberRemoved => "member_removed",
            Self::ClientEvent => "client_event",
            Self::CacheMiss => "cache_miss",
            Self::SubscriptionCount => "subscription_count",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What undoes it: a leave is told of only if nobody comes back at once.
    pub fn opposite(self) -> Option<Self> {
        match self {
            Self::ChannelOccupied => Some(Self::ChannelVacated),
            Self::ChannelVacated => Some(Self::ChannelOccupied),
            Self::MemberAdded => Some(Self::MemberRemoved),
            Self::MemberRemoved => Some(Self::MemberAdded),
            Self::ClientEvent | Self::CacheMiss | Self::SubscriptionCount => None,
        }
    }
}

/// Some of the kinds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Kinds(u8);

impl Kinds {
    /// With this one, too.
    pub fn with(self, kind: Kind) -> Self {
        Self(self.0 | 1 << kind as u8)
    }

    /// Whether this one is among them.
    pub fn contains(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u8 != 0
    }
}

impl FromIterator<Kind> for Kinds {
    fn from_iter<T: IntoIterator<Item = Kind>>(kinds: T) -> Self {
        kinds.into_iter().fold(Self::default(), Self::with)
    }
}

/// What has happened on a channel.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// See [`Kind::ChannelOccupied`].
    ChannelOccupied,
    /// See [`Kind::ChannelVacated`].
    ChannelVacated,
    /// See [`Kind::MemberAdded`]; the user's id.
    MemberAdded(&'a str),
    /// See [`Kind::MemberRemoved`]; the user's id.
    MemberRemoved(&'a str),
    /// See [`Kind::ClientEvent`].
    ClientEvent {
        /// The event's name.
        event: &'a str,
        /// JSON as the client wrote it.
        data: Option<&'a str>,
        /// The connection that has sent it.
        socket_id: SocketId,
        /// Who has sent it, on presence channels.
        user_id: Option<&'a str>,
    },
    /// See [`Kind::CacheMiss`].
    CacheMiss,
    /// See [`Kind::SubscriptionCount`]; how many there are now.
    SubscriptionCount(u64),
}

impl Event<'_> {
    /// What it is about.
    pub fn kind(&self) -> Kind {
        match self {
            Self::ChannelOccupied => Kind::ChannelOccupied,
            Self::ChannelVacated => Kind::ChannelVacated,
            Self::MemberAdded(_) => Kind::MemberAdded,
            Self::MemberRemoved(_) => Kind::MemberRemoved,
            Self::ClientEvent { .. } => Kind::ClientEvent,
            Self::CacheMiss => Kind::CacheMiss,
            Self::SubscriptionCount(_) => Kind::SubscriptionCount,
        }
    }

    /// The user that comes or goes.
    pub fn user_id(&self) -> Option<&str> {
        match self {
            Self::MemberAdded(user_id) | Self::MemberRemoved(user_id) => Some(user_id),
            _ => None,
        }
    }

    /// The event as JSON, for [`body`]. The data of a client event is a text, as that of every event
    /// is: libraries with types (Go's) know no other.
    pub fn to_json(&self, channel: &str) -> String {
        let mut text = String::with_capacity(96);
        text.push_str(r#"{"name":""#);
        text.push_str(self.kind().name());
        text.push_str(r#"","channel":"#);
        push_json_string(&mut text, channel);
        match *self {
            Self::ChannelOccupied | Self::ChannelVacated | Self::CacheMiss => {}
            Self::MemberAdded(user_id) | Self::MemberRemoved(user_id) => push_member(&mut text, "user_id", user_id),
            Self::ClientEvent { event, data, socket_id, user_id } => {
                push_member(&mut text, "event", event);
                match data {
                    Some(string) if string.starts_with('"') => text.extend([r#","data":"#, string]),
                    Some(json) => push_member(&mut text, "data", json),
                    None => {}
                }
                push_member(&mut text, "socket_id", &socket_id.to_string());
                if let Some(user_id) = user_id {
                    push_member(&mut text, "user_id", user_id);
                }
            }
            Self::SubscriptionCount(count) => text.push_str(&format!(r#","subscription_count":{count}"#)),
        }
        text.push('}');
        text
    }
}

fn push_member(text: &mut String, name: &str, value: &str) {
    text.extend([",\"", name, "\":"]);
    push_json_string(text, value);
}

/// The body of a request: events of [`Event::to_json`], and milliseconds since 1970.
pub fn body<'a>(time_ms: u128, events: impl Iterator<Item = &'a str>) -> String {
    let mut text = format!(r#"{{"time_ms":{time_ms},"events":["#);
    for (index, event) in events.enumerate() {
        text.extend([if index == 0 { "" } else { "," }, event]);
    }
    text.push_str("]}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::signature;

    #[test]
    fn the_example_of_the_protocol() {
        let body = body(1_327_078_148_132, [Event::ChannelOccupied.to_json("my-channel")].iter().map(String::as_str));
        assert_eq!(body, r#"{"time_ms":1327078148132,"events":[{"name":"channel_occupied","channel":"my-channel"}]}"#);
        assert_eq!(
            signature::sign("7ad3773142a6692b25b8", &body),
            "c19001ae3963ccb13bf618e5b16ba9848e7e74df0993aa0689168e341c6833cf"
        );
    }

    #[test]
    fn each_event() {
        let socket_id = SocketId::new(1, 2);
        let client_event = |data, user_id| Event::ClientEvent { event: "client-a\"", data, socket_id, user_id };
        for (event, rest) in [
            (Event::ChannelVacated, ""),
            (Event::MemberAdded("7\""), r#","user_id":"7\"""#),
            (Event::MemberRemoved("7"), r#","user_id":"7""#),
            (Event::CacheMiss, ""),
            (Event::SubscriptionCount(3), r#","subscription_count":3"#),
            (client_event(None, None), r#","event":"client-a\"","socket_id":"SOCKET""#),
            (
                client_event(Some(r#"{"a": "é"}"#), Some("7")),
                r#","event":"client-a\"","data":"{\"a\": \"é\"}","socket_id":"SOCKET","user_id":"7""#,
            ),
            (client_event(Some(r#""te\"xt""#), None), r#","event":"client-a\"","data":"te\"xt","socket_id":"SOCKET""#),
        ] {
            let rest = rest.replace("SOCKET", &socket_id.to_string());
            let expected = format!(r#"{{"name":"{}","channel":"c\\"{rest}}}"#, event.kind().name());
            assert_eq!(event.to_json("c\\"), expected);
            serde_json::from_str::<serde_json::Value>(&expected).unwrap();
        }
    }

    #[test]
    fn kinds_by_name_and_in_sets() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
            assert_eq!(kind.opposite().and_then(Kind::opposite), kind.opposite().map(|_| kind));
            let others = Kind::ALL.into_iter().filter(|other| *other != kind);
            assert!(Kinds::from_iter([kind]).contains(kind) && !Kinds::from_iter(others).contains(kind));
        }
        assert_eq!(Kind::from_name("Channel_occupied"), None);
    }
}
