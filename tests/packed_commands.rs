//! `inspect`, `verify` and `quarantine` on a packed store: the numbers are those that anyone can count, and whatever is
//! taken away or changed is named.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, span, trace};
use common::packed::packed;
use common::{Place, Ran, gz, run};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

const FIRST: &str = "raw-spans/dt=2025-10-31/hour=11/a.json.gz";
const SECOND: &str = "raw-spans/dt=2025-10-31/hour=12/b.json";

fn first() -> String {
    document(&[span(1, 1).input(&"one line\n".repeat(40)), span(2, 2).input("short")])
}

fn second() -> String {
    document(&[span(1, 3).input(&"one line\n".repeat(40)), span(1, 4).input(&"another line\n".repeat(40))])
}

/// Two batches in a flush each; they share a trace.
fn filled() -> Place {
    let place = packed();
    place.ingest_file(FIRST, gz(first().as_bytes()));
    place.ingest_file(SECOND, second());
    place
}

fn verify(place: &Place, args: &[&str]) -> Ran {
    place.run("verify", &[&["--json"], args].concat())
}

/// The findings, and the summary that stands behind them.
fn parted(ran: &Ran) -> (Vec<Value>, Value) {
    let mut lines = ran.lines();
    let summary = lines.pop().expect("a summary");
    (lines, summary["summary"].clone())
}

/// Level, kind and key of each finding.
#[track_caller]
fn found(place: &Place, args: &[&str], code: i32) -> Vec<[String; 3]> {
    let (findings, _) = parted(&verify(place, args).exits(code));
    let field = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    findings.iter().map(|finding| ["level", "kind", "key"].map(|name| field(finding, name))).collect()
}

/// Passes if there is an error of this kind with that key.
#[track_caller]
fn finds(place: &Place, args: &[&str], kind: &str, key: &str) {
    let found = found(place, args, 1);
    assert!(found.contains(&["error", kind, key].map(str::to_owned)), "{kind} {key} is not among {found:?}");
}

fn key(place: &Place, folder: &str, at: usize) -> String {
    place.store().keys(folder)[at].to_owned()
}

/// Changes an object of the store as no program of ours would.
fn change(place: &Place, key: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let path = place.data().join(key);
    let changed = change(fs::read(&path).unwrap());
    fs::write(path, changed).unwrap();
}

/// Replaces the last occurrence, which is in the file's own metadata, by something as long.
fn replace_last(place: &Place, key: &str, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    change(place, key, |mut bytes| {
        let at = bytes.windows(from.len()).rposition(|window| window == from.as_bytes()).expect("it stands there");
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    });
}

#[test]
fn a_whole_store_verifies_and_every_batch_is_restored() {
    let place = filled();
    let before = place.store();
    let (findings, summary) = parted(&verify(&place, &[]).exits(0));
    assert_eq!(findings, [Value::Null; 0]);
    let expected = json!({
        "errors": 0, "warnings": 0, "infos": 0, "span_files": 2, "node_files": 2, "node_files_read": 2,
        "batches": 2, "batches_restored": 2, "bytes_restored": first().len() + second().len(), "rows": 0,
    });
    assert_eq!(summary, expected);
    assert_eq!(place.store(), before, "a look changes nothing");
}

#[test]
fn people_read_a_summary() {
    let place = filled();
    let ran = place.run("verify", &[""; 0]).exits(0);
    for expected in ["data: 2 files of spans, 2 files of nodes, 2 batches and 2 of them restored", "0 errors"] {
        assert!(ran.text().contains(expected), "{expected:?} is not in:\n{}", ran.text());
    }
}

#[test]
fn the_samples_verify() {
    let place = packed();
    run(place.command("ingest").arg(common::samples())).exits(0);
    let (findings, summary) = parted(&verify(&place, &[]).exits(0));
    assert_eq!((findings.len(), &summary["batches_restored"]), (0, &json!(5)));
}

#[test]
fn an_empty_store_is_whole() {
    let (findings, summary) = parted(&verify(&packed(), &[]).exits(0));
    assert_eq!((findings.len(), &summary["batches"]), (0, &json!(0)));
}

#[test]
fn a_missing_file_of_nodes() {
    let place = filled();
    let nodes = key(&place, "nodes", 0);
    fs::remove_file(place.data().join(&nodes)).unwrap();
    finds(&place, &[], "missing-nodes", &nodes);
    finds(&place, &[], "broken-batch", &key(&place, "spans", 0));
    // That it is there is checked for all, whatever is restored.
    finds(&place, &["--sample", "0%"], "missing-nodes", &nodes);
}

