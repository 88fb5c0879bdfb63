//! `limits`: bounds on what clients may do, with their defaults.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::ConfigError;
use super::file::{member, number};
use super::json::Setting;
use super::known::warn_of_unknown;
use crate::protocol::channel::NAME_BYTES_MAX;

/// Bounds on what clients may do; all from `limits` in the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Limits {
    /// `messageBytes`: the longest message a client may send.
    pub message_bytes: usize,
    /// `outboundBytes`: what may wait for a slow reader before it is closed. Events wait by reference, so readers
    /// of one channel that are slow at once share them.
    pub outbound_bytes: usize,
    /// `subscriptionsPerConnection`.
    pub subscriptions_per_connection: usize,
    /// `connections`: in all; an app's own, of that app.
    pub connections: usize,
    /// `connectionsPerAddress`: of one client's address, before and after the handshake; `None`: any number.
    pub connections_per_address: Option<usize>,
    /// `headBytes`: the longest head of a request.
    pub head_bytes: usize,
    /// `authRequestsPerSecond`: requests for leave of one address, and ten times as many at once; `None`: any number.
    pub auth_requests_per_second: Option<u32>,
    /// `subscribesPerSecond`: subscribes and signins of one connection; `None`: as many as it may have subscriptions.
    pub subscribes_per_second: Option<u32>,
    /// `presenceJoinsPerMinute`: how often one connection may come to presence channels; all members are told
    /// each time.
    pub presence_joins_per_minute: u32,
    /// `clientEventsPerSecond`: per connection.
    pub client_events_per_second: u32,
    /// `clientEventBytes`: the longest `data` of a client event.
    pub client_event_bytes: usize,
    /// `eventBytes`: the longest `data` of an event of the HTTP API.
    pub event_bytes: usize,
    /// `eventNameBytes`: the longest name of an event of the HTTP API.
    pub event_name_bytes: usize,
    /// `channelNameBytes`: the longest name of a channel.
    pub channel_name_bytes: usize,
    /// `channelsPerEvent`: how many channels one event of the HTTP API may name.
    pub channels_per_event: usize,
    /// `eventsPerBatch`: how many events one batch of the HTTP API may hold.
    pub events_per_batch: usize,
    /// `timestampWindow`: how far the time of an HTTP API request may be from this server's clock.
    pub timestamp_window: Duration,
    /// `presenceMemberBytes`: the longest `channel_data` of a presence member.
    pub presence_member_bytes: usize,
    /// `presenceMembers`: users of one presence channel.
    pub presence_members: usize,
    /// `cacheSeconds`: how long the last event of a cache channel is kept.
    pub cache_time: Duration,
    /// `cacheBytes`: what all of these events may take.
    pub cache_bytes: usize,
    /// `userAuthenticationTimeout`: how long a connection may be without saying who it is, by a
    /// signin or a private or presence channel; `None`: for ever.
    pub user_authentication_timeout: Option<Duration>,
    /// `activityTimeout`: seconds of silence after which a client is told to ping; after half as many
    /// again it is pinged.
    pub activity_timeout: Duration,
    /// `pongTimeout`: how long a pinged client may take to answer.
    pub pong_timeout: Duration,
    /// `handshakeTimeout`: how long a request's head may take to arrive.
    pub handshake_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes: 64 * 1024,
            outbound_bytes: 4 * 1024 * 1024,
            subscriptions_per_connection: 200,
            connections: 100_000,
            connections_per_address: Some(1000),
            head_bytes: 32 * 1024,
            auth_requests_per_second: Some(50),
            subscribes_per_second: None,
            presence_joins_per_minute: 120,
            client_events_per_second: 10,
            client_event_bytes: 10 * 1024,
            event_bytes: 10 * 1024,
            event_name_bytes: NAME_BYTES_MAX,
            channel_name_bytes: NAME_BYTES_MAX,
            channels_per_event: 100,
            events_per_batch: 10,
            timestamp_window: Duration::from_secs(600),
            presence_member_bytes: 2 * 1024,
            presence_members: 10_000,
            cache_time: Duration::from_secs(30 * 60),
            cache_bytes: 64 * 1024 * 1024,
            user_authentication_timeout: None,
            activity_timeout: Duration::from_secs(30),
            pong_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// `clients[].limits`, on top of those of the whole server.
