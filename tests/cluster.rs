//! Several nodes on one real Redis: what one says, the clients of the others hear, once and in order.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on shall end")]

#[allow(dead_code, reason = "some of it is for others")]
mod common;
#[allow(dead_code, reason = "some of it is for others")]
#[path = "common/receiver.rs"]
mod receiver;
#[path = "common/redis_server.rs"]
mod redis_server;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::{Client, KEY, SECRET, Server};
use receiver::{Answer, Receiver};
use redis_server::Redis;
use serde_json::{Value, json};

fn node(redis: &Redis) -> Server {
    node_with(redis, json!({}))
}

fn node_with(redis: &Redis, mut settings: Value) -> Server {
    settings["databaseConfig"] = json!({"redis": {"path": redis.socket()}});
    Server::start(settings)
}

/// A node that is ready knows those that were there before it, and they know it.
fn nodes(redis: &Redis, count: usize) -> Vec<Server> {
    (0..count).map(|_| node(redis)).collect()
}

/// Waits until every node has heard of every other one. A start does so, too, but not for longer than two seconds.
async fn know_each_other(nodes: &[Server]) {
    for node in nodes {
        let start = Instant::now();
        let url = format!("http://127.0.0.1:{}/echo-server/api/status", node.port);
        loop {
            let status = reqwest::get(&url).await.unwrap().text().await.unwrap();
            let status: Value = serde_json::from_str(&status).unwrap();
            if status["nodes"].as_array().unwrap().len() == nodes.len() {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Waits until every node has heard of these members.
async fn know(nodes: &[Server], channel: &str, members: &[&str]) {
    for node in nodes {
        node.knows_members(channel, members).await;
    }
}

fn member(user_id: &str) -> String {
    json!({"user_id": user_id, "user_info": {"name": user_id}}).to_string()
}

/// The ids in the answer to a subscribe to a presence channel.
fn ids(reply: &Value) -> BTreeSet<String> {
    assert_eq!(reply["event"], "pusher_internal:subscription_succeeded", "{reply}");
    let data: Value = serde_json::from_str(reply["data"].as_str().unwrap()).unwrap();
    data["presence"]["ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

async fn hears_member(client: &mut Client, event: &str, user_id: &str) {
    let heard = client.next().await;
    assert_eq!(heard["event"], format!("pusher_internal:{event}"), "{heard}");
    let data: Value = serde_json::from_str(heard["data"].as_str().unwrap()).unwrap();
    assert_eq!(data["user_id"], user_id, "{heard}");
}

#[tokio::test]
async fn client_events_and_http_events_arrive_once_on_every_node() {
    let redis = Redis::start(&[]);
    let nodes = nodes(&redis, 3);
    let mut clients = Vec::new();
    for node in nodes.iter().chain(&nodes) {
        let mut client = node.connect().await;
        client.subscribe_signed("private-a", None).await;
        clients.push(client);
    }
    clients[0].send(json!({"event": "client-typing", "channel": "private-a", "data": {"n": 1}})).await;
    for client in &mut clients[1..] {
        assert_eq!(client.next().await, json!({"event": "client-typing", "channel": "private-a", "data": {"n": 1}}));
    }
    // A backend publishes on one node, for others than a client of another one.
    let except = clients[4].socket_id.clone();
    let event = json!({"name": "e", "channel": "private-a", "data": "2", "socket_id": except});
    assert_eq!(nodes[0].publish(event).await.0, 200);
    for (index, client) in clients.iter_mut().enumerate().filter(|(index, _)| *index != 4) {
        assert_eq!(client.next().await, json!({"event": "e", "channel": "private-a", "data": "2"}), "client {index}");
    }
    // Laravel's own events are heard by each node directly.
    let mut laravel = redis.client().await;
    let payload = r#"{"event":"laravel","data":3}"#;
    let _: usize = redis::cmd("PUBLISH").arg("private-a").arg(payload).query_async(&mut laravel).await.unwrap();
    for client in &mut clients {
        assert_eq!(client.next().await, json!({"event": "laravel", "channel": "private-a", "data": "3"}));
        client.hears_nothing_else().await;
    }
}

#[tokio::test]
async fn events_of_one_node_stay_in_order_on_the_others() {
    const COUNT: u32 = 2000;
    let redis = Redis::start(&[]);
    let nodes = nodes(&redis, 3);
    let mut listeners = Vec::new();
    for node in &nodes {
        let mut client = node.connect().await;
        client.subscribe("a").await;
        listeners.push(client);
    }
    let publish = |source: usize| {
        let node = &nodes[source];
        async move {
            for number in 0..COUNT / 10 {
                let batch: Vec<Value> = (0..10)
                    .map(|part| {
                        let data = json!([source, number * 10 + part]).to_string();
                        json!({"name": "e", "channel": "a", "data": data})
                    })
                    .collect();
                let body = json!({"batch": batch}).to_string();
                assert_eq!(node.post("/apps/app-id/batch_events", &body, SECRET).await.0, 200);
            }
        }
    };
    let listen = futures_util::future::join_all(listeners.iter_mut().map(|client| async {
        let mut next = [0, 0];
        for _ in 0..COUNT * 2 {
            let event = client.next().await;
            let [source, number]: [usize; 2] = serde_json::from_str(event["data"].as_str().unwrap()).unwrap();
            assert_eq!(number, next[source], "of node {source}");
            next[source] += 1;
        }
    }));
    tokio::join!(publish(0), publish(1), listen);
    for client in &mut listeners {
        client.hears_nothing_else().await;
    }
}

#[tokio::test]
async fn events_for_a_user_and_terminations_reach_the_users_node() {
    let redis = Redis::start(&[]);
    let nodes = nodes(&redis, 2);
    let mut client = nodes[1].connect().await;
    assert_eq!(client.sign_in(r#"{"id":"7"}"#).await["event"], "pusher:signin_success");
    client.asks_for("#server-to-user-7").await;
    assert_eq!(client.next().await["event"], "pusher_internal:subscription_succeeded");
    let event = json!({"name": "e", "channel": "#server-to-user-7", "data": "1"});
    assert_eq!(nodes[0].publish(event).await.0, 200);
    assert_eq!(client.next().await["event"], "e");
    assert_eq!(nodes[0].post("/apps/app-id/users/7/terminate_connections", "", SECRET).await.0, 200);
    assert_eq!(client.closed().await.0, 4009);
}

#[tokio::test]
async fn a_cache_channel_keeps_what_was_published_on_another_node() {
    let redis = Redis::start(&[]);
    let nodes = nodes(&redis, 2);
    let mut witness = nodes[1].connect().await;
    witness.subscribe("cache-a").await;
    assert_eq!(witness.next().await["event"], "pusher:cache_miss");
    assert_eq!(nodes[0].publish(json!({"name": "e", "channel": "cache-a", "data": "1"})).await.0, 200);
    assert_eq!(witness.next().await["event"], "e");
    let mut late = nodes[1].connect().await;
    late.subscribe("cache-a").await;
    assert_eq!(late.next().await["event"], "e");
}

#[tokio::test]
async fn a_user_on_two_nodes_is_one_member() {
    let redis = Redis::start(&[]);
    let nodes = nodes(&redis, 3);
    let mut ann = nodes[0].connect().await;
    assert_eq!(ids(&ann.subscribe_signed("presence-a", Some(&member("ann"))).await), set(&["ann"]));
    know(&nodes, "presence-a", &["ann"]).await;
    let mut bob = nodes[1].connect().await;
    bob.subscribe_signed("presence-a", Some(&member("bob"))).await;
    hears_member(&mut ann, "member_added", "bob").await;
    know(&nodes, "presence-a", &["ann", "bob"]).await;
    // Once more, on the third node; that is no news to anybody, and the list there is complete.
    let mut bobs_other = nodes[2].connect().await;
    let reply = bobs_other.subscribe_signed("presence-a", Some(&member("bob"))).await;
    assert_eq!(ids(&reply), set(&["ann", "bob"]));
    // What Bob sends comes after the news of him.
    bob.send(json!({"event": "client-hi", "channel": "presence-a", "data": 1})).await;
    assert_eq!(ann.next().await["event"], "client-hi");
    assert_eq!(bobs_other.next().await["event"], "client-hi");
    for node in &nodes {
        let counts = node.get("/apps/app-id/channels/presence-a", &[("info", "user_count,subscription_count")]).await;
        assert_eq!(counts, (200, r#"{"occupied":true,"user_count":2,"subscription_count":3}"#.to_owned()));
        let users = node.get("/apps/app-id/channels/presence-a/users", &[]).await;
        assert_eq!(users, (200, r#"{"users":[{"id":"ann"},{"id":"bob"}]}"#.to_owned()));
        let all = node.get("/apps/app-id/channels", &[("filter_by_prefix", "presence-"), ("info", "user_count")]).await;
        assert_eq!(all, (200, r#"{"channels":{"presence-a":{"user_count":2}}}"#.to_owned()));
    }
    drop(bob);
    // Bob's other tab is still there; when it has gone, he has.
    bobs_other.hears_nothing_else().await;
    drop(bobs_other);
    hears_member(&mut ann, "member_removed", "bob").await;
    ann.hears_nothing_else().await;
}

#[tokio::test]
async fn a_node_that_is_killed_loses_its_members_once() {
    let redis = Redis::start(&[]);
    let mut nodes = nodes(&redis, 3);
    let mut ann = nodes[0].connect().await;
    ann.subscribe_signed("presence-a", Some(&member("ann"))).await;
    know(&nodes, "presence-a", &["ann"]).await;
    let mut cay = nodes[1].connect().await;
    cay.subscribe_signed("presence-a", Some(&member("cay"))).await;
    hears_member(&mut ann, "member_added", "cay").await;
    know(&nodes, "presence-a", &["ann", "cay"]).await;
    let killed = nodes.remove(2);
    let mut bob = killed.connect().await;
    let reply = bob.subscribe_signed("presence-a", Some(&member("bob"))).await;
    assert_eq!(ids(&reply), set(&["ann", "bob", "cay"]));
    hears_member(&mut ann, "member_added", "bob").await;
    hears_member(&mut cay, "member_added", "bob").await;
    let before = Instant::now();
    // With SIGKILL.
    drop(killed);
    hears_member(&mut ann, "member_removed", "bob").await;
    hears_member(&mut cay, "member_removed", "bob").await;
    assert!(before.elapsed() < Duration::from_secs(8), "{:?}", before.elapsed());
    ann.hears_nothing_else().await;
    cay.hears_nothing_else().await;
}

#[tokio::test]
async fn nodes_without_a_secret_share_one() {
    let redis = Redis::start(&[]);
    let clients = json!([{"appId": "app-id", "key": KEY}]);
    let nodes: Vec<Server> =
        (0..2).map(|_| node_with(&redis, json!({"clients": clients, "httpApiKeyAuth": "off"}))).collect();
    let mut laravel = redis.client().await;
    let keys: Vec<String> =
        redis::cmd("KEYS").arg("laravel-echo-server:secret:*").query_async(&mut laravel).await.unwrap();
    assert_eq!(keys.len(), 1);
    let secret: String = redis::cmd("GET").arg(&keys[0]).query_async(&mut laravel).await.unwrap();
    for node in &nodes {
        let event = json!({"name": "e", "channel": "a", "data": "1"}).to_string();
        assert_eq!(node.post("/apps/app-id/events", &event, &secret).await.0, 200);
        assert_eq!(node.post("/apps/app-id/events", &event, SECRET).await.0, 401);
    }
}

#[tokio::test]
async fn clusters_of_different_names_and_nodes_that_want_none_are_apart() {
    let redis = Redis::start(&[]);
    let settings = [json!({}), json!({"cluster": {"name": "staging"}}), json!({"cluster": false})];
    let nodes = settings.map(|settings| node_with(&redis, settings));
    let mut clients = Vec::new();
    for node in &nodes {
        let mut client = node.connect().await;
        let reply = client.subscribe_signed("presence-a", Some(&member(&client.socket_id.clone()))).await;
        assert_eq!(ids(&reply).len(), 1);
        clients.push(client);
    }
    for node in &nodes {
        assert_eq!(node.publish(json!({"name": "e", "channel": "presence-a", "data": "1"})).await.0, 200);
    }
    for client in &mut clients {
        assert_eq!(client.next().await["event"], "e");
        client.hears_nothing_else().await;
    }
}

/// And no more than that.
#[tokio::test]
async fn an_acl_user_needs_what_the_docs_say() {
    let docs = include_str!("../docs/cluster.md");
    let rights = docs.lines().find_map(|line| line.trim().strip_prefix("ACL SETUSER echo ")).unwrap();
    let redis = Redis::start(&[]);
    let mut acl = redis::cmd("ACL");
    acl.arg(&["SETUSER", "echo", "reset", "on", ">pw", "-@all"]).arg(rights.split(' ').collect::<Vec<_>>());
    acl.exec_async(&mut redis.client().await).await.unwrap();
    let clients = json!([{"appId": "app-id", "key": KEY}]);
    let settings = json!({
        "databaseConfig": {"redis": {"path": redis.socket(), "username": "echo", "password": "pw", "keyPrefix": "shop_database_"}},
        "clients": clients,
    });
    let nodes: Vec<Server> = (0..2).map(|_| Server::start(settings.clone())).collect();
    let mut laravel = redis.client().await;
    let keys: Vec<String> =
        redis::cmd("KEYS").arg("laravel-echo-server:secret:*").query_async(&mut laravel).await.unwrap();
    let secret: String = redis::cmd("GET").arg(&keys[0]).query_async(&mut laravel).await.unwrap();
    let mut client = nodes[1].connect().await;
    client.subscribe("a").await;
    let event = json!({"name": "e", "channel": "a", "data": "1"}).to_string();
    assert_eq!(nodes[0].post("/apps/app-id/events", &event, &secret).await.0, 200);
    assert_eq!(client.next().await["event"], "e");
}

#[tokio::test]
async fn watchlists_know_who_is_online_on_any_node() {
    let redis = Redis::start(&[]);
    let mut nodes = nodes(&redis, 2);
    let mut bob = nodes[1].connect().await;
    bob.sign_in(r#"{"id":"bob"}"#).await;
    let mut watcher = nodes[0].connect().await;
    watcher.sign_in(r#"{"id":"ann","watchlist":["bob"]}"#).await;
    let mut news = watcher.next().await;
    if news["data"].as_str().unwrap().contains("offline") {
        // Asked before word of Bob had come.
        news = watcher.next().await;
    }
    assert!(news["data"].as_str().unwrap().contains(r#""name":"online","user_ids":["bob"]"#), "{news}");
    let mut bobs_other = nodes[0].connect().await;
    bobs_other.sign_in(r#"{"id":"bob"}"#).await;
    drop(bob);
    watcher.hears_nothing_else().await;
    drop(bobs_other);
    let news = watcher.next().await;
    assert!(news["data"].as_str().unwrap().contains(r#""name":"offline","user_ids":["bob"]"#), "{news}");
    // With a node that is killed its users go offline.
    let mut cay = nodes[1].connect().await;
    cay.sign_in(r#"{"id":"cay"}"#).await;
    let mut watcher = nodes[0].connect().await;
    watcher.sign_in(r#"{"id":"ann","watchlist":["cay"]}"#).await;
    while !watcher.next().await["data"].as_str().unwrap().contains("online") {}
    drop(nodes.remove(1));
    let news = watcher.next().await;
    assert!(news["data"].as_str().unwrap().contains(r#""name":"offline","user_ids":["cay"]"#), "{news}");
}

/// The next message, which is the count of the channel's subscribers.
async fn count(client: &mut Client) -> String {
    let message = client.next().await;
    assert_eq!(message["event"], "pusher_internal:subscription_count", "{message}");
    message["data"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn backends_are_told_once_and_subscribers_counted_over_all_nodes() {
    let redis = Redis::start(&[]);
    let mut receiver = Receiver::start(|_| Answer::Status(200)).await;
    let app = json!({
        "appId": "app-id", "key": KEY, "secret": SECRET,
        "webhooks": [{"url": receiver.url}], "subscriptionCount": true,
    });
    let settings = json!({"clients": [app], "cluster": {"presenceGraceSeconds": 1}});
    let mut nodes: Vec<Server> = (0..3).map(|_| node_with(&redis, settings.clone())).collect();
    know_each_other(&nodes).await;
    let mut told = async |expected: &[&str]| {
        let events = receiver.events(expected.len()).await;
        let mut events: Vec<String> = events
            .iter()
            .map(|event| {
                let detail = event.get("subscription_count").or(event.get("user_id")).unwrap_or(&Value::Null);
                format!("{} {detail}", event["name"].as_str().unwrap())
            })
            .collect();
        events.sort();
        assert_eq!(events, expected);
    };
    // The oldest node tells, wherever it happens.
    let mut ann = nodes[1].connect().await;
    ann.subscribe("a").await;
    assert_eq!(count(&mut ann).await, r#"{"subscription_count":1}"#);
    told(&["channel_occupied null", "subscription_count 1"]).await;
    let mut bob = nodes[2].connect().await;
    bob.subscribe("a").await;
    assert_eq!(count(&mut ann).await, r#"{"subscription_count":2}"#);
    told(&["subscription_count 2"]).await;
    let mut cay = nodes[2].connect().await;
    cay.subscribe_signed("presence-a", Some(&member("cay"))).await;
    told(&["channel_occupied null", "member_added \"cay\""]).await;
    // The next one takes over, and tells who has left with the node that has stopped.
    nodes[0].terminate();
    nodes[0].wait();
    nodes.remove(0);
    nodes[1].terminate();
    nodes[1].wait();
    told(&["channel_vacated null", "member_removed \"cay\"", "subscription_count 1"]).await;
    assert_eq!(count(&mut ann).await, r#"{"subscription_count":1}"#);
    drop(ann);
    told(&["channel_vacated null", "subscription_count 0"]).await;
}

#[tokio::test]
async fn one_node_keeps_the_lists_in_redis_for_all() {
    let redis = Redis::start(&[]);
    let settings = json!({"database": "redis"});
    let mut nodes: Vec<Server> = (0..2).map(|_| node_with(&redis, settings.clone())).collect();
    know_each_other(&nodes).await;
    let mut ann = nodes[0].connect().await;
    ann.subscribe_signed("presence-a", Some(&member("ann"))).await;
    let mut bob = nodes[1].connect().await;
    bob.subscribe_signed("presence-a", Some(&member("bob"))).await;
    let mut application = redis.client().await;
    let mut stored = async |expected: &[&str]| {
        let start = Instant::now();
        loop {
            let list: Option<String> =
                redis::cmd("GET").arg("presence-a:members").query_async(&mut application).await.unwrap();
            let list: Vec<Value> = serde_json::from_str(&list.unwrap_or("[]".to_owned())).unwrap();
            let mut users: Vec<&str> = list.iter().map(|member| member["user_id"].as_str().unwrap()).collect();
            users.sort_unstable();
            if users == expected {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{users:?} instead of {expected:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    stored(&["ann", "bob"]).await;
    drop(ann);
    drop(nodes.remove(0));
    // The other one writes now.
    stored(&["bob"]).await;
    drop(bob);
    stored(&[]).await;
}
