//! Indexes against their blobs.

use super::chunks::Chunks;
use super::sums::{Check, Straddling};
use super::{Level, READS, Verifier, of_this_object};
use crate::error::{Error, Result};
use crate::hash::ChunkHash;
use crate::ids::TraceId;
use crate::loose::{PartEntry, TraceIndex};
use crate::store::{Key, Meta};
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::BTreeSet;

/// Bytes and objects of a group of indexes that are looked at together; a larger index is looked at alone.
const GROUP_BYTES: u64 = 16 << 20;
const GROUP: usize = 256;

impl Verifier<'_> {
    /// Looks at one trace, and at the batches it came in.
    pub(super) async fn one_trace(&mut self, trace: &TraceId) -> Result<()> {
        let key = self.paths.index(trace);
        if self.store.head(&key).await?.is_none() {
            return Err(Error::NotFound(format!("trace {trace} is not in {}", self.store.location())));
        }
        self.summary.passes = 1;
        let sources = self.group(vec![key], &mut Chunks::default(), &mut Straddling::default()).await?;
        for source in sources {
            self.batch_of_trace(&source, trace).await?;
        }
        Ok(())
    }

    /// Looks at the indexes, group by group.
    pub(super) async fn walk(&mut self, chunks: &mut Chunks, straddling: &mut Straddling) -> Result<()> {
        let folder = format!("{}/", self.paths.indexes);
        let mut indexes = self.store.list(&folder, None);
        let (mut group, mut bytes) = (Vec::new(), 0);
        // A batch that has many traces is asked for once.
        let mut asked = BTreeSet::new();
        loop {
            let next = indexes.try_next().await?;
            let is_last = next.is_none();
            let size = next.as_ref().map_or(0, |meta| meta.size);
            if !group.is_empty() && (is_last || group.len() >= GROUP || bytes + size > GROUP_BYTES) {
                let sources = self.group(std::mem::take(&mut group), chunks, straddling).await?;
                self.unfinished(sources, &mut asked).await?;
                bytes = 0;
                // Where the blobs were not listed, nothing but a second look at one is lost.
                if self.options.since.is_some() && chunks.is_over(self.options.memory) {
                    chunks.clear();
                }
            }
            let Some(Meta { key, modified, .. }) = next else { return Ok(()) };
            let name = key.as_str().strip_prefix(&folder).and_then(|name| name.strip_suffix(".json"));
            let trace = name.and_then(|name| name.parse().ok());
            if trace.is_none_or(|trace| self.paths.index(&trace) != key) {
                if straddling.is_first() {
                    self.report.unknown(key);
                }
            } else if self.is_selected(modified) {
                bytes += size;
                group.push(key);
            }
        }
    }

    /// Looks at some indexes; gives the batches they came in, at the first pass.
    async fn group(
        &mut self,
        keys: Vec<Key>,
        chunks: &mut Chunks,
        straddling: &mut Straddling,
    ) -> Result<BTreeSet<String>> {
        let mut indexes = Vec::with_capacity(keys.len());
        let mut sources = BTreeSet::new();
        let store = self.store.clone();
        let mut reads = stream::iter(keys)
            .map(|key| {
                let store = store.clone();
                async move { (store.read(&key).await, key) }
            })
            .buffered(READS);
        while let Some((read, key)) = reads.next().await {
            self.report.looked_at(1);
            let read = match read {
                // It was listed, and someone has removed it since: whoever misses it says so.
                Ok(None) => continue,
                Ok(Some((json, _))) => self.parse(&key, &json),
                Err(e) => Err(of_this_object(e)?),
            };
            match read {
                Ok(index) => indexes.push((key, index)),
                Err(reason) if straddling.is_first() => {
                    self.has_unreadable_index = true;
                    self.report.tell(Level::Error, "corrupt-index", key, reason);
                }
                Err(_) => {}
            }
        }
        drop(reads);
        if straddling.is_first() {
            self.summary.indexes += indexes.len() as u64;
            for (_, index) in &indexes {
                self.summary.parts += index.parts().count() as u64;
                sources.extend(index.spans.iter().map(|span| span.source.clone()));
            }
        }
        let wanted = |straddling: &Straddling, index: &TraceIndex, nth: usize, part: &PartEntry| {
            !straddling.is_confirming() || straddling.check(&index.trace_id, nth, part) == Check::Now
        };
        let named = indexes.iter().flat_map(|(key, index)| {
            let straddling = &*straddling;
            let parts = index.parts().enumerate().filter(move |(nth, part)| wanted(straddling, index, *nth, part));
            parts.flat_map(move |(_, part)| {
                part.chunks.iter().filter(|hash| straddling.has(hash)).map(move |hash| (hash, key))
            })
        });
        self.look_at(chunks, named, !straddling.is_confirming()).await?;
        for (key, index) in &indexes {
            self.sizes(key, index, chunks, straddling);
        }
        Ok(sources)
    }

    fn parse(&self, key: &Key, json: &[u8]) -> Result<TraceIndex, String> {
        let index = TraceIndex::from_json(key.as_str(), json).map_err(|e| match e {
            Error::Corrupt { reason, .. } => reason,
            other => other.to_string(),
        })?;
        if self.paths.index(&index.trace_id) != *key {
            return Err(format!("it is the index of trace {}", index.trace_id));
        }
        match &self.marker {
            Some(marker) if marker.separator != index.separator.as_str() => {
                Err(format!("it is cut at {:?}, the store at {:?}", index.separator.as_str(), marker.separator))
            }
            _ => Ok(index),
        }
    }

    /// Adds up the chunks of each part.
    fn sizes(&mut self, key: &Key, index: &TraceIndex, chunks: &Chunks, straddling: &mut Straddling) {
        for (nth, part) in index.parts().enumerate() {
            if !part.chunks.iter().all(|hash| self.options.sample.has(hash)) {
                continue;
            }
            let separators = index.separator.as_str().len() as u64 * (part.chunks.len() as u64).saturating_sub(1);
            match straddling.check(&index.trace_id, nth, part) {
                Check::No => {}
                Check::Add => {
                    // What was not read is told already; as nothing it makes sure that the part is looked at again.
                    let size = |hash: &ChunkHash| chunks.size(hash).unwrap_or(0);
                    straddling.add(&index.trace_id, nth, part, separators, size);
                }
                Check::Now => {
                    let sizes = part.chunks.iter().map(|hash| chunks.size(hash));
                    let Some(sum) = sizes.sum::<Option<u64>>() else { continue };
                    let found = sum + separators;
                    if found != part.bytes {
                        let (key_of_part, bytes) = (&part.key, part.bytes);
                        let detail = format!("part {nth} ({key_of_part}): {bytes} bytes, its chunks come to {found}");
                        self.report.tell(Level::Error, "wrong-size", key, detail);
                    }
                }
            }
        }
    }

    /// Tells of batches that indexes name and the ledger does not.
    async fn unfinished(&mut self, sources: BTreeSet<String>, asked: &mut BTreeSet<String>) -> Result<()> {
        if asked.len() >= ASKED {
            asked.clear();
        }
        let new: Vec<_> = sources.into_iter().filter(|source| asked.insert(source.clone())).collect();
        let (store, paths) = (self.store.clone(), self.paths.clone());
        let mut heads = stream::iter(new)
            .map(|source| {
                let (store, key) = (store.clone(), paths.ledger(&source));
                async move { Ok::<_, Error>((store.head(&key).await?, source, key)) }
            })
            .buffered(READS);
        while let Some((head, source, key)) = heads.try_next().await? {
            if head.is_none() {
                let why =
                    format!("indexes have spans of {source} and the ledger does not: it is in work, or to be done");
                self.report.tell(Level::Info, "unfinished-batch", key, why);
            }
        }
        Ok(())
    }
}

/// Batches remembered at most: one that is forgotten is asked for, and told, once more.
const ASKED: usize = 100_000;
