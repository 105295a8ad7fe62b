//! Chunks in the store, each written once: what this run has seen costs no request, what another worker wrote costs
//! a HEAD, and of the same chunk in flight twice only one is sent.
//!
//! A listing of 1,000 names costs what 12 HEADs cost, so a run begins with one (of 10 pages at the most). Where that
//! was all there is, a chunk that it did not name needs no HEAD either: for a minute, since other workers write too
//! and a PUT of what they wrote costs more than asking.

use super::Paths;
use crate::compress::gzip;
use crate::error::{Error, Result};
use crate::hash::{ByHash, ChunkHash};
use crate::store::{PutMode, Store};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future, stream};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;

/// What became of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// It was there.
    Known,
    /// It was written, and takes so many bytes.
    New(u64),
}

/// The blobs of a store.
pub struct Blobs {
    store: Arc<dyn Store>,
    paths: Paths,
    requests: Semaphore,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    in_flight: ByHash<Arc<OnceCell<()>>>,
    /// Two generations: when the young one is full it becomes the old one, and what was not asked for since is
    /// forgotten.
    young: ByHash<()>,
    old: ByHash<()>,
    /// Hashes of one generation.
    generation: usize,
    /// Until then, what is not remembered is not in the store, unless another worker has just written it.
    complete_until: Option<Instant>,
}

/// Names listed at the start, at most.
const LISTED: usize = 10_000;
/// Chunks of one trace asked for at the same time; the limit on requests comes on top.
const PROVED_AT_ONCE: usize = 64;
/// How long a whole listing is believed.
const BELIEVED: Duration = Duration::from_secs(60);

impl Seen {
    /// The flight to wait for; `None` if the chunk is known to be there.
    fn board(&mut self, hash: ChunkHash) -> Option<Arc<OnceCell<()>>> {
        if self.young.contains_key(&hash) {
            return None;
        }
        if self.old.contains_key(&hash) {
            self.remember(hash);
            return None;
        }
        Some(self.in_flight.entry(hash).or_default().clone())
    }

    fn land(&mut self, hash: ChunkHash, stored: bool) {
        self.in_flight.remove(&hash);
        if stored {
            self.remember(hash);
        }
    }

    fn forget(&mut self, hash: &ChunkHash) {
        self.young.remove(hash);
        self.old.remove(hash);
    }

    fn remember(&mut self, hash: ChunkHash) {
        if self.young.len() >= self.generation {
            self.old = std::mem::take(&mut self.young);
            if !self.old.is_empty() {
                // Something is forgotten sooner or later from here on.
                self.complete_until = None;
            }
        }
        self.young.insert(hash, ());
    }
}

/// Bytes that a remembered hash takes: a table that has just grown is half empty.
const HASH_BYTES: usize = 80;

impl Blobs {
    /// The blobs of `store`, with at most `concurrency` requests at a time and `budget` bytes for what is known.
    pub fn new(store: Arc<dyn Store>, paths: Paths, concurrency: usize, budget: usize) -> Self {
        let generation = (budget / HASH_BYTES / 2).max(1);
        let seen = Seen { generation, ..Seen::default() };
        Self { store, paths, requests: Semaphore::new(concurrency), seen: Mutex::new(seen) }
    }

    /// Learns what is there from a listing, if the store is small.
    pub async fn warm_up(&self) -> Result<()> {
        let asked = Instant::now();
        let mut names = self.store.list(&format!("{}/", self.paths.blobs), None).take(LISTED);
        let mut count = 0;
        while let Some(meta) = names.try_next().await? {
            count += 1;
            if let Some(hash) = self.paths.hash_of(&meta.key) {
                self.seen().remember(hash);
            }
        }
        if count < LISTED {
            let mut seen = self.seen();
            let nothing_forgotten = seen.old.is_empty();
            seen.complete_until = nothing_forgotten.then(|| asked + BELIEVED);
        }
        Ok(())
    }

