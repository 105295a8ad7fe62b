//! What a packed store holds: counted from listings, and from where the rows of its spans belong.

use super::batches::{Range, own};
use super::catalog::{Catalog, Files, SpansFile};
use super::footers::Footers;
use super::reader::Reader;
use super::restore::{heads_of_group, info_of_head};
use super::row::RowKind;
use super::{NODES, SPANS, traces};
use crate::error::Result;
use crate::ids::TraceId;
use crate::inspect::{Folder, Quarantined, folder, quarantined};
use crate::keys::ContentKeys;
use crate::split::Separator;
use crate::store::{Key, Store};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// What a packed store holds.
#[derive(Debug, Default, Serialize)]
pub struct Inspection {
    /// Raw files that are in the store beside it.
    pub raw: Folder,
    /// Files of nodes.
    pub node_files: Folder,
    /// Files of spans.
    pub span_files: Folder,
    /// Files of spans that others stand for since they were compacted; they are among those above.
    pub replaced_files: u64,
    /// Files of spans that cannot be read; what is in them is in none of the sums.
    pub damaged_files: u64,
    /// What could not be stored.
    #[serde(flatten)]
    pub quarantined: Quarantined,
    /// Sums over all batches.
    #[serde(flatten)]
    pub sums: Sums,
    /// The largest traces, by their spans.
    pub largest: Vec<LargeTrace>,
}

/// Sums over batches, each once however often it was committed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// Batches.
    pub batches: u64,
    /// Those of them that are not OTLP, or not all of them: stored all the same.
    pub unreadable_batches: u64,
    /// Bytes of the raw files.
    pub raw_bytes: u64,
    /// Bytes after decompression.
    pub document_bytes: u64,
    /// OTLP documents.
    pub documents: u64,
    /// Spans.
    pub spans: u64,
    /// Log records.
    pub logs: u64,
}

/// A trace, measured.
#[derive(Debug, Serialize)]
pub struct LargeTrace {
    /// Which.
    pub trace_id: TraceId,
    /// Bytes of its content.
    pub content_bytes: u64,
    /// Its spans.
    pub spans: u64,
    /// Its content values.
    pub parts: u64,
}

/// Files of spans read at the same time.
const READS: usize = 4;
/// Traces whose spans are counted at the same time. Beyond that the half with the fewest so far is forgotten, so that of
/// very many traces the largest are found as long as they are not spread too thin.
const TRACES: usize = 1 << 20;
/// Bytes of nodes remembered.
const NODE_BYTES: usize = 64 << 20;

/// Inspects a store whose batches are below `raw_spans`, telling `progress` of every object looked at.
///
/// # Errors
/// If the store fails, or a row group is not what Gravity wrote.
pub async fn inspect(
    store: &Arc<dyn Store>,
    footers: Option<Footers>,
    raw_spans: &str,
    largest: usize,
    progress: impl Fn(u64),
) -> Result<Inspection> {
    let mut found = Inspection {
        raw: folder(&**store, raw_spans, &progress, |_, _| {}).await?,
        node_files: folder(&**store, NODES, &progress, |_, _| {}).await?,
        span_files: folder(&**store, SPANS, &progress, |_, _| {}).await?,
        quarantined: quarantined(&**store, &progress).await?,
        ..Inspection::default()
    };
    let reader = Reader::with_footers(store.clone(), NODE_BYTES, footers);
    let files;
    (files, found.damaged_files) = Catalog::new(reader.clone()).readable().await?;
    found.replaced_files = (files.all().count() - files.live().count()) as u64;

    let mut traces = Counts::default();
    let mut counted =
        stream::iter(files.live()).map(|(key, file)| count(&reader, &files, key, file)).buffer_unordered(READS);
    while let Some((sums, of_file)) = counted.try_next().await? {
        found.sums += sums;
        traces.add(of_file);
        progress(1);
    }
    drop(counted);
    for trace in traces.largest(largest) {
        found.largest.push(measure(&reader, &files, trace).await?);
    }
    Ok(found)
}

/// The sums of the batches that count in this file, and the spans of their traces.
async fn count(
    reader: &Reader,
    files: &Files,
    key: &Key,
    file: &Arc<SpansFile>,
) -> Result<(Sums, HashMap<[u8; 16], u64>)> {
    let all = Range::default();
    let own: HashSet<&str> = own(files, key, file, &all).collect();
    let (mut sums, mut traces) = (Sums::default(), HashMap::new());
    let file = file.open()?;
    for group in 0..file.metadata.num_row_groups() {
        let heads = heads_of_group(reader, &file, group).await?;
        for head in heads.iter().filter(|head| std::str::from_utf8(head.source()).is_ok_and(|key| own.contains(key))) {
            if head.kind == RowKind::Batch {
                let info = info_of_head(&file, head)?;
                sums.batches += 1;
                sums.unreadable_batches += u64::from(info.problem.is_some());
                sums.raw_bytes += info.raw_bytes;
                sums.document_bytes += info.document_bytes;
                sums.documents += info.documents;
                sums.spans += info.spans;
                sums.logs += info.logs;
            }
            if let Some(trace) = head.trace_id {
                *traces.entry(trace).or_default() += 1;
            }
        }
    }
    Ok((sums, traces))
}

async fn measure(reader: &Arc<Reader>, files: &Files, trace_id: TraceId) -> Result<LargeTrace> {
    let index = traces::load(reader, files, trace_id, &ContentKeys::default(), &Separator::default()).await?.index;
    Ok(LargeTrace {
        trace_id,
        content_bytes: index.parts().map(|part| part.bytes).sum(),
        spans: index.spans.len() as u64,
        parts: index.parts().count() as u64,
    })
}

/// Spans by trace.
#[derive(Default)]
struct Counts(HashMap<[u8; 16], u64>);

impl Counts {
    fn add(&mut self, more: HashMap<[u8; 16], u64>) {
        for (trace, spans) in more {
            *self.0.entry(trace).or_default() += spans;
        }
        if self.0.len() > TRACES {
            let mut counts: Vec<u64> = self.0.values().copied().collect();
            let (_, &mut median, _) = counts.select_nth_unstable(TRACES / 2);
            let mut room = TRACES / 2;
            self.0.retain(|_, &mut spans| {
                let stays = spans > median || (spans == median && room > 0);
                room = room.saturating_sub(usize::from(stays));
                stays
            });
        }
    }

    fn largest(self, count: usize) -> impl Iterator<Item = TraceId> {
        let mut all: Vec<_> = self.0.into_iter().map(|(trace, spans)| (Reverse(spans), trace)).collect();
        all.sort_unstable();
        all.truncate(count);
        all.into_iter().filter_map(|(_, trace)| TraceId::from_bytes(&trace).ok())
    }
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.batches += other.batches;
        self.unreadable_batches += other.unreadable_batches;
        self.raw_bytes += other.raw_bytes;
        self.document_bytes += other.document_bytes;
        self.documents += other.documents;
        self.spans += other.spans;
        self.logs += other.logs;
    }
}
