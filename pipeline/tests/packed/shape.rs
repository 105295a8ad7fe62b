//! Records are taken apart and put together again, and nothing stands between them that is not kept.

use crate::nodes::InMemory;
use bytes::Bytes;
use futures::{TryStreamExt, stream};
use gravity_pipeline::keys::ContentKeys;
use gravity_pipeline::otlp::{
    DocumentTally, Element, Encoding, Frame, FrameBlock, FrameLimits, Record, RecordKind, decode,
};
use gravity_pipeline::packed::gaps::{Problem, Stretch, gaps};
use gravity_pipeline::packed::row::{Row, RowKind, Rows};
use gravity_pipeline::packed::rows::rows_of;
use proptest::prelude::*;
use std::path::PathBuf;

fn block(encoding: Encoding, records: &[(&[u8], &[u8])]) -> Stretch {
    let frames = records.iter().map(|(gap, record)| Frame {
        offset: 0,
        encoding,
        bytes: Bytes::copy_from_slice(record),
        gap: Bytes::copy_from_slice(gap),
        element: Element::default(),
    });
    Stretch::Records(FrameBlock { number: 0, frames: frames.collect() })
}

#[track_caller]
fn shredded(encoding: Encoding, gap: &[u8], record: &[u8]) -> (InMemory, Rows<usize>) {
    let nodes = InMemory::default();
    // Twice, so that what the first leaves behind is seen.
    let rows = rows_of(&block(encoding, &[(gap, record), (gap, record)]), &ContentKeys::default(), &nodes);
    let joined = nodes.join(&rows);
    let expected = [gap, record, gap, record].concat();
    assert!(joined == expected, "{} became {}", expected.escape_ascii(), joined.escape_ascii());
    columns_are_strings(&rows);
    (nodes, rows)
}

#[track_caller]
fn columns_are_strings(rows: &Rows<usize>) {
    for row in &rows.rows {
        for id in [row.name, row.model, row.provider, row.service, row.tenant].into_iter().flatten() {
            let text = rows.texts.get(id);
            assert!(std::str::from_utf8(text).is_ok(), "{} in a column", text.escape_ascii());
        }
    }
}

/// The first row of a record.
fn row(rows: &Rows<usize>) -> Row<usize> {
    *rows.rows.iter().find(|row| row.kind != RowKind::Text).expect("a row of a record")
}

fn sample() -> Vec<(PathBuf, Vec<u8>)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("../dev/sample"), root.join("fuzz/seeds")];
    let mut files = vec![];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let mut bytes = std::fs::read(&path).unwrap();
                if bytes.starts_with(b"\x1f\x8b") {
                    let mut plain = vec![];
                    let read =
                        std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(&bytes[..]), &mut plain);
                    if read.is_ok() {
                        bytes = plain;
                    }
                }
                files.push((path, bytes));
            }
        }
    }
    assert!(files.len() > 10);
    files.sort();
    files
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Cuts a batch that arrives in pieces of this size.
fn cut_up(batch: &[u8], piece: usize, limits: FrameLimits) -> (Vec<Stretch>, Option<String>) {
    let pieces: Vec<_> = batch.chunks(piece.max(1)).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let problem = Problem::default();
    let stretches =
        block_on(gaps(stream::iter(pieces), limits, DocumentTally::default(), problem.clone()).try_collect());
    (stretches.unwrap(), problem.get())
}

fn bytes_of(stretch: &Stretch) -> Vec<u8> {
    match stretch {
        Stretch::Text(text) => text.to_vec(),
        Stretch::Records(block) => {
            block.frames.iter().flat_map(|frame| [&frame.gap[..], &frame.bytes].concat()).collect()
        }
    }
}

