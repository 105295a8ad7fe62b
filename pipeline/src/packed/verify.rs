//! Proves a packed store: every batch put together and compared with its BLAKE3, every reference followed, every file
//! that another one names looked for, and what nobody names.
//!
//! Memory holds the metadata of the files of spans, the names of the packs and whom they lead to (some 100 bytes each),
//! two row groups of spans and what is remembered of nodes; it does not grow with what is in the files.

use super::batches::written;
use super::catalog::{Catalog, Files, SpansFile};
use super::file::File;
use super::format::{PACKS_KEY, REPLACES_KEY, read_nodes, read_rows};
use super::listing::{PackName, is_spans_file, pack_name};
use super::packer::nodes_key;
use super::reader::Reader;
use super::restore::{heads_of_group, info_of, restore_from, rows_of_trace};
use super::row::RowKind;
use super::table::PackNumber;
use super::{NODES, done::DoneBatches};
use crate::error::{Error, Result};
use crate::hash::ChunkHash;
use crate::ids::TraceId;
use crate::ledger::Done;
use crate::stages::blocking;
use crate::store::{Key, Meta, Store};
use crate::verify::batches::in_quarantine;
use crate::verify::{Finding, Level, Share, UNKNOWN};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// What to look at, and how closely.
#[derive(Debug, Clone)]
pub struct Options {
    /// Share of the batches that are restored, the same ones every time; that the files they need are there is checked
    /// for all.
    pub sample: Share,
    /// Only the rows of this trace, and what they lead to.
    pub trace: Option<TraceId>,
    /// Only files of spans written since, and what they lead to.
    pub since: Option<SystemTime>,
}

/// What was looked at, and what came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Findings that are errors.
    pub errors: u64,
    /// Findings that are warnings.
    pub warnings: u64,
    /// Findings that only inform.
    pub infos: u64,
    /// Files of spans that were looked at.
    pub span_files: u64,
    /// Files of nodes that are there.
    pub node_files: u64,
    /// Files of nodes that were read whole.
    pub node_files_read: u64,
    /// Batches in the files, each as often as it was committed.
    pub batches: u64,
    /// Batches that were restored and found as they came.
    pub batches_restored: u64,
    /// Bytes of them.
    pub bytes_restored: u64,
    /// With `trace`: its rows that were put together.
    pub rows: u64,
}

/// Bytes of nodes remembered.
const NODE_BYTES: usize = 64 << 20;
/// Requests at a time.
const AT_ONCE: usize = 32;

struct Verifier<'a> {
    store: Arc<dyn Store>,
    reader: Arc<Reader>,
    options: Options,
    summary: Summary,
    packs: Packs,
    report: &'a mut (dyn FnMut(Finding) + Send),
    progress: &'a (dyn Fn(u64) + Sync),
}

/// The packs of a store, and the files that have them.
#[derive(Default)]
struct Packs {
    /// Of each pack, the file that it is in.
    files: BTreeMap<u64, Key>,
    /// Of each file, the packs that its references lead to; none for one that could not be read.
    lead_to: HashMap<Key, Option<Vec<u64>>>,
    /// Those that were missed, and told.
    missing: BTreeSet<u64>,
}

/// Verifies a packed store, giving every finding to `report` and telling `progress` of every object looked at.
///
/// # Errors
/// If the store cannot be asked, or does not have the trace; what is wrong in it is a finding.
pub async fn verify(
    store: Arc<dyn Store>,
    options: Options,
    report: &mut (dyn FnMut(Finding) + Send),
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Summary> {
    let reader = Reader::new(store.clone(), NODE_BYTES);
    let (summary, packs) = Default::default();
    let mut verifier = Verifier { store, reader, options, summary, packs, report, progress };
    let files = verifier.catalog().await?;
    match verifier.options.trace {
        Some(trace) => verifier.one_trace(&files, trace).await?,
        None => verifier.all(&files).await?,
    }
    Ok(verifier.summary)
}

/// A failure that is this one object's alone; any other means that nothing can be said.
fn of_this_object<T>(result: Result<T>) -> Result<Result<T, String>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(e @ (Error::Corrupt { .. } | Error::NotFound(_))) => Ok(Err(e.to_string())),
        Err(Error::Store(e)) => crate::verify::of_this_object(e).map(Err),
        Err(e) => Err(e),
    }
}

