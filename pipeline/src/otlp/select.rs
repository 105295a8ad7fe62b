//! Picks the content out of a record, and tells records that belong to a trace from those that do not.

use super::any::{Any, write_json};
use super::frame::{Encoding, Frame};
use super::model::{KeyValue, RawEvent, RawLog, RawRecord, RawSpan, Text};
use crate::ids::{SpanId, TraceId};
use crate::keys::ContentKeys;
use bytes::Bytes;
use std::borrow::Cow;

/// What a record of a batch is to the store.
#[derive(Debug)]
pub enum Record<P = Part> {
    /// A span, or a log record that belongs to one.
    Span(SpanRecord<P>),
    /// One that no trace can hold: it goes to quarantine with its bytes.
    Stray(Stray),
    /// A log record without content and without a trace: nothing of what Gravity keeps.
    Unrelated,
}

impl<P> Record<P> {
    /// The same record with every part replaced.
    pub fn map_parts<Q>(self, f: impl FnMut(P) -> Q) -> Record<Q> {
        match self {
            Record::Stray(stray) => Record::Stray(stray),
            Record::Unrelated => Record::Unrelated,
            Record::Span(span) => Record::Span(SpanRecord {
                offset: span.offset,
                kind: span.kind,
                trace_id: span.trace_id,
                span_id: span.span_id,
                parent_span_id: span.parent_span_id,
                name: span.name,
                start: span.start,
                end: span.end,
                dropped_attributes: span.dropped_attributes,
                parts: span.parts.into_iter().map(f).collect(),
            }),
        }
    }
}

/// What a span entry was in OTLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum RecordKind {
    /// A span.
    #[default]
    Span,
    /// A log record.
    Log,
}

/// A span with its content.
#[derive(Debug)]
pub struct SpanRecord<P = Part> {
    /// Where it begins in the decompressed batch.
    pub offset: u64,
    /// Span or log record.
    pub kind: RecordKind,
    /// Its trace.
    pub trace_id: TraceId,
    /// Its id; a log record may have none.
    pub span_id: Option<SpanId>,
    /// Its parent's id, if it has one.
    pub parent_span_id: Option<SpanId>,
    /// Its name; of a log record, the event's.
    pub name: String,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// Attributes that the producer threw away.
    pub dropped_attributes: u32,
    /// Its content, in order.
    pub parts: Vec<P>,
}

/// One content value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The event's name, if the value stood in a span event or a log record.
    pub event: Option<String>,
    /// The attribute's key, or `body`.
    pub key: String,
    /// A string's or a bytes value's exact bytes; of an array or a key-value list, its canonical JSON.
    pub content: Bytes,
}

/// A record that cannot stand in a trace.
#[derive(Debug)]
pub struct Stray {
    /// Where it begins in the decompressed batch.
    pub offset: u64,
    /// What is wrong with it.
    pub reason: String,
    /// True for protobuf, false for JSON.
    pub is_protobuf: bool,
    /// Its bytes as they came.
    pub bytes: Bytes,
}

/// Picks the content of a record. Whatever cannot be placed becomes a [`Record::Stray`], with nothing lost.
pub(super) fn select(raw: RawRecord<'_>, frame: &Frame, keys: &ContentKeys) -> Record {
    let picker = Picker { keys, frame };
    let picked = match raw {
        RawRecord::Span(span) => picker.span(span).map(Record::Span),
        RawRecord::Log(log) => picker.log(log),
        RawRecord::Unknown => Err("neither a span nor a log record, as far as its fields tell".into()),
    };
    picked.unwrap_or_else(|reason| {
        Record::Stray(Stray {
            offset: frame.offset,
            reason,
            is_protobuf: frame.encoding == Encoding::Protobuf,
            bytes: frame.bytes.clone(),
        })
    })
}

struct Picker<'a> {
    keys: &'a ContentKeys,
    frame: &'a Frame,
}

