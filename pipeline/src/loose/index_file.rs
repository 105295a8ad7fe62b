//! A trace's index: the original format with additions, so that a reader of the original gets the whole trace.

use crate::error::{Error, Result};
use crate::hash::{ChunkHash, HashedPart};
use crate::ids::{SpanId, TraceId};
use crate::json_text::to_json;
use crate::otlp::{RecordKind, SpanRecord};
use crate::split::Separator;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What puts a trace back together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceIndex {
    /// The trace.
    pub trace_id: TraceId,
    /// What its parts were cut at.
    pub separator: Separator,
    /// Its spans by start time, then id, then the rest; each once.
    pub spans: Vec<SpanEntry>,
}

/// A span of a trace, or a log record. The order of the fields is the order of the spans: `source` comes last, so
/// that of the same span from two batches the smaller source stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpanEntry {
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Its id; a log record may have none.
    pub span_id: Option<SpanId>,
    /// Span or log record.
    pub kind: RecordKind,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// Its parent's id, if it has one.
    pub parent_span_id: Option<SpanId>,
    /// Its name; of a log record, the event's.
    pub name: String,
    /// Attributes that the producer threw away before Gravity saw the span.
    pub dropped_attributes: u32,
    /// Its content, in order.
    pub parts: Vec<PartEntry>,
    /// The batch it came in.
    pub source: String,
}

/// One content value of a span.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartEntry {
    /// The event's name, if it stood in a span event or a log record.
    pub event: Option<String>,
    /// The attribute's key, or `body`.
    pub key: String,
    /// The chunks' names, in order.
    pub chunks: Vec<ChunkHash>,
    /// Bytes of the whole part.
    pub bytes: u64,
}

impl SpanEntry {
    /// The entry of a record, once the batch it came in has its key.
    pub fn new(record: SpanRecord<HashedPart>, source: String) -> Self {
        let part =
            |part: HashedPart| PartEntry { event: part.event, key: part.key, chunks: part.chunks, bytes: part.bytes };
        Self {
            start: record.start,
            span_id: record.span_id,
            kind: record.kind,
            end: record.end,
            parent_span_id: record.parent_span_id,
            name: record.name,
            dropped_attributes: record.dropped_attributes,
            parts: record.parts.into_iter().map(part).collect(),
            source,
        }
    }

    fn same_but_for_source(&self, other: &Self) -> bool {
        let rest = |s: &Self| (s.start, s.span_id, s.kind, s.end, s.parent_span_id, s.dropped_attributes);
        rest(self) == rest(other) && self.name == other.name && self.parts == other.parts
    }
}

impl TraceIndex {
    /// An index of these spans, in whatever order and however often they came.
    pub fn new(trace_id: TraceId, separator: Separator, mut spans: Vec<SpanEntry>) -> Self {
        spans.sort_unstable();
        spans.dedup_by(|later, earlier| later.same_but_for_source(earlier));
        Self { trace_id, separator, spans }
    }

    /// Both indexes in one. Commutative, associative and idempotent, so that workers need not agree on an order.
    ///
    /// # Errors
    /// If they are cut at different separators.
    pub fn merge(self, other: Self) -> Result<Self> {
        if self.separator != other.separator {
            return Err(Error::Config(format!(
                "trace {} is stored cut at {:?}, CHUNK_SEPARATOR is {:?}",
                self.trace_id,
                self.separator.as_str(),
                other.separator.as_str(),
            )));
        }
        let spans = self.spans.into_iter().chain(other.spans).collect();
        Ok(Self::new(self.trace_id, self.separator, spans))
    }

    /// All chunks of all parts of all spans, in order.
    pub fn chunks(&self) -> impl Iterator<Item = &ChunkHash> {
        self.parts().flat_map(|part| &part.chunks)
    }

    /// All parts of all spans, in order.
    pub fn parts(&self) -> impl Iterator<Item = &PartEntry> {
        self.spans.iter().flat_map(|span| &span.parts)
    }

    /// As it is stored: one line of JSON.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let spans = self.spans.iter().map(|span| SpanFile {
            kind: span.kind,
            span_id: span.span_id,
            parent_span_id: span.parent_span_id,
            name: Cow::Borrowed(&span.name),
            start: rfc3339(span.start),
            end: rfc3339(span.end),
            source: Cow::Borrowed(&span.source),
            dropped_attributes: span.dropped_attributes,
            parts: span
                .parts
                .iter()
                .map(|part| PartFile {
                    event: part.event.as_deref().map(Cow::Borrowed),
                    key: Cow::Borrowed(&part.key),
                    chunks: part.chunks.len(),
                    bytes: part.bytes,
                })
                .collect(),
        });
        let file = IndexFile {
            trace_id: self.trace_id,
            span_id: self.spans.iter().find_map(|span| span.span_id),
            hashes: self.chunks().copied().collect(),
            separator: Cow::Borrowed(self.separator.as_str()),
            spans: spans.collect(),
        };
        to_json(&file)
    }

    /// Reads a stored index.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is not one, or its numbers do not add up.
    pub fn from_json(key: &str, json: &[u8]) -> Result<Self> {
        let corrupt = |reason: String| Error::Corrupt { key: key.to_owned(), reason };
        let file: IndexFile<'_> = serde_json::from_slice(json).map_err(|e| corrupt(format!("not an index: {e}")))?;
        let separator = Separator::new(file.separator).map_err(|e| corrupt(format!("separator: {e}")))?;
        let mut hashes = &file.hashes[..];
        let mut spans = Vec::with_capacity(file.spans.len());
        for span in file.spans {
            let mut parts = Vec::with_capacity(span.parts.len());
            for part in span.parts {
                let (chunks, rest) = hashes
                    .split_at_checked(part.chunks)
                    .ok_or_else(|| corrupt("its parts have more chunks than it names".into()))?;
                hashes = rest;
                let event = part.event.map(Cow::into_owned);
                parts.push(PartEntry { event, key: part.key.into_owned(), chunks: chunks.to_vec(), bytes: part.bytes });
            }
            spans.push(SpanEntry {
                start: nanoseconds(&span.start).ok_or_else(|| corrupt(format!("time {}", span.start)))?,
                span_id: span.span_id,
                kind: span.kind,
                end: nanoseconds(&span.end).ok_or_else(|| corrupt(format!("time {}", span.end)))?,
                parent_span_id: span.parent_span_id,
                name: span.name.into_owned(),
                dropped_attributes: span.dropped_attributes,
                parts,
                source: span.source.into_owned(),
            });
        }
        if !hashes.is_empty() {
            return Err(corrupt("it names more chunks than its parts have".into()));
        }
        Ok(Self { trace_id: file.trace_id, separator, spans })
    }
}

