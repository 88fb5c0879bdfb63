//! With `resume` Redis is heard over two connections: one may be lost at any time, and every event comes once and in
//! order. If both are, the gap is told, from the last heartbeat that was heard.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code, reason = "each test file needs some of it")]
mod common;
#[path = "common/redis_server.rs"]
mod redis_server;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Client, Server};
use futures_util::StreamExt;
use redis::aio::MultiplexedConnection;
use redis_server::Redis;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const TWO: &str = "is heard over two connections";

/// A server that keeps what is missed, and no other connections of it at Redis than those that this is about.
fn server(redis: Value) -> Server {
    Server::start(json!({"resume": true, "cluster": false, "databaseConfig": {"redis": redis}}))
}

async fn has_two(server: &mut Server) {
    if !std::mem::take(&mut server.banner).contains(TWO) {
        server.says(TWO).await;
    }
}

async fn publish(laravel: &mut MultiplexedConnection, n: u64) {
    let payload = json!({"event": "n", "data": n}).to_string();
    let _: usize = redis::cmd("PUBLISH").arg("a").arg(payload).query_async(laravel).await.unwrap();
}

/// Publishes numbers as Laravel does, as fast as Redis takes them, until told to stop; gives how many.
fn publish_numbers(mut laravel: MultiplexedConnection, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    tokio::spawn(async move {
        let mut n = 0;
        while !stop.load(Ordering::SeqCst) {
            publish(&mut laravel, n).await;
            n += 1;
            // Bursts, with pauses between them: connections are lost in the middle of either.
            if n % 20 == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        n
    })
}

/// Reads events until "end" is published; their numbers.
fn read_numbers(mut client: Client) -> JoinHandle<Vec<u64>> {
    tokio::spawn(async move {
        let mut numbers = Vec::new();
        loop {
            let event = client.next().await;
            if event["event"] == "end" {
                return numbers;
            }
            assert_eq!(event["event"], "n", "{event}");
            numbers.push(event["data"].as_str().unwrap().parse().unwrap());
        }
    })
}

async fn end(laravel: &mut MultiplexedConnection) {
    let _: usize = redis::cmd("PUBLISH").arg("a").arg(r#"{"event":"end"}"#).query_async(laravel).await.unwrap();
}

/// Ends the publishing: each number has come once, in order.
async fn all_came_once(
    stop: &AtomicBool,
    publishing: JoinHandle<u64>,
    laravel: &mut MultiplexedConnection,
    client: JoinHandle<Vec<u64>>,
) {
    stop.store(true, Ordering::SeqCst);
    let published = publishing.await.unwrap();
    end(laravel).await;
    let numbers = client.await.unwrap();
    assert!(numbers.iter().copied().eq(0..published), "of {published}: {numbers:?}");
}

async fn subscriber(server: &Server) -> Client {
    let mut client = server.connect().await;
    client.subscribe("a").await;
    client
}

async fn metric(server: &Server, name: &str) -> f64 {
    let page = reqwest::get(format!("http://127.0.0.1:{}/metrics", server.port)).await.unwrap().text().await.unwrap();
    let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// The subscribed connections, the oldest first: the active one is older than its standby.
async fn subscribed(admin: &mut MultiplexedConnection) -> Vec<u64> {
    let list: String = redis::cmd("CLIENT").arg("LIST").arg("TYPE").arg("pubsub").query_async(admin).await.unwrap();
    let id = |line: &str| line.strip_prefix("id=").and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
    let mut ids: Vec<u64> = list.lines().map(id).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn either_connection_may_be_lost_again_and_again() {
    let redis = Redis::start(&[]);
    let mut server = server(json!({"path": redis.socket()}));
    has_two(&mut server).await;
    let client = read_numbers(subscriber(&server).await);
    let (mut admin, stop) = (redis.client().await, Arc::new(AtomicBool::new(false)));
    let publishing = publish_numbers(redis.client().await, stop.clone());
    for round in 0..8 {
        let ids = subscribed(&mut admin).await;
        assert_eq!(ids.len(), 2, "round {round}");
        let killed = ids[round % 2];
        let count: usize =
            redis::cmd("CLIENT").arg("KILL").arg("ID").arg(killed).query_async(&mut admin).await.unwrap();
        assert_eq!(count, 1);
        let said = if round % 2 == 0 { "has taken its place" } else { "second connection, which has been made anew" };
        assert!(server.says(said).await.contains("nothing was missed"));
        has_two(&mut server).await;
    }
    all_came_once(&stop, publishing, &mut admin, client).await;
    assert_eq!(metric(&server, "laravel_echo_server_redis_takeovers_total").await, 4.0);
    assert_eq!(metric(&server, "laravel_echo_server_redis_disconnects_total").await, 0.0);
    assert_eq!(metric(&server, "laravel_echo_server_redis_connected").await, 1.0);
}

/// Passes bytes on between a server and its Redis, and no more from Redis on the connections that are cut: nobody is
/// told of that.
struct Between {
    socket: PathBuf,
    cut: watch::Sender<Vec<bool>>,
    _directory: tempfile::TempDir,
}

impl Between {
    fn start(redis: PathBuf) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("between.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let (cut, known) = watch::channel(Vec::new());
        tokio::spawn(async move {
            for index in 0.. {
                let Ok((server, _)) = listener.accept().await else { return };
                let (mut from_server, mut to_server) = server.into_split();
                let (mut from_redis, mut to_redis) = UnixStream::connect(&redis).await.unwrap().into_split();
                tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_redis).await });
                let known = known.clone();
                tokio::spawn(async move {
                    let mut bytes = vec![0; 4096];
                    while let Ok(count @ 1..) = from_redis.read(&mut bytes).await {
                        if known.borrow().get(index) == Some(&true) {
                            // It stays open, and nothing comes any more.
                            return std::future::pending().await;
                        }
                        if to_server.write_all(&bytes[..count]).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { socket, cut, _directory: directory }
    }

    fn cut(&self, index: usize) {
        self.cut.send_modify(|cut| {
            cut.resize(cut.len().max(index + 1), false);
            cut[index] = true;
        });
    }
}

#[tokio::test]
async fn a_connection_that_brings_nothing_more_is_noticed_and_nothing_is_missed() {
    let redis = Redis::start(&[]);
    let between = Between::start(redis.socket());
    let mut server = server(json!({"path": between.socket}));
    has_two(&mut server).await;
    let client = read_numbers(subscriber(&server).await);
    let (mut admin, stop) = (redis.client().await, Arc::new(AtomicBool::new(false)));
    let publishing = publish_numbers(redis.client().await, stop.clone());
    // The first one is the active one, then comes that for heartbeats, and then the standby.
    between.cut(0);
    let said = server.says("has taken its place").await;
    assert!(said.contains("has sent nothing over one connection") && said.contains("nothing was missed"), "{said}");
    has_two(&mut server).await;
    // Now the third one is active and the fourth one the standby.
    between.cut(3);
    let said = server.says("second connection, which has been made anew").await;
    assert!(said.contains("has sent nothing over one connection"), "{said}");
    has_two(&mut server).await;
    all_came_once(&stop, publishing, &mut admin, client).await;
    assert_eq!(metric(&server, "laravel_echo_server_redis_takeovers_total").await, 1.0);
}

/// A machine that sleeps, a container that is paused: neither connection has done anything wrong.
#[tokio::test]
async fn a_server_that_stood_still_itself_has_missed_nothing() {
    let redis = Redis::start(&[]);
    let mut server = server(json!({"path": redis.socket()}));
    has_two(&mut server).await;
    let client = read_numbers(subscriber(&server).await);
    let mut laravel = redis.client().await;
    for n in 0..10 {
        publish(&mut laravel, n).await;
    }
    server.signal("STOP");
    for n in 10..20 {
        publish(&mut laravel, n).await;
    }
    // Longer than it would take a connection's silence for.
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.signal("CONT");
    heartbeats(&redis, 4).await;
    end(&mut laravel).await;
    assert!(client.await.unwrap().into_iter().eq(0..20));
    assert_eq!(metric(&server, "laravel_echo_server_redis_takeovers_total").await, 0.0);
    assert_eq!(metric(&server, "laravel_echo_server_redis_disconnects_total").await, 0.0);
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// The next event tells of a gap: since and until.
async fn gap(client: &mut Client) -> (u64, u64) {
    let event = client.next().await;
    assert_eq!((&event["event"], &event["channel"]), (&json!("echo-server:gap"), &json!("a")), "{event}");
    let gap: Value = serde_json::from_str(event["data"].as_str().unwrap()).unwrap();
    (gap["since"].as_u64().unwrap(), gap["until"].as_u64().unwrap())
}

/// Hears heartbeats as the server does, until this many have come.
async fn heartbeats(redis: &Redis, count: usize) -> Vec<u64> {
    let client = redis::Client::open(format!("unix://{}", redis.socket().display())).unwrap();
    let mut heard = client.get_async_pubsub().await.unwrap();
    heard.psubscribe("echo-server:heartbeat:*").await.unwrap();
    let markers = heard.on_message().take(count).map(|message| {
        let payload: Value = serde_json::from_str(&message.get_payload::<String>().unwrap()).unwrap();
        assert!(payload.get("event").is_none());
        payload["echo-server-heartbeat"].as_u64().unwrap()
    });
    tokio::time::timeout(PATIENCE, markers.collect()).await.unwrap()
}

#[tokio::test]
async fn when_both_are_lost_the_gap_is_told_from_the_last_heartbeat_on() {
    let mut redis = Redis::start(&[]);
    let mut server = server(json!({"path": redis.socket()}));
    has_two(&mut server).await;
    let mut client = subscriber(&server).await;

    // Redis ends them as it does with readers that are too slow.
    let mut admin = redis.client().await;
    let before = heartbeats(&redis, 2).await;
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").exec_async(&mut admin).await.unwrap();
    let killed = now();
    let (since, until) = gap(&mut client).await;
    assert!(before[0] <= since && since <= killed, "{before:?} {killed}: {since}");
    assert!(killed <= until && until <= now(), "{killed}: {until}");
    has_two(&mut server).await;

    let before = heartbeats(&redis, 2).await;
    redis.kill();
    let killed = now();
    server.says("The server runs on and keeps trying").await;
    let restarted = now();
    std::fs::remove_file(redis.socket()).unwrap();
    redis.restart();
    let (since, until) = gap(&mut client).await;
    assert!(before[0] <= since && since <= killed, "{before:?} {killed}: {since}");
    assert!(restarted <= until && until <= now(), "{restarted}: {until}");
    has_two(&mut server).await;
    publish(&mut redis.client().await, 7).await;
    assert_eq!(client.next().await["data"], "7");
    assert_eq!(metric(&server, "laravel_echo_server_redis_takeovers_total").await, 0.0);
    assert_eq!(metric(&server, "laravel_echo_server_redis_disconnects_total").await, 2.0);
}

#[tokio::test]
async fn who_may_not_publish_has_one_connection() {
    let redis = Redis::start(&["--requirepass", "s3cret"]);
    let mut admin = redis.client_as("default", "s3cret").await;
    let acl = ["reset", "on", ">s3cret", "-@all", "+psubscribe", "+ping", "&p_*"];
    redis::cmd("ACL").arg("SETUSER").arg("echo").arg(&acl).exec_async(&mut admin).await.unwrap();
    let mut server =
        server(json!({"path": redis.socket(), "username": "echo", "password": "s3cret", "keyPrefix": "p_"}));
    let expected = "ACL SETUSER echo +publish &p_echo-server:heartbeat:*";
    if !server.banner.contains(expected) {
        server.says(expected).await;
    }
    let mut client = subscriber(&server).await;
    let heard: usize =
        redis::cmd("PUBLISH").arg("p_a").arg(r#"{"event":"n","data":1}"#).query_async(&mut admin).await.unwrap();
    assert_eq!(heard, 1);
    assert_eq!(client.next().await["data"], "1");
}

/// Two servers hear each other's heartbeats, which are no events and nothing strange.
#[tokio::test]
async fn heartbeats_are_nobody_elses_business() {
    let redis = Redis::start(&[]);
    let (mut first, mut second) = (server(json!({"path": redis.socket()})), server(json!({"path": redis.socket()})));
    has_two(&mut first).await;
    has_two(&mut second).await;
    let mut client = subscriber(&first).await;
    heartbeats(&redis, 4).await;
    for server in [&first, &second] {
        for reason in ["not_an_object", "no_event", "other_prefix"] {
            let name = format!("laravel_echo_server_redis_messages_ignored_total{{reason=\"{reason}\"}}");
            assert_eq!(metric(server, &name).await, 0.0, "{reason}");
        }
        assert_eq!(metric(server, "laravel_echo_server_events_received_total{source=\"redis\"}").await, 0.0);
    }
    client.hears_nothing_else().await;
}
