//! Reads a record in OTLP JSON (OTLP specification, "JSON Protobuf Encoding").

use super::any::Any;
use super::element::Resource;
use super::model::{DecodeError, KeyValue, MaybeId, RawEvent, RawLog, RawSpan, Text, saturated};
use crate::ids::{Id, SpanId};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, de::IgnoredAny};
use std::borrow::Cow;
use std::fmt;

/// Reads a span.
pub(super) fn span(bytes: &[u8]) -> Result<RawSpan<'_>, DecodeError> {
    let json: Span<'_> = read(bytes)?;
    Ok(RawSpan {
        trace_id: id(&json.trace_id),
        span_id: id(&json.span_id),
        parent_span_id: optional_id(&json.parent_span_id),
        name: json.name.0,
        start: json.start_time_unix_nano.0,
        end: json.end_time_unix_nano.0,
        attributes: key_values(json.attributes),
        dropped_attributes: saturated(json.dropped_attributes_count.0),
        events: json
            .events
            .0
            .into_iter()
            .map(|e| RawEvent { name: e.name.0, attributes: key_values(e.attributes) })
            .collect(),
    })
}

/// Reads a log record.
pub(super) fn log(bytes: &[u8]) -> Result<RawLog<'_>, DecodeError> {
    let json: Log<'_> = read(bytes)?;
    let (time, observed) = (json.time_unix_nano.0, json.observed_time_unix_nano.0);
    Ok(RawLog {
        trace_id: id(&json.trace_id),
        span_id: optional_id(&json.span_id),
        event_name: json.event_name.0,
        time: if time == 0 { observed } else { time },
        body: json.body,
        attributes: key_values(json.attributes),
        dropped_attributes: saturated(json.dropped_attributes_count.0),
    })
}

/// Reads a resource; one that is not as OTLP has it says nothing.
pub(super) fn resource(json: &str) -> Resource {
    #[derive(Deserialize)]
    struct Attributes<'a> {
        #[serde(borrow, default)]
        attributes: OrNull<Vec<JsonKeyValue<'a>>>,
    }
    match serde_json::from_str::<Option<Attributes<'_>>>(json) {
        Ok(Some(resource)) => Resource::new(&key_values(resource.attributes)),
        _ => Resource::default(),
    }
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, DecodeError> {
    if let Err(e) = std::str::from_utf8(bytes) {
        return Err(DecodeError { at: e.valid_up_to(), reason: "not UTF-8, so not JSON".into() });
    }
    serde_json::from_slice(bytes).map_err(|e| {
        let (at, reason) = place(bytes, &e);
        DecodeError { at, reason: format!("not an OTLP record: {reason}") }
    })
}

/// Where in `bytes` an error is, and what it says without its line and column: they count from the beginning of a
/// piece of the batch, and would mislead.
pub(super) fn place(bytes: &[u8], error: &serde_json::Error) -> (usize, String) {
    let lines = bytes.split_inclusive(|&b| b == b'\n').take(error.line().saturating_sub(1));
    let at = lines.map(<[u8]>::len).sum::<usize>() + error.column().saturating_sub(1);
    let text = error.to_string();
    let reason = text.rsplit_once(" at line ").map_or(text.as_str(), |(reason, _)| reason);
    (at, without_value(reason))
}

/// An error without the value that it quotes: reasons are logged, and the value may be somebody's prompt.
fn without_value(reason: &str) -> String {
    match reason.rsplit_once(", expected ") {
        Some((found, expected)) => {
            let kind = found.split(['"', '`']).next().unwrap_or(found).trim_end();
            format!("{kind}, expected {expected}")
        }
        None => reason.to_owned(),
    }
}

fn id<const N: usize>(hex: &JsonText<'_>) -> MaybeId<Id<N>> {
    if hex.0.is_empty() { Err("missing".into()) } else { Id::from_hex(&hex.0) }
}

/// An id of zeros is none: so some producers write that a span has no parent.
fn optional_id(hex: &JsonText<'_>) -> MaybeId<Option<SpanId>> {
    let is_none = hex.0.is_empty() || *hex.0 == *b"0000000000000000";
    if is_none { Ok(None) } else { Id::from_hex(&hex.0).map(Some) }
}

