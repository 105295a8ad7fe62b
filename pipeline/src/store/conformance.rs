//! What every [`Store`] must do, as one suite that runs on all of them (`tests/store.rs`).
//!
//! Each check works below `prefix`, which must be empty, and panics with what it found: this is test code that is
//! public so that a store of one's own can be held to it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::{ErrorKind, Key, PutMode, Store};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, future};
use std::sync::Arc;

/// Runs every check.
pub async fn all(store: Arc<dyn Store>, prefix: &str) {
    let at = |name: &str| format!("{prefix}/{name}");
    what_was_put_is_read_back(&*store, &at("back")).await;
    what_is_absent_is_none_and_not_an_error(&*store, &at("absent")).await;
    ranges_are_clipped_to_the_object(&*store, &at("range")).await;
    a_put_replaces_the_object_whole(&*store, &at("replace")).await;
    if_absent_succeeds_once(&*store, &at("if-absent")).await;
    if_match_replaces_only_that_version(&*store, &at("if-match")).await;
    of_racing_conditional_puts_exactly_one_wins(store.clone(), &at("race")).await;
    read_modify_write_loses_no_update(store.clone(), &at("update")).await;
    a_listing_holds_every_key_below_the_prefix_in_order(&*store, &at("list")).await;
    a_listing_of_more_than_one_page_is_whole(&*store, &at("pages")).await;
    a_deleted_object_is_gone(&*store, &at("delete")).await;
    unusual_names_are_kept(&*store, &at("names")).await;
}

fn key(name: impl Into<String>) -> Key {
    Key::new(name).unwrap()
}

async fn body(store: &dyn Store, at: &Key) -> Option<Vec<u8>> {
    let whole = store.read(at).await.unwrap().map(|(body, _)| body.to_vec());
    let streamed = match store.get(at).await.unwrap() {
        Some(object) => Some(object.bytes().await.unwrap().to_vec()),
        None => None,
    };
    assert_eq!(whole, streamed, "read and get differ");
    whole
}

async fn what_was_put_is_read_back(store: &dyn Store, prefix: &str) {
    let mut every_byte: Vec<u8> = (0..=255).collect();
    for content in [vec![], every_byte.clone(), {
        every_byte.resize(3 << 20, 7);
        every_byte
    }] {
        let at = key(format!("{prefix}/{}", content.len()));
        store.put(&at, Bytes::from(content.clone()), PutMode::Always).await.unwrap();
        assert_eq!(store.head(&at).await.unwrap().unwrap().size, content.len() as u64);
        assert_eq!(body(store, &at).await.unwrap(), content);
    }
}

async fn what_is_absent_is_none_and_not_an_error(store: &dyn Store, prefix: &str) {
    let at = key(format!("{prefix}/nothing/here"));
    assert!(store.get(&at).await.unwrap().is_none());
    assert!(store.read(&at).await.unwrap().is_none());
    assert!(store.get_range(&at, 0..10).await.unwrap().is_none());
    assert!(store.head(&at).await.unwrap().is_none());
    store.delete(&at).await.unwrap();
    assert_eq!(store.list(prefix, None).count().await, 0);
}

async fn ranges_are_clipped_to_the_object(store: &dyn Store, prefix: &str) {
    let at = key(format!("{prefix}/ten"));
    store.put(&at, Bytes::from_static(b"0123456789"), PutMode::Always).await.unwrap();
    for (range, expected) in
        [(0..10, "0123456789"), (3..5, "34"), (8..99, "89"), (10..12, ""), (50..60, ""), (4..4, "")]
    {
        let found = store.get_range(&at, range.clone()).await.unwrap().unwrap();
        assert_eq!(found, expected.as_bytes(), "{range:?}");
    }
}

async fn a_put_replaces_the_object_whole(store: &dyn Store, prefix: &str) {
    let at = key(format!("{prefix}/x"));
    for content in ["a long first version", "short", ""] {
        store.put(&at, Bytes::from(content), PutMode::Always).await.unwrap();
        assert_eq!(body(store, &at).await.unwrap(), content.as_bytes());
    }
}

async fn if_absent_succeeds_once(store: &dyn Store, prefix: &str) {
    let at = key(format!("{prefix}/x"));
    store.put(&at, Bytes::from("first"), PutMode::IfAbsent).await.unwrap();
    let second = store.put(&at, Bytes::from("second"), PutMode::IfAbsent).await.unwrap_err();
    assert_eq!(second.kind, ErrorKind::Precondition, "{second}");
    assert_eq!(body(store, &at).await.unwrap(), b"first");
}

async fn if_match_replaces_only_that_version(store: &dyn Store, prefix: &str) {
    let at = key(format!("{prefix}/x"));
    let put = |content: &'static str, mode| store.put(&at, Bytes::from(content), mode);
    put("one", PutMode::Always).await.unwrap();
    let one = store.read(&at).await.unwrap().unwrap().1.expect("read tells a tag");
    put("two", PutMode::IfMatch(one.clone())).await.unwrap();
    let stale = put("three", PutMode::IfMatch(one)).await.unwrap_err();
    assert_eq!(stale.kind, ErrorKind::Precondition, "{stale}");
    assert_eq!(body(store, &at).await.unwrap(), b"two");
}

