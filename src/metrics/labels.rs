//! The values that labels have.

use super::kinds::Labels;
use crate::protocol::session;
use crate::protocol::why::Why;

/// An app, by its index in the configuration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct App(pub u16);

impl Labels for App {
    const NAMES: &'static [&'static str] = &["app"];

    fn count(apps: usize) -> usize {
        apps
    }

    fn place(self, apps: usize) -> Option<usize> {
        Some(usize::from(self.0)).filter(|index| *index < apps)
    }

    fn texts(apps: &[String], room: usize) -> Vec<(usize, Vec<&str>)> {
        apps.iter().take(room).enumerate().map(|(index, app)| (index, vec![app.as_str()])).collect()
    }
}

/// Makes a label of an enum: its name, and the text of each value.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident = $label:literal { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// The label's values, as they are shown.
            pub const VALUES: &'static [&'static str] = &[$($text,)+];

            /// The value as it is shown.
            pub fn text(self) -> &'static str {
                Self::VALUES[self as usize]
            }
        }

        impl Labels for $name {
            const NAMES: &'static [&'static str] = &[$label];

            fn count(_: usize) -> usize {
                Self::VALUES.len()
            }

            fn place(self, _: usize) -> Option<usize> {
                Some(self as usize)
            }

            fn texts(_: &[String], _: usize) -> Vec<(usize, Vec<&str>)> {
                Self::VALUES.iter().enumerate().map(|(place, text)| (place, vec![*text])).collect()
            }
        }
        impl OneOf for $name {
            const LABEL: &'static str = $label;
            const TEXTS: &'static [&'static str] = Self::VALUES;
        }
    };
}

/// An enum that is a label, as the second of two.
pub trait OneOf: Labels {
    /// What the label is called.
    const LABEL: &'static str;
    /// Its values.
    const TEXTS: &'static [&'static str];
}

impl Labels for Why {
    const NAMES: &'static [&'static str] = &["reason"];

    fn count(_: usize) -> usize {
        Self::ALL.len()
    }

    fn place(self, _: usize) -> Option<usize> {
        Some(self as usize)
    }

    fn texts(_: &[String], _: usize) -> Vec<(usize, Vec<&str>)> {
        Self::ALL.iter().map(|why| (*why as usize, vec![why.name()])).collect()
    }
}

impl OneOf for Why {
    const LABEL: &'static str = "reason";
    const TEXTS: &'static [&'static str] = &{
        let mut texts = [""; Self::ALL.len()];
        let mut place = 0;
        while place < texts.len() {
            texts[place] = Self::ALL[place].name();
            place += 1;
        }
        texts
    };
}

label! {
    /// How a client speaks with the server.
    Protocol = "protocol" {
        /// The Pusher protocol, over a WebSocket.
        Pusher = "pusher",
        /// Socket.IO over a WebSocket.
        SocketIo = "socketio",
        /// Socket.IO by polling; a client that goes on to a WebSocket counts there.
        Polling = "polling",
    }
}

label! {
    /// What a channel's name says of it.
    ChannelKind = "kind" {
        /// Anybody may join.
        Public = "public",
        /// `private-…`.
        Private = "private",
        /// `private-encrypted-…`.
        Encrypted = "encrypted",
        /// `presence-…`.
        Presence = "presence",
        /// A user's own channel.
        User = "user",
    }
}

label! {
    /// Where an event comes from.
    Source = "source" {
        /// Published to Redis.
        Redis = "redis",
        /// Pusher's HTTP API.
        HttpApi = "http_api",
        /// The old server's HTTP API.
        LegacyHttpApi = "legacy_http_api",
        /// A client event.
        Client = "client",
        /// Another node.
        Node = "node",
    }
}

label! {
    /// Why a message on Redis was no event for anybody.
    IgnoredBecause = "reason" {
        /// Longer than any event may be.
        TooLong = "too_long",
        /// The channel's name is not UTF-8.
        ChannelNotUtf8 = "channel_not_utf8",
        /// No JSON object.
        NotAnObject = "not_an_object",
        /// The payload is not UTF-8.
        PayloadNotUtf8 = "payload_not_utf8",
        /// The payload looks like an event and is no JSON.
        NotJson = "not_json",
        /// No `event`.
        NoEvent = "no_event",
        /// `event` is no text.
        EventNotAString = "event_not_a_string",
        /// The frame is longer than `limits.outboundBytes`.
        OverOutbox = "over_outbound_bytes",
        /// For a user's own channel, which Redis may not publish to.
        UserChannel = "user_channel",
        /// No app is for this key prefix.
        OtherPrefix = "other_prefix",
    }
}

