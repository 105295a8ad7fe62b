//! Batches into a store and out of it, whatever they are and whatever the store does.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use gravity_pipeline::index::BatchKey;
use gravity_pipeline::packed::archive::{Archive, ArchiveSettings, Archived};
use gravity_pipeline::packed::catalog::Catalog;
use gravity_pipeline::packed::format::read_nodes;
use gravity_pipeline::packed::node::Kind;
use gravity_pipeline::packed::packer::{FlushSettings, Names};
use gravity_pipeline::packed::reader::Reader;
use gravity_pipeline::packed::restore::restore;
use gravity_pipeline::pipeline::Batch;
use gravity_pipeline::store::{self, ErrorKind, Key, Memory, Meta, Object, PutMode, Store};
use gravity_pipeline::{Error, Result};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// A store in memory whose puts below a prefix fail as long as there are failures left, and wait for `gate` if it is shut.
struct Faulty {
    inner: Memory,
    prefix: &'static str,
    failures: AtomicUsize,
    gate: Semaphore,
}

impl Faulty {
    fn new(prefix: &'static str, failures: usize) -> Arc<Self> {
        let gate = Semaphore::new(Semaphore::MAX_PERMITS);
        Arc::new(Self { inner: Memory::new(), prefix, failures: failures.into(), gate })
    }
}

#[async_trait]
impl Store for Faulty {
    fn location(&self) -> String {
        "faulty".into()
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> store::Result<Option<store::ETag>> {
        let _open = self.gate.acquire().await;
        let take = |left: usize| left.checked_sub(1);
        if key.as_str().starts_with(self.prefix)
            && self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
        {
            let (target, message) = (key.to_string(), "on purpose".to_owned());
            return Err(store::Error { kind: ErrorKind::Transient, operation: "put", target, message });
        }
        self.inner.put(key, body, mode).await
    }

    async fn get(&self, key: &Key) -> store::Result<Option<Object>> {
        self.inner.get(key).await
    }

    async fn get_range(&self, key: &Key, range: std::ops::Range<u64>) -> store::Result<Option<Bytes>> {
        self.inner.get_range(key, range).await
    }

    async fn head(&self, key: &Key) -> store::Result<Option<Meta>> {
        self.inner.head(key).await
    }

    fn list(&self, prefix: &str, start_after: Option<&str>) -> BoxStream<'static, store::Result<Meta>> {
        self.inner.list(prefix, start_after)
    }

    async fn delete(&self, key: &Key) -> store::Result<()> {
        self.inner.delete(key).await
    }
}

pub fn batch(name: &str, bytes: &[u8]) -> Batch {
    let pieces: Vec<_> = bytes.chunks(50_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    Batch { key: BatchKey::Named(name.into()), raw: stream::iter(pieces).boxed() }
}

/// A batch that comes when it is told to, or breaks.
fn late(name: &str, when: tokio::sync::oneshot::Receiver<Result<Bytes>>) -> Batch {
    let raw = stream::once(async move { when.await.expect("it is told") });
    Batch { key: BatchKey::Named(name.into()), raw: raw.boxed() }
}

fn text(n: usize) -> String {
    format!("{n}: {}", "what everybody says, again and again. ".repeat(5))
}

/// Spans of which `shared` have a text that others have too.
pub fn document(seed: usize, spans: usize) -> Vec<u8> {
    let span = |n: usize| {
        let inner = serde_json::json!([{ "role": "system", "content": text(0) }, { "role": "user", "content": text(seed * 1000 + n) }]);
        let content = serde_json::to_string(&inner.to_string()).unwrap();
        format!(
            r#"{{"traceId":"{:032x}","spanId":"{n:016x}","parentSpanId":"{:016x}","name":"n","startTimeUnixNano":"17{n}","attributes":[{{"key":"input.value","value":{{"stringValue":{content}}}}}]}}"#,
            seed,
            n / 2
        )
    };
    let spans: Vec<String> = (0..spans).map(span).collect();
    format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{}]}}]}}]}}"#, spans.join(",")).into_bytes()
}

/// Every batch of the store, restored.
async fn restored(store: Arc<dyn Store>) -> Vec<(String, Vec<u8>)> {
    let reader = Reader::new(store, 1 << 20);
    let files = Catalog::new(reader.clone()).readable().await.unwrap().0;
    let mut names: Vec<String> = files.batches().map(str::to_owned).collect();
    names.sort();
    let mut batches = vec![];
    for name in names {
        let mut copies = vec![];
        for file in files.of_batch(&name) {
            let file = reader.open(&file.key).await.unwrap().unwrap();
            let pieces: Vec<Bytes> = restore(reader.clone(), file, name.clone()).try_collect().await.unwrap();
            copies.push(pieces.concat());
        }
        copies.dedup();
        assert_eq!(copies.len(), 1, "copies of {name} differ");
        batches.push((name, copies.remove(0)));
    }
    batches
}

