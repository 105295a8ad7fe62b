//! `gravity quarantine`: what could not be stored can be seen, tried again and removed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, span, trace};
use common::{Place, Ran, run, run_with_stdin};
use serde_json::{Value, json};

/// One good batch, one with a record that no trace can hold, and one that is no batch.
fn filled() -> Place {
    let place = Place::new();
    place.write("data/raw-spans/good", document(&[span(1, 1).input("x")]));
    place.write("data/raw-spans/strays", document(&[span(2, 2).input("y"), stray()]));
    place.write("data/raw-spans/worse", "hello");
    place.run("worker", &["--once"]).exits(3);
    place
}

fn stray() -> common::otlp::Span {
    span(3, 3).with("traceId", "no\u{1b}[2J").input("z")
}

fn quarantine(place: &Place, args: &[&str]) -> Ran {
    let (name, rest) = args.split_first().unwrap();
    run(common::gravity().current_dir(place.folder.path()).args(["quarantine", name, "--store", "data"]).args(rest))
}

fn listed(place: &Place) -> Vec<Value> {
    quarantine(place, &["list", "--json"]).exits(0).lines()
}

#[test]
fn list_has_the_batches_with_reason_and_tries_and_the_objects_of_records() {
    let place = filled();
    let list = listed(&place);
    let object = place.store().keys("quarantine/raw-spans/strays")[0].to_owned();
    let bytes = place.store().0[&object].len();
    assert_eq!(list[0], json!({"kind": "records", "key": "raw-spans/strays", "object": object, "bytes": bytes}));
    assert_eq!(
        (&list[1]["kind"], &list[1]["key"], &list[1]["tries"]),
        (&json!("batch"), &json!("raw-spans/worse"), &json!(1))
    );
    assert!(list[1]["reason"].as_str().unwrap().contains("byte 0"));
    assert_eq!(list.len(), 2);
    let ran = quarantine(&place, &["list"]).exits(0);
    for expected in ["batch    raw-spans/worse  (1 try): parse, byte 0", "records  raw-spans/strays  ("] {
        assert!(ran.text().contains(expected), "{expected:?} is not in:\n{}", ran.text());
    }
}

#[test]
fn an_empty_or_absent_store_has_nothing_in_quarantine() {
    let place = Place::new();
    assert!(listed(&place).is_empty());
    quarantine(&place, &["retry", "--all"]).exits(0);
    assert!(!place.data().exists(), "a look must not make a store");
}

#[test]
fn show_has_the_reason_of_a_batch() {
    let place = filled();
    let shown = quarantine(&place, &["show", "--json", "raw-spans/worse"]).exits(0).json();
    assert_eq!(shown["batch"], place.store().json("quarantine/raw-spans/worse.json"));
    assert_eq!((&shown["raw_bytes"], &shown["stored"], &shown["records"]), (&json!(5), &json!(false), &json!([])));
    let ran = quarantine(&place, &["show", "raw-spans/worse"]).exits(0);
    assert!(ran.text().contains("byte 0") && ran.text().contains("not stored"), "{}", ran.text());
}

#[test]
fn show_has_the_records_that_no_trace_can_hold() {
    let place = filled();
    let shown = quarantine(&place, &["show", "--json", "raw-spans/strays"]).exits(0).json();
    assert_eq!((&shown["batch"], &shown["stored"]), (&Value::Null, &json!(true)));
    assert_eq!(shown["records"][0]["record"], stray().json());
    let ran = quarantine(&place, &["show", "raw-spans/strays"]).exits(0);
    assert!(ran.text().contains("1 record that no trace can hold"), "{}", ran.text());
    assert!(!ran.text().contains('\u{1b}'), "a terminal would obey it");
}

