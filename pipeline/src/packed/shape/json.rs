//! Taking a JSON record apart, and the JSON of columns.
//!
//! It looks at strings, numbers and brackets only: whatever else stands in a record, valid or not, is text of the shape.

use super::builder::Builder;
use super::{Broken, Column};
use crate::lanes::unescaped;
use crate::packed::lift::{Dialect, Habit, Habits, LEAST, Nodes};
use crate::packed::row::{RowKind, Values};
use std::borrow::Cow;
use std::ops::Range;

/// Takes a record apart. `gap` is what stands before it.
pub fn shred<N: Nodes>(gap: &[u8], record: &[u8], mut builder: Builder<'_, '_, N>) {
    builder.gap(gap);
    let mut shredder = Shredder { field: b"", label: b"", is_label_top: false, top: b"", depth: 0 };
    shredder.walk(record, &mut builder);
    if builder.row.trace_id.is_none() {
        find_ids(record, &mut builder);
    }
    builder.finish(crate::packed::node::Kind::JsonShape);
}

/// Ids in uppercase, behind a blank, or after an escape in the key: they stay in the shape as they are, and the columns
/// have them so that the trace is found.
fn find_ids<N: Nodes>(record: &[u8], builder: &mut Builder<'_, '_, N>) {
    let Some((trace, span, parent)) = crate::otlp::json_ids(record, builder.row.kind == RowKind::Log) else { return };
    let row = &mut builder.row;
    row.trace_id = Some(*trace.as_bytes());
    row.span_id = row.span_id.or(span.map(|id| *id.as_bytes()));
    row.parent_span_id = row.parent_span_id.or(parent.map(|id| *id.as_bytes()));
}

/// Where in the record we are.
struct Shredder<'r> {
    /// The member whose value comes next.
    field: &'r [u8],
    /// The last `key`: the attribute whose value comes next.
    label: &'r [u8],
    /// True if `label` is an attribute of the record itself, not of an event or a nested list.
    is_label_top: bool,
    /// The record's own member that we are in.
    top: &'r [u8],
    depth: u32,
}

impl<'r> Shredder<'r> {
    fn walk<N: Nodes>(&mut self, record: &'r [u8], to: &mut Builder<'_, '_, N>) {
        // `record[plain..at]` belongs to the shape.
        let (mut at, mut plain) = (0, 0);
        while let Some(gap) = memchr::memchr(b'"', &record[at..]) {
            plain = self.between(record, plain, at..at + gap, to);
            let start = at + gap + 1;
            let Some(length) = unescaped(b'"', &record[start..]) else { break };
            let end = start + length;
            at = end + 1;
            // A name with an escape is nobody's that is known.
            if record.get(at) == Some(&b':') && !record[start..end].contains(&b'\\') {
                self.member(&record[start..end]);
                continue;
            }
            if self.field == b"key" {
                self.label = &record[start..end];
                self.is_label_top = self.depth == 2 && self.top == b"attributes";
                self.field = b"";
                continue;
            }
            to.text(&record[plain..start]);
            plain = start;
            if self.value(Quoted(&record[start - 1..=end]), to) {
                plain = end;
            }
            self.field = b"";
        }
        // The status is often the last.
        plain = self.between(record, plain, at..record.len(), to);
        to.text(&record[plain..]);
    }

    /// Follows what stands between two strings; gives what belongs to the shape from then on.
    fn between<N: Nodes>(
        &mut self,
        record: &[u8],
        plain: usize,
        gap: Range<usize>,
        to: &mut Builder<'_, '_, N>,
    ) -> usize {
        let label = self.label;
        let Some((start, end)) = self.gap(&record[gap.clone()]) else { return plain };
        let (start, end) = (gap.start + start, gap.start + end);
        to.text(&record[plain..start]);
        // The number stands before the brackets that may have ended its attribute.
        let after = std::mem::replace(&mut self.label, label);
        let is_taken = self.number(&record[start..end], to);
        self.label = after;
        if is_taken { end } else { start }
    }

