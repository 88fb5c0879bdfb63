//! What is forbidden on the wire, byte by byte, sent to the real program: RFC 6455, texts that are none, JSON
//! that kills by its depth, names that look like others, headers that break requests. What is answered is
//! asserted each time, and that the server serves the others as before.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::{Call, KEY, Server};
use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const DEPTH: usize = 50_000;

/// A client that sends any bytes.
struct Raw(TcpStream);

impl Raw {
    fn connect(server: &Server, headers: &str) -> Self {
        let mut socket = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(
            socket,
            "GET /app/{KEY}?protocol=7 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        )
        .unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            socket.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
        let mut client = Self(socket);
        assert!(client.text().contains("connection_established"));
        client
    }

    /// A frame: first byte as it is, payload masked.
    fn send(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..126 => frame.push(0x80 | short as u8),
            middle @ 126..=0xffff => {
                frame.push(0x80 | 126);
                frame.extend((middle as u16).to_be_bytes());
            }
            long => {
                frame.push(0x80 | 127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        frame.extend([1, 2, 3, 4]);
        frame.extend(payload.iter().enumerate().map(|(index, byte)| byte ^ [1, 2, 3, 4][index & 3]));
        self.0.write_all(&frame).unwrap();
    }

    fn says(&mut self, text: &str) {
        self.send(0x81, text.as_bytes());
    }

    fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).unwrap();
        let length = match head[1] {
            126 => {
                let mut bytes = [0; 2];
                self.0.read_exact(&mut bytes).unwrap();
                usize::from(u16::from_be_bytes(bytes))
            }
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).unwrap();
        (head[0], payload)
    }

    fn text(&mut self) -> String {
        let (first, payload) = self.frame();
        assert_eq!(first, 0x81, "{payload:?}");
        String::from_utf8(payload).unwrap()
    }

    fn event(&mut self) -> Value {
        serde_json::from_str(&self.text()).unwrap()
    }

    /// The code of the close frame that comes after any texts.
    fn closed(&mut self) -> u16 {
        loop {
            let (first, payload) = self.frame();
            if first == 0x88 {
                return u16::from_be_bytes([payload[0], payload[1]]);
            }
        }
    }
}

#[test]
fn rfc_6455_is_held_to_the_letter() {
    let server = Server::start(json!({}));
    // Frames, and the code of RFC 6455 section 7.4.1 that ends the connection.
    type Frames<'a> = &'a [(u8, &'a [u8])];
    let cases: &[(&str, Frames<'_>, u16)] = &[
        ("RSV1 without an extension", &[(0xc1, b"x")], 1002),
        ("RSV2", &[(0xa1, b"x")], 1002),
        ("RSV3", &[(0x91, b"x")], 1002),
        ("RSV1 on a ping", &[(0xc9, b"x")], 1002),
        ("opcode 3", &[(0x83, b"")], 1002),
        ("opcode 7", &[(0x87, b"")], 1002),
        ("opcode 11", &[(0x8b, b"")], 1002),
        ("opcode 15", &[(0x8f, b"")], 1002),
        ("a ping in fragments", &[(0x09, b"x")], 1002),
        ("a ping of 126 bytes", &[(0x89, &[b'x'; 126])], 1002),
        ("a close frame of 126 bytes", &[(0x88, &[b'x'; 126])], 1002),
        ("a continuation of nothing", &[(0x80, b"x")], 1002),
        ("a continuation of nothing that goes on", &[(0x00, b"x")], 1002),
        ("a message within another one's fragments", &[(0x01, b"{"), (0x81, b"}")], 1002),
        ("a binary message within a text's fragments", &[(0x01, b"{"), (0x82, b"}")], 1002),
        ("half a close code", &[(0x88, b"\x03")], 1002),
        ("close code 0", &[(0x88, b"\x00\x00")], 1002),
        ("close code 999", &[(0x88, b"\x03\xe7")], 1002),
        ("close code 1004", &[(0x88, b"\x03\xec")], 1002),
        ("close code 1005", &[(0x88, b"\x03\xed")], 1002),
        ("close code 1006", &[(0x88, b"\x03\xee")], 1002),
        ("close code 1015", &[(0x88, b"\x03\xf7")], 1002),
        ("close code 2999", &[(0x88, b"\x0b\xb7")], 1002),
        ("close code 5000", &[(0x88, b"\x13\x88")], 1002),
        ("a close reason that is no UTF-8", &[(0x88, b"\x03\xe8\xff")], 1007),
        ("a close frame without a code", &[(0x88, b"")], 1000),
        ("a close frame with a code of the client's own", &[(0x88, b"\x0f\xa0bye")], 4000),
        ("a text that is no UTF-8", &[(0x81, b"\xff")], 1007),
        ("an overlong slash", &[(0x81, b"\xc0\xaf")], 1007),
        ("half of a surrogate pair", &[(0x81, b"\xed\xa0\x80")], 1007),
        ("beyond the last character", &[(0x81, b"\xf4\x90\x80\x80")], 1007),
        ("a character whose end never comes", &[(0x01, b"\xe2\x82"), (0x80, b"")], 1007),
        ("a character that goes wrong in the next fragment", &[(0x01, b"\xe2\x82"), (0x80, b"\x28")], 1007),
    ];
    for (what, frames, code) in cases {
        let mut client = Raw::connect(&server, "");
        for (first, payload) in *frames {
            client.send(*first, payload);
        }
        assert_eq!(client.closed(), *code, "{what}");
    }
    let mut unmasked = Raw::connect(&server, "");
    unmasked.0.write_all(b"\x81\x02{}").unwrap();
    assert_eq!(unmasked.closed(), 1002, "an unmasked frame");
    let mut huge = Raw::connect(&server, "");
    huge.0.write_all(b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff").unwrap();
    assert_eq!(huge.closed(), 1009, "a frame of more than the limit, before it has come");
    let mut negative = Raw::connect(&server, "");
    negative.0.write_all(b"\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff").unwrap();
    assert_eq!(negative.closed(), 1009, "a length with the highest bit set");
    let mut dripping = Raw::connect(&server, "");
    dripping.send(0x01, &[b' '; 40_000]);
    dripping.send(0x00, &[b' '; 40_000]);
    assert_eq!(dripping.closed(), 1009, "fragments that are too long together");
}

#[test]
fn what_is_allowed_but_odd_is_served() {
    let server = Server::start(json!({}));
    let mut client = Raw::connect(&server, "");
    let pong = r#"{"event":"pusher:pong","data":"{}"}"#;
    // In fragments, a character cut in two, with control frames and an empty fragment between.
    let text = r#"{"event":"pusher:ping","data":"€"}"#.as_bytes();
    let cut = text.iter().position(|byte| *byte == 0xe2).unwrap() + 1;
    client.send(0x01, &text[..cut]);
    client.send(0x89, b"p");
    client.send(0x00, b"");
    client.send(0x8a, b"unasked");
    client.send(0x80, &text[cut..]);
    assert_eq!(client.frame(), (0x8a, b"p".to_vec()));
    assert_eq!(client.text(), pong);
    // A binary message that is a text, as other Pusher servers take it; and one that is none.
    client.send(0x82, br#"{"event":"pusher:ping"}"#);
    assert_eq!(client.text(), pong);
    client.send(0x82, b"\xff\x00");
    client.says(r#"{"event":"pusher:ping"}"#);
    assert_eq!(client.text(), pong);
    client.send(0x89, &[b'x'; 125]);
    assert_eq!(client.frame(), (0x8a, vec![b'x'; 125]));
}

/// A small frame that unpacks to much, also as many fragments, also nested.
#[test]
fn bombs_are_not_unpacked() {
    let server = Server::start(json!({"perMessageDeflate": true}));
    let bomb = |bytes: usize| {
        let mut compress = flate2::Compress::new(flate2::Compression::best(), false);
        let mut packed = Vec::with_capacity(bytes / 500 + 1000);
        compress.compress_vec(&vec![b' '; bytes], &mut packed, flate2::FlushCompress::Sync).unwrap();
        packed.truncate(packed.len() - 4);
        packed
    };
    let extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
    let packed = bomb(20_000_000);
    assert!(packed.len() < 64 * 1024, "{}", packed.len());
    let before = memory(&server, "VmRSS");
    for _ in 0..20 {
        let mut client = Raw::connect(&server, extension);
        client.send(0xc1, &packed);
        assert_eq!(client.closed(), 1009);
        let mut client = Raw::connect(&server, extension);
        client.send(0x41, &packed[..100]);
        for piece in packed[100..packed.len() - 1].chunks(3000) {
            client.send(0x00, piece);
        }
        client.send(0x80, &packed[packed.len() - 1..]);
        assert_eq!(client.closed(), 1009);
    }
    // A second bit for compression in the middle of a message.
    let mut client = Raw::connect(&server, extension);
    client.send(0x41, &bomb(10)[..1]);
    client.send(0xc0, b"x");
    assert_eq!(client.closed(), 1002);
    let more = memory(&server, "VmHWM").saturating_sub(before);
    assert!(more < 16 * 1024, "{more} KB more");
}

fn memory(server: &Server, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Where nothing is deep by right, depth must not cost the stack: 50,000 lists in lists, everywhere JSON is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn depth_kills_nobody() {
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(DEPTH), close.repeat(DEPTH));
    let (lists, objects) = (deep("[", "]"), deep(r#"{"a":"#, "}").replace(":}", ":1}"));
    // Laravel answers with it.
    let laravel = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = laravel.local_addr().unwrap();
    let answer = format!(r#"{{"auth":"a","channel_data":{lists}}}"#);
    assert!(answer.len() > 64 * 1024);
    let short = format!(r#"{{"auth":"a","channel_data":{}{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = laravel.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = socket.read(&mut request).await;
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", short.len());
            let _ = socket.write_all((head + &short).as_bytes()).await;
        }
    });
    let limits = json!({"messageBytes": 1_000_000, "eventBytes": 1_000_000, "presenceMemberBytes": 1_000_000});
    let server = Server::start(json!({"authHost": format!("http://{address}"), "limits": limits}));
    let mut client = server.connect().await;
    client.subscribe("news").await;
    for body in [lists.clone(), objects.clone(), lists[..DEPTH].to_owned()] {
        for text in [
            body.clone(),
            format!(r#"{{"event":"pusher:subscribe","data":{body}}}"#),
            format!(r#"{{"event":{body}}}"#),
            format!(r#"{{"event":"pusher:subscribe","data":{{"channel":{body}}}}}"#),
            format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"private-a","auth":{body}}}}}"#),
            format!(r#"{{"event":"pusher:signin","data":{{"auth":"a:b","user_data":{body}}}}}"#),
            format!(r#"{{"event":"client-a","channel":"private-a","data":{body}}}"#),
        ] {
            let mut other = server.connect().await;
            other.socket.send(tokio_tungstenite::tungstenite::Message::text(text)).await.unwrap();
            other.send(json!({"event": "pusher:ping"})).await;
            // Whatever is answered before, the connection goes on, or is closed in good order (a signin).
            loop {
                match other.message().await {
                    tokio_tungstenite::tungstenite::Message::Text(text) if text.contains("pusher:pong") => break,
                    tokio_tungstenite::tungstenite::Message::Close(Some(frame)) => {
                        assert_eq!(u16::from(frame.code), 4009);
                        break;
                    }
                    _ => {}
                }
            }
        }
        // As members, signed.
        let mut member = server.connect().await;
        let reply =
            member.subscribe_signed("presence-a", Some(&format!(r#"{{"user_id":1,"user_info":{body}}}"#))).await;
        let is_whole = body.len() > DEPTH;
        let expected = if is_whole { "pusher_internal:subscription_succeeded" } else { "pusher:subscription_error" };
        assert_eq!(reply["event"], expected, "{:.200}", reply.to_string());
        // Over the HTTP API.
        let (status, _) = server
            .post("/apps/app-id/events", &format!(r#"{{"name":"a","channel":"news","data":{body}}}"#), common::SECRET)
            .await;
        assert_eq!(status, if is_whole { 200 } else { 400 });
        if is_whole {
            assert_eq!(client.text().await.matches(&body[..1]).count().min(2), 2, "it goes out as it came");
        }
        let (status, _) = server.post("/apps/app-id/events", &body, common::SECRET).await;
        assert_eq!(status, 400);
        let (status, _) =
            server.post("/apps/app-id/batch_events", &format!(r#"{{"batch":{body}}}"#), common::SECRET).await;
        assert_eq!(status, 400);
        let http = reqwest::Client::new();
        let gateway = http.post(format!("http://127.0.0.1:{}/broadcasting/auth", server.port));
        let gateway = gateway.header("Content-Type", "application/json");
        let body = body[..body.len().min(60_000)].to_owned();
        assert_eq!(gateway.body(body).send().await.unwrap().status(), 400);
    }
    // Laravel's own answer.
    let credentials = json!({"Authorization": "Bearer x"});
    client
        .send(json!({"event": "pusher:subscribe", "data": {"channel": "presence-b", "auth": {"headers": credentials}}}))
        .await;
    let refused = client.next().await;
    assert_eq!(refused["event"], "pusher:subscription_error", "{refused}");
    client.hears_nothing_else().await;
    // The configuration.
    let dir = tempfile::tempdir().unwrap();
    for body in [&lists, &objects, &format!(r#"{{"clients":{lists}}}"#)] {
        let path = dir.path().join("deep.json");
        std::fs::write(&path, body).unwrap();
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_laravel-echo-server"));
        let output = program.args(["start", "--config"]).arg(&path).output().unwrap();
        assert!(output.status.code().is_some_and(|code| code != 0), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("deep.json"), "{output:?}");
    }
}

/// Each of these shuts down another server. Here: an error that says what was wrong, and the connection goes on.
#[test]
fn data_that_is_missing_or_of_another_kind() {
    let server = Server::start(json!({}));
    let mut client = Raw::connect(&server, "");
    let mut sent = 0;
    let datas =
        ["", r#","data":null"#, r#","data":1"#, r#","data":"x""#, r#","data":[]"#, r#","data":{}"#, r#","data":true"#];
    for event in
        ["pusher:subscribe", "pusher:unsubscribe", "pusher:ping", "pusher:pong", "client-a", "pusher:unknown", ""]
    {
        for data in datas {
            client.says(&format!(r#"{{"event":"{event}"{data}}}"#));
            sent += 1;
            if sent % 40 == 0 {
                // Before so many are taken for an attack.
                client = Raw::connect(&server, "");
            }
        }
    }
    let mut client = Raw::connect(&server, "");
    for text in [
        "",
        " ",
        "null",
        "1",
        "\"a\"",
        "[]",
        "{}",
        r#"{"event":null}"#,
        r#"{"event":1}"#,
        r#"{"data":{}}"#,
        "{",
        "\u{feff}{}",
    ] {
        client.says(text);
        assert_eq!(client.event()["event"], "pusher:error", "{text}");
    }
    // Of two keys of one name the last counts, and no more than one channel is joined.
    client.says(r#"{"event":"pusher:subscribe","data":{"channel":"private-a","channel":"news"}}"#);
    let reply = client.event();
    assert!(reply["event"] == "pusher:error" || reply["channel"] == "news", "{reply}");
    client.says(r#"{"event":"pusher:ping","event":"pusher:subscribe","data":{"channel":"news2"}}"#);
    let reply = client.event();
    assert!(reply["event"] == "pusher:error" || reply["channel"] == "news2", "{reply}");
    // So many are.
    let mut flood = Raw::connect(&server, "");
    for _ in 0..50 {
        flood.says("nonsense");
    }
    assert_eq!(flood.closed(), 4100);
}

/// Names that are objects' own in JavaScript and keys of nothing here.
#[tokio::test]
async fn channels_named_like_prototypes_are_channels() {
    let server = Server::start(json!({}));
    let names =
        ["__proto__", "constructor", "toString", "hasOwnProperty", "valueOf", "prototype", "length", "0", "null"];
    let mut client = server.connect().await;
    for name in names {
        client.subscribe(name).await;
        let (status, _) = server.publish(json!({"name": name, "channel": name, "data": "x"})).await;
        assert_eq!(status, 200);
        assert_eq!(client.next().await, json!({"event": name, "channel": name, "data": "x"}));
        let (_, there) = server.get(&format!("/apps/app-id/channels/{name}"), &[("info", "subscription_count")]).await;
        assert_eq!(serde_json::from_str::<Value>(&there).unwrap()["subscription_count"], 1, "{there}");
        client.send(json!({"event": "pusher:unsubscribe", "data": {"channel": name}})).await;
    }
    for name in names {
        let channel = format!("presence-{name}");
        let reply = client.subscribe_signed(&channel, Some(&format!(r#"{{"user_id":"{name}"}}"#))).await;
        let data: Value = serde_json::from_str(reply["data"].as_str().unwrap()).unwrap();
        assert_eq!((&data["presence"]["count"], &data["presence"]["ids"]), (&json!(1), &json!([name])));
    }
}

/// Laravel trims blanks and NULs, PHP and people take letters for others: such a name would be asked about as
/// another one, or read as a guarded one and be public.
#[tokio::test]
async fn names_that_look_like_others_are_no_names() {
    let server = Server::start(json!({}));
    let mut client = server.connect().await;
    for name in [
        " private-a",
        "private-a ",
        "private-a\0",
        "\0private-a",
        "private\u{2010}a",
        "priv\u{430}te-a",
        "private-a\u{200b}",
        "\u{ff50}rivate-a",
        "private-a\n",
        "private-a\r\nX-Evil: 1",
        "news\t",
        "news\u{a0}",
        "private-é",
        "\u{202e}a-etavirp",
        "",
        "#private-a",
        "x#server-to-user-1",
        "private-\"a",
        "private-a\\",
    ] {
        client.send(json!({"event": "pusher:subscribe", "data": {"channel": name}})).await;
        let reply = client.next().await;
        assert_eq!(reply["event"], "pusher:subscription_error", "{name:?} {reply}");
        // Not even for a backend.
        let (status, _) = server.publish(json!({"name": "a", "channel": name, "data": "x"})).await;
        assert_eq!(status, 400, "{name:?}");
    }
    // Guarded wherever the word stands; in other letters it is another word, and Laravel's, too.
    for (name, event) in [
        ("x_private-a", "pusher:subscription_error"),
        ("presence-private-a", "pusher:subscription_error"),
        ("PRIVATE-a", "pusher_internal:subscription_succeeded"),
    ] {
        client.send(json!({"event": "pusher:subscribe", "data": {"channel": name}})).await;
        assert_eq!(client.next().await["event"], event, "{name}");
    }
}

/// A fake Laravel that keeps each request, as it came over the wire, and says yes.
async fn recording_laravel() -> (std::net::SocketAddr, std::sync::Arc<std::sync::Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let requests = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let book = requests.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let book = book.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !String::from_utf8_lossy(&request).contains("channel_name=") {
                    if socket.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
                book.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
                let _ =
                    socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ntrue").await;
            });
        }
    });
    (address, requests)
}

/// Headers that a client puts into its subscribe message cannot end the request to Laravel, nor begin another one.
#[tokio::test]
async fn headers_from_a_message_break_no_request() {
    let (address, requests) = recording_laravel().await;
    let server = Server::start(json!({"authHost": format!("http://{address}")}));
    let mut client = server.connect().await;
    let headers = json!({
        "Authorization": "Bearer ok",
        "X-A": "a\r\nX-Evil: 1",
        "X-B": "a\nGET /evil HTTP/1.1",
        "X-C\r\nX-Evil": "1",
        "X-D: 1\r\nX-Evil": "1",
        "Content-Length": "0",
        "Transfer-Encoding": "chunked",
        "Connection": "upgrade",
        "Host": "evil.example",
        "X-Forwarded-For": "127.0.0.1",
        "Expect": "100-continue",
        "X-E\0": "1",
    });
    client
        .send(json!({"event": "pusher:subscribe", "data": {"channel": "private-a", "auth": {"headers": headers}}}))
        .await;
    assert_eq!(client.next().await["event"], "pusher_internal:subscription_succeeded");
    let request = requests.lock().unwrap()[0].clone();
    let lower = request.to_ascii_lowercase();
    for evil in ["x-evil", "/evil", "evil.example", "chunked", "expect:", "content-length: 0", "connection: upgrade"] {
        assert!(!lower.contains(evil), "{evil} in {request}");
    }
    assert!(lower.contains("authorization: bearer ok") && lower.contains(&format!("host: {address}")), "{request}");
    assert_eq!(lower.matches("content-length").count(), 1, "{request}");
}

/// A page of another site opens a socket with the visitor's cookie, or asks the gateway: Laravel is not shown the cookie,
/// and the page may not read the answer. No origin is reflected that is not one's own.
#[tokio::test]
async fn a_foreign_page_gains_nothing() {
    let (address, requests) = recording_laravel().await;
    let server = Server::start(json!({"authHost": format!("http://{address}")}));
    let evil = "http://evil.example";
    let subscribe = r#"{"event":"pusher:subscribe","data":{"channel":"private-a"}}"#;
    for origin in [evil, "null", "http://127.0.0.1.evil.example", "http://evil.example/127.0.0.1", "", "file://"] {
        let headers = format!("Origin: {origin}\r\nCookie: session=c00kie\r\n");
        let port = server.port;
        let refused = tokio::task::spawn_blocking({
            let mut client = Raw::connect(&server, &headers);
            move || {
                client.says(subscribe);
                client.event()
            }
        });
        let refused = refused.await.unwrap();
        assert_eq!(refused["event"], "pusher:subscription_error", "{origin}");
        assert!(requests.lock().unwrap().is_empty(), "Laravel was asked for {origin}");
        let http = reqwest::Client::new();
        let mut asked = http.post(format!("http://127.0.0.1:{port}/broadcasting/auth"));
        asked = asked.header("Origin", origin).header("Cookie", "session=c00kie");
        asked = asked.header("Content-Type", "application/x-www-form-urlencoded");
        let answer = asked.body("socket_id=1.2&channel_name=private-a").send().await.unwrap();
        assert_eq!(answer.status(), 403, "{origin}");
        assert!(!answer.headers().contains_key("access-control-allow-origin"), "{origin}");
        let mut preflight =
            http.request(reqwest::Method::OPTIONS, format!("http://127.0.0.1:{port}/broadcasting/auth"));
        preflight = preflight.header("Origin", origin).header("Access-Control-Request-Method", "POST");
        let answer = preflight.send().await.unwrap();
        assert!(!answer.headers().contains_key("access-control-allow-credentials"), "{origin}");
    }
    assert!(requests.lock().unwrap().is_empty());
    // One's own page: the same host as the handshake's.
    let own = "Origin: http://x\r\nCookie: session=c00kie\r\n";
    let mut client = Raw::connect(&server, own);
    let joined = tokio::task::spawn_blocking(move || {
        client.says(subscribe);
        client.event()
    });
    assert_eq!(joined.await.unwrap()["event"], "pusher_internal:subscription_succeeded");
    assert!(requests.lock().unwrap()[0].contains("session=c00kie"));
}

/// A name of the attacker's that leads to this machine (DNS rebinding): its pages are of one origin with this server, and
/// without a signature they gain what they would gain anywhere.
#[tokio::test]
async fn a_name_that_leads_here_opens_no_api() {
    let server = Server::start(json!({}));
    let ask = |host: &'static str, path: &'static str| {
        let port = server.port;
        tokio::task::spawn_blocking(move || {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
            write!(socket, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
            let mut answer = [0; 12];
            socket.read_exact(&mut answer).unwrap();
            String::from_utf8_lossy(&answer[9..]).into_owned()
        })
    };
    let by_key = "/apps/app-id/channels?auth_key=app-key";
    assert_eq!(ask("localhost", by_key).await.unwrap(), "200");
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.nip.example", "[::ffff:8.8.8.8]", ""] {
        assert_ne!(ask(host, by_key).await.unwrap(), "200", "{host}");
    }
    assert_ne!(ask("localhost", "/apps/app-id/channels").await.unwrap(), "200");
    let forged = Call { secret: "guess", ..Call::get("/apps/app-id/channels") };
    assert_eq!(server.call(forged).await.0, 401);
}

/// Heads that are too long, cookies among them, are refused and cost little; long ones that fit are served.
#[tokio::test]
async fn oversized_heads() {
    let server = Server::start(json!({}));
    let before = memory(&server, "VmRSS");
    for _ in 0..20 {
        let port = server.port;
        let answer = tokio::task::spawn_blocking(move || {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
            write!(socket, "GET /app/{KEY} HTTP/1.1\r\nHost: x\r\nCookie: a=").unwrap();
            let piece = "x".repeat(64 * 1024);
            for _ in 0..32 {
                if socket.write_all(piece.as_bytes()).is_err() {
                    break;
                }
            }
            let mut answer = [0; 12];
            socket.read_exact(&mut answer).map(|()| String::from_utf8_lossy(&answer).into_owned())
        });
        // The answer may be lost where the rest was not read.
        if let Ok(answer) = answer.await.unwrap() {
            assert!(answer.ends_with("431") || answer.ends_with("400"), "{answer}");
        }
    }
    let more = memory(&server, "VmHWM").saturating_sub(before);
    assert!(more < 16 * 1024, "{more} KB more");
    let cookie = format!("Cookie: a={}\r\n", "x".repeat(16 * 1024));
    tokio::task::spawn_blocking(move || drop((Raw::connect(&server, &cookie), server))).await.unwrap();
}
