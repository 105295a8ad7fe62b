//! What a batch's traces will be, until its last byte has arrived: in memory while it is small, then in a temporary
//! file, so that a batch of any size needs a few dozen bytes of memory per trace.

use crate::error::{Error, Result};
use crate::hash::{ChunkHash, HashedPart};
use crate::ids::{SpanId, TraceId};
use crate::json_text::to_json;
use crate::loose::StrayLine;
use crate::otlp::{RecordKind, SpanRecord, Stray};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom, Write};
use tempfile::SpooledTempFile;

/// Beyond this the spool goes to disk.
const IN_MEMORY: usize = 4 << 20;

/// Records by trace. Each record points back to the one before it in its trace.
pub struct Spool {
    file: SpooledTempFile,
    end: u64,
    traces: HashMap<TraceId, Chain>,
}

#[derive(Clone, Copy)]
struct Chain {
    last: u64,
    first_offset: u64,
    bytes: u64,
}

/// A trace of the spool.
#[derive(Debug, Clone, Copy)]
pub struct Spooled {
    /// Which.
    pub trace_id: TraceId,
    /// Bytes that its records take here, about half of what its index will.
    pub bytes: u64,
}

/// No record has this position.
const NONE: u64 = u64::MAX;

impl Default for Spool {
    fn default() -> Self {
        Self { file: SpooledTempFile::new(IN_MEMORY), end: 0, traces: HashMap::new() }
    }
}

impl Spool {
    /// Adds a record to its trace.
    pub fn push(&mut self, span: &SpanRecord<HashedPart>) -> Result<()> {
        let body = encode(span)?;
        let chain = self.traces.entry(span.trace_id);
        let chain = chain.or_insert(Chain { last: NONE, first_offset: span.offset, bytes: 0 });
        let previous = std::mem::replace(&mut chain.last, self.end);
        chain.first_offset = chain.first_offset.min(span.offset);
        chain.bytes += body.len() as u64;
        let mut record = Vec::with_capacity(16 + body.len());
        record.extend_from_slice(&previous.to_le_bytes());
        record.extend_from_slice(&(body.len() as u64).to_le_bytes());
        record.extend_from_slice(&body);
        self.file.write_all(&record).map_err(Error::io("the spool file (TMPDIR)"))?;
        self.end += record.len() as u64;
        Ok(())
    }

    /// The traces, as they first appear in the batch.
    pub fn traces(&self) -> Vec<Spooled> {
        let mut traces: Vec<_> = self.traces.iter().collect();
        traces.sort_unstable_by_key(|(id, chain)| (chain.first_offset, **id));
        traces.into_iter().map(|(&trace_id, chain)| Spooled { trace_id, bytes: chain.bytes }).collect()
    }

    /// The records of a trace, the last one first.
    pub fn read(&mut self, trace: &TraceId) -> Result<Vec<SpanRecord<HashedPart>>> {
        let mut at = self.traces.get(trace).map_or(NONE, |chain| chain.last);
        let mut records = Vec::new();
        while at != NONE {
            let (previous, body) = self.record(at).map_err(Error::io("the spool file (TMPDIR)"))?;
            let record = decode(*trace, &body);
            records.push(
                record.ok_or_else(|| Error::Corrupt { key: "the spool file".into(), reason: "was changed".into() })?,
            );
            at = previous;
        }
        Ok(records)
    }

    fn record(&mut self, at: u64) -> std::io::Result<(u64, Vec<u8>)> {
        let mut head = [0; 16];
        self.file.seek(SeekFrom::Start(at))?;
        self.file.read_exact(&mut head)?;
        let (previous, length) = head.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte));
        let mut body = vec![0; number(length) as usize];
        self.file.read_exact(&mut body)?;
        Ok((number(previous), body))
    }
}

/// Records that no trace can hold, one group a block, each group an object of the quarantine later.
pub struct StraySpool {
    file: SpooledTempFile,
    end: u64,
    groups: Vec<StrayGroup>,
}

#[derive(Debug, Clone, Copy)]
struct StrayGroup {
    first_offset: u64,
    at: u64,
    length: usize,
}

impl Default for StraySpool {
    fn default() -> Self {
        Self { file: SpooledTempFile::new(IN_MEMORY), end: 0, groups: Vec::new() }
    }
}

impl StraySpool {
    /// Adds the strays of one block, in order.
    pub fn push(&mut self, strays: &[Stray]) -> Result<()> {
        let Some(first) = strays.first() else { return Ok(()) };
        let mut lines = Vec::new();
        for stray in strays {
            lines.extend(to_json(&StrayLine::from(stray))?);
            lines.push(b'\n');
        }
        self.groups.push(StrayGroup { first_offset: first.offset, at: self.end, length: lines.len() });
        self.file.write_all(&lines).map_err(Error::io("the spool file (TMPDIR)"))?;
        self.end += lines.len() as u64;
        Ok(())
    }

