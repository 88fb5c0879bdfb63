//! The dashboard's API, and the commands that use it, against the real program.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on shall end")]

#[allow(dead_code, reason = "some of it is for others")]
mod common;
#[path = "common/redis_server.rs"]
mod redis_server;

use std::process::{Command, Output};
use std::time::Duration;

use common::{Client, SECRET, Server};
use redis_server::Redis;
use reqwest::Method;
use serde_json::{Value, json};

/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request with these headers; gives the status and the body.
async fn ask(server: &Server, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
    let mut request =
        reqwest::Client::new().request(method, format!("http://127.0.0.1:{}/echo-server{path}", server.port));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.body(body.to_owned()).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

async fn get(server: &Server, path: &str) -> Value {
    let (status, text) = ask(server, Method::GET, path, &[], "").await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// The live feed, line by line.
struct Feed {
    response: reqwest::Response,
    rest: Vec<u8>,
}

impl Feed {
    async fn open(server: &Server, channel: &str) -> Self {
        let url = format!("http://127.0.0.1:{}/echo-server/api/feed?channel={channel}", server.port);
        let response = reqwest::get(url).await.unwrap();
        assert_eq!(response.status(), 200);
        let mut feed = Self { response, rest: Vec::new() };
        assert_eq!(feed.next().await["kind"], "hello");
        feed
    }

    async fn next(&mut self) -> Value {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let line: Value = serde_json::from_slice(&line).unwrap();
                if line["kind"] != "beat" {
                    return line;
                }
                continue;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("a line comes in time");
            self.rest.extend_from_slice(&chunk.unwrap().expect("the feed goes on"));
        }
    }

    /// The next line of this kind.
    async fn first(&mut self, kind: &str) -> Value {
        loop {
            let line = self.next().await;
            if line["kind"] == kind {
                return line;
            }
        }
    }
}

async fn joined(server: &Server, channel: &str, user: &str) -> Client {
    let mut client = server.connect().await;
    let member = json!({"user_id": user, "user_info": {"name": user}}).to_string();
    let data = channel.starts_with("presence-").then_some(member);
    client.subscribe_signed(channel, data.as_deref()).await;
    client
}

#[tokio::test]
async fn status_channels_and_users() {
    let server = Server::start(json!({}));
    let mut clients = Vec::new();
    for (channel, user) in [("presence-a", "1"), ("presence-a", "1"), ("presence-a", "2"), ("private-b", "")] {
        clients.push(joined(&server, channel, user).await);
    }
    let status = get(&server, "/api/status").await;
    assert_eq!((&status["connections"], &status["apps"][0]["connections"]), (&json!(4), &json!(4)));
    assert_eq!(status["redis"]["state"], "away");
    assert!(status["redis"]["reason"].as_str().unwrap().contains("/nonexistent/redis.sock"), "{status}");
    assert!(!status.to_string().contains("app-secret"));

    let channels = get(&server, "/api/channels").await;
    let total = &channels["total"];
    assert_eq!((&total["channels"], &total["subscriptions"], &total["members"]), (&json!(2), &json!(4), &json!(2)));
    assert_eq!(
        channels["channels"],
        json!([
            { "app": "app-id", "name": "presence-a", "access": "presence", "is_encrypted": false, "is_cache": false,
              "subscriptions": 3, "users": 2 },
            { "app": "app-id", "name": "private-b", "access": "private", "is_encrypted": false, "is_cache": false,
              "subscriptions": 1 },
        ])
    );
    for (query, names) in [
        ("filter=private", vec!["private-b"]),
        ("filter=*-a", vec!["presence-a"]),
        ("filter=pre*", vec!["presence-a"]),
        ("filter=nothing", vec![]),
        ("limit=1", vec!["presence-a"]),
        ("app=app-id&limit=0", vec![]),
    ] {
        let channels = get(&server, &format!("/api/channels?{query}")).await;
        let found: Vec<&str> =
            channels["channels"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(found, names, "{query}");
    }
    let mut users = get(&server, "/api/users?channel=presence-a").await;
    users["users"].as_array_mut().unwrap().sort_by_key(|user| user["user_id"].to_string());
    let user = |id: &str| json!({"user_id": id, "user_info": {"name": id}});
    assert_eq!((&users["users"], &users["subscriptions"]), (&json!([user("1"), user("2")]), &json!(3)));
    for (path, status) in [
        ("/api/users?channel=private-b", 400),
        ("/api/users", 400),
        ("/api/channels?app=unknown", 404),
        ("/api/channels?limit=x", 400),
        ("/api/nothing", 404),
        ("/../Cargo.toml", 404),
    ] {
        assert_eq!(ask(&server, Method::GET, path, &[], "").await.0, status, "{path}");
    }
}

#[tokio::test]
async fn only_this_machine_and_no_page_of_another_origin() {
    let server = Server::start(json!({}));
    let own = format!("http://127.0.0.1:{}", server.port);
    let json_type = ("content-type", "application/json");
    let event = r#"{"name":"e","channel":"c","data":"1"}"#;
    for (headers, expected) in [
        (&[][..], 200),
        (&[("origin", own.as_str())], 200),
        (&[("sec-fetch-site", "same-origin")], 200),
        (&[("sec-fetch-site", "cross-site")], 403),
        (&[("origin", "http://evil.example")], 403),
        (&[("host", "evil.example")], 403),
        (&[("x-forwarded-for", "127.0.0.1")], 403),
        (&[("via", "1.1 proxy")], 403),
    ] {
        let mut with_type = headers.to_vec();
        with_type.push(json_type);
        assert_eq!(ask(&server, Method::GET, "/api/status", headers, "").await.0, expected, "{headers:?}");
        assert_eq!(ask(&server, Method::POST, "/api/events", &with_type, event).await.0, expected, "{headers:?}");
        let page = ask(&server, Method::GET, "/", headers, "").await;
        assert_eq!(page.0, expected, "{headers:?}");
    }
    // What a form of another page can send is not taken, whatever else it says.
    assert_eq!(ask(&server, Method::POST, "/api/events", &[("content-type", "text/plain")], event).await.0, 415);
    assert_eq!(ask(&server, Method::DELETE, "/api/events", &[json_type], "").await.0, 405);
    assert_eq!(ask(&server, Method::POST, "/api/status", &[json_type], "").await.0, 405);
    assert_eq!(ask(&server, Method::POST, "/api/events", &[json_type], "no event").await.0, 400);
    let off = Server::start(json!({"admin": false}));
    assert_eq!(ask(&off, Method::GET, "/api/status", &[], "").await.0, 404);
}

#[tokio::test]
async fn from_elsewhere_with_the_login() {
    let server = Server::start(json!({"httpApiKeyAuth": "off", "admin": {"user": "ops", "password": "correct horse"}}));
    let login = |password: &str| {
        use base64::Engine as _;
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("ops:{password}")))
    };
    let client = reqwest::Client::new();
    let url = format!("http://127.0.0.1:{}/echo-server/api/status", server.port);
    let response = client.get(&url).send().await.unwrap();
    assert_eq!(response.status(), 401);
    assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic "));
    // A proxy in front, under the public name.
    let headers = [("host", "echo.example"), ("x-forwarded-for", "192.0.2.7")];
    let with = |password: &str| [headers.as_slice(), &[("authorization", login(password).leak() as &str)]].concat();
    assert_eq!(ask(&server, Method::GET, "/api/status", &with("correct horse"), "").await.0, 200);
    let mut last = 0;
    for _ in 0..20 {
        last = ask(&server, Method::GET, "/api/status", &with("wrong horse"), "").await.0;
    }
    assert_eq!(last, 429, "guessing ends");
}

