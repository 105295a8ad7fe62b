//! Whole columns in and out of Parquet.

use super::pages::Pages;
use super::{Broken, broken};
use bytes::Bytes;
use parquet::bloom_filter::Sbbf;
use parquet::column::reader::{ColumnReaderImpl, get_column_reader, get_typed_column_reader};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::writer::SerializedRowGroupWriter;
use std::io::{ErrorKind, Read, Write};
use std::ops::Range;
use std::sync::Arc;

/// Writes the group's next column, which no value may lack.
pub(super) fn required<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
) -> ParquetResult<()> {
    write::<T, W>(group, values, None, None)
}

/// Writes the group's next column, which values may lack.
pub(super) fn optional<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: impl Iterator<Item = Option<T::T>>,
) -> ParquetResult<()> {
    let (mut there, mut levels) = (Vec::new(), Vec::new());
    for value in values {
        levels.push(i16::from(value.is_some()));
        there.extend(value);
    }
    write::<T, W>(group, &there, Some(&levels), None)
}

/// Writes the group's next column, a list of integers a row.
pub(super) fn lists<'a, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    rows: impl Iterator<Item = &'a [i64]>,
) -> ParquetResult<()> {
    let (mut values, mut definition, mut repetition) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows {
        values.extend_from_slice(row);
        repetition.push(0);
        repetition.extend(std::iter::repeat_n(1, row.len().saturating_sub(1)));
        match row.len() {
            0 => definition.push(0),
            n => definition.extend(std::iter::repeat_n(1, n)),
        }
    }
    write::<parquet::data_type::Int64Type, W>(group, &values, Some(&definition), Some(&repetition))
}

fn write<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    definition: Option<&[i16]>,
    repetition: Option<&[i16]>,
) -> ParquetResult<()> {
    let mut column = group.next_column()?.ok_or_else(|| ParquetError::General("no such column".into()))?;
    column.typed::<T>().write_batch(values, definition, repetition)?;
    column.close()
}

/// Rows of one group at most: what a group without end would need is known before it is read.
pub(super) const GROUP_ROWS: usize = 1 << 20;

/// Calls what may panic on a file that is not what Gravity wrote: the Parquet library takes some things for granted.
pub(super) fn contained<T>(what: &str, read: impl FnOnce() -> Result<T, Broken>) -> Result<T, Broken> {
    // What a panic leaves behind half done is dropped with it.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(format!("{what} is damaged beyond reading")))
}

/// All rows of a group.
pub(super) fn all_rows(group: &Columns<'_>) -> Range<usize> {
    // That it is a number of rows was checked when the metadata was read.
    0..group.metadata.num_rows() as usize
}

/// Reads some rows of a column which no value may lack.
pub(super) fn read_required<T: DataType>(
    group: &Columns<'_>,
    at: usize,
    rows: &Range<usize>,
) -> Result<Vec<T::T>, Broken> {
    let (mut column, mut values) = (Column::<T>::open(group, at, rows)?, Vec::with_capacity(rows.len()));
    while column.read(&mut values)? > 0 {
        if column.definition.iter().any(|&level| level > 0) {
            return Err(format!("column {at} may lack values"));
        }
    }
    match values.len() == rows.len() {
        true => Ok(values),
        false => Err(format!("column {at} has {} values in {} rows", values.len(), rows.len())),
    }
}

/// Reads some rows of a column which values may lack.
pub(super) fn read_optional<T: DataType>(
    group: &Columns<'_>,
    at: usize,
    rows: &Range<usize>,
) -> Result<Vec<Option<T::T>>, Broken> {
    let mut all = Vec::with_capacity(rows.len());
    for value in optional_values::<T>(group, at, rows)? {
        all.push(value?);
    }
    Ok(all)
}

/// The same, row by row: who makes something else of the values need not have room for all of them.
pub(super) fn optional_values<T: DataType>(
    group: &Columns<'_>,
    at: usize,
    rows: &Range<usize>,
) -> Result<OptionalValues<T>, Broken> {
    Ok(OptionalValues { column: Column::open(group, at, rows)?, values: Vec::new(), next_level: 0, next_value: 0 })
}

/// What [`optional_values`] gives: as many items as there are rows to read, or an error.
pub(super) struct OptionalValues<T: DataType> {
    column: Column<T>,
    /// Of the rows that were read last.
    values: Vec<T::T>,
    next_level: usize,
    next_value: usize,
}

