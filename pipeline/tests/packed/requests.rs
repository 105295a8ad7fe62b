//! What reading costs, in requests.

use crate::archive::{batch, document};
use gravity_pipeline::keys::ContentKeys;
use gravity_pipeline::packed::archive::{Archive, ArchiveSettings};
use gravity_pipeline::packed::catalog::Catalog;
use gravity_pipeline::packed::compact::{Settings as CompactSettings, compact, days};
use gravity_pipeline::packed::done::DoneBatches;
use gravity_pipeline::packed::footers::Footers;
use gravity_pipeline::packed::gc::{Settings as GcSettings, gc};
use gravity_pipeline::packed::packer::{Names, spans_key};
use gravity_pipeline::packed::reader::Reader;
use gravity_pipeline::packed::traces::load;
use gravity_pipeline::split::Separator;
use gravity_pipeline::store::{Memory, Metered, PutMode, Requests, Store};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const FLUSHES: usize = 300;

/// A store of as many flushes, each of one batch whose texts are partly those of others.
async fn store() -> Arc<Metered<Memory>> {
    let store = Arc::new(Metered::new(Memory::new()));
    let archive = Archive::new(store.clone(), ArchiveSettings::default());
    for n in 1..=FLUSHES {
        archive.store(batch(&format!("{n:03}"), &document(n, 3))).await.unwrap();
    }
    store
}

