//! Hubs on a bus that the test is: what is published waits for each node until the test lets it through, or
//! loses it.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use proptest::prelude::*;

const APP: AppIndex = AppIndex(0);

/// What a node's clients are told of one channel: who is there, through whom.
#[derive(Default)]
struct View {
    holders: BTreeMap<String, BTreeSet<u64>>,
}

struct Node {
    hub: Hub,
    /// Its own users, as they are.
    users: BTreeSet<String>,
    view: View,
    /// What Redis has for it.
    arriving: Vec<Vec<u8>>,
    /// Its links to Redis are cut.
    is_cut: bool,
    events: Vec<String>,
    others: Vec<Effect>,
}

struct World {
    nodes: BTreeMap<u64, Node>,
    now: Millis,
}

impl World {
    fn new(count: u64) -> Self {
        let mut world = Self { nodes: BTreeMap::new(), now: 0 };
        (1..=count).for_each(|id| world.start(id));
        world.settle();
        world
    }

    fn start(&mut self, id: u64) {
        let hub = Hub::new(NodeId(id), vec![Tag(7)]);
        let (users, view, arriving) = (BTreeSet::new(), View::default(), Vec::new());
        let node = Node { hub, users, view, arriving, is_cut: false, events: Vec::new(), others: Vec::new() };
        self.nodes.insert(id, node);
        self.with(id, |hub, now, out| hub.beat(now, &[1], out));
    }

    /// Lets a hub do something, and does what it says.
    fn with<T>(&mut self, id: u64, act: impl FnOnce(&mut Hub, Millis, &mut Vec<Effect>) -> T) -> T {
        let mut out = Vec::new();
        let node = self.nodes.get_mut(&id).unwrap();
        let result = act(&mut node.hub, self.now, &mut out);
        for effect in out {
            let node = self.nodes.get_mut(&id).unwrap();
            match effect {
                Effect::Publish { message, .. } if !node.is_cut => {
                    for other in self.nodes.values_mut().filter(|other| !other.is_cut) {
                        other.arriving.push(message.clone());
                    }
                }
                Effect::Publish { .. } => {}
                Effect::Changed { node: of, changes } => {
                    for (_, user_id, info) in changes {
                        let holders = node.view.holders.entry(user_id.to_string()).or_default();
                        let is_news = if info.is_some() { holders.insert(of.0) } else { holders.remove(&of.0) };
                        assert!(is_news, "node {id} is told twice of {user_id} at {of}");
                        if holders.is_empty() {
                            node.view.holders.remove(&*user_id);
                        }
                    }
                }
                Effect::Event { text, .. } => node.events.push(text),
                other => node.others.push(other),
            }
        }
        result
    }

    fn user(&mut self, id: u64, user: &str, is_there: bool) {
        let node = self.nodes.get_mut(&id).unwrap();
        let is_news = if is_there { node.users.insert(user.into()) } else { node.users.remove(user) };
        if is_news {
            self.with(id, |hub, _, out| {
                hub.user(APP, "presence-a", user.into(), is_there.then(|| "{}".into()), out);
                hub.say_changes(out);
            });
        }
    }

    /// Delivers what has been published, until nothing is under way.
    fn settle(&mut self) {
        loop {
            let ids: Vec<u64> = self.nodes.keys().copied().collect();
            let mut was_quiet = true;
            for id in ids {
                let node = self.nodes.get_mut(&id).unwrap();
                let arriving = if node.is_cut { Vec::new() } else { std::mem::take(&mut node.arriving) };
                was_quiet &= arriving.is_empty();
                for message in arriving {
                    self.with(id, |hub, now, out| hub.hear(&message, now, &[1], out));
                }
                while self.nodes[&id].hub.owes() {
                    self.with(id, |hub, _, out| hub.pay(out));
                }
            }
            if was_quiet {
                return;
            }
        }
    }

    fn seconds(&mut self, count: u32) {
        for _ in 0..count {
            self.now += BEAT;
            let ids: Vec<u64> = self.nodes.keys().copied().collect();
            for id in ids {
                self.with(id, |hub, now, out| hub.beat(now, &[1], out));
            }
            self.settle();
        }
    }

    /// What a node's clients see of the others' users.
    fn seen(&self, id: u64) -> BTreeSet<String> {
        self.nodes[&id].view.holders.keys().cloned().collect()
    }

    fn truth(&self, but: u64) -> BTreeSet<String> {
        self.nodes.iter().filter(|(id, _)| **id != but).flat_map(|(_, node)| node.users.clone()).collect()
    }

    fn assert_true(&self) {
        for id in self.nodes.keys() {
            assert_eq!(self.seen(*id), self.truth(*id), "on node {id}");
        }
    }
}

