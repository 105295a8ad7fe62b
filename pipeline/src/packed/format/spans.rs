//! `spans/…parquet`: one row per record, in the order of the batch, and what stands between them.

use super::columns::{
    Columns, GROUP_ROWS, Group, all_rows, contained, lists, optional, optional_values, read_lists, read_optional,
    read_required, required, shared,
};
use super::groups::{Writer, write_groups};
use super::rest::{RestReader, RestWriter, Streams};
use super::{BATCHES_KEY, Broken, Effort, PACKS_KEY, properties};
use crate::packed::row::{Row, RowKind, Rows, TextId};
use ::bytes::Bytes;
use parquet::basic::{Compression, ZstdLevel};
use parquet::data_type::{
    ByteArray, ByteArrayType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, Int32Type, Int64Type,
};
use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{BloomFilterPosition, WriterPropertiesBuilder};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

const SCHEMA: &str = "
message spans {
  required binary source (STRING);
  required binary kind (STRING);
  optional fixed_len_byte_array(16) trace_id;
  optional fixed_len_byte_array(8) span_id;
  optional int32 parent;
  optional fixed_len_byte_array(8) parent_span_id;
  optional binary name (STRING);
  optional int64 start (TIMESTAMP(NANOS,true));
  optional int64 duration;
  optional int32 status;
  optional binary service (STRING);
  optional binary tenant (STRING);
  optional binary model (STRING);
  optional binary provider (STRING);
  optional binary convention (STRING);
  optional int64 input_tokens;
  optional int64 output_tokens;
  optional double cost;
  optional int64 shape;
  required group refs (LIST) { repeated group list { required int64 element; } }
  optional binary rest;
  optional binary batch (STRING);
}";

/// Columns of few different texts.
const FEW: [&str; 7] = ["source", "kind", "service", "tenant", "model", "provider", "convention"];

/// Writes a file of spans, row group by row group.
pub struct SpansWriter {
    writer: Writer,
    effort: Effort,
}

impl SpansWriter {
    /// A new file in which about so many traces are.
    ///
    /// # Errors
    /// If Parquet refuses.
    pub fn new(effort: Effort, traces: u64) -> ParquetResult<Self> {
        let properties = properties(effort, vec![])
            .set_column_bloom_filter_enabled("trace_id".into(), true)
            .set_column_bloom_filter_max_ndv("trace_id".into(), traces.max(1))
            .set_column_bloom_filter_fpp("trace_id".into(), 0.01)
            .set_bloom_filter_position(BloomFilterPosition::End);
        let few = Compression::ZSTD(ZstdLevel::try_new(effort.level_of_few)?);
        let set_few = |properties: WriterPropertiesBuilder, column: &&str| {
            properties.set_column_compression((*column).into(), few)
        };
        let properties = FEW.iter().fold(properties, set_few).build();
        let schema = Arc::new(parse_message_type(SCHEMA)?);
        Ok(Self { writer: SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties))?, effort })
    }

    /// Appends rows; their ids are stored numbers.
    pub fn write(&mut self, rows: &Rows<u64>) -> ParquetResult<()> {
        let texts: Vec<ByteArray> = shared(rows.texts.all()).collect();
        let (count, size) = (rows.rows.len(), self.effort.span_group_rows.clamp(1, GROUP_ROWS));
        let groups: Vec<Range<usize>> = (0..count).step_by(size).map(|start| start..count.min(start + size)).collect();
        write_groups(&mut self.writer, groups, |writer, group| write_group(writer, rows, &texts, group))
    }

    /// Ends the file: the keys of its batches, and the packs that its references lead to.
    pub fn finish(mut self, batches: &[&str], packs: &[u64], metadata: Vec<(&str, String)>) -> ParquetResult<Bytes> {
        let lists = [(BATCHES_KEY, super::super::json_list(batches)), (PACKS_KEY, super::super::json_list(packs))];
        for (key, value) in lists.into_iter().chain(metadata) {
            self.writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        self.writer.into_inner().map(Bytes::from)
    }
}

