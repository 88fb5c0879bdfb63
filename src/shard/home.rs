//! What a shard keeps as the *home* of channels ([`Publisher::home`](crate::publish::Publisher::home)):
//! the members of presence channels and the last event of cache channels.
//!
//! A joiner is answered with the list or the last event, and whatever changes afterwards comes
//! from the home, too, through the same queue. So list and changes cannot disagree, and an event is
//! either the last one of before or comes live.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::last_events::LastEvents;
use super::misses::Misses;
use super::{Context, Shard};
use crate::inbox::{AppIndex, Cached, Control, Delivery, Joiner, PresenceChanges, PresenceList, Settings};
use crate::protocol::SocketId;
use crate::protocol::channel::{Access, ChannelName};
use crate::protocol::presence::{Holder, Joined, Member, Members};
use crate::protocol::session::{Millis, Refusal};
use crate::protocol::webhook::{Event, Kind};
use crate::protocol::{pusher, socketio};
use crate::ws::frame;

/// What a shard knows as home.
#[derive(Debug)]
pub struct Homes {
    members: HashMap<(AppIndex, ChannelName), Members>,
    last_events: LastEvents,
    misses: Misses,
    /// Who wants to know of changed members, if anybody.
    changes: Option<PresenceChanges>,
    changed: HashSet<(AppIndex, ChannelName)>,
}

/// How much of presence lists is told at once, in bytes: a shard has other things to do.
const LISTS_BYTES: usize = 256 * 1024;

impl Homes {
    pub fn new(context: &Context) -> Self {
        let last_events = LastEvents::new(&context.settings);
        Self {
            members: HashMap::new(),
            last_events,
            misses: Misses::default(),
            changes: context.presence_changes.clone(),
            changed: HashSet::new(),
        }
    }

    /// The members of this channel have changed.
    fn note(&mut self, key: &(AppIndex, ChannelName)) {
        if let Some(changes) = self.changes.as_ref().filter(|changes| changes.are_wanted())
            && self.changed.insert(key.clone())
        {
            changes.tell();
        }
    }

    /// See [`Control::PresenceLists`].
    pub fn take_lists(&mut self, all: bool) -> Vec<PresenceList> {
        if all {
            self.changed = self.members.keys().cloned().collect();
        }
        let mut lists = Vec::new();
        let mut bytes = 0;
        let mut told = self.changed.extract_if(|_| true);
        while bytes < LISTS_BYTES
            && let Some(key) = told.next()
        {
            let members = self.members.get(&key).map_or_else(|| "[]".to_owned(), Members::stored);
            bytes += members.len() + key.1.as_str().len();
            lists.push(PresenceList { app: key.0, channel: key.1, members });
        }
        lists
    }

    /// The members of a presence channel whose home is here.
    pub fn members(&self, app: AppIndex, channel: &ChannelName) -> Option<&Members> {
        self.members.get(&(app, channel.clone()))
    }

    /// All presence channels of an app whose home is here.
    pub fn all_members(&self, app: AppIndex) -> impl Iterator<Item = (&ChannelName, &Members)> {
        self.members.iter().filter(move |((of, _), _)| *of == app).map(|((_, name), members)| (name, members))
    }

    /// Each member of each presence channel whose home is here.
    pub fn everybody(&self) -> impl Iterator<Item = (AppIndex, &ChannelName, Member)> {
        let all = self.members.iter();
        all.flat_map(|((app, channel), members)| members.members().map(move |member| (*app, channel, member)))
    }

    /// Keeps the events that come from now on as these say.
    pub fn change(&mut self, settings: &Settings) {
        self.last_events.change(settings);
    }

    /// Forgets the events that are too old.
    pub fn expire(&mut self, now: Millis) {
        self.last_events.expire(now);
    }
}

