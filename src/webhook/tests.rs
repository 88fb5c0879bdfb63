//! The tasks behind the URLs, with a backend in the same process and short times. What the whole
//! program does is in `tests/webhooks.rs`.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpListener;

use super::*;
use crate::config::Limits;
use crate::protocol::webhook::Kinds;
use receiver::{Answer, Receiver};

#[path = "../../tests/common/receiver.rs"]
mod receiver;

const APP: AppIndex = AppIndex(0);

const QUICK: Bounds = Bounds {
    batch_delay: Duration::from_millis(5),
    leave_delay: Duration::from_millis(50),
    answer_time: Duration::from_millis(200),
    first_pause: Duration::from_millis(20),
    last_pause: Duration::from_millis(50),
    patience: Duration::from_secs(60),
    stop_time: Duration::from_secs(1),
    ..BOUNDS
};

fn webhooks(urls: &[&str], bounds: Bounds) -> (Webhooks, Running) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let webhook = |url: &&str| Webhook {
        url: url.parse().unwrap(),
        events: Kinds::from_iter(Kind::ALL),
        channel_name_starts_with: String::new(),
        channel_name_ends_with: String::new(),
        headers: http::HeaderMap::new(),
    };
    let app = App {
        id: "app".into(),
        key: "key".into(),
        secret: Secret::new("secret"),
        previous_secrets: Vec::new(),
        secret_is_random: false,
        is_removed: false,
        limits: Limits::default(),
        key_prefix: None,
        subscription_count: true,
        webhooks: urls.iter().map(webhook).collect(),
    };
    Webhooks::start_with(&[app], bounds).unwrap()
}

/// Offers these counts, each as an event of its own.
fn offer(webhooks: &Webhooks, counts: impl IntoIterator<Item = u64>) {
    counts.into_iter().for_each(|n| webhooks.offer(APP, &ChannelName::published("c"), Event::SubscriptionCount(n)));
}

/// The counts in the next requests.
async fn counts(receiver: &mut Receiver, how_many: usize) -> Vec<u64> {
    let events = receiver.events(how_many).await;
    events.iter().map(|event| event["subscription_count"].as_u64().unwrap()).collect()
}

/// Delivered, failed requests, given up, overflowed.
fn counted(webhooks: &Webhooks) -> Vec<[u64; 4]> {
    let counted = |counters: &Counters| {
        let Counters { delivered, failed_requests, given_up, overflowed, .. } = counters;
        [delivered, failed_requests, given_up, overflowed].map(|counter| counter.load(Ordering::SeqCst))
    };
    webhooks.counters().into_iter().map(|(_, _, counters)| counted(&counters)).collect()
}

#[tokio::test]
async fn many_in_one_request_in_order_up_to_the_bounds() {
    let mut receiver = Receiver::start(|_| Answer::Status(204)).await;
    let (webhooks, running) = webhooks(&[&receiver.url], QUICK);
    offer(&webhooks, 0..250);
    let mut all = Vec::new();
    for expected in [100, 100, 50] {
        let events = receiver.next().await.events();
        assert_eq!(events.len(), expected);
        all.extend(events.iter().map(|event| event["subscription_count"].as_u64().unwrap()));
    }
    assert_eq!(all, (0..250).collect::<Vec<u64>>());
    running.finish().await;
    assert_eq!(counted(&webhooks), [[250, 0, 0, 0]]);
}

#[tokio::test]
async fn what_fails_comes_again_before_anything_else() {
    // Twice no, a redirect, silence, and then yes.
    let answers = [Answer::Status(500), Answer::Status(404), Answer::Redirect, Answer::Nothing];
    let mut receiver = Receiver::start(move |n| answers.get(n).copied().unwrap_or(Answer::Status(200))).await;
    let (webhooks, running) = webhooks(&[&receiver.url], QUICK);
    offer(&webhooks, [1]);
    let first = receiver.next().await;
    offer(&webhooks, [2]);
    for _ in 0..4 {
        let again = receiver.next().await;
        assert_eq!((&again.line, &again.body, &again.headers), (&first.line, &first.body, &first.headers));
    }
    assert_eq!(counts(&mut receiver, 1).await, [2]);
    running.finish().await;
    assert_eq!(counted(&webhooks), [[2, 4, 0, 0]]);
}

#[tokio::test]
async fn nobody_there_at_first() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let (webhooks, _running) = webhooks(&[&format!("http://{address}/")], QUICK);
    offer(&webhooks, [1]);
    while counted(&webhooks)[0][1] == 0 {
        tokio::task::yield_now().await;
    }
    let mut receiver = Receiver::on(TcpListener::bind(address).await.unwrap(), |_| Answer::Status(200));
    assert_eq!(counts(&mut receiver, 1).await, [1]);
}

