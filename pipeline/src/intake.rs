//! Finds new batches, at a cost in proportion to what is new.
//!
//! A **poll** lists, for every stem (a key up to its first `name=`), the two newest folders and whatever sorts behind
//! them, and the same range of the ledger: a few LISTs, and one more on either side for every thousand batches of the
//! last hours, however many were ever stored. A **full pass** lists everything, and finds what came late into an old
//! hour, and new stems. Neither remembers anything that another worker would need: what is done is what the ledger
//! says.

use crate::error::Result;
use crate::ledger::Done;
use crate::loose::{LEDGER, Paths};
use crate::store::{Meta, Store};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What to look at.
#[derive(Clone)]
pub struct Intake {
    store: Arc<dyn Store>,
    paths: Paths,
    ledger: Done,
    /// A full pass gives batches that are done, too.
    and_done: bool,
    seen: Arc<Mutex<Seen>>,
}

/// Folders of batches, newest last, two for each stem.
#[derive(Default)]
struct Seen {
    stems: BTreeMap<String, BTreeSet<String>>,
    /// Of a stem without `name=value` folders, the last key.
    last_keys: BTreeMap<String, String>,
}

/// Folders of a stem that a poll looks at: the current hour and the one that has just ended.
const FOLDERS: usize = 2;
/// Batches looked up in the ledger with one listing.
const GROUP: usize = 1000;

impl Intake {
    /// An intake that has seen nothing: its first pass should be a full one.
    pub fn new(store: Arc<dyn Store>, paths: Paths, ledger: Done) -> Self {
        Self { store, paths, ledger, and_done: false, seen: Arc::default() }
    }

    /// The same, but a full pass gives batches that are done, too: their raw files are to go.
    pub fn with_done(self, and_done: bool) -> Self {
        Self { and_done, ..self }
    }

    /// Every batch that is not in the ledger.
    pub fn full_pass(&self) -> BoxStream<'static, Result<Meta>> {
        if let Done::Packed(done) = &self.ledger {
            done.list_all_next();
        }
        let prefix = format!("{}/", self.paths.raw_spans);
        self.found(self.store.list(&prefix, None).map_err(Into::into), self.and_done).boxed()
    }

    /// The batches of the newest folders that are not in the ledger.
    pub fn poll(&self) -> BoxStream<'static, Result<Meta>> {
        let ranges = self.seen().ranges();
        if ranges.is_empty() {
            // The store was empty so far: the first batch may come into any folder.
            return self.full_pass();
        }
        let store = self.store.clone();
        let listed = stream::iter(ranges)
            .map(move |(stem, after)| store.list(&stem, Some(&after)).map_err(Into::into))
            .flatten();
        self.found(listed, false).boxed()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // The table is whole between any two statements that could panic.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out what the ledger has, unless that is wanted too, group by group. A listing may be wrong in order (see `ARCHITECTURE.md` on
    /// SeaweedFS); then a batch that is done may pass, and whoever processes it looks into the ledger once more.
    fn found<S>(&self, listed: S, and_done: bool) -> impl Stream<Item = Result<Meta>> + Send + 'static
    where
        S: Stream<Item = Result<Meta>> + Send + 'static,
    {
        let intake = self.clone();
        groups(listed)
            .and_then(move |group| {
                let intake = intake.clone();
                async move {
                    intake.seen().remember(&group);
                    let done = intake.done(&group).await?;
                    let new = group.into_iter().filter(move |raw| and_done || !done.contains(raw.key.as_str()));
                    Ok(stream::iter(new.map(Ok)))
                }
            })
            .try_flatten()
    }

    /// Which of these, all from one folder and in order, are in the ledger.
    async fn done(&self, group: &[Meta]) -> Result<HashSet<String>> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(HashSet::new()) };
        if let Done::Packed(done) = &self.ledger {
            done.refresh().await?;
            let keys = group.iter().map(|raw| raw.key.as_str()).filter(|key| done.has(key));
            return Ok(keys.map(str::to_owned).collect());
        }
        let (first, last) = (self.paths.ledger(first.key.as_str()), self.paths.ledger(last.key.as_str()));
        let (folder, _) = folder_and_name(first.as_str());
        // Just before the first one's entry: its name without the suffix sorts there.
        let after = first.as_str().strip_suffix(".json");
        let entries = self.store.list(folder, after);
        let mut entries = std::pin::pin!(entries);
        let mut done = HashSet::new();
        while let Some(entry) = entries.try_next().await? {
            if entry.key > last {
                break;
            }
            done.extend(entry.key.decode(LEDGER, ".json"));
        }
        Ok(done)
    }
}

