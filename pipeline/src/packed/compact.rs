//! Compaction: the small files of a day become few, duplicates between workers go, and all is compressed once more as
//! hard as it can be.
//!
//! Nodes keep their numbers for ever: files of other days and the tables of workers name them. Of nodes that are the
//! same, the first keeps its text, and the others become duplicates of it ([`Kind::Alias`](super::node::Kind::Alias)).
//!
//! What is written is proved before it is put, put, read back and compared: new nodes first, then the spans that name
//! them. Nothing is deleted: the files replaced do not count any more, and [`gc`](super::gc) removes them when nobody can
//! be reading them. So it may be given up anywhere and done again, beside workers, readers and other compactions: two of
//! one day both write all of it, what both hold reads as one, and the next compaction merges it.

mod groups;
mod merge;
pub(super) mod nodes;
pub(super) mod spans;

use super::file::{File, covers, held_packs};
use super::format::{BATCHES_KEY, Effort, PACKS_KEY};
use super::listing::{self, Listed, Table, live};
use super::packer::{nodes_key, now};
use super::reader::Reader;
use super::table::PackNumber;
use super::{NODES, SPANS};
use crate::error::{Error, Result};
use crate::store::{Key, PutMode, Store};
use bytes::Bytes;
use futures::TryStreamExt;
use groups::{Group, Groups, Versions};
use nodes::Aliases;
use serde::Serialize;
use spans::Contents;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// How to compact.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How hard to compress.
    pub effort: Effort,
    /// Decompressed bytes of the files that become one, of either table.
    pub file_bytes: u64,
    /// Bytes for nodes in memory while reading.
    pub cache_bytes: usize,
    /// Only find out what it would come to.
    pub dry_run: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { effort: Effort::COMPACT, file_bytes: 256 << 20, cache_bytes: 128 << 20, dry_run: false }
    }
}

/// What the compaction of a day came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The day.
    pub day: String,
    /// Files that were read.
    pub files_before: u64,
    /// Their bytes.
    pub bytes_before: u64,
    /// Files that stand for them.
    pub files_after: u64,
    /// Their bytes.
    pub bytes_after: u64,
    /// Nodes that are another one's text.
    pub duplicate_nodes: u64,
    /// Batches that stood there more than once.
    pub duplicate_batches: u64,
    /// Files that cannot be read, or name nodes that cannot: they were left as they are.
    pub damaged: u64,
}

impl Report {
    fn count(&mut self, before: &[Listed], after: u64) {
        self.files_before += before.len() as u64;
        self.bytes_before += before.iter().map(|file| file.meta.size).sum::<u64>();
        self.files_after += 1;
        self.bytes_after += after;
    }
}

/// The days that a store has files of, as `2025-10-31`, ascending.
///
/// # Errors
/// If the store fails.
pub async fn days(store: &dyn Store) -> Result<BTreeSet<String>> {
    let mut days = BTreeSet::new();
    for folder in [NODES, SPANS] {
        let prefix = format!("{folder}/dt=");
        let mut listed = store.list(&prefix, None);
        while let Some(meta) = listed.try_next().await? {
            let day = meta.key.as_str().strip_prefix(&prefix).and_then(|rest| rest.split_once('/'));
            days.extend(day.map(|(day, _)| day.to_owned()));
        }
    }
    Ok(days)
}

/// Compacts a day. `tell` hears of each step; `stop` ends it between two.
///
/// # Errors
/// If the store fails, or what it holds is not what it should be: then nothing of that counts.
pub async fn compact(
    store: Arc<dyn Store>,
    day: &str,
    settings: Settings,
    stop: &CancellationToken,
    tell: &(dyn Fn(String) + Sync),
) -> Result<Report> {
    let day = Day { reader: Reader::new(store, settings.cache_bytes), day, settings, stop, tell };
    let mut report = Report { day: day.day.to_owned(), ..Report::default() };
    let merged = day.nodes(&mut report).await?;
    day.spans(merged, &mut report).await?;
    Ok(report)
}

