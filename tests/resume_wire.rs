//! What a browser misses while its connection is lost comes after it has subscribed again, as it is on the
//! wire; `resume` of the configuration.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, reason = "some of it is for others")]
#[path = "common/browser.rs"]
mod browser;
#[allow(dead_code, reason = "some of it is for others")]
mod common;
#[path = "common/redis_server.rs"]
mod redis_server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use browser::{back, gap, joined_by, knows, moved, new_browser, node, number, open, publish, publish_but, resuming};
use common::{Client, Server};
use futures_util::SinkExt;
use redis_server::Redis;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// Waits until the client has been asked how far it has got, and has said so.
async fn acknowledge(client: &mut Client) {
    match client.message().await {
        // It answers by itself, with the next thing that it does.
        Message::Ping(_) => client.socket.flush().await.unwrap(),
        other => panic!("{other:?} instead of a ping"),
    }
    client.hears_nothing_else().await;
}

#[tokio::test]
async fn off_nothing_is_set_and_nothing_kept() {
    let server = Server::start(json!({}));
    let (mut client, set) = open(&server, None, None).await;
    assert_eq!(set, None);
    client.subscribe("a").await;
    drop(client);
    publish(&server, "a", 1).await;
    let (mut client, _) =
        open(&server, Some("echo_resume=00000000000000000000000000000001.0000000000000002"), None).await;
    client.subscribe("a").await;
    client.hears_nothing_else().await;
}

#[tokio::test]
async fn the_cookie_is_for_this_server_alone() {
    let server = resuming(json!(true));
    let set = open(&server, None, None).await.1.unwrap();
    assert!(set.ends_with("; HttpOnly; SameSite=Lax"), "{set}");
    let set = open(&server, None, Some("https://app.example.com")).await.1.unwrap();
    assert!(set.ends_with("; HttpOnly; SameSite=Lax; Secure"), "{set}");
    let server = resuming(json!({"sameSite": "none"}));
    let set = open(&server, None, Some("https://app.example.com")).await.1.unwrap();
    assert!(set.ends_with("; HttpOnly; SameSite=None; Secure; Partitioned"), "{set}");
}

