//! Counts the requests that a store gets, by kind: what a bill is made of.

use super::{ETag, Key, Meta, Object, PutMode, Result, Store};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A kind of request, as S3 prices them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// PUT of an object.
    Put,
    /// GET of an object or a range of it.
    Get,
    /// HEAD of an object.
    Head,
    /// One page of a listing (1,000 names).
    List,
    /// DELETE of an object.
    Delete,
}

/// How many requests of each kind were sent, retries included.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Requests {
    /// PUT of an object.
    pub put: u64,
    /// GET of an object or a range.
    pub get: u64,
    /// HEAD of an object.
    pub head: u64,
    /// Pages of listings.
    pub list: u64,
    /// DELETE of an object.
    pub delete: u64,
}

#[derive(Default)]
struct Counters([AtomicU64; 5]);

/// A store that counts what passes through it.
pub struct Metered<S> {
    inner: S,
    counters: Arc<Counters>,
}

/// Names that one page of a listing holds.
const PAGE: usize = 1000;

impl<S: Store> Metered<S> {
    /// Counts what goes to `inner`.
    pub fn new(inner: S) -> Self {
        Self { inner, counters: Arc::default() }
    }

    /// A view of the counters that outlives the store's move behind other layers.
    pub fn requests(&self) -> impl Fn() -> Requests + Send + Sync + use<S> {
        let counters = self.counters.clone();
        move || {
            let [put, get, head, list, delete] = &counters.0;
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            Requests { put: read(put), get: read(get), head: read(head), list: read(list), delete: read(delete) }
        }
    }

    fn count(&self, operation: Operation) {
        self.counters.add(operation);
    }
}

impl Counters {
    fn add(&self, operation: Operation) {
        self.0[operation as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl<S: Store> Store for Metered<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<Option<ETag>> {
        self.count(Operation::Put);
        self.inner.put(key, body, mode).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>> {
        self.count(Operation::Get);
        self.inner.get(key).await
    }

    async fn get_from(&self, object: &Meta, from: u64) -> Result<Object> {
        self.count(Operation::Get);
        self.inner.get_from(object, from).await
    }

    async fn read(&self, key: &Key) -> Result<Option<(Bytes, Option<ETag>)>> {
        self.count(Operation::Get);
        self.inner.read(key).await
    }

    async fn get_range(&self, key: &Key, range: std::ops::Range<u64>) -> Result<Option<Bytes>> {
        self.count(Operation::Get);
        self.inner.get_range(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Meta>> {
        self.count(Operation::Head);
        self.inner.head(key).await
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
        let counters = self.counters.clone();
        counters.add(Operation::List);
        let mut seen = 0;
        self.inner
            .list(prefix, start_after)
            .inspect_ok(move |_| {
                seen += 1;
                if seen % PAGE == 1 && seen > 1 {
                    counters.add(Operation::List);
                }
            })
            .boxed()
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.count(Operation::Delete);
        self.inner.delete(key).await
    }
}
