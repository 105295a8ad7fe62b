//! A file of spans: its metadata against its rows, and its batches against what they were.

use super::{Verifier, of_this_object};
use crate::error::Result;
use crate::hash::ChunkHash;
use crate::packed::catalog::{Files, SpansFile};
use crate::packed::file::File;
use crate::packed::format::read_rows;
use crate::packed::packer::nodes_key;
use crate::packed::reader::Reader;
use crate::packed::restore::{info_of, restore_from};
use crate::packed::row::{RowKind, Rows};
use crate::packed::table::PackNumber;
use crate::stages::blocking;
use crate::store::Key;
use crate::verify::Level;
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

impl Verifier<'_> {
    /// A file of spans: its metadata against its rows, and its batches against what they were.
    pub(super) async fn spans_file(
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
                self.report.tell(Level::Info, "batch-twice", key, why);
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
                    self.report.tell(Level::Error, "missing-batch", key, why);
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
                    self.report.tell(Level::Error, "corrupt-spans", key, format!("row group {number}: {reason}"));
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
                        self.report.tell(Level::Error, "corrupt-spans", key, reason);
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
                self.report.tell(Level::Error, "hidden-rows", key, why);
            }
        }
        for &pack in &unnamed {
            let why = format!(
                "its rows name {} and its metadata does not; `gravity gc` could remove it",
                nodes_key(PackNumber(pack))
            );
            self.report.tell(Level::Error, "unnamed-pack", key, why);
            self.pack(pack, key);
        }
        if is_whole {
            let listed: HashSet<&str> = file.batches.iter().map(|batch| &**batch).collect();
            let mut unlisted: Vec<_> = places.keys().filter(|batch| !listed.contains(&***batch)).collect();
            unlisted.sort_unstable();
            for batch in unlisted {
                let why = format!("it has batch {batch}, which its metadata does not name: nothing finds it");
                self.report.tell(Level::Error, "unlisted-batch", key, why);
            }
            begun.retain(|batch, _| std::str::from_utf8(batch).is_ok_and(|batch| !listed.contains(batch)));
            for batch in begun.keys() {
                let why = format!("it has rows of {}, which it does not end", String::from_utf8_lossy(batch));
                self.report.tell(Level::Warning, "unended-batch", key, why);
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
                    self.report.tell(Level::Error, "broken-batch", key, reason);
                    return Ok(());
                }
            }
        }
        self.report.looked_at(1);
        self.summary.batches_restored += 1;
        self.summary.bytes_restored += size;
        Ok(())
    }
}

/// The rows of a row group, without their values that have no column.
async fn stored_rows(reader: &Reader, file: &File, group: usize) -> Result<Rows<u64>> {
    let group = reader.group(file, group).await?;
    let stored = blocking(move || read_rows(&group)).await?;
    stored.map(|stored| stored.rows).map_err(|reason| file.corrupt(reason))
}
