//! Rows: a batch's records, gaps and sums in the order in which they stand in it.

use super::shape::Broken;
use crate::otlp::Element;
use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::Range;

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// A span.
    Span,
    /// A log record.
    Log,
    /// What stands between records: the documents' and resources' heads, or anything that is not OTLP.
    Text,
    /// The end of a batch, with its sums.
    Batch,
}

impl RowKind {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Span => "span",
            Self::Log => "log",
            Self::Text => "text",
            Self::Batch => "batch",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::Span, Self::Log, Self::Text, Self::Batch].into_iter().find(|kind| kind.name().as_bytes() == name)
    }
}

/// A text that many rows have, by its number in [`Rows::texts`].
pub type TextId = u32;

/// The typed columns of a row. `Id` names a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row<Id> {
    /// What it is.
    pub kind: RowKind,
    /// The key of its batch.
    pub source: TextId,
    /// Its shape; none for [`RowKind::Text`] and [`RowKind::Batch`].
    pub shape: Option<Id>,
    /// Where its references end in [`Rows::refs`].
    pub refs_end: usize,
    /// Where its values end in [`Rows::values`].
    pub rest_end: usize,
    /// Its trace.
    pub trace_id: Option<[u8; 16]>,
    /// Its span.
    pub span_id: Option<[u8; 8]>,
    /// Its parent.
    pub parent_span_id: Option<[u8; 8]>,
    /// Its name.
    pub name: Option<TextId>,
    /// Nanoseconds since 1970.
    pub start: Option<i64>,
    /// Nanoseconds since 1970.
    pub end: Option<i64>,
    /// OTLP's status code.
    pub status: Option<i32>,
    /// `service.name` of its resource.
    pub service: Option<TextId>,
    /// The tenant that its resource names.
    pub tenant: Option<TextId>,
    /// The model.
    pub model: Option<TextId>,
    /// Who serves the model.
    pub provider: Option<TextId>,
    /// Tokens in.
    pub input_tokens: Option<i64>,
    /// Tokens out.
    pub output_tokens: Option<i64>,
    /// US dollars.
    pub cost: Option<f64>,
    /// The convention that its keys follow.
    pub convention: Option<TextId>,
    /// [`RowKind::Batch`]: the batch's sums, JSON.
    pub batch: Option<TextId>,
}

impl<Id> Row<Id> {
    /// A row with nothing in it.
    pub fn new(kind: RowKind) -> Self {
        Self {
            kind,
            source: 0,
            shape: None,
            refs_end: 0,
            rest_end: 0,
            trace_id: None,
            span_id: None,
            parent_span_id: None,
            name: None,
            start: None,
            end: None,
            status: None,
            service: None,
            tenant: None,
            model: None,
            provider: None,
            input_tokens: None,
            output_tokens: None,
            cost: None,
            convention: None,
            batch: None,
        }
    }
}

impl<Id> Row<Id> {
    /// The same row without what names a node.
    pub fn without_ids<Other>(&self) -> Row<Other> {
        Row {
            kind: self.kind,
            source: self.source,
            shape: None,
            refs_end: self.refs_end,
            rest_end: self.rest_end,
            trace_id: self.trace_id,
            span_id: self.span_id,
            parent_span_id: self.parent_span_id,
            name: self.name,
            start: self.start,
            end: self.end,
            status: self.status,
            service: self.service,
            tenant: self.tenant,
            model: self.model,
            provider: self.provider,
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cost: self.cost,
            convention: self.convention,
            batch: self.batch,
        }
    }
}

/// Consecutive rows.
#[derive(Debug, Clone)]
pub struct Rows<Id> {
    /// The rows.
    pub rows: Vec<Row<Id>>,
    /// All rows' references.
    pub refs: Vec<Id>,
    /// All rows' values without a column.
    pub values: ValueList,
    /// What stands before the values of a stream, digits aside.
    pub streams: Texts,
    /// Texts that rows name by number.
    pub texts: Texts,
    /// Content of these rows, as far as it is strings: values, and bytes of them.
    pub content: (u64, u64),
    /// Which of them stand in which element, as long as it is not known what its resource says.
    pub elements: Vec<(Range<usize>, Element)>,
}

impl<Id> Default for Rows<Id> {
    fn default() -> Self {
        Self {
            rows: vec![],
            refs: vec![],
            values: ValueList::default(),
            streams: Texts::default(),
            texts: Texts::default(),
            content: (0, 0),
            elements: vec![],
        }
    }
}

