//! Batches and packs as files: every node by its stored number, which is known by then.

use super::format::{Effort, NodesFile, SpansWriter, write_nodes};
use super::node::Kind;
use super::packer::Lifted;
use super::row::Rows;
use super::table::{NodeRef, Numbers, Pack, PackNumber};
use crate::error::{Error, Result};
use crate::stages::blocking;
use bytes::Bytes;
use parquet::errors::ParquetError;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A spans file of one large batch.
pub struct Begun {
    writer: SpansWriter,
    packs: BTreeSet<u64>,
}

impl Begun {
    /// A file in which about so many traces are.
    pub(super) fn new(effort: Effort, traces: u64) -> Result<Self> {
        let writer = SpansWriter::new(effort, traces).map_err(parquet)?;
        Ok(Self { writer, packs: BTreeSet::new() })
    }

    /// Appends rows.
    pub(super) fn write(&mut self, rows: &Rows<NodeRef>, numbers: &Numbers) -> Result<()> {
        let rows = resolve([rows], numbers, &mut self.packs)?;
        self.writer.write(&rows).map_err(parquet)
    }

    /// Ends the file: it has this batch.
    pub(super) fn finish(self, source: &str) -> Result<Bytes> {
        let packs: Vec<u64> = self.packs.into_iter().collect();
        self.writer.finish(&[source], &packs, vec![]).map_err(parquet)
    }
}

pub(super) fn lost_nodes() -> Error {
    Error::Lost("texts that this batch shares with others could not be stored; another try stores them".into())
}

/// The small batches of a flush.
#[derive(Clone)]
pub(super) struct Spans {
    pub batches: Arc<Vec<Lifted>>,
    pub effort: Effort,
}

impl Spans {
    /// Their file; `None` if there are none.
    pub fn encode(&self, numbers: &Numbers) -> Result<Option<Bytes>> {
        if self.batches.is_empty() {
            return Ok(None);
        }
        let mut packs = BTreeSet::new();
        let rows = resolve(self.batches.iter().map(|lifted| &lifted.rows), numbers, &mut packs)?;
        let mut traces: Vec<_> = rows.rows.iter().filter_map(|row| row.trace_id).collect();
        traces.sort_unstable();
        traces.dedup();
        let mut writer = SpansWriter::new(self.effort, traces.len() as u64).map_err(parquet)?;
        writer.write(&rows).map_err(parquet)?;
        let sources: Vec<&str> = self.batches.iter().map(|lifted| lifted.source.as_str()).collect();
        let packs: Vec<u64> = packs.into_iter().collect();
        writer.finish(&sources, &packs, vec![]).map(Some).map_err(parquet)
    }
}

/// Ends the file of a large batch.
pub(super) async fn finish_large(lifted: Lifted, numbers: Numbers) -> Result<Bytes> {
    blocking(move || {
        let Lifted { source, rows, begun, .. } = lifted;
        let mut begun = begun.ok_or_else(|| Error::Config("a large batch without its file".into()))?;
        begun.write(&rows, &numbers)?;
        begun.finish(&source)
    })
    .await?
}

/// Joins rows, every node by its stored number, and notes the packs of these.
fn resolve<'r>(
    rows: impl IntoIterator<Item = &'r Rows<NodeRef>>,
    numbers: &Numbers,
    packs: &mut BTreeSet<u64>,
) -> Result<Rows<u64>> {
    let mut resolved = Rows::default();
    let mut number = |node| {
        let number = numbers.of(node).ok_or_else(lost_nodes)?;
        packs.insert(PackNumber::of_node(number).0);
        Ok::<_, Error>(number)
    };
    for rows in rows {
        resolved.append_as(rows, &mut number)?;
    }
    Ok(resolved)
}

/// The files of a pack by their numbers, one unless it is enormous.
pub(super) fn encode_pack(
    pack: &Pack,
    place: u32,
    numbers: &Numbers,
    effort: Effort,
) -> Result<Vec<(PackNumber, Bytes)>> {
    let id_of = |row: usize| numbers.of(NodeRef { pack: place, row: row as u32 });
    let mut refs = Vec::with_capacity(pack.refs.len());
    let mut nodes = Vec::with_capacity(pack.nodes.len());
    for (row, node) in pack.iter().enumerate() {
        // One that leads to what was not stored is in no file.
        let Some(id) = id_of(row) else { continue };
        for &child in node.refs {
            refs.push(numbers.of(child).ok_or_else(lost_nodes)? as i64);
        }
        nodes.push((id, node.kind, node.text, refs.len()));
    }
    let mut files = Vec::new();
    let (mut rest, mut start) = (&nodes[..], 0);
    while let Some(&(first, ..)) = rest.first() {
        let own = PackNumber::of_node(first);
        let (now, later) = rest.split_at(rest.partition_point(|&(id, ..)| PackNumber::of_node(id) == own));
        let end = now.last().map_or(start, |last| last.3);
        let packs: BTreeSet<u64> = refs[start..end].iter().map(|&id| PackNumber::of_node(id as u64).0).collect();
        let packs: Vec<u64> = packs.into_iter().filter(|&pack| pack != own.0).collect();
        let nodes = now.iter().map(|&(id, kind, text, end)| {
            let node: (u64, Kind, &[u8], &[i64]) = (id, kind, text, &refs[start..end]);
            start = end;
            node
        });
        let file = write_nodes(NodesFile { nodes, packs: &packs, metadata: vec![] }, effort).map_err(parquet)?;
        files.push((own, file));
        rest = later;
    }
    Ok(files)
}

pub(super) fn parquet(e: ParquetError) -> Error {
    Error::Io { what: "writing Parquet".into(), source: std::io::Error::other(e) }
}
