//! The Pusher protocol on the wire of the real program, byte for byte where bytes matter
//! (protocol sections 1, 2 and 8).

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;

use common::{SECRET, Server};
use futures_util::SinkExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn the_first_message_and_the_pings() {
    let server = Server::start(json!({}));
    let mut client = server.open(common::KEY).await;
    let hello = client.text().await;
    let (head, rest) = hello.split_at(r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\""#.len());
    assert_eq!(head, r#"{"event":"pusher:connection_established","data":"{\"socket_id\":\""#);
    let (socket_id, tail) = rest.split_once('\\').unwrap();
    assert_eq!(tail, r#"",\"activity_timeout\":30}"}"#);
    let (high, low) = socket_id.split_once('.').unwrap();
    assert!(high.parse::<u32>().is_ok() && low.parse::<u32>().is_ok(), "{socket_id}");
    client.hears_nothing_else().await;
    client.socket.send(Message::Ping("abc".into())).await.unwrap();
    assert_eq!(client.message().await, Message::Pong("abc".into()));
}

#[tokio::test]
async fn an_unknown_key_and_an_old_protocol_are_told_why() {
    let server = Server::start(json!({}));
    let mut client = server.open("other-key").await;
    assert_eq!(
        client.text().await,
        r#"{"event":"pusher:error","data":{"code":4001,"message":"Application does not exist"}}"#
    );
    assert_eq!(client.closed().await, (4001, "Application does not exist".into()));
    let url = format!("ws://127.0.0.1:{}/app/{}?protocol=3", server.port, common::KEY);
    let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let mut client = common::Client { socket, socket_id: String::new() };
    assert_eq!(client.closed().await.0, 4007);
}

#[tokio::test]
async fn protocols_from_4_on_and_none_are_served_alike() {
    let server = Server::start(json!({}));
    for query in ["", "?client=Pysher&version=1.0&protocol=6", "?protocol=4", "?protocol=5", "?protocol=7&flash=false"]
    {
        let url = format!("ws://127.0.0.1:{}/app/{}{query}", server.port, common::KEY);
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let mut client = common::Client { socket, socket_id: String::new() };
        let hello = client.text().await;
        assert!(
            hello.starts_with(r#"{"event":"pusher:connection_established","data":"{\"socket_id\":"#),
            "{query}: {hello}"
        );
    }
}

#[tokio::test]
async fn events_reach_the_subscribers_and_not_the_excluded() {
    let server = Server::start(json!({}));
    let (mut ann, mut bob, mut eve) = (server.connect().await, server.connect().await, server.connect().await);
    ann.subscribe("orders").await;
    bob.subscribe("orders").await;
    eve.subscribe("other").await;
    let event =
        json!({"name": "order.shipped", "channels": ["orders"], "data": "{\"id\":7}", "socket_id": bob.socket_id});
    assert_eq!(server.publish(event).await, (200, "{}".into()));
    assert_eq!(ann.text().await, r#"{"event":"order.shipped","channel":"orders","data":"{\"id\":7}"}"#);
    bob.hears_nothing_else().await;
    eve.hears_nothing_else().await;
    ann.send(json!({"event": "pusher:unsubscribe", "data": {"channel": "orders"}})).await;
    ann.hears_nothing_else().await;
    server.publish(json!({"name": "e", "channel": "orders", "data": "1"})).await;
    assert_eq!(bob.text().await, r#"{"event":"e","channel":"orders","data":"1"}"#);
    ann.hears_nothing_else().await;
}

#[tokio::test]
async fn a_wrong_secret_and_an_unknown_app_publish_nothing() {
    let server = Server::start(json!({}));
    let body = r#"{"name":"e","channel":"orders","data":"1"}"#;
    let (status, text) = server.post("/apps/app-id/events", body, "wrong").await;
    assert_eq!(status, 401);
    assert!(text.contains("clients[].secret") && !text.contains(SECRET), "{text}");
    assert_eq!(server.post("/apps/other/events", body, SECRET).await.0, 404);
    assert_eq!(server.post("/apps/app-id/events", "{}", SECRET).await.0, 400);
    let large = format!(r#"{{"name":"e","channel":"orders","data":"{}"}}"#, "x".repeat(10_241));
    assert_eq!(server.post("/apps/app-id/events", &large, SECRET).await.0, 413);
}

#[tokio::test]
async fn private_channels_need_a_signature() {
    let server = Server::start(json!({}));
    let mut client = server.connect().await;
    let reply = client.subscribe_signed("private-a", None).await;
    assert_eq!(reply, json!({"event": "pusher_internal:subscription_succeeded", "data": "{}", "channel": "private-a"}));
    client.send(json!({"event": "pusher:subscribe", "data": {"auth": "app-key:00", "channel": "private-b"}})).await;
    let reply = client.next().await;
    assert_eq!(reply["event"], "pusher:subscription_error");
    assert_eq!((&reply["data"]["type"], &reply["data"]["status"]), (&json!("AuthError"), &json!(401)));
    server.publish(json!({"name": "e", "channel": "private-b", "data": "1"})).await;
    client.hears_nothing_else().await;
}

/// A handshake without cookie and token, and no signature: the browser is told the ways out.
#[tokio::test]
async fn no_credentials_at_all_has_its_own_message() {
    for (dev_mode, told) in [(true, true), (false, false)] {
        let mut server = Server::start(json!({ "devMode": dev_mode }));
        let mut client = server.connect().await;
        client.send(json!({"event": "pusher:subscribe", "data": {"channel": "private-a"}})).await;
        let reply = client.next().await;
        assert_eq!((&reply["event"], &reply["data"]["status"]), (&json!("pusher:subscription_error"), &json!(401)));
        let sentence = reply["data"]["error"].as_str().unwrap();
        // In production how the server is set up is nobody's business; the log says it all the same.
        assert_eq!(sentence.contains("authEndpoint"), told, "{sentence}");
        assert!(told || sentence.starts_with("Nothing says who you are"), "{sentence}");
        assert!(server.says("subscription refused").await.contains("authEndpoint"));
    }
}

#[tokio::test]
async fn whispers_reach_the_others_only() {
    let server = Server::start(json!({}));
    let mut clients = Vec::new();
    for id in 1..=3 {
        let mut client = server.connect().await;
        client.subscribe_signed("presence-a", Some(&format!(r#"{{"user_id":{id}}}"#))).await;
        clients.push(client);
    }
    // Each has heard of those who came after it.
    for (index, client) in clients.iter_mut().enumerate() {
        for _ in index + 1..3 {
            assert_eq!(client.next().await["event"], "pusher_internal:member_added");
        }
    }
    clients[0].send(json!({"event": "client-typing", "channel": "presence-a", "data": {"a": 1}})).await;
    for client in &mut clients[1..] {
        let expected = r#"{"event":"client-typing","channel":"presence-a","data":{"a":1},"user_id":"1"}"#;
        assert_eq!(client.text().await, expected);
    }
    clients[0].hears_nothing_else().await;
    let mut public = server.connect().await;
    public.subscribe("orders").await;
    public.send(json!({"event": "client-typing", "channel": "orders", "data": {}})).await;
    assert_eq!(public.next().await["event"], "pusher:error");
}

/// Both in the list of the second, or the second announced to the first: whichever shard each
/// connection is on, and however close together they join.
#[tokio::test]
async fn members_who_join_at_once_hear_of_each_other() {
    let server = Server::start(json!({"limits": {"presenceJoinsPerMinute": 1000}}));
    let (mut ann, mut bob) = (server.connect().await, server.connect().await);
    for round in 0..150 {
        let channel = format!("presence-{round}");
        let (to_ann, to_bob) = tokio::join!(
            ann.subscribe_signed(&channel, Some(r#"{"user_id":1}"#)),
            bob.subscribe_signed(&channel, Some(r#"{"user_id":2}"#)),
        );
        let is_alone = |reply: &serde_json::Value| reply["data"].as_str().unwrap().contains(r#""count":1,"#);
        assert_ne!(is_alone(&to_ann), is_alone(&to_bob), "{to_ann} {to_bob}");
        let (first, second) = if is_alone(&to_ann) { (&mut ann, &mut bob) } else { (&mut bob, &mut ann) };
        second.hears_nothing_else().await;
        // A pong could come before what the home shard says, so the event itself is awaited.
        let added = first.next().await;
        assert_eq!((&added["event"], &added["channel"]), (&json!("pusher_internal:member_added"), &json!(channel)));
    }
}

#[tokio::test]
async fn presence_lists_and_changes_agree() {
    let server = Server::start(json!({}));
    let mut ann = server.connect().await;
    let reply = ann.subscribe_signed("presence-a", Some(r#"{"user_id":1,"user_info":{"name":"Ann"}}"#)).await;
    assert_eq!(reply["data"], r#"{"presence":{"count":1,"ids":["1"],"hash":{"1":{"name":"Ann"}}}}"#);
    let mut bob = server.connect().await;
    let reply = bob.subscribe_signed("presence-a", Some(r#"{"user_id":"2","user_info":{"name":"Bob"}}"#)).await;
    assert_eq!(
        reply["data"],
        r#"{"presence":{"count":2,"ids":["1","2"],"hash":{"1":{"name":"Ann"},"2":{"name":"Bob"}}}}"#
    );
    let added = r#"{"event":"pusher_internal:member_added","data":"{\"user_id\":\"2\",\"user_info\":{\"name\":\"Bob\"}}","channel":"presence-a"}"#;
    assert_eq!(ann.text().await, added);
    bob.hears_nothing_else().await;

    // A second tab of Bob's, under a numeric id: nobody is told; nor when the first one goes.
    let mut tab = server.connect().await;
    let reply = tab.subscribe_signed("presence-a", Some(r#"{"user_id":2}"#)).await;
    assert!(reply["data"].as_str().unwrap().starts_with(r#"{"presence":{"count":2,"#));
    drop(bob);
    tab.send(json!({"event": "pusher:unsubscribe", "data": {"channel": "presence-a"}})).await;
    let removed = r#"{"event":"pusher_internal:member_removed","data":"{\"user_id\":\"2\"}","channel":"presence-a"}"#;
    assert_eq!(ann.text().await, removed);
    ann.hears_nothing_else().await;
}

/// Joins and leaves from both shards at once: who follows list and changes never sees an
/// addition of somebody who is there, nor a removal of somebody who is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_agrees_under_a_crowd() {
    for shards in [1, 3] {
        presence_agrees(shards).await;
    }
}

async fn presence_agrees(shards: usize) {
    let server = Server::start(json!({"shards": shards}));
    let mut watcher = server.connect().await;
    let list = watcher.subscribe_signed("presence-a", Some(r#"{"user_id":"watcher"}"#)).await;
    assert!(list["data"].as_str().unwrap().contains(r#""count":1"#));
    let crowd = (0..20).map(|user| {
        let server = &server;
        async move {
            let mut client = server.connect().await;
            for _ in 0..5 {
                let data = format!(r#"{{"user_id":"{}"}}"#, user % 10);
                client.send(json!({"event": "pusher:unsubscribe", "data": {"channel": "presence-a"}})).await;
                client.send(json!({"event": "pusher:ping"})).await;
                while client.next().await["event"] != "pusher:pong" {}
                let mut reply = client.subscribe_signed("presence-a", Some(&data)).await;
                while reply["event"] != "pusher_internal:subscription_succeeded" {
                    reply = client.next().await;
                }
            }
            client.send(json!({"event": "pusher:unsubscribe", "data": {"channel": "presence-a"}})).await;
            client.send(json!({"event": "pusher:ping"})).await;
            while client.next().await["event"] != "pusher:pong" {}
        }
    });
    futures_util::future::join_all(crowd).await;
    // Whoever joins now comes after all that the crowd did.
    let mut last = server.connect().await;
    let list = last.subscribe_signed("presence-a", Some(r#"{"user_id":"last"}"#)).await;
    assert_eq!(
        list["data"],
        r#"{"presence":{"count":2,"ids":["last","watcher"],"hash":{"last":null,"watcher":null}}}"#
    );
    let mut present = std::collections::BTreeSet::new();
    let mut changes = 0;
    while !present.contains("last") {
        let message = watcher.next().await;
        let data: serde_json::Value = serde_json::from_str(message["data"].as_str().unwrap()).unwrap();
        let user = data["user_id"].as_str().unwrap().to_owned();
        match message["event"].as_str().unwrap() {
            "pusher_internal:member_added" => assert!(present.insert(user)),
            "pusher_internal:member_removed" => assert!(present.remove(&user)),
            other => panic!("{other}"),
        }
        changes += 1;
    }
    assert_eq!(present.len(), 1, "{present:?}");
    assert!(changes >= 20, "{changes}");
}

#[tokio::test]
async fn a_slow_reader_is_closed_and_the_others_go_on() {
    // No ping comes in between, however long it takes.
    let server = Server::start(json!({"shards": 1, "limits": {"outboundBytes": 100_000, "activityTimeout": 600}}));
    let mut slow = server.connect().await;
    slow.subscribe("news").await;
    let mut quick = server.connect().await;
    quick.subscribe("news").await;
    let data = "x".repeat(10_000);
    // More than the kernel's buffers on both ends hold.
    let rounds = 2_000;
    for n in 0..rounds {
        server.publish(json!({"name": n.to_string(), "channel": "news", "data": data})).await;
        assert_eq!(quick.next().await["event"], n.to_string());
    }
    let mut heard = 0;
    let code = loop {
        match slow.message().await {
            Message::Text(text) => {
                // Whatever arrives is whole and in order: nothing is missing in the middle.
                assert!(text.starts_with(&format!(r#"{{"event":"{heard}","#)), "{text:.40}");
                heard += 1;
            }
            Message::Close(Some(frame)) => break u16::from(frame.code),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code, 4100);
    assert!(heard < rounds, "{heard}");
}

#[tokio::test]
async fn silence_is_pinged_and_then_closed() {
    let server = Server::start(json!({"limits": {"activityTimeout": 1, "pongTimeout": 1}}));
    let mut client = server.connect().await;
    assert_eq!(client.text().await, r#"{"event":"pusher:ping","data":"{}"}"#);
    let error = client.next().await;
    assert_eq!((&error["event"], &error["data"]["code"]), (&json!("pusher:error"), &json!(4201)));
    assert_eq!(client.closed().await.0, 4201);
}

#[tokio::test]
async fn a_message_over_the_limit_closes_with_1009() {
    let server = Server::start(json!({"limits": {"messageBytes": 1000}}));
    let mut client = server.connect().await;
    client.send(json!({"event": "client-x", "data": "x".repeat(1000)})).await;
    assert_eq!(client.closed().await.0, 1009);
}

#[tokio::test]
async fn a_stop_closes_with_a_code_after_which_clients_return() {
    for shards in [1, 2] {
        let mut server = Server::start(json!({"shards": shards}));
        let mut clients = [server.connect().await, server.connect().await];
        server.terminate();
        for client in &mut clients {
            assert_eq!(client.closed().await.0, 1012);
        }
        drop(clients);
        assert_eq!(server.wait(), Some(0));
    }
}

#[tokio::test]
async fn a_port_in_use_is_a_sentence() {
    let server = Server::start(json!({}));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("laravel-echo-server.json");
    let config = json!({"host": "127.0.0.1", "port": server.port, "clients": [{"appId": "a", "key": "k"}]});
    std::fs::write(&path, config.to_string()).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_laravel-echo-server"))
        .args(["start", "--config"])
        .arg(&path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("cannot listen on 127.0.0.1 port {}", server.port)), "{said}");
    assert!(said.contains("another program"), "{said}");
}
