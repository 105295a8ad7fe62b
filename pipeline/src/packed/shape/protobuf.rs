//! Taking a protobuf record apart (opentelemetry-proto, `trace/v1`, `logs/v1`, `common/v1`), and the protobuf of columns.
//!
//! A string is a literal without escapes behind its length. The lengths of the messages that hold it follow from what
//! is in them, if they are written in the shortest form, as encoders do; others are values without a column.

use super::builder::Builder;
use super::{Broken, Column, Op};
use crate::otlp::{RecordKind, varint};
use crate::packed::lift::{LEAST, Nodes};
use crate::packed::node::Kind;
use crate::packed::row::{RowKind, Values};

/// Takes a record apart. False: it is not protobuf, and nothing was added.
pub fn shred<N: Nodes>(gap: &[u8], record: &[u8], mut builder: Builder<'_, '_, N>) -> bool {
    let mut length = Vec::with_capacity(10);
    push_varint(record.len() as u64, &mut length);
    // The length follows from the record, so that records of any length have one shape.
    let head = gap.strip_suffix(&length[..]);
    match head {
        Some(head) => {
            builder.text(head);
            builder.op(Op::Open);
            builder.op(Op::Record);
        }
        None => builder.gap(gap),
    }
    let is_log = crate::otlp::protobuf_kind(record) == Some(RecordKind::Log);
    let message = if is_log { Message::Log } else { Message::Span };
    builder.row.kind = if is_log { RowKind::Log } else { RowKind::Span };
    let mut shredder = Shredder { label: b"", is_label_top: false, in_body: false };
    match shredder.message(message, record, 0, &mut builder) {
        Some(()) => {
            if head.is_some() {
                builder.op(Op::Close);
            }
            builder.finish(Kind::ProtobufShape);
            true
        }
        None => {
            builder.abandon();
            false
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Wire {
    Varint,
    I64,
    Len,
    I32,
}

struct Field<'a> {
    number: u32,
    wire: Wire,
    /// The tag, as it stands.
    tag: &'a [u8],
    /// A length-delimited field's length, as it stands.
    length: &'a [u8],
    /// The value.
    value: &'a [u8],
}

impl Field<'_> {
    /// True if its length is written in the shortest form: it follows from the value.
    fn has_short_length(&self) -> bool {
        self.wire == Wire::Len && is_shortest(self.length)
    }
}

/// The fields of a message; `None` in place of one that is broken, and nothing after it.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Option<Field<'_>>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let field = field(bytes);
        bytes = field.as_ref().map_or(&[], |(_, rest)| rest);
        Some(field.map(|(field, _)| field))
    })
}

fn field(bytes: &[u8]) -> Option<(Field<'_>, &[u8])> {
    let (tag, tag_size) = varint(bytes)?;
    let (head, rest) = bytes.split_at(tag_size);
    let (wire, length_size, size) = match tag & 7 {
        0 => (Wire::Varint, 0, varint(rest)?.1),
        1 => (Wire::I64, 0, 8),
        2 => {
            let (length, length_size) = varint(rest)?;
            (Wire::Len, length_size, usize::try_from(length).ok()?)
        }
        5 => (Wire::I32, 0, 4),
        _ => return None,
    };
    let (length, rest) = rest.split_at(length_size);
    let (value, rest) = rest.split_at_checked(size)?;
    Some((Field { number: u32::try_from(tag >> 3).ok()?, wire, tag: head, length, value }, rest))
}

/// True if a varint is written in its shortest form.
fn is_shortest(varint: &[u8]) -> bool {
    varint.len() == 1 || varint.last() != Some(&0)
}

#[derive(Clone, Copy, PartialEq)]
enum Message {
    Span,
    Log,
    Event,
    KeyValue,
    AnyValue,
    /// An array's or a key-value list's.
    List(&'static Message),
    Status,
}

struct Shredder<'r> {
    label: &'r [u8],
    is_label_top: bool,
    in_body: bool,
}

/// Values nested deeper stay in the shape.
const DEPTH: usize = 100;

