//! One Parquet file of a store, of which at least the metadata was read.

use super::SPANS;
use super::format::{FORMAT, FORMAT_KEY, PACKS_KEY, REPLACES_KEY, Window, metadata_of};
use super::table::PackNumber;
use crate::error::{Error, Result};
use crate::store::Key;
use bytes::Bytes;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use std::sync::Arc;

/// Columns of a file of nodes, and of spans, at least.
const NODES_COLUMNS: usize = 5;
const SPANS_COLUMNS: usize = 22;

/// A Parquet file that is being read.
#[derive(Clone)]
pub struct File {
    /// Its name.
    pub key: Key,
    /// Its bytes, as far as they were read: all of them, or the end.
    pub(super) window: Window,
    /// Its metadata.
    pub metadata: Arc<ParquetMetaData>,
}

impl File {
    pub(super) fn parse(key: &Key, window: Window) -> Result<Self> {
        let columns = if key.as_str().starts_with(SPANS) { SPANS_COLUMNS } else { NODES_COLUMNS };
        let metadata =
            metadata_of(&window, columns).map_err(|reason| Error::Corrupt { key: key.to_string(), reason })?;
        let file = Self { key: key.clone(), window, metadata: Arc::new(metadata) };
        match file.value(FORMAT_KEY) {
            None | Some(FORMAT) => Ok(file),
            Some(other) => {
                let reason =
                    format!("it is in format {other:?}, and this program knows {FORMAT} alone: use a newer one");
                Err(file.corrupt(reason))
            }
        }
    }

    /// A value of the file's own metadata.
    fn value(&self, name: &str) -> Option<&str> {
        let pairs = self.metadata.file_metadata().key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == name)?.value.as_deref()
    }

    /// A file whose bytes are in memory.
    ///
    /// # Errors
    /// If it is not what Gravity wrote.
    pub fn of_bytes(key: &Key, bytes: Bytes) -> Result<Self> {
        Self::parse(key, Window::whole(bytes))
    }

    /// A value of the file's own metadata, a list in JSON; empty if there is none.
    pub fn list<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Vec<T>> {
        let Some(value) = self.value(name) else { return Ok(vec![]) };
        serde_json::from_str(value).map_err(|e| self.corrupt(format!("metadata {name}: {e}")))
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.window.size
    }

    /// What was read of it.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Its end, as far as it was read: the filters and the metadata.
    pub(super) fn end(&self) -> Window {
        let columns = self.metadata.row_groups().iter().flat_map(RowGroupMetaData::columns);
        let filters = columns.filter_map(|column| u64::try_from(column.bloom_filter_offset()?).ok());
        let length = self.window.bytes.last_chunk::<8>().and_then(|end| end.first_chunk::<4>());
        let metadata = length.map_or(0, |length| u64::from(u32::from_le_bytes(*length)) + 8);
        let start = filters.fold(self.size().saturating_sub(metadata), u64::min).max(self.window.start);
        let skipped = usize::try_from(start - self.window.start).unwrap_or(usize::MAX);
        // A copy, so that the rest is freed.
        let bytes = Bytes::copy_from_slice(self.window.bytes.get(skipped..).unwrap_or_default());
        Window { start: self.size() - bytes.len() as u64, bytes, size: self.size() }
    }

    /// The same file without its bytes: they are read again where they are needed.
    pub fn without_bytes(mut self) -> Self {
        self.window = Window { start: self.window.size, bytes: Bytes::new(), size: self.window.size };
        self
    }

    pub(super) fn corrupt(&self, reason: impl Into<String>) -> Error {
        Error::Corrupt { key: self.key.to_string(), reason: reason.into() }
    }
}

/// The packs whose nodes a file of nodes holds.
///
/// # Errors
/// If its metadata is not what Gravity wrote.
pub fn held_packs(file: &File) -> Result<Vec<PackNumber>> {
    let replaced: Vec<String> = file.list(REPLACES_KEY)?;
    let names = replaced.iter().map(String::as_str).chain([file.key.as_str()]);
    Ok(names.filter_map(pack_of_name).collect())
}

/// The pack that a file of nodes is named after; `None` for a compacted file.
fn pack_of_name(name: &str) -> Option<PackNumber> {
    let name = name.rsplit('/').next()?.strip_suffix(".parquet")?;
    u64::from_str_radix(name, 16).ok().map(PackNumber)
}

/// True if compaction wrote this file of nodes.
pub(super) fn is_compacted(key: &Key) -> bool {
    pack_of_name(key.as_str()).is_none() && key.as_str().ends_with(".parquet")
}

/// True if a compacted file may hold this pack: its name begins with its first and last.
pub(super) fn covers(key: &Key, pack: PackNumber) -> bool {
    let name = key.as_str().rsplit('/').next().unwrap_or_default();
    let mut parts = name.split('-').map(|part| u64::from_str_radix(part, 16));
    match (parts.next(), parts.next()) {
        (Some(Ok(first)), Some(Ok(last))) => (first..=last).contains(&pack.0),
        _ => false,
    }
}

/// The packs that a file's references lead to.
pub fn packs_of(file: &File) -> Result<Vec<u64>> {
    file.list(PACKS_KEY)
}
