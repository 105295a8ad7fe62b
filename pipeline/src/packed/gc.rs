//! Removes what nobody needs: files that compaction replaced, and packs that nothing names.
//!
//! Only what is older than a safe age goes. Until then a reader may still be at work with a listing from before, and a
//! worker may be about to commit spans that name a pack. Spans are listed after nodes, so that spans which were
//! committed before a pack was looked for are seen.
//!
//! The same age binds workers: a table of known nodes must not name a pack that is older and that no committed file
//! of spans names.

use super::compact::nodes::prove;
use super::compact::spans::{Contents, Identity, proved};
use super::file::held_packs;
use super::format::{BATCHES_KEY, PACKS_KEY};
use super::listing::{self, Listed, Table};
use super::reader::Reader;
use super::table::PackNumber;
use super::{NODES, SPANS};
use crate::error::{Error, Result};
use crate::store::{Key, Store};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// How to collect.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// What was written since is left alone. Nothing at all is safe only where nobody writes or reads.
    pub older_than: Duration,
    /// Only find out what would go.
    pub dry_run: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { older_than: Duration::from_secs(24 * 60 * 60), dry_run: false }
    }
}

/// Why a file goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// A compacted file stands for it.
    Replaced,
    /// Nothing names it: what a flush left that failed before its spans were committed.
    Orphan,
}

/// A file that was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Its name.
    pub key: String,
    /// Its bytes.
    pub bytes: u64,
    /// Why.
    pub why: Why,
}

/// Bytes of nodes that are remembered while batches are restored.
const NODE_BYTES: usize = 64 << 20;

/// Collects. `tell` hears of every file once it is gone; `stop` ends it between two. Gives how many files could not be
/// read, or do not hold what they stand for: they stay, and so does what may depend on them.
///
/// # Errors
/// If the store fails.
pub async fn gc(
    store: Arc<dyn Store>,
    settings: Settings,
    stop: &CancellationToken,
    tell: &mut (dyn FnMut(Removed) + Send),
) -> Result<u64> {
    let now = SystemTime::now();
    let reader = Reader::new(store, NODE_BYTES);
    let nodes = listing::list(&reader, NODES).await?;
    let spans = listing::list(&reader, SPANS).await?;
    let nodes = listing::open(&reader, nodes).await?;
    let spans = listing::open(&reader, spans).await?;
    let damaged = (nodes.damaged.len() + spans.damaged.len()) as u64;
    let is_blind = nodes.is_blind() || spans.is_blind();
    let mut gc = Gc { reader: &reader, settings, now, stop, tell, damaged };
    let Some(spans) = gc.replaced_spans(spans).await? else { return Ok(gc.damaged) };
    let Some(nodes) = gc.replaced_nodes(nodes.files).await? else { return Ok(gc.damaged) };
    match is_blind {
        true => tracing::warn!("packs that nothing names stay: a file that cannot be read may name them"),
        false => gc.orphans(&spans, nodes).await?,
    }
    Ok(gc.damaged)
}

struct Gc<'a> {
    reader: &'a Reader,
    settings: Settings,
    now: SystemTime,
    stop: &'a CancellationToken,
    tell: &'a mut (dyn FnMut(Removed) + Send),
    /// Files that could not be read, or do not hold what they stand for.
    damaged: u64,
}

/// Of a file of spans, the batches that were restored from it; `None` if one could not be.
type Proved = HashMap<Key, Option<HashSet<Identity>>>;

