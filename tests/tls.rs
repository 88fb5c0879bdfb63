//! `"protocol": "https"`: the same protocol over TLS, also when the client reads slowly.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;

use std::sync::Arc;

use common::{KEY, Server};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::tungstenite::Message;

#[tokio::test]
async fn events_arrive_whole_and_in_order_over_tls() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    std::fs::write(&certificate, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let outbound = 32 * 1024 * 1024;
    let server = Server::start(json!({
        "protocol": "https", "sslCertPath": certificate, "sslKeyPath": key, "limits": {"outboundBytes": outbound},
    }));
    let server = server.trusting(certified.cert.der());

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::clone(certified.cert.der())).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let socket = TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    let url = format!("wss://localhost/app/{KEY}?protocol=7");
    let (mut client, _) = tokio_tungstenite::client_async(url, tls).await.unwrap();
    assert!(client.next().await.unwrap().unwrap().to_text().unwrap().contains("connection_established"));
    let subscribe = json!({"event": "pusher:subscribe", "data": {"channel": "news"}});
    client.send(Message::text(subscribe.to_string())).await.unwrap();
    assert!(client.next().await.unwrap().unwrap().to_text().unwrap().contains("subscription_succeeded"));

    // More than the kernel's buffers hold, and records of every fill.
    let events = 1_500;
    for n in 0..events {
        let data = "x".repeat((n * 7919) % 10_000);
        let (status, _) = server.publish(json!({"name": n.to_string(), "channel": "news", "data": data})).await;
        assert_eq!(status, 200);
    }
    for n in 0..events {
        let message = client.next().await.unwrap().unwrap();
        let expected = json!({"event": n.to_string(), "channel": "news", "data": "x".repeat((n * 7919) % 10_000)});
        let text: serde_json::Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        assert_eq!(text, expected);
    }
    server.terminate();
    let Some(Ok(Message::Close(Some(frame)))) = client.next().await else { panic!("no close frame") };
    assert_eq!(u16::from(frame.code), 1012);
}
