//! The pipeline, whole: from one raw file's bytes to what the store holds of it.

use crate::decompress::{self, decompress};
use crate::error::Result;
use crate::hash::hash;
use crate::index::{BatchKey, Committed, Indexer, Tallies, index};
use crate::keys::ContentKeys;
use crate::loose::{Blobs, Marker, Paths};
use crate::observe::{Observer, StageClock};
use crate::otlp::{FrameLimits, ParseSettings, parse};
use crate::split::{Separator, split};
use crate::stages::ahead;
use crate::store::Store;
use crate::upload::upload;
use bytes::Bytes;
use futures::Stream;
use futures::stream::BoxStream;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How to run. All limits are per batch unless said otherwise.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The store's folders.
    pub paths: Paths,
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
    /// Who is told how it goes.
    pub observer: Arc<dyn Observer>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            paths: Paths::default(),
            separator: Separator::default(),
            keys: ContentKeys::default(),
            decompress: decompress::Limits::default(),
            frames: FrameLimits::default(),
            blocks: 4,
            requests: 64,
            known_budget: 16 << 20,
            max_index_bytes: 32 << 20,
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
    blobs: Arc<Blobs>,
    indexer: Indexer,
}

impl Pipeline {
    /// Prepares to write into `store`, which becomes a loose one if it is new.
    ///
    /// # Errors
    /// If the store cannot be reached, or is of another layout or separator.
    pub async fn open(store: Arc<dyn Store>, settings: Settings) -> Result<Self> {
        Marker::claim(&*store, &settings.separator).await?;
        let (requests, known) = (settings.requests, settings.known_budget);
        let blobs = Blobs::new(store.clone(), settings.paths.clone(), requests, known);
        blobs.warm_up().await?;
        let indexer = Indexer {
            store: store.clone(),
            paths: settings.paths.clone(),
            separator: settings.separator.clone(),
            concurrency: requests,
            max_index_bytes: settings.max_index_bytes,
            budget: Arc::new(Semaphore::new((settings.max_index_bytes / 1024).max(1) as usize)),
        };
        Ok(Self { settings, store, blobs: Arc::new(blobs), indexer })
    }

    /// Who is told how it goes.
    pub fn observer(&self) -> &Arc<dyn Observer> {
        &self.settings.observer
    }

    /// Runs one batch: its traces as they are committed, then the batch itself. The picture in `DESIGN.md`, in code.
    pub fn run(&self, batch: Batch) -> impl Stream<Item = Result<Committed>> + Send + use<> {
        let settings = &self.settings;
        let tallies = Tallies::default();
        let store = self.store.for_batch().unwrap_or_else(|| self.store.clone());
        let indexer = Indexer { store: store.clone(), ..self.indexer.clone() };
        let clock = |stage| StageClock::new(stage, settings.observer.clone());
        let parsing = ParseSettings {
            keys: settings.keys.clone(),
            limits: settings.frames,
            concurrency: settings.blocks,
            clock: clock("parse"),
        };

        let bytes = decompress(batch.raw, settings.decompress, tallies.raw.clone());
        let bytes = ahead(clock("decompress").time_stream(bytes), PIECES_AHEAD);
        let records = parse(bytes, parsing, tallies.documents.clone());
        let parts = split(records, settings.separator.clone());
        let hashed = hash(parts, settings.blocks, clock("hash"));
        let stored = upload(hashed, store, self.blobs.clone(), settings.blocks, clock("upload"));
        index(stored, batch.key, tallies, Arc::new(indexer), clock("index"))
    }
}

/// Pieces (128 KiB) decompressed ahead of the parser.
const PIECES_AHEAD: usize = 4;