/// A login that leaked is changed: whoever has used it sees no more from then on.
#[tokio::test]
async fn a_feed_ends_when_who_may_look_changes() {
    let mut server = Server::start(json!({"admin": {"user": "ops", "password": "correct horse"}}));
    let open = async |server: &Server, password: &str| {
        use base64::Engine as _;
        let login = base64::engine::general_purpose::STANDARD.encode(format!("ops:{password}"));
        let url = format!("http://127.0.0.1:{}/echo-server/api/feed", server.port);
        let request = reqwest::Client::new().get(url).header("authorization", format!("Basic {login}"));
        let response = request.header("x-forwarded-for", "192.0.2.7").send().await.unwrap();
        (response.status().as_u16(), Feed { response, rest: Vec::new() })
    };
    let (_, mut old) = open(&server, "correct horse").await;
    let mut here = Feed::open(&server, "").await;
    assert_eq!(old.next().await["kind"], "hello");
    // Something else changes nothing.
    server.change_config(|config| config["limits"] = json!({"eventBytes": 1000}));
    server.says("): limits").await;
    server.publish(json!({"name": "shown", "channel": "news", "data": "1"})).await;
    assert_eq!(old.first("event").await["event"], "shown");
    assert_eq!(here.first("event").await["event"], "shown");

    server.change_config(|config| config["admin"]["password"] = json!("battery staple"));
    server.says("): admin").await;
    server.publish(json!({"name": "hidden", "channel": "news", "data": "2"})).await;
    for feed in [&mut old, &mut here] {
        assert_eq!(feed.next().await["kind"], "denied");
        assert_eq!(feed.response.chunk().await.unwrap(), None, "the feed has ended");
    }
    assert_eq!(open(&server, "correct horse").await.0, 401);
    let (status, mut new) = open(&server, "battery staple").await;
    assert_eq!(status, 200);
    server.publish(json!({"name": "shown again", "channel": "news", "data": "3"})).await;
    assert_eq!(new.first("event").await["event"], "shown again");

    server.change_config(|config| config["admin"] = json!(false));
    server.says("): admin").await;
    assert_eq!(new.first("denied").await["kind"], "denied");
}

