//! Quarantine: what could not be stored, and why. Nothing is dropped silently.

use crate::otlp::Stray;
use crate::store::Meta;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// A batch that could not be stored; `quarantine/{raw key}.json`. The raw file stays where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedBatch {
    /// The batch's key.
    pub key: String,
    /// What is wrong with it and where.
    pub reason: String,
    /// How often it was tried.
    pub tries: u32,
    /// The raw object's tag, or when it was written, so that a replaced one is tried again.
    pub version: Option<String>,
    /// The gravity that tried last: another release tries again.
    pub gravity: String,
}

impl QuarantinedBatch {
    /// What tells one version of a raw object from the next.
    pub fn version_of(raw: &Meta) -> Option<String> {
        let etag = raw.etag.as_ref().map(|tag| tag.0.clone());
        etag.or_else(|| raw.modified.map(|time| format!("{} {}", raw.size, humantime::format_rfc3339_nanos(time))))
    }
}

/// A message of the queue that makes no sense, or came too often; `quarantine/%messages/{message id}.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedMessage {
    /// Its id.
    pub message: String,
    /// The queue it came from.
    pub queue: String,
    /// What is wrong with it.
    pub reason: String,
    /// How often it was received.
    pub receives: u32,
    /// When it was sent, RFC 3339 in UTC.
    pub sent: Option<String>,
    /// What it says, exactly.
    pub body: String,
    /// The gravity that received it last.
    pub gravity: String,
}

/// A record that no trace can hold: one line of `quarantine/{raw key}/{offset}.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrayLine {
    /// Where it begins in the decompressed batch.
    pub offset: u64,
    /// What is wrong with it.
    pub reason: String,
    /// `json` or `protobuf`.
    pub encoding: String,
    /// Its exact bytes, if they are text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
    /// Its exact bytes otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record_base64: Option<String>,
}

impl From<&Stray> for StrayLine {
    fn from(stray: &Stray) -> Self {
        let text = if stray.is_protobuf { None } else { std::str::from_utf8(&stray.bytes).ok().map(str::to_owned) };
        Self {
            offset: stray.offset,
            reason: stray.reason.clone(),
            encoding: if stray.is_protobuf { "protobuf" } else { "json" }.into(),
            record_base64: text.is_none().then(|| STANDARD.encode(&stray.bytes)),
            record: text,
        }
    }
}
