//! Socket.IO on the wire of the real program, byte for byte where the old server's bytes are known
//! (its specification, section 6).

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;

use common::{KEY, Server};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// A client over a WebSocket.
struct Socket {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    sid: String,
}

impl Socket {
    async fn open(server: &Server, query: &str) -> Self {
        let url = format!("ws://127.0.0.1:{}/socket.io/?{query}", server.port);
        let (socket, _) = connect_async(url).await.unwrap();
        Self { socket, sid: String::new() }
    }

    /// A version 3 client that has been welcomed.
    async fn connect(server: &Server) -> Self {
        let mut client = Self::open(server, "EIO=3&transport=websocket").await;
        client.sid = sid(&client.text().await);
        assert_eq!(client.text().await, "40");
        client
    }

    async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    async fn emit(&mut self, event: &str, argument: Value) {
        self.send(&format!("42{}", json!([event, argument]))).await;
    }

    async fn text(&mut self) -> String {
        let next = tokio::time::timeout(std::time::Duration::from_secs(20), self.socket.next()).await;
        match next.expect("a message arrives in time").expect("the stream goes on").unwrap() {
            Message::Text(text) => text.to_string(),
            other => panic!("{other:?} instead of a text"),
        }
    }

    /// The code of the close frame that comes next.
    async fn closed(&mut self) -> u16 {
        loop {
            if let Message::Close(frame) = self.socket.next().await.unwrap().unwrap() {
                return frame.unwrap().code.into();
            }
        }
    }

    /// All before has been handled, and nothing is on its way.
    async fn hears_nothing_else(&mut self) {
        self.send("2").await;
        assert_eq!(self.text().await, "3");
    }
}

/// The sid in an open packet.
fn sid(open: &str) -> String {
    let handshake: Value = serde_json::from_str(open.strip_prefix('0').unwrap()).unwrap();
    handshake["sid"].as_str().unwrap().to_owned()
}

/// A client that polls, version 3.
struct Polling {
    http: reqwest::Client,
    url: String,
    sid: String,
}