#[test]
fn a_truncated_file_of_nodes() {
    let place = filled();
    let nodes = key(&place, "nodes", 1);
    change(&place, &nodes, |bytes| bytes[..bytes.len() / 2].to_vec());
    finds(&place, &[], "corrupt-nodes", &nodes);
    finds(&place, &[], "broken-batch", &key(&place, "spans", 1));
    finds(&place, &["--sample", "0%"], "corrupt-nodes", &nodes);
}

#[test]
fn a_truncated_file_of_spans() {
    let place = filled();
    let spans = key(&place, "spans", 0);
    change(&place, &spans, |bytes| bytes[..bytes.len() / 2].to_vec());
    finds(&place, &[], "corrupt-spans", &spans);
}

#[test]
fn a_missing_file_of_spans_leaves_nodes_that_nobody_names() {
    let place = filled();
    let (spans, nodes) = (key(&place, "spans", 1), key(&place, "nodes", 1));
    fs::remove_file(place.data().join(spans)).unwrap();
    assert_eq!(found(&place, &[], 0), [["info", "orphan-nodes", &nodes]]);
}

/// Every byte of a file, one after the other: verify finds it, or nothing that can be read has changed.
fn flip_each_byte_of(folder: &str) {
    let place = packed();
    place.ingest_file(FIRST, gz(first().as_bytes()));
    let path = place.only(folder);
    let bytes = fs::read(&path).unwrap();
    let readings = |place: &Place| {
        let batch = place.run("restore", &[FIRST]);
        let content = place.run("reconstruct", &[trace(1)]);
        (batch.code, batch.stdout, content.code, content.stdout)
    };
    let whole = readings(&place);
    assert_eq!((whole.0, whole.2), (0, 0));
    let (mut errors, mut harmless) = (0, 0);
    for at in (0..bytes.len()).step_by(bytes.len() / 150) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, damaged).unwrap();
        let ran = verify(&place, &[]);
        match ran.code {
            1 => errors += 1,
            0 => {
                assert!(readings(&place) == whole, "byte {at} of {} was not found", bytes.len());
                harmless += 1;
            }
            code => panic!("byte {at}: exit code {code}: {}", ran.stderr),
        }
    }
    assert!(errors > 50, "{errors} found, {harmless} harmless");
}

#[test]
fn a_flipped_byte_in_nodes_is_found_or_changes_nothing() {
    flip_each_byte_of("nodes");
}

#[test]
fn a_flipped_byte_in_spans_is_found_or_changes_nothing() {
    flip_each_byte_of("spans");
}

#[test]
fn metadata_that_names_another_batch() {
    let place = filled();
    let spans = key(&place, "spans", 1);
    replace_last(&place, &spans, SECOND, &SECOND.replace("/b.json", "/x.json"));
    finds(&place, &[], "missing-batch", &spans);
    finds(&place, &[], "unlisted-batch", &spans);
}

#[test]
fn metadata_that_names_another_pack() {
    let place = filled();
    let (spans, nodes) = (key(&place, "spans", 0), key(&place, "nodes", 0));
    let number = |hex: &str| u64::from_str_radix(hex, 16).unwrap();
    let pack = number(Path::new(&nodes).file_stem().unwrap().to_str().unwrap());
    replace_last(&place, &spans, &format!("[{pack}]"), &format!("[{}]", pack - 1));
    finds(&place, &[], "unnamed-pack", &spans);
    let missing = nodes.replace(&format!("{pack:012x}"), &format!("{:012x}", pack - 1));
    finds(&place, &[], "missing-nodes", &missing);
}

#[test]
fn a_batch_that_was_committed_twice_is_only_told() {
    let place = packed();
    place.ingest_file(FIRST, gz(first().as_bytes()));
    place.ingest_file(FIRST, gz(first().as_bytes()));
    let found = found(&place, &[], 0);
    let kinds: Vec<_> = found.iter().map(|finding| (&*finding[0], &*finding[1])).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == ("info", "batch-twice")).count(), 1, "{kinds:?}");
    assert!(kinds.iter().all(|kind| kind.0 == "info"), "{kinds:?}");
}

#[test]
fn what_is_not_ours_is_a_warning() {
    let place = filled();
    for name in ["nodes/dt=2025-10-31/x.parquet", "nodes/readme.txt", "spans/notes", "quarantine/x.txt"] {
        place.write(&format!("data/{name}"), "hello");
    }
    let found = found(&place, &[], 0);
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found.iter().all(|[level, kind, _]| (&**level, &**kind) == ("warning", "unknown-object")), "{found:?}");
}

