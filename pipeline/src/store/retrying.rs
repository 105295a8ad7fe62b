//! Tries again what may succeed when tried again.

use super::{ETag, Error, Key, Meta, Object, PutMode, Result, Store};
use crate::retry::{Budget, Policy};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;

/// A store whose transient failures are retried with exponential backoff and jitter.
///
/// A listing is retried page by page below this layer; everything else is idempotent. A body that breaks off goes on
/// where it broke off. A conditional put whose answer was lost may fail its own condition when it is sent again:
/// callers of conditional puts read and compare on [`Precondition`](super::ErrorKind::Precondition).
pub struct Retrying<S> {
    inner: Arc<S>,
    policy: Policy,
    /// What the requests of a batch share; any other request has a budget of its own.
    of_batch: Option<Arc<Budget>>,
}

impl<S: Store> Retrying<S> {
    /// Retries what `inner` could not do.
    pub fn new(inner: S, policy: Policy) -> Self {
        Self::over(Arc::new(inner), policy)
    }

    /// The same for one that others use too.
    pub fn over(inner: Arc<S>, policy: Policy) -> Self {
        Self { inner, policy, of_batch: None }
    }

    fn budget(&self) -> Arc<Budget> {
        self.of_batch.clone().unwrap_or_else(|| Arc::new(Budget::new(self.policy)))
    }

    async fn retry<T, F: Future<Output = Result<T>>>(&self, attempt: impl FnMut() -> F) -> Result<T> {
        self.budget().retry(Error::is_transient, attempt).await
    }
}

#[async_trait]
impl<S: Store> Store for Retrying<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn tidy(&self) {
        self.inner.tidy().await;
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<Option<ETag>> {
        self.retry(|| self.inner.put(key, body.clone(), mode.clone())).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>> {
        let object = self.retry(|| self.inner.get(key)).await?;
        Ok(object.map(|object| resuming(object, self.inner.clone(), self.budget())))
    }

    async fn get_from(&self, object: &Meta, from: u64) -> Result<Object> {
        self.retry(|| self.inner.get_from(object, from)).await
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

    async fn list_last(&self, prefix: &str, start_after: Option<&str>, count: usize) -> Result<Vec<Meta>> {
        self.inner.list_last(prefix, start_after, count).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.retry(|| self.inner.delete(key)).await
    }

    fn for_batch(&self) -> Option<Arc<dyn Store>> {
        let budget = Arc::new(Budget::new(self.policy));
        Some(Arc::new(Self { inner: self.inner.clone(), policy: self.policy, of_batch: Some(budget) }))
    }
}

/// An object whose body, where it breaks off, goes on from there.
fn resuming<S: Store>(object: Object, store: Arc<S>, budget: Arc<Budget>) -> Object {
    let Object { meta, body, crc32 } = object;
    let read = Reading { meta: meta.clone(), body, at: 0, sum: crc32.map(|sum| (sum, crc32fast::Hasher::new())) };
    let body = stream::try_unfold((read, store, budget), |(mut read, store, budget)| async move {
        let piece = read.next(&*store, &budget).await?;
        Ok(piece.map(|piece| (piece, (read, store, budget))))
    });
    Object { meta, body: body.boxed(), crc32: None }
}

/// A body that is being read.
struct Reading {
    meta: Meta,
    body: BoxStream<'static, Result<Bytes>>,
    /// Bytes that were given out.
    at: u64,
    /// What they must come to, and what they came to so far: what checks a whole answer does not check two parts.
    sum: Option<(u32, crc32fast::Hasher)>,
}

impl Reading {
    async fn next(&mut self, store: &impl Store, budget: &Budget) -> Result<Option<Bytes>> {
        let piece = match self.body.try_next().await {
            Err(e) if e.is_transient() && self.meta.etag.is_some() && self.at < self.meta.size => {
                tracing::debug!(error = %e, at = self.at, "going on where the answer broke off");
                self.resume(store, budget).await?
            }
            read => read?,
        };
        let Some(piece) = piece else {
            let sum = self.sum.take().map(|(expected, hasher)| (expected, hasher.finalize()));
            return match sum {
                Some((expected, found)) if expected != found => Err(Error::damaged(&self.meta, expected, found)),
                _ => Ok(None),
            };
        };
        self.at += piece.len() as u64;
        if let Some((_, hasher)) = &mut self.sum {
            hasher.update(&piece);
        }
        Ok(Some(piece))
    }

    /// Opens the rest and reads its first piece: an answer that breaks off before it is no progress.
    async fn resume(&mut self, store: &impl Store, budget: &Budget) -> Result<Option<Bytes>> {
        let (meta, at) = (&self.meta, self.at);
        let attempt = || async move {
            let mut rest = store.get_from(meta, at).await?.body;
            Ok((rest.try_next().await?, rest))
        };
        let (piece, rest) = budget.retry(Error::is_transient, attempt).await?;
        self.body = rest;
        Ok(piece)
    }
}
