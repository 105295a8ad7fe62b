//! `gravity reconstruct --otlp`: a trace as one OTLP JSON document, whichever encoding its records came in.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, protobuf, span, trace};
use common::packed::packed;
use common::{Place, Ran, run, run_with_stdin, samples, zst};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest as Logs;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest as Traces;
use opentelemetry_proto::tonic::common::v1::{InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;

#[track_caller]
fn otlp(place: &Place, id: &str) -> Ran {
    place.run("reconstruct", &["--otlp", id]).exits(0)
}

/// The document, and that nothing was said about it.
#[track_caller]
fn whole(place: &Place, id: &str) -> Traces {
    let ran = otlp(place, id);
    assert_eq!(ran.stderr, "");
    serde_json::from_slice(&ran.stdout).unwrap()
}

/// A sample in JSON and the one in protobuf, read by the `opentelemetry-proto` crate.
fn json_sample() -> Traces {
    let file = fs::read(samples().join("dt=2026-11-22/hour=19/batch-traces_346048237.json.gz")).unwrap();
    let mut json = Vec::new();
    flate2::read::MultiGzDecoder::new(&file[..]).read_to_end(&mut json).unwrap();
    serde_json::from_slice(&json).unwrap()
}

fn protobuf_sample() -> Traces {
    let name = "dt=2026-11-22/hour=19/batch-traces_01a205ee-0e44-7656-9ada-f544d2406edb.binpb.zst";
    Traces::decode(&zstd::decode_all(&fs::read(samples().join(name)).unwrap()[..]).unwrap()[..]).unwrap()
}

/// What is of this trace, by the crate's own reading.
fn of_trace(batch: &Traces, id: &[u8]) -> Traces {
    let mut batch = batch.clone();
    for resource in &mut batch.resource_spans {
        for scope in &mut resource.scope_spans {
            scope.spans.retain(|span| span.trace_id == id);
        }
        resource.scope_spans.retain(|scope| !scope.spans.is_empty());
    }
    batch.resource_spans.retain(|resource| !resource.scope_spans.is_empty());
    batch
}

/// The traces of a batch, their ids in both forms.
fn ids(batch: &Traces) -> BTreeMap<String, Vec<u8>> {
    let scopes = batch.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    let ids = scopes.flat_map(|scope| &scope.spans).map(|span| span.trace_id.clone());
    ids.map(|id| (id.iter().map(|byte| format!("{byte:02x}")).collect(), id)).collect()
}

#[test]
fn each_trace_that_the_collector_wrote_as_protobuf_is_what_it_sent() {
    let (place, batch) = (packed(), protobuf_sample());
    run(place.command("ingest").arg(samples())).exits(0);
    let ids = ids(&batch);
    assert!(ids.len() > 40, "{}", ids.len());
    for (hex, id) in ids {
        assert_eq!(whole(&place, &hex), of_trace(&batch, &id), "{hex}");
    }
}

#[test]
fn protobuf_and_json_of_the_same_spans_give_the_same() {
    let (from_json, from_protobuf, batch) = (packed(), packed(), json_sample());
    from_json.ingest_file("batch.json", serde_json::to_vec(&batch).unwrap());
    from_protobuf.ingest_file("batch.binpb", batch.encode_to_vec());
    for (hex, id) in ids(&batch) {
        let found = whole(&from_protobuf, &hex);
        assert_eq!(found, whole(&from_json, &hex), "{hex}");
        assert_eq!(found, of_trace(&batch, &id), "{hex}");
    }
}

#[test]
fn what_it_gives_can_be_ingested_again_and_reads_the_same() {
    let (place, again) = (packed(), packed());
    run(place.command("ingest").arg(samples())).exits(0);
    for hex in ids(&protobuf_sample()).keys().step_by(4) {
        let document = otlp(&place, hex).stdout;
        run_with_stdin(again.command("ingest").arg("-"), &document).exits(0);
        let json = |place: &Place| place.run("reconstruct", &["--json", hex]).exits(0).stdout;
        assert_eq!(String::from_utf8(json(&again)).unwrap(), String::from_utf8(json(&place)).unwrap());
        // Now it is JSON, of which each byte comes back.
        assert_eq!(otlp(&again, hex).stdout, document);
    }
}

fn service(name: &str) -> Option<Resource> {
    let value = opentelemetry_proto::tonic::common::v1::any_value::Value::StringValue(name.into());
    let value = opentelemetry_proto::tonic::common::v1::AnyValue { value: Some(value) };
    let attribute = KeyValue { key: "service.name".into(), value: Some(value), ..KeyValue::default() };
    Some(Resource { attributes: vec![attribute], ..Resource::default() })
}

fn named(name: &str) -> Option<InstrumentationScope> {
    Some(InstrumentationScope { name: name.into(), version: "1".into(), ..InstrumentationScope::default() })
}

fn id(n: u8) -> Vec<u8> {
    (0..16).map(|at| if at == 15 { n } else { 0 }).collect()
}

/// Resources with and without scopes, scopes with and without a name, spans of several traces.
fn structured() -> Traces {
    let spans = |numbers: &[u8]| -> Vec<Span> {
        let one = |&n: &u8| Span {
            trace_id: id(1 + n % 3),
            span_id: vec![n; 8],
            name: format!("span {n}"),
            ..Span::default()
        };
        numbers.iter().map(one).collect()
    };
    let scope = |scope, numbers, url: &str| ScopeSpans { scope, spans: spans(numbers), schema_url: url.into() };
    let resource = |resource, scope_spans, url: &str| ResourceSpans { resource, scope_spans, schema_url: url.into() };
    Traces {
        resource_spans: vec![
            resource(
                service("first"),
                vec![scope(named("a"), &[1, 2, 3, 4], "https://a"), scope(named("b"), &[5, 6], "")],
                "u",
            ),
            resource(None, vec![scope(None, &[7, 8, 9], ""), scope(None, &[10, 11, 12], "https://c")], ""),
            resource(service("empty"), vec![scope(named("c"), &[], "")], ""),
            resource(
                service(&"long ".repeat(1000)),
                vec![scope(None, &[13], ""), scope(named("d"), &[14, 15], "")],
                "v",
            ),
        ],
    }
}

#[test]
fn each_span_stands_in_its_own_resource_and_scope() {
    let batch = structured();
    let (from_json, from_protobuf) = (packed(), packed());
    from_json.ingest_file("batch.json", serde_json::to_vec_pretty(&batch).unwrap());
    from_protobuf.ingest_file("batch.binpb", batch.encode_to_vec());
    for n in 1..=3 {
        let expected = of_trace(&batch, &id(n));
        assert_eq!(whole(&from_protobuf, &trace(n.into())), expected);
        assert_eq!(whole(&from_json, &trace(n.into())), expected);
    }
}

#[test]
fn log_records_come_with_theirs() {
    let record =
        |n: u8| LogRecord { trace_id: id(n), time_unix_nano: 7, severity_text: "INFO".into(), ..LogRecord::default() };
    let scope_logs = vec![ScopeLogs { scope: named("logger"), log_records: vec![record(1)], ..ScopeLogs::default() }];
    let batch =
        Logs { resource_logs: vec![ResourceLogs { resource: service("s"), scope_logs, ..ResourceLogs::default() }] };
    let place = packed();
    place.ingest_file("logs.binpb", batch.encode_to_vec());
    let found: Logs = serde_json::from_slice(&otlp(&place, &trace(1)).stdout).unwrap();
    assert_eq!(found, batch);
    // A trace of spans and log records.
    place.ingest_file("spans.json", document(&[span(1, 1).input("x")]));
    let both = otlp(&place, &trace(1)).json();
    assert_eq!(
        (both["resourceSpans"].as_array().unwrap().len(), both["resourceLogs"].as_array().unwrap().len()),
        (1, 1)
    );
}

#[test]
fn a_resource_behind_its_spans_is_theirs() {
    let place = packed();
    let resource = |n: u32| {
        format!(
            r#"{{"scopeSpans":[{{"spans":[{}],"scope":{{"name":"s{n}"}}}}],"schemaUrl":"u","resource":{{"attributes":[],"droppedAttributesCount":{n}}}}}"#,
            span(n, n).input("x").json()
        )
    };
    place.ingest_file("a.json", format!(r#"{{"resourceSpans":[{},{}]}}"#, resource(1), resource(2)));
    for n in 1..=2 {
        let found = otlp(&place, &trace(n)).json();
        let [one] = &found["resourceSpans"].as_array().unwrap()[..] else { panic!("{found}") };
        assert_eq!((&one["resource"]["droppedAttributesCount"], &one["schemaUrl"]), (&n.into(), &"u".into()));
        assert_eq!(one["scopeSpans"][0]["scope"]["name"], format!("s{n}"));
    }
}

#[test]
fn spans_that_came_as_json_keep_every_byte() {
    let place = packed();
    let odd =
        r#"{ "traceId": "00000000000000000000000000000001","spanId":"0000000000000001", "x":1.50, "name":"\u0041\/" }"#;
    place.ingest_file("a.json", format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{odd}]}}]}}]}}"#));
    let ran = otlp(&place, &trace(1));
    assert!(ran.text().contains(odd), "{}", ran.text());
}

