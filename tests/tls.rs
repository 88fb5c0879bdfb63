//! `"protocol": "https"` and `httpsPort`: the same protocol over TLS, also when the client reads slowly.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::{KEY, Server};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// A server with a certificate of its own, and who trusts it.
struct Tls {
    server: Server,
    /// Where it speaks TLS.
    port: u16,
    connector: TlsConnector,
    certificate: CertificateDer<'static>,
    dir: tempfile::TempDir,
}

impl Tls {
    /// All that it speaks is TLS.
    fn start() -> Self {
        let mut tls = Self::start_with(json!({"protocol": "https"}), Server::start);
        tls.server = tls.server.trusting(&tls.certificate);
        tls
    }

    fn start_with(mut settings: serde_json::Value, start: impl FnOnce(serde_json::Value) -> Server) -> Self {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&certificate, certified.cert.pem()).unwrap();
        std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
        settings["sslCertPath"] = json!(certificate);
        settings["sslKeyPath"] = json!(key);
        settings["limits"] = json!({"outboundBytes": 32 * 1024 * 1024});
        let server = start(settings);
        let own =
            server.banner.lines().find_map(|line| line.strip_prefix("✔  Running at https://")?.rsplit(':').next());
        let port = own.map_or(server.port, |port| port.parse().unwrap());
        let connector = connector(certified.cert.der());
        Self { server, port, connector, certificate: certified.cert.der().clone(), dir }
    }

    async fn websocket(&self, path: &str) -> WebSocketStream<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let tls = self.connector.connect(name, socket).await.unwrap();
        tokio_tungstenite::client_async(format!("wss://localhost{path}"), tls).await.unwrap().0
    }
}

