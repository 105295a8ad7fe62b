//! `nodes/…parquet`: every distinct text once.

use super::columns::{
    Columns, GROUP_ROWS, Group, all_rows, contained, lists, optional, optional_values, read_lists, read_required,
    required, shared,
};
use super::groups::{Writer, write_groups};
use super::{Broken, Effort, PACKS_KEY, properties};
use crate::packed::node::{Kind, Node};
use ::bytes::Bytes;
use parquet::basic::Encoding;
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::EnabledStatistics;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::ops::Range;
use std::sync::Arc;

const SCHEMA: &str = "
message nodes {
  required int64 id;
  required int32 kind;
  optional binary text (STRING);
  optional binary bytes;
  required group refs (LIST) { repeated group list { required int64 element; } }
}";

/// Nodes that are written to a file.
pub struct NodesFile<'a, I> {
    /// The nodes by their stored number, ascending; references are stored numbers too.
    pub nodes: I,
    /// The packs that references lead to.
    pub packs: &'a [u64],
    /// More of the file's metadata.
    pub metadata: Vec<(&'a str, String)>,
}

/// A node as it is written: number, kind, text, references.
pub type StoredNode<'n> = (u64, Kind, &'n [u8], &'n [i64]);

/// Writes a file of nodes.
///
/// # Errors
/// If Parquet cannot hold it.
pub fn write_nodes<'n, I>(file: NodesFile<'_, I>, effort: Effort) -> ParquetResult<Bytes>
where
    I: Iterator<Item = StoredNode<'n>>,
{
    let mut writer = NodesWriter::new(effort)?;
    let groups = groups(file.nodes.collect(), effort);
    write_groups(&mut writer.writer, groups, write_group)?;
    writer.finish(file.packs, file.metadata)
}

/// Cuts nodes into row groups of about the same size.
fn groups<'n>(nodes: Vec<StoredNode<'n>>, effort: Effort) -> Vec<Vec<StoredNode<'n>>> {
    let size_of = |node: &StoredNode<'_>| node.2.len() + node.3.len();
    let size: usize = nodes.iter().map(size_of).sum();
    let count = size.div_ceil(effort.node_group_bytes).max(1);
    let most = size.div_ceil(count);
    let mut groups: Vec<Vec<_>> = Vec::with_capacity(count);
    let mut open = usize::MAX;
    for node in nodes {
        match groups.last_mut() {
            Some(group) if open < most && group.len() < GROUP_ROWS => {
                open += size_of(&node);
                group.push(node);
            }
            _ => {
                open = size_of(&node);
                groups.push(vec![node]);
            }
        }
    }
    groups
}

/// Writes a file of nodes, row group by row group.
pub struct NodesWriter {
    writer: Writer,
}

impl NodesWriter {
    /// A new file.
    ///
    /// # Errors
    /// If Parquet refuses.
    pub fn new(effort: Effort) -> ParquetResult<Self> {
        let properties = properties(effort, vec![])
            .set_column_encoding("id".into(), Encoding::DELTA_BINARY_PACKED)
            .set_column_statistics_enabled("id".into(), EnabledStatistics::Chunk)
            .build();
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        let buffer = Vec::with_capacity(crate::packed::LARGE);
        Ok(Self { writer: SerializedFileWriter::new(buffer, schema, Arc::new(properties))? })
    }

    /// Appends a row group. All its numbers are greater than those of the groups before; within it nodes stand in the
    /// order that compresses best.
    ///
    /// # Errors
    /// If Parquet cannot hold it.
    pub fn write_group(&mut self, group: Vec<StoredNode<'_>>) -> ParquetResult<()> {
        write_group(&mut self.writer, group)
    }

