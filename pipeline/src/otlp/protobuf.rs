//! Reads a record in OTLP protobuf (opentelemetry-proto, `trace/v1`, `logs/v1`, `common/v1`).

use super::any::Any;
use super::element::Resource;
use super::model::{DecodeError, KeyValue, MaybeId, RawEvent, RawLog, RawRecord, RawSpan, Text, saturated};
use super::select::RecordKind;
use crate::ids::Id;

/// How a field's value is written (protobuf encoding, "Message Structure").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WireType {
    Varint,
    I64,
    Len,
    I32,
}

/// A field's number and wire type.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tag {
    pub(super) field: u32,
    pub(super) wire_type: WireType,
}

impl Tag {
    pub(super) fn new(tag: u64) -> Result<Self, &'static str> {
        let wire_type = match tag & 7 {
            0 => WireType::Varint,
            1 => WireType::I64,
            2 => WireType::Len,
            5 => WireType::I32,
            _ => return Err("a wire type that proto3 does not use"),
        };
        match u32::try_from(tag >> 3) {
            Ok(field) if field > 0 => Ok(Self { field, wire_type }),
            _ => Err("a field number out of range"),
        }
    }
}

/// A varint and its size; `None` if the bytes end in it.
pub(super) fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, &'static str> {
    let mut value = 0;
    for (n, &byte) in bytes.iter().take(10).enumerate() {
        if n == 9 && byte > 1 {
            return Err("a number of more than 64 bits");
        }
        value |= u64::from(byte & 0x7f) << (7 * n);
        if byte < 0x80 {
            return Ok(Some((value, n + 1)));
        }
    }
    if bytes.len() < 10 { Ok(None) } else { Err("a number of more than 64 bits") }
}

/// A field's value.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'a> {
    Varint(u64),
    I64(u64),
    Len(Message<'a>),
    I32(u32),
}

/// The bytes of a message, with their place in the record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message<'a> {
    pub(super) bytes: &'a [u8],
    at: usize,
    pub(super) depth: u32,
}

/// Values nested deeper than this are refused, as in JSON.
pub(super) const MAX_DEPTH: u32 = 120;

impl<'a> Message<'a> {
    /// A message that is in no other.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth: 0 }
    }

    pub(super) fn error(&self, reason: impl Into<String>) -> DecodeError {
        DecodeError { at: self.at, reason: format!("not OTLP protobuf: {}", reason.into()) }
    }

    /// Takes the next field; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, DecodeError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let tag = Tag::new(self.varint()?).map_err(|reason| self.error(reason))?;
        let value = match tag.wire_type {
            WireType::Varint => Value::Varint(self.varint()?),
            WireType::I64 => {
                let bytes = self.take(8)?.bytes;
                Value::I64(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
            }
            WireType::I32 => {
                let bytes = self.take(4)?.bytes;
                Value::I32(bytes.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte)))
            }
            WireType::Len => {
                let length = self.varint()?;
                Value::Len(self.take(length)?)
            }
        };
        Ok(Some((tag.field, value)))
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let (value, size) = varint(self.bytes)
            .map_err(|reason| self.error(reason))?
            .ok_or_else(|| self.error("cut off in a number"))?;
        self.take(size as u64)?;
        Ok(value)
    }

    fn take(&mut self, length: u64) -> Result<Message<'a>, DecodeError> {
        let length = usize::try_from(length).ok().filter(|&n| n <= self.bytes.len());
        let length = length.ok_or_else(|| self.error("a field is longer than the message it is in"))?;
        let (taken, rest) = self.bytes.split_at(length);
        let message = Message { bytes: taken, at: self.at, depth: self.depth + 1 };
        self.bytes = rest;
        self.at += length;
        Ok(message)
    }

    fn text(self) -> Text<'a> {
        Text::Borrowed(self.bytes)
    }

    fn id<const N: usize>(self) -> MaybeId<Id<N>> {
        Id::from_bytes(self.bytes)
    }

    /// An id of zeros is none: so some producers write that a span has no parent.
    fn optional_id<const N: usize>(self) -> MaybeId<Option<Id<N>>> {
        let is_none = self.bytes.is_empty() || *self.bytes == [0; N];
        if is_none { Ok(None) } else { self.id().map(Some) }
    }
}

/// Reads a record.
pub(super) fn record(bytes: &[u8]) -> Result<RawRecord<'_>, DecodeError> {
    let message = Message::new(bytes);
    match kind(bytes)? {
        Some(RecordKind::Span) => span(message).map(RawRecord::Span),
        Some(RecordKind::Log) => log(message).map(RawRecord::Log),
        None => Ok(RawRecord::Unknown),
    }
}

/// Tells a span from a log record by how fields that both have are written: 1 is a trace id in a span and a time in a
/// log record, 6 a kind and a list of attributes, 7 a time and a count, 8 a time and flags.
pub(super) fn kind(bytes: &[u8]) -> Result<Option<RecordKind>, DecodeError> {
    let mut message = Message::new(bytes);
    while let Some((field, value)) = message.next()? {
        match (field, value) {
            (1, Value::Len(_)) | (4, Value::Len(_)) | (6, Value::Varint(_)) | (7 | 8, Value::I64(_)) => {
                return Ok(Some(RecordKind::Span));
            }
            (1 | 11, Value::I64(_))
            | (2, Value::Varint(_))
            | (6, Value::Len(_))
            | (7, Value::Varint(_))
            | (8, Value::I32(_)) => return Ok(Some(RecordKind::Log)),
            _ => {}
        }
    }
    Ok(None)
}

