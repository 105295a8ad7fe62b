//! The pipeline, whole: from one raw file's bytes to what the store holds of it.

use crate::decompress::{self, RawSums, decompress};
use crate::error::{Error, Result};
use crate::hash::hash;
use crate::index::{BatchKey, Committed, Indexer, Tallies, index};
use crate::keys::ContentKeys;
use crate::ledger::Done;
use crate::loose::{Blobs, Layout, Marker, Paths};
use crate::observe::{Observer, StageClock};
use crate::otlp::{FrameLimits, ParseSettings, parse};
use crate::packed::archive::{Archive, ArchiveSettings};
use crate::packed::done::DoneBatches;
use crate::packed::footers::Footers;
use crate::packed::packer::{FlushSettings, InWork, Names, SystemNames};
use crate::packed::prove::{Prover, Stored};
use crate::split::{Separator, split};
use crate::stages::ahead;
use crate::store::Store;
use crate::upload::upload;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How to run. All limits are per batch unless said otherwise.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The store's folders.
    pub paths: Paths,
    /// The layout that is asked for; none: the store's own, or for a new one [`Layout::DEFAULT`].
    pub layout: Option<Layout>,
    /// What parts are cut at.
    pub separator: Separator,
    /// What is content.
    pub keys: ContentKeys,
    /// The most that a batch may become.
    pub decompress: decompress::Limits,
    /// The most that a record may need.
    pub frames: FrameLimits,
    /// Blocks (256 KiB of records) in each of the stages parse, hash and upload.
    pub blocks: usize,
    /// Requests to the store at a time, over all batches.
    pub requests: usize,
    /// Bytes for the hashes of chunks known to be stored, over all batches.
    pub known_budget: usize,
    /// The largest index of a trace, in bytes.
    pub max_index_bytes: u64,
    /// Packed: batches lifted at the same time.
    pub batches: usize,
    /// Packed: bytes for what is known to be stored.
    pub table_bytes: usize,
    /// Packed: when to flush.
    pub flush: FlushSettings,
    /// Packed: a batch is done only when it was read back and found byte-exact.
    pub read_back: bool,
    /// Packed: what names of files are made of.
    pub names: Arc<dyn Names>,
    /// Packed: a cache of the ends of files.
    pub footers: Option<Footers>,
    /// Who is told how it goes.
    pub observer: Arc<dyn Observer>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            paths: Paths::default(),
            layout: None,
            separator: Separator::default(),
            keys: ContentKeys::default(),
            decompress: decompress::Limits::default(),
            frames: FrameLimits::default(),
            blocks: 4,
            requests: 64,
            known_budget: 16 << 20,
            max_index_bytes: 32 << 20,
            batches: 4,
            table_bytes: 64 << 20,
            flush: FlushSettings::default(),
            read_back: false,
            names: Arc::new(SystemNames),
            footers: None,
            observer: Arc::new(()),
        }
    }
}

/// One raw file.
pub struct Batch {
    /// Its name.
    pub key: BatchKey,
    /// Its bytes as they are stored.
    pub raw: BoxStream<'static, Result<Bytes>>,
}

/// Everything that batches share: the store, what is known to be in it, and the limits.
pub struct Pipeline {
    settings: Settings,
    store: Arc<dyn Store>,
    sink: Sink,
}

/// What is particular to a layout.
enum Sink {
    Loose { blobs: Arc<Blobs>, indexer: Indexer },
    Packed { archive: Arc<Archive>, done: Arc<DoneBatches>, prover: Prover },
}

impl Pipeline {
    /// Prepares to write into `store`, which takes on a layout if it is new.
    ///
    /// # Errors
    /// If the store cannot be reached, or is of another layout or separator.
    pub async fn open(store: Arc<dyn Store>, settings: Settings) -> Result<Self> {
        store.tidy().await;
        let sink = match Marker::claim(&*store, settings.layout, &settings.separator).await? {
            Layout::Loose => Self::open_loose(&store, &settings).await?,
            Layout::Packed => Self::open_packed(&store, &settings).await,
        };
        Ok(Self { settings, store, sink })
    }

    async fn open_packed(store: &Arc<dyn Store>, settings: &Settings) -> Sink {
        let archive_settings = ArchiveSettings {
            keys: settings.keys.clone(),
            decompress: settings.decompress,
            frames: settings.frames,
            stretches: settings.blocks,
            batches: settings.batches,
            table_bytes: settings.table_bytes,
            flush: settings.flush,
            read_back: settings.read_back,
            names: settings.names.clone(),
            observer: settings.observer.clone(),
            ..ArchiveSettings::default()
        };
        let archive = Arc::new(Archive::new(store.clone(), archive_settings));
        archive.warm_up().await;
        let prover = Prover::new(store.clone(), settings.decompress);
        let done = DoneBatches::with_footers(store.clone(), settings.footers.clone(), settings.names.clone());
        Sink::Packed { archive, done, prover }
    }

