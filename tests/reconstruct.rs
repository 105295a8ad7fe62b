//! `gravity reconstruct`: the content exactly on stdout, everything else on stderr.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, document_around, span, span_with_literal, trace};
use common::{Dice, Place, Ran, finish, run, run_with_stdin, start};
use std::fs;
use std::io::Read;

/// A store with two spans of two parts each.
fn two_spans() -> Place {
    let place = Place::new();
    let first =
        span(1, 1).attribute("gen_ai.prompt.0.role", "user").attribute("gen_ai.prompt.0.content", "What?\nNow.");
    let second =
        span(1, 2).attribute("gen_ai.prompt.0.content", "more").attribute("gen_ai.completion.0.content", "That.");
    place.ingest(document(&[second, first]).as_bytes()).exits(0);
    place
}

fn reconstruct(place: &Place, args: &[&str]) -> Ran {
    place.run("reconstruct", &[args, &[&trace(1)]].concat())
}

#[test]
fn content_comes_back_byte_for_byte() {
    let place = Place::new();
    let texts = [
        "",
        " ",
        "\n",
        "\n\n\n",
        " leading and trailing \t",
        "no newline at the end",
        "newline at the end\n",
        "a\r\nb\r\n",
        "a\0b\0",
        "\u{feff}bom",
        "e\u{301} \u{1F469}\u{200D}\u{1F680} \u{202E}",
        "quotes \" and \\ and \\n and \\u0041 and /",
        "\u{7f}\u{80}\u{2028}\u{2029}\u{10ffff}",
    ];
    let spans: Vec<_> = (1..).zip(texts).map(|(n, text)| span(n, n).input(text)).collect();
    place.ingest(document(&spans).as_bytes()).exits(0);
    for (n, text) in (1..).zip(texts) {
        assert_eq!(place.content(&trace(n)), text.as_bytes(), "{text:?}");
    }
}