/// Reads a resource; one that is not as OTLP has it says nothing.
pub(super) fn resource(bytes: &[u8]) -> Resource {
    let (mut message, mut attributes) = (Message::new(bytes), Vec::new());
    loop {
        match message.next() {
            Ok(None) => return Resource::new(&attributes),
            Ok(Some((1, Value::Len(attribute)))) => match key_value(attribute) {
                Ok(pair) => attributes.push(pair),
                Err(_) => return Resource::default(),
            },
            Ok(Some(_)) => {}
            Err(_) => return Resource::default(),
        }
    }
}

fn absent<T>() -> MaybeId<T> {
    Err("missing".into())
}

fn span(mut message: Message<'_>) -> Result<RawSpan<'_>, DecodeError> {
    let mut span = RawSpan {
        trace_id: absent(),
        span_id: absent(),
        parent_span_id: Ok(None),
        name: Text::default(),
        start: 0,
        end: 0,
        attributes: vec![],
        dropped_attributes: 0,
        events: vec![],
    };
    while let Some(field) = message.next()? {
        match field {
            (1, Value::Len(id)) => span.trace_id = id.id(),
            (2, Value::Len(id)) => span.span_id = id.id(),
            (4, Value::Len(id)) => span.parent_span_id = id.optional_id(),
            (5, Value::Len(name)) => span.name = name.text(),
            (7, Value::I64(time)) => span.start = time,
            (8, Value::I64(time)) => span.end = time,
            (9, Value::Len(attribute)) => span.attributes.push(key_value(attribute)?),
            (10, Value::Varint(count)) => span.dropped_attributes = saturated(count),
            (11, Value::Len(event)) => span.events.push(self::event(event)?),
            (1 | 2 | 4 | 5 | 7..=11, _) => return Err(message.error("a span's field of the wrong type")),
            _ => {}
        }
    }
    Ok(span)
}

fn event(mut message: Message<'_>) -> Result<RawEvent<'_>, DecodeError> {
    let mut event = RawEvent { name: Text::default(), attributes: vec![] };
    while let Some(field) = message.next()? {
        match field {
            (2, Value::Len(name)) => event.name = name.text(),
            (3, Value::Len(attribute)) => event.attributes.push(key_value(attribute)?),
            (2 | 3, _) => return Err(message.error("an event's field of the wrong type")),
            _ => {}
        }
    }
    Ok(event)
}

fn log(mut message: Message<'_>) -> Result<RawLog<'_>, DecodeError> {
    let mut log = RawLog {
        trace_id: absent(),
        span_id: Ok(None),
        event_name: Text::default(),
        time: 0,
        body: Any::Empty,
        attributes: vec![],
        dropped_attributes: 0,
    };
    let mut observed = 0;
    while let Some(field) = message.next()? {
        match field {
            (1, Value::I64(time)) => log.time = time,
            (5, Value::Len(body)) => log.body = any(body)?,
            (6, Value::Len(attribute)) => log.attributes.push(key_value(attribute)?),
            (7, Value::Varint(count)) => log.dropped_attributes = saturated(count),
            (9, Value::Len(id)) => log.trace_id = id.id(),
            (10, Value::Len(id)) => log.span_id = id.optional_id(),
            (11, Value::I64(time)) => observed = time,
            (12, Value::Len(name)) => log.event_name = name.text(),
            (1 | 5 | 6 | 7 | 9..=12, _) => return Err(message.error("a log record's field of the wrong type")),
            _ => {}
        }
    }
    if log.time == 0 {
        log.time = observed;
    }
    Ok(log)
}

fn key_value(mut message: Message<'_>) -> Result<KeyValue<'_>, DecodeError> {
    let mut pair = KeyValue { key: Text::default(), value: Any::Empty };
    while let Some(field) = message.next()? {
        match field {
            (1, Value::Len(key)) => pair.key = key.text(),
            (2, Value::Len(value)) => pair.value = any(value)?,
            (1 | 2, _) => return Err(message.error("an attribute's field of the wrong type")),
            _ => {}
        }
    }
    Ok(pair)
}

fn any(mut message: Message<'_>) -> Result<Any<'_>, DecodeError> {
    if message.depth > MAX_DEPTH {
        return Err(message.error("nested too deeply"));
    }
    let mut value = Any::Empty;
    while let Some(field) = message.next()? {
        value = match field {
            (1, Value::Len(text)) => Any::String(text.text()),
            (2, Value::Varint(b)) => Any::Bool(b != 0),
            (3, Value::Varint(n)) => Any::Int(n as i64),
            (4, Value::I64(bits)) => Any::Double(f64::from_bits(bits)),
            (5, Value::Len(mut array)) => {
                let mut values = Vec::new();
                while let Some(field) = array.next()? {
                    match field {
                        (1, Value::Len(value)) => values.push(any(value)?),
                        (1, _) => return Err(array.error("an array's field of the wrong type")),
                        _ => {}
                    }
                }
                Any::Array(values)
            }
            (6, Value::Len(mut list)) => {
                let mut pairs = Vec::new();
                while let Some(field) = list.next()? {
                    match field {
                        (1, Value::Len(pair)) => pairs.push(key_value(pair)?),
                        (1, _) => return Err(list.error("a list's field of the wrong type")),
                        _ => {}
                    }
                }
                Any::KvList(pairs)
            }
            (7, Value::Len(bytes)) => Any::Bytes(bytes.text()),
            (1..=7, _) => return Err(message.error("a value's field of the wrong type")),
            _ => value,
        };
    }
    Ok(value)
}
