//! Who is signed in, and who is told of it (watchlists, protocol section 2).
//!
//! A user is online as long as one connection on any shard is signed in as that user. Each user has a
//! *home* shard ([`Publisher::user_home`](crate::publish::Publisher::user_home)), which is told by
//! each shard of the first and the last such connection there, and of the first and the last
//! that watches the user. It tells the watching shards what it is, through one queue in order.
//! Between shards there is so one message per change, however many connections watch; each
//! shard then compares what its watchers have been told with what is, once a second. Who goes and
//! comes back within the second has not been away.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Shard;
use crate::inbox::{AppIndex, ConnKey, Control, UserChange};
use crate::protocol::pusher;
use crate::protocol::session::Input;
use crate::ws::frame;

/// A user of an app.
type Key = (AppIndex, Arc<str>);

/// What a shard knows of users: as the home of some, and for its own connections. It is bounded by
/// these: a connection is one user and watches
/// [`WATCHLIST_MAX`](crate::protocol::user::WATCHLIST_MAX) at the most.
#[derive(Debug, Default)]
pub struct Users {
    homes: HashMap<Key, Home>,
    signed_in: HashMap<Key, Vec<ConnKey>>,
    watched: HashMap<Key, Watched>,
    watchers: HashMap<ConnKey, Watcher>,
    /// Watchers to be told of changes.
    changed: HashSet<ConnKey>,
}

/// What the home knows of a user: on which shards.
#[derive(Debug, Default)]
struct Home {
    online_on: Vec<usize>,
    watched_by: Vec<usize>,
}

/// A user whom connections of this shard watch.
#[derive(Debug, Default)]
struct Watched {
    /// What the home has said, if it has answered yet.
    is_online: Option<bool>,
    /// A set, since one user may be watched by everybody.
    watchers: HashSet<ConnKey>,
}

/// A connection with a watchlist.
#[derive(Debug)]
struct Watcher {
    app: AppIndex,
    /// Whom it watches, and what it has been told.
    users: Vec<(Arc<str>, Option<bool>)>,
    /// Of how many of them the home has not answered yet.
    unknown: usize,
}

/// What the home of a user is to be told.
type ForHome = (Arc<str>, UserChange);

impl Users {
    /// The connections of this shard that are signed in as the user.
    pub fn connections(&self, app: AppIndex, user_id: &Arc<str>) -> Vec<ConnKey> {
        self.signed_in.get(&(app, user_id.clone())).cloned().unwrap_or_default()
    }

    fn sign_in(&mut self, app: AppIndex, user_id: Arc<str>, watchlist: Vec<Arc<str>>, conn: ConnKey) -> Vec<ForHome> {
        let mut news = Vec::new();
        let connections = self.signed_in.entry((app, user_id.clone())).or_default();
        if connections.is_empty() {
            news.push((user_id, UserChange::Online));
        }
        connections.push(conn);
        if watchlist.is_empty() {
            return news;
        }
        let mut watcher = Watcher { app, users: Vec::with_capacity(watchlist.len()), unknown: 0 };
        for user_id in watchlist {
            let watched = self.watched.entry((app, user_id.clone())).or_default();
            if watched.watchers.is_empty() {
                news.push((user_id.clone(), UserChange::Watch));
            }
            watched.watchers.insert(conn);
            watcher.unknown += usize::from(watched.is_online.is_none());
            watcher.users.push((user_id, None));
        }
        self.watchers.insert(conn, watcher);
        news
    }

    fn sign_out(&mut self, app: AppIndex, user_id: &Arc<str>, conn: ConnKey) -> Vec<ForHome> {
        let mut news = Vec::new();
        let key = (app, user_id.clone());
        if let Some(connections) = self.signed_in.get_mut(&key) {
            connections.retain(|other| *other != conn);
            if connections.is_empty() {
                self.signed_in.remove(&key);
                news.push((key.1, UserChange::Offline));
            }
        }
        self.changed.remove(&conn);
        for (user_id, _) in self.watchers.remove(&conn).map(|watcher| watcher.users).unwrap_or_default() {
            let key = (app, user_id);
            let Some(watched) = self.watched.get_mut(&key) else { continue };
            watched.watchers.remove(&conn);
            if watched.watchers.is_empty() {
                self.watched.remove(&key);
                news.push((key.1, UserChange::Unwatch));
            }
        }
        news
    }

    /// As the user's home: whether the user is online on one of the first so many shards. What is behind these
    /// are other nodes.
    fn is_online_on(&self, app: AppIndex, user_id: &Arc<str>, shards: usize) -> bool {
        let home = self.homes.get(&(app, user_id.clone()));
        home.is_some_and(|home| home.online_on.iter().any(|shard| *shard < shards))
    }

