//! The long-running worker: new batches through the pipeline, several at a time, whatever happens to one of them.

mod memory;
mod outcome;
mod raw;

pub use outcome::{Ended, NothingToDo, Outcome};

use crate::error::{Error, Result};
use crate::index::{BatchKey, Committed};
use crate::intake::Intake;
use crate::loose::Paths;
use crate::pipeline::{Batch, Pipeline};
use crate::quarantine;
use crate::queue::QueueIntake;
use crate::queue::held::Settled;
use crate::store::{Key, Meta, Store};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, future, stream};
use memory::Memory;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

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
    /// Raw files are deleted once they are committed. Only for a pipeline that reads back what it wrote.
    pub delete_raw: bool,
    /// Where the worker is told of new batches, so that it need not poll.
    pub events: Option<Events>,
}

/// A queue that tells of new batches.
#[derive(Debug, Clone)]
pub struct Events {
    /// The queue.
    pub intake: Arc<QueueIntake>,
    /// Pause between two full passes, which find what the queue did not tell of.
    pub reconcile_interval: Duration,
}

/// A batch to look at.
enum Candidate {
    /// A listing found it, and the ledger did not have it.
    Listed(Meta),
    /// A message names it, or it failed a while ago.
    Named(Key),
}

/// Processes batches of one store.
pub struct Worker {
    store: Arc<dyn Store>,
    paths: Paths,
    pipeline: Pipeline,
    settings: WorkerSettings,
    memory: Mutex<Memory>,
    pass_failed: AtomicBool,
    last_pass_failed: AtomicBool,
}

