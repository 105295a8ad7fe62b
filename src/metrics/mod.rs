//! What the worker counts, as Prometheus reads it. `docs/metrics.md` tells operators what each metric means; a test
//! holds the two together.

mod process;
mod quarantine;
mod text;

use gravity_pipeline::observe::Observer;
use gravity_pipeline::queue::Depth;
use gravity_pipeline::store::{ErrorKind, Key, Meta, Operation};
use gravity_pipeline::worker::Outcome;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};
use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use quarantine::Quarantined;
pub use quarantine::watch_quarantine;
pub use text::CONTENT_TYPE;

type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Gauges = Family<Labels<1>, Gauge>;
type Seconds = Gauge<f64, AtomicU64>;
type Histograms = Family<Labels<1>, Histogram>;

/// A block takes a millisecond or so, an upload of one some round trips.
const STAGE_BUCKETS: [f64; 12] = [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
const REQUEST_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];
const BATCH_BUCKETS: [f64; 12] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0, 1800.0];
const LAG_BUCKETS: [f64; 14] =
    [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0];

/// All metrics of one process.
#[derive(Debug)]
pub struct Metrics {
    batches: Counters<1>,
    batch_duration: Histogram,
    batch_lag: Histogram,
    in_flight: Gauge,
    oldest_age: Seconds,
    last_commit: Seconds,
    raw_bytes: Counter,
    document_bytes: Counter,
    content_bytes: Counter,
    stored_bytes: Counters<1>,
    dedupe_ratio: Seconds,
    chunks: Counters<1>,
    records: Counters<1>,
    requests: Counters<2>,
    request_duration: Histograms,
    stage_duration: Histograms,
    intake_errors: Counter,
    messages_quarantined: Counter,
    quarantine: Gauges,
    queue: Gauges,
    ready: Gauge,
    process: process::Process,
    unfinished: Mutex<Unfinished>,
    forget_after: Duration,
    registry: Registry,
}

/// Batches in work or to be tried again, with the time they were written.
#[derive(Debug, Default)]
struct Unfinished {
    in_work: usize,
    tried: HashMap<Key, Tried>,
}

#[derive(Debug)]
struct Tried {
    written: SystemTime,
    /// Since when it waits for another try; `None` while it is in work.
    waits_since: Option<Instant>,
}

/// A worker remembers no more of them either.
const REMEMBERED: usize = 100_000;

