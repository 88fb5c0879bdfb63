use std::collections::HashMap;

use http::{Method, Request};
use serde_json::Value;

use super::*;
use crate::auth::fake::{FakeLaravel, response};
use crate::config::{Limits, Secret};

const BEFORE: &str =
    "Content-Type: application/json\r\nSet-Cookie: session=new; path=/\r\nSet-Cookie: XSRF-TOKEN=y\r\n";

fn apps() -> Vec<App> {
    ["other-key", "app-key"]
        .into_iter()
        .map(|key| App {
            id: format!("{key}-id"),
            key: key.to_owned(),
            secret: Secret::new(format!("{key}-secret")),
            previous_secrets: Vec::new(),
            secret_is_random: false,
            is_removed: false,
            limits: Limits::default(),
            key_prefix: None,
            subscription_count: false,
            webhooks: Vec::new(),
        })
        .collect()
}

fn socket() -> String {
    SocketId::new(0x1234_5678_9abc, app_tag("app-key")).to_string()
}

fn parts(headers: &[(&str, &str)]) -> Parts {
    parts_at("/broadcasting/auth", headers)
}

fn parts_at(target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(Method::POST).uri(target);
    request = request.header("host", "ws.example.com:6001");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn laravel(auth: &Auth) -> Laravel {
    Laravel::without_patience(auth, HashMap::new())
}

async fn post(fake: &FakeLaravel, headers: &[(&str, &str)], body: &str) -> Response<Bytes> {
    gateway(&laravel(&fake.auth()), &apps(), &parts(headers), Bytes::copy_from_slice(body.as_bytes())).await
}

fn form(channel: &str) -> String {
    format!("socket_id={}&channel_name={channel}", socket())
}

fn text(response: &Response<Bytes>) -> &str {
    std::str::from_utf8(response.body()).unwrap()
}

fn json(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

fn header<'a>(response: &'a Response<Bytes>, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

fn expected_auth(channel: &str, channel_data: Option<&str>) -> String {
    let socket_id = socket().parse().unwrap();
    let signed = signature::channel_text(socket_id, channel, channel_data);
    format!("app-key:{}", signature::sign("app-key-secret", &signed))
}

#[tokio::test]
async fn a_yes_to_a_private_channel_is_signed() {
    for yes in ["true", r#"{"channel_data":{"user_id":1,"user_info":[]}}"#, r#"{"auth":"app-key:of-another-secret"}"#] {
        let fake = FakeLaravel::answering(response("200 OK", BEFORE, yes)).await;
        let answer = post(&fake, &[], &form("private-user.1")).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(json(&answer), json!({ "auth": expected_auth("private-user.1", None) }));
        assert_eq!(header(&answer, "content-type"), Some("application/json"));
        assert_eq!(header(&answer, "cache-control"), Some("no-store"));
        let cookies: Vec<_> = answer.headers().get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["session=new; path=/", "XSRF-TOKEN=y"]);
    }
}

/// The member's bytes are Laravel's own, since they are signed and the client repeats them.
#[tokio::test]
async fn a_yes_to_a_presence_channel_is_signed_with_its_member() {
    let data = r#"{"user_id":4,"user_info":{"name":"Zo\u00eb","avatar":"https:\/\/a.b\/c"} }"#;
    for yes in [
        format!("{{\"channel_data\": {data} }}"),
        json!({ "channel_data": data }).to_string(),
        json!({ "auth": "app-key:of-another-secret", "channel_data": data }).to_string(),
    ] {
        let fake = FakeLaravel::answering(response("200 OK", BEFORE, &yes)).await;
        let answer = post(&fake, &[], &form("presence-room")).await;
        let expected = json!({ "auth": expected_auth("presence-room", Some(data)), "channel_data": data });
        assert_eq!(json(&answer), expected, "{yes}");
    }
}

#[tokio::test]
async fn encrypted_channels_need_laravels_key() {
    let fake = FakeLaravel::answering(response("200 OK", "", r#"{"auth":"k:s","shared_secret":"c2VjcmV0"}"#)).await;
    let answer = post(&fake, &[], &form("private-encrypted-a")).await;
    let expected = json!({ "auth": expected_auth("private-encrypted-a", None), "shared_secret": "c2VjcmV0" });
    assert_eq!(json(&answer), expected);
    assert_eq!(json(&post(&fake, &[], &form("private-a")).await), json!({ "auth": expected_auth("private-a", None) }));

    let fake = FakeLaravel::answering(response("200 OK", "", "true")).await;
    let answer = post(&fake, &[], &form("private-encrypted-a")).await;
    assert_eq!(answer.status(), 403);
    assert!(text(&answer).contains("pusher driver"), "{}", text(&answer));
}

#[tokio::test]
async fn what_laravel_is_asked() {
    let fake = FakeLaravel::answering(response("200 OK", "", "true")).await;
    let parts = parts_at(
        "/broadcasting/auth?team=7&channel_name=private-mine&channel.name=x&api_token=t",
        &[
            ("cookie", "session=c"),
            ("authorization", "Bearer t"),
            ("x-csrf-token", "csrf"),
            ("x-xsrf-token", "xsrf"),
            ("accept-language", "de"),
            ("user-agent", "Browser/1"),
            ("content-type", "application/x-www-form-urlencoded; charset=UTF-8"),
            ("content-length", "999"),
            ("accept", "*/*"),
            ("accept-encoding", "gzip, br"),
            ("origin", "https://ws.example.com"),
            ("referer", "https://ws.example.com/chat"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-http-method-override", "GET"),
        ],
    );
    let body = format!("{}&x=%26%3D", form("private-a:b"));
    let answer = gateway(&laravel(&fake.auth()), &apps(), &parts, body.into()).await;
    assert_eq!(answer.status(), 200);
    let asked = fake.only();
    assert_eq!(asked.line, "POST /broadcasting/auth?team=7&api_token=t HTTP/1.1");
    assert_eq!(asked.body, format!("x=%26%3D&socket_id={}&channel_name=private-a%3Ab", socket()));
    let host = fake.addr.to_string();
    for (name, value) in [
        ("cookie", Some("session=c")),
        ("authorization", Some("Bearer t")),
        ("x-csrf-token", Some("csrf")),
        ("x-xsrf-token", Some("xsrf")),
        ("accept-language", Some("de")),
        ("user-agent", Some("Browser/1")),
        ("content-type", Some("application/x-www-form-urlencoded")),
        ("accept", Some("application/json")),
        ("x-requested-with", Some("XMLHttpRequest")),
        ("host", Some(host.as_str())),
        ("accept-encoding", None),
        ("origin", None),
        ("referer", None),
        ("x-hop", None),
        ("x-forwarded-for", None),
        ("x-http-method-override", None),
    ] {
        assert_eq!(asked.one(name), value, "{name}");
    }
}

#[tokio::test]
async fn a_json_body_is_asked_as_a_form() {
    let fake = FakeLaravel::answering(response("200 OK", "", "true")).await;
    let body = json!({ "socket_id": socket(), "channel_name": "private-a" }).to_string();
    let answer = post(&fake, &[("content-type", "application/json")], &body).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(fake.only().body, format!("socket_id={}&channel_name=private-a", socket()));
}

#[tokio::test]
async fn what_is_no_auth_request_is_refused_before_laravel_is_asked() {
    let fake = FakeLaravel::answering(response("200 OK", "", "true")).await;
    let good = socket();
    let elsewhere = SocketId::new(7, app_tag("app-key") ^ app_tag("other-key") ^ 1).to_string();
    let kind = "application/x-www-form-urlencoded";
    for (kind, body, status, words) in [
        (kind, String::new(), 400, "needs one socket_id"),
        (kind, format!("socket_id={good}"), 400, "needs one channel_name"),
        (kind, "channel_name=private-a".to_owned(), 400, "needs one socket_id"),
        (kind, format!("{}&channel_name=private-b", form("private-a")), 400, "exactly once"),
        (kind, format!("{}&channel_name[]=private-b", form("private-a")), 400, "exactly once"),
        (kind, format!("{}&channel.name=private-b", form("private-a")), 400, "exactly once"),
        (kind, format!("{}&socket_id={good}", form("private-a")), 400, "exactly once"),
        (kind, form("private-user.1%20"), 400, "contains ' '"),
        (kind, form("+private-user.1"), 400, "contains ' '"),
        (kind, form("private-user.1%00"), 400, "contains '\\\\0'"),
        (kind, form("private-user.1%0a"), 400, "contains '\\\\n'"),
        (kind, form("private-user.%ff"), 400, "contains"),
        (kind, form(""), 400, "must not be empty"),
        (kind, form(&format!("private-{}", "x".repeat(5000))), 400, "bytes"),
        (kind, form("orders"), 400, "public"),
        (kind, "socket_id=abc&channel_name=private-a".to_owned(), 400, "two numbers joined by a dot"),
        (kind, format!("socket_id={good}:private-b&channel_name=private-a"), 400, "two numbers"),
        (kind, format!("socket_id={elsewhere}&channel_name=private-a"), 400, "not issued by this server"),
        (kind, "x".repeat(BODY_BYTES_MAX + 1), 413, "too long"),
        ("multipart/form-data; boundary=x", form("private-a"), 415, "urlencoded"),
        ("application/json", "[]".to_owned(), 400, "JSON"),
        ("text/plain", form("private-a"), 415, "urlencoded"),
    ] {
        let answer = post(&fake, &[("content-type", kind)], &body).await;
        assert_eq!(answer.status(), status, "{body}");
        assert!(text(&answer).contains(words), "{words:?} in {}", text(&answer));
        assert!(json(&answer)["message"].is_string());
    }
    assert!(fake.asked().is_empty());
}

#[tokio::test]
async fn the_app_of_the_socket_signs() {
    let fake = FakeLaravel::answering(response("200 OK", "", "true")).await;
    let socket_id = SocketId::new(5, app_tag("other-key"));
    let answer = post(&fake, &[], &format!("socket_id={socket_id}&channel_name=private-a")).await;
    let signed = signature::channel_text(socket_id, "private-a", None);
    let expected = format!("other-key:{}", signature::sign("other-key-secret", &signed));
    assert_eq!(json(&answer), json!({ "auth": expected }));
}

#[tokio::test]
async fn laravels_no_is_passed_on() {
    for (status, headers, body) in [
        ("403 Forbidden", BEFORE, "{\n    \"message\": \"\"\n}"),
        ("401 Unauthorized", BEFORE, r#"{"message":"Unauthenticated."}"#),
        ("419 unknown status", "Content-Type: text/html; charset=UTF-8\r\n", "<!DOCTYPE html>Page Expired"),
        ("429 Too Many Requests", "Content-Type: application/json\r\nRetry-After: 42\r\n", "{}"),
        ("500 Internal Server Error", BEFORE, r#"{"message":"Server Error"}"#),
        ("404 Not Found", "", ""),
    ] {
        let fake = FakeLaravel::answering(response(status, headers, body)).await;
        let answer = post(&fake, &[], &form("private-a")).await;
        assert_eq!(answer.status().as_str(), &status[..3]);
        assert_eq!(text(&answer), body);
        for name in ["content-type", "retry-after"] {
            let sent = headers
                .to_ascii_lowercase()
                .lines()
                .find_map(|l| l.strip_prefix(&format!("{name}: ")).map(str::to_owned));
            assert_eq!(header(&answer, name).map(str::to_ascii_lowercase), sent, "{status}: {name}");
        }
        assert_eq!(answer.headers().get_all("set-cookie").iter().count(), headers.matches("Set-Cookie").count());
    }
}

/// Nothing that is no yes may leave here with a 200, nor with a redirect, which XHR follows.
#[tokio::test]
async fn what_could_be_taken_for_a_yes_becomes_a_no() {
    let location = "Location: https://x.test/welcome\r\n";
    for (reply, status) in [
        (response("302 Found", "Location: /login\r\n", ""), 401),
        (response("302 Found", location, ""), 401),
        (response("307 Temporary Redirect", location, ""), 401),
        (response("200 OK", "", "false"), 403),
        (response("200 OK", "", "<html>login</html>"), 403),
        (response("200 OK", "", ""), 403),
        (response("201 Created", "", "true"), 403),
        (response("204 No Content", "", ""), 403),
        (response("403 Forbidden", "", &"x".repeat(70_000)), 403),
        (response("500 Error", "", &"x".repeat(70_000)), 500),
        ("nonsense\r\n\r\n".to_owned(), 502),
        (String::new(), 502),
    ] {
        let fake = FakeLaravel::answering(reply.clone()).await;
        let answer = post(&fake, &[], &form("private-a")).await;
        assert_eq!(answer.status(), status, "{reply:.60}");
        assert!(json(&answer)["message"].is_string());
        assert_eq!(header(&answer, "location"), None);
    }
    let fake = FakeLaravel::answering(response("200 OK", "", "true")).await;
    let answer = post(&fake, &[], &form("presence-a")).await;
    assert_eq!(answer.status(), 403);
    assert!(text(&answer).contains("must return an array"), "{}", text(&answer));
}

#[tokio::test]
async fn a_foreign_page_cannot_use_the_visitors_cookie() {
    let fake = FakeLaravel::answering(response("200 OK", BEFORE, "true")).await;
    for origin in ["https://evil.example", "null", "https://ws.example.com.evil.example"] {
        let with_cookie = [("origin", origin), ("cookie", "session=c")];
        let answer = post(&fake, &with_cookie, &form("private-a")).await;
        assert_eq!(answer.status(), 403, "{origin}");
        assert_eq!(header(&answer, "access-control-allow-origin"), None);
        assert_eq!(header(&answer, "vary"), Some("Origin"));
    }
    let two = [("origin", "https://ws.example.com"), ("origin", "https://evil.example"), ("cookie", "session=c")];
    assert_eq!(post(&fake, &two, &form("private-a")).await.status(), 403);
    let cross = [("origin", "https://evil.example"), ("cookie", "session=c"), ("sec-fetch-site", "cross-site")];
    assert_eq!(post(&fake, &cross, &form("private-a")).await.status(), 403);
    assert!(fake.asked().is_empty());

    // With a token of its own it may ask, but its browser shows it nothing.
    let answer =
        post(&fake, &[("origin", "https://evil.example"), ("authorization", "Bearer t")], &form("private-a")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(header(&answer, "access-control-allow-origin"), None);
    assert_eq!(header(&answer, "set-cookie"), None);
}

#[tokio::test]
async fn our_pages_get_cors_with_credentials() {
    for reply in [response("200 OK", BEFORE, "true"), response("403 Forbidden", BEFORE, "{}"), String::new()] {
        let fake = FakeLaravel::answering(reply).await;
        let answer =
            post(&fake, &[("origin", "http://localhost:8000"), ("cookie", "session=c")], &form("private-a")).await;
        assert_eq!(header(&answer, "access-control-allow-origin"), Some("http://localhost:8000"));
        assert_eq!(header(&answer, "access-control-allow-credentials"), Some("true"));
        assert_eq!(header(&answer, "vary"), Some("Origin"));
        assert_eq!(fake.asked()[0].one("cookie"), Some("session=c"));
    }
    let fake = FakeLaravel::answering(response("200 OK", BEFORE, "true")).await;
    let answer = post(&fake, &[("cookie", "session=c")], &form("private-a")).await;
    assert_eq!((answer.status(), header(&answer, "access-control-allow-origin")), (StatusCode::OK, None));
    // nginx that does not pass the Host on; the browser knows better.
    let behind_nginx = [("origin", "https://app.example"), ("cookie", "session=c"), ("sec-fetch-site", "same-origin")];
    let answer = post(&fake, &behind_nginx, &form("private-a")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(fake.asked()[1].one("cookie"), Some("session=c"));
}

#[tokio::test]
async fn a_star_is_without_cookies_in_both_directions() {
    let fake = FakeLaravel::answering(response("200 OK", BEFORE, "true")).await;
    let mut auth = fake.auth();
    auth.allowed_origins = vec!["*".to_owned()];
    let headers = [("origin", "https://any.example"), ("cookie", "session=c"), ("authorization", "Bearer t")];
    let answer = gateway(&laravel(&auth), &apps(), &parts(&headers), form("private-a").into()).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(header(&answer, "access-control-allow-origin"), Some("*"));
    assert_eq!(header(&answer, "access-control-allow-credentials"), None);
    assert_eq!(header(&answer, "set-cookie"), None);
    assert_eq!(fake.only().one("cookie"), None);
    assert_eq!(fake.only().one("authorization"), Some("Bearer t"));

    let answer = preflight(
        &auth,
        &parts(&[("origin", "https://any.example"), ("access-control-request-headers", "authorization")]),
    );
    assert_eq!(header(&answer, "access-control-allow-origin"), Some("*"));
    assert_eq!(header(&answer, "access-control-allow-credentials"), None);
    assert_eq!(header(&answer, "access-control-allow-headers"), Some("authorization"));
}

#[tokio::test]
async fn preflight_of_our_pages_and_of_others() {
    let fake = FakeLaravel::answering("").await;
    let auth = fake.auth();
    let asking = |origin, requested| {
        preflight(&auth, &parts(&[("origin", origin), ("access-control-request-headers", requested)]))
    };
    let ours = asking("http://localhost:8000", "authorization, x-csrf-token");
    assert_eq!(ours.status(), 204);
    for (name, value) in [
        ("access-control-allow-origin", "http://localhost:8000"),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", "authorization, x-csrf-token"),
        ("access-control-max-age", "7200"),
    ] {
        assert_eq!(header(&ours, name), Some(value), "{name}");
    }
    assert!(ours.headers().get_all("vary").iter().any(|v| v == "Origin"));

    let theirs = asking("https://evil.example", "authorization");
    assert_eq!(theirs.status(), 403);
    assert!(theirs.headers().keys().all(|name| !name.as_str().starts_with("access-control")), "{theirs:?}");
    assert!(text(&theirs).contains("allowedOrigins"));

    for odd in ["a b", "x,", "<", &"x".repeat(2000)] {
        assert_eq!(header(&asking("http://localhost:8000", odd), "access-control-allow-headers"), None, "{odd}");
    }
    assert!(fake.asked().is_empty());
}

fn user_body() -> String {
    format!("socket_id={}&team=7", socket())
}

async fn post_user(fake: &FakeLaravel, body: &str) -> Response<Bytes> {
    let parts = parts_at("/broadcasting/user-auth?channel_name=x&a=1", &[("cookie", "session=c")]);
    gateway(&laravel(&fake.auth()), &apps(), &parts, Bytes::copy_from_slice(body.as_bytes())).await
}

/// The redis driver answers with what the application's callback returned, the pusher driver with
/// the signed text.
#[tokio::test]
async fn a_user_is_signed() {
    let data = r#"{"id":4,"user_info":{"name":"Zo\u00eb","avatar":"https:\/\/a.b\/c"},"watchlist":["5"] }"#;
    for yes in [data.to_owned(), json!({ "auth": "app-key:of-another-secret", "user_data": data }).to_string()] {
        let fake = FakeLaravel::answering(response("200 OK", BEFORE, &yes)).await;
        let answer = post_user(&fake, &user_body()).await;
        let text = signature::user_text(socket().parse().unwrap(), data);
        let auth = format!("app-key:{}", signature::sign("app-key-secret", &text));
        assert_eq!(json(&answer), json!({ "auth": auth, "user_data": data }), "{yes}");
        assert_eq!(answer.headers().get_all("set-cookie").iter().count(), 2);
        let asked = fake.only();
        assert_eq!(asked.line, "POST /broadcasting/user-auth?a=1 HTTP/1.1");
        assert_eq!(asked.body, format!("team=7&socket_id={}", socket()));
        assert_eq!(asked.one("cookie"), Some("session=c"));
    }
}

#[tokio::test]
async fn who_is_no_user_is_refused() {
    for (status, body, expected, word) in [
        ("404 Not Found", "{}", 404, "userRoutes"),
        ("403 Forbidden", r#"{"message":""}"#, 403, "resolveAuthenticatedUserUsing"),
        ("401 Unauthorized", "{}", 401, "{}"),
        ("302 Found", "", 401, "not"),
        ("200 OK", "true", 403, "no yes"),
        ("200 OK", "null", 403, "no yes"),
        ("200 OK", "<html>", 403, "HTML"),
        ("200 OK", "{}", 403, "resolveAuthenticatedUserUsing"),
        ("200 OK", r#"{"id":null}"#, 403, "resolveAuthenticatedUserUsing"),
        ("200 OK", r#"{"auth":"k:s","channel_data":"{\"user_id\":1}"}"#, 403, "resolveAuthenticatedUserUsing"),
    ] {
        let location = if status.starts_with("302") { "Location: /login\r\n" } else { "" };
        let fake = FakeLaravel::answering(response(status, location, body)).await;
        let answer = post_user(&fake, &user_body()).await;
        assert_eq!(answer.status(), expected, "{status} {body}");
        assert!(text(&answer).contains(word), "{}", text(&answer));
        assert!(!text(&answer).contains("auth\":"), "{}", text(&answer));
    }
    let fake = FakeLaravel::answering(response("200 OK", "", r#"{"id":1}"#)).await;
    assert_eq!(post_user(&fake, "team=7").await.status(), 400);
    assert_eq!(post_user(&fake, "socket_id=1.2").await.status(), 400);
    assert!(fake.asked().is_empty());
}
