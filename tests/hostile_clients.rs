//! What a client can do to the server and to others with its own connection alone.

#![allow(clippy::unwrap_used, clippy::panic)]
#[allow(dead_code)]
mod common;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::{KEY, SECRET, Server};
use laravel_echo_server::protocol::session::{ASKING_MAX, Action, Answer, Input, Rules, Session};
use laravel_echo_server::protocol::{SocketId, signature};
use serde_json::json;

fn raw(port: u16) -> std::net::TcpStream {
    let mut socket = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        socket,
        "GET /app/{KEY}?protocol=7 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    socket
}

/// One client that sends without pause must not stop its shard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_one_client_does_not_starve_the_others() {
    let server = Server::start(json!({"shards": 1}));
    let mut victim = server.connect().await;
    victim.hears_nothing_else().await;
    let mut flooder = raw(server.port);
    let until = Instant::now() + Duration::from_secs(6);
    let flood = std::thread::spawn(move || {
        // Masked pongs without payload: no answer is due, nothing has to be read.
        let chunk: Vec<u8> = [0x8a, 0x80, 0, 0, 0, 0].repeat(16 * 1024);
        let mut sent = 0_u64;
        while Instant::now() < until && flooder.write_all(&chunk).is_ok() {
            sent += chunk.len() as u64;
        }
        sent
    });
    let mut longest = Duration::ZERO;
    for _ in 0..3 {
        let one = Instant::now();
        victim.hears_nothing_else().await;
        longest = longest.max(one.elapsed());
    }
    // With its shard starved the victim waits until the flood ends.
    assert!(longest < Duration::from_secs(3), "{longest:?}");
    assert!(!flood.is_finished());
    assert!(flood.join().unwrap() > 0);
}

/// What the gateway signs for `private-conversation.1-2:-7` must not open `private-conversation.1-2`.
#[tokio::test]
async fn a_signature_for_one_private_channel_opens_no_other() {
    let server = Server::start(json!({}));
    let mut client = server.connect().await;
    let signed_channel = "private-conversation.1-2:-7";
    let text = signature::channel_text(client.socket_id.parse().unwrap(), signed_channel, None);
    let auth = format!("{KEY}:{}", signature::sign(SECRET, &text));
    client
        .send(json!({"event": "pusher:subscribe",
            "data": {"auth": auth, "channel": "private-conversation.1-2", "channel_data": "-7"}}))
        .await;
    let reply = client.next().await;
    assert_eq!(reply["event"], "pusher:subscription_error", "{reply}");
}

#[test]
fn no_more_questions_under_way_than_allowed() {
    let rules = Rules {
        app_key: "k".into(),
        secret: "s".into(),
        previous_secrets: Vec::new(),
        subscriptions_max: 200,
        subscribes_per_second: 1000,
        presence_joins_per_minute: 1000,
        channel_name_bytes_max: 200,
        client_events_per_second: 10,
        client_event_bytes_max: 1000,
        presence_member_bytes_max: 1000,
        activity_timeout: 30_000,
        pong_timeout: 30_000,
        user_authentication_timeout: None,
        reauthorize_after: None,
    };
    let mut actions = Vec::new();
    let mut session = Session::open(SocketId::new(1, 0), &rules, 0, &mut actions);
    for n in 0..200 {
        for event in ["subscribe", "unsubscribe"] {
            let text =
                json!({"event": format!("pusher:{event}"), "data": {"channel": format!("private-{n}")}}).to_string();
            session.input(Input::Text(&text), &rules, 0, &mut actions);
        }
    }
    let asked = actions.iter().filter(|action| matches!(action, Action::Ask { .. })).count();
    assert_eq!(asked, ASKING_MAX, "questions under way, none answered");
    // Each answer makes room for one, though nobody waits for it any more.
    let text = json!({"event": "pusher:subscribe", "data": {"channel": "private-x"}}).to_string();
    session.input(Input::Text(&text), &rules, 1000, &mut actions);
    assert_eq!(actions.iter().filter(|action| matches!(action, Action::Ask { .. })).count(), ASKING_MAX);
    session.input(Input::Answered(1, Answer::Yes), &rules, 1000, &mut actions);
    assert_eq!(actions.iter().filter(|action| matches!(action, Action::Ask { .. })).count(), ASKING_MAX + 1);
}

fn status(pid: u32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with(key)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A client that pings and does not read costs about `outboundBytes`.
#[test]
fn unread_pongs_cost_what_the_limit_says() {
    let server = Server::start(json!({"limits": {"outboundBytes": 1024 * 1024}}));
    let before = status(server.pid(), "VmRSS");
    let clients = 2;
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let mut socket = raw(server.port);
            std::thread::spawn(move || {
                let chunk: Vec<u8> = [0x89, 0x80, 0, 0, 0, 0].repeat(1024);
                socket.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
                let until = Instant::now() + Duration::from_secs(8);
                let mut sent = 0_u64;
                while Instant::now() < until && socket.write_all(&chunk).is_ok() {
                    sent += chunk.len() as u64;
                }
                (socket, sent)
            })
        })
        .collect();
    let sent: Vec<u64> = threads.into_iter().map(|thread| thread.join().unwrap().1 >> 10).collect();
    let peak = status(server.pid(), "VmHWM");
    let each = (peak - before) / clients;
    assert!(each < 3 * 1024, "{each} KB for each, with outboundBytes of 1024 KB, after {sent:?} KB");
}