/// Stretches joined are the batch, and so are the rows that they become.
#[track_caller]
fn nothing_is_lost(batch: &[u8], piece: usize, limits: FrameLimits) {
    let (stretches, _) = cut_up(batch, piece, limits);
    assert!(stretches.iter().flat_map(bytes_of).eq(batch.iter().copied()), "stretches of {}", batch.escape_ascii());
    let nodes = InMemory::default();
    let mut all = Rows::default();
    for stretch in &stretches {
        all.append(&rows_of(stretch, &ContentKeys::default(), &nodes));
    }
    all.name_resources();
    assert!(nodes.join(&all) == batch, "rows of {}", batch.escape_ascii());
    columns_are_strings(&all);
}

const SMALL: FrameLimits = FrameLimits { max_record_bytes: 3000 };

#[test]
fn real_batches_and_seeds_come_back_in_any_pieces() {
    for (_, batch) in sample() {
        for piece in [usize::MAX, 1000, 17] {
            if batch.len() / piece < 20_000 {
                nothing_is_lost(&batch, piece, FrameLimits::default());
                nothing_is_lost(&batch, piece, SMALL);
            }
        }
    }
}

#[test]
fn real_records_that_were_damaged_come_back() {
    let mut dice = 1u64;
    let mut roll = |n: usize| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) as usize % n.max(1)
    };
    for (_, batch) in sample() {
        let batch = &batch[..batch.len().min(60_000)];
        for _ in 0..40 {
            let mut damaged = batch.to_vec();
            for _ in 0..roll(4) {
                if damaged.is_empty() {
                    break;
                }
                let (at, to) = (roll(damaged.len()), roll(damaged.len()));
                match roll(4) {
                    0 => damaged[at] = roll(256) as u8,
                    1 => damaged.truncate(at.max(to)),
                    2 => drop(damaged.drain(at.min(to)..at.min(to) + 1)),
                    _ => {
                        let copied = damaged[at.min(to)..(at.min(to) + 40).min(damaged.len())].to_vec();
                        damaged.splice(at..at, copied);
                    }
                }
            }
            nothing_is_lost(&damaged, 1 + roll(5000), SMALL);
        }
        for (stretch, encoding) in
            cut_up(batch, usize::MAX, FrameLimits::default()).0.iter().zip([Encoding::Protobuf].into_iter().cycle())
        {
            // JSON taken for protobuf, and the other way round.
            if let Stretch::Records(block) = stretch {
                for frame in block.frames.iter().take(5) {
                    shredded(encoding, b"", &frame.bytes);
                    shredded(Encoding::JsonSpan, b",", &frame.bytes);
                }
            }
        }
    }
}

