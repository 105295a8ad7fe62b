//! Nodes: every distinct text once.

use super::lift::{Dialect, Habit};
use highway::{HighwayHash, HighwayHasher, Key};
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

/// What a node is. The numbers are stored: they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text.
    Leaf,
    /// A text with holes, U+FFFC each, for literals written with this habit; one reference a hole.
    Template(Habit),
    /// The texts of its references, joined.
    Pieces,
    /// The shape of a JSON record.
    JsonShape,
    /// The shape of a protobuf record.
    ProtobufShape,
    /// The text of its one reference: a duplicate that compaction found.
    Alias,
}

const TEMPLATES: i32 = 16;

impl Kind {
    /// Its number in the table.
    pub fn number(self) -> i32 {
        match self {
            Self::Leaf => 0,
            Self::Pieces => 1,
            Self::Alias => 2,
            Self::JsonShape => 3,
            Self::ProtobufShape => 4,
            Self::Template(habit) => TEMPLATES + habit as i32,
        }
    }

    /// The kind of this number.
    pub fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            0 => Self::Leaf,
            1 => Self::Pieces,
            2 => Self::Alias,
            3 => Self::JsonShape,
            4 => Self::ProtobufShape,
            _ => Self::Template(Habit::from_number(u8::try_from(number - TEMPLATES).ok()?)?),
        })
    }

    pub(super) fn is_shape(self) -> bool {
        matches!(self, Self::JsonShape | Self::ProtobufShape)
    }
}

/// A node to be stored.
#[derive(Debug, Clone, Copy)]
pub struct Node<'a, Id> {
    /// What it is.
    pub kind: Kind,
    /// Its text, or template.
    pub text: &'a [u8],
    /// The nodes in its holes.
    pub refs: &'a [Id],
}

/// What two nodes of the same text share, as long as this process lives: 128 bits of HighwayHash ([Alakuijala, Cox and
/// Wassenberg 2016](https://arxiv.org/abs/1612.06257)) under a secret that no other process has. Two texts of 2^32 have
/// the same by chance once in 2^65, and nobody can make two on purpose without the secret, of which nothing is ever
/// stored or shown. With BLAKE3, which needs no secret, an ingest takes a seventh longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeKey([u8; 16]);

/// 256 bits that std draws from the system's randomness, by SipHash.
static SECRET: LazyLock<[u64; 4]> = LazyLock::new(|| {
    let [one, other] = [RandomState::new(), RandomState::new()];
    [one.hash_one(0), one.hash_one(1), other.hash_one(0), other.hash_one(1)]
});

impl NodeKey {
    /// The key of a text. A shape is never a text's node, nor the other way round.
    pub fn of(kind: Kind, text: &[u8]) -> Self {
        let mut secret = *SECRET;
        if kind.is_shape() {
            // Another function altogether, so that no text has a shape's key.
            secret[0] ^= kind.number() as u64;
        }
        Self::with(secret, text)
    }

    /// The key of a string literal as it stands, its quotes included. It is no text's.
    pub(super) fn of_literal(dialect: Dialect, quoted: &[u8]) -> Self {
        let mut secret = *SECRET;
        secret[1] ^= dialect as u64 + 1;
        Self::with(secret, quoted)
    }

    fn with(secret: [u64; 4], text: &[u8]) -> Self {
        let [low, high] = HighwayHasher::new(Key(secret)).hash128(text);
        Self((u128::from(high) << 64 | u128::from(low)).to_le_bytes())
    }

    /// Its last byte, to choose a shard by: within one, the first ones choose the place.
    pub fn shard(&self) -> usize {
        usize::from(self.0[15])
    }
}