    /// Follows the brackets between two strings; gives where a number stands that is the value of a member.
    fn gap(&mut self, gap: &[u8]) -> Option<(usize, usize)> {
        let mut number = None;
        for (at, &byte) in gap.iter().enumerate() {
            match byte {
                b'{' => self.depth += 1,
                b'}' => {
                    if self.depth == 2 {
                        // A value that stands before its key is not the last attribute's.
                        self.label = b"";
                    }
                    self.depth = self.depth.saturating_sub(1);
                }
                b'-' | b'0'..=b'9' if at == 1 && !self.field.is_empty() => {
                    let length =
                        gap[1..].iter().position(|b| matches!(b, b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t'));
                    number = Some((1, length.map_or(gap.len(), |length| 1 + length)));
                }
                _ => {}
            }
        }
        number
    }

    fn member(&mut self, name: &'r [u8]) {
        self.field = name;
        if self.depth == 1 {
            self.top = name;
        }
    }

    /// A number without quotes. False: it stays in the shape.
    fn number<N: Nodes>(&mut self, digits: &[u8], to: &mut Builder<'_, '_, N>) -> bool {
        let is_value = matches!(self.field, b"intValue" | b"doubleValue");
        let is_time = self.depth == 1 && self.field.ends_with(b"UnixNano");
        let field = std::mem::take(&mut self.field);
        if self.top == b"status" && field == b"code" {
            to.row.status = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        }
        if is_value {
            self.attribute_number(field, digits, to);
        } else if is_time {
            self.time(field, digits, to);
        }
        is_value || is_time
    }

    fn attribute_number<N: Nodes>(&mut self, field: &[u8], digits: &[u8], to: &mut Builder<'_, '_, N>) {
        let column = match self.is_label_top {
            true => to.attribute_column(self.label),
            false => None,
        };
        match column {
            Some(column @ (Column::InputTokens | Column::OutputTokens)) if let Some(number) = integer(digits) => {
                to.set_integer(column, number);
                return to.column(column);
            }
            Some(Column::Cost) if field == b"doubleValue" => {
                let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<f64>().ok());
                to.row.cost = number.filter(|number| number.is_finite());
                if to.row.cost.is_some_and(|number| number.to_string().as_bytes() == digits) {
                    return to.column(Column::Cost);
                }
            }
            _ => {}
        }
        to.rest(digits);
    }

    fn time<N: Nodes>(&mut self, field: &[u8], digits: &[u8], to: &mut Builder<'_, '_, N>) {
        let column = match field {
            b"startTimeUnixNano" | b"timeUnixNano" => Column::Start,
            b"endTimeUnixNano" | b"observedTimeUnixNano" => Column::End,
            _ => return to.rest(digits),
        };
        match integer(digits).filter(|_| to.is_free(column)) {
            Some(number) => {
                to.set_integer(column, number);
                to.column(column);
            }
            None => to.rest(digits),
        }
    }

    /// A string that is a member's value, or stands in an array. False: it stays in the shape.
    fn value<N: Nodes>(&mut self, string: Quoted<'_>, to: &mut Builder<'_, '_, N>) -> bool {
        let literal = string.literal();
        match (self.depth, self.field) {
            (1, b"traceId")
                if to.row.trace_id.is_none()
                    && let Some(id) = unhex(literal) =>
            {
                to.row.trace_id = Some(id);
                to.column(Column::TraceId);
            }
            (1, b"spanId")
                if to.row.span_id.is_none()
                    && let Some(id) = unhex(literal) =>
            {
                to.row.span_id = Some(id);
                to.column(Column::SpanId);
            }
            (1, b"parentSpanId")
                if to.row.parent_span_id.is_none()
                    && let Some(id) = unhex(literal) =>
            {
                to.row.parent_span_id = Some(id);
                to.column(Column::ParentSpanId);
            }
            (1, b"traceId" | b"spanId" | b"parentSpanId") if literal.is_empty() => return false,
            (1, field) if field.ends_with(b"UnixNano") => self.time(field, literal, to),
            (1, b"name")
                if to.row.name.is_none()
                    && let Some(text) = string.column_text() =>
            {
                to.set_text(Column::Name, &text);
                to.column(Column::Name);
            }
            (_, b"intValue") => self.attribute_number(b"intValue", literal, to),
            (_, b"stringValue") => self.string(string, to),
            _ => lift(string, literal.len() >= LEAST, false, to),
        }
        true
    }

    fn string<N: Nodes>(&mut self, string: Quoted<'_>, to: &mut Builder<'_, '_, N>) {
        if self.is_label_top
            && let Some(column @ (Column::Model | Column::Provider)) = to.attribute_column(self.label)
            && string.literal().len() < 4 * LEAST
            && let Some(text) = string.column_text()
        {
            to.set_text(column, &text);
            return to.column(column);
        }
        let is_content = self.top == b"body" || is_content(self.label, to);
        lift(string, is_content || string.literal().len() >= LEAST, is_content, to);
    }
}

/// A string: its text becomes a node, or it stays as it is.
fn lift<N: Nodes>(string: Quoted<'_>, is_lifted: bool, is_content: bool, to: &mut Builder<'_, '_, N>) {
    let lifted = if is_lifted { to.lifter.json_literal(string.0) } else { None };
    if is_content {
        to.count_content(lifted.map_or_else(|| string.decoded_bytes(), |literal| literal.bytes));
    }
    match lifted.and_then(|literal| Some((literal.habits.first()?, literal.node))) {
        Some((habit, node)) => to.node(Some(habit), node),
        None => to.rest(string.literal()),
    }
}

/// A string as it stands, its quotes included.
#[derive(Clone, Copy)]
struct Quoted<'r>(&'r [u8]);