/// Reads one trace as a process does that has just begun: its content, and the requests that it took.
async fn read(store: &Arc<Metered<Memory>>, trace: usize, cache: Option<&Path>) -> (Vec<Vec<u8>>, Requests) {
    let requests = store.requests();
    let before = requests();
    let footers = cache.map(|folder| Footers::new(folder, "s3://bucket"));
    let reader = Reader::with_footers(store.clone(), 64 << 20, footers);
    let (files, broken) = Catalog::new(reader.clone()).readable().await.unwrap();
    assert_eq!(broken, 0);
    let trace = format!("{trace:032x}").parse().unwrap();
    let trace = load(&reader, &files, trace, &ContentKeys::default(), &Separator::default()).await.unwrap();
    let mut texts: Vec<Vec<u8>> = trace.chunks.values().map(|chunk| chunk.to_vec()).collect();
    texts.sort();
    let after = requests();
    (texts, Requests { get: after.get - before.get, list: after.list - before.list, ..Requests::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_among_many_files_takes_few_requests_once_their_ends_are_cached() {
    let store = store().await;
    let cache = tempfile::tempdir().unwrap();
    let (uncached, requests) = read(&store, 200, None).await;
    assert_eq!(uncached.len(), 2);
    assert!(requests.get >= FLUSHES as u64, "{requests:?}");

    let (cold, _) = read(&store, 150, Some(cache.path())).await;
    assert_eq!(cold.len(), 2);
    let (warm, requests) = read(&store, 200, Some(cache.path())).await;
    assert!(warm == uncached);
    // The rows, their own nodes, those that the first flush had already. `gravity.json` comes on top.
    assert!(requests.get <= 3 && requests.list == 1, "{requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_pack_is_fetched_once() {
    let store = store().await;
    let cache = tempfile::tempdir().unwrap();
    let (cold, _) = read(&store, 200, Some(cache.path())).await;
    let (warm, requests) = read(&store, 200, Some(cache.path())).await;
    assert!(warm == cold);
    // The rows alone.
    assert_eq!(requests.get, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn few_requests_are_enough_after_compaction() {
    let store = store().await;
    let (before, _) = read(&store, 200, None).await;
    let stop = CancellationToken::new();
    for day in days(&*store).await.unwrap() {
        compact(store.clone(), &day, CompactSettings::default(), &stop, &|_| ()).await.unwrap();
    }
    let all = GcSettings { older_than: Duration::ZERO, dry_run: false };
    gc(store.clone(), all, &stop, &mut |_| ()).await.unwrap();
    let cache = tempfile::tempdir().unwrap();
    let (cold, _) = read(&store, 150, Some(cache.path())).await;
    assert_eq!(cold.len(), 2);
    let (warm, requests) = read(&store, 200, Some(cache.path())).await;
    assert!(warm == before);
    // The rows, a pack that is not there any more, and the file that it is in now, found by a listing.
    assert!(requests.get <= 3 && requests.list <= 2, "{requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_later_is_found_with_a_cache_from_before() {
    let store = Arc::new(Metered::new(Memory::new()));
    let cache = tempfile::tempdir().unwrap();
    let archive = Archive::new(store.clone(), ArchiveSettings::default());
    for n in 1..5 {
        archive.store(batch(&n.to_string(), &document(n, 3))).await.unwrap();
        for trace in 1..=n {
            assert_eq!(read(&store, trace, Some(cache.path())).await.0.len(), 2);
        }
    }
}

/// A clock that stands where it is put.
#[derive(Debug, Default)]
struct Clock {
    now: AtomicU64,
    random: AtomicU32,
}

impl Names for Clock {
    fn now(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    fn random(&self) -> u32 {
        self.random.fetch_add(1, Ordering::Relaxed)
    }
}

const HOUR: u64 = 3600 * 1000;
const NOON: u64 = 20_000 * 24 * HOUR + 12 * HOUR;

/// A store, and a clock that its files are named by.
struct Named {
    store: Arc<Metered<Memory>>,
    clock: Arc<Clock>,
}

impl Named {
    fn new() -> Self {
        Self { store: Arc::new(Metered::new(Memory::new())), clock: Arc::default() }
    }

    /// Stores a batch as a worker does by whose clock it is this time.
    async fn add(&self, name: &str, time: u64) {
        self.clock.now.store(time, Ordering::Relaxed);
        let settings = ArchiveSettings { names: self.clock.clone(), ..ArchiveSettings::default() };
        Archive::new(self.store.clone(), settings).store(batch(name, &document(1, 3))).await.unwrap();
    }

    fn done(&self, cache: Option<&Path>) -> Arc<DoneBatches> {
        let footers = cache.map(|folder| Footers::new(folder, "s3://bucket"));
        DoneBatches::with_footers(self.store.clone(), footers, self.clock.clone())
    }

    /// Looks for new files at this time; gives the requests that it took.
    async fn look(&self, done: &DoneBatches, time: u64) -> (u64, u64) {
        self.clock.now.store(time, Ordering::Relaxed);
        // Until what was listed last is not fresh any more.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let requests = self.store.requests();
        let before = requests();
        done.refresh().await.unwrap();
        let after = requests();
        (after.get - before.get, after.list - before.list)
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_named_earlier_than_the_newest_known_is_seen() {
    let named = Named::new();
    named.add("first", NOON).await;
    let done = named.done(None);
    named.look(&done, NOON).await;
    // By a worker whose clock is behind, or whose put took long.
    named.add("late", NOON - HOUR / 2).await;
    // By one whose clock is ahead: where others begin is told by ours.
    named.add("ahead", NOON + 48 * HOUR).await;
    named.look(&done, NOON + 1).await;
    assert!(done.has("first") && done.has("late") && done.has("ahead"));
    named.add("second", NOON + 2).await;
    named.look(&done, NOON + 3).await;
    assert!(done.has("second"));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_comes_very_late_is_seen_when_all_are_listed() {
    let named = Named::new();
    named.add("first", NOON).await;
    let done = named.done(None);
    named.look(&done, NOON).await;
    named.add("late", NOON - 48 * HOUR).await;
    named.look(&done, NOON + 1).await;
    assert!(!done.has("late"));
    done.list_all_next();
    named.look(&done, NOON + 2).await;
    assert!(done.has("late"));
}

#[tokio::test(start_paused = true)]
async fn the_requests_of_a_look_do_not_grow_with_the_store() {
    let named = Named::new();
    for n in 0..5000 {
        // Whose content does not matter here.
        let key = spans_key(NOON - 5 * HOUR + n, 0);
        named.store.put(&key, "x".into(), PutMode::Always).await.unwrap();
    }
    named.add("old", NOON).await;
    let done = named.done(None);
    let (_, lists) = named.look(&done, NOON).await;
    assert!(lists > 5, "{lists}");
    assert_eq!(named.look(&done, NOON + 1).await, (0, 1));
    named.add("new", NOON + 2).await;
    assert_eq!(named.look(&done, NOON + 3).await, (1, 1));
    assert!(done.has("old") && done.has("new"));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_begins_reads_no_file_whose_end_is_cached() {
    let named = Named::new();
    for n in 0..20 {
        named.add(&n.to_string(), NOON + n).await;
    }
    let cache = tempfile::tempdir().unwrap();
    assert_eq!(named.look(&named.done(Some(cache.path())), NOON + 20).await, (20, 1));
    let done = named.done(Some(cache.path()));
    assert_eq!(named.look(&done, NOON + 20).await, (0, 1));
    assert!((0..20).all(|n| done.has(&n.to_string())));
}
