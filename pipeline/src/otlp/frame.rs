//! Cutting a stream of bytes into whole records, whichever encoding it is in.

use super::element::Element;
use super::json_framer::JsonFramer;
use super::protobuf_framer::ProtobufFramer;
use crate::error::{InputError, Result};
use bytes::{Bytes, BytesMut};

/// What one record may need.
#[derive(Debug, Clone, Copy)]
pub struct FrameLimits {
    /// Bytes of a single span, log record, or other value of a document: memory is needed for a few of them.
    pub max_record_bytes: usize,
}

impl Default for FrameLimits {
    fn default() -> Self {
        Self { max_record_bytes: 64 << 20 }
    }
}

/// What a frame's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// A JSON object from a `spans` array.
    JsonSpan,
    /// A JSON object from a `logRecords` array.
    JsonLog,
    /// A protobuf message: a span or a log record, told by its fields.
    Protobuf,
}

/// One record, cut out.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Where it begins in the decompressed batch.
    pub offset: u64,
    /// What it is.
    pub encoding: Encoding,
    /// Its bytes.
    pub bytes: Bytes,
    /// What stands between it and the record before; empty unless the framer [keeps it](Framer::keeping_gaps).
    pub gap: Bytes,
    /// Where it stands; what its resource says is read only if gaps are kept.
    pub element: Element,
}

/// Consecutive records, enough of them to be worth a task.
#[derive(Debug)]
pub struct FrameBlock {
    /// Its place in the batch, from 0. The cuts between blocks depend on the batch alone, not on how it arrived.
    pub number: u64,
    /// The records.
    pub frames: Vec<Frame>,
}

/// A block is closed once it holds this much.
const BLOCK_BYTES: usize = 256 << 10;
/// Or so many records.
const BLOCK_RECORDS: usize = 4096;

/// Bytes of the batch that are not used up yet, and the records cut out so far.
pub(super) struct Window {
    pub(super) bytes: BytesMut,
    /// Where `bytes` begins in the batch.
    pub(super) base: u64,
    pub(super) limits: FrameLimits,
    /// The element of `resourceSpans` or `resourceLogs` that we are in.
    pub(super) element: Element,
    open: Vec<Frame>,
    open_bytes: usize,
    full: Vec<FrameBlock>,
    blocks: u64,
    /// What stood between records since the last one, if it is kept.
    gap: Option<BytesMut>,
    /// Why a record was passed over, if one was.
    passed_over: Option<InputError>,
}

impl Window {
    fn new(limits: FrameLimits) -> Self {
        Self {
            bytes: BytesMut::new(),
            base: 0,
            limits,
            element: Element::default(),
            open: vec![],
            open_bytes: 0,
            full: vec![],
            blocks: 0,
            gap: None,
            passed_over: None,
        }
    }

    /// True if nothing of the batch may be left out.
    pub(super) fn keeps_gaps(&self) -> bool {
        self.gap.is_some()
    }

    /// Drops `n` bytes from the front.
    pub(super) fn skip(&mut self, n: usize) {
        let skipped = self.take(n);
        if let Some(gap) = &mut self.gap {
            gap.extend_from_slice(&skipped);
            self.open_bytes += n;
        }
    }

    /// Cuts `n` bytes from the front.
    pub(super) fn take(&mut self, n: usize) -> Bytes {
        self.base += n as u64;
        self.bytes.split_to(n).freeze()
    }

    /// Cuts a record of `n` bytes from the front.
    pub(super) fn take_frame(&mut self, n: usize, encoding: Encoding) {
        let offset = self.base;
        let bytes = self.take(n);
        let gap = self.gap.as_mut().map(BytesMut::split).unwrap_or_default().freeze();
        self.open.push(Frame { offset, encoding, bytes, gap, element: self.element.clone() });
        self.open_bytes += n;
        if self.open_bytes >= BLOCK_BYTES || self.open.len() >= BLOCK_RECORDS {
            self.close_block();
        }
    }

    fn close_block(&mut self) {
        if !self.open.is_empty() {
            self.full.push(FrameBlock { number: self.blocks, frames: std::mem::take(&mut self.open) });
            self.open_bytes = 0;
            self.blocks += 1;
        }
    }