label! {
    /// A limit of the configuration, by its key under `limits` or in `clients[].limits`.
    Limit = "limit" {
        /// `limits.connections`.
        Connections = "connections",
        /// `clients[].limits.connections`.
        AppConnections = "clients.connections",
        /// `limits.messageBytes`.
        MessageBytes = "messageBytes",
        /// `limits.outboundBytes`.
        OutboundBytes = "outboundBytes",
        /// `limits.handshakeTimeout`.
        HandshakeTimeout = "handshakeTimeout",
        /// The longest head of a request.
        HeadBytes = "headBytes",
        /// The longest body of a request.
        BodyBytes = "bodyBytes",
        /// `limits.subscriptionsPerConnection`.
        SubscriptionsPerConnection = "subscriptionsPerConnection",
        /// The longest name of a channel.
        ChannelNameBytes = "channelNameBytes",
        /// `limits.subscribesPerSecond`.
        SubscribesPerSecond = "subscribesPerSecond",
        /// `limits.presenceJoinsPerMinute`.
        PresenceJoinsPerMinute = "presenceJoinsPerMinute",
        /// `limits.connectionsPerAddress`.
        ConnectionsPerAddress = "connectionsPerAddress",
        /// `limits.authRequestsPerSecond`.
        AuthRequestsPerSecond = "authRequestsPerSecond",
        /// `limits.userAuthenticationTimeout`.
        UserAuthenticationTimeout = "userAuthenticationTimeout",
        /// `limits.clientEventsPerSecond`.
        ClientEventsPerSecond = "clientEventsPerSecond",
        /// `limits.clientEventBytes`.
        ClientEventBytes = "clientEventBytes",
        /// `limits.presenceMembers`.
        PresenceMembers = "presenceMembers",
        /// `limits.presenceMemberBytes`.
        PresenceMemberBytes = "presenceMemberBytes",
    }
}

label! {
    /// Why a connection was refused.
    Refused = "reason" {
        /// No app has this key (4001).
        UnknownKey = "unknown_key",
        /// A version of the protocol that is not spoken here (4007).
        ProtocolVersion = "protocol_version",
        /// `limits.connections` (4100).
        OverCapacity = "over_capacity",
        /// `clients[].limits.connections` (4100).
        AppOverCapacity = "app_over_capacity",
        /// `limits.connectionsPerAddress` (4100, 503, or dropped before a handshake).
        AddressOverCapacity = "address_over_capacity",
        /// A trusted proxy sent no PROXY protocol header, or a broken one.
        NoProxyHeader = "no_proxy_header",
        /// No WebSocket handshake (400, 426).
        NoWebSocket = "no_websocket",
        /// TLS failed or was not spoken.
        Tls = "tls",
        /// No request in time, or none that is HTTP.
        NoRequest = "no_request",
        /// More sockets are open without a handshake than there may be.
        TooManyOpen = "too_many_open",
        /// The server stops.
        Stopping = "stopping",
    }
}

label! {
    /// The code with which a WebSocket was closed.
    Closed = "code" {
        /// The client closed it.
        Normal = "1000",
        /// The page was left.
        GoingAway = "1001",
        /// What the client sent is no WebSocket.
        Violation = "1002",
        /// The client sent binary data.
        Binary = "1003",
        /// The connection was lost: no close frame came or went.
        Lost = "1006",
        /// Text that is not UTF-8.
        NotUtf8 = "1007",
        /// A message longer than `limits.messageBytes`.
        TooLong = "1009",
        /// The server stops or starts again.
        Restart = "1012",
        /// A signin that is not valid, or a user whom the application has ended.
        Unauthorized = "4009",
        /// Reads too slowly, or sends what makes no sense.
        OverCapacity = "4100",
        /// The client goes to another node.
        Reconnect = "4200",
        /// No answer to a ping.
        NoPong = "4201",
        /// Any other.
        Other = "other",
    }
}

