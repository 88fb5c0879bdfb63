//! Another configuration while the server runs, on the real program: what changes at once, who keeps the connection,
//! and that a file which is no good changes nothing.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;
#[path = "common/redis_server.rs"]
mod redis_server;

use std::process::Command;

use common::{Call, Client, KEY, SECRET, Server};
use redis::AsyncCommands;
use redis_server::Redis;
use serde_json::{Value, json};

/// Another app.
const OTHER: (&str, &str, &str) = ("other-id", "other-key", "other-secret");

fn other() -> Value {
    json!({"appId": OTHER.0, "key": OTHER.1, "secret": OTHER.2})
}

/// Publishes as the other app; gives the status.
async fn publish_as_other(server: &Server, channel: &str, data: &str) -> u16 {
    let body = json!({"name": "e", "channel": channel, "data": data}).to_string();
    let call = Call { key: OTHER.1, secret: OTHER.2, ..Call::post("/apps/other-id/events", &body) };
    server.call(call).await.0
}

/// Connects with the other app's key.
async fn connect_as_other(server: &Server) -> Client {
    let mut client = server.open(OTHER.1).await;
    assert_eq!(client.next().await["event"], "pusher:connection_established");
    client
}

async fn hears(client: &mut Client, data: &str) {
    let event = client.next().await;
    assert_eq!((&event["event"], &event["data"]), (&json!("e"), &json!(data)), "{event}");
}

