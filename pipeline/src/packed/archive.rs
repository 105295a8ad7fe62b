//! The packed pipeline, whole: from one raw file's bytes to a committed flush.

use super::encode::Begun;
use super::format::BATCHES_KEY;
use super::gaps::{Problem, gaps};
use super::packer::{FlushSettings, Flushed, InWork, Lifted, Names, Packer, SystemNames, batch_row};
use super::reader::Reader;
use super::restore::restore;
use super::row::{RowKind, Rows};
use super::rows::rows;
use super::table::{NodeRef, NodeTable};
use super::warm::warm_up;
use crate::decompress::{self, RawTally, decompress};
use crate::error::{Error, Result};
use crate::ids::TraceId;
use crate::index::{BatchKey, BatchReport};
use crate::json_text::to_json;
use crate::keys::ContentKeys;
use crate::loose::{BatchSums, LedgerEntry};
use crate::observe::{Observer, StageClock};
use crate::otlp::{DocumentTally, FrameLimits};
use crate::pipeline::Batch;
use crate::stages::ahead;
use crate::store::Store;
use crate::upload::UploadSums;
use futures::{TryStreamExt, future};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How to archive.
#[derive(Debug, Clone)]
pub struct ArchiveSettings {
    /// What is content: it becomes a node however short it is.
    pub keys: ContentKeys,
    /// The most that a batch may become.
    pub decompress: decompress::Limits,
    /// The most that a record may need; a larger one is kept as text.
    pub frames: FrameLimits,
    /// Stretches (256 KiB of records) of a batch lifted at the same time.
    pub stretches: usize,
    /// Batches lifted at the same time.
    pub batches: usize,
    /// Bytes for what is known to be stored.
    pub table_bytes: usize,
    /// Bytes of a batch's rows that pile up in memory before they are compressed.
    pub rows_bytes: usize,
    /// Bytes of nodes that pile up in memory before they are written.
    pub pack_bytes: usize,
    /// When to flush.
    pub flush: FlushSettings,
    /// A batch is done only when it was read back from the store and found byte-exact.
    pub read_back: bool,
    /// What names of files are made of.
    pub names: Arc<dyn Names>,
    /// Who is told how it goes.
    pub observer: Arc<dyn Observer>,
}

impl Default for ArchiveSettings {
    fn default() -> Self {
        Self {
            keys: ContentKeys::default(),
            decompress: decompress::Limits::default(),
            frames: FrameLimits::default(),
            stretches: 4,
            batches: 4,
            table_bytes: 64 << 20,
            rows_bytes: 32 << 20,
            pack_bytes: 24 << 20,
            flush: FlushSettings::default(),
            read_back: false,
            names: Arc::new(SystemNames),
            observer: Arc::new(()),
        }
    }
}

/// What the store says of a batch, in its last row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchInfo {
    /// Bytes of the raw file.
    pub raw_bytes: u64,
    /// BLAKE3 of the raw file, 64 hex digits.
    pub raw_blake3: String,
    /// Bytes after decompression: what a restore gives.
    pub document_bytes: u64,
    /// BLAKE3 of them.
    pub blake3: String,
    /// OTLP documents.
    pub documents: u64,
    /// Spans.
    pub spans: u64,
    /// Log records.
    pub logs: u64,
    /// All rows of the batch but the one that has this.
    pub rows: u64,
    /// Why not all of it could be read as OTLP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A batch that is stored.
#[derive(Debug, Clone)]
pub struct Archived {
    /// Its key.
    pub source: String,
    /// What it was.
    pub info: BatchInfo,
    /// Its traces, as they first appear in it.
    pub traces: Vec<TraceId>,
    /// Its content as far as it is strings: values, and bytes of them.
    pub content: (u64, u64),
    /// The flush that it was in.
    pub flush: Flushed,
}

impl Archived {
    /// The same in the words of the pipeline: what is new is the flush's, shared out over its batches.
    pub fn report(self) -> BatchReport {
        let info = &self.info;
        let sums = BatchSums {
            raw_bytes: info.raw_bytes,
            document_bytes: info.document_bytes,
            documents: info.documents,
            spans: info.spans + info.logs,
            parts: self.content.0,
            content_bytes: self.content.1,
            ..BatchSums::default()
        };
        BatchReport {
            entry: LedgerEntry { key: self.source, raw_blake3: self.info.raw_blake3, sums, traces: self.traces },
            upload: UploadSums { new_bytes: self.flush.share, ..UploadSums::default() },
            index_bytes: 0,
        }
    }
}

