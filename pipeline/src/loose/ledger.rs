//! The ledger: which batches are done. An entry follows from the batch alone, so every worker writes the same.

use crate::hash::HashedPart;
use crate::ids::TraceId;
use crate::otlp::SpanRecord;
use serde::{Deserialize, Serialize};

/// What a batch was; `batches/{raw key}.json`, written last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// The batch's key.
    pub key: String,
    /// BLAKE3 of the raw file, 64 hex digits.
    pub raw_blake3: String,
    /// How much it was.
    #[serde(flatten)]
    pub sums: BatchSums,
    /// The traces, as they first appear in the batch.
    pub traces: Vec<TraceId>,
}

/// Sums over a batch, or over many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchSums {
    /// Bytes of the raw file.
    pub raw_bytes: u64,
    /// Bytes after decompression.
    pub document_bytes: u64,
    /// OTLP documents.
    pub documents: u64,
    /// Spans, and log records that belong to a trace.
    pub spans: u64,
    /// Content values.
    pub parts: u64,
    /// Chunks of them, repeats counted.
    pub chunks: u64,
    /// Bytes of the content.
    pub content_bytes: u64,
    /// Records that no trace can hold, kept in quarantine.
    pub strays: u64,
    /// Log records that have neither content nor a trace, not kept.
    pub unrelated: u64,
}

impl BatchSums {
    /// Adds a span.
    pub fn count(&mut self, span: &SpanRecord<HashedPart>) {
        self.spans += 1;
        self.parts += span.parts.len() as u64;
        self.chunks += span.parts.iter().map(|part| part.chunks.len() as u64).sum::<u64>();
        self.content_bytes += span.parts.iter().map(|part| part.bytes).sum::<u64>();
    }
}

impl std::ops::AddAssign for BatchSums {
    fn add_assign(&mut self, other: Self) {
        self.raw_bytes += other.raw_bytes;
        self.document_bytes += other.document_bytes;
        self.documents += other.documents;
        self.spans += other.spans;
        self.parts += other.parts;
        self.chunks += other.chunks;
        self.content_bytes += other.content_bytes;
        self.strays += other.strays;
        self.unrelated += other.unrelated;
    }
}
