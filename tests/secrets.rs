//! Nothing that the program prints has a secret, a password, a cookie or a token in it: it is led through all that
//! goes wrong, with the log at its most talkative, and then everything that it said is searched.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;
#[allow(dead_code)]
mod redis_process;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Call, KEY, Server};
use redis_process::Redis;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Each of them in one place; all begin alike, so that the search misses none.
const MARK: &str = "s3cret";

fn secret(what: &str) -> String {
    format!("{MARK}-{what}")
}

async fn laravel(reply: &'static str) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 16 * 1024];
            let _ = socket.read(&mut request).await;
            let _ = socket.write_all(reply.as_bytes()).await;
        }
    });
    format!("http://user:s3cret-auth-host@{address}")
}

/// What the program with this configuration says while `act` does things to it.
async fn said(config: Value, act: impl AsyncFnOnce(u16)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("laravel-echo-server.json");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut all = json!({"host": "127.0.0.1", "port": port, "devMode": true, "shards": 2});
    for (key, value) in config.as_object().unwrap() {
        all[key] = value.clone();
    }
    std::fs::write(&path, all.to_string()).unwrap();
    let output = std::fs::File::create(dir.path().join("output")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_laravel-echo-server"))
        .args(["start", "--config"])
        .arg(&path)
        .env("RUST_LOG", "trace")
        .current_dir(&dir)
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap();
    act(port).await;
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    child.wait().unwrap();
    std::fs::read_to_string(dir.path().join("output")).unwrap()
}

fn is_clean(said: &str, needs: &[&str]) {
    for part in needs {
        assert!(said.contains(part), "the log does not have {part:?}, so nothing is shown by it:\n{said:.3000}");
    }
    let found: Vec<&str> = said.lines().filter(|line| line.contains(MARK)).collect();
    assert!(found.is_empty(), "{found:#?}");
}

async fn until_served(port: u16) {
    for _ in 0..400 {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody serves port {port}");
}

/// Sends a request as it stands, and reads what is answered.
async fn request(port: u16, head: &str, body: &str) -> String {
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let text = format!("{head}Host: x\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    socket.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer).await;
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_printed_holds_a_secret() {
    let redis = Redis::start(&["--requirepass", "other"]);
    let forbidden = "HTTP/1.1 403 Forbidden\r\nSet-Cookie: session=s3cret-set-cookie\r\nContent-Length: 22\r\nConnection: close\r\n\r\n{\"m\":\"s3cret-in-body\"}";
    let config = json!({
        "authHost": laravel(forbidden).await,
        "authEndpoint": "/broadcasting/auth?token=s3cret-endpoint",
        "clients": [{"appId": "app-id", "key": KEY, "secret": secret("app"),
            "webhooks": [{"url": "http://user:s3cret-webhook@127.0.0.1:9/hook?token=s3cret-query"}]}],
        "databaseConfig": {"redis": {"host": "127.0.0.1", "port": redis.port, "username": "u", "password": secret("redis")}},
    });
    let said = said(config, async |port| {
        until_served(port).await;
        // The socket: cookie and token of the handshake, of the message, a signature that is wrong.
        let cookie = format!("session={}", secret("cookie"));
        let url = format!("ws://127.0.0.1:{port}/app/{KEY}?protocol=7&token={}", secret("url"));
        use tokio_tungstenite::tungstenite::client::IntoClientRequest;
        let mut handshake = url.into_client_request().unwrap();
        handshake.headers_mut().insert("Cookie", cookie.parse().unwrap());
        handshake.headers_mut().insert("Authorization", format!("Bearer {}", secret("bearer")).parse().unwrap());
        let (socket, _) = tokio_tungstenite::connect_async(handshake).await.unwrap();
        let mut client = common::Client { socket, socket_id: String::new() };
        client.next().await;
        for data in [
            json!({"channel": "private-a"}),
            json!({"channel": "private-b", "auth": {"headers": {"Authorization": format!("Bearer {}", secret("message"))}}}),
            json!({"channel": "private-c", "auth": format!("{KEY}:{}", secret("signature"))}),
            json!({"channel": "presence-d", "auth": format!("{KEY}:00"), "channel_data": format!(r#"{{"user_id":"{}"}}"#, secret("member"))}),
        ] {
            client.send(json!({"event": "pusher:subscribe", "data": data})).await;
            let reply = client.next().await;
            assert_eq!(reply["event"], "pusher:subscription_error", "{reply}");
            assert!(!reply.to_string().contains(MARK), "{reply}");
        }
        client.send(json!({"event": "pusher:signin", "data": {"auth": secret("signin"), "user_data": format!(r#"{{"id":"{}"}}"#, secret("user"))}})).await;
        client.closed().await;
        // The gateway, in forms that are right and wrong.
        let gateway = format!("POST /broadcasting/auth HTTP/1.1\r\nCookie: {cookie}\r\nAuthorization: Bearer {}\r\n", secret("gateway"));
        for (kind, body) in [
            ("application/x-www-form-urlencoded", format!("socket_id=1.2&channel_name=private-a&_token={}", secret("csrf"))),
            ("application/json", format!(r#"{{"socket_id":"1.2","x":["{}"]}}"#, secret("json"))),
            ("application/json", format!(r#"{{"socket_id":"1.2","{}"#, secret("broken"))),
            ("text/plain", secret("kind")),
        ] {
            let answer = request(port, &format!("{gateway}Content-Type: {kind}\r\n"), &body).await;
            assert!(!answer.contains(MARK), "{answer}");
        }
        // The HTTP API: a signature by another secret, and bodies that are none.
        let other = secret("api");
        let call = Call { secret: &other, ..Call::post("/apps/app-id/events", "{}") };
        for (query, body) in [
            (call.query(), "{}".to_owned()),
            (format!("auth_key={KEY}&auth_signature={}", secret("auth-signature")), secret("api-body")),
        ] {
            request(port, &format!("POST /apps/app-id/events?{query} HTTP/1.1\r\n"), &body).await;
        }
        // An event that goes to a webhook which nobody answers.
        let app_secret = secret("app");
        let event = r#"{"name":"a","channel":"cache-a","data":"x"}"#;
        let call = Call { secret: &app_secret, ..Call::post("/apps/app-id/events", event) };
        let answer = request(port, &format!("POST {}?{} HTTP/1.1\r\n", call.path, call.query()), event).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // Pages that operators look at.
        for path in ["/", "/metrics", "/health", "/ready", "/echo-server/status"] {
            let answer = request(port, &format!("GET {path} HTTP/1.1\r\n"), "").await;
            assert!(!answer.contains(MARK), "{path}: {answer}");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    })
    .await;
    is_clean(&said, &["subscription refused", "may not join", "Redis"]);
}

#[tokio::test]
async fn an_error_in_the_file_shows_none() {
    for config in [
        format!(r#"{{"clients":[{{"appId":"a","key":"k","secret":"{MARK}"}}],"port":"x"}}"#),
        format!(r#"{{"clients":[{{"appId":"a","key":"k","secret":["{MARK}"]}}]}}"#),
        format!(r#"{{"clients":[{{"appId":"a","key":"k","secret":"{MARK}" "x":1}}]}}"#),
        format!(r#"{{"clients":[{{"appId":"a","key":"k","secret":{{"a":"{MARK}"}}}}]}}"#),
        format!(r#"{{"databaseConfig":{{"redis":{{"password":["{MARK}"]}}}}}}"#),
        format!(r#"{{"databaseConfig":{{"redis":"redis://u:{MARK}@host:99999"}}}}"#),
        format!(r#"{{"authHost":"ftp://u:{MARK}@host"}}"#),
        format!(r#"{{"sslPassphrase":["{MARK}"],"protocol":"https"}}"#),
        format!(r#"{{"clients":[{{"appId":"a","key":"k","webhooks":[{{"url":"ftp://u:{MARK}@host"}}]}}]}}"#),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("laravel-echo-server.json");
        std::fs::write(&path, &config).unwrap();
        let mut program = Command::new(env!("CARGO_BIN_EXE_laravel-echo-server"));
        let output = program
            .args(["start", "--config"])
            .arg(&path)
            .env("RUST_LOG", "trace")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(!output.status.success(), "{config}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!said.contains(MARK), "{said}");
    }
}

/// The server of the common tests is not used here, but its helpers are.
const _: fn(Value) -> Server = Server::start;
