//! `gravity worker`: finds batches, processes each once, stops when told to, and survives whatever one batch does.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, span, trace};
use common::{Dice, Place, Ran, finish, gz, signal, start, wait_until};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

const HOUR: &str = "data/raw-spans/dt=2025-10-31/hour=11";

fn batch(n: u32) -> Vec<u8> {
    gz(document(&[span(n, n).input(&format!("content {n}"))]).as_bytes())
}

fn once(place: &Place) -> Ran {
    place.run("worker", &["--once"])
}

fn start_worker(place: &Place, args: &[&str]) -> Child {
    start(place.command("worker").args(["--poll-interval", "20ms"]).args(args))
}

fn ledger(place: &Place, name: &str) -> PathBuf {
    place.data().join(format!("batches/raw-spans/dt=2025-10-31/hour=11/{name}.json"))
}

/// A batch that arrives as slowly as its writer likes.
fn fifo(place: &Place, name: &str) -> PathBuf {
    let path = place.path(HOUR).join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// The writing end of a FIFO, once somebody reads it.
fn reader_came(path: &Path) -> Option<fs::File> {
    const NONBLOCKING: i32 = 0o4000;
    OpenOptions::new().write(true).custom_flags(NONBLOCKING).open(path).ok()
}

/// What is left of temporary files.
fn temporary(place: &Place) -> Vec<String> {
    let left = fs::read_dir(place.data().join(".gravity/tmp")).into_iter().flatten().flatten();
    left.map(|entry| entry.path().display().to_string()).collect()
}

#[test]
fn once_processes_all_there_is_and_leaves_the_raw_files() {
    let place = Place::new();
    let names = ["dt=2025-10-30/hour=23/a.json.gz", "dt=2025-10-31/hour=00/b.json.gz", "flat.json.gz"];
    for (n, name) in (1..).zip(names) {
        place.write(&format!("data/raw-spans/{name}"), batch(n));
    }
    once(&place).exits(0).says(&["committed=3"]);
    let store = place.store();
    assert_eq!(store.check().keys("batches"), names.map(|name| format!("batches/raw-spans/{name}.json")));
    assert_eq!(store.keys("raw-spans").len(), 3);
    assert_eq!(place.content(&trace(2)), b"content 2");
}

#[test]
fn a_running_worker_finds_new_batches_until_sigterm() {
    let place = Place::new();
    place.write(&format!("{HOUR}/a"), batch(2));
    let worker = start_worker(&place, &[]);
    wait_until("what was there is done", || ledger(&place, "a").exists());
    place.write(&format!("{HOUR}/b"), batch(3));
    place.write("data/raw-spans/dt=2025-10-31/hour=12/c", batch(4));
    wait_until("the same hour", || ledger(&place, "b").exists());
    wait_until("the next hour", || place.data().join("batches/raw-spans/dt=2025-10-31/hour=12/c.json").exists());
    signal(&worker, "TERM");
    finish(worker).exits(0).says(&["worker stopped"]);
    assert_eq!(place.store().check().keys("batches").len(), 3);
}

#[test]
fn a_worker_on_a_store_that_is_still_empty_finds_the_first_batch() {
    let place = Place::new();
    let worker = start_worker(&place, &[]);
    wait_until("it runs", || place.data().join("gravity.json").exists());
    std::thread::sleep(std::time::Duration::from_millis(200));
    place.write(&format!("{HOUR}/a"), batch(1));
    wait_until("the first batch is done", || ledger(&place, "a").exists());
    signal(&worker, "TERM");
    finish(worker).exits(0);
}

#[test]
fn sigterm_and_sigint_finish_what_is_in_flight() {
    for name in ["TERM", "INT"] {
        let place = Place::new();
        let slow = fifo(&place, "slow");
        let worker = start_worker(&place, &[]);
        let mut pipe = None;
        wait_until("the batch is in work", || {
            pipe = reader_came(&slow);
            pipe.is_some()
        });
        let mut pipe = pipe.unwrap();
        let bytes = batch(1);
        pipe.write_all(&bytes[..10]).unwrap();
        signal(&worker, name);
        place.write(&format!("{HOUR}/too-late"), batch(2));
        std::thread::sleep(std::time::Duration::from_millis(300));
        pipe.write_all(&bytes[10..]).unwrap();
        drop(pipe);
        finish(worker).exits(0).says(&["committed=1"]);
        let store = Place::store(&place);
        assert_eq!(store.check().keys("batches"), ["batches/raw-spans/dt=2025-10-31/hour=11/slow.json"]);
        assert_eq!(temporary(&place), [""; 0]);
    }
}

#[test]
fn the_second_signal_ends_it_at_once() {
    let place = Place::new();
    let slow = fifo(&place, "slow");
    let worker = start_worker(&place, &[]);
    let mut pipe = None;
    wait_until("the batch is in work", || {
        pipe = reader_came(&slow);
        pipe.is_some()
    });
    signal(&worker, "TERM");
    std::thread::sleep(std::time::Duration::from_millis(200));
    signal(&worker, "TERM");
    finish(worker).exits(130);
    place.store().holds_no_batch();
}

#[test]
fn a_batch_that_does_not_end_within_the_grace_is_left_for_the_next_run() {
    let place = Place::new();
    let slow = fifo(&place, "slow");
    let worker = start_worker(&place, &["--shutdown-grace", "100ms"]);
    let mut pipe = None;
    wait_until("the batch is in work", || {
        pipe = reader_came(&slow);
        pipe.is_some()
    });
    signal(&worker, "TERM");
    let ran = finish(worker).exits(0).says(&["committed=0"]);
    let lines: Vec<_> = ran.stderr.lines().filter(|line| line.contains("hour=11/slow")).collect();
    let [line] = lines[..] else { panic!("one line for the batch: {lines:?}") };
    assert!(line.contains("outcome=\"given back\""), "{line}");
    place.store().holds_no_batch();
    assert_eq!(temporary(&place), [""; 0]);
}

#[test]
fn a_worker_whose_grace_is_over_in_the_middle_of_its_writes_leaves_no_temporary_file() {
    let place = Place::new();
    let mut dice = Dice::new(3);
    for n in 0..40u32 {
        let text: Vec<_> = (0..50).map(|_| dice.letters(40)).collect();
        place.write(&format!("{HOUR}/{n}"), document(&[span(n + 1, 1).input(&text.join("\n"))]));
    }
    let worker = start_worker(&place, &["--shutdown-grace", "0s"]);
    wait_until("it writes", || place.data().join("batches").exists());
    signal(&worker, "TERM");
    finish(worker).exits(0).says(&["outcome=\"given back\""]);
    assert_eq!(temporary(&place), [""; 0]);
    place.store().check();
}

#[test]
fn no_more_than_max_concurrent_batches_are_in_work() {
    let place = Place::new();
    let batches = ["a", "b", "c"].map(|name| fifo(&place, name));
    let child = start(place.command("worker").arg("--once").env("MAX_CONCURRENT", "2"));
    let mut pipes: Vec<_> = batches.iter().map(|_| None).collect();
    let mut in_work = || {
        for (pipe, path) in pipes.iter_mut().zip(&batches) {
            *pipe = pipe.take().or_else(|| reader_came(path));
        }
        pipes.iter().flatten().count()
    };
    wait_until("two are in work", || in_work() == 2);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(in_work(), 2);
    pipes[0].as_mut().unwrap().write_all(&batch(1)).unwrap();
    pipes[0] = None;
    wait_until("the third takes the place of the first", || {
        pipes[2] = pipes[2].take().or_else(|| reader_came(&batches[2]));
        pipes[2].is_some()
    });
    for n in [1, 2] {
        pipes[n].as_mut().unwrap().write_all(&batch(n as u32 + 1)).unwrap();
        pipes[n] = None;
    }
    finish(child).exits(0).says(&["committed=3"]);
}

#[test]
fn a_second_run_starts_again_from_the_ledger_alone() {
    let place = Place::new();
    for n in 1..=3 {
        place.write(&format!("{HOUR}/{n}"), batch(n));
    }
    once(&place).exits(0);
    let before = place.store();
    once(&place).exits(0).says(&["committed=0"]);
    assert_eq!(place.store(), before);
    fs::remove_file(ledger(&place, "2")).unwrap();
    once(&place).exits(0).says(&["committed=1"]);
    assert_eq!(place.store(), before);
}

#[test]
fn a_running_worker_brings_deleted_blobs_back_when_the_ledger_entry_is_deleted() {
    let place = Place::new();
    place.write(&format!("{HOUR}/a"), batch(1));
    let worker = start_worker(&place, &[]);
    wait_until("it is done", || ledger(&place, "a").exists());
    let before = place.store();
    fs::remove_dir_all(place.data().join("blobs")).unwrap();
    fs::remove_file(ledger(&place, "a")).unwrap();
    wait_until("it is done again", || ledger(&place, "a").exists());
    assert_eq!(place.store().check(), &before, "no entry before its blobs");
    signal(&worker, "TERM");
    finish(worker).exits(0).says(&["was stored and is gone"]);
}

/// Batches that share traces and content, so that workers meet at indexes and blobs.
fn write_shared(place: &Place) {
    let mut dice = Dice::new(7);
    for n in 0..30u32 {
        let spans: Vec<_> = (0..6)
            .map(|_| {
                let lines: Vec<_> = (0..20).map(|_| format!("line {}", dice.roll(60))).collect();
                span(1 + dice.roll(4) as u32, 1 + dice.roll(1000) as u32).input(&lines.join("\n"))
            })
            .collect();
        place.write(&format!("{HOUR}/batch-{n:02}.json.gz"), gz(document(&spans).as_bytes()));
    }
}

#[test]
fn several_workers_at_once_agree_with_one_on_every_byte() {
    let alone = Place::new();
    write_shared(&alone);
    once(&alone).exits(0);

    let shared = Place::new();
    write_shared(&shared);
    let workers: Vec<_> = (0..4).map(|_| start(shared.command("worker").arg("--once"))).collect();
    for worker in workers {
        finish(worker).exits(0);
    }
    assert_eq!(shared.store().check(), &alone.store());
}

#[test]
fn a_bad_batch_goes_to_quarantine_with_its_reason_and_stays_where_it_is() {
    let place = Place::new();
    place.write(&format!("{HOUR}/a"), batch(1));
    place.write(&format!("{HOUR}/bad"), "hello");
    place.write(&format!("{HOUR}/c"), batch(2));
    once(&place).exits(3).says(&["hour=11/bad", "neither OTLP JSON nor OTLP protobuf"]);
    let store = place.store();
    assert_eq!(store.check().keys("batches").len(), 2);
    let entry = store.json("quarantine/raw-spans/dt=2025-10-31/hour=11/bad.json");
    assert_eq!((&entry["key"], &entry["tries"]), (&"raw-spans/dt=2025-10-31/hour=11/bad".into(), &1.into()));
    assert!(entry["reason"].as_str().unwrap().starts_with("parse, byte 0: neither OTLP"), "{entry}");
    assert_eq!(store.0["raw-spans/dt=2025-10-31/hour=11/bad"], b"hello");
}

#[test]
fn a_batch_in_quarantine_is_tried_again_only_when_it_was_replaced() {
    let place = Place::new();
    place.write(&format!("{HOUR}/bad"), "hello");
    once(&place).exits(3);
    let before = place.store();
    once(&place).exits(0);
    assert_eq!(place.store(), before);
    place.write(&format!("{HOUR}/bad"), batch(1));
    once(&place).exits(0).says(&["committed=1"]);
    let store = place.store();
    assert_eq!(store.keys("quarantine"), [""; 0]);
    assert_eq!(store.check().keys("batches").len(), 1);
}

#[test]
fn a_running_worker_goes_on_after_a_bad_batch() {
    let place = Place::new();
    place.write(&format!("{HOUR}/a-bad"), gz(b"{\"resourceSpans\":[").split_off(5));
    let worker = start_worker(&place, &["--max-concurrent", "1"]);
    wait_until("quarantine", || place.data().join("quarantine").exists());
    place.write(&format!("{HOUR}/good"), batch(1));
    wait_until("the next one is done", || ledger(&place, "good").exists());
    signal(&worker, "TERM");
    finish(worker).exits(0);
    place.store().check();
}

#[test]
fn a_store_that_fails_is_tried_again_until_it_works() {
    let place = Place::new();
    place.write(&format!("{HOUR}/a"), batch(1));
    let in_the_way = place.write("data/indexes", "a file where the folder should be");
    once(&place).exits(1).says(&["hour=11/a", "will be tried again", "indexes/"]);
    place.store().holds_no_batch();
    assert_eq!(place.store().keys("quarantine"), [""; 0], "the batch is as good as before");
    let worker = start_worker(&place, &[]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    fs::remove_file(in_the_way).unwrap();
    wait_until("it is done", || ledger(&place, "a").exists());
    signal(&worker, "TERM");
    finish(worker).exits(0);
    place.store().check();
}

#[test]
fn a_batch_whose_spans_are_strays_is_done_and_told_by_the_exit_code() {
    let place = Place::new();
    place.write(&format!("{HOUR}/a"), document(&[span(1, 1).with("traceId", "zz").input("x")]));
    once(&place).exits(3).says(&["committed=1"]);
    assert_eq!(place.store().keys("quarantine").len(), 1);
}