impl<'r> Shredder<'r> {
    fn message<N: Nodes>(
        &mut self,
        message: Message,
        bytes: &'r [u8],
        depth: usize,
        to: &mut Builder<'_, '_, N>,
    ) -> Option<()> {
        if message == Message::KeyValue {
            // Looked for beforehand: newer collectors write the value before its key.
            let is_key = |field: &Field<'_>| field.number == 1 && field.wire == Wire::Len;
            self.label = fields(bytes).flatten().find(is_key).map_or(b"", |field| field.value);
            self.is_label_top = depth == 1;
        }
        for field in fields(bytes) {
            let field = field?;
            to.text(field.tag);
            match inner(message, &field) {
                Some(inner) if depth < DEPTH => {
                    let follows = field.has_short_length();
                    if follows {
                        to.op(Op::Open);
                    } else {
                        to.rest(field.length);
                    }
                    self.in_body = if depth == 0 { message == Message::Log && field.number == 5 } else { self.in_body };
                    self.message(inner, field.value, depth + 1, to)?;
                    if follows {
                        to.op(Op::Close);
                    }
                }
                _ => self.value(message, &field, to),
            }
        }
        Some(())
    }

    fn value<N: Nodes>(&mut self, message: Message, field: &Field<'r>, to: &mut Builder<'_, '_, N>) {
        match (message, field.number, field.wire) {
            (Message::Span, 1, Wire::Len) | (Message::Log, 9, Wire::Len) => self.id(Column::TraceId, field, to),
            (Message::Span, 2, Wire::Len) | (Message::Log, 10, Wire::Len) => self.id(Column::SpanId, field, to),
            (Message::Span, 4, Wire::Len) => self.id(Column::ParentSpanId, field, to),
            (Message::Span, 5, Wire::Len) => self.text_column(Column::Name, field, to),
            (Message::Span, 7, Wire::I64) | (Message::Log, 1, Wire::I64) => self.time(Column::Start, field, to),
            (Message::Span, 8, Wire::I64) | (Message::Log, 11, Wire::I64) => self.time(Column::End, field, to),
            (Message::Status, 3, Wire::Varint) => {
                to.row.status = varint(field.value).and_then(|(code, _)| i32::try_from(code).ok());
                to.text(field.value);
            }
            (Message::AnyValue, _, _) => self.any(field, to),
            (Message::KeyValue, 1, Wire::Len) => {
                to.text(field.length);
                to.text(field.value);
            }
            (_, _, Wire::Len) if field.value.len() >= LEAST => self.reference(field, to),
            _ => {
                to.text(field.length);
                to.text(field.value);
            }
        }
    }

    fn any<N: Nodes>(&mut self, field: &Field<'r>, to: &mut Builder<'_, '_, N>) {
        let column = if self.is_label_top { to.attribute_column(self.label) } else { None };
        match (field.number, field.wire, column) {
            (1, Wire::Len, Some(Column::Model | Column::Provider)) => {
                self.text_column(column.unwrap_or(Column::Model), field, to);
            }
            (3, Wire::Varint, Some(column @ (Column::InputTokens | Column::OutputTokens)))
                if is_shortest(field.value)
                    && let Some((number, _)) = varint(field.value) =>
            {
                to.set_integer(column, number as i64);
                to.column(column);
            }
            (4, Wire::I64, Some(Column::Cost)) if let Some(&bits) = field.value.first_chunk() => {
                let cost = f64::from_le_bytes(bits);
                if cost.is_finite() {
                    to.row.cost = Some(cost);
                    return to.column(Column::Cost);
                }
                to.rest(field.value);
            }
            (1 | 7, Wire::Len, _) => {
                let is_content = field.number == 1
                    && (self.in_body || std::str::from_utf8(self.label).is_ok_and(|label| to.keys.attribute(label)));
                if is_content {
                    to.count_content(field.value.len() as u64);
                }
                match is_content || field.value.len() >= LEAST {
                    true => self.reference(field, to),
                    false => to.rest(&[field.length, field.value].concat()),
                }
            }
            (_, Wire::Len, _) => {
                to.text(field.length);
                to.text(field.value);
            }
            _ => to.rest(field.value),
        }
    }