#[test]
fn a_lone_surrogate_comes_back_as_its_three_bytes_and_as_its_escape_in_json() {
    let place = Place::new();
    let batch = document_around(&span_with_literal(1, br"a\ud800b \ude00"));
    place.ingest(&batch).exits(0);
    assert_eq!(place.content(&trace(1)), b"a\xed\xa0\x80b \xed\xb8\x80");
    let json = reconstruct(&place, &["--json"]).exits(0);
    assert!(json.text().to_lowercase().contains(r#""content":"a\ud800b \ude00""#), "{}", json.text());
}

#[test]
fn bytes_that_are_no_text_come_back_exactly_and_as_base64_in_json() {
    let place = Place::new();
    let attributes = serde_json::json!([{"key": "input.value", "value": {"bytesValue": "AP8KgA=="}}]);
    place.ingest(document(&[span(1, 1).with("attributes", attributes)]).as_bytes()).exits(0);
    assert_eq!(place.content(&trace(1)), b"\x00\xff\n\x80");
    let lines = reconstruct(&place, &["--json"]).exits(0).lines();
    assert_eq!((&lines[0]["content_base64"], &lines[0]["content"]), (&"AP8KgA==".into(), &serde_json::Value::Null));
}

#[test]
fn an_array_or_a_list_of_pairs_comes_back_as_its_json() {
    let place = Place::new();
    let pairs = serde_json::json!({"values": [{"key": "k", "value": {"boolValue": true}}]});
    let values = serde_json::json!([{"stringValue": "x"}, {"intValue": "5"}, {"kvlistValue": pairs}]);
    let attributes = serde_json::json!([{"key": "input.value", "value": {"arrayValue": {"values": values}}}]);
    place.ingest(document(&[span(1, 1).with("attributes", attributes)]).as_bytes()).exits(0);
    assert_eq!(place.content(&trace(1)), br#"["x",5,{"k":true}]"#);
}

#[test]
fn an_attribute_that_stands_twice_comes_back_twice() {
    let place = Place::new();
    place.ingest(document(&[span(1, 1).input("a").input("b")]).as_bytes()).exits(0);
    assert_eq!(place.content(&trace(1)), b"a\nb");
}

#[test]
fn stderr_has_a_header_and_a_sum_and_stdout_nothing_but_the_content() {
    let place = two_spans();
    let ran = reconstruct(&place, &[]).exits(0);
    assert_eq!(ran.text(), "user\nWhat?\nNow.\nmore\nThat.");
    assert_eq!(ran.stderr, format!("trace {}: 2 spans, 4 parts\n26 bytes from 5 chunks\n", trace(1)));
    assert_eq!(reconstruct(&place, &["-q"]).exits(0).stderr, "");
}

#[test]
fn span_and_part_select_what_is_printed() {
    let place = two_spans();
    let of = |args: &[&str]| String::from_utf8(reconstruct(&place, args).exits(0).stdout).unwrap();
    assert_eq!(of(&["--span", "0000000000000002"]), "more\nThat.");
    assert_eq!(of(&["--part", "gen_ai.prompt.0.content"]), "What?\nNow.\nmore");
    assert_eq!(of(&["--span", "0000000000000001", "--part", "gen_ai.prompt.0.role"]), "user");
}

#[test]
fn what_the_trace_does_not_have_is_named() {
    let place = two_spans();
    reconstruct(&place, &["--span", "00000000000000ff"]).exits(1).says(&["has no span 00000000000000ff", "--list"]);
    reconstruct(&place, &["--part", "nothing"]).exits(1).says(&["has no part \"nothing\"", "--list"]);
    let ran = place.run("reconstruct", &[trace(9)]).exits(1).says(&[&trace(9), "is not in data"]);
    assert_eq!(ran.text(), "");
}

#[test]
fn list_shows_spans_and_parts_with_their_sizes() {
    let place = two_spans();
    let ran = reconstruct(&place, &["--list"]).exits(0);
    let lines: Vec<_> = ran.text().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert!(lines[0].starts_with("span 0000000000000001 litellm_request stdin/"), "{lines:?}");
    assert_eq!(lines[1..3], ["4 bytes 1 chunk gen_ai.prompt.0.role", "10 bytes 2 chunks gen_ai.prompt.0.content"]);
    assert_eq!(lines.len(), 6);
}

#[test]
fn json_gives_each_part_as_a_line_with_its_key() {
    let place = two_spans();
    let lines = reconstruct(&place, &["--json"]).exits(0).lines();
    assert_eq!(lines.len(), 4);
    let expected = serde_json::json!({
        "trace_id": trace(1), "span_id": "0000000000000001", "key": "gen_ai.prompt.0.content", "content": "What?\nNow.",
    });
    assert_eq!(lines[1], expected);
}

#[test]
fn attributes_that_the_producer_dropped_are_shown() {
    let place = Place::new();
    place.ingest(document(&[span(1, 1).with("droppedAttributesCount", 3).input("x")]).as_bytes()).exits(0);
    let ran = reconstruct(&place, &[]).exits(0).says(&["span 0000000000000001", "dropped 3 attributes"]);
    assert_eq!(ran.text(), "x");
    assert!(reconstruct(&place, &["--list"]).exits(0).text().contains("3 attributes dropped by the producer"));
    assert_eq!(place.store().json(&format!("indexes/{}.json", trace(1)))["spans"][0]["dropped_attributes"], 3);
}

#[test]
fn an_id_that_is_none_is_a_usage_error() {
    let place = two_spans();
    for id in
        ["", "xyz", "../../etc/passwd", "00000000000000000000000000000000", "1", "../00000000000000000000000000001"]
    {
        place.run("reconstruct", &[id]).exits(2).says(&["trace id", &format!("{id:?}")]);
    }
    reconstruct(&place, &["--span", "../x"]).exits(2).says(&["--span"]);
}

#[test]
fn digits_of_either_case_name_a_trace() {
    let place = Place::new();
    place.ingest(document(&[span(0xabc, 1).input("x")]).as_bytes()).exits(0);
    assert_eq!(place.content(&trace(0xabc).to_uppercase()), b"x");
}

#[test]
fn a_chunk_that_is_broken_or_gone_is_an_error_with_its_key() {
    let place = Place::new();
    place.ingest(document(&[span(1, 1).input("good\nbad")]).as_bytes()).exits(0);
    let hash = blake3::hash(b"bad").to_hex();
    let key = format!("blobs/{}/{hash}.gz", &hash[..2]);
    let path = place.data().join(&key);
    let whole = fs::read(&path).unwrap();

    fs::write(&path, common::gz(b"other")).unwrap();
    let ran = reconstruct(&place, &[]).exits(1).says(&[&key, "its content has the hash"]);
    assert!(!ran.text().contains("other"), "what does not match must not be printed");
    fs::write(&path, &whole[..whole.len() - 4]).unwrap();
    reconstruct(&place, &[]).exits(1).says(&[&key, "gzip"]);
    fs::remove_file(&path).unwrap();
    reconstruct(&place, &[]).exits(1).says(&[&key, "not there"]);
}

#[test]
fn an_index_that_is_broken_is_an_error_with_its_key() {
    let place = two_spans();
    let key = format!("indexes/{}.json", trace(1));
    for broken in ["", "{}", "{\"trace_id\":1}"] {
        fs::write(place.data().join(&key), broken).unwrap();
        reconstruct(&place, &[]).exits(1).says(&[&key, "not an index"]);
    }
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let place = Place::new();
    let mut dice = Dice::new(1);
    let lines: Vec<_> = (0..2000).map(|_| dice.letters(500)).collect();
    place.ingest(document(&[span(1, 1).input(&lines.join("\n"))]).as_bytes()).exits(0);
    let mut child = start(place.command("reconstruct").arg(trace(1)));
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ran = finish(child).exits(0);
    assert_eq!(first, lines[0].as_bytes()[..10]);
    assert!(!ran.stderr.contains("roken"), "{}", ran.stderr);
}

#[test]
fn the_separator_is_the_store_s_and_not_the_environment_s() {
    let place = Place::new();
    let text = "a\nb\n\nc\n\n\nd";
    let mut ingest = place.command("ingest");
    run_with_stdin(ingest.env("CHUNK_SEPARATOR", r"\n\n"), document(&[span(1, 1).input(text)]).as_bytes()).exits(0);
    assert_eq!(place.store().keys("blobs").len(), 3, "a\\nb, c and \\nd");
    for separator in [r"\n\n", r"\n", "x"] {
        let mut command = place.command("reconstruct");
        let ran = run(command.arg(trace(1)).env("CHUNK_SEPARATOR", separator)).exits(0);
        assert_eq!(ran.text(), text);
    }
    place.ingest(document(&[span(2, 1).input("x")]).as_bytes()).exits(1).says(&["CHUNK_SEPARATOR", r#""\n\n""#]);
}

#[test]
fn a_separator_that_overlaps_itself_is_undone_exactly() {
    for (separator, text) in
        [("aa", "aaaaa"), ("aba", "ababa abaaba"), (r"\r\n", "x\r\r\n\ny"), ("\u{e9}", "\u{e9}\u{e9}e")]
    {
        let place = Place::new();
        let mut ingest = place.command("ingest");
        let batch = document(&[span(1, 1).input(text)]);
        run_with_stdin(ingest.env("CHUNK_SEPARATOR", separator), batch.as_bytes()).exits(0);
        assert_eq!(place.content(&trace(1)), text.as_bytes(), "{separator}");
    }
}
