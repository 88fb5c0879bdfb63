//! Users on the wire of the real program: signin, events to a user, who is online, and the limits
//! of presence channels.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;

use std::collections::BTreeSet;

use common::{Client, Server};
use serde_json::{Value, json};

async fn signed_in(server: &Server, user_data: &str) -> Client {
    let mut client = server.connect().await;
    assert_eq!(client.sign_in(user_data).await["event"], "pusher:signin_success");
    client
}

/// The users of the next watchlist event: those online and those not.
async fn watchlist(client: &mut Client) -> (BTreeSet<String>, BTreeSet<String>) {
    let message = client.next().await;
    assert_eq!(message["event"], "pusher_internal:watchlist_events", "{message}");
    let data: Value = serde_json::from_str(message["data"].as_str().unwrap()).unwrap();
    let mut users = (BTreeSet::new(), BTreeSet::new());
    for event in data["events"].as_array().unwrap() {
        let ids = event["user_ids"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned());
        match event["name"].as_str() {
            Some("online") => users.0.extend(ids),
            Some("offline") => users.1.extend(ids),
            _ => panic!("{message}"),
        }
    }
    users
}

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

#[tokio::test]
async fn an_event_for_a_user_reaches_each_of_the_users_connections() {
    let server = Server::start(json!({}));
    let mut client = server.connect().await;
    let reply = client.sign_in(r#"{"id":"7","user_info":{"name":"Ann"}}"#).await;
    let user_data = r#"{"id":"7","user_info":{"name":"Ann"}}"#;
    assert_eq!(reply, json!({"event": "pusher:signin_success", "data": {"user_data": user_data}}));
    client.subscribe("#server-to-user-7").await;
    // Under a number it is the same user.
    let mut tab = server.connect().await;
    assert_eq!(tab.sign_in(r#"{"id":7}"#).await["data"]["user_data"], r#"{"id":"7"}"#);
    tab.subscribe("#server-to-user-7").await;
    let mut other = signed_in(&server, r#"{"id":"8"}"#).await;
    other.subscribe("#server-to-user-8").await;
    let mut nobody = server.connect().await;
    for stranger in [&mut other, &mut nobody] {
        stranger.send(json!({"event": "pusher:subscribe", "data": {"auth": "", "channel": "#server-to-user-7"}})).await;
        let reply = stranger.next().await;
        assert_eq!((&reply["event"], &reply["data"]["status"]), (&json!("pusher:subscription_error"), &json!(401)));
    }
    // Nor does a signature for the channel, as the auth endpoint would give it, let anybody in.
    let reply = nobody.subscribe_signed("#server-to-user-7", None).await;
    assert_eq!(reply["event"], "pusher:subscription_error");
    let event = json!({"name": "notice", "channels": ["#server-to-user-7"], "data": "1"});
    assert_eq!(server.publish(event).await.0, 200);
    for client in [&mut client, &mut tab] {
        assert_eq!(client.text().await, r##"{"event":"notice","channel":"#server-to-user-7","data":"1"}"##);
    }
    other.hears_nothing_else().await;
    nobody.hears_nothing_else().await;
}

#[tokio::test]
async fn a_forged_signin_is_closed_for_good_and_a_second_user_refused() {
    let server = Server::start(json!({}));
    let mut client = server.connect().await;
    let message = json!({"event": "pusher:signin", "data": {"auth": "app-key:00", "user_data": r#"{"id":"7"}"#}});
    client.send(message).await;
    let error = client.next().await;
    assert_eq!((&error["event"], &error["data"]["code"]), (&json!("pusher:error"), &json!(4009)));
    assert_eq!(client.closed().await.0, 4009);

    let mut client = signed_in(&server, r#"{"id":"7"}"#).await;
    let error = client.sign_in(r#"{"id":"8"}"#).await;
    assert_eq!((&error["event"], &error["data"]["code"]), (&json!("pusher:error"), &Value::Null));
    client.subscribe("#server-to-user-7").await;
}

#[tokio::test]
async fn who_is_signed_in_is_the_member_of_presence_channels() {
    let server = Server::start(json!({}));
    let mut client = signed_in(&server, r#"{"id":7,"user_info":{"name":"Ann"}}"#).await;
    let reply = client.subscribe_signed("presence-a", None).await;
    assert_eq!(reply["data"], r#"{"presence":{"count":1,"ids":["7"],"hash":{"7":{"name":"Ann"}}}}"#);
}

#[tokio::test]
async fn watchers_are_told_who_is_online() {
    for shards in [1, 3] {
        let server = Server::start(json!({"shards": shards}));
        let first = signed_in(&server, r#"{"id":"2"}"#).await;
        let mut watcher = signed_in(&server, r#"{"id":"1","watchlist":["2","3",4]}"#).await;
        assert_eq!(watchlist(&mut watcher).await, (set(&["2"]), set(&["3", "4"])));
        let third = signed_in(&server, r#"{"id":3}"#).await;
        assert_eq!(watchlist(&mut watcher).await, (set(&["3"]), set(&[])));
        // Another of the same user, perhaps on another shard: nothing is new until both have gone.
        let second = signed_in(&server, r#"{"id":"2"}"#).await;
        drop((first, third));
        assert_eq!(watchlist(&mut watcher).await, (set(&[]), set(&["3"])));
        drop(second);
        assert_eq!(watchlist(&mut watcher).await, (set(&[]), set(&["2"])));
        let mut late = signed_in(&server, r#"{"id":"4","watchlist":["1","2"]}"#).await;
        assert_eq!(watchlist(&mut late).await, (set(&["1"]), set(&["2"])));
        assert_eq!(watchlist(&mut watcher).await, (set(&["4"]), set(&[])));
    }
}

#[tokio::test]
async fn a_presence_channel_has_a_limit_of_users_not_of_connections() {
    let server = Server::start(json!({"limits": {"presenceMembers": 2}}));
    let mut clients = Vec::new();
    for id in [1, 2, 2] {
        let mut client = server.connect().await;
        let reply = client.subscribe_signed("presence-a", Some(&format!(r#"{{"user_id":{id}}}"#))).await;
        assert_eq!(reply["event"], "pusher_internal:subscription_succeeded");
        clients.push(client);
    }
    let mut client = server.connect().await;
    let reply = client.subscribe_signed("presence-a", Some(r#"{"user_id":3}"#)).await;
    assert_eq!((&reply["event"], &reply["channel"]), (&json!("pusher:subscription_error"), &json!("presence-a")));
    assert_eq!((&reply["data"]["type"], &reply["data"]["status"]), (&json!("LimitReached"), &json!(4100)));
    server.publish(json!({"name": "e", "channel": "presence-a", "data": "1"})).await;
    client.hears_nothing_else().await;
    // When the first has left there is room again.
    let mut first = clients.remove(0);
    assert_eq!(first.next().await["event"], "pusher_internal:member_added");
    assert_eq!(first.next().await["event"], "e");
    for watcher in &mut clients {
        assert_eq!(watcher.next().await["event"], "e");
    }
    drop(first);
    for watcher in &mut clients {
        assert_eq!(watcher.next().await["event"], "pusher_internal:member_removed");
    }
    let reply = client.subscribe_signed("presence-a", Some(r#"{"user_id":3}"#)).await;
    assert_eq!(reply["event"], "pusher_internal:subscription_succeeded", "{reply}");
}

#[tokio::test]
async fn who_never_says_who_it_is_is_closed_if_that_is_asked_for() {
    let server = Server::start(json!({"limits": {"userAuthenticationTimeout": 1}}));
    let mut nobody = server.connect().await;
    nobody.subscribe("orders").await;
    let mut member = server.connect().await;
    member.subscribe_signed("private-a", None).await;
    assert_eq!(nobody.closed().await, (4009, "Connection not authorized within timeout".into()));
    member.hears_nothing_else().await;
}

/// Beside `authEndpoint`, whatever that is, and for pages of another port.
#[tokio::test]
async fn the_gateway_answers_where_users_sign_in() {
    let server = Server::start(
        json!({"authEndpoint": "/api/broadcasting/auth", "authHost": "http://127.0.0.1:9", "authTimeoutMs": 100}),
    );
    let http = reqwest::Client::new();
    let url = format!("http://127.0.0.1:{}/api/broadcasting/user-auth", server.port);
    let asking = http.request(reqwest::Method::OPTIONS, &url).header("Origin", "http://127.0.0.1:3000");
    let answer = asking.header("Access-Control-Request-Headers", "authorization").send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["access-control-allow-headers"]),
        (204, &"authorization".parse().unwrap())
    );
    let client = server.connect().await;
    let kind = "application/x-www-form-urlencoded";
    let ask = |body: String| http.post(&url).header("Content-Type", kind).body(body).send();
    let answer = ask(format!("socket_id={}", client.socket_id)).await.unwrap();
    assert_eq!(answer.status(), 502, "nobody listens at authHost");
    assert_eq!(ask("socket_id=1.2".into()).await.unwrap().status(), 400);
    assert_eq!(http.get(&url).send().await.unwrap().status(), 405);
}
