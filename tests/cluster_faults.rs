//! Several nodes on one real Redis, of which one after the other is killed, stopped, cut off or restarted
//! while people come and go: what their clients believe, against the truth.
//!
//! `CLUSTER_SEED` repeats a walk, `CLUSTER_ROUNDS` makes it longer.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on shall end")]

#[allow(dead_code, reason = "faults need little of it")]
mod common;
#[path = "common/redis_server.rs"]
mod redis_server;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Client, Server};
use futures_util::{SinkExt, StreamExt};
use redis_server::Redis;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

const CHANNEL: &str = "presence-walk";

/// Where speakers count.
const COUNTED: &str = "private-counted";

/// How long it may take until everybody knows the truth again: a silent node is taken for gone after six
/// seconds, and one that has been cut off has to connect again.
const HEALED_AFTER: Duration = Duration::from_secs(12);

/// `cluster.presenceGraceSeconds` in these tests.
const GRACE: u64 = 3;

/// What stands between one node and Redis. It can hold everything back, in both directions.
struct Link {
    port: u16,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Open,
    Paused,
    /// Connections end, and new ones, too.
    Cut,
}

impl Link {
    async fn start(redis: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, states) = watch::channel(State::Open);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = UnixStream::connect(&redis).await else { continue };
                let (near_in, near_out) = near.into_split();
                let (far_in, far_out) = far.into_split();
                tokio::spawn(pass(near_in, far_out, states.clone()));
                tokio::spawn(pass(far_in, near_out, states.clone()));
            }
        });
        Self { port, state }
    }

    fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut is_cut = state.clone();
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            _ = is_cut.wait_for(|state| *state == State::Cut) => return,
        };
        let Ok(bytes @ 1..) = read else { return };
        if state.wait_for(|state| *state != State::Paused).await.is_err() || *state.borrow() == State::Cut {
            return;
        }
        if to.write_all(&buffer[..bytes]).await.is_err() {
            return;
        }
    }
}

/// A connection of a user, and what it believes.
struct Tab {
    user: String,
    node: usize,
    belief: Arc<Mutex<Belief>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Belief {
    members: BTreeSet<String>,
    /// What it was told, for the message of a failure.
    told: Vec<String>,
    /// The last number of each speaker.
    counted: BTreeMap<String, u64>,
    /// How many numbers it has heard, and how many are missing between them.
    heard: u64,
    missing: u64,
    wrong: Option<String>,
}

impl Drop for Tab {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Belief {
    fn hear(&mut self, text: &str) {
        let message: Value = serde_json::from_str(text).unwrap();
        let data = || -> Value { serde_json::from_str(message["data"].as_str().unwrap()).unwrap() };
        match message["event"].as_str().unwrap() {
            "pusher_internal:subscription_succeeded" if message["channel"] == CHANNEL => self.members = ids(&message),
            event @ ("pusher_internal:member_added" | "pusher_internal:member_removed") => {
                let id = data()["user_id"].as_str().unwrap().to_owned();
                let is_added = event.ends_with("added");
                let is_news = if is_added { self.members.insert(id.clone()) } else { self.members.remove(&id) };
                self.told.push(format!("{}{id}", if is_added { '+' } else { '-' }));
                if !is_news {
                    self.wrong = Some(format!("is told {event} {id} for nothing, after {:?}", self.told));
                }
            }
            "client-number" => {
                let speaker = message["data"]["speaker"].as_str().unwrap().to_owned();
                let number = message["data"]["number"].as_u64().unwrap();
                self.heard += 1;
                match self.counted.insert(speaker.clone(), number) {
                    Some(last) if number <= last => {
                        self.wrong = Some(format!("hears {number} of {speaker} after {last}"));
                    }
                    Some(last) => self.missing += number - last - 1,
                    None => {}
                }
            }
            _ => {}
        }
    }
}

/// Counts on one node, for all who listen on any.
async fn speaker(server: &Server, name: String) -> JoinHandle<()> {
    let mut client = server.connect().await;
    client.subscribe_signed(COUNTED, None).await;
    tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_millis(20));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut number = 0_u64;
        loop {
            tokio::select! {
                _ = every.tick() => {}
                heard = client.socket.next() => match heard {
                    // What others count is of no use here; the server's pings are answered by what is sent.
                    Some(Ok(_)) => continue,
                    _ => return,
                },
            }
            number += 1;
            let event =
                json!({"event": "client-number", "channel": COUNTED, "data": {"speaker": name, "number": number}});
            if client.socket.send(Message::text(event.to_string())).await.is_err() {
                return;
            }
        }
    })
}

