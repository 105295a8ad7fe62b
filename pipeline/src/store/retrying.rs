//! Tries again what may succeed when tried again.

use super::{ETag, Error, ErrorKind, Key, Meta, Object, PutMode, Result, Store};
use crate::retry;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;

/// A store whose transient failures are retried with exponential backoff and jitter.
///
/// A listing is retried page by page below this layer, and the body of a [`get`](Store::get) by whoever reads it,
/// since only they know what they have used of it; everything else is idempotent. A conditional put whose answer was
/// lost may fail its own condition when it is sent again: callers of conditional puts read and compare on
/// [`ErrorKind::Precondition`].
pub struct Retrying<S> {
    inner: S,
    policy: retry::Policy,
}

impl<S: Store> Retrying<S> {
    /// Retries what `inner` could not do.
    pub fn new(inner: S, policy: retry::Policy) -> Self {
        Self { inner, policy }
    }

    async fn retry<T, F: Future<Output = Result<T>>>(&self, attempt: impl FnMut() -> F) -> Result<T> {
        retry::retry(&self.policy, |e: &Error| e.kind == ErrorKind::Transient, attempt).await
    }
}

#[async_trait]
impl<S: Store> Store for Retrying<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<Option<ETag>> {
        self.retry(|| self.inner.put(key, body.clone(), mode.clone())).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>> {
        self.retry(|| self.inner.get(key)).await
    }

    async fn read(&self, key: &Key) -> Result<Option<(Bytes, Option<ETag>)>> {
        self.retry(|| self.inner.read(key)).await
    }

    async fn get_range(&self, key: &Key, range: std::ops::Range<u64>) -> Result<Option<Bytes>> {
        self.retry(|| self.inner.get_range(key, range.clone())).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Meta>> {
        self.retry(|| self.inner.head(key)).await
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
        self.inner.list(prefix, start_after).boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.retry(|| self.inner.delete(key)).await
    }
}
