//! The end of the server, and its restart under systemd, on the real program: who is closed when and with which code,
//! what still arrives, and that nobody is refused.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Client, KEY, SECRET, Server};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

/// How many of the members of a channel there are, by the reply to a subscribe.
fn count(reply: &Value) -> u64 {
    let data: Value = serde_json::from_str(reply["data"].as_str().unwrap()).unwrap();
    data["presence"]["count"].as_u64().unwrap()
}

/// What a client has heard until it was closed, when that was, and with which code.
async fn until_closed(mut client: Client) -> (Vec<Value>, Instant, u16) {
    let mut heard = Vec::new();
    loop {
        match client.message().await {
            Message::Text(text) => heard.push(serde_json::from_str(&text).unwrap()),
            Message::Close(Some(frame)) => return (heard, Instant::now(), frame.code.into()),
            other => panic!("{other:?}"),
        }
    }
}

/// Clients are closed one after the other over the time that is set. Who is closed later hears events until then, and of
/// nobody that they have left.
#[tokio::test]
async fn connections_are_closed_over_a_time_and_hear_events_until_then() {
    const CLIENTS: u64 = 30;
    let mut server = Server::start(json!({"shutdownSeconds": 3}));
    let mut clients = Vec::new();
    for n in 0..CLIENTS {
        let mut client = server.connect().await;
        client.subscribe("news").await;
        let reply =
            client.subscribe_signed("presence-room", Some(&json!({"user_id": n.to_string()}).to_string())).await;
        assert_eq!(count(&reply), n + 1);
        clients.push(client);
    }
    // Whoever came last has heard of nobody who came.
    let waiting: Vec<_> = clients.into_iter().map(|client| tokio::spawn(until_closed(client))).collect();
    // A backend's connection that is open already is served until the end.
    let mut backend = tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    backend.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = [0; 1024];
    assert!(backend.read(&mut answer).await.unwrap() > 0);

    server.terminate();
    let said = server.says("SIGTERM: closing").await;
    assert!(said.contains("closing 30 connections within 3s"), "{said}");
    let refused = tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await;
    assert!(refused.is_err(), "it accepts no more");
    let mut closed = Vec::new();
    for client in waiting {
        let (heard, at, code) = client.await.unwrap();
        assert_eq!(code, 1012);
        let removed = heard.iter().filter(|event| event["event"] == "pusher_internal:member_removed").count();
        assert_eq!(removed, 0, "{heard:?}");
        closed.push(at);
    }
    closed.sort();
    // Evenly: in each third of the time about a third of them, whatever the machine does meanwhile.
    let since = |at: &Instant| at.duration_since(closed[0]);
    let whole = since(closed.last().unwrap());
    assert!(whole > Duration::from_secs(2), "{whole:?}");
    let first_half = closed.iter().filter(|at| since(at) < whole / 2).count();
    assert!((8..=22).contains(&first_half), "{first_half} of 30 in the first half of {whole:?}");
    assert_eq!(server.wait(), Some(0));
}

