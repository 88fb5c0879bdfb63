//! What `resume` does for a browser that has, or loses, more connections than it keeps account of, and for one whose
//! server is not there any more. Whatever is not kept is told.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, reason = "some of it is for others")]
#[path = "common/browser.rs"]
mod browser;
#[allow(dead_code, reason = "some of it is for others")]
mod common;
#[path = "common/redis_server.rs"]
mod redis_server;

use std::time::{Duration, Instant};

use browser::{back, gap, joined_by, knows, moved, new_browser, node, number, open, publish, resuming};
use common::{Client, Server};
use futures_util::SinkExt;
use redis_server::Redis;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

/// `CONNECTIONS_MAX` and `LOST_MAX`.
const OF_ONE_BROWSER: usize = 64;

/// A tab in the background, which answers pings.
struct Tab {
    back: oneshot::Sender<()>,
    /// It, and how often it was asked.
    task: JoinHandle<(Client, u32)>,
}

impl Tab {
    fn new(mut client: Client) -> Self {
        let (back, mut is_back) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut asked = 0;
            loop {
                tokio::select! {
                    message = client.message() => match message {
                        Message::Ping(_) => {
                            asked += 1;
                            client.socket.flush().await.unwrap();
                        }
                        other => panic!("{other:?} instead of a ping"),
                    },
                    _ = &mut is_back => return (client, asked),
                }
            }
        });
        Self { back, task }
    }

    async fn into_the_front(self) -> (Client, u32) {
        self.back.send(()).unwrap();
        self.task.await.unwrap()
    }
}

#[tokio::test]
async fn beyond_so_many_connections_of_a_browser_they_get_what_pusher_gives() {
    let server = resuming(json!(true));
    let start = Instant::now();
    let (first, cookie) = new_browser(&server).await;
    let mut tabs = vec![Tab::new(first)];
    while tabs.len() < OF_ONE_BROWSER {
        let mut tab = back(&server, &cookie).await;
        tab.subscribe(&format!("c{}", tabs.len())).await;
        tabs.push(Tab::new(tab));
    }
    for _ in 0..2 {
        // It need not wait for the others, and they are not asked.
        let mut beyond = back(&server, &cookie).await;
        beyond.subscribe("beyond").await;
        beyond.hears_nothing_else().await;
        publish(&server, "beyond", 1).await;
        assert_eq!(number(&mut beyond).await, 1);
        drop(beyond);
        publish(&server, "beyond", 2).await;
    }
    // When one of the others is gone, the next one is among those that count.
    let (tab, _) = tabs.pop().unwrap().into_the_front().await;
    let channel = format!("c{}", OF_ONE_BROWSER - 1);
    drop(tab);
    publish(&server, &channel, 3).await;
    let mut tab = loop {
        // As long as the server has not noticed, it is one too many.
        let mut tab = back(&server, &cookie).await;
        tab.subscribe(&channel).await;
        publish(&server, &channel, 4).await;
        match number(&mut tab).await {
            3 => break tab,
            live => assert_eq!(live, 4),
        }
    };
    assert_eq!(number(&mut tab).await, 4);
    let asked_max = (start.elapsed().as_millis() / 100) as u32 + 1;
    for tab in tabs {
        let (_, asked) = tab.into_the_front().await;
        assert!(asked <= asked_max, "asked {asked} times, at most {asked_max} expected");
    }
}

#[tokio::test]
async fn of_more_lost_connections_than_are_remembered_a_gap_is_told() {
    let mut server = resuming(json!(true));
    let (mut client, cookie) = new_browser(&server).await;
    client.subscribe("c0").await;
    for n in 1..=OF_ONE_BROWSER {
        drop(client);
        client = back(&server, &cookie).await;
        // It is listened to when the server knows that the one before it is lost.
        client.subscribe(&format!("c{n}")).await;
        client.hears_nothing_else().await;
    }
    let (mut other, others_cookie) = new_browser(&server).await;
    other.subscribe("c1").await;
    drop((client, other));
    for n in 0..=OF_ONE_BROWSER {
        publish(&server, &format!("c{n}"), 1).await;
    }
    let mut client = back(&server, &cookie).await;
    client.subscribe("c0").await;
    assert!(gap(&mut client, "c0").await["since"].is_u64(), "it is forgotten");
    client.hears_nothing_else().await;
    client.subscribe("c1").await;
    gap(&mut client, "c1").await;
    assert_eq!(number(&mut client).await, 1, "it is there yet, and another could be meant");
    client.hears_nothing_else().await;
    let mut other = back(&server, &others_cookie).await;
    other.subscribe("c1").await;
    assert_eq!(number(&mut other).await, 1);
    other.hears_nothing_else().await;
    server.says("Not all that lost connections miss is kept (1 of them)").await;
}

