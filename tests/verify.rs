//! `gravity verify`: a whole store passes, and whatever is taken away or changed is named.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, span, trace};
use common::{Place, Ran, gz};
use serde_json::{Value, json};
use std::fs;
use std::time::{Duration, SystemTime};

/// Two batches that share trace 1, with a chunk that stands in both and parts of one to many chunks.
fn filled() -> Place {
    let place = Place::new();
    let lines: Vec<_> = (0..40).map(|n| format!("line {n}")).collect();
    place.write("data/raw-spans/a", document(&[span(1, 1).input("one\ntwo\n\ntwo"), span(2, 2).input("")]));
    place.write("data/raw-spans/b", document(&[span(1, 3).input("two\nthree"), span(3, 4).input(&lines.join("\n"))]));
    place.run("worker", &["--once"]).exits(0);
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

/// Passes if there is this finding and no other, and the exit code is that of its level.
#[track_caller]
fn finds(place: &Place, args: &[&str], level: &str, kind: &str, key: &str) -> String {
    let ran = verify(place, args).exits(if level == "error" { 1 } else { 0 });
    let (findings, summary) = parted(&ran);
    let found: Vec<_> = findings.iter().map(|f| (&f["level"], &f["kind"], &f["key"])).collect();
    assert_eq!(found, [(&json!(level), &json!(kind), &json!(key))]);
    assert_eq!(summary[format!("{level}s")], 1);
    findings[0]["detail"].as_str().unwrap().to_owned()
}

fn index(n: u32) -> String {
    format!("indexes/{}.json", trace(n))
}

fn blob_of(chunk: &str) -> String {
    let hash = blake3::hash(chunk.as_bytes()).to_hex();
    format!("blobs/{}/{hash}.gz", &hash[..2])
}

/// Changes an object of the store as no program of ours would.
fn change(place: &Place, key: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let path = place.data().join(key);
    let changed = change(fs::read(&path).unwrap());
    fs::write(path, changed).unwrap();
}

fn replace(place: &Place, key: &str, from: &str, to: &str) {
    change(place, key, |bytes| {
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        text.replacen(from, to, 1).into_bytes()
    });
}

#[test]
fn a_whole_store_verifies_and_every_blob_is_read_once() {
    let place = filled();
    let before = place.store();
    let ran = verify(&place, &[]).exits(0);
    let (findings, summary) = parted(&ran);
    assert_eq!(findings, [Value::Null; 0]);
    let blobs = place.store().keys("blobs").len();
    assert_eq!((&summary["blobs"], &summary["blobs_read"]), (&json!(blobs), &json!(blobs)));
    assert_eq!((&summary["indexes"], &summary["parts"], &summary["ledger_entries"]), (&json!(3), &json!(4), &json!(2)));
    assert_eq!((&summary["errors"], &summary["passes"]), (&json!(0), &json!(1)));
    assert_eq!(place.store(), before, "a look changes nothing");
}

#[test]
fn the_samples_verify() {
    let place = Place::new();
    place.run("ingest", &[common::samples()]).exits(0);
    let (findings, summary) = parted(&verify(&place, &[]).exits(0));
    assert_eq!(summary["errors"], 0);
    assert!(summary["blobs_read"].as_u64().unwrap() > 100);
    assert!(findings.iter().all(|finding| finding["level"] == "info"), "{findings:?}");
}

#[test]
fn where_there_is_no_store_nothing_is_proved() {
    let place = Place::new();
    for args in [&[][..], &["--trace", &trace(1)], &["--since", "24h"]] {
        verify(&place, args).exits(1).says(&["data: there is no store (no gravity.json)"]);
    }
    assert!(!place.data().exists(), "a look must not make a store");
    place.write("data/raw-spans/a", document(&[span(1, 1).input("one")]));
    verify(&place, &[]).exits(1).says(&["there is no store"]);
}

#[test]
fn a_new_store_is_whole() {
    let place = Place::new();
    place.run("worker", &["--once"]).exits(0);
    let (findings, summary) = parted(&verify(&place, &[]).exits(0));
    assert_eq!((findings.len(), &summary["blobs"]), (0, &json!(0)));
}

#[test]
fn a_reader_that_goes_does_not_make_a_broken_store_whole() {
    let place = filled();
    for (broken, code) in [(false, 0), (true, 1)] {
        if broken {
            fs::remove_file(place.data().join(blob_of("three"))).unwrap();
        }
        let mut command = place.command("verify");
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}

#[test]
fn a_missing_blob() {
    let place = filled();
    fs::remove_file(place.data().join(blob_of("three"))).unwrap();
    let detail = finds(&place, &[], "error", "missing-blob", &blob_of("three"));
    assert!(detail.contains(&index(1)), "{detail}");
    // That it is there is checked for all, whatever is read.
    finds(&place, &["--sample", "0%"], "error", "missing-blob", &blob_of("three"));
    finds(&place, &["--memory", "1"], "error", "missing-blob", &blob_of("three"));
}

#[test]
fn a_blob_with_flipped_bytes() {
    let place = filled();
    let key = blob_of("three");
    change(&place, &key, |mut blob| {
        let middle = blob.len() / 2;
        blob[middle] ^= 0x10;
        blob
    });
    finds(&place, &[], "error", "corrupt-blob", &key);
}

#[test]
fn a_truncated_blob() {
    let place = filled();
    let key = blob_of("three");
    change(&place, &key, |blob| blob[..blob.len() - 3].to_vec());
    let detail = finds(&place, &[], "error", "corrupt-blob", &key);
    assert!(detail.contains("not a whole gzip file"), "{detail}");
    change(&place, &key, |_| Vec::new());
    finds(&place, &[], "error", "corrupt-blob", &key);
}

#[test]
fn a_blob_that_is_whole_and_another_chunk() {
    let place = filled();
    let key = blob_of("three");
    change(&place, &key, |_| gz(b"there"));
    let detail = finds(&place, &[], "error", "corrupt-blob", &key);
    assert!(detail.contains(blake3::hash(b"there").to_hex().as_str()), "{detail}");
}

#[test]
fn an_index_with_a_wrong_count() {
    for (from, to) in [(r#""chunks":4"#, r#""chunks":3"#), (r#""chunks":4"#, r#""chunks":5"#), ("{", "")] {
        let place = filled();
        replace(&place, &index(1), from, to);
        let (findings, summary) = parted(&verify(&place, &[]).exits(1));
        assert_eq!((&findings[0]["kind"], &findings[0]["key"]), (&json!("corrupt-index"), &json!(index(1))));
        assert_eq!(summary["errors"], 1);
        // Nobody may take the chunks that only this trace has for rubbish.
        let orphans = findings.iter().filter(|finding| finding["kind"] == "orphan-blob");
        assert!(orphans.clone().all(|orphan| orphan["detail"].as_str().unwrap().contains("cannot be read")));
        assert_eq!(orphans.count(), 3);
    }
}

#[test]
fn an_index_with_a_wrong_size_in_one_pass_or_in_many() {
    // A part of 40 chunks, which are never all in one of many passes.
    let place = filled();
    let right = place.store().json(&index(3))["spans"][0]["parts"][0]["bytes"].as_u64().unwrap();
    replace(&place, &index(3), &format!(r#""bytes":{right}"#), &format!(r#""bytes":{}"#, right + 1));
    for (args, passes) in [(&[][..], 1..2), (&["--memory", "1"], 10..257)] {
        let ran = verify(&place, args).exits(1);
        let (findings, summary) = parted(&ran);
        assert!(passes.contains(&summary["passes"].as_u64().unwrap()), "{summary}");
        assert_eq!((&findings[0]["kind"], &findings[0]["key"]), (&json!("wrong-size"), &json!(index(3))));
        assert_eq!(summary["errors"], 1);
        let detail = findings[0]["detail"].as_str().unwrap();
        assert!(detail.contains(&(right + 1).to_string()) && detail.contains(&right.to_string()), "{detail}");
        // The batch's own sums do not agree with it either.
        assert_eq!(findings[1]["kind"], "other-sums");
    }
}

#[test]
fn many_passes_find_what_one_finds_and_read_every_blob_once() {
    let place = filled();
    let (findings, summary) = parted(&verify(&place, &["--memory", "1"]).exits(0));
    assert_eq!(findings, [Value::Null; 0]);
    assert!(summary["passes"].as_u64().unwrap() > 10, "{summary}");
    assert_eq!((&summary["blobs_read"], &summary["indexes"]), (&summary["blobs"], &json!(3)));
}

#[test]
fn an_index_under_another_traces_name() {
    let place = filled();
    fs::copy(place.data().join(index(1)), place.data().join(index(7))).unwrap();
    finds(&place, &[], "error", "corrupt-index", &index(7));
}

#[test]
fn a_ledger_entry_whose_index_is_missing() {
    let place = filled();
    fs::remove_file(place.data().join(index(3))).unwrap();
    let ran = verify(&place, &[]).exits(1);
    let (findings, _) = parted(&ran);
    let errors: Vec<_> = findings.iter().filter(|f| f["level"] == "error").collect();
    assert_eq!((errors.len(), &errors[0]["kind"], &errors[0]["key"]), (1, &json!("missing-index"), &json!(index(3))));
    assert!(errors[0]["detail"].as_str().unwrap().contains("batches/raw-spans/b.json"));
    // Its chunks have nobody left who names them.
    assert_eq!(findings.iter().filter(|f| f["kind"] == "orphan-blob").count(), 40);
}

#[test]
fn an_index_that_lost_a_batchs_spans() {
    let place = filled();
    let only_b = Place::new();
    fs::create_dir_all(only_b.path("data/raw-spans")).unwrap();
    fs::copy(place.path("data/raw-spans/b"), only_b.path("data/raw-spans/b")).unwrap();
    only_b.run("worker", &["--once"]).exits(0);
    fs::copy(only_b.data().join(index(1)), place.data().join(index(1))).unwrap();
    let (findings, _) = parted(&verify(&place, &[]).exits(1));
    let error = findings.iter().find(|finding| finding["level"] == "error").unwrap();
    assert_eq!((&error["kind"], &error["key"]), (&json!("missing-spans"), &json!(index(1))));
    assert!(error["detail"].as_str().unwrap().contains("batches/raw-spans/a.json"));
}

#[test]
fn a_batch_that_came_twice_is_no_error() {
    let place = filled();
    fs::copy(place.path("data/raw-spans/a"), place.path("data/raw-spans/z")).unwrap();
    place.run("worker", &["--once"]).exits(0);
    finds(&place, &[], "info", "fewer-spans", "batches/raw-spans/z.json");
}

#[test]
fn a_ledger_entry_that_is_none() {
    let place = filled();
    change(&place, "batches/raw-spans/a.json", |entry| entry[..20].to_vec());
    finds(&place, &[], "error", "corrupt-ledger", "batches/raw-spans/a.json");
}

#[test]
fn an_orphan_blob_is_only_told() {
    let place = filled();
    place.write(&format!("data/{}", blob_of("nobody's")), gz(b"nobody's"));
    finds(&place, &[], "info", "orphan-blob", &blob_of("nobody's"));
    // But the next batch that has this chunk will find it there.
    place.write(&format!("data/{}", blob_of("nobody's")), gz(b"somebody's"));
    finds(&place, &[], "error", "corrupt-blob", &blob_of("nobody's"));
}

#[test]
fn a_batch_that_was_not_finished_is_only_told() {
    let place = filled();
    fs::remove_file(place.data().join("batches/raw-spans/b.json")).unwrap();
    let detail = finds(&place, &[], "info", "unfinished-batch", "batches/raw-spans/b.json");
    assert!(detail.contains("raw-spans/b"), "{detail}");
    finds(&place, &["--trace", &trace(3)], "info", "unfinished-batch", "batches/raw-spans/b.json");
}

#[test]
fn what_is_not_ours_is_a_warning() {
    let at = blob_of("one");
    let misplaced = format!("blobs/zz/{}", at.rsplit('/').next().unwrap());
    for key in ["blobs/notes.txt", &misplaced, "indexes/x.json", "batches/readme", "quarantine/x.jsonl"] {
        let place = filled();
        place.write(&format!("data/{key}"), "x");
        finds(&place, &[], "warning", "unknown-object", key);
    }
}

#[test]
fn a_quarantined_batch_that_is_stored_is_a_warning() {
    let place = filled();
    let entry = json!({"key": "raw-spans/a", "reason": "x", "tries": 1, "version": null, "gravity": "0"});
    place.write("data/quarantine/raw-spans/a.json", entry.to_string());
    finds(&place, &[], "warning", "quarantined-and-stored", "quarantine/raw-spans/a.json");
}

#[test]
fn a_sample_reads_its_share_and_the_same_one_each_time() {
    let place = filled();
    let read = |share: &str| parted(&verify(&place, &["--sample", share]).exits(0)).1["blobs_read"].as_u64().unwrap();
    let blobs = place.store().keys("blobs").len() as u64;
    assert_eq!((read("0%"), read("100%")), (0, blobs));
    let half = read("50%");
    assert!((blobs / 4..blobs * 3 / 4).contains(&half), "{half} of {blobs}");
    assert_eq!(read("50%"), half);
    for bad in ["5", "101%", "-1%", "NaN%", "some"] {
        place.run("verify", &[&format!("--sample={bad}")]).exits(2).says(&["--sample", bad]);
    }
}

#[test]
fn one_trace_alone() {
    let place = filled();
    fs::remove_file(place.data().join(blob_of("line 7"))).unwrap();
    let ran = verify(&place, &["--trace", &trace(1)]).exits(0);
    let (findings, summary) = parted(&ran);
    // one, two, the empty line, three.
    assert_eq!((findings.len(), &summary["indexes"], &summary["blobs_read"]), (0, &json!(1), &json!(4)));
    assert_eq!(summary["ledger_entries"], 2);
    finds(&place, &["--trace", &trace(3)], "error", "missing-blob", &blob_of("line 7"));
    verify(&place, &["--trace", &trace(9)]).exits(1).says(&[&trace(9), "is not in"]);
    verify(&place, &["--trace", "xyz"]).exits(2).says(&["--trace", "xyz"]);
}

#[test]
fn only_what_was_written_since() {
    let place = filled();
    fs::remove_file(place.data().join(blob_of("three"))).unwrap();
    let old = SystemTime::now() - Duration::from_secs(48 * 3600);
    for key in [index(1), index(2), "batches/raw-spans/a.json".into()] {
        fs::File::options().write(true).open(place.data().join(key)).unwrap().set_modified(old).unwrap();
    }
    let (findings, summary) = parted(&verify(&place, &["--since", "24h"]).exits(0));
    assert_eq!(findings, [Value::Null; 0]);
    assert_eq!(
        (&summary["indexes"], &summary["ledger_entries"], &summary["blobs_read"]),
        (&json!(1), &json!(1), &json!(40))
    );
    finds(&place, &["--since", "3days"], "error", "missing-blob", &blob_of("three"));
    for date in ["2020-02-29", "2020-02-29T11:00:00Z"] {
        finds(&place, &["--since", date], "error", "missing-blob", &blob_of("three"));
    }
    let (_, future) = parted(&verify(&place, &["--since", "2200-01-01"]).exits(0));
    assert_eq!((&future["indexes"], &future["ledger_entries"]), (&json!(0), &json!(0)));
    place.run("verify", &["--since", "whenever"]).exits(2).says(&["--since", "whenever"]);
}

#[test]
fn people_read_lines_and_a_summary() {
    let place = filled();
    fs::remove_file(place.data().join(blob_of("three"))).unwrap();
    place.write("data/blobs/notes.txt", "x");
    let ran = place.run("verify", &[""; 0]).exits(1);
    for expected in [
        format!("error missing-blob {}: ", blob_of("three")),
        "warning unknown-object blobs/notes.txt: ".into(),
        "3 traces, 4 parts".into(),
        "1 error, 1 warning, 0 infos".into(),
    ] {
        assert!(ran.text().contains(&expected), "{expected:?} is not in:\n{}", ran.text());
    }
    let quiet = place.run("verify", &["-q"]).exits(1);
    assert_eq!(quiet.text().lines().count(), 1);
    assert!(quiet.text().starts_with("error missing-blob"));
}