/// Redis goes on to be heard while connections are being closed.
#[tokio::test]
async fn few_connections_are_closed_at_once_and_none_makes_no_wait() {
    let mut server = Server::start(json!({}));
    let mut client = server.connect().await;
    let start = Instant::now();
    server.terminate();
    assert_eq!(client.closed().await.0, 1012);
    drop(client);
    assert_eq!(server.wait(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    let mut server = Server::start(json!({"shutdownSeconds": 60}));
    server.terminate();
    assert_eq!(server.wait(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut server = Server::start(json!({"shutdownSeconds": 60}));
    // The second one is closed long after the test.
    let clients = [server.connect().await, server.connect().await];
    server.terminate();
    server.says("SIGTERM: closing").await;
    server.signal("INT");
    assert_eq!(server.wait(), Some(1));
    drop(clients);
}

/// A program that plays systemd: it holds the listening socket, hands it to each server, and hears what that says.
struct Systemd {
    socket: TcpListener,
    notify: UnixDatagram,
    dir: tempfile::TempDir,
}

impl Systemd {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        notify.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { socket: TcpListener::bind("127.0.0.1:0").unwrap(), notify, dir }
    }

    /// As a service of `Type=notify` with `WatchdogSec=1` and a .socket unit is started.
    fn start(&self, settings: Value) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let mut config = json!({
            "port": 1, "shards": 2,
            "clients": [{"appId": "app-id", "key": KEY, "secret": SECRET}],
            "databaseConfig": {"redis": {"path": "/nonexistent/redis.sock"}},
        });
        for (key, value) in settings.as_object().unwrap() {
            config[key] = value.clone();
        }
        let path = dir.path().join("laravel-echo-server.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut command = Command::new("sh");
        // The shell has the number of the process that it becomes, and puts the socket where it belongs.
        command.args(["-c", "exec 3<&0 0</dev/null; LISTEN_PID=$$ exec \"$0\" start --config \"$1\""]);
        command.arg(env!("CARGO_BIN_EXE_laravel-echo-server")).arg(&path);
        command.env("LISTEN_FDS", "1").env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        command.env("WATCHDOG_USEC", "1000000");
        command.stdin(Stdio::from(OwnedFd::from(self.socket.try_clone().unwrap())));
        Server::launch(command, dir)
    }

    /// Waits for this among what the server says, and asserts that nothing else but signs of life comes before.
    fn hears(&self, expected: &str) {
        let mut said = [0; 1000];
        loop {
            let bytes = self.notify.recv(&mut said).unwrap_or_else(|error| panic!("{expected}: {error}"));
            let said = std::str::from_utf8(&said[..bytes]).unwrap();
            if said.starts_with(expected) {
                return;
            }
            assert_eq!(said, "WATCHDOG=1", "instead of {expected}");
        }
    }
}

#[tokio::test]
async fn systemd_is_told_what_the_server_does() {
    let systemd = Systemd::new();
    let mut server = systemd.start(json!({}));
    assert_eq!(server.port, systemd.socket.local_addr().unwrap().port());
    systemd.hears("READY=1");
    systemd.hears("WATCHDOG=1");
    server.signal("HUP");
    systemd.hears("RELOADING=1\nMONOTONIC_USEC=");
    systemd.hears("READY=1");
    server.terminate();
    systemd.hears("STOPPING=1\nEXTEND_TIMEOUT_USEC=");
    assert_eq!(server.wait(), Some(0));
}

/// Who was accepted before the end is answered, even if nothing had been heard of him yet: in a restart by systemd he would
/// otherwise be the one that is dropped.
#[tokio::test]
async fn a_request_that_comes_after_the_signal_on_a_connection_from_before_is_answered() {
    let mut server = Server::start(json!({}));
    let mut silent = tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    // Connections are accepted in order.
    let connected = server.connect().await;
    server.terminate();
    server.says("SIGTERM: closing").await;
    let request = format!(
        "GET /app/{KEY}?protocol=7 HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    silent.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.windows(6).any(|part| part == b"\x88\x1a\x03\xf4Th") {
        assert!(silent.read_buf(&mut answer).await.unwrap() > 0, "{}", String::from_utf8_lossy(&answer));
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("connection_established"), "{answer}");
    assert_eq!(until_closed(connected).await.2, 1012);
    drop(silent);
    assert_eq!(server.wait(), Some(0));
}

/// The socket stays open while there is no server, so clients wait for the next one and are not refused.
#[tokio::test]
async fn nobody_is_refused_while_it_is_restarted() {
    let systemd = Systemd::new();
    let port = systemd.socket.local_addr().unwrap().port();
    let mut server = systemd.start(json!({"shutdownSeconds": 1}));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut connections = 0;
                while !*stopped.borrow() {
                    // Each is served, sooner or later: neither refused nor dropped without an answer.
                    let url = format!("ws://127.0.0.1:{port}/app/{KEY}?protocol=7");
                    let connected =
                        tokio::time::timeout(Duration::from_secs(20), tokio_tungstenite::connect_async(url));
                    let (socket, _) = connected.await.expect("a client is served in time").expect("nobody is refused");
                    let mut client = Client { socket, socket_id: String::new() };
                    match client.message().await {
                        Message::Text(text) => assert!(text.contains("connection_established"), "{text}"),
                        other => panic!("{other:?}"),
                    }
                    connections += 1;
                    // A page that stays for a while.
                    let _ = tokio::time::timeout(Duration::from_millis(50), client.message()).await;
                }
                connections
            })
        })
        .collect();
    for _ in 0..3 {
        let connected = server.connect().await;
        server.terminate();
        let (_, _, code) = until_closed(connected).await;
        assert_eq!(code, 1012);
        assert_eq!(server.wait(), Some(0));
        server = systemd.start(json!({"shutdownSeconds": 1}));
    }
    server.connect().await;
    stop.send(true).unwrap();
    for client in clients {
        assert!(client.await.unwrap() > 2);
    }
}