#[test]
fn a_batch_that_is_stored_twice_counts_once() {
    let place = packed();
    for _ in 0..2 {
        place.ingest_file("a.binpb", protobuf(1, 1, "x"));
        place.ingest_file("a.json", document(&[span(1, 2).input("y")]));
    }
    assert_eq!(place.store().keys("spans").len(), 4);
    assert_eq!(ids(&whole(&place, &trace(1))).len(), 1);
    assert_eq!(whole(&place, &trace(1)).resource_spans.len(), 2);
}

#[test]
fn what_the_document_does_not_say_is_told() {
    let place = packed();
    // A field that no release of OTLP has, and a name that is not UTF-8.
    let mut span = Span { trace_id: id(1), span_id: vec![1; 8], ..Span::default() }.encode_to_vec();
    span.extend_from_slice(&[0xa2, 0x06, 1, b'x', 0x2a, 2, b'n', 0xff]);
    let mut request = span;
    for tag in [0x12, 0x12, 0x0a] {
        request = [&[tag, request.len() as u8][..], &request].concat();
    }
    place.ingest_file("a.binpb.zst", zst(&request));
    let ran = otlp(&place, &trace(1)).says(&[
        "1 field that OTLP JSON has no name for: left out",
        "1 text that is not UTF-8",
        "gravity restore",
        "a.binpb.zst",
    ]);
    assert_eq!(ran.json()["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["name"], "n\u{fffd}");
    assert_eq!(place.run("restore", &["a.binpb.zst"]).exits(0).stdout, request);
}

#[test]
fn spans_of_a_batch_that_was_cut_off_come_without_what_they_stood_in() {
    let place = packed();
    let batch = document(&[span(1, 1).input("x"), span(1, 2).input("y")]);
    place.ingest_file("a.json", &batch[..batch.len() - 5]);
    let ran = otlp(&place, &trace(1)).says(&["2 records in a batch that is not whole: without resource and scope"]);
    assert_eq!(ran.json()["resourceSpans"].as_array().unwrap().len(), 2);
    // Protobuf tells before each what it belongs to.
    let batch = structured().encode_to_vec();
    place.ingest_file("b.binpb", &batch[..batch.len() - 5]);
    assert_eq!(otlp(&place, &trace(2)).json()["resourceSpans"][0]["scopeSpans"][0]["scope"]["name"], "a");
}

#[test]
fn a_trace_that_is_not_there_is_an_error() {
    packed().run("reconstruct", &["--otlp", &trace(1)]).exits(1).says(&[&trace(1), "is not in data"]);
}