fn odd_json() -> impl Strategy<Value = Vec<u8>> {
    let key = prop::sample::select(vec![
        "traceId",
        "spanId",
        "parentSpanId",
        "name",
        "startTimeUnixNano",
        "endTimeUnixNano",
        "timeUnixNano",
        "observedTimeUnixNano",
        "attributes",
        "events",
        "links",
        "status",
        "code",
        "key",
        "value",
        "intValue",
        "doubleValue",
        "stringValue",
        "arrayValue",
        "body",
        "x",
    ]);
    let label = prop::sample::select(vec![
        "gen_ai.usage.cost",
        "llm.token_count.prompt",
        "gen_ai.usage.output_tokens",
        "gen_ai.request.model",
        "llm.provider",
        "input.value",
        "gen_ai.prompt.0.content",
        "other",
    ]);
    let scalar = prop_oneof![
        prop::sample::select(vec![
            "-0",
            "0",
            "1e400",
            "-1e400",
            "007",
            "18446744073709551616",
            "9223372036854775807",
            "-9223372036854775808",
            "1.0",
            "0.1",
            "-0.0",
            "1E5",
            "1e21",
            "100000000000000000000000",
            "-inf",
            "-infinity",
            "-nan",
            "NaN",
            "1.",
            "-",
            "+1",
            "--1",
            "true",
            "null",
            "\"\"",
            "\"0\"",
            "\"-0\"",
            "\"+1\"",
            "\"1700000000000000000\"",
            "\"18446744073709551615\"",
            "\" 1\"",
            "\"AABBCCDDEEFF00112233445566778899\"",
            "\"aabbccddeeff00112233445566778899\"",
            "\"aabbccddeeff0011\"",
            "\"aabbccddeeff001\"",
            "\"\\u0061abbccddeeff0011\"",
            "\"\u{fffc}\"",
            "\"\\u003c\"",
            "\"\\ud83d\"",
            "\"a longer text with a lone surrogate in it: \\ude00, so that it is lifted\"",
            "\"\\/\"",
            "\"\0\"",
            "\"\0z\0A\"",
            "\"unterminated",
            "{}",
            "[]",
            "\"0.25\"",
        ])
        .prop_map(str::to_owned),
        "\"[ -!#-\\[\\]-~]{0,80}\"",
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| number.to_string()),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    let value = (label, scalar.clone()).prop_flat_map(|(label, scalar)| {
        prop::sample::select(vec!["intValue", "doubleValue", "stringValue"])
            .prop_map(move |kind| format!(r#"{{"key":"{label}","value":{{"{kind}":{scalar}}}}}"#))
    });
    let value = prop_oneof![
        scalar,
        value.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
                prop::collection::vec(inner, 0..4)
                    .prop_map(|items| format!("{{\"attributes\":[{}]}}", items.join(", "))),
            ]
        })
    ];
    let colon = prop::sample::select(vec![":", ":", ":", " : ", ":\n"]);
    prop::collection::vec((key, colon, value), 0..8).prop_map(|members| {
        let members: Vec<String> =
            members.into_iter().map(|(key, colon, value)| format!("\"{key}\"{colon}{value}")).collect();
        format!("{{{}}}", members.join(",")).into_bytes()
    })
}

fn varint(mut value: u64, longer: bool) -> Vec<u8> {
    let mut out = vec![];
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(if longer { low | 0x80 } else { low });
            if longer {
                out.push(0);
            }
            return out;
        }
        out.push(low | 0x80);
    }
}

