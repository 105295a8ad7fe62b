//! Walks OTLP JSON down to the records, byte by byte where it is structure and with `memchr` where it is text.

use super::element::Element;
use super::frame::{Encoding, Window};
use super::json::{place, resource};
use crate::error::InputError;
use crate::lanes::{BLOCK, Block, escaped, through_strings};
use memchr::memchr2;

/// What may come next.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Expect {
    Document,
    FirstKey,
    Key,
    Colon,
    Value,
    FirstElement,
    Element,
    /// `,` or the end of the object or array that we are in.
    AfterValue,
}

/// Which signal a structural array belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Signal {
    Spans,
    Logs,
}

/// Which structural keys an object had.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Had {
    spans: bool,
    logs: bool,
}

/// The way down: objects and arrays take turns. Level 1 is the document, 2 the array of resources, 3 a resource,
/// 4 the array of scopes, 5 a scope, 6 the array of records.
const RECORDS: usize = 6;
const RESOURCE: usize = 3;

/// The names of the arrays on the way, by the level of the object that holds them.
fn structural(level: usize, key: &[u8]) -> Option<Signal> {
    match (level, key) {
        (1, b"resourceSpans") | (3, b"scopeSpans" | b"instrumentationLibrarySpans") | (5, b"spans") => {
            Some(Signal::Spans)
        }
        (1, b"resourceLogs") | (3, b"scopeLogs" | b"instrumentationLibraryLogs") | (5, b"logRecords" | b"logs") => {
            Some(Signal::Logs)
        }
        _ => None,
    }
}

/// JSON nested deeper than this is refused (`serde_json`'s own limit).
const MAX_DEPTH: u32 = 120;

/// Where a walk stands between two calls.
pub(super) struct JsonFramer {
    expect: Expect,
    level: usize,
    signal: Signal,
    /// The key whose value is next, in an object.
    key: Vec<u8>,
    /// Per level, which structural keys the object had: a second one would be ambiguous.
    had: [Had; RECORDS + 1],
    /// The document had a key that is not OTLP's, or none at all.
    document_at: u64,
    document_keys: u32,
    documents: u64,
    skip: Option<Skip>,
}

impl Default for JsonFramer {
    fn default() -> Self {
        Self {
            expect: Expect::Document,
            level: 0,
            signal: Signal::Spans,
            key: Vec::new(),
            had: [Had::default(); RECORDS + 1],
            document_at: 0,
            document_keys: 0,
            documents: 0,
            skip: None,
        }
    }
}

/// A value whose end is being looked for; it begins at the window's front.
struct Skip {
    purpose: Purpose,
    /// Bytes looked at.
    seen: usize,
    depth: u32,
    in_string: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Purpose {
    Key,
    Ignore,
    Record(Encoding),
    /// A record that is over the limit.
    PassOver,
}

impl Skip {
    fn new(purpose: Purpose) -> Self {
        Self { purpose, seen: 0, depth: 0, in_string: false }
    }

    /// Looks on for the end. `None`: more bytes are needed. Brackets are counted, not matched: a record is read by
    /// `serde_json` afterwards, which matches them.
    fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        loop {
            self.skip_blocks(bytes);
            let stop = bytes.len().min(self.seen + BLOCK);
            if let Some(end) = self.end_before(stop, bytes)? {
                return Ok(Some(end));
            }
            // Before `stop` only a backslash is waited at, for what it escapes.
            if self.seen < stop || stop == bytes.len() {
                return Ok(None);
            }
        }
    }

    /// Looks on byte by byte, up to `stop`; strings are passed over to their end.
    fn end_before(&mut self, stop: usize, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        while self.seen < stop {
            if self.in_string {
                let Some(found) = memchr2(b'"', b'\\', &bytes[self.seen..]) else {
                    self.seen = bytes.len();
                    return Ok(None);
                };
                self.seen += found;
                if bytes[self.seen] == b'\\' {
                    if self.seen + 1 == bytes.len() {
                        return Ok(None);
                    }
                    self.seen += 2;
                    continue;
                }
                self.in_string = false;
                self.seen += 1;
                if self.depth == 0 {
                    return Ok(Some(self.seen));
                }
                continue;
            }
            match bytes[self.seen] {
                b'"' => self.in_string = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err("nested too deeply");
                    }
                }
                // The end of what holds a scalar.
                b'}' | b']' if self.depth == 0 => return Ok(Some(self.seen)),
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Ok(Some(self.seen + 1));
                    }
                }
                b',' | b' ' | b'\t' | b'\r' | b'\n' if self.depth == 0 => return Ok(Some(self.seen)),
                _ => {}
            }
            self.seen += 1;
        }
        Ok(None)
    }

    /// Passes over the next bytes, 64 at a time, as long as the value cannot end in them, nor become too deep.
    fn skip_blocks(&mut self, bytes: &[u8]) {
        while let Some(next) = bytes.get(self.seen..).and_then(<[u8]>::first_chunk::<BLOCK>) {
            let block = Block::new(next);
            let escaped = escaped(block.backslashes);
            let outside = !(through_strings(block.quotes & !escaped) ^ if self.in_string { u64::MAX } else { 0 });
            let [opens, closes] = [block.opens, block.closes].map(|brackets| (brackets & outside).count_ones());
            // Outside of strings a backslash escapes nothing.
            if block.backslashes & outside != 0 || closes >= self.depth || self.depth + opens > MAX_DEPTH {
                return;
            }
            self.depth = self.depth + opens - closes;
            self.in_string = outside >> (BLOCK - 1) == 0;
            // A backslash at the end is looked at again, with what it escapes.
            let is_cut = block.backslashes & !escaped & (1 << (BLOCK - 1)) != 0;
            self.seen += BLOCK - usize::from(is_cut);
        }
    }
}

