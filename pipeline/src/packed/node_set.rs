//! Nodes in memory, and the texts and records that are put together from them.

use super::MAX_ROW_BYTES;
use super::format::NodeGroup;
use super::lift::fill;
use super::node::{Kind, Node};
use super::packer::nodes_key;
use super::row::{Rows, Values};
use super::shape::{Column, RowColumns, unshred};
use super::table::PackNumber;
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;

/// Nodes in memory.
#[derive(Default)]
pub struct NodeSet {
    nodes: HashMap<u64, Arc<NodeGroup>, foldhash::fast::RandomState>,
}

/// What may still be done for a row, or for a node by itself: a few damaged bytes could stand for terabytes.
struct Budget(usize);

impl Budget {
    /// Bytes written, those on the way included. A record stands in at most a dozen texts.
    const WORK: usize = 16 << 30;
    /// A node costs so many, however short it is.
    const NODE: usize = 64;

    /// A node became this text, from `start` on.
    fn spend(&mut self, id: u64, start: usize, out: &[u8]) -> Result<()> {
        let left = self.0.checked_sub(out.len() - start + Self::NODE);
        self.0 = left
            .filter(|_| out.len() <= MAX_ROW_BYTES)
            .ok_or_else(|| broken(id, "it stands for more than any record has"))?;
        Ok(())
    }
}

/// Texts in texts are followed so deep at most; what is lifted is never as deep.
const DEPTH: usize = 32;

impl NodeSet {
    /// Adds a node of a row group.
    pub(super) fn insert_node(&mut self, id: u64, group: &Arc<NodeGroup>) {
        self.nodes.insert(id, group.clone());
    }

    /// True if this node was loaded.
    pub(super) fn has(&self, id: u64) -> bool {
        self.nodes.contains_key(&id)
    }

    /// Adds the nodes of a row group.
    pub fn insert(&mut self, group: &Arc<NodeGroup>) {
        self.nodes.extend(group.iter().map(|(id, _)| (id, group.clone())));
    }

    /// A node; of a duplicate the node that it is one of.
    ///
    /// # Errors
    /// If it was not loaded.
    pub fn get(&self, id: u64) -> Result<Node<'_, i64>> {
        let mut next = id;
        for _ in 0..DEPTH {
            let found = self.nodes.get(&next).and_then(|group| group.get(next));
            let node = found.ok_or_else(|| broken(next, "it was not loaded"))?;
            match (node.kind, node.refs) {
                (Kind::Alias, &[other]) => next = other as u64,
                (Kind::Alias, _) => return Err(broken(next, "a duplicate of more or less than one node")),
                _ => return Ok(node),
            }
        }
        Err(broken(id, "it is in itself"))
    }

    /// Appends a node's text.
    ///
    /// # Errors
    /// If what the store holds of it makes no sense.
    pub fn expand(&self, id: u64, out: &mut Vec<u8>) -> Result<()> {
        self.expand_at(id, DEPTH, &mut Budget(Budget::WORK), out)
    }

    fn expand_at(&self, id: u64, depth: usize, budget: &mut Budget, out: &mut Vec<u8>) -> Result<()> {
        let Some(depth) = depth.checked_sub(1) else { return Err(broken(id, "it is in itself")) };
        let node = self.get(id)?;
        let start = out.len();
        let mut refs = node.refs.iter().map(|&child| child as u64);
        match node.kind {
            Kind::Leaf => out.extend_from_slice(node.text),
            Kind::Pieces => {
                for child in &mut refs {
                    self.expand_at(child, depth, budget, out)?;
                }
            }
            Kind::Template(habit) => fill(node.text, habit, out, |inner| {
                let child = refs.next().ok_or_else(|| broken(id, "a hole without a node"))?;
                self.expand_at(child, depth, budget, inner)
            })?,
            Kind::JsonShape | Kind::ProtobufShape | Kind::Alias => {
                return Err(broken(id, "a shape where a text should be"));
            }
        }
        if refs.next().is_some() {
            return Err(broken(id, "a node without a hole"));
        }
        budget.spend(id, start, out)
    }

    /// Appends a row's bytes as they were in the batch; gives where in `out` a record begins.
    ///
    /// # Errors
    /// If what the store holds of it makes no sense.
    pub fn row(&self, rows: &Rows<u64>, at: usize, out: &mut Vec<u8>) -> Result<usize> {
        let row = &rows.rows[at];
        let mut refs = rows.refs_of(at).iter();
        let Some(shape) = row.shape else {
            let (start, mut budget) = (out.len(), Budget(Budget::WORK));
            return refs.try_for_each(|&id| self.expand_at(id, DEPTH, &mut budget, out)).map(|()| start);
        };
        let shape = self.get(shape)?;
        let is_json = match shape.kind {
            Kind::JsonShape => true,
            Kind::ProtobufShape => false,
            _ => return Err(broken(row.shape.unwrap_or(0), "not a shape")),
        };
        let columns = RowColumns { row, texts: &rows.texts };
        let budget = Budget(Budget::WORK);
        let mut values = RowValues { columns, refs, rest: rows.rest_of(at), nodes: self, budget };
        let start = unshred(is_json, shape.text, &mut values, out)?;
        match (values.refs.next(), values.rest.next()) {
            (None, None) => Ok(start),
            _ => Err(broken(row.shape.unwrap_or(0), "a row with more values than its shape has places")),
        }
    }
}

fn broken(node: u64, reason: &str) -> Error {
    Error::Corrupt { key: nodes_key(PackNumber::of_node(node)).to_string(), reason: format!("node {node}: {reason}") }
}

struct RowValues<'a, I> {
    columns: RowColumns<'a, u64>,
    refs: std::slice::Iter<'a, u64>,
    rest: I,
    nodes: &'a NodeSet,
    budget: Budget,
}

impl<'a, I: Iterator<Item = (u32, &'a [u8])>> Values for RowValues<'a, I> {
    type Error = Error;

    fn trace_id(&self) -> Option<[u8; 16]> {
        self.columns.row.trace_id
    }

    fn span_id(&self, parent: bool) -> Option<[u8; 8]> {
        if parent { self.columns.row.parent_span_id } else { self.columns.row.span_id }
    }

    fn text(&self, column: Column) -> Option<&[u8]> {
        self.columns.text(column)
    }

    fn integer(&self, column: Column) -> Option<i64> {
        self.columns.integer(column)
    }

    fn cost(&self) -> Option<f64> {
        self.columns.row.cost
    }

    fn rest(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let (_, value) = self.rest.next().ok_or("a row without one of its values")?;
        out.extend_from_slice(value);
        Ok(())
    }

    fn next_ref(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let &id = self.refs.next().ok_or("a row without one of its references")?;
        self.nodes.expand_at(id, DEPTH, &mut self.budget, out)
    }
}

impl From<&'static str> for Error {
    fn from(reason: &'static str) -> Self {
        Error::Corrupt { key: "spans".into(), reason: reason.into() }
    }
}

impl From<String> for Error {
    fn from(reason: String) -> Self {
        Error::Corrupt { key: "spans".into(), reason }
    }
}
