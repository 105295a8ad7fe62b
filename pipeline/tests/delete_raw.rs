//! Raw files go once what was made of them is proved, and only then.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use gravity_pipeline::loose::{Layout, Paths};
use gravity_pipeline::packed::batches;
use gravity_pipeline::packed::catalog::Catalog;
use gravity_pipeline::packed::reader::Reader;
use gravity_pipeline::pipeline::{Pipeline, Settings};
use gravity_pipeline::store::{ETag, Key, Memory, Meta, Object, PutMode, Result, Store};
use gravity_pipeline::worker::{Outcome, Worker, WorkerSettings};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const RAW: &str = "raw-spans/dt=2025-10-31/hour=11/batch-1.json";
const DOCUMENT: &str = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"44e0a6b4c1d24f7f9c8e5b7a3d2f1e00",
    "spanId":"1ac2b3d4e5f60718","name":"litellm_request","attributes":[]}]}]}]}"#;

/// Damages the first files that it is given below a folder, and says that all is well.
struct Damaging {
    inner: Memory,
    folder: &'static str,
    left: AtomicUsize,
}

impl Damaging {
    fn new(folder: &'static str, files: usize) -> Arc<Self> {
        Arc::new(Self { inner: Memory::new(), folder, left: AtomicUsize::new(files) })
    }
}

#[async_trait]
impl Store for Damaging {
    fn location(&self) -> String {
        "damaging:".into()
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<Option<ETag>> {
        let is_one = key.as_str().starts_with(self.folder)
            && self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        let mut body = body.to_vec();
        if is_one {
            // The beginning: what the metadata says of it is right.
            body[4..60].fill(0);
        }
        self.inner.put(key, body.into(), mode).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Object>> {
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>> {
        self.inner.get_range(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<Option<Meta>> {
        self.inner.head(key).await
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, Result<Meta>> {
        self.inner.list(prefix, start_after)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key).await
    }
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

async fn worker(store: &Arc<dyn Store>, once: bool, delete_raw: bool) -> Arc<Worker> {
    let settings = Settings { layout: Some(Layout::Packed), read_back: delete_raw, ..Settings::default() };
    let pipeline = Pipeline::open(store.clone(), settings).await.unwrap();
    let settings = WorkerSettings {
        once,
        poll_interval: Duration::from_millis(10),
        full_scan_interval: Duration::from_secs(3600),
        max_concurrent: 4,
        shutdown_grace: Duration::ZERO,
        delete_raw,
        events: None,
    };
    Worker::new(store.clone(), Paths::default(), pipeline, settings)
}

/// What became of the batches, one word each.
async fn once(store: &Arc<dyn Store>, delete_raw: bool) -> Vec<&'static str> {
    let worker = worker(store, true, delete_raw).await;
    worker.run(CancellationToken::new()).map(|ended| ended.outcome.name()).collect().await
}

async fn put_raw(store: &Arc<dyn Store>, document: &str) {
    store.put(&key(RAW), Bytes::from(document.to_owned()), PutMode::Always).await.unwrap();
}

async fn raw_is_there(store: &Arc<dyn Store>) -> bool {
    store.head(&key(RAW)).await.unwrap().is_some()
}

async fn restored(store: &Arc<dyn Store>) -> String {
    let reader = Reader::new(store.clone(), 1 << 20);
    let files = Catalog::new(reader.clone()).readable().await.unwrap().0;
    let pieces: Vec<Bytes> = batches::open(&reader, &files, RAW).await.unwrap().try_collect().await.unwrap();
    String::from_utf8(pieces.concat()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_not_read_back_well_is_stored_again_by_the_next_poll() {
    for folder in ["spans/", "nodes/"] {
        let store: Arc<dyn Store> = Damaging::new(folder, 1);
        put_raw(&store, DOCUMENT).await;
        let worker = worker(&store, false, true).await;
        let stop = CancellationToken::new();
        let mut outcomes = worker.run(stop.clone());
        let first = outcomes.next().await.unwrap().outcome;
        assert!(matches!(first, Outcome::Failed(_)), "{folder}: {first:?}");
        assert!(raw_is_there(&store).await);
        let second = tokio::time::timeout(Duration::from_secs(20), outcomes.next()).await.expect("it is tried again");
        assert_eq!(second.unwrap().outcome.name(), "committed");
        stop.cancel();
        assert!(!raw_is_there(&store).await);
        assert_eq!(restored(&store).await, DOCUMENT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_was_not_read_back_well_is_stored_again_by_the_next_process() {
    for folder in ["spans/", "nodes/"] {
        let store: Arc<dyn Store> = Damaging::new(folder, 1);
        put_raw(&store, DOCUMENT).await;
        assert_eq!(once(&store, true).await, ["failed"]);
        assert_eq!(once(&store, true).await, ["committed"]);
        assert!(!raw_is_there(&store).await);
        assert_eq!(restored(&store).await, DOCUMENT);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_raw_file_of_a_batch_that_was_done_before_goes() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    put_raw(&store, DOCUMENT).await;
    assert_eq!(once(&store, false).await, ["committed"]);
    assert_eq!(once(&store, false).await, [""; 0]);
    assert!(raw_is_there(&store).await);
    assert_eq!(once(&store, true).await, ["settled"]);
    assert!(!raw_is_there(&store).await);
    assert_eq!(restored(&store).await, DOCUMENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_file_that_is_not_what_is_stored_under_its_name_stays() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    put_raw(&store, DOCUMENT).await;
    once(&store, false).await;
    put_raw(&store, &DOCUMENT.replace("litellm_request", "litellm_retries")).await;
    assert_eq!(once(&store, true).await, ["settled"]);
    assert!(raw_is_there(&store).await);
    assert_eq!(restored(&store).await, DOCUMENT);
}
