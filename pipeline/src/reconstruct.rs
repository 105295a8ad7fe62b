//! The way back: index ─▶ fetch (ordered, read ahead) ─▶ decompress ─▶ join.

use crate::compress::gunzip;
use crate::error::{Error, Result};
use crate::hash::{ByHash, ChunkHash};
use crate::ids::TraceId;
use crate::loose::{PartEntry, Paths, TraceIndex};
use crate::split::Separator;
use crate::store::Store;
use bytes::Bytes;
use futures::future::Either;
use futures::{Stream, StreamExt, TryStreamExt, future, stream};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OnceCell, Semaphore};
use tokio_util::task::AbortOnDropHandle;

/// Reads a trace's index.
///
/// # Errors
/// [`Error::NotFound`] if the store has no such trace.
pub async fn load(store: &dyn Store, paths: &Paths, trace: &TraceId) -> Result<TraceIndex> {
    let key = paths.index(trace);
    match store.read(&key).await? {
        Some((json, _)) => TraceIndex::from_json(key.as_str(), &json),
        None => Err(Error::NotFound(format!("trace {trace} is not in {}", store.location()))),
    }
}

/// Chunks fetched ahead at most.
const CHUNKS_AHEAD: usize = 32;
/// Bytes fetched ahead at most, in KiB; a single larger part passes alone.
const KIB_AHEAD: u32 = 32 << 10;

/// Fetches chunks.
pub struct Reader {
    store: Arc<dyn Store>,
    paths: Paths,
    ahead: Arc<Semaphore>,
    recent: Mutex<Recent>,
    /// Chunks that need not be fetched: they were made of what a packed store has.
    given: ByHash<Bytes>,
}

/// Roles and empty lines come again and again in one trace: each is fetched once while it is remembered.
#[derive(Default)]
struct Recent {
    chunks: ByHash<Arc<OnceCell<Bytes>>>,
    order: VecDeque<ChunkHash>,
}

/// Chunks remembered, and the largest part whose chunks are: 16 MiB at most.
const REMEMBERED: usize = 1024;
const REMEMBERED_BYTES: u64 = 16 << 10;

impl Reader {
    /// A reader of that store.
    pub fn new(store: Arc<dyn Store>, paths: Paths) -> Arc<Self> {
        Self::with_chunks(store, paths, ByHash::default())
    }

    /// A reader that has these chunks already.
    pub fn with_chunks(store: Arc<dyn Store>, paths: Paths, given: ByHash<Bytes>) -> Arc<Self> {
        let ahead = Arc::new(Semaphore::new(KIB_AHEAD as usize));
        Arc::new(Self { store, paths, ahead, recent: Mutex::default(), given })
    }

    /// The chunks of these parts, one part after the other, fetched ahead but in order. Each is checked against its
    /// name before it is given out.
    #[allow(clippy::async_yields_async, reason = "`buffered` is what awaits them")]
    pub fn chunks<I>(self: &Arc<Self>, parts: I) -> impl Stream<Item = Result<Bytes>> + Send + use<I>
    where
        I: IntoIterator<Item = PartEntry, IntoIter: Send>,
    {
        let reader = self.clone();
        let named = parts.into_iter().flat_map(|part| {
            let bytes = part.bytes;
            part.chunks.into_iter().map(move |hash| (hash, bytes))
        });
        stream::iter(named)
            .then(move |(hash, part_bytes)| {
                let reader = reader.clone();
                async move {
                    if let Some(chunk) = reader.given.get(&hash) {
                        return Either::Left(future::ready(Ok((chunk.clone(), None))));
                    }
                    // A chunk is at most as large as its part. The semaphore is never closed.
                    let kib = (part_bytes / 1024 + 1).min(u64::from(KIB_AHEAD)) as u32;
                    let permit = reader.ahead.clone().acquire_many_owned(kib).await.ok();
                    let fetch = async move { reader.chunk(hash, part_bytes <= REMEMBERED_BYTES).await };
                    let task = AbortOnDropHandle::new(tokio::spawn(fetch));
                    Either::Right(async move { task.await?.map(|chunk| (chunk, permit)) })
                }
            })
            .buffered(CHUNKS_AHEAD)
            // The permit is held until the chunk is handed out: what waits here is memory too.
            .map_ok(|(chunk, _permit)| chunk)
    }

    /// The content of these parts as it arrived, joined by the separator.
    pub fn content<I>(
        self: &Arc<Self>,
        parts: I,
        separator: &Separator,
    ) -> impl Stream<Item = Result<Bytes>> + Send + use<I>
    where
        I: IntoIterator<Item = PartEntry, IntoIter: Send>,
    {
        let separator = Bytes::from(separator.as_str().to_owned());
        let mut first = true;
        self.chunks(parts)
            .map_ok(move |chunk| {
                let before = if std::mem::take(&mut first) { Bytes::new() } else { separator.clone() };
                stream::iter([Ok(before), Ok(chunk)])
            })
            .try_flatten()
    }

    async fn chunk(&self, hash: ChunkHash, remember: bool) -> Result<Bytes> {
        if !remember {
            return self.fetch(&hash).await;
        }
        let cell = {
            // The table is whole between any two statements that could panic.
            let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
            recent.cell(hash)
        };
        cell.get_or_try_init(|| self.fetch(&hash)).await.cloned()
    }

    async fn fetch(&self, hash: &ChunkHash) -> Result<Bytes> {
        let key = self.paths.blob(hash);
        let corrupt = |reason: String| Error::Corrupt { key: key.to_string(), reason };
        let blob = self.store.read(&key).await?;
        let (blob, _) = blob.ok_or_else(|| corrupt("the index names it and it is not there".into()))?;
        let chunk = gunzip(&blob).map_err(|e| corrupt(format!("not a whole gzip file: {e}")))?;
        let found = ChunkHash::of(&chunk);
        if found != *hash {
            return Err(corrupt(format!("its content has the hash {found}")));
        }
        Ok(Bytes::from(chunk))
    }
}

impl Recent {
    fn cell(&mut self, hash: ChunkHash) -> Arc<OnceCell<Bytes>> {
        if let Some(cell) = self.chunks.get(&hash) {
            return cell.clone();
        }
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.chunks.remove(&oldest);
        }
        self.order.push_back(hash);
        self.chunks.entry(hash).or_default().clone()
    }
}