#[tokio::test]
async fn the_feed_tells_what_became_of_an_event() {
    let server = Server::start(json!({}));
    let mut feed = Feed::open(&server, "").await;
    let mut sender = joined(&server, "private-a", "").await;
    assert_eq!(feed.next().await["kind"], "connected");
    let subscribed = feed.next().await;
    assert_eq!((&subscribed["kind"], &subscribed["channel"]), (&json!("subscribed"), &json!("private-a")));
    assert_eq!(subscribed["socket_id"], sender.socket_id.as_str());
    let mut reader = joined(&server, "private-a", "").await;
    feed.first("subscribed").await;

    // Over the HTTP API, to two channels, but not to the sender.
    let event =
        json!({"name": "e", "channels": ["private-a", "nobody"], "data": "{\"x\":1}", "socket_id": sender.socket_id});
    assert_eq!(server.publish(event).await.0, 200);
    let line = feed.first("event").await;
    assert_eq!(
        (&line["event"], &line["data"], &line["from"]),
        (&json!("e"), &json!("{\"x\":1}"), &json!({"source": "http"}))
    );
    assert_eq!(line["except"], sender.socket_id.as_str());
    let reached = |channel: &str, delivered: u32, excluded: u32| json!({"app": "app-id", "channel": channel, "delivered": delivered, "excluded": excluded});
    assert_eq!(line["to"], json!([reached("private-a", 1, 1), reached("nobody", 0, 0)]));
    reader.next().await;

    // A client event.
    sender.send(json!({"event": "client-typing", "channel": "private-a", "data": {"n": 1}})).await;
    let line = feed.first("event").await;
    assert_eq!(line["from"], json!({"source": "client", "socket_id": sender.socket_id}));
    assert_eq!(line["to"], json!([reached("private-a", 1, 1)]));

    assert_eq!(reader.next().await["event"], "client-typing");

    // Refusals are told, and kept for those who look later.
    reader.send(json!({"event": "pusher:subscribe", "data": {"channel": "private-x", "auth": "app-key:00"}})).await;
    let line = feed.first("refused").await;
    assert!(line["error"].as_str().unwrap().contains("Invalid signature"), "{line}");
    assert_eq!(reader.next().await["event"], "pusher:subscription_error");
    assert_eq!(server.post("/apps/app-id/events", "{}", "another secret").await.0, 401);
    assert_eq!(feed.first("request_refused").await["status"], 401);
    let mut stranger = server.open("unknown-key").await;
    stranger.closed().await;
    assert_eq!(feed.first("rejected").await["code"], 4001);
    let kept = get(&server, "/api/refusals").await;
    let kinds: Vec<&str> =
        kept["refusals"].as_array().unwrap().iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["refused", "request_refused", "rejected"]);

    // And who ends how.
    let socket_id = sender.socket_id.clone();
    drop(sender);
    let line = feed.first("disconnected").await;
    assert_eq!((&line["socket_id"], &line["code"], &line["by"]), (&json!(socket_id), &Value::Null, &json!("client")));
    assert_eq!(reader.sign_in(r#"{"id":"7"}"#).await["event"], "pusher:signin_success");
    server.post("/apps/app-id/users/7/terminate_connections", "", SECRET).await;
    let line = feed.first("disconnected").await;
    assert_eq!((&line["code"], &line["by"]), (&json!(4009), &json!("server")));
    server.terminate();
    assert_eq!(feed.first("stopped").await["kind"], "stopped");
}

#[tokio::test]
async fn the_feed_of_one_channel() {
    let server = Server::start(json!({}));
    let mut feed = Feed::open(&server, "orders.*").await;
    let _client = joined(&server, "private-a", "").await;
    for channel in ["other", "orders.7"] {
        server.publish(json!({"name": "e", "channel": channel, "data": "1"})).await;
    }
    assert_eq!(feed.next().await["to"][0]["channel"], "orders.7");
}

#[tokio::test]
async fn why_an_event_of_redis_did_not_arrive() {
    let redis = Redis::start(&[]);
    let server = Server::start(json!({"databaseConfig": {"redis": {"path": redis.socket(), "keyPrefix": "shop_"}}}));
    while get(&server, "/api/status").await["redis"]["state"] != "connected" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut feed = Feed::open(&server, "").await;
    let mut client = server.connect().await;
    client.subscribe("orders").await;
    let mut laravel = redis.client().await;
    let event = r#"{"event":"shipped","data":{"id":7},"socket":null}"#;
    // What does not begin with the prefix is not even heard.
    for (channel, payload) in
        [("shop_orders", event), ("shop_", event), ("shop_x", "a:1:{}"), ("shop_#server-to-user-7", event)]
    {
        let _: i64 = redis::cmd("PUBLISH").arg(channel).arg(payload).query_async(&mut laravel).await.unwrap();
    }
    // An event is told of when it has been delivered, what is ignored at once.
    let (mut events, mut ignored) = (Vec::new(), Vec::new());
    while events.is_empty() || ignored.len() < 3 {
        let line = feed.next().await;
        match line["kind"].as_str() {
            Some("event") => events.push(line),
            Some("ignored") => ignored.push(line),
            _ => {}
        }
    }
    let line = &events[0];
    assert_eq!(line["from"], json!({"source": "redis", "channel": "shop_orders"}));
    assert_eq!((&line["event"], &line["data"]), (&json!("shipped"), &json!("{\"id\":7}")));
    assert_eq!(line["to"], json!([{"app": "app-id", "channel": "orders", "delivered": 1, "excluded": 0}]));
    let parts = ["does not begin with the key prefix", "not a JSON object", "events for a user"];
    for (line, part) in ignored.iter().zip(parts) {
        assert!(line["reason"].as_str().unwrap().contains(part), "{line}");
    }
}

#[tokio::test]
async fn answers_are_of_all_nodes() {
    let redis = Redis::start(&[]);
    let node = || Server::start(json!({"databaseConfig": {"redis": {"path": redis.socket()}}}));
    let (one, other) = (node(), node());
    let mut feed = Feed::open(&one, "").await;
    let mut here = joined(&one, "presence-a", "1").await;
    let mut there = joined(&other, "presence-a", "2").await;
    one.knows_members("presence-a", &["1", "2"]).await;
    let channels = get(&one, "/api/channels").await;
    assert_eq!((&channels["channels"][0]["subscriptions"], &channels["channels"][0]["users"]), (&json!(2), &json!(2)));
    let status = get(&one, "/api/status").await;
    assert_eq!((status["nodes"].as_array().unwrap().len(), &status["nodes"][0]["is_this"]), (2, &json!(true)));
    assert_eq!(here.next().await["event"], "pusher_internal:member_added");
    there.send(json!({"event": "client-x", "channel": "presence-a", "data": {"n": 1}})).await;
    let line = feed.first("event").await;
    assert_eq!((&line["event"], &line["data"]), (&json!("client-x"), &json!("{\"n\":1}")));
    assert_eq!((&line["from"]["source"], &line["to"][0]["delivered"]), (&json!("node"), &json!(1)));
}

fn command(server: &Server, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_laravel-echo-server"));
    command.args(arguments).arg("--dir").arg(server.folder()).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test]
async fn commands_ask_the_running_server() {
    let mut server = Server::start(json!({}));
    let mut client = joined(&server, "presence-a", "1").await;
    let status = command(&server, &["status"]);
    assert!(status.status.success());
    for part in [
        &format!("process {}, up ", server.pid()),
        &format!("Listening    127.0.0.1:{} (http)", server.port),
        "AWAY for ",
        "Connections  1 of ",
        "Channels     1 with 1 subscription, 1 member of presence channels",
    ] {
        assert!(said(&status).contains(part), "{part:?} in {}", said(&status));
    }
    let status: Value = serde_json::from_slice(&command(&server, &["status", "--json"]).stdout).unwrap();
    assert_eq!((&status["channels"]["subscriptions"], &status["pid"]), (&json!(1), &json!(server.pid())));

    assert!(said(&command(&server, &["channels"])).contains("presence-a  app-id  presence              1      1\n"));
    assert!(said(&command(&server, &["channels", "x*"])).starts_with("0 channels with 0 subscriptions."));
    assert_eq!(
        said(&command(&server, &["users", "presence-a"])),
        "1                     {\"name\":\"1\"}\n1 user in presence-a, with 1 subscription.\n"
    );
    let refused = command(&server, &["users", "orders"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("only presence channels have users"), "{}", said(&refused));

    assert_eq!(
        said(&command(&server, &["publish", "presence-a", "e", "{\"x\":1}"])),
        "e was sent to presence-a: 1 subscription.\n"
    );
    assert_eq!(client.next().await, json!({"event": "e", "channel": "presence-a", "data": "{\"x\":1}"}));
    assert_eq!(
        said(&command(&server, &["publish", "a", "e"])),
        "e was sent to a, to which nobody is subscribed.\n  presence-a has 1 subscription.\n"
    );
    assert!(said(&command(&server, &["publish", "a b", "e"])).contains("refuses (400"));

    server.terminate();
    server.wait();
    let gone = command(&server, &["status"]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(said(&gone).contains("No server runs with "), "{}", said(&gone));
}

/// The lines of a stream, which a thread reads.
fn lines(stream: impl std::io::Read + Send + 'static) -> impl FnMut() -> String {
    use std::io::BufRead as _;
    let (said, lines) = std::sync::mpsc::channel();
    let read = std::io::BufReader::new(stream).lines();
    std::thread::spawn(move || read.map_while(Result::ok).for_each(|line| drop(said.send(line))));
    move || lines.recv_timeout(PATIENCE).expect("a line comes in time")
}

#[tokio::test]
async fn listen_prints_a_line_for_what_passes() {
    let server = Server::start(json!({}));
    let mut client = server.connect().await;
    client.subscribe("orders").await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_laravel-echo-server"));
    command.args(["listen", "orders", "--dir"]).arg(server.folder());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut notes = lines(child.stderr.take().unwrap());
    let mut next = lines(child.stdout.take().unwrap());
    assert!(notes().starts_with("Listening at http://127.0.0.1:"));
    server.publish(json!({"name": "shipped", "channel": "orders", "data": "{\"id\":7}"})).await;
    assert!(next().ends_with("  event      shipped  from the HTTP API"));
    assert_eq!(next().trim(), "→ orders  delivered to 1 connection");
    assert_eq!(next().trim(), "{\"id\":7}  (8 bytes)");
    server.terminate();
    assert_eq!(notes(), "The server stops.");
    assert!(child.wait().unwrap().success(), "the server's end is the command's");
}
