//! The stand-in application: a tiny HTTP server on a free loopback port that plays Laravel.
//!
//! It serves the demo's page, answers `POST /broadcasting/auth` and two routes of the
//! application's own, and hands what Laravel would publish to Redis to a queue instead. The
//! server under demonstration knows it as nothing but its authHost. What is said and published
//! stands in [`super::application`]; here are the sockets and the routes.
//!
//! It lives on a thread of its own, as Laravel would in a process of its own, and ends with the
//! process.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};

use super::application::{MessageSent, USERS, User, UserTyping, php_json};
use crate::ingress::Message;

/// What the page is made of beside the compiled-in files.
#[derive(Debug)]
pub struct Site {
    /// `key` of the server's only app.
    pub app_key: &'static str,
    /// The libraries for the page to use instead of its own client.
    pub libraries: Option<Libraries>,
}

/// The browser builds of the real client libraries.
#[derive(Debug)]
pub struct Libraries {
    /// laravel-echo.
    pub echo: String,
    /// Its version.
    pub echo_version: String,
    /// pusher-js.
    pub pusher: String,
    /// Its version.
    pub pusher_version: String,
}

/// Starts the application; `published` gets what Laravel would publish to Redis.
///
/// It listens when this returns. Fails when the system has no port, thread or event queue left.
pub fn start(site: Site, published: mpsc::Sender<Message>) -> anyhow::Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("stand-in application")?;
    let listener = runtime
        .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("no free loopback port for the stand-in application")?;
    let address = listener.local_addr().context("stand-in application")?;
    let application = Arc::new(Application { site, published, messages: AtomicU64::new(0) });
    std::thread::Builder::new()
        .name("stand-in".to_owned())
        .spawn(move || runtime.block_on(serve(listener, application)))
        .context("stand-in application")?;
    Ok(address)
}

async fn serve(listener: TcpListener, application: Arc<Application>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let application = application.clone();
                tokio::spawn(async move {
                    serve_connection(stream, application).await;
                    drop(place);
                });
            }
            // Out of file descriptors, most likely: wait for some to come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve_connection(stream: TcpStream, application: Arc<Application>) {
    let service = service_fn(|request: Request<Incoming>| {
        let application = application.clone();
        async move { Ok::<_, Infallible>(application.serve(request).await) }
    });
    // Like PHP's built-in server, it closes after each answer.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // A browser that goes away in the middle is its own affair.
    let _ = tokio::time::timeout(REQUEST_TIMEOUT, connection).await;
}

/// The application's state, which is next to none.
#[derive(Debug)]
struct Application {
    site: Site,
    published: mpsc::Sender<Message>,
    /// How many messages were sent; the last one's id.
    messages: AtomicU64,
}

