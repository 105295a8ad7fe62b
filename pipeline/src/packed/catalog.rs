//! Which files of spans there are, and what their metadata says: enough to find a batch or a trace without reading
//! anything else.

use super::SPANS;
use super::file::File;
use super::format::{BATCHES_KEY, PACKS_KEY, REPLACES_KEY, Window, bloom_of};
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::ids::TraceId;
use crate::store::{Key, Meta};
use futures::{StreamExt, TryStreamExt, stream};
use parquet::bloom_filter::Sbbf;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A file of spans.
pub struct SpansFile {
    /// Its name.
    pub key: Key,
    /// Its end, not parsed: ten thousand of them are in memory.
    end: Window,
    /// The keys of its batches.
    pub batches: Vec<String>,
    /// The packs that its references lead to.
    pub packs: Vec<u64>,
    /// The files that it stands for.
    pub replaces: Vec<String>,
    /// For each row group, a filter of its traces.
    blooms: Vec<Option<Sbbf>>,
}

impl SpansFile {
    fn new(file: File) -> Result<Self> {
        let column = 2; // trace_id
        let blooms = (0..file.metadata.num_row_groups()).map(|group| {
            let column = file.metadata.row_group(group).column(column);
            // One that was not read with the metadata is not worth a request of its own.
            bloom_of(column, file.window())
        });
        Ok(Self {
            batches: file.list(BATCHES_KEY)?,
            packs: file.list(PACKS_KEY)?,
            replaces: file.list(REPLACES_KEY)?,
            blooms: blooms.collect(),
            end: file.end(),
            key: file.key,
        })
    }

    /// The file, its metadata read.
    ///
    /// # Errors
    /// None: it could be read before.
    pub fn open(&self) -> Result<File> {
        File::parse(&self.key, self.end.clone())
    }

    pub(super) fn corrupt(&self, reason: impl Into<String>) -> Error {
        Error::Corrupt { key: self.key.to_string(), reason: reason.into() }
    }

    /// True if this row group says that it may have rows of this trace.
    pub fn may_have(&self, group: usize, trace: &[u8; 16]) -> bool {
        let bloom = self.blooms.get(group).and_then(Option::as_ref);
        bloom.is_none_or(|bloom| bloom.check(&parquet::data_type::ByteArray::from(trace.to_vec())))
    }

    /// The row groups that may have rows of a trace.
    pub fn groups_of(&self, trace: &TraceId) -> impl Iterator<Item = usize> {
        let groups: Vec<usize> =
            (0..self.blooms.len()).filter(|&group| self.may_have(group, trace.as_bytes())).collect();
        groups.into_iter()
    }
}

/// The files of spans of one store, as they were when they were last listed.
pub struct Catalog {
    reader: Arc<Reader>,
    files: Mutex<Arc<Files>>,
}

/// Files of spans by name, and the batches in them.
#[derive(Default)]
pub struct Files {
    all: BTreeMap<Key, Arc<SpansFile>>,
    /// Of each batch, the files that have it, oldest first.
    by_batch: HashMap<String, Vec<Key>>,
}

/// Requests at a time.
const AT_ONCE: usize = 32;

impl Catalog {
    /// A catalog that has seen nothing.
    pub fn new(reader: Arc<Reader>) -> Arc<Self> {
        Arc::new(Self { reader, files: Mutex::default() })
    }

    fn files(&self) -> MutexGuard<'_, Arc<Files>> {
        // What it holds is whole between any two statements that could panic.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it knows now.
    pub fn known(&self) -> Arc<Files> {
        self.files().clone()
    }

    /// Lists the files, and reads the metadata of those that are new. Gives how many are not what Gravity wrote, too:
    /// they are logged and left out, since what is in the others can be read.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn readable(&self) -> Result<(Arc<Files>, u64)> {
        let mut broken = 0;
        let mut leave_out = |key, e| {
            broken += 1;
            tracing::error!("{key} is left out: {e}");
        };
        let files = self.refresh_despite(&mut leave_out).await?;
        Ok((files, broken))
    }

    /// The same, but those files are told to `broken`.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn refresh_despite(&self, broken: &mut (dyn FnMut(Key, Error) + Send)) -> Result<Arc<Files>> {
        let before = self.known();
        let listed: Vec<_> = self.reader.store().list(&format!("{SPANS}/"), None).try_collect().await?;
        let names: HashSet<&Key> = listed.iter().map(|meta| &meta.key).collect();
        let mut all: BTreeMap<Key, Arc<SpansFile>> = before
            .all
            .iter()
            .filter(|(key, _)| names.contains(key))
            .map(|(key, file)| (key.clone(), file.clone()))
            .collect();
        let new: Vec<Meta> = listed.iter().filter(|meta| !all.contains_key(&meta.key)).cloned().collect();
        if new.is_empty() && all.len() == before.all.len() {
            return Ok(before);
        }
        let mut opened = stream::iter(new)
            .map(|meta: Meta| async move { (meta.key.clone(), self.reader.open_metadata(&meta).await) })
            .buffer_unordered(AT_ONCE);
        while let Some((key, file)) = opened.next().await {
            match file.and_then(|file| file.map(SpansFile::new).transpose()) {
                Ok(Some(file)) => drop(all.insert(key, Arc::new(file))),
                // Gone since it was listed: compacted, and what it was compacted into is in the next listing.
                Ok(None) => {}
                Err(e @ Error::Corrupt { .. }) => broken(key, e),
                Err(e) => return Err(e),
            }
        }
        drop(opened);
        if let Some(footers) = self.reader.footers() {
            footers.keep(&names);
        }
        let files = Arc::new(Files::new(all));
        *self.files() = files.clone();
        Ok(files)
    }
}

impl Files {
    fn new(all: BTreeMap<Key, Arc<SpansFile>>) -> Self {
        let mut by_batch: HashMap<String, Vec<Key>> = HashMap::new();
        let mut files = Self { all, by_batch: HashMap::new() };
        for (key, file) in files.live() {
            for batch in &file.batches {
                by_batch.entry(batch.clone()).or_default().push(key.clone());
            }
        }
        files.by_batch = by_batch;
        files
    }

    /// The files that count: all but those that others stand for.
    pub fn live(&self) -> impl Iterator<Item = (&Key, &Arc<SpansFile>)> {
        let replaced: HashSet<&str> = self.all.values().flat_map(|file| &file.replaces).map(String::as_str).collect();
        self.all.iter().filter(move |(key, _)| !replaced.contains(key.as_str()))
    }

    /// All files, by name.
    pub fn all(&self) -> impl Iterator<Item = (&Key, &Arc<SpansFile>)> {
        self.all.iter()
    }

    /// The keys of all batches, in no order.
    pub fn batches(&self) -> impl Iterator<Item = &str> {
        self.by_batch.keys().map(String::as_str)
    }

    /// True if this batch is stored.
    pub fn has_batch(&self, batch: &str) -> bool {
        self.by_batch.contains_key(batch)
    }

    /// The files that have this batch, newest first.
    pub fn of_batch(&self, batch: &str) -> impl Iterator<Item = &Arc<SpansFile>> {
        let keys = self.by_batch.get(batch).map(Vec::as_slice).unwrap_or_default();
        keys.iter().rev().filter_map(|key| self.all.get(key))
    }
}