fn key_values<'a>(list: OrNull<Vec<JsonKeyValue<'a>>>) -> Vec<KeyValue<'a>> {
    list.0.into_iter().map(|pair| KeyValue { key: pair.key.0, value: pair.value }).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Span<'a> {
    #[serde(borrow)]
    trace_id: JsonText<'a>,
    #[serde(borrow)]
    span_id: JsonText<'a>,
    #[serde(borrow)]
    parent_span_id: JsonText<'a>,
    #[serde(borrow)]
    name: JsonText<'a>,
    start_time_unix_nano: Unsigned,
    end_time_unix_nano: Unsigned,
    #[serde(borrow)]
    attributes: OrNull<Vec<JsonKeyValue<'a>>>,
    dropped_attributes_count: Unsigned,
    #[serde(borrow)]
    events: OrNull<Vec<Event<'a>>>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, default)]
    name: JsonText<'a>,
    #[serde(borrow, default)]
    attributes: OrNull<Vec<JsonKeyValue<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Log<'a> {
    #[serde(borrow)]
    trace_id: JsonText<'a>,
    #[serde(borrow)]
    span_id: JsonText<'a>,
    #[serde(borrow)]
    event_name: JsonText<'a>,
    time_unix_nano: Unsigned,
    observed_time_unix_nano: Unsigned,
    #[serde(borrow)]
    body: Any<'a>,
    #[serde(borrow)]
    attributes: OrNull<Vec<JsonKeyValue<'a>>>,
    dropped_attributes_count: Unsigned,
}

#[derive(Deserialize)]
struct JsonKeyValue<'a> {
    #[serde(borrow, default)]
    key: JsonText<'a>,
    #[serde(borrow, default)]
    value: Any<'a>,
}

/// A value whose `null` is its default, as proto3's JSON has it.
struct OrNull<T>(T);

impl<T: Default> Default for OrNull<T> {
    fn default() -> Self {
        Self(T::default())
    }
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for OrNull<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Option::deserialize(deserializer)?.unwrap_or_default()))
    }
}

/// A string's bytes. `serde_json` hands strings out as bytes where it is asked to, and only then keeps lone
/// surrogates (as WTF-8) instead of refusing them.
#[derive(Default)]
struct JsonText<'a>(Text<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for JsonText<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Text<'de>, E> {
                Ok(Cow::Borrowed(bytes))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Text<'de>, E> {
                Ok(Cow::Owned(bytes.to_vec()))
            }

            fn visit_unit<E>(self) -> Result<Text<'de>, E> {
                Ok(Cow::Borrowed(b""))
            }

            // `deserialize_bytes` takes an array for bytes; OTLP does not.
            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Text<'de>, A::Error> {
                Err(de::Error::invalid_type(Unexpected::Seq, &self))
            }
        }
        deserializer.deserialize_bytes(TextVisitor).map(JsonText)
    }
}

/// A whole number that may stand as a string (64-bit integers do).
#[derive(Default)]
struct Unsigned(u64);

impl<'de> Deserialize<'de> for Unsigned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form<'a> {
            Number(u64),
            Text(Cow<'a, str>),
            Null,
        }
        match Form::deserialize(deserializer) {
            Ok(Form::Number(n)) => Ok(Self(n)),
            Ok(Form::Text(text)) => {
                text.parse().map(Self).map_err(|_| de::Error::invalid_value(Unexpected::Str(&text), &"a whole number"))
            }
            Ok(Form::Null) => Ok(Self(0)),
            Err(_) => Err(de::Error::custom("expected a whole number, as a number or a string")),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Any<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyVisitor;
        impl<'de> Visitor<'de> for AnyVisitor {
            type Value = Any<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an AnyValue object")
            }

            fn visit_unit<E>(self) -> Result<Any<'de>, E> {
                Ok(Any::Empty)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Any<'de>, A::Error> {
                let mut value = None;
                while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                    let Some(read) = map.next_value_seed(AnyOf(&key))? else { continue };
                    if value.replace(read).is_some() {
                        return Err(de::Error::custom("an AnyValue with two values"));
                    }
                }
                Ok(value.unwrap_or_default())
            }
        }
        deserializer.deserialize_any(AnyVisitor)
    }
}

