//! What the first stage promises: all of the bytes or an error, however the file arrives.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use async_compression::tokio::write::{GzipEncoder, ZstdEncoder};
use bytes::Bytes;
use futures::{TryStreamExt, stream};
use gravity_pipeline::decompress::{Limits, RawTally, decompress};
use gravity_pipeline::{Error, Result, Stage, blake3};
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;

const WHOLE: usize = usize::MAX;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

fn gzip(content: &[u8]) -> Vec<u8> {
    block_on(async {
        let mut encoder = GzipEncoder::new(Vec::new());
        encoder.write_all(content).await.unwrap();
        encoder.shutdown().await.unwrap();
        encoder.into_inner()
    })
}

fn zstd(content: &[u8]) -> Vec<u8> {
    block_on(async {
        let mut encoder = ZstdEncoder::new(Vec::new());
        encoder.write_all(content).await.unwrap();
        encoder.shutdown().await.unwrap();
        encoder.into_inner()
    })
}

fn read_all(pieces: Vec<Result<Bytes>>, limits: Limits, tally: RawTally) -> Result<Vec<u8>> {
    block_on(async {
        let pieces: Vec<Bytes> = decompress(stream::iter(pieces), limits, tally).try_collect().await?;
        Ok(pieces.concat())
    })
}

fn pieces(raw: &[u8], size: usize) -> Vec<Result<Bytes>> {
    raw.chunks(size).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect()
}

fn decompressed(raw: &[u8], size: usize) -> Result<Vec<u8>> {
    read_all(pieces(raw, size), Limits::default(), RawTally::default())
}

/// The reason of a batch that this stage refuses; anything else is a failure.
fn refused(raw: &[u8], size: usize) -> String {
    match decompressed(raw, size) {
        Err(Error::Input(e)) if e.stage == Stage::Decompress => e.reason,
        other => panic!("{} bytes in pieces of {size} were not refused: {other:?}", raw.len()),
    }
}

