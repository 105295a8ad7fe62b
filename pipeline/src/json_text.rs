//! JSON as it is written to the store and shown: values of our own, and strings that may hold lone surrogates.

use crate::error::{Error, Result};
use serde::Serialize;

/// A value of our own as compact JSON.
///
/// # Errors
/// None that is known: it is passed on all the same, since an object with nothing in it would be the worst outcome.
pub fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::io("writing JSON")(e.into()))
}

/// Appends a JSON string; WTF-8's lone surrogates become escapes.
///
/// # Errors
/// If the text is neither UTF-8 nor WTF-8.
pub fn write_string(text: &[u8], out: &mut Vec<u8>) -> Result<(), &'static str> {
    out.push(b'"');
    let mut rest = text;
    while !rest.is_empty() {
        let valid = match std::str::from_utf8(rest) {
            Ok(all) => all,
            // By the contract of `valid_up_to` this is UTF-8; if it were not, the rest below would be refused.
            Err(e) => std::str::from_utf8(&rest[..e.valid_up_to()]).unwrap_or_default(),
        };
        write_utf8(valid, out);
        rest = &rest[valid.len()..];
        if let [0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf, ..] = *rest {
            let unit = 0xd000 | (u32::from(second) & 0x3f) << 6 | (u32::from(third) & 0x3f);
            out.extend_from_slice(format!("\\u{unit:04x}").as_bytes());
            rest = &rest[3..];
        } else if !rest.is_empty() {
            return Err("holds a string that is not UTF-8");
        }
    }
    out.push(b'"');
    Ok(())
}

fn write_utf8(text: &str, out: &mut Vec<u8>) {
    let mut plain = 0;
    for (at, &byte) in text.as_bytes().iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            8 => b"\\b",
            9 => b"\\t",
            10 => b"\\n",
            12 => b"\\f",
            13 => b"\\r",
            0..0x20 => b"",
            _ => continue,
        };
        out.extend_from_slice(&text.as_bytes()[plain..at]);
        plain = at + 1;
        match escape {
            b"" => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.extend_from_slice(escape),
        }
    }
    out.extend_from_slice(&text.as_bytes()[plain..]);
}