#[tokio::test]
async fn what_was_missed_comes_in_order_and_before_what_is_live() {
    let server = resuming(json!(true));
    let (mut client, cookie) = new_browser(&server).await;
    let channels = ["a", "cache-b", "private-c", "presence-d"];
    let member = Some(r#"{"user_id":"1"}"#);
    client.subscribe("a").await;
    client.subscribe("cache-b").await;
    assert_eq!(client.next().await["event"], "pusher:cache_miss");
    client.subscribe_signed("private-c", None).await;
    client.subscribe_signed("presence-d", member).await;
    for channel in channels {
        publish(&server, channel, 1).await;
        assert_eq!(number(&mut client).await, 1);
    }
    acknowledge(&mut client).await;
    drop(client);
    for n in 2..=20 {
        for channel in channels {
            publish(&server, channel, n).await;
        }
    }
    let mut client = back(&server, &cookie).await;
    for channel in ["presence-d", "a", "cache-b", "private-c"] {
        match channel {
            "private-c" => drop(client.subscribe_signed(channel, None).await),
            "presence-d" => drop(client.subscribe_signed(channel, member).await),
            _ => client.subscribe(channel).await,
        }
        for n in 2..=20 {
            assert_eq!(number(&mut client).await, n, "{channel}");
        }
        client.hears_nothing_else().await;
        publish(&server, channel, 21).await;
        assert_eq!(number(&mut client).await, 21);
    }
}

#[tokio::test]
async fn what_is_not_known_to_have_arrived_comes_again_or_is_told() {
    let channels = json!({"once": "at-most-once", "off": "off"});
    let server = resuming(json!({"channels": channels}));
    let (mut client, cookie) = new_browser(&server).await;
    for channel in ["a", "once", "off"] {
        client.subscribe(channel).await;
    }
    for channel in ["a", "once", "off"] {
        publish(&server, channel, 1).await;
        assert_eq!(number(&mut client).await, 1);
    }
    drop(client);
    publish(&server, "once", 2).await;
    publish(&server, "off", 2).await;
    let mut client = back(&server, &cookie).await;
    client.subscribe("a").await;
    assert_eq!(number(&mut client).await, 1, "at least once");
    client.subscribe("once").await;
    let told = gap(&mut client, "once").await;
    assert!(told["since"].as_u64().unwrap() <= told["until"].as_u64().unwrap(), "{told}");
    assert_eq!(number(&mut client).await, 2, "at most once");
    client.subscribe("off").await;
    client.hears_nothing_else().await;
}

#[tokio::test]
async fn a_new_tab_or_one_that_left_its_page_has_missed_nothing() {
    let server = resuming(json!(true));
    let (mut left, cookie) = new_browser(&server).await;
    left.subscribe("a").await;
    let frame = CloseFrame { code: 1001.into(), reason: "".into() };
    left.socket.close(Some(frame)).await.unwrap();
    left.closed().await;
    publish(&server, "a", 1).await;
    let mut tab = back(&server, &cookie).await;
    tab.subscribe("a").await;
    tab.hears_nothing_else().await;
    let mut other = new_browser(&server).await.0;
    other.subscribe("a").await;
    publish(&server, "a", 2).await;
    assert_eq!(number(&mut tab).await, 2);
    assert_eq!(number(&mut other).await, 2);
}

#[tokio::test]
async fn two_tabs_get_each_its_own() {
    let server = resuming(json!(true));
    let (mut first, cookie) = new_browser(&server).await;
    first.subscribe("a").await;
    first.subscribe("b").await;
    let mut second = joined_by(&server, &cookie, &mut [&mut first]).await;
    second.subscribe("a").await;
    second.subscribe("c").await;
    drop((first, second));
    for channel in ["a", "b", "c"] {
        publish(&server, channel, 1).await;
    }
    // The second comes back first.
    let mut second = back(&server, &cookie).await;
    for channel in ["c", "a"] {
        second.subscribe(channel).await;
        assert_eq!(number(&mut second).await, 1, "{channel}");
    }
    second.subscribe("d").await;
    second.hears_nothing_else().await;
    let mut first = joined_by(&server, &cookie, &mut [&mut second]).await;
    for channel in ["a", "b"] {
        first.subscribe(channel).await;
        assert_eq!(number(&mut first).await, 1, "{channel}");
    }
    // Both have got theirs: a third one is new.
    let mut third = joined_by(&server, &cookie, &mut [&mut first, &mut second]).await;
    for channel in ["a", "b", "c"] {
        third.subscribe(channel).await;
    }
    for tab in [&mut first, &mut second, &mut third] {
        tab.hears_nothing_else().await;
    }
}

#[tokio::test]
async fn who_comes_back_before_the_loss_is_noticed_gets_all_and_the_old_connection_ends() {
    let server = resuming(json!(true));
    // It reads nothing from now on, so that it answers no pings, as if its network were gone.
    let (mut gone, cookie) = new_browser(&server).await;
    gone.subscribe("a").await;
    publish(&server, "a", 1).await;
    let mut client = back(&server, &cookie).await;
    client.send(json!({"event": "pusher:subscribe", "data": {"channel": "a"}})).await;
    publish(&server, "a", 2).await;
    assert_eq!(client.next().await["event"], "pusher_internal:subscription_succeeded");
    assert_eq!(number(&mut client).await, 1);
    assert_eq!(number(&mut client).await, 2);
    client.hears_nothing_else().await;
    let (_, channel) = server.get("/apps/app-id/channels/a", &[("info", "subscription_count")]).await;
    assert!(channel.contains("\"subscription_count\":1"), "{channel}");
}

#[tokio::test]
async fn its_own_event_does_not_come_back_to_its_sender() {
    let server = resuming(json!(true));
    let (mut client, cookie) = new_browser(&server).await;
    client.subscribe("a").await;
    let id = client.socket_id.clone();
    drop(client);
    publish_but(&server, "a", 1, Some(&id)).await;
    publish(&server, "a", 2).await;
    let mut client = back(&server, &cookie).await;
    client.subscribe("a").await;
    assert_eq!(number(&mut client).await, 2);
    // Lost again, before it is known to have got that.
    drop(client);
    let mut client = back(&server, &cookie).await;
    client.subscribe("a").await;
    assert_eq!(number(&mut client).await, 2);
    client.hears_nothing_else().await;
}

#[tokio::test]
async fn nothing_is_sent_without_authorisation() {
    let server = resuming(json!(true));
    let (mut client, cookie) = new_browser(&server).await;
    client.subscribe_signed("private-a", None).await;
    drop(client);
    publish(&server, "private-a", 1).await;
    let mut thief = back(&server, &cookie).await;
    thief.send(json!({"event": "pusher:subscribe", "data": {"channel": "private-a", "auth": "app-key:00"}})).await;
    assert_eq!(thief.next().await["event"], "pusher:subscription_error");
    thief.hears_nothing_else().await;
    let mut client = joined_by(&server, &cookie, &mut [&mut thief]).await;
    client.subscribe_signed("private-a", None).await;
    assert_eq!(number(&mut client).await, 1);
}

#[tokio::test]
async fn what_is_not_kept_any_more_is_told() {
    let server = resuming(json!({"eventsPerChannel": 3}));
    let (mut client, cookie) = new_browser(&server).await;
    client.subscribe("a").await;
    drop(client);
    for n in 1..=5 {
        publish(&server, "a", n).await;
    }
    let mut client = back(&server, &cookie).await;
    client.subscribe("a").await;
    let told = gap(&mut client, "a").await;
    assert!(told["since"].as_u64().unwrap() <= told["until"].as_u64().unwrap(), "{told}");
    for n in 3..=5 {
        assert_eq!(number(&mut client).await, n);
    }
    client.hears_nothing_else().await;
}

#[tokio::test]
async fn who_comes_too_late_or_to_another_process_is_told() {
    let server = resuming(json!({"seconds": 1}));
    let (mut client, cookie) = new_browser(&server).await;
    client.subscribe("a").await;
    drop(client);
    publish(&server, "a", 1).await;
    tokio::time::sleep(Duration::from_millis(3100)).await;
    let mut client = back(&server, &cookie).await;
    client.subscribe("a").await;
    assert!(gap(&mut client, "a").await["since"].is_u64());
    client.hears_nothing_else().await;
    drop(server);
    let server = resuming(json!(true));
    let (mut client, set) = open(&server, Some(&cookie), None).await;
    let set = set.unwrap();
    assert_eq!(set[.."echo_resume=".len() + 32], cookie[.."echo_resume=".len() + 32], "it is the same browser");
    client.subscribe("a").await;
    assert!(gap(&mut client, "a").await["since"].is_null());
    client.hears_nothing_else().await;
}

#[tokio::test]
async fn what_clients_say_to_each_other_is_for_those_who_are_there() {
    let server = resuming(json!(true));
    let (mut client, cookie) = new_browser(&server).await;
    let mut other = new_browser(&server).await.0;
    for client in [&mut client, &mut other] {
        client.subscribe_signed("private-a", None).await;
    }
    drop(client);
    other.send(json!({"event": "client-typing", "channel": "private-a", "data": {}})).await;
    other.hears_nothing_else().await;
    publish(&server, "private-a", 1).await;
    let mut client = back(&server, &cookie).await;
    client.subscribe_signed("private-a", None).await;
    assert_eq!(number(&mut client).await, 1);
    client.hears_nothing_else().await;
}

/// Publishes numbered events as Laravel does, until told to stop; gives the last number.
async fn stream(redis: &Redis, stop: Arc<AtomicBool>) -> tokio::task::JoinHandle<u32> {
    let mut laravel = redis.client().await;
    tokio::spawn(async move {
        let mut n = 0;
        while !stop.load(Ordering::SeqCst) {
            n += 1;
            let payload = json!({"event": "n", "data": n}).to_string();
            let _: usize = redis::cmd("PUBLISH").arg("a").arg(payload).query_async(&mut laravel).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        n
    })
}

/// All numbers until the server closes.
async fn numbers_until_closed(client: &mut Client) -> Vec<u32> {
    let mut numbers = Vec::new();
    loop {
        match client.message().await {
            Message::Text(text) => {
                let event: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(event["event"], "n", "{event}");
                numbers.push(event["data"].as_str().unwrap().parse().unwrap());
            }
            Message::Ping(_) => client.socket.flush().await.unwrap(),
            Message::Close(frame) => {
                assert_eq!(u16::from(frame.unwrap().code), 1012);
                return numbers;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn two_nodes_are_restarted_one_after_the_other_and_nothing_is_missed() {
    let redis = Redis::start(&[]);
    let mut nodes = [node(&redis), node(&redis)];
    let (mut client, cookie) = new_browser(&nodes[0]).await;
    client.subscribe("a").await;
    let stop = Arc::new(AtomicBool::new(false));
    let publishing = stream(&redis, stop.clone()).await;
    let mut before = vec![number(&mut client).await];
    assert_eq!(before, [1]);
    for turn in 0..2 {
        nodes[turn].terminate();
        before.extend(numbers_until_closed(&mut client).await);
        client = open(&nodes[1 - turn], Some(&cookie), None).await.0;
        // As long as pusher-js may take before it has subscribed again.
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.subscribe("a").await;
        let first = number(&mut client).await;
        let last = *before.last().unwrap();
        assert!(first <= last + 1, "{first} follows {last}: something is missed");
        before.truncate(first as usize - 1);
        before.push(first);
        let expected: Vec<u32> = (1..=first).collect();
        assert_eq!(before, expected);
        assert_eq!(nodes[turn].wait(), Some(0));
        nodes[turn] = node(&redis);
    }
    stop.store(true, Ordering::SeqCst);
    let last = publishing.await.unwrap();
    for n in before.last().unwrap() + 1..=last {
        assert_eq!(number(&mut client).await, n);
    }
    client.hears_nothing_else().await;
}

#[tokio::test]
async fn what_redis_sent_while_it_was_not_heard_is_told() {
    let mut redis = Redis::start(&[]);
    let server = node(&redis);
    let (mut client, cookie) = new_browser(&server).await;
    client.subscribe("a").await;
    let mut away = new_browser(&server).await;
    away.0.subscribe("a").await;
    drop(away.0);
    redis.kill();
    redis.restart();
    let told = gap(&mut client, "a").await;
    assert!(told["since"].as_u64().unwrap() <= told["until"].as_u64().unwrap(), "{told}");
    publish(&server, "a", 1).await;
    assert_eq!(number(&mut client).await, 1);
    // It is an event like others, also for those who are away.
    let mut back_again = back(&server, &away.1).await;
    back_again.subscribe("a").await;
    assert_eq!(gap(&mut back_again, "a").await, told);
    assert_eq!(number(&mut back_again).await, 1);
    drop(cookie);
}

#[tokio::test]
async fn who_comes_back_to_another_node_is_told_as_soon_as_the_loss_is_known() {
    let redis = Redis::start(&[]);
    let (first, second) = (node(&redis), node(&redis));
    let (mut lost, cookie) = new_browser(&first).await;
    lost.subscribe("a").await;
    knows(&second, &cookie).await;
    knows(&first, &new_browser(&second).await.1).await;
    // A new tab has missed nothing, wherever the balancer sends it.
    let (mut tab, moved) = moved(&second, &cookie).await;
    tab.subscribe("b").await;
    tab.hears_nothing_else().await;
    // One that comes back before the first node has noticed is told when it has.
    let mut early = joined_by(&second, &moved, &mut [&mut tab]).await;
    early.subscribe("a").await;
    early.hears_nothing_else().await;
    let mut other = back(&first, &cookie).await;
    other.send(json!({"event": "pusher:subscribe", "data": {"channel": "c"}})).await;
    drop(lost);
    let told = gap(&mut early, "a").await;
    let (since, until) = (told["since"].as_u64().unwrap(), told["until"].as_u64().unwrap());
    assert!((since..since + 60_000).contains(&until), "{told}");
    assert_eq!(other.next().await["event"], "pusher_internal:subscription_succeeded");
    other.subscribe("c2").await;
    drop(other);
    // And one that comes after it, at once.
    let mut late = joined_by(&second, &moved, &mut [&mut tab, &mut early]).await;
    late.subscribe("c").await;
    assert!(gap(&mut late, "c").await["since"].is_u64());
    tab.hears_nothing_else().await;
}
