//! Files of spans: merged, batches that stand in several kept once, and proved to restore.

use super::nodes::Aliases;
use crate::error::{Error, Result};
use crate::packed::archive::BatchInfo;
use crate::packed::encode::parquet;
use crate::packed::file::File;
use crate::packed::format::{Effort, REPLACES_KEY, SpansWriter, read_rows};
use crate::packed::json_list;
use crate::packed::reader::Reader;
use crate::packed::restore::{info_of, rows_of_group};
use crate::packed::row::{RowKind, Rows};
use crate::packed::table::PackNumber;
use crate::stages::blocking;
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// A batch as it stands in a file: its key, and the BLAKE3 and bytes of its document.
pub type Identity = (String, String, u64);

/// What is in a file of spans, by its own last rows.
#[derive(Debug, Clone)]
pub struct Contents {
    /// Its batches in their order.
    pub batches: Vec<Identity>,
    /// Its traces: at most.
    pub traces: u64,
}

impl Contents {
    /// Reads the last row of every batch.
    pub async fn of(reader: &Reader, file: &File) -> Result<Self> {
        let mut contents = Self { batches: vec![], traces: 0 };
        for group in 0..file.metadata.num_row_groups() {
            let group = reader.group(file, group).await?;
            let rows = blocking(move || read_rows(&group)).await?;
            let rows = rows.map_err(|reason| file.corrupt(reason))?.rows;
            for at in (0..rows.rows.len()).filter(|&at| rows.rows[at].kind == RowKind::Batch) {
                contents.batches.push(identity(&rows, at, &info_of(file, &rows, at)?));
            }
            let traces: HashSet<_> = rows.rows.iter().filter_map(|row| row.trace_id).collect();
            contents.traces += traces.len() as u64;
        }
        Ok(contents)
    }
}

fn identity(rows: &Rows<u64>, at: usize, info: &BatchInfo) -> Identity {
    let source = String::from_utf8_lossy(rows.texts.get(rows.rows[at].source)).into_owned();
    (source, info.blake3.clone(), info.document_bytes)
}

/// A file of spans that was merged from others.
pub struct Merged {
    /// It.
    pub bytes: Bytes,
    /// Its batches in their order.
    pub batches: Vec<Identity>,
    /// Batches that stood there more than once.
    pub dropped: u64,
}

/// Bytes of rows in memory at a time, about, before they are written whatever their number.
const ROWS_BYTES: usize = 64 << 20;

/// Writes one file of all rows of these. Memory: two row groups, and the file.
pub async fn write(
    reader: &Reader,
    files: &[(Contents, Arc<File>)],
    replaces: &[String],
    aliases: &Aliases,
    effort: Effort,
) -> Result<Merged> {
    let traces = files.iter().map(|(contents, _)| contents.traces).sum::<u64>().min(effort.span_group_rows as u64);
    let mut out = Out {
        writer: Some(SpansWriter::new(effort, traces).map_err(parquet)?),
        rows: Rows::default(),
        packs: BTreeSet::new(),
    };
    let mut kept = Kept::default();
    for (contents, file) in files {
        kept.begin(contents);
        for group in 0..file.metadata.num_row_groups() {
            let mut rows = kept.filter(rows_of_group(reader, file, group).await?);
            for row in &mut rows.rows {
                row.shape = row.shape.map(|shape| aliases.resolve(shape));
            }
            for id in &mut rows.refs {
                *id = aliases.resolve(*id);
            }
            if out.rows.rows.len() + rows.rows.len() > effort.span_group_rows || out.rows.size() > ROWS_BYTES {
                out.write().await?;
            }
            out.rows.append(&rows);
        }
    }
    out.write().await?;
    let Some(writer) = out.writer else { return Err(Error::Config("a file of spans that was given up".into())) };
    let mut keys: Vec<&str> = kept.batches.iter().map(|(key, ..)| key.as_str()).collect();
    let mut seen = HashSet::new();
    keys.retain(|key| seen.insert(*key));
    let packs: Vec<u64> = out.packs.into_iter().collect();
    let bytes = writer.finish(&keys, &packs, vec![(REPLACES_KEY, json_list(replaces))]).map_err(parquet)?;
    Ok(Merged { bytes, batches: kept.batches, dropped: kept.dropped })
}

struct Out {
    /// `None` after a failure.
    writer: Option<SpansWriter>,
    rows: Rows<u64>,
    packs: BTreeSet<u64>,
}

