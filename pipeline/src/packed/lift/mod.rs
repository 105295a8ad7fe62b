//! Lifting: texts inside texts become nodes of their own.
//!
//! A batch is text with texts inside: a JSON document whose strings are prompts, whose prompts are JSON or Python
//! reprs, whose strings are messages. A string literal of [`LEAST`] bytes or more that decodes, and encodes to exactly
//! the same literal again, becomes a node; what surrounds it is a template with a hole. A literal that would not come
//! back exactly stays where it is, so that lifting loses nothing of any input, valid or not.

mod cut;
mod habit;
mod json;
mod literal;
mod printable;
mod python;
#[cfg(test)]
mod tests;

pub use cut::{CUT_FROM, cut};
pub use habit::{Habit, Habits};
pub use literal::Found;
pub use printable::{Unicode, is_printable};

use super::node::{Kind, Node, NodeKey};
use crate::lanes::unescaped;
use memchr::{memchr, memchr2, memmem};

/// A literal shorter than this stays in its text: a reference would cost more.
pub const LEAST: usize = 64;
/// Texts in texts in texts are followed so deep.
const DEPTH: usize = 8;
/// Stands for a literal in a template: U+FFFC, the object replacement character. A text that holds one already is not
/// scanned.
pub const HOLE: &str = "\u{fffc}";

/// Where nodes are kept.
pub trait Nodes {
    /// What names one.
    type Id: Copy;
    /// The node of this text, if there is one.
    fn find(&self, key: &NodeKey) -> Option<Self::Id>;
    /// The node of this shape, if it is where new nodes go. Whoever reads a row group needs the shapes of all its rows, so
    /// they stand in one pack, at the price of standing in each.
    fn find_shape(&self, key: &NodeKey) -> Option<Self::Id>;
    /// Adds a node; if another has added the same meanwhile, gives that one.
    fn add(&self, key: NodeKey, node: Node<'_, Self::Id>) -> Self::Id;
    /// A literal that is known by its own bytes.
    fn find_literal(&self, key: &NodeKey) -> Option<Literal<Self::Id>>;
    /// Notes a literal by its own bytes.
    fn know_literal(&self, key: NodeKey, literal: Literal<Self::Id>);
}

/// A literal whose text is a node.
#[derive(Debug, Clone, Copy)]
pub struct Literal<Id> {
    /// The text.
    pub node: Id,
    /// Who writes it so.
    pub habits: Habits,
    /// Bytes of the text.
    pub bytes: u64,
}

/// A literal of so many bytes is looked up as it stands before it is decoded: of the bytes in literals of real batches
/// half to four fifths are in some that were there before, written the same way.
const KNOWN_FROM: usize = 256;

/// Lifts texts into nodes.
pub struct Lifter<'a, N: Nodes> {
    nodes: &'a N,
    /// Buffers that no text is being written to.
    spare: Vec<Vec<u8>>,
}

impl<'a, N: Nodes> Lifter<'a, N> {
    /// A lifter into `nodes`.
    pub fn new(nodes: &'a N) -> Self {
        Self { nodes, spare: Vec::new() }
    }