fn odd_protobuf() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![8 => 0u64..17, 1 => Just(536_870_911), 1 => Just(1 << 40)];
    let leaf = prop_oneof![
        any::<Vec<u8>>(),
        "[ -~]{0,100}".prop_map(String::into_bytes),
        Just(vec![7; 16]),
        Just(vec![9; 8]),
        Just(b"gen_ai.usage.cost".to_vec()),
        Just(b"llm.token_count.prompt".to_vec()),
        Just(b"gen_ai.request.model".to_vec()),
        Just(b"input.value".to_vec()),
    ];
    leaf.prop_recursive(6, 60, 6, move |inner| {
        let field = (number.clone(), 0u64..8, any::<u64>(), inner, any::<f64>(), 0..60u8);
        prop::collection::vec(field, 0..6).prop_map(|fields| {
            let mut out = vec![];
            for (number, wire, value, bytes, double, odd) in fields {
                // Mostly what encoders write: lengths in the shortest form, no groups.
                let wire = if odd < 58 && matches!(wire, 3 | 4 | 6 | 7) { 2 } else { wire };
                out.extend(varint(number << 3 | wire, odd == 0));
                match wire {
                    0 => out.extend(varint(value, odd == 1)),
                    1 if value % 2 == 0 => out.extend(double.to_le_bytes()),
                    1 => out.extend(value.to_le_bytes()),
                    2 => {
                        out.extend(varint(bytes.len() as u64 + u64::from(odd == 2), odd == 3));
                        out.extend(bytes);
                    }
                    5 => out.extend([1, 2, 3, 4]),
                    _ => {}
                }
            }
            out
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn json_records_come_back(record in odd_json(), gap in prop::sample::select(vec!["", ",", "]},{\"spans\":[", ", \n\0", "[{\"resource\":{\"attributes\":[]}}"])) {
        shredded(Encoding::JsonSpan, gap.as_bytes(), &record);
        shredded(Encoding::JsonLog, gap.as_bytes(), &record);
    }

    #[test]
    fn any_bytes_as_a_record_come_back(record in any::<Vec<u8>>(), gap in prop::collection::vec(any::<u8>(), 0..20)) {
        for encoding in [Encoding::JsonSpan, Encoding::JsonLog, Encoding::Protobuf] {
            shredded(encoding, &gap, &record);
        }
    }

    #[test]
    fn protobuf_records_come_back(record in odd_protobuf(), longer in any::<bool>()) {
        shredded(Encoding::Protobuf, b"", &record);
        shredded(Encoding::Protobuf, &[vec![0x12], varint(record.len() as u64, longer)].concat(), &record);
        shredded(Encoding::Protobuf, &[vec![0x0a, 0, 0x12], varint(record.len() as u64, false)].concat(), &record);
        shredded(Encoding::Protobuf, b"\x12\x05", &record);
    }

    #[test]
    fn any_bytes_as_a_batch_come_back(batch in any::<Vec<u8>>(), piece in 1usize..40) {
        nothing_is_lost(&batch, piece, SMALL);
    }

    #[test]
    fn documents_of_odd_records_come_back(
        records in prop::collection::vec(odd_json(), 0..5),
        between in prop::sample::select(vec![",", ", ", "]},{\"spans\":[", "]}]},{\"resource\":{\"attributes\":[{\"key\":\"service.name\",\"value\":{\"stringValue\":\"s\"}}]},\"scopeSpans\":[{\"spans\":["]),
        end in prop::sample::select(vec!["]}]}]}", "]}]}]}\n{}", "]}]}", "]}]}]}garbage", "", "],\"x\":[1,2,{\"y\":\"z\"}]}]}]}"]),
        piece in 1usize..4000,
    ) {
        let batch = [b"{\"resourceSpans\":[{\"scopeSpans\":[{\"spans\":[".to_vec(), records.join(between.as_bytes()), end.as_bytes().to_vec()].concat();
        nothing_is_lost(&batch, piece, SMALL);
    }

    #[test]
    fn protobuf_batches_of_odd_records_come_back(records in prop::collection::vec(odd_protobuf(), 0..4), cut in any::<prop::sample::Index>(), whole in any::<bool>(), piece in 1usize..400) {
        let wrap = |tag: u8, inner: &[u8]| [vec![tag], varint(inner.len() as u64, false), inner.to_vec()].concat();
        let records: Vec<u8> = records.iter().flat_map(|record| wrap(0x12, record)).collect();
        let mut batch = wrap(0x0a, &wrap(0x12, &records));
        if !whole {
            batch.truncate(cut.index(batch.len() + 1));
        }
        nothing_is_lost(&batch, piece, SMALL);
    }
}

#[test]
fn a_number_that_is_none_stays_where_it_is() {
    let record = br#"{"attributes":[{"key":"gen_ai.usage.cost","value":{"doubleValue":-inf}}]}"#;
    assert_eq!(row(&shredded(Encoding::JsonSpan, b"", record).1).cost, None);
}

#[test]
fn the_values_of_a_record_are_in_its_columns() {
    let record = br#"{"traceId":"00112233445566778899aabbccddeeff","spanId":"0011223344556677","parentSpanId":"","name":"chat \"x\"","startTimeUnixNano":"1700000000000000000","endTimeUnixNano":1700000000000000005,"attributes":[{"key":"gen_ai.usage.cost","value":{"doubleValue":0.25}},{"key":"gen_ai.request.model","value":{"stringValue":"m"}},{"key":"gen_ai.usage.input_tokens","value":{"intValue":"12"}}],"events":[{"name":"not this","attributes":[{"key":"gen_ai.usage.input_tokens","value":{"intValue":"13"}}]}],"status":{"code":2}}"#;
    let (_, rows) = shredded(Encoding::JsonSpan, b",", record);
    let row = row(&rows);
    let text = |id| std::str::from_utf8(rows.texts.get(id)).unwrap();
    assert_eq!((row.span_id, row.parent_span_id), (Some([0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77]), None));
    assert_eq!((row.name.map(text), row.model.map(text)), (Some("chat \"x\""), Some("m")));
    assert_eq!((row.start, row.end), (Some(1_700_000_000_000_000_000), Some(1_700_000_000_000_000_005)));
    assert_eq!((row.cost, row.input_tokens, row.status), (Some(0.25), Some(12), Some(2)));
}

#[test]
fn a_lone_surrogate_is_in_no_column_since_other_engines_want_strings() {
    let json = |text: &str| {
        format!(
            r#"{{"name":{text},"attributes":[{{"key":"llm.model_name","value":{{"stringValue":{text}}}}},{{"key":"llm.provider","value":{{"stringValue":{text}}}}}]}}"#
        )
    };
    let columns = |record: &str| {
        let row = row(&shredded(Encoding::JsonSpan, b"", record.as_bytes()).1);
        [row.name, row.model, row.provider].map(|id| id.is_some())
    };
    assert_eq!(columns(&json(r#""a\ud83db""#)), [false; 3]);
    assert_eq!(columns(&json(r#""a😀b""#)), [true; 3]);
}

/// A field of protobuf; `longer` writes tag and length with a byte too many.
fn field(number: u64, longer: bool, value: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2, longer), varint(value.len() as u64, longer), value.to_vec()].concat()
}

fn attribute(number: u64, longer: [bool; 3], key: &str, text: &[u8]) -> Vec<u8> {
    let value = field(1, longer[0], text);
    field(number, longer[1], &[field(1, longer[2], key.as_bytes()), field(2, longer[0], &value)].concat())
}

proptest! {
    #[test]
    fn a_record_that_loose_finds_is_found_however_its_protobuf_is_written(
        longer in any::<[bool; 6]>(),
        three in any::<[bool; 3]>(),
        text in prop::collection::vec(any::<u8>(), 0..200),
        is_log in any::<bool>(),
        has_time in any::<bool>(),
    ) {
        let (trace, span, parent) = ([1; 16], [2; 8], [3; 8]);
        let record = match is_log {
            true => [
                if has_time { [vec![0x09], vec![5; 8]].concat() } else { vec![] },
                attribute(6, three, "input.value", &text),
                field(9, longer[0], &trace),
                field(10, longer[1], &span),
            ],
            false => [
                [field(1, longer[0], &trace), field(2, longer[1], &span), field(4, longer[2], &parent)].concat(),
                [field(5, longer[3], &text), attribute(9, three, "gen_ai.request.model", &text)].concat(),
                attribute(9, three, "input.value", &text),
                [varint(15 << 3 | 2, longer[4]), vec![2], if longer[5] { vec![0x18, 2] } else { vec![0x18, 0x82] }].concat(),
            ],
        };
        let record = record.concat();
        let (_, rows) = shredded(Encoding::Protobuf, b"", &record);
        let found = row(&rows);
        prop_assert_eq!((found.trace_id, found.span_id), (Some(trace), Some(span)));
        prop_assert_eq!(found.parent_span_id, (!is_log).then_some(parent));
        prop_assert_eq!(found.kind, if is_log { RowKind::Log } else { RowKind::Span });
        let Stretch::Records(block) = block(Encoding::Protobuf, &[(b"", &record)]) else { unreachable!() };
        match &decode(&block, &ContentKeys::default()).unwrap().items[0] {
            Record::Span(read) => {
                prop_assert_eq!(read.kind, if is_log { RecordKind::Log } else { RecordKind::Span });
            }
            // Its name is not UTF-8.
            Record::Stray(_) => prop_assert!(!is_log && std::str::from_utf8(&text).is_err()),
            Record::Unrelated => prop_assert!(false, "it has a trace"),
        }
    }
}

#[test]
fn what_an_abandoned_record_left_is_gone() {
    // A span with an attribute that is lifted, and then a tag without a value.
    let attribute = [&b"\x0a\x0binput.value\x12\x03\x0a\x01x"[..]].concat();
    let record = [&[0x4a, attribute.len() as u8][..], &attribute, &[0x08]].concat();
    let (_, rows) = shredded(Encoding::Protobuf, b"", &record);
    assert!(rows.rows.iter().all(|row| row.kind == RowKind::Text));
    assert_eq!(rows.refs.len(), rows.rows.len());
}

#[test]
fn values_nested_two_hundred_deep_come_back() {
    let mut value = b"\x0a\x01x".to_vec();
    for _ in 0..200 {
        let list = [vec![0x0a], varint(value.len() as u64, false), value].concat();
        value = [vec![0x2a], varint(list.len() as u64, false), list].concat();
    }
    let attribute = [&b"\x0a\x01k\x12"[..], &varint(value.len() as u64, false), &value].concat();
    shredded(Encoding::Protobuf, b"", &[vec![0x4a], varint(attribute.len() as u64, false), attribute].concat());
    let deep = format!(
        r#"{{"attributes":[{{"key":"input.value","value":{}"x"{}}}]}}"#,
        r#"{"arrayValue":"#.repeat(200),
        "}".repeat(200)
    );
    shredded(Encoding::JsonSpan, b"", deep.as_bytes());
}

#[test]
fn records_of_one_kind_have_one_shape_whatever_their_length() {
    let record = |text: &str| [&b"\x2a"[..], &varint(text.len() as u64, false), text.as_bytes()].concat();
    let (short, long) = (record("a"), record(&"b".repeat(300)));
    let head = |record: &[u8]| [vec![0x12], varint(record.len() as u64, false)].concat();
    let nodes = InMemory::default();
    let stretch = block(Encoding::Protobuf, &[(&head(&short), &short), (&head(&long), &long)]);
    let rows = rows_of(&stretch, &ContentKeys::default(), &nodes);
    assert_eq!(nodes.join(&rows), [head(&short), short, head(&long), long].concat());
    assert_eq!(rows.rows.len(), 2);
    assert_eq!(rows.rows[0].shape, rows.rows[1].shape);
}

#[test]
fn a_record_can_be_told_from_what_is_glued_before_it() {
    for record in [&b""[..], b"\x2a\x01a", b"\x4a\x04\x12\x02\x0a\x00", b"\x12\x08\x01\x02\x03\x04\x05\x06\x07\x08"] {
        for gap in [vec![0x12], vec![0x0a, 0x02, 0x0a, 0x00, 0x12]] {
            let gap = [gap, varint(record.len() as u64, false)].concat();
            for gap in [&gap[..], b""] {
                let (nodes, rows) = shredded(Encoding::Protobuf, gap, record);
                let at = rows.rows.iter().position(|row| row.shape.is_some()).unwrap();
                let mut whole = b"before".to_vec();
                let start = nodes.row(&rows, at, &mut whole);
                assert_eq!(&whole[start..], record);
            }
        }
    }
}

#[test]
fn a_huge_member_that_is_ignored_comes_in_pieces() {
    let ignored = format!("[{}1]", "\"some text\",".repeat(500_000));
    let batch = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"a":1}}],"x":{ignored}}}]}}]}}"#);
    let limits = FrameLimits { max_record_bytes: 1 << 20 };
    let (stretches, _) = cut_up(batch.as_bytes(), 64 << 10, limits);
    assert!(stretches.iter().flat_map(bytes_of).eq(batch.bytes()));
    assert!(stretches.iter().all(|stretch| bytes_of(stretch).len() <= 2 << 20));
    assert!(stretches.len() >= 4);
}

