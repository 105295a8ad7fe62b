//! Files of one table as compaction and `gc` see them: which there are, what each says that it holds, and which count.

use super::file::File;
use super::format::REPLACES_KEY;
use super::reader::Reader;
use crate::error::Result;
use crate::store::{Key, Meta};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A file that was listed, its metadata read.
#[derive(Clone)]
pub(super) struct Listed {
    /// What the listing said.
    pub meta: Meta,
    /// The file without its bytes.
    pub file: Arc<File>,
    /// The files that it stands for.
    pub replaces: Vec<String>,
}

impl Listed {
    /// Its name.
    pub fn key(&self) -> &Key {
        &self.meta.key
    }

    /// True if compaction wrote it.
    pub fn is_compacted(&self) -> bool {
        !self.replaces.is_empty()
    }

    /// True if it has not been written for so long. Where the store does not know, it might be new.
    pub fn is_older_than(&self, age: Duration, now: SystemTime) -> bool {
        // The store's clock may be a little ahead.
        self.meta.modified.is_some_and(|at| now.duration_since(at).unwrap_or_default() >= age)
    }
}

/// Requests at a time.
const AT_ONCE: usize = 32;

/// Lists what is below a folder, in the order of the names.
pub(super) async fn list(reader: &Reader, folder: &str) -> Result<Vec<Meta>> {
    let mut metas: Vec<Meta> = reader.store().list(&format!("{folder}/"), None).try_collect().await?;
    metas.retain(|meta| meta.key.as_str().ends_with(".parquet"));
    metas.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(metas)
}

/// Reads the metadata of files; those that are gone by now are left out.
pub(super) async fn open(reader: &Reader, metas: Vec<Meta>) -> Result<Vec<Listed>> {
    let opened = stream::iter(metas).map(|meta| async move {
        let Some(file) = reader.open_metadata(&meta).await? else { return Ok(None) };
        let replaces = file.list(REPLACES_KEY)?;
        Ok::<_, crate::Error>(Some(Listed { meta, replaces, file: Arc::new(file.without_bytes()) }))
    });
    opened.buffered(AT_ONCE).try_filter_map(|listed| async move { Ok(listed) }).try_collect().await
}

/// The files that count: all but those that others stand for. Two compactions at once may both have replaced the same
/// files: then both results count, and what they both hold reads as one.
pub(super) fn live(files: Vec<Listed>) -> Vec<Listed> {
    let replaced: HashSet<String> = files.iter().flat_map(|file| file.replaces.iter().cloned()).collect();
    files.into_iter().filter(|file| !replaced.contains(file.key().as_str())).collect()
}
