//! `gravity ingest`: what goes in, what is said of it, and what the store holds afterwards.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, protobuf, span, trace};
use common::{Place, finish, gz, run, run_with_stdin, signal, start, wait_until, zst};
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

#[test]
fn each_trace_goes_to_stdout_as_one_line_that_is_its_stored_index() {
    let place = Place::new();
    let batch = document(&[span(2, 1).input("b"), span(1, 2).input("a"), span(2, 3).input("c")]);
    let ran = place.ingest(batch.as_bytes()).exits(0);
    let lines: Vec<_> = ran.text().lines().collect();
    let store = place.store();
    let stored = [2, 1].map(|n| String::from_utf8(store.0[&format!("indexes/{}.json", trace(n))].clone()).unwrap());
    assert_eq!(lines, stored, "in the order in which the traces come in the batch");
    store.check();
}

#[test]
fn lines_come_as_traces_are_committed_and_not_at_the_end() {
    let place = Place::new();
    place.write("first.json", document(&[span(1, 1).input("first")]));
    let mut child = start(place.command("ingest").args(["first.json", "-"]).stdin(Stdio::piped()));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, receiver) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || lines.next().map(|line| sender.send(line.unwrap())));
    let first = receiver.recv_timeout(std::time::Duration::from_secs(20));
    drop(child.stdin.take());
    finish(child);
    reader.join().unwrap();
    assert!(first.expect("a line while standard input is still open").contains(&trace(1)));
}

#[test]
fn compression_is_told_by_the_bytes_and_not_by_the_name() {
    let place = Place::new();
    let batch = |n| document(&[span(n, 1).input(&format!("content {n}"))]);
    place.write("plain.gz", batch(1));
    place.write("gzip.zst", gz(batch(2).as_bytes()));
    place.write("zstd.json", zst(batch(3).as_bytes()));
    place.run("ingest", &["plain.gz", "gzip.zst", "zstd.json"]).exits(0);
    for n in 1..=3 {
        assert_eq!(place.content(&trace(n)), format!("content {n}").as_bytes());
    }
}

#[test]
fn several_gzip_members_and_several_zstd_frames_are_one_batch() {
    let place = Place::new();
    let batch = document(&[span(1, 1).input("one"), span(2, 2).input("two")]);
    let (head, tail) = batch.as_bytes().split_at(batch.len() / 2);
    place.write("members.gz", [gz(head), gz(tail)].concat());
    place.run("ingest", &["members.gz"]).exits(0);
    place.write("frames.zst", [zst(head), zst(tail)].concat());
    let lines = place.run("ingest", &["frames.zst"]).exits(0).lines();
    assert_eq!(lines.len(), 2);
    assert_eq!(place.content(&trace(2)), b"two");
}

#[test]
fn one_document_concatenated_documents_and_json_lines_are_the_same() {
    let documents = [1, 2, 3].map(|n| document(&[span(n, n).input(&format!("content {n}"))]));
    let whole = document(&[1, 2, 3].map(|n| span(n, n).input(&format!("content {n}"))));
    let forms = [whole, documents.concat(), documents.join("\n"), documents.join("\n") + "\n"];
    let outputs = forms.map(|form| {
        let place = Place::new();
        run_with_stdin(place.command("ingest").args(["--key", "b"]), form.as_bytes()).exits(0).stdout
    });
    assert!(outputs.iter().all(|output| *output == outputs[0]), "{outputs:?}");
    assert!(!outputs[0].is_empty());
}

#[test]
fn protobuf_gives_the_same_index_as_json() {
    let json = document(&[span(7, 9).input("one\ntwo")]);
    let indexes = [json.into_bytes(), protobuf(7, 9, "one\ntwo")].map(|batch| {
        let place = Place::new();
        run_with_stdin(place.command("ingest").args(["--key", "b"]), &batch).exits(0).stdout
    });
    assert_eq!(indexes[0], indexes[1]);
}

#[test]
fn a_batch_has_the_path_as_given_as_its_key() {
    let place = Place::new();
    place.write("in/dt=1/b.json", document(&[span(1, 1).input("x")]));
    let lines = place.run("ingest", &["in/dt=1/b.json"]).exits(0).lines();
    assert_eq!(lines[0]["spans"][0]["source"], "in/dt=1/b.json");
    assert_eq!(place.store().json("batches/in/dt=1/b.json.json")["key"], "in/dt=1/b.json");
}

#[test]
fn a_batch_on_stdin_is_named_by_its_hash_or_by_key() {
    let place = Place::new();
    let batch = document(&[span(1, 1).input("x")]);
    let hash = &blake3::hash(batch.as_bytes()).to_hex()[..16];
    place.ingest(batch.as_bytes()).exits(0);
    assert_eq!(place.store().json(&format!("batches/stdin/{hash}.json"))["key"], format!("stdin/{hash}"));
    run_with_stdin(place.command("ingest").args(["--key", "raw-spans/mine", "-"]), batch.as_bytes()).exits(0);
    assert_eq!(place.store().json("batches/raw-spans/mine.json")["key"], "raw-spans/mine");
}