pub(super) fn read_of_app(
    setting: &Setting<'_>,
    default: &Limits,
    warnings: &mut Vec<String>,
) -> Result<Limits, ConfigError> {
    // These bound a socket before its app is known, or buffers that know no apps.
    const WHOLE_SERVER: [&str; 8] = [
        "messageBytes",
        "outboundBytes",
        "handshakeTimeout",
        "headBytes",
        "connectionsPerAddress",
        "authRequestsPerSecond",
        "cacheSeconds",
        "cacheBytes",
    ];
    if let Some((name, limit)) = setting.object()?.iter().find(|(name, _)| WHOLE_SERVER.contains(&name.as_str())) {
        return Err(
            limit.error(format_args!("cannot differ from app to app; set it as \"{name}\" in the top \"limits\""))
        );
    }
    read(setting, default, warnings)
}

/// Limits of which those that are absent are as in `default`.
pub(super) fn read(setting: &Setting<'_>, default: &Limits, warnings: &mut Vec<String>) -> Result<Limits, ConfigError> {
    const BYTES: RangeInclusive<u64> = 1..=1024 * 1024 * 1024;
    // The HTTP library takes no less.
    const HEAD_BYTES: RangeInclusive<u64> = 8192..=1024 * 1024;
    const SECONDS: RangeInclusive<u64> = 1..=86_400;
    let members = setting.object()?;
    warn_of_unknown(&members, warnings);
    let bytes = |name, default: usize| {
        number(&member(&members, name), default as u64, BYTES, "of bytes").map(|bytes| bytes as usize)
    };
    let count = |name, default: usize| {
        number(&member(&members, name), default as u64, 1..=100_000_000, "").map(|count| count as usize)
    };
    let seconds = |name, default: Duration| {
        number(&member(&members, name), default.as_secs(), SECONDS, "of seconds").map(Duration::from_secs)
    };
    let timeout = member(&members, "userAuthenticationTimeout");
    let default_timeout = default.user_authentication_timeout.map_or(0, |timeout| timeout.as_secs());
    let user_authentication_timeout = number(&timeout, default_timeout, 0..=86_400, "of seconds")?;
    // Where 0 is none at all, or as many as one likes.
    let rate = |name, default: u32, unit| {
        number(&member(&members, name), default.into(), 0..=1_000_000, unit).map(|rate| rate as u32)
    };
    let or_any = |number: u32| (number > 0).then_some(number);
    let subscribes = default.subscribes_per_second.unwrap_or(0);
    let per_address = default.connections_per_address.unwrap_or(0);
    Ok(Limits {
        message_bytes: bytes("messageBytes", default.message_bytes)?,
        outbound_bytes: bytes("outboundBytes", default.outbound_bytes)?,
        subscriptions_per_connection: count("subscriptionsPerConnection", default.subscriptions_per_connection)?,
        connections: count("connections", default.connections)?,
        connections_per_address: Some(number(
            &member(&members, "connectionsPerAddress"),
            per_address as u64,
            0..=100_000_000,
            "",
        )? as usize)
        .filter(|count| *count > 0),
        head_bytes: number(&member(&members, "headBytes"), default.head_bytes as u64, HEAD_BYTES, "of bytes")? as usize,
        auth_requests_per_second: or_any(rate(
            "authRequestsPerSecond",
            default.auth_requests_per_second.unwrap_or(0),
            "of requests",
        )?),
        subscribes_per_second: or_any(rate("subscribesPerSecond", subscribes, "of subscribes")?),
        presence_joins_per_minute: rate("presenceJoinsPerMinute", default.presence_joins_per_minute, "of joins")?,
        client_events_per_second: rate("clientEventsPerSecond", default.client_events_per_second, "of client events")?,
        client_event_bytes: bytes("clientEventBytes", default.client_event_bytes)?,
        event_bytes: bytes("eventBytes", default.event_bytes)?,
        event_name_bytes: bytes("eventNameBytes", default.event_name_bytes)?,
        channel_name_bytes: number(
            &member(&members, "channelNameBytes"),
            default.channel_name_bytes as u64,
            1..=NAME_BYTES_MAX as u64,
            "of bytes",
        )? as usize,
        channels_per_event: count("channelsPerEvent", default.channels_per_event)?,
        events_per_batch: count("eventsPerBatch", default.events_per_batch)?,
        timestamp_window: seconds("timestampWindow", default.timestamp_window)?,
        presence_member_bytes: bytes("presenceMemberBytes", default.presence_member_bytes)?,
        presence_members: count("presenceMembers", default.presence_members)?,
        cache_time: seconds("cacheSeconds", default.cache_time)?,
        cache_bytes: bytes("cacheBytes", default.cache_bytes)?,
        user_authentication_timeout: Some(user_authentication_timeout)
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs),
        activity_timeout: seconds("activityTimeout", default.activity_timeout)?,
        pong_timeout: seconds("pongTimeout", default.pong_timeout)?,
        handshake_timeout: seconds("handshakeTimeout", default.handshake_timeout)?,
    })
}
