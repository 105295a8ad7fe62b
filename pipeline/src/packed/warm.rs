//! What was stored last, so that a process that has just begun does not store it once more.

use super::SPANS;
use super::file::File;
use super::format::{NodeGroup, PACKS_KEY, REPLACES_KEY, read_nodes};
use super::node::{Kind, NodeKey};
use super::node_set::NodeSet;
use super::packer::spans_from;
use super::reader::Reader;
use super::table::{NodeRef, NodeTable, PackNumber};
use crate::error::{Error, Result};
use crate::stages::blocking;
use crate::store::{Meta, Store};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Looked for so far back, the near past first: what is older is seldom said again.
const BACK: [Duration; 3] = [Duration::from_secs(3600), Duration::from_secs(6 * 3600), Duration::from_secs(48 * 3600)];
/// Files of spans that are asked which packs they name, at most. With 16, a process for each batch of 500 KB takes a fifth
/// longer, and its store is 2 to 3% larger (`benches/cut_corpus.py`, both corpora).
const SPANS_FILES: usize = 4;
/// Packs that are read, at most.
const PACKS: usize = 16;
/// Bytes of nodes in memory meanwhile.
const NODE_BYTES: usize = 24 << 20;
/// Bytes that are hashed at most: a text of texts is put together for it.
const HASHED_BYTES: usize = 128 << 20;
/// Requests at a time.
const AT_ONCE: usize = 4;

/// Tells the table of the nodes that were stored last, as far as it has room; gives how many. Only packs that a file of
/// spans names are read: what no file names is garbage, which may go at any time. `now` is in milliseconds since 1970.
///
/// # Errors
/// If the store fails. Files that are not what Gravity wrote are left out.
pub async fn warm_up(store: &Arc<dyn Store>, table: &Arc<NodeTable>, now: u64) -> Result<usize> {
    // It remembers nothing: every file is read once.
    let reader = Reader::new(store.clone(), 0);
    let packs = recent_packs(&reader, now).await?;
    let mut files = stream::iter(packs).map(|pack| whole(reader.file_of(pack))).buffered(AT_ONCE);
    let (mut groups, mut bytes, mut seen) = (Vec::new(), 0, HashSet::new());
    while let Some(file) = files.try_next().await? {
        let Some(file) = file.filter(|file| seen.insert(file.key.clone())) else { continue };
        for number in (0..file.metadata.num_row_groups()).rev() {
            if let Some(group) = whole(group_of(&reader, &file, number)).await? {
                bytes += group.size();
                groups.push(Arc::new(group));
            }
            if bytes >= NODE_BYTES {
                break;
            }
        }
        if bytes >= NODE_BYTES {
            break;
        }
    }
    drop(files);
    let table = table.clone();
    blocking(move || tell(&groups, &table)).await
}

/// The packs that the newest files of spans name, newest first.
async fn recent_packs(reader: &Reader, now: u64) -> Result<Vec<PackNumber>> {
    let mut listed: Vec<Meta> = Vec::new();
    for back in BACK {
        let from = spans_from(now.saturating_sub(back.as_millis() as u64));
        listed = reader.store().list_last(&format!("{SPANS}/"), Some(&from), SPANS_FILES).await?;
        if listed.len() >= SPANS_FILES {
            break;
        }
    }
    let opened =
        stream::iter(listed.into_iter().rev()).map(|meta| async move { whole(reader.open_metadata(&meta)).await });
    let files: Vec<Option<Option<File>>> = opened.buffered(AT_ONCE).try_collect().await?;
    let (mut packs, mut replaced) = (BTreeSet::new(), HashSet::new());
    for file in files.into_iter().flatten().flatten() {
        let stands_for: Vec<String> = file.list(REPLACES_KEY).unwrap_or_default();
        replaced.extend(stands_for);
        if !replaced.contains(file.key.as_str()) {
            let named: Vec<u64> = file.list(PACKS_KEY).unwrap_or_default();
            packs.extend(named.into_iter().map(PackNumber));
        }
    }
    Ok(packs.into_iter().rev().take(PACKS).collect())
}

/// `None` for what is gone, or not what Gravity wrote: then less is known.
async fn whole<T>(read: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    match read.await {
        Ok(read) => Ok(Some(read)),
        Err(e @ (Error::Corrupt { .. } | Error::Gone(_))) => {
            tracing::warn!("{e}: what it holds may be stored once more");
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

async fn group_of(reader: &Reader, file: &File, number: usize) -> Result<NodeGroup> {
    let group = reader.group(file, number).await?;
    let read = blocking(move || read_nodes(&group)).await?;
    read.map_err(|reason| file.corrupt(reason))
}

/// Tells the table of the nodes of these groups, newest first; gives how many.
fn tell(groups: &[Arc<NodeGroup>], table: &NodeTable) -> usize {
    let mut nodes = NodeSet::default();
    for group in groups {
        nodes.insert(group);
    }
    let mut known = Vec::new();
    let (mut left, mut text) = (HASHED_BYTES, Vec::new());
    for (id, node) in groups.iter().flat_map(|group| group.iter()) {
        let key = match node.kind {
            Kind::Alias | Kind::JsonShape | Kind::ProtobufShape => continue,
            Kind::Leaf => NodeKey::of(node.kind, node.text),
            Kind::Pieces | Kind::Template(_) => {
                text.clear();
                // Part of it is in an older pack: its parts are known, and it is stored once more itself.
                if nodes.expand(id, &mut text).is_err() {
                    continue;
                }
                NodeKey::of(node.kind, &text)
            }
        };
        known.push((key, id));
        left = left.saturating_sub(node.text.len().max(text.len()));
        if left == 0 || known.len() >= table.capacity() {
            break;
        }
    }
    let mut places = HashMap::new();
    // The oldest first: what is told first is forgotten first.
    for &(key, id) in known.iter().rev() {
        let number = PackNumber::of_node(id);
        let pack = *places.entry(number).or_insert_with(|| table.know_pack(number));
        table.know(key, NodeRef { pack, row: number.row_of(id) });
    }
    known.len()
}