/// Everything that batches share.
pub struct Archive {
    settings: ArchiveSettings,
    store: Arc<dyn Store>,
    table: Arc<NodeTable>,
    packer: Arc<Packer>,
    /// Batches being lifted; those that wait for their flush are not.
    lifting: Semaphore,
}

/// A table of fewer bytes would forget at once what it was told of the past.
const WARM_FROM: usize = 1 << 20;
/// Bytes of nodes that are remembered while a batch is read back.
const READ_BACK_BYTES: usize = 32 << 20;
/// Pieces (128 KiB) decompressed ahead of the framer.
const PIECES_AHEAD: usize = 4;

impl Archive {
    /// Prepares to write into `store`.
    pub fn new(store: Arc<dyn Store>, settings: ArchiveSettings) -> Self {
        let table = Arc::new(NodeTable::new(settings.table_bytes));
        let (names, observer) = (settings.names.clone(), settings.observer.clone());
        let packer = Packer::new(store.clone(), table.clone(), settings.flush, names, observer);
        let lifting = Semaphore::new(settings.batches.max(1));
        Self { settings, store, table, packer, lifting }
    }

    /// Learns what was stored last, so that it is not stored once more. To be called before the first batch.
    pub async fn warm_up(&self) {
        if self.settings.table_bytes < WARM_FROM {
            return;
        }
        match warm_up(&self.store, &self.table, self.settings.names.now()).await {
            Ok(known) => tracing::debug!(known, "nodes that were stored last are known"),
            Err(e) => tracing::warn!("what was stored last is not known, and may be stored once more: {e}"),
        }
    }

    /// Says that a batch is in work, or about to be: those that are done wait for it.
    pub fn begin(&self) -> InWork {
        self.packer.begin()
    }

    /// Stores a batch; returns once its flush is committed.
    ///
    /// # Errors
    /// If it cannot be read or decompressed, or the store fails. What is merely not OTLP is stored all the same.
    pub async fn store(&self, batch: Batch) -> Result<Archived> {
        self.store_begun(batch, self.begin()).await
    }

    /// The same for a batch of which it was said before that it is in work.
    ///
    /// # Errors
    /// As [`Archive::store`].
    pub async fn store_begun(&self, batch: Batch, in_work: InWork) -> Result<Archived> {
        let lifted = {
            // Never closed.
            let _permit = self.lifting.acquire().await;
            if self.table.forget_what_is_old() {
                self.warm_up().await;
            }
            self.lift(batch).await
        };
        let (lifted, mut archived) = lifted?;
        archived.flush = self.packer.submit(lifted, in_work).await?;
        Ok(archived)
    }

    /// Restores a batch from what is in the store, if that is asked for.
    ///
    /// # Errors
    /// If what comes back is not what went in. Then nothing that is known is trusted: texts are stored anew.
    pub async fn read_back(&self, archived: &Archived) -> Result<()> {
        if !self.settings.read_back {
            return Ok(());
        }
        self.restore(archived).await.inspect_err(|_| self.table.forget())
    }

    async fn restore(&self, archived: &Archived) -> Result<()> {
        let reader = Reader::new(self.store.clone(), READ_BACK_BYTES);
        for key in &archived.flush.files {
            let Some(file) = reader.open(key).await? else { continue };
            let batches: Vec<String> = file.list(BATCHES_KEY)?;
            if batches.contains(&archived.source) {
                let restored = restore(reader, file, archived.source.clone());
                return restored.try_for_each(|_| future::ready(Ok(()))).await;
            }
        }
        Err(Error::Lost(format!("batch {} is in none of the files that its flush wrote", archived.source)))
    }

    /// From now on no batch waits for others.
    pub async fn hurry(&self) {
        self.packer.hurry().await;
    }

