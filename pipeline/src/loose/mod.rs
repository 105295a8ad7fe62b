//! The loose layout: one object per chunk, one index per trace, one ledger entry per batch. Simple to look at with
//! any tool, readable by a reader of the original format, and dear in requests.

mod blobs;
mod index_file;
mod ledger;
mod marker;
mod quarantine;

pub use blobs::{Blobs, Ensured};
pub use index_file::{PartEntry, SpanEntry, TraceIndex};
pub use ledger::{BatchSums, LedgerEntry};
pub use marker::{Layout, Marker};
pub use quarantine::{QuarantinedBatch, QuarantinedMessage, StrayLine};

use crate::hash::ChunkHash;
use crate::ids::TraceId;
use crate::store::Key;

/// The folders of the layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Where the collector writes batches (`RAW_SPANS_PATH`).
    pub raw_spans: String,
    /// Where chunks are (`BLOBS_PATH`).
    pub blobs: String,
    /// Where traces are (`INDEXES_PATH`).
    pub indexes: String,
}

/// Folder of the ledger.
pub const LEDGER: &str = "batches";
/// Folder of what could not be stored.
pub const QUARANTINE: &str = "quarantine";
/// Folder of messages that name nothing; no batch can be there, since a `%` in its name is encoded.
pub const QUARANTINED_MESSAGES: &str = "quarantine/%messages";

impl Default for Paths {
    fn default() -> Self {
        Self { raw_spans: "raw-spans".into(), blobs: "blobs".into(), indexes: "indexes".into() }
    }
}

impl Paths {
    /// `blobs/{hash[0:2]}/{hash}.gz`
    pub fn blob(&self, hash: &ChunkHash) -> Key {
        let hex = hash.to_string();
        Key::listed(format!("{}/{}/{hex}.gz", self.blobs, &hex[..2]))
    }

    /// The hash that a blob's key names; `None` for an object in any other place, since nothing would find it there.
    pub fn hash_of(&self, key: &Key) -> Option<ChunkHash> {
        let name = key.as_str().strip_prefix(&self.blobs)?.strip_suffix(".gz")?;
        let hash = ChunkHash::from_hex(name.rsplit('/').next()?)?;
        (self.blob(&hash) == *key).then_some(hash)
    }

    /// `indexes/{trace_id}.json`
    pub fn index(&self, trace: &TraceId) -> Key {
        Key::listed(format!("{}/{trace}.json", self.indexes))
    }

    /// `batches/{raw key}.json`
    pub fn ledger(&self, batch: &str) -> Key {
        Key::encode(LEDGER, batch, ".json")
    }

    /// `quarantine/{raw key}.json`
    pub fn quarantined(&self, batch: &str) -> Key {
        Key::encode(QUARANTINE, batch, ".json")
    }

    /// `quarantine/{raw key}/{offset}.jsonl`: records that no trace can hold, from that byte of the batch on.
    pub fn strays(&self, batch: &str, offset: u64) -> Key {
        Key::encode(QUARANTINE, &format!("{batch}/{offset:016}"), ".jsonl")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_blob_in_its_own_place_is_known_by_its_name() {
        let paths = Paths::default();
        let hash = ChunkHash::of(b"chunk");
        let key = paths.blob(&hash);
        assert_eq!(paths.hash_of(&key), Some(hash));
        let elsewhere = [format!("blobs/zz/{hash}.gz"), format!("blobs/{hash}.gz"), key.as_str().to_uppercase()];
        for other in elsewhere {
            assert_eq!(paths.hash_of(&Key::listed(other.as_str())), None, "{other}");
        }
    }
}