struct Day<'a> {
    reader: Arc<Reader>,
    day: &'a str,
    settings: Settings,
    stop: &'a CancellationToken,
    tell: &'a (dyn Fn(String) + Sync),
}

/// What the nodes of a day came to.
#[derive(Default)]
struct MergedNodes {
    /// The duplicates that were found.
    aliases: Aliases,
    /// Files that were merged before, which tell of more.
    done: Vec<Arc<File>>,
    /// Files that cannot be read.
    damaged: Vec<Key>,
}

impl MergedNodes {
    /// True if this file of spans names nodes of a file that cannot be read: its batches cannot be proved.
    fn is_lost_to(&self, spans: &File) -> Result<bool> {
        let has = |key: &Key, pack| *key == nodes_key(pack) || covers(key, pack);
        let packs: Vec<u64> = spans.list(PACKS_KEY)?;
        Ok(packs.into_iter().any(|pack| self.damaged.iter().any(|key| has(key, PackNumber(pack)))))
    }
}

impl Day<'_> {
    /// The files that count. Those that cannot be read are left out: all others can be compacted.
    async fn files(&self, table: &str) -> Result<Table> {
        let metas = listing::list(&self.reader, &format!("{table}/dt={}", self.day)).await?;
        let Table { files, damaged } = listing::open(&self.reader, metas).await?;
        Ok(Table { files: live(files), damaged })
    }

    async fn nodes(&self, report: &mut Report) -> Result<MergedNodes> {
        let Table { files, damaged } = self.files(NODES).await?;
        report.damaged += damaged.len() as u64;
        let mut groups = Groups::new(self.settings.file_bytes);
        for listed in files {
            let packs: HashSet<_> = held_packs(&listed.file)?.into_iter().collect();
            groups.add(listed, packs);
        }
        let mut merged = MergedNodes { damaged, ..MergedNodes::default() };
        for group in groups.groups {
            if group.is_done() {
                merged.done.push(group.files[0].file.clone());
                continue;
            }
            if self.stop.is_cancelled() {
                break;
            }
            (self.tell)(format!("{} nodes, {} files", self.day, group.files.len()));
            let (aliases, bytes) = self.merge_nodes(&group).await?;
            report.duplicate_nodes += aliases.len() as u64;
            report.count(&group.files, bytes);
            merged.aliases.extend(aliases);
        }
        Ok(merged)
    }

    async fn merge_nodes(&self, group: &Group<HashSet<PackNumber>>) -> Result<(Aliases, u64)> {
        let reader = &*self.reader;
        let files: Vec<Arc<File>> = group.files.iter().map(|listed| listed.file.clone()).collect();
        let aliases = Aliases::find(reader, &files).await?;
        let packs: BTreeSet<_> = group.holds.iter().collect();
        // Every pack's name, since it is looked up by it, and those of the compacted files merged now.
        let mut replaces: Vec<String> = packs.iter().map(|&&pack| nodes_key(pack).to_string()).collect();
        replaces.extend(group.names().filter(|name| !replaces.contains(name)).collect::<Vec<_>>());
        let bytes = nodes::write(reader, &files, &replaces, &aliases, self.settings.effort).await?;
        let (first, last) = (packs.first().map_or(0, |pack| pack.0), packs.last().map_or(0, |pack| pack.0));
        let key = format!("{NODES}/dt={}/{first:012x}-{last:012x}-{:08x}.parquet", self.day, random());
        let key = Key::listed(key);
        let file = Arc::new(File::of_bytes(&key, bytes.clone())?);
        nodes::prove(reader, &files, &file).await?;
        if !self.settings.dry_run {
            self.put(&key, &bytes).await?;
        }
        // What is proved of the spans is proved of the new nodes.
        self.reader.prefer(&file)?;
        Ok((aliases, bytes.len() as u64))
    }

    async fn spans(&self, mut nodes: MergedNodes, report: &mut Report) -> Result<()> {
        let Table { files, damaged } = self.files(SPANS).await?;
        report.damaged += damaged.len() as u64;
        let (mut groups, mut all_contents) = (Groups::new(self.settings.file_bytes), HashMap::new());
        if let [one] = &files[..]
            && one.is_compacted()
        {
            return Ok(());
        }
        for listed in files {
            let contents = match Contents::of(&self.reader, &listed.file).await {
                Ok(contents) if !nodes.is_lost_to(&listed.file)? => contents,
                Ok(_) => {
                    tracing::error!("{} names nodes that cannot be read: left as it is", listed.key());
                    report.damaged += 1;
                    continue;
                }
                Err(e @ Error::Corrupt { .. }) => {
                    tracing::error!("{e}: left as it is");
                    report.damaged += 1;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let versions = Versions::of(&contents);
            all_contents.insert(listed.key().clone(), contents);
            groups.add(listed, versions);
        }
        groups.groups.retain(|group| !group.is_done());
        if !groups.groups.is_empty() {
            for file in &nodes.done {
                self.reader.prefer(file)?;
                nodes.aliases.extend(Aliases::of_file(&self.reader, file).await?);
            }
        }
        for group in groups.groups {
            if self.stop.is_cancelled() {
                break;
            }
            (self.tell)(format!("{} spans, {} files", self.day, group.files.len()));
            let names: Vec<String> = group.names().collect();
            let last = group.files.last().map(|file| file_time(file.key())).unwrap_or_default();
            let key = Key::listed(format!("{SPANS}/dt={}/{last}-{:08x}.parquet", self.day, random()));
            let before = group.files.clone();
            let with_contents = |listed: Listed| Some((all_contents.remove(listed.key())?, listed.file));
            let files: Vec<_> = group.files.into_iter().filter_map(with_contents).collect();
            let merged = spans::write(&self.reader, &files, &names, &nodes.aliases, self.settings.effort).await?;
            let file = File::of_bytes(&key, merged.bytes.clone())?;
            check_keys(&before, &file)?;
            spans::prove(&self.reader, &file, &merged.batches).await?;
            if !self.settings.dry_run {
                self.put(&key, &merged.bytes).await?;
            }
            report.duplicate_batches += merged.dropped;
            report.count(&before, merged.bytes.len() as u64);
        }
        Ok(())
    }

    /// Puts a file, and reads it back.
    async fn put(&self, key: &Key, bytes: &Bytes) -> Result<()> {
        let store = self.reader.store();
        store.put(key, bytes.clone(), PutMode::IfAbsent).await?;
        let back = store.read(key).await?;
        match back.is_some_and(|(back, _)| back == *bytes) {
            true => Ok(()),
            false => {
                // It must not stand for anything.
                store.delete(key).await?;
                Err(Error::Corrupt { key: key.to_string(), reason: "what was read back is not what was put".into() })
            }
        }
    }
}

/// Every key that a file's metadata tells of is in the new one's: else a reader could not find the batch.
fn check_keys(before: &[Listed], after: &File) -> Result<()> {
    let keys: HashSet<String> = after.list(BATCHES_KEY)?.into_iter().collect();
    for listed in before {
        let lost: Vec<String> = listed.file.list(BATCHES_KEY)?;
        if let Some(key) = lost.into_iter().find(|key| !keys.contains(key)) {
            return Err(listed
                .file
                .corrupt(format!("its metadata tells of batch {key}, which it does not hold whole")));
        }
    }
    Ok(())
}

/// The time in a file's name.
fn file_time(key: &Key) -> String {
    let name = key.as_str().rsplit('/').next().unwrap_or_default();
    name.split('-').next().map_or_else(|| format!("{:012x}", now()), str::to_owned)
}

fn random() -> u32 {
    // Seeded anew with every call.
    RandomState::new().build_hasher().finish() as u32
}
