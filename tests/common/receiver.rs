//! A backend that webhooks are sent to: it keeps every request, and answers as a test says.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// What a request is answered with.
#[derive(Clone, Copy)]
pub enum Answer {
    /// This status.
    Status(u16),
    /// A redirect to the same place.
    #[allow(dead_code)]
    Redirect,
    /// Nothing, for as long as the sender waits.
    Nothing,
}

/// A request, as it came.
#[derive(Debug)]
pub struct Request {
    /// `POST /path HTTP/1.1`.
    pub line: String,
    /// By name in lower case.
    pub headers: HashMap<String, String>,
    pub body: String,
}

impl Request {
    /// The events in it.
    pub fn events(&self) -> Vec<Value> {
        let body: Value = serde_json::from_str(&self.body).unwrap();
        body["events"].as_array().unwrap().clone()
    }
}

pub struct Receiver {
    pub url: String,
    requests: mpsc::UnboundedReceiver<Request>,
}

impl Receiver {
    /// Answers the request with this number, from 0, with what `answer` says.
    pub async fn start(answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), answer)
    }

    pub fn on(listener: TcpListener, answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        let url = format!("http://{}/hook?token=t", listener.local_addr().unwrap());
        let (sender, requests) = mpsc::unbounded_channel();
        let answer = std::sync::Arc::new(answer);
        let number = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sender, answer, number) = (sender.clone(), answer.clone(), number.clone());
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while let Some(request) = read(&mut stream).await {
                        let answer = answer(number.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
                        if sender.send(request).is_err() {
                            return;
                        }
                        let text = match answer {
                            Answer::Status(status) => format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok"),
                            Answer::Redirect => "HTTP/1.1 302 X\r\nLocation: /hook\r\nContent-Length: 0\r\n\r\n".into(),
                            Answer::Nothing => std::future::pending().await,
                        };
                        if stream.write_all(text.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { url, requests }
    }

    /// The next request.
    pub async fn next(&mut self) -> Request {
        let next = tokio::time::timeout(Duration::from_secs(20), self.requests.recv()).await;
        next.expect("a request arrives in time").expect("the receiver runs")
    }

    /// The next so many events, in however many requests.
    #[allow(dead_code)]
    pub async fn events(&mut self, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.next().await.events());
        }
        assert_eq!(events.len(), count, "{events:?}");
        events
    }

    /// Whether there has been nothing since what was taken last.
    #[allow(dead_code)]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    if stream.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok()?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { line: line.trim_end().to_owned(), headers, body: String::from_utf8(body).unwrap() })
}