fn write_group(
    writer: &mut Writer,
    all: &Rows<u64>,
    texts: &[ByteArray],
    Range { start, end }: Range<usize>,
) -> ParquetResult<()> {
    let rows = &all.rows[start..end];
    let text = |id: TextId| texts[id as usize].clone();
    let texts = |of: fn(&Row<u64>) -> Option<TextId>| rows.iter().map(move |row| of(row).map(text));
    let (parents, strangers) = parents(rows);
    let mut rest = RestWriter::default();
    for at in start..end {
        for (stream, value) in all.rest_of(at) {
            rest.push(stream, value);
        }
    }
    let mut rest = rest.finish().map(|value| ByteArray::from(Bytes::from(value)));
    let refs_end = |at: usize| at.checked_sub(1).map_or(0, |before| all.rows[before].refs_end);
    let (first, last) = (refs_end(start), refs_end(end));
    let refs: Vec<i64> = all.refs[first..last].iter().map(|&id| id as i64).collect();
    let refs_of = |at: usize| &refs[refs_end(at) - first..refs_end(at + 1) - first];

    let mut out = writer.next_row_group()?;
    required::<ByteArrayType, _>(&mut out, &rows.iter().map(|row| text(row.source)).collect::<Vec<_>>())?;
    let kind = |row: &Row<u64>| ByteArray::from(Bytes::from_static(row.kind.name().as_bytes()));
    required::<ByteArrayType, _>(&mut out, &rows.iter().map(kind).collect::<Vec<_>>())?;
    optional::<FixedLenByteArrayType, _>(&mut out, ids(rows.iter().map(|row| row.trace_id)))?;
    optional::<FixedLenByteArrayType, _>(&mut out, ids(rows.iter().map(|row| row.span_id)))?;
    optional::<Int32Type, _>(&mut out, parents.into_iter())?;
    optional::<FixedLenByteArrayType, _>(&mut out, ids(strangers.into_iter()))?;
    optional::<ByteArrayType, _>(&mut out, texts(|row| row.name))?;
    optional::<Int64Type, _>(&mut out, rows.iter().map(|row| row.start))?;
    optional::<Int64Type, _>(&mut out, rows.iter().map(duration))?;
    optional::<Int32Type, _>(&mut out, rows.iter().map(|row| row.status))?;
    optional::<ByteArrayType, _>(&mut out, texts(|row| row.service))?;
    optional::<ByteArrayType, _>(&mut out, texts(|row| row.tenant))?;
    optional::<ByteArrayType, _>(&mut out, texts(|row| row.model))?;
    optional::<ByteArrayType, _>(&mut out, texts(|row| row.provider))?;
    optional::<ByteArrayType, _>(&mut out, texts(|row| row.convention))?;
    optional::<Int64Type, _>(&mut out, rows.iter().map(|row| row.input_tokens))?;
    optional::<Int64Type, _>(&mut out, rows.iter().map(|row| row.output_tokens))?;
    optional::<DoubleType, _>(&mut out, rows.iter().map(|row| row.cost))?;
    optional::<Int64Type, _>(&mut out, rows.iter().map(|row| row.shape.map(|id| id as i64)))?;
    lists(&mut out, (start..end).map(refs_of))?;
    optional::<ByteArrayType, _>(&mut out, rows.iter().map(|_| rest.take()))?;
    optional::<ByteArrayType, _>(&mut out, texts(|row| row.batch))?;
    out.close()?;
    Ok(())
}

/// Ids as values of a column.
fn ids<const N: usize>(
    ids: impl Iterator<Item = Option<[u8; N]>> + Clone,
) -> impl Iterator<Item = Option<FixedLenByteArray>> {
    let mut values = shared(ids.clone().flatten());
    ids.map(move |id| id.and_then(|_| values.next()).map(FixedLenByteArray::from))
}

fn duration(row: &Row<u64>) -> Option<i64> {
    row.end.map(|end| end.wrapping_sub(row.start.unwrap_or(0)))
}

