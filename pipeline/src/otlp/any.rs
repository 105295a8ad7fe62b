//! OTLP's `AnyValue`, and the canonical JSON of arrays and key-value lists.

use super::model::{KeyValue, Text};
use crate::json_text::write_string;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A value.
#[derive(Debug, PartialEq, Default)]
pub enum Any<'a> {
    /// None was given.
    #[default]
    Empty,
    /// A string.
    String(Text<'a>),
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A double.
    Double(f64),
    /// Bytes.
    Bytes(Text<'a>),
    /// Values, in order.
    Array(Vec<Any<'a>>),
    /// Keys and values, in order.
    KvList(Vec<KeyValue<'a>>),
}

/// Appends `value` as canonical JSON: no blanks, the order as it came, non-ASCII as it is, escapes only where JSON
/// asks for them (the short ones, else lowercase `\u00xx`), lone surrogates as `\udxxx`, bytes in base64, doubles in
/// their shortest form, `"NaN"`, `"Infinity"` and `"-Infinity"` as OTLP writes them.
///
/// # Errors
/// A string that is neither UTF-8 nor WTF-8 has no JSON form.
pub fn write_json(value: &Any<'_>, out: &mut Vec<u8>) -> Result<(), &'static str> {
    match value {
        Any::Empty => out.extend_from_slice(b"null"),
        Any::String(text) => write_string(text, out)?,
        Any::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
        Any::Int(n) => out.extend_from_slice(n.to_string().as_bytes()),
        Any::Double(n) if n.is_nan() => out.extend_from_slice(b"\"NaN\""),
        Any::Double(n) if *n == f64::INFINITY => out.extend_from_slice(b"\"Infinity\""),
        Any::Double(n) if *n == f64::NEG_INFINITY => out.extend_from_slice(b"\"-Infinity\""),
        // Not `serde_json`'s: its form of large exponents changed between releases, and content is named by hash.
        Any::Double(n) => out.extend_from_slice(ryu::Buffer::new().format_finite(*n).as_bytes()),
        Any::Bytes(bytes) => {
            out.push(b'"');
            out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            out.push(b'"');
        }
        Any::Array(values) => {
            out.push(b'[');
            for (n, value) in values.iter().enumerate() {
                separate(n, out);
                write_json(value, out)?;
            }
            out.push(b']');
        }
        Any::KvList(pairs) => {
            out.push(b'{');
            for (n, pair) in pairs.iter().enumerate() {
                separate(n, out);
                write_string(&pair.key, out)?;
                out.push(b':');
                write_json(&pair.value, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn separate(n: usize, out: &mut Vec<u8>) {
    if n > 0 {
        out.push(b',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: &Any<'_>) -> String {
        let mut out = Vec::new();
        write_json(value, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn text(s: &str) -> Text<'_> {
        Text::Borrowed(s.as_bytes())
    }

    #[test]
    fn canonical_json_has_one_form() {
        let value = Any::KvList(vec![
            KeyValue { key: text("z"), value: Any::Array(vec![Any::Int(-1), Any::Double(1.0), Any::Double(1e16)]) },
            KeyValue { key: text("a"), value: Any::String(text("ü\u{1}\n\"\\/👋")) },
            KeyValue { key: text("a"), value: Any::Bytes(text("abc")) },
            KeyValue { key: text(""), value: Any::Empty },
            KeyValue {
                key: text("nan"),
                value: Any::Array(vec![Any::Double(f64::NAN), Any::Double(f64::NEG_INFINITY)]),
            },
        ]);
        assert_eq!(
            json(&value),
            r#"{"z":[-1,1.0,1e16],"a":"ü\u0001\n\"\\/👋","a":"YWJj","":null,"nan":["NaN","-Infinity"]}"#
        );
    }

    #[test]
    fn a_lone_surrogate_is_escaped_and_other_invalid_bytes_are_refused() {
        assert_eq!(json(&Any::String(Text::Borrowed(b"a\xed\xa0\xbdb"))), r#""a\ud83db""#);
        assert!(write_json(&Any::String(Text::Borrowed(b"\xff")), &mut Vec::new()).is_err());
    }
}
