//! Pusher's HTTP API of the real program: what backends are answered, and what browsers see of it
//! (protocol sections 3, 5 and 8).

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;

use common::{Call, Client, KEY, SECRET, Server};
use laravel_echo_server::protocol::signature;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const EVENTS: &str = "/apps/app-id/events";
const BATCH: &str = "/apps/app-id/batch_events";

fn ok(body: &str) -> (u16, String) {
    (200, body.to_owned())
}

/// A refusal has this status, and a body in which a person finds this word.
fn refused(answer: &(u16, String), status: u16, word: &str) {
    assert_eq!(answer.0, status, "{}", answer.1);
    let body: Value = serde_json::from_str(&answer.1).unwrap();
    assert_eq!(body["code"], status);
    assert!(body["error"].as_str().unwrap().contains(word), "{word:?} in {}", answer.1);
    assert!(!answer.1.contains(SECRET), "{}", answer.1);
}

/// Reads what came meanwhile, so that all that the client asked for has been done.
async fn settled(client: &mut Client) {
    client.send(json!({"event": "pusher:ping", "data": {}})).await;
    while client.next().await["event"] != "pusher:pong" {}
}

/// Three connections on three shards: two in `news`, all in `presence-room` as two users.
async fn a_room(server: &Server) -> Vec<Client> {
    let mut clients = Vec::new();
    for user in [r#"{"user_id":7}"#, r#"{"user_id":"7"}"#, r#"{"user_id":"ann"}"#] {
        let mut client = server.connect().await;
        client.subscribe_signed("presence-room", Some(user)).await;
        clients.push(client);
    }
    for client in &mut clients[..2] {
        settled(client).await;
        client.subscribe("news").await;
    }
    clients
}