impl<Id: Copy> Rows<Id> {
    /// Appends a value of the row that comes next, before which `key` stands in its shape.
    pub fn push_rest(&mut self, key: &[u8], value: &[u8]) {
        let stream = self.streams.id_without_digits(key);
        self.values.push(stream, value);
    }

    /// Appends a row; the references and values that were appended since the last one are its own.
    pub fn push(&mut self, mut row: Row<Id>) {
        row.refs_end = self.refs.len();
        row.rest_end = self.values.len();
        self.rows.push(row);
    }

    /// Says of the rows from `first` on in which element they stand.
    pub fn belong_to(&mut self, element: &Element, first: usize) {
        let end = self.rows.len();
        match self.elements.last_mut() {
            Some((rows, last)) if last.is(element) => rows.end = end,
            _ => self.elements.push((first..end, element.clone())),
        }
    }

    /// Fills the columns of the resource in the rows of each element whose resource is known by now; the others' may be
    /// filled later.
    pub fn name_resources(&mut self) {
        let (rows, texts) = (&mut self.rows, &mut self.texts);
        self.elements.retain(|(range, element)| {
            let Some(resource) = element.resource() else { return true };
            let service = resource.service.map(|name| texts.id(name.as_bytes()));
            let tenant = resource.tenant.map(|name| texts.id(name.as_bytes()));
            let records = |row: &&mut Row<Id>| matches!(row.kind, RowKind::Span | RowKind::Log);
            for row in rows[range.clone()].iter_mut().filter(records) {
                (row.service, row.tenant) = (service, tenant);
            }
            false
        });
    }

    /// Drops the references and values of a row that was not pushed.
    pub fn roll_back(&mut self) {
        let (refs, rest) = self.rows.last().map_or((0, 0), |row| (row.refs_end, row.rest_end));
        self.refs.truncate(refs);
        self.values.truncate(rest);
    }

    /// A row's references.
    pub fn refs_of(&self, at: usize) -> &[Id] {
        let start = at.checked_sub(1).map_or(0, |before| self.rows[before].refs_end);
        &self.refs[start..self.rows[at].refs_end]
    }

    /// A row's values without a column, and the stream of each.
    pub fn rest_of(&self, at: usize) -> impl Iterator<Item = (TextId, &[u8])> {
        let first = at.checked_sub(1).map_or(0, |before| self.rows[before].rest_end);
        (first..self.rows[at].rest_end).map(|value| self.values.get(value))
    }

    /// Appends other rows.
    pub fn append(&mut self, other: &Rows<Id>) {
        let Ok(()) = self.append_as(other, Ok::<_, Infallible>);
    }

    /// Appends other rows, whose nodes have other names; `node` translates them.
    ///
    /// # Errors
    /// As `node`; then some of it has been appended.
    pub fn append_as<Other: Copy, E>(
        &mut self,
        other: &Rows<Other>,
        mut node: impl FnMut(Other) -> Result<Id, E>,
    ) -> Result<(), E> {
        let (refs, rest) = (self.refs.len(), self.values.len());
        let rows = self.rows.len();
        let shifted =
            other.elements.iter().map(|(range, element)| (rows + range.start..rows + range.end, element.clone()));
        self.elements.extend(shifted);
        let texts: Vec<TextId> = other.texts.all().map(|text| self.texts.id(text)).collect();
        let streams: Vec<TextId> = other.streams.all().map(|key| self.streams.id(key)).collect();
        let text = |id: Option<TextId>| id.map(|id| texts[id as usize]);
        self.refs.reserve(other.refs.len());
        for &id in &other.refs {
            self.refs.push(node(id)?);
        }
        self.values.append(&other.values, &streams);
        self.rows.reserve(other.rows.len());
        for row in &other.rows {
            self.rows.push(Row {
                shape: row.shape.map(&mut node).transpose()?,
                source: texts.get(row.source as usize).copied().unwrap_or_default(),
                refs_end: refs + row.refs_end,
                rest_end: rest + row.rest_end,
                name: text(row.name),
                service: text(row.service),
                tenant: text(row.tenant),
                model: text(row.model),
                provider: text(row.provider),
                convention: text(row.convention),
                batch: text(row.batch),
                ..row.without_ids()
            });
        }
        Ok(())
    }

