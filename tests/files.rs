//! The limit of open files, as the real program meets it.

#![allow(clippy::unwrap_used, clippy::panic)]
#[allow(dead_code)]
mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::{KEY, SECRET, Server};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn start_with(files: &str) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({
        "host": "127.0.0.1", "port": 0, "shards": 1, "subscribers": {"redis": false}, "authConcurrency": 1,
        "clients": [{"appId": "app-id", "key": KEY, "secret": SECRET}], "limits": {"connections": 1000},
    });
    let path = dir.path().join("laravel-echo-server.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let mut command = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_laravel-echo-server");
    command.args(["-c", &format!("ulimit -n {files} && exec \"$0\" start --config \"$1\""), program]).arg(path);
    Server::launch(command, dir)
}

#[tokio::test]
async fn what_has_no_room_is_refused_and_said_at_the_start() {
    let server = start_with("261");
    let warning =
        "Only 261 files may be open, and 1000 connections (limits.connections) need 1257: those over 4 are refused.";
    assert!(server.banner.contains(warning), "{}", server.banner);
    assert!(server.banner.contains("LimitNOFILE=1257"));
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(server.connect().await);
    }
    let mut refused = server.open(KEY).await;
    assert_eq!(refused.closed().await.0, 4100);
    clients[0].hears_nothing_else().await;
    assert!(start_with("1257").banner.contains("Up to 1257 files may be open, which is enough for 1000 connections"));
}

/// Seconds of processor time that the process has used, in hundredths.
fn processor_time(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn without_files_clients_wait_and_the_server_does_not_spin() {
    let mut server = start_with("1257");
    let mut client = server.connect().await;
    client.hears_nothing_else().await;
    let pid = Pid::from_raw(server.pid().cast_signed()).unwrap();
    let limit = |files: u64| {
        prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(files), maximum: Some(1257) }).unwrap()
    };
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count() as u64;
    limit(open);
    let mut waiting = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    waiting.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let said = server.says("no connection could be accepted").await;
    assert!(said.contains(&format!("{open} files may be open: allow more (LimitNOFILE")), "{said}");
    let (before, since) = (processor_time(server.pid()), Instant::now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    client.hears_nothing_else().await;
    let used = processor_time(server.pid()) - before;
    assert!(
        u128::from(used) * 10 < since.elapsed().as_millis() / 2,
        "{used} hundredths of a second in {:?}",
        since.elapsed()
    );
    limit(1257);
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(20), waiting.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}