#[test]
fn a_folder_is_all_files_below_it_but_hidden_ones() {
    let place = Place::new();
    for (n, name) in ["in/b", "in/deep/er/a", "in/.hidden", "in/.git/x"].iter().enumerate() {
        place.write(name, document(&[span(n as u32 + 1, 1).input(name)]));
    }
    let ran = place.run("ingest", &["--max-concurrent", "1", "in"]).exits(0);
    let sources: Vec<_> = ran.lines().iter().map(|line| line["spans"][0]["source"].clone()).collect();
    assert_eq!(sources, ["in/b", "in/deep/er/a"]);
}

#[test]
fn the_same_file_again_is_skipped_until_its_bytes_change_or_again_is_given() {
    let place = Place::new();
    place.write("b.json", document(&[span(1, 1).input("x")]));
    place.run("ingest", &["b.json"]).exits(0);
    let ran = place.run("ingest", &["b.json"]).exits(0).says(&["1 file already in the ledger"]);
    assert_eq!(ran.text(), "");
    assert_eq!(place.run("ingest", &["--again", "b.json"]).exits(0).lines().len(), 1);
    place.write("b.json", document(&[span(1, 1).input("y")]));
    assert_eq!(place.run("ingest", &["b.json"]).exits(0).lines().len(), 1);
}

#[test]
fn the_summary_counts_what_came_and_what_it_took() {
    let place = Place::new();
    let batch = document(&[span(1, 1).input("same\nsame\nother"), span(2, 2).input("same").attribute("http.x", "no")]);
    let size = gz(batch.as_bytes()).len();
    place.write("b.gz", gz(batch.as_bytes()));
    place.run("ingest", &["b.gz"]).exits(0).says(&[
        &format!(
            "1 file, {size} bytes ({} bytes decompressed): 2 traces, 2 spans, 2 parts of 19 bytes content",
            batch.len()
        ),
        "chunks 4; blobs 2 new, 0 known",
        "ratio ",
        // Two blobs, two indexes, the ledger and gravity.json.
        " 6 PUT,",
        " MB/s",
    ]);
}

#[test]
fn quiet_says_nothing_when_all_is_well() {
    let place = Place::new();
    let ran = run_with_stdin(place.command("ingest").arg("-q"), document(&[span(1, 1).input("x")]).as_bytes()).exits(0);
    assert_eq!(ran.stderr, "");
    assert_eq!(ran.lines().len(), 1);
}

#[test]
fn content_that_is_known_is_not_stored_again() {
    let place = Place::new();
    place.ingest(document(&[span(1, 1).input("a\nb\nc")]).as_bytes()).exits(0).says(&["3 new"]);
    place.ingest(document(&[span(2, 1).input("c\nb\na")]).as_bytes()).exits(0).says(&["blobs 0 new, 3 known"]);
    assert_eq!(place.store().check().keys("blobs").len(), 3);
}

#[test]
fn the_order_of_the_files_does_not_matter() {
    let files = ["a.json", "b.json", "c.json"];
    let stores = [[0, 1, 2], [2, 1, 0], [1, 2, 0]].map(|order| {
        let place = Place::new();
        for (n, file) in files.iter().enumerate() {
            // Each trace has spans in every file, and their times do not follow the files' names.
            let id = (n as u32 + 2) % 3 + 1;
            let spans = [1, 2].map(|t| span(t, id).input(&format!("trace {t} span {id}")));
            place.write(file, document(&spans));
        }
        for n in order {
            place.run("ingest", &[files[n]]).exits(0);
        }
        assert_eq!(place.content(&trace(1)), b"trace 1 span 1\ntrace 1 span 2\ntrace 1 span 3");
        place.store()
    });
    assert_eq!(stores[0], stores[1]);
    assert_eq!(stores[0], stores[2]);
}

#[test]
fn a_span_that_comes_twice_stands_once_unless_it_differs() {
    let place = Place::new();
    place.write("a.json", document(&[span(1, 1).input("x"), span(1, 1).input("x")]));
    place.write("b.json", document(&[span(1, 1).input("x")]));
    place.run("ingest", &["a.json", "b.json"]).exits(0);
    assert_eq!(place.content(&trace(1)), b"x");
    place.ingest(document(&[span(1, 1).input("y")]).as_bytes()).exits(0);
    let content = String::from_utf8(place.content(&trace(1))).unwrap();
    assert!(content == "x\ny" || content == "y\nx", "{content:?}");
}

