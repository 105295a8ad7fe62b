//! Stage 4, the sink: what several batches came to goes into the store in one flush, nodes first, then spans; only then
//! are the batches acknowledged.

use super::encode::{Begun, Spans, encode_pack, finish_large, lost_nodes};
use super::format::Effort;
use super::row::{Row, RowKind, Rows};
use super::table::{NodeRef, NodeTable, Pack, PackNumber};
use super::{NODES, SPANS};
use crate::error::{Error, Result};
use crate::observe::{Observer, StageClock};
use crate::stages::blocking;
use crate::store::{self, ErrorKind, Key, PutMode, Store};
use bytes::Bytes;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;

/// When to flush.
#[derive(Debug, Clone, Copy)]
pub struct FlushSettings {
    /// Bytes of batches, decompressed, after which a flush is due.
    pub bytes: u64,
    /// How long the first batch of a flush waits for others; `None`: until nothing else is in work.
    pub interval: Option<Duration>,
}

impl Default for FlushSettings {
    fn default() -> Self {
        Self { bytes: 256 << 20, interval: None }
    }
}

/// What the names of files are made of. A simulation has its own, so that everything in it follows from its seed.
pub trait Names: fmt::Debug + Send + Sync + 'static {
    /// Milliseconds since 1970.
    fn now(&self) -> u64;
    /// Tells two files of one millisecond apart.
    fn random(&self) -> u32;
}

/// Names of the machine's clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemNames;

impl Names for SystemNames {
    fn now(&self) -> u64 {
        now()
    }

    fn random(&self) -> u32 {
        // Seeded anew in every process and with every call.
        RandomState::new().build_hasher().finish() as u32
    }
}

/// A batch, lifted.
pub struct Lifted {
    /// Its key.
    pub source: String,
    /// Its rows, the last of them of [`RowKind::Batch`].
    pub rows: Rows<NodeRef>,
    /// A batch that was too large to be held: the file that its first rows are in.
    pub begun: Option<Begun>,
    /// Bytes, decompressed.
    pub bytes: u64,
}

/// What a flush wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Bytes of the files.
    pub bytes: u64,
    /// The files of spans.
    pub files: Vec<Key>,
    /// Batches in it.
    pub batches: u64,
    /// One batch's part of the bytes: the parts of all batches are all of them.
    pub share: u64,
}

/// Batches of a flush at most: whoever runs so many at a time may have no room for another that would fill it.
pub const FLUSH_BATCHES: usize = 256;

/// Collects batches and flushes them.
pub struct Packer {
    store: Arc<dyn Store>,
    table: Arc<NodeTable>,
    settings: FlushSettings,
    names: Arc<dyn Names>,
    observer: Arc<dyn Observer>,
    effort: Effort,
    pending: Mutex<Pending>,
    /// Held while a flush is written: flushes come one after the other.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Pending {
    batches: Vec<(Lifted, oneshot::Sender<Outcome>)>,
    bytes: u64,
    /// Bytes of nodes that a large batch had to store before its flush.
    stored_early: u64,
    /// Batches that were begun and not submitted.
    in_work: usize,
    /// Tells flushes apart, for the timer.
    number: u64,
    /// No batch waits for others any more.
    in_hurry: bool,
}

/// What a batch is told; the error is every batch's of the flush.
type Outcome = Result<Flushed, Arc<Error>>;

/// A batch in work; counts as such until it is dropped.
pub struct InWork(Arc<Packer>);

impl Drop for InWork {
    fn drop(&mut self) {
        let is_due = {
            let mut pending = self.0.pending();
            pending.in_work -= 1;
            let waits_for_others = self.0.settings.interval.is_none() || pending.in_hurry;
            waits_for_others && pending.in_work == 0 && !pending.batches.is_empty()
        };
        // Whatever became of this batch, those that were submitted wait for nothing else.
        if is_due && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let packer = self.0.clone();
            // A task of its own: a batch that is given up must not take the others of its flush with it.
            runtime.spawn(async move { packer.flush().await });
        }
    }
}

