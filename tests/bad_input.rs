//! What is not a batch, or not one that fits: refused with the file and the place, and nothing of it committed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, document_around, span, span_with_literal, trace};
use common::{Dice, Place, gz, run, run_with_stdin, zst};
use flate2::Compression;
use flate2::read::GzEncoder;
use std::fs;
use std::io::Read;

/// What both ways in must do with a bad batch between two good ones: name it and the place, commit the others whole
/// and nothing of it. The settings are variables.
#[track_caller]
fn refused_with(bad: &[u8], words: &[&str], settings: &[(&str, &str)]) {
    let good = |n| document(&[span(n, n).input(&format!("good {n}"))]);
    let files = |place: &Place, folder: &str| {
        place.write(&format!("{folder}/a"), good(1));
        place.write(&format!("{folder}/bad"), bad);
        place.write(&format!("{folder}/c"), good(2));
    };
    let others_are_whole = |place: &Place| {
        let store = place.store();
        assert_eq!(store.check().keys("batches").len(), 2);
        assert_eq!(store.keys("indexes").len(), 2);
        assert_eq!(store.read_original(&trace(1)), b"good 1");
        assert_eq!(store.read_original(&trace(2)), b"good 2");
    };

    let place = Place::new();
    files(&place, "in");
    let ran = run(place.command("ingest").arg("in").envs(settings.iter().copied())).exits(1);
    assert_eq!(ran.says(words).says(&["in/bad: ", "1 input failed"]).lines().len(), 2);
    others_are_whole(&place);

    let place = Place::new();
    files(&place, "data/raw-spans");
    let mut worker = place.command("worker");
    run(worker.arg("--once").envs(settings.iter().copied())).exits(3).says(words).says(&["raw-spans/bad"]);
    others_are_whole(&place);
    let store = place.store();
    let reason = &store.json("quarantine/raw-spans/bad.json")["reason"];
    for word in words {
        assert!(reason.as_str().unwrap().contains(word), "{word:?} is not in {reason}");
    }
    assert_eq!(store.0["raw-spans/bad"], bad, "the raw file stays");
}

#[track_caller]
fn refused(bad: &[u8], words: &[&str]) {
    refused_with(bad, words, &[]);
}

fn batch(text: &str) -> Vec<u8> {
    document(&[span(9, 9).input(text)]).into_bytes()
}

#[test]
fn an_empty_file() {
    refused(b"", &["byte 0", "empty"]);
}

#[test]
fn nothing_but_blanks() {
    refused(b" \r\n\t\n", &["byte 0", "empty"]);
}

#[test]
fn a_gzip_file_of_nothing() {
    refused(&gz(b""), &["empty"]);
}

#[test]
fn a_truncated_gzip_file() {
    let whole = gz(&batch(&Dice::new(1).letters(200_000)));
    refused(&whole[..whole.len() / 2], &["decompress, byte ", "gzip", "cut off"]);
    refused(&whole[..whole.len() - 3], &["decompress, byte ", "gzip", "cut off"]);
}

#[test]
fn a_truncated_zstd_file() {
    let whole = zst(&batch(&Dice::new(1).letters(200_000)));
    refused(&whole[..whole.len() / 2], &["decompress, byte ", "zstd", "cut off"]);
}

#[test]
fn gzip_whose_bytes_were_changed() {
    let mut changed = gz(&batch(&Dice::new(1).letters(10_000)));
    let middle = changed.len() / 2;
    changed[middle] ^= 0x10;
    refused(&changed, &["byte "]);
    let mut wrong_sum = gz(&batch("x"));
    let at = wrong_sum.len() - 6;
    wrong_sum[at] ^= 1;
    refused(&wrong_sum, &["decompress, byte ", "gzip"]);
}

#[test]
fn garbage_behind_the_end_of_gzip() {
    refused(&[gz(&batch("x")), b"garbage".to_vec()].concat(), &["decompress, byte ", "gzip"]);
}

#[test]
fn garbage_behind_the_end_of_a_document() {
    let whole = batch("x");
    let place = format!("byte {}", whole.len() + 1);
    refused(&[&whole, &b"\ngarbage"[..]].concat(), &["parse, ", &place]);
    refused(&[&whole, &whole[..40]].concat(), &["parse, byte ", "cut off"]);
}

#[test]
fn what_is_not_json() {
    refused(b"hello", &["parse, byte 0", "neither OTLP JSON nor OTLP protobuf"]);
    refused(&gz(b"<html>502 Bad Gateway</html>"), &["parse, byte 0", "neither"]);
    refused(br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"a":tru}]}]}]}"#, &["parse, byte "]);
}