impl Gc<'_> {
    fn is_old(&self, file: &Listed) -> bool {
        file.is_older_than(self.settings.older_than, self.now)
    }

    /// Removes spans that others stand for, once it is proved that these hold them, and gives those that stay; `None` if
    /// it was stopped.
    async fn replaced_spans(&mut self, table: Table) -> Result<Option<Vec<Listed>>> {
        let Table { mut files, damaged } = table;
        let (mut gone, mut proved) = (Vec::new(), Proved::new());
        let standing = self.standing(&files);
        for file in &files {
            for other in standing.get(file.key().as_str()).into_iter().flatten() {
                if self.stop.is_cancelled() {
                    return Ok(None);
                }
                if self.is_held(file, other, &mut proved).await? {
                    gone.push(file.clone());
                    break;
                }
            }
        }
        // What stands for a file goes after it: else the file would count again.
        let mut names: HashSet<String> = files.iter().map(|file| file.key().to_string()).collect();
        names.extend(damaged.iter().map(Key::to_string));
        while !gone.is_empty() {
            let is_next = |file: &Listed| !file.replaces.iter().any(|name| names.contains(name));
            let Some(at) = gone.iter().position(is_next) else { break };
            if self.stop.is_cancelled() {
                return Ok(None);
            }
            let file = gone.swap_remove(at);
            self.remove(&file, Why::Replaced).await?;
            names.remove(file.key().as_str());
        }
        files.retain(|file| names.contains(file.key().as_str()));
        Ok(Some(files))
    }

    /// True if every batch of a file is restored from another one. That was proved when that one was written, but since
    /// then it may have been damaged, and the file at hand is the last that has them too.
    async fn is_held(&mut self, file: &Listed, other: &Listed, proved_files: &mut Proved) -> Result<bool> {
        if !proved_files.contains_key(other.key()) {
            let batches = proved(self.reader, &other.file).await;
            proved_files.insert(other.key().clone(), self.unless_damaged(batches)?);
        }
        let Some(Some(held)) = proved_files.get(other.key()) else { return Ok(false) };
        let contents = Contents::of(self.reader, &file.file).await;
        let Some(contents) = self.unless_damaged(contents)? else { return Ok(false) };
        let keys: HashSet<&str> = held.iter().map(|(key, ..)| key.as_str()).collect();
        let named: Vec<String> = file.file.list(BATCHES_KEY)?;
        Ok(contents.batches.iter().all(|batch| held.contains(batch)) && named.iter().all(|key| keys.contains(&**key)))
    }

    /// `None` for what is not what Gravity wrote, which is told and counted: nothing that depends on it goes.
    fn unless_damaged<T>(&mut self, read: Result<T>) -> Result<Option<T>> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(e @ Error::Corrupt { .. }) => {
                tracing::error!("{e}: nothing goes that depends on it");
                self.damaged += 1;
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// Removes nodes that others hold, once that is proved; gives those that stay.
    async fn replaced_nodes(&mut self, files: Vec<Listed>) -> Result<Option<Vec<Listed>>> {
        let mut by_new: HashMap<Key, (Listed, Vec<Listed>)> = HashMap::new();
        let standing = self.standing(&files);
        for file in &files {
            // The last one: one that was itself replaced may be gone next.
            if let Some(&new) = standing.get(file.key().as_str()).and_then(|standing| standing.last()) {
                let entry = by_new.entry(new.key().clone()).or_insert_with(|| (new.clone(), vec![]));
                entry.1.push(file.clone());
            }
        }
        let mut gone = HashSet::new();
        // Of a chain the oldest first: what is to be proved by a file is, before that file goes itself.
        let mut pairs: Vec<_> = by_new.into_values().collect();
        pairs.sort_by_key(|(new, _)| (new.meta.modified, new.replaces.len()));
        for (new, old) in pairs {
            if self.stop.is_cancelled() {
                return Ok(None);
            }
            let held: Vec<_> = old.iter().map(|listed| listed.file.clone()).collect();
            let is_held = prove(self.reader, &held, &new.file).await;
            if self.unless_damaged(is_held)?.is_none() {
                continue;
            }
            for file in old {
                if self.stop.is_cancelled() {
                    return Ok(None);
                }
                self.remove(&file, Why::Replaced).await?;
                gone.insert(file.key().clone());
            }
        }
        Ok(Some(files.into_iter().filter(|file| !gone.contains(file.key())).collect()))
    }

    /// Removes nodes that nothing names: no file of spans, no file of nodes that stays, none that is new.
    async fn orphans(&mut self, spans: &[Listed], nodes: Vec<Listed>) -> Result<()> {
        let mut holders: HashMap<PackNumber, Vec<usize>> = HashMap::new();
        for (at, file) in nodes.iter().enumerate() {
            for pack in held_packs(&file.file)? {
                holders.entry(pack).or_default().push(at);
            }
        }
        let mut is_named: Vec<bool> = nodes.iter().map(|file| !self.is_old(file)).collect();
        let mut named: Vec<u64> = Vec::new();
        for file in spans.iter().chain(nodes.iter().filter(|file| !self.is_old(file))) {
            named.extend(file.file.list::<u64>(PACKS_KEY)?);
        }
        while let Some(pack) = named.pop() {
            for &at in holders.get(&PackNumber(pack)).map(Vec::as_slice).unwrap_or_default() {
                if !std::mem::replace(&mut is_named[at], true) {
                    named.extend(nodes[at].file.list::<u64>(PACKS_KEY)?);
                }
            }
        }
        for (file, _) in nodes.iter().zip(is_named).filter(|(_, is_named)| !is_named) {
            if self.stop.is_cancelled() {
                break;
            }
            self.remove(file, Why::Orphan).await?;
        }
        Ok(())
    }

    /// Of each file's name the files, old enough, that stand for it; the newest last.
    fn standing<'f>(&self, files: &'f [Listed]) -> HashMap<&'f str, Vec<&'f Listed>> {
        let mut standing: HashMap<&str, Vec<&Listed>> = HashMap::new();
        for file in files.iter().filter(|file| self.is_old(file)) {
            for name in file.replaces.iter().filter(|name| *name != file.key().as_str()) {
                standing.entry(name).or_default().push(file);
            }
        }
        for found in standing.values_mut() {
            found.sort_by_key(|file| (file.meta.modified, file.replaces.len()));
        }
        standing
    }

    async fn remove(&mut self, file: &Listed, why: Why) -> Result<()> {
        if !self.settings.dry_run {
            self.reader.store().delete(file.key()).await?;
        }
        (self.tell)(Removed { key: file.key().to_string(), bytes: file.meta.size, why });
        Ok(())
    }
}