impl Picker<'_> {
    fn span(&self, span: RawSpan<'_>) -> Result<SpanRecord, String> {
        let mut parts = Vec::new();
        for pair in span.attributes {
            self.attribute(pair, None, &mut parts)?;
        }
        for RawEvent { name, attributes } in span.events {
            let name = utf8(name, "an event's name")?;
            for pair in attributes {
                self.attribute(pair, Some(&name), &mut parts)?;
            }
        }
        Ok(SpanRecord {
            offset: self.frame.offset,
            kind: RecordKind::Span,
            trace_id: span.trace_id.map_err(|e| format!("trace id: {e}"))?,
            span_id: Some(span.span_id.map_err(|e| format!("span id: {e}"))?),
            parent_span_id: span.parent_span_id.map_err(|e| format!("parent span id: {e}"))?,
            name: utf8(span.name, "the span's name")?,
            start: span.start,
            end: span.end,
            dropped_attributes: span.dropped_attributes,
            parts,
        })
    }

    fn log(&self, log: RawLog<'_>) -> Result<Record, String> {
        let name = match &log.event_name {
            given if !given.is_empty() => utf8(given.clone(), "the event's name")?,
            _ => event_name(&log.attributes)?,
        };
        let event = (!name.is_empty()).then_some(name.as_str());
        let has_content = |key: &str| self.keys.attribute(key) || event.is_some_and(|e| self.keys.event(e, key));
        let mut parts = Vec::new();
        let by_attribute =
            log.attributes.iter().any(|pair| std::str::from_utf8(&pair.key).is_ok_and(|k| self.keys.attribute(k)));
        if by_attribute || has_content("body") {
            self.part("body".into(), log.body, event, &mut parts)?;
        }
        for pair in log.attributes {
            self.attribute(pair, event, &mut parts)?;
        }
        if parts.is_empty() && log.trace_id.is_err() {
            return Ok(Record::Unrelated);
        }
        Ok(Record::Span(SpanRecord {
            offset: self.frame.offset,
            kind: RecordKind::Log,
            trace_id: log.trace_id.map_err(|e| format!("trace id: {e}"))?,
            span_id: log.span_id.map_err(|e| format!("span id: {e}"))?,
            parent_span_id: None,
            name,
            start: log.time,
            end: log.time,
            dropped_attributes: log.dropped_attributes,
            parts,
        }))
    }

    fn attribute(&self, pair: KeyValue<'_>, event: Option<&str>, parts: &mut Vec<Part>) -> Result<(), String> {
        // A key that is not UTF-8 is in no table.
        let Ok(key) = std::str::from_utf8(&pair.key) else { return Ok(()) };
        if self.keys.attribute(key) || event.is_some_and(|e| self.keys.event(e, key)) {
            self.part(key.to_owned(), pair.value, event, parts)?;
        }
        Ok(())
    }

    fn part(&self, key: String, value: Any<'_>, event: Option<&str>, parts: &mut Vec<Part>) -> Result<(), String> {
        let content = match value {
            Any::String(text) | Any::Bytes(text) => self.bytes(text),
            Any::Array(_) | Any::KvList(_) => {
                let mut json = Vec::new();
                write_json(&value, &mut json).map_err(|e| format!("{key} {e}"))?;
                Bytes::from(json)
            }
            Any::Empty | Any::Bool(_) | Any::Int(_) | Any::Double(_) => return Ok(()),
        };
        parts.push(Part { event: event.map(str::to_owned), key, content });
        Ok(())
    }

    /// Shares the record's bytes where the text stands in them as it is.
    fn bytes(&self, text: Text<'_>) -> Bytes {
        match text {
            Cow::Borrowed(slice) => self.frame.bytes.slice_ref(slice),
            Cow::Owned(owned) => Bytes::from(owned),
        }
    }
}

/// The event's name where the producer writes it as an attribute: `event.name`, or LiteLLM 1.79's `event_name`.
fn event_name(attributes: &[KeyValue<'_>]) -> Result<String, String> {
    let named = |key: &str| {
        attributes.iter().find_map(|pair| match &pair.value {
            Any::String(text) if *pair.key == *key.as_bytes() => Some(text.clone()),
            _ => None,
        })
    };
    utf8(named("event.name").or_else(|| named("event_name")).unwrap_or_default(), "the event's name")
}

fn utf8(text: Text<'_>, what: &str) -> Result<String, String> {
    String::from_utf8(text.into_owned()).map_err(|_| format!("{what} is not Unicode"))
}
