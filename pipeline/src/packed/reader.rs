//! Finding nodes: which file has a pack, and which of its row groups a node.

use super::NODES;
use super::file::{File, covers, held_packs, is_compacted};
use super::footers::Footers;
use super::format::{Group, NodeGroup, REPLACES_KEY, Window, read_nodes};
use super::node::Kind;
use super::node_set::NodeSet;
use super::packer::{day, nodes_key};
use super::row::Rows;
use super::table::PackNumber;
use crate::error::{Error, Result};
use crate::stages::blocking;
use crate::store::{Key, Meta, Store};
use futures::{StreamExt, TryStreamExt, future, stream};
use parquet::file::statistics::Statistics;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::OnceCell;

/// A file up to this size is read whole, in one request; of a larger one, what is needed.
const WHOLE: u64 = 4 << 20;
/// Bytes at a file's end that hold its metadata, mostly.
const TAIL: u64 = 64 << 10;
/// Requests at a time.
const AT_ONCE: usize = 16;

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
    /// By day, the files that packs of it were compacted into, as far as they had to be listed.
    compacted: HashMap<String, Arc<Vec<Meta>>>,
    /// Bytes of files that are remembered whole.
    file_bytes: usize,
    /// Files that somebody looks for at this moment.
    sought: HashMap<PackNumber, Arc<OnceCell<Arc<File>>>>,
    groups: HashMap<Place, Remembered>,
    /// Bytes of these groups.
    bytes: usize,
    clock: u64,
}

/// A row group: its file, and its number there.
type Place = (Key, usize);

/// A row group that was asked for. Whoever asks while it is being read waits for that.
#[derive(Default)]
struct Remembered {
    group: Arc<OnceCell<Arc<NodeGroup>>>,
    /// Bytes of memory, once it was read.
    bytes: usize,
    /// When it was last asked for.
    used: u64,
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