/// The value of one key of an `AnyValue`; `None` for `null` and for keys that OTLP does not know.
struct AnyOf<'k>(&'k str);

impl<'de> DeserializeSeed<'de> for AnyOf<'_> {
    type Value = Option<Any<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        #[derive(Deserialize, Default)]
        struct Values<T> {
            #[serde(default = "Vec::new")]
            values: Vec<T>,
        }
        Ok(match self.0 {
            "stringValue" => Some(Any::String(JsonText::deserialize(deserializer)?.0)),
            "boolValue" => Option::deserialize(deserializer)?.map(Any::Bool),
            "intValue" => Option::<Integer>::deserialize(deserializer)?.map(|n| Any::Int(n.0)),
            "doubleValue" => Option::<Double>::deserialize(deserializer)?.map(|n| Any::Double(n.0)),
            "bytesValue" => Some(Any::Bytes(Cow::Owned(decode_base64(&JsonText::deserialize(deserializer)?.0)?))),
            "arrayValue" => Option::<Values<Any<'de>>>::deserialize(deserializer)?.map(|list| Any::Array(list.values)),
            "kvlistValue" => Option::<Values<JsonKeyValue<'de>>>::deserialize(deserializer)?
                .map(|list| Any::KvList(key_values(OrNull(list.values)))),
            _ => {
                IgnoredAny::deserialize(deserializer)?;
                None
            }
        })
    }
}

struct Integer(i64);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form<'a> {
            Number(i64),
            Text(Cow<'a, str>),
        }
        let number = match Form::deserialize(deserializer) {
            Ok(Form::Number(n)) => Some(n),
            Ok(Form::Text(text)) => text.parse().ok(),
            Err(_) => None,
        };
        number.map(Self).ok_or_else(|| de::Error::custom("expected an integer, as a number or a string"))
    }
}

struct Double(f64);

impl<'de> Deserialize<'de> for Double {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form<'a> {
            Number(f64),
            Text(Cow<'a, str>),
        }
        let number = match Form::deserialize(deserializer) {
            Ok(Form::Number(n)) => Some(n),
            // "NaN", "Infinity" and "-Infinity" too.
            Ok(Form::Text(text)) => text.parse().ok(),
            Err(_) => None,
        };
        number.map(Self).ok_or_else(|| de::Error::custom("expected a number, as a number or a string"))
    }
}

