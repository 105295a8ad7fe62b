//! Row groups, compressed on all cores.

use bytes::Bytes;
use parquet::bloom_filter::Sbbf;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::writer::SerializedFileWriter;
use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a file is written into.
pub(super) type Writer = SerializedFileWriter<Vec<u8>>;

/// Row groups that are compressed at the same time at most: each needs memory.
const AT_ONCE: usize = 4;

/// Appends row groups in their order, each as soon as it is ready and those before it are in: few are in memory twice.
///
/// # Errors
/// If Parquet cannot hold one.
pub(super) fn write_groups<G: Send>(
    writer: &mut Writer,
    groups: Vec<G>,
    write: impl Fn(&mut Writer, G) -> ParquetResult<()> + Sync,
) -> ParquetResult<()> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(AT_ONCE));
    if groups.len() < 2 || cores < 2 {
        return groups.into_iter().try_for_each(|group| write(writer, group));
    }
    let (schema, properties) = (writer.schema_descr().root_schema_ptr(), writer.properties().clone());
    let (count, groups) = (groups.len(), Mutex::new(groups.into_iter().enumerate()));
    let next = || lock(&groups).next();
    let file = Mutex::new(InOrder { writer, ready: BTreeMap::new(), appended: 0 });
    let compress = || {
        std::iter::from_fn(next).try_for_each(|(number, group)| {
            let mut writer = Writer::new(Vec::new(), schema.clone(), properties.clone())?;
            write(&mut writer, group)?;
            let compressed = Compressed::finish(writer)?;
            lock(&file).push(number, compressed)
        })
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores.min(count)).map(|_| scope.spawn(compress)).collect();
        let ended = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        ended.collect::<ParquetResult<Vec<()>>>()
    })?;
    // One that is missing would be the worst of all errors, and its absence is nothing that Parquet could see.
    match lock(&file).appended {
        appended if appended == count => Ok(()),
        appended => Err(ParquetError::General(format!("{appended} of {count} row groups were written"))),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whatever panicked while it held this goes on panicking once the threads are joined.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file to which row groups come in any order.
struct InOrder<'w> {
    writer: &'w mut Writer,
    /// Those that came before one whose turn was earlier.
    ready: BTreeMap<usize, Compressed>,
    appended: usize,
}

impl InOrder<'_> {
    fn push(&mut self, number: usize, group: Compressed) -> ParquetResult<()> {
        self.ready.insert(number, group);
        while let Some(group) = self.ready.remove(&self.appended) {
            group.append_to(self.writer)?;
            self.appended += 1;
        }
        Ok(())
    }
}

/// Row groups in a file of their own, to be moved into another.
struct Compressed {
    file: Bytes,
    metadata: ParquetMetaData,
}

impl Compressed {
    fn finish(mut writer: Writer) -> ParquetResult<Self> {
        let metadata = writer.finish()?;
        Ok(Self { file: std::mem::take(writer.inner_mut()).into(), metadata })
    }

    fn append_to(self, writer: &mut Writer) -> ParquetResult<()> {
        for from in self.metadata.row_groups() {
            let mut out = writer.next_row_group()?;
            for column in from.columns() {
                let close = ColumnCloseResult {
                    bytes_written: column.compressed_size() as u64,
                    rows_written: from.num_rows() as u64,
                    metadata: column.clone(),
                    bloom_filter: Sbbf::read_from_column_chunk(column, &self.file)?,
                    column_index: None,
                    offset_index: None,
                };
                out.append_column(&self.file, close)?;
            }
            out.close()?;
        }
        Ok(())
    }
}