/// Neighbours from one folder, at most [`GROUP`] of them.
fn groups<S>(listed: S) -> impl Stream<Item = Result<Vec<Meta>>> + Send
where
    S: Stream<Item = Result<Meta>> + Send,
{
    let listed = Box::pin(listed.peekable());
    stream::try_unfold(listed, |mut listed| async move {
        let Some(first) = listed.try_next().await? else { return Ok(None) };
        let folder = folder_and_name(first.key.as_str()).0.to_owned();
        let mut group = vec![first];
        let fits = |next: &Result<Meta>| matches!(next, Ok(meta) if folder_and_name(meta.key.as_str()).0 == folder);
        while group.len() < GROUP
            && let Some(next) = listed.as_mut().next_if(fits).await
        {
            group.push(next?);
        }
        Ok(Some((group, listed)))
    })
}

/// `a/b/c` is in folder `a/b/` and has the name `c`.
fn folder_and_name(key: &str) -> (&str, &str) {
    key.split_at(key.rfind('/').map_or(0, |at| at + 1))
}

/// A folder up to the `=` of its first `name=value` segment, so that a listing with it as prefix holds its
/// partitions and no neighbour; `None` if it has no such segment.
fn stem(folder: &str) -> Option<&str> {
    let mut at = 0;
    for segment in folder.split_inclusive('/') {
        if let Some(equals) = segment.find('=') {
            return Some(&folder[..=at + equals]);
        }
        at += segment.len();
    }
    None
}

impl Seen {
    /// Remembers the folder of a group.
    fn remember(&mut self, group: &[Meta]) {
        let Some(last) = group.last().map(|meta| meta.key.as_str()) else { return };
        let (folder, _) = folder_and_name(last);
        match stem(folder) {
            Some(stem) => {
                let folders = self.stems.entry(stem.to_owned()).or_default();
                folders.insert(folder.to_owned());
                while folders.len() > FOLDERS {
                    folders.pop_first();
                }
            }
            None => {
                let key = self.last_keys.entry(folder.to_owned()).or_default();
                if last > key.as_str() {
                    *key = last.to_owned();
                }
            }
        }
    }

