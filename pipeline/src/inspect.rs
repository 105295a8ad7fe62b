//! What a store holds: counted from listings, the ledger and the largest indexes.

use crate::error::Result;
use crate::ids::TraceId;
use crate::loose::{BatchSums, LEDGER, LedgerEntry, Paths, QUARANTINE, TraceIndex};
use crate::quarantine;
use crate::store::{Key, Store};
use futures::TryStreamExt;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Objects of one kind.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Folder {
    /// How many.
    pub objects: u64,
    /// Their bytes as stored.
    pub bytes: u64,
}

/// What is in quarantine, in either layout.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// Batches in quarantine.
    pub quarantined_batches: Folder,
    /// Objects that hold records which no trace can.
    pub quarantined_records: Folder,
    /// Messages of the queue in quarantine.
    pub quarantined_messages: Folder,
}

/// What a loose store holds.
#[derive(Debug, Default, Serialize)]
pub struct Inspection {
    /// Raw files that are in the store beside it.
    pub raw: Folder,
    /// Chunks.
    pub blobs: Folder,
    /// Traces.
    pub indexes: Folder,
    /// Batches.
    pub ledger: Folder,
    /// What could not be stored.
    #[serde(flatten)]
    pub quarantined: Quarantined,
    /// Sums over all batches.
    #[serde(flatten)]
    pub sums: BatchSums,
    /// The largest traces, by the size of their index.
    pub largest: Vec<LargeTrace>,
}

/// A trace, measured.
#[derive(Debug, Serialize)]
pub struct LargeTrace {
    /// Which.
    pub trace_id: TraceId,
    /// Bytes of its index.
    pub index_bytes: u64,
    /// Bytes of its content.
    pub content_bytes: u64,
    /// Its spans.
    pub spans: u64,
    /// Its content values.
    pub parts: u64,
}

/// Ledger entries read at the same time.
const READS: usize = 32;

/// Inspects a store, telling `progress` of every object looked at.
pub async fn inspect(store: &dyn Store, paths: &Paths, largest: usize, progress: impl Fn(u64)) -> Result<Inspection> {
    let mut found = Inspection {
        raw: folder(store, &paths.raw_spans, &progress, |_, _| {}).await?,
        blobs: folder(store, &paths.blobs, &progress, |_, _| {}).await?,
        ..Inspection::default()
    };

    let mut largest_indexes = BinaryHeap::new();
    found.indexes = folder(store, &paths.indexes, &progress, |key, size| {
        largest_indexes.push(Reverse((size, key.clone())));
        if largest_indexes.len() > largest {
            largest_indexes.pop();
        }
    })
    .await?;
    for Reverse((index_bytes, key)) in largest_indexes.into_sorted_vec() {
        let Some((json, _)) = store.read(&key).await? else { continue };
        let index = TraceIndex::from_json(key.as_str(), &json)?;
        found.largest.push(LargeTrace {
            trace_id: index.trace_id,
            index_bytes,
            content_bytes: index.parts().map(|part| part.bytes).sum(),
            spans: index.spans.len() as u64,
            parts: index.parts().count() as u64,
        });
    }

    found.quarantined = quarantined(store, &progress).await?;
    (found.ledger, found.sums) = ledger(store, &progress).await?;
    Ok(found)
}

/// Counts the quarantine.
pub(crate) async fn quarantined(store: &dyn Store, progress: &impl Fn(u64)) -> Result<Quarantined> {
    let mut found = Quarantined::default();
    folder(store, QUARANTINE, progress, |key, size| {
        let kind = match key.as_str() {
            name if name.ends_with(".jsonl") => &mut found.quarantined_records,
            _ if quarantine::is_message(key) => &mut found.quarantined_messages,
            _ => &mut found.quarantined_batches,
        };
        kind.objects += 1;
        kind.bytes += size;
    })
    .await?;
    Ok(found)
}

pub(crate) async fn folder(
    store: &dyn Store,
    name: &str,
    progress: &impl Fn(u64),
    mut each: impl FnMut(&Key, u64),
) -> Result<Folder> {
    let mut sum = Folder::default();
    let mut objects = store.list(&format!("{name}/"), None);
    while let Some(meta) = objects.try_next().await? {
        sum.objects += 1;
        sum.bytes += meta.size;
        each(&meta.key, meta.size);
        progress(1);
    }
    Ok(sum)
}

async fn ledger(store: &dyn Store, progress: &impl Fn(u64)) -> Result<(Folder, BatchSums)> {
    let (mut folder, mut sums) = (Folder::default(), BatchSums::default());
    let entries = store
        .list(&format!("{LEDGER}/"), None)
        .map_ok(|meta| async move {
            let read = store.read(&meta.key).await?;
            let entry = read.map(|(json, _)| serde_json::from_slice::<LedgerEntry>(&json));
            Ok::<_, crate::Error>((meta, entry))
        })
        .map_err(Into::into)
        .try_buffer_unordered(READS);
    let mut entries = std::pin::pin!(entries);
    while let Some((meta, entry)) = entries.try_next().await? {
        folder.objects += 1;
        folder.bytes += meta.size;
        progress(1);
        let Some(entry) = entry else { continue };
        let corrupt = |e: serde_json::Error| crate::Error::Corrupt { key: meta.key.to_string(), reason: e.to_string() };
        let entry = entry.map_err(corrupt)?;
        sums += entry.sums;
    }
    Ok((folder, sums))
}