impl Out {
    async fn write(&mut self) -> Result<()> {
        let rows = std::mem::take(&mut self.rows);
        let nodes = rows.refs.iter().copied().chain(rows.rows.iter().filter_map(|row| row.shape));
        self.packs.extend(nodes.map(|node| PackNumber::of_node(node).0));
        if let Some(mut writer) = self.writer.take() {
            let written = blocking(move || writer.write(&rows).map(|()| writer)).await?;
            self.writer = Some(written.map_err(parquet)?);
        }
        Ok(())
    }
}

/// Which batches are in the new file by now.
#[derive(Default)]
struct Kept {
    batches: Vec<Identity>,
    seen: HashSet<Identity>,
    dropped: u64,
    /// Of each key in the file at hand, whether to keep its batches still to come, the next one last.
    to_come: HashMap<String, Vec<bool>>,
}

impl Kept {
    /// Decides on the batches of the next file.
    fn begin(&mut self, contents: &Contents) {
        self.to_come.clear();
        for batch in &contents.batches {
            let is_new = self.seen.insert(batch.clone());
            match is_new {
                true => self.batches.push(batch.clone()),
                false => self.dropped += 1,
            }
            self.to_come.entry(batch.0.clone()).or_default().insert(0, is_new);
        }
    }

    /// Leaves out the rows of batches that are there already.
    fn filter(&mut self, rows: Rows<u64>) -> Rows<u64> {
        let mut keep = Vec::with_capacity(rows.rows.len());
        for row in &rows.rows {
            let key = String::from_utf8_lossy(rows.texts.get(row.source));
            let to_come = self.to_come.get_mut(&*key);
            // Rows without an end belong to no batch, and nobody reads them.
            let is_kept = to_come.as_ref().and_then(|to_come| to_come.last().copied()).unwrap_or(false);
            if let (RowKind::Batch, Some(to_come)) = (row.kind, to_come) {
                to_come.pop();
            }
            keep.push(is_kept);
        }
        match keep.iter().all(|&kept| kept) {
            true => rows,
            false => rows.filter(|at| keep[at]),
        }
    }
}

/// Restores every batch of a file, and gives them.
///
/// # Errors
/// [`Error::Corrupt`] if one is not what it was.
pub async fn proved(reader: &Reader, file: &File) -> Result<HashSet<Identity>> {
    let contents = Contents::of(reader, file).await?;
    prove(reader, file, &contents.batches).await?;
    Ok(contents.batches.into_iter().collect())
}

/// Rows put together at a time: their nodes are in memory.
const ROWS: usize = 256;

/// Restores every batch of a file, one after the other, and compares it with the BLAKE3 that was noted when it came.
///
/// # Errors
/// [`Error::Corrupt`] if one is not what it was, or if these are not the batches.
pub async fn prove(reader: &Reader, file: &File, expected: &[Identity]) -> Result<()> {
    let mut found = Vec::with_capacity(expected.len());
    let mut open: HashMap<Vec<u8>, (blake3::Hasher, u64)> = HashMap::new();
    for group in 0..file.metadata.num_row_groups() {
        let rows = rows_of_group(reader, file, group).await?;
        for start in (0..rows.rows.len()).step_by(ROWS) {
            let end = rows.rows.len().min(start + ROWS);
            let wanted = (start..end).flat_map(|at| rows.refs_of(at).iter().copied().chain(rows.rows[at].shape));
            let nodes = reader.nodes(wanted).await?;
            for at in start..end {
                let source = rows.texts.get(rows.rows[at].source);
                if rows.rows[at].kind != RowKind::Batch {
                    let mut bytes = Vec::new();
                    nodes.row(&rows, at, &mut bytes)?;
                    let (hasher, count) = open.entry(source.to_vec()).or_default();
                    hasher.update(&bytes);
                    *count += bytes.len() as u64;
                    continue;
                }
                let (hasher, count) = open.remove(source).unwrap_or_default();
                let batch = identity(&rows, at, &info_of(file, &rows, at)?);
                if (hasher.finalize().to_hex().as_str(), count) != (&batch.1, batch.2) {
                    return Err(file.corrupt(format!("batch {} does not restore to what it was", batch.0)));
                }
                found.push(batch);
            }
        }
    }
    match found == expected && open.is_empty() {
        true => Ok(()),
        false => Err(file.corrupt("it has other batches than it should")),
    }
}
