//! The old server's HTTP API of the real program: requests that name the key alone (its specification, section
//! 4), next to signed ones on the same paths.

#![allow(clippy::unwrap_used, clippy::panic)]

#[allow(dead_code)]
mod common;

use common::{Call, KEY, Server};
use reqwest::header::HeaderMap;
use serde_json::{Value, json};

const EVENTS: &str = "/apps/app-id/events?auth_key=app-key";
const NO_EVENT: &str = "Event must include channel, event name and data";

struct Answer {
    status: u16,
    body: String,
    headers: HeaderMap,
}

impl Answer {
    fn is(&self, status: u16, body: &str) {
        assert_eq!((self.status, self.body.as_str()), (status, body));
    }

    /// The old server's text, and a sentence in which a person finds this word.
    fn refused(&self, status: u16, error: &str, word: &str) {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!((self.status, &body["error"]), (status, &json!(error)), "{body}");
        assert!(body["message"].as_str().unwrap().contains(word), "{word:?} in {body}");
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

async fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let url = format!("http://127.0.0.1:{}{path}", server.port);
    let client = reqwest::Client::new();
    let mut request = client.request(method.parse().unwrap(), url).body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, body: response.text().await.unwrap() }
}

async fn get(server: &Server, path: &str) -> Answer {
    ask(server, "GET", path, &[("authorization", "Bearer app-key")], "").await
}

async fn post(server: &Server, body: &str) -> Answer {
    ask(server, "POST", EVENTS, &[], body).await
}