#[tokio::test]
async fn channels_are_counted_over_all_shards() {
    let server = Server::start(json!({"shards": 3}));
    assert_eq!(server.get("/apps/app-id/channels", &[]).await, ok(r#"{"channels":{}}"#));
    assert_eq!(server.get("/apps/app-id/connections", &[]).await, ok(r#"{"connections":0}"#));
    let mut clients = a_room(&server).await;
    assert_eq!(server.get("/apps/app-id/connections", &[]).await, ok(r#"{"connections":3}"#));

    let channels = "/apps/app-id/channels";
    assert_eq!(server.get(channels, &[]).await, ok(r#"{"channels":{"news":{},"presence-room":{}}}"#));
    assert_eq!(server.get(channels, &[("filter_by_prefix", "ne")]).await, ok(r#"{"channels":{"news":{}}}"#));
    assert_eq!(server.get(channels, &[("filter_by_prefix", "other-")]).await, ok(r#"{"channels":{}}"#));
    let counted = r#"{"channels":{"news":{"subscription_count":2},"presence-room":{"subscription_count":3}}}"#;
    assert_eq!(server.get(channels, &[("info", "subscription_count")]).await, ok(counted));
    let filter = ("filter_by_prefix", "presence-");
    let both = ("info", "user_count,subscription_count");
    let counted = r#"{"channels":{"presence-room":{"user_count":2,"subscription_count":3}}}"#;
    assert_eq!(server.get(channels, &[filter, both]).await, ok(counted));

    let news = "/apps/app-id/channels/news";
    assert_eq!(server.get(news, &[]).await, ok(r#"{"occupied":true}"#));
    let info = ("info", "subscription_count");
    assert_eq!(server.get(news, &[info]).await, ok(r#"{"occupied":true,"subscription_count":2}"#));
    let room = "/apps/app-id/channels/presence-room";
    let counted = r#"{"occupied":true,"user_count":2,"subscription_count":3}"#;
    assert_eq!(server.get(room, &[both]).await, ok(counted));
    let users = "/apps/app-id/channels/presence-room/users";
    assert_eq!(server.get(users, &[]).await, ok(r#"{"users":[{"id":"7"},{"id":"ann"}]}"#));

    // A user's first tab goes: one subscription less, and no user less.
    clients[0].send(json!({"event": "pusher:unsubscribe", "data": {"channel": "presence-room"}})).await;
    settled(&mut clients[0]).await;
    let counted = r#"{"occupied":true,"user_count":2,"subscription_count":2}"#;
    assert_eq!(server.get(room, &[both]).await, ok(counted));
    clients[2].send(json!({"event": "pusher:unsubscribe", "data": {"channel": "presence-room"}})).await;
    settled(&mut clients[2]).await;
    assert_eq!(server.get(users, &[]).await, ok(r#"{"users":[{"id":"7"}]}"#));

    let empty = "/apps/app-id/channels/presence-empty";
    assert_eq!(server.get(empty, &[]).await, ok(r#"{"occupied":false}"#));
    let counted = r#"{"occupied":false,"user_count":0,"subscription_count":0}"#;
    assert_eq!(server.get(empty, &[both]).await, ok(counted));
    assert_eq!(server.get("/apps/app-id/channels/presence-empty/users", &[]).await, ok(r#"{"users":[]}"#));
}

#[tokio::test]
async fn attributes_that_do_not_suit_are_400() {
    let server = Server::start(json!({}));
    let user_count = ("info", "user_count");
    refused(&server.get("/apps/app-id/channels", &[user_count]).await, 400, "filter_by_prefix");
    refused(
        &server.get("/apps/app-id/channels", &[user_count, ("filter_by_prefix", "private-")]).await,
        400,
        "presence",
    );
    refused(&server.get("/apps/app-id/channels/news", &[user_count]).await, 400, "presence");
    refused(&server.get("/apps/app-id/channels/news", &[("info", "age")]).await, 400, "\"age\"");
    refused(&server.get("/apps/app-id/channels/news/users", &[]).await, 400, "presence");
    let event = r#"{"name":"e","channel":"news","data":"","info":"age"}"#;
    refused(&server.call(Call::post(EVENTS, event)).await, 400, "\"age\"");
}

#[tokio::test]
async fn an_event_answers_what_it_is_asked() {
    let server = Server::start(json!({"shards": 3}));
    let mut clients = a_room(&server).await;
    let publish = |event: Value| async { server.publish(event).await };
    let event = json!({"name": "e", "channels": ["presence-room", "news", "empty"], "data": "1",
        "info": "user_count,subscription_count"});
    let counted = r#"{"channels":{"empty":{"subscription_count":0},"news":{"subscription_count":2},"presence-room":{"user_count":2,"subscription_count":3}}}"#;
    assert_eq!(publish(event).await, ok(counted));
    assert_eq!(publish(json!({"name": "e", "channel": "news", "data": "2"})).await, ok("{}"));

    let batch = json!({"batch": [
        {"name": "e", "channel": "news", "data": "3", "socket_id": clients[0].socket_id},
        {"name": "e", "channel": "presence-room", "data": "4", "info": "user_count"},
        {"name": "e", "channel": "news", "data": {"five": 5}, "info": "subscription_count"},
    ]});
    let counted = r#"{"batch":[{},{"user_count":2},{"subscription_count":2}]}"#;
    assert_eq!(server.call(Call::post(BATCH, &batch.to_string())).await, ok(counted));
    let batch = r#"{"batch":[{"name":"e","channel":"news","data":"6"}]}"#;
    assert_eq!(server.call(Call::post(BATCH, batch)).await, ok("{}"));
    assert_eq!(server.call(Call::post(BATCH, r#"{"batch":[]}"#)).await, ok("{}"));

    let mut heard = Vec::new();
    while heard.last() != Some(&json!("6")) {
        let event = clients[0].next().await;
        if event["event"] == "e" {
            heard.push(event["data"].clone());
        }
    }
    assert_eq!(heard, ["1", "1", "2", "4", "{\"five\":5}", "6"].map(|text| json!(text)));
}

/// Every refusal that the hosted service has, with its status; and nothing of it goes out.
#[tokio::test]
async fn refusals() {
    let server = Server::start(json!({}));
    let mut client = server.connect().await;
    client.subscribe("news").await;
    let body = r#"{"name":"forged","channel":"news","data":""}"#;
    let post = Call::post(EVENTS, body);
    let call = |call: Call<'static>| async { server.call(call).await };

    refused(&call(Call { secret: "wrong", ..post.clone() }).await, 401, "clients[].secret");
    refused(&call(Call { key: "other-key", ..post.clone() }).await, 401, "auth_key");
    refused(&call(Call { clock: -700, ..post.clone() }).await, 401, "auth_timestamp");
    refused(&call(Call { clock: 700, ..post.clone() }).await, 401, "auth_timestamp");
    refused(&call(Call { parameters: &[("auth_version", "2.0")], ..post.clone() }).await, 401, "auth_version");
    refused(&call(Call { path: "/apps/other/events", ..post.clone() }).await, 404, "\"other\"");
    refused(&call(Call { path: "/apps/app-id/nothing", ..post.clone() }).await, 404, "does not exist");
    refused(&call(Call { method: "GET", ..post.clone() }).await, 405, "POST");
    refused(&call(Call { path: "/apps/app-id/channels", ..post.clone() }).await, 405, "GET");

    // Another body than the one that was signed, and none of the parameters.
    let http = reqwest::Client::new();
    let url = format!("http://127.0.0.1:{}{EVENTS}", server.port);
    let send = async |url: String, body: String| {
        let response = http.post(url).body(body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    refused(&send(format!("{url}?{}", post.query()), body.replace("forged", "Forged")).await, 401, "body_md5");
    refused(&send(format!("{url}?{}", Call::post(EVENTS, "").query()), body.to_owned()).await, 401, "body_md5");
    // Nothing of all that is the old server's way (tests/legacy_http_api.rs), unless that is switched off.
    let (status, answer) = send(url.clone(), body.to_owned()).await;
    assert_eq!(status, 403, "{answer}");
    let strict = Server::start(json!({"httpApiKeyAuth": "off"}));
    let url_of_strict = format!("http://127.0.0.1:{}{EVENTS}?auth_key={KEY}", strict.port);
    refused(&send(url_of_strict, body.to_owned()).await, 401, "auth_signature");

    let channels = |count: usize| json!({"name": "forged", "data": "", "channels": vec!["news"; count]}).to_string();
    let large = json!({"name": "forged", "data": "x".repeat(10_241), "channel": "news"}).to_string();
    let largest = json!({"name": "real", "data": "\n".repeat(10_240), "channel": "news"}).to_string();
    let endless = json!({"name": "forged", "data": "", "channel": "news", "x": "x".repeat(1_000_000)}).to_string();
    let named = |name: &str| json!({"name": name, "data": "", "channel": "news"}).to_string();
    let to = |channel: &str| json!({"name": "forged", "data": "", "channel": channel}).to_string();
    for (body, status, word) in [
        (channels(101), 400, "limits.channelsPerEvent"),
        (channels(0), 400, "no channel"),
        (large, 413, "limits.eventBytes"),
        (endless, 413, "limit"),
        (named(&"x".repeat(201)), 400, "limits.eventNameBytes"),
        (named(""), 400, "limits.eventNameBytes"),
        (to(&"x".repeat(201)), 400, "limits.channelNameBytes"),
        (to("with space"), 400, "' '"),
        (to(""), 400, "empty"),
        (to("#news"), 400, "reserved"),
        (to("#server-to-user-"), 400, "reserved"),
        ("{\"name\":".into(), 400, "no event"),
        (r#"{"name":"forged","channel":"news"}"#.into(), 400, "data"),
    ] {
        refused(&server.call(Call::post(EVENTS, &body)).await, status, word);
    }
    let batch = |count: usize| json!({"batch": vec![json!({"name": "forged", "data": "", "channel": "news"}); count]});
    refused(&server.call(Call::post(BATCH, &batch(11).to_string())).await, 400, "limits.eventsPerBatch");
    let one_bad = json!({"batch": [
        {"name": "forged", "data": "", "channel": "news"}, {"name": "forged", "data": "", "channel": "a b"}]});
    refused(&server.call(Call::post(BATCH, &one_bad.to_string())).await, 400, "batch[1]");
    refused(&server.get("/apps/app-id/channels/a%20b", &[]).await, 400, "' '");
    refused(&server.get("/apps/app-id/channels", &[("auth_key", "x")]).await, 401, "auth_key");

    assert_eq!(server.call(Call::post(EVENTS, &largest)).await, ok("{}"));
    assert_eq!(client.next().await["event"], "real");
    client.hears_nothing_else().await;
}

/// `Connection: close` or not is the client's choice, also after a refusal whose body was not looked at.
#[tokio::test]
async fn one_connection_serves_many_requests() {
    let server = Server::start(json!({}));
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let body = r#"{"name":"e","channel":"news","data":""}"#;
    let good = Call::post(EVENTS, body);
    // A client that retries sends a key for its attempts; here it changes nothing, as with the hosted service.
    let head = "Host: x\r\nContent-Type: application/json\r\nX-Pusher-Library: pusher-http-php 7.2.6\r\nIdempotency-Key: 1\r\n";
    for (call, status) in [
        (&good, "200 OK"),
        (&Call { secret: "wrong", ..good.clone() }, "401 Unauthorized"),
        (&good, "200 OK"),
        (&good, "200 OK"),
    ] {
        let request =
            format!("POST {EVENTS}?{} HTTP/1.1\r\n{head}Content-Length: {}\r\n\r\n{body}", call.query(), body.len());
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            assert!(socket.read_buf(&mut answer).await.unwrap() > 0, "the connection was closed");
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{answer}");
        assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn limits_are_settings() {
    let server = Server::start(json!({"limits": {"eventBytes": 20_000, "eventNameBytes": 3, "channelNameBytes": 4,
        "channelsPerEvent": 2, "eventsPerBatch": 1, "timestampWindow": 1000}}));
    let event = |name: &str, bytes: usize, channels: &[&str]| {
        json!({"name": name, "data": "x".repeat(bytes), "channels": channels}).to_string()
    };
    for (body, status) in [
        (event("abc", 20_000, &["abcd", "b"]), 200),
        (event("abc", 20_001, &["abcd", "b"]), 413),
        (event("abcd", 0, &["a"]), 400),
        (event("abc", 0, &["abcde"]), 400),
        (event("abc", 0, &["a", "b", "c"]), 400),
    ] {
        assert_eq!(server.call(Call::post(EVENTS, &body)).await.0, status, "{body:.80}");
    }
    let one = r#"{"name":"e","channel":"a","data":""}"#;
    assert_eq!(server.call(Call::post(BATCH, &format!(r#"{{"batch":[{one}]}}"#))).await.0, 200);
    assert_eq!(server.call(Call::post(BATCH, &format!(r#"{{"batch":[{one},{one}]}}"#))).await.0, 400);
    assert_eq!(server.call(Call { clock: -900, ..Call::post(EVENTS, one) }).await.0, 200);
    assert_eq!(server.call(Call { clock: -1100, ..Call::post(EVENTS, one) }).await.0, 401);
}

#[tokio::test]
async fn what_a_cache_channel_keeps() {
    let server = Server::start(json!({"shards": 3, "limits": {"cacheSeconds": 60}}));
    let (channel, cache) = ("/apps/app-id/channels/private-cache-x", ("info", "cache,subscription_count"));
    let nothing = r#"{"occupied":false,"subscription_count":0}"#;
    assert_eq!(server.get(channel, &[cache]).await, ok(nothing));
    let event = json!({"name": "e", "channel": "private-cache-x", "data": "{\"a\":\"é\"}"});
    assert_eq!(server.publish(event).await.0, 200);
    let kept = r#"{"occupied":false,"subscription_count":0,"cache":{"data":"{\"a\":\"é\"}","ttl":60}}"#;
    assert_eq!(server.get(channel, &[cache]).await, ok(kept));
    refused(&server.get("/apps/app-id/channels/private-x", &[cache]).await, 400, "private-x is none");
    refused(&server.get("/apps/app-id/channels", &[cache]).await, 400, "one channel");
}

/// On every shard, whether the id was a number or a text, and with both paths; nobody else.
#[tokio::test]
async fn a_users_connections_are_ended() {
    let server = Server::start(json!({"shards": 3}));
    for path in ["/apps/app-id/users/7/terminate_connections", "/users/7/terminate_connections"] {
        let mut clients = Vec::new();
        for user_data in [r#"{"id":"7"}"#, r#"{"id":7}"#, r#"{"id":"8"}"#] {
            let mut client = server.connect().await;
            assert_eq!(client.sign_in(user_data).await["event"], "pusher:signin_success");
            clients.push(client);
        }
        assert_eq!(server.call(Call::post(path, "{}")).await, ok("{}"));
        let mut other = clients.pop().unwrap();
        for client in &mut clients {
            assert_eq!(client.closed().await.0, 4009);
        }
        other.hears_nothing_else().await;
    }
}

/// What each library makes of a query, and the path that PyPI's gets wrong.
#[tokio::test]
async fn requests_as_libraries_write_them() {
    let server = Server::start(json!({}));
    // Python: the digest of nothing with a GET.
    let digest = [("body_md5", "d41d8cd98f00b204e9800998ecf8427e")];
    assert_eq!(server.get("/apps/app-id/channels", &digest).await.0, 200);
    assert_eq!(server.get("/apps/app-id/channels", &[("body_md5", "00")]).await.0, 401);
    // The path without an app belongs to the app of the key.
    let path = "/users/7/terminate_connections";
    assert_eq!(server.call(Call::post(path, "{}")).await, ok("{}"));
    assert_eq!(server.call(Call::post("/apps/app-id/users/7/terminate_connections", "{}")).await, ok("{}"));
    refused(&server.call(Call { key: "other", ..Call::post(path, "{}") }).await, 401, "\"other\"");
    refused(&server.call(Call { secret: "wrong", ..Call::post(path, "{}") }).await, 401, "signature");
}

/// Two apps on one server: nothing of one reaches the other.
#[tokio::test]
async fn apps_are_apart() {
    let other = ("other-key", "other-secret");
    let server = Server::start(json!({"clients": [
        {"appId": "app-id", "key": KEY, "secret": SECRET},
        {"appId": "other", "key": other.0, "secret": other.1,
         "limits": {"eventBytes": 5, "connections": 1, "clientEventsPerSecond": 0, "activityTimeout": 77}},
    ]}));
    let (mut mine, mut theirs) = (server.connect().await, server.open(other.0).await);
    let hello = theirs.next().await;
    assert!(hello["data"].as_str().unwrap().ends_with("\"activity_timeout\":77}"), "{hello}");
    mine.subscribe("news").await;
    theirs.subscribe("news").await;

    let mut third = server.open(other.0).await;
    assert_eq!(third.closed().await.0, 4100, "an app's own limit of connections");
    let fourth = server.connect().await;
    assert_eq!(server.get("/apps/app-id/connections", &[]).await, ok(r#"{"connections":2}"#));
    drop(fourth);

    let as_other = |path, body| Call { key: other.0, secret: other.1, ..Call::post(path, body) };
    assert_eq!(server.publish(json!({"name": "e", "channel": "news", "data": "mine!!"})).await.0, 200);
    let event = r#"{"name":"e","channel":"news","data":"their"}"#;
    assert_eq!(server.call(as_other("/apps/other/events", event)).await, ok("{}"));
    assert_eq!(mine.next().await["data"], "mine!!");
    assert_eq!(theirs.next().await["data"], "their");
    mine.hears_nothing_else().await;
    theirs.hears_nothing_else().await;

    // One name, two rooms: members, whispers and counts of one are nothing to the other.
    let room = "presence-room";
    let list = mine.subscribe_signed(room, Some(r#"{"user_id":1}"#)).await;
    assert!(list["data"].as_str().unwrap().contains(r#""ids":["1"]"#), "{list}");
    let hello: Value = serde_json::from_str(hello["data"].as_str().unwrap()).unwrap();
    let member = r#"{"user_id":2}"#;
    let signature = signature::sign(other.1, &format!("{}:{room}:{member}", hello["socket_id"].as_str().unwrap()));
    let auth = format!("{}:{signature}", other.0);
    let subscribe = json!({"auth": auth, "channel": room, "channel_data": member});
    theirs.send(json!({"event": "pusher:subscribe", "data": subscribe})).await;
    let list = theirs.next().await;
    assert!(list["data"].as_str().unwrap().contains(r#""ids":["2"]"#), "{list}");
    mine.send(json!({"event": "client-typing", "channel": room, "data": {}})).await;
    mine.hears_nothing_else().await;
    theirs.hears_nothing_else().await;
    let users = Call { key: other.0, secret: other.1, ..Call::get("/apps/other/channels/presence-room/users") };
    assert_eq!(server.call(users).await, ok(r#"{"users":[{"id":"2"}]}"#));
    theirs.send(json!({"event": "client-typing", "channel": room, "data": {}})).await;
    assert_eq!(theirs.next().await["event"], "pusher:error", "its own limit of whispers");

    // Its own limit, its own secret, its own path.
    let long = r#"{"name":"e","channel":"news","data":"their!"}"#;
    refused(&server.call(as_other("/apps/other/events", long)).await, 413, "5 are allowed");
    refused(&server.call(as_other("/apps/app-id/events", event)).await, 401, "auth_key");
    refused(&server.call(Call { secret: SECRET, ..as_other("/apps/other/events", event) }).await, 401, "signature");
    refused(&server.call(Call::post("/apps/other/events", event)).await, 401, "auth_key");
    let list = Call { key: other.0, secret: other.1, ..Call::get("/apps/other/channels/news") };
    let list = Call { parameters: &[("info", "subscription_count")], ..list };
    assert_eq!(server.call(list).await, ok(r#"{"occupied":true,"subscription_count":1}"#));
}