    /// Prefix and start-after of every listing of a poll.
    fn ranges(&self) -> Vec<(String, String)> {
        let folders = self.stems.iter().filter_map(|(stem, folders)| Some((stem.clone(), folders.first()?.clone())));
        folders.chain(self.last_keys.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Key, Memory, Metered, PutMode};

    struct Bucket {
        store: Arc<Metered<Memory>>,
        intake: Intake,
    }

    impl Bucket {
        fn new() -> Self {
            let store = Arc::new(Metered::new(Memory::new()));
            let intake = Intake::new(store.clone(), Paths::default(), Done::Ledger(store.clone()));
            Self { intake, store }
        }

        async fn add(&self, batch: &str) {
            self.store.put(&Key::new(batch).unwrap(), "x".into(), PutMode::Always).await.unwrap();
        }

        async fn done(&self, batch: &str) {
            self.store.put(&Paths::default().ledger(batch), "{}".into(), PutMode::Always).await.unwrap();
        }

        async fn found(&self, pass: BoxStream<'static, Result<Meta>>) -> Vec<String> {
            pass.map_ok(|meta| meta.key.to_string()).try_collect().await.unwrap()
        }
    }

    const OLD: &str = "raw-spans/dt=2025-10-30/hour=01/batch-a.json.gz";
    const BEFORE: &str = "raw-spans/dt=2025-10-31/hour=10/batch-b.json.gz";
    const NOW: &str = "raw-spans/dt=2025-10-31/hour=11/batch-c.json.gz";
    const NEXT: &str = "raw-spans/dt=2025-10-31/hour=12/batch-a.json.gz";

    #[tokio::test]
    async fn a_full_pass_finds_all_that_the_ledger_does_not_have() {
        let bucket = Bucket::new();
        for batch in [OLD, BEFORE, NOW] {
            bucket.add(batch).await;
        }
        bucket.done(BEFORE).await;
        assert_eq!(bucket.found(bucket.intake.full_pass()).await, [OLD, NOW]);
    }

    #[tokio::test]
    async fn a_poll_finds_what_is_new_in_the_newest_folders_and_behind_them() {
        let bucket = Bucket::new();
        for batch in [OLD, BEFORE, NOW] {
            bucket.add(batch).await;
            bucket.done(batch).await;
        }
        assert!(bucket.found(bucket.intake.full_pass()).await.is_empty());
        let random = "raw-spans/dt=2025-10-31/hour=10/batch-aa.json.gz";
        bucket.add(random).await;
        bucket.add(NEXT).await;
        assert_eq!(bucket.found(bucket.intake.poll()).await, [random, NEXT]);
    }

    #[tokio::test]
    async fn a_late_file_in_an_old_hour_is_found_by_the_full_pass() {
        let bucket = Bucket::new();
        for batch in [OLD, BEFORE, NOW] {
            bucket.add(batch).await;
            bucket.done(batch).await;
        }
        bucket.found(bucket.intake.full_pass()).await;
        let late = "raw-spans/dt=2025-10-30/hour=01/batch-late.json.gz";
        bucket.add(late).await;
        assert!(bucket.found(bucket.intake.poll()).await.is_empty());
        assert_eq!(bucket.found(bucket.intake.full_pass()).await, [late]);
    }

    #[tokio::test]
    async fn every_prefix_before_the_partitions_is_polled() {
        let bucket = Bucket::new();
        let teams = ["raw-spans/a/dt=1/hour=1/x", "raw-spans/b/dt=1/hour=1/x", "raw-spans/flat-1"];
        for batch in teams {
            bucket.add(batch).await;
        }
        assert_eq!(bucket.found(bucket.intake.full_pass()).await, teams);
        for batch in teams {
            bucket.done(batch).await;
        }
        let new = ["raw-spans/a/dt=1/hour=2/x", "raw-spans/b/dt=1/hour=1/y", "raw-spans/flat-2"];
        for batch in new {
            bucket.add(batch).await;
        }
        assert_eq!(bucket.found(bucket.intake.poll()).await, new);
    }

    #[tokio::test]
    async fn a_neighbour_that_sorts_behind_is_not_listed_with_a_stem() {
        let bucket = Bucket::new();
        bucket.add(NOW).await;
        bucket.done(NOW).await;
        for n in 0..2000 {
            let batch = format!("raw-spans/team/dt=2025-10-31/hour=00/batch-{n:05}");
            bucket.add(&batch).await;
            bucket.done(&batch).await;
        }
        for batch in ["raw-spans/team/dt=2025-10-31/hour=01/x", "raw-spans/team/dt=2025-10-31/hour=02/x"] {
            bucket.add(batch).await;
            bucket.done(batch).await;
        }
        assert!(bucket.found(bucket.intake.full_pass()).await.is_empty());
        let requests = bucket.store.requests();
        let before = requests().list;
        assert!(bucket.found(bucket.intake.poll()).await.is_empty());
        // One listing for each stem, one of the ledger for each folder: one before the team's, two of the team's.
        assert_eq!(requests().list - before, 5);
    }

    #[tokio::test]
    async fn the_requests_of_a_poll_do_not_grow_with_what_was_ever_stored() {
        let bucket = Bucket::new();
        for n in 0..3000 {
            let batch = format!("raw-spans/dt=2025-01-{:02}/hour=00/batch-{n:05}", 1 + n / 500);
            bucket.add(&batch).await;
            bucket.done(&batch).await;
        }
        assert!(bucket.found(bucket.intake.full_pass()).await.is_empty());
        let requests = bucket.store.requests();
        let before = requests().list;
        bucket.add("raw-spans/dt=2025-01-06/hour=00/batch-99999").await;
        assert_eq!(bucket.found(bucket.intake.poll()).await.len(), 1);
        // Two folders of 500: one listing (of two pages, with the new one), one of the ledger for each folder.
        assert_eq!(requests().list - before, 4);
    }

    #[tokio::test]
    async fn a_name_that_is_a_prefix_of_another_does_not_hide_it() {
        let bucket = Bucket::new();
        let batches = ["raw-spans/dt=1/a", "raw-spans/dt=1/a-b", "raw-spans/dt=1/a.json", "raw-spans/dt=1/a0"];
        for batch in batches {
            bucket.add(batch).await;
        }
        bucket.done(batches[0]).await;
        let found = bucket.found(bucket.intake.full_pass()).await;
        for batch in &batches[1..] {
            assert!(found.iter().any(|f| f == batch), "{batch} in {found:?}");
        }
    }
}
