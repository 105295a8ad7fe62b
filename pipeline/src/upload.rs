//! Stage 6: puts into the store what it does not have yet.

use crate::block::Block;
use crate::error::Result;
use crate::hash::{HashedBlock, HashedPart};
use crate::loose::{Blobs, Ensured};
use crate::observe::StageClock;
use crate::otlp::Record;
use crate::stages;
use crate::store::Store;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use std::sync::Arc;

/// A block whose every chunk is in the store: only such a block can be indexed.
#[derive(Debug)]
pub struct StoredBlock {
    records: Block<Record<HashedPart>>,
    sums: UploadSums,
}

impl StoredBlock {
    /// Gives up the records and what it took to store them.
    pub fn into_parts(self) -> (Block<Record<HashedPart>>, UploadSums) {
        (self.records, self.sums)
    }
}

/// What uploading came to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct UploadSums {
    /// Blobs written.
    pub new_blobs: u64,
    /// Bytes of them, compressed.
    pub new_bytes: u64,
    /// Distinct chunks of a block that were there.
    pub known_blobs: u64,
}

impl std::ops::AddAssign for UploadSums {
    fn add_assign(&mut self, other: Self) {
        self.new_blobs += other.new_blobs;
        self.new_bytes += other.new_bytes;
        self.known_blobs += other.known_blobs;
    }
}

/// Chunks of one block looked at at the same time; the store's own limit on requests comes on top.
const CHUNKS_AT_ONCE: usize = 64;

/// Uploads what is new to `store`, whose blobs these are, `concurrency` blocks at a time.
pub fn upload<S>(
    hashed: S,
    store: Arc<dyn Store>,
    blobs: Arc<Blobs>,
    concurrency: usize,
    clock: StageClock,
) -> impl Stream<Item = Result<StoredBlock>> + Send
where
    S: Stream<Item = Result<HashedBlock>> + Send,
{
    stages::concurrent(hashed, concurrency, move |block| clock.time(upload_block(block, store.clone(), blobs.clone())))
}

async fn upload_block(block: HashedBlock, store: Arc<dyn Store>, blobs: Arc<Blobs>) -> Result<StoredBlock> {
    let HashedBlock { records, chunks } = block;
    let ensured = stream::iter(chunks)
        .map(|(hash, chunk)| blobs.ensure(&*store, hash, chunk))
        .buffer_unordered(CHUNKS_AT_ONCE)
        .try_fold(UploadSums::default(), |mut sums, ensured| async move {
            match ensured {
                Ensured::Known => sums.known_blobs += 1,
                Ensured::New(bytes) => {
                    sums.new_blobs += 1;
                    sums.new_bytes += bytes;
                }
            }
            Ok(sums)
        });
    Ok(StoredBlock { sums: ensured.await?, records })
}
