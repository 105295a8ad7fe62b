//! Every store does what the trait promises, and the directory what a folder on a disk asks for besides.
//!
//! The S3 store is tested against a real server: `dev/seaweedfs.py run --bucket gravity-test -- cargo test`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytes::Bytes;
use gravity_pipeline::hash::ChunkHash;
use gravity_pipeline::loose::Paths;
use gravity_pipeline::retry::Policy;
use gravity_pipeline::store::{
    Directory, ErrorKind, Key, Memory, Metered, PutMode, Retrying, S3, S3Settings, Store, conformance,
};
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// As the program wraps its stores.
fn wrapped(store: impl Store) -> Arc<dyn Store> {
    Arc::new(Retrying::new(Metered::new(store), Policy::default()))
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    conformance::all(Arc::new(Memory::new()), "test").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms_when_metered_and_retried() {
    conformance::all(wrapped(Memory::new()), "test").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conformance::all(Arc::new(Directory::open(folder.path()).unwrap()), "test").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_conforms_when_metered_and_retried() {
    let folder = tempfile::tempdir().unwrap();
    conformance::all(wrapped(Directory::open(folder.path().join("new")).unwrap()), "test").await;
}

/// The bucket of a real server below a prefix that no other run has; `None` if there is none to test with.
async fn s3(name: &str) -> Option<S3> {
    if env::var_os("GRAVITY_TEST_S3").is_none() {
        println!("SKIPPED, no S3 server: dev/seaweedfs.py run --bucket gravity-test -- cargo test");
        return None;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let settings = S3Settings {
        prefix: format!("run-{now}-{}/{name}", std::process::id()),
        endpoint: env::var("AWS_ENDPOINT_URL").ok(),
        ..S3Settings::new(env::var("GRAVITY_TEST_BUCKET").expect("GRAVITY_TEST_BUCKET names a bucket of the server"))
    };
    Some(S3::open(settings).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms() {
    let Some(store) = s3("plain").await else { return };
    conformance::all(Arc::new(store), "test").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_conforms_when_metered_and_retried() {
    let Some(store) = s3("wrapped").await else { return };
    conformance::all(wrapped(store), "test").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_not_there_is_told() {
    if s3("missing").await.is_none() {
        return;
    }
    let settings =
        S3Settings { endpoint: env::var("AWS_ENDPOINT_URL").ok(), ..S3Settings::new("gravity-test-no-such-bucket") };
    let store = S3::open(settings).await;
    let error = store.put(&key("x"), Bytes::from("x"), PutMode::Always).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoStore, "{error}");
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

async fn put(store: &impl Store, name: &str) -> Result<(), ErrorKind> {
    store.put(&key(name), Bytes::from("content"), PutMode::Always).await.map(|_| ()).map_err(|e| e.kind)
}

/// The folders of processes that are writing to the store, or did.
fn scratch_folders(store: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(store.join(".gravity/tmp")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// A young folder is left alone, since its process may have yet to lock it.
fn make_old(folder: &Path) {
    File::open(folder).unwrap().set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
}

#[tokio::test]
async fn temporary_files_of_a_killed_process_are_removed_by_the_next_writer() {
    const WRITE_HERE: &str = "GRAVITY_TEST_WRITE_AND_WAIT";
    if let Some(folder) = env::var_os(WRITE_HERE) {
        // This is the process that gets killed.
        let store = Directory::open(folder).unwrap();
        put(&store, "first").await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        panic!("nobody killed this process");
    }
    let folder = tempfile::tempdir().unwrap();
    let name = "temporary_files_of_a_killed_process_are_removed_by_the_next_writer";
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", name])
        .env(WRITE_HERE, folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    while !folder.path().join("first").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the writer ended before it had written");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let left = scratch_folders(folder.path());
    fs::write(left[0].join("half-written"), "x").unwrap();
    make_old(&left[0]);

    let store = Directory::open(folder.path()).unwrap();
    put(&store, "second").await.unwrap();
    assert!(!left[0].exists());
    assert!(folder.path().join("first").exists());
}

#[tokio::test]
async fn temporary_files_of_a_living_writer_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let living = Directory::open(folder.path()).unwrap();
    put(&living, "first").await.unwrap();
    let its_own = scratch_folders(folder.path());
    make_old(&its_own[0]);

    put(&Directory::open(folder.path()).unwrap(), "second").await.unwrap();
    assert!(its_own[0].exists());
    put(&living, "third").await.unwrap();
}

#[tokio::test]
async fn a_writer_leaves_no_temporary_files_behind() {
    let folder = tempfile::tempdir().unwrap();
    let store = Directory::open(folder.path()).unwrap();
    put(&store, "a/b").await.unwrap();
    let refused = store.put(&key("a/b"), Bytes::from("x"), PutMode::IfAbsent).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Precondition);
    drop(store);
    assert!(scratch_folders(folder.path()).is_empty());
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_place_where_not_even_root_may_write_is_denied_or_read_only() {
    let store = Directory::open("/sys/gravity-test").unwrap();
    let kind = put(&store, "x").await.unwrap_err();
    assert!(matches!(kind, ErrorKind::Denied | ErrorKind::ReadOnly), "{kind:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_without_permission_to_write_is_denied_and_can_be_read() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    put(&Directory::open(folder.path()).unwrap(), "x").await.unwrap();
    fs::remove_dir_all(folder.path().join(".gravity")).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o555)).unwrap();
    if File::create(folder.path().join("probe")).is_ok() {
        println!("SKIPPED, running as root: a folder's mode does not bind it");
        return;
    }
    let store = Directory::open(folder.path()).unwrap();
    let written = put(&store, "y").await;
    let read = store.read(&key("x")).await;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(written, Err(ErrorKind::Denied));
    assert_eq!(read.unwrap().unwrap().0, "content");
}

#[test]
fn a_store_whose_path_is_a_file_or_leads_through_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    for root in [file.clone(), file.join("store")] {
        let error = Directory::open(&root).err().unwrap();
        assert_eq!(error.kind, ErrorKind::NoStore, "{error}");
        assert!(error.to_string().contains(&*root.to_string_lossy()), "{error}");
    }
}

#[tokio::test]
async fn reading_a_store_that_is_not_there_finds_nothing_and_makes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    let store = Directory::open(&root).unwrap();
    assert!(store.read(&key("x")).await.unwrap().is_none());
    assert!(store.head(&key("x")).await.unwrap().is_none());
    assert!(!root.exists());
}

#[tokio::test]
async fn deleting_from_a_store_that_is_not_there_makes_nothing() {
    let above = tempfile::tempdir().unwrap();
    let root = above.path().join("store");
    Directory::open(&root).unwrap().delete(&key("a/b")).await.unwrap();
    assert!(!root.exists());
}

#[tokio::test]
async fn names_that_leave_the_folder_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Directory::open(folder.path().join("store")).unwrap();
    let outside = folder.path().join("outside");
    let absolute = outside.to_str().unwrap();
    for name in ["../outside", "a/../../outside", "a/./b", "", "/", "a//b", absolute] {
        assert_eq!(Key::new(name).unwrap_err().kind, ErrorKind::BadKey, "{name:?}");
    }
    // Keys of the layout are made from configured folders, which nobody has checked.
    for blobs in ["../outside", "a/../../outside", absolute] {
        let paths = Paths { blobs: blobs.into(), ..Paths::default() };
        let blob = paths.blob(&ChunkHash::of(b"content"));
        let error = store.put(&blob, Bytes::from("x"), PutMode::Always).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::BadKey, "{error}");
        assert_eq!(store.read(&blob).await.unwrap_err().kind, ErrorKind::BadKey);
        assert_eq!(store.delete(&blob).await.unwrap_err().kind, ErrorKind::BadKey);
    }
    assert!(!outside.exists());
}

#[tokio::test]
async fn the_stores_own_folder_cannot_be_written_or_read_through_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Directory::open(folder.path()).unwrap();
    assert_eq!(put(&store, ".gravity/locks/00").await, Err(ErrorKind::BadKey));
    assert_eq!(store.read(&key(".gravity/x")).await.unwrap_err().kind, ErrorKind::BadKey);
    put(&store, "not/.gravity/but/below").await.unwrap();
}

#[tokio::test]
async fn a_folder_that_someone_removes_is_made_again() {
    let root = tempfile::tempdir().unwrap();
    let store = Directory::open(root.path()).unwrap();
    put(&store, "a/b/1").await.unwrap();
    std::fs::remove_dir_all(root.path().join("a")).unwrap();
    put(&store, "a/b/2").await.unwrap();
    assert!(store.head(&key("a/b/2")).await.unwrap().is_some());
}
