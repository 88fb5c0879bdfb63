//! Browsers that come back with their cookie, as `resume` knows them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on shall end")]

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::common::{Client, KEY, Server};
use super::redis_server::Redis;

/// Connects with this cookie; gives the one that is set.
pub async fn open(server: &Server, cookie: Option<&str>, origin: Option<&str>) -> (Client, Option<String>) {
    let url = format!("ws://127.0.0.1:{}/app/{KEY}?protocol=7&client=js&version=8.6.0&flash=false", server.port);
    let mut request = url.into_client_request().unwrap();
    if let Some(cookie) = cookie {
        request.headers_mut().insert("Cookie", cookie.parse().unwrap());
    }
    if let Some(origin) = origin {
        request.headers_mut().insert("Origin", origin.parse().unwrap());
    }
    let (socket, response) = connect_async(request).await.unwrap();
    let set = response.headers().get("Set-Cookie").map(|value| value.to_str().unwrap().to_owned());
    let mut client = Client { socket, socket_id: String::new() };
    let hello = client.next().await;
    let data: Value = serde_json::from_str(hello["data"].as_str().unwrap()).unwrap();
    client.socket_id = data["socket_id"].as_str().unwrap().to_owned();
    (client, set)
}

/// A new browser, and what it sends as `Cookie`.
pub async fn new_browser(server: &Server) -> (Client, String) {
    let (client, set) = open(server, None, None).await;
    (client, set.unwrap().split(';').next().unwrap().to_owned())
}

pub async fn back(server: &Server, cookie: &str) -> Client {
    let (client, set) = open(server, Some(cookie), None).await;
    assert_eq!(set, None, "the cookie stays");
    client
}

/// Comes to a server from another one; gives the cookie that it has from then on.
pub async fn moved(server: &Server, cookie: &str) -> (Client, String) {
    let (client, set) = open(server, Some(cookie), None).await;
    let moved = set.unwrap().split(';').next().unwrap().to_owned();
    let (browser, process) = cookie.split_once('.').unwrap();
    let (same, other) = moved.split_once('.').unwrap();
    assert_eq!(same, browser, "a load balancer may go by it");
    assert_ne!(other, process, "it names the process that it was with last");
    (client, moved)
}

/// Waits until the server knows that the process lives that has given this cookie: else all who come from there are told of
/// a gap.
pub async fn knows(server: &Server, cookie: &str) {
    let (_, process) = cookie.split_once('.').unwrap();
    for browser in 1_u32.. {
        let (mut client, _) = open(server, Some(&format!("echo_resume={browser:032x}.{process}")), None).await;
        client.subscribe("known").await;
        client.send(json!({"event": "pusher:ping", "data": {}})).await;
        if client.next().await["event"] == "pusher:pong" {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// One more tab. The others are asked whether they live: until then any of them could be this one.
pub async fn joined_by(server: &Server, cookie: &str, others: &mut [&mut Client]) -> Client {
    let mut client = back(server, cookie).await;
    let others = others.iter_mut().map(|other| answers(other));
    tokio::select! {
        biased;
        () = client.hears_nothing_else() => client,
        _ = async { futures_util::future::join_all(others).await; std::future::pending::<()>().await } => unreachable!(),
    }
}

/// Answers pings, and hears nothing else.
async fn answers(client: &mut Client) {
    loop {
        match client.message().await {
            // It answers by itself, with the next thing that it does.
            Message::Ping(_) => client.socket.flush().await.unwrap(),
            other => panic!("{other:?} instead of a ping"),
        }
    }
}

pub fn resuming(resume: Value) -> Server {
    Server::start(json!({"resume": resume, "shards": 2}))
}

pub async fn publish(server: &Server, channel: &str, n: u32) {
    publish_but(server, channel, n, None).await;
}

pub async fn publish_but(server: &Server, channel: &str, n: u32, socket_id: Option<&str>) {
    let event = json!({"name": "n", "channel": channel, "data": n.to_string(), "socket_id": socket_id});
    assert_eq!(server.publish(event).await.0, 200);
}

/// The number in the event that comes next.
pub async fn number(client: &mut Client) -> u32 {
    let event = client.next().await;
    assert_eq!(event["event"], "n", "{event}");
    event["data"].as_str().unwrap().parse().unwrap()
}

/// The next event tells of a gap.
pub async fn gap(client: &mut Client, channel: &str) -> Value {
    let event = client.next().await;
    assert_eq!((&event["event"], &event["channel"]), (&json!("echo-server:gap"), &json!(channel)), "{event}");
    serde_json::from_str(event["data"].as_str().unwrap()).unwrap()
}

/// One of several.
pub fn node(redis: &Redis) -> Server {
    Server::start(json!({"resume": true, "databaseConfig": {"redis": {"path": redis.socket()}}}))
}