impl JsonFramer {
    /// Goes as far as the bytes in the window allow.
    pub(super) fn walk(&mut self, window: &mut Window) -> Result<(), InputError> {
        loop {
            if let Some(skip) = &mut self.skip {
                let most = window.limits.max_record_bytes;
                let end = match skip.end(&window.bytes) {
                    Ok(end) => end,
                    Err(_) if skip.seen > most => return Err(window.too_large()),
                    Err(reason) => return Err(window.error(skip.seen, reason)),
                };
                if end.unwrap_or(window.bytes.len()) > most {
                    match skip.purpose {
                        Purpose::Record(_) => {
                            window.pass_over()?;
                            skip.purpose = Purpose::PassOver;
                        }
                        Purpose::PassOver => {}
                        Purpose::Key | Purpose::Ignore => return Err(window.too_large()),
                    }
                }
                match end {
                    Some(length) => {
                        let purpose = skip.purpose;
                        self.skip = None;
                        self.use_value(window, length, purpose)?;
                    }
                    None => {
                        if skip.purpose == Purpose::PassOver {
                            window.skip(std::mem::take(&mut skip.seen));
                        }
                        return Ok(());
                    }
                }
                continue;
            }
            let blank = window.bytes.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')).count();
            window.skip(blank);
            let Some(&byte) = window.bytes.first() else { return Ok(()) };
            self.step(window, byte)?;
        }
    }

    fn step(&mut self, window: &mut Window, byte: u8) -> Result<(), InputError> {
        let is_object = self.level % 2 == 1;
        match (self.expect, byte) {
            (Expect::Document, b'{') => {
                self.document_at = window.base;
                self.document_keys = 0;
                self.enter(window, Expect::FirstKey);
            }
            (Expect::FirstKey | Expect::Key, b'"') => self.skip = Some(Skip::new(Purpose::Key)),
            (Expect::FirstKey, b'}') => self.leave(window)?,
            (Expect::Colon, b':') => {
                window.skip(1);
                self.expect = Expect::Value;
            }
            (Expect::Value, _) => self.value(window, byte)?,
            (Expect::FirstElement | Expect::Element, b'{') if self.level == RECORDS => {
                let encoding = match self.signal {
                    Signal::Spans => Encoding::JsonSpan,
                    Signal::Logs => Encoding::JsonLog,
                };
                self.skip = Some(Skip::new(Purpose::Record(encoding)));
            }
            (Expect::FirstElement | Expect::Element, b'{') => self.enter(window, Expect::FirstKey),
            (Expect::FirstElement, b']') => self.leave(window)?,
            (Expect::AfterValue, b',') => {
                window.skip(1);
                self.expect = if is_object { Expect::Key } else { Expect::Element };
            }
            (Expect::AfterValue, b'}') if is_object => self.leave(window)?,
            (Expect::AfterValue, b']') if !is_object => self.leave(window)?,
            (expect, _) => return Err(unexpected(window, expect, byte)),
        }
        Ok(())
    }

    /// The value of `self.key` begins here.
    fn value(&mut self, window: &mut Window, byte: u8) -> Result<(), InputError> {
        let on_the_way = structural(self.level, &self.key).filter(|&signal| self.level == 1 || signal == self.signal);
        match (on_the_way, byte) {
            (Some(signal), b'[') => {
                self.signal = signal;
                self.enter(window, Expect::FirstElement);
            }
            // proto3's JSON: null is the default, here an empty array.
            (None, _) | (Some(_), b'n') => self.skip = Some(Skip::new(Purpose::Ignore)),
            (Some(_), _) => {
                let key = String::from_utf8_lossy(&self.key);
                return Err(window.error(0, format!("{key} is not an array")));
            }
        }
        Ok(())
    }

    fn enter(&mut self, window: &mut Window, expect: Expect) {
        window.skip(1);
        self.level += 1;
        if self.level == RESOURCE {
            window.element = Element::default();
        }
        self.had[self.level] = Had::default();
        self.expect = expect;
    }