/// A joiner that reads as fast as it can gets its member list, however long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_member_list_reaches_a_client_that_reads() {
    let server = Server::start(
        json!({"limits": {"presenceMemberBytes": 60_000, "messageBytes": 200_000, "outboundBytes": 1024 * 1024}}),
    );
    let info = "x".repeat(50_000);
    for n in 0..150 {
        let mut client = server.connect().await;
        let data = format!(r#"{{"user_id":{n},"user_info":"{info}"}}"#);
        let text = format!("{}:presence-a:{data}", client.socket_id);
        let auth = format!("{KEY}:{}", signature::sign(SECRET, &text));
        client.send(json!({"event": "pusher:subscribe", "data": {"auth": auth, "channel": "presence-a", "channel_data": data}})).await;
        let text = client.text().await;
        assert!(text.contains("subscription_succeeded"), "{text:.100}");
        // Nobody else joins just now, so nothing follows: not a close frame either.
        client.send(json!({"event": "pusher:ping", "data": {}})).await;
        let next = client.message().await;
        assert!(
            matches!(next, tokio_tungstenite::tungstenite::Message::Text(_)),
            "member {n}, after a list of {} bytes: {next:?}",
            text.len()
        );
        // Goes on reading.
        tokio::spawn(async move {
            use futures_util::StreamExt;
            while let Some(Ok(_)) = client.socket.next().await {}
        });
    }
}

/// What waits for Laravel costs about what was sent, at most.
#[tokio::test]
async fn waiting_questions_are_small() {
    // Takes connections into its backlog and never answers.
    let laravel = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let auth_host = format!("http://{}", laravel.local_addr().unwrap());
    let server = Server::start(json!({"authHost": auth_host, "authTimeoutMs": 120_000}));
    let mut client = server.connect().await;
    let before = status(server.pid(), "VmRSS");
    let headers: serde_json::Map<String, serde_json::Value> =
        (0..6_000).map(|n| (format!("{n:x}"), json!(""))).collect();
    for n in 0..200 {
        client.send(json!({"event": "pusher:subscribe", "data": {"channel": format!("private-{n}"), "auth": {"headers": headers}}})).await;
    }
    client.hears_nothing_else().await;
    let after = status(server.pid(), "VmRSS");
    assert!(after - before < 8 * 1024, "{} KB for one connection", after - before);
}

/// A Socket.IO probe that is sent over and over costs an answer each time, and nothing that stays.
#[test]
fn a_probe_that_repeats_itself_costs_no_more() {
    const PROBES: usize = 300_000;
    let server = Server::start(json!({}));
    let open = |query: &str, headers: &str| {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        write!(socket, "GET /socket.io/?EIO=3&transport={query} HTTP/1.1\r\nHost: x\r\n{headers}\r\n").unwrap();
        socket
    };
    let mut answer = [0; 1024];
    let read = open("polling", "").read(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer[..read]);
    let sid = answer.split_once(r#""sid":""#).unwrap().1.split_once('"').unwrap().0;
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut socket = open(&format!("websocket&sid={sid}"), upgrade);
    let mut byte = [0];
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let before = status(server.pid(), "VmRSS");
    let mut reader = socket.try_clone().unwrap();
    let answers = std::thread::spawn(move || {
        let mut answers = vec![0; PROBES * b"\x81\x063probe".len()];
        reader.read_exact(&mut answers).unwrap();
        answers.ends_with(b"\x81\x063probe")
    });
    socket.write_all(&b"\x81\x86\0\0\0\x002probe".repeat(PROBES)).unwrap();
    assert!(answers.join().unwrap(), "each probe is answered");
    let more = status(server.pid(), "VmRSS").saturating_sub(before);
    assert!(more < 20 * 1024, "{more} KB more after {PROBES} probes");
}

/// Whoever names any sid may send a long body, but not all at once.
#[test]
fn long_bodies_of_strangers_take_turns() {
    const BYTES: usize = 1_000_000;
    let server = Server::start(json!({}));
    let before = status(server.pid(), "VmRSS");
    let sid = format!("1.{:054}", 1);
    let head = format!(
        "POST /socket.io/?EIO=3&transport=polling&sid={sid} HTTP/1.1\r\nHost: x\r\nContent-Length: {BYTES}\r\n\r\n"
    );
    let senders: Vec<_> = (0..200)
        .map(|_| {
            let mut socket = std::net::TcpStream::connect(("127.0.0.1", server.port)).unwrap();
            let head = head.clone();
            std::thread::spawn(move || {
                socket.write_all(head.as_bytes()).unwrap();
                socket.write_all(&vec![b'x'; BYTES - 1]).unwrap();
                std::thread::sleep(Duration::from_millis(300));
                socket.write_all(b"x").unwrap();
                socket
            })
        })
        .collect();
    for sender in senders {
        let mut socket = sender.join().unwrap();
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 400");
    }
    let more = status(server.pid(), "VmHWM").saturating_sub(before);
    assert!(more < 80 * 1024, "{more} KB more for 200 bodies of {BYTES} bytes");
}