#[test]
fn a_value_before_its_key_is_still_that_keys() {
    // As the collector writes it: KeyValue { 2: value, 1: key }.
    let attribute = |key: &str, value: &[u8]| {
        let body = [&[0x12, value.len() as u8][..], value, &[0x0a, key.len() as u8], key.as_bytes()].concat();
        [&[0x4a, body.len() as u8][..], &body].concat()
    };
    let text = |text: &str| [&[0x0a, text.len() as u8][..], text.as_bytes()].concat();
    let record = [
        attribute("gen_ai.operation.name", &text("chat")),
        attribute("gen_ai.request.model", &text("gpt-4o")),
        attribute("gen_ai.usage.input_tokens", &[0x18, 12]),
        attribute("input.value", &text("short")),
    ]
    .concat();
    let (_, rows) = shredded(Encoding::Protobuf, b"", &record);
    let first = row(&rows);
    assert_eq!(first.model.map(|id| rows.texts.get(id)), Some(&b"gpt-4o"[..]));
    assert_eq!(first.input_tokens, Some(12));
    assert_eq!(rows.refs_of(0).len(), 1, "content, however short");

    let record = br#"{"attributes":[{"key":"gen_ai.request.model","value":{"intValue":"1"}},{"value":{"stringValue":"chat"},"key":"other"}]}"#;
    let (_, rows) = shredded(Encoding::JsonSpan, b"", record);
    assert_eq!(row(&rows).model, None);
}

