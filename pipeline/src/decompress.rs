//! Stage 1: gzip (several members too), zstd or plain bytes, told by their first bytes and never by a name.

use crate::error::{Error, InputError, Result, Stage};
use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

/// The most that one batch may become.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes after decompression.
    pub max_bytes: u64,
    /// Bytes after decompression for each byte before, once more than [`Limits::RATIO_FROM`] came out.
    pub max_ratio: u64,
}

impl Limits {
    /// A small file may be as repetitive as it likes: so much is no danger.
    pub const RATIO_FROM: u64 = 64 << 20;
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_bytes: 16 << 30, max_ratio: 500 }
    }
}

/// What a raw file was, known once its stream has ended.
#[derive(Debug, Clone, Default)]
pub struct RawSums {
    /// Bytes as they came.
    pub bytes: u64,
    /// Bytes after decompression.
    pub document_bytes: u64,
    hasher: blake3::Hasher,
    known: Option<blake3::Hash>,
}

impl RawSums {
    /// The sums of a raw file that is not at hand, only what it held.
    pub fn known(bytes: u64, document_bytes: u64, blake3: blake3::Hash) -> Self {
        Self { bytes, document_bytes, known: Some(blake3), ..Self::default() }
    }

    /// BLAKE3 of the bytes as they came.
    pub fn blake3(&self) -> blake3::Hash {
        self.known.unwrap_or_else(|| self.hasher.finalize())
    }
}

/// The sums of a stream that is being read; complete when it has ended.
#[derive(Clone, Default)]
pub struct RawTally(Arc<Mutex<RawSums>>);

impl From<RawSums> for RawTally {
    fn from(sums: RawSums) -> Self {
        Self(Arc::new(Mutex::new(sums)))
    }
}

impl RawTally {
    /// The sums so far.
    pub fn sums(&self) -> RawSums {
        self.with(|sums| sums.clone())
    }

    fn with<T>(&self, f: impl FnOnce(&mut RawSums) -> T) -> T {
        // The sums are whole between any two statements that could panic.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Bytes of a piece that leaves this stage.
const PIECE: usize = 128 << 10;

/// Decompresses `raw`, counting both sides in `tally`.
///
/// # Errors
/// [`Error::Input`] for a broken or cut-off stream, bytes behind its end, or more than `limits` allow; whatever `raw`
/// itself fails with.
pub fn decompress<S>(raw: S, limits: Limits, tally: RawTally) -> impl Stream<Item = Result<Bytes>> + Send + 'static
where
    S: Stream<Item = Result<Bytes>> + Send + 'static,
{
    stream::once(async move {
        let counted = tally.clone();
        let mut raw = raw
            .inspect_ok(move |piece| {
                counted.with(|sums| {
                    sums.bytes += piece.len() as u64;
                    sums.hasher.update(piece);
                })
            })
            .boxed();
        let head = first_bytes(&mut raw).await?;
        let magic = head.clone();
        let whole = stream::once(async { Ok(head) }).chain(raw).map_err(io::Error::other);
        let plain: BoxStream<'static, Result<Bytes>> = match magic[..] {
            [0x1f, 0x8b, ..] => {
                let mut decoder = GzipDecoder::new(StreamReader::new(whole.boxed()));
                decoder.multiple_members(true);
                decoded("gzip", decoder, tally.clone())
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                let mut decoder = ZstdDecoder::new(StreamReader::new(whole.boxed()));
                decoder.multiple_members(true);
                decoded("zstd", decoder, tally.clone())
            }
            _ => whole.map_err(unwrap_io).boxed(),
        };
        Ok::<_, Error>(limited(plain, limits, tally))
    })
    .try_flatten()
}

/// Enough bytes to tell the kind by, as they come; fewer only if the file has no more.
async fn first_bytes(raw: &mut BoxStream<'static, Result<Bytes>>) -> Result<Bytes> {
    let mut head = BytesMut::new();
    while head.len() < 4 {
        match raw.try_next().await? {
            Some(piece) if head.is_empty() && piece.len() >= 4 => return Ok(piece),
            Some(piece) => head.extend_from_slice(&piece),
            None => break,
        }
    }
    Ok(head.freeze())
}

fn decoded(
    kind: &'static str,
    decoder: impl AsyncRead + Send + 'static,
    tally: RawTally,
) -> BoxStream<'static, Result<Bytes>> {
    ReaderStream::with_capacity(decoder, PIECE)
        .map_err(move |e| match e.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            true => unwrap_io(e),
            false => {
                let reason = match e.kind() {
                    io::ErrorKind::UnexpectedEof => format!("the {kind} stream is cut off"),
                    _ => format!("not a whole {kind} stream: {e}"),
                };
                InputError { stage: Stage::Decompress, offset: tally.sums().bytes, reason }.into()
            }
        })
        .boxed()
}

/// Gives back the error that came from below the decoder.
fn unwrap_io(e: io::Error) -> Error {
    match e.downcast::<Error>() {
        Ok(error) => error,
        Err(source) => Error::Io { what: "reading the batch".into(), source },
    }
}

fn limited(
    plain: BoxStream<'static, Result<Bytes>>,
    limits: Limits,
    tally: RawTally,
) -> impl Stream<Item = Result<Bytes>> + Send {
    plain.and_then(move |piece| {
        let checked = tally.with(|sums| {
            sums.document_bytes += piece.len() as u64;
            let ratio = sums.document_bytes / sums.bytes.max(1);
            let reason = if sums.document_bytes > limits.max_bytes {
                format!("more than {} bytes after decompression; MAX_BATCH_BYTES allows no more", limits.max_bytes)
            } else if sums.document_bytes > Limits::RATIO_FROM && ratio > limits.max_ratio {
                format!("more than {} times its compressed size; MAX_RATIO allows no more", limits.max_ratio)
            } else {
                return Ok(piece);
            };
            Err(InputError { stage: Stage::Decompress, offset: sums.bytes, reason }.into())
        });
        async { checked }
    })
}