    async fn open_loose(store: &Arc<dyn Store>, settings: &Settings) -> Result<Sink> {
        let (requests, known) = (settings.requests, settings.known_budget);
        let blobs = Arc::new(Blobs::new(store.clone(), settings.paths.clone(), requests, known));
        blobs.warm_up().await?;
        let indexer = Indexer {
            store: store.clone(),
            paths: settings.paths.clone(),
            blobs: blobs.clone(),
            separator: settings.separator.clone(),
            concurrency: requests,
            max_index_bytes: settings.max_index_bytes,
            budget: Arc::new(Semaphore::new((settings.max_index_bytes / 1024).max(1) as usize)),
        };
        Ok(Sink::Loose { blobs, indexer })
    }

    /// The layout of the store.
    pub fn layout(&self) -> Layout {
        match self.sink {
            Sink::Loose { .. } => Layout::Loose,
            Sink::Packed { .. } => Layout::Packed,
        }
    }

    /// Says that more batches come, as long as the result is kept: those that wait for others wait for them too.
    pub fn announce(&self) -> Option<InWork> {
        match &self.sink {
            Sink::Loose { .. } => None,
            Sink::Packed { archive, .. } => Some(archive.begin()),
        }
    }

    /// No more batches come: those that wait for others wait no longer.
    pub async fn hurry(&self) {
        if let Sink::Packed { archive, .. } = &self.sink {
            archive.hurry().await;
        }
    }

    /// How it is told which batches are done.
    pub fn done(&self) -> Done {
        match &self.sink {
            Sink::Loose { .. } => Done::Ledger(self.store.clone()),
            Sink::Packed { done, .. } => Done::Packed(done.clone()),
        }
    }

    /// Compares a raw file with what a packed store has of it.
    ///
    /// # Errors
    /// If the store fails, or is loose: that keeps content, and not what a raw file held.
    pub async fn compare(&self, batch: &str, raw: BoxStream<'static, Result<Bytes>>) -> Result<Stored> {
        match &self.sink {
            Sink::Packed { prover, .. } => prover.compare(batch, raw).await,
            Sink::Loose { .. } => Err(Error::Config("a loose store does not hold what raw files held".into())),
        }
    }

    /// Who is told how it goes.
    pub fn observer(&self) -> &Arc<dyn Observer> {
        &self.settings.observer
    }

    /// Runs one batch: its traces as they are committed, then the batch itself. The picture in `DESIGN.md`, in code.
    pub fn run(&self, batch: Batch) -> BoxStream<'static, Result<Committed>> {
        let (blobs, indexer) = match &self.sink {
            Sink::Loose { blobs, indexer } => (blobs, indexer),
            Sink::Packed { archive, done, .. } => {
                let (archive, done, in_work) = (archive.clone(), done.clone(), archive.begin());
                let stored = async move {
                    let archived = archive.store_begun(batch, in_work).await?;
                    archive.read_back(&archived).await.inspect_err(|_| done.note_broken(&archived.source))?;
                    done.note(&archived.source);
                    Ok(Committed::Batch(archived.report()))
                };
                return stream::once(stored).boxed();
            }
        };
        let tallies = Tallies::default();
        let bytes = decompress(batch.raw, self.settings.decompress, tallies.raw.clone());
        let clock = StageClock::new("decompress", self.settings.observer.clone());
        let bytes = ahead(clock.time_stream(bytes), PIECES_AHEAD).boxed();
        self.run_loose(blobs, indexer, bytes, batch.key, tallies)
    }

    /// Runs what a batch held, decompressed already; `raw` is what its file was. Only into a loose store: a packed one
    /// keeps what came, and this did not come.
    pub fn run_document(
        &self,
        key: String,
        document: BoxStream<'static, Result<Bytes>>,
        raw: RawSums,
    ) -> BoxStream<'static, Result<Committed>> {
        match &self.sink {
            Sink::Loose { blobs, indexer } => {
                let tallies = Tallies { raw: raw.into(), ..Tallies::default() };
                self.run_loose(blobs, indexer, document, BatchKey::Named(key), tallies)
            }
            Sink::Packed { .. } => {
                let reason = "a packed store takes raw files, not what they held".to_owned();
                stream::once(async { Err(Error::Config(reason)) }).boxed()
            }
        }
    }

    fn run_loose(
        &self,
        blobs: &Arc<Blobs>,
        indexer: &Indexer,
        bytes: BoxStream<'static, Result<Bytes>>,
        key: BatchKey,
        tallies: Tallies,
    ) -> BoxStream<'static, Result<Committed>> {
        let settings = &self.settings;
        let store = self.store.for_batch().unwrap_or_else(|| self.store.clone());
        let indexer = Indexer { store: store.clone(), ..indexer.clone() };
        let clock = |stage| StageClock::new(stage, settings.observer.clone());
        let parsing = ParseSettings {
            keys: settings.keys.clone(),
            limits: settings.frames,
            concurrency: settings.blocks,
            clock: clock("parse"),
        };

        let records = parse(bytes, parsing, tallies.documents.clone());
        let parts = split(records, settings.separator.clone());
        let hashed = hash(parts, settings.blocks, clock("hash"));
        let stored = upload(hashed, store, blobs.clone(), settings.blocks, clock("upload"));
        index(stored, key, tallies, Arc::new(indexer), clock("index")).boxed()
    }
}

/// Pieces (128 KiB) decompressed ahead of the parser.
const PIECES_AHEAD: usize = 4;
