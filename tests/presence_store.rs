//! Presence lists in Redis, as the old server's users read them, with a real Redis and the real program.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;
mod redis_process;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use common::{Client, Server};
use redis_process::Redis;
use serde_json::{Value, json};

const CHANNEL: &str = "presence-room.1";
const KEY: &str = "shop_presence-room.1:members";

fn start(redis: &Redis, publish: bool) -> Server {
    Server::start(json!({
        "database": "redis",
        "databaseConfig": {
            "redis": { "host": "127.0.0.1", "port": redis.port, "db": 3, "keyPrefix": "shop_" },
            "publishPresence": publish,
        },
    }))
}

async fn join(server: &Server, user: u32) -> Client {
    let mut client = server.connect().await;
    let data = format!(r#"{{"user_id":{user},"user_info":{{"name":"u{user}"}}}}"#);
    let reply = client.subscribe_signed(CHANNEL, Some(&data)).await;
    assert_eq!(reply["event"], "pusher_internal:subscription_succeeded", "{reply}");
    client
}

fn entry(user: u32, client: &Client) -> Value {
    json!({ "user_id": user, "user_info": { "name": format!("u{user}") }, "socketId": client.socket_id })
}

/// Waits until the key has this list, in whatever order.
fn until_list(redis: &Redis, expected: &[Value]) -> String {
    redis.until(&["-n", "3", "GET", KEY], |said| {
        let Ok(Value::Array(list)) = serde_json::from_str(said) else { return false };
        list.len() == expected.len() && expected.iter().all(|entry| list.contains(entry))
    })
}

/// Messages to `PresenceChannelUpdated`.
struct Updates {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Updates {
    fn of(redis: &Redis) -> Self {
        let mut child = Command::new("redis-cli")
            .args(["-p", &redis.port.to_string(), "SUBSCRIBE", "PresenceChannelUpdated"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.nth(2).unwrap().unwrap(), "1");
        Self { child, lines }
    }

    fn next(&mut self) -> String {
        self.lines.nth(2).unwrap().unwrap()
    }
}

impl Drop for Updates {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn each_connection_of_a_member_is_listed_as_the_old_server_did() {
    let redis = Redis::start(&[]);
    let mut server = start(&redis, true);
    let mut updates = Updates::of(&redis);
    let ann = join(&server, 1).await;
    let raw = until_list(&redis, &[entry(1, &ann)]);
    let written = format!(r#"[{{"user_id":1,"user_info":{{"name":"u1"}},"socketId":"{}"}}]"#, ann.socket_id);
    assert_eq!(raw, written);
    let message = format!(r#"{{"event":{{"channel":"presence-room.1:members","members":{written}}}}}"#);
    assert_eq!(updates.next(), message);

    let bob = join(&server, 2).await;
    let raw = until_list(&redis, &[entry(1, &ann), entry(2, &bob)]);
    assert!(updates.next().contains(&raw));
    let bob_again = join(&server, 2).await;
    let raw = until_list(&redis, &[entry(1, &ann), entry(2, &bob), entry(2, &bob_again)]);
    assert!(updates.next().contains(&raw));
    drop(bob);
    until_list(&redis, &[entry(1, &ann), entry(2, &bob_again)]);
    updates.next();
    drop((ann, bob_again));
    redis.until(&["-n", "3", "GET", KEY], |said| said == "[]");
    // Two leave at once: that may be one change.
    while !updates.next().ends_with(r#""members":[]}}"#) {}

    // It stops, and what it wrote is gone.
    let _carl = join(&server, 3).await;
    redis.until(&["-n", "3", "GET", KEY], |said| said.contains("u3"));
    updates.next();
    server.terminate();
    assert_eq!(server.wait(), Some(0));
    assert_eq!(redis.cli(&["-n", "3", "EXISTS", KEY]), "0");
    assert_eq!(updates.next(), r#"{"event":{"channel":"presence-room.1:members","members":[]}}"#);
}

/// The old server stored 3 of 30.
#[tokio::test]
async fn thirty_who_join_at_once_are_thirty_and_leave_nobody_behind() {
    let redis = Redis::start(&[]);
    let server = start(&redis, false);
    let clients = futures_util::future::join_all((0..30).map(|user| join(&server, user))).await;
    let entries: Vec<Value> = clients.iter().enumerate().map(|(user, client)| entry(user as u32, client)).collect();
    until_list(&redis, &entries);
    drop(clients);
    redis.until(&["-n", "3", "GET", KEY], |said| said == "[]");
    // An empty list is left to expire.
    let ttl: i64 = redis.cli(&["-n", "3", "TTL", KEY]).parse().unwrap();
    assert!((1..=120).contains(&ttl), "{ttl}");
}

/// A server that is killed cannot tidy up, so its keys have an end by themselves; a new one writes the truth.
#[tokio::test]
async fn what_a_crash_leaves_behind_expires() {
    let redis = Redis::start(&[]);
    let server = start(&redis, false);
    let _ann = join(&server, 1).await;
    redis.until(&["-n", "3", "GET", KEY], |said| said.contains("u1"));
    drop(server);
    let ttl: i64 = redis.cli(&["-n", "3", "TTL", KEY]).parse().unwrap();
    assert!((1..=120).contains(&ttl), "{ttl}");
    let server = start(&redis, false);
    let bob = join(&server, 2).await;
    until_list(&redis, &[entry(2, &bob)]);
}

/// Whatever is in the key is overwritten: with the old server a bad value was a crash at each join.
#[tokio::test]
async fn a_poisoned_key_is_overwritten() {
    let redis = Redis::start(&[]);
    let server = start(&redis, false);
    redis.cli(&["-n", "3", "LPUSH", KEY, "not a list of members"]);
    let ann = join(&server, 1).await;
    until_list(&redis, &[entry(1, &ann)]);
}

#[tokio::test]
async fn after_an_outage_the_lists_are_true_again() {
    let mut redis = Redis::start(&[]);
    let server = start(&redis, false);
    let ann = join(&server, 1).await;
    until_list(&redis, &[entry(1, &ann)]);
    let port = redis.port;
    redis.kill();
    // Clients do not notice.
    let bob = join(&server, 2).await;
    drop(ann);
    let redis = Redis::at(port);
    until_list(&redis, &[entry(2, &bob)]);
}

/// With no prefix the server hears its own message; no client may (the old server published the lists to anybody).
#[tokio::test]
async fn no_client_hears_of_the_lists() {
    let redis = Redis::start(&[]);
    let server = Server::start(json!({
        "database": "redis",
        "databaseConfig": { "redis": { "port": redis.port }, "publishPresence": true },
    }));
    let mut spy = server.connect().await;
    spy.subscribe("PresenceChannelUpdated").await;
    let mut updates = Updates::of(&redis);
    redis.until(&["PUBSUB", "NUMPAT"], |said| said == "1");
    let _ann = join(&server, 1).await;
    updates.next();
    redis.cli(&["PUBLISH", "PresenceChannelUpdated", r#"{"event":"after"}"#]);
    assert_eq!(spy.next().await["event"], "after");
}