    /// As the user's home: what has changed on another shard. Gives the shards that are to be told
    /// whether the user is online.
    fn changed(&mut self, app: AppIndex, user_id: Arc<str>, from: usize, change: UserChange) -> (Vec<usize>, bool) {
        let key = (app, user_id);
        let home = self.homes.entry(key.clone()).or_default();
        let was_online = !home.online_on.is_empty();
        match change {
            UserChange::Online => home.online_on.push(from),
            UserChange::Offline => home.online_on.retain(|shard| *shard != from),
            UserChange::Watch => home.watched_by.push(from),
            UserChange::Unwatch => home.watched_by.retain(|shard| *shard != from),
        }
        let is_online = !home.online_on.is_empty();
        let told = match change {
            UserChange::Watch => vec![from],
            _ if is_online != was_online => home.watched_by.clone(),
            _ => Vec::new(),
        };
        if home.online_on.is_empty() && home.watched_by.is_empty() {
            self.homes.remove(&key);
        }
        (told, is_online)
    }

    /// What the home says of a user. Gives the watchers that have just got their last answer, and
    /// can be told of all; the others hear of it with [`Users::take_changed`].
    fn status(&mut self, app: AppIndex, user_id: Arc<str>, is_online: bool) -> Vec<ConnKey> {
        let mut complete = Vec::new();
        // Nobody may watch this user any more.
        let Some(watched) = self.watched.get_mut(&(app, user_id)) else { return complete };
        let is_answer = watched.is_online.replace(is_online).is_none();
        for conn in &watched.watchers {
            let Some(watcher) = self.watchers.get_mut(conn) else { continue };
            if is_answer {
                watcher.unknown -= 1;
                if watcher.unknown == 0 {
                    complete.push(*conn);
                }
            } else if watcher.unknown == 0 {
                self.changed.insert(*conn);
            }
        }
        complete
    }

    fn take_changed(&mut self) -> HashSet<ConnKey> {
        std::mem::take(&mut self.changed)
    }

    /// What a watcher does not know yet, as a message; `None` while answers are missing.
    fn news(&mut self, conn: ConnKey) -> Option<String> {
        let watcher = self.watchers.get_mut(&conn).filter(|watcher| watcher.unknown == 0)?;
        let (mut online, mut offline) = (Vec::new(), Vec::new());
        for (user_id, told) in &mut watcher.users {
            let is_online = self.watched.get(&(watcher.app, user_id.clone())).and_then(|watched| watched.is_online);
            if *told != is_online {
                *told = is_online;
                if is_online == Some(true) { &mut online } else { &mut offline }.push(&**user_id);
            }
        }
        (!online.is_empty() || !offline.is_empty()).then(|| pusher::watchlist_events(&online, &offline))
    }
}

impl Shard {
    pub(super) fn sign_in(&mut self, app: AppIndex, user_id: Arc<str>, watchlist: Vec<Arc<str>>, conn: ConnKey) {
        let news = self.users.sign_in(app, user_id, watchlist, conn);
        self.tell_homes(app, news);
        // If others watch all of them already, no answer is waited for.
        self.tell_watcher(conn);
    }

    pub(super) fn sign_out(&mut self, app: AppIndex, user_id: &Arc<str>, conn: ConnKey) {
        let news = self.users.sign_out(app, user_id, conn);
        self.tell_homes(app, news);
    }

    fn tell_homes(&self, app: AppIndex, news: Vec<ForHome>) {
        for (user_id, change) in news {
            let home = self.context.publisher.user_home(app, &user_id);
            home.tell(Control::User { app, user_id, from: self.index, change });
        }
    }

    pub(super) fn user_changed(&mut self, app: AppIndex, user_id: Arc<str>, from: usize, change: UserChange) {
        // As in presence channels: who is closed because the server stops comes back.
        if self.stopping.is_some() && change == UserChange::Offline && from < self.context.publisher.shards().len() {
            return;
        }
        let is_here = |users: &Users| users.is_online_on(app, &user_id, self.context.publisher.shards().len());
        let was_here = is_here(&self.users);
        let was_online = self.users.is_online_on(app, &user_id, usize::MAX);
        let (shards, is_online) = self.users.changed(app, user_id.clone(), from, change);
        if is_here(&self.users) != was_here {
            self.context.publisher.bus().online(app, &user_id, !was_here);
        }
        self.measure.users_online.change(app.into(), i64::from(is_online) - i64::from(was_online));
        for shard in shards {
            let user_id = user_id.clone();
            self.context.publisher.shards()[shard].tell(Control::UserStatus { app, user_id, is_online });
        }
    }

