//! The long-running worker: new batches through the pipeline, several at a time, whatever happens to one of them.

use crate::error::{Error, Result};
use crate::index::{BatchKey, BatchReport, Committed};
use crate::intake::Intake;
use crate::loose::Paths;
use crate::observe::signed;
use crate::packed::prove::Stored;
use crate::pipeline::{Batch, Pipeline};
use crate::quarantine;
use crate::queue::QueueIntake;
use crate::queue::held::Settled;
use crate::store::{Key, Meta, Store};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, future, stream};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::field::Empty;
use tracing::{Instrument, Span};

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

/// A batch that the worker has done with, for now.
#[derive(Debug)]
pub struct Ended {
    /// The raw file; its size is 0 where it was not there.
    pub raw: Meta,
    /// What became of it.
    pub outcome: Outcome,
    /// How long it was in work.
    pub took: Duration,
}

/// What became of one batch.
#[derive(Debug)]
pub enum Outcome {
    /// In the store.
    Committed(BatchReport),
    /// There was nothing to do.
    Settled(NothingToDo),
    /// In quarantine, since now.
    Quarantined(Error),
    /// To be tried again later.
    Failed(Error),
}

/// Why there was nothing to do for a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NothingToDo {
    /// Another worker was quicker, or its message came again.
    Stored,
    /// It is in quarantine, and unchanged.
    InQuarantine,
    /// There is no such object.
    Gone,
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

/// What need not be asked again.
#[derive(Default)]
struct Memory {
    in_work: HashSet<Key>,
    /// Batches that were named once more while they were in work.
    named_again: HashSet<Key>,
    /// Batches in quarantine, by what tells their version.
    quarantined: HashMap<Key, Meta>,
    /// Raw files that are not what is stored of them, by what tells their version: not to be compared again.
    kept: HashMap<Key, Meta>,
    /// Batches that failed: how often, and when to try again.
    failed: HashMap<Key, (u32, Instant)>,
}

/// Entries of one of the tables at most: losing them costs requests, nothing else.
const REMEMBERED: usize = 100_000;
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
        let span = batch_span(&raw.key);
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
        self.try_process(raw).await.unwrap_or_else(Outcome::Failed).or_quarantine(self, raw).await
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
}

/// Raw files go when what was made of them has been read back, and they are what it was made of.
impl Worker {
    /// Deletes the raw file of a batch that was stored and read back a moment ago. It is read once more: it may have been
    /// replaced by another of the same size, and not every store has a tag that would tell.
    async fn delete_raw(&self, raw: &Meta, raw_blake3: &str) -> Result<()> {
        let Some(mut object) = self.store.get(&raw.key).await? else { return Ok(()) };
        let mut hasher = blake3::Hasher::new();
        while let Some(piece) = object.body.try_next().await? {
            hasher.update(&piece);
        }
        match raw_blake3 == hasher.finalize().to_hex().as_str() {
            true => self.delete_version(&object.meta).await,
            false => {
                self.keep(raw, "replaced since it was read: not deleted");
                Ok(())
            }
        }
    }

    /// Deletes the raw file of a batch that was done before, by whomever: one that died before it could, or that was not
    /// asked to. False if what is stored cannot be restored: then it is to be stored again.
    async fn delete_done(&self, raw: &Meta) -> Result<bool> {
        let Some(object) = self.store.get(&raw.key).await? else { return Ok(true) };
        let read = object.meta;
        match self.pipeline.compare(raw.key.as_str(), object.body.map_err(Error::from).boxed()).await? {
            Stored::Same => self.delete_version(&read).await.map(|()| true),
            Stored::Other => {
                self.keep(raw, "not what is stored under its name: not deleted, and not stored either");
                Ok(true)
            }
            Stored::Broken(e) => {
                tracing::error!(batch = %raw.key, "was stored and cannot be restored, and is stored again: {e}");
                Ok(false)
            }
        }
    }

    /// Deletes an object if it is still the version that was read. It could only be replaced unseen between these two
    /// requests; the collector never writes a key twice.
    async fn delete_version(&self, read: &Meta) -> Result<()> {
        match self.store.head(&read.key).await? {
            Some(now) if now == *read => Ok(self.store.delete(&read.key).await?),
            Some(_) => {
                tracing::warn!(batch = %read.key, "replaced while it was compared: not deleted");
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn keep(&self, raw: &Meta, why: &str) {
        tracing::warn!(batch = %raw.key, "{why}");
        self.memory().note_kept(raw);
    }
}

/// A batch's trace: the stages' spans are below it.
fn batch_span(batch: &Key) -> Span {
    tracing::info_span!(
        "batch",
        otel.name = "batch",
        otel.status_code = Empty,
        otel.status_description = Empty,
        %batch,
        outcome = Empty,
        raw_bytes = Empty,
        content_bytes = Empty,
        spans = Empty,
        new_blobs = Empty,
        new_bytes = Empty,
    )
}

impl Outcome {
    /// One word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Committed(..) => "committed",
            Outcome::Settled(_) => "settled",
            Outcome::Quarantined(_) => "quarantined",
            Outcome::Failed(_) => "failed",
        }
    }

    fn record(&self, span: &Span) {
        span.record("outcome", self.name());
        match self {
            Outcome::Committed(report) => {
                span.record("raw_bytes", signed(report.entry.sums.raw_bytes));
                span.record("content_bytes", signed(report.entry.sums.content_bytes));
                span.record("spans", signed(report.entry.sums.spans));
                span.record("new_blobs", signed(report.upload.new_blobs));
                span.record("new_bytes", signed(report.upload.new_bytes));
            }
            Outcome::Settled(_) => {}
            Outcome::Quarantined(error) | Outcome::Failed(error) => {
                span.record("otel.status_code", "ERROR");
                span.record("otel.status_description", error.to_string());
            }
        }
    }

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

    fn note_kept(&mut self, raw: &Meta) {
        if self.kept.len() >= REMEMBERED {
            self.kept.clear();
        }
        self.kept.insert(raw.key.clone(), raw.clone());
    }

    fn note_end(&mut self, key: &Key, outcome: &Outcome, poll_interval: Duration) {
        self.in_work.remove(key);
        match outcome {
            Outcome::Failed(_) => self.note_failure(key.clone(), poll_interval),
            _ => {
                self.failed.remove(key);
            }
        }
    }

    /// How long a batch that failed should still wait.
    fn pause_of(&self, key: &Key) -> Duration {
        self.failed.get(key).map_or(Duration::ZERO, |(_, again)| again.saturating_duration_since(Instant::now()))
    }

    /// Batches that failed and have waited long enough.
    fn due(&self) -> Vec<Key> {
        let now = Instant::now();
        let due = self.failed.iter().filter(|(key, (_, again))| *again <= now && !self.in_work.contains(*key));
        due.map(|(key, _)| key.clone()).collect()
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
