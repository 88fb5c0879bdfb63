//! Who connects, as the real program sees it: behind proxies, over a unix socket, by the PROXY protocol; and what
//! one address may have.

#![allow(clippy::unwrap_used, clippy::panic)]
#[allow(dead_code)]
mod common;

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use common::{KEY, Server};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// A WebSocket over this stream, with these headers, after these bytes; and what the server says first.
async fn websocket<S>(mut stream: S, before: &[u8], headers: &[(&'static str, &str)]) -> (WebSocketStream<S>, Value)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(before).await.unwrap();
    let mut request = format!("ws://localhost/app/{KEY}?protocol=7").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().unwrap());
    }
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let first = next(&mut socket).await;
    (socket, first)
}

async fn next<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>) -> Value {
    let message = tokio::time::timeout(Duration::from_secs(20), socket.next()).await.unwrap().unwrap().unwrap();
    serde_json::from_str(message.to_text().unwrap()).unwrap()
}

async fn tcp(server: &Server) -> TcpStream {
    TcpStream::connect(("127.0.0.1", server.port)).await.unwrap()
}

/// Whether the client with these headers is let in; its connection as long as it shall last.
async fn let_in(server: &Server, headers: &[(&'static str, &str)]) -> Option<WebSocketStream<TcpStream>> {
    let (socket, first) = websocket(tcp(server).await, b"", headers).await;
    is_hello(&first).then_some(socket)
}

fn is_hello(first: &Value) -> bool {
    if first["event"] == "pusher:connection_established" {
        return true;
    }
    let told = json!({"code": 4100, "message": "Too many connections from this address"});
    assert_eq!((&first["event"], &first["data"]), (&json!("pusher:error"), &told));
    false
}

/// The status and the whole answer of a request over this stream, which the server then closes.
async fn request<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, bytes: &str) -> (u16, String) {
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8(answer).unwrap();
    (answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default(), answer)
}

#[tokio::test]
async fn an_address_has_so_many_connections() {
    let server = Server::start(json!({"limits": {"connectionsPerAddress": 2}}));
    let xff = "X-Forwarded-For";
    let first = let_in(&server, &[(xff, "203.0.113.7")]).await.unwrap();
    let _second = let_in(&server, &[(xff, "198.51.100.1, 203.0.113.7")]).await.unwrap();
    for lie in ["203.0.113.7", "198.51.100.9, 203.0.113.7", "10.0.0.1, 203.0.113.7", "127.0.0.1,203.0.113.7:4711"] {
        assert!(let_in(&server, &[(xff, lie)]).await.is_none(), "{lie}");
    }
    assert!(let_in(&server, &[("Forwarded", "for=203.0.113.7")]).await.is_none());
    // What the client wrote, beside what its proxy did.
    assert!(let_in(&server, &[("Forwarded", "for=203.0.113.99"), (xff, "203.0.113.7")]).await.is_none());
    assert!(let_in(&server, &[(xff, "203.0.113.8")]).await.is_some(), "another address");
    // One network of IPv6 is one client.
    let _v6 = let_in(&server, &[(xff, "2001:db8:0:1::1")]).await.unwrap();
    let _v6_too = let_in(&server, &[(xff, "2001:db8:0:1:ffff::2")]).await.unwrap();
    assert!(let_in(&server, &[(xff, "2001:db8:0:1::3")]).await.is_none());
    assert!(let_in(&server, &[(xff, "2001:db8:0:2::1")]).await.is_some());
    // Behind a proxy that does not tell, and in private networks, nobody is counted.
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(let_in(&server, &[]).await.unwrap());
        others.push(let_in(&server, &[(xff, "192.168.1.5")]).await.unwrap());
    }
    // Who goes makes room.
    drop(first);
    let began = Instant::now();
    while let_in(&server, &[(xff, "203.0.113.7")]).await.is_none() {
        assert!(began.elapsed() < Duration::from_secs(20), "the one that has gone is still counted");
    }
}

#[tokio::test]
async fn strangers_choose_no_address() {
    let server = Server::start(
        json!({"trustedProxies": [], "limits": {"connectionsPerAddress": 1, "authRequestsPerSecond": 1}}),
    );
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(
            let_in(&server, &[("X-Forwarded-For", "203.0.113.7")]).await.expect("nobody says that it is this one"),
        );
    }
}