impl Application {
    async fn serve(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            return problem(StatusCode::PAYLOAD_TOO_LARGE, "The request's body is too long, or broke off.");
        };
        let Reply { response, events } = self.reply(&Request::from_parts(head, body.to_bytes()));
        for event in events {
            if self.published.send(event).await.is_err() {
                return problem(StatusCode::INTERNAL_SERVER_ERROR, "Server Error");
            }
        }
        response
    }

    /// The whole application as a function: a request in; a response, and events to publish, out.
    fn reply(&self, request: &Request<Bytes>) -> Reply {
        match (request.method(), request.uri().path()) {
            (&Method::GET, path) => self.file(path).unwrap_or_else(not_found).into(),
            (&Method::POST, "/broadcasting/auth") => authorise(request).into(),
            (&Method::POST, "/api/messages") => match signed_in(request.headers()) {
                Ok(user) => self.send_message(user, request),
                Err(refusal) => refusal.into(),
            },
            (&Method::POST, path) => match path.strip_prefix("/api/messages/typing/") {
                Some(recipient) => match signed_in(request.headers()) {
                    Ok(user) => typing(user, recipient, request),
                    Err(refusal) => refusal.into(),
                },
                None => not_found().into(),
            },
            _ => not_found().into(),
        }
    }

    fn send_message(&self, sender: &User, request: &Request<Bytes>) -> Reply {
        #[derive(Deserialize)]
        struct Form {
            recipient_id: u32,
            content: String,
        }
        #[derive(Serialize)]
        struct Stored<'a> {
            data: &'a MessageSent,
        }
        let Ok(Form { recipient_id, content }) = serde_json::from_slice(request.body()) else {
            return problem(StatusCode::UNPROCESSABLE_ENTITY, "recipient_id and content are required.").into();
        };
        let Some(recipient) = User::find(recipient_id) else {
            return problem(StatusCode::UNPROCESSABLE_ENTITY, "The selected recipient id is invalid.").into();
        };
        if content.is_empty() || content.chars().count() > CONTENT_CHARS_MAX {
            let message = format!("The content must have between 1 and {CONTENT_CHARS_MAX} characters.");
            return problem(StatusCode::UNPROCESSABLE_ENTITY, &message).into();
        }
        let id = self.messages.fetch_add(1, Ordering::Relaxed) + 1;
        let message = MessageSent::new(id, content, sender, recipient, SystemTime::now());
        Reply {
            events: message.to_others(socket(request.headers())),
            response: respond(StatusCode::CREATED, JSON, php_json(&Stored { data: &message })),
        }
    }

    /// The page's files: these and no others, so that no path can lead anywhere else.
    fn file(&self, path: &str) -> Option<Response<Full<Bytes>>> {
        let (content_type, text) = match path {
            "/" => {
                let mut page = respond(StatusCode::OK, HTML, include_str!("page.html"));
                page.headers_mut().insert(CONTENT_SECURITY_POLICY, http::HeaderValue::from_static(POLICY));
                return Some(page);
            }
            "/demo/style.css" => ("text/css; charset=UTF-8", include_str!("style.css")),
            "/demo/page.js" => (JAVASCRIPT, include_str!("page.js")),
            "/demo/client.js" => (JAVASCRIPT, include_str!("client.js")),
            "/demo/echo.js" => (JAVASCRIPT, include_str!("echo.js")),
            "/demo/site.json" => return Some(respond(StatusCode::OK, JSON, self.site_json())),
            "/demo/laravel-echo.js" => (JAVASCRIPT, self.site.libraries.as_ref()?.echo.as_str()),
            "/demo/pusher-js.js" => (JAVASCRIPT, self.site.libraries.as_ref()?.pusher.as_str()),
            _ => return None,
        };
        Some(respond(StatusCode::OK, content_type, text.to_owned()))
    }

    /// What the page must know to connect; a real application would render it into its page.
    fn site_json(&self) -> String {
        let user = |user: &User| json!({ "id": user.id, "name": user.name(), "token": user.token });
        let versions =
            |used: &Libraries| json!({ "laravel-echo": used.echo_version, "pusher-js": used.pusher_version });
        json!({
            "key": self.site.app_key,
            "users": USERS.iter().map(user).collect::<Vec<_>>(),
            "libraries": self.site.libraries.as_ref().map(versions),
        })
        .to_string()
    }
}

/// A response, and what Laravel would publish before giving it.
#[derive(Debug)]
struct Reply {
    response: Response<Full<Bytes>>,
    events: Vec<Message>,
}

impl From<Response<Full<Bytes>>> for Reply {
    fn from(response: Response<Full<Bytes>>) -> Self {
        Self { response, events: Vec::new() }
    }
}

/// `POST /broadcasting/auth`, as Laravel's redis broadcaster answers it. It does not look at
/// `socket_id`, and it says `text/html` of its JSON.
fn authorise(request: &Request<Bytes>) -> Response<Full<Bytes>> {
    let user = match signed_in(request.headers()) {
        Ok(user) => user,
        Err(refusal) => return refusal,
    };
    match user.permission(&channel_name(request).unwrap_or_default()) {
        Some(body) => respond(StatusCode::OK, HTML, body),
        None if expects_json(request.headers()) => respond(StatusCode::FORBIDDEN, JSON, "{\n    \"message\": \"\"\n}"),
        None => respond(StatusCode::FORBIDDEN, HTML, "<!DOCTYPE html><title>Forbidden</title>"),
    }
}

/// `channel_name` of a form or of JSON. Of several in a form PHP takes the last.
fn channel_name(request: &Request<Bytes>) -> Option<String> {
    #[derive(Deserialize)]
    struct Json {
        channel_name: String,
    }
    let content_type = header(request.headers(), CONTENT_TYPE).unwrap_or_default();
    if content_type.starts_with("application/json") {
        return serde_json::from_slice::<Json>(request.body()).ok().map(|json| json.channel_name);
    }
    form_urlencoded::parse(request.body())
        .filter(|(name, _)| name == "channel_name")
        .last()
        .map(|(_, value)| value.into_owned())
}

fn typing(user: &User, recipient: &str, request: &Request<Bytes>) -> Reply {
    #[derive(Deserialize)]
    struct Form {
        is_typing: bool,
    }
    let Some(recipient) = recipient.parse().ok().and_then(User::find) else {
        return not_found().into();
    };
    let Ok(Form { is_typing }) = serde_json::from_slice(request.body()) else {
        return problem(StatusCode::UNPROCESSABLE_ENTITY, "The is typing field is required.").into();
    };
    Reply {
        events: UserTyping::new(user, recipient, is_typing, SystemTime::now()).to_others(socket(request.headers())),
        response: respond(StatusCode::OK, JSON, "{\"status\":\"ok\"}"),
    }
}