#[tokio::test]
async fn given_up_in_the_end_and_counted() {
    let is_well = Arc::new(AtomicBool::new(false));
    let answer = is_well.clone();
    let answer = move |_| Answer::Status(if answer.load(Ordering::SeqCst) { 200 } else { 500 });
    let mut receiver = Receiver::start(answer).await;
    let patience = Duration::from_millis(500);
    let (webhooks, running) = webhooks(&[&receiver.url], Bounds { patience, ..QUICK });
    let start = Instant::now();
    offer(&webhooks, [1, 2]);
    let first = receiver.next().await;
    while counted(&webhooks)[0][2] == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(start.elapsed() >= patience);
    is_well.store(true, Ordering::SeqCst);
    offer(&webhooks, [3]);
    let mut next = receiver.next().await;
    while next.body == first.body {
        next = receiver.next().await;
    }
    assert_eq!(next.events()[0]["subscription_count"], 3);
    running.finish().await;
    let [delivered, failed, given_up, overflowed] = counted(&webhooks)[0];
    assert_eq!((delivered, given_up, overflowed), (1, 2, 0));
    assert!(failed >= 2, "{failed}");
}

#[tokio::test]
async fn a_backend_that_hangs_costs_its_own_events_and_nobody_elses() {
    let mut hanging = Receiver::start(|_| Answer::Nothing).await;
    let mut well = Receiver::start(|_| Answer::Status(200)).await;
    let bounds = Bounds { events_max: 10, answer_time: Duration::from_secs(60), ..QUICK };
    let (webhooks, running) = webhooks(&[&hanging.url, &well.url], bounds);
    offer(&webhooks, [0]);
    hanging.next().await;
    assert_eq!(counts(&mut well, 1).await, [0]);
    let mut told = Vec::new();
    for n in 1..=30 {
        offer(&webhooks, [n]);
        told.extend(counts(&mut well, 1).await);
    }
    assert_eq!(told, (1..=30).collect::<Vec<u64>>());
    let [of_hanging, of_well] = counted(&webhooks)[..] else { panic!() };
    assert_eq!(of_hanging, [0, 0, 0, 21], "10 of 31 have room, the one under way included");
    assert_eq!(of_well[3], 0);
    // The end does not wait for the answer that does not come.
    running.finish().await;
    assert_eq!(counted(&webhooks), [[0, 0, 10, 21], [31, 0, 0, 0]]);
    assert!(hanging.is_empty());
}

#[tokio::test]
async fn bytes_are_bounded_too() {
    let receiver = Receiver::start(|_| Answer::Nothing).await;
    let bounds = Bounds { bytes_max: 11_000, ..QUICK };
    let (webhooks, _running) = webhooks(&[&receiver.url], bounds);
    let data = format!("\"{}\"", "x".repeat(3_000));
    for _ in 0..5 {
        let socket_id = crate::protocol::SocketId::new(1, 1);
        let event = Event::ClientEvent { event: "client-a", data: Some(&data), socket_id, user_id: None };
        webhooks.offer(APP, &ChannelName::published("private-c"), event);
    }
    assert_eq!(counted(&webhooks), [[0, 0, 0, 2]]);
}

#[tokio::test]
async fn the_end_sends_what_there_is_leaves_included() {
    let mut receiver = Receiver::start(|_| Answer::Status(200)).await;
    let bounds = Bounds { batch_delay: Duration::from_secs(60), leave_delay: Duration::from_secs(60), ..QUICK };
    let (webhooks, running) = webhooks(&[&receiver.url], bounds);
    let channel = ChannelName::published("presence-c");
    webhooks.offer(APP, &channel, Event::MemberAdded("7"));
    webhooks.offer(APP, &channel, Event::MemberRemoved("7"));
    webhooks.offer(APP, &channel, Event::ChannelVacated);
    running.finish().await;
    let names: Vec<_> = receiver.events(3).await.iter().map(|event| event["name"].clone()).collect();
    assert_eq!(names, ["member_added", "member_removed", "channel_vacated"]);
    assert_eq!(counted(&webhooks), [[3, 0, 0, 0]]);
    webhooks.offer(APP, &channel, Event::MemberAdded("7"));
    assert_eq!(counted(&webhooks), [[3, 0, 0, 1]], "what comes after the end is counted as well");
}

#[tokio::test]
async fn without_webhooks_nobody_hears() {
    let (none, running) = webhooks(&[], QUICK);
    assert!(Kind::ALL.into_iter().all(|kind| !none.hears(APP, kind)));
    none.offer(APP, &ChannelName::published("c"), Event::ChannelOccupied);
    running.finish().await;
    assert!(!Webhooks::default().hears(AppIndex(7), Kind::ChannelOccupied));
}
