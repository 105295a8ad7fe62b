//! Finding nodes, and putting texts and records together.

use super::footers::Footers;
use super::format::{Group, NodeGroup, PACKS_KEY, REPLACES_KEY, Window, metadata_of, read_nodes};
use super::lift::fill;
use super::node::{Kind, Node};
use super::packer::{day, nodes_key};
use super::row::{Rows, Values};
use super::shape::{Column, RowColumns, unshred};
use super::table::PackNumber;
use super::{MAX_ROW_BYTES, NODES, SPANS};
use crate::error::{Error, Result};
use crate::stages::blocking;
use crate::store::{Key, Meta, Store};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A file up to this size is read whole, in one request; of a larger one, what is needed.
const WHOLE: u64 = 4 << 20;
/// Bytes at a file's end that hold its metadata, mostly.
const TAIL: u64 = 64 << 10;
/// Columns of a file of nodes, and of spans, at least.
const NODES_COLUMNS: usize = 5;
const SPANS_COLUMNS: usize = 22;
/// Requests at a time.
const AT_ONCE: usize = 16;

/// A Parquet file that is being read.
#[derive(Clone)]
pub struct File {
    /// Its name.
    pub key: Key,
    /// Its bytes, as far as they were read: all of them, or the end.
    window: Window,
    /// Its metadata.
    pub metadata: Arc<ParquetMetaData>,
}

impl File {
    pub(super) fn parse(key: &Key, window: Window) -> Result<Self> {
        let columns = if key.as_str().starts_with(SPANS) { SPANS_COLUMNS } else { NODES_COLUMNS };
        let metadata =
            metadata_of(&window, columns).map_err(|reason| Error::Corrupt { key: key.to_string(), reason })?;
        Ok(Self { key: key.clone(), window, metadata: Arc::new(metadata) })
    }

    /// A file whose bytes are in memory.
    ///
    /// # Errors
    /// If it is not what Gravity wrote.
    pub fn of_bytes(key: &Key, bytes: Bytes) -> Result<Self> {
        Self::parse(key, Window::whole(bytes))
    }

    /// A value of the file's own metadata, a list in JSON; empty if there is none.
    pub fn list<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Vec<T>> {
        let pairs = self.metadata.file_metadata().key_value_metadata();
        let value =
            pairs.and_then(|pairs| pairs.iter().find(|pair| pair.key == name)).and_then(|pair| pair.value.as_ref());
        let Some(value) = value else { return Ok(vec![]) };
        serde_json::from_str(value).map_err(|e| self.corrupt(format!("metadata {name}: {e}")))
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.window.size
    }

    /// What was read of it.
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// Its end, as far as it was read: the filters and the metadata.
    pub(super) fn end(&self) -> Window {
        let columns = self.metadata.row_groups().iter().flat_map(RowGroupMetaData::columns);
        let filters = columns.filter_map(|column| u64::try_from(column.bloom_filter_offset()?).ok());
        let length = self.window.bytes.last_chunk::<8>().and_then(|end| end.first_chunk::<4>());
        let metadata = length.map_or(0, |length| u64::from(u32::from_le_bytes(*length)) + 8);
        let start = filters.fold(self.size().saturating_sub(metadata), u64::min).max(self.window.start);
        let skipped = usize::try_from(start - self.window.start).unwrap_or(usize::MAX);
        // A copy, so that the rest is freed.
        let bytes = Bytes::copy_from_slice(self.window.bytes.get(skipped..).unwrap_or_default());
        Window { start: self.size() - bytes.len() as u64, bytes, size: self.size() }
    }

    /// The same file without its bytes: they are read again where they are needed.
    pub fn without_bytes(mut self) -> Self {
        self.window = Window { start: self.window.size, bytes: Bytes::new(), size: self.window.size };
        self
    }

    pub(super) fn corrupt(&self, reason: impl Into<String>) -> Error {
        Error::Corrupt { key: self.key.to_string(), reason: reason.into() }
    }
}

/// Reads nodes of one store.
pub struct Reader {
    store: Arc<dyn Store>,
    footers: Option<Footers>,
    cache: Mutex<Cache>,
    rows: Mutex<RecentRows>,
    /// Bytes of row groups that are remembered.
    budget: usize,
}