#[test]
fn a_span_without_a_valid_trace_id_goes_to_quarantine_with_its_bytes() {
    let place = Place::new();
    for id in ["", "00000000000000000000000000000000", "123", "../../../../../../../../etc/passw"] {
        let stray = span(1, 1).with("traceId", id).input("kept");
        place.write("b.json", document(&[stray.clone(), span(2, 2).input("fine")]));
        place.run("ingest", &["b.json"]).exits(3).says(&["1 record went to quarantine"]);
        let store = place.store();
        let strays = store.keys("quarantine");
        let lines = store.json_lines(strays[0]);
        assert_eq!((strays.len(), lines.len()), (1, 1));
        assert_eq!(lines[0]["record"], stray.json());
        assert_eq!(place.content(&trace(2)), b"fine");
        assert!(!store.0.contains_key(&format!("indexes/{}.json", trace(1))));
    }
}

#[test]
fn a_reader_that_goes_away_does_not_stop_the_work() {
    let place = Place::new();
    let batches: Vec<_> = (1..=400).map(|n| document(&[span(n, n).input(&"line\n".repeat(40))])).collect();
    let mut child = start(place.command("ingest").stdin(Stdio::piped()));
    let mut stdin = child.stdin.take().unwrap();
    drop(child.stdout.take());
    stdin.write_all(batches.join("\n").as_bytes()).unwrap();
    drop(stdin);
    finish(child).exits(0).says(&["400 traces"]);
    assert_eq!(place.store().check().keys("indexes").len(), 400);
}

#[test]
fn stdout_that_is_full_is_a_failure() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let Ok(full) = full else { return eprintln!("SKIPPED: no /dev/full here") };
    let place = Place::new();
    let batch = place.write("b.json", document(&[span(1, 1).input("x")]));
    let child = place.command("ingest").arg(batch).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
    finish(child).exits(1).says(&["writing to stdout", "No space left"]);
}

#[test]
fn sigterm_finishes_the_batch_in_work_and_begins_no_other() {
    let place = Place::new();
    place.write("later.json", document(&[span(2, 2).input("later")]));
    let args = ["--max-concurrent", "1", "-v", "-", "later.json"];
    let mut child = start(place.command("ingest").args(args).stdin(Stdio::piped()));
    let batch = document(&[span(1, 1).input("now")]);
    let (head, tail) = batch.as_bytes().split_at(batch.len() / 2);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(head).unwrap();
    wait_until("the store is opened", || place.data().join("gravity.json").exists());
    std::thread::sleep(std::time::Duration::from_millis(200));
    signal(&child, "TERM");
    std::thread::sleep(std::time::Duration::from_millis(200));
    stdin.write_all(tail).unwrap();
    drop(stdin);
    let ran = finish(child).exits(1).says(&["interrupted", "run it again"]);
    assert_eq!(ran.lines().len(), 1);
    assert_eq!(place.store().check().keys("batches").len(), 1);
    assert_eq!(std::fs::read_dir(place.data().join(".gravity/tmp")).unwrap().count(), 0, "temporary files");
    place.run("ingest", &["later.json"]).exits(0);
}

#[test]
fn sigint_ends_it_while_a_pipe_is_silent_and_nothing_of_the_pipe_is_committed() {
    for layout in ["loose", "packed"] {
        let place = Place::new();
        let mut child = start(place.command("ingest").args(["--layout", layout, "-"]).stdin(Stdio::piped()));
        let mut stdin = child.stdin.take().unwrap();
        // Whole as far as it goes: only the end of the pipe would say that it is all.
        stdin.write_all(document(&[span(1, 1).input("half")]).as_bytes()).unwrap();
        stdin.write_all(b"\n").unwrap();
        wait_until("the store is opened", || place.data().join("gravity.json").exists());
        std::thread::sleep(std::time::Duration::from_millis(200));
        signal(&child, "INT");
        wait_until("it ends", || child.try_wait().unwrap().is_some());
        let ran = finish(child).exits(1).says(&["standard input", "interrupted"]);
        assert_eq!(ran.text(), "");
        let store = place.store();
        assert_eq!(store.holds_no_batch().keys("spans"), [""; 0]);
        assert_eq!(std::fs::read_dir(place.data().join(".gravity/tmp")).unwrap().count(), 0, "temporary files");
        drop(stdin);
    }
}

#[test]
fn what_is_asked_for_twice_or_not_at_all_is_a_usage_error() {
    let place = Place::new();
    place.run("ingest", &["-", "-"]).exits(2).says(&["standard input"]);
    place.run("ingest", &["--key", "x", "b.json"]).exits(2).says(&["--key"]);
    run(common::gravity().args(["ingest", "--store", "gs://bucket"])).exits(2).says(&["gs://bucket", "s3://"]);
}
