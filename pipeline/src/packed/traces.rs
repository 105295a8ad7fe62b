//! Traces: their rows found, their records put together and read, so that what comes out is what the loose layout gives.

use super::catalog::{Files, SpansFile};
use super::node::Kind;
use super::reader::Reader;
use super::restore::rows_of_trace;
use super::row::{RowKind, Rows};
use super::table::PackNumber;
use crate::error::{Error, Result};
use crate::hash::{ByHash, hash_block};
use crate::ids::TraceId;
use crate::keys::ContentKeys;
use crate::loose::{SpanEntry, TraceIndex};
use crate::otlp::{Element, Encoding, Frame, FrameBlock, Record, Stray, decode};
use crate::split::{Separator, split_block};
use crate::stages::blocking;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future, stream};
use std::sync::Arc;

/// A trace, whole.
pub struct Trace {
    /// Its index, as the loose layout would have it.
    pub index: TraceIndex,
    /// The chunks that it names.
    pub chunks: ByHash<Bytes>,
    /// Records that could not be read: each was told of.
    pub left_out: u64,
}

/// A record of a trace as it stands in its batch.
struct RawRow {
    /// The key of the batch.
    source: String,
    encoding: Encoding,
    bytes: Bytes,
}

/// Row groups read at a time.
const AT_ONCE: usize = 8;

/// Reads a trace.
///
/// # Errors
/// [`Error::NotFound`] if the store has no such trace.
pub async fn load(
    reader: &Arc<Reader>,
    files: &Files,
    trace: TraceId,
    keys: &ContentKeys,
    separator: &Separator,
) -> Result<Trace> {
    let records = records_of(reader, files, trace).await?;
    if records.is_empty() {
        return Err(Error::NotFound(format!("trace {trace} is not in {}", reader.store().location())));
    }
    let (keys, separator) = (keys.clone(), separator.clone());
    blocking(move || read(trace, records, &keys, &separator)).await?
}

/// The records of a trace, from all batches.
async fn records_of(reader: &Arc<Reader>, files: &Files, trace: TraceId) -> Result<Vec<RawRow>> {
    let groups = files.live().flat_map(|(_, file)| file.groups_of(&trace).map(move |group| (file.clone(), group)));
    let groups: Vec<(Arc<SpansFile>, usize)> = groups.collect();
    let mut found = stream::iter(groups)
        .map(|(file, group)| async move { records_in(reader, &file, group, trace).await })
        .buffered(AT_ONCE);
    let mut records = Vec::new();
    while let Some(mut more) = found.try_next().await? {
        records.append(&mut more);
    }
    Ok(records)
}

async fn records_in(reader: &Reader, file: &SpansFile, group: usize, trace: TraceId) -> Result<Vec<RawRow>> {
    let opened = file.open()?;
    // The shapes of the rows are in the newest pack that they name: it is read meanwhile.
    let newest = file.packs.iter().max().map(|&pack| PackNumber(pack));
    let (rows, ()) = future::join(rows_of_trace(reader, &opened, group, &trace), reader.look_ahead(newest)).await;
    let rows = rows?;
    let ours: Vec<usize> =
        (0..rows.rows.len()).filter(|&at| rows.rows[at].trace_id.as_ref() == Some(trace.as_bytes())).collect();
    let wanted = ours.iter().flat_map(|&at| rows.refs_of(at).iter().copied().chain(rows.rows[at].shape));
    let nodes = reader.nodes(wanted).await?;
    let mut records = Vec::with_capacity(ours.len());
    for at in ours {
        let mut bytes = Vec::new();
        let start = nodes.row(&rows, at, &mut bytes)?;
        let shape = rows.rows[at].shape.map(|shape| nodes.get(shape)).transpose()?;
        let encoding = match (shape.map(|shape| shape.kind), rows.rows[at].kind) {
            (Some(Kind::ProtobufShape), _) => Encoding::Protobuf,
            (_, RowKind::Log) => Encoding::JsonLog,
            _ => Encoding::JsonSpan,
        };
        let bytes = Bytes::from(bytes).slice(start..);
        records.push(RawRow { source: source_of(&rows, at), encoding, bytes });
    }
    Ok(records)
}

fn source_of(rows: &Rows<u64>, at: usize) -> String {
    String::from_utf8_lossy(rows.texts.get(rows.rows[at].source)).into_owned()
}

fn read(trace: TraceId, records: Vec<RawRow>, keys: &ContentKeys, separator: &Separator) -> Result<Trace> {
    let mut index: Option<TraceIndex> = None;
    let (mut chunks, mut left_out) = (ByHash::default(), 0);
    let mut leave_out = |record: &RawRow, reason: &str| {
        let source = &record.source;
        tracing::warn!("a record of batch {source} is left out: {reason}; gravity restore gives it");
        left_out += 1;
    };
    for record in &records {
        let frame = Frame {
            offset: 0,
            encoding: record.encoding,
            bytes: record.bytes.clone(),
            gap: Bytes::new(),
            element: Element::default(),
        };
        // Its batch would have been refused on loose; here it is one of a trace whose other records are good.
        let block = match decode(&FrameBlock { number: 0, frames: vec![frame] }, keys) {
            Ok(block) => block,
            Err(e) => {
                leave_out(record, &e.to_string());
                continue;
            }
        };
        let hashed = hash_block(split_block(block, separator));
        chunks.extend(hashed.chunks);
        for record_read in hashed.records.items {
            let span = match record_read {
                Record::Span(span) => span,
                Record::Stray(Stray { reason, .. }) => {
                    leave_out(record, &reason);
                    continue;
                }
                Record::Unrelated => continue,
            };
            let entry = SpanEntry::new(span, record.source.clone());
            let one = TraceIndex::new(trace, separator.clone(), vec![entry]);
            index = Some(match index {
                Some(index) => index.merge(one)?,
                None => one,
            });
        }
    }
    let index = index.unwrap_or_else(|| TraceIndex::new(trace, separator.clone(), vec![]));
    Ok(Trace { index, chunks, left_out })
}