impl Verifier<'_> {
    fn tell(&mut self, level: Level, kind: &'static str, key: impl fmt::Display, detail: impl Into<String>) {
        *match level {
            Level::Error => &mut self.summary.errors,
            Level::Warning => &mut self.summary.warnings,
            Level::Info => &mut self.summary.infos,
        } += 1;
        (self.report)(Finding { level, kind, key: key.to_string(), detail: detail.into() });
    }

    /// The files of spans, as far as they can be read.
    async fn catalog(&mut self) -> Result<Arc<Files>> {
        let mut broken = Vec::new();
        let files = Catalog::new(self.reader.clone()).refresh_despite(&mut |key, e| broken.push((key, e))).await?;
        for (key, e) in broken {
            match is_spans_file(&key) {
                true => self.tell(Level::Error, "corrupt-spans", key, e.to_string()),
                false => self.tell(Level::Warning, "unknown-object", key, UNKNOWN),
            }
        }
        Ok(files)
    }

    async fn all(&mut self, files: &Files) -> Result<()> {
        self.list_packs().await?;
        let live: HashSet<&Key> = files.live().map(|(key, _)| key).collect();
        let (mut told, mut wanted) = (HashSet::new(), BTreeSet::new());
        for (key, file) in files.all() {
            (self.progress)(1);
            if !is_spans_file(key) {
                self.tell(Level::Warning, "unknown-object", key, UNKNOWN);
            } else if !live.contains(key) {
                let why = "another file stands for it since it was compacted; `gravity gc` removes it once it is old";
                self.tell(Level::Info, "replaced", key, why);
            } else if self.is_selected(key).await? {
                wanted.extend(file.packs.iter().copied());
                self.spans_file(files, key, file, &mut told).await?;
            }
        }
        let reached = self.reach(wanted);
        if self.options.sample == Share::ALL {
            for key in self.files_of(&reached) {
                self.nodes_file(&key).await?;
            }
        }
        if self.options.since.is_none() {
            self.orphans(&reached);
            self.quarantine(files).await?;
        }
        Ok(())
    }

    /// True for what `since` leaves over.
    async fn is_selected(&self, key: &Key) -> Result<bool> {
        let Some(since) = self.options.since else { return Ok(true) };
        if written(key) >= since {
            return Ok(true);
        }
        // The writer's clock may have been wrong.
        let modified = self.store.head(key).await?.and_then(|meta| meta.modified);
        Ok(modified.is_some_and(|modified| modified >= since))
    }

    /// Lists the files of nodes, and reads the metadata of each.
    async fn list_packs(&mut self) -> Result<()> {
        let reader = self.reader.clone();
        let listed = self.store.list(&format!("{NODES}/"), None).map_err(Error::from);
        let mut opened = listed
            .map_ok(move |meta: Meta| {
                let reader = reader.clone();
                async move {
                    let lists = match pack_name(&meta.key) {
                        None => Ok(None),
                        Some(_) => lists_of(&reader, &meta).await,
                    };
                    Ok((meta.key, of_this_object(lists)?))
                }
            })
            .try_buffered(AT_ONCE)
            .boxed();
        let mut replaced = Vec::new();
        while let Some((key, lists)) = opened.try_next().await? {
            (self.progress)(1);
            let Some(name) = pack_name(&key) else {
                self.tell(Level::Warning, "unknown-object", key, UNKNOWN);
                continue;
            };
            self.summary.node_files += 1;
            let lists = match lists {
                Ok(Some(lists)) => Some(lists),
                // Gone since it was listed.
                Ok(None) => continue,
                Err(reason) => {
                    self.tell(Level::Error, "corrupt-nodes", &key, reason);
                    None
                }
            };
            match (name, lists) {
                (PackName::One(pack), lists) => {
                    self.packs.files.insert(pack, key.clone());
                    self.packs.lead_to.insert(key, lists.map(|lists| lists.packs));
                }
                (PackName::Compacted, None) => {}
                (PackName::Compacted, Some(lists)) => {
                    replaced.push((key.clone(), lists.replaces));
                    self.packs.lead_to.insert(key, Some(lists.packs));
                }
            }
        }
        for (key, names) in replaced {
            for name in names {
                let name = Key::listed(name);
                let Some(PackName::One(pack)) = pack_name(&name) else { continue };
                if self.packs.files.insert(pack, key.clone()).is_some_and(|before| before == name) {
                    let why =
                        format!("{key} stands for it since it was compacted; `gravity gc` removes it once it is old");
                    self.tell(Level::Info, "replaced", name, why);
                }
            }
        }
        Ok(())
    }

    /// A file of spans: its metadata against its rows, and its batches against what they were.
    async fn spans_file(
        &mut self,
        files: &Files,
        key: &Key,
        file: &Arc<SpansFile>,
        told: &mut HashSet<String>,
    ) -> Result<()> {
        self.summary.span_files += 1;
        self.summary.batches += file.batches.len() as u64;
        for &pack in &file.packs {
            self.pack(pack, key);
        }
        for batch in &file.batches {
            let copies = files.of_batch(batch).count();
            if copies > 1 && told.insert(batch.clone()) {
                let why = format!(
                    "{batch} is in {copies} files: it was committed twice and reads as one; compaction leaves one"
                );
                self.tell(Level::Info, "batch-twice", key, why);
            }
        }
        let sampled: Vec<&str> =
            file.batches.iter().map(|batch| &**batch).filter(|batch| self.is_sampled(batch)).collect();
        // A file that names no batch at all is none that was written whole.
        if sampled.is_empty() && !file.batches.is_empty() {
            return Ok(());
        }
        let Some(places) = self.rows(key, file).await? else { return Ok(()) };
        for batch in sampled {
            match places.get(batch) {
                Some(&group) => self.batch(key, file, batch, group).await?,
                None => {
                    let why = format!("its metadata names batch {batch} and it does not have the row that ends it");
                    self.tell(Level::Error, "missing-batch", key, why);
                }
            }
        }
        Ok(())
    }

    fn is_sampled(&self, batch: &str) -> bool {
        self.options.sample.has(&ChunkHash::of(batch.as_bytes()))
    }

    /// The rows of a file against its metadata: the row group in which each whole batch begins; `None` if it cannot be
    /// read, which is told.
    async fn rows(&mut self, key: &Key, file: &Arc<SpansFile>) -> Result<Option<HashMap<String, usize>>> {
        let mut packs: BTreeSet<u64> = file.packs.iter().copied().collect();
        let (mut begun, mut places, mut unnamed, mut is_whole) =
            (HashMap::new(), HashMap::new(), BTreeSet::new(), true);
        let opened = &file.open()?;
        for number in 0..opened.metadata.num_row_groups() {
            let rows = match of_this_object(stored_rows(&self.reader, opened, number).await)? {
                Ok(rows) => rows,
                Err(reason) => {
                    is_whole = false;
                    self.tell(Level::Error, "corrupt-spans", key, format!("row group {number}: {reason}"));
                    continue;
                }
            };
            let mut hidden = 0u64;
            let mut last = None;
            for (at, row) in rows.rows.iter().enumerate() {
                if last != Some(row.source) {
                    last = Some(row.source);
                    begun.entry(rows.texts.get(row.source).to_vec()).or_insert(number);
                }
                hidden += u64::from(row.trace_id.is_some_and(|trace| !file.may_have(number, &trace)));
                if row.kind == RowKind::Batch {
                    let source = rows.texts.get(row.source);
                    if let Err(reason) = of_this_object(info_of(opened, &rows, at))? {
                        self.tell(Level::Error, "corrupt-spans", key, reason);
                    } else if let (Some(group), Ok(source)) = (begun.remove(source), std::str::from_utf8(source)) {
                        places.insert(source.to_owned(), group);
                    }
                }
            }
            let named = rows.refs.iter().copied().chain(rows.rows.iter().filter_map(|row| row.shape));
            for pack in named.map(|node| PackNumber::of_node(node).0) {
                if packs.insert(pack) {
                    unnamed.insert(pack);
                }
            }
            if hidden > 0 {
                let why = format!(
                    "row group {number}: {hidden} rows are of traces that its filter does not have; reading those traces misses them"
                );
                self.tell(Level::Error, "hidden-rows", key, why);
            }
        }
        for &pack in &unnamed {
            let why = format!(
                "its rows name {} and its metadata does not; `gravity gc` could remove it",
                nodes_key(PackNumber(pack))
            );
            self.tell(Level::Error, "unnamed-pack", key, why);
            self.pack(pack, key);
        }
        if is_whole {
            let listed: HashSet<&str> = file.batches.iter().map(|batch| &**batch).collect();
            let mut unlisted: Vec<_> = places.keys().filter(|batch| !listed.contains(&***batch)).collect();
            unlisted.sort_unstable();
            for batch in unlisted {
                let why = format!("it has batch {batch}, which its metadata does not name: nothing finds it");
                self.tell(Level::Error, "unlisted-batch", key, why);
            }
            begun.retain(|batch, _| std::str::from_utf8(batch).is_ok_and(|batch| !listed.contains(batch)));
            for batch in begun.keys() {
                let why = format!("it has rows of {}, which it does not end", String::from_utf8_lossy(batch));
                self.tell(Level::Warning, "unended-batch", key, why);
            }
        }
        Ok(is_whole.then_some(places))
    }

    /// Restores a batch, and forgets it.
    async fn batch(&mut self, key: &Key, file: &Arc<SpansFile>, batch: &str, group: usize) -> Result<()> {
        let mut bytes = restore_from(self.reader.clone(), file.open()?, batch.to_owned(), group).boxed();
        let mut size = 0;
        loop {
            match of_this_object(bytes.try_next().await)? {
                Ok(Some(piece)) => size += piece.len() as u64,
                Ok(None) => break,
                Err(reason) => {
                    let reason = match reason.contains(batch) {
                        true => reason,
                        false => format!("batch {batch}: {reason}"),
                    };
                    self.tell(Level::Error, "broken-batch", key, reason);
                    return Ok(());
                }
            }
        }
        (self.progress)(1);
        self.summary.batches_restored += 1;
        self.summary.bytes_restored += size;
        Ok(())
    }

    /// Tells of a pack that is not there, once.
    fn pack(&mut self, pack: u64, by: &Key) {
        if !self.packs.files.contains_key(&pack) && self.packs.missing.insert(pack) {
            let why = format!("{by} names it and it is not there");
            self.tell(Level::Error, "missing-nodes", nodes_key(PackNumber(pack)), why);
        }
    }

    /// These packs and all that their references lead to; what is missing is told.
    fn reach(&mut self, wanted: BTreeSet<u64>) -> BTreeSet<u64> {
        let (mut reached, mut next) = (BTreeSet::new(), wanted);
        while let Some(pack) = next.pop_first() {
            if !reached.insert(pack) {
                continue;
            }
            let Some(key) = self.packs.files.get(&pack).cloned() else { continue };
            for below in self.packs.lead_to.get(&key).cloned().flatten().unwrap_or_default() {
                if !reached.contains(&below) {
                    self.pack(below, &key);
                    next.insert(below);
                }
            }
        }
        reached
    }

    fn files_of(&self, packs: &BTreeSet<u64>) -> BTreeSet<Key> {
        packs.iter().filter_map(|pack| self.packs.files.get(pack)).cloned().collect()
    }

    /// A file of nodes: that all of it can be read, and leads only where its metadata says.
    async fn nodes_file(&mut self, key: &Key) -> Result<()> {
        // Its metadata could not be read, which was told.
        let Some(Some(packs)) = self.packs.lead_to.get(key) else { return Ok(()) };
        let own = self.packs.files.iter().filter(|(_, file)| *file == key).map(|(&pack, _)| pack);
        let mut named: BTreeSet<u64> = packs.iter().copied().chain(own).collect();
        let file = match of_this_object(self.reader.open(key).await)? {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(()),
            Err(reason) => {
                self.tell(Level::Error, "corrupt-nodes", key, reason);
                return Ok(());
            }
        };
        self.summary.node_files_read += 1;
        for number in 0..file.metadata.num_row_groups() {
            let refs = match of_this_object(packs_of_group(&self.reader, &file, number).await)? {
                Ok(refs) => refs,
                Err(reason) => {
                    self.tell(Level::Error, "corrupt-nodes", key, format!("row group {number}: {reason}"));
                    continue;
                }
            };
            for pack in refs {
                if named.insert(pack) {
                    let pack = nodes_key(PackNumber(pack));
                    let why = format!("its nodes name {pack} and its metadata does not; `gravity gc` could remove it");
                    self.tell(Level::Error, "unnamed-pack", key, why);
                }
            }
        }
        (self.progress)(1);
        Ok(())
    }

    /// Tells of the packs that no batch leads to.
    fn orphans(&mut self, reached: &BTreeSet<u64>) {
        let used = self.files_of(reached);
        let mut unused: Vec<Key> = self.packs.lead_to.keys().filter(|key| !used.contains(key)).cloned().collect();
        // A file that another one stands for was told.
        unused.retain(|key| match pack_name(key) {
            Some(PackName::One(pack)) => self.packs.files.get(&pack) == Some(key),
            _ => true,
        });
        unused.sort_unstable();
        for key in unused {
            let why = "no batch leads to it: a flush in work, or one that a crash ended; `gravity gc` removes it once it is old";
            self.tell(Level::Info, "orphan-nodes", key, why);
        }
    }

    async fn quarantine(&mut self, files: &Files) -> Result<()> {
        // Not asked for again: a file that cannot be read was told, and takes no other one's batches with it.
        let done = DoneBatches::new(self.store.clone());
        files.batches().for_each(|batch| done.note(batch));
        let findings = in_quarantine(self.store.clone(), Done::Packed(done));
        let mut findings = std::pin::pin!(findings);
        while let Some(finding) = findings.try_next().await? {
            (self.progress)(1);
            if let Some((level, kind, key, detail)) = finding {
                self.tell(level, kind, key, detail);
            }
        }
        Ok(())
    }

    /// The rows of one trace, put together. What a batch's BLAKE3 would tell needs the whole batch.
    async fn one_trace(&mut self, files: &Files, trace: TraceId) -> Result<()> {
        let mut is_there = false;
        for (key, file) in files.live() {
            let groups: Vec<usize> = file.groups_of(&trace).collect();
            let mut looked_at = false;
            for group in groups {
                (self.progress)(1);
                let heads = match of_this_object(heads_of_group(&self.reader, &file.open()?, group).await)? {
                    Ok(heads) => heads,
                    Err(reason) => {
                        self.tell(Level::Error, "corrupt-spans", key, format!("row group {group}: {reason}"));
                        continue;
                    }
                };
                if heads.iter().any(|head| head.trace_id.as_ref() == Some(trace.as_bytes())) {
                    is_there = true;
                    looked_at = true;
                    match of_this_object(self.rows_of_trace(file, group, &trace).await)? {
                        Ok(rows) => self.summary.rows += rows,
                        Err(reason) => {
                            self.tell(Level::Error, "broken-rows", key, format!("row group {group}: {reason}"))
                        }
                    }
                }
            }
            self.summary.span_files += u64::from(looked_at);
        }
        // One that cannot be found because its file cannot be read is an error that was told.
        match is_there || self.summary.errors > 0 {
            true => Ok(()),
            false => Err(Error::NotFound(format!("trace {trace} is not in {}", self.store.location()))),
        }
    }

    async fn rows_of_trace(&self, file: &SpansFile, group: usize, trace: &TraceId) -> Result<u64> {
        let (rows, nodes) = rows_of_trace(&self.reader, &file.open()?, group, trace).await?;
        let (mut count, mut bytes) = (0, Vec::new());
        for at in (0..rows.rows.len()).filter(|&at| rows.rows[at].trace_id.as_ref() == Some(trace.as_bytes())) {
            bytes.clear();
            nodes.row(&rows, at, &mut bytes)?;
            count += 1;
        }
        Ok(count)
    }
}