impl Metrics {
    /// All at zero. A batch that failed and was not tried again for `forget_after` is no longer there, or another
    /// worker has it.
    pub fn new(forget_after: Duration) -> Self {
        let mut new = Registration(Registry::with_prefix("gravity"));
        let info = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        new.add("build", "The running program", info);
        let metrics = Self {
            batches: new.of("batches", "Batches by what became of them; one that failed is tried again"),
            batch_duration: new.histogram(
                "batch_duration_seconds",
                "Committed batches, from taken to done",
                BATCH_BUCKETS,
            ),
            batch_lag: new.histogram("batch_lag_seconds", "From a batch's LastModified to its commit", LAG_BUCKETS),
            in_flight: new.of("batches_in_flight", "Batches in work now"),
            oldest_age: new.of(
                "oldest_batch_age_seconds",
                "Since LastModified of the oldest batch in work or to be tried again; 0 if there is none",
            ),
            last_commit: new.of("last_commit_timestamp_seconds", "When a batch was last committed; 0 before the first"),
            raw_bytes: new.of("raw_bytes", "Bytes of committed batches as they came"),
            document_bytes: new.of("document_bytes", "Bytes of committed batches after decompression"),
            content_bytes: new.of("content_bytes", "Bytes of content in committed batches"),
            stored_bytes: new
                .of("stored_bytes", "Bytes written for committed batches; an index that is written again counts again"),
            dedupe_ratio: new.of("dedupe_ratio", "Content bytes for each byte of blobs written, since the start"),
            chunks: new.of("chunks", "Chunks of committed batches, repeats included: written now, or known already"),
            records: new.of("records", "Records of committed batches by kind"),
            requests: new.of("store_requests", "Requests to the store, each try and each page of a listing"),
            request_duration: new.histograms(
                "store_request_duration_seconds",
                "One request to the store, to the beginning of the answer's body for get",
                || Histogram::new(REQUEST_BUCKETS),
            ),
            stage_duration: new.histograms(
                "stage_duration_seconds",
                "A stage's work on one item, without waiting for other stages",
                || Histogram::new(STAGE_BUCKETS),
            ),
            intake_errors: new.of("intake_errors", "Looks for new batches that failed, listings or messages"),
            messages_quarantined: new.of("messages_quarantined", "Messages of the queue put into quarantine"),
            quarantine: new
                .of("quarantine_objects", "Objects in quarantine at the last look, at most 10000 are counted"),
            queue: new.of("queue_messages", "Messages in the queue, as nearly as it knows"),
            ready: new.of("ready", "1 if /readyz says so, else 0"),
            process: process::Process::new(),
            unfinished: Mutex::default(),
            forget_after,
            registry: new.0,
        };
        // What can be counted is there from the start, so that the first one is an increase.
        for outcome in ["committed", "settled", "quarantined", "failed"] {
            drop(metrics.batches.get_or_create(&[("outcome", outcome)]));
        }
        for kind in ["blob", "index"] {
            drop(metrics.stored_bytes.get_or_create(&[("kind", kind)]));
        }
        for result in ["new", "known"] {
            drop(metrics.chunks.get_or_create(&[("result", result)]));
        }
        for kind in ["span", "stray", "unrelated"] {
            drop(metrics.records.get_or_create(&[("kind", kind)]));
        }
        for operation in Operation::ALL {
            for status in ["ok", ErrorKind::Transient.name()] {
                drop(metrics.requests.get_or_create(&[("operation", operation.name()), ("status", status)]));
            }
            drop(metrics.request_duration.get_or_create(&[("operation", operation.name())]));
        }
        metrics
    }

    /// Everything as text.
    pub fn text(&self) -> String {
        let mut unfinished = lock(&self.unfinished);
        self.in_flight.set(unfinished.in_work as i64);
        unfinished.tried.retain(|_, tried| tried.waits_since.is_none_or(|since| since.elapsed() < self.forget_after));
        let oldest = unfinished.tried.values().map(|tried| tried.written).min();
        drop(unfinished);
        self.oldest_age.set(oldest.map_or(0.0, seconds_since));
        let blobs = self.stored_bytes.get_or_create(&[("kind", "blob")]).get();
        if blobs > 0 {
            self.dedupe_ratio.set(self.content_bytes.get() as f64 / blobs as f64);
        }
        let mut text = text::of(&self.registry);
        text.push_str(&self.process.text());
        text
    }

    /// Takes what a look into quarantine found.
    pub fn quarantine_holds(&self, held: Quarantined) {
        for (kind, count) in [("batch", held.batches), ("records", held.records), ("message", held.messages)] {
            self.quarantine.get_or_create(&[("kind", kind)]).set(count as i64);
        }
    }

    /// Takes what the queue says of itself.
    pub fn queue_holds(&self, depth: &Depth) {
        let states = [("visible", depth.visible), ("in_flight", depth.in_flight), ("delayed", depth.delayed)];
        for (state, count) in states {
            self.queue.get_or_create(&[("state", state)]).set(count as i64);
        }
    }

    /// Takes what `/readyz` says.
    pub fn is_ready(&self, ready: bool) {
        self.ready.set(ready.into());
    }

    /// What was put into quarantine so far.
    pub fn quarantined(&self) -> u64 {
        self.batches.get_or_create(&[("outcome", "quarantined")]).get()
            + self.records.get_or_create(&[("kind", "stray")]).get()
            + self.messages_quarantined.get()
    }
}

impl Observer for Metrics {
    fn worked(&self, stage: &'static str, busy: Duration) {
        self.stage_duration.get_or_create(&[("stage", stage)]).observe(busy.as_secs_f64());
    }

