//! Walks OTLP protobuf down to the records.
//!
//! `ExportTraceServiceRequest` and `ExportLogsServiceRequest` have the same frame numbers: resources are field 1 of
//! the request, scopes field 2 of a resource, records field 2 of a scope (opentelemetry-proto, `trace/v1` and
//! `logs/v1`). Which of the two it is, is told by the record's own fields.

use super::element::Element;
use super::frame::{Encoding, Window};
use super::protobuf::{Tag, WireType, resource, varint};
use crate::error::InputError;

/// The field that leads on, by level: 0 the request, 1 a resource, 2 a scope.
const WAY_DOWN: [u32; 3] = [1, 2, 2];

/// The field of a resource's element (level 1) that is the resource.
const RESOURCE: u32 = 1;

/// Where a walk stands between two calls.
#[derive(Default)]
pub(super) struct ProtobufFramer {
    /// Where the messages that we are in end, outermost first, as offsets of the batch.
    ends: Vec<u64>,
    /// Bytes of an unknown field, or of a record that is over the limit, still to be passed over.
    ignore: u64,
    documents: u64,
}

impl ProtobufFramer {
    /// Goes as far as the bytes in the window allow.
    pub(super) fn walk(&mut self, window: &mut Window) -> Result<(), InputError> {
        loop {
            let passed = self.ignore.min(window.bytes.len() as u64);
            window.skip(passed as usize);
            self.ignore -= passed;
            if self.ignore > 0 {
                return Ok(());
            }
            while self.ends.last() == Some(&window.base) {
                self.ends.pop();
                if self.ends.is_empty() {
                    window.element.end();
                }
            }
            if window.bytes.is_empty() || !self.field(window)? {
                return Ok(());
            }
        }
    }

    /// Reads one field. False: more bytes are needed.
    fn field(&mut self, window: &mut Window) -> Result<bool, InputError> {
        let bytes = &window.bytes[..];
        let bad = |reason: &str| window.error(0, format!("not OTLP protobuf: {reason}"));
        let Some((tag, tag_size)) = varint(bytes).map_err(bad)? else { return Ok(false) };
        let tag = Tag::new(tag).map_err(bad)?;
        let level = self.ends.len();
        let (head, body) = match tag.wire_type {
            WireType::I64 => (tag_size, 8),
            WireType::I32 => (tag_size, 4),
            WireType::Varint => match varint(&bytes[tag_size..]).map_err(bad)? {
                Some((_, size)) => (tag_size + size, 0),
                None => return Ok(false),
            },
            WireType::Len => match varint(&bytes[tag_size..]).map_err(bad)? {
                Some((length, size)) => (tag_size + size, length),
                None => return Ok(false),
            },
        };
        let end = (window.base + head as u64).checked_add(body).ok_or_else(|| bad("a length without sense"))?;
        if self.ends.last().is_some_and(|&outer| end > outer) {
            return Err(bad("a field is longer than the message it is in"));
        }
        let leads_on = tag.field == WAY_DOWN[level] && tag.wire_type == WireType::Len;
        let is_resource = level == 1 && tag.field == RESOURCE && tag.wire_type == WireType::Len;
        if leads_on && level < 2 {
            if level == 0 {
                window.element = Element::default();
            }
            window.skip(head);
            self.ends.push(end);
            self.documents = 1;
        } else if leads_on {
            if body > window.limits.max_record_bytes as u64 {
                window.pass_over()?;
                window.skip(head);
                self.ignore = body;
                return Ok(true);
            }
            if (bytes.len() as u64) < head as u64 + body {
                return Ok(false);
            }
            window.skip(head);
            window.take_frame(body as usize, Encoding::Protobuf);
        } else if is_resource && window.keeps_gaps() && body <= window.limits.max_record_bytes as u64 {
            let whole = head + body as usize;
            let Some(message) = bytes.get(head..whole) else { return Ok(false) };
            window.element.tell(resource(message));
            window.skip(whole);
        } else if level == 0 {
            return Err(bad(&format!("field {} in the request", tag.field)));
        } else {
            window.skip(head);
            self.ignore = body;
        }
        Ok(true)
    }

    /// Ends the batch; gives the number of documents.
    pub(super) fn finish(&self, window: &Window) -> Result<u64, InputError> {
        // A message of length 0 may end exactly here.
        let open = self.ends.iter().any(|&end| end > window.base);
        if open || self.ignore > 0 || !window.bytes.is_empty() {
            return Err(window.error(0, "the protobuf message is cut off"));
        }
        Ok(self.documents)
    }
}
