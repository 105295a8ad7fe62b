//! Stage 7, the sink: gathers a batch's spans by trace and, when the whole batch has arrived and its every chunk is
//! stored, commits it: strays, then each trace's index, then the ledger entry.

use crate::decompress::RawTally;
use crate::error::{Error, Result};
use crate::hash::HashedPart;
use crate::ids::TraceId;
use crate::json_text::to_json;
use crate::loose::{BatchSums, Blobs, LedgerEntry, Paths, SpanEntry, TraceIndex};
use crate::observe::StageClock;
use crate::otlp::{DocumentTally, Record, SpanRecord};
use crate::split::Separator;
use crate::spool::{Spool, Spooled, StraySpool};
use crate::store::{ErrorKind, PutMode, Store};
use crate::upload::{StoredBlock, UploadSums};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

/// A batch's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchKey {
    /// Its object key, or the path as given.
    Named(String),
    /// `stdin/` and the first 16 hex digits of the BLAKE3 of its bytes: known when they have all arrived.
    FromContent,
}

/// What the sink emits.
#[derive(Debug)]
pub enum Committed {
    /// A trace's index as it now stands in the store.
    Trace(TraceIndex),
    /// The whole batch; comes last.
    Batch(BatchReport),
}

/// What a batch came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchReport {
    /// What the ledger says of it.
    pub entry: LedgerEntry,
    /// What was new.
    pub upload: UploadSums,
    /// Bytes of index and ledger objects written.
    pub index_bytes: u64,
}

/// Writes indexes and ledger entries of a store.
#[derive(Clone)]
pub struct Indexer {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Its folders.
    pub paths: Paths,
    /// Its blobs.
    pub blobs: Arc<Blobs>,
    /// What its parts are cut at.
    pub separator: Separator,
    /// Indexes written at the same time.
    pub concurrency: usize,
    /// The largest index that is kept, in bytes of its JSON: as much memory is needed, and a few times that for all
    /// that are written at the same time.
    pub max_index_bytes: u64,
    /// Bytes of indexes being written, in KiB.
    pub budget: Arc<Semaphore>,
}

/// Where a batch's sums are kept while it streams.
#[derive(Clone, Default)]
pub struct Tallies {
    /// The raw bytes.
    pub raw: RawTally,
    /// The documents.
    pub documents: DocumentTally,
}

/// An index's JSON takes so many bytes for one in the spool: a name has 67 characters there and 32 bytes here.
const JSON_PER_SPOOLED: u64 = 2;

/// Commits a batch. Nothing is written before `stored` has ended without an error.
pub fn index<S>(
    stored: S,
    batch: BatchKey,
    tallies: Tallies,
    indexer: Arc<Indexer>,
    clock: StageClock,
) -> impl Stream<Item = Result<Committed>> + Send
where
    S: Stream<Item = Result<StoredBlock>> + Send,
{
    stream::once(async move {
        let gathered = gather(stored, &indexer).await?;
        let raw = tallies.raw.sums();
        let raw_blake3 = raw.blake3().to_hex();
        let key = match batch {
            BatchKey::Named(key) => key,
            BatchKey::FromContent => format!("stdin/{}", &raw_blake3[..16]),
        };
        let entry = LedgerEntry {
            key,
            raw_blake3: raw_blake3.to_string(),
            sums: BatchSums {
                raw_bytes: raw.bytes,
                document_bytes: raw.document_bytes,
                documents: tallies.documents.documents(),
                ..gathered.sums
            },
            traces: gathered.traces.iter().map(|trace| trace.trace_id).collect(),
        };
        indexer.put_strays(&entry.key, gathered.strays).await?;
        let report = BatchReport { entry, upload: gathered.upload, index_bytes: 0 };
        Ok::<_, Error>(commit(gathered.spool, gathered.traces, report, indexer, clock))
    })
    .try_flatten()
}

/// A batch that has arrived.
struct Gathered {
    spool: Spool,
    traces: Vec<Spooled>,
    strays: StraySpool,
    sums: BatchSums,
    upload: UploadSums,
}

async fn gather<S>(stored: S, indexer: &Indexer) -> Result<Gathered>
where
    S: Stream<Item = Result<StoredBlock>> + Send,
{
    let mut spool = Spool::default();
    let (mut strays, mut upload) = (StraySpool::default(), UploadSums::default());
    let mut sums = BatchSums::default();
    let mut stored = std::pin::pin!(stored);
    while let Some(block) = stored.try_next().await? {
        let (records, uploaded) = block.into_parts();
        upload += uploaded;
        let mut of_block = Vec::new();
        for record in records.items {
            match record {
                Record::Span(span) => {
                    sums.count(&span);
                    spool.push(&span)?;
                }
                Record::Stray(stray) => {
                    sums.strays += 1;
                    of_block.push(stray);
                }
                Record::Unrelated => sums.unrelated += 1,
            }
        }
        strays.push(&of_block)?;
    }
    let traces = spool.traces();
    if let Some(large) = traces.iter().find(|trace| trace.bytes * JSON_PER_SPOOLED > indexer.max_index_bytes) {
        return Err(indexer.too_large(&large.trace_id));
    }
    Ok(Gathered { spool, traces, strays, sums, upload })
}

