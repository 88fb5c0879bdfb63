//! The log: how its lines look, that a flood of one kind does not hide the others, and that a stdout which takes nothing
//! stops nobody.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code, reason = "each test file needs some of it")]
mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use common::{KEY, SECRET, Server};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server whose stdout is this test's own business; ended by its process id when dropped.
struct Bare {
    child: Child,
    stdout: BufReader<ChildStdout>,
    _directory: tempfile::TempDir,
}

impl Bare {
    fn start(settings: Value, arguments: &[&str]) -> Self {
        let mut config = json!({
            "host": "127.0.0.1", "port": 0, "shards": 1, "subscribers": { "redis": false },
            "clients": [{ "appId": "app-id", "key": KEY, "secret": SECRET }],
        });
        for (key, value) in settings.as_object().unwrap() {
            config[key] = value.clone();
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("laravel-echo-server.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_laravel-echo-server"))
            .args(["start", "--config"])
            .arg(&path)
            .args(arguments)
            .env_remove("LARAVEL_ECHO_SERVER_LOG_FORMAT")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout, _directory: directory }
    }

    /// The next line in which this stands.
    fn line(&mut self, part: &str) -> String {
        let mut line = String::new();
        while !line.contains(part) {
            line.clear();
            assert!(self.stdout.read_line(&mut line).unwrap() > 0, "the log ends before {part:?}");
        }
        line
    }

    fn port(&mut self) -> u16 {
        let line = self.line("on port ");
        let digits = line.split("on port ").nth(1).unwrap();
        digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn without_a_terminal_each_line_is_an_object() {
    let mut server = Bare::start(json!({ "prot": 1 }), &[]);
    let warning: Value = serde_json::from_str(&server.line("prot")).unwrap();
    assert_eq!(warning["level"], "warn");
    assert!(warning["message"].as_str().unwrap().contains("is not a known key"), "{warning}");
    assert!(warning["time"].as_str().unwrap().ends_with('Z'));
    let port = server.port();
    let ready: Value = serde_json::from_str(&server.line("Server ready!")).unwrap();
    assert_eq!((&ready["level"], &ready["message"]), (&json!("info"), &json!("Server ready!")));
    // A private channel without anything that says who it is.
    let (mut socket, _) = connect_async(format!("ws://127.0.0.1:{port}/app/{KEY}")).await.unwrap();
    let subscribe = json!({ "event": "pusher:subscribe", "data": { "channel": "private-a" } });
    futures_util::SinkExt::send(&mut socket, subscribe.to_string().into()).await.unwrap();
    let refusal: Value = serde_json::from_str(&server.line("subscription refused")).unwrap();
    assert_eq!((&refusal["channel"], &refusal["status"]), (&json!("private-a"), &json!(401)), "{refusal}");
}

#[test]
fn text_is_there_for_the_asking() {
    for (settings, arguments) in [
        (json!({ "logFormat": "text", "prot": 1 }), &[][..]),
        (json!({ "prot": 1 }), &["--log-format", "text"]),
        // Who develops reads it.
        (json!({ "devMode": true, "prot": 1 }), &[]),
        (json!({ "logFormat": "json", "prot": 1 }), &["--log-format=text"]),
    ] {
        let line = Bare::start(settings.clone(), arguments).line("prot");
        assert!(line.contains(" WARN ") && !line.starts_with('{'), "{settings} {arguments:?}: {line}");
    }
    let line = Bare::start(json!({ "devMode": true, "prot": 1 }), &["--log-format", "json"]).line("prot");
    assert!(line.starts_with('{'), "{line}");
}

/// The first refusals of one kind are said, then how many there were; another kind is heard all the while.
#[tokio::test]
async fn a_flood_of_one_kind_is_counted() {
    let mut server = Server::start(json!({ "subscribers": { "redis": false } }));
    for _ in 0..30 {
        server.open("wrong-key").await;
    }
    server.open(KEY).await.send(json!({ "event": "pusher:signin", "data": { "auth": "x", "user_data": "{}" } })).await;
    let mut refused = 0;
    loop {
        let line = server.says("").await;
        refused += usize::from(line.contains("no app has the key"));
        if line.contains("may not sign in") {
            break;
        }
    }
    assert_eq!(refused, 10);
    let line = server.says("more like this").await;
    assert!(line.contains("20 more like this in 10 s: a client was refused: no app has the key"), "{line}");
}

/// In dev mode each event is two lines: far more than a pipe and the queue hold. Nobody reads them, and every
/// event arrives; read again, the log says what is missing.
#[tokio::test]
async fn a_stuck_pipe_stops_nobody() {
    let mut server =
        Bare::start(json!({ "devMode": true, "limits": { "subscriptionsPerConnection": 1_000_000 } }), &[]);
    let port = server.port();
    server.line("Server ready!");
    let connect = async || {
        use futures_util::StreamExt;
        let (mut socket, _) = connect_async(format!("ws://127.0.0.1:{port}/app/{KEY}")).await.unwrap();
        assert!(socket.next().await.unwrap().unwrap().to_text().unwrap().contains("connection_established"));
        socket
    };
    // Each join and each leave is a line.
    let mut socket = connect().await;
    let talking = async {
        use futures_util::{SinkExt, StreamExt};
        for round in 0..300 {
            for _ in 0..100 {
                for event in ["pusher:subscribe", "pusher:unsubscribe"] {
                    let message = json!({ "event": event, "data": { "channel": format!("some-channel-{round}") } });
                    socket.feed(message.to_string().into()).await.unwrap();
                }
            }
            socket.feed(json!({ "event": "pusher:ping", "data": {} }).to_string().into()).await.unwrap();
            socket.flush().await.unwrap();
            while !socket.next().await.unwrap().unwrap().to_text().unwrap().contains("pusher:pong") {}
        }
    };
    tokio::time::timeout(PATIENCE * 3, talking).await.expect("the server goes on");
    assert!(server.line("lines of the log were lost").contains("stdout took none"));
    let status = Command::new("kill").arg(server.child.id().to_string()).status().unwrap();
    assert!(status.success());
    server.stdout.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}
