//! Files of nodes: merged, duplicates told, and proved to hold what they stand for.

use super::merge::{Merge, read_group};
use crate::error::{Error, Result};
use crate::packed::encode::parquet;
use crate::packed::file::{File, held_packs};
use crate::packed::format::{Effort, NodesWriter, REPLACES_KEY, StoredNode};
use crate::packed::json_list;
use crate::packed::node::{Kind, Node};
use crate::packed::reader::Reader;
use crate::packed::table::PackNumber;
use crate::stages::blocking;
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Of each duplicate, the node that it is one of.
#[derive(Debug, Default)]
pub struct Aliases(HashMap<u64, u64>);

impl Aliases {
    /// The node that a node is a duplicate of, or itself.
    pub fn resolve(&self, id: u64) -> u64 {
        // Each step leads to a smaller number.
        let mut id = id;
        while let Some(&first) = self.0.get(&id) {
            id = first;
        }
        id
    }

    /// How many duplicates there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds what another group of files came to.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    fn insert(&mut self, id: u64, first: u64) -> Result<()> {
        if first >= id {
            let key = format!("node {id}");
            return Err(Error::Corrupt { key, reason: format!("a duplicate of node {first}, which comes later") });
        }
        self.0.insert(id, first);
        Ok(())
    }

    /// The duplicates that a compacted file tells of.
    pub async fn of_file(reader: &Reader, file: &File) -> Result<Self> {
        let mut aliases = Self::default();
        for group in 0..file.metadata.num_row_groups() {
            for (id, node) in read_group(reader, file, group).await?.iter() {
                if let (Kind::Alias, &[first]) = (node.kind, node.refs) {
                    aliases.insert(id, first as u64)?;
                }
            }
        }
        Ok(aliases)
    }

    /// Compares the nodes of these files by kind, text and references. A reference to a duplicate is one to the first,
    /// so nodes are the same if all below them is. Memory: about 90 bytes a node.
    pub async fn find(reader: &Reader, files: &[Arc<File>]) -> Result<Self> {
        let mut aliases = Self::default();
        loop {
            let (before, mut looks_ahead) = (aliases.len(), false);
            let mut seen: HashMap<NodeHash, u64> = HashMap::new();
            let mut nodes = Merge::new(reader, files.iter().cloned());
            while let Some((id, node)) = nodes.next().await? {
                if let (Kind::Alias, &[first]) = (node.kind, node.refs) {
                    aliases.insert(id, first as u64)?;
                    continue;
                }
                looks_ahead |= node.refs.iter().any(|&child| child as u64 > id);
                let first = *seen.entry(aliases.hash(node)).or_insert(id);
                if first != id {
                    aliases.insert(id, first)?;
                }
            }
            // What a node refers to nearly always has a smaller number, and one pass sees all. After a clock that was
            // set back it may not, and each pass sees a level more.
            if !looks_ahead || aliases.len() == before {
                return Ok(aliases);
            }
        }
    }

    /// Stands for kind, text and references.
    fn hash(&self, node: Node<'_, i64>) -> NodeHash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&node.kind.number().to_le_bytes());
        hasher.update(&(node.text.len() as u64).to_le_bytes());
        hasher.update(node.text);
        for &child in node.refs {
            hasher.update(&self.resolve(child as u64).to_le_bytes());
        }
        hasher.finalize()
    }
}

/// All of a BLAKE3: two nodes that have the same are held to be the same, as two batches are. The proof goes by it, too.
type NodeHash = blake3::Hash;

