//! A trace as one OTLP JSON document.

use super::archive::BatchInfo;
use super::catalog::{Files, SpansFile};
use super::envelope::{Elements, JsonEnvelope, ProtobufEnvelope};
use super::file::File;
use super::node::Kind;
use super::reader::Reader;
use super::restore::{info_of, rows_of_group};
use super::row::{RowKind, Rows};
use super::shape;
use crate::error::{Error, Result};
use crate::ids::TraceId;
use crate::otlp::protobuf_json::Losses;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use std::collections::HashSet;
use std::sync::Arc;

/// A trace's records as OTLP JSON. It is a view: what restores a batch byte for byte is [`restore`](super::restore).
#[derive(Debug, Default)]
pub struct View {
    /// `{"resourceSpans":[…],"resourceLogs":[…]}` and a line feed. Records that came as JSON are as they came.
    pub document: Vec<u8>,
    /// What of records that came as protobuf it does not say.
    pub losses: Losses,
    /// Records whose resource and scope could not be told, because their batch is broken.
    pub alone: u64,
    /// Records that came as protobuf and cannot be read.
    pub left_out: u64,
    /// The batches that the records are from.
    pub sources: Vec<String>,
}

/// Files read at a time.
const AT_ONCE: usize = 8;
/// Rows put together at a time: their nodes are in memory.
const ROWS: usize = 64;

/// Reads a trace. A batch that was stored twice counts once.
///
/// # Errors
/// [`Error::NotFound`] if the store has no such trace; if the store fails, or holds what Gravity did not write.
pub async fn view(reader: &Arc<Reader>, files: &Files, trace: TraceId) -> Result<View> {
    let files: Vec<_> = files.live().map(|(_, file)| file.clone()).collect();
    let mut batches = stream::iter(files).map(|file| batches_in(reader, file, trace)).buffered(AT_ONCE);
    let (mut view, mut seen) = (View::default(), HashSet::new());
    let (mut spans, mut logs) = (Vec::new(), Vec::new());
    while let Some(batches) = batches.try_next().await? {
        for batch in batches {
            if !seen.insert((batch.source.clone(), batch.info.blake3)) {
                continue;
            }
            let mut elements = batch.elements;
            spans.append(&mut elements.spans);
            logs.append(&mut elements.logs);
            view.losses += elements.losses;
            view.alone += elements.alone;
            view.left_out += elements.left_out;
            view.sources.push(batch.source);
        }
    }
    if view.sources.is_empty() {
        return Err(Error::NotFound(format!("trace {trace} is not in {}", reader.store().location())));
    }
    let of = |name: &str, elements: Vec<Vec<u8>>| match elements.is_empty() {
        true => None,
        false => Some([format!("\"{name}\":[").as_bytes(), &elements.join(&b',')[..], b"]"].concat()),
    };
    let members: Vec<_> = [of("resourceSpans", spans), of("resourceLogs", logs)].into_iter().flatten().collect();
    view.document = [b"{", &members.join(&b',')[..], b"}\n"].concat();
    Ok(view)
}

/// A batch's part of a trace.
struct Part {
    source: String,
    info: BatchInfo,
    elements: Elements,
}

/// The parts of a trace that a file has, in their order.
async fn batches_in(reader: &Arc<Reader>, file: Arc<SpansFile>, trace: TraceId) -> Result<Vec<Part>> {
    let with_rows: Vec<usize> = file.groups_of(&trace).collect();
    if with_rows.is_empty() {
        return Ok(vec![]);
    }
    let mut groups = Groups { reader, file: file.open()?, last: None };
    let mut sources: Vec<(Vec<u8>, usize)> = Vec::new();
    for group in with_rows {
        let rows = groups.get(group).await?;
        for row in rows.rows.iter().filter(|row| row.trace_id.as_ref() == Some(trace.as_bytes())) {
            let source = rows.texts.get(row.source);
            if !sources.iter().any(|(known, _)| known == source) {
                sources.push((source.to_vec(), group));
            }
        }
    }
    let mut parts = Vec::new();
    for (source, group) in sources {
        parts.push(part(&mut groups, &source, group, trace).await?);
    }
    Ok(parts)
}

/// The row groups of a file, the last one remembered.
struct Groups<'a> {
    reader: &'a Reader,
    file: File,
    last: Option<(usize, Arc<Rows<u64>>)>,
}

impl Groups<'_> {
    async fn get(&mut self, group: usize) -> Result<Arc<Rows<u64>>> {
        match &self.last {
            Some((number, rows)) if *number == group => Ok(rows.clone()),
            _ => {
                let rows = Arc::new(rows_of_group(self.reader, &self.file, group).await?);
                self.last = Some((group, rows.clone()));
                Ok(rows)
            }
        }
    }

    /// The group in which the batch begins that this group has rows of.
    async fn first_of(&mut self, source: &[u8], mut group: usize) -> Result<usize> {
        while group > 0 {
            let rows = self.get(group).await?;
            if rows.rows.first().is_none_or(|row| rows.texts.get(row.source) != source) {
                break;
            }
            let before = self.get(group - 1).await?;
            let ends_so =
                |row: &super::row::Row<u64>| before.texts.get(row.source) == source && row.kind != RowKind::Batch;
            if !before.rows.last().is_some_and(ends_so) {
                break;
            }
            group -= 1;
        }
        Ok(group)
    }
}