/// The user of the bearer token, or Laravel's answer to nobody: 401 for programs, the login page
/// for browsers.
#[allow(clippy::result_large_err, reason = "the refusal is the response, made once and handed on")]
fn signed_in(headers: &HeaderMap) -> Result<&'static User, Response<Full<Bytes>>> {
    if let Some(user) = header(headers, AUTHORIZATION).and_then(User::of_authorization) {
        return Ok(user);
    }
    if expects_json(headers) {
        return Err(problem(StatusCode::UNAUTHORIZED, "Unauthenticated."));
    }
    let mut redirect = respond(StatusCode::FOUND, HTML, "<!DOCTYPE html><title>Redirecting to /login</title>");
    redirect.headers_mut().insert(LOCATION, http::HeaderValue::from_static("/login"));
    Err(redirect)
}

/// Laravel's `expectsJson()`.
fn expects_json(headers: &HeaderMap) -> bool {
    let accept = header(headers, ACCEPT).unwrap_or("*/*");
    let ajax = headers.get("x-requested-with").is_some_and(|value| value == "XMLHttpRequest");
    let first = accept.split(',').next().unwrap_or_default().trim();
    (ajax && matches!(first, "*/*" | "*")) || first.contains("/json") || first.contains("+json")
}

/// The sender's socket, which `toOthers()` leaves out.
fn socket(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-socket-id")?.to_str().ok()
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn not_found() -> Response<Full<Bytes>> {
    problem(StatusCode::NOT_FOUND, "Not Found")
}

fn problem(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    respond(status, JSON, json!({ "message": message }).to_string())
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    for (name, value) in [
        ("content-type", content_type),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ] {
        response.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    response
}

const HTML: &str = "text/html; charset=UTF-8";
const JAVASCRIPT: &str = "text/javascript; charset=UTF-8";
const JSON: &str = "application/json";

/// Nothing from elsewhere and nothing inline. The sockets are named, since not every browser
/// counts `ws:` to `'self'`; they go to the page's own port, which is not known here.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
    connect-src 'self' ws://127.0.0.1:* ws://localhost:*; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Connections served at once; more wait.
const CONNECTIONS_MAX: usize = 64;

/// How long a request and its response may take in all.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

const BODY_BYTES_MAX: usize = 16 * 1024;

const CONTENT_CHARS_MAX: usize = 2_000;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
mod tests {
    use super::*;

    fn application() -> (Application, mpsc::Receiver<Message>) {
        let (published, queue) = mpsc::channel(8);
        let site = Site { app_key: "the-key", libraries: None };
        (Application { site, published, messages: AtomicU64::new(0) }, queue)
    }

    fn reply(request: http::request::Builder, body: &str) -> Reply {
        application().0.reply(&request.body(Bytes::copy_from_slice(body.as_bytes())).unwrap())
    }

    fn post(path: &str) -> http::request::Builder {
        Request::post(path).header("Accept", "application/json")
    }

    fn ask(token: Option<&str>, form: &str) -> (u16, String, String) {
        let mut request = post("/broadcasting/auth").header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        read(reply(request, form).response)
    }

    fn read(response: Response<Full<Bytes>>) -> (u16, String, String) {
        let content_type = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        let status = response.status().as_u16();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(response.into_body().collect()).unwrap().to_bytes();
        (status, content_type, String::from_utf8(body.to_vec()).unwrap())
    }

    fn said(status: u16, content_type: &str, body: &str) -> (u16, String, String) {
        (status, content_type.to_owned(), body.to_owned())
    }

    #[test]
    fn it_answers_as_laravels_redis_broadcaster() {
        assert_eq!(
            ask(Some("token-john"), "socket_id=1.2&channel_name=private-user.1"),
            said(200, "text/html; charset=UTF-8", "true")
        );
        assert_eq!(
            ask(Some("token-jane"), "socket_id=1.2&channel_name=presence-online-users"),
            said(
                200,
                "text/html; charset=UTF-8",
                r#"{"channel_data":{"user_id":2,"user_info":{"id":2,"name":"Jane Roe","avatar":null}}}"#
            )
        );
        let forbidden = said(403, "application/json", "{\n    \"message\": \"\"\n}");
        assert_eq!(ask(Some("token-john"), "socket_id=1.2&channel_name=private-user.2"), forbidden);
        assert_eq!(ask(Some("token-john"), ""), forbidden);
        let nobody = said(401, "application/json", r#"{"message":"Unauthenticated."}"#);
        assert_eq!(ask(None, "channel_name=private-user.1"), nobody);
        assert_eq!(ask(Some("token-nobody"), "channel_name=private-user.1"), nobody);
    }

    #[test]
    fn of_two_channel_names_the_last_counts() {
        let form = "channel_name=private-user.1&channel_name=private-user.2";
        assert_eq!(ask(Some("token-john"), form).0, 403);
        assert_eq!(ask(Some("token-jane"), form).0, 200);
    }

    #[test]
    fn a_browser_without_a_token_is_sent_to_the_login_page() {
        for accept in ["*/*", "text/html", "text/html, application/json"] {
            let request = Request::post("/broadcasting/auth").header(ACCEPT, accept);
            let response = reply(request, "channel_name=private-user.1").response;
            assert_eq!((response.status().as_u16(), &response.headers()[LOCATION]), (302, &"/login".parse().unwrap()));
        }
    }

    #[test]
    fn a_message_is_stored_and_published_with_the_senders_socket() {
        let request = post("/api/messages").header(AUTHORIZATION, "Bearer token-john").header("X-Socket-ID", "12.34");
        let Reply { response, events } = reply(request, r#"{"recipient_id":2,"content":"hello"}"#);
        assert_eq!(events.len(), 2);
        let payload: serde_json::Value = serde_json::from_slice(&events[0].payload).unwrap();
        assert_eq!(payload["event"], "message.sent");
        assert_eq!((&payload["socket"], &payload["data"]["socket"]), (&json!("12.34"), &json!("12.34")));
        let (status, _, body) = read(response);
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body["data"]["content"]), (201, &json!("hello")));
        assert_eq!(body["data"]["id"], payload["data"]["id"]);
    }

    #[test]
    fn typing_is_published_to_the_conversation() {
        let request = post("/api/messages/typing/1").header(AUTHORIZATION, "Bearer token-jane");
        let Reply { response, events } = reply(request, r#"{"is_typing":true}"#);
        assert_eq!((response.status().as_u16(), events.len()), (200, 1));
    }

    #[test]
    fn nothing_is_published_for_nobody_or_nonsense() {
        for (path, token, body, status) in [
            ("/api/messages", "", r#"{"recipient_id":2,"content":"hello"}"#, 401),
            ("/api/messages", "Bearer token-john", r#"{"recipient_id":9,"content":"hello"}"#, 422),
            ("/api/messages", "Bearer token-john", r#"{"recipient_id":2,"content":""}"#, 422),
            ("/api/messages", "Bearer token-john", "recipient_id=2", 422),
            ("/api/messages/typing/2", "", r#"{"is_typing":true}"#, 401),
            ("/api/messages/typing/9", "Bearer token-john", r#"{"is_typing":true}"#, 404),
            ("/api/messages/typing/2", "Bearer token-john", "", 422),
            ("/api/other", "Bearer token-john", "{}", 404),
        ] {
            let Reply { response, events } = reply(post(path).header(AUTHORIZATION, token), body);
            assert_eq!((response.status().as_u16(), events.len()), (status, 0), "{path} {body}");
        }
    }

    #[test]
    fn the_page_and_its_files_are_served_and_nothing_else() {
        let page = reply(Request::get("/"), "").response;
        assert!(page.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().contains("script-src 'self';"));
        for path in ["/demo/style.css", "/demo/page.js", "/demo/client.js", "/demo/echo.js", "/demo/site.json"] {
            assert_eq!(reply(Request::get(path), "").response.status(), 200, "{path}");
        }
        for path in ["/demo/", "/demo/../Cargo.toml", "/demo/%2e%2e/Cargo.toml", "/etc/passwd", "/demo/laravel-echo.js"]
        {
            assert_eq!(reply(Request::get(path), "").response.status(), 404, "{path}");
        }
    }

    #[test]
    fn every_file_that_the_page_names_is_served() {
        let page = include_str!("page.html");
        let paths: Vec<_> = page.split('"').filter(|text| text.starts_with("/demo/")).collect();
        assert!(paths.len() >= 2, "{paths:?}");
        for path in paths {
            assert_eq!(reply(Request::get(path), "").response.status(), 200, "{path}");
        }
    }

    #[test]
    fn it_listens_on_loopback_over_http_and_bounds_the_body() {
        use std::io::{Read, Write};

        let (published, mut queue) = mpsc::channel(8);
        let address = start(Site { app_key: "the-key", libraries: None }, published).unwrap();
        assert!(address.ip().is_loopback());
        let exchange = |path: &str, body: &str| {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let length = body.len();
            let head = format!("Host: x\r\nAuthorization: Bearer token-john\r\nContent-Length: {length}");
            write!(stream, "POST {path} HTTP/1.1\r\n{head}\r\n\r\n{body}").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let answer = exchange("/api/messages", r#"{"recipient_id":2,"content":"hello"}"#);
        assert!(answer.starts_with("HTTP/1.1 201 "), "{answer}");
        // Published before it was answered.
        assert!(queue.try_recv().is_ok() && queue.try_recv().is_ok() && queue.try_recv().is_err());
        let answer = exchange("/api/messages", &" ".repeat(BODY_BYTES_MAX + 1));
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }
}