/// Writes one file of all nodes of these. Memory: what a merge needs, a row group, and the file.
pub async fn write(
    reader: &Reader,
    files: &[Arc<File>],
    replaces: &[String],
    aliases: &Aliases,
    effort: Effort,
) -> Result<Bytes> {
    let mut held = HashSet::new();
    for file in files {
        held.extend(held_packs(file)?);
    }
    let mut writer = NodesWriter::new(effort).map_err(parquet)?;
    let mut packs = BTreeSet::new();
    let mut pile = Pile::default();
    let mut nodes = Merge::new(reader, files.iter().cloned());
    while let Some((id, node)) = nodes.next().await? {
        match aliases.resolve(id) {
            first if first == id => pile.push(id, node, |child| aliases.resolve(child)),
            first => pile.push(id, Node { kind: Kind::Alias, text: &[], refs: &[first as i64] }, |child| child),
        }
        if pile.text.len() + pile.refs.len() >= effort.node_group_bytes {
            writer = write_group(writer, std::mem::take(&mut pile), &mut packs).await?;
        }
    }
    if !pile.nodes.is_empty() {
        writer = write_group(writer, pile, &mut packs).await?;
    }
    let packs: Vec<u64> = packs.into_iter().filter(|&pack| !held.contains(&PackNumber(pack))).collect();
    writer.finish(&packs, vec![(REPLACES_KEY, json_list(replaces))]).map_err(parquet)
}

async fn write_group(mut writer: NodesWriter, pile: Pile, packs: &mut BTreeSet<u64>) -> Result<NodesWriter> {
    packs.extend(pile.refs.iter().map(|&child| PackNumber::of_node(child as u64).0));
    let written = blocking(move || writer.write_group(pile.nodes()).map(|()| writer));
    written.await?.map_err(parquet)
}

/// Nodes of a row group.
#[derive(Default)]
struct Pile {
    text: Vec<u8>,
    refs: Vec<i64>,
    /// Of each, where its text and its references end.
    nodes: Vec<(u64, Kind, usize, usize)>,
}

impl Pile {
    fn push(&mut self, id: u64, node: Node<'_, i64>, child: impl Fn(u64) -> u64) {
        self.text.extend_from_slice(node.text);
        self.refs.extend(node.refs.iter().map(|&id| child(id as u64) as i64));
        self.nodes.push((id, node.kind, self.text.len(), self.refs.len()));
    }

    fn nodes(&self) -> Vec<StoredNode<'_>> {
        let (mut text, mut refs) = (0, 0);
        let nodes = self.nodes.iter().map(|&(id, kind, text_end, refs_end)| {
            let node = (id, kind, &self.text[text..text_end], &self.refs[refs..refs_end]);
            (text, refs) = (text_end, refs_end);
            node
        });
        nodes.collect()
    }
}

/// Proves that a compacted file has every node of other files as it was: the same kind, text and references, or as a
/// duplicate of a node that has them. What it says itself of duplicates is believed only as far as it is seen.
///
/// # Errors
/// [`Error::Corrupt`] if it has not.
pub async fn prove(reader: &Reader, old: &[Arc<File>], new: &Arc<File>) -> Result<()> {
    let aliases = Aliases::of_file(reader, new).await?;
    let firsts: HashSet<u64> = aliases.0.keys().map(|&id| aliases.resolve(id)).collect();
    // Of nodes that have duplicates.
    let mut hashes: HashMap<u64, NodeHash> = HashMap::with_capacity(firsts.len());
    let mut new_nodes = Merge::new(reader, [new.clone()]);
    let mut old_nodes = Merge::new(reader, old.iter().cloned());
    let wrong = |id: u64, what: &str| Error::Corrupt { key: new.key.to_string(), reason: format!("node {id} {what}") };
    while let Some((id, was)) = old_nodes.next().await? {
        let is = loop {
            let Some((next, node)) = new_nodes.next().await? else { return Err(wrong(id, "was lost")) };
            if firsts.contains(&next) {
                hashes.insert(next, aliases.hash(node));
            }
            if next == id {
                break node;
            }
            if next > id {
                return Err(wrong(id, "was lost"));
            }
        };
        let is_whole = match is.kind {
            // It was one already, of the same node or of one that turned out to be a duplicate itself.
            Kind::Alias if was.kind == Kind::Alias => {
                was.refs.iter().map(|&child| aliases.resolve(child as u64)).eq([aliases.resolve(id)])
            }
            Kind::Alias => hashes.get(&aliases.resolve(id)) == Some(&aliases.hash(was)),
            kind => {
                let refs = was.refs.iter().map(|&child| aliases.resolve(child as u64) as i64);
                kind == was.kind && is.text == was.text && refs.eq(is.refs.iter().copied())
            }
        };
        if !is_whole {
            return Err(wrong(id, "is not what it was"));
        }
    }
    Ok(())
}
