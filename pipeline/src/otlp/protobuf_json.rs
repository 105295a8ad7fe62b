//! OTLP protobuf as OTLP JSON: proto3's JSON with OTLP's own rules, by which ids are hex and enums are numbers
//! (opentelemetry-proto, `docs/specification.md`, "JSON Protobuf Encoding").
//!
//! One table a message says how each field is called and written. What stands in no table, or what JSON cannot hold, is
//! counted in [`Losses`].

use super::model::DecodeError;
use super::protobuf::{MAX_DEPTH, Message, Value};
use crate::json_text::write_string;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// What the JSON does not say.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Losses {
    /// Fields that no table has, or that are not written as they should be.
    pub unknown_fields: u64,
    /// Values of a field that can have one only; the last counts.
    pub repeated: u64,
    /// Texts with bytes that are not UTF-8, each of which became U+FFFD.
    pub texts: u64,
}

impl Losses {
    /// True if the JSON says everything.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl std::ops::AddAssign for Losses {
    fn add_assign(&mut self, other: Self) {
        self.unknown_fields += other.unknown_fields;
        self.repeated += other.repeated;
        self.texts += other.texts;
    }
}

/// A message.
pub struct Schema {
    /// In the order in which they are written.
    fields: &'static [Field],
    /// Only one of them can be there.
    is_one_of: bool,
}

struct Field {
    number: u32,
    name: &'static str,
    kind: Kind,
    is_list: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Hex,
    Base64,
    Bool,
    /// An enum, too.
    Int32,
    Uint32,
    Int64,
    Fixed32,
    Fixed64,
    Double,
    Message(&'static Schema),
}

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, is_list: false }
}

const fn list(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, is_list: true }
}

const fn message(fields: &'static [Field]) -> Schema {
    Schema { fields, is_one_of: false }
}

static ANY_VALUE: Schema = Schema {
    fields: &[
        one(1, "stringValue", Kind::Text),
        one(2, "boolValue", Kind::Bool),
        one(3, "intValue", Kind::Int64),
        one(4, "doubleValue", Kind::Double),
        one(5, "arrayValue", Kind::Message(&ARRAY)),
        one(6, "kvlistValue", Kind::Message(&KEY_VALUE_LIST)),
        one(7, "bytesValue", Kind::Base64),
    ],
    is_one_of: true,
};
static ARRAY: Schema = message(&[list(1, "values", Kind::Message(&ANY_VALUE))]);
static KEY_VALUE_LIST: Schema = message(&[list(1, "values", Kind::Message(&KEY_VALUE))]);
static KEY_VALUE: Schema = message(&[one(1, "key", Kind::Text), one(2, "value", Kind::Message(&ANY_VALUE))]);

/// A span.
pub static SPAN: Schema = message(&[
    one(1, "traceId", Kind::Hex),
    one(2, "spanId", Kind::Hex),
    one(3, "traceState", Kind::Text),
    one(4, "parentSpanId", Kind::Hex),
    one(16, "flags", Kind::Fixed32),
    one(5, "name", Kind::Text),
    one(6, "kind", Kind::Int32),
    one(7, "startTimeUnixNano", Kind::Fixed64),
    one(8, "endTimeUnixNano", Kind::Fixed64),
    list(9, "attributes", Kind::Message(&KEY_VALUE)),
    one(10, "droppedAttributesCount", Kind::Uint32),
    list(11, "events", Kind::Message(&EVENT)),
    one(12, "droppedEventsCount", Kind::Uint32),
    list(13, "links", Kind::Message(&LINK)),
    one(14, "droppedLinksCount", Kind::Uint32),
    one(15, "status", Kind::Message(&STATUS)),
]);
static EVENT: Schema = message(&[
    one(1, "timeUnixNano", Kind::Fixed64),
    one(2, "name", Kind::Text),
    list(3, "attributes", Kind::Message(&KEY_VALUE)),
    one(4, "droppedAttributesCount", Kind::Uint32),
]);
static LINK: Schema = message(&[
    one(1, "traceId", Kind::Hex),
    one(2, "spanId", Kind::Hex),
    one(3, "traceState", Kind::Text),
    list(4, "attributes", Kind::Message(&KEY_VALUE)),
    one(5, "droppedAttributesCount", Kind::Uint32),
    one(6, "flags", Kind::Fixed32),
]);
static STATUS: Schema = message(&[one(2, "message", Kind::Text), one(3, "code", Kind::Int32)]);

/// A log record.
pub static LOG: Schema = message(&[
    one(1, "timeUnixNano", Kind::Fixed64),
    one(11, "observedTimeUnixNano", Kind::Fixed64),
    one(2, "severityNumber", Kind::Int32),
    one(3, "severityText", Kind::Text),
    one(12, "eventName", Kind::Text),
    one(5, "body", Kind::Message(&ANY_VALUE)),
    list(6, "attributes", Kind::Message(&KEY_VALUE)),
    one(7, "droppedAttributesCount", Kind::Uint32),
    one(8, "flags", Kind::Fixed32),
    one(9, "traceId", Kind::Hex),
    one(10, "spanId", Kind::Hex),
]);

/// What `ResourceSpans` and `ResourceLogs` have beside their scopes.
pub static RESOURCE_GROUP: Schema =
    message(&[one(1, "resource", Kind::Message(&RESOURCE)), one(3, "schemaUrl", Kind::Text)]);