    async fn lift(&self, batch: Batch) -> Result<(Lifted, Archived)> {
        let settings = &self.settings;
        let clock = |stage| StageClock::new(stage, settings.observer.clone());
        let (raw, documents, problem) = (RawTally::default(), DocumentTally::default(), Problem::default());

        let bytes = decompress(batch.raw, settings.decompress, raw.clone());
        let bytes = ahead(clock("decompress").time_stream(bytes), PIECES_AHEAD);
        let hasher = DocumentHash::default();
        let bytes = hasher.clone().watch(bytes);
        // A row has what is glued before its record, too.
        let most = settings.frames.max_record_bytes.min(super::MAX_ROW_BYTES - (16 << 20));
        let frames = FrameLimits { max_record_bytes: most };
        let stretches = gaps(bytes, frames, documents.clone(), problem.clone());
        let lifted = rows(stretches, settings.keys.clone(), self.table.clone(), settings.stretches, clock("lift"));
        let named = match &batch.key {
            BatchKey::Named(key) => Some(key.as_str()),
            BatchKey::FromContent => None,
        };
        let mut gathered = self.gather(named, lifted).await?;

        let raw = raw.sums();
        let raw_blake3 = raw.blake3().to_hex().to_string();
        let source = match (gathered.source.take(), batch.key) {
            (Some(source), _) | (None, BatchKey::Named(source)) => source,
            (None, BatchKey::FromContent) => format!("stdin/{}", &raw_blake3[..16]),
        };
        let info = BatchInfo {
            raw_bytes: raw.bytes,
            raw_blake3,
            document_bytes: raw.document_bytes,
            blake3: hasher.finish(),
            documents: documents.documents(),
            spans: gathered.spans,
            logs: gathered.logs,
            rows: gathered.count,
            problem: problem.get(),
        };
        let json = to_json(&info)?;
        batch_row(&mut gathered.rows, &String::from_utf8_lossy(&json));
        gathered.rows.set_source(source.as_bytes());
        if let Some(problem) = &info.problem {
            tracing::warn!(
                batch = source,
                problem,
                "not all of it is OTLP: kept as it is, and what could be read can be found"
            );
        }
        let archived = Archived {
            source: source.clone(),
            traces: gathered.traces,
            content: gathered.content,
            flush: Flushed::default(),
            info,
        };
        let bytes = archived.info.document_bytes;
        Ok((Lifted { source, rows: gathered.rows, begun: gathered.begun, bytes }, archived))
    }

    /// Gathers a batch's rows, in memory as long as they are few.
    async fn gather(
        &self,
        source: Option<&str>,
        lifted: impl futures::Stream<Item = Result<Rows<NodeRef>>> + Send,
    ) -> Result<Gathered> {
        let mut gathered = Gathered::default();
        let mut lifted = std::pin::pin!(lifted);
        while let Some(rows) = lifted.try_next().await? {
            gathered.add(&rows);
            if self.table.open_size() > self.settings.pack_bytes {
                self.packer.flush_nodes(self.settings.pack_bytes).await?;
            }
            if gathered.rows.size() > self.settings.rows_bytes {
                let mut rows = std::mem::take(&mut gathered.rows);
                rows.set_source(
                    gathered.source.get_or_insert_with(|| name_of_large(source, &*self.settings.names)).as_bytes(),
                );
                gathered.begun = Some(self.packer.begin_file(rows, gathered.begun.take()).await?);
            }
        }
        Ok(gathered)
    }
}

#[derive(Default)]
struct Gathered {
    rows: Rows<NodeRef>,
    begun: Option<Begun>,
    /// The name of a batch whose first rows had to be written before all of it was there.
    source: Option<String>,
    spans: u64,
    logs: u64,
    count: u64,
    content: (u64, u64),
    traces: Vec<TraceId>,
    seen: HashSet<[u8; 16]>,
}

impl Gathered {
    fn add(&mut self, rows: &Rows<NodeRef>) {
        let count = |kind| rows.rows.iter().filter(|row| row.kind == kind).count() as u64;
        self.spans += count(RowKind::Span);
        self.logs += count(RowKind::Log);
        self.count += rows.rows.len() as u64;
        self.content.0 += rows.content.0;
        self.content.1 += rows.content.1;
        for id in rows.rows.iter().filter_map(|row| row.trace_id) {
            if self.seen.insert(id) {
                self.traces.extend(TraceId::from_bytes(&id));
            }
        }
        self.rows.append(rows);
        // A resource behind its records is in rows that come later, if these are not written before.
        self.rows.name_resources();
    }
}

/// The name of a batch that is written before its hash is known: its own, or one by the time.
fn name_of_large(source: Option<&str>, names: &dyn Names) -> String {
    source.map_or_else(|| format!("stdin/{:012x}", names.now()), str::to_owned)
}

/// The BLAKE3 of what a stream gave.
#[derive(Clone, Default)]
struct DocumentHash(Arc<std::sync::Mutex<blake3::Hasher>>);

impl DocumentHash {
    fn watch(
        self,
        bytes: impl futures::Stream<Item = Result<bytes::Bytes>> + Send + 'static,
    ) -> impl futures::Stream<Item = Result<bytes::Bytes>> + Send + 'static {
        bytes.inspect_ok(move |piece| {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).update(piece);
        })
    }

    fn finish(&self) -> String {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).finalize().to_hex().to_string()
    }
}
