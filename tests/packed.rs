//! The packed layout as a user meets it: the same traces as on loose, in a handful of files.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, field, protobuf, span, span_id, trace};
use common::packed::packed;
use common::{Place, Ran, gz, run, samples, signal, start, wait_until, zst};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn pack(place: &Place, input: &Path) -> Ran {
    run(place.command("ingest").args(["--layout", "packed"]).arg(input))
}

fn traces_of(ran: &Ran) -> BTreeSet<String> {
    let of_line = |line: serde_json::Value| line["traces"].as_array().unwrap().clone();
    ran.lines().into_iter().flat_map(of_line).map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_trace_of_the_samples_reads_as_it_does_from_a_loose_store() {
    let (packed, loose) = (Place::new(), Place::new());
    let ran = pack(&packed, &samples()).exits(0);
    let indexes = run(loose.command("ingest").arg(samples())).exits(0).lines();
    let expected: BTreeSet<String> = indexes.iter().map(|line| line["trace_id"].as_str().unwrap().to_owned()).collect();
    // Packed keeps every trace, those without content too.
    let traces = traces_of(&ran);
    assert!(traces.is_superset(&expected), "{traces:?}");
    for id in &expected {
        for option in ["--json", "--list", "--quiet"] {
            let of =
                |place: &Place| String::from_utf8(place.run("reconstruct", &[option, id]).exits(0).stdout).unwrap();
            assert_eq!(of(&packed), of(&loose), "{option} {id}");
        }
    }
}

#[test]
fn a_run_costs_three_requests_that_write_however_many_chunks_and_traces_there_are() {
    let place = Place::new();
    pack(&place, &samples()).exits(0).says(&["requests 0 HEAD, 3 PUT"]);
    let store = place.store();
    // Beside the marker.
    assert_eq!((store.keys("nodes").len(), store.keys("spans").len(), store.0.len()), (1, 1, 3));
}

#[test]
fn a_store_keeps_its_layout_and_says_so() {
    let place = Place::new();
    let batch = place.write("batch.json", document(&[span(1, 1).input("hello")]));
    pack(&place, &batch).exits(0);
    // Without --layout it is what it is.
    run(place.command("ingest").arg(&batch)).exits(0);
    let refused = run(place.command("ingest").args(["--layout", "loose"]).arg(&batch));
    assert_ne!(refused.code, 0);
    refused.says(&["this store is packed", "--layout (GRAVITY_LAYOUT) says loose"]);
    assert!(place.store().keys("blobs").is_empty());

    let loose = Place::new();
    let batch = loose.write("batch.json", document(&[span(1, 1).input("hello")]));
    run(loose.command("ingest").arg(&batch)).exits(0);
    let refused = pack(&loose, &batch);
    assert_ne!(refused.code, 0);
    refused.says(&["this store is loose"]);
}

#[test]
fn a_batch_that_is_stored_twice_reads_as_one() {
    let place = Place::new();
    let batch =
        place.write("batch.json.gz", gz(document(&[span(7, 1).input("once"), span(7, 2).input("twice")]).as_bytes()));
    pack(&place, &batch).exits(0);
    let once = place.run("reconstruct", &["--list", &trace(7)]).exits(0).stdout;
    pack(&place, &batch).exits(0);
    assert_eq!(place.store().keys("spans").len(), 2);
    assert_eq!(place.run("reconstruct", &["--list", &trace(7)]).exits(0).stdout, once);
    assert_eq!(place.content(&trace(7)), b"once\ntwice");
}

#[test]
fn a_trace_in_several_flushes_reads_as_one() {
    let place = Place::new();
    for (n, text) in [(1, "first"), (2, "second"), (3, "third")] {
        let batch = place.write(&format!("{n}.json"), document(&[span(5, n).input(text)]));
        pack(&place, &batch).exits(0);
    }
    assert_eq!(place.content(&trace(5)), b"first\nsecond\nthird");
}

#[test]
fn protobuf_and_json_share_their_texts_and_read_the_same() {
    let place = Place::new();
    let text = "a text that is long enough to be lifted, since what is short stays where it is ".repeat(20);
    let json = place.write("batch.json", document(&[span(1, 1).input(&text)]));
    pack(&place, &json).exits(0);
    let binary = place.write("batch.binpb.zst", zst(&protobuf(2, 2, &text)));
    pack(&place, &binary).exits(0);
    assert_eq!(place.content(&trace(1)), text.as_bytes());
    assert_eq!(place.content(&trace(2)), text.as_bytes());
}

#[test]
fn otlp_gives_the_spans_as_they_came_with_their_resource() {
    let place = Place::new();
    let spans = [span(9, 1).input("in").with("kind", 3), span(9, 2).attribute("other", "kept too"), span(8, 3)];
    let batch = place.write("batch.json", document(&spans));
    pack(&place, &batch).exits(0);
    let otlp = place.run("reconstruct", &["--otlp", &trace(9)]).exits(0).json();
    let found = otlp["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    let expected: Vec<serde_json::Value> =
        spans[..2].iter().map(|span| serde_json::from_str(&span.json()).unwrap()).collect();
    assert_eq!(found, &expected);
    assert_eq!(otlp["resourceSpans"][0]["scopeSpans"][0]["scope"]["name"], "litellm");
    // What it gives can be ingested again.
    let again = Place::new();
    let batch = again.write("again.json", otlp.to_string());
    run(again.command("ingest").arg(batch)).exits(0);
    assert_eq!(again.content(&trace(9)), b"in");
}

#[test]
fn a_trace_is_found_however_its_json_writes_the_id() {
    for id in [
        r#""traceId":"00000000000000000000000000ABCDEF""#,
        "\"traceId\" : \"00000000000000000000000000abcdef\"",
        r#""trace\u0049d":"00000000000000000000000000abcdef""#,
    ] {
        let place = Place::new();
        let spans = document(&[span(0xab_cdef, 1).input("found")]);
        let odd = spans.replace(r#""traceId":"00000000000000000000000000abcdef""#, id);
        assert_ne!(odd, spans);
        let batch = place.write("batch.json", &odd);
        pack(&place, &batch).exits(0);
        assert_eq!(place.content(&trace(0xab_cdef)), b"found", "{id}");
        let otlp = place.run("reconstruct", &["--otlp", &trace(0xab_cdef)]).exits(0);
        assert!(otlp.text().contains(id), "{}", otlp.text());
        assert_eq!(place.run("restore", &[&batch]).exits(0).text(), odd);
        place.run("verify", &["--json"]).exits(0);
    }
}

#[test]
fn protobuf_that_hardly_anybody_writes_reads_as_it_does_from_a_loose_store() {
    // Tags and lengths with a byte too many.
    let longer = |number: u8, bytes: &[u8]| [&[number << 3 | 0x82, 0, bytes.len() as u8 | 0x80, 0], bytes].concat();
    let ids = [&u128::from(1u8).to_be_bytes()[..], &u64::from(2u8).to_be_bytes()];
    let attribute = [longer(1, b"input.value"), longer(2, &longer(1, b"said"))].concat();
    let span = [longer(1, ids[0]), longer(2, ids[1]), longer(5, b"name"), longer(9, &attribute)].concat();
    // A log record without a time.
    let attribute = [field(1, b"input.value"), field(2, &field(1, b"logged"))].concat();
    let log = [field(5, &field(1, b"body")), field(6, &attribute), field(9, ids[0]), field(10, ids[1])].concat();
    for record in [span, log] {
        let (packed, loose) = (Place::new(), Place::new());
        let bytes = field(1, &field(2, &field(2, &record)));
        let batch = packed.write("batch.binpb", &bytes);
        pack(&packed, &batch).exits(0);
        run(loose.command("ingest").arg(&batch)).exits(0);
        for option in ["--json", "--list", "--quiet"] {
            let of = |place: &Place| {
                let ran = place.run("reconstruct", &[option, &trace(1)]).exits(0);
                assert!(option != "--list" || ran.text().contains(&span_id(2)), "{}", ran.text());
                ran.stdout
            };
            assert_eq!(of(&packed), of(&loose), "{option}");
        }
        assert_eq!(packed.run("restore", &[&batch]).exits(0).stdout, bytes);
        packed.run("verify", &["--json"]).exits(0);
    }
}

#[test]
fn a_record_that_cannot_be_read_does_not_hide_the_others_of_its_trace() {
    let place = packed();
    place.ingest_file("good.json", document(&[span(1, 1).input("good")]));
    let bad = document(&[span(1, 2).with("name", "a~").input("hidden"), span(2, 1).with("name", "a~")]);
    place.ingest_file("bad.json", bad.bytes().map(|byte| if byte == b'~' { 0xff } else { byte }).collect::<Vec<_>>());

    let ran = place.run("reconstruct", &[trace(1)]).exits(1).says(&["batch bad.json is left out", "not UTF-8"]);
    assert_eq!(ran.stdout, b"good");
    assert!(!ran.stderr.contains("hidden"), "{}", ran.stderr);
    // A link that is cut off.
    let ids = [field(1, &u128::from(3u8).to_be_bytes()), field(2, &u64::from(9u8).to_be_bytes())].concat();
    let spans = [field(2, &[&ids[..], &field(13, b"\x0a")].concat()), field(2, &ids)].concat();
    place.ingest_file("bad.binpb", field(1, &field(2, &spans)));
    let ran = place.run("reconstruct", &["--otlp", &trace(3)]).exits(1);
    let ran = ran.says(&["1 record that cannot be read: left out", "bad.binpb"]);
    assert_eq!(ran.text().matches(&span_id(9)).count(), 1, "{}", ran.text());

    place.run("reconstruct", &[trace(2)]).exits(1).says(&["bad.json", "none of the records of trace", &trace(2)]);
}

#[test]
fn spans_behind_one_over_the_limit_are_found() {
    let place = Place::new();
    let long = "long ".repeat(1000);
    let spans = [span(1, 1).input("before"), span(2, 1).input(&long), span(3, 1).input("behind")];
    let batch = place.write("batch.json", document(&spans));
    let limit = ["--layout", "packed", "--max-span-bytes", "2000"];
    run(place.command("ingest").args(limit).arg(&batch))
        .exits(0)
        .says(&["a value of more than 2000 bytes", "MAX_SPAN_BYTES"]);
    assert_eq!(place.content(&trace(1)), b"before");
    assert_eq!(place.content(&trace(3)), b"behind");
    place.run("reconstruct", &[trace(2)]).exits(1).says(&["is not in"]);
    let otlp = place.run("reconstruct", &["--otlp", &trace(3)]).exits(0).json();
    assert_eq!(otlp["resourceSpans"][0]["scopeSpans"][0]["scope"]["name"], "litellm");
    assert_eq!(place.run("restore", &[&batch]).exits(0).text(), document(&spans));
}

#[test]
fn what_is_not_otlp_is_kept_with_a_warning_and_what_cannot_be_decompressed_is_refused() {
    let place = Place::new();
    for (name, bytes) in
        [("empty", &b""[..]), ("random", b"\x00\xff{nothing of OTLP\n"), ("cut.json", b"{\"resourceSpans\":[{")]
    {
        let file = place.write(name, bytes);
        pack(&place, &file).exits(0).says(&["not all of it is OTLP"]);
    }
    let cut = gz(document(&[span(1, 1).input("hello")]).as_bytes());
    let file = place.write("cut.json.gz", &cut[..cut.len() - 9]);
    let refused = pack(&place, &file);
    assert_eq!(refused.code, 1);
    refused.says(&["cut.json.gz", "the gzip stream is cut off"]);
}

#[test]
fn a_trace_that_is_not_there_is_told_as_on_loose() {
    let place = Place::new();
    pack(&place, &samples()).exits(0);
    place.run("reconstruct", &[trace(404)]).exits(1).says(&["trace 00000000000000000000000000000194 is not in"]);
}

#[test]
fn a_worker_flushes_several_batches_at_once_and_finds_nothing_to_do_the_second_time() {
    let place = Place::new();
    for n in 1..=20 {
        place.write(
            &format!("data/raw-spans/dt=2025-10-31/hour=11/batch-{n}.json"),
            document(&[span(n, n).input("text")]),
        );
    }
    let worker = |place: &Place| run(place.command("worker").args(["--once", "--layout", "packed"]));
    worker(&place).exits(0).says(&["committed=20"]);
    let flushes = place.store().keys("spans").len();
    assert!(flushes < 20, "{flushes} flushes of 20 batches");
    worker(&place).exits(0).says(&["committed=0"]);
    for n in 1..=20 {
        assert_eq!(place.content(&trace(n)), b"text");
    }
}

#[test]
fn a_worker_that_is_asked_to_stop_flushes_what_waits() {
    let place = Place::new();
    place.write("data/raw-spans/dt=2025-10-31/hour=11/batch-1.json", document(&[span(1, 1).input("in time")]));
    let mut command = place.command("worker");
    let child = start(command.args(["--layout", "packed", "--flush-interval", "1h", "--poll-interval", "50ms"]));
    // It has lifted the batch, and waits for others.
    wait_until("the worker starts", || place.data().join("gravity.json").exists());
    std::thread::sleep(std::time::Duration::from_millis(500));
    signal(&child, "TERM");
    common::finish(child).exits(0).says(&["committed=1"]);
    assert_eq!(place.content(&trace(1)), b"in time");
}

#[test]
fn a_raw_file_is_deleted_only_when_asked_and_only_from_a_packed_store() {
    let place = Place::new();
    let raw = "data/raw-spans/dt=2025-10-31/hour=11/batch-1.json";
    let path = place.write(raw, document(&[span(1, 1).input("kept")]));
    let worker = |args: &[&str]| run(place.command("worker").arg("--once").args(args));
    worker(&["--layout", "packed"]).exits(0);
    assert!(path.exists(), "not asked");
    let second =
        place.write("data/raw-spans/dt=2025-10-31/hour=11/batch-2.json", document(&[span(2, 2).input("moved")]));
    let broken = place.write("data/raw-spans/dt=2025-10-31/hour=11/batch-3.json.gz", &gz(b"{}")[..9]);
    worker(&["--delete-raw", "verified"]).exits(3);
    assert!(!second.exists() && broken.exists());
    assert_eq!(place.content(&trace(2)), b"moved");

    let loose = Place::new();
    let path = loose.write(raw, document(&[span(1, 1).input("kept")]));
    run(loose.command("worker").args(["--once", "--delete-raw", "verified"])).exits(2).says(&["needs a packed store"]);
    assert!(path.exists());
}

#[test]
fn a_raw_file_that_was_overwritten_while_its_flush_was_waited_for_stays() {
    let place = Place::new();
    let raw = "data/raw-spans/dt=2025-10-31/hour=11/batch-1.json";
    let path = place.write(raw, document(&[span(1, 1).input("the first")]));
    let mut command = place.command("worker");
    command.args([
        "--layout",
        "packed",
        "--delete-raw",
        "verified",
        "--flush-interval",
        "1h",
        "--poll-interval",
        "50ms",
    ]);
    let child = start(&mut command);
    wait_until("the worker starts", || place.data().join("gravity.json").exists());
    // It has lifted the batch, and waits for others.
    std::thread::sleep(std::time::Duration::from_millis(500));
    let other = document(&[span(1, 1).input("something")]);
    assert_eq!(fs::metadata(&path).unwrap().len(), other.len() as u64);
    place.write(raw, &other);
    signal(&child, "TERM");
    common::finish(child).exits(0).says(&["committed=1", "replaced since it was read"]);
    assert_eq!(fs::read(&path).unwrap(), other.as_bytes());
    assert_eq!(place.content(&trace(1)), b"the first");
}

#[test]
fn a_raw_file_that_was_stored_before_deleting_was_asked_for_goes() {
    let place = Place::new();
    let path = place.write(
        "data/raw-spans/dt=2025-10-31/hour=11/batch-1.json.gz",
        gz(&document(&[span(1, 1).input("kept")]).into_bytes()),
    );
    run(place.command("worker").args(["--once", "--layout", "packed"])).exits(0).says(&["committed=1"]);
    assert!(path.exists());
    run(place.command("worker").args(["--once", "--delete-raw", "verified"])).exits(0).says(&["committed=0"]);
    assert!(!path.exists());
    assert_eq!(place.content(&trace(1)), b"kept");
}

#[test]
fn a_damaged_file_of_nodes_is_an_error_with_its_name_and_not_output() {
    let place = Place::new();
    let batch = place.write("batch.json", document(&[span(1, 1).input(&"damaged ".repeat(100))]));
    pack(&place, &batch).exits(0);
    let nodes = place.store().keys("nodes")[0].to_owned();
    let path = place.data().join(&nodes);
    fs::remove_file(&path).unwrap();
    place.run("reconstruct", &[trace(1)]).exits(1).says(&[&nodes]);
}

#[test]
fn a_damaged_file_of_spans_hides_only_what_is_in_it() {
    let place = packed();
    let (first, second) = ("raw-spans/dt=1/first.json", "raw-spans/dt=1/second.json");
    place.ingest_file(first, document(&[span(1, 1).input("the first")]));
    let damaged = place.only("spans");
    place.ingest_file(second, document(&[span(2, 1).input("the second")]));
    fs::write(&damaged, "damaged").unwrap();

    let name = damaged.file_name().unwrap().to_str().unwrap();
    let ran = place.run("reconstruct", &[trace(2)]).exits(1).says(&[name, "left out"]);
    assert_eq!(ran.stdout, b"the second");
    place.run("reconstruct", &[trace(1)]).exits(1).says(&[name, "is not in"]);
    let inspected = place.run("inspect", &["--json"]).exits(1).json();
    assert_eq!((&inspected["batches"], &inspected["damaged_files"]), (&1.into(), &1.into()));

    // A worker finds the raw file still there, and stores it again.
    for (name, bytes) in [(first, "the first"), (second, "the second")] {
        place.write(&format!("data/{name}"), document(&[span(1 + u32::from(name == second), 1).input(bytes)]));
    }
    run(place.command("worker").arg("--once")).exits(0).says(&[name, "not stored", "committed=1"]);
    fs::remove_file(damaged).unwrap();
    assert_eq!(place.content(&trace(1)), b"the first");
    assert_eq!(place.content(&trace(2)), b"the second");
}