    /// Returns once the chunk is in the store, durably. `store` is this one, for the batch that needs the chunk.
    pub async fn ensure(&self, store: &dyn Store, hash: ChunkHash, chunk: Bytes) -> Result<Ensured> {
        let Some(flight) = self.seen().board(hash) else { return Ok(Ensured::Known) };
        let mut outcome = Ensured::Known;
        // Whoever comes first does the work, the others wait; if it fails, the next in line tries.
        let landed = flight
            .get_or_try_init(|| async {
                outcome = self.write(store, &hash, &chunk).await?;
                Ok(())
            })
            .await
            .map(|_| ());
        self.seen().land(hash, landed.is_ok());
        landed.map(|()| outcome)
    }

    /// Passes if the store still has these chunks, whatever is remembered. What it has not is forgotten, so that the
    /// next [`ensure`](Self::ensure) writes it.
    ///
    /// # Errors
    /// [`Error::Lost`] if a chunk is gone.
    pub async fn prove(&self, store: &dyn Store, hashes: impl IntoIterator<Item = ChunkHash>) -> Result<()> {
        // In their order: what is asked first does not differ from one run to the next.
        let distinct: BTreeSet<_> = hashes.into_iter().collect();
        let gone: Vec<_> = stream::iter(distinct)
            .map(|hash| async move { Ok::<_, Error>((hash, self.is_there(store, &hash).await?)) })
            .buffer_unordered(PROVED_AT_ONCE)
            .try_filter_map(|(hash, there)| future::ok((!there).then_some(hash)))
            .try_collect()
            .await?;
        let Some(first) = gone.first() else { return Ok(()) };
        let first = self.paths.blob(first);
        let mut seen = self.seen();
        gone.iter().for_each(|hash| seen.forget(hash));
        let many = gone.len();
        Err(Error::Lost(format!("{first} was stored and is gone ({many} such blobs): the next try writes it again")))
    }

    async fn is_there(&self, store: &dyn Store, hash: &ChunkHash) -> Result<bool> {
        // The semaphore is never closed.
        let _permit = self.requests.acquire().await;
        Ok(store.head(&self.paths.blob(hash)).await?.is_some())
    }