#[tokio::test]
async fn apps_come_and_go_and_others_keep_their_connections() {
    let mut server = Server::start(json!({}));
    let mut client = server.connect().await;
    client.subscribe("news").await;
    assert_eq!(server.open(OTHER.1).await.closed().await.0, 4001);

    server.change_config(|config| config["clients"].as_array_mut().unwrap().insert(0, other()));
    server.signal("HUP");
    server.says("): clients[other-id] added").await;
    let mut stranger = connect_as_other(&server).await;
    stranger.subscribe("news").await;
    assert_eq!(publish_as_other(&server, "news", "\"to the other\"").await, 200);
    hears(&mut stranger, "\"to the other\"").await;
    server.publish(json!({"name": "e", "channel": "news", "data": "to the first"})).await;
    hears(&mut client, "to the first").await;
    stranger.hears_nothing_else().await;

    // Presence has its home on any shard, and Socket.IO clients get the file's first app.
    let channels = ["presence-a", "presence-b", "presence-c"];
    for channel in channels {
        assert_eq!(
            client.subscribe_signed(channel, Some(r#"{"user_id":"1"}"#)).await["event"],
            "pusher_internal:subscription_succeeded"
        );
    }

    server.change_config(|config| config["clients"].as_array_mut().unwrap().truncate(1));
    server.signal("HUP");
    server.says("): clients[app-id] removed").await;
    let error = client.next().await;
    assert_eq!((&error["event"], &error["data"]["code"]), (&json!("pusher:error"), &json!(4001)), "{error}");
    assert_eq!(client.closed().await.0, 4001);
    assert_eq!(server.open(KEY).await.closed().await.0, 4001);
    assert_eq!(server.publish(json!({"name": "e", "channel": "news", "data": ""})).await.0, 404);
    assert_eq!(publish_as_other(&server, "news", "still there").await, 200);
    hears(&mut stranger, "still there").await;

    // It comes back as a new app.
    server.change_config(|config| {
        config["clients"].as_array_mut().unwrap().push(json!({"appId": "app-id", "key": KEY, "secret": SECRET}));
    });
    server.signal("HUP");
    server.says("clients[app-id] added").await;
    let mut client = server.connect().await;
    let reply = client.subscribe_signed("presence-a", Some(r#"{"user_id":"2"}"#)).await;
    let data: Value = serde_json::from_str(reply["data"].as_str().unwrap()).unwrap();
    assert_eq!(data["presence"]["ids"], json!(["2"]));
}

#[tokio::test]
async fn a_secret_is_rotated_without_a_refusal() {
    let server = Server::start(json!({}));
    let mut client = server.connect().await;
    let body = json!({"name": "e", "channel": "news", "data": ""}).to_string();
    let publish = async |secret| server.post("/apps/app-id/events", &body, secret).await.0;
    assert_eq!((publish("new-secret").await, publish(SECRET).await), (401, 200));

    let secrets = |secret: &str, previous: Value| {
        server.change_config(|config| {
            config["clients"][0]["secret"] = secret.into();
            config["clients"][0]["previousSecrets"] = previous;
        });
        server.signal("HUP");
    };
    secrets("new-secret", json!([SECRET]));
    let mut server = server;
    server.says("): clients[app-id].secret, clients[app-id].previousSecrets").await;
    let publish = async |server: &Server, secret| server.post("/apps/app-id/events", &body, secret).await.0;
    assert_eq!((publish(&server, "new-secret").await, publish(&server, SECRET).await), (200, 200));
    // What was signed with the old one is taken on a connection of before.
    let reply = client.subscribe_signed("private-a", None).await;
    assert_eq!(reply["event"], "pusher_internal:subscription_succeeded");
    assert_eq!(client.sign_in(r#"{"id":"7"}"#).await["event"], "pusher:signin_success");

    server.change_config(|config| {
        config["clients"][0].as_object_mut().unwrap().remove("previousSecrets");
    });
    server.signal("HUP");
    server.says("): clients[app-id].previousSecrets").await;
    assert_eq!((publish(&server, "new-secret").await, publish(&server, SECRET).await), (200, 401));
    assert_eq!(client.subscribe_signed("private-b", None).await["event"], "pusher:subscription_error");
    // It is still subscribed to what it was admitted to.
    server
        .post(
            "/apps/app-id/events",
            &json!({"name": "e", "channel": "private-a", "data": "x"}).to_string(),
            "new-secret",
        )
        .await;
    hears(&mut client, "x").await;
}

#[tokio::test]
async fn a_file_that_is_no_good_changes_nothing_and_one_that_is_repaired_is_taken() {
    let mut server = Server::start(json!({}));
    let mut client = server.connect().await;
    let path = server.folder().join("laravel-echo-server.json");
    let good = std::fs::read(&path).unwrap();
    for (broken, reason) in [
        (&br#"{"limits": {"subscriptionsPerConnection": 1}, "clients": [{"appId": "a"}]}"#[..], "has no \"key\""),
        (&good[..good.len() - 1], "the file ends too early"),
        (b"", "is empty"),
        (
            br#"{"protocol": "https", "sslCertPath": "/nonexistent.pem", "sslKeyPath": "/nonexistent.pem"}"#,
            "/nonexistent.pem",
        ),
    ] {
        std::fs::write(&path, broken).unwrap();
        // Nobody says a word: the change is noticed.
        let said = server.says("is not taken").await;
        assert!(
            said.contains("(a file has changed), and the configuration stays as it was") && said.contains(reason),
            "{said}"
        );
    }
    std::fs::remove_file(&path).unwrap();
    let said = server.says("is not taken").await;
    assert!(said.contains("There is no file"), "{said}");
    client.subscribe("a").await;
    client.subscribe("b").await;

    let mut config: Value = serde_json::from_slice(&good).unwrap();
    config["limits"] = json!({"subscriptionsPerConnection": 2});
    config["port"] = 1.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let said = server.says("Reloaded").await;
    assert!(said.ends_with("(a file has changed): limits"), "{said}");
    let said = server.says("needs a restart").await;
    assert!(said.ends_with("is as it was: port"), "{said}");
    client.send(json!({"event": "pusher:subscribe", "data": {"channel": "c"}})).await;
    assert_eq!(client.next().await["event"], "pusher:subscription_error");

    server.signal("HUP");
    server.says("(SIGHUP): nothing has changed").await;
}

#[tokio::test]
async fn the_log_says_more_or_less_and_clients_are_added_by_the_command() {
    let mut server = Server::start(json!({}));
    server.change_config(|config| config["devMode"] = true.into());
    server.says("): devMode").await;
    let client = server.connect().await;
    server.says(&format!("{} connected", client.socket_id)).await;
    server.change_config(|config| config["devMode"] = false.into());
    server.says("): devMode").await;

    let command = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_laravel-echo-server"));
        let output = command.args(arguments).arg("--dir").arg(server.folder()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = command(&["client:add", "added"]);
    assert_eq!(code, Some(0), "{said}");
    let key = said.lines().find_map(|line| line.strip_prefix("key: ")).unwrap_or_else(|| panic!("{said}")).to_owned();
    server.says("clients[added] added").await;
    assert_eq!(server.open(&key).await.next().await["event"], "pusher:connection_established");
}

/// An app that has come hears Redis, and one that has gone keeps nothing back from the others.
#[tokio::test]
async fn events_of_redis_reach_apps_that_have_come() {
    let redis = Redis::start(&[]);
    let mut server = Server::start(json!({"databaseConfig": {"redis": {"path": redis.socket()}}}));
    let mut publisher = redis.client().await;
    let mut first = server.connect().await;
    first.subscribe("news").await;
    server.change_config(|config| config["clients"].as_array_mut().unwrap().push(other()));
    server.signal("HUP");
    server.says("clients[other-id] added").await;
    let mut second = connect_as_other(&server).await;
    second.subscribe("news").await;
    let publish = async |publisher: &mut redis::aio::MultiplexedConnection, data: &str| {
        let event = json!({"event": "e", "data": data}).to_string();
        while publisher.publish::<_, _, usize>("news", &event).await.unwrap() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    publish(&mut publisher, "both").await;
    hears(&mut first, "\"both\"").await;
    hears(&mut second, "\"both\"").await;
    server.change_config(|config| {
        config["clients"].as_array_mut().unwrap().remove(0);
    });
    server.signal("HUP");
    server.says("clients[app-id] removed").await;
    assert_eq!(first.closed().await.0, 4001);
    publish(&mut publisher, "one").await;
    hears(&mut second, "\"one\"").await;
}