/// Service and tenant of each record of a batch that arrives in pieces of this size; `early` writes what is there after
/// each stretch, as a batch that is too large is.
fn resources(batch: &[u8], piece: usize, early: bool) -> Vec<(Option<String>, Option<String>)> {
    let (nodes, mut written, mut rows) = (InMemory::default(), Rows::default(), Rows::default());
    // All of them are cut before the first is lifted, so an early one is lifted as soon as it is cut.
    let pieces: Vec<_> = batch.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let stretches = gaps(stream::iter(pieces), FrameLimits::default(), DocumentTally::default(), Problem::default());
    block_on(stretches.try_for_each(|stretch| {
        rows.append(&rows_of(&stretch, &ContentKeys::default(), &nodes));
        rows.name_resources();
        if early {
            written.append(&Rows { elements: vec![], ..std::mem::take(&mut rows) });
        }
        std::future::ready(Ok(()))
    }))
    .unwrap();
    written.append(&rows);
    let text = |id: Option<u32>| id.map(|id| String::from_utf8(written.texts.get(id).to_vec()).unwrap());
    let records = written.rows.iter().filter(|row| matches!(row.kind, RowKind::Span | RowKind::Log));
    records.map(|row| (text(row.service), text(row.tenant))).collect()
}

/// A resource in protobuf.
fn resource(attributes: &[(&str, &str)]) -> Vec<u8> {
    let attributes = attributes.iter().map(|(key, text)| attribute(1, [false; 3], key, text.as_bytes()));
    field(1, false, &attributes.collect::<Vec<_>>().concat())
}

