//! What reading costs, in requests.

use crate::archive::{batch, document};
use gravity_pipeline::keys::ContentKeys;
use gravity_pipeline::packed::archive::{Archive, ArchiveSettings};
use gravity_pipeline::packed::catalog::Catalog;
use gravity_pipeline::packed::compact::{Settings as CompactSettings, compact, days};
use gravity_pipeline::packed::footers::Footers;
use gravity_pipeline::packed::gc::{Settings as GcSettings, gc};
use gravity_pipeline::packed::reader::Reader;
use gravity_pipeline::packed::traces::load;
use gravity_pipeline::split::Separator;
use gravity_pipeline::store::{Memory, Metered, Requests};
use std::path::Path;
use std::sync::Arc;
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
async fn so_it_does_after_compaction() {
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
