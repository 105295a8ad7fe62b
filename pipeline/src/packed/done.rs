//! Which batches a packed store has, told by the metadata of its files of spans.

use super::SPANS;
use super::format::BATCHES_KEY;
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::store::{Key, Meta, Store};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The batches of one store, as far as this process has seen. A batch takes 16 bytes, a file about 100.
pub struct DoneBatches {
    reader: Arc<Reader>,
    seen: Mutex<Seen>,
    /// When the files were last listed; held while they are.
    listed: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Seen {
    batches: HashSet<[u8; 16]>,
    /// Batches that were stored and could not be read back: files name them, and they are to be stored again.
    broken: HashSet<[u8; 16]>,
    files: HashSet<Key>,
}

/// Requests at a time.
const AT_ONCE: usize = 32;
/// A listing is good for so long: a batch that another worker stores meanwhile is stored twice, and reads as one.
const FRESH: Duration = Duration::from_secs(1);

impl DoneBatches {
    /// Nothing is known yet.
    pub fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { reader: Reader::new(store, 0), seen: Mutex::default(), listed: tokio::sync::Mutex::default() })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // What it holds is whole between any two statements that could panic.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if this batch is known to be stored.
    pub fn has(&self, batch: &str) -> bool {
        let (seen, batch) = (self.seen(), short(batch));
        seen.batches.contains(&batch) && !seen.broken.contains(&batch)
    }

    /// Notes a batch that was stored.
    pub fn note(&self, batch: &str) {
        let (mut seen, batch) = (self.seen(), short(batch));
        seen.broken.remove(&batch);
        seen.batches.insert(batch);
    }

    /// Notes a batch that was stored and is not to be trusted: whatever files name it, it is not done until it is
    /// [noted](Self::note) again.
    pub fn note_broken(&self, batch: &str) {
        self.seen().broken.insert(short(batch));
    }

    /// Reads the metadata of files that are new. One that is not what Gravity wrote has no batches: what was in it is
    /// stored again where its raw files still stand.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn refresh(&self) -> Result<()> {
        let mut listed = self.listed.lock().await;
        if listed.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        let files: Vec<_> = self.reader.store().list(&format!("{SPANS}/"), None).try_collect().await?;
        let new: Vec<_> = {
            let seen = self.seen();
            files.into_iter().filter(|meta| !seen.files.contains(&meta.key)).collect()
        };
        let mut opened = stream::iter(new)
            .map(|meta| async move { (batches_of(&self.reader, &meta).await, meta.key) })
            .buffer_unordered(AT_ONCE);
        while let Some((batches, key)) = opened.next().await {
            let batches = match batches {
                Ok(batches) => batches,
                Err(e @ Error::Corrupt { .. }) => {
                    tracing::error!("{e}: its batches count as not stored");
                    vec![]
                }
                Err(e) => return Err(e),
            };
            let mut seen = self.seen();
            seen.batches.extend(batches.iter().map(|batch| short(batch)));
            seen.files.insert(key);
        }
        *listed = Some(Instant::now());
        Ok(())
    }
}

/// The batches of a file; none if it is gone.
async fn batches_of(reader: &Reader, meta: &Meta) -> Result<Vec<String>> {
    let file = reader.open_metadata(meta).await?;
    file.map_or(Ok(vec![]), |file| file.list(BATCHES_KEY))
}

/// Stands for a batch's key: the first half of its BLAKE3.
fn short(batch: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(batch.as_bytes()).as_bytes()[..16]);
    short
}
