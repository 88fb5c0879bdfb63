use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderValue;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, watch};

use super::*;
use crate::metrics::Metrics;

use crate::auth::fake::{FakeLaravel, auth_of, response};
use crate::config::Auth;
use crate::protocol::channel::ChannelName;

fn laravel_with(auth: &Auth, prefix: Option<&str>) -> Laravel {
    Laravel::without_patience(auth, known(watch::channel(prefix.map(str::to_owned)).1))
}

/// Of the app of [`question`]'s socket.
fn known(prefix: watch::Receiver<Option<String>>) -> KnownPrefixes {
    [(1234, prefix)].into()
}

fn bearer() -> Credentials {
    Credentials { authorization: Some(HeaderValue::from_static("Bearer t0ken")), ..Credentials::default() }
}

fn cookie(origin: Option<&str>) -> Credentials {
    Credentials {
        cookie: Some(HeaderValue::from_static("session=c00kie")),
        origin: origin.map(str::to_owned),
        host: Some("ws.example.com:6001".to_owned()),
        ..Credentials::default()
    }
}

fn question(channel: &str, credentials: Credentials) -> Question {
    Question {
        channel: ChannelName::parse(channel).unwrap(),
        socket_id: "1234.5678".parse().unwrap(),
        credentials: Arc::new(credentials),
        headers: Vec::new(),
    }
}

async fn ask(fake: &FakeLaravel, channel: &str) -> Answer {
    laravel_with(&fake.auth(), None).ask(&question(channel, bearer())).await
}

/// The answer to one recorded reply: `yes`, `ID INFO` of a member, or the status of a refusal.
async fn outcome(channel: &str, reply: impl Into<Vec<u8>>) -> String {
    let fake = FakeLaravel::answering(reply).await;
    told(&ask(&fake, channel).await)
}

fn told(answer: &Answer) -> String {
    match answer {
        Answer::Yes => "yes".to_owned(),
        Answer::Member(member) => format!("{} {}", member.user_id, member.user_info),
        Answer::No(refusal) => refusal.status.to_string(),
    }
}

fn refusal(answer: Answer) -> Refusal {
    match answer {
        Answer::No(refusal) => refusal,
        yes => panic!("{yes:?}"),
    }
}

const JOHN: &str = r#"{"channel_data":{"user_id":1,"user_info":{"id":1,"name":"John Doe","avatar":"https:\/\/example.com\/avatars\/1.jpg"}}}"#;
const ZOE: &str = r#"{"channel_data":{"user_id":4,"user_info":{"id":4,"name":"Zo\u00eb \u017di\u017eek \u674e","avatar":"https:\/\/example.com\/avatars\/4.jpg"}}}"#;
const HTML: &str = "Content-Type: text/html; charset=UTF-8\r\nSet-Cookie: talent2income_session=x\r\n";
const JSON: &str = "Content-Type: application/json\r\nSet-Cookie: talent2income_session=x\r\n";