impl Packer {
    /// A packer into `store` of what `table` knows.
    pub fn new(
        store: Arc<dyn Store>,
        table: Arc<NodeTable>,
        settings: FlushSettings,
        names: Arc<dyn Names>,
        observer: Arc<dyn Observer>,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            table,
            settings,
            names,
            observer,
            effort: Effort::INGEST,
            pending: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        })
    }

    fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        // What it holds is whole between any two statements that could panic.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a batch is in work.
    pub fn begin(self: &Arc<Self>) -> InWork {
        self.pending().in_work += 1;
        InWork(self.clone())
    }

    /// Hands over a batch; returns once it is in the store for good.
    ///
    /// # Errors
    /// If the flush that it was in failed: nothing of it counts.
    pub async fn submit(self: &Arc<Self>, lifted: Lifted, in_work: InWork) -> Result<Flushed> {
        let (sender, receiver) = oneshot::channel();
        let (is_due, number, is_first) = {
            let mut pending = self.pending();
            pending.bytes += lifted.bytes;
            pending.batches.push((lifted, sender));
            let is_full = pending.bytes >= self.settings.bytes || pending.batches.len() >= FLUSH_BATCHES;
            (is_full, pending.number, pending.batches.len() == 1)
        };
        drop(in_work);
        if is_due {
            let packer = self.clone();
            tokio::spawn(async move { packer.flush().await });
        } else if let (true, Some(interval)) = (is_first, self.settings.interval) {
            let packer = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(interval).await;
                if packer.pending().number == number {
                    packer.flush().await;
                }
            });
        }
        match receiver.await {
            Ok(Ok(flushed)) => Ok(flushed),
            Ok(Err(e)) => Err(Error::Flush(e)),
            Err(_) => Err(Error::Io { what: "flushing".into(), source: std::io::ErrorKind::Interrupted.into() }),
        }
    }

    /// From now on no batch waits for others.
    pub async fn hurry(&self) {
        self.pending().in_hurry = true;
        self.flush().await;
    }

    /// Writes what was submitted so far.
    pub async fn flush(&self) {
        let _writing = self.writing.lock().await;
        let (submitted, stored_early) = {
            let mut pending = self.pending();
            if pending.batches.is_empty() {
                return;
            }
            pending.bytes = 0;
            pending.number += 1;
            (std::mem::take(&mut pending.batches), std::mem::take(&mut pending.stored_early))
        };
        let sealed = Sealed::new(&self.table);
        // What became of packs before this one, and so of this one's nodes, is known: flushes follow each other.
        let (lost, submitted): (Vec<_>, Vec<_>) =
            submitted.into_iter().partition(|(lifted, _)| self.table.has_lost(lifted.rows.nodes()));
        for (_, sender) in lost {
            // Whoever gave up does not want to know.
            let _ = sender.send(Err(Arc::new(lost_nodes())));
        }
        let (batches, senders): (Vec<_>, Vec<_>) = submitted.into_iter().unzip();
        let count = batches.len() as u64;
        let add_early = |(bytes, files)| (bytes + stored_early, files);
        let clock = StageClock::new("flush", self.observer.clone());
        let outcome = clock.time(self.write(sealed, batches)).await.map(add_early).map_err(Arc::new);
        for (number, sender) in (0..).zip(senders) {
            let share = |bytes| bytes / count + u64::from(number < bytes % count);
            let told =
                outcome.clone().map(|(bytes, files)| Flushed { bytes, files, batches: count, share: share(bytes) });
            let _ = sender.send(told);
        }
    }

    /// Writes the nodes that have piled up, so that a large batch needs no more memory than a small one.
    ///
    /// # Errors
    /// If the store does not take them.
    pub async fn flush_nodes(&self, from: usize) -> Result<()> {
        let _writing = self.writing.lock().await;
        if self.table.open_size() < from {
            return Ok(());
        }
        let sealed = Sealed::new(&self.table);
        let (bytes, _) = self.store_nodes(&sealed, None).await?;
        sealed.counts();
        self.pending().stored_early += bytes;
        Ok(())
    }

    /// Appends the rows that a large batch has so far to a file of its own, which is in memory until the batch is whole.
    ///
    /// # Errors
    /// If the store does not take the nodes that they name.
    pub async fn begin_file(&self, rows: Rows<NodeRef>, begun: Option<Begun>) -> Result<Begun> {
        self.flush_nodes(0).await?;
        let numbers = self.table.numbers();
        let traces = rows.rows.iter().filter(|row| row.trace_id.is_some()).count() as u64;
        let effort = self.effort;
        blocking(move || {
            let mut begun = begun.map_or_else(|| Begun::new(effort, traces), Ok)?;
            begun.write(&rows, &numbers)?;
            Ok(begun)
        })
        .await?
    }

    async fn write(&self, sealed: Sealed, batches: Vec<Lifted>) -> Result<(u64, Vec<Key>)> {
        let (large, small): (Vec<_>, Vec<_>) = batches.into_iter().partition(|lifted| lifted.begun.is_some());
        let spans = Spans { batches: Arc::new(small), effort: self.effort };
        let (mut bytes, file) = self.store_nodes(&sealed, Some(spans)).await?;
        let mut files: Vec<Bytes> = file.into_iter().collect();
        for lifted in large {
            files.push(finish_large(lifted, self.table.numbers()).await?);
        }
        let mut keys = Vec::new();
        for file in files {
            let key = spans_key(self.names.now(), self.names.random());
            bytes += file.len() as u64;
            self.store.put(&key, file, PutMode::IfAbsent).await?;
            keys.push(key);
        }
        sealed.counts();
        Ok((bytes, keys))
    }

    /// Puts a pack, and compresses the spans at the same time.
    async fn store_nodes(&self, sealed: &Sealed, spans: Option<Spans>) -> Result<(u64, Option<Bytes>)> {
        let (place, pack) = (sealed.place, &sealed.pack);
        let mut number = PackNumber(self.names.now());
        'numbers: loop {
            let mut numbers = self.table.numbers();
            if !pack.nodes.is_empty() {
                if number > PackNumber::LAST {
                    let reason = "this machine's clock is behind the year 2109, to which numbers of nodes reach: nothing is written";
                    return Err(Error::Config(reason.into()));
                }
                numbers.set(place, number);
            }
            let numbers = Arc::new(numbers);
            let nodes = {
                let (pack, numbers, effort) = (pack.clone(), numbers.clone(), self.effort);
                blocking(move || encode_pack(&pack, place, &numbers, effort))
            };
            let file = spans.clone().map(|spans| blocking(move || spans.encode(&numbers)));
            let mut bytes = 0;
            for (number_of_file, nodes) in nodes.await?? {
                bytes += nodes.len() as u64;
                match self.store.put(&nodes_key(number_of_file), nodes, PutMode::IfAbsent).await {
                    Ok(_) => {}
                    Err(store::Error { kind: ErrorKind::Precondition, .. }) => {
                        // Another worker began a pack in the same millisecond.
                        number.0 = number_of_file.0 + 1;
                        continue 'numbers;
                    }
                    Err(e) => return Err(e.into()),
                }
            }
            if !pack.nodes.is_empty() {
                self.table.stored(place, number);
            }
            let file = match file {
                Some(file) => file.await??,
                None => None,
            };
            return Ok((bytes, file));
        }
    }
}