    fn id<N: Nodes>(&mut self, column: Column, field: &Field<'_>, to: &mut Builder<'_, '_, N>) {
        to.text(field.length);
        let (long, short) = (<[u8; 16]>::try_from(field.value).ok(), <[u8; 8]>::try_from(field.value).ok());
        let row = &mut to.row;
        match (column, long, short) {
            (Column::TraceId, Some(id), _) if row.trace_id.is_none() => row.trace_id = Some(id),
            (Column::SpanId, _, Some(id)) if row.span_id.is_none() => row.span_id = Some(id),
            (Column::ParentSpanId, _, Some(id)) if row.parent_span_id.is_none() => row.parent_span_id = Some(id),
            _ => return to.text(field.value),
        }
        to.column(column);
    }

    fn text_column<N: Nodes>(&mut self, column: Column, field: &Field<'_>, to: &mut Builder<'_, '_, N>) {
        match std::str::from_utf8(field.value) {
            Ok(text) if to.is_free(column) && field.has_short_length() => {
                to.set_text(column, text);
                to.column(column);
            }
            _ => {
                to.text(field.length);
                to.text(field.value);
            }
        }
    }

    fn reference<N: Nodes>(&mut self, field: &Field<'_>, to: &mut Builder<'_, '_, N>) {
        match field.has_short_length() {
            true => to.reference(None, field.value),
            false => to.rest(&[field.length, field.value].concat()),
        }
    }

    fn time<N: Nodes>(&mut self, column: Column, field: &Field<'_>, to: &mut Builder<'_, '_, N>) {
        let time = field.value.first_chunk().map(|&bytes| i64::from_le_bytes(bytes));
        match time.filter(|&time| time >= 0 && to.is_free(column)) {
            Some(time) => {
                to.set_integer(column, time);
                to.column(column);
            }
            None => to.rest(field.value),
        }
    }
}

/// The message that a field of a message holds, as far as it is followed.
fn inner(message: Message, field: &Field<'_>) -> Option<Message> {
    if field.wire != Wire::Len {
        return None;
    }
    Some(match (message, field.number) {
        (Message::Span, 9) | (Message::Log, 6) | (Message::Event, 3) => Message::KeyValue,
        (Message::Span, 11) => Message::Event,
        // The parser of the loose layout does not look into it.
        (Message::Span, 15) if fields(field.value).all(|field| field.is_some()) => Message::Status,
        (Message::Log, 5) | (Message::KeyValue, 2) => Message::AnyValue,
        (Message::AnyValue, 5) => Message::List(&Message::AnyValue),
        (Message::AnyValue, 6) => Message::List(&Message::KeyValue),
        (Message::List(&item), 1) => item,
        _ => return None,
    })
}

/// Appends a column's value as it stands in protobuf, behind its tag.
pub(super) fn write_column<V: Values>(column: Column, values: &V, out: &mut Vec<u8>) -> Result<(), V::Error>
where
    V::Error: From<Broken>,
{
    let missing = || V::Error::from("a shape that names a column without a value");
    match column {
        Column::TraceId => out.extend_from_slice(&values.trace_id().ok_or_else(missing)?),
        Column::SpanId => out.extend_from_slice(&values.span_id(false).ok_or_else(missing)?),
        Column::ParentSpanId => out.extend_from_slice(&values.span_id(true).ok_or_else(missing)?),
        Column::Name | Column::Model | Column::Provider => {
            let text = values.text(column).ok_or_else(missing)?;
            push_varint(text.len() as u64, out);
            out.extend_from_slice(text);
        }
        Column::Cost => out.extend_from_slice(&values.cost().ok_or_else(missing)?.to_le_bytes()),
        Column::Start | Column::End => {
            out.extend_from_slice(&values.integer(column).ok_or_else(missing)?.to_le_bytes());
        }
        Column::InputTokens | Column::OutputTokens => {
            push_varint(values.integer(column).ok_or_else(missing)? as u64, out);
        }
    }
    Ok(())
}

/// Appends a varint in its shortest form.
pub(super) fn push_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 & 0x7f | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Puts the length of what stands behind `start` before it.
pub(super) fn insert_length(start: usize, out: &mut Vec<u8>) {
    let mut length = Vec::with_capacity(10);
    push_varint((out.len() - start) as u64, &mut length);
    out.splice(start..start, length);
}
