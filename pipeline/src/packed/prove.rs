//! Whether a raw file is stored for sure: what its key restores to, compared with what the file holds.

use super::batches::open;
use super::catalog::{Catalog, Files};
use super::reader::Reader;
use crate::decompress::{Limits, RawTally, decompress};
use crate::error::{Error, Result};
use crate::store::Store;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, TryStreamExt};
use std::sync::Arc;

/// How what is stored of a batch stands to its raw file.
#[derive(Debug)]
pub enum Stored {
    /// It is what the file holds, byte for byte.
    Same,
    /// The file holds something else: it was replaced.
    Other,
    /// It is there and cannot be restored, or is not there.
    Broken(Error),
}

/// Compares raw files with what is stored of them.
pub struct Prover {
    reader: Arc<Reader>,
    catalog: Arc<Catalog>,
    limits: Limits,
}

/// Bytes of nodes that are remembered from one batch to the next.
const NODE_BYTES: usize = 32 << 20;

impl Prover {
    /// Reads `store`; a raw file may become as much as `limits` allow.
    pub fn new(store: Arc<dyn Store>, limits: Limits) -> Self {
        let reader = Reader::new(store, NODE_BYTES);
        Self { catalog: Catalog::new(reader.clone()), reader, limits }
    }

    /// Compares a raw file with what is restored of its key.
    ///
    /// # Errors
    /// If the store fails: then nothing is known.
    pub async fn compare(&self, batch: &str, raw: BoxStream<'static, Result<Bytes>>) -> Result<Stored> {
        let document = match digest(decompress(raw, self.limits, RawTally::default())).await {
            Ok(document) => document,
            // What is stored could be decompressed.
            Err(Error::Input(_)) => return Ok(Stored::Other),
            Err(e) => return Err(e),
        };
        // What was listed before may be out of date, but not what is restored of it.
        let known = self.catalog.known();
        if known.has_batch(batch) && self.restored(&known, batch).await.is_ok_and(|restored| restored == document) {
            return Ok(Stored::Same);
        }
        let (files, _) = self.catalog.readable().await?;
        match self.restored(&files, batch).await {
            Ok(restored) if restored == document => Ok(Stored::Same),
            Ok(_) => Ok(Stored::Other),
            Err(e @ (Error::Corrupt { .. } | Error::NotFound(_))) => Ok(Stored::Broken(e)),
            Err(e) => Err(e),
        }
    }

    async fn restored(&self, files: &Files, batch: &str) -> Result<Digest> {
        digest(open(&self.reader, files, batch).await?).await
    }
}

/// Length and BLAKE3.
type Digest = (u64, blake3::Hash);

async fn digest(bytes: impl Stream<Item = Result<Bytes>> + Send) -> Result<Digest> {
    let (mut size, mut hasher, mut bytes) = (0, blake3::Hasher::new(), std::pin::pin!(bytes));
    while let Some(piece) = bytes.try_next().await? {
        size += piece.len() as u64;
        hasher.update(&piece);
    }
    Ok((size, hasher.finalize()))
}
