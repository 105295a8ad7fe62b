//! OTLP records as both encodings give them: borrowed from the record's bytes, content not yet picked.

use super::any::Any;
use crate::ids::{SpanId, TraceId};
use std::borrow::Cow;

/// Bytes of a string: UTF-8, save for lone surrogates (kept as WTF-8) in JSON and whatever a protobuf writer put.
pub type Text<'a> = Cow<'a, [u8]>;

/// An attribute.
#[derive(Debug, PartialEq)]
pub struct KeyValue<'a> {
    /// Its key.
    pub key: Text<'a>,
    /// Its value.
    pub value: Any<'a>,
}

/// A record of either kind.
#[derive(Debug, PartialEq)]
pub enum RawRecord<'a> {
    /// A span.
    Span(RawSpan<'a>),
    /// A log record.
    Log(RawLog<'a>),
    /// Neither, as far as its fields tell.
    Unknown,
}

/// An id, or what stood in its place.
pub type MaybeId<T> = Result<T, String>;

/// A span.
#[derive(Debug, PartialEq)]
pub struct RawSpan<'a> {
    /// The trace it belongs to.
    pub trace_id: MaybeId<TraceId>,
    /// Its own id.
    pub span_id: MaybeId<SpanId>,
    /// The parent's id, `None` for a root.
    pub parent_span_id: MaybeId<Option<SpanId>>,
    /// Its name.
    pub name: Text<'a>,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// Its attributes, in order.
    pub attributes: Vec<KeyValue<'a>>,
    /// Attributes that the producer threw away.
    pub dropped_attributes: u32,
    /// Its events, in order.
    pub events: Vec<RawEvent<'a>>,
}

/// An event of a span.
#[derive(Debug, PartialEq)]
pub struct RawEvent<'a> {
    /// Its name.
    pub name: Text<'a>,
    /// Its attributes, in order.
    pub attributes: Vec<KeyValue<'a>>,
}

/// A log record.
#[derive(Debug, PartialEq)]
pub struct RawLog<'a> {
    /// The trace it belongs to.
    pub trace_id: MaybeId<TraceId>,
    /// The span it belongs to, if any.
    pub span_id: MaybeId<Option<SpanId>>,
    /// The event's name, where the producer writes it as a field.
    pub event_name: Text<'a>,
    /// Nanoseconds since 1970; the time observed if the event's own is not known.
    pub time: u64,
    /// The body.
    pub body: Any<'a>,
    /// The attributes, in order.
    pub attributes: Vec<KeyValue<'a>>,
    /// Attributes that the producer threw away.
    pub dropped_attributes: u32,
}

/// OTLP counts dropped attributes in 32 bits; more than that is told as the most.
pub(super) fn saturated(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Why a record could not be read.
#[derive(Debug, PartialEq)]
pub struct DecodeError {
    /// Bytes from the record's start.
    pub at: usize,
    /// What was found there.
    pub reason: String,
}