impl Polling {
    async fn connect(server: &Server) -> Self {
        let http = reqwest::Client::new();
        let url = format!("http://127.0.0.1:{}/socket.io/?EIO=3&transport=polling", server.port);
        let body = http.get(&url).send().await.unwrap().text().await.unwrap();
        let (length, rest) = body.split_once(':').unwrap();
        let (open, rest) = rest.split_at(length.parse().unwrap());
        assert_eq!(rest, "2:40");
        let sid = sid(open);
        let expected =
            format!(r#"0{{"sid":"{sid}","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000}}"#);
        assert_eq!(open, expected);
        Self { http, url, sid }
    }

    fn url(&self) -> String {
        format!("{}&sid={}", self.url, self.sid)
    }

    async fn get(&self) -> (u16, String) {
        let response = self.http.get(self.url()).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn post(&self, body: impl Into<reqwest::Body>) -> (u16, String) {
        let response = self.http.post(self.url()).body(body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn packet(&self, packet: &str) {
        let body = format!("{}:{packet}", packet.encode_utf16().count());
        assert_eq!(self.post(body).await, (200, "ok".to_owned()));
    }

    /// A WebSocket that is to take over.
    async fn probe(&self, server: &Server) -> Socket {
        Socket::open(server, &format!("EIO=3&transport=websocket&sid={}", self.sid)).await
    }
}

fn assert_http_error(answer: (u16, String), status: u16, code: u8) {
    let body: Value = serde_json::from_str(&answer.1).unwrap();
    assert_eq!((answer.0, body["code"].as_u64()), (status, Some(code.into())), "{body}");
}

#[tokio::test]
async fn the_handshake_over_a_websocket() {
    let server = Server::start(json!({}));
    let mut client = Socket::open(&server, "EIO=3&transport=websocket").await;
    let open = client.text().await;
    let sid = sid(&open);
    assert_eq!(open, format!(r#"0{{"sid":"{sid}","upgrades":[],"pingInterval":25000,"pingTimeout":20000}}"#));
    assert_eq!(client.text().await, "40");
    client.send("2").await;
    assert_eq!(client.text().await, "3");
    client.send("2probe").await;
    assert_eq!(client.text().await, "3", "there is nothing to upgrade");
    // Version 4: the client connects to the namespace, and its socket id is no secret.
    let mut client = Socket::open(&server, "EIO=4&transport=websocket").await;
    assert!(client.text().await.ends_with(r#","pingTimeout":20000,"maxPayload":1000000}"#));
    client.send("40").await;
    let connected: Value = serde_json::from_str(client.text().await.strip_prefix("40").unwrap()).unwrap();
    assert!(connected["sid"].as_str().unwrap().len() <= 21);
}

#[tokio::test]
async fn one_event_reaches_clients_of_both_protocols_but_its_sender() {
    let server = Server::start(json!({}));
    let (mut ann, mut bob) = (Socket::connect(&server).await, Socket::connect(&server).await);
    let polling = Polling::connect(&server).await;
    let mut pusher = server.connect().await;
    for client in [&mut ann, &mut bob] {
        client.emit("subscribe", json!({"channel": "orders", "auth": {"headers": {}}})).await;
        client.hears_nothing_else().await;
    }
    polling.packet(r#"42["subscribe",{"channel":"orders"}]"#).await;
    pusher.subscribe("orders").await;
    let data = r#"{"id":7,"text":"é😀"}"#;
    // Ann's whole sid, as a version 2 client gives it to Laravel.
    let event = json!({"name": "App\\Events\\X", "channel": "orders", "data": data, "socket_id": ann.sid});
    assert_eq!(server.publish(event).await, (200, "{}".into()));
    let text = format!(r#"42["App\\Events\\X","orders",{data}]"#);
    assert_eq!(bob.text().await, text);
    assert_eq!(polling.get().await, (200, format!("{}:{text}", text.encode_utf16().count())));
    assert_eq!(pusher.next().await["event"], "App\\Events\\X");
    ann.hears_nothing_else().await;
    // A Pusher client's id excludes that one.
    let event = json!({"name": "e", "channel": "orders", "data": "no JSON", "socket_id": pusher.socket_id});
    server.publish(event).await;
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.text().await, r#"42["e","orders","no JSON"]"#);
    }
    pusher.hears_nothing_else().await;
}

/// Answers by the channel that is asked about: `private-deny-403` with 403, a presence channel with the
/// member that the `Authorization` header names, others with `true`. Gives its URL.
async fn laravel() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = String::new();
                while !is_whole(&request) {
                    let mut part = vec![0; 4096];
                    let read = socket.read(&mut part).await.unwrap();
                    assert!(read > 0, "the request breaks off: {request}");
                    request.push_str(std::str::from_utf8(&part[..read]).unwrap());
                }
                let channel = request.split("channel_name=").nth(1).unwrap().split('&').next().unwrap();
                let token = request.lines().find_map(|line| line.strip_prefix("authorization: ")).unwrap_or("none");
                let status = channel.rsplit('-').next().filter(|_| channel.contains("-deny-")).unwrap_or("200");
                let body = match channel.starts_with("presence-") {
                    true => json!({"channel_data": {"user_id": token.parse::<u32>().unwrap(), "user_info": {"name": format!("u{token}")}}}).to_string(),
                    false => "true".into(),
                };
                let head =
                    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                let _ = socket.write_all(format!("{head}{body}").as_bytes()).await;
            });
        }
    });
    url
}

/// A request has all of its body.
fn is_whole(request: &str) -> bool {
    let Some((head, body)) = request.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    body.len() >= length.parse().unwrap()
}

impl Socket {
    /// Subscribes as this user; nothing says that it has succeeded.
    async fn subscribe(&mut self, channel: &str, user: u32) {
        let auth = json!({"headers": {"Authorization": user.to_string()}});
        self.emit("subscribe", json!({"channel": channel, "auth": auth})).await;
    }
}

/// The old server's acceptance vectors (its specification, 7.5).
#[tokio::test]
async fn refusals_carry_laravels_status() {
    let server = Server::start(json!({"authHost": laravel().await}));
    let mut client = Socket::connect(&server).await;
    for status in [403, 419, 500, 302, 201] {
        let channel = format!("private-deny-{status}");
        client.subscribe(&channel, 1).await;
        assert_eq!(client.text().await, format!(r#"42["subscription_error","{channel}",{status}]"#));
    }
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = Server::start(json!({"authHost": format!("http://{closed}"), "authTimeoutMs": 200}));
    let mut client = Socket::connect(&server).await;
    client.subscribe("private-a", 1).await;
    assert_eq!(client.text().await, r#"42["subscription_error","private-a",0]"#);
}

#[tokio::test]
async fn presence_and_whispers_as_the_old_server_sent_them() {
    let server = Server::start(json!({"authHost": laravel().await}));
    let (mut ann, mut bob) = (Socket::connect(&server).await, Socket::connect(&server).await);
    let (one, two) = (r#"{"user_id":1,"user_info":{"name":"u1"}}"#, r#"{"user_id":2,"user_info":{"name":"u2"}}"#);
    ann.subscribe("presence-r", 1).await;
    assert_eq!(ann.text().await, format!(r#"42["presence:subscribed","presence-r",[{one}]]"#));
    bob.subscribe("presence-r", 2).await;
    assert_eq!(bob.text().await, format!(r#"42["presence:subscribed","presence-r",[{two},{one}]]"#));
    assert_eq!(ann.text().await, format!(r#"42["presence:joining","presence-r",{two}]"#));
    // A second connection of the first user: nobody else hears.
    let mut again = Socket::connect(&server).await;
    again.subscribe("presence-r", 1).await;
    assert_eq!(again.text().await, format!(r#"42["presence:subscribed","presence-r",[{one},{two}]]"#));
    // A Pusher client is a member like any other, and hears of the same.
    let mut pusher = server.connect().await;
    let list = pusher.subscribe_signed("presence-r", Some(r#"{"user_id":"3","user_info":null}"#)).await;
    let list: Value = serde_json::from_str(list["data"].as_str().unwrap()).unwrap();
    assert_eq!(list["presence"]["ids"], json!(["1", "2", "3"]));
    for client in [&mut ann, &mut bob, &mut again] {
        assert_eq!(client.text().await, r#"42["presence:joining","presence-r",{"user_id":"3","user_info":null}]"#);
    }
    // Whispers, from each kind to the other.
    ann.emit("client event", json!({"channel": "presence-r", "event": "client-typing", "data": {"x": 1}})).await;
    for client in [&mut bob, &mut again] {
        assert_eq!(client.text().await, r#"42["client-typing","presence-r",{"x":1}]"#);
    }
    let whisper = json!({"event": "client-typing", "channel": "presence-r", "data": {"x": 1}, "user_id": "1"});
    assert_eq!(pusher.next().await, whisper);
    pusher.send(json!({"event": "client-typing", "channel": "presence-r"})).await;
    for client in [&mut ann, &mut bob, &mut again] {
        assert_eq!(client.text().await, r#"42["client-typing","presence-r",null]"#);
    }
    // The user leaves with the last connection.
    again.emit("unsubscribe", json!({"channel": "presence-r", "auth": {}})).await;
    again.hears_nothing_else().await;
    bob.hears_nothing_else().await;
    ann.send("41").await;
    assert_eq!(bob.text().await, format!(r#"42["presence:leaving","presence-r",{one}]"#));
    let left = pusher.next().await;
    assert_eq!(
        (&left["event"], &left["data"]),
        (&json!("pusher_internal:member_removed"), &json!(r#"{"user_id":"1"}"#))
    );
}

#[tokio::test]
async fn refusals_of_the_polling_transport_are_engine_ios() {
    let server = Server::start(json!({}));
    let polling = Polling::connect(&server).await;
    let base = format!("http://127.0.0.1:{}/socket.io/", server.port);
    let get = async |query: &str| {
        let response = polling.http.get(format!("{base}{query}")).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_eq!(get("?EIO=3&transport=x").await, (400, r#"{"code":0,"message":"Transport unknown"}"#.into()));
    assert_eq!(
        get("?EIO=3&transport=polling&sid=x").await,
        (400, r#"{"code":1,"message":"Session ID unknown"}"#.into())
    );
    let response = polling.http.post(format!("{base}?EIO=3&transport=polling")).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), r#"{"code":2,"message":"Bad handshake method"}"#);
    assert_http_error(get("?EIO=3&transport=websocket").await, 400, 3);
    assert_http_error(get("?EIO=3&transport=polling&j=0").await, 400, 3);
    assert_http_error(get("?EIO=5&transport=polling").await, 400, 5);
    assert_http_error(get("?EIO=3&transport=polling&key=other").await, 400, 3);
    let (status, script) = get("socket.io.js").await;
    assert!(status == 404 && script.contains("socket.io-client"), "{script}");
    // Another secret, or a shard that there is not: the same answer.
    let (head, last) = polling.sid.split_at(polling.sid.len() - 1);
    let other = if last == "0" { "1" } else { "0" };
    assert_http_error(get(&format!("?EIO=3&transport=polling&sid={head}{other}")).await, 400, 1);
    let low = polling.sid.find('.').unwrap() + 11;
    let elsewhere = format!("{}65535{}", &polling.sid[..low], &polling.sid[low + 5..]);
    assert_http_error(get(&format!("?EIO=3&transport=polling&sid={elsewhere}")).await, 400, 1);
}

/// Pages of the old server load the client from the port.
#[tokio::test]
async fn the_client_script_is_served_where_there_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket.io.js");
    std::fs::write(&path, "/* a client */").unwrap();
    let server = Server::start(json!({ "socketio": { "clientScript": path } }));
    let response = reqwest::get(format!("http://127.0.0.1:{}/socket.io/socket.io.js", server.port)).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/javascript; charset=utf-8");
    assert_eq!(response.text().await.unwrap(), "/* a client */");
}

#[tokio::test]
async fn a_page_of_any_origin_may_poll_and_origins_may_be_restricted() {
    let ask = async |server: &Server, method, origin: &str| {
        let url = format!("http://127.0.0.1:{}/socket.io/?EIO=3&transport=polling", server.port);
        let request = reqwest::Client::new().request(method, url).header("Origin", origin);
        request.header("Access-Control-Request-Headers", "authorization").send().await.unwrap()
    };
    let server = Server::start(json!({}));
    for method in [reqwest::Method::GET, reqwest::Method::OPTIONS] {
        let response = ask(&server, method, "https://page.test").await;
        assert_eq!(response.status(), 200);
        let headers = response.headers();
        assert_eq!(headers["access-control-allow-origin"], "https://page.test");
        assert_eq!(headers["access-control-allow-credentials"], "true");
        assert_eq!(headers["access-control-allow-headers"], "authorization");
    }
    let server = Server::start(json!({"socketio": {"origins": "page.test:*", "path": "/socket.io"}}));
    assert_eq!(ask(&server, reqwest::Method::GET, "https://page.test").await.status(), 200);
    let refused = ask(&server, reqwest::Method::GET, "https://evil.test").await;
    assert_eq!(refused.text().await.unwrap(), r#"{"code":4,"message":"Forbidden"}"#);
}

#[tokio::test]
async fn two_polls_at_once_end_the_session() {
    let server = Server::start(json!({}));
    let polling = Polling::connect(&server).await;
    let (first, second) = tokio::join!(polling.get(), polling.get());
    assert_http_error(first, 500, 3);
    assert_http_error(second, 500, 3);
    assert_http_error(polling.get().await, 400, 1);
}

#[tokio::test]
async fn who_hangs_up_or_closes_has_left() {
    let server = Server::start(json!({}));
    // Dropped in the middle of a poll.
    let polling = Polling::connect(&server).await;
    let mut socket = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let request = format!("GET /socket.io/?EIO=3&transport=polling&sid={} HTTP/1.1\r\nHost: a\r\n\r\n", polling.sid);
    socket.write_all(request.as_bytes()).await.unwrap();
    // The post is answered after the poll was taken.
    polling.packet("2").await;
    let mut answer = [0; 512];
    let read = socket.read(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer[..read]).ends_with("1:3"));
    socket.write_all(request.as_bytes()).await.unwrap();
    polling.packet("6").await;
    drop(socket);
    // The end of the connection is noticed without any request of the client's.
    let gone = async {
        loop {
            match polling.post("1:6").await {
                (200, _) => tokio::task::yield_now().await,
                refused => return refused,
            }
        }
    };
    let refused = tokio::time::timeout(std::time::Duration::from_secs(20), gone).await;
    assert_http_error(refused.expect("the session ends in time"), 400, 1);
    // Closed by a packet.
    let polling = Polling::connect(&server).await;
    let (_, closed) = tokio::join!(polling.packet("1"), polling.get());
    assert_eq!(closed, (200, "1:1".into()));
    assert_http_error(polling.get().await, 400, 1);
}

/// A request opens a session, and holds no socket afterwards: who does not come back frees the place soon.
#[tokio::test]
async fn a_session_whose_client_never_polls_is_given_up() {
    let server = Server::start(json!({"limits": {"connections": 1}}));
    let polling = Polling::connect(&server).await;
    let answer = polling.http.get(&polling.url).send().await.unwrap();
    assert_eq!(answer.status(), 503, "one connection is allowed");
    let freed = async {
        // Nothing tells of it: the place is asked for now and then.
        while polling.http.get(&polling.url).send().await.unwrap().status() == 503 {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), freed).await.expect("the session ends in time");
    assert_http_error(polling.get().await, 400, 1);
}

/// Whoever names any sid gets no WebSocket beyond `limits.connections`.
#[tokio::test]
async fn a_probe_counts_as_a_connection() {
    let server = Server::start(json!({"limits": {"connections": 2}}));
    let polling = Polling::connect(&server).await;
    let url = format!("ws://127.0.0.1:{}/socket.io/?EIO=3&transport=websocket&sid={}", server.port, polling.sid);
    let mut probe = polling.probe(&server).await;
    probe.send("2probe").await;
    assert_eq!(probe.text().await, "3probe");
    // While the probe's handshake still counts among those without a connection, a further socket is dropped unanswered.
    let refused = async {
        loop {
            match connect_async(&url).await {
                Err(Error::Protocol(ProtocolError::HandshakeIncomplete)) => {}
                Err(Error::Http(response)) => return response.status(),
                other => panic!("{other:?}"),
            }
        }
    };
    let status = tokio::time::timeout(std::time::Duration::from_secs(20), refused).await.expect("an answer in time");
    assert_eq!(status, 503);
    // The one that is there goes on.
    probe.send("5").await;
    probe.hears_nothing_else().await;
}

#[tokio::test]
async fn a_post_that_is_no_payload_closes() {
    let server = Server::start(json!({"limits": {"messageBytes": 1000}}));
    let long = format!("1200:4{}", "x".repeat(1199));
    for body in ["nonsense", "5:2", "2:42", long.as_str()] {
        let polling = Polling::connect(&server).await;
        let posted = polling.post(body.to_owned()).await;
        assert!(matches!(posted.0, 200 | 400), "{body:.20}");
        assert_eq!(polling.get().await, (200, "1:1".into()), "{body:.20}");
        assert_http_error(polling.get().await, 400, 1);
    }
    let polling = Polling::connect(&server).await;
    assert_eq!(polling.post("x".repeat(1_000_001)).await.0, 413);
}

#[tokio::test]
async fn a_websocket_takes_over_and_nothing_is_lost() {
    let server = Server::start(json!({}));
    let polling = Polling::connect(&server).await;
    polling.packet(r#"42["subscribe",{"channel":"orders"}]"#).await;
    let mut upgrade = polling.probe(&server).await;
    upgrade.send("2probe").await;
    assert_eq!(upgrade.text().await, "3probe");
    // The poll under way is let go.
    assert_eq!(polling.get().await, (200, "1:6".into()));
    // What comes now waits for the upgrade.
    server.publish(json!({"name": "e", "channel": "orders", "data": "1"})).await;
    // In one segment with what follows: it is the session's.
    upgrade.socket.feed(Message::text("5")).await.unwrap();
    upgrade.socket.feed(Message::text(r#"42["subscribe",{"channel":"more"}]"#)).await.unwrap();
    upgrade.socket.flush().await.unwrap();
    assert_eq!(upgrade.text().await, r#"42["e","orders",1]"#);
    upgrade.hears_nothing_else().await;
    server.publish(json!({"name": "f", "channel": "more", "data": "2"})).await;
    assert_eq!(upgrade.text().await, r#"42["f","more",2]"#);
    assert_http_error(polling.get().await, 400, 3);
    let mut second = polling.probe(&server).await;
    assert_eq!(second.closed().await, 4100);
}

#[tokio::test]
async fn a_probe_that_comes_to_nothing_leaves_the_session_alone() {
    let server = Server::start(json!({}));
    let polling = Polling::connect(&server).await;
    let mut probe = polling.probe(&server).await;
    probe.send("2probe").await;
    assert_eq!(probe.text().await, "3probe");
    let mut second = polling.probe(&server).await;
    assert_eq!(second.closed().await, 4100, "one probe at a time");
    drop(probe);
    polling.packet("2").await;
    // The poll may have been let go before.
    let answer = polling.get().await;
    assert!(matches!(answer.1.as_str(), "1:3" | "1:31:6" | "1:61:3"), "{answer:?}");
    // The sid of a session that has ended, and that a POST has ended.
    let (_, _) = tokio::join!(polling.packet("1"), polling.get());
    assert_eq!(polling.probe(&server).await.closed().await, 4100);
}

/// Each of these frames ended the old server's process.
#[tokio::test]
async fn bad_frames_end_at_most_their_own_connection() {
    let server = Server::start(json!({"limits": {"messageBytes": 2000}}));
    let mut witness = Socket::connect(&server).await;
    for text in [
        r#"42["subscribe"]"#,
        r#"42["subscribe",null]"#,
        r#"42["unsubscribe",{"channel":5}]"#,
        r#"42["unsubscribe",{"channel":"presence-x"}]"#,
        r#"42["client event"]"#,
        r#"42["client event","null"]"#,
        r#"42["subscribe",{"channel":"__proto__"}]"#,
        r#"42["subscribe",{"channel":"constructor"}]"#,
        r#"42["error"]"#,
        r#"42{"a":1}"#,
        "4X",
    ] {
        let mut client = Socket::connect(&server).await;
        client.send(text).await;
        client.hears_nothing_else().await;
    }
    let long = "x".repeat(3000);
    for (text, code) in [("x", 4100), ("42[", 4100), ("45-[\"x\"]", 1003), (long.as_str(), 1009)] {
        let mut client = Socket::connect(&server).await;
        client.send(text).await;
        assert_eq!(client.closed().await, code, "{text:.20}");
    }
    witness.hears_nothing_else().await;
}

#[tokio::test]
async fn a_restart_tells_all_kinds_of_clients() {
    let mut server = Server::start(json!({}));
    let mut socket = Socket::connect(&server).await;
    let polling = Polling::connect(&server).await;
    let (poll, ()) = tokio::join!(polling.get(), async {
        // The poll has been taken once the post after it is answered.
        polling.packet("6").await;
        server.terminate();
    });
    assert!(poll.1 == "1:1", "{poll:?}");
    assert_eq!(socket.closed().await, 1012);
    socket.socket.close(None).await.ok();
    assert_eq!(server.wait(), Some(0));
}

#[tokio::test]
async fn transports_and_upgrades_may_be_switched_off() {
    let server = Server::start(json!({"socketio": {"transports": ["websocket"], "path": "/ws"}}));
    let get = async |query: &str| {
        let url = format!("http://127.0.0.1:{}{query}", server.port);
        let response = reqwest::get(url).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    assert_http_error(get("/ws/?EIO=3&transport=polling").await, 400, 0);
    assert_eq!(get("/socket.io/?EIO=3&transport=polling").await.0, 404);
    let (mut socket, _) =
        connect_async(format!("ws://127.0.0.1:{}/ws/?transport=websocket&key={KEY}", server.port)).await.unwrap();
    assert!(socket.next().await.unwrap().unwrap().into_text().unwrap().starts_with("0{"));
}

/// Packets of a version 3 payload.
fn packets(mut payload: &str) -> Vec<String> {
    let mut packets = Vec::new();
    while let Some((length, rest)) = payload.split_once(':') {
        let (packet, rest) = rest.split_at(length.parse().unwrap());
        packets.push(packet.to_owned());
        payload = rest;
    }
    packets
}

/// However the upgrade falls among them, each event arrives once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upgrade_amid_events_loses_and_doubles_none() {
    let server = std::sync::Arc::new(Server::start(json!({})));
    let publisher = {
        let server = server.clone();
        tokio::spawn(async move {
            for number in 0.. {
                server.publish(json!({"name": "e", "channel": "orders", "data": format!("{number}")})).await;
            }
        })
    };
    let number = |packet: &str| {
        packet.strip_prefix(r#"42["e","orders","#).map(|rest| rest.trim_end_matches(']').parse::<u64>().unwrap())
    };
    for round in 0..30 {
        let polling = Polling::connect(&server).await;
        polling.packet(r#"42["subscribe",{"channel":"orders"}]"#).await;
        let mut heard = Vec::new();
        let take = |heard: &mut Vec<u64>, packet: &str| heard.extend(number(packet));
        for _ in 0..round % 5 {
            packets(&polling.get().await.1).iter().for_each(|packet| take(&mut heard, packet));
        }
        let mut upgrade = polling.probe(&server).await;
        upgrade.send("2probe").await;
        // As engine.io-client does: it polls until it is answered, and upgrades when the poll has ended.
        let (last, probed) = tokio::join!(polling.get(), upgrade.text());
        assert_eq!(probed, "3probe");
        packets(&last.1).iter().for_each(|packet| take(&mut heard, packet));
        upgrade.send("5").await;
        for _ in 0..10 {
            take(&mut heard, &upgrade.text().await);
        }
        let first = heard[0];
        let expected: Vec<u64> = (first..first + heard.len() as u64).collect();
        assert_eq!(heard, expected);
    }
    publisher.abort();
}
