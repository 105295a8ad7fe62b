//! Compaction and collection of the packed layout: whatever happens, every batch is restored byte for byte.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use gravity_pipeline::index::BatchKey;
use gravity_pipeline::packed::archive::{Archive, ArchiveSettings};
use gravity_pipeline::packed::catalog::Catalog;
use gravity_pipeline::packed::compact::{Report, Settings, compact, days};
use gravity_pipeline::packed::file::packs_of;
use gravity_pipeline::packed::footers::Footers;
use gravity_pipeline::packed::gc::{self, Removed, Why, gc};
use gravity_pipeline::packed::packer::nodes_key;
use gravity_pipeline::packed::reader::Reader;
use gravity_pipeline::packed::restore::restore;
use gravity_pipeline::packed::table::PackNumber;
use gravity_pipeline::packed::{batches, file::File};
use gravity_pipeline::pipeline::Batch;
use gravity_pipeline::store::{Directory, ETag, Error, ErrorKind, Key, Memory, Meta, Object, PutMode, Result, Store};
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What was archived: of each key, the documents that came under it.
type Archived = BTreeMap<String, Vec<Vec<u8>>>;

/// Fails the puts from the n-th on until it is told otherwise, and counts all.
struct Flaky {
    inner: Memory,
    puts: AtomicU64,
    allowed: AtomicI64,
}

impl Flaky {
    fn new() -> Arc<Self> {
        Arc::new(Self { inner: Memory::new(), puts: AtomicU64::new(0), allowed: AtomicI64::new(i64::MAX) })
    }

    fn allow(&self, puts: i64) {
        self.allowed.store(puts, Ordering::SeqCst);
    }

    fn puts(&self) -> u64 {
        self.puts.load(Ordering::SeqCst)
    }
}

#[async_trait::async_trait]
impl Store for Flaky {
    fn location(&self) -> String {
        "flaky:".into()
    }

    async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> Result<Option<ETag>> {
        if self.allowed.fetch_sub(1, Ordering::SeqCst) <= 0 {
            let (target, message) = (key.to_string(), "the plug was pulled".into());
            return Err(Error { kind: ErrorKind::Transient, operation: "put", target, message });
        }
        self.puts.fetch_add(1, Ordering::SeqCst);
        self.inner.put(key, body, mode).await
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

fn archive(store: &Arc<dyn Store>) -> Archive {
    Archive::new(store.clone(), ArchiveSettings::default())
}

async fn ingest(archive: &Archive, key: &str, raw: &[u8]) -> gravity_pipeline::Result<()> {
    let raw = Bytes::copy_from_slice(raw);
    let raw = futures::stream::once(async move { Ok(raw) }).boxed();
    archive.store(Batch { key: BatchKey::Named(key.into()), raw }).await.map(|_| ())
}

/// A batch of spans of a conversation with that many turns: each repeats the turns before it.
fn batch(conversation: u64, turns: u64) -> Vec<u8> {
    let text = |turn: u64| {
        format!(
            "Turn {turn} of conversation {conversation}: {}",
            "the weather in Lisbon is \"mild\"\n".repeat(5 + turn as usize)
        )
    };
    let spans: Vec<String> = (1..=turns)
        .map(|turn| {
            let messages: Vec<_> = (1..=turn).map(|at| serde_json::json!({"role": "user", "content": text(at)})).collect();
            let messages = serde_json::to_string(&messages).unwrap();
            let start = 1_761_900_000_000_000_000 + conversation * 1_000_000_007 + turn * 1000;
            serde_json::json!({
                "traceId": format!("{conversation:032x}"), "spanId": format!("{:016x}", conversation * 1000 + turn),
                "name": "litellm_request", "startTimeUnixNano": start.to_string(), "endTimeUnixNano": (start + 5).to_string(),
                "attributes": [
                    {"key": "llm.input", "value": {"stringValue": messages}},
                    {"key": "note", "value": {"stringValue": format!("note {turn}")}},
                ],
            })
            .to_string()
        })
        .collect();
    format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{}]}}]}}]}}"#, spans.join(",")).into_bytes()
}

