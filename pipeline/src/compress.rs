//! Stage 5: one chunk as a gzip member, the same bytes every time: no time, no name.
//!
//! It runs inside [`upload`](crate::upload), once the store has said that it does not have the chunk: compressing
//! costs more than any other stage, and most chunks are there already.

use bytes::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress, GzBuilder, Status, bufread::MultiGzDecoder, write::GzEncoder};
use std::cell::RefCell;
use std::io::{self, Read, Write};

/// RFC 1952: magic, deflate, no flags, no time, no extra flags, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

thread_local! {
    // Setting up a compressor costs more than compressing a line with it.
    static DEFLATE: RefCell<Compress> = RefCell::new(Compress::new(Compression::default(), false));
}

/// Compresses a chunk.
pub fn gzip(chunk: &[u8]) -> Bytes {
    let mut crc = Crc::new();
    crc.update(chunk);
    // zlib's `compressBound`, plus header and trailer: never too small, so one call is enough.
    let bound = chunk.len() + (chunk.len() >> 12) + (chunk.len() >> 14) + (chunk.len() >> 25) + 13 + 64;
    let mut out = Vec::with_capacity(HEADER.len() + bound + 8);
    out.extend_from_slice(&HEADER);
    DEFLATE.with_borrow_mut(|deflate| {
        deflate.reset();
        let mut used = 0;
        loop {
            let before = deflate.total_in();
            // Deflate has no failing state when it is used like this; `StreamEnd` is what ends the loop.
            let status = deflate.compress_vec(&chunk[used..], &mut out, FlushCompress::Finish);
            used += (deflate.total_in() - before) as usize;
            match status {
                Ok(Status::StreamEnd) => break,
                _ => out.reserve(bound),
            }
        }
    });
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&crc.amount().to_le_bytes());
    Bytes::from(out)
}

/// One gzip member of what comes in pieces: no time, no name. Only what is compressed is held.
pub struct Gzip(GzEncoder<Vec<u8>>);

impl Default for Gzip {
    fn default() -> Self {
        Self(GzBuilder::new().operating_system(HEADER[9]).write(Vec::new(), Compression::default()))
    }
}

impl Gzip {
    /// Appends a piece.
    ///
    /// # Errors
    /// None that a buffer in memory could have.
    pub fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.0.write_all(piece)
    }

    /// The member.
    ///
    /// # Errors
    /// None that a buffer in memory could have.
    pub fn finish(self) -> io::Result<Bytes> {
        self.0.finish().map(Bytes::from)
    }
}

/// The chunk that [`gzip`] or any other gzip made.
///
/// # Errors
/// If it is not whole.
pub fn gunzip(blob: &[u8]) -> io::Result<Vec<u8>> {
    let mut chunk = Vec::new();
    MultiGzDecoder::new(blob).read_to_end(&mut chunk)?;
    Ok(chunk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_same_chunk_gives_the_same_blob() {
        let first = gzip(b"hello");
        gzip(&[7; 100_000]);
        assert_eq!(gzip(b"hello"), first);
        assert_eq!(first[..10], HEADER);
    }

    #[test]
    fn what_came_in_pieces_has_the_same_header_and_comes_back() {
        let mut pieces = Gzip::default();
        pieces.write(b"hello ").unwrap();
        pieces.write(b"hello").unwrap();
        let whole = pieces.finish().unwrap();
        assert_eq!(whole[..10], HEADER);
        assert_eq!(gunzip(&whole).unwrap(), b"hello hello");
    }

    #[test]
    fn a_cut_off_blob_is_an_error() {
        let blob = gzip(b"hello hello hello");
        for length in 0..blob.len() {
            assert!(gunzip(&blob[..length]).is_err(), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(chunk: Vec<u8>, repeat in 1..2000usize) {
            let chunk = chunk.repeat(repeat);
            prop_assert_eq!(gunzip(&gzip(&chunk)).unwrap(), chunk);
        }
    }
}
