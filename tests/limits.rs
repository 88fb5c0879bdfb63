//! Each limit of the table in docs/settings.md, met on the wire of the real program: the client is told what
//! the table says.

#![allow(clippy::unwrap_used, clippy::panic)]
#[allow(dead_code)]
mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use common::{Call, Client, Server};
use futures_util::SinkExt;
use laravel_echo_server::metrics::Limit;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

/// The keys of the table, each with its last cell.
fn table() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md")).unwrap();
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, key, _, _, answer, _] = cells[..] else { return None };
        Some((key.trim_matches('`').strip_prefix("limits.")?.to_owned(), answer.to_owned()))
    });
    rows.collect()
}

#[test]
fn the_table_is_true() {
    let table = table();
    assert!(table.len() > 20, "{table:?}");
    // Each in a thread of its own, since starting a server waits for it.
    let check = |(key, cell): (String, String)| {
        let name = key.clone();
        let check = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let servers = RefCell::default();
            let answers = runtime.block_on(meet(&key, &servers));
            assert!(!answers.is_empty());
            if Limit::VALUES.contains(&key.as_str()) {
                let server = servers.borrow()[0].port;
                assert!(runtime.block_on(counted(server, &key)) > 0, "{key} is not counted");
            }
            for answer in answers {
                assert!(cell.contains(&format!("`{answer}`")), "{key}: {answer:?}, and the table says {cell}");
            }
        });
        (name, check)
    };
    let checks: Vec<_> = table.into_iter().map(check).collect();
    // All end before the test does, or their servers would stay.
    let ended: Vec<_> = checks.into_iter().map(|(key, check)| (key, check.join().is_ok())).collect();
    let wrong: Vec<_> = ended.into_iter().filter(|(_, is_true)| !is_true).map(|(key, _)| key).collect();
    assert!(wrong.is_empty(), "see above: {wrong:?}");
}

/// How often the metrics say that this limit was reached.
async fn counted(port: u16, key: &str) -> u64 {
    let page = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await.unwrap().text().await.unwrap();
    let series = format!("laravel_echo_server_limit_reached_total{{limit=\"{key}\"}} ");
    let line = page.lines().find_map(|line| line.strip_prefix(&series));
    line.unwrap_or_else(|| panic!("no {series:?} in {page}")).parse().unwrap()
}