async fn of_racing_conditional_puts_exactly_one_wins(store: Arc<dyn Store>, prefix: &str) {
    let at = key(format!("{prefix}/x"));
    let racers = (0..32).map(|n| {
        let (store, at) = (store.clone(), at.clone());
        tokio::spawn(async move { store.put(&at, Bytes::from(format!("{n}")), PutMode::IfAbsent).await.map(|_| n) })
    });
    let outcomes = future::join_all(racers).await;
    let won: Vec<_> = outcomes.into_iter().filter_map(|o| o.unwrap().ok()).collect();
    assert_eq!(won.len(), 1, "{won:?}");
    assert_eq!(body(&*store, &at).await.unwrap(), won[0].to_string().as_bytes());
}

async fn read_modify_write_loses_no_update(store: Arc<dyn Store>, prefix: &str) {
    let at = key(format!("{prefix}/x"));
    store.put(&at, Bytes::new(), PutMode::IfAbsent).await.unwrap();
    let writers = (b'a'..b'i').map(|letter| {
        let (store, at) = (store.clone(), at.clone());
        tokio::spawn(async move {
            loop {
                let (found, tag) = store.read(&at).await.unwrap().unwrap();
                let longer = [&found[..], &[letter]].concat();
                match store.put(&at, Bytes::from(longer), PutMode::IfMatch(tag.unwrap())).await {
                    Ok(_) => break,
                    // A store may also answer that two writes met (S3's 409), which `Retrying` handles.
                    Err(e) => assert!(matches!(e.kind, ErrorKind::Precondition | ErrorKind::Transient), "{e}"),
                }
            }
        })
    });
    for writer in future::join_all(writers).await {
        writer.unwrap();
    }
    let mut letters = body(&*store, &at).await.unwrap();
    letters.sort_unstable();
    assert_eq!(letters, b"abcdefgh");
}

async fn names(store: &dyn Store, prefix: &str, after: Option<&str>) -> Vec<String> {
    let listed: Vec<_> = store.list(prefix, after).try_collect().await.unwrap();
    listed.into_iter().map(|meta| meta.key.to_string()).collect()
}

async fn last(store: &dyn Store, prefix: &str, after: Option<&str>, count: usize) -> Vec<String> {
    let listed = store.list_last(prefix, after, count).await.unwrap();
    listed.into_iter().map(|meta| meta.key.to_string()).collect()
}

async fn a_listing_holds_every_key_below_the_prefix_in_order(store: &dyn Store, prefix: &str) {
    let keys: Vec<String> = ["a", "b/1", "b/2", "b/c/3", "bb", "c"].map(|name| format!("{prefix}/{name}")).into();
    for at in &keys {
        store.put(&key(at.as_str()), Bytes::from_static(b"12345"), PutMode::Always).await.unwrap();
    }
    assert_eq!(names(store, &format!("{prefix}/"), None).await, keys);
    assert_eq!(names(store, &format!("{prefix}/b"), None).await, keys[1..5]);
    assert_eq!(names(store, &format!("{prefix}/b/"), None).await, keys[1..4]);
    assert_eq!(names(store, &format!("{prefix}/"), Some(&keys[1])).await, keys[2..]);
    assert_eq!(names(store, &format!("{prefix}/"), Some(&format!("{prefix}/b/1x"))).await, keys[2..]);
    assert_eq!(last(store, &format!("{prefix}/"), None, 9).await, keys);
    assert_eq!(last(store, &format!("{prefix}/"), None, 2).await, keys[4..]);
    assert_eq!(last(store, &format!("{prefix}/b"), Some(&keys[1]), 2).await, keys[3..5]);
    assert_eq!(last(store, &format!("{prefix}/"), None, 0).await, [""; 0]);
    let first = store.list(prefix, None).next().await.unwrap().unwrap();
    assert_eq!(first.size, 5);
    assert!(first.modified.is_some());
}

async fn a_listing_of_more_than_one_page_is_whole(store: &dyn Store, prefix: &str) {
    let keys: Vec<String> = (0..1005).map(|n| format!("{prefix}/{n:05}")).collect();
    let puts =
        keys.iter().map(|at| store.put(Box::leak(Box::new(key(at.as_str()))), Bytes::from("x"), PutMode::Always));
    futures::stream::iter(puts).buffer_unordered(32).try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(names(store, &format!("{prefix}/"), None).await, keys);
    assert_eq!(names(store, &format!("{prefix}/"), Some(&keys[2])).await, keys[3..]);
}

async fn a_deleted_object_is_gone(store: &dyn Store, prefix: &str) {
    let at = key(format!("{prefix}/x"));
    store.put(&at, Bytes::from("x"), PutMode::Always).await.unwrap();
    store.delete(&at).await.unwrap();
    assert!(store.head(&at).await.unwrap().is_none());
    assert_eq!(names(store, prefix, None).await, [""; 0]);
    store.put(&at, Bytes::from("y"), PutMode::IfAbsent).await.unwrap();
}

async fn unusual_names_are_kept(store: &dyn Store, prefix: &str) {
    let mut keys: Vec<String> =
        ["dt=2025-10-31", "a b", "100%", "%2E%2E", "ü", "+x&y=?", "'\"", "tmp.json.gz", ".hidden"]
            .map(|name| format!("{prefix}/{name}"))
            .into();
    for at in &keys {
        store.put(&key(at.as_str()), Bytes::from(at.clone()), PutMode::Always).await.unwrap();
    }
    for at in &keys {
        assert_eq!(body(store, &key(at.as_str())).await.unwrap(), at.as_bytes());
    }
    keys.sort_unstable();
    let mut listed = names(store, prefix, None).await;
    listed.sort_unstable();
    assert_eq!(listed, keys);
}
