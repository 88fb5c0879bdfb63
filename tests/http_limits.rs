//! HTTP/1.1 as enemies and old clients speak it: raw bytes to the real program.

#![allow(clippy::unwrap_used, clippy::panic)]
#[allow(dead_code)]
mod common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use common::{KEY, Server};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

async fn open(server: &Server) -> TcpStream {
    TcpStream::connect(("127.0.0.1", server.port)).await.unwrap()
}

/// What arrives until the server closes.
async fn rest(socket: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("the server closes in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// What comes back for these bytes until the server closes.
async fn send(server: &Server, bytes: &str) -> String {
    let mut socket = open(server).await;
    socket.write_all(bytes.as_bytes()).await.unwrap();
    rest(&mut socket).await
}

/// The status of each answer in a text of several.
fn statuses(answers: &str) -> Vec<u16> {
    answers.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().unwrap()).collect()
}

async fn still_answers(server: &Server) {
    let answer = send(server, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
}

/// Writes a piece at a time until the server is done with it; gives how long that took, and its answer.
async fn drip(server: &Server, start: &str, piece: &str) -> (Duration, String) {
    let began = Instant::now();
    let (mut reader, mut writer) = open(server).await.into_split();
    writer.write_all(start.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let dripping = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if writer.write_all(piece.as_bytes()).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        _ = reader.read_to_end(&mut answer) => {}
        () = dripping => {}
        () = tokio::time::sleep(PATIENCE) => panic!("the server goes on reading"),
    }
    (began.elapsed(), String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn heads_and_bodies_that_drip_are_given_up() {
    let server = Server::start(json!({"limits": {"handshakeTimeout": 2}}));
    let (head, body, nothing) = tokio::join!(
        drip(&server, "GET / HTTP/1.1\r\n", "X-A: b\r\n"),
        drip(&server, "POST /broadcasting/auth HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n", "x"),
        drip(&server, "", ""),
    );
    for (took, answer) in [&head, &nothing] {
        assert!(*took >= Duration::from_millis(1900), "{took:?}");
        assert_eq!(answer, "");
    }
    assert!(body.0 >= Duration::from_millis(5900), "{:?}", body.0);
    assert_eq!(statuses(&body.1), [408], "{}", body.1);
    still_answers(&server).await;
}

#[tokio::test]
async fn a_connection_that_is_kept_ends_when_it_is_idle() {
    let server = Server::start(json!({"limits": {"handshakeTimeout": 2}}));
    let mut socket = open(&server).await;
    for _ in 0..3 {
        socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 15];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        // The rest of the answer ends with the body.
        let mut last = [0; 2];
        while &last != b"OK" {
            last = [last[1], socket.read_u8().await.unwrap()];
        }
    }
    let idle = Instant::now();
    assert_eq!(rest(&mut socket).await, "");
    assert!(idle.elapsed() < PATIENCE / 2);
}

#[tokio::test]
async fn heads_that_are_too_long_are_told_so() {
    let server = Server::start(json!({"limits": {"headBytes": 8192}}));
    for head in [
        format!("GET / HTTP/1.1\r\nHost: x\r\nCookie: {}\r\n\r\n", "x".repeat(9000)),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(9000)),
        format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(101)),
        // Not even the end of it must come.
        format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}", "x".repeat(20_000)),
    ] {
        assert_eq!(statuses(&send(&server, &head).await), [431], "{:.60}", head);
    }
    still_answers(&server).await;
}

