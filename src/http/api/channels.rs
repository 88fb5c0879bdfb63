//! What a backend is told about channels and their members.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::Serialize;

use super::{Refusal, bad_request, refusal, text};
use crate::config::Limits;
use crate::http::Front;
use crate::inbox::{AppIndex, Cached, Counts, Found, Query};
use crate::protocol::channel::{Access, ChannelName, access};

/// A channel's name as a backend may say it.
///
/// # Errors
/// 400: no name that could have subscribers, or a longer one than the app allows.
pub(super) fn channel_name(name: &str, limits: &Limits) -> Result<ChannelName, Refusal> {
    let limit = limits.channel_name_bytes;
    if name.len() > limit {
        let error = format!("the channel name has {} bytes; {limit} are allowed (limits.channelNameBytes)", name.len());
        return bad_request(error);
    }
    ChannelName::parse(name).or_else(|error| bad_request(error.to_string()))
}

/// The attributes that `info` asks for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Info {
    user_count: bool,
    subscription_count: bool,
    cache: bool,
}

impl Info {
    /// Reads `user_count,subscription_count`.
    pub(super) fn parse(text: Option<&str>) -> Result<Self, Refusal> {
        let mut info = Self::default();
        for name in text.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "user_count" => info.user_count = true,
                "subscription_count" => info.subscription_count = true,
                "cache" => info.cache = true,
                _ => {
                    let name: String = name.chars().take(64).collect();
                    return bad_request(format!(
                        "info {name:?} is not known: user_count, subscription_count and cache are"
                    ));
                }
            }
        }
        Ok(info)
    }

    /// Reads what may be asked of several channels.
    pub(super) fn of_several(text: Option<&str>) -> Result<Self, Refusal> {
        match Self::parse(text)? {
            Self { cache: true, .. } => bad_request("info cache is of one channel: ask for /channels/ and its name"),
            info => Ok(info),
        }
    }

    /// Whether anything is asked for.
    pub(super) fn is_wanted(self) -> bool {
        self != Self::default()
    }

    fn of(self, channel: &str, counts: Counts) -> Attributes {
        // Only a presence channel has users: of others the attribute is left out.
        let user_count = self.user_count && access(channel) == Access::Presence;
        Attributes {
            user_count: user_count.then_some(counts.users),
            subscription_count: self.subscription_count.then_some(counts.subscriptions),
        }
    }
}

/// What is told of a channel.
#[derive(Debug, Serialize)]
pub(super) struct Attributes {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription_count: Option<usize>,
}

#[derive(Serialize)]
pub(super) struct ByName<'a> {
    channels: BTreeMap<&'a str, Attributes>,
}

/// `{"channels":{…}}`, of the channels that have been found or were asked for.
pub(super) fn by_name<'a>(channels: impl Iterator<Item = (&'a ChannelName, Info, Counts)>) -> ByName<'a> {
    let channels = channels.map(|(name, info, counts)| (name.as_str(), info.of(name.as_str(), counts)));
    ByName { channels: channels.collect() }
}

/// What each of these channels has, in their order.
pub(super) async fn attributes(
    front: &Front,
    app: AppIndex,
    wanted: &[(ChannelName, Info)],
) -> Result<Vec<Counts>, Refusal> {
    let names = wanted.iter().filter(|(_, info)| info.is_wanted()).map(|(name, _)| name.clone());
    let found = ask(front, app, Query::Channels(names.collect())).await?;
    Ok(wanted.iter().map(|(name, _)| found.channels.get(name).copied().unwrap_or_default()).collect())
}

/// One channel's attributes as an object.
pub(super) fn object(channel: &ChannelName, info: Info, counts: Counts) -> Attributes {
    info.of(channel.as_str(), counts)
}

/// `GET /apps/{id}/channels`: those that have subscribers.
pub(super) async fn list(
    front: &Front,
    app: AppIndex,
    prefix: Option<&str>,
    info: Option<&str>,
) -> Result<String, Refusal> {
    let prefix = prefix.unwrap_or_default();
    let info = Info::of_several(info)?;
    if info.user_count && access(prefix) != Access::Presence {
        return bad_request("user_count is of presence channels only: add filter_by_prefix=presence-");
    }
    let found = ask(front, app, Query::Prefix(prefix.into())).await?;
    let occupied = found.channels.iter().filter(|(_, counts)| counts.subscriptions > 0);
    text(&by_name(occupied.map(|(name, counts)| (name, info, *counts))))
}