#[derive(Serialize, Deserialize)]
struct IndexFile<'a> {
    trace_id: TraceId,
    span_id: Option<SpanId>,
    hashes: Vec<ChunkHash>,
    #[serde(borrow)]
    separator: Cow<'a, str>,
    #[serde(borrow)]
    spans: Vec<SpanFile<'a>>,
}

#[derive(Serialize, Deserialize)]
struct SpanFile<'a> {
    #[serde(default, skip_serializing_if = "is_span")]
    kind: RecordKind,
    span_id: Option<SpanId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<SpanId>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    start: String,
    end: String,
    #[serde(borrow)]
    source: Cow<'a, str>,
    dropped_attributes: u32,
    #[serde(borrow)]
    parts: Vec<PartFile<'a>>,
}

#[derive(Serialize, Deserialize)]
struct PartFile<'a> {
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    event: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key: Cow<'a, str>,
    chunks: usize,
    bytes: u64,
}

fn is_span(kind: &RecordKind) -> bool {
    *kind == RecordKind::Span
}

fn rfc3339(nanoseconds: u64) -> String {
    humantime::format_rfc3339_nanos(UNIX_EPOCH + Duration::from_nanos(nanoseconds)).to_string()
}

fn nanoseconds(rfc3339: &str) -> Option<u64> {
    let time: SystemTime = humantime::parse_rfc3339(rfc3339).ok()?;
    u64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span() -> impl Strategy<Value = SpanEntry> {
        let part = (prop::option::of("[ab]"), "[kl]", prop::collection::vec(any::<u8>(), 0..3)).prop_map(
            |(event, key, chunks)| PartEntry {
                event,
                key,
                bytes: chunks.len() as u64,
                chunks: chunks.iter().map(|&b| ChunkHash::of(&[b])).collect(),
            },
        );
        // Few values, so that equal and nearly equal spans come often.
        (0..2u64, prop::option::of(1..3u8), any::<bool>(), "[xy]", 0..2u32, prop::collection::vec(part, 0..2), "[st]")
            .prop_map(|(start, id, log, name, dropped_attributes, parts, source)| SpanEntry {
                start,
                span_id: id.map(|id| SpanId::from_bytes(&[id; 8]).unwrap()),
                kind: if log { RecordKind::Log } else { RecordKind::Span },
                end: u64::MAX,
                parent_span_id: None,
                name,
                dropped_attributes,
                parts,
                source,
            })
    }

    fn index() -> impl Strategy<Value = TraceIndex> {
        prop::collection::vec(span(), 0..6)
            .prop_map(|spans| TraceIndex::new(TraceId::from_bytes(&[7; 16]).unwrap(), Separator::default(), spans))
    }

    fn merged(a: &TraceIndex, b: &TraceIndex) -> TraceIndex {
        a.clone().merge(b.clone()).unwrap()
    }

    proptest! {
        #[test]
        fn merging_is_commutative(a in index(), b in index()) {
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
        }

        #[test]
        fn merging_is_associative(a in index(), b in index(), c in index()) {
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
        }

        #[test]
        fn merging_is_idempotent(a in index(), b in index()) {
            prop_assert_eq!(merged(&a, &a), a.clone());
            let both = merged(&a, &b);
            prop_assert_eq!(merged(&both, &a), both);
        }

        #[test]
        fn merging_drops_no_span(a in index(), b in index()) {
            let both = merged(&a, &b);
            for span in a.spans.iter().chain(&b.spans) {
                prop_assert!(both.spans.iter().any(|kept| kept.same_but_for_source(span)));
            }
        }

        #[test]
        fn a_stored_index_is_read_back(a in index()) {
            prop_assert_eq!(TraceIndex::from_json("x", &a.to_json().unwrap()).unwrap(), a);
        }
    }

    #[test]
    fn indexes_cut_at_different_separators_do_not_merge() {
        let id = TraceId::from_bytes(&[7; 16]).unwrap();
        let lines = TraceIndex::new(id, Separator::default(), vec![]);
        let paragraphs = TraceIndex::new(id, Separator::new("\n\n").unwrap(), vec![]);
        assert!(lines.merge(paragraphs).is_err());
    }
}
