//! The packed layout: two tables in Parquet, from which every batch can be restored byte for byte.
//!
//! # The way in
//! [`archive`] composes it: `decompress`, then [`gaps`] (records and what stands between them, so that nothing of the
//! batch is left out), then [`rows`] (each record lifted into nodes, a shape and columns), then [`packer`], the sink,
//! which writes what several batches came to in one flush: nodes first, then spans; `encode` makes the files.
//!
//! [`lift`] finds texts inside texts; [`shape`] takes records apart; [`table`] knows which texts are nodes already, and
//! `warm` tells it of those that other processes stored last; [`format`] is the Parquet of both tables.
//!
//! # The way out
//! [`reader`] finds nodes and puts texts and records together; [`restore`] gives batches, [`traces`] gives traces,
//! [`otlp`] and [`envelope`] give them as OTLP JSON.
//! [`batches`] knows which batch is meant by a key, [`names`] under which it is restored, [`inspect`] counts, [`verify`]
//! proves, and [`prove`] tells whether a raw file is needed no more.
//!
//! # In the long run
//! [`compact`] merges files and drops what several workers stored twice; [`gc`] removes what nobody needs any more.

pub mod archive;
pub mod batches;
pub mod catalog;
pub mod compact;
pub mod done;
mod encode;
pub mod envelope;
pub mod file;
pub mod footers;
pub mod format;
pub mod gaps;
pub mod gc;
pub mod inspect;
mod known;
pub mod lift;
mod listing;
pub mod names;
pub mod node;
pub mod node_set;
pub mod otlp;
pub mod packer;
pub mod prove;
pub mod reader;
pub mod restore;
pub mod row;
pub mod rows;
pub mod shape;
pub mod table;
pub mod traces;
pub mod verify;
mod warm;

/// Folder of the nodes.
pub const NODES: &str = "nodes";
/// Folder of the spans.
pub const SPANS: &str = "spans";

/// No row becomes longer than this when it is put together: a longer record is kept as text, in pieces.
const MAX_ROW_BYTES: usize = 1 << 30;

/// Room that buffers of a pack's size are given at once. So they need neither grow nor be copied, and an allocator takes
/// them from the system and gives them back by themselves: from 32 MiB on glibc keeps nothing that is freed for later,
/// once for each thread that had some. Pages that are not written to cost nothing.
const LARGE: usize = 40 << 20;

/// A list as it stands in a file's metadata.
fn json_list<T: serde::Serialize>(items: &[T]) -> String {
    // Numbers and strings can always be written.
    serde_json::to_string(items).unwrap_or_default()
}
