//! What the parser promises: the same records however the bytes arrive and in either encoding, exact content, and
//! errors that say where.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use gravity_pipeline::decompress::{self, RawTally};
use gravity_pipeline::otlp::{
    DocumentTally, FrameLimits, ParseSettings, Part, Record, RecordKind, SpanRecord, Stray, parse,
};
use gravity_pipeline::{Error, InputError, Result, Stage};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const WHOLE: usize = usize::MAX;

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

fn parsed_within(document: &[u8], piece: usize, limits: FrameLimits) -> Result<Vec<Record>> {
    let pieces: Vec<Result<Bytes>> = document.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let settings = ParseSettings { limits, concurrency: 2, ..ParseSettings::default() };
    block_on(async {
        let records = parse(stream::iter(pieces), settings, DocumentTally::default());
        let mut blocks: Vec<_> = records.try_collect().await?;
        blocks.sort_by_key(|block| block.number);
        Ok(blocks.into_iter().flat_map(|block| block.items).collect())
    })
}

fn parsed(document: &[u8], piece: usize) -> Vec<Record> {
    parsed_within(document, piece, FrameLimits::default()).unwrap()
}

/// Why and where a document is refused, which must not depend on how it arrives.
fn refused_within(document: &[u8], limits: FrameLimits) -> InputError {
    let [whole, piecewise] = [WHOLE, 1].map(|piece| match parsed_within(document, piece, limits) {
        Err(Error::Input(e)) if e.stage == Stage::Parse => e,
        other => panic!("not refused: {other:?}"),
    });
    assert_eq!(whole.to_string(), piecewise.to_string());
    whole
}

fn refused(document: &[u8]) -> InputError {
    refused_within(document, FrameLimits::default())
}

fn spans(records: Vec<Record>) -> Vec<SpanRecord> {
    let span = |record| match record {
        Record::Span(span) => span,
        other => panic!("not a span: {other:?}"),
    };
    records.into_iter().map(span).collect()
}

fn strays(records: Vec<Record>) -> Vec<Stray> {
    records
        .into_iter()
        .filter_map(|record| if let Record::Stray(stray) = record { Some(stray) } else { None })
        .collect()
}

mod samples {
    use super::*;

    /// Every sample with its records, counted by other means.
    const SAMPLES: [(&str, usize); 5] = [
        ("batch-logs_157726992.json.gz", 10),
        ("batch-traces_01a205ec-a78c-7bd2-8b72-31f908e78c40.json.gz", 333),
        ("batch-traces_01a205ee-0e44-7656-9ada-f544d2406edb.binpb.zst", 333),
        ("batch-traces_346048237.json.gz", 193),
        ("batch-traces_390426523.json.gz", 327),
    ];