    /// A buffer, empty.
    pub fn buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes a buffer back.
    pub fn give_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.spare.push(buffer);
    }

    /// The node of a text.
    pub fn node(&mut self, text: &[u8]) -> N::Id {
        self.node_at(text, 0)
    }

    /// The node of a shape.
    pub fn shape(&mut self, kind: Kind, shape: &[u8]) -> N::Id {
        let key = NodeKey::of(kind, shape);
        let known = self.nodes.find_shape(&key);
        known.unwrap_or_else(|| self.nodes.add(key, Node { kind, text: shape, refs: &[] }))
    }

    /// The node of a text that is kept as it is.
    fn leaf(&mut self, text: &[u8]) -> N::Id {
        let key = NodeKey::of(Kind::Leaf, text);
        let known = self.nodes.find(&key);
        known.unwrap_or_else(|| self.nodes.add(key, Node { kind: Kind::Leaf, text, refs: &[] }))
    }

    fn node_at(&mut self, text: &[u8], depth: usize) -> N::Id {
        let key = NodeKey::of(Kind::Leaf, text);
        if let Some(id) = self.nodes.find(&key) {
            return id;
        }
        let mut template = self.buffer();
        let mut refs = Vec::new();
        let scanned = dialect(text).filter(|_| depth < DEPTH && memmem::find(text, HOLE.as_bytes()).is_none());
        let habit = scanned.and_then(|dialect| self.scan(text, dialect, depth, &mut template, &mut refs));
        let node = match habit {
            Some(habit) => Node { kind: Kind::Template(habit), text: &template, refs: &refs },
            None if text.len() >= CUT_FROM => {
                refs = cut(text).map(|piece| self.leaf(piece)).collect();
                Node { kind: Kind::Pieces, text: &[], refs: &refs }
            }
            None => Node { kind: Kind::Leaf, text, refs: &[] },
        };
        let id = self.nodes.add(key, node);
        self.give_back(template);
        id
    }

    /// The node of the text of a JSON literal, its quotes included. `None` if it would not come back exactly.
    pub fn json_literal(&mut self, quoted: &[u8]) -> Option<Literal<N::Id>> {
        self.literal_at(quoted, Dialect::Json, Habits::JSON, 0)
    }

    /// The same for any literal; `None` also if nobody of `habits` writes it so.
    fn literal_at(&mut self, quoted: &[u8], dialect: Dialect, habits: Habits, depth: usize) -> Option<Literal<N::Id>> {
        let key = (quoted.len() >= KNOWN_FROM).then(|| NodeKey::of_literal(dialect, quoted));
        if let Some(known) = key.and_then(|key| self.nodes.find_literal(&key)) {
            return Some(known).filter(|known| habits.has_any(known.habits));
        }
        let mut decoded = self.buffer();
        let found = dialect.decode(quoted, &mut decoded).filter(|found| habits.has_any(found.habits));
        let literal = found.map(|found| {
            let inner = if found.escaped { &decoded[..] } else { &quoted[1..quoted.len() - 1] };
            Literal { node: self.node_at(inner, depth), habits: found.habits, bytes: inner.len() as u64 }
        });
        self.give_back(decoded);
        if let (Some(key), Some(literal)) = (key, literal) {
            self.nodes.know_literal(key, literal);
        }
        literal
    }

    /// Cuts the literals out of `text`; `None` if there were none.
    fn scan(
        &mut self,
        text: &[u8],
        dialect: Dialect,
        depth: usize,
        template: &mut Vec<u8>,
        refs: &mut Vec<N::Id>,
    ) -> Option<Habit> {
        let mut habits = Habits::JSON.or(Habits::PYTHON);
        let (mut at, mut plain) = (0, 0);
        while let Some((start, length)) = dialect.next(&text[at..]) {
            let (start, end) = (at + start, at + start + length);
            at = end + 1;
            if length < LEAST {
                continue;
            }
            let Some(literal) = self.literal_at(&text[start - 1..=end], dialect, habits, depth + 1) else { continue };
            habits = habits.and(literal.habits);
            template.extend_from_slice(&text[plain..start]);
            template.extend_from_slice(HOLE.as_bytes());
            plain = end;
            refs.push(literal.node);
        }
        if refs.is_empty() {
            return None;
        }
        template.extend_from_slice(&text[plain..]);
        habits.first()
    }
}

/// What a text is written in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Dialect {
    /// JSON.
    Json,
    /// Python's `repr`.
    Python,
}

impl Dialect {
    /// The next literal: where it begins, behind its quote, and its length up to the other.
    fn next(self, text: &[u8]) -> Option<(usize, usize)> {
        let quote = match self {
            Self::Json => memchr(b'"', text),
            Self::Python => memchr2(b'\'', b'"', text),
        }?;
        let length = unescaped(text[quote], &text[quote + 1..])?;
        Some((quote + 1, length))
    }

    /// Decodes a literal, its quotes included; `None` if it is not one whole literal.
    pub(crate) fn decode(self, quoted: &[u8], decoded: &mut Vec<u8>) -> Option<Found> {
        let (&quote, text) = quoted.split_first()?;
        let found = match self {
            Self::Json => json::find(text, decoded),
            Self::Python => python::find(text, quote, decoded),
        }?;
        (found.length + 2 == quoted.len()).then_some(found)
    }
}

/// Bytes in which the first quote is looked for.
const LOOK_AHEAD: usize = 64;

/// Guesses what a text is written in. A wrong guess costs space, nothing else.
fn dialect(text: &[u8]) -> Option<Dialect> {
    if text.len() < LEAST || !matches!(text[0], b'{' | b'[' | b'(' | b'"') {
        return None;
    }
    text.iter().take(LOOK_AHEAD).find_map(|byte| match byte {
        b'"' => Some(Dialect::Json),
        b'\'' => Some(Dialect::Python),
        _ => None,
    })
}

/// Puts a template and the texts of its holes together again.
pub fn fill<E>(
    template: &[u8],
    habit: Habit,
    out: &mut Vec<u8>,
    mut hole: impl FnMut(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let mut inner = Vec::new();
    let mut plain = 0;
    for at in memmem::find_iter(template, HOLE.as_bytes()) {
        out.extend_from_slice(&template[plain..at]);
        plain = at + HOLE.len();
        inner.clear();
        hole(&mut inner)?;
        habit.encode(&inner, out);
    }
    out.extend_from_slice(&template[plain..]);
    Ok(())
}