    /// The rows at the places that are wanted.
    pub fn filter(&self, wanted: impl Fn(usize) -> bool) -> Self {
        let (texts, streams) = (self.texts.clone(), self.streams.clone());
        let mut some = Self { texts, streams, content: self.content, ..Self::default() };
        for at in (0..self.rows.len()).filter(|&at| wanted(at)) {
            some.refs.extend_from_slice(self.refs_of(at));
            for (stream, value) in self.rest_of(at) {
                some.values.push(stream, value);
            }
            some.push(self.rows[at]);
        }
        some
    }

    /// Makes all of them rows of this batch.
    pub fn set_source(&mut self, source: &[u8]) {
        let source = self.texts.id(source);
        for row in &mut self.rows {
            row.source = source;
        }
    }

    /// The nodes that they name.
    pub fn nodes(&self) -> impl Iterator<Item = Id> {
        self.refs.iter().copied().chain(self.rows.iter().filter_map(|row| row.shape))
    }

    /// Bytes of memory, about.
    pub fn size(&self) -> usize {
        let texts = self.texts.bytes + self.streams.bytes;
        self.rows.len() * size_of::<Row<Id>>() + self.refs.len() * 8 + self.values.size() + texts
    }
}

/// Values, each in a stream.
#[derive(Debug, Clone, Default)]
pub struct ValueList {
    bytes: Vec<u8>,
    /// Of each, where it ends, and its stream.
    ends: Vec<(usize, TextId)>,
}

impl ValueList {
    /// Appends a value.
    pub fn push(&mut self, stream: TextId, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.ends.push((self.bytes.len(), stream));
    }

    /// Appends other values; `streams` has the number that each of their streams has here.
    fn append(&mut self, other: &Self, streams: &[TextId]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.ends.extend(other.ends.iter().map(|&(end, stream)| (start + end, streams[stream as usize])));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// A value and its stream.
    pub fn get(&self, at: usize) -> (TextId, &[u8]) {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before].0);
        let (end, stream) = self.ends[at];
        (stream, &self.bytes[start..end])
    }

    fn truncate(&mut self, count: usize) {
        self.ends.truncate(count);
        self.bytes.truncate(self.ends.last().map_or(0, |&(end, _)| end));
    }

    fn size(&self) -> usize {
        self.bytes.len() + self.ends.len() * 16
    }
}

/// Texts, each once.
#[derive(Debug, Clone, Default)]
pub struct Texts {
    by_text: HashMap<Box<[u8]>, TextId, foldhash::fast::RandomState>,
    all: Vec<Box<[u8]>>,
    /// Bytes of memory, about.
    bytes: usize,
    /// A buffer that is not needed at the moment.
    spare: Vec<u8>,
}

impl Texts {
    /// The number of a text.
    pub fn id(&mut self, text: &[u8]) -> TextId {
        if let Some(&id) = self.by_text.get(text) {
            return id;
        }
        let id = self.all.len() as TextId;
        self.by_text.insert(text.into(), id);
        self.all.push(text.into());
        self.bytes += 2 * text.len() + 64;
        id
    }

    /// The number of what remains of a text without its digits: what decides on the stream of the value behind it.
    pub fn id_without_digits(&mut self, text: &[u8]) -> TextId {
        let mut rest = std::mem::take(&mut self.spare);
        rest.clear();
        rest.extend(text.iter().filter(|byte| !byte.is_ascii_digit()));
        let id = self.id(&rest);
        self.spare = rest;
        id
    }

    /// The text of a number.
    pub fn get(&self, id: TextId) -> &[u8] {
        &self.all[id as usize]
    }

    /// All texts, by number.
    pub(super) fn all(&self) -> impl Iterator<Item = &[u8]> {
        self.all.iter().map(AsRef::as_ref)
    }
}

/// Where a record's values come from when it is put together.
pub trait Values {
    /// What reading may fail with.
    type Error: From<Broken>;
    /// The 16 bytes of the trace's id.
    fn trace_id(&self) -> Option<[u8; 16]>;
    /// The 8 bytes of the span's id, or its parent's.
    fn span_id(&self, parent: bool) -> Option<[u8; 8]>;
    /// A column of text.
    fn text(&self, column: super::shape::Column) -> Option<&[u8]>;
    /// A column of integers.
    fn integer(&self, column: super::shape::Column) -> Option<i64>;
    /// The cost.
    fn cost(&self) -> Option<f64>;
    /// Appends the next of the values without a column.
    fn rest(&mut self, out: &mut Vec<u8>) -> Result<(), Self::Error>;
    /// Appends the text of the next reference.
    fn next_ref(&mut self, out: &mut Vec<u8>) -> Result<(), Self::Error>;
}
