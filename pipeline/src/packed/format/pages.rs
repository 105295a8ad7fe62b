//! The pages of a column, decompressed into memory that is had at a low price.

use super::columns::Window;
use bytes::Bytes;
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::MmapMut;
use parquet::basic::{Compression, Encoding};
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::serialized_reader::SerializedPageReader;
use std::sync::Arc;
use zstd::bulk::Decompressor;
use zstd::zstd_safe::get_frame_content_size;

/// Pages as we write them. For other encodings, a few bytes of a damaged file make the Parquet library ask for terabytes
/// of memory, which ends the process.
pub(super) struct Pages {
    /// Was told that they are not compressed, and gives them as they stand: it would decompress them into a `Vec`.
    stored: SerializedPageReader<Window>,
    is_compressed: bool,
}

impl Pages {
    pub fn new(window: &Window, column: &ColumnChunkMetaData) -> ParquetResult<Self> {
        let is_compressed = match column.compression() {
            Compression::ZSTD(_) => true,
            Compression::UNCOMPRESSED => false,
            other => return Err(ParquetError::General(format!("a column compressed as {other}"))),
        };
        let column = column.clone().into_builder().set_compression(Compression::UNCOMPRESSED).build()?;
        // The number of rows counts only where it is told where each page begins.
        Ok(Self { stored: SerializedPageReader::new(Arc::new(window.clone()), &column, 0, None)?, is_compressed })
    }
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> ParquetResult<Option<Page>> {
        let Some(mut page) = self.stored.get_next_page()? else { return Ok(None) };
        let Page::DataPage { buf, encoding: Encoding::PLAIN | Encoding::DELTA_BINARY_PACKED, .. } = &mut page else {
            let (kind, encoding) = (page.page_type(), page.encoding());
            return Err(ParquetError::General(format!("a page of type {kind:?} in the encoding {encoding}")));
        };
        if self.is_compressed {
            *buf = decompress(buf)?;
        }
        Ok(Some(page))
    }

    fn peek_next_page(&mut self) -> ParquetResult<Option<PageMetadata>> {
        self.stored.peek_next_page()
    }

    fn skip_next_page(&mut self) -> ParquetResult<()> {
        self.stored.skip_next_page()
    }
}

impl Iterator for Pages {
    type Item = ParquetResult<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

/// Bytes of a page at most, decompressed.
const MOST: u64 = i32::MAX as u64;
/// A large page of memory on x86-64, and mostly on ARM.
const HUGE: usize = 2 << 20;

/// Decompresses a page, a large one into large pages of memory, where Linux has them for whoever asks. It hands out
/// memory in 4 KiB otherwise, which takes longer than to decompress into it does.
fn decompress(page: &[u8]) -> ParquetResult<Bytes> {
    let size = get_frame_content_size(page).ok().flatten().filter(|&size| size <= MOST);
    let size = size.ok_or_else(|| ParquetError::General("a page that does not tell its size".into()))? as usize;
    let mut decompressor = Decompressor::new()?;
    let (bytes, written) = if size < HUGE / 2 {
        let mut bytes = Vec::with_capacity(size);
        let written = decompressor.decompress_to_buffer(page, &mut bytes)?;
        (Bytes::from(bytes), written)
    } else {
        let mut bytes = MmapMut::map_anon(size.next_multiple_of(HUGE))?;
        // What is behind the last whole one is not worth another. That there may be none is no error.
        #[cfg(target_os = "linux")]
        let _ = bytes.advise_range(Advice::HugePage, 0, size.max(HUGE) / HUGE * HUGE);
        let written = decompressor.decompress_to_buffer(page, &mut bytes[..size])?;
        (Bytes::from_owner(bytes).slice(..size), written)
    };
    match written == size {
        true => Ok(bytes),
        false => Err(ParquetError::General(format!("a page of {written} bytes that says that it has {size}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compressed(page: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(page, 1).unwrap()
    }

    fn page(size: usize) -> Vec<u8> {
        (0..size as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    #[test]
    fn a_page_of_any_size_is_decompressed() {
        for size in [0, 1, 1000, HUGE / 2 - 1, HUGE / 2, HUGE - 1, HUGE, HUGE + 1, 2 * HUGE + 4097] {
            let page = page(size);
            assert!(decompress(&compressed(&page)).unwrap() == page, "{size}");
        }
    }

    #[test]
    fn a_page_that_is_cut_off_is_an_error() {
        for size in [1000, HUGE] {
            let page = compressed(&page(size));
            for end in [0, 3, page.len() / 2, page.len() - 1] {
                assert!(decompress(&page[..end]).is_err(), "{end} of {}", page.len());
            }
        }
    }

    #[test]
    fn a_page_that_says_that_it_is_shorter_or_longer_is_an_error() {
        for size in [300, HUGE] {
            for wrong in [size - 1, size + 1] {
                let mut page = compressed(&page(size));
                // Behind the magic number, the descriptor and, unless it has one segment, the window; see RFC 8878, 3.1.1.1.
                let at = if page[4] & 0x20 == 0 { 6 } else { 5 };
                match page[4] >> 6 {
                    1 => page[at..at + 2].copy_from_slice(&(wrong as u16 - 256).to_le_bytes()),
                    _ => page[at..at + 4].copy_from_slice(&(wrong as u32).to_le_bytes()),
                }
                assert_eq!(get_frame_content_size(&page).unwrap(), Some(wrong as u64));
                assert!(decompress(&page).is_err(), "{wrong} and not {size}");
            }
        }
    }
}
