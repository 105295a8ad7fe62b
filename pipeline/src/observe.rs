//! What the pipeline tells of itself while it works: how long each stage took, what the store answered, what became
//! of each batch. Metrics and traces are made of it; nothing here depends on how.

use crate::store::{ErrorKind, Meta, Operation};
use crate::worker::Outcome;
use futures::{Stream, StreamExt, stream};
use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Listens. Every method is called from many tasks at once and must return at once.
pub trait Observer: Debug + Send + Sync + 'static {
    /// A stage has worked on one item: see [`StageClock`].
    fn worked(&self, _stage: &'static str, _busy: Duration) {}

    /// The store has answered a request, or failed to; for a listing, one page of it. Each try counts.
    fn asked(&self, _operation: Operation, _failed: Option<ErrorKind>, _took: Duration) {}

    /// A worker has taken a batch into work.
    fn batch_began(&self, _raw: &Meta) {}

    /// The worker has done with it what it could, in so much time.
    fn batch_ended(&self, _raw: &Meta, _outcome: &Outcome, _took: Duration) {}

    /// A worker could not look for new batches: a listing failed, or a request for messages.
    fn intake_failed(&self) {}

    /// A message of the queue went into quarantine.
    fn message_quarantined(&self) {}
}

/// Nobody listens.
impl Observer for () {}

/// Times one stage of one batch. What is measured is work, never waiting for the stages before and behind.
#[derive(Debug, Clone)]
pub struct StageClock(Arc<Stage>);

#[derive(Debug)]
struct Stage {
    name: &'static str,
    observer: Arc<dyn Observer>,
    /// The stage's part of the batch's trace; it ends when the last clone of the clock is dropped.
    span: tracing::Span,
    busy_nanos: AtomicU64,
    items: AtomicU64,
}

impl StageClock {
    /// A clock for the stage of this name.
    pub fn new(name: &'static str, observer: Arc<dyn Observer>) -> Self {
        let span = tracing::info_span!(
            "stage",
            otel.name = name,
            busy_seconds = tracing::field::Empty,
            items = tracing::field::Empty
        );
        Self(Arc::new(Stage { name, observer, span, busy_nanos: AtomicU64::new(0), items: AtomicU64::new(0) }))
    }

    /// Times work on one item from its first step to its end, with the requests that it makes and waits for; work
    /// that fails or is cancelled is not told.
    pub fn time<F, T, E>(&self, work: F) -> impl Future<Output = Result<T, E>> + use<F, T, E>
    where
        F: Future<Output = Result<T, E>>,
    {
        let clock = self.clone();
        async move {
            let began = Instant::now();
            let done = work.await?;
            clock.0.worked(began.elapsed());
            Ok(done)
        }
    }

    /// Times a stream: for each item, the time that was spent in it and not waited.
    pub fn time_stream<S>(&self, stream: S) -> impl Stream<Item = S::Item> + Send + use<S>
    where
        S: Stream + Send + 'static,
    {
        let clock = self.clone();
        let mut stream: Pin<Box<dyn Stream<Item = S::Item> + Send>> = Box::pin(stream);
        let mut busy = Duration::ZERO;
        stream::poll_fn(move |context| {
            let began = Instant::now();
            let polled = stream.poll_next_unpin(context);
            busy += began.elapsed();
            if let std::task::Poll::Ready(Some(_)) = polled {
                clock.0.worked(std::mem::take(&mut busy));
            }
            polled
        })
    }
}

/// A clock that nobody looks at.
impl Default for StageClock {
    fn default() -> Self {
        Self::new("unnamed", Arc::new(()))
    }
}

impl Stage {
    fn worked(&self, busy: Duration) {
        self.busy_nanos.fetch_add(busy.as_nanos() as u64, Ordering::Relaxed);
        self.items.fetch_add(1, Ordering::Relaxed);
        self.observer.worked(self.name, busy);
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let busy = Duration::from_nanos(self.busy_nanos.load(Ordering::Relaxed));
        self.span.record("busy_seconds", busy.as_secs_f64());
        self.span.record("items", signed(self.items.load(Ordering::Relaxed)));
    }
}

/// A number as traces have it: an unsigned one would become a string.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Debug, Default)]
    struct Heard(Mutex<Vec<(&'static str, Duration)>>);

    impl Observer for Heard {
        fn worked(&self, stage: &'static str, busy: Duration) {
            self.0.lock().unwrap().push((stage, busy));
        }
    }

    #[tokio::test]
    async fn a_stream_is_busy_while_it_works_and_not_while_it_waits() {
        let heard = Arc::new(Heard::default());
        let items = stream::iter(0..3).then(|n| async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            std::thread::sleep(Duration::from_millis(20));
            n
        });
        let timed = StageClock::new("decompress", heard.clone()).time_stream(items);
        assert_eq!(timed.collect::<Vec<_>>().await, [0, 1, 2]);
        let heard = heard.0.lock().unwrap();
        assert_eq!(heard.len(), 3);
        for (stage, busy) in heard.iter() {
            assert_eq!(*stage, "decompress");
            assert!((20..150).contains(&busy.as_millis()), "{busy:?}");
        }
    }

    #[tokio::test]
    async fn work_that_fails_is_not_told() {
        let heard = Arc::new(Heard::default());
        let clock = StageClock::new("upload", heard.clone());
        assert_eq!(clock.time(async { Err::<(), _>("no") }).await, Err("no"));
        assert_eq!(clock.time(async { Ok::<_, &str>(1) }).await, Ok(1));
        assert_eq!(heard.0.lock().unwrap().len(), 1);
    }
}
