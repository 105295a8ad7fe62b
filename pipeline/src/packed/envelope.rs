//! The records of a trace in the resources and scopes of their batch, as OTLP JSON.
//!
//! A resource may stand behind its records (newer collectors write protobuf so), and the second scope of a resource has
//! none before it. So a batch is read whole, without its records: in place of each record is its number, or (protobuf)
//! nothing at all, and its length aside. That is small, and what belongs together shows itself by the brackets and lengths.

use crate::error::{Error, InputError, Result};
use crate::otlp::protobuf_json::{LOG, Losses, RESOURCE_GROUP, SCOPE_GROUP, SPAN, Schema, write_members};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Elements of `resourceSpans` and `resourceLogs`.
#[derive(Debug, Default)]
pub struct Elements {
    /// With spans.
    pub spans: Vec<Vec<u8>>,
    /// With log records.
    pub logs: Vec<Vec<u8>>,
    /// What they do not say.
    pub losses: Losses,
    /// Records whose resource and scope could not be told.
    pub alone: u64,
    /// Records that cannot be read.
    pub left_out: u64,
}

/// A record of the trace.
struct Record {
    bytes: Bytes,
    is_log: bool,
}

/// A batch of JSON without its records.
#[derive(Default)]
pub struct JsonEnvelope {
    text: Vec<u8>,
    records: Vec<Record>,
}

impl JsonEnvelope {
    /// What stands between records.
    pub fn push_gap(&mut self, gap: &[u8]) {
        self.text.extend_from_slice(gap);
    }

    /// A record of another trace.
    pub fn push_other(&mut self) {
        self.text.push(b'0');
    }

    /// A record of the trace.
    pub fn push_record(&mut self, bytes: Bytes, is_log: bool) {
        self.records.push(Record { bytes, is_log });
        self.text.extend_from_slice(self.records.len().to_string().as_bytes());
    }

    /// The records with all that stands around them.
    pub fn elements(self) -> Elements {
        let mut found = Elements::default();
        let mut left: Vec<Option<Record>> = self.records.into_iter().map(Some).collect();
        let text = self.text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.text);
        // Where a batch ceases to be JSON, the records before it were found, and stand alone.
        for document in serde_json::Deserializer::from_slice(text).into_iter::<Members<'_>>().map_while(Result::ok) {
            let (mut others, mut has_some) = (0, false);
            for (key, value) in document.0 {
                let into = match key.as_str() {
                    "resourceSpans" => &mut found.spans,
                    "resourceLogs" => &mut found.logs,
                    _ => {
                        others += 1;
                        continue;
                    }
                };
                let before = into.len();
                into.extend(list(value).into_iter().filter_map(|element| json_element(1, element, &mut left)));
                has_some |= into.len() > before;
            }
            if has_some {
                found.losses.unknown_fields += others;
            }
        }
        for record in left.into_iter().flatten() {
            found.alone += 1;
            let (into, before) = match record.is_log {
                true => (&mut found.logs, r#"{"scopeLogs":[{"logRecords":["#),
                false => (&mut found.spans, r#"{"scopeSpans":[{"spans":["#),
            };
            into.push([before.as_bytes(), &record.bytes, b"]}]}"].concat());
        }
        found
    }
}

/// What holds the elements of the next level, in a resource's element and in a scope's.
const HOLDERS: [&[&str]; 2] = [
    &["scopeSpans", "scopeLogs", "instrumentationLibrarySpans", "instrumentationLibraryLogs"],
    &["spans", "logRecords", "logs"],
];

/// An element with those records in it that are of the trace; `None` if there are none.
fn json_element(level: usize, element: &RawValue, records: &mut [Option<Record>]) -> Option<Vec<u8>> {
    let Some(holders) = HOLDERS.get(level - 1) else {
        let number: usize = element.get().parse().ok()?;
        return Some(records.get_mut(number.checked_sub(1)?)?.take()?.bytes.to_vec());
    };
    let members: Members<'_> = serde_json::from_str(element.get()).ok()?;
    let (mut own, mut held) = (Vec::new(), Vec::new());
    for (key, value) in members.0 {
        if !holders.contains(&key.as_str()) {
            own.push(member(&key, value.get().as_bytes()));
            continue;
        }
        let inner: Vec<_> =
            list(value).into_iter().filter_map(|inner| json_element(level + 1, inner, records)).collect();
        if !inner.is_empty() {
            held.push(member(&key, &array(&inner)));
        }
    }
    if held.is_empty() {
        return None;
    }
    own.append(&mut held);
    Some(object(&own))
}

/// The values of an array; none of anything else.
fn list(value: &RawValue) -> Vec<&RawValue> {
    serde_json::from_str(value.get()).unwrap_or_default()
}

fn member(key: &str, value: &[u8]) -> Vec<u8> {
    let mut member = serde_json::Value::from(key).to_string().into_bytes();
    member.push(b':');
    member.extend_from_slice(value);
    member
}

fn object(members: &[Vec<u8>]) -> Vec<u8> {
    [b"{", &members.join(&b',')[..], b"}"].concat()
}

fn array(values: &[Vec<u8>]) -> Vec<u8> {
    [b"[", &values.join(&b',')[..], b"]"].concat()
}

/// The members of an object as they stand in it.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A batch of protobuf without its records.
#[derive(Default)]
pub struct ProtobufEnvelope {
    bytes: Vec<u8>,
    holes: Vec<Hole>,
}