/// A parent as the distance to its row, or, if it has none in this group, as its id.
fn parents(rows: &[Row<u64>]) -> (Vec<Option<i32>>, Vec<Option<[u8; 8]>>) {
    let mut places = HashMap::with_capacity_and_hasher(rows.len(), foldhash::fast::RandomState::default());
    for (at, row) in rows.iter().enumerate() {
        if let Some(id) = row.span_id {
            places.insert((row.trace_id, row.source, id), at);
        }
    }
    let split = rows.iter().enumerate().map(|(at, row)| {
        let Some(parent) = row.parent_span_id else { return (None, None) };
        match places.get(&(row.trace_id, row.source, parent)) {
            Some(&place) => (Some((place as i64 - at as i64) as i32), None),
            None => (None, Some(parent)),
        }
    });
    split.unzip()
}

/// Rows of one group, their values without a column not yet told apart.
#[derive(Debug)]
pub struct StoredRows {
    /// The rows.
    pub rows: Rows<u64>,
    /// The shapes of the rows before them, whose values come first.
    before: Vec<Option<u64>>,
    rest: Option<ByteArray>,
    /// There are rows behind them, whose values are left over.
    is_cut: bool,
}

impl StoredRows {
    /// The shapes that tell the values apart.
    pub fn shapes(&self) -> impl Iterator<Item = u64> {
        self.before.iter().copied().chain(self.rows.rows.iter().map(|row| row.shape)).flatten()
    }

    /// Tells the values without a column apart. `shape` gives the text of a shape.
    ///
    /// # Errors
    /// If shapes and values do not belong together, or whatever `shape` fails with.
    pub fn with_rest<'s, E: From<Broken>>(
        mut self,
        mut shape: impl FnMut(u64) -> Result<&'s [u8], E>,
    ) -> Result<Rows<u64>, E> {
        let Some(rest) = self.rest else { return Ok(self.rows) };
        let mut streams = Streams::default();
        let broken = || E::from("a row without one of its values".into());
        let mut reader = RestReader::new(rest.data()).ok_or_else(broken)?;
        for (id, rows) in counted(self.before.into_iter().flatten()) {
            for &stream in streams.of(id, shape(id)?, &mut self.rows.streams) {
                reader.skip(stream, rows).ok_or_else(broken)?;
            }
        }
        for at in 0..self.rows.rows.len() {
            if let Some(id) = self.rows.rows[at].shape {
                for &stream in streams.of(id, shape(id)?, &mut self.rows.streams) {
                    let value = reader.next(stream).ok_or_else(broken)?;
                    self.rows.values.push(stream, value);
                }
            }
            self.rows.rows[at].rest_end = self.rows.values.len();
        }
        match self.is_cut || reader.is_done() {
            true => Ok(self.rows),
            false => Err(E::from("values that belong to no row".into())),
        }
    }
}

/// Each id once, in the order in which they first come, and how often it comes.
fn counted(ids: impl Iterator<Item = u64>) -> Vec<(u64, usize)> {
    let mut counted: Vec<(u64, usize)> = Vec::new();
    let mut places = HashMap::with_hasher(foldhash::fast::RandomState::default());
    for id in ids {
        let place = *places.entry(id).or_insert(counted.len());
        match counted.get_mut(place) {
            Some((_, count)) => *count += 1,
            None => counted.push((id, 1)),
        }
    }
    counted
}

/// Reads a row group of a file of spans.
///
/// # Errors
/// What is wrong with it.
pub fn read_rows(group: &Group) -> Result<StoredRows, Broken> {
    contained("a row group", || {
        let group = &group.open()?;
        let rows = all_rows(group);
        let traces = trace_ids(group)?.collect::<Result<_, _>>()?;
        read(group, Located::new(group, rows, traces)?)
    })
}

/// Some rows of a row group, and what they lead to: enough to fetch that while the rest of them is read.
#[derive(Debug)]
pub struct Located {
    rows: Range<usize>,
    traces: Vec<Option<[u8; 16]>>,
    /// Of the rows before them, too: the values of the column `rest` cannot be told apart without.
    shapes: Vec<Option<u64>>,
    refs: Vec<u64>,
    refs_ends: Vec<usize>,
}

