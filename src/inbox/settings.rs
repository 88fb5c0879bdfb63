//! What shards go by, of the configuration. It is changed by [`Control::Settings`](super::Control), a whole
//! one for a whole one: a shard looks at its own copy, and nobody locks anything.

use std::time::Duration;

use crate::config::{App, Config};
use crate::protocol::engineio::Timing;
use crate::protocol::session::Rules;

/// One shard's settings. What is there for each app is in the order of [`Config::apps`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// For each app.
    pub rules: Vec<Rules>,
    /// For each app: it is no longer in the configuration, and its connections are closed.
    pub removed: Vec<bool>,
    /// See `limits.messageBytes`.
    pub message_bytes_max: usize,
    /// See `limits.outboundBytes`.
    pub outbound_bytes_max: usize,
    /// See `socketio.pingInterval` and `socketio.pingTimeout`.
    pub socketio: Timing,
    /// For each app; see `limits.presenceMembers`.
    pub presence_members_max: Vec<usize>,
    /// See `limits.cacheSeconds`.
    pub cache_time: Duration,
    /// A shard's part of `limits.cacheBytes`.
    pub cache_bytes_max: usize,
    /// For each app; see `clients[].subscriptionCount`.
    pub subscription_counts: Vec<bool>,
}

impl Settings {
    /// As the configuration says.
    pub fn of(config: &Config) -> Self {
        let apps = &config.apps;
        Self {
            rules: apps.iter().map(|app| rules(app, config)).collect(),
            removed: apps.iter().map(|app| app.is_removed).collect(),
            message_bytes_max: config.limits.message_bytes,
            outbound_bytes_max: config.limits.outbound_bytes,
            socketio: Timing {
                ping_interval: config.socketio.ping_interval.as_millis() as u64,
                ping_timeout: config.socketio.ping_timeout.as_millis() as u64,
            },
            presence_members_max: apps.iter().map(|app| app.limits.presence_members).collect(),
            cache_time: config.limits.cache_time,
            cache_bytes_max: config.limits.cache_bytes / config.shards,
            subscription_counts: apps.iter().map(|app| app.subscription_count).collect(),
        }
    }
}

fn rules(app: &App, config: &Config) -> Rules {
    Rules {
        app_key: app.key.clone(),
        secret: app.secret.expose().to_owned(),
        previous_secrets: app.previous_secrets.iter().map(|secret| secret.expose().to_owned()).collect(),
        subscribes_per_second: app
            .limits
            .subscribes_per_second
            .unwrap_or(u32::try_from(app.limits.subscriptions_per_connection).unwrap_or(u32::MAX)),
        presence_joins_per_minute: app.limits.presence_joins_per_minute,
        channel_name_bytes_max: app.limits.channel_name_bytes,
        subscriptions_max: app.limits.subscriptions_per_connection,
        client_events_per_second: app.limits.client_events_per_second,
        client_event_bytes_max: app.limits.client_event_bytes,
        presence_member_bytes_max: app.limits.presence_member_bytes,
        user_authentication_timeout: app.limits.user_authentication_timeout.map(|timeout| timeout.as_millis() as u64),
        activity_timeout: app.limits.activity_timeout.as_millis() as u64,
        pong_timeout: app.limits.pong_timeout.as_millis() as u64,
        reauthorize_after: config.auth.reauthorize_after.map(|after| after.as_millis() as u64),
    }
}
