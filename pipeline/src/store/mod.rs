//! One small interface to wherever the objects are: S3, a directory, memory (tests), nothing (measurements).
//!
//! Implementations promise what the invariants need: an object appears whole or not at all, a conditional
//! [`put`](Store::put) is atomic against every other writer, and [`list`](Store::list) sees every object whose `put`
//! returned before it began. `store::conformance` holds every implementation to that.

mod directory;
mod discard;
mod error;
mod key;
mod memory;
mod metered;
mod retrying;
mod s3;
mod walk;

pub mod conformance;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;
use std::time::SystemTime;

pub use directory::Directory;
pub use discard::Discard;
pub use error::{Error, ErrorKind, Result};
pub use key::Key;
pub use memory::Memory;
pub use metered::{Metered, Operation, Requests};
pub use retrying::Retrying;
pub use s3::{Encryption, S3, S3Settings, StorageClasses};

/// Names one version of an object: equal tags mean equal bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ETag(pub String);

/// What a store knows of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// The object's name.
    pub key: Key,
    /// Bytes as stored.
    pub size: u64,
    /// This version, where the operation that was asked tells it.
    pub etag: Option<ETag>,
    /// When it was last written, where the store knows.
    pub modified: Option<SystemTime>,
}

/// An object being read.
pub struct Object {
    /// What is being read.
    pub meta: Meta,
    /// Its bytes, in order. An error in the middle ends the stream.
    pub body: BoxStream<'static, Result<Bytes>>,
    /// CRC-32 of all of it, where the store knows and does not check it by itself when a part is read.
    pub crc32: Option<u32>,
}

impl Object {
    /// Reads all of it into memory.
    pub async fn bytes(mut self) -> Result<Bytes> {
        let Some(first) = self.body.try_next().await? else { return Ok(Bytes::new()) };
        let Some(second) = self.body.try_next().await? else { return Ok(first) };
        let mut all = BytesMut::with_capacity(self.meta.size as usize);
        all.extend_from_slice(&first);
        all.extend_from_slice(&second);
        while let Some(more) = self.body.next().await {
            all.extend_from_slice(&more?);
        }
        Ok(all.freeze())
    }
}

/// On what condition an object may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutMode {
    /// Whatever is there. Only for objects whose bytes follow from their key, so that any writer writes the same.
    Always,
    /// Nothing is there yet. Otherwise [`ErrorKind::Precondition`].
    IfAbsent,
    /// This very version is there. Otherwise [`ErrorKind::Precondition`].
    IfMatch(ETag),
}

/// Where objects are kept. Every method may be called from many tasks at once.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Where this is, for messages: `s3://bucket/prefix` or a folder.
    fn location(&self) -> String;

    /// Writes an object; when this returns it is durable, and until then nobody sees any of it.
    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<Option<ETag>>;

    /// Opens an object for reading; `None` if there is none.
    async fn get(&self, key: &Key) -> Result<Option<Object>>;

    /// Goes on reading an object at byte `from` of it, if it is still the version that `object` tells.
    ///
    /// # Errors
    /// If it is not, or the store cannot do that.
    async fn get_from(&self, object: &Meta, _from: u64) -> Result<Object> {
        Err(Error::not_resumable(object))
    }

    /// Reads an object whole, with the tag that [`PutMode::IfMatch`] takes; `None` if there is none.
    async fn read(&self, key: &Key) -> Result<Option<(Bytes, Option<ETag>)>> {
        let Some(object) = self.get(key).await? else { return Ok(None) };
        let etag = object.meta.etag.clone();
        Ok(Some((object.bytes().await?, etag)))
    }

    /// Reads `range` of an object (end exclusive, clipped to its size); `None` if there is none.
    async fn get_range(&self, key: &Key, range: std::ops::Range<u64>) -> Result<Option<Bytes>>;

    /// Looks whether an object is there; `None` if there is none.
    async fn head(&self, key: &Key) -> Result<Option<Meta>>;

    /// All objects whose key begins with `prefix` (any string, not only whole segments) and is greater than
    /// `start_after`, in the store's order: bytewise, but see `ARCHITECTURE.md` on SeaweedFS.
    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<Meta>>;

    /// The last `count` of what [`list`](Self::list) gives, sorted by key. A store that can, looks at no others.
    async fn list_last(&self, prefix: &str, start_after: Option<&str>, count: usize) -> Result<Vec<Meta>> {
        let mut listed: Vec<Meta> = self.list(prefix, start_after).try_collect().await?;
        listed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(listed.split_off(listed.len().saturating_sub(count)))
    }

    /// Removes an object; removing what is not there succeeds.
    async fn delete(&self, key: &Key) -> Result<()>;

    /// Removes what writers that were killed left half-written, where a store keeps that. Failing to is no reason to
    /// fail: the next writer tries again.
    async fn tidy(&self) {}

    /// The same store for the requests of one batch, which share a [`Budget`](crate::retry::Budget); `None` for a
    /// store that retries nothing.
    fn for_batch(&self) -> Option<Arc<dyn Store>> {
        None
    }
}
