//! Which batches a packed store has, told by the metadata of its files of spans.
//!
//! All files are listed once, and again with each full pass over the raw files. Between them a look begins an hour before
//! the newest name that is known, so that what a poll costs does not grow with the store.

use super::SPANS;
use super::batches::written;
use super::footers::Footers;
use super::format::BATCHES_KEY;
use super::packer::{Names, SystemNames, spans_from};
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::store::{Key, Meta, Store};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::Instant;

/// The batches of one store, as far as this process has seen. A batch takes 16 bytes, a file about 100.
pub struct DoneBatches {
    reader: Arc<Reader>,
    names: Arc<dyn Names>,
    seen: Mutex<Seen>,
    /// True if all files are to be listed, and not only those that are new by their names.
    all_are_due: AtomicBool,
    /// What the last listing told; held while there is one.
    listed: tokio::sync::Mutex<Listed>,
}

#[derive(Default)]
struct Seen {
    batches: HashSet<[u8; 16]>,
    /// Batches that were stored and could not be read back: files name them, and they are to be stored again.
    broken: HashSet<[u8; 16]>,
    files: HashSet<Key>,
}

#[derive(Default)]
struct Listed {
    /// When it was, if ever.
    at: Option<Instant>,
    /// What the newest file is named by, in milliseconds since 1970. One whose writer's clock was ahead of ours says
    /// nothing about where others will be.
    newest: u64,
}

/// Requests at a time.
const AT_ONCE: usize = 32;
/// A listing is good for so long: a batch that another worker stores meanwhile is stored twice, and reads as one.
const FRESH: Duration = Duration::from_secs(1);
/// A file may appear so much later than one with a newer name: writers' clocks differ, and a put takes its time. What
/// comes later still is seen when all files are listed, and until then its batches may be stored twice.
const LATE: Duration = Duration::from_secs(3600);

impl DoneBatches {
    /// Nothing is known yet.
    pub fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Self::with_footers(store, None, Arc::new(SystemNames))
    }

    /// The same, with a cache of the ends of files, and the clock that files are named by.
    pub fn with_footers(store: Arc<dyn Store>, footers: Option<Footers>, names: Arc<dyn Names>) -> Arc<Self> {
        let reader = Reader::with_footers(store, 0, footers);
        let all_are_due = AtomicBool::new(true);
        Arc::new(Self { reader, names, seen: Mutex::default(), all_are_due, listed: tokio::sync::Mutex::default() })
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

    /// The next refresh lists all files, also those that came late under an old name.
    pub fn list_all_next(&self) {
        self.all_are_due.store(true, Ordering::Relaxed);
    }

    /// Reads the metadata of files that are new. One that is not what Gravity wrote has no batches: what was in it is
    /// stored again where its raw files still stand.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn refresh(&self) -> Result<()> {
        let mut listed = self.listed.lock().await;
        let all = self.all_are_due.swap(false, Ordering::Relaxed);
        if !all && listed.at.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        let outcome = self.read_new(&mut listed, all).await;
        if all && outcome.is_err() {
            self.list_all_next();
        }
        outcome
    }

    async fn read_new(&self, listed: &mut Listed, all: bool) -> Result<()> {
        let now = self.names.now();
        let from = spans_from(listed.newest.min(now).saturating_sub(LATE.as_millis() as u64));
        let after = (!all).then_some(&*from);
        let files: Vec<_> = self.reader.store().list(&format!("{SPANS}/"), after).try_collect().await?;
        let newest = files.iter().map(|meta| written_at(&meta.key)).filter(|&at| at <= now).max();
        if let (true, Some(footers)) = (all, self.reader.footers()) {
            footers.keep(&files.iter().map(|meta| &meta.key).collect());
        }
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
        *listed = Listed { at: Some(Instant::now()), newest: listed.newest.max(newest.unwrap_or(0)) };
        Ok(())
    }
}

/// Milliseconds since 1970 that a file is named by.
fn written_at(file: &Key) -> u64 {
    written(file).duration_since(UNIX_EPOCH).map_or(0, |at| at.as_millis() as u64)
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