fn ids(reply: &Value) -> BTreeSet<String> {
    let data: Value = serde_json::from_str(reply["data"].as_str().unwrap()).unwrap();
    data["presence"]["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

async fn tab(server: &Server, node: usize, user: &str) -> Tab {
    let mut client = server.connect().await;
    let data = json!({"user_id": user, "user_info": {"name": user}}).to_string();
    let reply = client.subscribe_signed(CHANNEL, Some(&data)).await;
    let belief = Arc::new(Mutex::new(Belief::default()));
    belief.lock().unwrap().hear(&reply.to_string());
    client.asks_for(COUNTED).await;
    let task = tokio::spawn(listen(client, belief.clone()));
    Tab { user: user.to_owned(), node, belief, task }
}

/// Until the connection ends.
async fn listen(mut client: Client, belief: Arc<Mutex<Belief>>) {
    while let Some(Ok(message)) = client.socket.next().await {
        let Message::Text(text) = message else { continue };
        if text.contains("\"pusher:ping\"") {
            let _ = client.socket.send(Message::text(r#"{"event":"pusher:pong"}"#)).await;
        } else {
            belief.lock().unwrap().hear(&text);
        }
    }
}

struct World {
    redis: Redis,
    links: Vec<Link>,
    nodes: Vec<Server>,
    tabs: Vec<Tab>,
    /// Nodes that are not in a state to serve anybody.
    faulty: BTreeSet<usize>,
    speakers: Vec<JoinHandle<()>>,
}

impl World {
    async fn start(count: usize) -> Self {
        let redis = Redis::start(&[]);
        let mut world = Self {
            redis,
            links: Vec::new(),
            nodes: Vec::new(),
            tabs: Vec::new(),
            faulty: BTreeSet::new(),
            speakers: Vec::new(),
        };
        for node in 0..count {
            world.links.push(Link::start(world.redis.socket()).await);
            world.nodes.push(world.server(node));
        }
        world
    }

    fn server(&self, node: usize) -> Server {
        Server::start(json!({
            "databaseConfig": {"redis": {"host": "127.0.0.1", "port": self.links[node].port}},
            "cluster": {"presenceGraceSeconds": GRACE},
            // Speakers are quick.
            "limits": {"clientEventsPerSecond": 100},
        }))
    }

    async fn open(&mut self, node: usize, user: &str) {
        let tab = tab(&self.nodes[node], node, user).await;
        self.tabs.push(tab);
    }

    /// Somebody counts on this node from now on.
    async fn speak(&mut self, node: usize) {
        let name = format!("speaker {} on node {node}", self.speakers.len());
        let speaker = speaker(&self.nodes[node], name).await;
        self.speakers.push(speaker);
    }

    /// How many numbers all have heard, and how many are missing between them.
    fn heard_and_missing(&self) -> (u64, u64) {
        let beliefs = self.tabs.iter().map(|tab| tab.belief.lock().unwrap());
        beliefs.fold((0, 0), |(heard, missing), belief| (heard + belief.heard, missing + belief.missing))
    }

    fn signal(&self, node: usize, name: &str) {
        let pid = self.nodes[node].pid().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Another process in the node's place. Whoever was connected is not any more.
    fn replace(&mut self, node: usize) {
        self.nodes[node] = self.server(node);
        self.tabs.retain(|tab| tab.node != node);
    }

    fn truth(&self) -> BTreeSet<String> {
        self.tabs.iter().map(|tab| tab.user.clone()).collect()
    }

    /// Why not everybody knows the truth.
    fn untruth(&self) -> Option<String> {
        let truth = self.truth();
        self.tabs.iter().find_map(|tab| {
            let belief = tab.belief.lock().unwrap();
            let (missing, ghosts): (Vec<_>, Vec<_>) =
                (truth.difference(&belief.members).collect(), belief.members.difference(&truth).collect());
            let is_true = missing.is_empty() && ghosts.is_empty();
            (!is_true).then(|| {
                format!("{} on node {} misses {missing:?}, sees {ghosts:?}; told {:?}", tab.user, tab.node, belief.told)
            })
        })
    }

    fn assert_nobody_was_told_wrong(&self) {
        for tab in &self.tabs {
            if let Some(wrong) = &tab.belief.lock().unwrap().wrong {
                panic!("{} on node {} {wrong}", tab.user, tab.node);
            }
        }
    }

    async fn heals(&self, what: &str) {
        let start = Instant::now();
        while let Some(untruth) = self.untruth() {
            assert!(start.elapsed() < HEALED_AFTER, "{what}, after {HEALED_AFTER:?}: {untruth}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("{what}: true after {:?}", start.elapsed());
        self.assert_nobody_was_told_wrong();
    }

    /// What everybody was told since the beginning.
    fn told(&self) -> BTreeMap<usize, Vec<String>> {
        self.tabs.iter().enumerate().map(|(index, tab)| (index, tab.belief.lock().unwrap().told.clone())).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deploy_of_all_nodes_makes_nobody_come_or_go() {
    let mut world = World::start(3).await;
    for (node, user) in [(0, "ann"), (1, "bob"), (2, "cay"), (2, "dan")] {
        world.open(node, user).await;
    }
    world.heals("start").await;
    // Each in turn; who was there comes back, some to another node, but for Dan.
    for node in 0..3 {
        let gone: Vec<String> = world.tabs.iter().filter(|tab| tab.node == node).map(|tab| tab.user.clone()).collect();
        let before: Vec<(String, Vec<String>)> = (world.tabs.iter().filter(|tab| tab.node != node))
            .map(|tab| (tab.user.clone(), tab.belief.lock().unwrap().told.clone()))
            .collect();
        world.nodes[node].terminate();
        assert_eq!(world.nodes[node].wait(), Some(0));
        world.replace(node);
        for user in gone.iter().filter(|user| *user != "dan") {
            world.open((node + 1) % 3, user).await;
        }
        // Longer than the grace.
        tokio::time::sleep(Duration::from_secs(GRACE + 2)).await;
        for (user, told) in before {
            let tab = world.tabs.iter().find(|tab| tab.user == user).unwrap();
            let news = tab.belief.lock().unwrap().told[told.len()..].to_vec();
            let expected: &[&str] = if gone.contains(&"dan".to_owned()) { &["-dan"] } else { &[] };
            assert_eq!(news, expected, "{user}, when node {node} was restarted");
        }
    }
    world.heals("deploy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_stalls_are_not_noticed() {
    let mut world = World::start(2).await;
    world.open(0, "ann").await;
    world.open(1, "bob").await;
    world.heals("start").await;
    let before = world.told();
    world.signal(1, "STOP");
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.signal(1, "CONT");
    world.links[0].set(State::Paused);
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.links[0].set(State::Open);
    world.redis.kill();
    std::fs::remove_file(world.redis.socket()).unwrap();
    tokio::time::sleep(Duration::from_secs(8)).await;
    world.redis.restart();
    world.open(1, "cay").await;
    world.heals("stalls").await;
    assert_eq!(world.told()[&0], [before[&0].clone(), vec!["+cay".to_owned()]].concat());
    assert_eq!(world.told()[&1], [before[&1].clone(), vec!["+cay".to_owned()]].concat());
}

/// xorshift: good enough to choose, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_any_fault_everybody_knows_the_truth() {
    let seed = number("CLUSTER_SEED").unwrap_or_else(|| u64::from(getrandom::u32().unwrap()) + 1);
    let rounds = number("CLUSTER_ROUNDS").unwrap_or(6) as usize;
    println!("CLUSTER_SEED={seed} CLUSTER_ROUNDS={rounds}");
    let users = if rounds > 6 { 300 } else { 40 };
    let mut random = Random(seed);
    let mut world = World::start(3).await;
    for node in 0..3 {
        world.speak(node).await;
    }
    for round in 0..rounds {
        walk(&mut world, &mut random, users).await;
        if round == 0 {
            let (heard, missing) = world.heard_and_missing();
            assert!(heard > 0 && missing == 0, "before any fault {missing} numbers are missing, {heard} were heard");
        }
        let node = random.below(3);
        // Every kind once in the short form.
        let kind = (round + seed as usize) % 6;
        let fault = ["killed", "stopped", "paused", "cut off", "terminated", "without Redis"][kind];
        let what = format!("CLUSTER_SEED={seed}, round {round}, node {node} {fault}");
        world.faulty.insert(node);
        match kind {
            0 => {
                world.signal(node, "KILL");
                world.nodes[node].wait();
                world.tabs.retain(|tab| tab.node != node);
            }
            1 => world.signal(node, "STOP"),
            2 => world.links[node].set(State::Paused),
            3 => world.links[node].set(State::Cut),
            4 => {
                world.nodes[node].terminate();
                world.nodes[node].wait();
                world.tabs.retain(|tab| tab.node != node);
            }
            _ => {
                world.redis.kill();
                std::fs::remove_file(world.redis.socket()).unwrap();
            }
        }
        walk(&mut world, &mut random, users).await;
        tokio::time::sleep(Duration::from_millis(random.below(9000) as u64)).await;
        walk(&mut world, &mut random, users).await;
        match kind {
            0 | 4 => {
                world.replace(node);
                world.speak(node).await;
            }
            1 => world.signal(node, "CONT"),
            2 | 3 => world.links[node].set(State::Open),
            _ => world.redis.restart(),
        }
        world.faulty.clear();
        walk(&mut world, &mut random, users).await;
        world.heals(&what).await;
    }
    let told = world.tabs.iter().map(|tab| tab.belief.lock().unwrap().told.len()).sum::<usize>();
    let (heard, missing) = world.heard_and_missing();
    println!(
        "{} tabs were told of members {told} times, heard {heard} numbers in order, and missed {missing} during faults",
        world.tabs.len()
    );
}

/// Some come, some go, on nodes that serve.
async fn walk(world: &mut World, random: &mut Random, users: usize) {
    for _ in 0..users / 2 {
        let user = format!("u{}", random.below(users));
        let own: Vec<usize> = (0..world.tabs.len()).filter(|index| world.tabs[*index].user == user).collect();
        let node = random.below(3);
        if own.len() == 3 || (!own.is_empty() && random.below(2) == 0) {
            world.tabs.swap_remove(own[random.below(own.len())]);
        } else if !world.faulty.contains(&node) {
            world.open(node, &user).await;
        }
    }
}
