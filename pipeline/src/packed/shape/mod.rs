//! Shapes: a record with its values cut out. Thousands of spans have a few hundred shapes; their values go into columns.
//!
//! A shape's text is the record's bytes with two bytes for each [`Op`] that is not text: NUL and the op's code.

mod builder;
mod columns;
mod json;
mod protobuf;

pub use builder::Builder;
pub(super) use builder::RowColumns;
pub use json::shred as shred_json;
pub use protobuf::shred as shred_protobuf;

use super::lift::Habit;
use super::row::Values;

/// What has a typed column. The numbers are stored: they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Column {
    /// 16 bytes; in JSON 32 lowercase hex digits.
    TraceId = 0,
    /// 8 bytes; in JSON 16 lowercase hex digits.
    SpanId = 1,
    /// The same of the parent.
    ParentSpanId = 2,
    /// Text.
    Name = 3,
    /// Nanoseconds since 1970; in JSON decimal digits.
    Start = 4,
    /// Nanoseconds since 1970.
    End = 5,
    /// Text.
    Model = 6,
    /// Text.
    Provider = 7,
    /// An integer.
    InputTokens = 8,
    /// An integer.
    OutputTokens = 9,
    /// A double.
    Cost = 10,
}

impl Column {
    const ALL: [Self; 11] = [
        Self::TraceId,
        Self::SpanId,
        Self::ParentSpanId,
        Self::Name,
        Self::Start,
        Self::End,
        Self::Model,
        Self::Provider,
        Self::InputTokens,
        Self::OutputTokens,
        Self::Cost,
    ];
}

/// A step of putting a record together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Op<'a> {
    /// These bytes.
    Text(&'a [u8]),
    /// A NUL.
    Nul,
    /// A column's value.
    Column(Column),
    /// The next reference's text, as a literal of this habit (JSON) or as it is, behind its length (protobuf).
    Ref(Option<Habit>),
    /// The next of the values without a column, as it is.
    Rest(StreamKey<'a>),
    /// Protobuf: the length of what follows up to the matching [`Op::Close`].
    Open,
    /// Protobuf: the end of a message.
    Close,
    /// What stands before this stands before the record; without it, the record begins at once.
    Record,
}

/// Which values without a column stand together: those before which the same text stands, digits aside.
pub type StreamKey<'a> = &'a [u8];

/// What decides on the stream of a value behind this text.
fn stream_key(text: &[u8]) -> StreamKey<'_> {
    const LENGTH: usize = 64;
    &text[text.len().saturating_sub(LENGTH)..]
}

const NUL: u8 = b'z';
const REST: u8 = b'r';
const REF: u8 = b'x';
const OPEN: u8 = b'(';
const CLOSE: u8 = b')';
const RECORD: u8 = b'[';
const COLUMNS: u8 = b'A';
const HABITS: u8 = b'0';

/// Appends an op to a shape's text.
pub(super) fn push_op(op: Op<'_>, shape: &mut Vec<u8>) {
    let code = match op {
        Op::Text(text) => return shape.extend_from_slice(text),
        Op::Nul => NUL,
        Op::Column(column) => COLUMNS + column as u8,
        Op::Ref(Some(habit)) => HABITS + habit as u8,
        Op::Ref(None) => REF,
        Op::Rest(_) => REST,
        Op::Open => OPEN,
        Op::Close => CLOSE,
        Op::Record => RECORD,
    };
    shape.extend_from_slice(&[0, code]);
}

/// The steps of a shape; `None` in place of one that this program does not know.
pub fn ops(shape: &[u8]) -> impl Iterator<Item = Option<Op<'_>>> {
    let (mut rest, mut text): (_, &[u8]) = (shape, &[]);
    std::iter::from_fn(move || {
        let (&first, behind) = rest.split_first()?;
        if first != 0 {
            let end = memchr::memchr(0, rest).unwrap_or(rest.len());
            (text, rest) = rest.split_at(end);
            return Some(Some(Op::Text(text)));
        }
        let op = behind.first().and_then(|&code| match code {
            NUL => Some(Op::Nul),
            REST => Some(Op::Rest(stream_key(text))),
            REF => Some(Op::Ref(None)),
            OPEN => Some(Op::Open),
            CLOSE => Some(Op::Close),
            RECORD => Some(Op::Record),
            HABITS..COLUMNS => Habit::from_number(code - HABITS).map(|habit| Op::Ref(Some(habit))),
            COLUMNS.. => Column::ALL.get(usize::from(code - COLUMNS)).map(|&column| Op::Column(column)),
            _ => None,
        });
        text = &[];
        rest = behind.get(1..).unwrap_or_default();
        Some(op)
    })
}

/// What stands before a record of a JSON shape: a comma, mostly.
pub fn gap(shape: &[u8]) -> Vec<u8> {
    let mut gap = Vec::new();
    for op in ops(shape) {
        match op {
            Some(Op::Text(text)) => gap.extend_from_slice(text),
            Some(Op::Nul) => gap.push(0),
            Some(Op::Record) => return gap,
            // Values are in records only: nothing stands before this one.
            _ => break,
        }
    }
    vec![]
}

/// Why a record could not be put together.
pub type Broken = &'static str;

/// Puts a record of this shape together from its values; gives where in `out` the record itself begins.
///
/// # Errors
/// If shape and values do not belong together.
pub fn unshred<E: From<Broken>>(
    is_json: bool,
    shape: &[u8],
    values: &mut impl Values<Error = E>,
    out: &mut Vec<u8>,
) -> Result<usize, E> {
    let mut start = out.len();
    let mut inner = Vec::new();
    // Protobuf: where the open messages began.
    let mut open = Vec::new();
    for op in ops(shape) {
        match op.ok_or("a shape with an unknown op")? {
            Op::Text(text) => out.extend_from_slice(text),
            Op::Nul => out.push(0),
            Op::Rest(_) => values.rest(out)?,
            Op::Ref(habit) => {
                inner.clear();
                values.next_ref(&mut inner)?;
                match habit {
                    Some(habit) => habit.encode(&inner, out),
                    None => {
                        protobuf::push_varint(inner.len() as u64, out);
                        out.extend_from_slice(&inner);
                    }
                }
            }
            Op::Column(column) if is_json => json::write_column(column, values, out)?,
            Op::Column(column) => protobuf::write_column(column, values, out)?,
            Op::Record => start = out.len(),
            Op::Open => open.push(out.len()),
            Op::Close => {
                let opened = open.pop().ok_or("a shape that closes what is not open")?;
                let before = out.len();
                protobuf::insert_length(opened, out);
                if opened <= start {
                    start += out.len() - before;
                }
            }
        }
    }
    match open.is_empty() {
        true => Ok(start),
        false => Err(E::from("a shape that does not close a message")),
    }
}
