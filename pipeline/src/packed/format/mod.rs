//! The two tables, as Parquet files.

mod columns;
mod groups;
mod nodes;
mod pages;
pub mod rest;
mod spans;
mod thrift;

pub use columns::{Group, Window, bloom_of, metadata_of};
pub use nodes::{NodeGroup, NodesFile, NodesWriter, StoredNode, read_nodes, write_nodes};
pub use spans::{Head, Located, SpansWriter, StoredRows, locate, read_heads, read_located, read_rows};

use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};

/// The version that this program writes, in every file's metadata as `gravity.format`.
pub const FORMAT: &str = "1";
/// Key in a file's metadata: the version.
pub const FORMAT_KEY: &str = "gravity.format";
/// Key in a file's metadata: the packs that its references lead to, numbers in JSON.
pub const PACKS_KEY: &str = "gravity.packs";
/// Key in a file's metadata: the files that it stands for since it was compacted, names in JSON.
pub const REPLACES_KEY: &str = "gravity.replaces";
/// Key in a spans file's metadata: the keys of its batches, JSON.
pub const BATCHES_KEY: &str = "gravity.batches";

/// How hard to compress, and how much to a group.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// zstd's level.
    pub level: i32,
    /// The level for columns of few different texts: any makes next to nothing of them, and the lowest in the least time.
    pub level_of_few: i32,
    /// Bytes of nodes' text in a row group: what must be decompressed to read one.
    pub node_group_bytes: usize,
    /// Rows of the spans table in a row group.
    pub span_group_rows: usize,
}

impl Effort {
    /// While ingesting. Level 8 would take a tenth more time, for 2% fewer bytes. Four times the rows in a group would
    /// cost 1 to 4% fewer bytes, and a trace four times the time that its rows take to be read. Half as much text in a
    /// group would cost 1 to 5% more bytes, and give a trace's first byte 0.7 ms sooner.
    pub const INGEST: Self = Self { level: 6, level_of_few: 1, node_group_bytes: 2 << 20, span_group_rows: 4 << 10 };
    /// When compacting: bytes count more than time.
    pub const COMPACT: Self =
        Self { level: 22, level_of_few: 22, node_group_bytes: 8 << 20, span_group_rows: 32 << 10 };
}

/// What both files have in common: everything plain behind zstd, which finds what repeats better than dictionaries do,
/// one page a column unless it is large, and no statistics but those asked for.
fn properties(effort: Effort, metadata: Vec<(&str, String)>) -> WriterPropertiesBuilder {
    let level = ZstdLevel::try_new(effort.level).unwrap_or_default();
    let mut pairs = vec![KeyValue::new(FORMAT_KEY.to_owned(), FORMAT.to_owned())];
    pairs.extend(metadata.into_iter().map(|(key, value)| KeyValue::new(key.to_owned(), value)));
    WriterProperties::builder()
        .set_created_by("gravity".to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_dictionary_enabled(false)
        .set_encoding(Encoding::PLAIN)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_data_page_row_count_limit(usize::MAX)
        .set_data_page_size_limit(64 << 20)
        .set_write_batch_size(1 << 20)
        .set_key_value_metadata(Some(pairs))
}

/// What reading a file may fail with; the caller knows its name.
pub type Broken = String;

fn broken(e: ParquetError) -> Broken {
    e.to_string()
}
