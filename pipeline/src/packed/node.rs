//! Nodes: every distinct text once.

use super::lift::Habit;

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

/// What two nodes of the same text share: the first 16 bytes of the text's BLAKE3. That half of the hash is as long as
/// collisions need 2^64 texts, and nobody can make one on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeKey([u8; 16]);

impl NodeKey {
    /// The key of a text. A shape is never a text's node, nor the other way round.
    pub fn of(kind: Kind, text: &[u8]) -> Self {
        let hash = match kind.is_shape() {
            false => blake3::hash(text),
            // Another function altogether, so that no text can be made that has a shape's key.
            true => blake3::keyed_hash(&[kind.number() as u8; blake3::KEY_LEN], text),
        };
        let mut key = [0; 16];
        key.copy_from_slice(&hash.as_bytes()[..16]);
        Self(key)
    }

    /// Its first bytes, to choose a shard by.
    pub fn shard(&self) -> usize {
        usize::from(self.0[0])
    }
}
