//! What operators see: numbers that move with what happens, whether the server lives and is ready, and who may know.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, reason = "each test file needs some of it")]
mod common;
#[path = "common/redis_server.rs"]
mod redis_server;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use common::Server;
use redis_server::Redis;
use serde_json::{Value, json};

/// How long anything awaited may take: far longer than it ever does.
const PATIENCE: Duration = Duration::from_secs(20);

async fn get(port: u16, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut request = reqwest::Client::new().get(format!("http://127.0.0.1:{port}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

/// The numbers of a page, by name and labels as they stand there, without what all names begin with.
async fn numbers(server: &Server) -> HashMap<String, f64> {
    let (status, page) = get(server.port, "/metrics", &[]).await;
    assert_eq!(status, 200, "{page}");
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let number = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        let name = name.strip_prefix("laravel_echo_server_").unwrap_or(name);
        (name.to_owned(), value.parse().unwrap())
    };
    lines.map(number).collect()
}

/// Waits until the page has these numbers.
async fn shows(server: &Server, expected: &[(&str, f64)]) {
    let start = Instant::now();
    loop {
        let numbers = numbers(server).await;
        let wrong: Vec<_> = expected.iter().filter(|(name, value)| numbers.get(*name) != Some(value)).collect();
        if wrong.is_empty() {
            return;
        }
        let found: Vec<_> = wrong.iter().map(|(name, _)| numbers.get(*name)).collect();
        assert!(start.elapsed() < PATIENCE, "not {wrong:?} but {found:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn numbers_move_with_what_happens() {
    let server = Server::start(json!({}));
    let before = numbers(&server).await;
    assert_eq!(before["connections{app=\"app-id\",protocol=\"pusher\"}"], 0.0);
    assert_eq!(before["shards"], 2.0);
    assert!(before["process_resident_memory_bytes"] > 1e6 && before["process_open_fds"] > 5.0);
    assert!(before["process_start_time_seconds"] > 1.7e9);

    // On both shards, since the second one goes to the one with fewer connections.
    let (mut one, mut two) = (server.connect().await, server.connect().await);
    for client in [&mut one, &mut two] {
        client.subscribe("news").await;
    }
    one.subscribe_signed("private-a", None).await;
    let member = r#"{"user_id":"7"}"#;
    for client in [&mut one, &mut two] {
        client.subscribe_signed("presence-room", Some(member)).await;
    }
    shows(
        &server,
        &[
            ("connections{app=\"app-id\",protocol=\"pusher\"}", 2.0),
            ("connections_opened_total{app=\"app-id\",protocol=\"pusher\"}", 2.0),
            ("channels{app=\"app-id\",kind=\"public\"}", 1.0),
            ("subscriptions{app=\"app-id\",kind=\"public\"}", 2.0),
            ("subscriptions{app=\"app-id\",kind=\"private\"}", 1.0),
            ("subscriptions{app=\"app-id\",kind=\"presence\"}", 2.0),
            ("presence_members{app=\"app-id\"}", 1.0),
            ("messages_received_total{app=\"app-id\"}", 5.0),
        ],
    )
    .await;

    let event = |channel: &str| json!({"name": "e", "channel": channel, "data": "{}"});
    assert_eq!(server.publish(event("news")).await.0, 200);
    for client in [&mut one, &mut two] {
        assert_eq!(client.next().await["event"], "e");
    }
    server.publish(event("nobody")).await;
    one.send(json!({"event": "client-x", "channel": "presence-room", "data": {}})).await;
    assert_eq!(two.next().await["event"], "client-x");
    shows(
        &server,
        &[
            ("events_received_total{source=\"http_api\"}", 2.0),
            ("events_unheard_total{source=\"http_api\"}", 1.0),
            ("events_received_total{source=\"client\"}", 1.0),
            ("messages_delivered_total{app=\"app-id\"}", 3.0),
            // Each shard that has written it.
            ("event_delivery_seconds_count", 2.0),
            ("http_requests_total{route=\"api\",status=\"2xx\"}", 2.0),
        ],
    )
    .await;
    let numbers = numbers(&server).await;
    assert!(numbers["event_delivery_seconds_sum"] < 20.0);
    assert!(numbers["delivered_bytes_total{app=\"app-id\"}"] > 100.0);

    one.send(json!({"event": "pusher:unsubscribe", "data": {"channel": "news"}})).await;
    one.subscribe_signed("private-b", None).await;
    let refused = one.subscribe_signed(&"x".repeat(300), None).await;
    assert_eq!(refused["event"], "pusher:subscription_error");
    one.socket.close(None).await.unwrap();
    drop(two);
    shows(
        &server,
        &[
            ("connections{app=\"app-id\",protocol=\"pusher\"}", 0.0),
            ("connections_closed_total{code=\"1000\"}", 1.0),
            ("connections_closed_total{code=\"1006\"}", 1.0),
            ("channels{app=\"app-id\",kind=\"public\"}", 0.0),
            ("channels{app=\"app-id\",kind=\"private\"}", 0.0),
            ("subscriptions{app=\"app-id\",kind=\"public\"}", 0.0),
            ("subscriptions{app=\"app-id\",kind=\"presence\"}", 0.0),
            ("subscriptions_refused_total{app=\"app-id\",reason=\"limit\"}", 1.0),
            ("presence_members{app=\"app-id\"}", 0.0),
            ("subscribes_total{app=\"app-id\",kind=\"private\"}", 2.0),
        ],
    )
    .await;
}

/// A reload brings an app, and takes one away: each has its own numbers, under its own name.
#[tokio::test]
async fn an_app_that_has_come_has_its_name() {
    let mut server = Server::start(json!({}));
    let mut old = server.connect().await;
    server.change_config(|config| {
        let new = json!({"appId": "new-id", "key": "new-key", "secret": "new-secret"});
        config["clients"].as_array_mut().unwrap().insert(0, new);
    });
    server.signal("HUP");
    server.says("clients[new-id] added").await;
    let mut new = server.open("new-key").await;
    assert_eq!(new.next().await["event"], "pusher:connection_established");
    new.subscribe("news").await;
    old.subscribe("orders").await;
    old.subscribe("news").await;
    shows(
        &server,
        &[
            ("connections{app=\"new-id\",protocol=\"pusher\"}", 1.0),
            ("subscriptions{app=\"new-id\",kind=\"public\"}", 1.0),
            ("messages_received_total{app=\"new-id\"}", 1.0),
            ("connections{app=\"app-id\",protocol=\"pusher\"}", 1.0),
            ("subscriptions{app=\"app-id\",kind=\"public\"}", 2.0),
            ("messages_received_total{app=\"app-id\"}", 2.0),
        ],
    )
    .await;
    server.change_config(|config| drop(config["clients"].as_array_mut().unwrap().pop()));
    server.signal("HUP");
    server.says("clients[app-id] removed").await;
    assert_eq!(old.closed().await.0, 4001);
    shows(&server, &[("connections{app=\"new-id\",protocol=\"pusher\"}", 1.0)]).await;
    let numbers = numbers(&server).await;
    assert_eq!(numbers.get("connections{app=\"app-id\",protocol=\"pusher\"}"), None);
}

#[tokio::test]
async fn readiness_follows_redis_and_life_does_not() {
    let mut redis = Redis::start(&[]);
    let server = Server::start(json!({ "databaseConfig": { "redis": { "path": redis.socket() } } }));
    let is_ready = async |expected: bool| {
        let start = Instant::now();
        loop {
            let (status, body) = get(server.port, "/ready", &[]).await;
            let body: Value = serde_json::from_str(&body).unwrap();
            match status {
                200 if expected => return assert_eq!(body, json!({ "status": "ready" })),
                503 if !expected => {
                    assert_eq!(
                        (&body["status"], &body["reasons"][0]["reason"]),
                        (&json!("not ready"), &json!("redis"))
                    );
                    assert!(!body.to_string().contains("redis.sock"), "where it is is nobody's business: {body}");
                    return;
                }
                _ => assert!(start.elapsed() < PATIENCE, "{status} {body}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    is_ready(true).await;
    redis.kill();
    is_ready(false).await;
    shows(&server, &[("redis_connected", 0.0), ("ready", 0.0), ("redis_disconnects_total", 1.0)]).await;
    assert_eq!(get(server.port, "/health", &[]).await, (200, r#"{"status":"alive"}"#.to_owned()));
    redis.restart();
    is_ready(true).await;
    shows(&server, &[("redis_connected", 1.0), ("ready", 1.0)]).await;
    assert!(numbers(&server).await["redis_gap_seconds_total"] > 0.0);
    let payload = r#"{"event":"e","data":{}}"#;
    redis::cmd("PUBLISH").arg("x").arg(payload).exec_async(&mut redis.client().await).await.unwrap();
    shows(
        &server,
        &[("events_received_total{source=\"redis\"}", 1.0), ("events_unheard_total{source=\"redis\"}", 1.0)],
    )
    .await;
}

#[tokio::test]
async fn numbers_are_for_those_who_may_know() {
    let server = Server::start(json!({}));
    let status = async |headers: &[(&str, &str)]| get(server.port, "/metrics", headers).await.0;
    assert_eq!(status(&[]).await, 200);
    // A proxy on this machine, which asks for anybody.
    assert_eq!(status(&[("X-Forwarded-For", "203.0.113.9")]).await, 403);
    assert_eq!(status(&[("Via", "1.1 proxy")]).await, 403);
    // A page whose name leads to this machine.
    assert_eq!(status(&[("Host", "evil.example")]).await, 403);

    let token = "0123456789abcdef";
    let server = Server::start(json!({ "metrics": { "token": token } }));
    let status = async |headers: &[(&str, &str)]| get(server.port, "/metrics", headers).await.0;
    assert_eq!(status(&[]).await, 401);
    assert_eq!(status(&[("Authorization", "Bearer 0123456789abcdeX")]).await, 401);
    let right = format!("Bearer {token}");
    assert_eq!(status(&[("Authorization", &right), ("X-Forwarded-For", "203.0.113.9")]).await, 200);
    let (_, page) = get(server.port, "/metrics", &[("Authorization", &right)]).await;
    for secret in [token, common::SECRET, common::KEY] {
        assert!(!page.contains(secret), "{secret} is shown");
    }

    let server = Server::start(json!({ "metrics": { "port": 0 } }));
    let line = server.banner.lines().find(|line| line.contains("Metrics are at")).unwrap();
    let own: u16 = line.rsplit_once(':').unwrap().1.split('/').next().unwrap().parse().unwrap();
    assert_eq!(get(server.port, "/metrics", &[]).await.0, 404);
    assert_eq!(get(own, "/metrics", &[("X-Forwarded-For", "203.0.113.9")]).await.0, 200);
    assert_eq!(get(own, "/health", &[]).await.0, 200);
    assert_eq!(get(own, "/apps/app-id/channels", &[]).await.0, 404);

    let server = Server::start(json!({ "metrics": false }));
    assert_eq!(get(server.port, "/metrics", &[]).await.0, 404);
}

/// As containers use it.
#[tokio::test]
async fn the_command_health_asks_the_server_of_its_configuration() {
    let server = Server::start(json!({}));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("laravel-echo-server.json");
    let health = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_laravel-echo-server"));
        let output = command.arg("health").args(arguments).arg("--config").arg(&path).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    std::fs::write(&path, json!({ "host": "127.0.0.1", "port": server.port }).to_string()).unwrap();
    assert_eq!(health(&[]), (Some(0), "{\"status\":\"alive\"}\n".to_owned(), String::new()));
    // Its Redis is not there.
    let (code, _, said) = health(&["--ready"]);
    assert!(
        code == Some(1) && said.contains("/ready answers 503") && said.contains("Redis is not connected"),
        "{said}"
    );
    drop(server);
    let (code, _, said) = health(&[]);
    assert!(code == Some(1) && said.contains("no server answers at http://127.0.0.1:"), "{said}");
}