/// So many spans in a scope.
fn scope(spans: usize) -> Vec<u8> {
    let span = field(2, false, &[field(1, false, &[7; 16]), field(2, false, &[8; 8])].concat());
    field(2, false, &span.repeat(spans))
}

fn named(service: &str, tenant: &str) -> (Option<String>, Option<String>) {
    (Some(service.into()), Some(tenant.into()))
}

#[test]
fn a_records_service_and_tenant_are_those_of_its_own_resource_wherever_that_stands() {
    let (a, b) = ([("service.name", "a"), ("tenant.id", "A")], [("service.name", "b"), ("tenant", "B")]);
    let before = |resource: &[u8]| field(1, false, &[resource, &scope(2)].concat());
    let behind = |resource: &[u8]| field(1, false, &[&scope(2), resource].concat());
    let between = |resource: &[u8]| field(1, false, &[&scope(1), resource, &scope(1)].concat());
    let (a, b, none) = (resource(&a), resource(&b), resource(&[("other", "service.name")]));
    let only_service = resource(&[("service.name", "c")]);
    let batch = [before(&a), behind(&b), between(&a), before(&none), behind(&only_service), before(&b), behind(b"")];
    let twice = |resource: (Option<String>, Option<String>)| [resource.clone(), resource];
    let expected = [
        twice(named("a", "A")),
        twice(named("b", "B")),
        twice(named("a", "A")),
        twice((None, None)),
        twice((Some("c".into()), None)),
        twice(named("b", "B")),
        twice((None, None)),
    ]
    .concat();
    for piece in [usize::MAX, 7, 1] {
        assert_eq!(resources(&batch.concat(), piece, false), expected, "pieces of {piece}");
    }
}