impl Shard {
    pub(super) fn join(&mut self, app: AppIndex, channel: ChannelName, member: Option<Member>, joiner: Joiner) {
        let Some(member) = member else { return self.list(app, &channel, joiner) };
        let limit = self.context.settings.presence_members_max[usize::from(app.0)];
        let members = self.homes.members.entry((app, channel.clone())).or_default();
        if members.len() >= limit && !members.contains(&member.user_id) {
            let error = format!("The channel has {limit} members; no more are allowed (limits.presenceMembers)");
            let refusal = Refusal::new(4100, error);
            return self.answer(joiner, Err(refusal));
        }
        let was_here = members.is_here(&member.user_id);
        let joined = members.join(joiner.socket_id, member.clone());
        if joined != Joined::Already {
            self.homes.note(&(app, channel.clone()));
        }
        self.list(app, &channel, joiner);
        if !was_here {
            let info = Some(member.to_json().into());
            self.context.publisher.bus().member(app, &channel, &member.user_id, info);
        }
        if joined == Joined::First {
            self.tell_of_added(app, &channel, &member, Some(joiner.socket_id));
        }
    }

    pub(super) fn leave(&mut self, app: AppIndex, channel: ChannelName, user_id: &Arc<str>, socket_id: SocketId) {
        // Who is closed because the server stops comes back.
        if self.stopping.is_some() {
            return;
        }
        let key = (app, channel);
        let Some(members) = self.homes.members.get_mut(&key) else { return };
        let was_here = members.is_here(user_id);
        let gone = members.leave(socket_id, user_id);
        if was_here && !members.is_here(user_id) {
            self.context.publisher.bus().member(app, &key.1, user_id, None);
        }
        if members.is_empty() {
            self.homes.members.remove(&key);
        }
        self.homes.note(&key);
        if let Some(member) = gone {
            let (app, channel) = key;
            self.tell_of_removed(app, &channel, &member);
        }
    }

    fn tell_of_added(&self, app: AppIndex, channel: &ChannelName, member: &Member, except: Option<SocketId>) {
        self.measure.presence_members.more(app.into());
        self.tell_backend_for_all(app, channel, Event::MemberAdded(&member.user_id));
        let text = pusher::member_added(channel.as_str(), member);
        let socketio = || socketio::presence_joining(channel.as_str(), member);
        self.relay(app, channel, &text, socketio, except);
    }

    fn tell_of_removed(&self, app: AppIndex, channel: &ChannelName, member: &Member) {
        self.measure.presence_members.fewer(app.into());
        self.tell_backend_for_all(app, channel, Event::MemberRemoved(&member.user_id));
        let text = pusher::member_removed(channel.as_str(), &member.user_id);
        let socketio = || socketio::presence_leaving(channel.as_str(), member);
        self.relay(app, channel, &text, socketio, None);
    }

    /// Who has come to another node or left it. Each node decides for its own subscribers whether that
    /// makes a member come or go.
    pub(super) fn changed_elsewhere(
        &mut self,
        app: AppIndex,
        channel: ChannelName,
        node: u64,
        changes: Vec<(Arc<str>, Option<Arc<str>>)>,
    ) {
        let (key, node) = ((app, channel), Holder::Node(node));
        let members = self.homes.members.entry(key.clone()).or_default();
        let mut news = Vec::new();
        for (user_id, info) in changes {
            match info.as_deref().map(Member::parse) {
                Some(Ok(member)) if members.join(node, member.clone()) == Joined::First => news.push((member, true)),
                Some(_) => {}
                None => news.extend(members.leave(node, &user_id).map(|member| (member, false))),
            }
        }
        if members.is_empty() {
            self.homes.members.remove(&key);
        }
        self.homes.note(&key);
        for (member, is_added) in news {
            match is_added {
                true => self.tell_of_added(app, &key.1, &member, None),
                false => self.tell_of_removed(app, &key.1, &member),
            }
        }
    }