/// The sample batches of the repository, as they are and decompressed.
async fn samples() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev/sample")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    found.push((path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
                }
            }
        }
    }
    assert!(found.len() > 3, "the samples are there");
    found
}

async fn document(raw: &[u8]) -> Vec<u8> {
    let raw = Bytes::copy_from_slice(raw);
    let raw = futures::stream::once(async move { Ok(raw) }).boxed();
    let bytes = gravity_pipeline::decompress::decompress(raw, Default::default(), Default::default());
    let pieces: Vec<Bytes> = bytes.try_collect().await.unwrap();
    pieces.concat()
}

/// Every document that can be read from the store is one that came, and every one that came can be read.
async fn check(reader: &Arc<Reader>, archived: &Archived) {
    let files = Catalog::new(reader.clone()).readable().await.unwrap().0;
    assert_eq!(files.batches().count(), archived.len(), "batches in the catalog");
    for (key, documents) in archived {
        let mut found = HashSet::new();
        for file in files.of_batch(key) {
            let pieces: Vec<Bytes> =
                restore(reader.clone(), file.open().unwrap(), key.clone()).try_collect().await.unwrap();
            found.insert(pieces.concat());
        }
        let came: HashSet<Vec<u8>> = documents.iter().cloned().collect();
        assert!(found == came, "{key}: {} documents came, {} are there", came.len(), found.len());
    }
}

async fn check_anew(store: &Arc<dyn Store>, archived: &Archived) {
    check(&Reader::new(store.clone(), 1 << 20), archived).await;
}

async fn compact_all(store: &Arc<dyn Store>) -> gravity_pipeline::Result<Report> {
    let mut sum = Report::default();
    for day in days(&**store).await? {
        let report = compact(store.clone(), &day, Settings::default(), &CancellationToken::new(), &|_| ()).await?;
        sum.files_before += report.files_before;
        sum.files_after += report.files_after;
        sum.bytes_before += report.bytes_before;
        sum.bytes_after += report.bytes_after;
        sum.duplicate_nodes += report.duplicate_nodes;
        sum.duplicate_batches += report.duplicate_batches;
        sum.damaged += report.damaged;
    }
    Ok(sum)
}

async fn collect(store: &Arc<dyn Store>, older_than: Duration) -> Vec<Removed> {
    let (removed, damaged) = collect_despite(store, older_than).await;
    assert_eq!(damaged, 0);
    removed
}

/// What was removed, and how many files could not be read or proved.
async fn collect_despite(store: &Arc<dyn Store>, older_than: Duration) -> (Vec<Removed>, u64) {
    let mut removed = Vec::new();
    let settings = gc::Settings { older_than, dry_run: false };
    let damaged = gc(store.clone(), settings, &CancellationToken::new(), &mut |it| removed.push(it)).await.unwrap();
    (removed, damaged)
}

/// What `gravity restore` gives.
async fn newest(store: &Arc<dyn Store>, key: &str) -> Vec<u8> {
    newest_by(&Reader::new(store.clone(), 1 << 20), key).await.unwrap()
}

async fn newest_by(reader: &Arc<Reader>, key: &str) -> gravity_pipeline::Result<Vec<u8>> {
    let files = Catalog::new(reader.clone()).readable().await?.0;
    let pieces: Vec<Bytes> = batches::open(reader, &files, key).await?.try_collect().await?;
    Ok(pieces.concat())
}

async fn overwrite(store: &Arc<dyn Store>, name: &str, bytes: Vec<u8>) {
    store.put(&Key::new(name).unwrap(), bytes.into(), PutMode::Always).await.unwrap();
}

async fn bytes_of(store: &Arc<dyn Store>, name: &str) -> Vec<u8> {
    store.read(&Key::new(name).unwrap()).await.unwrap().unwrap().0.to_vec()
}

async fn names(store: &Arc<dyn Store>, folder: &str) -> Vec<String> {
    store.list(folder, None).map_ok(|meta| meta.key.to_string()).try_collect().await.unwrap()
}

