//! Cache channels on the wire of the real program: the last event for who subscribes later, and no
//! event lost or doubled between it and the live ones.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;

use common::{Client, Server};
use serde_json::{Value, json};

fn event(channel: &str, n: u32) -> String {
    format!(r#"{{"event":"price","channel":"{channel}","data":"{n}"}}"#)
}

async fn publish(server: &Server, channel: &str, n: u32) {
    let event = json!({"name": "price", "channel": channel, "data": n.to_string()});
    assert_eq!(server.publish(event).await.0, 200);
}

fn miss(channel: &str) -> String {
    format!(r#"{{"event":"pusher:cache_miss","channel":"{channel}","data":"{{}}"}}"#)
}

async fn subscribed(client: &mut Client, channel: &str) {
    let data = channel.starts_with("presence-").then_some(r#"{"user_id":1}"#);
    let reply = client.subscribe_signed(channel, data).await;
    assert_eq!(reply["event"], "pusher_internal:subscription_succeeded", "{reply}");
}

#[tokio::test]
async fn every_kind_of_cache_channel_begins_with_its_last_event() {
    for shards in [1, 2] {
        let server = Server::start(json!({"shards": shards}));
        for channel in ["cache-x", "private-cache-x", "presence-cache-x", "private-encrypted-cache-x"] {
            let mut first = server.connect().await;
            subscribed(&mut first, channel).await;
            assert_eq!(first.text().await, miss(channel));
            publish(&server, channel, 1).await;
            assert_eq!(first.text().await, event(channel, 1));
            publish(&server, channel, 2).await;
            assert_eq!(first.text().await, event(channel, 2));
            // Whichever shard it is on, a second one is told the last, and only that.
            for _ in 0..2 {
                let mut later = server.connect().await;
                subscribed(&mut later, channel).await;
                assert_eq!(later.text().await, event(channel, 2));
                later.hears_nothing_else().await;
                // Subscribing again is answered in the same way.
                subscribed(&mut later, channel).await;
                assert_eq!(later.text().await, event(channel, 2));
            }
            first.hears_nothing_else().await;
        }
    }
}

#[tokio::test]
async fn an_event_is_kept_when_nobody_is_subscribed() {
    let server = Server::start(json!({}));
    publish(&server, "private-cache-x", 1).await;
    publish(&server, "orders", 2).await;
    let mut client = server.connect().await;
    subscribed(&mut client, "private-cache-x").await;
    assert_eq!(client.text().await, event("private-cache-x", 1));
    client.subscribe("orders").await;
    client.hears_nothing_else().await;
    // Of another name, though it ends alike.
    client.subscribe("my-cache-x").await;
    client.hears_nothing_else().await;
}

#[tokio::test]
async fn client_events_and_presence_are_not_kept_and_the_named_socket_is_left_out() {
    let server = Server::start(json!({}));
    let (mut ann, mut bob) = (server.connect().await, server.connect().await);
    for client in [&mut ann, &mut bob] {
        subscribed(client, "private-cache-x").await;
        assert_eq!(client.text().await, miss("private-cache-x"));
    }
    ann.send(json!({"event": "client-typing", "channel": "private-cache-x", "data": 1})).await;
    assert_eq!(bob.next().await["event"], "client-typing");
    let mut eve = server.connect().await;
    subscribed(&mut eve, "private-cache-x").await;
    assert_eq!(eve.text().await, miss("private-cache-x"));
    let to_others = json!({"name": "price", "channel": "private-cache-x", "data": "1", "socket_id": ann.socket_id});
    server.publish(to_others).await;
    assert_eq!(bob.text().await, event("private-cache-x", 1));
    ann.hears_nothing_else().await;
}

#[tokio::test]
async fn an_event_that_is_too_old_or_has_no_room_is_a_miss() {
    let server = Server::start(json!({"shards": 1, "limits": {"cacheSeconds": 1, "cacheBytes": 2000}}));
    let mut client = server.connect().await;
    for n in 0..10 {
        publish(&server, &format!("cache-{n}"), n).await;
    }
    let mut kept = Vec::new();
    for n in 0..10 {
        let channel = format!("cache-{n}");
        subscribed(&mut client, &channel).await;
        let text = client.text().await;
        kept.push(if text == event(&channel, n) {
            true
        } else {
            assert_eq!(text, miss(&channel));
            false
        });
    }
    assert_eq!(kept.iter().filter(|kept| **kept).count(), 6, "of some 320 bytes each: {kept:?}");
    assert!(kept.is_sorted(), "the oldest went first: {kept:?}");
    let mut text;
    loop {
        subscribed(&mut client, "cache-9").await;
        text = client.text().await;
        if text != event("cache-9", 9) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(text, miss("cache-9"));
}

/// Joiners on both shards while events are published without a pause: each sees the kept one and
/// every later one, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_between_the_kept_event_and_live_ones() {
    const EVENTS: u32 = 600;
    for shards in [1, 3] {
        let server = Server::start(json!({"shards": shards, "limits": {"subscriptionsPerConnection": 1000}}));
        let number = |message: &Value| message["data"].as_str().unwrap().parse::<u32>().unwrap();
        let publishing = async {
            for n in 1..=EVENTS {
                publish(&server, "private-cache-x", n).await;
            }
        };
        let reader = || async {
            let mut client = server.connect().await;
            let mut joins = 0;
            loop {
                client.asks_for("private-cache-x").await;
                let reply = client.next().await;
                assert_eq!(reply["event"], "pusher_internal:subscription_succeeded");
                joins += 1;
                let first = client.next().await;
                let mut last = if first["event"] == "pusher:cache_miss" { 0 } else { number(&first) };
                for _ in 0..20 {
                    if last == EVENTS {
                        return joins;
                    }
                    let next = number(&client.next().await);
                    assert_eq!(next, last + 1, "after {joins} joins");
                    last = next;
                }
                client.send(json!({"event": "pusher:unsubscribe", "data": {"channel": "private-cache-x"}})).await;
                // What was on its way before the server heard of it.
                client.send(json!({"event": "pusher:ping", "data": {}})).await;
                while client.next().await["event"] != "pusher:pong" {}
            }
        };
        let readers = futures_util::future::join_all((0..6).map(|_| reader()));
        let ((), joins) = tokio::join!(publishing, readers);
        assert!(joins.iter().sum::<u32>() > 6, "{joins:?}");
    }
}