#[derive(Default)]
struct Cache {
    files: HashMap<PackNumber, Arc<File>>,
    /// Bytes of files that are remembered whole.
    file_bytes: usize,
    groups: HashMap<(Key, usize), (Arc<NodeGroup>, u64)>,
    bytes: usize,
    clock: u64,
}

/// The row groups of spans that were read last: the next batch of a file is mostly in the same one.
#[derive(Default)]
pub(super) struct RecentRows(VecDeque<(Key, usize, Arc<Rows<u64>>)>);

/// Row groups of spans that are remembered.
const RECENT_ROWS: usize = 2;

impl RecentRows {
    pub fn get(&self, file: &Key, group: usize) -> Option<Arc<Rows<u64>>> {
        self.0.iter().find(|(key, number, _)| key == file && *number == group).map(|(_, _, rows)| rows.clone())
    }

    pub fn remember(&mut self, file: &Key, group: usize, rows: Arc<Rows<u64>>) {
        if self.get(file, group).is_none() {
            self.0.truncate(RECENT_ROWS - 1);
            self.0.push_front((file.clone(), group, rows));
        }
    }
}

impl Reader {
    /// A reader that remembers about `budget` bytes of nodes.
    pub fn new(store: Arc<dyn Store>, budget: usize) -> Arc<Self> {
        Self::with_footers(store, budget, None)
    }

    /// The same, with a cache of the ends of files.
    pub fn with_footers(store: Arc<dyn Store>, budget: usize, footers: Option<Footers>) -> Arc<Self> {
        Arc::new(Self { store, footers, cache: Mutex::default(), rows: Mutex::default(), budget })
    }

