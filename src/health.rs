//! Whether the worker is ready: what it needs answers, and it has not been asked to stop.

use crate::metrics::Metrics;
use futures::future::{BoxFuture, FutureExt, join_all};
use gravity_pipeline::loose::Marker;
use gravity_pipeline::queue::QueueIntake;
use gravity_pipeline::store::Store;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// Something that the worker needs.
pub struct Check {
    name: &'static str,
    ask: Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>,
}

impl Check {
    /// The store answers, and still is the store that was opened. `store` should not retry: whoever asks will. It is
    /// not kept from closing: who still asks at the end must not hold up its last words.
    pub fn of_store(store: &Arc<dyn Store>) -> Self {
        let store = Arc::downgrade(store);
        let ask = move || {
            let store = store.upgrade();
            async move {
                let Some(store) = store else { return Err("closed".into()) };
                match store.head(&Marker::key()).await {
                    Ok(Some(_)) => Ok(()),
                    Ok(None) => Err(format!("{} is gone from {}", Marker::key(), store.location())),
                    Err(e) => Err(e.to_string()),
                }
            }
            .boxed()
        };
        Self { name: "store", ask: Box::new(ask) }
    }

    /// The queue answers; its depth becomes a metric.
    pub fn of_queue(intake: Arc<QueueIntake>, metrics: Arc<Metrics>) -> Self {
        let ask = move || {
            let (intake, metrics) = (intake.clone(), metrics.clone());
            async move {
                let depth = intake.queue().depth().await.map_err(|e| e.to_string())?;
                metrics.queue_holds(&depth);
                Ok(())
            }
            .boxed()
        };
        Self { name: "queue", ask: Box::new(ask) }
    }

    async fn line(&self) -> Result<String, String> {
        let name = self.name;
        match tokio::time::timeout(PATIENCE, (self.ask)()).await {
            Ok(Ok(())) => Ok(format!("{name}: ok\n")),
            Ok(Err(reason)) => Err(format!("{name}: {reason}\n")),
            Err(_) => Err(format!("{name}: no answer within {} s\n", PATIENCE.as_secs())),
        }
    }
}

/// How long a check may take: less than a probe or a scrape waits.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long an answer is good: probes and scrapes together cost no more than one request in this time.
const GOOD_FOR: Duration = Duration::from_secs(2);

/// An answer to whether the worker is ready.
#[derive(Debug, Clone)]
pub struct Readiness {
    /// If it is.
    pub ready: bool,
    /// A line for each thing that it needs.
    pub text: String,
}

/// The health of this process.
pub struct Health {
    metrics: Arc<Metrics>,
    stop: CancellationToken,
    checks: OnceLock<Vec<Check>>,
    last: Mutex<Option<(Instant, Readiness)>>,
}

impl Health {
    /// Of a worker that is still starting; `stop` is cancelled when it is asked to end.
    pub fn new(metrics: Arc<Metrics>, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self { metrics, stop, checks: OnceLock::new(), last: Mutex::default() })
    }

    /// It has started, and needs these.
    pub fn started(&self, checks: Vec<Check>) {
        // It starts once.
        let _ = self.checks.set(checks);
    }

    /// Asks all that the worker needs.
    pub async fn readiness(&self) -> Readiness {
        let readiness = match (self.stop.is_cancelled(), self.checks.get()) {
            (true, _) => Readiness { ready: false, text: "stopping\n".into() },
            (false, None) => Readiness { ready: false, text: "starting\n".into() },
            (false, Some(checks)) => self.checked(checks).await,
        };
        self.metrics.is_ready(readiness.ready);
        readiness
    }

    async fn checked(&self, checks: &[Check]) -> Readiness {
        // Who comes while it is being asked waits for that answer.
        let mut last = self.last.lock().await;
        if let Some((_, readiness)) = last.as_ref().filter(|(at, _)| at.elapsed() < GOOD_FOR) {
            return readiness.clone();
        }
        let lines = join_all(checks.iter().map(Check::line)).await;
        let ready = lines.iter().all(Result::is_ok);
        let text = lines.into_iter().map(|line| line.unwrap_or_else(|line| line)).collect();
        let readiness = Readiness { ready, text };
        *last = Some((Instant::now(), readiness.clone()));
        readiness
    }

    /// Everything that is counted, as text, with readiness as of now.
    pub async fn metrics(&self) -> String {
        self.readiness().await;
        self.metrics.text()
    }
}
