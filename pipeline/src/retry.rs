//! The only module that knows `backoff`, which is unmaintained (RUSTSEC-2025-0012): whoever replaces it does it here.

use backoff::ExponentialBackoffBuilder;
use std::time::Duration;

/// How long to go on trying.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The first pause; each next one is about twice the last, give or take half of it at random.
    pub initial: Duration,
    /// No pause is longer.
    pub max_interval: Duration,
    /// After this long from the first attempt the last error stands.
    pub max_elapsed: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(100),
            max_interval: Duration::from_secs(10),
            max_elapsed: Duration::from_secs(60),
        }
    }
}

/// Whoever watches wants to know why nothing happens for so long.
const WORTH_TELLING: Duration = Duration::from_secs(1);

/// Runs `attempt` until it succeeds, fails with what is not `transient`, or the policy's time is used up.
pub async fn retry<T, E, F>(
    policy: &Policy,
    transient: impl Fn(&E) -> bool,
    mut attempt: impl FnMut() -> F,
) -> Result<T, E>
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let schedule = ExponentialBackoffBuilder::new()
        .with_initial_interval(policy.initial)
        .with_multiplier(2.0)
        .with_max_interval(policy.max_interval)
        .with_max_elapsed_time(Some(policy.max_elapsed))
        .build();
    let notify = |error: E, pause: Duration| match pause < WORTH_TELLING {
        true => tracing::debug!(%error, ?pause, "trying again"),
        false => tracing::warn!(%error, ?pause, "trying again"),
    };
    backoff::future::retry_notify(
        schedule,
        || {
            let attempt = attempt();
            async {
                attempt.await.map_err(|e| {
                    if transient(&e) { backoff::Error::transient(e) } else { backoff::Error::permanent(e) }
                })
            }
        },
        notify,
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const QUICK: Policy = Policy {
        initial: Duration::from_millis(1),
        max_interval: Duration::from_millis(4),
        max_elapsed: Duration::from_millis(200),
    };

    #[tokio::test]
    async fn a_transient_failure_is_tried_again_until_it_succeeds() {
        let tries = Cell::new(0);
        let result = retry(
            &QUICK,
            |_: &&str| true,
            || {
                tries.set(tries.get() + 1);
                let n = tries.get();
                async move { if n < 3 { Err("later") } else { Ok(n) } }
            },
        );
        assert_eq!(result.await, Ok(3));
    }

    #[tokio::test]
    async fn what_cannot_succeed_is_tried_once() {
        let tries = Cell::new(0);
        let result: Result<(), _> = retry(
            &QUICK,
            |_: &&str| false,
            || {
                tries.set(tries.get() + 1);
                async { Err("never") }
            },
        )
        .await;
        assert_eq!((result, tries.get()), (Err("never"), 1));
    }

    #[tokio::test]
    async fn the_last_error_stands_when_the_time_is_used_up() {
        let result: Result<(), _> = retry(&QUICK, |_: &&str| true, || async { Err("still") }).await;
        assert_eq!(result, Err("still"));
    }
}