    /// The cache of the ends of files.
    pub(super) fn footers(&self) -> Option<&Footers> {
        self.footers.as_ref()
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        // What it holds is whole between any two statements that could panic.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn recent_rows(&self) -> MutexGuard<'_, RecentRows> {
        // What it holds is whole between any two statements that could panic.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a Parquet file; `None` if there is none.
    pub async fn open(&self, key: &Key) -> Result<Option<File>> {
        if let Some(file) = self.known(key, None) {
            return Ok(Some(file));
        }
        let Some(object) = self.store.get(key).await? else { return Ok(None) };
        let size = object.meta.size;
        if size <= WHOLE {
            let window = Window::whole(object.bytes().await?);
            return File::parse(key, window).map(Some);
        }
        drop(object);
        self.open_large(key, size).await
    }

    /// Opens a file that a listing told of, reading no more than its end; `None` if it is gone. What was read is kept no
    /// longer than this takes, but for the metadata and the filters before it.
    pub async fn open_metadata(&self, listed: &Meta) -> Result<Option<File>> {
        match self.known(&listed.key, Some(listed.size)) {
            Some(file) => Ok(Some(file)),
            None => self.open_large(&listed.key, listed.size).await,
        }
    }

    /// A file whose end is in the cache.
    fn known(&self, key: &Key, size: Option<u64>) -> Option<File> {
        let window = self.footers.as_ref()?.get(key, size)?;
        File::parse(key, window).ok()
    }

    async fn open_large(&self, key: &Key, size: u64) -> Result<Option<File>> {
        let mut tail = TAIL;
        loop {
            let start = size.saturating_sub(tail);
            let Some(bytes) = self.store.get_range(key, start..size).await? else { return Ok(None) };
            // The last 8 bytes: the metadata's length and "PAR1".
            let length = bytes.len().checked_sub(8).and_then(|at| bytes[at..].first_chunk::<4>());
            let needed = length.map_or(0, |length| u64::from(u32::from_le_bytes(*length)) + 8);
            if needed <= tail || start == 0 {
                let file = File::parse(key, Window { start, bytes, size })?;
                if let Some(footers) = &self.footers {
                    footers.put(key, &file.end());
                }
                return Ok(Some(file));
            }
            tail = needed;
        }
    }

    /// Makes this file the one in which the packs that it stands for are looked up, though they may be there still.
    ///
    /// # Errors
    /// If its metadata is not what Gravity wrote.
    pub fn prefer(&self, file: &Arc<File>) -> Result<()> {
        let packs = held_packs(file)?;
        self.cache().files.extend(packs.into_iter().map(|pack| (pack, file.clone())));
        Ok(())
    }

    /// A row group, with the bytes that hold it.
    pub async fn group(&self, file: &File, group: usize) -> Result<Group> {
        let columns = file.metadata.row_group(group).columns();
        let ranges = columns.iter().map(|column| column.byte_range());
        // That they lie in the file was checked when its metadata was read.
        let (start, end) =
            ranges.fold((u64::MAX, 0), |(start, end), (at, length)| (start.min(at), end.max(at + length)));
        let window = match start >= file.window.start {
            true => file.window.clone(),
            false => {
                let bytes = self.store.get_range(&file.key, start..end).await?;
                let bytes = bytes.ok_or_else(|| Error::Gone(file.key.to_string()))?;
                Window { start, bytes, size: file.window.size }
            }
        };
        Ok(Group { window, metadata: file.metadata.clone(), number: group })
    }

    /// The file that a pack's nodes are in: its own, or the one that it was compacted into.
    pub(super) async fn file_of(&self, pack: PackNumber) -> Result<Arc<File>> {
        if let Some(file) = self.cache().files.get(&pack) {
            return Ok(file.clone());
        }
        let file = match self.open(&nodes_key(pack)).await? {
            Some(file) => file,
            None => self.compacted_file_of(pack).await?,
        };
        let file = Arc::new(file);
        // The other packs that were compacted into it need not be looked for.
        self.prefer(&file)?;
        self.cache().remember_file(pack, file.clone(), self.budget);
        Ok(file)
    }

    async fn compacted_file_of(&self, pack: PackNumber) -> Result<File> {
        let folder = format!("{NODES}/dt={}/", day(pack.0));
        let mut files = self.store.list(&folder, None);
        while let Some(meta) = files.try_next().await? {
            if !covers(&meta.key, pack) {
                continue;
            }
            let Some(file) = self.open(&meta.key).await? else { continue };
            let replaced: Vec<String> = file.list(REPLACES_KEY)?;
            if replaced.iter().any(|name| name == nodes_key(pack).as_str()) {
                return Ok(file);
            }
        }
        let reason = "other files name its nodes and it is not there".to_owned();
        Err(Error::Corrupt { key: nodes_key(pack).to_string(), reason })
    }

    /// The row group that a node is in.
    async fn group_of(&self, node: u64) -> Result<Arc<NodeGroup>> {
        let pack = PackNumber::of_node(node);
        match self.group_in(self.file_of(pack).await?, node).await {
            // Compacted since it was opened: it is in another file now.
            Err(Error::Gone(key)) => {
                self.cache().files.retain(|_, file| file.key.as_str() != key);
                self.group_in(self.file_of(pack).await?, node).await
            }
            found => found,
        }
    }

    async fn group_in(&self, file: Arc<File>, node: u64) -> Result<Arc<NodeGroup>> {
        let groups = file.metadata.row_groups();
        let last = |at: usize| match groups[at].column(0).statistics() {
            Some(Statistics::Int64(ids)) => ids.max_opt().copied().unwrap_or(i64::MAX),
            _ => i64::MAX,
        };
        let (mut low, mut high) = (0, groups.len());
        while low < high {
            let middle = (low + high) / 2;
            match last(middle) < node as i64 {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        if low == groups.len() {
            return Err(file.corrupt(format!("it has no node {node}, which others name")));
        }
        let place = (file.key.clone(), low);
        if let Some(group) = self.cache().get(&place) {
            return Ok(group);
        }
        let group = self.group(&file, low).await?;
        let read = blocking(move || read_nodes(&group)).await?;
        let group = Arc::new(read.map_err(|reason| file.corrupt(reason))?);
        self.cache().remember(place, group.clone(), self.budget);
        Ok(group)
    }

    /// These nodes and all that they lead to.
    pub async fn nodes(&self, wanted: impl IntoIterator<Item = u64>) -> Result<NodeSet> {
        self.load(wanted.into_iter().collect(), true).await
    }

    /// These nodes alone.
    pub async fn nodes_alone(&self, wanted: impl IntoIterator<Item = u64>) -> Result<NodeSet> {
        self.load(wanted.into_iter().collect(), false).await
    }

    async fn load(&self, mut wanted: BTreeSet<u64>, and_below: bool) -> Result<NodeSet> {
        let mut set = NodeSet::default();
        while let Some(&first) = wanted.first() {
            // One node of each group that is needed, as far as that is known: the others are found in it.
            let mut packs: BTreeMap<PackNumber, u64> = BTreeMap::new();
            for &node in &wanted {
                packs.entry(PackNumber::of_node(node)).or_insert(node);
            }
            packs.insert(PackNumber::of_node(first), first);
            let mut groups =
                stream::iter(packs.into_values()).map(|node| self.group_of(node)).buffer_unordered(AT_ONCE);
            let mut below = BTreeSet::new();
            while let Some(group) = groups.try_next().await? {
                wanted.retain(|&node| {
                    let Some(found) = group.get(node) else { return true };
                    if and_below || found.kind == Kind::Alias {
                        below.extend(found.refs.iter().map(|&child| child as u64));
                    }
                    set.nodes.insert(node, group.clone());
                    false
                });
            }
            if wanted.contains(&first) {
                let key = nodes_key(PackNumber::of_node(first)).to_string();
                return Err(Error::Corrupt { key, reason: format!("it has no node {first}, which others name") });
            }
            wanted.extend(below.into_iter().filter(|node| !set.nodes.contains_key(node)));
        }
        Ok(set)
    }
}

/// The packs whose nodes a file of nodes holds.
///
/// # Errors
/// If its metadata is not what Gravity wrote.
pub fn held_packs(file: &File) -> Result<Vec<PackNumber>> {
    let replaced: Vec<String> = file.list(REPLACES_KEY)?;
    let names = replaced.iter().map(String::as_str).chain([file.key.as_str()]);
    Ok(names.filter_map(pack_of_name).collect())
}

/// The pack that a file of nodes is named after; `None` for a compacted file.
fn pack_of_name(name: &str) -> Option<PackNumber> {
    let name = name.rsplit('/').next()?.strip_suffix(".parquet")?;
    u64::from_str_radix(name, 16).ok().map(PackNumber)
}

/// True if a compacted file may hold this pack: its name begins with its first and last.
fn covers(key: &Key, pack: PackNumber) -> bool {
    let name = key.as_str().rsplit('/').next().unwrap_or_default();
    let mut parts = name.split('-').map(|part| u64::from_str_radix(part, 16));
    match (parts.next(), parts.next()) {
        (Some(Ok(first)), Some(Ok(last))) => (first..=last).contains(&pack.0),
        _ => false,
    }
}

impl Cache {
    fn get(&mut self, place: &(Key, usize)) -> Option<Arc<NodeGroup>> {
        self.clock += 1;
        let clock = self.clock;
        self.groups.get_mut(place).map(|(group, used)| {
            *used = clock;
            group.clone()
        })
    }

    /// Remembers a file with what was read of it; the bytes of all others go when there are too many.
    fn remember_file(&mut self, pack: PackNumber, file: Arc<File>, budget: usize) {
        let bytes = file.window.bytes.len();
        if self.file_bytes + bytes > budget {
            for other in self.files.values_mut() {
                *other = Arc::new(File::clone(other).without_bytes());
            }
            self.file_bytes = 0;
        }
        self.file_bytes += bytes;
        self.files.insert(pack, file);
    }

    fn remember(&mut self, place: (Key, usize), group: Arc<NodeGroup>, budget: usize) {
        self.clock += 1;
        self.bytes += group.size();
        self.groups.insert(place, (group, self.clock));
        while self.bytes > budget && self.groups.len() > 1 {
            let oldest = self.groups.iter().min_by_key(|(_, (_, used))| *used).map(|(place, _)| place.clone());
            let Some((group, _)) = oldest.and_then(|oldest| self.groups.remove(&oldest)) else { return };
            self.bytes -= group.size();
        }
    }
}

/// Nodes in memory.
#[derive(Default)]
pub struct NodeSet {
    nodes: HashMap<u64, Arc<NodeGroup>>,
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

/// The packs that a file's references lead to.
pub fn packs_of(file: &File) -> Result<Vec<u64>> {
    file.list(PACKS_KEY)
}
