//! What the targets share: reading a document in one piece and in many.

use bytes::Bytes;
use futures::{TryStreamExt, stream};
use gravity_pipeline::decompress::{self, RawTally, decompress};
use gravity_pipeline::keys::ContentKeys;
use gravity_pipeline::otlp::{DocumentTally, FrameLimits, decode, frames};
use gravity_pipeline::{Error, Stage};

/// Small enough that both limits are met.
const LIMITS: FrameLimits = FrameLimits { max_record_bytes: 2_000 };

/// All records of a batch, in words, or why it is refused.
pub fn read(raw: &[u8], piece: usize) -> Result<String, Error> {
    let pieces: Vec<_> = raw.chunks(piece.max(1)).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let limits = decompress::Limits { max_bytes: 1 << 20, ..decompress::Limits::default() };
    let plain = decompress(stream::iter(pieces), limits, RawTally::default());
    let tally = DocumentTally::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime needs no input");
    let blocks: Vec<_> = runtime.block_on(frames(plain, LIMITS, tally.clone()).try_collect())?;
    let keys = ContentKeys::default();
    let records = blocks.iter().map(|block| decode(block, &keys)).collect::<Result<Vec<_>, _>>()?;
    Ok(format!("{} documents, {records:?}", tally.documents()))
}

/// Reads a batch in one piece and in pieces of `piece` bytes; it must come to the same.
pub fn whole_and_in_pieces(raw: &[u8], piece: usize) {
    match (read(raw, usize::MAX), read(raw, piece)) {
        (Ok(whole), Ok(pieces)) => assert_eq!(whole, pieces),
        (Err(Error::Input(whole)), Err(Error::Input(pieces))) => {
            // How much of a broken compressed stream comes out before the error does depend on the pieces.
            if whole.stage == Stage::Parse && !is_compressed(raw) {
                assert_eq!(whole.to_string(), pieces.to_string());
            }
        }
        (whole, pieces) => panic!("whole: {whole:?}\nin pieces of {piece}: {pieces:?}"),
    }
}

fn is_compressed(raw: &[u8]) -> bool {
    raw.starts_with(b"\x1f\x8b") || raw.starts_with(b"\x28\xb5\x2f\xfd") || raw.get(1..4) == Some(b"\x2a\x4d\x18")
}

/// Nodes in memory, as the tests have them.
#[path = "../../tests/packed/nodes.rs"]
pub mod nodes;

/// What the Parquet library panics of is contained by the readers, but libFuzzer's hook ends the process before that.
/// What is not contained still does.
pub fn let_panics_be_contained() {
    std::panic::set_hook(Box::new(|_| ()));
}

/// The row groups of a file, if its metadata can be read.
pub fn groups(file: &[u8], columns: usize) -> Vec<gravity_pipeline::packed::format::Group> {
    use gravity_pipeline::packed::format::{Group, Window, metadata_of};
    let window = Window::whole(Bytes::copy_from_slice(file));
    let Ok(metadata) = metadata_of(&window, columns) else { return vec![] };
    let metadata = std::sync::Arc::new(metadata);
    (0..metadata.num_row_groups())
        .map(|number| Group { window: window.clone(), metadata: metadata.clone(), number })
        .collect()
}