#[tokio::test]
async fn what_it_tells() {
    let server = Server::start(json!({"shards": 3}));
    get(&server, "/apps/app-id/channels").await.is(200, r#"{"channels":{}}"#);
    let mut clients = Vec::new();
    for user in [r#"{"user_id":7,"user_info":{"name":"Ann"}}"#, r#"{"user_id":7}"#, r#"{"user_id":"bob"}"#] {
        let mut client = server.connect().await;
        client.subscribe_signed("presence-room", Some(user)).await;
        clients.push(client);
    }
    // One after the other, so that their own list is not between.
    let mut other = server.connect().await;
    other.subscribe("news").await;
    let all = r#"{"channels":{"news":{"subscription_count":1,"occupied":true},"presence-room":{"subscription_count":3,"occupied":true}}}"#;
    let channels = get(&server, "/apps/app-id/channels").await;
    channels.is(200, all);
    assert_eq!(channels.header("content-type"), "application/json; charset=utf-8");
    get(&server, "/Apps/app-id/CHANNELS/").await.is(200, all);
    let filtered = r#"{"channels":{"news":{"subscription_count":1,"occupied":true}}}"#;
    get(&server, "/apps/app-id/channels?filter_by_prefix=ne").await.is(200, filtered);
    let by_parameter = ask(&server, "GET", "/apps/app-id/channels/news?auth_key=app-key", &[], "").await;
    by_parameter.is(200, r#"{"subscription_count":1,"occupied":true}"#);
    let room = r#"{"subscription_count":3,"occupied":true,"user_count":2}"#;
    get(&server, "/apps/app-id/channels/presence-room").await.is(200, room);
    let nobody = r#"{"subscription_count":0,"occupied":false}"#;
    get(&server, "/apps/app-id/channels/a%20b").await.is(200, nobody);
    let users = r#"{"users":[{"id":7,"user_info":{"name":"Ann"}},{"id":"bob","user_info":null}]}"#;
    get(&server, "/apps/app-id/channels/presence-room/users").await.is(200, users);
    get(&server, "/apps/app-id/channels/presence-none/users").await.is(200, r#"{"users":[]}"#);
    let no_presence = r#"{"error":"User list is only possible for Presence Channels"}"#;
    get(&server, "/apps/app-id/channels/news/users").await.is(400, no_presence);

    let status: Value = serde_json::from_str(&get(&server, "/apps/app-id/status").await.body).unwrap();
    assert_eq!(status["subscription_count"], 4);
    assert!(status["uptime"].as_f64().unwrap() > 0.0, "{status}");
    assert!(status["memory_usage"]["rss"].as_u64() >= status["memory_usage"]["heapUsed"].as_u64(), "{status}");
    assert_eq!(status["memory_usage"].as_object().unwrap().len(), 5);

    let head = ask(&server, "HEAD", "/apps/app-id/channels/news?auth_key=app-key", &[], "").await;
    head.is(200, "");
    assert_eq!(head.header("content-length"), "40");
    let health = ask(&server, "GET", "/", &[], "").await;
    health.is(200, "OK");
    assert_eq!(health.header("content-type"), "text/html; charset=utf-8");
}

#[tokio::test]
async fn an_event_goes_where_it_should() {
    let server = Server::start(json!({}));
    let (mut sender, mut listener) = (server.connect().await, server.connect().await);
    for client in [&mut sender, &mut listener] {
        client.subscribe("news").await;
        client.subscribe("more").await;
    }
    let ok = r#"{"message":"ok"}"#;
    let event = json!({"name": "App\\Events\\E", "channels": ["news", "more", "nobody"], "channel": "ignored",
        "data": "{\"a\":1}", "socket_id": sender.socket_id, "info": "nonsense"});
    post(&server, &event.to_string()).await.is(200, ok);
    // As they were named, or longest name first: of several channels no order was ever promised.
    for channel in ["news", "more"] {
        let heard = listener.next().await;
        assert_eq!(heard, json!({"event": "App\\Events\\E", "channel": channel, "data": "{\"a\":1}"}));
    }
    sender.hears_nothing_else().await;
    // A socket id of nobody leaves nobody out, and data need not be a text.
    for (data, heard) in
        [(json!({"b": [2]}), r#"{"b":[2]}"#), (json!([]), "[]"), (json!(7), "7"), (json!(true), "true")]
    {
        let event = json!({"name": "e", "channel": "news", "data": data, "socket_id": 5});
        post(&server, &event.to_string()).await.is(200, ok);
        for client in [&mut sender, &mut listener] {
            assert_eq!(client.next().await["data"], heard);
        }
    }
    post(&server, r#"{"name":"e","channels":[],"data":"x"}"#).await.is(200, ok);
    // More than Pusher's API takes: the old server had no limit.
    let long = "x".repeat(300_000);
    post(&server, &json!({"name": "e", "channel": "news", "data": long}).to_string()).await.is(200, ok);
    assert_eq!(listener.next().await["data"], long);
    let too_long = json!({"name": "e", "channel": "news", "data": "x".repeat(5_000_000)}).to_string();
    assert_eq!(post(&server, &too_long).await.status, 413);
    listener.hears_nothing_else().await;
}

/// Each of the bodies below that is no JSON object of the right types ended the old server.
#[tokio::test]
async fn bodies_that_are_no_event() {
    let server = Server::start(json!({}));
    for body in [
        "",
        "null",
        "nonsense",
        "5",
        "[]",
        "{}",
        "\"text\"",
        "{\"name\":",
        r#"{"name":"e","channel":"c"}"#,
        r#"{"name":"e","channel":"c","data":0}"#,
        r#"{"name":"e","channel":"c","data":-0.0}"#,
        r#"{"name":"e","channel":"c","data":""}"#,
        r#"{"name":"e","channel":"c","data":false}"#,
        r#"{"name":"e","channel":"c","data":null}"#,
        r#"{"name":"","channel":"c","data":1}"#,
        r#"{"channel":"c","data":1}"#,
        r#"{"name":"e","data":1}"#,
        r#"{"name":"e","channels":"c","data":1}"#,
        r#"{"name":"e","channels":[5],"data":1}"#,
        r#"{"name":{},"channel":"c","data":1}"#,
    ] {
        post(&server, body).await.refused(400, NO_EVENT, "");
    }
    // Ended the old server, too; it names nobody's socket.
    post(&server, r#"{"name":"e","channel":"c","data":1,"socket_id":"constructor"}"#)
        .await
        .is(200, r#"{"message":"ok"}"#);
    let name = post(&server, r#"{"name":"e","channel":"a b","data":1}"#).await;
    assert_eq!(name.status, 400);
}

/// What is signed gets Pusher's answer, what is not the old server's, on one path.
#[tokio::test]
async fn a_signature_decides_whose_answer_it_is() {
    let server = Server::start(json!({}));
    assert_eq!(server.get("/apps/app-id/channels/news", &[]).await, (200, r#"{"occupied":false}"#.to_owned()));
    get(&server, "/apps/app-id/channels/news").await.is(200, r#"{"subscription_count":0,"occupied":false}"#);
    let event = r#"{"name":"e","channel":"news","data":"x"}"#;
    assert_eq!(server.call(Call::post("/apps/app-id/events", event)).await, (200, "{}".to_owned()));
    // A signature that is wrong is not rescued by the key that stands beside it.
    let (status, body) = server.call(Call { secret: "wrong", ..Call::post("/apps/app-id/events", event) }).await;
    assert_eq!(status, 401, "{body}");
    // Nor has the key alone what the old server did not have.
    for path in ["/apps/app-id/batch_events", "/apps/app-id/users/7/terminate_connections"] {
        let answer = ask(&server, "POST", &format!("{path}?auth_key=app-key"), &[], "{}").await;
        assert_eq!(answer.status, 401, "{}", answer.body);
    }
    assert_eq!(get(&server, "/apps/app-id/connections").await.status, 401);
}

/// Laravel's `pusher` driver signs with whatever it has; the old server did not look.
#[tokio::test]
async fn where_nobody_has_the_secret_a_signature_says_nothing() {
    let server = Server::start(json!({"clients": [{"appId": "app-id", "key": KEY}]}));
    let event = r#"{"name":"e","channel":"news","data":"x"}"#;
    let (status, body) = server.call(Call { secret: "", ..Call::post("/apps/app-id/events", event) }).await;
    assert_eq!((status, body.as_str()), (200, r#"{"message":"ok"}"#));
    let strict = Server::start(json!({"clients": [{"appId": "app-id", "key": KEY}], "httpApiKeyAuth": "off"}));
    let (status, body) = strict.call(Call { secret: "", ..Call::post("/apps/app-id/events", event) }).await;
    assert_eq!(status, 401, "{body}");
}

#[tokio::test]
async fn who_is_refused() {
    let server = Server::start(json!({}));
    let path = "/apps/app-id/channels";
    let with_key = "/apps/app-id/channels?auth_key=app-key";
    for (path, headers, word) in [
        (path, &[][..], "names no key"),
        ("/apps/app-id/channels?auth_key=wrong", &[], "no app"),
        ("/apps/other/channels?auth_key=app-key", &[], "no app"),
        (with_key, &[("authorization", "Bearer wrong")], "no app"),
        ("/apps/app-id/channels?auth_key=app-key&auth_key=app-key", &[], "names no key"),
        (with_key, &[("x-forwarded-for", "192.0.2.1")], "httpApiKeyAuth"),
        (with_key, &[("forwarded", "for=192.0.2.1")], "httpApiKeyAuth"),
        (with_key, &[("via", "1.1 proxy")], "httpApiKeyAuth"),
        (with_key, &[("x-real-ip", "127.0.0.1")], "httpApiKeyAuth"),
        // A page of evil.example, whose name leads to this machine: of one origin with this server.
        (with_key, &[("host", "evil.example:6001")], "Host"),
        // A page of another site, without asking first.
        (with_key, &[("origin", "https://evil.example")], "apiOriginAllow"),
        (with_key, &[("sec-fetch-site", "cross-site")], "apiOriginAllow"),
    ] {
        for (method, path) in [("GET", path.to_owned()), ("POST", path.replace("channels", "events"))] {
            let body = r#"{"name":"e","channel":"news","data":"x"}"#;
            let answer = ask(&server, method, &path, headers, body).await;
            answer.refused(403, "Unauthorized", word);
            assert_eq!(answer.header("access-control-allow-origin"), "");
        }
    }
    let off = Server::start(json!({"httpApiKeyAuth": "off"}));
    let answer = ask(&off, "GET", with_key, &[], "").await;
    assert_eq!(answer.status, 401);
    assert!(answer.body.contains("auth_signature"), "{}", answer.body);
}

#[tokio::test]
async fn anywhere_is_as_the_old_server_was() {
    let server = Server::start(json!({"httpApiKeyAuth": "anywhere"}));
    let path = "/apps/app-id/channels?auth_key=app-key";
    for headers in [&[("x-forwarded-for", "192.0.2.1")][..], &[("host", "echo.example")], &[]] {
        ask(&server, "GET", path, headers, "").await.is(200, r#"{"channels":{}}"#);
    }
    ask(&server, "GET", path, &[("origin", "https://evil.example")], "").await.refused(403, "Unauthorized", "page");
    // Of strangers nothing longer than Pusher's API takes.
    let long = json!({"name": "e", "channel": "news", "data": "x".repeat(20_000)}).to_string();
    assert_eq!(post(&server, &long).await.status, 413);
}

#[tokio::test]
async fn pages_may_if_the_file_says_so() {
    let allow = json!({"allowCors": true, "allowOrigin": "http://app.example", "allowMethods": "GET, POST",
        "allowHeaders": "Authorization"});
    let server = Server::start(json!({"apiOriginAllow": allow}));
    let page = ("origin", "http://app.example");
    let is_allowed = |answer: &Answer| {
        assert_eq!(answer.header("access-control-allow-origin"), "http://app.example");
        assert_eq!(answer.header("access-control-allow-methods"), "GET, POST");
        assert_eq!(answer.header("access-control-allow-headers"), "Authorization");
    };
    for (path, methods) in [("/apps/app-id/events", "POST"), ("/apps/app-id/channels", "GET,HEAD"), ("/", "GET,HEAD")] {
        let preflight = ask(&server, "OPTIONS", path, &[page], "").await;
        preflight.is(200, methods);
        assert_eq!(preflight.header("allow"), methods);
        is_allowed(&preflight);
    }
    let answer = ask(&server, "GET", "/apps/app-id/channels?auth_key=app-key", &[page], "").await;
    answer.is(200, r#"{"channels":{}}"#);
    is_allowed(&answer);
    let foreign =
        ask(&server, "GET", "/apps/app-id/channels?auth_key=app-key", &[("origin", "http://a.example")], "").await;
    foreign.refused(403, "Unauthorized", "page");
    is_allowed(&foreign);
    is_allowed(&ask(&server, "GET", "/nothing", &[page], "").await);
}

#[tokio::test]
async fn events_by_http_may_be_switched_off() {
    let server = Server::start(json!({"subscribers": {"http": false, "redis": true}}));
    let event = r#"{"name":"e","channel":"news","data":"x"}"#;
    let answer = post(&server, event).await;
    assert_eq!(answer.status, 404, "{}", answer.body);
    assert_eq!(server.call(Call::post("/apps/app-id/events", event)).await.0, 404);
    assert_eq!(get(&server, "/apps/app-id/channels").await.status, 200);
}
