//! Users in channels, of one node, with digests by which two nodes notice that they do not know
//! the same.
//!
//! A bucket's digest is the sum of a hash of each of its users: in whatever order they came, the same
//! users give the same sum, and each change costs one addition. Where two sums differ, one bucket
//! is sent anew, not all.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::message::Change;
use crate::config::{App, Redis};

/// How many buckets there are; a set of them is a `u64`.
pub const BUCKETS: usize = 64;

/// Something for each bucket.
pub type Buckets = [u64; BUCKETS];

/// An app, the same on every node that serves it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tag(pub u64);

impl Tag {
    /// Of what tells apps apart on one Redis.
    pub fn of(app: &App, redis: &Redis) -> Self {
        let prefix = app.key_prefix.as_ref().or(redis.key_prefix.as_ref());
        // The app of a file without clients, for Socket.IO, has a key that each process makes for itself.
        let key = if app.id.is_empty() { "" } else { &app.key };
        Self(hash(&[&app.id, key, prefix.map_or("", |prefix| prefix)]))
    }
}

/// The channel of an app. The name is empty for the users that are signed in.
pub type Place = (Tag, Arc<str>);

/// The users of a channel, each with the info.
type Users = HashMap<Arc<str>, Arc<str>>;

/// The users of a node.
#[derive(Clone, Debug)]
pub struct Held {
    buckets: Vec<HashMap<Place, Users>>,
    digests: Buckets,
    count: usize,
}

/// What has changed: where, who, and with which info, if not gone.
pub type Changed = (Place, Arc<str>, Option<Arc<str>>);

impl Default for Held {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| HashMap::new()).collect(), digests: [0; BUCKETS], count: 0 }
    }
}

impl Held {
    /// Of each bucket.
    pub fn digests(&self) -> &Buckets {
        &self.digests
    }

    /// Users in channels, in all.
    pub fn count(&self) -> usize {
        self.count
    }

    /// A user is there, with this info, or gone. False: that was known.
    pub fn set(&mut self, place: &Place, user_id: &Arc<str>, info: Option<&Arc<str>>) -> bool {
        let bucket = bucket(place);
        let of = |info: &str| digest(place, user_id, info);
        let digest = &mut self.digests[bucket];
        let channels = &mut self.buckets[bucket];
        match info {
            Some(info) => {
                let users = channels.entry(place.clone()).or_default();
                match users.insert(user_id.clone(), info.clone()) {
                    Some(before) if before == *info => return false,
                    Some(before) => *digest = digest.wrapping_sub(of(&before)),
                    None => self.count += 1,
                }
                *digest = digest.wrapping_add(of(info));
            }
            None => {
                let Entry::Occupied(mut users) = channels.entry(place.clone()) else { return false };
                let Some(before) = users.get_mut().remove(user_id) else { return false };
                if users.get().is_empty() {
                    users.remove();
                }
                self.count -= 1;
                *digest = digest.wrapping_sub(of(&before));
            }
        }
        true
    }

    /// Takes what another has changed; gives what is new here.
    pub fn apply(&mut self, changes: &[Change<'_>]) -> Vec<Changed> {
        let own = changes.iter().map(|change| {
            ((change.app, Arc::from(change.channel)), Arc::from(change.user_id), change.info.map(Arc::from))
        });
        own.filter(|(place, user_id, info)| self.set(place, user_id, info.as_ref())).collect()
    }

    /// Makes a bucket the same as in `new`; gives what has changed, who has gone first.
    pub fn replace(&mut self, bucket: usize, new: &Held) -> Vec<Changed> {
        let mut changes = Vec::new();
        for (place, users) in &self.buckets[bucket] {
            let still = new.buckets[bucket].get(place);
            let gone = users.keys().filter(|user_id| !still.is_some_and(|users| users.contains_key(*user_id)));
            changes.extend(gone.map(|user_id| (place.clone(), user_id.clone(), None)));
        }
        for (place, users) in &new.buckets[bucket] {
            let known = self.buckets[bucket].get(place);
            let news =
                users.iter().filter(|(user_id, info)| known.and_then(|users| users.get(*user_id)) != Some(*info));
            changes.extend(news.map(|(user_id, info)| (place.clone(), user_id.clone(), Some(info.clone()))));
        }
        for (place, user_id, info) in &changes {
            self.set(place, user_id, info.as_ref());
        }
        changes
    }

    /// Everybody of a bucket.
    pub fn bucket(&self, bucket: usize) -> impl Iterator<Item = Change<'_>> {
        self.buckets[bucket].iter().flat_map(|((app, channel), users)| {
            users.iter().map(|(user_id, info)| Change { app: *app, channel, user_id, info: Some(info) })
        })
    }

