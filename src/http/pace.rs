//! Keeps a storm of handshakes from standing between an event and its subscribers.
//!
//! When a deploy makes thousands of clients come back at once, each of their tasks is ready to run, and whatever else the
//! runtime has to do, as to read what Laravel publishes, would wait until all of them have run. So they share a
//! budget of time for each turn of the runtime, and those that find it used up have their go in a later turn, in order.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// What the paced futures may take of one turn, in all.
const BUDGET: Duration = Duration::from_millis(1);

/// A budget that futures share.
#[derive(Debug, Default)]
pub struct Pace {
    state: Mutex<State>,
    used: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What this turn's futures have taken.
    spent: Duration,
    /// Those that wait, the first of whom has the ticket `served`.
    waiting: VecDeque<Waker>,
    served: u64,
}

impl Pace {
    /// Lets a future run only within the budget, as long as it is not exempt.
    pub fn paced<F: Future, E: Fn() -> bool>(self: &Arc<Self>, future: F, is_exempt: E) -> Paced<F, E> {
        Paced { pace: self.clone(), is_exempt, ticket: None, future: Box::pin(future) }
    }

    /// Must run beside the futures: gives them a new budget each turn.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.used.notified().await;
            tokio::task::yield_now().await;
            let mut state = self.state();
            state.spent = Duration::ZERO;
            // They come back one by one: the first that uses up the budget keeps the rest waiting.
            state.serve();
            // Also if the one that was let go on is no more, the next has its go.
            if !state.waiting.is_empty() {
                self.used.notify_one();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is whole at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets the first who waits go on.
    fn serve(&mut self) {
        if let Some(waker) = self.waiting.pop_front() {
            self.served += 1;
            waker.wake();
        }
    }
}

/// A future that runs within a [`Pace`].
pub struct Paced<F, E> {
    pace: Arc<Pace>,
    is_exempt: E,
    /// Its number among those that have waited.
    ticket: Option<u64>,
    future: Pin<Box<F>>,
}

impl<F: Future, E: Fn() -> bool + Unpin> Future for Paced<F, E> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        // Who has a ticket is awaited in the queue, and passes it on.
        if this.ticket.is_none() && (this.is_exempt)() {
            return this.future.as_mut().poll(context);
        }
        let mut state = this.pace.state();
        match this.ticket {
            Some(ticket) if ticket >= state.served => return Poll::Pending,
            Some(_) => this.ticket = None,
            None if state.spent >= BUDGET || !state.waiting.is_empty() => {
                this.ticket = Some(state.served + state.waiting.len() as u64);
                state.waiting.push_back(context.waker().clone());
                return Poll::Pending;
            }
            None => {}
        }
        drop(state);
        let began = Instant::now();
        let result = this.future.as_mut().poll(context);
        let mut state = this.pace.state();
        state.spent += began.elapsed();
        if state.spent < BUDGET {
            state.serve();
        }
        drop(state);
        this.pace.used.notify_one();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::rc::Rc;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    /// A hundred futures that need two polls of some milliseconds each.
    #[tokio::test]
    async fn a_storm_leaves_turns_to_others() {
        LocalSet::new()
            .run_until(async {
                let pace = Arc::new(Pace::default());
                let pacer = spawn_local(pace.clone().run());
                let polls = Rc::new(Cell::new(0));
                let order = Rc::new(std::cell::RefCell::new(Vec::new()));
                for number in 0..100 {
                    let (polls, order) = (polls.clone(), order.clone());
                    spawn_local(pace.paced(
                        async move {
                            std::thread::sleep(BUDGET);
                            polls.set(polls.get() + 1);
                            yield_now().await;
                            std::thread::sleep(BUDGET);
                            polls.set(polls.get() + 1);
                            order.borrow_mut().push(number);
                        },
                        || false,
                    ));
                }
                // One that nobody waits for any more stands in nobody's way.
                let mut abandoned = Box::pin(pace.paced(async {}, || false));
                assert!(futures_util::poll!(abandoned.as_mut()).is_ready());
                spawn_local(pace.paced(std::future::ready(()), || false)).abort();
                let exempt = spawn_local(pace.paced(std::future::ready(()), || true));
                let mut turns = 0;
                while order.borrow().len() < 100 {
                    let before = polls.get();
                    yield_now().await;
                    turns += 1;
                    // What is polled in one turn is what fits the budget, and one that used it up.
                    assert!(polls.get() - before <= 3, "{}", polls.get() - before);
                }
                assert!(turns >= 50);
                assert!(exempt.is_finished());
                assert_eq!(polls.get(), 200);
                assert!(order.borrow().is_sorted(), "{:?}", order.borrow());
                pacer.abort();
            })
            .await;
    }
}
