//! Which channels are occupied, on all nodes, and who is in a presence channel.

use std::cmp::Reverse;

use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Parameters, Refusal, matches};
use crate::http::Front;
use crate::inbox::{AppIndex, Found, Query};
use crate::protocol::channel::{Access, ChannelName};

/// Rows of an answer, where the request names no number.
const ROWS: usize = 100;

/// Rows of an answer at most.
const ROWS_MAX: usize = 1000;

/// `GET /api/channels`: the channels that have subscribers or members, those with the most first.
#[derive(Serialize)]
pub(super) struct Channels {
    /// All that `filter` means, also those that are not listed.
    total: Totals,
    channels: Vec<Channel>,
}

#[derive(Default, Serialize)]
struct Totals {
    channels: usize,
    subscriptions: usize,
    /// Members of presence channels, in each channel once.
    members: usize,
    public: usize,
    private: usize,
    presence: usize,
    user: usize,
}

#[derive(Serialize)]
struct Channel {
    app: String,
    name: String,
    /// `public`, `private`, `presence` or `user`: who may join.
    access: &'static str,
    is_encrypted: bool,
    is_cache: bool,
    subscriptions: usize,
    /// Of a presence channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    users: Option<usize>,
}

/// Parameters: `app`, `filter` (a part of the name, or a pattern with `*`), `limit`.
pub(super) async fn list(front: &Front, parameters: &Parameters) -> Result<Channels, Refusal> {
    let filter = parameters.get("filter").unwrap_or_default();
    let limit = parameters.get("limit").map_or(Ok(ROWS), str::parse);
    let limit = limit.map_err(|_| bad_request("limit must be a number of rows"))?.min(ROWS_MAX);
    // What stands before the first star need not be told by shards and nodes.
    let prefix = filter.split_once('*').map_or("", |(prefix, _)| prefix);
    let (mut total, mut channels) = (Totals::default(), Vec::new());
    for app in parameters.apps(front)? {
        let found = ask(front, app, Query::Prefix(prefix.into())).await?;
        let id = &front.config.apps[usize::from(app.0)].id;
        for (name, counts) in found.channels {
            if (counts.subscriptions, counts.users) == (0, 0) || !matches(filter, name.as_str()) {
                continue;
            }
            let access = name.access();
            total.channels += 1;
            total.subscriptions += counts.subscriptions;
            total.members += counts.users;
            *match access {
                Access::Public => &mut total.public,
                Access::Private => &mut total.private,
                Access::Presence => &mut total.presence,
                Access::User => &mut total.user,
            } += 1;
            channels.push((Reverse(counts.subscriptions), name, counts.users, id));
        }
    }
    // Only those that are shown have to be in order.
    if channels.len() > limit && limit > 0 {
        channels.select_nth_unstable_by(limit - 1, |a, b| (&a.0, a.1.as_str()).cmp(&(&b.0, b.1.as_str())));
    }
    channels.truncate(limit);
    channels.sort_unstable_by(|a, b| (&a.0, a.1.as_str(), a.3).cmp(&(&b.0, b.1.as_str(), b.3)));
    let channels = channels.into_iter().map(|(Reverse(subscriptions), name, users, app)| Channel {
        app: app.clone(),
        access: access(&name),
        is_encrypted: name.is_encrypted(),
        is_cache: name.is_cache(),
        subscriptions,
        users: (name.access() == Access::Presence).then_some(users),
        name: name.to_string(),
    });
    Ok(Channels { total, channels: channels.collect() })
}

/// `GET /api/users`: who is in a presence channel.
#[derive(Serialize)]
pub(super) struct Users {
    app: String,
    channel: String,
    subscriptions: usize,
    total: usize,
    /// Each as Laravel has described it; `ROWS_MAX` at most.
    users: Vec<Box<RawValue>>,
}

/// Parameters: `channel`, `app`.
pub(super) async fn users(front: &Front, parameters: &Parameters) -> Result<Users, Refusal> {
    let name = parameters.get("channel").ok_or_else(|| bad_request("name a presence channel: ?channel=presence-…"))?;
    let channel = ChannelName::parse(name).map_err(|error| bad_request(error.to_string()))?;
    if channel.access() != Access::Presence {
        return Err(bad_request(format!(
            "only presence channels have users, and {channel} is none: their names have \"presence-\" in them"
        )));
    }
    let app = parameters.one_app(front)?;
    let counts = ask(front, app, Query::Channels([channel.clone()].into())).await?;
    let members = ask(front, app, Query::Members(channel.clone())).await?.members;
    let total = members.len();
    let users = members.iter().take(ROWS_MAX).filter_map(|member| RawValue::from_string(member.to_json()).ok());
    Ok(Users {
        app: front.config.apps[usize::from(app.0)].id.clone(),
        subscriptions: counts.channels.get(&channel).map_or(0, |counts| counts.subscriptions),
        channel: channel.to_string(),
        total,
        users: users.collect(),
    })
}

fn access(name: &ChannelName) -> &'static str {
    match name.access() {
        Access::Public => "public",
        Access::Private => "private",
        Access::Presence => "presence",
        Access::User => "user",
    }
}

async fn ask(front: &Front, app: AppIndex, query: Query) -> Result<Found, Refusal> {
    let found = front.everybody.ask(app, query).await;
    found.map_err(|busy| Refusal(StatusCode::SERVICE_UNAVAILABLE, busy.to_string()))
}

fn bad_request(error: impl Into<String>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, error.into())
}