fn archive(store: &Arc<Faulty>, settings: ArchiveSettings) -> Arc<Archive> {
    Arc::new(Archive::new(store.clone(), settings))
}

/// Stores all of them at the same time.
async fn store_all(archive: &Arc<Archive>, batches: &[Vec<u8>]) -> Vec<Result<Archived>> {
    let tasks: Vec<_> = batches
        .iter()
        .enumerate()
        .map(|(n, bytes)| {
            let (archive, batch) = (archive.clone(), batch(&format!("{n:03}"), bytes));
            tokio::spawn(async move { archive.store(batch).await })
        })
        .collect();
    let mut stored = vec![];
    for task in tasks {
        stored.push(tokio::time::timeout(Duration::from_secs(60), task).await.expect("nobody waits for ever").unwrap());
    }
    stored
}

#[track_caller]
fn come_back(batches: &[Vec<u8>], settings: ArchiveSettings) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Faulty::new("", 0);
        let stored = store_all(&archive(&store, settings), batches).await;
        for (n, (archived, batch)) in stored.into_iter().zip(batches).enumerate() {
            let archived = archived.unwrap();
            assert_eq!(archived.source, format!("{n:03}"));
            assert_eq!(archived.info.document_bytes, batch.len() as u64);
        }
        let restored: Vec<Vec<u8>> = restored(store).await.into_iter().map(|(_, batch)| batch).collect();
        assert!(restored == batches, "what was restored is not what was stored");
    });
}

/// Everything is flushed as often as can be.
fn tight() -> ArchiveSettings {
    ArchiveSettings {
        rows_bytes: 2_000,
        pack_bytes: 2_000,
        table_bytes: 100_000,
        flush: FlushSettings { bytes: 30_000, interval: None },
        ..ArchiveSettings::default()
    }
}

fn malformed() -> Vec<Vec<u8>> {
    let whole = document(9, 3);
    let deep = |n| format!(r#"{{"resourceSpans":[],"x":{}{}}}"#, "[".repeat(n), "]".repeat(n)).into_bytes();
    vec![
        vec![],
        b" \r\n\t\n".to_vec(),
        [&whole[..], b"\ngarbage"].concat(),
        [&whole[..], &whole[..40]].concat(),
        whole[..whole.len() / 2].to_vec(),
        b"hello".to_vec(),
        b"<html>502 Bad Gateway</html>".to_vec(),
        br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"a":tru}]}]}]}"#.to_vec(),
        br#"{"hello":"world"}"#.to_vec(),
        br#"{"resourceSpans":"no"}"#.to_vec(),
        b"\x0a\x05hello".to_vec(),
        deep(100_000),
        br#"{"resourceSpans":[],"resourceSpans":[]}"#.to_vec(),
        b"{\"resourceSpans\":[],\"x\":\"\xc3\"}".to_vec(),
        [&[b' '; 200_000][..], &whole].concat(),
        [&b"\xef\xbb\xbf"[..], &whole].concat(),
        (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect(),
        vec![0; 100_000],
        "\u{fffc}".repeat(1000).into_bytes(),
    ]
}

#[test]
fn batches_that_are_not_otlp_come_back() {
    come_back(&malformed(), ArchiveSettings::default());
    come_back(&malformed(), tight());
}

#[test]
fn batches_come_back_from_one_flush_and_from_many() {
    let batches: Vec<Vec<u8>> = (0..12).map(|n| document(n % 5, 1 + n * 17)).collect();
    come_back(&batches, ArchiveSettings::default());
    come_back(&batches, tight());
    let timed = FlushSettings { bytes: 1 << 40, interval: Some(Duration::from_millis(20)) };
    come_back(&batches, ArchiveSettings { flush: timed, ..ArchiveSettings::default() });
    let at_once = FlushSettings { bytes: 0, interval: Some(Duration::from_secs(3600)) };
    come_back(&batches, ArchiveSettings { flush: at_once, ..tight() });
}