    /// Everybody in the channels of these apps.
    pub fn of_apps(&self, apps: &[Tag]) -> Vec<Changed> {
        let places = self.buckets.iter().flatten().filter(|((app, _), _)| apps.contains(app));
        places
            .flat_map(|(place, users)| {
                users.iter().map(move |(user_id, info)| (place.clone(), user_id.clone(), Some(info.clone())))
            })
            .collect()
    }

    /// Everybody, as gone.
    pub fn into_gone(self) -> Vec<Changed> {
        let places = self.buckets.into_iter().flatten();
        places.flat_map(|(place, users)| users.into_keys().map(move |user| (place.clone(), user, None))).collect()
    }

    /// The buckets that differ.
    pub fn differing(&self, digests: &Buckets) -> u64 {
        let differing = self.digests.iter().zip(digests).enumerate().filter(|(_, (own, other))| own != other);
        differing.fold(0, |set, (bucket, _)| set | 1 << bucket)
    }
}

/// A channel's users are in one bucket.
fn bucket((app, channel): &Place) -> usize {
    hash(&[&app.0.to_string(), channel]) as usize % BUCKETS
}

fn digest((app, channel): &Place, user_id: &str, info: &str) -> u64 {
    hash(&[&app.0.to_string(), channel, user_id, info])
}

/// The same on every machine and in every version.
fn hash(texts: &[&str]) -> u64 {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finalize()[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;
    use proptest::prelude::*;

    fn held(users: &[(u8, u8, u8)]) -> Held {
        let mut held = Held::default();
        for (channel, user, info) in users {
            held.set(&place(*channel), &user.to_string().into(), Some(&info.to_string().into()));
        }
        held
    }

    fn place(channel: u8) -> Place {
        (Tag(1), channel.to_string().into())
    }

    #[test]
    fn the_hash_is_the_same_everywhere() {
        // As `printf '\1\0\0\0\0\0\0\0a' | sha256sum`, of which the first eight bytes, the lowest first.
        assert_eq!(hash(&["a"]), 0xf655_a58b_c821_61ae);
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
    }

    #[test]
    fn an_app_is_the_same_on_all_nodes_and_no_other_is() {
        let tag = |file: &str| {
            let config = Config::parse(Path::new("f.json"), file.as_bytes(), &|_| None).unwrap();
            Tag::of(&config.apps[0], &config.redis)
        };
        let app = r#"{ "clients": [ { "appId": "a", "key": "k" } ] }"#;
        assert_eq!(tag(app), tag(app), "although its secret is random");
        for other in [
            r#"{ "clients": [ { "appId": "b", "key": "k" } ] }"#,
            r#"{ "clients": [ { "appId": "a", "key": "l" } ] }"#,
            r#"{ "clients": [ { "appId": "a", "key": "k", "keyPrefix": "p" } ] }"#,
            r#"{ "clients": [ { "appId": "a", "key": "k" } ], "databaseConfig": { "redis": { "keyPrefix": "p" } } }"#,
        ] {
            assert_ne!(tag(app), tag(other), "{other}");
        }
        assert_eq!(tag("{}"), tag("{}"), "although its key is random");
    }

    proptest! {
        #[test]
        fn the_same_users_have_the_same_digests(users in prop::collection::vec((0u8..9, 0u8..4, 0u8..2), 0..30), gone in prop::collection::vec((0u8..9, 0u8..4), 0..30)) {
            let mut one = held(&users);
            for (channel, user) in &gone {
                one.set(&place(*channel), &user.to_string().into(), None);
            }
            let left: Vec<Change<'_>> = (0..BUCKETS).flat_map(|bucket| one.bucket(bucket)).collect();
            let mut other = Held::default();
            other.apply(&left);
            prop_assert_eq!(one.digests(), other.digests());
            prop_assert_eq!((one.count(), left.len()), (other.count(), other.count()));
            prop_assert_eq!(one.differing(other.digests()), 0);
        }

        #[test]
        fn the_buckets_that_differ_make_the_same(one in prop::collection::vec((0u8..9, 0u8..4, 0u8..2), 0..30), other in prop::collection::vec((0u8..9, 0u8..4, 0u8..2), 0..30)) {
            let (mut one, other) = (held(&one), held(&other));
            let differing = one.differing(other.digests());
            for bucket in (0..BUCKETS).filter(|bucket| differing & 1 << bucket != 0) {
                prop_assert!(!one.replace(bucket, &other).is_empty());
            }
            prop_assert_eq!(one.digests(), other.digests());
            prop_assert_eq!(one.clone().into_gone().len(), other.count());
        }
    }
}