/// Neither all alike nor all different, and longer than the decoders' own buffers.
fn text() -> Vec<u8> {
    (0..2_000u64).flat_map(|n| format!("{} {n}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes()).collect()
}

#[test]
fn the_kind_is_told_by_the_bytes() {
    let text = text();
    for raw in [text.clone(), gzip(&text), zstd(&text)] {
        assert_eq!(decompressed(&raw, WHOLE).unwrap(), text);
    }
}

#[test]
fn plain_bytes_shorter_than_any_magic_are_kept() {
    for raw in [&b"a"[..], b"ab", b"abc", b"\x28\xb5\x2f", b"\x1f"] {
        for size in [1, WHOLE] {
            assert_eq!(decompressed(raw, size).unwrap(), raw);
        }
    }
}

#[test]
fn an_empty_file_gives_no_bytes() {
    assert_eq!(decompressed(b"", 1).unwrap(), b"");
    assert_eq!(
        read_all(vec![Ok(Bytes::new()), Ok(Bytes::new())], Limits::default(), RawTally::default()).unwrap(),
        b""
    );
}

#[test]
fn a_compressed_empty_file_gives_no_bytes() {
    assert_eq!(decompressed(&gzip(b""), 1).unwrap(), b"");
    assert_eq!(decompressed(&zstd(b""), 1).unwrap(), b"");
}

#[test]
fn every_truncation_of_a_gzip_file_is_an_error() {
    let raw = gzip(&text()[..5_000]);
    // One byte is no magic yet: it goes through as it is, and the parser refuses it.
    for length in 2..raw.len() {
        assert_eq!(refused(&raw[..length], WHOLE), "the gzip stream is cut off", "{length} of {}", raw.len());
        assert_eq!(refused(&raw[..length], 7), "the gzip stream is cut off", "{length} of {}", raw.len());
    }
}

#[test]
fn every_truncation_of_a_zstd_file_is_an_error() {
    let raw = zstd(&text()[..5_000]);
    for length in 4..raw.len() {
        assert_eq!(refused(&raw[..length], WHOLE), "the zstd stream is cut off", "{length} of {}", raw.len());
        assert_eq!(refused(&raw[..length], 7), "the zstd stream is cut off", "{length} of {}", raw.len());
    }
}

#[test]
fn a_truncation_in_a_later_member_is_an_error() {
    for (first, second) in [(gzip(b"first"), gzip(b"second")), (zstd(b"first"), zstd(b"second"))] {
        for length in 1..second.len() {
            refused(&[&first[..], &second[..length]].concat(), WHOLE);
        }
    }
}

#[test]
fn all_members_of_a_gzip_file_are_read() {
    let raw = [gzip(b"first "), gzip(b""), gzip(b"second")].concat();
    for size in [1, 5, WHOLE] {
        assert_eq!(decompressed(&raw, size).unwrap(), b"first second");
    }
}

#[test]
fn all_frames_of_a_zstd_file_are_read_and_skippable_ones_skipped() {
    let skippable = b"\x50\x2a\x4d\x18\x03\0\0\0abc".to_vec();
    let raw = [skippable.clone(), zstd(b"first "), skippable, zstd(b"second")].concat();
    for size in [1, 5, WHOLE] {
        assert_eq!(decompressed(&raw, size).unwrap(), b"first second");
    }
}

#[test]
fn bytes_behind_the_end_are_an_error() {
    for whole in [gzip(b"content"), zstd(b"content")] {
        for garbage in [&b"x"[..], b"\0", b"{\"resourceSpans\":[]}", &[0; 1000]] {
            let raw = [&whole[..], garbage].concat();
            for size in [1, whole.len(), WHOLE] {
                refused(&raw, size);
            }
        }
    }
}

#[test]
fn a_changed_byte_in_the_compressed_content_is_an_error() {
    let mut raw = gzip(&text());
    let checksum = raw.len() - 8;
    raw[checksum] ^= 1;
    assert!(refused(&raw, WHOLE).starts_with("not a whole gzip stream"));
}

#[test]
fn an_error_of_the_source_comes_through_as_it_is() {
    for raw in [text(), gzip(&text()), zstd(&text())] {
        for read in [0, 2, 100, raw.len()] {
            let mut source = pieces(&raw[..read], 50);
            source.push(Err(Error::NotFound("gone".into())));
            let error = read_all(source, Limits::default(), RawTally::default()).unwrap_err();
            assert!(matches!(&error, Error::NotFound(what) if what == "gone"), "after {read} bytes: {error:?}");
        }
    }
}

#[test]
fn more_bytes_than_allowed_are_an_error_that_names_the_setting() {
    let text = text();
    let limit = |max_bytes| Limits { max_bytes, ..Limits::default() };
    for raw in [text.clone(), gzip(&text), zstd(&text)] {
        let read = |max_bytes| read_all(pieces(&raw, 1000), limit(max_bytes), RawTally::default());
        assert_eq!(read(text.len() as u64).unwrap(), text);
        let error = read(text.len() as u64 - 1).unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains("MAX_BATCH_BYTES"), "{error}");
    }
}

#[test]
fn a_large_file_that_grows_beyond_the_ratio_is_an_error_that_names_the_setting() {
    let bomb = zstd(&vec![0; Limits::RATIO_FROM as usize + 1]);
    let error = decompressed(&bomb, WHOLE).unwrap_err();
    assert!(error.is_permanent() && error.to_string().contains("MAX_RATIO"), "{error}");
}

#[test]
fn a_small_file_may_be_as_repetitive_as_it_likes() {
    let limits = Limits { max_ratio: 1, ..Limits::default() };
    let zeros = vec![0; 1 << 20];
    assert_eq!(read_all(pieces(&zstd(&zeros), WHOLE), limits, RawTally::default()).unwrap(), zeros);
}

#[test]
fn the_tally_tells_the_raw_file_and_what_became_of_it() {
    let (text, tally) = (text(), RawTally::default());
    let raw = gzip(&text);
    read_all(pieces(&raw, 333), Limits::default(), tally.clone()).unwrap();
    let sums = tally.sums();
    assert_eq!((sums.bytes, sums.document_bytes), (raw.len() as u64, text.len() as u64));
    assert_eq!(sums.blake3(), blake3::hash(&raw));
}

proptest! {
    #[test]
    fn what_was_compressed_comes_back_however_it_arrives(
        content: Vec<u8>, repeat in 1..300usize, sizes in prop::collection::vec(1..5000usize, 1..8),
    ) {
        let content = content.repeat(repeat);
        for raw in [gzip(&content), zstd(&content)] {
            let (mut rest, mut source) = (&raw[..], Vec::new());
            for size in sizes.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, behind) = rest.split_at(rest.len().min(*size));
                source.push(Ok(Bytes::copy_from_slice(piece)));
                rest = behind;
            }
            let read = read_all(source, Limits::default(), RawTally::default());
            prop_assert_eq!(read.unwrap(), content.clone());
        }
    }
}