/// A pack that takes no more nodes. It failed if it is dropped before it [counts](Self::counts): also when whoever
/// writes it is given up.
struct Sealed {
    table: Arc<NodeTable>,
    place: u32,
    pack: Arc<Pack>,
    counts: bool,
}

impl Sealed {
    fn new(table: &Arc<NodeTable>) -> Self {
        let (place, pack) = table.seal();
        Self { table: table.clone(), place, counts: pack.nodes.is_empty(), pack: Arc::new(pack) }
    }

    /// It is stored, and so is what makes it count.
    fn counts(mut self) {
        self.counts = true;
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        if !self.counts {
            self.table.failed(self.place);
        }
    }
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64)
}

/// The day of a millisecond since 1970, as a partition has it.
pub(super) fn day(milliseconds: u64) -> String {
    // The last that has four digits for its year: a damaged file may name any number.
    const LAST: u64 = 253_402_300_799_999;
    let time = UNIX_EPOCH + Duration::from_millis(milliseconds.min(LAST));
    let date = humantime::format_rfc3339_seconds(time).to_string();
    date[..10].to_owned()
}

/// `nodes/dt={day}/{number}.parquet`: where a pack is found by its number, until it is compacted.
pub fn nodes_key(number: PackNumber) -> Key {
    Key::listed(format!("{NODES}/dt={}/{:012x}.parquet", day(number.0), number.0))
}

/// `spans/dt={day}/{time}-{random}.parquet`.
pub fn spans_key(milliseconds: u64, random: u32) -> Key {
    Key::listed(format!("{}-{random:08x}.parquet", spans_from(milliseconds)))
}

/// Before the names of all files of spans that were written from then on.
pub(super) fn spans_from(milliseconds: u64) -> String {
    format!("{SPANS}/dt={}/{milliseconds:012x}", day(milliseconds))
}

/// A batch's last row.
pub fn batch_row(rows: &mut Rows<NodeRef>, json: &str) {
    let mut row = Row::new(RowKind::Batch);
    row.batch = Some(rows.texts.id(json.as_bytes()));
    rows.push(row);
}
