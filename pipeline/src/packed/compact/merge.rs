//! Nodes of several files, in the order of their numbers.

use crate::error::{Error, Result};
use crate::packed::file::File;
use crate::packed::format::{NodeGroup, read_nodes};
use crate::packed::node::{Kind, Node};
use crate::packed::reader::Reader;
use crate::stages::blocking;
use parquet::file::statistics::Statistics;
use std::collections::VecDeque;
use std::sync::Arc;

/// Reads files of nodes side by side. A row group of each file whose numbers overlap is in memory: packs never do, so
/// that is one, and as many more as there are compacted files of the same packs.
pub struct Merge<'a> {
    reader: &'a Reader,
    /// Files not begun, and their first numbers, ascending.
    waiting: VecDeque<(u64, Arc<File>)>,
    begun: Vec<Cursor>,
    /// The last number given out.
    last: Option<u64>,
}

impl<'a> Merge<'a> {
    /// A merge of these files.
    pub fn new(reader: &'a Reader, files: impl IntoIterator<Item = Arc<File>>) -> Self {
        let mut waiting: Vec<_> = files.into_iter().map(|file| (first_of(&file), file)).collect();
        waiting.sort_by_key(|(first, _)| *first);
        Self { reader, waiting: waiting.into(), begun: vec![], last: None }
    }

    /// The next node. One that is in several files comes once, with its text if one of them has it.
    pub async fn next(&mut self) -> Result<Option<(u64, Node<'_, i64>)>> {
        let mut at = 0;
        while at < self.begun.len() {
            match self.begun[at].seek(self.reader, self.last).await? {
                true => at += 1,
                false => drop(self.begun.swap_remove(at)),
            }
        }
        loop {
            let first = self.begun.iter().map(|cursor| cursor.node().0).min();
            match self.waiting.front() {
                Some(&(begins, _)) if first.is_none_or(|first| begins <= first) => {}
                _ => break,
            }
            let Some((_, file)) = self.waiting.pop_front() else { break };
            let mut cursor = Cursor { file, group: 0, nodes: None, at: 0 };
            if cursor.seek(self.reader, self.last).await? {
                self.begun.push(cursor);
            }
        }
        let Some(first) = self.begun.iter().map(|cursor| cursor.node().0).min() else { return Ok(None) };
        self.last = Some(first);
        let same = self.begun.iter().map(Cursor::node).filter(|(id, _)| *id == first);
        Ok(same.min_by_key(|(_, node)| node.kind == Kind::Alias))
    }
}

/// A place in a file.
struct Cursor {
    file: Arc<File>,
    /// The row group to read next.
    group: usize,
    nodes: Option<NodeGroup>,
    at: usize,
}

impl Cursor {
    /// Goes to the first node behind this one; false at the end.
    async fn seek(&mut self, reader: &Reader, behind: Option<u64>) -> Result<bool> {
        loop {
            if let Some(nodes) = &self.nodes {
                while self.at < nodes.len() {
                    if behind.is_none_or(|last| nodes.nth(self.at).0 > last) {
                        return Ok(true);
                    }
                    self.at += 1;
                }
            }
            if self.group == self.file.metadata.num_row_groups() {
                return Ok(false);
            }
            self.nodes = Some(read_group(reader, &self.file, self.group).await?);
            self.at = 0;
            self.group += 1;
        }
    }

    fn node(&self) -> (u64, Node<'_, i64>) {
        match &self.nodes {
            Some(nodes) => nodes.nth(self.at),
            // Only cursors that were moved to a node are kept.
            None => (u64::MAX, Node { kind: Kind::Leaf, text: &[], refs: &[] }),
        }
    }
}

/// The nodes of a row group.
pub async fn read_group(reader: &Reader, file: &File, group: usize) -> Result<NodeGroup> {
    let group = reader.group(file, group).await?;
    let read = blocking(move || read_nodes(&group)).await?;
    read.map_err(|reason| Error::Corrupt { key: file.key.to_string(), reason })
}

fn first_of(file: &File) -> u64 {
    let statistics = file.metadata.row_groups().first().and_then(|group| group.column(0).statistics());
    match statistics {
        Some(Statistics::Int64(ids)) => ids.min_opt().map_or(0, |&first| first as u64),
        _ => 0,
    }
}
