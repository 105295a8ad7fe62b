//! Traces: their rows found, their records put together and read, so that what comes out is what the loose layout gives.

use super::catalog::{Files, SpansFile};
use super::node::Kind;
use super::reader::Reader;
use super::restore::rows_of_group;
use super::row::{RowKind, Rows};
use crate::error::{Error, Result};
use crate::hash::{ByHash, hash_block};
use crate::ids::TraceId;
use crate::keys::ContentKeys;
use crate::loose::{SpanEntry, TraceIndex};
use crate::otlp::{Encoding, Frame, FrameBlock, Record, decode};
use crate::split::{Separator, split_block};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use std::sync::Arc;

/// A trace, whole.
pub struct Trace {
    /// Its index, as the loose layout would have it.
    pub index: TraceIndex,
    /// The chunks that it names.
    pub chunks: ByHash<Bytes>,
    /// Its records as they stand in their batches.
    pub records: Vec<RawRow>,
}

/// A record of a trace.
#[derive(Clone)]
pub struct RawRow {
    /// The key of its batch.
    pub source: String,
    /// JSON or protobuf.
    pub encoding: Encoding,
    /// Its bytes.
    pub bytes: Bytes,
    /// What stands before it and the records of its resource: in JSON, the resource and the scope.
    head: Bytes,
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
    tokio::task::spawn_blocking(move || read(trace, records, &keys, &separator)).await?
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
    let rows = rows_of_group(reader, &file.file, group).await?;
    let ours: Vec<usize> =
        (0..rows.rows.len()).filter(|&at| rows.rows[at].trace_id.as_ref() == Some(trace.as_bytes())).collect();
    let wanted = ours.iter().flat_map(|&at| rows.refs_of(at).iter().copied().chain(rows.rows[at].shape));
    let nodes = reader.nodes(wanted).await?;
    let mut records = Vec::with_capacity(ours.len());
    let mut heads = Heads { reader, rows: &rows, last: None };
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
        records.push(RawRow { source: source_of(&rows, at), encoding, bytes, head: heads.of(at).await? });
    }
    Ok(records)
}

/// The texts before records, each read once.
struct Heads<'a> {
    reader: &'a Reader,
    rows: &'a Rows<u64>,
    last: Option<(usize, Bytes)>,
}

impl Heads<'_> {
    /// The text row before a record, in the same batch and group.
    async fn of(&mut self, at: usize) -> Result<Bytes> {
        let source = self.rows.rows[at].source;
        let before = self.rows.rows[..at].iter().rposition(|row| row.kind == RowKind::Text && row.source == source);
        let Some(before) = before else { return Ok(Bytes::new()) };
        match &self.last {
            Some((place, head)) if *place == before => Ok(head.clone()),
            _ => {
                let nodes = self.reader.nodes(self.rows.refs_of(before).iter().copied()).await?;
                let mut head = Vec::new();
                nodes.row(self.rows, before, &mut head)?;
                let head = Bytes::from(head);
                self.last = Some((before, head.clone()));
                Ok(head)
            }
        }
    }
}

fn source_of(rows: &Rows<u64>, at: usize) -> String {
    String::from_utf8_lossy(rows.texts.get(rows.rows[at].source)).into_owned()
}

fn read(trace: TraceId, records: Vec<RawRow>, keys: &ContentKeys, separator: &Separator) -> Result<Trace> {
    let mut index: Option<TraceIndex> = None;
    let mut chunks = ByHash::default();
    for record in &records {
        let frame = Frame { offset: 0, encoding: record.encoding, bytes: record.bytes.clone(), gap: Bytes::new() };
        let block = decode(&FrameBlock { number: 0, frames: vec![frame] }, keys)?;
        let hashed = hash_block(split_block(block, separator));
        chunks.extend(hashed.chunks);
        for record_read in hashed.records.items {
            let Record::Span(span) = record_read else { continue };
            let entry = SpanEntry::new(span, record.source.clone());
            let one = TraceIndex::new(trace, separator.clone(), vec![entry]);
            index = Some(match index {
                Some(index) => index.merge(one)?,
                None => one,
            });
        }
    }
    let index = index.unwrap_or_else(|| TraceIndex::new(trace, separator.clone(), vec![]));
    Ok(Trace { index, chunks, records })
}

impl Trace {
    /// Writes the trace's records as one OTLP JSON document: each as it came, with its resource and scope where they
    /// were written as JSON in the usual order.
    ///
    /// # Errors
    /// If a record came as protobuf: that has to be restored as it is. The inner result is that of writing.
    pub fn write_otlp(&self, out: &mut impl std::io::Write) -> Result<std::io::Result<()>> {
        if let Some(record) = self.records.iter().find(|record| record.encoding == Encoding::Protobuf) {
            return Err(Error::NotFound(format!(
                "a span of this trace came as protobuf, and is not turned into JSON: gravity restore {} gives it as it came",
                record.source
            )));
        }
        let of = |encoding| self.records.iter().filter(move |record| record.encoding == encoding);
        let spans: Vec<Vec<u8>> = of(Encoding::JsonSpan).map(|record| element(record, "scopeSpans", "spans")).collect();
        let logs: Vec<Vec<u8>> =
            of(Encoding::JsonLog).map(|record| element(record, "scopeLogs", "logRecords")).collect();
        let mut document = b"{\"resourceSpans\":[".to_vec();
        document.extend_from_slice(&spans.join(&b','));
        if !logs.is_empty() {
            document.extend_from_slice(b"],\"resourceLogs\":[");
            document.extend_from_slice(&logs.join(&b','));
        }
        document.extend_from_slice(b"]}\n");
        Ok(out.write_all(&document).and_then(|()| out.flush()))
    }
}

/// One record as an element of `resourceSpans` or `resourceLogs`.
fn element(record: &RawRow, scopes: &str, records: &str) -> Vec<u8> {
    let mut element = b"{".to_vec();
    if let Some(resource) = member(&record.head, b"\"resource\":") {
        element.extend_from_slice(b"\"resource\":");
        element.extend_from_slice(resource);
        element.push(b',');
    }
    element.extend_from_slice(format!("\"{scopes}\":[{{").as_bytes());
    if let Some(scope) = member(&record.head, b"\"scope\":") {
        element.extend_from_slice(b"\"scope\":");
        element.extend_from_slice(scope);
        element.push(b',');
    }
    element.extend_from_slice(format!("\"{records}\":[").as_bytes());
    element.extend_from_slice(&record.bytes);
    element.extend_from_slice(b"]}]}");
    element
}

/// The value behind the last of this key, if it is whole.
fn member<'a>(head: &'a [u8], key: &[u8]) -> Option<&'a [u8]> {
    let at = memchr::memmem::rfind(head, key)? + key.len();
    let mut values = serde_json::Deserializer::from_slice(&head[at..]).into_iter::<&serde_json::value::RawValue>();
    values.next()?.ok().map(|value| value.get().as_bytes())
}