#[test]
fn a_retried_batch_is_stored_once_its_raw_file_is_right() {
    let place = filled();
    // A replaced file is tried again by itself; so the entry is made to look as if it had been tried.
    place.write("data/raw-spans/worse", document(&[span(5, 5).input("better")]));
    settle(&place);
    place.run("worker", &["--once"]).exits(0).says(&["committed=0"]);
    quarantine(&place, &["retry", "raw-spans/worse"]).exits(0).says(&["raw-spans/worse", "next full pass"]);
    assert!(!place.store().0.contains_key("quarantine/raw-spans/worse.json"));
    place.run("worker", &["--once"]).exits(0).says(&["committed=1"]);
    assert_eq!(place.content(&trace(5)), b"better");
    place.run("verify", &[""; 0]).exits(0);
    assert_eq!(listed(&place).len(), 1, "the records stay");
}

/// Gives the entry the version of the raw file as it is now.
fn settle(place: &Place) {
    let raw = place.data().join("raw-spans/worse");
    let before = place.store().json("quarantine/raw-spans/worse.json");
    let meta = std::fs::metadata(&raw).unwrap();
    let time = humantime::format_rfc3339_nanos(meta.modified().unwrap()).to_string();
    let mut entry = before.clone();
    entry["version"] = json!(format!("{} {time}", meta.len()));
    assert_ne!(entry, before);
    place.write("data/quarantine/raw-spans/worse.json", entry.to_string());
}

#[test]
fn a_retried_batch_that_is_as_bad_as_before_comes_back() {
    let place = filled();
    let before = place.store();
    place.run("worker", &["--once"]).exits(0);
    assert_eq!(place.store(), before, "it is not tried again by itself");
    quarantine(&place, &["retry", "--all"]).exits(0).says(&["raw-spans/worse", "1 batch"]);
    place.run("worker", &["--once"]).exits(3).says(&["quarantined=1"]);
    assert_eq!(place.store(), before);
}

#[test]
fn what_is_not_in_quarantine_or_stored_but_for_records_cannot_be_retried() {
    let place = filled();
    let before = place.store();
    quarantine(&place, &["retry", "raw-spans/good"]).exits(1).says(&["raw-spans/good: not in quarantine"]);
    quarantine(&place, &["retry", "raw-spans/strays"]).exits(1).says(&["the batch is stored"]);
    quarantine(&place, &["show", "raw-spans/good"]).exits(1).says(&["not in quarantine"]);
    quarantine(&place, &["drop", "--yes", "raw-spans/good"]).exits(1).says(&["not in quarantine"]);
    quarantine(&place, &["retry"]).exits(2);
    quarantine(&place, &["retry", "--all", "raw-spans/worse"]).exits(2);
    quarantine(&place, &["drop", "--yes"]).exits(2);
    assert_eq!(place.store(), before);
}

#[test]
fn one_unknown_key_does_not_keep_the_others_from_being_retried() {
    let place = filled();
    quarantine(&place, &["retry", "absent", "raw-spans/worse"]).exits(1).says(&["absent: not", "raw-spans/worse: out"]);
    assert_eq!(listed(&place).len(), 1);
}

#[test]
fn drop_asks_for_yes_and_removes_the_entry_and_the_records_but_not_the_raw_file() {
    let place = filled();
    let before = place.store();
    let keys = ["raw-spans/strays", "raw-spans/worse"];
    quarantine(&place, &["drop", keys[0], keys[1]]).exits(2).says(&["--yes"]);
    assert_eq!(place.store(), before);
    quarantine(&place, &["drop", "--yes", keys[0], keys[1]]).exits(0).says(&["its raw file stays", "tries it again"]);
    let mut expected = before;
    expected.0.retain(|key, _| !key.starts_with("quarantine/"));
    assert_eq!(place.store(), expected);
    assert!(listed(&place).is_empty());
}

#[test]
fn drop_takes_nothing_of_a_batch_whose_name_goes_on() {
    let place = Place::new();
    for batch in ["a", "a/b", "ab"] {
        run_with_stdin(place.command("ingest").args(["--key", batch]), document(&[stray()]).as_bytes()).exits(3);
    }
    assert_eq!(listed(&place).len(), 3);
    quarantine(&place, &["drop", "--yes", "a"]).exits(0);
    let left: Vec<_> = listed(&place).iter().map(|line| line["key"].clone()).collect();
    assert_eq!(left, ["a/b", "ab"]);
}