#[tokio::test]
async fn who_says_too_much_while_it_waits_is_listened_to_and_told_of_a_gap() {
    let server = resuming(json!(true));
    // It reads nothing from now on, so that it answers no pings, as if its network were gone.
    let (mut gone, cookie) = new_browser(&server).await;
    gone.subscribe("a").await;
    let mut client = back(&server, &cookie).await;
    client.send(json!({"event": "pusher:subscribe", "data": {"channel": "a"}})).await;
    for _ in 0..9 {
        client.send(json!({"event": "pusher:ping", "data": "x".repeat(8000)})).await;
    }
    assert_eq!(client.next().await["event"], "pusher_internal:subscription_succeeded");
    assert!(gap(&mut client, "a").await["since"].is_null());
    for _ in 0..9 {
        assert_eq!(client.next().await["event"], "pusher:pong");
    }
    drop(gone);
}

#[tokio::test]
async fn who_comes_from_a_node_that_was_killed_is_told_as_soon_as_that_is_known() {
    let redis = Redis::start(&[]);
    let (killed, server) = (node(&redis), node(&redis));
    let (mut client, cookie) = new_browser(&killed).await;
    client.subscribe("a").await;
    knows(&server, &cookie).await;
    let (mut of_this, _) = new_browser(&server).await;
    of_this.subscribe("a").await;
    // With SIGKILL.
    drop((killed, client));
    let (mut client, _) = moved(&server, &cookie).await;
    client.subscribe("a").await;
    client.subscribe("b").await;
    for channel in ["a", "b"] {
        let told = gap(&mut client, channel).await;
        assert!(told["since"].is_null() && told["until"].is_u64(), "{told}");
    }
    client.subscribe("c").await;
    gap(&mut client, "c").await;
    client.hears_nothing_else().await;
    of_this.hears_nothing_else().await;
    // From now on it is a process like any that is not there.
    drop(client);
    let (mut late, set) = open(&server, Some(&cookie), None).await;
    assert!(set.is_some());
    late.subscribe("d").await;
    gap(&mut late, "d").await;
}

/// The tabs of a browser share its cookie, which names the node that any of them came to last.
#[tokio::test]
async fn who_was_lost_by_a_node_that_was_killed_is_told_whatever_the_cookie_names() {
    let redis = Redis::start(&[]);
    let (killed, server) = (node(&redis), node(&redis));
    let (first, of_server) = new_browser(&server).await;
    knows(&killed, &of_server).await;
    drop(first);
    let (mut client, of_killed) = moved(&killed, &of_server).await;
    client.subscribe("a").await;
    knows(&server, &of_killed).await;
    let (tab, of_server) = moved(&server, &of_killed).await;
    // With SIGKILL.
    drop((killed, client, tab));
    let mut client = back(&server, &of_server).await;
    client.subscribe("a").await;
    assert!(gap(&mut client, "a").await["since"].is_null());
    client.subscribe("b").await;
    gap(&mut client, "b").await;
    client.hears_nothing_else().await;
    // And for a while whoever comes.
    let (_, process) = of_server.split_once('.').unwrap();
    let mut late = back(&server, &format!("echo_resume={:032x}.{process}", 1 << 20)).await;
    late.subscribe("a").await;
    gap(&mut late, "a").await;
    let (mut new, _) = new_browser(&server).await;
    new.subscribe("a").await;
    new.hears_nothing_else().await;
}

/// Where a tab comes to a node that its browser's cookie names, nothing but what the stopping node has said tells of a gap.
#[tokio::test]
async fn what_a_node_that_stops_cannot_hand_over_is_told() {
    let redis = Redis::start(&[]);
    let once = json!({"channels": {"once": "at-most-once"}});
    let node = || Server::start(json!({"resume": once, "databaseConfig": {"redis": {"path": redis.socket()}}}));
    let (mut stops, server) = (node(), node());
    let (mut client, of_stops) = new_browser(&stops).await;
    client.subscribe("once").await;
    client.subscribe("a").await;
    let (mut silent, silents) = new_browser(&stops).await;
    silent.subscribe("a").await;
    knows(&server, &of_stops).await;
    let (mut tab, of_server) = moved(&server, &of_stops).await;
    let (mut other, others) = moved(&server, &silents).await;
    knows(&stops, &of_server).await;
    // It does not answer any more that it has got this.
    publish(&stops, "a", 1).await;
    assert_eq!(number(&mut client).await, 1);
    let silence = Instant::now();
    while silence.elapsed() < Duration::from_millis(2_500) {
        client.hears_nothing_else().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stops.terminate();
    assert_eq!(stops.wait(), Some(0));
    let mut client = joined_by(&server, &of_server, &mut [&mut tab]).await;
    client.subscribe("a").await;
    client.hears_nothing_else().await;
    client.subscribe("once").await;
    gap(&mut client, "once").await;
    client.hears_nothing_else().await;
    let mut client = joined_by(&server, &others, &mut [&mut other]).await;
    client.subscribe("a").await;
    gap(&mut client, "a").await;
    client.hears_nothing_else().await;
}