    /// Takes one group: the offset of its first record in the batch, and its lines. `None` when all are taken.
    pub fn pop(&mut self) -> Result<Option<(u64, Vec<u8>)>> {
        let Some(group) = self.groups.pop() else { return Ok(None) };
        let mut lines = vec![0; group.length];
        let read = self.file.seek(SeekFrom::Start(group.at)).and_then(|_| self.file.read_exact(&mut lines));
        read.map_err(Error::io("the spool file (TMPDIR)"))?;
        Ok(Some((group.first_offset, lines)))
    }
}

/// All of a record but its chunks, which follow it as 32 bytes each.
#[derive(Serialize, Deserialize)]
struct Head {
    offset: u64,
    kind: RecordKind,
    span_id: Option<SpanId>,
    parent_span_id: Option<SpanId>,
    name: String,
    start: u64,
    end: u64,
    dropped_attributes: u32,
    /// Event, key, bytes, number of chunks.
    parts: Vec<(Option<String>, String, u64, usize)>,
}

fn encode(span: &SpanRecord<HashedPart>) -> Result<Vec<u8>> {
    let head = Head {
        offset: span.offset,
        kind: span.kind,
        span_id: span.span_id,
        parent_span_id: span.parent_span_id,
        name: span.name.clone(),
        start: span.start,
        end: span.end,
        dropped_attributes: span.dropped_attributes,
        parts: span.parts.iter().map(|p| (p.event.clone(), p.key.clone(), p.bytes, p.chunks.len())).collect(),
    };
    let json = to_json(&head)?;
    let mut body = (json.len() as u64).to_le_bytes().to_vec();
    body.extend_from_slice(&json);
    for part in &span.parts {
        for chunk in &part.chunks {
            body.extend_from_slice(chunk.as_bytes());
        }
    }
    Ok(body)
}

fn decode(trace_id: TraceId, body: &[u8]) -> Option<SpanRecord<HashedPart>> {
    let (length, rest) = body.split_first_chunk()?;
    let (json, mut chunks) = rest.split_at_checked(u64::from_le_bytes(*length) as usize)?;
    let head: Head = serde_json::from_slice(json).ok()?;
    let mut parts = Vec::with_capacity(head.parts.len());
    for (event, key, bytes, count) in head.parts {
        let (of_part, rest) = chunks.split_at_checked(count.checked_mul(32)?)?;
        chunks = rest;
        let (names, _) = of_part.as_chunks::<32>();
        parts.push(HashedPart {
            event,
            key,
            bytes,
            chunks: names.iter().map(|&name| ChunkHash::from_bytes(name)).collect(),
        });
    }
    chunks.is_empty().then_some(SpanRecord {
        offset: head.offset,
        kind: head.kind,
        trace_id,
        span_id: head.span_id,
        parent_span_id: head.parent_span_id,
        name: head.name,
        start: head.start,
        end: head.end,
        dropped_attributes: head.dropped_attributes,
        parts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(trace: u8, offset: u64, chunks: usize) -> SpanRecord<HashedPart> {
        let chunks = (0..chunks).map(|n| ChunkHash::of(&n.to_le_bytes())).collect();
        SpanRecord {
            offset,
            kind: RecordKind::Span,
            trace_id: TraceId::from_bytes(&[trace; 16]).unwrap(),
            span_id: Some(SpanId::from_bytes(&offset.max(1).to_be_bytes()).unwrap()),
            parent_span_id: None,
            name: "ü\"".into(),
            start: 1,
            end: 2,
            dropped_attributes: 3,
            parts: vec![
                HashedPart { event: Some("e".into()), key: "k".into(), chunks, bytes: 5 },
                HashedPart { event: None, key: "l".into(), chunks: vec![], bytes: 0 },
            ],
        }
    }

    #[test]
    fn records_come_back_by_trace_from_memory_and_from_disk() {
        // A few records stay in memory; 200 records of 1,000 chunks are over the limit.
        for (count, chunks) in [(4, 3), (200, 1000)] {
            let mut spool = Spool::default();
            for n in 0..count {
                spool.push(&record(1 + (n % 2) as u8, n, chunks)).unwrap();
            }
            let traces: Vec<_> = spool.traces().iter().map(|t| t.trace_id.as_bytes()[0]).collect();
            assert_eq!(traces, [1, 2]);
            let found = spool.read(&TraceId::from_bytes(&[2; 16]).unwrap()).unwrap();
            let offsets: Vec<_> = found.iter().map(|r| r.offset).collect();
            assert_eq!(offsets, (0..count).filter(|n| n % 2 == 1).rev().collect::<Vec<_>>());
            assert_eq!(found[0].parts, record(2, 1, chunks).parts);
        }
    }
}