/// A batch without the records of other traces.
enum Envelope {
    Json(JsonEnvelope),
    Protobuf(ProtobufEnvelope),
}

async fn part(groups: &mut Groups<'_>, source: &[u8], group: usize, trace: TraceId) -> Result<Part> {
    let first = groups.first_of(source, group).await?;
    let name = String::from_utf8_lossy(source).into_owned();
    // What stands before the first record, and then, since that tells the encoding, all of it.
    let (mut before, mut envelope) = (Vec::new(), None);
    for group in first..groups.file.metadata.num_row_groups() {
        let rows = groups.get(group).await?;
        let ours: Vec<usize> =
            (0..rows.rows.len()).filter(|&at| rows.texts.get(rows.rows[at].source) == source).collect();
        for some in ours.chunks(ROWS) {
            if let Some(info) = read(groups, &rows, some, trace, &mut before, &mut envelope).await? {
                let elements = match envelope {
                    Some(Envelope::Json(json)) => json.elements(),
                    Some(Envelope::Protobuf(protobuf)) => protobuf.elements().map_err(|e| {
                        groups
                            .file
                            .corrupt(format!("batch {name}: what stands around its records is not what it was: {e}"))
                    })?,
                    None => Elements::default(),
                };
                return Ok(Part { source: name, info, elements });
            }
        }
    }
    Err(groups.file.corrupt(format!("batch {name} has no end")))
}

/// Takes some rows of a batch into its envelope; gives its sums if they are among them.
async fn read(
    groups: &Groups<'_>,
    rows: &Rows<u64>,
    some: &[usize],
    trace: TraceId,
    before: &mut Vec<u8>,
    envelope: &mut Option<Envelope>,
) -> Result<Option<BatchInfo>> {
    let shapes = groups.reader.nodes_alone(some.iter().filter_map(|&at| rows.rows[at].shape)).await?;
    let is_ours = |at: usize| rows.rows[at].trace_id.as_ref() == Some(trace.as_bytes());
    // Of another trace's JSON nothing is needed but what stands before it.
    let mut wanted = Vec::new();
    for &at in some {
        let is_whole = match rows.rows[at].shape {
            Some(shape) => is_ours(at) || shapes.get(shape)?.kind == Kind::ProtobufShape,
            None => true,
        };
        if is_whole {
            wanted.extend(rows.refs_of(at).iter().copied().chain(rows.rows[at].shape));
        }
    }
    let nodes = groups.reader.nodes(wanted).await?;
    for &at in some {
        let row = &rows.rows[at];
        if row.kind == RowKind::Batch {
            return info_of(&groups.file, rows, at).map(Some);
        }
        let mut bytes = Vec::new();
        let shape = row.shape.map(|shape| shapes.get(shape)).transpose()?;
        let envelope = match (&mut *envelope, shape.map(|shape| shape.kind)) {
            (Some(envelope), _) => envelope,
            (None, None) => {
                nodes.row(rows, at, before)?;
                continue;
            }
            (None, Some(Kind::ProtobufShape)) => {
                let mut new = ProtobufEnvelope::default();
                new.push_gap(&std::mem::take(before));
                envelope.insert(Envelope::Protobuf(new))
            }
            (None, Some(_)) => {
                let mut new = JsonEnvelope::default();
                new.push_gap(&std::mem::take(before));
                envelope.insert(Envelope::Json(new))
            }
        };
        match (envelope, shape) {
            (Envelope::Json(json), Some(shape)) if !is_ours(at) => {
                json.push_gap(&shape::gap(shape.text));
                json.push_other();
            }
            (Envelope::Json(json), Some(_)) => {
                let start = nodes.row(rows, at, &mut bytes)?;
                json.push_gap(&bytes[..start]);
                json.push_record(Bytes::from(bytes).slice(start..), row.kind == RowKind::Log);
            }
            (Envelope::Protobuf(protobuf), Some(_)) => {
                let start = nodes.row(rows, at, &mut bytes)?;
                protobuf.push_gap(&bytes[..start]);
                match is_ours(at) {
                    true => protobuf.push_record(Bytes::from(bytes).slice(start..), row.kind == RowKind::Log),
                    false => protobuf.push_other((bytes.len() - start) as u64),
                }
            }
            (Envelope::Json(json), None) => {
                nodes.row(rows, at, &mut bytes)?;
                json.push_gap(&bytes);
            }
            (Envelope::Protobuf(protobuf), None) => {
                nodes.row(rows, at, &mut bytes)?;
                protobuf.push_gap(&bytes);
            }
        }
    }
    Ok(None)
}