impl<'r> Quoted<'r> {
    /// What stands between the quotes.
    fn literal(self) -> &'r [u8] {
        &self.0[1..self.0.len() - 1]
    }

    /// What it stands for, and who writes it so.
    fn decoded(self) -> Option<(Cow<'r, [u8]>, Habits)> {
        let mut decoded = Vec::new();
        let found = Dialect::Json.decode(self.0, &mut decoded)?;
        let text = if found.escaped { Cow::Owned(decoded) } else { Cow::Borrowed(self.literal()) };
        Some((text, found.habits))
    }

    fn decoded_bytes(self) -> u64 {
        self.decoded().map_or(self.literal().len(), |(text, _)| text.len()) as u64
    }

    /// A text that a column can have: UTF-8 (a lone surrogate is not), and written in the one way in which we write it.
    fn column_text(self) -> Option<Cow<'r, str>> {
        let (text, habits) = self.decoded()?;
        let text = match text {
            Cow::Owned(text) => String::from_utf8(text).ok().map(Cow::Owned),
            Cow::Borrowed(text) => std::str::from_utf8(text).ok().map(Cow::Borrowed),
        };
        text.filter(|_| habits.has_any(Habits::only(Habit::Json)))
    }
}

fn is_content<N: Nodes>(label: &[u8], to: &Builder<'_, '_, N>) -> bool {
    std::str::from_utf8(label).is_ok_and(|label| to.keys.attribute(label))
}

/// A number that is written in the one way in which we write it.
fn integer(digits: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let leading = matches!(digits, [b'0', _, ..] | [b'-', b'0', ..] | [b'+', ..]);
    (!leading).then_some(number)
}

fn unhex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    if digits.len() != 2 * N {
        return None;
    }
    let mut id = [0; N];
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Some(digit - b'0'),
            b'a'..=b'f' => Some(digit - b'a' + 10),
            _ => None,
        };
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(id)
}

fn push_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend(bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]));
}

/// Appends a column's value as it stands in JSON.
pub(super) fn write_column<V: Values>(column: Column, values: &V, out: &mut Vec<u8>) -> Result<(), V::Error>
where
    V::Error: From<Broken>,
{
    let missing = || V::Error::from("a shape that names a column without a value");
    match column {
        Column::TraceId => push_hex(&values.trace_id().ok_or_else(missing)?, out),
        Column::SpanId => push_hex(&values.span_id(false).ok_or_else(missing)?, out),
        Column::ParentSpanId => push_hex(&values.span_id(true).ok_or_else(missing)?, out),
        Column::Name | Column::Model | Column::Provider => {
            Habit::Json.encode(values.text(column).ok_or_else(missing)?, out);
        }
        Column::Cost => out.extend_from_slice(values.cost().ok_or_else(missing)?.to_string().as_bytes()),
        Column::Start | Column::End | Column::InputTokens | Column::OutputTokens => {
            let number = values.integer(column).ok_or_else(missing)?;
            out.extend_from_slice(number.to_string().as_bytes());
        }
    }
    Ok(())
}
