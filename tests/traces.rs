//! The worker's own traces, as a collector receives them over OTLP.

#![cfg(feature = "otlp")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, span};
use common::running::Running;
use common::{Place, gz, run, wait_until};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};

const HOUR: &str = "data/raw-spans/dt=2025-10-31/hour=11";
const CONTENT: &str = "Xy7QmarkerZw9";

fn batch(n: u32) -> Vec<u8> {
    gz(document(&[span(n, n).input(&format!("{CONTENT} {n}"))]).as_bytes())
}

/// A request: its head, and its body.
type Received = (String, Vec<u8>);

/// Receives what is posted, and says that all is well.
fn collector() -> (String, Arc<Mutex<Vec<Received>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let received = Arc::new(Mutex::new(Vec::new()));
    let kept = received.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let kept = kept.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(connection.try_clone().unwrap());
                let mut head = String::new();
                while reader.read_line(&mut head).is_ok_and(|read| read > 0) {
                    if !head.ends_with("\r\n\r\n") {
                        continue;
                    }
                    let lower = head.to_lowercase();
                    let length = lower.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
                    let mut body = vec![0; length.parse().unwrap()];
                    reader.read_exact(&mut body).unwrap();
                    kept.lock().unwrap().push((std::mem::take(&mut head), body));
                    (&connection).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
                }
            });
        }
    });
    (url, received)
}

fn with_traces<'a>(command: &'a mut Command, endpoint: &str) -> &'a mut Command {
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<Value> {
    attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    match attribute(attributes, key) {
        Some(Value::StringValue(text)) => text,
        other => panic!("{key} is {other:?} in {attributes:?}"),
    }
}

#[test]
fn a_batch_is_a_span_with_one_below_it_for_each_stage() {
    let (endpoint, received) = collector();
    let place = Place::new();
    place.write(&format!("{HOUR}/a"), batch(1));
    place.write(&format!("{HOUR}/bad"), "hello");
    let mut command = place.command("worker");
    command.arg("--once").env("OTEL_SERVICE_NAME", "traces-of-ours").env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret");
    run(with_traces(&mut command, &endpoint)).exits(3);

    let received = received.lock().unwrap();
    let mut spans: Vec<Span> = Vec::new();
    for (head, body) in received.iter() {
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
        let lower = head.to_lowercase();
        assert!(lower.contains("content-type: application/x-protobuf") && lower.contains("x-key: secret"), "{head}");
        assert!(!String::from_utf8_lossy(body).contains(CONTENT), "content is not in traces");
        for resource in ExportTraceServiceRequest::decode(&body[..]).unwrap().resource_spans {
            let of_resource = resource.resource.unwrap().attributes;
            assert_eq!(text(&of_resource, "service.name"), "traces-of-ours");
            assert_eq!(text(&of_resource, "service.version"), env!("CARGO_PKG_VERSION"));
            spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    let of_batch = |name: &str| {
        let is_it = |span: &&Span| span.name == "batch" && text(&span.attributes, "batch").ends_with(name);
        spans.iter().find(is_it).unwrap_or_else(|| panic!("no span of {name}: {spans:?}"))
    };
    let good = of_batch("/a");
    assert_eq!(text(&good.attributes, "outcome"), "committed");
    assert_eq!(attribute(&good.attributes, "content_bytes"), Some(Value::IntValue(15)));
    assert!(good.end_time_unix_nano > good.start_time_unix_nano);
    let mut stages: Vec<_> = spans.iter().filter(|span| span.parent_span_id == good.span_id).collect();
    stages.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<_> = stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["decompress", "hash", "index", "parse", "upload"]);
    for stage in stages {
        assert_eq!(stage.trace_id, good.trace_id);
        assert_eq!(attribute(&stage.attributes, "items"), Some(Value::IntValue(1)), "{stage:?}");
        let Some(Value::DoubleValue(busy)) = attribute(&stage.attributes, "busy_seconds") else { panic!("{stage:?}") };
        assert!(busy > 0.0 && busy < 60.0, "{busy}");
    }
    let bad = of_batch("/bad");
    assert_eq!(text(&bad.attributes, "outcome"), "quarantined");
    let status = bad.status.as_ref().unwrap();
    assert_eq!(status.code, 2, "an error");
    assert!(status.message.starts_with("parse, byte 0"), "{status:?}");
}

#[test]
fn a_collector_that_is_away_costs_one_line_and_nothing_else() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let place = Place::new();
    let mut command = place.command("worker");
    command.args(["--poll-interval", "20ms"]).env("OTEL_BSP_SCHEDULE_DELAY", "50");
    let worker = Running::start(with_traces(&mut command, &endpoint));
    for n in 1..=5 {
        place.write(&format!("{HOUR}/{n}"), batch(n));
        let done = r#"gravity_batches_total{outcome="committed"}"#;
        wait_until("it is committed", || worker.metrics().value(done) == f64::from(n));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let (code, log) = worker.stop();
    assert_eq!(code, 0);
    assert_eq!(log.lines().filter(|line| line.contains("traces cannot be exported")).count(), 1, "{log}");
    assert_eq!(log.lines().count(), 5 + 4, "started, listening, five batches, the warning, stopped:\n{log}");
}

#[test]
fn a_protocol_that_is_not_there_is_said_and_the_worker_works() {
    let place = Place::new();
    place.write(&format!("{HOUR}/a"), batch(1));
    let mut command = place.command("worker");
    command.arg("--once").env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    run(with_traces(&mut command, "http://127.0.0.1:4317")).exits(0).says(&[
        "committed=1",
        "traces are not exported",
        "OTEL_EXPORTER_OTLP_PROTOCOL=grpc",
        "http/protobuf",
    ]);
}
