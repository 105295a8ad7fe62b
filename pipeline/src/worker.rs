//! The long-running worker: new batches through the pipeline, several at a time, whatever happens to one of them.

use crate::error::{Error, Result};
use crate::index::{BatchKey, BatchReport, Committed};
use crate::intake::Intake;
use crate::loose::Paths;
use crate::pipeline::{Batch, Pipeline};
use crate::quarantine;
use crate::store::{Key, Meta, Store};
use futures::{Stream, StreamExt, TryStreamExt, future, stream};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Process what is there, then end.
    pub once: bool,
    /// Pause between two polls.
    pub poll_interval: Duration,
    /// Pause between two full passes.
    pub full_scan_interval: Duration,
    /// Batches in work at a time.
    pub max_concurrent: usize,
    /// How long batches in work may take once the worker is asked to stop.
    pub shutdown_grace: Duration,
}

/// What became of one batch.
#[derive(Debug)]
pub enum Outcome {
    /// In the store.
    Committed(BatchReport, Duration),
    /// Another worker was quicker, or it is in quarantine and unchanged.
    Settled,
    /// In quarantine, since now.
    Quarantined(Error),
    /// To be tried again later.
    Failed(Error),
}

/// Processes batches of one store.
pub struct Worker {
    store: Arc<dyn Store>,
    paths: Paths,
    pipeline: Pipeline,
    settings: WorkerSettings,
    memory: Mutex<Memory>,
    pass_failed: AtomicBool,
}

/// What need not be asked again.
#[derive(Default)]
struct Memory {
    in_work: HashSet<Key>,
    /// Batches in quarantine, by what tells their version.
    quarantined: HashMap<Key, Meta>,
    /// Batches that failed: how often, and when to try again.
    failed: HashMap<Key, (u32, Instant)>,
}

/// Entries of one of the tables at most: losing them costs requests, nothing else.
const REMEMBERED: usize = 100_000;

impl Worker {
    /// A worker on `store` with a pipeline into the same store.
    pub fn new(store: Arc<dyn Store>, paths: Paths, pipeline: Pipeline, settings: WorkerSettings) -> Arc<Self> {
        Arc::new(Self {
            store,
            paths,
            pipeline,
            settings,
            memory: Mutex::default(),
            pass_failed: AtomicBool::new(false),
        })
    }

    /// What becomes of each batch, until `stop` is cancelled and what is in work is finished or its grace is over;
    /// with `once`, until all that is there is done.
    pub fn run(self: &Arc<Self>, stop: CancellationToken) -> impl Stream<Item = (Key, Outcome)> + Send + use<> {
        let worker = self.clone();
        let grace = self.settings.shutdown_grace;
        let patience = stop.clone();
        self.found()
            .take_until(stop.cancelled_owned())
            .filter(move |raw| future::ready(worker.takes(raw)))
            .map({
                let worker = self.clone();
                move |raw| worker.clone().process_apart(raw)
            })
            .buffer_unordered(self.settings.max_concurrent)
            .take_until(async move {
                patience.cancelled().await;
                tokio::time::sleep(grace).await;
            })
    }