#[test]
fn a_sample_restores_its_share_and_the_same_one_each_time() {
    let place = packed();
    for n in 0..20 {
        let name = format!("raw-spans/{n}");
        place.write(&name, document(&[span(n + 1, 1).input("x")]));
    }
    run(place.command("ingest").arg("raw-spans")).exits(0);
    let restored = |percent: &str| {
        let (_, summary) = parted(&verify(&place, &["--sample", percent]).exits(0));
        (summary["batches"].as_u64().unwrap(), summary["batches_restored"].as_u64().unwrap())
    };
    assert_eq!((restored("100%"), restored("0%")), ((20, 20), (20, 0)));
    let half = restored("50%");
    assert!((1..20).contains(&half.1), "{half:?}");
    assert_eq!(restored("50%"), half);
}

#[test]
fn one_trace_alone() {
    let place = filled();
    let (findings, summary) = parted(&verify(&place, &["--trace", &trace(1)]).exits(0));
    assert_eq!((findings.len(), &summary["rows"], &summary["span_files"]), (0, &json!(3), &json!(2)));
    verify(&place, &["--trace", &trace(9)]).exits(1).says(&["trace", "is not in data"]);
    // Only the second flush has damage, and trace 2 is in the first alone.
    fs::remove_file(place.data().join(key(&place, "nodes", 1))).unwrap();
    verify(&place, &["--trace", &trace(2)]).exits(0);
    finds(&place, &["--trace", &trace(1)], "broken-rows", &key(&place, "spans", 1));
}

#[test]
fn only_what_was_written_since() {
    let place = filled();
    let files = |since: &str| {
        let (_, summary) = parted(&verify(&place, &["--since", since]).exits(0));
        summary["span_files"].as_u64().unwrap()
    };
    assert_eq!(files("1h"), 2);
    let later = humantime::format_rfc3339_seconds(SystemTime::now() + Duration::from_secs(3600)).to_string();
    assert_eq!(files(&later), 0);
}

/// A batch that is cut off, beside one that is not.
fn with_a_bad_batch() -> Place {
    let place = packed();
    place.write("data/raw-spans/good", document(&[span(1, 1).input("x")]));
    place.write("data/raw-spans/bad", &gz(first().as_bytes())[..60]);
    place.run("worker", &["--once"]).exits(3);
    place
}

fn quarantine(place: &Place, args: &[&str]) -> Ran {
    let (name, rest) = args.split_first().unwrap();
    run(common::gravity().current_dir(place.folder.path()).args(["quarantine", name, "--store", "data"]).args(rest))
}

#[test]
fn quarantine_lists_shows_tries_again_and_drops() {
    let place = with_a_bad_batch();
    let listed = || quarantine(&place, &["list", "--json"]).exits(0).lines();
    assert_eq!(listed().len(), 1);
    assert_eq!((&listed()[0]["key"], &listed()[0]["tries"]), (&json!("raw-spans/bad"), &json!(1)));
    let shown = quarantine(&place, &["show", "--json", "raw-spans/bad"]).exits(0).json();
    assert_eq!((&shown["stored"], &shown["raw_bytes"]), (&json!(false), &json!(60)));
    assert!(shown["batch"]["reason"].as_str().unwrap().contains("cut off"), "{shown}");
    quarantine(&place, &["retry", "--all"]).exits(0);
    assert_eq!(listed().len(), 0);
    place.run("worker", &["--once"]).exits(3);
    assert_eq!(listed().len(), 1);
    quarantine(&place, &["drop", "--yes", "raw-spans/bad"]).exits(0).says(&["dropped; its raw file stays"]);
    assert_eq!(listed().len(), 0);
}

#[test]
fn a_quarantined_batch_that_is_stored_is_a_warning_and_shown_as_stored() {
    let place = with_a_bad_batch();
    let entry = place.store().0["quarantine/raw-spans/bad.json"].clone();
    let entry = String::from_utf8(entry).unwrap().replace("raw-spans/bad", "raw-spans/good");
    place.write("data/quarantine/raw-spans/good.json", entry);
    let expected = ["warning", "quarantined-and-stored", "quarantine/raw-spans/good.json"];
    assert_eq!(found(&place, &[], 0), [expected]);
    let shown = quarantine(&place, &["show", "--json", "raw-spans/good"]).exits(0).json();
    assert_eq!(shown["stored"], true);
}