fn users(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn nodes_find_each_other_and_know_each_others_users_at_once() {
    let mut world = World::new(2);
    world.user(1, "a", true);
    world.user(2, "b", true);
    world.start(3);
    world.settle();
    assert_eq!(world.seen(3), users(&["a", "b"]));
    assert!(world.nodes[&3].hub.is_settled());
    world.user(3, "c", true);
    world.settle();
    world.assert_true();
    assert_eq!(world.nodes[&1].hub.counters(), Counters::default());
}

#[test]
fn a_node_alone_says_nothing_but_that_it_lives() {
    let mut world = World::new(1);
    world.nodes.get_mut(&1).unwrap().is_cut = true;
    let before = world.nodes[&1].hub.number;
    world.user(1, "a", true);
    assert_eq!(world.nodes[&1].hub.number, before);
}

#[test]
fn a_node_that_is_killed_is_gone_after_some_beats_and_not_before() {
    let mut world = World::new(3);
    world.user(1, "a", true);
    world.user(2, "a", true);
    world.user(1, "b", true);
    world.settle();
    world.nodes.remove(&1);
    world.seconds(SILENT_BEATS);
    assert_eq!(world.seen(3), users(&["a", "b"]));
    assert!(world.nodes[&3].others.is_empty());
    world.seconds(1);
    assert_eq!(world.seen(3), users(&["a"]));
    assert_eq!(
        world.nodes[&3].others,
        [Effect::Unheard { node: NodeId(1), silent: Millis::from(SILENT_BEATS + 1) * BEAT }]
    );
    world.assert_true();
}

#[test]
fn a_node_that_is_cut_off_keeps_the_others_and_comes_back_without_ghosts() {
    let mut world = World::new(3);
    world.user(1, "a", true);
    world.user(2, "b", true);
    world.user(3, "c", true);
    world.settle();
    world.nodes.get_mut(&1).unwrap().is_cut = true;
    world.user(1, "a", false);
    world.user(1, "d", true);
    world.user(2, "b", false);
    world.user(2, "e", true);
    world.seconds(20);
    assert_eq!(world.seen(1), users(&["b", "c"]), "it cannot know");
    assert_eq!(world.seen(2), users(&["c"]));
    world.nodes.get_mut(&1).unwrap().is_cut = false;
    world.seconds(1);
    world.assert_true();
    assert_eq!(world.seen(1), users(&["c", "e"]));
    assert!(world.nodes[&1].hub.counters().healed > 0);
    assert!(world.nodes[&1].hub.counters().missed > 0);
}

/// Whom it has lost meanwhile is among what was missed, and is not said again.
#[test]
fn what_was_missed_of_a_node_that_lives_is_known_since_it_was_heard_before() {
    let mut world = World::new(2);
    world.seconds(3);
    world.nodes.get_mut(&1).unwrap().is_cut = true;
    world.seconds(2);
    assert!(world.nodes[&2].others.is_empty());
    world.nodes.get_mut(&1).unwrap().is_cut = false;
    world.seconds(1);
    assert_eq!(world.nodes[&2].others, [Effect::Unheard { node: NodeId(1), silent: 3 * BEAT }]);
    assert_eq!(world.nodes[&1].others, [Effect::Unheard { node: NodeId(2), silent: 3 * BEAT }]);
    world.seconds(3);
    assert_eq!(world.nodes[&2].others.len(), 1);
}

/// Whether a link, Redis or this process stood still: what has waited arrives at once.
#[test]
fn beats_that_were_held_up_count_as_one() {
    let mut world = World::new(2);
    world.user(2, "b", true);
    world.settle();
    for _ in 0..SILENT_BEATS * 2 {
        world.now += BEAT;
        world.with(1, |hub, now, out| hub.beat(now, &[1], out));
    }
    world.settle();
    assert_eq!(world.seen(1), users(&["b"]));
}

#[test]
fn users_of_a_node_that_stops_are_kept_until_they_have_come_back() {
    let mut world = World::new(2);
    world.user(1, "a", true);
    world.user(1, "b", true);
    world.settle();
    world.with(1, |hub, _, out| hub.leave(10, out));
    world.user(1, "a", false);
    world.user(1, "b", false);
    world.settle();
    world.nodes.remove(&1);
    world.start(3);
    world.settle();
    world.user(3, "a", true);
    world.seconds(9);
    assert_eq!(world.seen(2), users(&["a", "b"]));
    assert_eq!(world.nodes[&2].view.holders["a"], [1, 3].into());
    world.seconds(1);
    assert_eq!(world.seen(2), users(&["a"]));
    assert!(world.nodes[&2].others.is_empty(), "it has told what there was to tell");
    world.assert_true();
}

#[test]
fn events_are_for_the_others_once_and_in_order() {
    let mut world = World::new(3);
    for number in 0..10 {
        world.with(1, |hub, _, out| hub.event(APP, "a", Some("1.2".into()), &number.to_string(), out));
    }
    world.settle();
    let expected: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    assert_eq!(world.nodes[&1].events, Vec::<String>::new());
    assert_eq!(world.nodes[&2].events, expected);
    assert_eq!(world.nodes[&3].events, expected);
}

/// As after a reconnect, when Redis reads the new connection before the rest of the old one.
#[test]
fn what_comes_late_is_no_news() {
    let mut world = World::new(2);
    world.user(1, "a", true);
    world.user(1, "a", false);
    let arriving = &mut world.nodes.get_mut(&2).unwrap().arriving;
    let last = arriving.len() - 1;
    arriving.swap(last - 1, last);
    world.settle();
    assert_eq!(world.seen(2), users(&[]));
    world.assert_true();
}

#[test]
fn what_others_ask_is_answered_in_parts() {
    let mut world = World::new(2);
    let names: Vec<(ChannelName, u32)> =
        (0..1500).map(|number| (ChannelName::published(&format!("c{number}")), number)).collect();
    world.with(1, |hub, _, out| hub.count(5, APP, &Query::Prefix("c".into()), out));
    world.settle();
    let node = NodeId(1);
    assert_eq!(world.nodes[&2].others, [Effect::Count { node, id: 5, app: APP, query: Query::Prefix("c".into()) }]);
    world.with(2, |hub, _, out| hub.counted(node, 5, &names, out));
    world.settle();
    let mut heard = Vec::new();
    for (index, effect) in world.nodes.get_mut(&1).unwrap().others.drain(..).enumerate() {
        let Effect::Counted { node: NodeId(2), id: 5, is_last, channels } = effect else { panic!("{effect:?}") };
        assert_eq!(is_last, index == 1);
        heard.extend(channels);
    }
    assert_eq!(heard, names);
}

#[test]
fn nodes_of_other_apps_are_not_known() {
    let mut world = World::new(1);
    let mut other = Hub::new(NodeId(9), vec![Tag(8)]);
    let mut out = Vec::new();
    other.beat(0, &[1], &mut out);
    let Some(Effect::Publish { message, .. }) = out.pop() else { panic!("no beat") };
    world.with(1, |hub, now, out| hub.hear(&message, now, &[1], out));
    assert!(world.nodes[&1].hub.peers().is_empty());
}

#[derive(Clone, Debug)]
enum Step {
    User {
        node: u64,
        user: u8,
        is_there: bool,
    },
    /// The next message for this node is lost.
    Lose {
        node: u64,
        place: u8,
    },
    Cut {
        node: u64,
        is_cut: bool,
    },
    Kill {
        node: u64,
    },
    Leave {
        node: u64,
    },
    Seconds(u32),
    Deliver,
}

fn step() -> impl Strategy<Value = Step> {
    let node = 1u64..4;
    prop_oneof![
        8 => (node.clone(), 0u8..6, any::<bool>()).prop_map(|(node, user, is_there)| Step::User { node, user, is_there }),
        2 => (node.clone(), any::<u8>()).prop_map(|(node, place)| Step::Lose { node, place }),
        2 => (node.clone(), any::<bool>()).prop_map(|(node, is_cut)| Step::Cut { node, is_cut }),
        1 => node.clone().prop_map(|node| Step::Kill { node }),
        1 => node.prop_map(|node| Step::Leave { node }),
        2 => (1u32..9).prop_map(Step::Seconds),
        3 => Just(Step::Deliver),
    ]
}

proptest! {
    /// Whatever happens, some seconds later everybody knows the truth, and on the way nobody has been told
    /// the same twice (which `World::with` asserts).
    #[test]
    fn whatever_happens_is_healed(steps in prop::collection::vec(step(), 0..60)) {
        let mut world = World::new(3);
        let mut next = 10;
        // Where the users of node 1, 2 and 3 are now: who is killed or stops comes back as another.
        let mut ids = BTreeMap::from([(1, 1), (2, 2), (3, 3)]);
        for step in steps {
            match step {
                Step::User { node, user, is_there } => world.user(ids[&node], &user.to_string(), is_there),
                Step::Lose { node, place } => {
                    let arriving = &mut world.nodes.get_mut(&ids[&node]).unwrap().arriving;
                    if !arriving.is_empty() {
                        arriving.remove(usize::from(place) % arriving.len());
                    }
                }
                Step::Cut { node, is_cut } => world.nodes.get_mut(&ids[&node]).unwrap().is_cut = is_cut,
                Step::Kill { node } | Step::Leave { node } => {
                    if matches!(step, Step::Leave { .. }) {
                        world.with(ids[&node], |hub, _, out| hub.leave(3, out));
                    }
                    world.nodes.remove(&ids[&node]);
                    next += 1;
                    ids.insert(node, next);
                    world.start(next);
                }
                Step::Seconds(count) => world.seconds(count),
                Step::Deliver => world.settle(),
            }
        }
        world.nodes.values_mut().for_each(|node| node.is_cut = false);
        world.seconds(SILENT_BEATS + ANSWER_BEATS + 3);
        world.assert_true();
    }
}