/// Either alphabet, with or without padding: proto3's JSON allows them all.
fn decode_base64<E: de::Error>(text: &[u8]) -> Result<Vec<u8>, E> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let standard: Vec<u8> = text
        .iter()
        .map(|&c| match c {
            b'-' => b'+',
            b'_' => b'/',
            c => c,
        })
        .collect();
    GeneralPurpose::new(&STANDARD, LENIENT).decode(standard).map_err(|e| E::custom(format!("bytesValue: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(value: &str) -> Any<'static> {
        let json = format!(r#"{{"attributes":[{{"key":"k","value":{value}}}]}}"#);
        let leaked: &'static str = Box::leak(json.into_boxed_str());
        span(leaked.as_bytes()).unwrap().attributes.remove(0).value
    }

    fn refused(record: &str) -> DecodeError {
        span(record.as_bytes()).unwrap_err()
    }

    #[test]
    fn an_error_does_not_quote_what_it_found() {
        let reason = |json: &[u8]| super::span(json).unwrap_err().reason;
        let kind = reason(br#"{"attributes":["secret, expected `secret`"]}"#);
        assert_eq!(kind, "not an OTLP record: invalid type: string, expected struct JsonKeyValue");
        let number = reason(br#"{"attributes":[4711]}"#);
        assert_eq!(number, "not an OTLP record: invalid type: integer, expected struct JsonKeyValue");
        let time = reason(br#"{"startTimeUnixNano":"secret"}"#);
        assert_eq!(time, "not an OTLP record: invalid value: string, expected a whole number");
    }

    #[test]
    fn strings_are_read_to_their_exact_bytes() {
        for (json, expected) in [
            (r#""""#, &b""[..]),
            (r#"" a\n\r\n\t\u0000 ""#, b" a\n\r\n\t\0 "),
            (r#""\ud83d\ude00\u00e9é""#, "😀éé".as_bytes()),
            (r#""\ud83d""#, b"\xed\xa0\xbd"),
            (r#""\ude00 \ud83dx""#, b"\xed\xb8\x80 \xed\xa0\xbdx"),
            (r#""\\ud83d""#, b"\\ud83d"),
        ] {
            let read = attribute(&format!(r#"{{"stringValue":{json}}}"#));
            assert_eq!(read, Any::String(Cow::Borrowed(expected)), "{json}");
        }
    }

    #[test]
    fn every_kind_of_value_is_read_in_every_form_that_otlp_allows() {
        assert_eq!(attribute(r#"{"intValue":"-7"}"#), Any::Int(-7));
        assert_eq!(attribute(r#"{"intValue":7}"#), Any::Int(7));
        assert_eq!(attribute(r#"{"doubleValue":"Infinity"}"#), Any::Double(f64::INFINITY));
        assert_eq!(attribute(r#"{"doubleValue":1}"#), Any::Double(1.0));
        assert_eq!(attribute(r#"{"boolValue":true}"#), Any::Bool(true));
        assert_eq!(attribute(r#"{"bytesValue":"_-8"}"#), Any::Bytes(Cow::Borrowed(b"\xff\xef")));
        assert_eq!(attribute(r#"{"arrayValue":{}}"#), Any::Array(vec![]));
        assert_eq!(
            attribute(r#"{"kvlistValue":{"values":[{"key":"a"}]}}"#),
            Any::KvList(vec![KeyValue { key: Cow::Borrowed(b"a"), value: Any::Empty }])
        );
        assert_eq!(attribute("{}"), Any::Empty);
        assert_eq!(attribute("null"), Any::Empty);
        assert_eq!(attribute(r#"{"newValue":[1],"intValue":"1"}"#), Any::Int(1));
    }

    #[test]
    fn what_is_ambiguous_or_of_the_wrong_type_is_refused_with_the_place() {
        let twice = refused(r#"{"name":"a","name":"b"}"#);
        assert_eq!(twice.reason, "not an OTLP record: duplicate field `name`");
        assert_eq!(twice.at, 17);
        for record in [
            r#"{"attributes":[{"key":"k","key":"l"}]}"#,
            r#"{"attributes":[{"value":{"intValue":1,"stringValue":""}}]}"#,
            r#"{"attributes":[{"value":{"stringValue":"a","stringValue":"a"}}]}"#,
            r#"{"attributes":[{"value":{"stringValue":1}}]}"#,
            r#"{"attributes":[{"value":{"stringValue":[1]}}]}"#,
            r#"{"startTimeUnixNano":"-1"}"#,
            r#"{"startTimeUnixNano":1.5}"#,
            r#"{"name":"\u12"}"#,
            r#"{"name":"a"} "#.trim_end().trim_end_matches('}'),
        ] {
            refused(record);
        }
        assert_eq!(span(b"{\"name\":\"\xff\"}").unwrap_err().at, 9);
    }

    #[test]
    fn ids_are_kept_with_what_is_wrong_with_them() {
        let read = span(br#"{"traceId":"44E0AA00000000000000000000000001","spanId":"12"}"#).unwrap();
        assert_eq!(read.trace_id.unwrap().to_string(), "44e0aa00000000000000000000000001");
        assert_eq!(read.span_id, Err("2 hex digits instead of 16".into()));
        assert_eq!(read.parent_span_id, Ok(None));
        let root = span(br#"{"spanId":"0000000000000000","parentSpanId":"0000000000000000"}"#).unwrap();
        assert!(root.span_id.is_err());
        assert_eq!(root.parent_span_id, Ok(None));
    }
}