/// The rows of a row group, without their values that have no column.
async fn stored_rows(reader: &Reader, file: &File, group: usize) -> Result<super::row::Rows<u64>> {
    let group = reader.group(file, group).await?;
    let stored = blocking(move || read_rows(&group)).await?;
    stored.map(|stored| stored.rows).map_err(|reason| file.corrupt(reason))
}

/// The packs that the nodes of a row group lead to.
async fn packs_of_group(reader: &Reader, file: &File, group: usize) -> Result<BTreeSet<u64>> {
    let group = reader.group(file, group).await?;
    let packs = blocking(move || {
        let nodes = read_nodes(&group)?;
        let refs = nodes.iter().flat_map(|(_, node)| node.refs.iter());
        Ok::<_, String>(refs.map(|&id| PackNumber::of_node(id as u64).0).collect())
    });
    packs.await?.map_err(|reason| file.corrupt(reason))
}

/// What the metadata of a file of nodes names.
struct Lists {
    packs: Vec<u64>,
    replaces: Vec<String>,
}

async fn lists_of(reader: &Reader, meta: &Meta) -> Result<Option<Lists>> {
    let Some(file) = reader.open_metadata(meta).await? else { return Ok(None) };
    Ok(Some(Lists { packs: file.list(PACKS_KEY)?, replaces: file.list(REPLACES_KEY)? }))
}