    async fn write(&self, store: &dyn Store, hash: &ChunkHash, chunk: &[u8]) -> Result<Ensured> {
        // The semaphore is never closed.
        let _permit = self.requests.acquire().await;
        let key = self.paths.blob(hash);
        let absent = self.seen().complete_until.is_some_and(|until| Instant::now() < until);
        if !absent && store.head(&key).await?.is_some() {
            return Ok(Ensured::Known);
        }
        let blob = gzip(chunk);
        let size = blob.len() as u64;
        store.put(&key, blob, PutMode::Always).await?;
        Ok(Ensured::New(size))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // The tables are whole between any two statements that could panic.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Memory, Metered};

    fn blobs(budget: usize) -> (Blobs, impl Fn() -> (u64, u64)) {
        let store = Metered::new(Memory::new());
        let requests = store.requests();
        let heads_and_puts = move || (requests().head, requests().put);
        (Blobs::new(Arc::new(store), Paths::default(), 8, budget), heads_and_puts)
    }

    #[tokio::test]
    async fn a_chunk_seen_in_this_run_costs_no_request() {
        let (blobs, requests) = blobs(10_000);
        let chunk = Bytes::from("hello");
        let first = blobs.ensure(&*blobs.store, ChunkHash::of(&chunk), chunk.clone()).await.unwrap();
        assert!(matches!(first, Ensured::New(size) if size > 0));
        assert_eq!(blobs.ensure(&*blobs.store, ChunkHash::of(&chunk), chunk).await.unwrap(), Ensured::Known);
        assert_eq!(requests(), (1, 1));
    }

    #[tokio::test]
    async fn a_chunk_that_another_worker_wrote_costs_a_head() {
        let (blobs, requests) = blobs(10_000);
        let chunk = Bytes::from("hello");
        let hash = ChunkHash::of(&chunk);
        blobs.store.put(&blobs.paths.blob(&hash), gzip(&chunk), PutMode::Always).await.unwrap();
        assert_eq!(blobs.ensure(&*blobs.store, hash, chunk).await.unwrap(), Ensured::Known);
        assert_eq!(requests(), (1, 1));
    }

    #[tokio::test]
    async fn of_a_chunk_in_flight_twice_one_is_sent() {
        let (blobs, requests) = blobs(10_000);
        let chunk = Bytes::from("hello");
        let outcomes =
            future::join_all((0..20).map(|_| blobs.ensure(&*blobs.store, ChunkHash::of(&chunk), chunk.clone()))).await;
        let new = outcomes.into_iter().filter(|o| matches!(o, Ok(Ensured::New(_)))).count();
        assert_eq!((new, requests()), (1, (1, 1)));
    }

    #[tokio::test]
    async fn after_a_whole_listing_only_what_is_new_costs_a_request() {
        let (blobs, requests) = blobs(10_000);
        let [old, new] = ["old", "new"].map(Bytes::from);
        blobs.store.put(&blobs.paths.blob(&ChunkHash::of(&old)), gzip(&old), PutMode::Always).await.unwrap();
        blobs.warm_up().await.unwrap();
        assert_eq!(blobs.ensure(&*blobs.store, ChunkHash::of(&old), old).await.unwrap(), Ensured::Known);
        assert!(matches!(blobs.ensure(&*blobs.store, ChunkHash::of(&new), new).await.unwrap(), Ensured::New(_)));
        assert_eq!(requests(), (0, 2));
    }

    #[tokio::test]
    async fn a_listing_is_not_believed_once_something_was_forgotten() {
        let (blobs, requests) = blobs(10 * HASH_BYTES);
        blobs.warm_up().await.unwrap();
        for n in 0..20u32 {
            let chunk = Bytes::from(n.to_string());
            blobs.ensure(&*blobs.store, ChunkHash::of(&chunk), chunk).await.unwrap();
        }
        let first = Bytes::from("0");
        assert_eq!(blobs.ensure(&*blobs.store, ChunkHash::of(&first), first).await.unwrap(), Ensured::Known);
        assert_eq!(requests().1, 20);
    }

    #[tokio::test]
    async fn what_is_proved_and_gone_is_written_again() {
        let (blobs, requests) = blobs(10_000);
        let [kept, gone] = ["kept", "gone"].map(Bytes::from);
        let both = [&kept, &gone].map(|chunk| ChunkHash::of(chunk));
        for chunk in [&kept, &gone] {
            blobs.ensure(&*blobs.store, ChunkHash::of(chunk), chunk.clone()).await.unwrap();
        }
        blobs.prove(&*blobs.store, both.into_iter().chain(both)).await.unwrap();
        assert_eq!(requests().0, 4, "each is asked for once");
        blobs.store.delete(&blobs.paths.blob(&both[1])).await.unwrap();
        let lost = blobs.prove(&*blobs.store, both).await.unwrap_err();
        assert!(lost.to_string().contains(blobs.paths.blob(&both[1]).as_str()), "{lost}");
        assert!(matches!(blobs.ensure(&*blobs.store, both[1], gone).await.unwrap(), Ensured::New(_)));
        assert_eq!(blobs.ensure(&*blobs.store, both[0], kept).await.unwrap(), Ensured::Known);
        blobs.prove(&*blobs.store, both).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_remembered_stays_within_the_budget() {
        let (blobs, _) = blobs(100 * HASH_BYTES);
        for n in 0..1000u32 {
            let chunk = Bytes::from(n.to_string());
            blobs.ensure(&*blobs.store, ChunkHash::of(&chunk), chunk).await.unwrap();
        }
        let seen = blobs.seen();
        assert!(seen.young.len() + seen.old.len() <= 100);
        assert!(seen.in_flight.is_empty());
    }
}