    /// Candidates, pass after pass. A pass that fails is logged, and the next one comes all the same.
    fn found(self: &Arc<Self>) -> impl Stream<Item = Meta> + Send + use<> {
        let worker = self.clone();
        let intake = Intake::new(self.store.clone(), self.paths.clone());
        let passes = stream::unfold((worker, None::<Instant>, true), move |(worker, last_full, first)| {
            let intake = intake.clone();
            async move {
                if !first {
                    if worker.settings.once {
                        return None;
                    }
                    tokio::time::sleep(worker.settings.poll_interval).await;
                }
                let full = last_full.is_none_or(|at| at.elapsed() >= worker.settings.full_scan_interval);
                if full {
                    // Someone may have taken entries out of quarantine.
                    worker.memory().quarantined.clear();
                }
                let pass = if full { intake.full_pass() } else { intake.poll() };
                let last_full = if full { Some(Instant::now()) } else { last_full };
                Some((pass, (worker, last_full, false)))
            }
        });
        let worker = self.clone();
        passes.flatten().filter_map(move |found| {
            let found = found.inspect_err(|error| {
                tracing::error!(%error, "looking for new batches failed");
                worker.pass_failed.store(true, Ordering::Relaxed);
            });
            future::ready(found.ok())
        })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // The tables are whole between any two statements that could panic.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if a pass could not list the store whole.
    pub fn a_pass_failed(&self) -> bool {
        self.pass_failed.load(Ordering::Relaxed)
    }

    /// Takes a candidate into work, unless it is already or need not be.
    fn takes(&self, raw: &Meta) -> bool {
        let mut memory = self.memory();
        let waits = memory.failed.get(&raw.key).is_some_and(|(_, again)| Instant::now() < *again);
        let same = memory.quarantined.get(&raw.key).is_some_and(|known| known == raw);
        !waits && !same && memory.in_work.insert(raw.key.clone())
    }

    /// Processes a batch as a task of its own: a panic in it is an outcome, and not the worker's end.
    async fn process_apart(self: Arc<Self>, raw: Meta) -> (Key, Outcome) {
        let key = raw.key.clone();
        let worker = self.clone();
        let task = AbortOnDropHandle::new(tokio::spawn(async move { worker.process(&raw).await }));
        let outcome = task.await.unwrap_or_else(|panic| Outcome::Failed(panic.into()));
        let mut memory = self.memory();
        memory.in_work.remove(&key);
        match &outcome {
            Outcome::Failed(_) => memory.note_failure(key.clone(), self.settings.poll_interval),
            _ => {
                memory.failed.remove(&key);
            }
        }
        drop(memory);
        (key, outcome)
    }

    async fn process(&self, raw: &Meta) -> Outcome {
        let started = Instant::now();
        match self.try_process(raw).await {
            Ok(Some(report)) => Outcome::Committed(report, started.elapsed()),
            Ok(None) => Outcome::Settled,
            Err(e) => Outcome::Failed(e),
        }
        .or_quarantine(self, raw)
        .await
    }

    async fn try_process(&self, raw: &Meta) -> Result<Option<BatchReport>> {
        if self.store.head(&self.paths.ledger(raw.key.as_str())).await?.is_some() {
            return Ok(None);
        }
        let quarantined = quarantine::read(&*self.store, &self.paths, raw.key.as_str()).await?;
        if quarantined.as_ref().is_some_and(|entry| quarantine::is_settled(entry, raw)) {
            self.memory().note_quarantined(raw);
            return Ok(None);
        }
        let Some(object) = self.store.get(&raw.key).await? else {
            tracing::warn!(batch = %raw.key, "gone before it could be read");
            return Ok(None);
        };
        let batch = Batch { key: BatchKey::Named(raw.key.to_string()), raw: object.body.map_err(Error::from).boxed() };
        let mut committed = std::pin::pin!(self.pipeline.run(batch));
        let mut report = None;
        while let Some(event) = committed.try_next().await? {
            if let Committed::Batch(done) = event {
                report = Some(done);
            }
        }
        if quarantined.is_some() {
            self.store.delete(&self.paths.quarantined(raw.key.as_str())).await?;
        }
        Ok(report)
    }
}

impl Outcome {
    /// Puts a batch that can never succeed into quarantine.
    async fn or_quarantine(self, worker: &Worker, raw: &Meta) -> Self {
        let Outcome::Failed(reason) = self else { return self };
        if !reason.is_permanent() {
            return Outcome::Failed(reason);
        }
        let put = async {
            let before = quarantine::read(&*worker.store, &worker.paths, raw.key.as_str()).await?;
            quarantine::put(&*worker.store, &worker.paths, raw, &reason, before.as_ref()).await
        };
        match put.await {
            Ok(()) => {
                worker.memory().note_quarantined(raw);
                Outcome::Quarantined(reason)
            }
            Err(e) => Outcome::Failed(e),
        }
    }
}

impl Memory {
    fn note_quarantined(&mut self, raw: &Meta) {
        if self.quarantined.len() >= REMEMBERED {
            self.quarantined.clear();
        }
        self.quarantined.insert(raw.key.clone(), raw.clone());
    }

    /// Each failure doubles the pause before the next try, from one poll to about ten minutes.
    fn note_failure(&mut self, key: Key, poll_interval: Duration) {
        if self.failed.len() >= REMEMBERED {
            self.failed.clear();
        }
        let (count, again) = self.failed.entry(key).or_insert((0, Instant::now()));
        *count += 1;
        let pause = poll_interval.max(Duration::from_millis(100)) * 2u32.saturating_pow((*count - 1).min(10));
        *again = Instant::now() + pause.min(Duration::from_secs(600));
    }
}
