//! A deploy: three nodes on one Redis are restarted one after the other, while clients are connected and a backend
//! publishes. What clients see of it, and what they miss, is counted.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;
#[path = "common/redis_server.rs"]
mod redis_server;

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Client, KEY, Server};
use redis::AsyncCommands;
use redis_server::Redis;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const NODES: usize = 3;
const CLIENTS: usize = 24;
/// Seconds within which each node closes its connections.
const WITHIN: u64 = 2;
/// Seconds for which the others keep the members of a node that stops.
const GRACE: u64 = 6;

/// What all clients share.
#[derive(Default)]
struct World {
    /// Where each node listens; 0 while it does not.
    ports: [AtomicU16; NODES],
    /// Clients that know of all others: whoever comes or goes from then on has only reconnected.
    present: AtomicUsize,
    is_over: AtomicBool,
    /// When connections were closed by a node, and by which.
    closed: Mutex<Vec<(usize, Instant)>>,
    /// Members that somebody was told had come or gone, although they only reconnected.
    flicker: Mutex<Vec<String>>,
}

/// A page with pusher-js: comes back a second after it was closed, to whichever node answers.
async fn page(world: Arc<World>, user: usize) -> Vec<u64> {
    let mut heard = Vec::new();
    let mut node = user % NODES;
    let mut known = 0;
    while !world.is_over.load(Ordering::SeqCst) {
        let port = world.ports[node].load(Ordering::SeqCst);
        let url = format!("ws://127.0.0.1:{port}/app/{KEY}?protocol=7");
        let Ok((socket, _)) = tokio_tungstenite::connect_async(url).await else {
            // As a proxy before the nodes does.
            node = (node + 1) % NODES;
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut client = Client { socket, socket_id: String::new() };
        let Message::Text(hello) = client.message().await else { continue };
        let hello: Value = serde_json::from_str(&hello).unwrap();
        let data: Value = serde_json::from_str(hello["data"].as_str().unwrap()).unwrap();
        client.socket_id = data["socket_id"].as_str().unwrap().to_owned();
        client.send(json!({"event": "pusher:subscribe", "data": {"channel": "news"}})).await;
        client.asks_for_presence("presence-room", user).await;
        loop {
            let text = match client.message().await {
                Message::Text(text) => text,
                Message::Close(Some(frame)) => {
                    assert_eq!(u16::from(frame.code), 1012);
                    world.closed.lock().unwrap().push((node, Instant::now()));
                    break;
                }
                other => panic!("{other:?}"),
            };
            let message: Value = serde_json::from_str(&text).unwrap();
            match message["event"].as_str().unwrap() {
                "n" => heard.push(message["data"].as_str().unwrap().parse().unwrap()),
                "pusher_internal:subscription_succeeded" if message["channel"] == "presence-room" => {
                    let data: Value = serde_json::from_str(message["data"].as_str().unwrap()).unwrap();
                    let count = data["presence"]["count"].as_u64().unwrap() as usize;
                    if known == CLIENTS && count != CLIENTS {
                        world.flicker.lock().unwrap().push(format!("a list of {count}"));
                    } else if known == 0 {
                        known = count;
                        world.present.fetch_add(usize::from(known == CLIENTS), Ordering::SeqCst);
                    }
                }
                "pusher_internal:subscription_succeeded" => {}
                "pusher_internal:member_added" if known < CLIENTS => {
                    known += 1;
                    world.present.fetch_add(usize::from(known == CLIENTS), Ordering::SeqCst);
                }
                event @ ("pusher_internal:member_added" | "pusher_internal:member_removed") => {
                    world.flicker.lock().unwrap().push(format!("{event} {}", message["data"]));
                }
                other => panic!("{other}: {message}"),
            }
            if world.is_over.load(Ordering::SeqCst) {
                break;
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    heard
}

impl Client {
    async fn asks_for_presence(&mut self, channel: &str, user: usize) {
        use laravel_echo_server::protocol::signature;
        let data = json!({"user_id": user.to_string()}).to_string();
        let text = format!("{}:{channel}:{data}", self.socket_id);
        let auth = format!("{KEY}:{}", signature::sign(common::SECRET, &text));
        self.send(
            json!({"event": "pusher:subscribe", "data": {"auth": auth, "channel": channel, "channel_data": data}}),
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_one_after_the_other() {
    let redis = Redis::start(&[]);
    let start = || {
        let redis = json!({"redis": {"path": redis.socket()}});
        let cluster = json!({"presenceGraceSeconds": GRACE});
        Server::start(json!({"databaseConfig": redis, "shutdownSeconds": WITHIN, "cluster": cluster}))
    };
    let world = Arc::new(World::default());
    let mut nodes: Vec<Server> = (0..NODES).map(|_| start()).collect();
    for (port, node) in world.ports.iter().zip(&nodes) {
        port.store(node.port, Ordering::SeqCst);
    }
    let pages: Vec<_> = (0..CLIENTS).map(|user| tokio::spawn(page(world.clone(), user))).collect();
    while world.present.load(Ordering::SeqCst) < CLIENTS {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut publisher = redis.client().await;
    let over = world.clone();
    let publishing = tokio::spawn(async move {
        let mut number = 0_u64;
        while !over.is_over.load(Ordering::SeqCst) {
            number += 1;
            let event = json!({"event": "n", "data": number}).to_string();
            publisher.publish::<_, _, usize>("news", &event).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Those who wait for something end.
        for _ in 0..100 {
            number += 1;
            let event = json!({"event": "n", "data": number}).to_string();
            publisher.publish::<_, _, usize>("news", &event).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        number
    });
    for (node, port) in nodes.iter_mut().zip(&world.ports) {
        node.terminate();
        assert_eq!(node.wait(), Some(0));
        *node = start();
        port.store(node.port, Ordering::SeqCst);
        // Everybody is back before the next one is stopped.
        let back = Instant::now();
        loop {
            let (_, text) = node.get("/apps/app-id/channels/news", &[("info", "subscription_count")]).await;
            if text.contains(&format!("\"subscription_count\":{CLIENTS}")) {
                break;
            }
            assert!(back.elapsed() < Duration::from_secs(30), "{text}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    // Longer than the grace of the last: whoever had not come back would go now.
    tokio::time::sleep(Duration::from_secs(GRACE + 2)).await;
    world.is_over.store(true, Ordering::SeqCst);
    let published = publishing.await.unwrap();

    let closed = world.closed.lock().unwrap().clone();
    for node in 0..NODES {
        let mut times: Vec<Instant> = closed.iter().filter(|(by, _)| *by == node).map(|(_, at)| *at).collect();
        times.sort();
        let (Some(first), Some(last)) = (times.first(), times.last()) else { panic!("node {node} has closed nobody") };
        // Evenly over the time, but for the last one's share of it.
        let expected = Duration::from_secs(WITHIN).mul_f64(1.0 - 1.0 / times.len() as f64).mul_f64(0.5);
        assert!(*last - *first >= expected, "{} in {:?}", times.len(), *last - *first);
    }
    let (mut lost, mut gaps) = (0, 0);
    for page in pages {
        let heard = page.await.unwrap();
        for pair in heard.windows(2) {
            assert!(pair[0] < pair[1], "{} after {}: doubled, or out of order", pair[1], pair[0]);
            lost += pair[1] - pair[0] - 1;
            gaps += usize::from(pair[1] - pair[0] > 1);
        }
    }
    println!("{} reconnects; {lost} of {} events lost, in {gaps} gaps", closed.len(), published * CLIENTS as u64);
    assert!(gaps <= closed.len(), "{gaps} gaps with {} reconnects: events were lost on open connections", closed.len());
    let flicker = world.flicker.lock().unwrap();
    assert!(flicker.is_empty(), "{flicker:?}");
}