#[tokio::test]
async fn an_address_asks_for_leave_so_often() {
    let mut server = Server::start(json!({"limits": {"authRequestsPerSecond": 1}}));
    let ask = async |address: &str, times: usize| {
        let head = format!(
            "POST /broadcasting/auth HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nX-Forwarded-For: {address}\r\n\
             Content-Length: 0\r\n\r\n"
        );
        let last = head.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
        let (_, answers) = request(tcp(&server).await, &(head.repeat(times - 1) + &last)).await;
        answers.split("HTTP/1.1 ").skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    // All at once: a slow machine takes no seconds between them.
    let answers = ask("203.0.113.7", 100).await;
    let (taken, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.starts_with("400"));
    assert_eq!(answers.len(), 100);
    assert!((10..60).contains(&taken.len()), "ten seconds' worth at once, and not {}", taken.len());
    for part in [
        "429",
        "retry-after: 1\r\n",
        "access-control-allow-origin: http://localhost\r\n",
        "limits.authRequestsPerSecond",
    ] {
        assert!(refused[0].contains(part), "{part:?} in {}", refused[0]);
    }
    assert!(ask("203.0.113.8", 1).await[0].starts_with("400"), "another's");
    let said = server.says("limits.authRequestsPerSecond").await;
    assert!(said.contains("203.0.113.7"), "{said}");
}

#[tokio::test]
async fn the_proxy_protocol_says_who_connects() {
    let server = Server::start(
        json!({"proxyProtocol": true, "limits": {"connectionsPerAddress": 1, "handshakeTimeout": 1, "authRequestsPerSecond": 0}}),
    );
    let v1 = b"PROXY TCP4 203.0.113.7 127.0.0.1 56324 6001\r\n";
    let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    v2.extend([203, 0, 113, 7, 127, 0, 0, 1, 0xdc, 4, 0x17, 0x71]);
    let (_first, said) = websocket(tcp(&server).await, v1, &[]).await;
    assert!(is_hello(&said));
    for (header, forwarded) in [(&v1[..], None), (&v2, None), (&v2, Some("198.51.100.1"))] {
        // A client's own headers mean nothing, whoever has passed its bytes on.
        let headers: Vec<_> = forwarded.map(|address| ("X-Forwarded-For", address)).into_iter().collect();
        let (_, said) = websocket(tcp(&server).await, header, &headers).await;
        assert!(!is_hello(&said), "{forwarded:?}");
    }
    let other = b"PROXY TCP6 2001:db8::1 ::1 56324 6001\r\n";
    assert!(is_hello(&websocket(tcp(&server).await, other, &[]).await.1));
    // The proxy's own question whether anybody is there.
    let own = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut stream = tcp(&server).await;
    stream.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").await.unwrap();
    assert_eq!(request(stream, own).await.0, 200);
    // Of whom the proxy knows nothing can be anybody: what he says of himself neither counts for him nor against another.
    let nobody = b"PROXY UNKNOWN\r\n";
    let untold = b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\0";
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let mut all = Vec::new();
    for header in [&nobody[..], untold, local] {
        // This address has all that it may have, and the next one would have, too.
        for address in ["203.0.113.7", "198.51.100.8", "198.51.100.8"] {
            let (socket, said) = websocket(tcp(&server).await, header, &[("X-Forwarded-For", address)]).await;
            assert!(is_hello(&said), "{address}");
            all.push(socket);
        }
        // Nor is it this machine.
        let mut stream = tcp(&server).await;
        stream.write_all(header).await.unwrap();
        let request_alone = format!(
            "GET /apps/app-id/channels?auth_key={KEY} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        );
        assert_eq!(request(stream, &request_alone).await.0, 403);
    }
    // No header, a broken one, one that does not end, and nothing at all.
    for bytes in [own, "PROXY TCP4 203.0.113.7\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", "PROXY TCP4 203.0.113.7 ", ""] {
        let mut stream = tcp(&server).await;
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let end = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        end.expect("it is closed in time").ok();
        assert!(answer.is_empty(), "{bytes:?}: {}", String::from_utf8_lossy(&answer));
    }
    // Who is said to connect from this machine has not come straight from it.
    let key_alone = format!("GET /apps/app-id/channels?auth_key={KEY} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let from_here = format!("PROXY TCP4 127.0.0.1 127.0.0.1 56324 6001\r\n{key_alone}");
    let mut stream = tcp(&server).await;
    stream.write_all(from_here.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 403");
}

#[tokio::test]
async fn strangers_have_no_proxy_header() {
    let server = Server::start(json!({"proxyProtocol": true, "trustedProxies": []}));
    let (_socket, said) = websocket(tcp(&server).await, b"", &[]).await;
    assert!(is_hello(&said));
    let header = "PROXY TCP4 203.0.113.7 127.0.0.1 56324 6001\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(request(tcp(&server).await, header).await.0, 400);
}

/// Everything that goes over the port goes over the socket.
#[tokio::test]
async fn a_unix_socket_is_as_good_as_a_port() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echo.sock");
    let settings = json!({"socket": path, "socketMode": "0600", "limits": {"connectionsPerAddress": 1}});
    let mut server = Server::start(settings.clone());
    assert!(server.banner.contains(&format!("Running at the unix socket {}", path.display())), "{}", server.banner);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let unix = async || UnixStream::connect(&path).await.unwrap();
    let (mut socket, said) = websocket(unix().await, b"", &[("X-Forwarded-For", "203.0.113.7")]).await;
    assert!(is_hello(&said));
    assert!(!is_hello(&websocket(unix().await, b"", &[("X-Forwarded-For", "203.0.113.7")]).await.1), "it is believed");
    let subscribe = json!({"event": "pusher:subscribe", "data": {"channel": "orders"}}).to_string();
    socket.send(Message::text(subscribe)).await.unwrap();
    assert_eq!(next(&mut socket).await["event"], "pusher_internal:subscription_succeeded");
    let long = "x".repeat(10_000);
    for number in 0..200 {
        let event = json!({"name": number.to_string(), "channel": "orders", "data": long});
        assert_eq!(server.publish(event).await.0, 200);
    }
    for number in 0..200 {
        let event = next(&mut socket).await;
        assert_eq!((&event["event"], event["data"].as_str().unwrap().len()), (&json!(number.to_string()), 10_000));
    }
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let closing = |path: &str| get(path).replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    assert_eq!(request(unix().await, &closing("/")).await.0, 200);
    // A proxy that says nothing of itself must not be taken for a program of this machine.
    let mut stream = unix().await;
    stream.write_all(get(&format!("/apps/app-id/channels?auth_key={KEY}")).as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 403");
    // Like any other connection it is told of the end, and the file goes.
    server.terminate();
    loop {
        match socket.next().await.unwrap().unwrap() {
            Message::Close(Some(frame)) => break assert_eq!(u16::from(frame.code), 1012),
            _ => continue,
        }
    }
    drop(socket);
    assert_eq!(server.wait(), Some(0));
    assert!(!path.exists());
    // A crash leaves it, and stops nobody.
    let crashed = Server::start(settings.clone());
    let status = std::process::Command::new("kill").args(["-9", &crashed.pid().to_string()]).status().unwrap();
    assert!(status.success());
    drop(crashed);
    assert!(path.exists());
    let _server = Server::start(settings);
    assert!(is_hello(&websocket(unix().await, b"", &[]).await.1));
}

/// Without a port in the file nothing listens on one.
#[test]
fn a_unix_socket_may_be_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echo.sock");
    let file = folder.path().join("laravel-echo-server.json");
    let config =
        json!({"socket": path, "clients": [{"appId": "a", "key": "k"}], "subscribers": {"redis": false}, "shards": 1});
    std::fs::write(&file, config.to_string()).unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_laravel-echo-server"))
        .args(["start", "--config"])
        .arg(&file)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    for line in lines.by_ref().map_while(Result::ok).take_while(|line| !line.contains("Server ready!")) {
        said.push_str(&line);
    }
    let answers = std::os::unix::net::UnixStream::connect(&path).is_ok();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(answers && said.contains("unix socket") && !said.contains("on port"), "{said}");
}