    fn asked(&self, operation: Operation, failed: Option<ErrorKind>, took: Duration) {
        let status = failed.map_or("ok", ErrorKind::name);
        self.requests.get_or_create(&[("operation", operation.name()), ("status", status)]).inc();
        self.request_duration.get_or_create(&[("operation", operation.name())]).observe(took.as_secs_f64());
    }

    fn batch_began(&self, raw: &Meta) {
        let mut unfinished = lock(&self.unfinished);
        unfinished.in_work += 1;
        if let Some(written) = raw.modified.filter(|_| unfinished.tried.len() < REMEMBERED) {
            unfinished.tried.insert(raw.key.clone(), Tried { written, waits_since: None });
        }
    }

    fn batch_ended(&self, raw: &Meta, outcome: &Outcome, took: Duration) {
        let mut unfinished = lock(&self.unfinished);
        unfinished.in_work = unfinished.in_work.saturating_sub(1);
        match outcome {
            Outcome::Failed(_) => {
                if let Some(tried) = unfinished.tried.get_mut(&raw.key) {
                    tried.waits_since = Some(Instant::now());
                }
            }
            _ => {
                unfinished.tried.remove(&raw.key);
            }
        }
        drop(unfinished);
        if let Outcome::Committed(report) = outcome {
            let (sums, upload) = (&report.entry.sums, &report.upload);
            self.raw_bytes.inc_by(sums.raw_bytes);
            self.document_bytes.inc_by(sums.document_bytes);
            self.content_bytes.inc_by(sums.content_bytes);
            self.stored_bytes.get_or_create(&[("kind", "blob")]).inc_by(upload.new_bytes);
            self.stored_bytes.get_or_create(&[("kind", "index")]).inc_by(report.index_bytes);
            self.chunks.get_or_create(&[("result", "new")]).inc_by(upload.new_blobs);
            self.chunks.get_or_create(&[("result", "known")]).inc_by(sums.chunks.saturating_sub(upload.new_blobs));
            self.records.get_or_create(&[("kind", "span")]).inc_by(sums.spans);
            self.records.get_or_create(&[("kind", "stray")]).inc_by(sums.strays);
            self.records.get_or_create(&[("kind", "unrelated")]).inc_by(sums.unrelated);
            self.batch_duration.observe(took.as_secs_f64());
            if let Some(modified) = raw.modified {
                self.batch_lag.observe(seconds_since(modified));
            }
            self.last_commit.set(seconds_since(SystemTime::UNIX_EPOCH));
        }
        // Last: whoever sees the batch counted sees all that belongs to it.
        self.batches.get_or_create(&[("outcome", outcome.name())]).inc();
    }

    fn intake_failed(&self) {
        self.intake_errors.inc();
    }

    fn message_quarantined(&self) {
        self.messages_quarantined.inc();
    }
}

/// Clocks of two machines differ: less than nothing is nothing.
fn seconds_since(time: SystemTime) -> f64 {
    time.elapsed().unwrap_or_default().as_secs_f64()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What they guard is whole between any two statements that could panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes metrics and enters them.
struct Registration(Registry);

impl Registration {
    fn add<M: Metric>(&mut self, name: &str, help: &str, metric: M) {
        self.0.register(name, help, metric);
    }

    fn of<M: Metric + Default + Clone>(&mut self, name: &str, help: &str) -> M {
        let metric = M::default();
        self.add(name, help, metric.clone());
        metric
    }

    fn histogram(&mut self, name: &str, help: &str, buckets: impl IntoIterator<Item = f64>) -> Histogram {
        let histogram = Histogram::new(buckets);
        self.add(name, help, histogram.clone());
        histogram
    }

    fn histograms(&mut self, name: &str, help: &str, new: fn() -> Histogram) -> Histograms {
        let family = Histograms::new_with_constructor(new);
        self.add(name, help, family.clone());
        family
    }
}