fn inspect(place: &Place, args: &[&str]) -> Value {
    place.run("inspect", &[&["--json"], args].concat()).exits(0).json()
}

#[test]
fn inspect_counts_the_files_and_their_bytes() {
    let place = with_a_bad_batch();
    let store = place.store();
    let found = inspect(&place, &[]);
    let folder = |name: &str| {
        let keys = store.keys(name);
        json!({"objects": keys.len(), "bytes": keys.iter().map(|key| store.0[*key].len()).sum::<usize>()})
    };
    assert_eq!(found["node_files"], folder("nodes"));
    assert_eq!(found["span_files"], folder("spans"));
    assert_eq!(found["raw"], folder("raw-spans"));
    assert_eq!(found["quarantined_batches"], folder("quarantine"));
    let bytes = |name: &str| found[name]["bytes"].as_u64().unwrap();
    assert_eq!(found["stored_bytes"], bytes("node_files") + bytes("span_files"));
    assert_eq!(found["write_requests_at_least"]["put"], 2);
}

#[test]
fn inspect_sums_every_batch_once() {
    let place = filled();
    let sums = |place: &Place| {
        let found = inspect(place, &[]);
        ["batches", "raw_bytes", "document_bytes", "documents", "spans"].map(|name| found[name].as_u64().unwrap())
    };
    let raw = fs::read(place.path(FIRST)).unwrap().len() + second().len();
    let expected = [2, raw as u64, (first().len() + second().len()) as u64, 2, 4];
    assert_eq!(sums(&place), expected);
    place.ingest_file(FIRST, gz(first().as_bytes()));
    assert_eq!(place.store().keys("spans").len(), 3);
    assert_eq!(sums(&place), expected);
    let found = inspect(&place, &[]);
    let ratio = found["document_bytes"].as_f64().unwrap() / found["stored_bytes"].as_f64().unwrap();
    assert!((found["ratio"].as_f64().unwrap() - ratio).abs() < 1e-9);
}

#[test]
fn inspect_shows_the_largest_traces_first() {
    let place = filled();
    let found = inspect(&place, &[]);
    let ids: Vec<_> = found["largest"].as_array().unwrap().iter().map(|trace| &trace["trace_id"]).collect();
    assert_eq!(ids, [&json!(trace(1)), &json!(trace(2))]);
    let content = 2 * "one line\n".len() * 40 + "another line\n".len() * 40;
    let largest = &found["largest"][0];
    assert_eq!(
        (&largest["spans"], &largest["parts"], &largest["content_bytes"]),
        (&json!(3), &json!(3), &json!(content))
    );
    assert_eq!(inspect(&place, &["--largest", "1"])["largest"].as_array().unwrap().len(), 1);
}

#[test]
fn inspect_shows_people_the_same_numbers() {
    let place = filled();
    let found = inspect(&place, &[]);
    let ran = place.run("inspect", &[""; 0]).exits(0);
    let ratio = format!("ratio {:.2} to decompressed", found["ratio"].as_f64().unwrap());
    for expected in [&*ratio, "nodes ", "spans ", "2 batches:", "4 spans and 0 log records", "4 PUT", &trace(1)] {
        assert!(ran.text().contains(expected), "{expected:?} is not in:\n{}", ran.text());
    }
}

#[test]
fn a_compacted_store_verifies_with_and_without_what_it_replaced_and_gives_every_batch_back() {
    let place = filled();
    place.ingest_file(FIRST, gz(first().as_bytes()));
    let before = inspect(&place, &[]);
    place.run("compact", &[""; 0]).exits(0);
    let leftovers = found(&place, &[], 0);
    assert!(!leftovers.is_empty());
    assert!(leftovers.iter().all(|[level, kind, _]| (&**level, &**kind) == ("info", "replaced")), "{leftovers:?}");
    let after = inspect(&place, &[]);
    for sum in ["batches", "raw_bytes", "document_bytes", "spans", "largest"] {
        assert_eq!(after[sum], before[sum], "{sum}");
    }
    place.run("gc", &["--older-than", "0s"]).exits(0);
    assert_eq!(found(&place, &[], 0), [[""; 3]; 0]);
    assert_eq!(place.run("restore", &[FIRST]).exits(0).stdout, first().as_bytes());
    assert_eq!(place.run("restore", &[SECOND]).exits(0).stdout, second().as_bytes());
    let nodes = place.store().keys("nodes")[0].to_owned();
    fs::remove_file(place.data().join(nodes)).unwrap();
    assert!(found(&place, &[], 1).iter().any(|[_, kind, _]| kind == "missing-nodes"));
}
