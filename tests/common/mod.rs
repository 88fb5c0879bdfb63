//! The real program on a free port, and a bare WebSocket client that reads what is on the wire.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

pub const KEY: &str = "app-key";
pub const SECRET: &str = "app-secret";

/// How long anything awaited may take: far longer than it ever does.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server; ended by its process id when dropped.
pub struct Server {
    child: Child,
    pub port: u16,
    /// What it said before it was ready.
    #[allow(dead_code)]
    pub banner: String,
    /// What it says afterwards.
    log: mpsc::UnboundedReceiver<String>,
    http: reqwest::Client,
    scheme: &'static str,
    dir: tempfile::TempDir,
}

impl Server {
    /// Starts the program with one app, a Redis that is not there, and these settings on top.
    pub fn start(settings: Value) -> Self {
        let mut config = json!({
            "host": "127.0.0.1",
            "port": 0,
            "clients": [{"appId": "app-id", "key": KEY, "secret": SECRET}],
            "databaseConfig": {"redis": {"path": "/nonexistent/redis.sock"}},
            "shards": 2,
        });
        for (key, value) in settings.as_object().unwrap() {
            config[key] = value.clone();
        }
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("laravel-echo-server.json");
        std::fs::write(&path, config.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_laravel-echo-server"));
        command.args(["start", "--config"]).arg(&path);
        Self::launch(command, dir)
    }

    /// Runs the program and waits until it is ready.
    pub fn launch(mut command: Command, dir: tempfile::TempDir) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut banner = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut port = None;
        for line in lines.by_ref() {
            let line = line.unwrap();
            if let Some((_, digits)) = line.split_once("on port ") {
                port = digits.trim().parse().ok();
            }
            if line.contains("Server ready!") {
                break;
            }
            banner.push_str(&line);
            banner.push('\n');
        }
        // The log is read on, or the program would wait for the pipe.
        let (said, log) = mpsc::unbounded_channel();
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| drop(said.send(line))));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::new();
        Self {
            child,
            http,
            scheme: "http",
            banner,
            log,
            port: port.expect("the server said its port before it was ready"),
            dir,
        }
    }

    /// The next line of the log in which this stands.
    #[allow(dead_code)]
    pub async fn says(&mut self, part: &str) -> String {
        let line = async {
            loop {
                let line = self.log.recv().await.expect("the server goes on");
                if line.contains(part) {
                    return line;
                }
            }
        };
        tokio::time::timeout(PATIENCE, line).await.unwrap_or_else(|_| panic!("the server says {part:?} in time"))
    }

    /// Publishes over https from now on.
    #[allow(dead_code)]
    pub fn trusting(mut self, certificate: &[u8]) -> Self {
        let certificate = reqwest::Certificate::from_der(certificate).unwrap();
        self.http = reqwest::Client::builder().tls_certs_only([certificate]).build().unwrap();
        self.scheme = "https";
        self
    }

    #[allow(dead_code)]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The folder of its configuration.
    #[allow(dead_code)]
    pub fn folder(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Writes its configuration anew, as an editor does: another file in its place.
    #[allow(dead_code)]
    pub fn change_config(&self, change: impl FnOnce(&mut Value)) {
        let path = self.folder().join("laravel-echo-server.json");
        let mut config = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut config);
        let new = self.folder().join("new.json");
        std::fs::write(&new, config.to_string()).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    #[allow(dead_code)]
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Asks the program to end.
    #[allow(dead_code)]
    pub fn terminate(&self) {
        let status = Command::new("kill").arg(self.pid().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// The exit code, once it has ended.
    #[allow(dead_code)]
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    #[allow(dead_code)]
    pub async fn connect(&self) -> Client {
        let mut client = self.open(KEY).await;
        let hello = client.next().await;
        assert_eq!(hello["event"], "pusher:connection_established");
        let data: Value = serde_json::from_str(hello["data"].as_str().unwrap()).unwrap();
        client.socket_id = data["socket_id"].as_str().unwrap().to_owned();
        client
    }

    #[allow(dead_code)]
    /// A connection of which nothing has been read.
    pub async fn open(&self, key: &str) -> Client {
        let url = format!("ws://127.0.0.1:{}/app/{key}?protocol=7&client=js&version=8.6.0&flash=false", self.port);
        let (socket, _) = connect_async(url).await.unwrap();
        Client { socket, socket_id: String::new() }
    }

    /// Publishes over the signed HTTP API; gives the status and the body.
    pub async fn publish(&self, event: Value) -> (u16, String) {
        self.post("/apps/app-id/events", &event.to_string(), SECRET).await
    }

    pub async fn post(&self, path: &str, body: &str, secret: &str) -> (u16, String) {
        let call = Call { secret, ..Call::post(path, body) };
        self.call(call).await
    }

    #[allow(dead_code)]
    /// Waits until the server has heard of these members, and no others.
    pub async fn knows_members(&self, channel: &str, members: &[&str]) {
        let users: Vec<Value> = members.iter().map(|id| json!({"id": id})).collect();
        let expected = json!({"users": users}).to_string();
        let start = Instant::now();
        loop {
            let (status, users) = self.get(&format!("/apps/app-id/channels/{channel}/users"), &[]).await;
            if (status, &users) == (200, &expected) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{status} {users} instead of {expected}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A signed request of the HTTP API; gives the status and the body.
    #[allow(dead_code)]
    pub async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> (u16, String) {
        self.call(Call { parameters, ..Call::get(path) }).await
    }

    pub async fn call(&self, call: Call<'_>) -> (u16, String) {
        let method = call.method.parse().unwrap();
        let query = call.query();
        let url = format!("{}://localhost:{}{}?{query}", self.scheme, self.port, call.path);
        let response = self.http.request(method, url).body(call.body.to_owned()).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

/// A request of the HTTP API, and how it is signed.
#[derive(Clone)]
pub struct Call<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// They win over those that authenticate.
    pub parameters: &'a [(&'a str, &'a str)],
    pub body: &'a str,
    pub key: &'a str,
    pub secret: &'a str,
    /// Seconds to add to the time of this machine.
    pub clock: i64,
}

impl<'a> Call<'a> {
    pub fn get(path: &'a str) -> Self {
        Self { method: "GET", path, parameters: &[], body: "", key: KEY, secret: SECRET, clock: 0 }
    }

    pub fn post(path: &'a str, body: &'a str) -> Self {
        Self { method: "POST", path, parameters: &[], body, key: KEY, secret: SECRET, clock: 0 }
    }

    /// The parameters with those that authenticate.
    pub fn query(&self) -> String {
        use laravel_echo_server::protocol::signature;
        use md5::{Digest, Md5};
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let timestamp = now.saturating_add_signed(self.clock).to_string();
        let digest = signature::hex(&Md5::digest(self.body.as_bytes()));
        let mut all = vec![("auth_key", self.key), ("auth_timestamp", &timestamp), ("auth_version", "1.0")];
        if !self.body.is_empty() {
            all.push(("body_md5", &digest));
        }
        all.retain(|(name, _)| !self.parameters.iter().any(|(own, _)| own == name));
        all.extend(self.parameters);
        all.sort_unstable();
        let query = all.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
        let signature = signature::sign(self.secret, &format!("{}\n{}\n{query}", self.method, self.path));
        format!("{query}&auth_signature={signature}")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Client {
    pub socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    pub socket_id: String,
}

impl Client {
    pub async fn send(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The next WebSocket message.
    pub async fn message(&mut self) -> Message {
        let next = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("a message arrives in time");
        next.expect("the stream goes on").unwrap()
    }

    /// The next text, as it came; pings before it are answered.
    pub async fn text(&mut self) -> String {
        loop {
            match self.message().await {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) => self.socket.flush().await.unwrap(),
                other => panic!("{other:?} instead of a text"),
            }
        }
    }

    pub async fn next(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// The close frame that comes next, after any texts; its code and reason.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Message::Close(Some(frame)) = self.message().await {
                return (frame.code.into(), frame.reason.to_string());
            }
        }
    }

    pub async fn subscribe(&mut self, channel: &str) {
        self.send(json!({"event": "pusher:subscribe", "data": {"auth": "", "channel": channel}})).await;
        let reply = self.next().await;
        assert_eq!(reply["event"], "pusher_internal:subscription_succeeded", "{reply}");
    }

    /// Subscribes with a signature; gives the reply.
    pub async fn subscribe_signed(&mut self, channel: &str, channel_data: Option<&str>) -> Value {
        use laravel_echo_server::protocol::signature;
        let text = match channel_data {
            None => format!("{}:{channel}", self.socket_id),
            Some(data) => format!("{}:{channel}:{data}", self.socket_id),
        };
        let auth = format!("{KEY}:{}", signature::sign(SECRET, &text));
        self.send(json!({"event": "pusher:subscribe", "data": {"auth": auth, "channel": channel, "channel_data": channel_data}}))
            .await;
        self.next().await
    }

    #[allow(dead_code)]
    /// Subscribes to a private channel without awaiting the reply.
    pub async fn asks_for(&mut self, channel: &str) {
        use laravel_echo_server::protocol::signature;
        let auth = format!("{KEY}:{}", signature::sign(SECRET, &format!("{}:{channel}", self.socket_id)));
        self.send(json!({"event": "pusher:subscribe", "data": {"auth": auth, "channel": channel}})).await;
    }

    #[allow(dead_code)]
    /// Signs in; gives the reply.
    pub async fn sign_in(&mut self, user_data: &str) -> Value {
        use laravel_echo_server::protocol::signature;
        let text = format!("{}::user::{user_data}", self.socket_id);
        let auth = format!("{KEY}:{}", signature::sign(SECRET, &text));
        self.send(json!({"event": "pusher:signin", "data": {"auth": auth, "user_data": user_data}})).await;
        self.next().await
    }

    /// Asks for a pong and asserts that it is the next thing to arrive: nothing else was on its way.
    pub async fn hears_nothing_else(&mut self) {
        self.send(json!({"event": "pusher:ping", "data": {}})).await;
        assert_eq!(self.text().await, r#"{"event":"pusher:pong","data":"{}"}"#);
    }
}