#[test]
fn a_batch_larger_than_what_is_held_comes_back() {
    come_back(&[document(1, 3000), document(2, 3), document(1, 3000)], tight());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(25))]

    #[test]
    fn any_batches_come_back(batches in prop::collection::vec(any::<Vec<u8>>(), 1..6), is_tight in any::<bool>()) {
        come_back(&batches, if is_tight { tight() } else { ArchiveSettings::default() });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gzip_file_that_is_cut_off_is_refused_and_nobody_waits_for_it() {
    use std::io::Write;
    let mut gz = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gz.write_all(&document(1, 500)).unwrap();
    let gz = gz.finish().unwrap();
    let store = Faulty::new("", 0);
    let batches = [document(0, 5), gz[..gz.len() / 2].to_vec(), gz.clone()];
    let stored = store_all(&archive(&store, ArchiveSettings::default()), &batches).await;
    assert!(matches!(stored[1], Err(Error::Input(_))));
    assert!(stored[0].is_ok() && stored[2].is_ok());
    let names: Vec<String> = restored(store).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["000", "002"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_breaks_off_or_is_given_up_does_not_keep_others_waiting() {
    for is_given_up in [false, true] {
        let store = Faulty::new("", 0);
        let archive = archive(&store, ArchiveSettings::default());
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let slow = tokio::spawn({
            let archive = archive.clone();
            async move { archive.store(late("slow", receiver)).await.map(drop) }
        });
        tokio::time::sleep(Duration::from_millis(50)).await;
        let quick = tokio::spawn({
            let archive = archive.clone();
            async move { archive.store(batch("quick", b"x")).await }
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!quick.is_finished(), "it waits for the other");
        if is_given_up {
            slow.abort();
        } else {
            sender.send(Err(Error::Config("broken".into()))).unwrap();
        }
        tokio::time::timeout(Duration::from_secs(10), quick).await.expect("it is flushed").unwrap().unwrap();
        assert_eq!(restored(store).await, [("quick".to_owned(), b"x".to_vec())]);
    }
}

/// A store that fails now and then, and batches that share texts: each is told how it went, and what failed can be tried
/// again.
async fn survives(prefix: &'static str, failures: usize, settings: ArchiveSettings) {
    let store = Faulty::new(prefix, failures);
    let archive = archive(&store, settings);
    let batches: Vec<Vec<u8>> = (0..8).map(|n| document(n % 3, 40)).collect();
    let mut rounds = 0;
    loop {
        let stored = store_all(&archive, &batches).await;
        for result in &stored {
            let kind = result.as_ref().err();
            assert!(
                kind.is_none_or(
                    |e| matches!(e, Error::Flush(_) | Error::Store(_) | Error::Lost(_)) && !e.is_permanent()
                ),
                "{kind:?}"
            );
        }
        // What was acknowledged is there, whatever became of the others.
        let there = restored(store.clone()).await;
        for (n, _) in stored.iter().enumerate().filter(|(_, result)| result.is_ok()) {
            assert!(
                there.iter().any(|(name, bytes)| *name == format!("{n:03}") && *bytes == batches[n]),
                "{n} is lost"
            );
        }
        rounds += 1;
        if stored.iter().all(Result::is_ok) {
            break;
        }
        assert!(rounds < 20, "it does not recover");
    }
    assert!(rounds > 1 || failures == 0);
    assert_eq!(store.failures.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_to_take_nodes_or_spans_loses_nothing() {
    for prefix in ["nodes/", "spans/"] {
        for failures in [1, 3] {
            survives(prefix, failures, ArchiveSettings::default()).await;
            survives(prefix, failures, tight()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failure_takes_only_the_batches_with_it_that_it_concerns() {
    let store = Faulty::new("nodes/", 1);
    store.gate.forget_permits(Semaphore::MAX_PERMITS);
    let flush = FlushSettings { bytes: 0, interval: None };
    let archive = archive(&store, ArchiveSettings { flush, ..ArchiveSettings::default() });
    let run = |name: &'static str, bytes: Vec<u8>| {
        let archive = archive.clone();
        tokio::spawn(async move { archive.store(batch(name, &bytes)).await.map(drop) })
    };
    let first = run("first", document(1, 10));
    tokio::time::sleep(Duration::from_millis(300)).await;
    // These are lifted while the first pack is on its way: one shares texts with it, the other does not.
    let sharing = run("sharing", document(1, 20));
    let other = run("other", b"something else altogether".to_vec());
    tokio::time::sleep(Duration::from_millis(300)).await;
    store.gate.add_permits(Semaphore::MAX_PERMITS);
    assert!(first.await.unwrap().is_err());
    assert!(sharing.await.unwrap().is_err());
    other.await.unwrap().expect("what failed is none of its business");
    for (name, seed, spans) in [("first", 1, 10), ("sharing", 1, 20)] {
        run(name, document(seed, spans)).await.unwrap().expect("another try stores it");
    }
    let names: Vec<String> = restored(store).await.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["first", "other", "sharing"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_that_is_given_up_while_its_nodes_are_written_leaves_nothing_behind_that_others_trip_over() {
    let store = Faulty::new("", 0);
    store.gate.forget_permits(Semaphore::MAX_PERMITS);
    let archive = archive(&store, tight());
    let large = tokio::spawn({
        let archive = archive.clone();
        async move { archive.store(batch("large", &document(1, 2000))).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    large.abort();
    assert!(large.await.unwrap_err().is_cancelled());
    store.gate.add_permits(Semaphore::MAX_PERMITS);
    archive.store(batch("small", &document(1, 3))).await.expect("the same texts are stored again");
    assert_eq!(restored(store).await, [("small".to_owned(), document(1, 3))]);
}

/// Nodes of the store that are texts, and those that are shapes.
async fn texts_and_shapes(store: &Arc<Faulty>) -> (usize, usize) {
    let reader = Reader::new(store.clone(), 1 << 20);
    let (mut texts, mut shapes) = (0, 0);
    for meta in store.list("nodes/", None).try_collect::<Vec<_>>().await.unwrap() {
        let file = reader.open(&meta.key).await.unwrap().unwrap();
        for group in 0..file.metadata.num_row_groups() {
            let nodes = read_nodes(&reader.group(&file, group).await.unwrap()).unwrap();
            let is_shape = |kind| matches!(kind, Kind::JsonShape | Kind::ProtobufShape);
            let of_group = nodes.iter().filter(|(_, node)| is_shape(node.kind)).count();
            shapes += of_group;
            texts += nodes.len() - of_group;
        }
    }
    (texts, shapes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_has_just_begun_stores_no_text_again_that_another_stored_lately() {
    let store = Faulty::new("", 0);
    archive(&store, ArchiveSettings::default()).store(batch("a", &document(1, 40))).await.unwrap();
    let (texts, shapes) = texts_and_shapes(&store).await;
    let warm = archive(&store, ArchiveSettings::default());
    warm.warm_up().await;
    warm.store(batch("b", &document(1, 40))).await.unwrap();
    // Shapes stand in every pack that has rows of them: whoever reads rows needs them all.
    assert_eq!(texts_and_shapes(&store).await, (texts, 2 * shapes));
    let cold = archive(&store, ArchiveSettings { table_bytes: 0, ..ArchiveSettings::default() });
    cold.warm_up().await;
    cold.store(batch("c", &document(1, 40))).await.unwrap();
    assert_eq!(texts_and_shapes(&store).await, (2 * texts, 3 * shapes), "it was told to know nothing");
    assert_eq!(restored(store).await, ["a", "b", "c"].map(|name| (name.to_owned(), document(1, 40))));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_not_trust_a_pack_that_no_spans_name() {
    let store = Faulty::new("spans/", 1);
    archive(&store, ArchiveSettings::default()).store(batch("a", &document(1, 40))).await.unwrap_err();
    let warm = archive(&store, ArchiveSettings::default());
    let (texts, shapes) = texts_and_shapes(&store).await;
    warm.warm_up().await;
    warm.store(batch("a", &document(1, 40))).await.unwrap();
    assert_eq!(texts_and_shapes(&store).await, (2 * texts, 2 * shapes));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_begins_without_what_it_cannot_read() {
    let store = Faulty::new("", 0);
    archive(&store, ArchiveSettings::default()).store(batch("a", &document(1, 40))).await.unwrap();
    let pack = store.list("nodes/", None).try_collect::<Vec<_>>().await.unwrap().remove(0).key;
    store.put(&pack, Bytes::from_static(b"damaged"), PutMode::Always).await.unwrap();
    let spans = Key::new("spans/dt=2099-01-01/ffffffffffff-00000000.parquet").unwrap();
    store.put(&spans, Bytes::from_static(b"damaged"), PutMode::Always).await.unwrap();
    let warm = archive(&store, ArchiveSettings::default());
    warm.warm_up().await;
    warm.store(batch("b", &document(1, 40))).await.unwrap();
    let listed: Vec<_> = store.list("nodes/", None).try_collect().await.unwrap();
    assert_eq!(listed.len(), 2);
}

/// A clock that stands.
#[derive(Debug)]
struct At(u64);

impl Names for At {
    fn now(&self) -> u64 {
        self.0
    }

    fn random(&self) -> u32 {
        7
    }
}

#[tokio::test]
async fn a_clock_whose_numbers_do_not_fit_writes_nothing_and_says_so() {
    let ids = |milliseconds| ArchiveSettings { names: Arc::new(At(milliseconds)), ..ArchiveSettings::default() };
    for (milliseconds, fits) in [((1 << 42) - 5000, true), ((1 << 42) - 1, false), (1 << 43, false), (1 << 47, false)] {
        let store = Faulty::new("none/", 0);
        let stored = archive(&store, ids(milliseconds)).store(batch("a", &document(1, 3))).await;
        assert_eq!(stored.is_ok(), fits, "{milliseconds}");
        match stored {
            Ok(_) => assert_eq!(restored(store).await, [("a".to_owned(), document(1, 3))]),
            Err(e) => {
                assert!(e.to_string().contains("2109"), "{e}");
                assert_eq!(store.list("", None).count().await, 0);
            }
        }
    }
}