    /// Opens a Parquet file; `None` if there is none. One whose end is cached may be gone: then reading it is
    /// [`Error::Gone`].
    pub async fn open(&self, key: &Key) -> Result<Option<File>> {
        if let Some(file) = self.known(key, None) {
            return Ok(Some(file));
        }
        let Some(object) = self.store.get(key).await? else { return Ok(None) };
        let size = object.meta.size;
        if size <= WHOLE {
            let file = File::parse(key, Window::whole(object.bytes().await?))?;
            // A file that is no more than its end: a trace that has part of many small packs reads each of them once.
            if let Some(footers) = self.footers.as_ref().filter(|_| size <= TAIL) {
                footers.put(key, &file.window);
            }
            return Ok(Some(file));
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
        let sought = {
            let mut cache = self.cache();
            if let Some(file) = cache.files.get(&pack) {
                return Ok(file.clone());
            }
            cache.sought.entry(pack).or_default().clone()
        };
        let file = sought.get_or_try_init(|| self.find_file(pack)).await.cloned();
        self.cache().sought.remove(&pack);
        file
    }

    async fn find_file(&self, pack: PackNumber) -> Result<Arc<File>> {
        let known = self.cache().compacted.get(&day(pack.0)).cloned();
        // Where one pack of a day was compacted, the others mostly were.
        let mut file = match known {
            Some(compacted) => self.compacted_file_of(pack, &compacted).await?,
            None => None,
        };
        if file.is_none() {
            file = self.open(&nodes_key(pack)).await?;
        }
        if file.is_none() {
            let compacted = self.list_compacted(pack).await?;
            file = self.compacted_file_of(pack, &compacted).await?;
        }
        let missing = || "other files name its nodes and it is not there".to_owned();
        let file = file.ok_or_else(|| Error::Corrupt { key: nodes_key(pack).to_string(), reason: missing() })?;
        let file = Arc::new(file);
        // The other packs that were compacted into it need not be looked for.
        self.prefer(&file)?;
        self.cache().remember_file(pack, file.clone(), self.budget);
        Ok(file)
    }

    /// The files into which packs of the same day as this one were compacted.
    async fn list_compacted(&self, pack: PackNumber) -> Result<Arc<Vec<Meta>>> {
        let day = day(pack.0);
        let listed = self.store.list(&format!("{NODES}/dt={day}/"), None);
        let compacted = listed.try_filter(|meta| future::ready(is_compacted(&meta.key))).try_collect().await?;
        let compacted: Arc<Vec<Meta>> = Arc::new(compacted);
        self.cache().compacted.insert(day, compacted.clone());
        Ok(compacted)
    }

    async fn compacted_file_of(&self, pack: PackNumber, compacted: &[Meta]) -> Result<Option<File>> {
        for meta in compacted.iter().filter(|meta| covers(&meta.key, pack)) {
            let Some(file) = self.open(&meta.key).await? else { continue };
            let replaced: Vec<String> = file.list(REPLACES_KEY)?;
            if replaced.iter().any(|name| name == nodes_key(pack).as_str()) {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// Opens the files of these packs, of each day one first: if it was compacted, the others need no request.
    async fn open_packs(&self, packs: impl Iterator<Item = PackNumber>) -> Result<()> {
        let days: BTreeMap<String, PackNumber> = packs.map(|pack| (day(pack.0), pack)).collect();
        let opened = stream::iter(days.into_values()).map(|pack| self.file_of(pack)).buffer_unordered(AT_ONCE);
        opened.try_for_each(|_| future::ready(Ok(()))).await
    }

    /// The file of a pack that will be needed, if it is small; if it cannot be read, whoever needs it is told.
    pub(super) async fn ahead(&self, pack: Option<PackNumber>) -> Option<(Arc<File>, PackNumber)> {
        let file = self.file_of(pack?).await.ok()?;
        (file.window().start == 0).then_some((file, pack?))
    }

    /// Decodes the first nodes of that pack.
    pub(super) async fn decode_ahead(&self, ahead: Option<(Arc<File>, PackNumber)>) {
        if let Some((file, pack)) = ahead {
            let _ = self.group_in(file, pack.node(0)).await;
        }
    }

    /// The row group that a node is in.
    async fn group_of(&self, node: u64) -> Result<Arc<NodeGroup>> {
        let pack = PackNumber::of_node(node);
        match self.group_in(self.file_of(pack).await?, node).await {
            // Compacted since it was opened: it is in another file now.
            Err(Error::Gone(key)) => {
                self.cache().forget_file(&key);
                if let Some(footers) = &self.footers {
                    footers.forget(&Key::listed(key));
                }
                self.group_in(self.file_of(pack).await?, node).await
            }
            found => found,
        }
    }

    async fn group_in(&self, file: Arc<File>, node: u64) -> Result<Arc<NodeGroup>> {
        let number = group_number(&file, node);
        if number == file.metadata.num_row_groups() {
            return Err(file.corrupt(format!("it has no node {node}, which others name")));
        }
        let place = (file.key.clone(), number);
        let remembered = self.cache().group(&place);
        let read = || async {
            let group = self.group(&file, number).await?;
            let read = blocking(move || read_nodes(&group)).await?;
            let group = Arc::new(read.map_err(|reason| file.corrupt(reason))?);
            self.cache().was_read(&place, group.size(), self.budget);
            Ok(group)
        };
        remembered.get_or_try_init(read).await.cloned()
    }

    /// These nodes and all that they lead to.
    pub async fn nodes(&self, wanted: impl IntoIterator<Item = u64>) -> Result<NodeSet> {
        self.load(wanted.into_iter().collect(), true).await
    }

    /// These nodes alone.
    pub async fn nodes_alone(&self, wanted: impl IntoIterator<Item = u64>) -> Result<NodeSet> {
        self.load(wanted.into_iter().collect(), false).await
    }

    /// The row groups that these nodes are in, as far as can be told before they are read, and one node of each.
    async fn places(&self, wanted: &BTreeSet<u64>) -> Result<BTreeMap<Place, u64>> {
        let mut packs: BTreeMap<PackNumber, Vec<u64>> = BTreeMap::new();
        for &node in wanted {
            packs.entry(PackNumber::of_node(node)).or_default().push(node);
        }
        self.open_packs(packs.keys().copied()).await?;
        let places = stream::iter(packs).map(|(pack, nodes)| async move {
            let file = self.file_of(pack).await?;
            let mut places: Vec<(Place, u64)> = Vec::new();
            for node in nodes {
                let number = group_number(&file, node);
                if places.last().is_none_or(|((_, last), _)| *last != number) {
                    places.push(((file.key.clone(), number), node));
                }
            }
            Ok::<_, Error>(places)
        });
        let places: Vec<_> = places.buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(places.into_iter().flatten().collect())
    }

    async fn load(&self, mut wanted: BTreeSet<u64>, and_below: bool) -> Result<NodeSet> {
        let mut set = NodeSet::default();
        while let Some(&first) = wanted.first() {
            let places = self.places(&wanted).await?;
            let mut groups =
                stream::iter(places.into_values()).map(|node| self.group_of(node)).buffer_unordered(AT_ONCE);
            let mut below = BTreeSet::new();
            while let Some(group) = groups.try_next().await? {
                wanted.retain(|&node| {
                    let Some(found) = group.get(node) else { return true };
                    if and_below || found.kind == Kind::Alias {
                        below.extend(found.refs.iter().map(|&child| child as u64));
                    }
                    set.insert_node(node, &group);
                    false
                });
            }
            if wanted.contains(&first) {
                let key = nodes_key(PackNumber::of_node(first)).to_string();
                return Err(Error::Corrupt { key, reason: format!("it has no node {first}, which others name") });
            }
            wanted.extend(below.into_iter().filter(|node| !set.has(*node)));
        }
        Ok(set)
    }
}

impl Cache {
    /// A row group, to be read by whoever comes first.
    fn group(&mut self, place: &Place) -> Arc<OnceCell<Arc<NodeGroup>>> {
        self.clock += 1;
        let remembered = self.groups.entry(place.clone()).or_default();
        remembered.used = self.clock;
        remembered.group.clone()
    }

    /// A row group was read: those that were not asked for the longest go if all need too much memory.
    fn was_read(&mut self, place: &Place, bytes: usize, budget: usize) {
        // It is there unless it had to go while it was read, which only those that were read do.
        if let Some(remembered) = self.groups.get_mut(place) {
            remembered.bytes = bytes;
            self.bytes += bytes;
        }
        while self.bytes > budget {
            let others = self.groups.iter().filter(|(other, remembered)| *other != place && remembered.bytes > 0);
            let oldest = others.min_by_key(|(_, remembered)| remembered.used).map(|(other, _)| other.clone());
            let Some(gone) = oldest.and_then(|oldest| self.groups.remove(&oldest)) else { return };
            self.bytes -= gone.bytes;
        }
    }

    /// Forgets where packs were: a file is gone.
    fn forget_file(&mut self, key: &str) {
        self.files.retain(|_, file| file.key.as_str() != key);
        self.compacted.clear();
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
}

/// Which row group of a file has a node: how many there are, if none has.
fn group_number(file: &File, node: u64) -> usize {
    file.metadata.row_groups().partition_point(|group| match group.column(0).statistics() {
        Some(Statistics::Int64(ids)) => ids.max_opt().is_some_and(|&last| last < node as i64),
        _ => false,
    })
}