impl Located {
    fn new(group: &Columns<'_>, rows: Range<usize>, traces: Vec<Option<[u8; 16]>>) -> Result<Self, Broken> {
        let shapes = read_optional::<Int64Type>(group, 18, &(0..rows.end))?;
        let (refs, refs_ends) = read_lists(group, 19, &rows)?;
        let (shapes, refs) = (shapes.into_iter().map(|id| Some(id? as u64)), refs.into_iter().map(|id| id as u64));
        Ok(Self { rows, traces, shapes: shapes.collect(), refs: refs.collect(), refs_ends })
    }

    /// The nodes that the rows of a trace lead to, and all shapes.
    pub fn nodes_of(&self, trace: &[u8; 16]) -> impl Iterator<Item = u64> {
        let starts = [0].into_iter().chain(self.refs_ends.iter().copied());
        let refs_of = starts.zip(&self.refs_ends).map(|(start, &end)| &self.refs[start..end]);
        let ours = self.traces.iter().zip(refs_of).filter(|(id, _)| id.as_ref() == Some(trace));
        ours.flat_map(|(_, refs)| refs).copied().chain(self.shapes.iter().copied().flatten())
    }
}

/// Finds the rows of a trace in a row group: those from its first to its last, others between them included.
///
/// # Errors
/// What is wrong with it.
pub fn locate(group: &Group, trace: &[u8; 16]) -> Result<Located, Broken> {
    contained("a row group", || {
        let group = &group.open()?;
        // `end` is behind the last row that is its; the first is `count` before it.
        let (mut end, mut count, mut traces) = (0, 0, Vec::new());
        for (row, id) in trace_ids(group)?.enumerate() {
            let id = id?;
            let is_its = id.as_ref() == Some(trace);
            if is_its || !traces.is_empty() {
                traces.push(id);
            }
            if is_its {
                (end, count) = (row + 1, traces.len());
            }
        }
        traces.truncate(count);
        Located::new(group, end - count..end, traces)
    })
}

/// The trace of each row.
fn trace_ids(group: &Columns<'_>) -> Result<impl Iterator<Item = Result<Option<[u8; 16]>, Broken>>, Broken> {
    Ok(optional_values::<FixedLenByteArrayType>(group, 2, &all_rows(group))?.map(|value| id(&value?)))
}

/// Reads the rows that were found.
///
/// # Errors
/// What is wrong with the row group.
pub fn read_located(group: &Group, located: Located) -> Result<StoredRows, Broken> {
    contained("a row group", || read(&group.open()?, located))
}

