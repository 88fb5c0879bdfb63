//! The way in from a real Redis: what is published is delivered, in order; and whatever
//! happens to Redis is noticed, said, and got over.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on shall end")]

#[path = "common/redis_server.rs"]
mod redis_server;

use std::time::Duration;

use laravel_echo_server::config::{self, Secret};
use laravel_echo_server::inbox::{AppIndex, Delivery, Inbox, inbox};
use laravel_echo_server::ingress::{self, Audiences, BACKLOG_BYTES_MAX, Ingress, Links};
use laravel_echo_server::publish::Publisher;
use laravel_echo_server::redis::{Link, Status, Timing};
use redis::aio::MultiplexedConnection;
use redis_server::Redis;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Impatient, so that a Redis that hangs is noticed within a test's time.
const TIMING: Timing = Timing {
    connect_max: Duration::from_secs(2),
    ping_after: Duration::from_millis(200),
    answer_max: Duration::from_secs(2),
    retry_min: Duration::from_millis(10),
    retry_max: Duration::from_millis(100),
};

#[tokio::test]
async fn what_laravel_publishes_is_delivered() {
    let redis = Redis::start(&[]);
    let mut world = World::start(&config_of(&redis), &["private-user.2", "talent2income_database_private-user.2"]);
    world.connected().await;
    let mut laravel = redis.client().await;
    let payload = r#"{"event":"message.sent","data":{"content":"\u00dc\/","socket":"12.34"},"socket":"12.34"}"#;
    for other in ["set", "", "{\"event\":{\"channel\":\"presence-x:members\",\"members\":[]}}", "{\"event\":"] {
        publish(&mut laravel, "__keyspace@0__:private-user.2", other).await;
        publish(&mut laravel, "talent2income_database_private-user.2", other).await;
    }
    publish(&mut laravel, "talent2income_database_private-user.2", payload).await;

    for name in ["private-user.2", "talent2income_database_private-user.2"] {
        let delivery = world.delivery().await;
        assert_eq!(delivery.channel.as_str(), name);
        assert_eq!(delivery.except, "12.34".parse().ok());
        assert!(delivery.except.is_some());
        let expected =
            format!(r#"{{"event":"message.sent","channel":"{name}","data":"{{\"content\":\"\\u00dc\\/\"}}"}}"#);
        assert_eq!(text(&delivery), expected);
    }
    assert_eq!(world.known_prefix.borrow().as_deref(), Some("talent2income_database_"));
}

#[tokio::test]
async fn a_configured_prefix_is_literal() {
    let redis = Redis::start(&[]);
    let config = config::Redis { key_prefix: Some("a*[b]?\\_".to_owned()), ..config_of(&redis) };
    let mut world = World::start(&config, &["orders", "axx[b]?\\_orders"]);
    world.connected().await;
    let mut laravel = redis.client().await;
    for name in ["axx[b]?\\_orders", "a*bx\\_orders", "orders"] {
        let heard = publish(&mut laravel, name, r#"{"event":"other"}"#).await;
        assert_eq!(heard, 0, "{name}");
    }
    assert_eq!(publish(&mut laravel, "a*[b]?\\_orders", r#"{"event":"ours"}"#).await, 1);
    assert_eq!(text(&world.delivery().await), r#"{"event":"ours","channel":"orders","data":"null"}"#);
}

#[tokio::test]
async fn ten_thousand_events_stay_in_order() {
    const COUNT: u32 = 10_000;
    let redis = Redis::start(&[]);
    let mut world = World::start(&config_of(&redis), &["orders"]);
    world.connected().await;
    let mut laravel = redis.client().await;
    let publisher = tokio::spawn(async move {
        for chunk in (0..COUNT).collect::<Vec<_>>().chunks(500) {
            let mut pipeline = redis::pipe();
            for number in chunk {
                pipeline.cmd("PUBLISH").arg("orders").arg(format!(r#"{{"event":"e","data":{number}}}"#));
            }
            pipeline.exec_async(&mut laravel).await.unwrap();
        }
    });
    for number in 0..COUNT {
        let expected = format!(r#"{{"event":"e","channel":"orders","data":"{number}"}}"#);
        assert_eq!(text(&world.delivery().await), expected);
    }
    publisher.await.unwrap();
}

#[tokio::test]
async fn redis_may_come_late_go_away_and_come_back() {
    let mut redis = Redis::start(&[]);
    redis.kill();
    std::fs::remove_file(redis.socket()).unwrap();
    let mut world = World::start(&config_of(&redis), &["orders"]);
    let reason = world.away(|reason| reason.contains("no socket")).await;
    assert!(reason.contains("redis.sock") && reason.contains("\"path\""), "{reason}");

    for round in ["late", "again"] {
        redis.restart();
        world.connected().await;
        publish(&mut redis.client().await, "orders", &format!(r#"{{"event":"{round}"}}"#)).await;
        assert!(text(&world.delivery().await).contains(round));
        redis.kill();
        // The first reason is the lost connection, soon followed by that of the next attempt.
        world.away(|reason| reason.contains("closed the connection")).await;
        world.away(|reason| reason.contains("refused")).await;
    }
}

#[tokio::test]
async fn a_redis_that_hangs_is_noticed() {
    let redis = Redis::start(&[]);
    let mut world = World::start(&config_of(&redis), &["orders"]);
    let since = world.connected().await;

    // Quiet is not dead: without any event, PING keeps the connection.
    let quiet = timeout(TIMING.answer_max * 2, world.status.changed()).await;
    assert!(quiet.is_err(), "{:?}", world.status.borrow());
    assert_eq!(world.connected().await, since);

    redis.signal("STOP");
    let reason = world.away(|reason| reason.contains("silent")).await;
    assert!(reason.contains("not answered PING"), "{reason}");
    world.away(|reason| reason.contains("did not answer within 2s")).await;
    redis.signal("CONT");
    world.connected().await;
    publish(&mut redis.client().await, "orders", r#"{"event":"back"}"#).await;
    assert!(text(&world.delivery().await).contains("back"));
}

#[tokio::test]
async fn passwords_and_rights() {
    let redis = Redis::start(&["--requirepass", "right-s3cret"]);
    let with = |username: Option<&str>, password: Option<&str>| config::Redis {
        username: username.map(str::to_owned),
        password: password.map(Secret::new),
        ..config_of(&redis)
    };
    for (username, password, expected) in [
        (None, None, "NOAUTH"),
        (None, Some("wrong-s3cret"), "WRONGPASS"),
        (Some("nobody"), Some("right-s3cret"), "user \"nobody\""),
    ] {
        let reason = World::start(&with(username, password), &[]).away(|reason| !reason.contains("first")).await;
        assert!(reason.contains(expected) && !reason.contains("s3cret"), "{reason}");
    }

    let mut admin = redis.client_as("default", "right-s3cret").await;
    let acl = ["reset", "on", ">right-s3cret", "-@all", "+psubscribe", "+publish"];
    redis::cmd("ACL").arg("SETUSER").arg("echo").arg(&acl).exec_async(&mut admin).await.unwrap();
    let config = config::Redis { key_prefix: Some("p_".to_owned()), ..with(Some("echo"), Some("right-s3cret")) };
    let mut world = World::start(&config, &["orders"]);
    let reason = world.away(|reason| reason.contains("NOPERM")).await;
    assert!(reason.contains("ACL SETUSER echo +psubscribe +ping &p_*"), "{reason}");

    // Without the right to PING a refusal is as good an answer as any.
    redis::cmd("ACL").arg("SETUSER").arg("echo").arg("&p_*").exec_async(&mut admin).await.unwrap();
    let since = world.connected().await;
    assert!(timeout(TIMING.answer_max * 2, world.status.changed()).await.is_err());
    assert_eq!(world.connected().await, since);
    publish(&mut admin, "p_orders", r#"{"event":"e"}"#).await;
    assert!(text(&world.delivery().await).contains("orders"));
}

#[tokio::test]
async fn failures_on_the_network() {
    let free = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = free.local_addr().unwrap().port();
    let fail = |host: &str| {
        let config = config::Redis { path: None, host: host.to_owned(), port, ..unix("") };
        let link = Link::new(config, ingress::PAYLOAD_BYTES_MAX).with_timing(TIMING);
        async move { link.subscribe("*").await.unwrap_err().to_string() }
    };

    // A listener that accepts and says nothing.
    let reason = fail("127.0.0.1").await;
    assert!(reason.contains(&format!("127.0.0.1:{port} did not answer within 2s")), "{reason}");

    // One that hangs up at once.
    let hang_up = std::thread::spawn(move || {
        for connection in free.incoming().take(2) {
            drop(connection);
        }
    });
    // The connection of the attempt above is still in the queue, so this is the second.
    let reason = fail("127.0.0.1").await;
    assert!(reason.contains("closed the connection") && reason.contains("\"tls\": {}"), "{reason}");
    hang_up.join().unwrap();

    let reason = fail("127.0.0.1").await;
    assert!(reason.contains("connection refused"), "{reason}");
    // Too long for a host's name, so no name server is asked.
    let reason = fail(&"x".repeat(70)).await;
    assert!(reason.contains("unknown") && reason.contains("\"host\""), "{reason}");
}

#[tokio::test]
async fn too_far_behind_is_an_outage_and_no_loss_of_what_was_taken() {
    // Redis has a limit of its own, which is not the one meant here.
    let redis = Redis::start(&["--client-output-buffer-limit", "pubsub 0 0 0"]);
    let mut world = World::start(&config_of(&redis), &["orders"]);
    world.connected().await;
    let mut laravel = redis.client().await;
    // Nobody empties the inbox.
    let small = laravel_echo_server::inbox::EVENTS_MAX + 10;
    let mut pipeline = redis::pipe();
    for _ in 0..small {
        pipeline.cmd("PUBLISH").arg("orders").arg(r#"{"event":"small"}"#);
    }
    pipeline.exec_async(&mut laravel).await.unwrap();
    let big = format!(r#"{{"event":"big","data":"{}"}}"#, "x".repeat(4 * 1024 * 1024));
    let mut sent = 0;
    while publish(&mut laravel, "orders", &big).await > 0 {
        sent += big.len();
        assert!(sent < 4 * BACKLOG_BYTES_MAX);
    }
    world.away(|reason| reason.contains("faster than this server delivers")).await;
    for _ in 0..small {
        assert!(text(&world.delivery().await).contains("small"));
    }
    let mut received = 0;
    while received < BACKLOG_BYTES_MAX {
        let delivery = world.delivery().await;
        assert!(String::from_utf8_lossy(&delivery.frame[..40]).contains("big"));
        received += delivery.frame.len();
    }
    world.connected().await;
    publish(&mut laravel, "orders", r#"{"event":"after"}"#).await;
    while !String::from_utf8_lossy(&world.delivery().await.frame[..30]).contains("after") {}
}

/// The ingress under test, with one shard's inbox at its end.
struct World {
    task: JoinHandle<()>,
    status: watch::Receiver<Status>,
    known_prefix: watch::Receiver<Option<String>>,
    inbox: Inbox,
}

impl World {
    fn start(config: &config::Redis, subscribed: &[&str]) -> Self {
        let (handle, inbox) = inbox();
        let publisher = Publisher::new(vec![handle]);
        for channel in subscribed {
            inbox.interest.add(publisher.hash(AppIndex(0), channel));
        }
        let (audiences, mut known_prefixes) = Audiences::new([(AppIndex(0), None)], config.key_prefix.as_deref());
        let ingress = Ingress::new(audiences, publisher, BACKLOG_BYTES_MAX);
        let (report, status) = watch::channel(Status::starting());
        let link = Link::new(config.clone(), ingress::PAYLOAD_BYTES_MAX).with_timing(TIMING);
        let task = tokio::spawn(ingress::from_redis(Links::one(link), ingress, report));
        Self { task, status, known_prefix: known_prefixes.remove(0), inbox }
    }

    async fn connected(&mut self) -> std::time::Instant {
        let status = timeout(PATIENCE, self.status.wait_for(Status::is_connected)).await.unwrap().unwrap().clone();
        let Status::Connected { since } = status else { panic!("{status:?}") };
        since
    }

    /// Waits until Redis is away for such a reason.
    async fn away(&mut self, is_expected: impl Fn(&str) -> bool) -> String {
        let mut seen = String::new();
        let waiting = self.status.wait_for(|status| match status {
            Status::Away { reason, .. } => {
                reason.clone_into(&mut seen);
                is_expected(reason)
            }
            Status::Connected { .. } => false,
        });
        assert!(timeout(PATIENCE, waiting).await.is_ok_and(|status| status.is_ok()), "last reason: {seen}");
        seen
    }

    async fn delivery(&mut self) -> Delivery {
        timeout(PATIENCE, self.inbox.events.next()).await.unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Its unix socket.
fn config_of(redis: &Redis) -> config::Redis {
    unix(redis.socket().to_str().unwrap())
}

fn unix(path: &str) -> config::Redis {
    // Pub/sub knows no databases, so one that does not exist is no trouble.
    config::Redis { path: Some(path.to_owned()), db: 4000, ..config::Redis::default() }
}

async fn publish(laravel: &mut MultiplexedConnection, channel: &str, payload: &str) -> usize {
    redis::cmd("PUBLISH").arg(channel).arg(payload).query_async(laravel).await.unwrap()
}

/// What the frame says, without its header.
fn text(delivery: &Delivery) -> &str {
    let header = if delivery.frame[1] < 126 { 2 } else { 4 };
    std::str::from_utf8(&delivery.frame[header..]).unwrap()
}
