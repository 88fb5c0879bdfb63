use std::convert::Infallible;
use std::net::SocketAddr;

use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;
use crate::address::{Connection, Proxied, TrustedProxies};
use crate::auth::fake::{FakeLaravel, auth_of, response};

/// Who asks, whatever the headers say.
fn visitor() -> Source {
    let connection = Connection { peer: "192.0.2.7".parse().ok(), proxied: Proxied::No, is_tls: false };
    Source::of(connection, &HeaderMap::new(), &TrustedProxies::default())
}

/// A real HTTP server in front of the proxy.
async fn front(auth: &Auth) -> SocketAddr {
    let proxy = Proxy::new(auth).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let proxy = proxy.clone();
            let service = service_fn(move |request| {
                let proxy = proxy.clone();
                async move { Ok::<_, Infallible>(proxy.forward(request, &visitor()).await) }
            });
            tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    });
    addr
}

/// Sends bytes and reads until the server closes.
async fn raw(addr: SocketAddr, bytes: &str) -> String {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn outgoing(host: &str, target: &str, headers: &[(&str, &str)]) -> Option<http::request::Parts> {
    let mut request = Request::builder().uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let proxy = Proxy::new(&auth_of(host)).unwrap();
    let request = request.body(http_body_util::Empty::<Bytes>::new()).unwrap();
    proxy.outgoing(request, &visitor()).map(|request| request.into_parts().0)
}

#[tokio::test]
async fn a_request_and_its_answer_pass_through() {
    let reply = "HTTP/1.1 201 Created\r\nContent-Length: 5\r\nX-App: 1\r\nKeep-Alive: timeout=5\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nSet-Cookie: a=b; Domain=app.test\r\nSet-Cookie: c=d\r\n\r\nhello";
    let fake = FakeLaravel::answering(reply).await;
    let front = front(&fake.auth()).await;
    let target = "/a/../b//c/%2e%2E/%7e;x?q=[1]&r=%20+&s=a/../b";
    let answer = raw(
        front,
        &format!(
            "POST {target} HTTP/1.1\r\nHost: localhost:6001\r\nContent-Length: 3\r\nCookie: s=1\r\nAuthorization: Bearer t\r\n\
             Accept-Encoding: gzip\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\n\
             X-Real-IP: 6.6.6.6\r\nX-Forwarded-Port: 1\r\nConnection: close, x-drop\r\nX-Drop: 1\r\nTE: trailers\r\n\
             Proxy-Authorization: x\r\nUpgrade: h2c\r\nOrigin: http://localhost:6001\r\n\r\na=1"
        ),
    )
    .await;
    let asked = fake.only();
    assert_eq!(asked.line, format!("POST {target} HTTP/1.1"));
    assert_eq!(asked.body, "a=1");
    for (name, value) in [
        ("host", Some("localhost:6001")),
        ("content-length", Some("3")),
        ("transfer-encoding", None),
        ("cookie", Some("s=1")),
        ("authorization", Some("Bearer t")),
        ("accept-encoding", Some("gzip")),
        ("origin", Some("http://localhost:6001")),
        ("x-forwarded-for", Some("192.0.2.7")),
        ("x-forwarded-host", Some("localhost:6001")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-port", None),
        ("forwarded", None),
        ("x-real-ip", None),
        ("x-drop", None),
        ("te", None),
        ("proxy-authorization", None),
        ("upgrade", None),
    ] {
        assert_eq!(asked.one(name), value, "{name}");
    }
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert_eq!(body, "hello");
    assert!(head.starts_with("http/1.1 201"), "{head}");
    for line in ["content-length: 5", "x-app: 1", "set-cookie: a=b; domain=app.test", "set-cookie: c=d"] {
        assert!(head.contains(line), "{line} in {head}");
    }
    for gone in ["x-hop", "keep-alive", "transfer-encoding"] {
        assert!(!head.contains(gone), "{gone} in {head}");
    }
}

#[tokio::test]
async fn answers_without_a_body_and_of_unknown_length() {
    for (status, request, body) in [
        ("204 No Content", "GET / HTTP/1.1", ""),
        ("304 Not Modified", "GET / HTTP/1.1", ""),
        ("302 Found", "GET / HTTP/1.1", "moved"),
        ("200 OK", "HEAD / HTTP/1.1", ""),
        ("500 Internal Server Error", "DELETE /x HTTP/1.1", "failed"),
    ] {
        // Without a length: until the connection ends.
        let fake =
            FakeLaravel::answering(format!("HTTP/1.1 {status}\r\nLocation: /there\r\nConnection: close\r\n\r\n{body}"))
                .await;
        let answer =
            raw(front(&fake.auth()).await, &format!("{request}\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
        assert!(answer.contains("/there"), "{answer}");
        match body {
            "" => assert!(answer.ends_with("\r\n\r\n"), "{answer}"),
            body => assert!(answer.ends_with(&format!("{body}\r\n0\r\n\r\n")), "{answer}"),
        }
        assert_eq!(fake.only().line, request, "nothing was followed");
        assert_eq!(fake.only().one("content-length"), None);
    }
}

#[tokio::test]
async fn both_directions_stream() {
    let (seen, mut at_laravel) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let auth = auth_of(&format!("http://{}", listener.local_addr().unwrap()));
    let laravel = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        read_until(&mut socket, "first").await;
        seen.send("first").unwrap();
        read_until(&mut socket, "second").await;
        socket.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n").await.unwrap();
        seen.send("second").unwrap();
        read_until(&mut socket, "third").await;
        socket.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
    });
    let mut browser = TcpStream::connect(front(&auth).await).await.unwrap();
    browser
        .write_all(b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 16\r\n\r\nfirst")
        .await
        .unwrap();
    assert_eq!(at_laravel.recv().await, Some("first"));
    browser.write_all(b"second").await.unwrap();
    assert_eq!(at_laravel.recv().await, Some("second"));
    read_until(&mut browser, "one").await;
    browser.write_all(b"third").await.unwrap();
    read_until(&mut browser, "two").await;
    laravel.await.unwrap();
}

async fn read_until(socket: &mut TcpStream, word: &str) {
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains(word) {
        assert_ne!(socket.read_buf(&mut bytes).await.unwrap(), 0, "closed before {word}");
    }
}

#[tokio::test]
async fn a_browser_that_goes_away_ends_the_request() {
    let (ended, mut end) = mpsc::unbounded_channel();
    let fake = FakeLaravel::with(move |mut socket, _| {
        let ended = ended.clone();
        async move {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while socket.write_all(&[b'x'; 4096]).await.is_ok() {}
            ended.send(()).unwrap();
        }
    })
    .await;
    let mut browser = TcpStream::connect(front(&fake.auth()).await).await.unwrap();
    browser.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_until(&mut browser, "xxx").await;
    drop(browser);
    assert_eq!(end.recv().await, Some(()));
}

/// However a request is framed by the client, Laravel sees one framing, made here.
#[tokio::test]
async fn requests_cannot_be_smuggled() {
    let fake = FakeLaravel::answering(response("200 OK", "", "ok")).await;
    let front = front(&fake.auth()).await;
    let hidden = "GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n";
    for framing in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 38",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer_Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding : chunked\r\nContent-Length: 5",
        "Content-Length: +5",
    ] {
        let mut socket = TcpStream::connect(front).await.unwrap();
        let request =
            format!("POST /open HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{framing}\r\n\r\n0\r\n\r\n{hidden}");
        socket.write_all(request.as_bytes()).await.unwrap();
        // The server may close with bytes unread, which is a reset.
        let _ = socket.read_to_end(&mut Vec::new()).await;
    }
    for asked in fake.asked() {
        assert_eq!(asked.line, "POST /open HTTP/1.1");
        assert!(asked.all("content-length").len() + asked.all("transfer-encoding").len() <= 1, "{asked:?}");
        assert_eq!(asked.one("transfer_encoding"), None);
        assert!(!asked.body.contains("hidden"), "{asked:?}");
    }
    assert!(!fake.asked().is_empty());
}

#[test]
fn which_host_laravel_sees() {
    for (auth_host, host, expected) in [
        ("http://localhost:8000", Some("app.local:6001"), "app.local:6001"),
        ("http://127.0.0.1:8000", Some("localhost:6001"), "localhost:6001"),
        ("http://10.0.0.5", Some("localhost:6001"), "localhost:6001"),
        ("http://[::1]:8000", Some("localhost:6001"), "localhost:6001"),
        ("http://app.test", Some("localhost:6001"), "app.test"),
        ("http://app.test:8080", Some("localhost:6001"), "app.test:8080"),
        ("https://app.test", Some("localhost:6001"), "app.test"),
        ("http://localhost:8000", None, "localhost:8000"),
        ("http://[::1]:8000", None, "[::1]:8000"),
    ] {
        let headers: Vec<_> = host.map(|host| ("host", host)).into_iter().collect();
        let parts = outgoing(auth_host, "/", &headers).unwrap();
        assert_eq!(parts.headers["host"], expected, "{auth_host}");
        assert_eq!(parts.headers.get("x-forwarded-host").map(|v| v.to_str().unwrap()), host);
    }
}

#[test]
fn an_absolute_target_leads_nowhere_else() {
    let parts = outgoing("http://localhost:8000", "http://evil.example/x?y", &[("host", "localhost")]).unwrap();
    assert_eq!(parts.uri, "/x?y");
    let connect =
        Request::builder().method("CONNECT").uri("evil.example:80").body(http_body_util::Empty::new()).unwrap();
    assert!(Proxy::new(&auth_of("http://localhost:8000")).unwrap().outgoing(connect, &visitor()).is_none());
}

#[test]
fn redirects_to_auth_host_stay_here() {
    for (auth_host, location, expected) in [
        ("http://localhost:8000", "http://localhost:8000/login?a=b#c", "/login?a=b#c"),
        ("http://localhost:8000", "http://127.0.0.1:8000/login", "/login"),
        ("http://localhost:8000", "http://localhost:8000", "/"),
        ("http://localhost:8000", "http://localhost:6001/login", "http://localhost:6001/login"),
        ("http://localhost:8000", "https://localhost:8000/login", "https://localhost:8000/login"),
        ("http://localhost:8000", "https://pay.example/x", "https://pay.example/x"),
        ("http://localhost:8000", "/a/../login", "/a/../login"),
        ("http://localhost:8000", "//pay.example/x", "//pay.example/x"),
        ("http://localhost:8000", "//localhost:8000/x", "/x"),
        ("http://localhost:8000", "http://localhost:8000//evil.example/x", "/.//evil.example/x"),
        ("http://app.test", "http://app.test:80/x", "/x"),
        ("http://app.test", "http://app.test.evil.example/x", "http://app.test.evil.example/x"),
        ("http://app.test", "http://app.test@evil.example/x", "http://app.test@evil.example/x"),
        ("https://app.test", "https://app.test/x", "/x"),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert("location", HeaderValue::from_static(location));
        Proxy::new(&auth_of(auth_host)).unwrap().rewrite_location(&mut headers);
        assert_eq!(headers["location"], expected, "{auth_host}: {location}");
    }
}

#[tokio::test]
async fn nobody_at_auth_host_is_a_502_that_says_what_to_do() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut auth = auth_of(&format!("http://{free}"));
    auth.host.set_username("user").unwrap();
    auth.host.set_password(Some("passw0rd")).unwrap();
    let answer = raw(front(&auth).await, "GET /?t=s3cret HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(answer.contains(&format!("http://{free} (authHost")) && answer.contains("php artisan serve"), "{answer}");
    assert!(!answer.contains("passw0rd"));
    assert!(!format!("{:?}", Proxy::new(&auth).unwrap()).contains("passw0rd"));

    for broken in ["", "nonsense\r\n\r\n", "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"] {
        let fake = FakeLaravel::answering(broken).await;
        let answer = raw(front(&fake.auth()).await, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 502"), "{broken}: {answer}");
    }
}