static RESOURCE: Schema = message(&[
    list(1, "attributes", Kind::Message(&KEY_VALUE)),
    one(2, "droppedAttributesCount", Kind::Uint32),
    list(3, "entityRefs", Kind::Message(&ENTITY_REF)),
]);
static ENTITY_REF: Schema = message(&[
    one(1, "schemaUrl", Kind::Text),
    one(2, "type", Kind::Text),
    list(3, "idKeys", Kind::Text),
    list(4, "descriptionKeys", Kind::Text),
]);

/// What `ScopeSpans` and `ScopeLogs` have beside their records.
pub static SCOPE_GROUP: Schema = message(&[one(1, "scope", Kind::Message(&SCOPE)), one(3, "schemaUrl", Kind::Text)]);
static SCOPE: Schema = message(&[
    one(1, "name", Kind::Text),
    one(2, "version", Kind::Text),
    list(3, "attributes", Kind::Message(&KEY_VALUE)),
    one(4, "droppedAttributesCount", Kind::Uint32),
]);

/// Appends a message's members in JSON, without the braces, and gives how many there are. A field that is not there is
/// no member; one that is there with its default value is.
///
/// # Errors
/// If the message is broken, or nested too deeply; then some of it was appended.
pub fn write_members(
    schema: &Schema,
    bytes: &[u8],
    out: &mut Vec<u8>,
    losses: &mut Losses,
) -> Result<usize, DecodeError> {
    members(schema, Message::new(bytes), out, losses)
}

fn members(
    schema: &Schema,
    mut message: Message<'_>,
    out: &mut Vec<u8>,
    losses: &mut Losses,
) -> Result<usize, DecodeError> {
    if message.depth > MAX_DEPTH {
        return Err(message.error("nested too deeply"));
    }
    // Places in the table, and the values: writers are free in the order of fields.
    let mut found: Vec<(usize, Value<'_>)> = Vec::new();
    while let Some((number, value)) = message.next()? {
        let known = schema.fields.iter().position(|field| field.number == number && field.kind.is_written_as(&value));
        let Some(place) = known else {
            losses.unknown_fields += 1;
            continue;
        };
        if schema.is_one_of && found.pop().is_some() {
            losses.repeated += 1;
        }
        found.push((place, value));
    }
    found.sort_by_key(|&(place, _)| place);
    let mut count = 0;
    for same in found.chunk_by(|(one, _), (other, _)| one == other) {
        let [(place, _), ..] = same else { continue };
        let field = &schema.fields[*place];
        if count > 0 {
            out.push(b',');
        }
        count += 1;
        out.extend_from_slice(format!("\"{}\":", field.name).as_bytes());
        if field.is_list {
            out.push(b'[');
            for (at, (_, value)) in same.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write(field.kind, value, out, losses)?;
            }
            out.push(b']');
        } else if let [before @ .., (_, last)] = same {
            losses.repeated += before.len() as u64;
            write(field.kind, last, out, losses)?;
        }
    }
    Ok(count)
}

impl Kind {
    fn is_written_as(self, value: &Value<'_>) -> bool {
        match self {
            Self::Text | Self::Hex | Self::Base64 | Self::Message(_) => matches!(value, Value::Len(_)),
            Self::Bool | Self::Int32 | Self::Uint32 | Self::Int64 => matches!(value, Value::Varint(_)),
            Self::Fixed32 => matches!(value, Value::I32(_)),
            Self::Fixed64 | Self::Double => matches!(value, Value::I64(_)),
        }
    }
}

fn write(kind: Kind, value: &Value<'_>, out: &mut Vec<u8>, losses: &mut Losses) -> Result<(), DecodeError> {
    let quoted = |text: String| format!("\"{text}\"");
    let text = match (kind, *value) {
        (Kind::Text, Value::Len(text)) => {
            write_text(text.bytes, out, losses);
            return Ok(());
        }
        (Kind::Message(schema), Value::Len(message)) => {
            out.push(b'{');
            members(schema, message, out, losses)?;
            out.push(b'}');
            return Ok(());
        }
        (Kind::Hex, Value::Len(id)) => quoted(id.bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        (_, Value::Len(bytes)) => quoted(STANDARD.encode(bytes.bytes)),
        (Kind::Bool, Value::Varint(number)) => (number != 0).to_string(),
        // Protobuf's own way with numbers that are too long for their type.
        (Kind::Int32, Value::Varint(number)) => (number as i32).to_string(),
        (Kind::Uint32, Value::Varint(number)) => (number as u32).to_string(),
        (_, Value::Varint(number)) => quoted((number as i64).to_string()),
        (Kind::Double, Value::I64(bits)) => double(f64::from_bits(bits)),
        (_, Value::I64(number)) => quoted(number.to_string()),
        (_, Value::I32(number)) => number.to_string(),
    };
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

fn write_text(text: &[u8], out: &mut Vec<u8>, losses: &mut Losses) {
    let start = out.len();
    if write_string(text, out).is_err() {
        losses.texts += 1;
        out.truncate(start);
        // What is UTF-8 can be written.
        let _ = write_string(String::from_utf8_lossy(text).as_bytes(), out);
    }
}

fn double(number: f64) -> String {
    match number {
        _ if number.is_nan() => "\"NaN\"".into(),
        f64::INFINITY => "\"Infinity\"".into(),
        f64::NEG_INFINITY => "\"-Infinity\"".into(),
        _ => ryu::Buffer::new().format_finite(number).into(),
    }
}