/// Who trusts this certificate alone.
fn connector(certificate: &CertificateDer<'static>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    TlsConnector::from(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}

/// New connections get the new certificate, those that are open go on, and files that do not go together change nothing.
#[tokio::test]
async fn a_certificate_is_renewed_while_connections_are_open() {
    let mut tls = Tls::start();
    assert!(tls.server.banner.contains("The certificate (sslCertPath) is good for"), "{}", tls.server.banner);
    let mut client = tls.websocket(&format!("/app/{KEY}?protocol=7")).await;
    client.next().await.unwrap().unwrap();
    client.send(Message::text(r#"{"event":"pusher:subscribe","data":{"channel":"news"}}"#)).await.unwrap();
    client.next().await.unwrap().unwrap();

    let renewed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(tls.dir.path().join("cert.pem"), renewed.cert.pem()).unwrap();
    let said = tls.server.says("is not taken").await;
    assert!(said.contains("do not go together"), "{said}");
    // The old one is still served.
    tls.websocket(&format!("/app/{KEY}?protocol=7")).await.next().await.unwrap().unwrap();

    std::fs::write(tls.dir.path().join("key.pem"), renewed.signing_key.serialize_pem()).unwrap();
    let said = tls.server.says("Reloaded").await;
    assert!(said.ends_with("(a file has changed): the certificate"), "{said}");
    tls.connector = connector(renewed.cert.der());
    tls.websocket(&format!("/app/{KEY}?protocol=7")).await.next().await.unwrap().unwrap();
    let server = tls.server.trusting(renewed.cert.der());
    server.publish(json!({"name": "e", "channel": "news", "data": "still here"})).await;
    let event = client.next().await.unwrap().unwrap();
    assert!(event.to_text().unwrap().contains("still here"), "{event}");
}

/// What the upgraded client says in one record with its upgrade is heard, and what came before is not lost.
#[tokio::test]
async fn a_socketio_session_goes_on_over_a_websocket_with_tls() {
    let tls = Tls::start();
    let certificate = reqwest::Certificate::from_der(&tls.certificate).unwrap();
    let http = reqwest::Client::builder().tls_certs_only([certificate]).build().unwrap();
    let url = format!("https://localhost:{}/socket.io/?EIO=4&transport=polling", tls.server.port);
    let open = http.get(&url).send().await.unwrap().text().await.unwrap();
    let open: serde_json::Value = serde_json::from_str(open.strip_prefix('0').unwrap()).unwrap();
    let sid = open["sid"].as_str().unwrap();
    let post = async |body: &'static str| http.post(format!("{url}&sid={sid}")).body(body).send().await.unwrap();
    post("40\u{1e}42[\"subscribe\",{\"channel\":\"news\"}]").await;
    let mut client = tls.websocket(&format!("/socket.io/?EIO=4&transport=websocket&sid={sid}")).await;
    client.send(Message::text("2probe")).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap().to_text().unwrap(), "3probe");
    tls.server.publish(json!({"name": "e", "channel": "news", "data": "1"})).await;
    client.feed(Message::text("5")).await.unwrap();
    client.feed(Message::text("2")).await.unwrap();
    client.flush().await.unwrap();
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.push(client.next().await.unwrap().unwrap().to_text().unwrap().to_owned());
    }
    assert!(heard[0].starts_with("40{"), "{heard:?}");
    // A pong need not wait for events.
    heard[1..].sort_unstable();
    assert_eq!(heard[1..], ["3", r#"42["e","news",1]"#]);
}

impl Tls {
    /// Clients of both ports are in one channel, and neither port speaks what the other does.
    async fn is_both(&self) {
        assert_ne!(self.port, self.server.port);
        let mut plain = self.server.connect().await;
        plain.subscribe("news").await;
        let mut secure = self.websocket(&format!("/app/{KEY}?protocol=7")).await;
        secure.next().await.unwrap().unwrap();
        secure.send(Message::text(r#"{"event":"pusher:subscribe","data":{"channel":"news"}}"#)).await.unwrap();
        secure.next().await.unwrap().unwrap();
        self.server.publish(json!({"name": "e", "channel": "news", "data": "to both"})).await;
        assert_eq!(plain.next().await["data"], "to both");
        let heard = secure.next().await.unwrap().unwrap();
        assert!(heard.to_text().unwrap().contains("to both"), "{heard}");

        let certificate = reqwest::Certificate::from_der(&self.certificate).unwrap();
        let http = reqwest::Client::builder().tls_certs_only([certificate]).build().unwrap();
        let status = async |url: String| http.get(url).send().await.map(|response| response.status().as_u16()).ok();
        for (scheme, port, expected) in [
            ("http", self.server.port, Some(200)),
            ("https", self.port, Some(200)),
            ("http", self.port, None),
            ("https", self.server.port, None),
        ] {
            assert_eq!(status(format!("{scheme}://localhost:{port}/health")).await, expected, "{scheme} {port}");
        }
    }
}

#[tokio::test]
async fn http_and_https_at_once() {
    let mut tls = Tls::start_with(json!({"httpsPort": 0}), Server::start);
    tls.is_both().await;
    let status = reqwest::get(format!("http://127.0.0.1:{}/echo-server/api/status", tls.server.port)).await.unwrap();
    let status: serde_json::Value = serde_json::from_str(&status.text().await.unwrap()).unwrap();
    let places = [format!("127.0.0.1:{}", tls.server.port), format!("https://127.0.0.1:{}", tls.port)];
    assert_eq!(status["listening"], json!({"places": places, "protocol": "http and https"}));

    // Both files are renewed; the port without TLS knows nothing of it.
    let renewed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(tls.dir.path().join("key.pem"), renewed.signing_key.serialize_pem()).unwrap();
    std::fs::write(tls.dir.path().join("cert.pem"), renewed.cert.pem()).unwrap();
    tls.server.says("): the certificate").await;
    tls.connector = connector(renewed.cert.der());
    tls.certificate = renewed.cert.der().clone();
    tls.is_both().await;

    // What is open cannot be made something else.
    tls.server.change_config(|config| drop(config.as_object_mut().unwrap().remove("httpsPort")));
    let said = tls.server.says("needs a restart").await;
    assert!(said.ends_with("as it was: httpsPort, protocol, ssl…"), "{said}");
    tls.is_both().await;
}

/// A browser throws a `Secure` cookie away that comes without TLS.
#[tokio::test]
async fn the_cookie_of_resume_is_secure_where_tls_is_spoken() {
    let tls = Tls::start_with(json!({"httpsPort": 0, "resume": true}), Server::start);
    let certificate = reqwest::Certificate::from_der(&tls.certificate).unwrap();
    let http = reqwest::Client::builder().tls_certs_only([certificate]).build().unwrap();
    for (scheme, port, is_secure) in [("http", tls.server.port, false), ("https", tls.port, true)] {
        let request = http.get(format!("{scheme}://localhost:{port}/app/{KEY}?protocol=7"));
        let request = request.header("Connection", "Upgrade").header("Upgrade", "websocket");
        let request =
            request.header("Sec-WebSocket-Version", "13").header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 101);
        let cookie = response.headers()["set-cookie"].to_str().unwrap();
        assert_eq!(cookie.ends_with("; Secure"), is_secure, "{scheme}: {cookie}");
    }
}

/// Two .socket units, of which one has `FileDescriptorName=https`.
#[tokio::test]
async fn systemd_hands_over_both_ports() {
    let listen = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (first, second) = (listen(), listen());
    let ports = [&first, &second].map(|socket| socket.local_addr().unwrap().port());
    let tls = Tls::start_with(json!({"port": 1, "httpsPort": 2}), |settings| {
        let (command, dir) = handed_over(settings, "plain:https", [second, first]);
        Server::launch(command, dir)
    });
    assert_eq!([tls.port, tls.server.port], ports);
    tls.is_both().await;

    for (settings, names, expected) in [
        (json!({"httpsPort": 0, "sslCertPath": "c", "sslKeyPath": "k"}), "a:b", "handed over no socket for it"),
        (json!({}), "a:https", "for https (FileDescriptorName=https), and"),
    ] {
        let (mut command, _dir) = handed_over(settings, names, [listen(), listen()]);
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.contains(expected), "{said}");
    }
}

/// The program as systemd starts it with these sockets.
fn handed_over(
    mut config: serde_json::Value,
    names: &str,
    [first, second]: [std::net::TcpListener; 2],
) -> (Command, tempfile::TempDir) {
    config["clients"] = json!([{"appId": "app-id", "key": KEY, "secret": common::SECRET}]);
    config["databaseConfig"] = json!({"redis": {"path": "/nonexistent/redis.sock"}});
    config["shards"] = json!(1);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("laravel-echo-server.json");
    std::fs::write(&path, config.to_string()).unwrap();
    let mut command = Command::new("sh");
    // The shell has the number of the process that it becomes, and puts the sockets where they belong.
    let script = "exec 3<&0 4<&2 0</dev/null 2>&1; LISTEN_PID=$$ exec \"$0\" start --config \"$1\"";
    command.args(["-c", script]).arg(env!("CARGO_BIN_EXE_laravel-echo-server")).arg(&path);
    command.env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", names);
    command.stdin(Stdio::from(OwnedFd::from(first))).stderr(Stdio::from(OwnedFd::from(second)));
    (command, dir)
}

#[tokio::test]
async fn events_arrive_whole_and_in_order_over_tls() {
    let tls = Tls::start();
    let server = &tls.server;
    let mut client = tls.websocket(&format!("/app/{KEY}?protocol=7")).await;
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
