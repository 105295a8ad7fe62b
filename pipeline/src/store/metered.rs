//! Counts the requests that a store gets, by kind: what a bill is made of. An observer is told of each answer.

use super::{ETag, Key, Meta, Object, PutMode, Result, Store};
use crate::observe::Observer;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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

impl Operation {
    /// All there are.
    pub const ALL: [Self; 5] = [Self::Put, Self::Get, Self::Head, Self::List, Self::Delete];

    /// Its name, as messages and metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
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
    observer: Arc<dyn Observer>,
}

/// Names that one page of a listing holds.
const PAGE: usize = 1000;

impl<S: Store> Metered<S> {
    /// Counts what goes to `inner`.
    pub fn new(inner: S) -> Self {
        Self::observed(inner, Arc::new(()))
    }

    /// Counts what goes to `inner`, and tells `observer` what came of it.
    pub fn observed(inner: S, observer: Arc<dyn Observer>) -> Self {
        Self { inner, counters: Arc::default(), observer }
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

    async fn ask<T>(&self, operation: Operation, request: impl Future<Output = Result<T>>) -> Result<T> {
        self.counters.add(operation);
        let asked = Instant::now();
        let answer = request.await;
        self.observer.asked(operation, answer.as_ref().err().map(|e| e.kind), asked.elapsed());
        answer
    }
}

impl Counters {
    fn add(&self, operation: Operation) {
        self.0[operation as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// The pages of a listing, told by its names as they come.
struct Pages {
    counters: Arc<Counters>,
    observer: Arc<dyn Observer>,
    seen: usize,
}

impl Pages {
    fn saw(&mut self, name: Option<&Result<Meta>>, took: Duration) {
        let tell = |failed| self.observer.asked(Operation::List, failed, took);
        match name {
            Some(Ok(_)) => {
                if self.seen > 0 && self.seen.is_multiple_of(PAGE) {
                    self.counters.add(Operation::List);
                }
                if self.seen.is_multiple_of(PAGE) {
                    tell(None);
                }
                self.seen += 1;
            }
            Some(Err(e)) => tell(Some(e.kind)),
            None if self.seen == 0 => tell(None),
            None => {}
        }
    }
}

#[async_trait]
impl<S: Store> Store for Metered<S> {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn tidy(&self) {
        self.inner.tidy().await;
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<Option<ETag>> {
        self.ask(Operation::Put, self.inner.put(key, body, mode)).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>> {
        self.ask(Operation::Get, self.inner.get(key)).await
    }

    async fn get_from(&self, object: &Meta, from: u64) -> Result<Object> {
        self.ask(Operation::Get, self.inner.get_from(object, from)).await
    }

    async fn read(&self, key: &Key) -> Result<Option<(Bytes, Option<ETag>)>> {
        self.ask(Operation::Get, self.inner.read(key)).await
    }

    async fn get_range(&self, key: &Key, range: std::ops::Range<u64>) -> Result<Option<Bytes>> {
        self.ask(Operation::Get, self.inner.get_range(key, range)).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Meta>> {
        self.ask(Operation::Head, self.inner.head(key)).await
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
        self.counters.add(Operation::List);
        let pages = Pages { counters: self.counters.clone(), observer: self.observer.clone(), seen: 0 };
        let walk = (self.inner.list(prefix, start_after), pages);
        stream::unfold(walk, |(mut names, mut pages)| async move {
            let asked = Instant::now();
            let name = names.next().await;
            pages.saw(name.as_ref(), asked.elapsed());
            Some((name?, (names, pages)))
        })
        .boxed()
    }

    async fn list_last(&self, prefix: &str, start_after: Option<&str>, count: usize) -> Result<Vec<Meta>> {
        self.ask(Operation::List, self.inner.list_last(prefix, start_after, count)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.ask(Operation::Delete, self.inner.delete(key)).await
    }
}
