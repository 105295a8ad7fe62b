//! Stage 4: names every chunk by its BLAKE3, and keeps the bytes of each only once per block.

use crate::block::Block;
use crate::error::{Error, Result};
use crate::observe::StageClock;
use crate::otlp::Record;
use crate::split::SplitPart;
use crate::stages;
use bytes::Bytes;
use futures::Stream;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

/// The BLAKE3 of a chunk, 32 bytes; 64 lowercase hex digits in names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChunkHash([u8; 32]);

impl ChunkHash {
    /// Names a chunk.
    pub fn of(chunk: &[u8]) -> Self {
        Self(*blake3::hash(chunk).as_bytes())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Takes the bytes of a hash.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Takes 64 hex digits; `None` for anything else.
    pub fn from_hex(hex: &str) -> Option<Self> {
        blake3::Hash::from_hex(hex).ok().map(|hash| Self(*hash.as_bytes()))
    }
}

impl fmt::Display for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for ChunkHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ChunkHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl<'de> Deserialize<'de> for ChunkHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let hex = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::from_hex(&hex).ok_or_else(|| de::Error::custom("expected 64 hex digits"))
    }
}

/// A hash is as good a table index as any hash of it.
#[derive(Default)]
pub struct FirstBytes(u64);

impl Hasher for FirstBytes {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    // The length that arrays and slices write first says nothing.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A map by chunk hash.
pub type ByHash<T> = HashMap<ChunkHash, T, BuildHasherDefault<FirstBytes>>;

/// A part whose chunks have names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashedPart {
    /// The event's name, if it stood in one.
    pub event: Option<String>,
    /// The attribute's key, or `body`.
    pub key: String,
    /// The names of its chunks, in order.
    pub chunks: Vec<ChunkHash>,
    /// Bytes of the whole part.
    pub bytes: u64,
}

/// A block's records, and the bytes of every chunk they name.
#[derive(Debug)]
pub struct HashedBlock {
    /// The records, without their chunks' bytes.
    pub records: Block<Record<HashedPart>>,
    /// Every chunk once.
    pub chunks: ByHash<Bytes>,
}

/// Hashes every chunk, `concurrency` blocks at a time.
pub fn hash<S>(split: S, concurrency: usize, clock: StageClock) -> impl Stream<Item = Result<HashedBlock>> + Send
where
    S: Stream<Item = Result<Block<Record<SplitPart>>>> + Send,
{
    stages::concurrent(split, concurrency, move |block| clock.time(async move { Ok::<_, Error>(hash_block(block)) }))
}

/// Hashes the chunks of one block.
pub fn hash_block(block: Block<Record<SplitPart>>) -> HashedBlock {
    let mut chunks = ByHash::default();
    let mut name = |chunk: Bytes| {
        let hash = ChunkHash::of(&chunk);
        chunks.entry(hash).or_insert(chunk);
        hash
    };
    let records = block.map(|record| {
        record.map_parts(|part: SplitPart| HashedPart {
            event: part.event,
            key: part.key,
            bytes: part.bytes,
            chunks: part.chunks.into_iter().map(&mut name).collect(),
        })
    });
    HashedBlock { records, chunks }
}
