//! Webhooks and subscription counts as backends and clients see them: the real program, with a backend
//! of the test's own.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;
#[path = "common/receiver.rs"]
mod receiver;

use std::time::{Duration, Instant};

use common::{Client, KEY, SECRET, Server};
use laravel_echo_server::protocol::signature;
use receiver::{Answer, Receiver};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Starts the program with an app that has these settings on top.
fn start(settings: Value) -> Server {
    let mut app = json!({"appId": "app-id", "key": KEY, "secret": SECRET});
    app.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    Server::start(json!({"clients": [app], "limits": {"clientEventsPerSecond": 100_000}}))
}

async fn receiver() -> Receiver {
    Receiver::start(|_| Answer::Status(200)).await
}

fn webhook(receiver: &Receiver) -> Value {
    json!({"webhooks": [{"url": receiver.url}]})
}

async fn unsubscribe(client: &mut Client, channel: &str) {
    client.send(json!({"event": "pusher:unsubscribe", "data": {"channel": channel}})).await;
}

/// The next message, which is the count of the channel's subscribers.
async fn count(client: &mut Client, channel: &str) -> u64 {
    let text = client.text().await;
    let rest = text.strip_prefix(r#"{"event":"pusher_internal:subscription_count","data":"{\"subscription_count\":"#);
    let (count, rest) = rest.and_then(|rest| rest.split_once('}')).unwrap_or_else(|| panic!("{text}"));
    assert_eq!(rest, format!(r#"","channel":"{channel}"}}"#));
    count.parse().unwrap()
}

#[tokio::test]
async fn bytes_headers_and_signature() {
    let mut receiver = receiver().await;
    let headers = json!({"X-From": "echo", "Authorization": "Bearer b"});
    let server = start(json!({"webhooks": [{"url": receiver.url, "headers": headers}]}));
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    server.connect().await.subscribe("my-channel").await;
    let request = receiver.next().await;
    assert_eq!(request.line, "POST /hook?token=t HTTP/1.1");
    let time = serde_json::from_str::<Value>(&request.body).unwrap()["time_ms"].as_u64().unwrap();
    assert!((before..before + 60_000).contains(&time), "{time}");
    let event = r#"{"name":"channel_occupied","channel":"my-channel"}"#;
    assert_eq!(request.body, format!(r#"{{"time_ms":{time},"events":[{event}]}}"#));
    let headers = |name: &str| request.headers[name].as_str();
    assert_eq!(headers("content-type"), "application/json");
    assert_eq!(headers("x-pusher-key"), KEY);
    assert_eq!(headers("x-pusher-signature"), signature::sign(SECRET, &request.body));
    assert_eq!((headers("x-from"), headers("authorization")), ("echo", "Bearer b"));
}

#[tokio::test]
async fn each_event_of_a_presence_channel() {
    let mut receiver = receiver().await;
    let server = start(webhook(&receiver));
    let mut ann = server.connect().await;
    let mut tab = server.connect().await;
    ann.subscribe_signed("presence-a", Some(r#"{"user_id":7}"#)).await;
    let mut came = receiver.events(2).await;
    came.sort_by_key(|event| event["name"].to_string());
    assert_eq!(
        came,
        [
            json!({"name": "channel_occupied", "channel": "presence-a"}),
            json!({"name": "member_added", "channel": "presence-a", "user_id": "7"}),
        ]
    );
    // The user's second tab changes nothing; whispers are told as they were sent.
    tab.subscribe_signed("presence-a", Some(r#"{"user_id":"7"}"#)).await;
    ann.send(json!({"event": "client-a", "channel": "presence-a", "data": {"x": [1, "é"]}})).await;
    let whisper = receiver.events(1).await;
    let expected = json!({"name": "client_event", "channel": "presence-a", "event": "client-a", "data": "{\"x\":[1,\"é\"]}",
        "socket_id": ann.socket_id, "user_id": "7"});
    assert_eq!(whisper, [expected]);
    let left = Instant::now();
    drop((ann, tab));
    let mut gone = receiver.events(2).await;
    assert!(left.elapsed() >= Duration::from_millis(2_900), "{:?}", left.elapsed());
    gone.sort_by_key(|event| event["name"].to_string());
    assert_eq!(
        gone,
        [
            json!({"name": "channel_vacated", "channel": "presence-a"}),
            json!({"name": "member_removed", "channel": "presence-a", "user_id": "7"}),
        ]
    );
}

#[tokio::test]
async fn whoever_returns_at_once_has_not_left() {
    let mut receiver = receiver().await;
    let server = start(webhook(&receiver));
    let mut watcher = server.connect().await;
    watcher.subscribe_signed("presence-a", Some(r#"{"user_id":"watcher"}"#)).await;
    let mut ann = server.connect().await;
    ann.subscribe("orders").await;
    ann.subscribe_signed("presence-a", Some(r#"{"user_id":1}"#)).await;
    receiver.events(4).await;
    drop(ann);
    let mut ann = server.connect().await;
    // The members hear of it at once.
    for event in ["added", "removed"] {
        assert_eq!(watcher.next().await["event"], format!("pusher_internal:member_{event}"));
    }
    ann.subscribe("orders").await;
    ann.subscribe_signed("presence-a", Some(r#"{"user_id":1}"#)).await;
    assert_eq!(watcher.next().await["event"], "pusher_internal:member_added");
    // What was kept back would come before what happens now, and is told after the delay.
    let left = Instant::now();
    unsubscribe(&mut ann, "orders").await;
    assert_eq!(receiver.events(1).await, [json!({"name": "channel_vacated", "channel": "orders"})]);
    assert!(left.elapsed() >= Duration::from_millis(2_900), "{:?}", left.elapsed());
}

#[tokio::test]
async fn only_what_the_filter_lets_through_under_a_signature_of_its_own() {
    let (mut some, mut all) = (receiver().await, receiver().await);
    let server = start(json!({"webhooks": [
        {"url": some.url, "events": ["channel_occupied"], "channelNameStartsWith": "private-", "channelNameEndsWith": ".1"},
        {"url": all.url},
    ]}));
    let mut client = server.connect().await;
    client.subscribe("orders.1").await;
    for channel in ["private-a.2", "private-a.1", "private-b.1"] {
        client.subscribe_signed(channel, None).await;
    }
    client.send(json!({"event": "client-a", "channel": "private-a.1", "data": 1})).await;
    let occupied = |channel: &str| json!({"name": "channel_occupied", "channel": channel});
    let mut events = Vec::new();
    while events.len() < 2 {
        let request = some.next().await;
        assert_eq!(request.headers["x-pusher-signature"], signature::sign(SECRET, &request.body));
        events.extend(request.events());
    }
    events.sort_by_key(Value::to_string);
    assert_eq!(events, [occupied("private-a.1"), occupied("private-b.1")]);
    assert_eq!(all.events(5).await.len(), 5);
    assert!(some.is_empty());
}

#[tokio::test]
async fn a_cache_miss_is_told_once_for_all_who_miss() {
    let mut receiver = receiver().await;
    let server = start(json!({"webhooks": [{"url": receiver.url, "events": ["cache_miss"]}]}));
    let mut clients = [server.connect().await, server.connect().await, server.connect().await];
    for client in &mut clients {
        client.subscribe("cache-a").await;
        assert_eq!(client.next().await["event"], "pusher:cache_miss");
    }
    server.publish(json!({"name": "e", "channel": "cache-full", "data": "1"})).await;
    clients[0].subscribe("cache-full").await;
    assert_eq!(clients[0].next().await["event"], "e");
    clients[0].subscribe("cache-b").await;
    let miss = |channel: &str| json!({"name": "cache_miss", "channel": channel});
    assert_eq!(receiver.events(2).await, [miss("cache-a"), miss("cache-b")]);
}

#[tokio::test]
async fn an_app_without_webhooks_tells_nobody() {
    let mut receiver = receiver().await;
    let server = Server::start(json!({"clients": [
        {"appId": "app-id", "key": KEY, "secret": SECRET},
        {"appId": "other", "key": "other-key", "secret": SECRET, "webhooks": [{"url": receiver.url}]},
    ]}));
    server.connect().await.subscribe("orders").await;
    let mut other = server.open("other-key").await;
    other.next().await;
    other.subscribe("news").await;
    let request = receiver.next().await;
    assert_eq!(request.events(), [json!({"name": "channel_occupied", "channel": "news"})]);
    assert_eq!(request.headers["x-pusher-key"], "other-key");
}

#[tokio::test]
async fn tried_again_after_an_error_and_the_log_says_so() {
    let mut receiver = Receiver::start(|n| Answer::Status(if n == 0 { 500 } else { 200 })).await;
    let mut server = start(webhook(&receiver));
    server.connect().await.subscribe("orders").await;
    let (first, second) = (receiver.next().await, receiver.next().await);
    assert_eq!((&first.body, &first.headers), (&second.body, &second.headers));
    let said = server.says("did not take").await;
    assert!(said.contains("1 channel_occupied: it answered 500") && said.contains("of the app app-id"), "{said}");
    assert!(said.contains("/hook") && !said.contains("token"), "{said}");
    server.says("takes events again").await;
}

#[tokio::test]
async fn tried_again_after_a_refused_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut server = start(json!({"webhooks": [{"url": format!("http://{address}/hook")}]}));
    let mut client = server.connect().await;
    client.subscribe("orders").await;
    let said = server.says("did not take").await;
    assert!(said.contains("Connection refused"), "{said}");
    let mut receiver = Receiver::on(TcpListener::bind(address).await.unwrap(), |_| Answer::Status(200));
    assert_eq!(receiver.events(1).await, [json!({"name": "channel_occupied", "channel": "orders"})]);
}

/// Far more events than may wait: delivery goes on as if nobody was told, and the log says what is lost.
#[tokio::test]
async fn a_backend_that_hangs_loses_events_and_delivers_none_later() {
    let mut receiver = Receiver::start(|_| Answer::Nothing).await;
    let mut server = start(webhook(&receiver));
    let (mut ann, mut bob) = (server.connect().await, server.connect().await);
    for client in [&mut ann, &mut bob] {
        client.subscribe_signed("private-a", None).await;
    }
    receiver.next().await;
    let whispers = 12_000;
    let sending = async {
        for n in 0..whispers {
            ann.send(json!({"event": "client-a", "channel": "private-a", "data": n})).await;
        }
    };
    let hearing = async {
        for n in 0..whispers {
            let expected = format!(r#"{{"event":"client-a","channel":"private-a","data":{n}}}"#);
            assert_eq!(bob.text().await, expected);
        }
    };
    tokio::join!(sending, hearing);
    let said = server.says("takes events more slowly than they happen: 1 were lost").await;
    assert!(said.contains("10000 events"), "{said}");
    // The end does not wait for it either, and tells of the rest.
    server.terminate();
    let said = server.says("the server ends").await;
    assert!(said.contains("10000 events are lost"), "{said}");
    drop((ann, bob));
    assert_eq!(server.wait(), Some(0));
}

/// Whoever watches a channel or a user over webhooks is left with nobody when the server has ended.
#[tokio::test]
async fn the_end_is_told_within_its_time() {
    for shards in [1, 3] {
        let mut receiver = receiver().await;
        let mut server =
            Server::start(json!({"shards": shards, "clients": [{"appId": "app-id", "key": KEY, "secret": SECRET,
            "subscriptionCount": true, "webhooks": [{"url": receiver.url}]}]}));
        let mut clients = Vec::new();
        for n in 0..4 {
            let mut client = server.connect().await;
            client.subscribe(&format!("orders-{n}")).await;
            client.subscribe_signed("presence-a", Some(&format!(r#"{{"user_id":{n}}}"#))).await;
            clients.push(client);
        }
        receiver.events(13).await;
        server.terminate();
        let mut names: Vec<String> = receiver.events(13).await.iter().map(|event| event["name"].to_string()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names, ["\"channel_vacated\"", "\"member_removed\"", "\"subscription_count\""]);
        drop(clients);
        assert_eq!(server.wait(), Some(0));
        assert!(receiver.is_empty());
    }
}

#[tokio::test]
async fn subscribers_are_told_how_many_they_are() {
    let mut receiver = receiver().await;
    let server = start(
        json!({"subscriptionCount": true, "webhooks": [{"url": receiver.url, "events": ["subscription_count"]}]}),
    );
    let (mut ann, mut bob) = (server.connect().await, server.connect().await);
    // After one's own subscription_succeeded, which `subscribe` awaits.
    ann.subscribe("orders").await;
    assert_eq!(count(&mut ann, "orders").await, 1);
    bob.subscribe("orders").await;
    assert_eq!((count(&mut ann, "orders").await, count(&mut bob, "orders").await), (2, 2));
    // Once more is no more.
    bob.subscribe("orders").await;
    unsubscribe(&mut bob, "orders").await;
    assert_eq!(count(&mut ann, "orders").await, 1);
    bob.hears_nothing_else().await;
    // None of presence channels, whose members say it.
    ann.subscribe_signed("presence-a", Some(r#"{"user_id":1}"#)).await;
    ann.hears_nothing_else().await;
    unsubscribe(&mut ann, "orders").await;
    let told = receiver.events(4).await;
    let event = |count| json!({"name": "subscription_count", "channel": "orders", "subscription_count": count});
    assert_eq!(told, [event(1), event(2), event(1), event(0)]);
}

#[tokio::test]
async fn nobody_is_told_unless_the_app_wants_it() {
    let receiver = receiver().await;
    let server = start(webhook(&receiver));
    let mut client = server.connect().await;
    client.subscribe("orders").await;
    client.hears_nothing_else().await;
}

/// A reload switches webhooks and counts on and off, for channels that have subscribers, too.
#[tokio::test]
async fn switched_on_and_off_while_the_server_runs() {
    let mut receiver = receiver().await;
    let mut server = start(json!({}));
    // On both shards.
    let (mut ann, mut bob) = (server.connect().await, server.connect().await);
    ann.subscribe("orders").await;
    bob.subscribe("orders").await;
    let hook = json!([{"url": receiver.url, "events": ["channel_occupied", "channel_vacated"]}]);
    server.change_config(|config| {
        config["clients"][0]["webhooks"] = hook;
        config["clients"][0]["subscriptionCount"] = json!(true);
    });
    server.says("): clients[app-id].subscriptionCount, clients[app-id].webhooks").await;
    // The shards count one after the other, if not in one turn.
    for client in [&mut ann, &mut bob] {
        while count(client, "orders").await != 2 {}
    }
    assert_eq!(receiver.events(1).await, [json!({"name": "channel_occupied", "channel": "orders"})]);
    unsubscribe(&mut bob, "orders").await;
    assert_eq!(count(&mut ann, "orders").await, 1);
    unsubscribe(&mut ann, "orders").await;
    assert_eq!(receiver.events(1).await, [json!({"name": "channel_vacated", "channel": "orders"})]);

    server.change_config(|config| {
        config["clients"][0]["webhooks"] = json!([]);
        config["clients"][0]["subscriptionCount"] = json!(false);
    });
    server.says("): clients[app-id].subscriptionCount, clients[app-id].webhooks").await;
    ann.subscribe("orders").await;
    ann.hears_nothing_else().await;
    assert!(receiver.is_empty());
}

/// Of more than a hundred subscribers the number comes at once, and then every five seconds.
#[tokio::test]
async fn counts_of_large_channels_come_now_and_then() {
    let server = start(json!({"subscriptionCount": true}));
    let mut first = server.connect().await;
    first.subscribe("orders").await;
    let mut others = Vec::new();
    for expected in 1..=100 {
        assert_eq!(count(&mut first, "orders").await, expected);
        let mut client = server.connect().await;
        client.subscribe("orders").await;
        others.push(client);
    }
    // 101: within five seconds of the one before, so later; and then the newest.
    let waiting = Instant::now();
    for _ in 0..9 {
        let mut client = server.connect().await;
        client.subscribe("orders").await;
        others.push(client);
    }
    first.hears_nothing_else().await;
    assert_eq!(count(&mut first, "orders").await, 110);
    assert!(waiting.elapsed() >= Duration::from_secs(4), "{:?}", waiting.elapsed());
    // Small again: at once.
    others.truncate(50);
    let mut last = 110;
    while last > 51 {
        let now = count(&mut first, "orders").await;
        assert!(now < last && now <= 100, "{now} after {last}");
        last = now;
    }
    assert_eq!(last, 51);
}