    /// An error at `at` bytes from the front.
    pub(super) fn error(&self, at: usize, reason: impl Into<String>) -> InputError {
        InputError::parse(self.base + at as u64, reason)
    }

    /// The record at the front is over the limit. Where gaps are kept it is part of one, and others may follow.
    pub(super) fn pass_over(&mut self) -> Result<(), InputError> {
        let reason = self.too_large();
        match self.keeps_gaps() {
            true => {
                self.passed_over.get_or_insert(reason);
                Ok(())
            }
            false => Err(reason),
        }
    }

    /// The error of a record, or another value, that is over the limit.
    pub(super) fn too_large(&self) -> InputError {
        let limit = self.limits.max_record_bytes;
        self.error(0, format!("a value of more than {limit} bytes begins here; MAX_SPAN_BYTES allows no more"))
    }
}

enum Walker {
    /// Not enough bytes yet to tell.
    Unknown,
    Json(JsonFramer),
    Protobuf(ProtobufFramer),
}

/// Walks a batch as its bytes arrive. Holds one record and what arrived behind it, never the batch.
pub struct Framer {
    window: Window,
    walker: Walker,
}

impl Framer {
    /// A framer at the beginning of a batch.
    pub fn new(limits: FrameLimits) -> Self {
        Self { window: Window::new(limits), walker: Walker::Unknown }
    }

    /// A framer whose frames also have what stands between them.
    pub fn keeping_gaps(limits: FrameLimits) -> Self {
        let mut framer = Self::new(limits);
        framer.window.gap = Some(BytesMut::new());
        framer
    }

    /// What has piled up since the last record, if it is more than `limit` bytes: whatever is ignored may be large.
    /// Blocks completed come before it.
    pub fn take_gap(&mut self, limit: usize) -> Option<Bytes> {
        let gap = self.window.gap.as_mut().filter(|gap| gap.len() > limit)?.split();
        self.window.close_block();
        Some(gap.freeze())
    }

    /// Why the first record that was passed over, and is part of a gap, was.
    pub fn passed_over(&self) -> Option<&InputError> {
        self.window.passed_over.as_ref()
    }