    fn leave(&mut self, window: &mut Window) -> Result<(), InputError> {
        if self.level == 1 {
            if self.document_keys > 0 && self.had[1] == Had::default() {
                let reason = "a JSON document without resourceSpans or resourceLogs is not OTLP";
                return Err(InputError::parse(self.document_at, reason));
            }
            self.documents += 1;
        }
        if self.level == RESOURCE {
            window.element.end();
        }
        window.skip(1);
        self.level -= 1;
        self.expect = if self.level == 0 { Expect::Document } else { Expect::AfterValue };
        Ok(())
    }

    /// A value's end was found.
    fn use_value(&mut self, window: &mut Window, length: usize, purpose: Purpose) -> Result<(), InputError> {
        if let Purpose::Record(encoding) = purpose {
            window.take_frame(length, encoding);
            self.expect = Expect::AfterValue;
            return Ok(());
        }
        if purpose == Purpose::PassOver {
            window.skip(length);
            self.expect = Expect::AfterValue;
            return Ok(());
        }
        let text = std::str::from_utf8(&window.bytes[..length])
            .map_err(|e| window.error(e.valid_up_to(), "not UTF-8, so not JSON"))?;
        if purpose == Purpose::Ignore {
            serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|e| {
                let (at, reason) = place(text.as_bytes(), &e);
                window.error(at, format!("not JSON: {reason}"))
            })?;
            if self.level == RESOURCE && self.key == b"resource" && window.keeps_gaps() {
                window.element.tell(resource(text));
            }
            window.skip(length);
            self.expect = Expect::AfterValue;
            return Ok(());
        }
        self.key =
            serde_json::from_str::<String>(text).map_err(|e| window.error(0, format!("not JSON: {e}")))?.into_bytes();
        if self.level == 1 {
            self.document_keys += 1;
            if self.key == b"resourceMetrics" {
                return Err(window.error(0, "metrics hold no content; send only traces and logs here"));
            }
        }
        if let Some(signal) = structural(self.level, &self.key) {
            let had = match signal {
                Signal::Spans => &mut self.had[self.level].spans,
                Signal::Logs => &mut self.had[self.level].logs,
            };
            if std::mem::replace(had, true) {
                let key = String::from_utf8_lossy(&self.key);
                return Err(window.error(0, format!("{key} stands twice in one object")));
            }
        }
        window.skip(length);
        self.expect = Expect::Colon;
        Ok(())
    }

    /// Ends the batch; gives the number of documents.
    pub(super) fn finish(&mut self, window: &mut Window) -> Result<u64, InputError> {
        match (&self.skip, self.expect) {
            (Some(_), _) => Err(window.error(0, "the document is cut off in a value that begins here")),
            (None, Expect::Document) => Ok(self.documents),
            (None, _) => Err(window.error(0, "the document is cut off")),
        }
    }
}

fn unexpected(window: &Window, expect: Expect, byte: u8) -> InputError {
    let wanted = match expect {
        Expect::Document => "a document or the end",
        Expect::FirstKey => "a key or `}`",
        Expect::Key => "a key",
        Expect::Colon => "`:`",
        Expect::Value => "a value",
        Expect::FirstElement | Expect::Element => "an object",
        Expect::AfterValue => "`,` or the end of the object or array",
    };
    let found = match byte {
        0x20..0x7f => format!("`{}`", char::from(byte)),
        _ => format!("byte {byte:#04x}"),
    };
    window.error(0, format!("expected {wanted}, found {found}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a value consists of, well-formed or not.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: &[&[u8]] = &[
            b"{",
            b"[",
            b"}",
            b"]",
            b"\"",
            b"\\",
            b"\\\"",
            b"\"a long string, with [brackets] and {braces} in it, and an escaped \\\" quote\"",
            b"{\"key\":[1,2,3]}",
            b",",
            b" 12.5 ",
            b"\xf0\x9f\x98\x80",
        ];
        let piece = proptest::sample::select(PIECES);
        proptest::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn by_blocks_a_value_ends_where_it_ends_byte_by_byte(pieces in pieces(), cut in any::<prop::sample::Index>()) {
            let bytes = [&b"{"[..], &pieces].concat();
            let mut by_byte = Skip::new(Purpose::Ignore);
            let expected = by_byte.end_before(bytes.len(), &bytes);
            let mut by_block = Skip::new(Purpose::Ignore);
            // What came first need not end where a block does.
            let cut = cut.index(bytes.len());
            let early = by_block.end(&bytes[..cut]);
            let found = if early == Ok(None) { by_block.end(&bytes) } else { early };
            prop_assert_eq!(found, expected);
            prop_assert_eq!(by_block.seen, by_byte.seen);
        }
    }
}