/// Every status and body that was recorded from a real Laravel.
#[tokio::test]
async fn recorded_answers() {
    let empty = "{\n    \"message\": \"\"\n}";
    let failed = "{\n    \"message\": \"Server Error\"\n}";
    for (channel, status, headers, body, expected) in [
        ("private-user.1", "200 OK", HTML, "true", "yes"),
        ("private-user.2", "403 Forbidden", JSON, empty, "403"),
        ("private-user.2", "403 Forbidden", HTML, "<!DOCTYPE html><title>Forbidden</title>", "403"),
        ("private-job.999", "500 Internal Server Error", JSON, failed, "500"),
        (
            "presence-online-users",
            "200 OK",
            HTML,
            JOHN,
            r#"1 {"id":1,"name":"John Doe","avatar":"https:\/\/example.com\/avatars\/1.jpg"}"#,
        ),
        (
            "presence-online-users",
            "200 OK",
            HTML,
            ZOE,
            r#"4 {"id":4,"name":"Zo\u00eb \u017di\u017eek \u674e","avatar":"https:\/\/example.com\/avatars\/4.jpg"}"#,
        ),
        ("presence-true-room", "200 OK", HTML, "true", "403"),
        ("presence-room.2-3", "403 Forbidden", JSON, empty, "403"),
        // A channel's callback that returned an array.
        ("private-online-users", "200 OK", HTML, JOHN, "yes"),
        ("private-encrypted-user.1", "200 OK", HTML, "true", "yes"),
        ("talent2income_database_private-user.1", "200 OK", HTML, "true", "yes"),
        ("private-user.1", "401 Unauthorized", JSON, r#"{"message":"Unauthenticated."}"#, "401"),
        ("private-user.1", "302 Found", "Location: http://127.0.0.1:8000/login\r\n", "<!DOCTYPE html>", "401"),
        ("private-user.1", "404 Not Found", JSON, empty, "404"),
        ("private-user.1", "405 Method Not Allowed", JSON, r#"{"message":"…"}"#, "405"),
        ("private-user.1", "419 unknown status", JSON, r#"{"message": "CSRF token mismatch."}"#, "419"),
        ("private-user.1", "429 Too Many Requests", "Retry-After: 42\r\n", "", "429"),
        ("private-user.1", "204 No Content", "", "", "403"),
        // The pusher driver.
        ("private-user.1", "200 OK", JSON, r#"{"auth":"key:abcd"}"#, "yes"),
        (
            "presence-room",
            "200 OK",
            JSON,
            r#"{"auth":"key:abcd","channel_data":"{\"user_id\":1,\"user_info\":{\"name\":\"Ann\"}}"}"#,
            r#"1 {"name":"Ann"}"#,
        ),
        ("presence-room", "200 OK", JSON, r#"{"auth":"key:abcd"}"#, "403"),
    ] {
        assert_eq!(outcome(channel, response(status, headers, body)).await, expected, "{channel}: {status} {body}");
    }
}

#[tokio::test]
async fn only_a_200_whose_body_says_yes_is_a_yes() {
    for body in [
        "",
        "false",
        "null",
        "1",
        "\"true\"",
        "[]",
        "[true]",
        "{}",
        "True",
        "true false",
        "truely",
        "OK",
        "<!DOCTYPE html><title>Login</title>",
        r#"{"error":"unauthenticated"}"#,
        r#"{"channel_data":null}"#,
        r#"{"channel_data":false}"#,
        r#"{"channel_data":true}"#,
        r#"{"auth":""}"#,
        r#"{"auth":true}"#,
        r#"{"auth":null}"#,
        r#"{"channel_data":{"user_id":1}"#,
    ] {
        let fake = FakeLaravel::answering(response("200 OK", HTML, body)).await;
        for channel in ["private-a", "presence-a"] {
            let refusal = refusal(ask(&fake, channel).await);
            assert_eq!(refusal.status, 403, "{channel}: {body}");
        }
    }
    for status in ["201 Created", "202 Accepted", "206 Partial Content", "299 Odd"] {
        assert_eq!(outcome("private-a", response(status, "", "true")).await, "403", "{status}");
    }
    for status in ["400 Bad Request", "403 Forbidden", "418 Teapot", "500 Error", "503 Unavailable"] {
        assert_eq!(outcome("private-a", response(status, "", "true")).await, status[..3], "{status}");
    }
}

#[tokio::test]
async fn any_200_is_a_yes_if_so_configured_and_never_for_presence() {
    for body in ["", "false", "<html>", "{}"] {
        let fake = FakeLaravel::answering(response("200 OK", HTML, body)).await;
        let mut auth = fake.auth();
        auth.accept_any_200 = true;
        let laravel = laravel_with(&auth, None);
        assert_eq!(told(&laravel.ask(&question("private-a", bearer())).await), "yes", "{body}");
        assert_eq!(told(&laravel.ask(&question("presence-a", bearer())).await), "403", "{body}");
    }
    let fake = FakeLaravel::answering(response("302 Found", "Location: /login\r\n", "")).await;
    let mut auth = fake.auth();
    auth.accept_any_200 = true;
    assert_eq!(told(&laravel_with(&auth, None).ask(&question("private-a", bearer())).await), "401");
}

#[tokio::test]
async fn a_member_has_an_id_that_is_text_or_integer() {
    for (data, expected) in [
        (r#"{"user_id":1}"#, "1 null"),
        (r#"{"user_id":"1"}"#, "1 null"),
        (r#"{"user_id":"a\u00e4\/b","user_info":null}"#, "a\u{e4}/b null"),
        (r#"{"user_id":-7,"user_info":[1, 2]}"#, "-7 [1, 2]"),
        (r#"{"user_id":123456789012345678901234567890,"user_info":"x"}"#, "123456789012345678901234567890 \"x\""),
        (r#"{"user_info":{"a" : 1.0},"user_id":3,"more":1}"#, r#"3 {"a" : 1.0}"#),
        (r#"{"user_id":""}"#, "403"),
        (r#"{"user_id":true}"#, "403"),
        (r#"{"user_id":null}"#, "403"),
        (r#"{"user_id":1.0}"#, "403"),
        (r#"{"user_id":1e3}"#, "403"),
        (r#"{"user_id":[1]}"#, "403"),
        (r#"{"user_id":{"a":1}}"#, "403"),
        (r#"{"user_info":{"id":1}}"#, "403"),
        (r#"{"user_id":1,"user_id":2}"#, "403"),
        (r#"{}"#, "403"),
    ] {
        let object = format!("{{\"channel_data\":{data}}}");
        assert_eq!(outcome("presence-a", response("200 OK", "", &object)).await, expected, "{object}");
        let text = serde_json::json!({ "channel_data": data }).to_string();
        assert_eq!(outcome("presence-a", response("200 OK", "", &text)).await, expected, "{text}");
    }
    for body in
        [r#"{"channel_data":"5"}"#, r#"{"channel_data":"x"}"#, r#"{"channel_data":[]}"#, r#"{"channel_data":5}"#]
    {
        assert_eq!(outcome("presence-a", response("200 OK", "", body)).await, "403", "{body}");
    }
}

/// Each cause has a sentence of its own that names it.
#[tokio::test]
async fn refusals_name_cause_and_cure() {
    for (channel, reply, status, words) in [
        ("private-a", response("401 Unauthorized", "", ""), 401, "Sign in again"),
        ("private-a", response("403 Forbidden", "", ""), 403, "routes/channels.php"),
        ("private-a", response("404 Not Found", "", ""), 404, "Broadcast::routes()"),
        ("private-a", response("405 Not Allowed", "", ""), 405, "does not take POST"),
        ("private-a", response("419 Expired", "", ""), 419, "CSRF"),
        ("private-a", response("429 Too Many", "Retry-After: 42\r\n", ""), 429, "Try again in 42 s"),
        ("private-a", response("429 Too Many", "Retry-After: <b>\r\n", ""), 429, "rate limit was reached (429). Raise"),
        ("private-a", response("431 Too Large", "", ""), 431, "cookies or headers"),
        ("private-a", response("400 Bad Request", "", ""), 400, "https"),
        ("private-a", response("500 Error", "", ""), 500, "storage/logs/laravel.log"),
        ("private-a", response("502 Bad Gateway", "", ""), 502, "PHP is running"),
        ("private-a", response("503 Unavailable", "", ""), 503, "artisan up"),
        ("private-a", response("204 No Content", "", ""), 403, "only 200 is a yes"),
        ("private-a", response("304 Not Modified", "", ""), 304, "Redirects are not followed"),
        ("private-a", response("302 Found", "Location: /login?next=s3cret\r\n", ""), 401, "to /login: not signed in"),
        ("private-a", response("302 Found", "Location: /welcome\r\n", ""), 302, "to /welcome instead"),
        ("private-a", response("301 Moved", "Location: https://x.test/broadcasting/auth\r\n", ""), 301, "set authHost"),
        ("private-a", response("302 Found", "", ""), 302, "Redirects are not followed"),
        ("private-a", response("200 OK", "", ""), 403, "an empty body"),
        ("private-a", response("200 OK", "", "false"), 403, "200 with false"),
        ("private-a", response("200 OK", "", " <html>"), 403, "an HTML page"),
        ("private-a", response("200 OK", "", "OK"), 403, "no yes"),
        ("presence-a", response("200 OK", "", "true"), 403, "must return an array with the member's data"),
        ("presence-a", response("200 OK", "", r#"{"channel_data":{"user_id":""}}"#), 403, "user_id must be a number"),
        ("private-a", "not HTTP at all\r\n\r\n".to_owned(), 502, "is no HTTP"),
        ("private-a", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntr".to_owned(), 502, "broke off"),
        ("private-a", String::new(), 502, "broke off"),
        ("private-a", response("200 OK", "", &"x".repeat(70_000)), 502, "more than 64 KiB"),
    ] {
        let fake = FakeLaravel::answering(reply.clone()).await;
        let refusal = refusal(ask(&fake, channel).await);
        assert_eq!(refusal.status, status, "{reply}");
        assert!(refusal.error.contains(words), "{words:?} in {:?}", refusal.error);
        assert!(!refusal.error.contains("s3cret") && !refusal.error.contains('<'), "{}", refusal.error);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let fake = FakeLaravel::with(|mut socket, request| async move {
        let reply = if request.line.contains("/login") {
            response("200 OK", "", "true")
        } else {
            response("302 Found", "Location: /login\r\nSet-Cookie: a=b\r\n", "")
        };
        let _ = socket.write_all(reply.as_bytes()).await;
    })
    .await;
    assert_eq!(told(&ask(&fake, "private-a").await), "401");
    assert_eq!(fake.only().line, "POST /broadcasting/auth HTTP/1.1");
}

#[tokio::test]
async fn an_endless_answer_is_cut() {
    let fake = FakeLaravel::with(|mut socket, _| async move {
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        while socket.write_all(b"4\r\ntrue\r\n").await.is_ok() {}
    })
    .await;
    let refusal = refusal(ask(&fake, "private-a").await);
    assert_eq!(refusal.status, 502);
    assert!(refusal.error.contains("more than 64 KiB"), "{}", refusal.error);
}

#[tokio::test]
async fn a_slow_answer_has_a_time_limit_head_and_body_together() {
    for begun in ["", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntru"] {
        let fake = FakeLaravel::with(move |mut socket, _| async move {
            let _ = socket.write_all(begun.as_bytes()).await;
            std::future::pending::<()>().await;
        })
        .await;
        let mut auth = fake.auth();
        auth.timeout = Duration::from_millis(100);
        let refusal = refusal(laravel_with(&auth, None).ask(&question("private-a", bearer())).await);
        assert_eq!(refusal.status, 504);
        assert!(refusal.error.contains("within 100 ms"), "{}", refusal.error);
    }
}

#[tokio::test]
async fn nobody_at_auth_host() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let auth = auth_of(&format!("http://{free}"));
    let refusal = refusal(laravel_with(&auth, None).ask(&question("private-a", bearer())).await);
    assert_eq!(refusal.status, 502);
    assert!(refusal.error.contains("authHost"), "{}", refusal.error);
    assert!(!refusal.error.contains(&free.to_string()), "inside addresses are for the log: {}", refusal.error);
}

#[tokio::test]
async fn a_kept_connection_that_breaks_is_tried_once_more() {
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let fake = FakeLaravel::with(move |mut socket, _| {
        let nth = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move {
            if nth > 0 {
                let _ = socket.write_all(response("200 OK", "", "true").as_bytes()).await;
            }
        }
    })
    .await;
    assert_eq!(told(&ask(&fake, "private-a").await), "yes");
    assert_eq!(fake.asked().len(), 2);
}

#[tokio::test]
async fn so_many_are_asked_at_once_and_the_others_wait() {
    let gate = Arc::new(Notify::new());
    let arrived = Arc::new(tokio::sync::Semaphore::new(0));
    let (door, bell) = (gate.clone(), arrived.clone());
    let fake = FakeLaravel::with(move |mut socket, _| {
        let (door, bell) = (door.clone(), bell.clone());
        async move {
            bell.add_permits(1);
            door.notified().await;
            let _ = socket.write_all(response("200 OK", "", "true").as_bytes()).await;
        }
    })
    .await;
    let mut auth = fake.auth();
    auth.concurrency = 2;
    let laravel = laravel_with(&auth, None);
    let asking: Vec<_> = (0..5)
        .map(|_| {
            let laravel = laravel.clone();
            tokio::spawn(async move { laravel.ask(&question("private-a", bearer())).await })
        })
        .collect();
    for already in [2, 3, 4, 5] {
        arrived.acquire_many(if already == 2 { 2 } else { 1 }).await.unwrap().forget();
        assert_eq!(fake.asked().len(), already, "one more only after one has been answered");
        assert_eq!(arrived.available_permits(), 0);
        gate.notify_one();
    }
    gate.notify_one();
    for answer in asking {
        assert_eq!(told(&answer.await.unwrap()), "yes");
    }
}

#[tokio::test]
async fn waiting_for_a_turn_ends_too() {
    let fake = FakeLaravel::with(|socket, _| async move {
        std::future::pending::<()>().await;
        drop(socket);
    })
    .await;
    let mut auth = fake.auth();
    auth.concurrency = 1;
    auth.timeout = Duration::from_millis(40);
    let laravel = laravel_with(&auth, None);
    let asking: Vec<_> = (0..60)
        .map(|_| {
            let laravel = laravel.clone();
            tokio::spawn(async move { refusal(laravel.ask(&question("private-a", bearer())).await).status })
        })
        .collect();
    let mut statuses = Vec::new();
    for status in asking {
        statuses.push(status.await.unwrap());
    }
    assert!(statuses.contains(&504) && statuses.contains(&503), "{statuses:?}");
}

#[tokio::test]
async fn what_laravel_is_asked() {
    let fake = FakeLaravel::answering(response("200 OK", "", "true")).await;
    let laravel = laravel_with(&fake.auth(), Some("talent2income_database_"));
    let credentials = Credentials {
        authorization: Some(HeaderValue::from_static("Bearer t0ken")),
        user_agent: Some(HeaderValue::from_static("Browser/1")),
        ..cookie(Some("https://ws.example.com"))
    };
    assert_eq!(told(&laravel.ask(&question("talent2income_database_private-a:b/c", credentials)).await), "yes");
    let asked = fake.only();
    assert_eq!(asked.line, "POST /broadcasting/auth HTTP/1.1");
    assert_eq!(asked.body, "socket_id=1234.5678&channel_name=private-a%3Ab%2Fc");
    let host = fake.addr.to_string();
    for (name, value) in [
        ("cookie", Some("session=c00kie")),
        ("authorization", Some("Bearer t0ken")),
        ("user-agent", Some("Browser/1")),
        ("accept", Some("application/json")),
        ("x-requested-with", Some("XMLHttpRequest")),
        ("content-type", Some("application/x-www-form-urlencoded")),
        ("host", Some(host.as_str())),
        ("origin", None),
        ("referer", None),
        ("accept-encoding", None),
    ] {
        assert_eq!(asked.one(name), value, "{name}");
    }
}

#[tokio::test]
async fn the_prefix_is_the_one_known_at_the_moment() {
    let fake = FakeLaravel::answering(response("200 OK", "", "true")).await;
    let (tell, prefix) = watch::channel(None);
    let laravel = Laravel::new(&fake.auth(), known(prefix), Metrics::new(0, Vec::new())).unwrap();
    for prefix in [None, Some("app_database_"), None, Some("other_database_")] {
        tell.send(prefix.map(str::to_owned)).unwrap();
        laravel.ask(&question("app_database_private-a", bearer())).await;
    }
    let names: Vec<_> = fake.asked().iter().map(|r| r.body.rsplit('=').next().unwrap().to_owned()).collect();
    assert_eq!(names, ["app_database_private-a", "private-a", "app_database_private-a", "app_database_private-a"]);
    // Another app's prefix is no business of this one.
    tell.send(Some("app_database_".to_owned())).unwrap();
    let other = Question { socket_id: "1235.5678".parse().unwrap(), ..question("app_database_private-a", bearer()) };
    laravel.ask(&other).await;
    assert!(fake.asked().last().unwrap().body.ends_with("=app_database_private-a"));
}

#[tokio::test]
async fn headers_of_the_message_go_along_sifted() {
    let fake = FakeLaravel::answering(response("200 OK", "", "true")).await;
    let laravel = laravel_with(&fake.auth(), None);
    let mut question = question("private-a", cookie(None));
    question.headers = [
        ("Authorization", "Bearer mine"),
        ("X-CSRF-TOKEN", "csrf"),
        ("Host", "other.example"),
        ("Content-Length", "3"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "upgrade"),
        ("Origin", "https://app.example"),
        ("Referer", "https://app.example/"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("X_Forwarded_For", "1.2.3.4"),
        ("X-Real-IP", "1.2.3.4"),
        ("X-Bad", "1\r\nX-Injected: 2"),
        ("X-Bad\r\nX-Injected", "1"),
        ("Accept", "text/html"),
        ("X-Requested-With", "nothing"),
    ]
    .iter()
    .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
    .collect();
    assert_eq!(told(&laravel.ask(&question).await), "yes");
    let asked = fake.only();
    let mut names: Vec<_> = asked.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "accept",
            "authorization",
            "content-length",
            "content-type",
            "cookie",
            "host",
            "x-csrf-token",
            "x-requested-with"
        ]
    );
    assert_eq!(asked.one("authorization"), Some("Bearer mine"));
    assert_eq!(asked.one("accept"), Some("application/json"));
    assert_eq!(asked.one("x-requested-with"), Some("XMLHttpRequest"));
    assert_eq!(asked.one("host"), Some(fake.addr.to_string().as_str()));
    assert_eq!(asked.body, "socket_id=1234.5678&channel_name=private-a");
}

#[tokio::test]
async fn without_credentials_laravel_is_not_asked() {
    let fake = FakeLaravel::answering(response("200 OK", "", "true")).await;
    let laravel = laravel_with(&fake.auth(), None);
    let nobody = Credentials {
        origin: Some("https://ws.example.com".to_owned()),
        host: Some("ws.example.com".to_owned()),
        user_agent: Some(HeaderValue::from_static("Browser/1")),
        ..Credentials::default()
    };
    let mut question = question("private-a", nobody);
    // Headers that say nothing of who is asking do not help.
    question.headers = vec![("Host".to_owned(), "x".to_owned())];
    let refusal = refusal(laravel.ask(&question).await);
    assert_eq!(refusal.status, 401);
    for words in ["pusher driver", "authEndpoint", "/broadcasting/auth", "\"proxy\": true", "secret"] {
        assert!(refusal.error.contains(words), "{words} in {}", refusal.error);
    }
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn a_cookie_counts_only_for_allowed_origins() {
    let fake = FakeLaravel::answering(response("200 OK", "", "true")).await;
    let mut auth = fake.auth();
    auth.allowed_origins = vec!["https://app.example.com".to_owned()];
    let laravel = laravel_with(&auth, None);
    for origin in [None, Some("https://ws.example.com"), Some("https://app.example.com"), Some("http://localhost:5173")]
    {
        assert_eq!(told(&laravel.ask(&question("private-a", cookie(origin))).await), "yes", "{origin:?}");
    }
    assert_eq!(fake.asked().len(), 4);
    assert!(fake.asked().iter().all(|asked| asked.one("cookie") == Some("session=c00kie")));

    let no = refusal(laravel.ask(&question("private-a", cookie(Some("https://evil.example")))).await);
    assert_eq!(no.status, 403);
    assert!(no.error.contains(r#""allowedOrigins": ["https://evil.example"]"#), "{}", no.error);
    let no = refusal(laravel.ask(&question("private-a", cookie(Some("null")))).await);
    assert_eq!(no.status, 403);
    let no = refusal(laravel.ask(&question("private-a", cookie(Some("<script>\r\n")))).await);
    assert!(!no.error.contains("script"), "{}", no.error);
    assert_eq!(fake.asked().len(), 4, "Laravel was not asked");
}

#[tokio::test]
async fn a_star_lets_the_page_in_but_not_its_cookie() {
    let fake = FakeLaravel::answering(response("401 Unauthorized", "", "")).await;
    let mut auth = fake.auth();
    auth.allowed_origins = vec!["*".to_owned()];
    let laravel = laravel_with(&auth, None);
    let no = refusal(laravel.ask(&question("private-a", cookie(Some("https://any.example")))).await);
    assert_eq!(no.status, 403);
    assert!(no.error.contains(r#""allowedOrigins": ["https://any.example"]"#), "{}", no.error);
    assert!(fake.asked().is_empty());

    // A token that the message brings was chosen by the page itself; the Authorization of a browser's
    // handshake was not: it is the browser's own, as the cookie is.
    let both = Credentials { authorization: bearer().authorization, ..cookie(Some("https://any.example")) };
    let mut asked = question("private-a", both);
    asked.headers = vec![("Authorization".to_owned(), "Bearer own".to_owned())];
    let no = refusal(laravel.ask(&asked).await);
    assert_eq!(no.status, 401);
    assert!(no.error.contains("Sign in again") && no.error.contains("cookie was left out"), "{}", no.error);
    assert_eq!(fake.only().one("cookie"), None);
    assert_eq!(fake.only().one("authorization"), Some("Bearer own"));
}

#[tokio::test]
async fn the_log_tells_more_and_no_secrets() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    // With one dispatcher alone, tracing would take "nobody listens" from another test's thread.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);
    let fake = FakeLaravel::answering(response("302 Found", "Location: /login?s3cret=1\r\n", "t0ken")).await;
    let mut auth = fake.auth();
    auth.host.set_username("user").unwrap();
    auth.host.set_password(Some("passw0rd")).unwrap();
    auth.endpoint = "/broadcasting/auth?api_token=s3cret".to_owned();
    let laravel = laravel_with(&auth, None);
    let credentials = Credentials { authorization: bearer().authorization, ..cookie(None) };
    let no = refusal(laravel.ask(&question("private-user.2", credentials)).await);
    assert_eq!(no.status, 401);
    assert_eq!(fake.only().line, "POST /broadcasting/auth?api_token=s3cret HTTP/1.1");
    let text = log.text();
    for told in ["private-user.2", "1234.5678", "/broadcasting/auth", "401", "/login", &fake.addr.to_string()] {
        assert!(text.contains(told), "{told} in {text}");
    }
    for secret in ["t0ken", "c00kie", "s3cret", "passw0rd"] {
        assert!(!text.contains(secret) && !no.error.contains(secret), "{secret} in {text}");
        assert!(!format!("{laravel:?}").contains(secret));
    }
}

#[test]
fn an_endpoint_stays_on_auth_host() {
    let mut auth = auth_of("http://app.test:8000");
    auth.endpoint = "//evil.example/auth".to_owned();
    let laravel = laravel_with(&auth, None);
    assert_eq!(laravel.url(About::User).host_str(), Some("app.test"));
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Two applications with one server: each is asked about its own pages, and its pages' cookies count.
#[tokio::test]
async fn of_several_hosts_the_one_is_asked_whose_page_it_is() {
    let (first, second) = (
        FakeLaravel::answering(response("403 Forbidden", "", "{}")).await,
        FakeLaravel::answering(response("200 OK", "", "true")).await,
    );
    let mut auth = first.auth();
    auth.hosts = [&first, &second].map(|fake| crate::config::AuthHost::Url(fake.auth().host)).into();
    let laravel = laravel_with(&auth, None);
    let page = |fake: &FakeLaravel| fake.auth().host.origin().ascii_serialization();
    let by_referer = Credentials { referer: Some(format!("{}/rooms/1?x", page(&second))), ..bearer() };
    for (credentials, expected) in [
        (cookie(Some(&page(&second))), "yes"),
        (cookie(Some(&page(&first))), "403"),
        (by_referer, "yes"),
        (bearer(), "403"),
    ] {
        assert_eq!(told(&laravel.ask(&question("private-user.1", credentials)).await), expected);
    }
    assert_eq!((first.asked().len(), second.asked().len()), (2, 2));
}

/// A Laravel that gives each of these in turn, and then a yes; what came of asking it, and how often it was asked.
async fn after(replies: &[&str]) -> (String, usize) {
    let replies: Vec<String> = replies.iter().map(|reply| (*reply).to_owned()).collect();
    let given = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let fake = FakeLaravel::with(move |mut socket, _| {
        let index = given.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let reply = replies.get(index).cloned().unwrap_or_else(|| response("200 OK", "", "true"));
        async move {
            let _ = socket.write_all(reply.as_bytes()).await;
            let _ = socket.shutdown().await;
        }
    })
    .await;
    let laravel = Laravel::new(&fake.auth(), KnownPrefixes::new(), Metrics::new(0, Vec::new())).unwrap();
    let told = told(&laravel.ask(&question("private-a", bearer())).await);
    (told, fake.asked().len())
}

/// A client that is refused does not ask again, so a restart of PHP must not be a no.
#[tokio::test]
async fn while_laravel_is_away_it_is_asked_again() {
    let (bad_gateway, unavailable) = (response("502 Bad Gateway", "", ""), response("503 Service Unavailable", "", ""));
    let timeout = response("504 Gateway Timeout", "", "");
    assert_eq!(after(&[&bad_gateway, &unavailable, &timeout]).await, ("yes".to_owned(), 4));
    // Closed before the answer (which is tried at once a second time), and in the middle of it.
    assert_eq!(after(&["", "", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntr"]).await, ("yes".to_owned(), 4));
}

#[tokio::test]
async fn a_no_is_a_no_at_once() {
    for (status, headers) in [
        ("401 Unauthorized", ""),
        ("403 Forbidden", ""),
        ("419 unknown status", ""),
        ("429 Too Many Requests", "Retry-After: 1\r\n"),
        ("500 Internal Server Error", ""),
        // Maintenance that says how long it takes.
        ("503 Service Unavailable", "Retry-After: 60\r\n"),
    ] {
        assert_eq!(after(&[&response(status, headers, "")]).await, (status[..3].to_owned(), 1));
    }
    // A web server that speaks no HTTP here will not learn it.
    let start = std::time::Instant::now();
    assert_eq!(after(&["SSH-2.0-OpenSSH\r\n", "SSH-2.0-OpenSSH\r\n"]).await.0, "502");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_laravel_that_is_started_later() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    drop(listener);
    let laravel =
        Laravel::new(&auth_of(&format!("http://{addr}")), KnownPrefixes::new(), Metrics::new(0, Vec::new())).unwrap();
    let question = question("private-a", bearer());
    let asking = laravel.ask(&question);
    let starting = async {
        // Long enough for one attempt at least to be refused.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let listener = tokio::net::TcpListener::bind(addr).await.unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(tokio::io::AsyncReadExt::read(&mut socket, &mut request).await.unwrap() > 0);
        socket.write_all(response("200 OK", "", "true").as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = asking => assert_eq!(told(&answer), "yes"),
        () = starting => {}
    }
}