/// Goes beyond this limit, and gives what comes back. The server stays, for its metrics to be read.
async fn meet(key: &str, servers: &RefCell<Vec<Rc<Server>>>) -> Vec<String> {
    let start_with = |limits: Value| {
        let server = Rc::new(Server::start(json!({"shards": 1, "limits": limits})));
        servers.borrow_mut().push(server.clone());
        server
    };
    let start = |value: Value| start_with(json!({key: value}));
    match key {
        "connections" => {
            let server = start(json!(2));
            let _both = (server.connect().await, server.connect().await);
            let socket = server.open(common::KEY).await.closed().await.0;
            vec![socket.to_string(), http(&server, "GET", "/socket.io/?EIO=4&transport=polling", "").await]
        }
        "connectionsPerAddress" => {
            let server = start(json!(1));
            let _first = from(&server, "203.0.113.7").await;
            let socket = from(&server, "203.0.113.7").await.closed().await.0;
            let headers = "X-Forwarded-For: 203.0.113.7\r\n";
            vec![socket.to_string(), http(&server, "GET", "/socket.io/?EIO=4&transport=polling", headers).await]
        }
        "subscriptionsPerConnection" => {
            let (_server, mut client) = with_client(start_with(json!({key: 1, "subscribesPerSecond": 100}))).await;
            client.subscribe("one").await;
            refused(&mut client, "two").await
        }
        "subscribesPerSecond" => {
            let (_server, mut client) = with_client(start(json!(3))).await;
            // So many at once that no slow machine spreads them over enough seconds.
            for _ in 0..100 {
                client.asks_for("private-a").await;
            }
            loop {
                let reply = client.next().await;
                if reply["event"] == "pusher:subscription_error" {
                    return words(&reply);
                }
            }
        }
        "presenceJoinsPerMinute" => {
            let (_server, mut client) = with_client(start(json!(2))).await;
            loop {
                let reply = client.subscribe_signed("presence-a", Some(r#"{"user_id":1}"#)).await;
                if reply["event"] == "pusher:subscription_error" {
                    return words(&reply);
                }
                client.send(json!({"event": "pusher:unsubscribe", "data": {"channel": "presence-a"}})).await;
            }
        }
        "channelNameBytes" => {
            let server = start(json!(5));
            let event = json!({"name": "e", "channel": "longer", "data": "1"});
            let mut answers = vec![server.publish(event).await.0.to_string()];
            answers.extend(refused(&mut server.connect().await, "longer").await);
            answers
        }
        "messageBytes" => {
            let (_server, mut client) = with_client(start(json!(200))).await;
            client.socket.send(Message::text("x".repeat(201))).await.unwrap();
            vec![client.closed().await.0.to_string()]
        }
        "clientEventsPerSecond" => {
            let (_server, mut client) = with_client(start(json!(0))).await;
            client.subscribe_signed("private-a", None).await;
            client.send(json!({"event": "client-a", "channel": "private-a", "data": 1})).await;
            errors(&client.next().await)
        }
        "clientEventBytes" => {
            let (_server, mut client) = with_client(start(json!(5))).await;
            client.subscribe_signed("private-a", None).await;
            client.send(json!({"event": "client-a", "channel": "private-a", "data": "longer"})).await;
            errors(&client.next().await)
        }
        "presenceMemberBytes" => {
            let (_server, mut client) = with_client(start(json!(5))).await;
            words(&client.subscribe_signed("presence-a", Some(r#"{"user_id":"longer"}"#)).await)
        }
        "presenceMembers" => {
            let server = start(json!(1));
            let (mut first, mut second) = (server.connect().await, server.connect().await);
            first.subscribe_signed("presence-a", Some(r#"{"user_id":1}"#)).await;
            words(&second.subscribe_signed("presence-a", Some(r#"{"user_id":2}"#)).await)
        }
        "userAuthenticationTimeout" => {
            let (_server, mut client) = with_client(start(json!(1))).await;
            vec![client.closed().await.0.to_string()]
        }
        "outboundBytes" => {
            let server = start_with(json!({key: 65_536, "eventBytes": 60_000}));
            let mut slow = server.connect().await;
            slow.subscribe("orders").await;
            // Reads nothing until more waits than the kernel takes and may wait besides.
            let data = "x".repeat(50_000);
            for _ in 0..300 {
                assert_eq!(server.publish(json!({"name": "e", "channel": "orders", "data": data})).await.0, 200);
            }
            vec![slow.closed().await.0.to_string()]
        }
        "activityTimeout" => {
            let (_server, mut client) = with_client(start(json!(1))).await;
            vec![client.next().await["event"].as_str().unwrap().to_owned()]
        }
        "pongTimeout" => {
            let server = start_with(json!({"activityTimeout": 1, key: 1}));
            vec![server.connect().await.closed().await.0.to_string()]
        }
        "handshakeTimeout" => {
            let server = start(json!(2));
            // The head in two parts, and half of the body; what an endless head gets is in tests/http_limits.rs.
            let answer = http_with(&server, "POST", "/broadcasting/auth", "Content-Length: 20\r\n", "half").await;
            vec![answer]
        }
        "headBytes" => {
            let server = start(json!(8192));
            vec![http(&server, "GET", "/", &format!("X-Long: {}\r\n", "x".repeat(9000))).await]
        }
        "authRequestsPerSecond" => {
            let server = start(json!(1));
            let request = "POST /broadcasting/auth HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 203.0.113.7\r\n\
                           Content-Length: 0\r\n\r\n";
            let answers = exchange(&server, &request.repeat(100)).await;
            let statuses = answers.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].to_owned());
            statuses.filter(|status| status != "400").take(1).collect()
        }
        "eventBytes" | "eventNameBytes" => {
            let event = json!({"name": "longer", "channel": "orders", "data": "longer"});
            vec![start(json!(5)).publish(event).await.0.to_string()]
        }
        "channelsPerEvent" => {
            let event = json!({"name": "e", "channels": ["a", "b"], "data": "1"});
            vec![start(json!(1)).publish(event).await.0.to_string()]
        }
        "eventsPerBatch" => {
            let event = json!({"name": "e", "channel": "a", "data": "1"});
            let batch = json!({"batch": [event, event]}).to_string();
            let server = start(json!(1));
            vec![server.post("/apps/app-id/batch_events", &batch, common::SECRET).await.0.to_string()]
        }
        "timestampWindow" => {
            let server = start(json!(1));
            let call = Call { clock: -60, ..Call::get("/apps/app-id/channels") };
            vec![server.call(call).await.0.to_string()]
        }
        "cacheSeconds" | "cacheBytes" => {
            let server = start(json!(1));
            server.publish(json!({"name": "e", "channel": "cache-a", "data": "1"})).await;
            tokio::time::sleep(Duration::from_millis(1100)).await;
            let mut client = server.connect().await;
            client.subscribe("cache-a").await;
            vec![client.next().await["event"].as_str().unwrap().to_owned()]
        }
        other => panic!("no test goes beyond limits.{other}"),
    }
}

/// A server, and a connection to it.
async fn with_client(server: Rc<Server>) -> (Rc<Server>, Client) {
    let client = server.connect().await;
    (server, client)
}

async fn subscribe(client: &mut Client, channel: &str) -> Value {
    client.send(json!({"event": "pusher:subscribe", "data": {"auth": "", "channel": channel}})).await;
    client.next().await
}

async fn refused(client: &mut Client, channel: &str) -> Vec<String> {
    words(&subscribe(client, channel).await)
}

/// Event, type and status of a `pusher:subscription_error`.
fn words(reply: &Value) -> Vec<String> {
    assert!(reply["data"]["error"].as_str().is_some_and(|error| !error.is_empty()), "{reply}");
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    vec![text(&reply["event"]), text(&reply["data"]["type"]), text(&reply["data"]["status"])]
}

/// Event and code of a `pusher:error`.
fn errors(reply: &Value) -> Vec<String> {
    assert!(reply["data"]["message"].as_str().is_some_and(|error| error.contains("over the limit")), "{reply}");
    let code = reply["data"]["code"].as_u64().map(|code| code.to_string());
    std::iter::once(reply["event"].as_str().unwrap().to_owned()).chain(code).collect()
}

/// A connection of which nothing has been read, through a proxy that says whose it is.
async fn from(server: &Server, address: &str) -> Client {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let url = format!("ws://127.0.0.1:{}/app/{}?protocol=7", server.port, common::KEY);
    let mut request = url.into_client_request().unwrap();
    request.headers_mut().insert("X-Forwarded-For", address.parse().unwrap());
    let (socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    Client { socket, socket_id: String::new() }
}

/// The status of the answer to a request.
async fn http(server: &Server, method: &str, path: &str, headers: &str) -> String {
    http_with(server, method, path, headers, "").await
}

async fn http_with(server: &Server, method: &str, path: &str, headers: &str, body: &str) -> String {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n{body}");
    exchange(server, &head).await[9..12].to_owned()
}

/// What comes back for these bytes, until the server closes the connection.
async fn exchange(server: &Server, bytes: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.unwrap();
    socket.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // It ends as an idle connection does.
    tokio::time::timeout(Duration::from_secs(60), socket.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}