/// With a queue, the pause after a full pass that broke off.
const PASS_AGAIN: Duration = Duration::from_secs(60);
/// Messages acknowledged at a time.
const ACKNOWLEDGED: usize = 16;

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
            last_pass_failed: AtomicBool::new(false),
        })
    }

    /// What becomes of each batch, until `stop` is cancelled and what is in work is finished or its grace is over;
    /// with `once`, until all that is there is done.
    pub fn run(self: &Arc<Self>, stop: CancellationToken) -> impl Stream<Item = Ended> + Send + use<> {
        let worker = self.clone();
        let grace = self.settings.shutdown_grace;
        self.hurry_once_stopped(stop.clone());
        let patience = stop.clone();
        let outcomes = self
            .found(&stop)
            .take_until(stop.cancelled_owned())
            .filter(move |candidate| future::ready(worker.takes(candidate)))
            .map({
                let worker = self.clone();
                move |candidate| worker.clone().look_and_process(candidate)
            })
            .buffer_unordered(self.settings.max_concurrent)
            .take_until(async move {
                patience.cancelled().await;
                tokio::time::sleep(grace).await;
            });
        self.acknowledged(outcomes)
    }

    /// Batches that wait for others to come into their flush wait no longer once no others come.
    fn hurry_once_stopped(self: &Arc<Self>, stop: CancellationToken) {
        let worker = Arc::downgrade(self);
        tokio::spawn(async move {
            stop.cancelled().await;
            if let Some(worker) = worker.upgrade() {
                worker.pipeline.hurry().await;
            }
        });
    }

    /// Tells the queue of each outcome, and gives back what is left at the end.
    fn acknowledged<S>(self: &Arc<Self>, outcomes: S) -> BoxStream<'static, Ended>
    where
        S: Stream<Item = Ended> + Send + 'static,
    {
        let Some(events) = &self.settings.events else { return outcomes.boxed() };
        let (worker, intake, left) = (self.clone(), events.intake.clone(), events.intake.clone());
        let end = stream::once(async move { left.release().await }).filter_map(|()| future::ready(None));
        outcomes
            .map(move |ended| {
                let (settled, intake) = (worker.settled(&ended.raw.key, &ended.outcome), intake.clone());
                async move {
                    intake.settle(&ended.raw.key, settled).await;
                    ended
                }
            })
            .buffer_unordered(ACKNOWLEDGED)
            .chain(end)
            .boxed()
    }

    /// What an outcome means for the messages that name the batch.
    fn settled(&self, key: &Key, outcome: &Outcome) -> Settled {
        let mut memory = self.memory();
        let was_named_again = memory.named_again.remove(key);
        match outcome {
            Outcome::Committed(..) => Settled::Done,
            // It may have been replaced since it was looked at: whoever receives the message looks again.
            Outcome::Settled(_) | Outcome::Quarantined(_) if was_named_again => Settled::Again(Duration::ZERO),
            Outcome::Settled(_) | Outcome::Quarantined(_) => Settled::Done,
            Outcome::Failed(_) => Settled::Again(memory.pause_of(key)),
        }
    }

    /// Candidates from all sources.
    fn found(self: &Arc<Self>, stop: &CancellationToken) -> BoxStream<'static, Candidate> {
        let passes = self.passes().map(Candidate::Listed);
        let Some(events) = &self.settings.events else { return passes.boxed() };
        let named = events.intake.batches(stop.clone()).map(Candidate::Named);
        let failed = self.failed().map(Candidate::Named);
        stream::select_all([passes.boxed(), named.boxed(), failed.boxed()]).boxed()
    }

    /// What listings find, pass after pass. A pass that fails is logged, and the next one comes all the same.
    fn passes(self: &Arc<Self>) -> impl Stream<Item = Meta> + Send + use<> {
        let worker = self.clone();
        let intake = Intake::new(self.store.clone(), self.paths.clone(), self.pipeline.done());
        let intake = intake.with_done(self.settings.delete_raw);
        let passes = stream::unfold((worker, None::<Instant>, true), move |(worker, last_full, first)| {
            let intake = intake.clone();
            async move {
                if !first {
                    if worker.settings.once {
                        return None;
                    }
                    tokio::time::sleep(worker.pause_between_passes()).await;
                }
                let full = worker.settings.events.is_some()
                    || last_full.is_none_or(|at| at.elapsed() >= worker.settings.full_scan_interval);
                if full {
                    // Someone may have taken entries out of quarantine.
                    worker.memory().quarantined.clear();
                }
                if let Some(events) = &worker.settings.events {
                    events.intake.reconsider().await;
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
                worker.last_pass_failed.store(true, Ordering::Relaxed);
                worker.pipeline.observer().intake_failed();
            });
            future::ready(found.ok())
        })
    }

    fn pause_between_passes(&self) -> Duration {
        let failed = self.last_pass_failed.swap(false, Ordering::Relaxed);
        match &self.settings.events {
            None => self.settings.poll_interval,
            Some(events) if failed => events.reconcile_interval.min(PASS_AGAIN),
            Some(events) => events.reconcile_interval,
        }
    }

    /// Batches that failed, when it is time to try them again: nobody may name them soon, and the next full pass is
    /// far away.
    fn failed(self: &Arc<Self>) -> impl Stream<Item = Key> + Send + use<> {
        let worker = self.clone();
        let due = stream::unfold(worker, |worker| async move {
            tokio::time::sleep(worker.settings.poll_interval).await;
            let due = worker.memory().due();
            Some((stream::iter(due), worker))
        });
        due.flatten()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // The tables are whole between any two statements that could panic.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if a pass could not list the store whole.
    pub fn a_pass_failed(&self) -> bool {
        self.pass_failed.load(Ordering::Relaxed)
    }

    /// Batches in work: once the worker has ended, those that it gave up when its grace was over.
    pub fn in_work(&self) -> Vec<Key> {
        let mut in_work: Vec<_> = self.memory().in_work.iter().cloned().collect();
        in_work.sort_unstable();
        in_work
    }

    /// Takes a candidate into work, unless it is already or need not be.
    fn takes(&self, candidate: &Candidate) -> bool {
        let mut memory = self.memory();
        let key = match candidate {
            Candidate::Listed(raw) => {
                let waits = memory.failed.get(&raw.key).is_some_and(|(_, again)| Instant::now() < *again);
                let is_known = |known: Option<&Meta>| known.is_some_and(|known| known == raw);
                if waits || is_known(memory.quarantined.get(&raw.key)) || is_known(memory.kept.get(&raw.key)) {
                    return false;
                }
                &raw.key
            }
            Candidate::Named(key) if memory.in_work.contains(key) => {
                memory.named_again.insert(key.clone());
                return false;
            }
            Candidate::Named(key) => key,
        };
        memory.in_work.insert(key.clone())
    }

    async fn look_and_process(self: Arc<Self>, candidate: Candidate) -> Ended {
        let key = match candidate {
            Candidate::Listed(raw) => return self.process_apart(raw).await,
            Candidate::Named(key) => key,
        };
        let outcome = match self.look(&key).await {
            Ok(Some(raw)) => return self.process_apart(raw).await,
            Ok(None) => Outcome::Settled(NothingToDo::Gone),
            Err(e) => Outcome::Failed(e),
        };
        let raw = Meta { key, size: 0, etag: None, modified: None };
        self.pipeline.observer().batch_began(&raw);
        self.ended(raw, outcome, Duration::ZERO)
    }

    /// A batch is no longer in work.
    fn ended(&self, raw: Meta, outcome: Outcome, took: Duration) -> Ended {
        self.pipeline.observer().batch_ended(&raw, &outcome, took);
        self.memory().note_end(&raw.key, &outcome, self.settings.poll_interval);
        Ended { raw, outcome, took }
    }

    /// Looks at a batch that was named. What others have stored meanwhile is learnt first, as a listing would: so a
    /// message that comes again is free.
    async fn look(&self, key: &Key) -> Result<Option<Meta>> {
        self.pipeline.done().refresh().await?;
        Ok(self.store.head(key).await?)
    }

    /// Processes a batch as a task of its own: a panic in it is an outcome, and not the worker's end.
    async fn process_apart(self: Arc<Self>, raw: Meta) -> Ended {
        let began = Instant::now();
        self.pipeline.observer().batch_began(&raw);
        let span = outcome::batch_span(&raw.key);
        let task = {
            let (worker, raw) = (self.clone(), raw.clone());
            async move { worker.process(&raw).await }
        };
        let task = AbortOnDropHandle::new(tokio::spawn(task.instrument(span.clone())));
        let outcome = task.await.unwrap_or_else(|panic| Outcome::Failed(panic.into()));
        outcome.record(&span);
        self.ended(raw, outcome, began.elapsed())
    }

    async fn process(&self, raw: &Meta) -> Outcome {
        match self.try_process(raw).await {
            Ok(outcome) => outcome,
            Err(reason) if reason.is_permanent() => self.quarantined(raw, reason).await,
            Err(reason) => Outcome::Failed(reason),
        }
    }

    async fn try_process(&self, raw: &Meta) -> Result<Outcome> {
        let is_done = self.pipeline.done().has(raw.key.as_str()).await?;
        if is_done && (!self.settings.delete_raw || self.delete_done(raw).await?) {
            return Ok(Outcome::Settled(NothingToDo::Stored));
        }
        let quarantined = quarantine::read(&*self.store, &self.paths, raw.key.as_str()).await?;
        if quarantined.as_ref().is_some_and(|entry| quarantine::is_settled(entry, raw)) {
            self.memory().note_quarantined(raw);
            return Ok(Outcome::Settled(NothingToDo::InQuarantine));
        }
        let Some(object) = self.store.get(&raw.key).await? else {
            return Ok(Outcome::Settled(NothingToDo::Gone));
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
        let report = report.ok_or_else(|| Error::Lost(format!("batch {}: its pipeline ended early", raw.key)))?;
        if self.settings.delete_raw {
            self.delete_raw(raw, &report.entry.raw_blake3).await?;
        }
        Ok(Outcome::Committed(report))
    }

    /// Puts a batch that can never succeed into quarantine.
    async fn quarantined(&self, raw: &Meta, reason: Error) -> Outcome {
        let put = async {
            let before = quarantine::read(&*self.store, &self.paths, raw.key.as_str()).await?;
            quarantine::put(&*self.store, &self.paths, raw, &reason, before.as_ref()).await
        };
        match put.await {
            Ok(()) => {
                self.memory().note_quarantined(raw);
                Outcome::Quarantined(reason)
            }
            Err(e) => Outcome::Failed(e),
        }
    }
}