/// A record that was left out.
struct Hole {
    /// Where it stood.
    at: usize,
    length: u64,
    /// If it is one of the trace.
    record: Option<Record>,
}

impl ProtobufEnvelope {
    /// What stands between records.
    pub fn push_gap(&mut self, gap: &[u8]) {
        self.bytes.extend_from_slice(gap);
    }

    /// A record of another trace, so long.
    pub fn push_other(&mut self, length: u64) {
        self.holes.push(Hole { at: self.bytes.len(), length, record: None });
    }

    /// A record of the trace.
    pub fn push_record(&mut self, bytes: Bytes, is_log: bool) {
        let (at, length) = (self.bytes.len(), bytes.len() as u64);
        self.holes.push(Hole { at, length, record: Some(Record { bytes, is_log }) });
    }

    /// The records in JSON, with all that stands around them.
    ///
    /// # Errors
    /// If what stands around the records is broken.
    pub fn elements(self) -> Result<Elements> {
        let is_log = self.holes.iter().find_map(|hole| hole.record.as_ref()).is_some_and(|record| record.is_log);
        let mut walk = Walk {
            bytes: &self.bytes,
            at: 0,
            passed: 0,
            holes: self.holes.iter(),
            names: if is_log { ["scopeLogs", "logRecords"] } else { ["scopeSpans", "spans"] },
            losses: Losses::default(),
            left_out: 0,
        };
        let mut elements = Vec::new();
        let (mut own, end) = (Vec::new(), u64::MAX);
        walk.message(0, end, &mut own, &mut elements)?;
        let (spans, logs) = if is_log { (vec![], elements) } else { (elements, vec![]) };
        Ok(Elements { spans, logs, losses: walk.losses, alone: 0, left_out: walk.left_out })
    }
}

/// The field that leads on, by level: 0 the request, 1 a resource's, 2 a scope's.
const WAY_DOWN: [u64; 3] = [1, 2, 2];

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bytes of the records before, which are not in `bytes`.
    passed: u64,
    holes: std::slice::Iter<'a, Hole>,
    names: [&'static str; 2],
    losses: Losses,
    left_out: u64,
}

impl Walk<'_> {
    /// Reads a message up to `end`, or what there is of it: its fields that do not lead on as they are, and in JSON what
    /// those hold that do.
    fn message(&mut self, level: usize, end: u64, own: &mut Vec<u8>, held: &mut Vec<Vec<u8>>) -> Result<()> {
        while self.at < self.bytes.len() && self.at as u64 + self.passed < end {
            let start = self.at;
            let Some((tag, length)) = self.field() else {
                self.at = self.bytes.len();
                return Ok(());
            };
            if tag != WAY_DOWN[level] << 3 | 2 {
                self.skip(length);
                own.extend_from_slice(&self.bytes[start..self.at]);
            } else if level == 2 {
                match self.holes.as_slice().first() {
                    Some(hole) if hole.at == self.at => {
                        self.holes.next();
                        self.passed += hole.length;
                        if let Some(record) = &hole.record {
                            match self.json(if record.is_log { &LOG } else { &SPAN }, &record.bytes, None) {
                                Ok(json) => held.push(json),
                                Err(_) => self.left_out += 1,
                            }
                        }
                    }
                    // It is kept as text, so it is of no trace.
                    _ => self.skip(length),
                }
            } else {
                let end = (self.at as u64).saturating_add(self.passed).saturating_add(length);
                let (mut own, mut inner) = (Vec::new(), Vec::new());
                self.message(level + 1, end, &mut own, &mut inner)?;
                if !inner.is_empty() {
                    let schema = [&RESOURCE_GROUP, &SCOPE_GROUP][level];
                    held.push(self.json(schema, &own, Some((self.names[level], &array(&inner))))?);
                }
            }
        }
        Ok(())
    }

    /// A message in JSON with one member more.
    fn json(&mut self, schema: &Schema, bytes: &[u8], last: Option<(&str, &[u8])>) -> Result<Vec<u8>> {
        let mut json = b"{".to_vec();
        let members = write_members(schema, bytes, &mut json, &mut self.losses);
        let members = members.map_err(|e| Error::from(InputError::parse(e.at as u64, e.reason)))?;
        if let Some((name, value)) = last {
            if members > 0 {
                json.push(b',');
            }
            json.extend_from_slice(&member(name, value));
        }
        json.push(b'}');
        Ok(json)
    }

    /// Reads a tag, and how many bytes of the field come behind what was read; `None` if the batch ends there.
    fn field(&mut self) -> Option<(u64, u64)> {
        let tag = self.varint()?;
        let length = match tag & 7 {
            0 => {
                let start = self.at;
                self.varint()?;
                let size = self.at - start;
                self.at = start;
                size as u64
            }
            1 => 8,
            2 => self.varint()?,
            5 => 4,
            _ => return None,
        };
        Some((tag, length))
    }

    fn varint(&mut self) -> Option<u64> {
        let (value, size) = crate::otlp::varint(&self.bytes[self.at..])?;
        self.at += size;
        Some(value)
    }

    fn skip(&mut self, length: u64) {
        let left = (self.bytes.len() - self.at) as u64;
        self.at += length.min(left) as usize;
    }
}