impl<T: DataType> OptionalValues<T> {
    /// Reads more rows; false if there are no more.
    fn read(&mut self) -> Result<bool, Broken> {
        self.values.clear();
        (self.next_level, self.next_value) = (0, 0);
        let (at, rows) = (self.column.at, self.column.read(&mut self.values)?);
        match self.column.definition.len() == rows {
            true => Ok(rows > 0),
            false => Err(format!("column {at} has values for {} of {rows} rows", self.column.definition.len())),
        }
    }
}

impl<T: DataType> Iterator for OptionalValues<T> {
    type Item = Result<Option<T::T>, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next_level == self.column.definition.len() {
            match self.read() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(e) => return Some(Err(e)),
            }
        }
        let level = self.column.definition[self.next_level];
        self.next_level += 1;
        if level <= 0 {
            return Some(Ok(None));
        }
        let value = self.values.get_mut(self.next_value).map(std::mem::take);
        self.next_value += 1;
        Some(value.map(Some).ok_or_else(|| format!("column {} lacks values", self.column.at)))
    }
}

/// Reads some rows of a column of lists: all values, and where each row's end.
pub(super) fn read_lists(
    group: &Columns<'_>,
    at: usize,
    rows: &Range<usize>,
) -> Result<(Vec<i64>, Vec<usize>), Broken> {
    let mut column = Column::<parquet::data_type::Int64Type>::open(group, at, rows)?;
    let (mut values, mut ends, mut seen) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()), 0);
    while column.read(&mut values)? > 0 {
        if column.definition.len() != column.repetition.len() {
            return Err(format!("column {at} is not one of lists"));
        }
        for (&defined, &repeated) in column.definition.iter().zip(&column.repetition) {
            if repeated == 0 {
                ends.push(seen);
            }
            seen += usize::from(defined > 0);
            if let Some(end) = ends.last_mut() {
                *end = seen;
            }
        }
    }
    match ends.len() == rows.len() && seen == values.len() {
        true => Ok((values, ends)),
        false => Err(format!("column {at} has {} lists in {} rows", ends.len(), rows.len())),
    }
}

/// Rows read at a time. Levels and values that are made into something else have room for no more: memory that was never
/// used before costs more than what is done with it.
const AT_ONCE: usize = 1024;

/// A column of which some rows are read.
struct Column<T: DataType> {
    at: usize,
    reader: ColumnReaderImpl<T>,
    /// Rows that are still to be read.
    left: usize,
    /// Levels of the rows that were read last.
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

impl<T: DataType> Column<T> {
    fn open(group: &Columns<'_>, at: usize, rows: &Range<usize>) -> Result<Self, Broken> {
        let schema = group.metadata.schema_descr();
        if at >= schema.num_columns() {
            return Err(format!("there is no column {at}"));
        }
        let kind = schema.column(at).physical_type();
        if kind != T::get_physical_type() {
            return Err(format!("column {at} is of type {kind}"));
        }
        let pages = Pages::new(group.window, group.metadata.column(at)).map_err(broken)?;
        let mut reader = get_typed_column_reader::<T>(get_column_reader(schema.column(at), Box::new(pages)));
        if rows.start > 0 && reader.skip_records(rows.start).map_err(broken)? != rows.start {
            return Err(format!("column {at} has no row {}", rows.start));
        }
        Ok(Self { at, reader, left: rows.len(), definition: Vec::new(), repetition: Vec::new() })
    }

    /// Reads the next rows, and gives how many: 0 at the end. Their values are appended.
    fn read(&mut self, values: &mut Vec<T::T>) -> Result<usize, Broken> {
        self.definition.clear();
        self.repetition.clear();
        let wanted = self.left.min(AT_ONCE);
        let (definition, repetition) = (Some(&mut self.definition), Some(&mut self.repetition));
        let (rows, ..) = self.reader.read_records(wanted, definition, repetition, values).map_err(broken)?;
        if rows != wanted {
            return Err(format!("column {} ends {} rows before others", self.at, self.left - rows));
        }
        self.left -= rows;
        Ok(rows)
    }
}

/// Values that share one buffer.
pub(super) fn shared<T: AsRef<[u8]>>(values: impl Iterator<Item = T>) -> impl Iterator<Item = ByteArray> {
    let (mut all, mut ends) = (Vec::new(), Vec::new());
    for value in values {
        all.extend_from_slice(value.as_ref());
        ends.push(all.len());
    }
    let (all, mut start) = (Bytes::from(all), 0);
    ends.into_iter().map(move |end| all.slice(std::mem::replace(&mut start, end)..end).into())
}

/// A part of a file, at its place.
#[derive(Debug, Clone)]
pub struct Window {
    /// Where it begins.
    pub start: u64,
    /// Its bytes.
    pub bytes: Bytes,
    /// Bytes of the whole file.
    pub size: u64,
}

impl Window {
    /// A whole file.
    pub fn whole(bytes: Bytes) -> Self {
        Self { start: 0, size: bytes.len() as u64, bytes }
    }

