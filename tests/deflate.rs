//! permessage-deflate on the wire of the real program (RFC 7692).

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;

use common::{KEY, Server};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const RSV1: u8 = 0x40;

/// A client that sees frames as they are.
struct Raw {
    stream: TcpStream,
    /// `Sec-WebSocket-Extensions` of the answer.
    agreed: Option<String>,
}

impl Raw {
    async fn connect(server: &Server, offer: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
        let head = format!(
            "GET /app/{KEY}?protocol=7 HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{offer}\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        let agreed = answer.lines().find_map(|line| line.strip_prefix("sec-websocket-extensions: ")).map(str::to_owned);
        let mut client = Self { stream, agreed };
        assert_eq!(client.event().await.1["event"], "pusher:connection_established");
        client
    }

    /// The next frame: its first byte and its payload.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let reading = async {
            let first = self.stream.read_u8().await.unwrap();
            let length = match self.stream.read_u8().await.unwrap() {
                126 => usize::from(self.stream.read_u16().await.unwrap()),
                127 => self.stream.read_u64().await.unwrap() as usize,
                short => usize::from(short),
            };
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await.unwrap();
            (first, payload)
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), reading).await.expect("a frame arrives in time")
    }

    /// The next message, whether it was compressed, and how long it was on the wire.
    async fn event(&mut self) -> (bool, Value, usize) {
        let (first, mut payload) = self.frame().await;
        assert!(matches!(first & !RSV1, 0x81), "{first:x}");
        let bytes = payload.len();
        if first & RSV1 != 0 {
            payload.extend([0, 0, 0xff, 0xff]);
            let mut inflated = Vec::with_capacity(1_000_000);
            Decompress::new(false).decompress_vec(&payload, &mut inflated, FlushDecompress::Sync).unwrap();
            payload = inflated;
        }
        (first & RSV1 != 0, serde_json::from_slice(&payload).unwrap(), bytes)
    }

    /// Sends a message, compressed.
    async fn say(&mut self, text: &[u8]) {
        let mut deflated = Vec::with_capacity(text.len() + 100);
        Compress::new(Compression::default(), false).compress_vec(text, &mut deflated, FlushCompress::Sync).unwrap();
        let payload = deflated.strip_suffix(&[0, 0, 0xff, 0xff]).unwrap();
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        // With a mask of zeros.
        let head = [0x81 | RSV1, 0x80 | 126, length[0], length[1], 0, 0, 0, 0];
        self.stream.write_all(&[&head, payload].concat()).await.unwrap();
    }

    async fn subscribe(&mut self, channel: &str) {
        self.say(json!({"event": "pusher:subscribe", "data": {"channel": channel}}).to_string().as_bytes()).await;
        assert_eq!(self.event().await.1["event"], "pusher_internal:subscription_succeeded");
    }
}

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";

#[tokio::test]
async fn long_events_are_compressed_for_who_has_agreed() {
    let server = Server::start(json!({"perMessageDeflate": true}));
    let mut compressed = Raw::connect(&server, OFFER).await;
    assert_eq!(
        compressed.agreed.as_deref(),
        Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover")
    );
    let mut plain = Raw::connect(&server, "").await;
    assert_eq!(plain.agreed, None);
    let mut socket = server.connect().await;
    compressed.subscribe("news").await;
    socket.subscribe("news").await;
    let data = "a long text ".repeat(500);
    for (name, data) in [("long", &data[..]), ("short", "x"), ("long", &data[..]), ("last", "y")] {
        server.publish(json!({"name": name, "channel": "news", "data": data})).await;
    }
    for (name, data, expected) in
        [("long", &data[..], true), ("short", "x", false), ("long", &data[..], true), ("last", "y", false)]
    {
        let (is_compressed, event, bytes) = compressed.event().await;
        let whole = json!({"event": name, "channel": "news", "data": data});
        assert_eq!((is_compressed, &event), (expected, &whole));
        assert!(!expected || bytes * 10 < data.len(), "{bytes}");
        assert_eq!(socket.next().await, whole);
    }
    // What a client sends compressed is understood, and a flood of it ends in time.
    compressed.say(&[b' '; 1_000_000]).await;
    let (first, payload) = compressed.frame().await;
    assert_eq!((first, u16::from_be_bytes([payload[0], payload[1]])), (0x88, 1009));
    plain.say(b"{}").await;
    let (first, payload) = plain.frame().await;
    assert_eq!((first, u16::from_be_bytes([payload[0], payload[1]])), (0x88, 1002), "it was not agreed on");
}

/// Such a client has a window smaller than ours: what it sends is unpacked, what it is sent is plain.
#[tokio::test]
async fn a_client_with_a_small_window() {
    let server = Server::start(json!({"perMessageDeflate": true}));
    let mut client =
        Raw::connect(&server, "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9\r\n").await;
    let agreed = client.agreed.clone().unwrap_or_default();
    assert!(agreed.ends_with("; server_max_window_bits=9"), "{agreed}");
    client.say(&json!({"event": "pusher:subscribe", "data": {"channel": "news"}}).to_string().into_bytes()).await;
    assert_eq!(client.event().await.1["event"], "pusher_internal:subscription_succeeded");
    server.publish(json!({"name": "long", "channel": "news", "data": "news ".repeat(1000)})).await;
    let (is_compressed, event, _) = client.event().await;
    assert_eq!((is_compressed, &event["event"]), (false, &json!("long")));
}

#[tokio::test]
async fn without_the_setting_nothing_is_agreed_on() {
    let server = Server::start(json!({}));
    let client = Raw::connect(&server, OFFER).await;
    assert_eq!(client.agreed, None);
}