#[test]
fn json_that_is_not_otlp() {
    refused(br#"{"hello":"world"}"#, &["parse, byte 0", "without resourceSpans or resourceLogs"]);
    refused(br#"[1,2,3]"#, &["parse, byte 0"]);
    refused(br#"{"resourceMetrics":[]}"#, &["parse, byte 1", "metrics"]);
    refused(br#"{"resourceSpans":"no"}"#, &["parse, byte 17", "not an array"]);
}

#[test]
fn protobuf_that_is_not_otlp() {
    refused(b"\x0a\x05hello", &["parse, byte "]);
    refused(&common::otlp::protobuf(1, 1, &"x".repeat(500))[..300], &["parse, byte "]);
}

#[test]
fn deep_nesting() {
    let deep = |n| format!(r#"{{"resourceSpans":[],"x":{}{}}}"#, "[".repeat(n), "]".repeat(n));
    refused(deep(100_000).as_bytes(), &["parse, byte ", "nested"]);
    let value = format!("{}{}", r#"{"arrayValue":{"values":["#.repeat(50_000), "]}}".repeat(50_000));
    let span = span(9, 9)
        .json()
        .replace(r#""attributes":[]"#, &format!(r#""attributes":[{{"key":"input.value","value":{value}}}]"#));
    refused(&document_around(span.as_bytes()), &["parse, byte "]);
}

#[test]
fn a_key_that_stands_twice() {
    refused(br#"{"resourceSpans":[],"resourceSpans":[]}"#, &["parse, byte 20", "resourceSpans stands twice"]);
    let twice = span(9, 9).json().replacen('{', r#"{"traceId":"00000000000000000000000000000001","#, 1);
    refused(&document_around(twice.as_bytes()), &["parse, byte ", "traceId"]);
}

#[test]
fn bytes_that_are_not_utf8() {
    refused(&document_around(&span_with_literal(9, b"\xff\xfe")), &["parse, byte ", "UTF-8"]);
    refused(b"{\"resourceSpans\":[],\"x\":\"\xc3\"}", &["parse, byte ", "UTF-8"]);
}

#[test]
fn a_value_that_is_none_or_two() {
    for value in
        [r#"{"stringValue":"a","stringValue":"b"}"#, r#"{"stringValue":"a","intValue":"1"}"#, r#"{"bytesValue":"!!"}"#]
    {
        let attributes = format!(r#""attributes":[{{"key":"input.value","value":{value}}}]"#);
        let span = span(9, 9).json().replace(r#""attributes":[]"#, &attributes);
        refused(&document_around(span.as_bytes()), &["parse, byte ", "not an OTLP record"]);
    }
}

#[test]
fn more_blanks_than_any_document_begins_with() {
    refused(&[&[b' '; 200_000][..], &batch("x")].concat(), &["parse, byte 0", "no document begins"]);
}

#[test]
fn a_span_over_the_limit() {
    let large = batch(&"x".repeat(2000));
    refused_with(&large, &["parse, byte ", "more than 1000 bytes", "MAX_SPAN_BYTES"], &[("MAX_SPAN_BYTES", "1000")]);
}

#[test]
fn a_batch_over_the_limit() {
    let large = gz(&batch(&"x".repeat(200_000)));
    refused_with(&large, &["decompress, byte ", "100000 bytes", "MAX_BATCH_BYTES"], &[("MAX_BATCH_BYTES", "100kB")]);
}

#[test]
fn a_trace_whose_index_is_over_the_limit() {
    let lines: Vec<_> = (0..200).map(|n| n.to_string()).collect();
    refused_with(&batch(&lines.join("\n")), &[&trace(9), "MAX_INDEX_BYTES"], &[("MAX_INDEX_BYTES", "4KiB")]);
}

/// 80 MiB of spaces inside a document, in members of 1 MiB that are all the same.
fn bomb() -> Vec<u8> {
    let mut spaces = Vec::new();
    GzEncoder::new(&vec![b' '; 1 << 20][..], Compression::best()).read_to_end(&mut spaces).unwrap();
    let (head, tail) = (gz(br#"{"resourceSpans":["#), gz(b"]}"));
    [head, spaces.repeat(80), tail].concat()
}

#[test]
fn a_decompression_bomb_by_its_ratio() {
    refused(&bomb(), &["decompress, byte ", "more than 500 times", "MAX_RATIO"]);
    let place = Place::new();
    let path = place.write("bomb", bomb());
    run(place.command("ingest").arg(path).env("MAX_RATIO", "1000000")).exits(0);
}

#[test]
fn a_decompression_bomb_by_its_size() {
    refused_with(&bomb(), &["decompress, byte ", "1048576 bytes", "MAX_BATCH_BYTES"], &[("MAX_BATCH_BYTES", "1MiB")]);
}

#[test]
fn ids_that_are_none_go_to_quarantine_with_the_span_and_the_rest_is_kept() {
    let bad = [
        span(9, 9).with("traceId", "../../../../../../../../../etc/x").input("a"),
        span(9, 9).with("traceId", "xyz").input("b"),
        span(9, 9).with("spanId", "1234").input("c"),
        span(9, 9).with("spanId", "0000000000000000").input("d"),
        span(9, 9).with("parentSpanId", "../").input("e"),
    ];
    let place = Place::new();
    let spans = [&bad[..], &[span(1, 1).input("kept")]].concat();
    place.write("data/raw-spans/b", document(&spans));
    place.run("worker", &["--once"]).exits(3);
    let store = place.store();
    let lines: Vec<_> = store.keys("quarantine").into_iter().flat_map(|key| store.json_lines(key)).collect();
    let records: Vec<_> = lines.iter().map(|line| line["record"].as_str().unwrap().to_owned()).collect();
    assert_eq!(records, bad.map(|span| span.json()));
    assert_eq!(store.check().keys("indexes"), [format!("indexes/{}.json", trace(1))]);
}

#[test]
fn a_key_that_tries_to_leave_the_store_stays_inside_it() {
    for key in ["../../escaped", "/escaped", "a/../../../escaped", "..", "a\nc", "./.gravity/tmp/x"] {
        let place = Place::new();
        let batch = document(&[span(1, 1).input("x")]);
        run_with_stdin(place.command("ingest").args(["--key", key]), batch.as_bytes()).exits(0);
        let store = place.store();
        assert_eq!(store.json(store.check().keys("batches")[0])["key"], key);
        let beside: Vec<_> = fs::read_dir(place.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(beside, ["data"], "{key:?}");
    }
}
