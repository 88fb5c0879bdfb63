//! `subscribers`: the two ways of events, each switched off. `apiOriginAllow`: who may use the HTTP API in a browser.

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

#[tokio::test]
async fn cors_headers_of_the_http_api_are_those_of_the_file() {
    let names = ["origin", "methods", "headers"].map(|name| format!("access-control-allow-{name}"));
    let ask = |server: &Server, method: reqwest::Method, path: &str| {
        let request = reqwest::Client::new().request(method, format!("http://127.0.0.1:{}{path}", server.port));
        let names = names.clone();
        async move {
            let response = request.header("origin", "http://evil.test").send().await.unwrap();
            let headers = response.headers();
            let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            let cors = names.map(|name| text(&name));
            let allow = text("allow");
            (response.status().as_u16(), allow, cors, response.text().await.unwrap())
        }
    };
    let allow = json!({
        "allowCors": true, "allowOrigin": "http://localhost:80", "allowMethods": "GET, POST", "allowHeaders": "Origin, X-A",
    });
    let server = Server::start(json!({ "apiOriginAllow": allow }));
    let expected = ["http://localhost:80", "GET, POST", "Origin, X-A"].map(|text| Some(text.to_owned()));
    for (method, path, status, allow) in [
        (reqwest::Method::OPTIONS, "/apps/app-id/events", 200, Some("POST")),
        (reqwest::Method::OPTIONS, "/apps/app-id/channels", 200, Some("GET,HEAD")),
        (reqwest::Method::GET, "/apps/app-id/channels", 403, None),
        (reqwest::Method::GET, "/apps/nobody/channels?auth_signature=0", 404, None),
    ] {
        let (said, allowed, cors, body) = ask(&server, method, path).await;
        assert_eq!((said, allowed.as_deref(), cors), (status, allow, expected.clone()), "{path}: {body}");
    }
    let server = Server::start(json!({}));
    let (status, _, cors, _) = ask(&server, reqwest::Method::OPTIONS, "/apps/app-id/events").await;
    assert_eq!((status, cors), (200, [None, None, None]));
}
