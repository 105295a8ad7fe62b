//! `gravity inspect`: its numbers are those that anyone can count in the store.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, span, trace};
use common::{Place, gz, run};
use serde_json::{Value, json};

fn filled() -> Place {
    let place = Place::new();
    let first = document(&[span(1, 1).input("a\nb\na"), span(2, 2).input("c"), span(3, 3).with("traceId", "no")]);
    place.write("data/raw-spans/a.gz", gz(first.as_bytes()));
    place.write("data/raw-spans/b", document(&[span(1, 4).input(&"long line\n".repeat(50))]));
    place.write("data/raw-spans/c-bad", "hello");
    place.run("worker", &["--once"]).exits(3);
    place
}

fn inspect(place: &Place, args: &[&str]) -> Value {
    place.run("inspect", &[&["--json"], args].concat()).exits(0).json()
}

#[test]
fn objects_and_bytes_are_those_of_the_files() {
    let place = filled();
    let store = place.store();
    let found = inspect(&place, &[]);
    let folder = |keys: Vec<&str>| {
        let bytes: usize = keys.iter().map(|key| store.0[*key].len()).sum();
        json!({"objects": keys.len(), "bytes": bytes})
    };
    for (name, keys) in [("blobs", "blobs"), ("indexes", "indexes"), ("ledger", "batches"), ("raw", "raw-spans")] {
        assert_eq!(found[name], folder(store.keys(keys)), "{name}");
    }
    let (records, batches): (Vec<_>, Vec<_>) =
        store.keys("quarantine").into_iter().partition(|k| k.ends_with(".jsonl"));
    assert_eq!(found["quarantined_records"], folder(records));
    assert_eq!(found["quarantined_batches"], folder(batches));
    assert_eq!(found["quarantined_batches"]["objects"], 1);
}

#[test]
fn sums_are_those_of_the_ledger() {
    let place = filled();
    let store = place.store();
    let found = inspect(&place, &[]);
    for sum in ["raw_bytes", "document_bytes", "content_bytes", "spans", "parts", "chunks"] {
        let expected: u64 = store.keys("batches").iter().map(|key| store.json(key)[sum].as_u64().unwrap()).sum();
        assert_eq!(found[sum], expected, "{sum}");
    }
    assert_eq!((&found["spans"], &found["chunks"]), (&json!(3), &json!(3 + 1 + 51)));
}

#[test]
fn the_ratio_is_that_of_decompressed_to_stored_bytes() {
    let place = filled();
    let store = place.store();
    let found = inspect(&place, &[]);
    let stored: usize =
        ["blobs", "indexes", "batches"].iter().flat_map(|f| store.keys(f)).map(|k| store.0[k].len()).sum();
    assert_eq!(found["stored_bytes"], stored);
    let ratio = found["document_bytes"].as_f64().unwrap() / stored as f64;
    assert!((found["ratio"].as_f64().unwrap() - ratio).abs() < 1e-9);
    assert!((found["space_saved"].as_f64().unwrap() - (1.0 - 1.0 / ratio)).abs() < 1e-9);
}

#[test]
fn prices_are_what_the_flags_say() {
    let place = filled();
    let found = inspect(&place, &["--price-put-1000", "1000", "--price-get-1000", "0", "--price-gb-month", "1e9"]);
    assert_eq!(found["write_cost_at_least_usd"], found["write_requests_at_least"]["put"].as_f64().unwrap());
    assert_eq!(found["storage_cost_usd_per_month"], found["stored_bytes"].as_f64().unwrap());
    let lists = found["inspect_requests"]["list"].as_f64().unwrap();
    assert_eq!(found["inspect_cost_usd"], lists);
}

#[test]
fn the_largest_traces_come_first_and_as_many_as_asked_for() {
    let place = filled();
    let ids = |args: &[&str]| -> Vec<_> {
        let found = inspect(&place, args);
        found["largest"].as_array().unwrap().iter().map(|t| t["trace_id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&[]), [trace(1), trace(2)]);
    assert_eq!(ids(&["--largest", "1"]), [trace(1)]);
    assert_eq!(ids(&["--largest", "0"]), [""; 0]);
    let found = inspect(&place, &[]);
    assert_eq!((&found["largest"][0]["spans"], &found["largest"][0]["content_bytes"]), (&json!(2), &json!(505)));
}

#[test]
fn the_table_shows_the_same_numbers() {
    let place = filled();
    let found = inspect(&place, &[]);
    let ran = place.run("inspect", &[""; 0]).exits(0);
    let ratio = format!("ratio {:.2} to decompressed", found["ratio"].as_f64().unwrap());
    for expected in [ratio.as_str(), "quarantined batches", "2 batches:", "3 spans", &trace(1)] {
        assert!(ran.text().contains(expected), "{expected:?} is not in:\n{}", ran.text());
    }
}

#[test]
fn an_empty_or_absent_store_is_all_zero_and_stays_as_it_is() {
    let place = Place::new();
    let found = inspect(&place, &[]);
    assert_eq!((&found["blobs"]["objects"], &found["ratio"]), (&json!(0), &json!(0.0)));
    assert!(!place.data().exists(), "a look must not make a store");
}

#[test]
fn a_store_of_another_format_is_refused() {
    let place = filled();
    place.write("data/gravity.json", r#"{"format":99}"#);
    place.run("inspect", &["--json"]).exits(1).says(&["format 99", "another release"]);
    run(&mut place.command("worker")).exits(1).says(&["format 99"]);
}