#[tokio::test]
async fn requests_that_come_together_are_answered_in_order() {
    let server = Server::start(json!({}));
    let answers = send(
        &server,
        "GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n\
         POST /broadcasting/auth HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na=bGET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(statuses(&answers), [200, 404, 400, 200], "{answers}");
    // Whoever reads no answer cannot make the server keep them all.
    let mut flood = open(&server).await;
    let requests = "GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
    let sent = async {
        let mut sent = 0;
        while sent < 200_000_000 && flood.write_all(requests.as_bytes()).await.is_ok() {
            sent += requests.len();
        }
        sent
    };
    assert!(tokio::time::timeout(Duration::from_secs(3), sent).await.is_err(), "the server stops reading");
    still_answers(&server).await;
}

#[tokio::test]
async fn a_half_closed_socket_is_answered_and_closed() {
    let server = Server::start(json!({}));
    let mut socket = open(&server).await;
    socket.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    socket.shutdown().await.unwrap();
    assert_eq!(statuses(&rest(&mut socket).await), [200]);
    let mut socket = open(&server).await;
    socket.write_all(b"GET / HT").await.unwrap();
    socket.shutdown().await.unwrap();
    let answer = rest(&mut socket).await;
    assert!(answer.is_empty() || statuses(&answer) == [400], "{answer}");
    // A WebSocket whose client can say nothing any more has ended.
    let mut socket = open(&server).await;
    let handshake = format!(
        "GET /app/{KEY} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(handshake.as_bytes()).await.unwrap();
    socket.shutdown().await.unwrap();
    let began = Instant::now();
    rest(&mut socket).await;
    assert!(began.elapsed() < PATIENCE / 2);
}

/// What one may take for the end of a request and another not.
#[tokio::test]
async fn requests_of_two_meanings_are_refused_or_the_last() {
    let server = Server::start(json!({}));
    let post =
        |headers: &str, body: &str| format!("POST /broadcasting/auth HTTP/1.1\r\nHost: x\r\n{headers}\r\n{body}");
    let hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    for (headers, body) in [
        ("Content-Length: 3\r\nContent-Length: 4\r\n", format!("a=b{hidden}")),
        ("Content-Length: 3, 4\r\n", format!("a=b{hidden}")),
        ("Content-Length: +3\r\n", format!("a=b{hidden}")),
        ("Content-Length: -3\r\n", format!("a=b{hidden}")),
        ("Content-Length: 0x3\r\n", format!("a=b{hidden}")),
        ("Content-Length: 99999999999999999999\r\n", format!("a=b{hidden}")),
        ("Content-Length : 3\r\n", format!("a=b{hidden}")),
        ("Transfer-Encoding: xchunked\r\n", format!("3\r\na=b\r\n0\r\n\r\n{hidden}")),
        ("Transfer-Encoding: chunked, identity\r\n", format!("3\r\na=b\r\n0\r\n\r\n{hidden}")),
        ("Transfer-Encoding : chunked\r\nContent-Length: 3\r\n", format!("a=b{hidden}")),
        ("Transfer-Encoding: chunked\r\n", format!("3x\r\na=b\r\n0\r\n\r\n{hidden}")),
        ("Transfer-Encoding: chunked\r\n", format!("ffffffffffffffffff\r\na=b\r\n0\r\n\r\n{hidden}")),
        ("X: a\r\n Content-Length: 3\r\n", format!("a=b{hidden}")),
        ("X: a\rContent-Length: 3\r\n", format!("a=b{hidden}")),
        ("X: a\0b\r\n", String::new()),
        // Both, in either order and with both lengths right for somebody: the one answer is the last.
        ("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", format!("0\r\n\r\n{hidden}")),
        ("Transfer-Encoding: chunked\r\nContent-Length: 60\r\n", format!("3\r\na=b\r\n0\r\n\r\n{hidden}")),
        ("Transfer-Encoding: chunked\r\n", format!("3\r\na=b\r\n0\r\n\r\n{hidden}")),
        ("Transfer-Encoding: identity, chunked\r\n", format!("3\r\na=b\r\n0\r\n\r\n{hidden}")),
    ] {
        let answers = send(&server, &post(headers, &body)).await;
        assert_eq!(statuses(&answers), [400], "{headers:?}: {answers}");
    }
    let old = send(&server, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
    assert!(old.contains(" 400 "), "{old}");
    still_answers(&server).await;
}

/// An application that notes what arrives, byte for byte.
async fn laravel() -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (noted, notes) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let noted = noted.clone();
            tokio::spawn(async move {
                let mut all = Vec::new();
                let mut buffer = [0; 4096];
                // The end of a body, chunked or not, in what these tests send.
                while !all.ends_with(b"a=b") && !all.ends_with(b"0\r\n\r\n") {
                    match socket.read(&mut buffer).await {
                        Ok(0) | Err(_) => break,
                        Ok(bytes) => all.extend_from_slice(&buffer[..bytes]),
                    }
                }
                let _ = noted.send(String::from_utf8_lossy(&all).into_owned());
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            });
        }
    });
    (address, notes)
}

/// Laravel sees each request with one framing, made anew, and never what a body hides.
#[tokio::test]
async fn nothing_is_smuggled_to_laravel() {
    let (address, mut notes) = laravel().await;
    let server = Server::start(json!({"proxy": true, "authHost": format!("http://{address}")}));
    let hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    for headers in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n",
    ] {
        let request = format!("POST /form HTTP/1.1\r\nHost: x\r\n{headers}\r\n3\r\na=b\r\n0\r\n\r\n{hidden}");
        assert_eq!(statuses(&send(&server, &request).await), [200], "{headers}");
        let seen = notes.recv().await.unwrap();
        assert!(seen.starts_with("POST /form HTTP/1.1\r\n"), "{seen}");
        let head = seen.split("\r\n\r\n").next().unwrap().to_lowercase();
        let framings = head.matches("content-length").count() + head.matches("transfer-encoding").count();
        assert_eq!(framings, 1, "{seen}");
        assert!(!seen.contains("hidden"), "{seen}");
    }
    // Two that are there openly come as two.
    let request = "POST /form HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na=b";
    let both = format!("{request}{}", request.replace("Host: x", "Host: x\r\nConnection: close"));
    assert_eq!(statuses(&send(&server, &both).await), [200, 200]);
    for _ in 0..2 {
        assert!(notes.recv().await.unwrap().starts_with("POST /form "));
    }
    assert!(notes.try_recv().is_err(), "and nothing else");
}
