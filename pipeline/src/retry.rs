//! How often a store is asked again: one schedule for each request, and one budget for all that belong together.
//!
//! The only module that knows `backoff`, which is unmaintained (RUSTSEC-2025-0012): whoever replaces it does it here.

use backoff::backoff::Backoff;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long to go on trying.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Policy {
    /// The first pause; each next one is about twice the last.
    pub initial: Duration,
    /// No pause is longer, but for its jitter.
    pub max_interval: Duration,
    /// After this long from the first attempt the last error stands.
    pub max_elapsed: Duration,
    /// The share of a pause that is given or taken at random, so that clients which failed together do not come back
    /// together.
    pub jitter: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(10),
            max_interval: Duration::from_secs(10),
            max_elapsed: Duration::from_secs(60),
            jitter: 0.5,
        }
    }
}

impl Policy {
    fn schedule(&self) -> ExponentialBackoff {
        ExponentialBackoffBuilder::new()
            .with_initial_interval(self.initial)
            .with_multiplier(2.0)
            .with_randomization_factor(self.jitter)
            .with_max_interval(self.max_interval)
            // The budget tells the time: it knows of the other requests.
            .with_max_elapsed_time(None)
            .build()
    }
}

/// What the requests of one batch may spend together on trying again.
///
/// - A request goes on for [`Policy::max_elapsed`] from its first attempt.
/// - All of them together go on for as long since the last one that succeeded: of a store that is dead, one request
///   finds out, and the others do not each wait as long again.
/// - [`RETRIES`](Self::RETRIES) attempts may be repeated, and one more for every request that succeeded: a store that
///   fails more often than it works is not kept busy for ever by a batch of many chunks.
#[derive(Debug)]
pub struct Budget {
    policy: Policy,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    retries: u32,
    failing_since: Option<Instant>,
}

impl Budget {
    /// Attempts that may be repeated before the first success, and the most that are saved up.
    pub const RETRIES: u32 = 500;

    /// A budget of which nothing is spent.
    pub fn new(policy: Policy) -> Self {
        Self { policy, state: Mutex::new(State { retries: Self::RETRIES, failing_since: None }) }
    }

    /// Runs `attempt` until it succeeds, fails with what is not `transient`, or the budget is used up.
    pub async fn retry<T, E, F>(&self, transient: impl Fn(&E) -> bool, mut attempt: impl FnMut() -> F) -> Result<T, E>
    where
        E: std::fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        let started = Instant::now();
        let mut schedule = self.policy.schedule();
        loop {
            let error = match attempt().await {
                Err(error) if transient(&error) => error,
                // The store answered, whatever it said.
                answered => {
                    self.note_answer();
                    return answered;
                }
            };
            let Some(pause) = schedule.next_backoff().filter(|pause| self.allows(started, *pause)) else {
                return Err(error);
            };
            match pause < WORTH_TELLING {
                true => tracing::debug!(%error, ?pause, "trying again"),
                false => tracing::warn!(%error, ?pause, "trying again"),
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn note_answer(&self) {
        let mut state = self.state();
        state.failing_since = None;
        state.retries = Self::RETRIES.min(state.retries + 1);
    }

    /// Takes one retry after that pause, if there is one.
    fn allows(&self, started: Instant, pause: Duration) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        let failing_since = *state.failing_since.get_or_insert(now);
        let in_time = now.duration_since(failing_since.min(started)) + pause <= self.policy.max_elapsed;
        if !in_time || state.retries == 0 {
            return false;
        }
        state.retries -= 1;
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The numbers are whole between any two statements that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever watches wants to know why nothing happens for so long.
const WORTH_TELLING: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn budget() -> Budget {
        Budget::new(Policy::default())
    }

    /// Fails for ever; how often it was tried, and how long.
    async fn hopeless(budget: &Budget) -> (u32, Duration) {
        let (tries, began) = (Cell::new(0), Instant::now());
        let attempt = || {
            tries.set(tries.get() + 1);
            async { Err::<(), _>("still") }
        };
        assert_eq!(budget.retry(|_| true, attempt).await, Err("still"));
        (tries.get(), began.elapsed())
    }

    async fn succeed(budget: &Budget) {
        budget.retry(|_: &&str| true, || async { Ok(()) }).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_transient_failure_is_tried_again_until_it_succeeds() {
        let tries = Cell::new(0);
        let attempt = || {
            tries.set(tries.get() + 1);
            let n = tries.get();
            async move { if n < 3 { Err("later") } else { Ok(n) } }
        };
        assert_eq!(budget().retry(|_| true, attempt).await, Ok(3));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_succeed_is_tried_once() {
        let tries = Cell::new(0);
        let attempt = || {
            tries.set(tries.get() + 1);
            async { Err::<(), _>("never") }
        };
        assert_eq!(budget().retry(|_| false, attempt).await, Err("never"));
        assert_eq!(tries.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end_with_the_time() {
        let (tries, took) = hopeless(&budget()).await;
        // 10, 20, … ms, 5.1, 10, 10, … s, give or take a half.
        assert!((8..=25).contains(&tries), "{tries}");
        assert!((Duration::from_secs(40)..=Duration::from_secs(60)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_requests_to_a_dead_store_only_the_first_waits() {
        let budget = budget();
        hopeless(&budget).await;
        let (mut tries, began) = (0, Instant::now());
        for _ in 0..10_000 {
            tries += hopeless(&budget).await.0;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        assert!(tries < 10_100, "{tries}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_answers_again_is_given_all_the_time_again() {
        let budget = budget();
        hopeless(&budget).await;
        succeed(&budget).await;
        assert!(hopeless(&budget).await.1 > Duration::from_secs(40));
    }

    #[tokio::test(start_paused = true)]
    async fn retries_are_earned_by_successes() {
        let budget = budget();
        for _ in 0..100 {
            succeed(&budget).await;
            hopeless(&budget).await;
        }
        succeed(&budget).await;
        assert_eq!(hopeless(&budget).await.0, 2, "the one that was earned");
    }
}