#[test]
fn in_json_a_resource_may_stand_behind_its_records_too() {
    let resource = |name: &str| {
        format!(
            r#""resource":{{"attributes":[{{"key":"service.name","value":{{"stringValue":"{name}"}}}},{{"value":{{"stringValue":"{name}2"}},"key":"tenant_id"}}]}}"#
        )
    };
    let spans = r#""scopeSpans":[{"spans":[{"name":"n"}]},{"spans":[{"name":"m"}]}]"#;
    let behind = format!("{{{spans},{}}}", resource("a"));
    let before = format!("{{{}, {spans}}}", resource("b"));
    let logs = format!(r#"{{"scopeLogs":[{{"logRecords":[{{}}]}}],{}}}"#, resource("c"));
    let batch = format!(
        r#"{{"resourceSpans":[{behind},{before},{{{spans}}},{{"resource":null,{spans}}}],"resourceLogs":[{logs}]}}"#
    );
    let expected =
        [vec![named("a", "a2"); 2], vec![named("b", "b2"); 2], vec![(None, None); 4], vec![named("c", "c2")]];
    for piece in [usize::MAX, 7] {
        assert_eq!(resources(batch.as_bytes(), piece, false), expected.concat(), "pieces of {piece}");
    }
}

#[test]
fn a_record_that_is_written_before_its_resource_is_known_has_none_rather_than_anothers() {
    let element = |name: &str, spans: usize| {
        field(1, false, &[scope(spans), resource(&[("service.name", name), ("tenant.id", name)])].concat())
    };
    let found = resources(&[element("a", 1), element("b", 9000)].concat(), 1000, true);
    let (none, a, b) = ((None, None), named("a", "a"), named("b", "b"));
    assert_eq!(found.len(), 9001);
    assert_eq!(found[0], a);
    assert!(found[1..].iter().all(|found| *found == none || *found == b), "another's");
    assert_eq!((&found[1], &found[9000]), (&none, &b));
    // Nor has one whose batch is cut off before its resource.
    let cut = element("a", 1);
    assert_eq!(resources(&cut[..cut.len() - 1], 1000, false), [none]);
}

#[test]
fn records_behind_one_that_is_too_long_are_records() {
    let json = |name: &str| format!(r#"{{"name":"{name}","links":[{{"a":"\\\"]}}"}}]}}"#);
    let long = json(&"[{long\\\\".repeat(2000));
    let json =
        format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{}, {long} ,{}]}}]}}]}}"#, json("a"), json("b"));
    let place = json.find(&long).unwrap();
    let span = |name: &[u8]| field(2, false, &field(5, false, name));
    let spans = [span(b"a"), span(&[b'x'; 7000]), span(b"b")].concat();
    let protobuf = field(1, false, &field(2, false, &spans));
    for (batch, place) in [(json.into_bytes(), place), (protobuf, 11)] {
        for piece in [usize::MAX, 1000, 17, 1] {
            nothing_is_lost(&batch, piece, SMALL);
            let (stretches, problem) = cut_up(&batch, piece, SMALL);
            let nodes = InMemory::default();
            let rows: Vec<_> =
                stretches.iter().map(|stretch| rows_of(stretch, &ContentKeys::default(), &nodes)).collect();
            let names = rows
                .iter()
                .flat_map(|rows| rows.rows.iter().filter_map(|row| row.name).map(|id| rows.texts.get(id).to_vec()));
            assert_eq!(names.collect::<Vec<_>>(), [b"a", b"b"], "pieces of {piece}");
            let problem = problem.unwrap();
            assert!(problem.starts_with(&format!("parse, byte {place}: a value of more than 3000 bytes")), "{problem}");
        }
    }
}
