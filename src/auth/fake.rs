//! A stand-in for Laravel in tests: answers with given bytes and remembers what it was asked.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::config::Auth;

/// A request as it came over the wire.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Recorded {
    /// All values of a header, names in lower case.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect()
    }

    pub fn one(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() < 2, "{name} stands there more than once: {values:?}");
        values.first().copied()
    }
}

pub(crate) struct FakeLaravel {
    pub addr: SocketAddr,
    asked: Arc<Mutex<Vec<Recorded>>>,
    task: JoinHandle<()>,
}

impl FakeLaravel {
    /// Answers each request with these bytes and closes.
    pub async fn answering(response: impl Into<Vec<u8>>) -> Self {
        let response: Arc<[u8]> = response.into().into();
        Self::with(move |mut socket, _| {
            let response = response.clone();
            async move {
                // The client may have heard enough before the end.
                let _ = socket.write_all(&response).await;
                let _ = socket.shutdown().await;
            }
        })
        .await
    }

    /// Does anything with the connection after the request has been read.
    pub async fn with<F, A>(act: F) -> Self
    where
        F: Fn(TcpStream, Recorded) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let book = asked.clone();
        let act = Arc::new(act);
        let task = tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (act, book) = (act.clone(), book.clone());
                tokio::spawn(async move {
                    if let Some(request) = read_request(&mut socket).await {
                        book.lock().unwrap().push(request.clone());
                        act(socket, request).await;
                    }
                });
            }
        });
        Self { addr, asked, task }
    }

    pub fn asked(&self) -> Vec<Recorded> {
        self.asked.lock().unwrap().clone()
    }

    /// The only request so far.
    pub fn only(&self) -> Recorded {
        let asked = self.asked();
        assert_eq!(asked.len(), 1, "{asked:?}");
        asked[0].clone()
    }

    pub fn auth(&self) -> Auth {
        auth_of(&format!("http://{}", self.addr))
    }
}

impl Drop for FakeLaravel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads one request whose body has a Content-Length or chunks.
async fn read_request(socket: &mut TcpStream) -> Option<Recorded> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end;
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let mut lines = head.split("\r\n");
    let line = lines.next()?.to_owned();
    let headers: Vec<_> = lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        })
        .collect();
    let mut recorded = Recorded { line, headers, body: String::new() };
    let length: usize = recorded.one("content-length").map_or(0, |text| text.parse().unwrap());
    let is_chunked = recorded.one("transfer-encoding").is_some();
    let is_whole = |body: &[u8]| if is_chunked { body.ends_with(b"0\r\n\r\n") } else { body.len() >= length };
    while !is_whole(&bytes[head_end + 4..]) {
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    recorded.body = String::from_utf8_lossy(&bytes[head_end + 4..]).into_owned();
    Some(recorded)
}

/// A response with a Content-Length.
pub(crate) fn response(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}Connection: close\r\n\r\n{body}", body.len())
}

/// Settings with this authHost.
pub(crate) fn auth_of(host: &str) -> Auth {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Auth {
        host: host.parse().unwrap(),
        hosts: Vec::new(),
        endpoint: "/broadcasting/auth".to_owned(),
        allowed_origins: Vec::new(),
        timeout: Duration::from_secs(10),
        concurrency: 4,
        accept_any_200: false,
        reauthorize_after: None,
    }
}