    /// Ends it early, or after its end: the blocks that are left, and what was pushed and is in no frame.
    pub fn into_rest(mut self) -> (Vec<FrameBlock>, Bytes) {
        self.window.close_block();
        let rest = match self.window.gap {
            Some(mut gap) if !gap.is_empty() => {
                gap.extend_from_slice(&self.window.bytes);
                gap
            }
            _ => self.window.bytes,
        };
        (self.window.full, rest.freeze())
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// If they are not OTLP, with the place.
    pub fn push(&mut self, piece: &[u8]) -> Result<()> {
        self.window.bytes.extend_from_slice(piece);
        self.walk()
    }

    /// Blocks completed since the last call.
    pub fn full_blocks(&mut self) -> Vec<FrameBlock> {
        std::mem::take(&mut self.window.full)
    }

    /// Ends the batch: the last blocks, and how many documents there were.
    ///
    /// # Errors
    /// If the batch ends in the middle, or is empty.
    pub fn finish(mut self) -> Result<(Vec<FrameBlock>, u64)> {
        let documents = self.end()?;
        Ok((self.into_rest().0, documents))
    }

    /// Says that no more bytes come; gives how many documents there were.
    ///
    /// # Errors
    /// If the batch ends in the middle, or is empty.
    pub fn end(&mut self) -> Result<u64> {
        if matches!(self.walker, Walker::Unknown) {
            self.choose(true)?;
            self.walk()?;
        }
        let documents = match &mut self.walker {
            Walker::Unknown => return Err(InputError::parse(0, "the batch is empty").into()),
            Walker::Json(json) => json.finish(&mut self.window)?,
            Walker::Protobuf(protobuf) => protobuf.finish(&self.window)?,
        };
        Ok(documents)
    }

    fn walk(&mut self) -> Result<()> {
        if matches!(self.walker, Walker::Unknown) {
            self.choose(false)?;
        }
        match &mut self.walker {
            Walker::Unknown => Ok(()),
            Walker::Json(json) => Ok(json.walk(&mut self.window)?),
            Walker::Protobuf(protobuf) => Ok(protobuf.walk(&mut self.window)?),
        }
    }

    /// Tells JSON from protobuf. A request in protobuf begins with the tag 0x0a, which is a line feed to JSON; what
    /// follows the blanks decides: JSON has `{` and then, blanks aside, `"` or `}`. So begins a resource of 34 bytes in
    /// 123 bytes of spans as well, but then with a tag that is a control character, which no JSON string holds.
    fn choose(&mut self, at_end: bool) -> Result<()> {
        const BOM: &[u8] = b"\xef\xbb\xbf";
        /// The beginning is looked at again with every piece until it tells, so it must not be endless.
        const BEGINNING: usize = 64 << 10;
        let bytes = &self.window.bytes[..self.window.bytes.len().min(BEGINNING)];
        if !at_end && bytes.len() < BOM.len() && BOM.starts_with(bytes) {
            return Ok(());
        }
        let text = bytes.strip_prefix(BOM).unwrap_or(bytes);
        let mut visible = text.iter().enumerate().filter(|(_, b)| !b.is_ascii_whitespace());
        let looks_like_json = match (visible.next(), visible.next()) {
            (None, _) => None,
            (Some((_, b'{')), None) => None,
            (Some((_, b'{')), Some((at, b'"'))) if bytes[0] == 0x0a => text.get(at + 1).map(|&next| next >= b' '),
            (Some((_, b'{')), Some((_, b'"' | b'}'))) => Some(true),
            (Some((_, b'{')), Some(_)) if bytes[0] == 0x0a => Some(false),
            (Some((_, b'{')), Some(_)) => Some(true),
            (Some(_), _) => Some(false),
        };
        let looks_like_json = match looks_like_json {
            None if at_end && text.iter().all(u8::is_ascii_whitespace) => return Ok(()),
            None if at_end => true,
            None if bytes.len() == BEGINNING => {
                return Err(self.window.error(0, "no document begins in the first 64 KiB").into());
            }
            None => return Ok(()),
            Some(known) => known,
        };
        if looks_like_json {
            let blank = bytes.len() - text.len();
            self.window.skip(blank);
            self.walker = Walker::Json(JsonFramer::default());
        } else if bytes[0] == 0x0a {
            self.walker = Walker::Protobuf(ProtobufFramer::default());
        } else {
            return Err(InputError::parse(0, "neither OTLP JSON nor OTLP protobuf (nor gzip nor zstd)").into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(input: &[u8], piece: usize) -> Result<(Vec<FrameBlock>, u64)> {
        let mut framer = Framer::new(FrameLimits::default());
        for piece in input.chunks(piece) {
            framer.push(piece)?;
        }
        framer.finish()
    }

    fn texts(input: &str) -> Vec<(String, u64)> {
        let whole = frames(input.as_bytes(), usize::MAX).unwrap();
        let bytewise = frames(input.as_bytes(), 1).unwrap();
        let read = |(blocks, _): &(Vec<FrameBlock>, u64)| -> Vec<(String, u64)> {
            let frames = blocks.iter().flat_map(|b| &b.frames);
            frames.map(|f| (String::from_utf8(f.bytes.to_vec()).unwrap(), f.offset)).collect()
        };
        assert_eq!(read(&whole), read(&bytewise), "the cuts depend on how the bytes arrive");
        assert_eq!(whole.1, bytewise.1);
        read(&whole)
    }

    fn error(input: &[u8]) -> String {
        let whole = frames(input, usize::MAX).unwrap_err().to_string();
        assert_eq!(whole, frames(input, 1).unwrap_err().to_string(), "{input:?}");
        whole
    }

    #[test]
    fn spans_and_log_records_are_cut_out_of_whatever_stands_around_them() {
        let doc = r#"{"resourceSpans":[{"resource":{"a":[1,{"x":"}]"}]},"scopeSpans":[{"scope":{},"spans":[{"a":"\"]}"}, {"b":[{}]}],"schemaUrl":"x"},{"spans":[]}]}],"unknown":null}"#;
        assert_eq!(texts(doc), [(r#"{"a":"\"]}"}"#.into(), 86), (r#"{"b":[{}]}"#.into(), 100)]);
        let logs = "\n {\"resourceLogs\" : [ { \"scopeLogs\":[{\"logRecords\":[ {} ] } ] } ] }\n";
        assert_eq!(texts(logs).len(), 1);
    }

    #[test]
    fn documents_may_follow_each_other_with_or_without_blanks() {
        let doc = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"n":1}]}]}]}"#;
        for joined in [format!("{doc}{doc}"), format!("{doc}\n{doc}\n"), format!("\u{feff}{doc} \r\n\t{doc}")] {
            assert_eq!(texts(&joined).len(), 2);
            assert_eq!(frames(joined.as_bytes(), 7).unwrap().1, 2);
        }
        assert_eq!(texts("{}").len(), 0);
    }

