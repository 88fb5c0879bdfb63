//! What a shard answers when it is asked about channels ([`Control::Query`](crate::inbox::Control)):
//! the subscribers that are its own, and what it keeps of the channels whose home it is.

use super::Shard;
use crate::inbox::{AppIndex, Counts, Found, Query};
use crate::protocol::channel::ChannelName;
use crate::protocol::presence::Members;

impl Shard {
    pub(super) fn found(&self, app: AppIndex, query: &Query) -> Found {
        let mut found = Found::default();
        match query {
            Query::Prefix(prefix) => {
                let is_meant = |name: &ChannelName| name.as_str().starts_with(&**prefix);
                for (name, count) in self.channels.counts(app).filter(|(name, _)| is_meant(name)) {
                    found.channels.entry(name.clone()).or_default().subscriptions = count;
                }
                for (name, members) in self.homes.all_members(app).filter(|(name, _)| is_meant(name)) {
                    found.channels.entry(name.clone()).or_default().users = members.len();
                }
            }
            Query::Channels(names) => {
                for name in names.iter() {
                    let subscriptions = self.channels.count(app, name);
                    let users = self.homes.members(app, name).map_or(0, Members::len);
                    found.channels.insert(name.clone(), Counts { subscriptions, users });
                }
            }
            Query::Members(name) => {
                found.members = self.homes.members(app, name).into_iter().flat_map(Members::members).collect();
            }
            Query::Cached(name) => found.cached = self.cached(app, name),
        }
        found
    }
}
