//! What both encodings fill while they take a record apart.

use super::columns::{convention_of, of_attribute};
use super::{Column, Op, push_op, stream_key};
use crate::keys::ContentKeys;
use crate::packed::lift::{Habit, Lifter, Nodes};
use crate::packed::node::Kind;
use crate::packed::row::{Row, RowKind, Rows, Texts};

/// A row in the making.
pub struct Builder<'b, 'n, N: Nodes> {
    /// What is content: it becomes a node however short it is, so that the table of nodes has all of it.
    pub keys: &'b ContentKeys,
    /// Where texts go.
    pub lifter: &'b mut Lifter<'n, N>,
    /// Where the row goes.
    pub rows: &'b mut Rows<N::Id>,
    pub(super) row: Row<N::Id>,
    shape: Vec<u8>,
    /// Where the shape's last op ends.
    op_end: usize,
    convention: Option<&'static str>,
}

impl<'b, 'n, N: Nodes> Builder<'b, 'n, N> {
    /// A new row.
    pub fn new(keys: &'b ContentKeys, lifter: &'b mut Lifter<'n, N>, rows: &'b mut Rows<N::Id>, kind: RowKind) -> Self {
        let shape = lifter.buffer();
        Self { keys, lifter, rows, row: Row::new(kind), shape, op_end: 0, convention: None }
    }

    /// Ends the row.
    pub fn finish(mut self, kind: Kind) -> &'b mut Row<N::Id> {
        self.row.shape = Some(self.lifter.shape(kind, &self.shape));
        self.row.convention = self.convention.map(|name| self.rows.texts.id(name.as_bytes()));
        self.lifter.give_back(self.shape);
        self.rows.push(self.row);
        let last = self.rows.rows.len() - 1;
        &mut self.rows.rows[last]
    }

    /// What stands before the record.
    pub(super) fn gap(&mut self, gap: &[u8]) {
        if !gap.is_empty() {
            self.text(gap);
            self.op(Op::Record);
        }
    }

    /// Gives the row up.
    pub(super) fn abandon(self) {
        self.rows.roll_back();
        self.lifter.give_back(self.shape);
    }

    pub(super) fn text(&mut self, mut text: &[u8]) {
        while let Some(nul) = memchr::memchr(0, text) {
            self.shape.extend_from_slice(&text[..nul]);
            self.op(Op::Nul);
            text = &text[nul + 1..];
        }
        self.shape.extend_from_slice(text);
    }

    pub(super) fn op(&mut self, op: Op<'_>) {
        push_op(op, &mut self.shape);
        self.op_end = self.shape.len();
    }

    pub(super) fn column(&mut self, column: Column) {
        self.op(Op::Column(column));
    }

    pub(super) fn reference(&mut self, habit: Option<Habit>, text: &[u8]) {
        let id = self.lifter.node(text);
        self.node(habit, id);
    }

    pub(super) fn node(&mut self, habit: Option<Habit>, id: N::Id) {
        self.rows.refs.push(id);
        self.op(Op::Ref(habit));
    }

    pub(super) fn count_content(&mut self, bytes: u64) {
        self.rows.content.0 += 1;
        self.rows.content.1 += bytes;
    }

    pub(super) fn rest(&mut self, value: &[u8]) {
        self.rows.push_rest(stream_key(&self.shape[self.op_end..]), value);
        self.op(Op::Rest(b""));
    }

    /// Notes a span's attribute; true if this column is still free.
    pub(super) fn attribute_column(&mut self, key: &[u8]) -> Option<Column> {
        let found = convention_of(key);
        if rank(found) < rank(self.convention) {
            self.convention = found;
        }
        of_attribute(key).filter(|&column| self.is_free(column))
    }

    pub(super) fn is_free(&self, column: Column) -> bool {
        let row = &self.row;
        match column {
            Column::TraceId => row.trace_id.is_none(),
            Column::SpanId => row.span_id.is_none(),
            Column::ParentSpanId => row.parent_span_id.is_none(),
            Column::Name => row.name.is_none(),
            Column::Start => row.start.is_none(),
            Column::End => row.end.is_none(),
            Column::Model => row.model.is_none(),
            Column::Provider => row.provider.is_none(),
            Column::InputTokens => row.input_tokens.is_none(),
            Column::OutputTokens => row.output_tokens.is_none(),
            Column::Cost => row.cost.is_none(),
        }
    }

    /// Columns of text are strings to other engines, so they take nothing but UTF-8.
    pub(super) fn set_text(&mut self, column: Column, text: &str) {
        let id = Some(self.rows.texts.id(text.as_bytes()));
        match column {
            Column::Model => self.row.model = id,
            Column::Provider => self.row.provider = id,
            _ => self.row.name = id,
        }
    }

    pub(super) fn set_integer(&mut self, column: Column, number: i64) {
        let number = Some(number);
        match column {
            Column::Start => self.row.start = number,
            Column::End => self.row.end = number,
            Column::InputTokens => self.row.input_tokens = number,
            _ => self.row.output_tokens = number,
        }
    }
}

fn rank(convention: Option<&str>) -> usize {
    const ORDER: [&str; 8] =
        ["openinference", "gen_ai.messages", "gen_ai.prompt", "traceloop", "langfuse", "vercel", "gen_ai", "llm"];
    convention.and_then(|name| ORDER.iter().position(|&known| known == name)).unwrap_or(ORDER.len())
}

/// The columns of one row, for putting it together again.
pub(in crate::packed) struct RowColumns<'a, Id> {
    pub row: &'a Row<Id>,
    pub texts: &'a Texts,
}

impl<Id> RowColumns<'_, Id> {
    pub fn text(&self, column: Column) -> Option<&[u8]> {
        let id = match column {
            Column::Name => self.row.name,
            Column::Model => self.row.model,
            Column::Provider => self.row.provider,
            _ => None,
        };
        id.map(|id| self.texts.get(id))
    }

    pub fn integer(&self, column: Column) -> Option<i64> {
        match column {
            Column::Start => self.row.start,
            Column::End => self.row.end,
            Column::InputTokens => self.row.input_tokens,
            Column::OutputTokens => self.row.output_tokens,
            _ => None,
        }
    }
}
