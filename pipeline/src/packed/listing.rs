//! Files of one table as compaction and `gc` see them: which there are, what each says that it holds, and which count.

use super::file::File;
use super::format::{BATCHES_KEY, PACKS_KEY, REPLACES_KEY};
use super::packer::{day, nodes_key};
use super::reader::Reader;
use super::table::PackNumber;
use super::{NODES, SPANS};
use crate::error::{Error, Result};
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

    /// Bytes of its row groups before they were compressed.
    pub fn decompressed_bytes(&self) -> u64 {
        self.file.metadata.row_groups().iter().map(|group| group.total_byte_size().max(0) as u64).sum()
    }

    /// True if it has not been written for so long. Where the store does not know, it might be new.
    pub fn is_older_than(&self, age: Duration, now: SystemTime) -> bool {
        // The store's clock may be a little ahead.
        self.meta.modified.is_some_and(|at| now.duration_since(at).unwrap_or_default() >= age)
    }
}

/// What a file of nodes is, by its name.
pub(super) enum PackName {
    /// One pack.
    One(u64),
    /// What several were compacted into.
    Compacted,
}

/// `None` for a name that Gravity does not give.
pub(super) fn pack_name(key: &Key) -> Option<PackName> {
    let (folder, name) = key.as_str().strip_prefix(NODES)?.strip_prefix("/dt=")?.split_once('/')?;
    let parts = hex_parts(name)?;
    let is_of_day = parts.first().is_some_and(|&first| day(first) == folder);
    match (is_of_day, &parts[..]) {
        (true, &[pack]) if nodes_key(PackNumber(pack)) == *key => Some(PackName::One(pack)),
        (true, &[first, last, _]) if first <= last => Some(PackName::Compacted),
        _ => None,
    }
}

/// True for a name that Gravity gives to a file of spans.
pub(super) fn is_spans_file(key: &Key) -> bool {
    let name = key.as_str().strip_prefix(SPANS).and_then(|rest| rest.strip_prefix("/dt=")?.split_once('/'));
    name.and_then(|(_, name)| hex_parts(name)).is_some_and(|parts| parts.len() > 1)
}

/// The numbers of `{hex}-{hex}.parquet`.
fn hex_parts(name: &str) -> Option<Vec<u64>> {
    let parts = name.strip_suffix(".parquet")?.split('-');
    parts.map(|part| u64::from_str_radix(part, 16).ok().filter(|&number| number < 1 << 48)).collect()
}

/// Requests at a time.
const AT_ONCE: usize = 32;

/// Lists the files below a folder, in the order of the names. What Gravity does not name so is not its own.
pub(super) async fn list(reader: &Reader, folder: &str) -> Result<Vec<Meta>> {
    let mut metas: Vec<Meta> = reader.store().list(&format!("{folder}/"), None).try_collect().await?;
    metas.retain(|meta| {
        let is_ours = pack_name(&meta.key).is_some() || is_spans_file(&meta.key);
        if !is_ours {
            tracing::warn!("{}: not a name that Gravity gives: left out", meta.key);
        }
        is_ours
    });
    metas.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(metas)
}

/// The files of a table.
#[derive(Default)]
pub(super) struct Table {
    /// Those that can be read, in the order of their names.
    pub files: Vec<Listed>,
    /// Those whose metadata is not what Gravity wrote.
    pub damaged: Vec<Key>,
}

impl Table {
    /// True if there is a file of which nobody knows what it names: one that cannot be read, and no other stands for.
    pub fn is_blind(&self) -> bool {
        let replaced: HashSet<&str> = self.files.iter().flat_map(|file| &file.replaces).map(String::as_str).collect();
        self.damaged.iter().any(|key| !replaced.contains(key.as_str()))
    }
}

/// Reads the metadata of files; those that are gone by now are left out.
pub(super) async fn open(reader: &Reader, metas: Vec<Meta>) -> Result<Table> {
    let mut opened = stream::iter(metas)
        .map(|meta| async move { (meta.key.clone(), open_one(reader, meta).await) })
        .buffered(AT_ONCE);
    let mut table = Table::default();
    while let Some((key, listed)) = opened.next().await {
        match listed {
            Ok(listed) => table.files.extend(listed),
            Err(e @ Error::Corrupt { .. }) => {
                tracing::error!("{e}: left as it is");
                table.damaged.push(key);
            }
            Err(e) => return Err(e),
        }
    }
    Ok(table)
}

async fn open_one(reader: &Reader, meta: Meta) -> Result<Option<Listed>> {
    let Some(file) = reader.open_metadata(&meta).await? else { return Ok(None) };
    let replaces = file.list(REPLACES_KEY)?;
    // So that whoever needs these can read them.
    file.list::<u64>(PACKS_KEY)?;
    file.list::<String>(BATCHES_KEY)?;
    Ok(Some(Listed { meta, replaces, file: Arc::new(file.without_bytes()) }))
}

/// The files that count: all but those that others stand for. Two compactions at once may both have replaced the same
/// files: then both results count, and what they both hold reads as one.
pub(super) fn live(files: Vec<Listed>) -> Vec<Listed> {
    let replaced: HashSet<String> = files.iter().flat_map(|file| file.replaces.iter().cloned()).collect();
    files.into_iter().filter(|file| !replaced.contains(file.key().as_str())).collect()
}
