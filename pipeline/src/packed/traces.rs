//! Traces: their rows found, their records put together and read, so that what comes out is what the loose layout gives.

use super::catalog::{Files, SpansFile};
use super::node::Kind;
use super::node_set::NodeSet;
use super::reader::Reader;
use super::restore::rows_of_trace;
use super::row::{RowKind, Rows};
use crate::error::{Error, Result};
use crate::hash::{ByHash, hash_block};
use crate::ids::TraceId;
use crate::keys::ContentKeys;
use crate::loose::{SpanEntry, TraceIndex};
use crate::otlp::{Element, Encoding, Frame, FrameBlock, Record, Stray, decode};
use crate::split::{Separator, split_block};
use crate::stages::{blocking, in_place};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
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

/// Some records of a trace, read.
#[derive(Default)]
struct Records {
    /// How many there are.
    count: usize,
    spans: Vec<SpanEntry>,
    chunks: ByHash<Bytes>,
    left_out: u64,
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
    let groups = files.live().flat_map(|(_, file)| file.groups_of(&trace).map(move |group| (file.clone(), group)));
    let groups: Vec<(Arc<SpansFile>, usize)> = groups.collect();
    let mut found = stream::iter(groups)
        .map(|(file, group)| async move { records_in(reader, &file, group, trace, keys, separator).await })
        .buffered(AT_ONCE);
    let mut all = Records::default();
    while let Some(more) = found.try_next().await? {
        all.append(more);
    }
    if all.count == 0 {
        return Err(Error::NotFound(format!("trace {trace} is not in {}", reader.store().location())));
    }
    let index = TraceIndex::new(trace, separator.clone(), all.spans);
    Ok(Trace { index, chunks: all.chunks, left_out: all.left_out })
}

/// The records that a row group has of a trace.
async fn records_in(
    reader: &Reader,
    file: &SpansFile,
    group: usize,
    trace: TraceId,
    keys: &ContentKeys,
    separator: &Separator,
) -> Result<Records> {
    let (rows, nodes) = rows_of_trace(reader, file, group, &trace).await?;
    let is_ours = |at: &usize| rows.rows[*at].trace_id.as_ref() == Some(trace.as_bytes());
    let mut ours: Vec<usize> = (0..rows.rows.len()).filter(is_ours).collect();
    let others = ours.split_off(ours.len().div_ceil(2));
    let stored = Arc::new((rows, nodes));
    let read = |ours: Vec<usize>| {
        let (stored, keys, separator) = (stored.clone(), keys.clone(), separator.clone());
        move || {
            let (rows, nodes) = &*stored;
            let mut records = Records::default();
            ours.into_iter().try_for_each(|at| records.read(rows, nodes, at, &keys, &separator)).map(|()| records)
        }
    };
    // A core for each half.
    let others = blocking(read(others));
    let mut records = in_place(read(ours))?;
    records.append(others.await??);
    Ok(records)
}

impl Records {
    fn append(&mut self, more: Self) {
        self.count += more.count;
        self.spans.extend(more.spans);
        self.chunks.extend(more.chunks);
        self.left_out += more.left_out;
    }

    /// Puts a record together and reads it.
    fn read(
        &mut self,
        rows: &Rows<u64>,
        nodes: &NodeSet,
        at: usize,
        keys: &ContentKeys,
        separator: &Separator,
    ) -> Result<()> {
        let mut bytes = Vec::new();
        let start = nodes.row(rows, at, &mut bytes)?;
        self.count += 1;
        let row = &rows.rows[at];
        let shape = row.shape.map(|shape| nodes.get(shape)).transpose()?;
        let encoding = match (shape.map(|shape| shape.kind), row.kind) {
            (Some(Kind::ProtobufShape), _) => Encoding::Protobuf,
            (_, RowKind::Log) => Encoding::JsonLog,
            _ => Encoding::JsonSpan,
        };
        let (bytes, gap) = (Bytes::from(bytes).slice(start..), Bytes::new());
        let frame = Frame { offset: 0, encoding, bytes, gap, element: Element::default() };
        let source = String::from_utf8_lossy(rows.texts.get(row.source));
        // Its batch would have been refused on loose; here it is one of a trace whose other records are good.
        let block = match decode(&FrameBlock { number: 0, frames: vec![frame] }, keys) {
            Ok(block) => block,
            Err(e) => {
                self.leave_out(&source, &e.to_string());
                return Ok(());
            }
        };
        let hashed = hash_block(split_block(block, separator));
        self.chunks.extend(hashed.chunks);
        for record in hashed.records.items {
            match record {
                Record::Span(span) => self.spans.push(SpanEntry::new(span, source.to_string())),
                Record::Stray(Stray { reason, .. }) => self.leave_out(&source, &reason),
                Record::Unrelated => {}
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, source: &str, reason: &str) {
        tracing::warn!("a record of batch {source} is left out: {reason}; gravity restore gives it");
        self.left_out += 1;
    }
}
