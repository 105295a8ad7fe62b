//! Row groups, compressed on all cores.

use bytes::Bytes;
use parquet::bloom_filter::Sbbf;
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::Result as ParquetResult;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::writer::SerializedFileWriter;
use std::panic::resume_unwind;
use std::sync::{Mutex, PoisonError};

/// What a file is written into.
pub(super) type Writer = SerializedFileWriter<Vec<u8>>;

/// Row groups that are compressed at the same time at most: each needs memory.
const AT_ONCE: usize = 4;

/// Appends row groups in their order.
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
    let next = || groups.lock().unwrap_or_else(PoisonError::into_inner).next();
    let compress = || {
        let compressed = std::iter::from_fn(next).map(|(number, group)| {
            let mut writer = Writer::new(Vec::new(), schema.clone(), properties.clone())?;
            write(&mut writer, group)?;
            Ok((number, Compressed::finish(writer)?))
        });
        compressed.collect::<ParquetResult<Vec<_>>>()
    };
    let compressed = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores.min(count)).map(|_| scope.spawn(compress)).collect();
        let compressed = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        compressed.collect::<ParquetResult<Vec<_>>>()
    })?;
    let mut compressed: Vec<_> = compressed.into_iter().flatten().collect();
    compressed.sort_unstable_by_key(|&(number, _)| number);
    compressed.into_iter().try_for_each(|(_, group)| group.append_to(writer))
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