/// `GET /apps/{id}/channels/{name}`.
pub(super) async fn one(
    front: &Front,
    app: AppIndex,
    limits: &Limits,
    name: &str,
    info: Option<&str>,
) -> Result<String, Refusal> {
    #[derive(Serialize)]
    struct One {
        occupied: bool,
        #[serde(flatten)]
        attributes: Attributes,
        #[serde(skip_serializing_if = "Option::is_none")]
        cache: Option<Cache>,
    }
    /// Left out when nothing is kept.
    #[derive(Serialize)]
    struct Cache {
        data: String,
        ttl: u64,
    }
    let channel = channel_name(name, limits)?;
    let info = Info::parse(info)?;
    if info.user_count && channel.access() != Access::Presence {
        return bad_request(format!("user_count is of presence channels only, and {channel} is none"));
    }
    if info.cache && !channel.is_cache() {
        return bad_request(format!("cache is of cache channels only, and {channel} is none"));
    }
    let found = ask(front, app, Query::Channels([channel.clone()].into())).await?;
    let counts = found.channels.get(&channel).copied().unwrap_or_default();
    let cache = match info.cache {
        true => ask(front, app, Query::Cached(channel)).await?.cached,
        false => None,
    };
    let cache = cache.map(|Cached { data, ttl_secs }| Cache { data, ttl: ttl_secs });
    text(&One { occupied: counts.subscriptions > 0, attributes: info.of(name, counts), cache })
}

/// `GET /apps/{id}/channels/{name}/users`: who is in a presence channel.
pub(super) async fn users(front: &Front, app: AppIndex, limits: &Limits, name: &str) -> Result<String, Refusal> {
    #[derive(Serialize)]
    struct Users<'a> {
        users: Vec<User<'a>>,
    }
    #[derive(Serialize)]
    struct User<'a> {
        id: &'a str,
    }
    let channel = channel_name(name, limits)?;
    if channel.access() != Access::Presence {
        return bad_request(format!("only presence channels have users, and {channel} is none"));
    }
    let found = ask(front, app, Query::Members(channel)).await?;
    text(&Users { users: found.members.iter().map(|member| User { id: &member.user_id }).collect() })
}

async fn ask(front: &Front, app: AppIndex, query: Query) -> Result<Found, Refusal> {
    front.everybody.ask(app, query).await.or_else(|busy| refusal(StatusCode::SERVICE_UNAVAILABLE, busy.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let limits = Limits { channel_name_bytes: 10, ..Limits::default() };
        for good in ["a", "private-a", "abcdefghij"] {
            assert_eq!(channel_name(good, &limits).map(|name| name.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "abcdefghijk", "a b", "a\"", "#a", "#server-to-user-", "#server-to-user-é"] {
            assert_eq!(channel_name(bad, &limits).unwrap_err().status, StatusCode::BAD_REQUEST, "{bad:?}");
        }
        assert!(channel_name("#server-to-user-7", &Limits::default()).is_ok());
        assert!(channel_name(&"x".repeat(200), &Limits::default()).is_ok());
        assert!(channel_name(&"x".repeat(201), &Limits::default()).is_err());
    }

    #[test]
    fn attributes_that_are_asked_for() {
        let both = Info { user_count: true, subscription_count: true, cache: false };
        for (text, expected) in [
            (None, Info::default()),
            (Some(""), Info::default()),
            (Some("user_count,subscription_count"), both),
            (Some(" subscription_count , user_count,"), both),
            (Some("user_count"), Info { user_count: true, ..Info::default() }),
        ] {
            assert_eq!(Info::parse(text), Ok(expected), "{text:?}");
        }
        assert_eq!(Info::of_several(Some("cache")).unwrap_err().status, StatusCode::BAD_REQUEST);
        let refused = Info::parse(Some("user_count,usercount")).unwrap_err();
        assert_eq!(refused.status, StatusCode::BAD_REQUEST);
        assert!(refused.error.contains("\"usercount\""), "{}", refused.error);
    }

    #[test]
    fn a_user_count_is_of_presence_channels() {
        let both = Info { user_count: true, subscription_count: true, cache: false };
        let counts = Counts { subscriptions: 3, users: 2 };
        let (presence, public) = (ChannelName::published("presence-a"), ChannelName::published("a"));
        let all = [(&presence, both, counts), (&public, both, counts), (&presence, Info::default(), counts)];
        assert_eq!(
            text(&by_name(all[..2].iter().copied())).unwrap(),
            r#"{"channels":{"a":{"subscription_count":3},"presence-a":{"user_count":2,"subscription_count":3}}}"#
        );
        assert_eq!(text(&by_name(all[2..].iter().copied())).unwrap(), r#"{"channels":{"presence-a":{}}}"#);
        assert_eq!(text(&by_name(std::iter::empty())).unwrap(), r#"{"channels":{}}"#);
    }
}