    fn document(name: &str) -> Vec<u8> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev/sample/raw-spans/dt=2026-11-22/hour=19");
        let raw = Bytes::from(std::fs::read(folder.join(name)).unwrap());
        let raw = stream::once(async { Ok(raw) });
        let plain = decompress::decompress(raw, decompress::Limits::default(), RawTally::default());
        block_on(plain.try_collect::<Vec<_>>()).unwrap().concat()
    }

    #[test]
    fn every_record_of_a_real_batch_is_a_span_or_a_log_record_of_a_trace() {
        for (name, count) in SAMPLES {
            assert_eq!(spans(parsed(&document(name), WHOLE)).len(), count, "{name}");
        }
    }

    #[test]
    fn records_do_not_depend_on_how_the_bytes_arrive() {
        for (name, _) in SAMPLES {
            let document = document(name);
            let whole = format!("{:?}", parsed(&document, WHOLE));
            for piece in [977, 128 << 10, document.len() / 2 + 1] {
                assert!(format!("{:?}", parsed(&document, piece)) == whole, "{name} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_real_document_cut_off_anywhere_is_refused() {
        let (logs, _) = SAMPLES[0];
        let document = document(logs);
        for length in 0..document.len() {
            let error = parsed_within(&document[..length], WHOLE, FrameLimits::default()).unwrap_err();
            assert!(error.is_permanent(), "{length} bytes: {error}");
        }
    }

    #[test]
    fn prompts_of_real_batches_are_among_the_parts() {
        for (name, key, content) in [
            (SAMPLES[0].0, "gen_ai.prompt", "embed this text"),
            (SAMPLES[0].0, "body", r#"{"role":"user","content":"embed this text"}"#),
            (SAMPLES[1].0, "gen_ai.prompt.0.content", "embed this text"),
            (SAMPLES[2].0, "gen_ai.prompt.0.content", "embed this text"),
        ] {
            let spans = spans(parsed(&document(name), WHOLE));
            let mut parts = spans.iter().flat_map(|span| &span.parts);
            assert!(parts.any(|part| part.key == key && part.content == content), "{name}: {key}");
        }
    }
}

mod encodings {
    use super::*;

    /// Just enough of protobuf to write OTLP with.
    fn varint(mut n: u64, out: &mut Vec<u8>) {
        while n >= 0x80 {
            out.push(n as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
    }

    fn len(field: u64, content: impl AsRef<[u8]>) -> Vec<u8> {
        let mut out = Vec::new();
        varint(field << 3 | 2, &mut out);
        varint(content.as_ref().len() as u64, &mut out);
        out.extend_from_slice(content.as_ref());
        out
    }

    fn number(field: u64, n: u64) -> Vec<u8> {
        let mut out = Vec::new();
        varint(field << 3, &mut out);
        varint(n, &mut out);
        out
    }

    fn fixed64(field: u64, n: u64) -> Vec<u8> {
        let mut out = Vec::new();
        varint(field << 3 | 1, &mut out);
        out.extend_from_slice(&n.to_le_bytes());
        out
    }

    fn pair(key: &str, value: Vec<u8>) -> Vec<u8> {
        [len(1, key), len(2, value)].concat()
    }

    fn string(text: &str) -> Vec<u8> {
        len(1, text)
    }

    fn request(records: &[Vec<u8>]) -> Vec<u8> {
        let records: Vec<_> = records.iter().map(|record| len(2, record)).collect();
        let resource = len(1, len(1, pair("service.name", string("litellm"))));
        len(1, [resource, len(2, [len(1, len(1, "scope")), records.concat()].concat())].concat())
    }

    fn protobuf_span(trace_id: &[u8], attributes: &[Vec<u8>]) -> Vec<u8> {
        let attributes: Vec<_> = attributes.iter().map(|attribute| len(9, attribute)).collect();
        [
            len(1, trace_id),
            len(2, [2; 8]),
            len(4, [3; 8]),
            len(5, "chat"),
            number(6, 3),
            fixed64(7, 1_700_000_000_000_000_001),
            fixed64(8, 1_700_000_000_000_000_002),
            attributes.concat(),
            number(10, 4),
            len(11, [fixed64(1, 5), len(2, "llm.request"), len(3, pair("body", string("an\nevent")))].concat()),
        ]
        .concat()
    }

    fn json_request(records: &str) -> String {
        format!(
            r#"{{"resourceSpans":[{{"resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"litellm"}}}}]}},"scopeSpans":[{{"scope":{{"name":"scope"}},"spans":[{records}]}}]}}]}}"#
        )
    }

    fn json_span(attributes: &str) -> String {
        format!(
            r#"{{"traceId":"01010101010101010101010101010101","spanId":"0202020202020202","parentSpanId":"0303030303030303","name":"chat","kind":3,"startTimeUnixNano":"1700000000000000001","endTimeUnixNano":"1700000000000000002","attributes":[{attributes}],"droppedAttributesCount":4,"events":[{{"timeUnixNano":"5","name":"llm.request","attributes":[{{"key":"body","value":{{"stringValue":"an\nevent"}}}}]}}]}}"#
        )
    }

    /// All of a record but where it stood.
    fn but_for_the_offset(mut records: Vec<SpanRecord>) -> String {
        for record in &mut records {
            record.offset = 0;
        }
        format!("{records:#?}")
    }

    #[test]
    fn the_same_spans_in_json_and_protobuf_give_the_same_records() {
        let kv_list = [len(1, pair("z", string("ü\n"))), len(1, pair("a", number(3, (-7i64) as u64)))].concat();
        let array =
            [len(1, string("x")), len(1, number(2, 1)), len(1, fixed64(4, 0.1f64.to_bits())), len(1, [])].concat();
        let attributes = [
            pair("gen_ai.prompt.0.content", string(" hello\r\n\0 👋\n")),
            pair("gen_ai.prompt.1.content", len(5, array)),
            pair("gen_ai.prompt.2.content", len(6, kv_list)),
            pair("gen_ai.prompt.3.content", len(7, b"\x00\xff")),
            pair("gen_ai.prompt.4.content", string("")),
            pair("gen_ai.prompt.5.content", number(3, 1)),
            pair("http.method", string("POST")),
        ];
        let json = json_request(&json_span(
            r#"{"key":"gen_ai.prompt.0.content","value":{"stringValue":" hello\r\n\u0000 \ud83d\udc4b\n"}},
               {"key":"gen_ai.prompt.1.content","value":{"arrayValue":{"values":[{"stringValue":"x"},{"boolValue":true},{"doubleValue":0.1},{}]}}},
               {"key":"gen_ai.prompt.2.content","value":{"kvlistValue":{"values":[{"key":"z","value":{"stringValue":"ü\n"}},{"key":"a","value":{"intValue":"-7"}}]}}},
               {"key":"gen_ai.prompt.3.content","value":{"bytesValue":"AP8="}},
               {"key":"gen_ai.prompt.4.content","value":{"stringValue":""}},
               {"key":"gen_ai.prompt.5.content","value":{"intValue":1}},
               {"key":"http.method","value":{"stringValue":"POST"}}"#,
        ));
        let from_json = spans(parsed(json.as_bytes(), WHOLE));
        let from_protobuf = spans(parsed(&request(&[protobuf_span(&[1; 16], &attributes)]), WHOLE));
        let part = |event: Option<&str>, key: &str, content: &'static [u8]| Part {
            event: event.map(str::to_owned),
            key: key.into(),
            content: Bytes::from_static(content),
        };
        assert_eq!(
            from_json[0].parts,
            [
                part(None, "gen_ai.prompt.0.content", " hello\r\n\0 👋\n".as_bytes()),
                part(None, "gen_ai.prompt.1.content", br#"["x",true,0.1,null]"#),
                part(None, "gen_ai.prompt.2.content", r#"{"z":"ü\n","a":-7}"#.as_bytes()),
                part(None, "gen_ai.prompt.3.content", b"\x00\xff"),
                part(None, "gen_ai.prompt.4.content", b""),
                part(Some("llm.request"), "body", b"an\nevent"),
            ]
        );
        assert_eq!(but_for_the_offset(from_json), but_for_the_offset(from_protobuf));
    }

    #[test]
    fn the_same_log_record_in_json_and_protobuf_gives_the_same_record() {
        let protobuf = request(&[[
            number(2, 9),
            len(3, "INFO"),
            len(5, string("what is asked")),
            len(6, pair("event_name", string("gen_ai.content.prompt"))),
            len(9, [1; 16]),
            len(10, [2; 8]),
            fixed64(11, 1_700_000_000_000_000_001),
        ]
        .concat()]);
        let json = r#"{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"traceId":"01010101010101010101010101010101","spanId":"0202020202020202","observedTimeUnixNano":"1700000000000000001","body":{"stringValue":"what is asked"},"attributes":[{"key":"event_name","value":{"stringValue":"gen_ai.content.prompt"}}]}]}]}]}"#;
        let from_json = spans(parsed(json.as_bytes(), WHOLE));
        assert_eq!(from_json[0].kind, RecordKind::Log);
        assert_eq!(from_json[0].parts.iter().filter(|part| part.content == "what is asked").count(), 1);
        assert_eq!(but_for_the_offset(from_json), but_for_the_offset(spans(parsed(&protobuf, WHOLE))));
    }

    #[test]
    fn protobuf_records_do_not_depend_on_how_the_bytes_arrive() {
        let document = request(&[
            protobuf_span(&[1; 16], &[pair("input.value", string(&"long ".repeat(100)))]),
            protobuf_span(&[4; 16], &[]),
        ]);
        let whole = format!("{:?}", parsed(&document, WHOLE));
        for piece in 1..document.len() {
            assert_eq!(format!("{:?}", parsed(&document, piece)), whole, "pieces of {piece}");
        }
    }

    #[test]
    fn a_protobuf_request_cut_off_anywhere_is_refused() {
        let document = request(&[protobuf_span(&[1; 16], &[pair("input.value", string("text"))])]);
        for length in 0..document.len() {
            refused(&document[..length]);
        }
    }

    #[test]
    fn a_protobuf_request_that_begins_like_json_is_read_as_protobuf() {
        // `\n{\n"`: resource spans of 123 bytes that begin with a resource of 34.
        let resource = len(1, len(1, pair("service.name", string("fourteen-bytes"))));
        assert_eq!(resource[..2], [0x0a, 34]);
        let span = [len(1, [1; 16]), len(2, [2; 8]), len(5, "n".repeat(53))].concat();
        let document = len(1, [resource, len(2, len(2, span))].concat());
        assert_eq!(document[..4], *b"\n{\n\"");
        assert_eq!(spans(parsed(&document, WHOLE)).len(), 1);
        assert_eq!(spans(parsed(&document, 1)).len(), 1);
    }

    #[test]
    fn a_json_document_that_begins_with_blanks_and_line_feeds_is_read_as_json() {
        let document = format!("\n \n{{\n \"resourceSpans\" {}", &json_request(&json_span(""))[16..]);
        assert_eq!(spans(parsed(document.as_bytes(), WHOLE)).len(), 1);
        assert_eq!(spans(parsed(document.as_bytes(), 1)).len(), 1);
    }

    #[test]
    fn a_record_with_a_bad_trace_id_becomes_a_stray_with_its_exact_bytes_and_its_neighbours_stay() {
        let bad = r#"{ "traceId":"0101",  "spanId" : "0202020202020202","name":"\u0041\n"}"#;
        let document = json_request(&[&json_span(""), bad, &json_span("")].join(", "));
        let offset = document.find(bad).unwrap();
        let records = parsed(document.as_bytes(), 10);
        assert!(matches!(records[..], [Record::Span(_), Record::Stray(_), Record::Span(_)]));
        let stray = strays(records).remove(0);
        assert_eq!((stray.offset, stray.is_protobuf), (offset as u64, false));
        assert_eq!(stray.bytes, bad);
        assert_eq!(stray.reason, "trace id: 4 hex digits instead of 32");
    }

    #[test]
    fn a_protobuf_record_with_a_bad_trace_id_becomes_a_stray_with_its_exact_bytes() {
        let bad = protobuf_span(&[1; 15], &[]);
        let stray = strays(parsed(&request(&[protobuf_span(&[1; 16], &[]), bad.clone()]), 10)).remove(0);
        assert!(stray.is_protobuf);
        assert_eq!(stray.bytes, bad);
        assert_eq!(stray.reason, "trace id: 15 bytes instead of 16");
    }

    #[test]
    fn a_protobuf_record_that_is_neither_span_nor_log_becomes_a_stray_and_not_the_batchs_end() {
        let good = protobuf_span(&[1; 16], &[]);
        let records = parsed(&request(&[vec![], good]), 10);
        assert_eq!(records.len(), 2);
        let stray = strays(records).remove(0);
        assert_eq!(stray.reason, "neither a span nor a log record, as far as its fields tell");
        assert_eq!(stray.bytes, "");
    }

    #[test]
    fn ids_that_are_missing_or_all_zero_make_a_stray_too() {
        for bad in [
            r#"{}"#,
            r#"{"traceId":"00000000000000000000000000000000","spanId":"0202020202020202"}"#,
            r#"{"traceId":"01010101010101010101010101010101"}"#,
            r#"{"traceId":"01010101010101010101010101010101","spanId":"0202020202020202","parentSpanId":"x"}"#,
        ] {
            assert_eq!(strays(parsed(json_request(bad).as_bytes(), WHOLE))[0].bytes, bad);
        }
    }

    #[test]
    fn deep_nesting_in_json_is_refused_at_the_bracket_that_is_too_much() {
        let open = r#"{"x":"#.to_owned() + &"[".repeat(100_000);
        let document = json_request(&json_span("")).replace(r#"{"traceId"#, &open);
        let error = refused(document.as_bytes());
        assert_eq!(error.reason, "nested too deeply");
        assert_eq!(error.offset, document.find("[[").unwrap() as u64 + 119);
    }

    #[test]
    fn deep_nesting_in_protobuf_is_refused_with_its_place() {
        let nested = (0..1000).fold(string("x"), |value, _| len(5, len(1, value)));
        let document = request(&[protobuf_span(&[1; 16], &[pair("input.value", nested)])]);
        let error = refused(&document);
        assert!(error.reason.contains("nested too deeply"), "{error}");
        let value = document.windows(11).position(|bytes| bytes == b"input.value").unwrap() as u64;
        assert!((value..document.len() as u64).contains(&error.offset), "{error}");
    }

    #[test]
    fn nesting_within_the_limit_is_kept() {
        let mut value = r#"{"stringValue":"x"}"#.to_owned();
        for _ in 0..20 {
            value = format!(r#"{{"arrayValue":{{"values":[{value}]}}}}"#);
        }
        let document = json_request(&json_span(&format!(r#"{{"key":"input.value","value":{value}}}"#)));
        let content = format!("{}\"x\"{}", "[".repeat(20), "]".repeat(20));
        assert_eq!(spans(parsed(document.as_bytes(), WHOLE))[0].parts[0].content, content);
    }

    #[test]
    fn duplicate_keys_are_refused_at_the_second_one() {
        let twice = json_request(r#"{"name":"a","name":"b"}"#);
        let error = refused(twice.as_bytes());
        assert!(error.reason.contains("duplicate field `name`"), "{error}");
        // Where the reader stood when it had read the key.
        assert_eq!(error.offset, twice.find(r#"":"b""#).unwrap() as u64);
        let structural = r#"{"resourceSpans":[{"scopeSpans":[],"scopeSpans":[]}]}"#;
        let error = refused(structural.as_bytes());
        assert_eq!(error.offset, structural.rfind(r#""scopeSpans""#).unwrap() as u64);
    }

    #[test]
    fn invalid_utf_8_is_refused_at_the_first_such_byte() {
        for place in ["NAME", "OTHER", "SCHEMA"] {
            let span = r#"{"traceId":"01","name":"NAME","x":"OTHER"}"#;
            let text = format!(r#"{{"resourceSpans":[{{"schemaUrl":"SCHEMA","scopeSpans":[{{"spans":[{span}]}}]}}]}}"#);
            let at = text.find(place).unwrap();
            let mut document = text.into_bytes();
            document[at] = 0xff;
            let error = refused(&document);
            assert_eq!((error.offset, error.reason.as_str()), (at as u64, "not UTF-8, so not JSON"), "{place}");
        }
    }

    #[test]
    fn a_json_value_over_the_limit_is_refused_where_it_begins() {
        let limits = FrameLimits { max_record_bytes: 10_000 };
        let long = "x".repeat(10_000);
        let document =
            json_request(&json_span(&format!(r#"{{"key":"input.value","value":{{"stringValue":"{long}"}}}}"#)));
        let error = refused_within(document.as_bytes(), limits);
        assert_eq!(error.offset, document.find(r#"{"traceId"#).unwrap() as u64);
        assert!(error.reason.contains("MAX_SPAN_BYTES"), "{error}");
    }

    #[test]
    fn a_json_value_that_is_nested_too_deeply_beyond_the_limit_is_too_large_however_it_arrives() {
        let limits = FrameLimits { max_record_bytes: 1_000 };
        let document = json_request(&format!(r#"{{"x":"{}","y":{}"#, "x".repeat(2_000), "[".repeat(200)));
        assert!(refused_within(document.as_bytes(), limits).reason.contains("MAX_SPAN_BYTES"));
    }

    #[test]
    fn a_protobuf_record_over_the_limit_is_refused_where_it_begins() {
        let limits = FrameLimits { max_record_bytes: 10_000 };
        let large = protobuf_span(&[7; 16], &[pair("input.value", string(&"x".repeat(10_000)))]);
        let document = request(&[protobuf_span(&[1; 16], &[]), large.clone()]);
        let error = refused_within(&document, limits);
        assert!(error.reason.contains("MAX_SPAN_BYTES"), "{error}");
        // The field's tag and length stand before the record.
        assert_eq!(error.offset, (document.len() - len(2, large).len()) as u64);
    }

    #[test]
    fn a_record_of_exactly_the_limit_is_read() {
        let span = json_span("");
        let limits = FrameLimits { max_record_bytes: span.len() };
        assert_eq!(parsed_within(json_request(&span).as_bytes(), 100, limits).unwrap().len(), 1);
        let span = protobuf_span(&[1; 16], &[]);
        let limits = FrameLimits { max_record_bytes: span.len() };
        assert_eq!(parsed_within(&request(&[span]), 100, limits).unwrap().len(), 1);
    }

    /// How a character is written in JSON.
    #[derive(Debug, Clone, Copy)]
    enum Style {
        Raw,
        Short,
        LowerHex,
        UpperHex,
    }

    fn hex(unit: u16, style: Style) -> String {
        if matches!(style, Style::UpperHex) { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") }
    }

    /// Writes UTF-16 as the inside of a JSON string, and what bytes it stands for (WTF-8 where it is not Unicode).
    fn write(units: &[(u16, Style)]) -> (String, Vec<u8>) {
        let (mut json, mut bytes) = (String::new(), Vec::new());
        let mut styles = units.iter().map(|&(_, style)| style);
        for character in char::decode_utf16(units.iter().map(|&(unit, _)| unit)) {
            let style = styles.next().unwrap();
            match character {
                Ok(c) => {
                    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    let short = "\"\\/\u{8}\u{c}\n\r\t".find(c).map(|at| &"\"\\/bfnrt"[at..at + 1]);
                    match (style, short) {
                        (Style::Short, Some(short)) => json += &format!("\\{short}"),
                        (Style::Raw | Style::Short, _) if c >= ' ' && c != '"' && c != '\\' => json.push(c),
                        _ => c.encode_utf16(&mut [0; 2]).iter().for_each(|&unit| json += &hex(unit, style)),
                    }
                    if c.len_utf16() == 2 {
                        styles.next();
                    }
                }
                Err(lone) => {
                    let unit = lone.unpaired_surrogate();
                    json += &hex(unit, style);
                    bytes.extend_from_slice(&[
                        0xe0 | (unit >> 12) as u8,
                        0x80 | (unit >> 6 & 0x3f) as u8,
                        0x80 | (unit & 0x3f) as u8,
                    ]);
                }
            }
        }
        (json, bytes)
    }

    fn units() -> impl Strategy<Value = Vec<(u16, Style)>> {
        let unit = prop_oneof![
            0..0x80u16,
            any::<u16>(),
            0xd800..0xdc00u16,
            0xdc00..0xe000u16,
            prop::sample::select(br#""\/bfnrtu{}[]"#.map(u16::from).to_vec()),
        ];
        let style = prop::sample::select(vec![Style::Raw, Style::Short, Style::LowerHex, Style::UpperHex]);
        prop::collection::vec((unit, style), 0..40)
    }

    proptest! {
        #[test]
        fn a_json_string_comes_back_as_its_exact_bytes_however_it_was_escaped(units in units(), piece in 1..300usize) {
            let (escaped, bytes) = write(&units);
            let attribute = format!(r#"{{"key":"input.value","value":{{"stringValue":"{escaped}"}}}}"#);
            let spans = spans(parsed(json_request(&json_span(&attribute)).as_bytes(), piece));
            prop_assert_eq!(&spans[0].parts[0].content[..], &bytes[..]);
        }

        #[test]
        fn a_json_string_in_a_list_comes_back_as_json_of_the_same_text(units in units()) {
            let (escaped, bytes) = write(&units);
            let in_list = |key: &str, content: &str| {
                let value = format!(r#"{{"arrayValue":{{"values":[{{"stringValue":"{content}"}}]}}}}"#);
                let attribute = format!(r#"{{"key":"{key}","value":{value}}}"#);
                spans(parsed(json_request(&json_span(&attribute)).as_bytes(), WHOLE))[0].parts[0].content.clone()
            };
            let json = String::from_utf8(in_list("input.value", &escaped).to_vec()).unwrap();
            let inside = json.strip_prefix("[\"").and_then(|json| json.strip_suffix("\"]")).unwrap();
            let attribute = format!(r#"{{"key":"input.value","value":{{"stringValue":"{inside}"}}}}"#);
            let again = spans(parsed(json_request(&json_span(&attribute)).as_bytes(), WHOLE));
            prop_assert_eq!(&again[0].parts[0].content[..], &bytes[..]);
        }

        #[test]
        fn a_protobuf_string_comes_back_as_its_exact_bytes(content: Vec<u8>, piece in 1..300usize) {
            let attribute = pair("input.value", len(1, &content));
            let spans = spans(parsed(&request(&[protobuf_span(&[1; 16], &[attribute])]), piece));
            prop_assert_eq!(&spans[0].parts[0].content[..], &content[..]);
        }
    }
}

#[test]
fn an_error_of_the_source_comes_through_as_it_is() {
    let source = stream::iter([Ok(Bytes::from(r#"{"resourceSpans":["#)), Err(Error::NotFound("gone".into()))]);
    let records = parse(source, ParseSettings::default(), DocumentTally::default());
    let outcomes = block_on(records.collect::<Vec<_>>());
    assert!(matches!(&outcomes[..], [Err(Error::NotFound(what))] if what == "gone"), "{outcomes:?}");
}

#[test]
fn blanks_without_end_are_refused_before_they_are_held_in_memory() {
    let blanks = Bytes::from(vec![b' '; 64 << 10]);
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = taken.clone();
    let source = stream::iter((0..1000).map(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(blanks.clone())
    }));
    let outcomes = block_on(parse(source, ParseSettings::default(), DocumentTally::default()).collect::<Vec<_>>());
    assert!(matches!(&outcomes[..], [Err(Error::Input(_))]), "{outcomes:?}");
    assert!(taken.load(Ordering::Relaxed) < 10);
}