impl From<u16> for Closed {
    fn from(code: u16) -> Self {
        match code {
            1000 => Self::Normal,
            1001 => Self::GoingAway,
            1002 => Self::Violation,
            1003 => Self::Binary,
            1006 => Self::Lost,
            1007 => Self::NotUtf8,
            1009 => Self::TooLong,
            1012 => Self::Restart,
            4009 => Self::Unauthorized,
            4100 => Self::OverCapacity,
            4200 => Self::Reconnect,
            4201 => Self::NoPong,
            _ => Self::Other,
        }
    }
}

label! {
    /// What Laravel said to a question whether somebody may join.
    Answered = "result" {
        /// Yes.
        Yes = "yes",
        /// A redirect, mostly to a login page.
        Redirected = "redirected",
        /// 401.
        Unauthenticated = "401",
        /// 403.
        Forbidden = "403",
        /// 404.
        NotFound = "404",
        /// 419.
        PageExpired = "419",
        /// 429.
        TooManyRequests = "429",
        /// 500 to 599.
        ServerError = "5xx",
        /// Any other status.
        OtherStatus = "other_status",
        /// A 200 whose body is no yes.
        NotAYes = "not_a_yes",
        /// No answer in time.
        Timeout = "timeout",
        /// No connection, or one that broke off.
        Unreachable = "unreachable",
        /// More questions waited than may, or too long.
        Busy = "busy",
    }
}

label! {
    /// Who asked Laravel.
    Way = "way" {
        /// This server, for a subscription without a signature.
        Callback = "callback",
        /// The browser, through this server.
        Gateway = "gateway",
    }
}

label! {
    /// What a request over HTTP was for.
    Route = "route" {
        /// The HTTP API, Pusher's or the old server's.
        Api = "api",
        /// The authEndpoint.
        Gateway = "gateway",
        /// Socket.IO's polling.
        Polling = "polling",
        /// What goes to the application.
        Proxy = "proxy",
        /// `/`, `/health`, `/ready`, `/metrics`, the dashboard.
        Operations = "operations",
        /// Nothing is there.
        NotFound = "not_found",
    }
}

label! {
    /// The first digit of a status.
    StatusClass = "status" {
        /// 100 to 199.
        Informational = "1xx",
        /// 200 to 299.
        Success = "2xx",
        /// 300 to 399.
        Redirection = "3xx",
        /// 400 to 499.
        ClientError = "4xx",
        /// 500 to 599.
        ServerError = "5xx",
    }
}

impl From<u16> for StatusClass {
    fn from(status: u16) -> Self {
        match status / 100 {
            1 => Self::Informational,
            2 => Self::Success,
            3 => Self::Redirection,
            4 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

impl<A: Labels, B: OneOf> Labels for (A, B)
where
    A: First,
{
    const NAMES: &'static [&'static str] = &[A::LABEL, B::LABEL];

    fn count(apps: usize) -> usize {
        A::count(apps) * B::TEXTS.len()
    }

    fn place(self, apps: usize) -> Option<usize> {
        Some(self.0.place(apps)? * B::TEXTS.len() + self.1.place(apps)?)
    }

    fn texts(apps: &[String], room: usize) -> Vec<(usize, Vec<&str>)> {
        let firsts = A::texts(apps, room).into_iter();
        firsts
            .flat_map(|(place, first)| {
                B::TEXTS.iter().enumerate().map(move |(second, text)| {
                    let texts = first.iter().copied().chain([*text]).collect();
                    (place * B::TEXTS.len() + second, texts)
                })
            })
            .collect()
    }
}

/// A label that may be the first of two.
pub trait First: Labels {
    /// What it is called.
    const LABEL: &'static str;
}

impl First for App {
    const LABEL: &'static str = "app";
}

impl<T: OneOf> First for T {
    const LABEL: &'static str = T::LABEL;
}

impl From<session::Limit> for Limit {
    fn from(limit: session::Limit) -> Self {
        match limit {
            session::Limit::Subscriptions => Self::SubscriptionsPerConnection,
            session::Limit::Subscribes => Self::SubscribesPerSecond,
            session::Limit::PresenceJoins => Self::PresenceJoinsPerMinute,
            session::Limit::ChannelName => Self::ChannelNameBytes,
            session::Limit::PresenceMember => Self::PresenceMemberBytes,
            session::Limit::PresenceMembers => Self::PresenceMembers,
            session::Limit::ClientEvents => Self::ClientEventsPerSecond,
            session::Limit::ClientEvent => Self::ClientEventBytes,
            session::Limit::UserAuthentication => Self::UserAuthenticationTimeout,
        }
    }
}