    pub(super) fn user_status(&mut self, app: AppIndex, user_id: Arc<str>, is_online: bool) {
        for conn in self.users.status(app, user_id, is_online) {
            self.tell_watcher(conn);
        }
    }

    pub(super) fn tell_watchers_of_changes(&mut self) {
        for conn in self.users.take_changed() {
            self.tell_watcher(conn);
        }
    }

    fn tell_watcher(&mut self, conn: ConnKey) {
        if let Some(text) = self.users.news(conn) {
            self.send(conn.slot, frame::encode_text(&text));
        }
    }

    pub(super) fn terminate(&mut self, app: AppIndex, user_id: &Arc<str>) {
        for conn in self.users.connections(app, user_id) {
            self.input(conn, Input::Terminated);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet, VecDeque};

    const APP: AppIndex = AppIndex(0);

    fn id(n: u8) -> Arc<str> {
        n.to_string().into()
    }

    fn conn(slot: u32) -> ConnKey {
        ConnKey { slot, generation: 1 }
    }

    /// Shards whose messages wait, each in its own queue, until the test lets them through.
    struct World {
        shards: Vec<Users>,
        queues: Vec<VecDeque<Control>>,
        /// What each watcher has been told, by shard and connection.
        told: BTreeMap<(usize, u32), BTreeMap<String, bool>>,
    }

    impl World {
        fn new(shards: usize) -> Self {
            let empty = || (Users::default(), VecDeque::new());
            let (shards, queues) = (0..shards).map(|_| empty()).unzip();
            Self { shards, queues, told: BTreeMap::new() }
        }

        fn tell_homes(&mut self, from: usize, news: Vec<ForHome>) {
            for (user_id, change) in news {
                let home = usize::from(user_id.as_bytes()[0]) % self.shards.len();
                self.queues[home].push_back(Control::User { app: APP, user_id, from, change });
            }
        }

        fn hear(&mut self, shard: usize, watcher: ConnKey) {
            let Some(text) = self.shards[shard].news(watcher) else { return };
            let message: serde_json::Value = serde_json::from_str(&text).unwrap();
            let data: serde_json::Value = serde_json::from_str(message["data"].as_str().unwrap()).unwrap();
            let told = self.told.entry((shard, watcher.slot)).or_default();
            for event in data["events"].as_array().unwrap() {
                let is_online = event["name"] == "online";
                for user_id in event["user_ids"].as_array().unwrap() {
                    let before = told.insert(user_id.as_str().unwrap().to_owned(), is_online);
                    assert_ne!(before, Some(is_online), "nobody is told the same twice: {text}");
                }
            }
        }

        fn sign_in(&mut self, shard: usize, slot: u32, user: u8, watchlist: &[u8]) {
            let watchlist = watchlist.iter().map(|n| id(*n)).collect();
            let news = self.shards[shard].sign_in(APP, id(user), watchlist, conn(slot));
            self.tell_homes(shard, news);
            self.hear(shard, conn(slot));
        }

        fn sign_out(&mut self, shard: usize, slot: u32, user: u8) {
            let news = self.shards[shard].sign_out(APP, &id(user), conn(slot));
            self.tell_homes(shard, news);
            self.told.remove(&(shard, slot));
        }

        fn step(&mut self, shard: usize) -> bool {
            match self.queues[shard].pop_front() {
                Some(Control::User { app, user_id, from, change }) => {
                    let (told, is_online) = self.shards[shard].changed(app, user_id.clone(), from, change);
                    for shard in told {
                        let user_id = user_id.clone();
                        self.queues[shard].push_back(Control::UserStatus { app, user_id, is_online });
                    }
                }
                Some(Control::UserStatus { app, user_id, is_online }) => {
                    for conn in self.shards[shard].status(app, user_id, is_online) {
                        self.hear(shard, conn);
                    }
                }
                _ => return false,
            }
            true
        }

        fn settle(&mut self) {
            while (0..self.shards.len()).any(|shard| self.step(shard)) {}
            for shard in 0..self.shards.len() {
                for conn in self.shards[shard].take_changed() {
                    self.hear(shard, conn);
                }
            }
        }
    }

    fn told(of: &[(&str, bool)]) -> BTreeMap<String, bool> {
        of.iter().map(|(user_id, is_online)| ((*user_id).to_owned(), *is_online)).collect()
    }

    #[test]
    fn a_user_is_online_from_the_first_connection_to_the_last_on_any_shard() {
        let mut world = World::new(2);
        world.sign_in(0, 0, 1, &[2, 3]);
        assert!(world.told.is_empty(), "nothing is told before all is known");
        world.settle();
        assert_eq!(world.told[&(0, 0)], told(&[("2", false), ("3", false)]));
        world.sign_in(0, 1, 2, &[]);
        world.sign_in(1, 0, 2, &[]);
        world.settle();
        assert_eq!(world.told[&(0, 0)], told(&[("2", true), ("3", false)]));
        world.sign_out(0, 1, 2);
        world.settle();
        assert!(world.told[&(0, 0)]["2"], "online on the other shard");
        world.sign_out(1, 0, 2);
        world.settle();
        assert!(!world.told[&(0, 0)]["2"]);
        // A second watcher of the same users waits for nobody.
        world.sign_in(0, 5, 4, &[2, 3]);
        assert_eq!(world.told[&(0, 5)], told(&[("2", false), ("3", false)]));
    }

    #[test]
    fn who_comes_back_before_the_watchers_are_told_has_not_been_away() {
        let mut world = World::new(1);
        world.sign_in(0, 0, 1, &[2]);
        world.sign_in(0, 1, 2, &[]);
        world.settle();
        world.sign_out(0, 1, 2);
        while world.step(0) {}
        world.sign_in(0, 2, 2, &[]);
        world.settle();
        assert_eq!(world.shards[0].news(conn(0)), None);
        assert_eq!(world.told[&(0, 0)], told(&[("2", true)]));
    }

    /// One user's connections on both shards of a process, and another's.
    #[tokio::test]
    async fn the_application_ends_a_users_connections_on_every_shard() {
        use crate::protocol::signature;
        use crate::shard::test::{Client, start};
        let publisher = start(2);
        let mut clients = Vec::new();
        for (shard, user) in [(0, "7"), (0, "8"), (1, "7"), (1, "9"), (0, "7")] {
            let mut client = Client::connect(&publisher, shard).await;
            let user_data = format!(r#"{{"id":"{user}"}}"#);
            let hex = signature::sign("secret", &signature::user_text(client.socket_id, &user_data));
            let data = serde_json::json!({"auth": format!("key:{hex}"), "user_data": user_data});
            client.say(&serde_json::json!({"event": "pusher:signin", "data": data}).to_string()).await;
            assert!(client.hears().await.contains("signin_success"));
            clients.push((user, client));
        }
        publisher.terminate(AppIndex(1), "7");
        publisher.terminate(APP, "7");
        for (user, client) in &mut clients {
            if *user == "7" {
                assert!(client.hears().await.contains(r#""code":4009"#));
                assert_eq!(client.closed().await, 4009);
            } else {
                client.say(r#"{"event":"pusher:ping","data":{}}"#).await;
                assert_eq!(client.hears().await, pusher::PONG);
            }
        }
    }

    proptest! {
        /// However sign-ins, ends and messages between shards fall: at last each watcher has been
        /// told what is, and when all have gone nothing is left.
        #[test]
        fn watchers_know_what_is(steps in prop::collection::vec((0usize..3, 0u32..4, 1u8..5, prop::collection::btree_set(1u8..5, 0..4), 0usize..4), 0..60)) {
            let mut world = World::new(3);
            let mut signed_in: BTreeMap<(usize, u32), (u8, BTreeSet<u8>)> = BTreeMap::new();
            for (shard, slot, user, watchlist, passed_on) in steps {
                match signed_in.remove(&(shard, slot)) {
                    Some((user, _)) => world.sign_out(shard, slot, user),
                    None => {
                        world.sign_in(shard, slot, user, &watchlist.iter().copied().collect::<Vec<_>>());
                        signed_in.insert((shard, slot), (user, watchlist));
                    }
                }
                for _ in 0..passed_on {
                    world.step(passed_on % 3);
                }
            }
            world.settle();
            for (place, (_, watchlist)) in &signed_in {
                let is = |user: &u8| (user.to_string(), signed_in.values().any(|(other, _)| other == user));
                let expected: BTreeMap<String, bool> = watchlist.iter().map(is).collect();
                prop_assert_eq!(world.told.get(place).cloned().unwrap_or_default(), expected);
            }
            for ((shard, slot), (user, _)) in signed_in {
                world.sign_out(shard, slot, user);
            }
            world.settle();
            for users in &world.shards {
                prop_assert!(users.homes.is_empty() && users.signed_in.is_empty());
                prop_assert!(users.watched.is_empty() && users.watchers.is_empty() && users.changed.is_empty());
            }
        }
    }
}