/// The samples and a few conversations, by two workers that know nothing of each other.
async fn two_workers(store: &Arc<dyn Store>) -> Archived {
    let mut archived = Archived::new();
    let workers = [archive(store), archive(store)];
    for (at, (key, raw)) in samples().await.into_iter().enumerate() {
        ingest(&workers[at % 2], &key, &raw).await.unwrap();
        archived.insert(key, vec![document(&raw).await]);
    }
    for turns in 1..4 {
        for (at, worker) in workers.iter().enumerate() {
            let (key, raw) = (format!("conversation-{turns}-{at}"), batch(7, turns));
            ingest(worker, &key, &raw).await.unwrap();
            archived.insert(key, vec![raw]);
        }
        let (key, raw) = (format!("both-{turns}"), batch(100 + turns, turns));
        for worker in &workers {
            ingest(worker, &key, &raw).await.unwrap();
        }
        archived.insert(key, vec![raw]);
    }
    archived
}

async fn everything_restores(store: Arc<dyn Store>) {
    let archived = two_workers(&store).await;
    let before = Reader::new(store.clone(), 1 << 20);
    check(&before, &archived).await;
    let files = names(&store, "").await.len();

    let report = compact_all(&store).await.unwrap();
    assert_eq!(report.files_before, files as u64);
    assert_eq!(report.duplicate_batches, 3);
    assert!(report.duplicate_nodes > 0 && report.bytes_after < report.bytes_before, "{report:?}");
    check(&before, &archived).await;
    check_anew(&store, &archived).await;

    let removed = collect(&store, Duration::ZERO).await;
    assert_eq!(removed.len(), files, "all that was there before");
    assert!(removed.iter().all(|removed| removed.why == Why::Replaced));
    assert_eq!(names(&store, "").await.len() as u64, report.files_after);
    check(&before, &archived).await;
    check_anew(&store, &archived).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_restores_after_compaction_and_collection_in_memory() {
    everything_restores(Arc::new(Memory::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_restores_after_compaction_and_collection_in_a_directory() {
    let folder = tempfile::tempdir().unwrap();
    let mut archived = Archived::new();
    let store: Arc<dyn Store> = Arc::new(Directory::open(folder.path()).unwrap());
    for conversation in 0..3 {
        let (key, raw) = (format!("c{conversation}"), batch(conversation, 3));
        ingest(&archive(&store), &key, &raw).await.unwrap();
        archived.insert(key, vec![raw]);
    }
    compact_all(&store).await.unwrap();
    collect(&store, Duration::ZERO).await;
    assert_eq!(names(&store, "nodes/").await.len() + names(&store, "spans/").await.len(), 2);
    check_anew(&store, &archived).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compacted_is_left_alone_and_what_comes_later_is_merged_in() {
    let flaky = Flaky::new();
    let store: Arc<dyn Store> = flaky.clone();
    let mut archived = two_workers(&store).await;
    compact_all(&store).await.unwrap();
    let puts = flaky.puts();
    assert_eq!(compact_all(&store).await.unwrap(), Report::default());
    assert_eq!(flaky.puts(), puts);

    // A worker that knows nothing stores once more what is there.
    ingest(&archive(&store), "late", &batch(7, 3)).await.unwrap();
    archived.insert("late".into(), vec![batch(7, 3)]);
    let report = compact_all(&store).await.unwrap();
    assert_eq!((report.files_before, report.files_after), (4, 2));
    check_anew(&store, &archived).await;
    // The files of both generations go at once.
    collect(&store, Duration::ZERO).await;
    assert_eq!(names(&store, "").await.len(), 2);
    check_anew(&store, &archived).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_writes_nothing_and_says_what_a_run_comes_to() {
    let flaky = Flaky::new();
    let store: Arc<dyn Store> = flaky.clone();
    two_workers(&store).await;
    let puts = flaky.puts();
    let day = days(&*store).await.unwrap().pop_first().unwrap();
    let settings = Settings { dry_run: true, ..Settings::default() };
    let report = compact(store.clone(), &day, settings, &CancellationToken::new(), &|_| ()).await.unwrap();
    assert_eq!(flaky.puts(), puts);
    let real = compact_all(&store).await.unwrap();
    assert_eq!((report.files_after, report.duplicate_nodes), (real.files_after, real.duplicate_nodes));
    // But for the random part of the names.
    assert!(report.bytes_after.abs_diff(real.bytes_after) < 64, "{report:?} {real:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_batches_of_one_key_that_differ_are_both_kept() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    for turns in [2, 3, 2] {
        ingest(&archive(&store), "overwritten", &batch(1, turns)).await.unwrap();
    }
    ingest(&archive(&store), "other", &batch(2, 2)).await.unwrap();
    let archived = Archived::from([
        ("overwritten".to_owned(), vec![batch(1, 2), batch(1, 3)]),
        ("other".to_owned(), vec![batch(2, 2)]),
    ]);
    check_anew(&store, &archived).await;
    let report = compact_all(&store).await.unwrap();
    assert_eq!(report.duplicate_batches, 1);
    check_anew(&store, &archived).await;
    collect(&store, Duration::ZERO).await;
    check_anew(&store, &archived).await;
    assert_eq!(names(&store, "spans/").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_put_loses_nothing_and_the_next_run_completes() {
    for allowed in 0.. {
        let flaky = Flaky::new();
        let store: Arc<dyn Store> = flaky.clone();
        let archived = two_workers(&store).await;
        flaky.allow(allowed);
        let crashed = compact_all(&store).await.is_err();
        check_anew(&store, &archived).await;
        collect(&store, Duration::ZERO).await;
        check_anew(&store, &archived).await;
        flaky.allow(i64::MAX);
        compact_all(&store).await.unwrap();
        collect(&store, Duration::ZERO).await;
        check_anew(&store, &archived).await;
        assert_eq!(names(&store, "").await.len(), 2);
        if !crashed {
            assert_eq!(allowed, 2, "one put of nodes, one of spans");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_compactions_at_once_lose_nothing_and_the_next_one_merges_what_both_wrote() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let archived = two_workers(&store).await;
    let (one, other) = tokio::join!(
        {
            let store = store.clone();
            async move { compact_all(&store).await }
        },
        {
            let store = store.clone();
            async move { compact_all(&store).await }
        },
    );
    one.unwrap();
    other.unwrap();
    check_anew(&store, &archived).await;
    collect(&store, Duration::ZERO).await;
    check_anew(&store, &archived).await;
    compact_all(&store).await.unwrap();
    collect(&store, Duration::ZERO).await;
    assert_eq!(names(&store, "").await.len(), 2);
    check_anew(&store, &archived).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_compaction_writes_nothing_more() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let archived = two_workers(&store).await;
    let before = names(&store, "").await;
    let stop = CancellationToken::new();
    stop.cancel();
    let day = days(&*store).await.unwrap().pop_first().unwrap();
    compact(store.clone(), &day, Settings::default(), &stop, &|_| ()).await.unwrap();
    assert_eq!(names(&store, "").await, before);
    check_anew(&store, &archived).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_share_out_by_size_and_every_batch_restores() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let archived = two_workers(&store).await;
    let day = days(&*store).await.unwrap().pop_first().unwrap();
    let settings = Settings { file_bytes: 20_000, ..Settings::default() };
    compact(store.clone(), &day, settings, &CancellationToken::new(), &|_| ()).await.unwrap();
    check_anew(&store, &archived).await;
    collect(&store, Duration::ZERO).await;
    assert!(names(&store, "nodes/").await.len() > 1);
    check_anew(&store, &archived).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_is_not_compacted() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    ingest(&archive(&store), "one", &batch(1, 3)).await.unwrap();
    // A span that names the nodes of another store: all of them are there, and they are not its own.
    let other: Arc<dyn Store> = Arc::new(Memory::new());
    ingest(&archive(&other), "one", &batch(2, 3)).await.unwrap();
    let (ours, theirs) = (names(&store, "nodes/").await, names(&other, "nodes/").await);
    let pack = other.read(&Key::new(&*theirs[0]).unwrap()).await.unwrap().unwrap().0;
    store.put(&Key::new(&*ours[0]).unwrap(), pack, PutMode::Always).await.unwrap();
    let before = names(&store, "").await;
    let error = compact_all(&store).await.unwrap_err().to_string();
    assert!(error.contains("spans/") || error.contains("nodes/"), "{error}");
    let after = names(&store, "spans/").await;
    assert!(after.iter().all(|name| before.contains(name)), "no spans stand for others");
}

#[tokio::test(flavor = "multi_thread")]
async fn young_files_stay_whatever_became_of_them() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    two_workers(&store).await;
    compact_all(&store).await.unwrap();
    assert_eq!(collect(&store, Duration::from_secs(3600)).await, vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pack_that_nothing_names_goes() {
    let flaky = Flaky::new();
    let store: Arc<dyn Store> = flaky.clone();
    let worker = archive(&store);
    ingest(&worker, "one", &batch(1, 2)).await.unwrap();
    // Its nodes are put, its spans are not.
    flaky.allow(1);
    ingest(&archive(&store), "lost", &batch(2, 2)).await.unwrap_err();
    flaky.allow(i64::MAX);
    assert_eq!(names(&store, "nodes/").await.len(), 2);
    let removed = collect(&store, Duration::ZERO).await;
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].why, Why::Orphan);
    check_anew(&store, &Archived::from([("one".to_owned(), vec![batch(1, 2)])])).await;
}

/// The packs that files of spans name, and those that their nodes name, are all held by some file.
async fn nothing_named_is_missing(store: &Arc<dyn Store>) {
    let reader = Reader::new(store.clone(), 0);
    let mut held = HashSet::new();
    let mut named: Vec<(String, u64)> = Vec::new();
    for name in names(store, "").await {
        let file = reader.open(&Key::new(&*name).unwrap()).await.unwrap().unwrap();
        named.extend(packs_of(&file).unwrap().into_iter().map(|pack| (name.clone(), pack)));
        if name.starts_with("nodes/") {
            held.insert(name.clone());
            held.extend(file.list::<String>("gravity.replaces").unwrap());
        }
    }
    for (name, pack) in named {
        assert!(held.contains(nodes_key(PackNumber(pack)).as_str()), "{name} names pack {pack}, which is gone");
    }
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_lose_nothing() {
    for seed in 0..6 {
        let mut dice = Dice(seed);
        let flaky = Flaky::new();
        let store: Arc<dyn Store> = flaky.clone();
        let mut workers: Vec<Archive> = (0..3).map(|_| archive(&store)).collect();
        let mut archived = Archived::new();
        let mut history = Vec::new();
        for _ in 0..16 {
            let step = dice.roll(9);
            history.push(step);
            match step {
                0..4 => {
                    let (conversation, turns) = (dice.roll(3), 1 + dice.roll(4));
                    let (key, raw) = (format!("{conversation}-{turns}"), batch(conversation, turns));
                    ingest(&workers[dice.roll(3) as usize], &key, &raw).await.unwrap();
                    archived.insert(key, vec![raw]);
                }
                4 => {
                    flaky.allow(dice.roll(2) as i64);
                    let raw = batch(50 + dice.roll(3), 1 + dice.roll(3));
                    // With nothing new it needs a single put: then it is stored.
                    if ingest(&workers[dice.roll(3) as usize], "maybe", &raw).await.is_ok() {
                        let came = archived.entry("maybe".into()).or_default();
                        came.push(raw);
                    }
                    flaky.allow(i64::MAX);
                }
                5 => workers[dice.roll(3) as usize] = archive(&store),
                6 => {
                    flaky.allow(dice.roll(3) as i64);
                    let _ = compact_all(&store).await;
                    flaky.allow(i64::MAX);
                }
                7 => {
                    compact_all(&store).await.unwrap();
                }
                _ => {
                    collect(&store, Duration::ZERO).await;
                }
            }
            nothing_named_is_missing(&store).await;
            check_anew(&store, &archived).await;
        }
        assert!(!history.is_empty());
    }
}

/// A pause, so that files of the next flush have later names.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_versions_of_a_batch_the_newer_one_is_restored_before_and_after_compaction() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let (first, second, shared) = (batch(1, 2), batch(1, 3), batch(2, 2));
    let worker = Archive::new(
        store.clone(),
        ArchiveSettings {
            flush: gravity_pipeline::packed::packer::FlushSettings { bytes: u64::MAX, interval: None },
            ..ArchiveSettings::default()
        },
    );
    // One flush of both: as long as one is in work, the other waits for it.
    let in_work = worker.begin();
    let raw = |bytes: &[u8]| {
        let bytes = Bytes::copy_from_slice(bytes);
        futures::stream::once(async move { Ok(bytes) }).boxed()
    };
    let named = |key: &str, bytes: &[u8]| Batch { key: BatchKey::Named(key.into()), raw: raw(bytes) };
    let (one, other, ()) = tokio::join!(worker.store(named("K", &first)), worker.store(named("X", &shared)), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(in_work);
    });
    assert_eq!(one.unwrap().flush.files, other.unwrap().flush.files, "one flush");
    pause().await;
    ingest(&archive(&store), "K", &second).await.unwrap();
    pause().await;
    ingest(&archive(&store), "X", &shared).await.unwrap();

    let archived = Archived::from([("K".to_owned(), vec![first, second.clone()]), ("X".to_owned(), vec![shared])]);
    assert!(newest(&store, "K").await == second);
    for _ in 0..2 {
        compact_all(&store).await.unwrap();
        assert!(newest(&store, "K").await == second, "after compaction");
        check_anew(&store, &archived).await;
        collect(&store, Duration::ZERO).await;
        assert!(newest(&store, "K").await == second, "after collection");
        check_anew(&store, &archived).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_stored_again_is_the_newest_after_compaction_too() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    for turns in [2, 3, 2] {
        ingest(&archive(&store), "K", &batch(1, turns)).await.unwrap();
        pause().await;
    }
    compact_all(&store).await.unwrap();
    assert!(newest(&store, "K").await == batch(1, 2));
    collect(&store, Duration::ZERO).await;
    assert!(newest(&store, "K").await == batch(1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_with_cached_ends_finds_nodes_that_were_compacted_and_collected_since() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let mut dice = Dice(1);
    // More than a file that is read whole.
    let letter = |number: u64| char::from(b'#' + number as u8);
    let text: String = (0..6 << 20).map(|_| letter(dice.roll(90))).filter(|&letter| letter != '\\').collect();
    let raw = format!(
        r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"traceId":"44e0a6b4c1d24f7f9c8e5b7a3d2f1e00","spanId":"1ac2b3d4e5f60718","name":"s","attributes":[{{"key":"input.value","value":{{"stringValue":"{text}"}}}}]}}]}}]}}]}}"#
    );
    ingest(&archive(&store), "large", raw.as_bytes()).await.unwrap();
    let pack = names(&store, "nodes/").await.remove(0);
    assert!(store.head(&Key::new(&*pack).unwrap()).await.unwrap().unwrap().size > 4 << 20);
    let cache = tempfile::tempdir().unwrap();
    let reader = || Reader::with_footers(store.clone(), 1 << 20, Some(Footers::new(cache.path(), "memory:")));
    assert!(newest_by(&reader(), "large").await.unwrap() == raw.as_bytes());
    compact_all(&store).await.unwrap();
    collect(&store, Duration::ZERO).await;
    assert!(!names(&store, "nodes/").await.contains(&pack));
    for _ in 0..2 {
        assert!(newest_by(&reader(), "large").await.unwrap() == raw.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_gravity_did_not_name_is_left_alone_and_stops_nothing() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let archived = two_workers(&store).await;
    let day = days(&*store).await.unwrap().pop_first().unwrap();
    let foreign = [format!("nodes/dt={day}/foreign.parquet"), format!("spans/dt={day}/foreign.parquet")];
    for name in &foreign {
        overwrite(&store, name, b"not Parquet".to_vec()).await;
    }
    let report = compact_all(&store).await.unwrap();
    assert_eq!((report.files_after, report.damaged), (2, 0));
    assert!(!collect(&store, Duration::ZERO).await.is_empty());
    assert_eq!(names(&store, "").await.len(), 4);
    for name in &foreign {
        assert_eq!(bytes_of(&store, name).await, b"not Parquet");
    }
    for (key, documents) in archived {
        assert!(newest(&store, &key).await == documents[0], "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_stays_and_the_others_are_compacted_and_collected() {
    for folder in ["spans/", "nodes/"] {
        let store: Arc<dyn Store> = Arc::new(Memory::new());
        ingest(&archive(&store), "damaged", &batch(9, 2)).await.unwrap();
        let damaged = names(&store, folder).await.remove(0);
        pause().await;
        for conversation in 0..3 {
            ingest(&archive(&store), &format!("c{conversation}"), &batch(conversation, 3)).await.unwrap();
            pause().await;
        }
        overwrite(&store, &damaged, b"damaged".to_vec()).await;
        let report = compact_all(&store).await.unwrap();
        // With its nodes a file of spans is lost, too.
        assert_eq!(report.damaged, if folder == "spans/" { 1 } else { 2 });
        let (removed, unread) = collect_despite(&store, Duration::ZERO).await;
        assert_eq!(unread, 1);
        assert!(removed.iter().all(|removed| removed.why == Why::Replaced), "{removed:?}");
        assert!(removed.len() >= 6, "{removed:?}");
        assert_eq!(bytes_of(&store, &damaged).await, b"damaged");
        for conversation in 0..3 {
            assert!(newest(&store, &format!("c{conversation}")).await == batch(conversation, 3));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pack_is_an_orphan_as_long_as_a_file_of_spans_cannot_be_read() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    ingest(&archive(&store), "one", &batch(1, 2)).await.unwrap();
    let spans = names(&store, "spans/").await.remove(0);
    let whole = bytes_of(&store, &spans).await;
    overwrite(&store, &spans, whole[..whole.len() - 9].to_vec()).await;
    let (removed, damaged) = collect_despite(&store, Duration::ZERO).await;
    assert_eq!((removed, damaged), (vec![], 1));
    // Whoever has a copy puts it back.
    overwrite(&store, &spans, whole).await;
    assert!(newest(&store, "one").await == batch(1, 2));
    assert_eq!(collect(&store, Duration::ZERO).await, vec![]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_file_of_spans_stays_when_what_stands_for_it_does_not_restore() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    let archived = two_workers(&store).await;
    let before = names(&store, "spans/").await;
    compact_all(&store).await.unwrap();
    let compacted = names(&store, "spans/").await.into_iter().find(|name| !before.contains(name)).unwrap();
    let whole = bytes_of(&store, &compacted).await;
    // Its metadata is as it was.
    let mut damaged = whole.clone();
    damaged[4..2000].fill(0);
    overwrite(&store, &compacted, damaged).await;
    let (removed, unproved) = collect_despite(&store, Duration::ZERO).await;
    assert!(unproved > 0);
    assert!(removed.iter().all(|removed| removed.key.starts_with("nodes/")), "{removed:?}");
    // Without it, all is there.
    store.delete(&Key::new(&*compacted).unwrap()).await.unwrap();
    check_anew(&store, &archived).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_newer_format_is_refused_and_says_so() {
    let store: Arc<dyn Store> = Arc::new(Memory::new());
    ingest(&archive(&store), "one", &batch(1, 2)).await.unwrap();
    for folder in ["nodes/", "spans/"] {
        let name = names(&store, folder).await.remove(0);
        let mut bytes = bytes_of(&store, &name).await;
        let at = bytes.windows(14).rposition(|window| window == b"gravity.format").unwrap();
        let value = at + bytes[at..].iter().position(|&byte| byte == b'1').unwrap();
        bytes[value] = b'2';
        let error = File::of_bytes(&Key::new(&*name).unwrap(), bytes.into()).err().unwrap().to_string();
        assert!(error.contains(r#"format "2""#) && error.contains("newer"), "{error}");
    }
}
