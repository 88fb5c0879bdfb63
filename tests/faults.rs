//! Faults that the other tests do not have: Laravel that is away, a process that is killed, a log that nobody takes.
//! All of them, with their tests: docs/faults.md.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;

use std::fs::OpenOptions;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{KEY, SECRET, Server};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers each question with a yes, from now on.
fn laravel(listener: TcpListener) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 8192];
            if socket.read(&mut request).await.unwrap_or(0) > 0 {
                let yes = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ntrue";
                let _ = socket.write_all(yes).await;
            }
        }
    })
}

/// Laravel restarts while a crowd comes back: nobody is refused, and the log says it twice and not once for each.
#[tokio::test]
async fn a_crowd_that_comes_while_laravel_restarts_is_let_in() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut server = Server::start(json!({"authHost": format!("http://{address}"), "authConcurrency": 4}));
    let mut clients = Vec::new();
    for n in 0..40 {
        let mut client = server.connect().await;
        let headers = json!({"Authorization": "Bearer x"});
        client
            .send(json!({"event": "pusher:subscribe", "data": {"channel": format!("private-{n}"), "auth": {"headers": headers}}}))
            .await;
        clients.push(client);
    }
    let said = server.says("Laravel is away").await;
    assert!(said.contains(&format!("http://{address}/broadcasting/auth")), "{said}");
    let running = laravel(TcpListener::bind(address).await.unwrap());
    for client in &mut clients {
        assert_eq!(client.next().await["event"], "pusher_internal:subscription_succeeded");
    }
    server.says("Laravel answers again").await;
    running.abort();
}

fn program(port: u16, dir: &tempfile::TempDir) -> Command {
    let path = dir.path().join("laravel-echo-server.json");
    let config = json!({
        "host": "127.0.0.1",
        "port": port,
        "devMode": true,
        "clients": [{"appId": "app-id", "key": KEY, "secret": SECRET}],
        "subscribers": {"redis": false},
    });
    std::fs::write(&path, config.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_laravel-echo-server"));
    command.args(["start", "--config"]).arg(&path);
    command
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn served(port: u16) {
    let url = format!("ws://127.0.0.1:{port}/app/{KEY}?protocol=7");
    for _ in 0..400 {
        if tokio_tungstenite::connect_async(&url).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody serves port {port}");
}

/// `/dev/full` answers each write with "no space left on device", as a full disk does.
#[tokio::test]
async fn a_full_disk_for_the_log_stops_nobody() {
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let full = || Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap());
    let mut child = program(port, &dir).stdin(Stdio::null()).stdout(full()).stderr(full()).spawn().unwrap();
    // Each of them has lines to log.
    for _ in 0..20 {
        served(port).await;
    }
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Whoever read the log is gone: a write to it is an error, or would be a signal that ends the process.
#[tokio::test]
async fn a_closed_pipe_for_the_log_stops_nobody() {
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let mut child =
        program(port, &dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    for _ in 0..20 {
        served(port).await;
    }
    assert_eq!(child.try_wait().unwrap(), None);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// `kill -9` while members come, whisper and are sent events; started again, all come back and the list is theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_load_and_started_again() {
    const MEMBERS: usize = 30;
    let port = free_port();
    let mut server = Server::start(json!({"port": port}));
    for round in 0..2 {
        let mut clients = Vec::new();
        for n in 0..MEMBERS {
            let mut client = server.connect().await;
            let reply = client.subscribe_signed("presence-a", Some(&format!(r#"{{"user_id":"{n}"}}"#))).await;
            assert_eq!(reply["event"], "pusher_internal:subscription_succeeded");
            let data: Value = serde_json::from_str(reply["data"].as_str().unwrap()).unwrap();
            assert_eq!(data["presence"]["count"], n + 1, "nobody of before the fault is left, in round {round}");
            clients.push(client);
        }
        let names: Vec<String> = (0..MEMBERS).map(|n| n.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        server.knows_members("presence-a", &names).await;
        if round == 1 {
            let (status, _) = server.publish(json!({"name": "a", "channel": "presence-a", "data": "x"})).await;
            assert_eq!(status, 200);
            return;
        }
        let publish = async {
            loop {
                server.publish(json!({"name": "a", "channel": "presence-a", "data": "x"})).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(300), publish).await;
        let killed = Command::new("kill").args(["-9", &server.pid().to_string()]).status().unwrap();
        assert!(killed.success());
        assert_eq!(server.wait(), None, "a signal has ended it");
        // Each client notices.
        for client in &mut clients {
            use futures_util::StreamExt;
            let end = async { while let Some(Ok(_)) = client.socket.next().await {} };
            tokio::time::timeout(Duration::from_secs(20), end).await.expect("the connection ends");
        }
        // The same port, at once.
        server = Server::start(json!({"port": port}));
    }
}
