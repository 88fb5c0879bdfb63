//! The questions of all connections, and their turn: after a restart every client subscribes at once, and
//! Laravel answers so many at a time.
//!
//! A question that waits here is a small value and no task. One whose connection has gone meanwhile is dropped:
//! nobody waits for the answer, and Laravel has enough to do. Questions are never put together, not even two that
//! differ in the socket alone: the endpoint is told the socket's id, and may decide by it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::callback::Laravel;
use super::laravel::Place;
use super::{Answer, Asked};

/// Of the questions that wait, so many times `authConcurrency` are under way with those of the gateway, whichever
/// comes first; the others here. While Laravel is away these are the ones that try whether it is back.
const UNDER_WAY: usize = 2;

/// One that waits for its turn.
struct Waiting {
    asked: Asked,
    since: Instant,
    place: Place,
}

/// Takes the shards' questions to the Laravel that there is `now`, and gives each answer to `tell`, until no shard
/// is left to ask.
pub async fn answer(
    mut asked: mpsc::UnboundedReceiver<Asked>,
    now: impl Fn() -> Laravel + Send,
    tell: impl Fn(&Asked, Answer) + Send + Sync + 'static,
) {
    let tell = Arc::new(tell);
    let mut waiting = VecDeque::new();
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            next = asked.recv() => match next {
                Some(mut asked) => match now().place(asked.bytes()) {
                    Some(place) => waiting.push_back(Waiting { asked, since: Instant::now(), place }),
                    None => if let Some(question) = asked.question() {
                        tell(&asked, now().too_busy(&question));
                    },
                },
                None => break,
            },
            Some(_) = under_way.join_next() => {}
        }
        let laravel = now();
        let under_way_max = laravel.auth().concurrency.saturating_mul(UNDER_WAY);
        while under_way.len() < under_way_max
            && let Some(Waiting { mut asked, since, place }) = waiting.pop_front()
        {
            let Some(question) = asked.question() else { continue };
            let (laravel, tell) = (laravel.clone(), tell.clone());
            under_way.spawn(async move {
                let answer = laravel.ask_since(&question, since).await;
                tell(&asked, answer);
                drop(place);
            });
        }
    }
    while under_way.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use http::HeaderValue;
    use tokio::io::AsyncWriteExt;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::auth::Credentials;
    use crate::auth::fake::{FakeLaravel, response};
    use crate::inbox::ConnKey;
    use crate::metrics::Metrics;
    use crate::protocol::channel::ChannelName;

    fn asked(ticket: u32, credentials: &Arc<Credentials>) -> Asked {
        Asked {
            shard: 0,
            conn: ConnKey { slot: 0, generation: 0 },
            ticket,
            channel: ChannelName::parse(&format!("private-{ticket}")).unwrap(),
            socket_id: "1234.5678".parse().unwrap(),
            credentials: Arc::downgrade(credentials),
            headers: Vec::new(),
        }
    }

    fn credentials() -> Arc<Credentials> {
        let authorization = Some(HeaderValue::from_static("Bearer t0ken"));
        Arc::new(Credentials { authorization, ..Credentials::default() })
    }

    /// All clients come back at once: Laravel is asked so many at a time and in order, each is answered, and
    /// nobody is asked about who has gone.
    #[tokio::test]
    async fn a_storm_is_asked_a_few_at_a_time_and_not_for_who_has_gone() {
        const CONCURRENCY: usize = 3;
        let at_once = Arc::new(Mutex::new((0_usize, 0_usize)));
        let seen = at_once.clone();
        let fake = FakeLaravel::with(move |mut socket, _| {
            let seen = seen.clone();
            async move {
                {
                    let mut seen = seen.lock().unwrap();
                    seen.0 += 1;
                    seen.1 = seen.1.max(seen.0);
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
                seen.lock().unwrap().0 -= 1;
                let _ = socket.write_all(response("200 OK", "", "true").as_bytes()).await;
            }
        })
        .await;
        let mut auth = fake.auth();
        auth.concurrency = CONCURRENCY;
        let laravel = Laravel::new(&auth, [].into(), Metrics::new(0, Vec::new())).unwrap();
        let (asker, questions) = mpsc::unbounded_channel();
        let (here, gone) = (credentials(), credentials());
        for ticket in 0..300 {
            asker.send(asked(ticket, if ticket % 3 == 2 { &gone } else { &here })).unwrap();
        }
        drop(gone);
        let answers = Arc::new(Mutex::new(Vec::new()));
        let told = answers.clone();
        let done = Arc::new(Semaphore::new(0));
        let count = done.clone();
        let queue = tokio::spawn(answer(
            questions,
            move || laravel.clone(),
            move |asked, answer| {
                assert!(matches!(answer, Answer::Yes));
                told.lock().unwrap().push(asked.ticket);
                count.add_permits(1);
            },
        ));
        tokio::time::timeout(Duration::from_secs(30), done.acquire_many(200)).await.unwrap().unwrap().forget();
        drop(asker);
        queue.await.unwrap();
        let mut answers = answers.lock().unwrap().clone();
        answers.sort_unstable();
        assert_eq!(answers, (0..300).filter(|ticket| ticket % 3 != 2).collect::<Vec<_>>());
        assert_eq!(fake.asked().len(), 200);
        let most = at_once.lock().unwrap().1;
        assert!((1..=CONCURRENCY).contains(&most), "{most} at once");
    }

    /// What may wait is bounded in all, and what finds no room is told so.
    #[tokio::test]
    async fn beyond_what_may_wait_is_refused_at_once() {
        let fake = FakeLaravel::with(|socket, _| async move {
            std::future::pending::<()>().await;
            drop(socket);
        })
        .await;
        let mut auth = fake.auth();
        auth.concurrency = 1;
        let laravel = Laravel::new(&auth, [].into(), Metrics::new(0, Vec::new())).unwrap();
        let (asker, questions) = mpsc::unbounded_channel();
        let (refused, mut refusals) = mpsc::unbounded_channel();
        let queue = tokio::spawn(answer(
            questions,
            move || laravel.clone(),
            move |asked, answer| {
                refused.send((asked.ticket, answer)).unwrap();
            },
        ));
        let credentials = credentials();
        let long = "x".repeat(4 * 1024 * 1024);
        for ticket in 0..10 {
            let mut asked = asked(ticket, &credentials);
            asked.headers.push(("x-long".to_owned(), long.clone()));
            asker.send(asked).unwrap();
        }
        let first = tokio::time::timeout(Duration::from_secs(20), refusals.recv()).await.unwrap().unwrap();
        assert!(matches!(&first, (7, Answer::No(refusal)) if refusal.status == 503), "{first:?}");
        queue.abort();
    }
}