    /// Ends the file: the packs that references lead to, and more metadata.
    ///
    /// # Errors
    /// If Parquet cannot hold it.
    pub fn finish(mut self, packs: &[u64], metadata: Vec<(&str, String)>) -> ParquetResult<Bytes> {
        let packs = (PACKS_KEY, super::super::json_list(packs));
        for (key, value) in metadata.into_iter().chain([packs]) {
            self.writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        self.writer.into_inner().map(Bytes::from)
    }
}

fn write_group(writer: &mut Writer, mut group: Vec<StoredNode<'_>>) -> ParquetResult<()> {
    // Texts that are alike stand side by side, which saves more than numbers that do not ascend cost.
    group.sort_unstable_by_key(|&(id, kind, text, _)| (kind.number(), text, id));
    let group = &group[..];
    let mut out = writer.next_row_group()?;
    required::<Int64Type, _>(&mut out, &group.iter().map(|node| node.0 as i64).collect::<Vec<_>>())?;
    required::<Int32Type, _>(&mut out, &group.iter().map(|node| node.1.number()).collect::<Vec<_>>())?;
    let (texts, others) = split_texts(group);
    optional::<ByteArrayType, _>(&mut out, texts.into_iter())?;
    optional::<ByteArrayType, _>(&mut out, others.into_iter())?;
    lists(&mut out, group.iter().map(|node| node.3))?;
    out.close()?;
    Ok(())
}

/// Texts that are UTF-8, and those that are not. A shape has NULs for its holes, so it is never a text.
fn split_texts(group: &[StoredNode<'_>]) -> (Vec<Option<ByteArray>>, Vec<Option<ByteArray>>) {
    let values = shared(group.iter().map(|node| node.2));
    let split = group.iter().zip(values).map(|(&(_, kind, text, _), value)| {
        match !kind.is_shape() && std::str::from_utf8(text).is_ok() {
            true => (Some(value), None),
            false => (None, Some(value)),
        }
    });
    split.unzip()
}

/// The nodes of one row group.
#[derive(Debug)]
pub struct NodeGroup {
    /// Numbers, ascending, and the row of each.
    ids: Vec<(i64, u32)>,
    kinds: Vec<Kind>,
    texts: Vec<ByteArray>,
    refs: Vec<i64>,
    refs_ends: Vec<usize>,
}

impl NodeGroup {
    /// A node by its number.
    pub fn get(&self, id: u64) -> Option<Node<'_, i64>> {
        let at = self.ids.binary_search_by_key(&(id as i64), |&(id, _)| id).ok()?;
        Some(self.at(self.ids[at].1 as usize))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The node at a place in the order of the numbers.
    pub fn nth(&self, at: usize) -> (u64, Node<'_, i64>) {
        let (id, row) = self.ids[at];
        (id as u64, self.at(row as usize))
    }

    /// All nodes, by number.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Node<'_, i64>)> {
        (0..self.ids.len()).map(|at| self.nth(at))
    }

    /// Bytes of memory, about.
    pub fn size(&self) -> usize {
        self.texts.iter().map(|text| text.len()).sum::<usize>() + self.refs.len() * 8 + self.ids.len() * 64
    }

    fn at(&self, at: usize) -> Node<'_, i64> {
        let start = at.checked_sub(1).map_or(0, |before| self.refs_ends[before]);
        Node { kind: self.kinds[at], text: self.texts[at].data(), refs: &self.refs[start..self.refs_ends[at]] }
    }
}

/// Reads a row group of a file of nodes.
///
/// # Errors
/// What is wrong with it.
pub fn read_nodes(group: &Group) -> Result<NodeGroup, Broken> {
    contained("a row group", || read(group))
}

fn read(group: &Group) -> Result<NodeGroup, Broken> {
    let group = &group.open()?;
    let rows = &all_rows(group);
    let ids = read_required::<Int64Type>(group, 0, rows)?;
    let mut ids: Vec<(i64, u32)> = ids.into_iter().zip(0..).collect();
    ids.sort_unstable();
    if !ids.is_sorted_by(|a, b| a.0 < b.0) {
        return Err("two nodes of one number".into());
    }
    let kind = |number| Kind::from_number(number).ok_or_else(|| format!("a node of unknown kind {number}"));
    let kinds = read_required::<Int32Type>(group, 1, rows)?.into_iter().map(kind).collect::<Result<_, _>>()?;
    let (refs, refs_ends) = read_lists(group, 4, rows)?;
    Ok(NodeGroup { ids, kinds, texts: read_texts(group, rows)?, refs, refs_ends })
}

/// The texts of all nodes: each is in one of two columns.
fn read_texts(group: &Columns<'_>, rows: &Range<usize>) -> Result<Vec<ByteArray>, Broken> {
    let texts = optional_values::<ByteArrayType>(group, 2, rows)?;
    let others = optional_values::<ByteArrayType>(group, 3, rows)?;
    let mut all = Vec::with_capacity(rows.len());
    for (text, other) in texts.zip(others) {
        all.push(match (text?, other?) {
            (Some(text), None) | (None, Some(text)) => text,
            (None, None) => return Err("a node without a text".into()),
            (Some(_), Some(_)) => return Err("a node with two texts".into()),
        });
    }
    Ok(all)
}