    fn from(&self, start: u64) -> ParquetResult<Bytes> {
        let at = start.checked_sub(self.start).filter(|&at| at <= self.bytes.len() as u64);
        let at = at.ok_or_else(|| ParquetError::EOF(format!("byte {start} was not read")))?;
        Ok(self.bytes.slice(at as usize..))
    }
}

impl Length for Window {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Window {
    type T = Strict;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(Strict(self.from(start)?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let rest = self.from(start)?;
        match length <= rest.len() {
            true => Ok(rest.slice(..length)),
            false => Err(ParquetError::EOF(format!("{length} bytes at {start} were not read"))),
        }
    }
}

/// Reads bytes, and fails at their end: the Parquet library skips a list of two thousand million items, one by one, where
/// the end of what it reads is not an error.
pub struct Strict(Bytes);

impl Read for Strict {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.0.is_empty() && !out.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let taken = self.0.split_to(out.len().min(self.0.len()));
        out[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}

/// One row group, with the part of the file that holds it.
#[derive(Debug, Clone)]
pub struct Group {
    /// The part.
    pub window: Window,
    /// The whole file's metadata.
    pub metadata: Arc<ParquetMetaData>,
    /// Its place in the file.
    pub number: usize,
}

impl Group {
    pub(super) fn open(&self) -> Result<Columns<'_>, Broken> {
        match self.metadata.row_groups().get(self.number) {
            Some(metadata) => Ok(Columns { window: &self.window, metadata }),
            None => Err(format!("there is no row group {}", self.number)),
        }
    }
}

/// The columns of a row group.
pub(super) struct Columns<'g> {
    window: &'g Window,
    metadata: &'g RowGroupMetaData,
}

/// A file's metadata, from a window that holds its end. Row groups have at least `columns` columns, which lie in the file.
pub fn metadata_of(file: &Window, columns: usize) -> Result<ParquetMetaData, Broken> {
    contained("its metadata", || {
        // Behind it, its length and "PAR1".
        let (rest, end) = file.bytes.split_last_chunk::<8>().ok_or("it is cut off")?;
        let length = u32::from_le_bytes([end[0], end[1], end[2], end[3]]) as usize;
        let start = rest.len().checked_sub(length).ok_or("its metadata is cut off")?;
        if !super::thrift::is_sound(&rest[start..]) {
            return Err("its metadata is damaged".into());
        }
        let metadata = ParquetMetaDataReader::new().parse_and_finish(file).map_err(broken)?;
        for (number, group) in metadata.row_groups().iter().enumerate() {
            check(group, columns, file.size).map_err(|reason| format!("row group {number}: {reason}"))?;
        }
        Ok(metadata)
    })
}

fn check(group: &RowGroupMetaData, columns: usize, size: u64) -> Result<(), Broken> {
    if !usize::try_from(group.num_rows()).is_ok_and(|rows| rows <= GROUP_ROWS) {
        return Err(format!("it says that it has {} rows", group.num_rows()));
    }
    if group.num_columns() < columns {
        return Err(format!("it has {} columns", group.num_columns()));
    }
    for column in group.columns() {
        let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
        let end = start.checked_add(column.compressed_size());
        let (start, end) = (u64::try_from(start).ok(), end.and_then(|end| u64::try_from(end).ok()));
        if !matches!((start, end), (Some(start), Some(end)) if start <= end && end <= size) {
            return Err("a column is not in the file".into());
        }
    }
    Ok(())
}

/// The filter of a column, if it lies in the window.
pub fn bloom_of(column: &ColumnChunkMetaData, file: &Window) -> Option<Sbbf> {
    contained("its filter", || Sbbf::read_from_column_chunk(column, file).map_err(broken)).ok().flatten()
}
