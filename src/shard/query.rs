//! What a shard answers when it is asked about channels ([`Control::Query`](crate::inbox::Control)):
//! the subscribers that are its own, and the members of the presence channels whose home it is.

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
                let homes = self.homes.iter().filter(|((of, name), _)| *of == app && is_meant(name));
                for ((_, name), members) in homes {
                    found.channels.entry(name.clone()).or_default().users = members.len();
                }
            }
            Query::Channels(names) => {
                for name in names.iter() {
                    let subscriptions = self.channels.count(app, name);
                    let users = self.homes.get(&(app, name.clone())).map_or(0, Members::len);
                    found.channels.insert(name.clone(), Counts { subscriptions, users });
                }
            }
            Query::Members(name) => {
                let members = self.homes.get(&(app, name.clone()));
                found.members = members.into_iter().flat_map(Members::members).collect();
            }
        }
        found
    }
}
