//! `subscribers`: the two ways of events, each switched off.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;
mod redis_process;

use common::Server;
use redis_process::Redis;
use serde_json::json;

#[tokio::test]
async fn without_http_events_come_from_redis_only() {
    let redis = Redis::start(&[]);
    let server = Server::start(json!({
        "subscribers": { "http": false, "redis": true },
        "databaseConfig": { "redis": { "port": redis.port, "keyPrefix": "" } },
    }));
    let mut client = server.connect().await;
    client.subscribe("orders").await;
    let event = json!({ "name": "e", "channel": "orders", "data": "{}" });
    let (status, body) = server.publish(event.clone()).await;
    assert_eq!(status, 404);
    assert!(body.contains("events over HTTP are switched off here"), "{body}");
    let (status, _) =
        server.post("/apps/app-id/batch_events", &json!({ "batch": [event] }).to_string(), common::SECRET).await;
    assert_eq!(status, 404);
    redis.until(&["PUBLISH", "orders", r#"{"event":"by redis"}"#], |said| said == "1");
    assert_eq!(client.next().await["event"], "by redis");
}

#[tokio::test]
async fn without_redis_events_come_over_http_only() {
    let redis = Redis::start(&[]);
    let server = Server::start(json!({
        "subscribers": { "http": true, "redis": false },
        "databaseConfig": { "redis": { "port": redis.port, "keyPrefix": "" } },
    }));
    let mut client = server.connect().await;
    client.subscribe("orders").await;
    let (status, _) = server.publish(json!({ "name": "by http", "channel": "orders", "data": "{}" })).await;
    assert_eq!(status, 200);
    assert_eq!(client.next().await["event"], "by http");
    // redis-cli is the only one that has ever connected.
    assert_eq!(redis.cli(&["PUBLISH", "orders", r#"{"event":"by redis"}"#]), "0");
    let clients = redis.cli(&["CLIENT", "LIST"]);
    assert_eq!(clients.lines().count(), 1, "{clients}");
}