    #[test]
    fn what_is_not_otlp_is_refused_with_the_place() {
        for (input, expected) in [
            ("", "byte 0: the batch is empty"),
            (" \n ", "byte 0: the batch is empty"),
            ("hello", "byte 0: neither OTLP JSON nor OTLP protobuf (nor gzip nor zstd)"),
            ("[]", "byte 0: neither OTLP JSON nor OTLP protobuf (nor gzip nor zstd)"),
            (r#"{"a":1}"#, "byte 0: a JSON document without resourceSpans or resourceLogs is not OTLP"),
            (r#"{"resourceMetrics":[]}"#, "byte 1: metrics hold no content; send only traces and logs here"),
            (r#"{"resourceSpans":[{"#, "byte 19: the document is cut off"),
            (
                r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"a":"x"#,
                "byte 43: the document is cut off in a value that begins here",
            ),
            (r#"{"resourceSpans":{}}"#, "byte 17: resourceSpans is not an array"),
            (r#"{"resourceSpans":[1]}"#, "byte 18: expected an object, found `1`"),
            (r#"{"resourceSpans":[]}x"#, "byte 20: expected a document or the end, found `x`"),
            (r#"{"resourceSpans":[],"resourceSpans":[]}"#, "byte 20: resourceSpans stands twice in one object"),
            (
                r#"{"resourceSpans":[],"resourceLogs":[],"resourceSpans":[]}"#,
                "byte 38: resourceSpans stands twice in one object",
            ),
            ("{\"resourceSpans\":[],\"x\":[1,\n2,\n  tru]}", "byte 36: not JSON: expected ident"),
            (r#"{"resourceSpans":[] "b":1}"#, "byte 20: expected `,` or the end of the object or array, found `\"`"),
        ] {
            assert_eq!(error(input.as_bytes()), format!("parse, {expected}"), "{input}");
        }
    }

    #[test]
    fn values_that_are_skipped_must_be_json_too() {
        for broken in [
            r#"{"resourceSpans":[],"x":{]}}"#,
            r#"{"resourceSpans":[],"x":tru}"#,
            "{\"resourceSpans\":[],\"x\":\"\u{1}\"}",
        ] {
            assert!(error(broken.as_bytes()).contains("not JSON"), "{broken}: {}", error(broken.as_bytes()));
        }
        assert!(error(b"{\"resourceSpans\":[],\"x\":\"\xff\"}").contains("UTF-8"));
        let deep = format!(r#"{{"resourceSpans":[],"x":{}"#, "[".repeat(1000));
        assert!(error(deep.as_bytes()).contains("nested"));
    }

    #[test]
    fn a_record_over_the_limit_is_refused_before_it_is_held_in_memory() {
        let mut framer = Framer::new(FrameLimits { max_record_bytes: 1000 });
        framer.push(br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"a":""#).unwrap();
        let error = (0..100).find_map(|_| framer.push(&[b'x'; 100]).err()).unwrap().to_string();
        assert!(
            error.contains("byte 43: a value of more than 1000 bytes") && error.contains("MAX_SPAN_BYTES"),
            "{error}"
        );
    }
}