    /// An event of another node. It comes through the home, so that it follows the member who has sent
    /// it, and is the last event for those who come.
    pub(super) fn pass_on(&mut self, delivery: &Delivery) {
        if delivery.channel.is_cache() {
            let key = (delivery.app, delivery.channel.clone());
            self.homes.last_events.put(key, delivery.frame.clone(), self.now());
        }
        self.context.publisher.relay_published(delivery);
    }

    /// Sends the joiner's shard `subscription_succeeded`, with the list of members where there are
    /// members, and on cache channels with the last event after it.
    pub(super) fn list(&mut self, app: AppIndex, channel: &ChannelName, joiner: Joiner) {
        if joiner.is_socketio {
            return self.list_for_socketio(app, channel, joiner);
        }
        let key = (app, channel.clone());
        let succeeded = match self.homes.members.get(&key) {
            Some(members) => pusher::presence_succeeded(channel.as_str(), &members.list()),
            // Who has left since it asked waits for no answer.
            None if channel.access() == Access::Presence => return,
            None => pusher::subscription_succeeded(channel.as_str()),
        };
        let mut answer = frame::encode_text(&succeeded);
        if channel.is_cache() {
            let last = match self.homes.last_events.get(&key, self.now()) {
                Some(event) => event,
                None => {
                    if self.context.webhooks.hears(app, Kind::CacheMiss) && self.homes.misses.is_new(&key, self.now()) {
                        self.tell_backend(app, channel, Event::CacheMiss);
                    }
                    frame::encode_text(&pusher::cache_miss(channel.as_str()))
                }
            };
            let mut both = BytesMut::with_capacity(answer.len() + last.len());
            both.put(answer);
            both.put(last);
            answer = both.freeze();
        }
        self.answer(joiner, Ok(answer));
    }

    /// The same for a Socket.IO client, which is told nothing where there is nothing to tell.
    fn list_for_socketio(&mut self, app: AppIndex, channel: &ChannelName, joiner: Joiner) {
        let key = (app, channel.clone());
        let mut answer = BytesMut::new();
        match self.homes.members.get(&key) {
            Some(members) => {
                let text = socketio::presence_subscribed(channel.as_str(), &members.newest_first());
                answer.put(frame::encode_text(&text));
            }
            None if channel.access() == Access::Presence => return,
            None => {}
        }
        let last = self.homes.last_events.get(&key, self.now());
        if let Some(text) = last.as_deref().and_then(frame::text).and_then(socketio::from_pusher) {
            answer.put(frame::encode_text(&text));
        }
        self.answer(joiner, Ok(answer.freeze()));
    }

    /// As the channel's home: the last event, for whoever asks what there is. On other shards there
    /// is none.
    pub fn cached(&self, app: AppIndex, channel: &ChannelName) -> Option<Cached> {
        let key = (app, channel.clone());
        let (event, time) = self.homes.last_events.get_with_time(&key, self.now())?;
        let data = pusher::channel_event_data(frame::text(event)?)?;
        Some(Cached { data, ttl_secs: time.div_ceil(1000) })
    }

    fn answer(&self, joiner: Joiner, outcome: Result<Bytes, Refusal>) {
        let shard = &self.context.publisher.shards()[joiner.shard];
        shard.tell(Control::Joined { conn: joiner.conn, ticket: joiner.ticket, outcome });
    }

    /// Takes the events of cache channels out of what was published: they are kept here, and go
    /// on to all shards with subscribers.
    pub(super) fn relay_published(&mut self, published: &mut Vec<Delivery>) {
        if published.is_empty() {
            return;
        }
        let now = self.now();
        published.retain(|delivery| {
            let is_cache = delivery.channel.is_cache();
            if is_cache {
                let key = (delivery.app, delivery.channel.clone());
                self.homes.last_events.put(key, delivery.frame.clone(), now);
                self.context.publisher.relay_published(delivery);
            }
            !is_cache
        });
    }
}