fn read(group: &Columns<'_>, located: Located) -> Result<StoredRows, Broken> {
    let Located { rows, traces, mut shapes, refs, refs_ends } = located;
    let (rows, mut all) = (&rows, Rows::default());
    // Values are made into what is kept of them at once: as long as one is there, so is the page that it is in.
    let mut text = |value: ByteArray| all.texts.id(value.data());
    // The rest of a group is in its first row.
    let everywhere = &all_rows(group);
    let sources: Vec<_> = read_required::<ByteArrayType>(group, 0, rows)?.into_iter().map(&mut text).collect();
    let kinds = read_required::<ByteArrayType>(group, 1, rows)?;
    let kind = |name: ByteArray| RowKind::from_name(name.data()).ok_or("a row of unknown kind");
    let kinds = kinds.into_iter().map(kind).collect::<Result<Vec<_>, _>>()?;
    let mut texts = |at| {
        let values = optional_values::<ByteArrayType>(group, at, rows)?;
        values.map(|value| Ok(value?.map(&mut text))).collect::<Result<Vec<_>, Broken>>()
    };
    let parents = read_optional::<Int32Type>(group, 4, rows)?;
    let near = near(rows, &parents, everywhere);
    let spans = read_optional::<FixedLenByteArrayType>(group, 3, &near)?;
    let strangers = read_optional::<FixedLenByteArrayType>(group, 5, rows)?;
    let names = texts(6)?;
    let starts = read_optional::<Int64Type>(group, 7, rows)?;
    let durations = read_optional::<Int64Type>(group, 8, rows)?;
    let statuses = read_optional::<Int32Type>(group, 9, rows)?;
    let (services, tenants, models, providers, conventions) =
        (texts(10)?, texts(11)?, texts(12)?, texts(13)?, texts(14)?);
    let input_tokens = read_optional::<Int64Type>(group, 15, rows)?;
    let output_tokens = read_optional::<Int64Type>(group, 16, rows)?;
    let costs = read_optional::<DoubleType>(group, 17, rows)?;
    let rests = read_optional::<ByteArrayType>(group, 20, &(0..everywhere.len().min(1)))?;
    let batches = texts(21)?;

    for (at, place) in rows.clone().enumerate() {
        let mut row = Row::new(kinds[at]);
        row.source = sources[at];
        row.trace_id = traces[at];
        row.span_id = id(&spans[place - near.start])?;
        row.parent_span_id = match parents[at] {
            Some(distance) => {
                let parent = usize::try_from(place as i64 + i64::from(distance) - near.start as i64).ok();
                let parent = parent.and_then(|place| spans.get(place)).ok_or("a parent outside its group")?;
                id(parent)?
            }
            None => id(&strangers[at])?,
        };
        row.name = names[at];
        row.start = starts[at];
        row.end = durations[at].map(|duration| duration.wrapping_add(starts[at].unwrap_or(0)));
        row.status = statuses[at];
        row.service = services[at];
        row.tenant = tenants[at];
        row.model = models[at];
        row.provider = providers[at];
        row.convention = conventions[at];
        row.input_tokens = input_tokens[at];
        row.output_tokens = output_tokens[at];
        row.cost = costs[at];
        row.shape = shapes[place];
        row.batch = batches[at];
        row.refs_end = refs_ends[at];
        all.rows.push(row);
    }
    all.refs = refs;
    shapes.truncate(rows.start);
    let rest = rests.into_iter().flatten().next();
    Ok(StoredRows { rows: all, before: shapes, rest, is_cut: rows.end < everywhere.end })
}

/// These rows and their parents, with all that is between them.
fn near(rows: &Range<usize>, parents: &[Option<i32>], all: &Range<usize>) -> Range<usize> {
    let there = rows.clone().zip(parents).filter_map(|(at, distance)| Some(at as i64 + i64::from((*distance)?)));
    // One that is not in the group is an error, which is told where its row is read.
    let there = there.filter_map(|at| usize::try_from(at).ok()).filter(|at| all.contains(at));
    there.fold(rows.clone(), |near, at| near.start.min(at)..near.end.max(at + 1))
}

/// What tells where a row belongs.
#[derive(Debug)]
pub struct Head {
    source: ByteArray,
    batch: Option<ByteArray>,
    /// What it is.
    pub kind: RowKind,
    /// Its trace.
    pub trace_id: Option<[u8; 16]>,
}

impl Head {
    /// The key of its batch.
    pub fn source(&self) -> &[u8] {
        self.source.data()
    }

    /// [`RowKind::Batch`]: the batch's sums, JSON.
    pub fn batch(&self) -> &[u8] {
        self.batch.as_ref().map_or(b"", ByteArray::data)
    }
}

/// Reads where the rows of a group belong, and nothing else of them.
///
/// # Errors
/// What is wrong with it.
pub fn read_heads(group: &Group) -> Result<Vec<Head>, Broken> {
    let group = &group.open()?;
    let rows = &all_rows(group);
    let sources = read_required::<ByteArrayType>(group, 0, rows)?;
    let kinds = read_required::<ByteArrayType>(group, 1, rows)?;
    let traces = trace_ids(group)?;
    let batches = read_optional::<ByteArrayType>(group, 21, rows)?;
    let heads = sources.into_iter().zip(kinds).zip(traces).zip(batches);
    heads
        .map(|(((source, kind), trace), batch)| {
            Ok(Head {
                kind: RowKind::from_name(kind.data()).ok_or("a row of unknown kind")?,
                trace_id: trace?,
                source,
                batch,
            })
        })
        .collect()
}

fn id<const N: usize>(value: &Option<FixedLenByteArray>) -> Result<Option<[u8; N]>, Broken> {
    let id = value.as_ref().map(|id| <[u8; N]>::try_from(id.data()));
    id.transpose().map_err(|_| format!("an id that has not {N} bytes"))
}