fn commit(
    mut spool: Spool,
    traces: Vec<Spooled>,
    report: BatchReport,
    indexer: Arc<Indexer>,
    clock: StageClock,
) -> impl Stream<Item = Result<Committed>> + Send {
    let key: Arc<str> = report.entry.key.as_str().into();
    let concurrency = indexer.concurrency;
    let for_ledger = indexer.clone();
    let committed = stream::iter(traces)
        .then(move |trace| {
            let (indexer, key, clock) = (indexer.clone(), key.clone(), clock.clone());
            // Read here, in order: the spool is one file.
            let records = spool.read(&trace.trace_id);
            async move {
                let records = records?;
                // The semaphore is never closed.
                let permit = indexer.budget.clone().acquire_many_owned(indexer.share(trace)).await.ok();
                let put = async move { indexer.put_index(trace.trace_id, records, &key).await };
                let task = AbortOnDropHandle::new(tokio::spawn(clock.time(put)));
                // The permit is held until the index is handed out: what waits here is memory too.
                Ok(async move { task.await?.map(|written| (written, permit)) })
            }
        })
        .try_buffered(concurrency);
    let report = Some(report);
    stream::try_unfold((Box::pin(committed), report, for_ledger), |(mut committed, report, indexer)| async move {
        let Some(mut report) = report else { return Ok(None) };
        if let Some(((index, written), _permit)) = committed.try_next().await? {
            report.index_bytes += written;
            return Ok(Some((Committed::Trace(index), (committed, Some(report), indexer))));
        }
        report.index_bytes += indexer.put_ledger(&report.entry).await?;
        Ok(Some((Committed::Batch(report), (committed, None, indexer))))
    })
}

/// After so many lost races the pause between two tries stops growing.
const MAX_PAUSE: Duration = Duration::from_secs(1);

impl Indexer {
    fn too_large(&self, trace: &TraceId) -> Error {
        let limit = self.max_index_bytes;
        Error::Limit(format!(
            "the index of trace {trace} takes more than {limit} bytes; MAX_INDEX_BYTES allows no more"
        ))
    }

    /// What a trace takes of the budget, in KiB: never more than all of it.
    fn share(&self, trace: Spooled) -> u32 {
        let kib = trace.bytes * JSON_PER_SPOOLED / 1024 + 1;
        kib.min(self.max_index_bytes / 1024).max(1) as u32
    }

    /// Adds these spans to the trace's index, whoever else is writing it: the index as it stands then, and the bytes
    /// that were written.
    async fn put_index(
        &self,
        trace: TraceId,
        records: Vec<SpanRecord<HashedPart>>,
        source: &str,
    ) -> Result<(TraceIndex, u64)> {
        let spans = records.into_iter().map(|record| SpanEntry::new(record, source.to_owned())).collect();
        let ours = TraceIndex::new(trace, self.separator.clone(), spans);
        let key = self.paths.index(&trace);
        let (mut merged, mut mode) = (ours.clone(), PutMode::IfAbsent);
        for lost_races in 0.. {
            let json = Bytes::from(merged.to_json()?);
            let size = json.len() as u64;
            if size > self.max_index_bytes {
                return Err(self.too_large(&trace));
            }
            match self.store.put(&key, json, mode).await {
                Ok(_) => return Ok((merged, size)),
                Err(e) if e.kind == ErrorKind::Precondition => {}
                Err(e) => return Err(e.into()),
            }
            if lost_races > 0 {
                tokio::time::sleep((Duration::from_millis(5) * lost_races).min(MAX_PAUSE)).await;
            }
            let Some((stored, etag)) = self.store.read(&key).await? else {
                mode = PutMode::IfAbsent;
                continue;
            };
            let stored = TraceIndex::from_json(key.as_str(), &stored)?;
            merged = stored.clone().merge(ours.clone())?;
            if merged == stored {
                // The batch was here before. Perhaps it comes again since somebody misses blobs and has deleted its
                // entry: then what this process remembers of them does not count.
                self.blobs.prove(&*self.store, ours.chunks().copied()).await?;
                return Ok((stored, 0));
            }
            let untagged = || Error::Corrupt { key: key.to_string(), reason: "the store gives it no tag".into() };
            mode = PutMode::IfMatch(etag.ok_or_else(untagged)?);
        }
        unreachable!("the range has no end")
    }

    async fn put_strays(&self, batch: &str, mut strays: StraySpool) -> Result<()> {
        while let Some((first_offset, lines)) = strays.pop()? {
            self.store.put(&self.paths.strays(batch, first_offset), lines.into(), PutMode::Always).await?;
        }
        Ok(())
    }

    async fn put_ledger(&self, entry: &LedgerEntry) -> Result<u64> {
        let json = Bytes::from(to_json(entry)?);
        let size = json.len() as u64;
        self.store.put(&self.paths.ledger(&entry.key), json, PutMode::Always).await?;
        Ok(size)
    }
}
