//! Logs: one line a batch, JSON when asked, and never content or credentials, however much is logged.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
mod faulty_s3;

use common::otlp::{document, document_around, protobuf, span, span_with_literal, trace};
use common::{Place, gravity, gz, run};
use faulty_s3::FaultyS3;

/// Stands in every content, and in no key or name.
const CONTENT: &str = "Xy7QmarkerZw9";
const SECRET: &str = "s3cretAccessKeyPp4";
const TOKEN: &str = "s3ssionTokenQq5";

/// Batches, good and bad in every way, whose every value is content.
fn batches() -> Vec<(&'static str, Vec<u8>)> {
    let good = document(&[span(1, 1).input(&format!("{CONTENT}\n{CONTENT} again")).attribute("other", CONTENT)]);
    let cut = good.as_bytes()[..good.len() - 5].to_vec();
    let mut damaged = gz(good.repeat(100).as_bytes());
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    let literal = |literal: &str| document_around(&span_with_literal(2, literal.as_bytes()));
    let double = good.replace(r#""attributes":["#, &format!(r#""attributes":[],"attributes":[{{"key":"{CONTENT}"}},"#));
    vec![
        ("good", gz(good.as_bytes())),
        ("good-protobuf", protobuf(3, 1, CONTENT)),
        ("cut", cut.clone()),
        ("cut-gz", gz(good.as_bytes()).split_off(4)),
        ("damaged", damaged),
        ("cut-in-gz", gz(&cut)),
        ("cut-protobuf", protobuf(3, 1, CONTENT)[..60].to_vec()),
        ("text", CONTENT.repeat(10).into_bytes()),
        ("not-otlp", format!(r#"{{"{CONTENT}":["{CONTENT}"]}}"#).into_bytes()),
        ("wrong-type", good.replace(r#""attributes":["#, &format!(r#""attributes":["{CONTENT}","#)).into_bytes()),
        ("bad-escape", literal(&format!(r"{CONTENT}\q{CONTENT}"))),
        ("bad-unicode", [&literal(CONTENT)[..], b"\xff", CONTENT.as_bytes()].concat()),
        ("double-key", double.into_bytes()),
        ("trailing", format!("{good}{CONTENT}").into_bytes()),
        ("bad-time", good.replace("1761868800000000001", CONTENT).into_bytes()),
        ("stray", document(&[span(1, 1).with("traceId", CONTENT).input(CONTENT)]).into_bytes()),
        ("stray-span", document(&[span(1, 1).with("spanId", CONTENT).input(CONTENT)]).into_bytes()),
    ]
}

#[test]
fn content_and_credentials_are_in_no_log_line_however_much_is_logged() {
    for format in ["text", "json"] {
        let place = Place::new();
        for (name, bytes) in batches() {
            place.write(&format!("data/raw-spans/dt=2025-10-31/hour=11/{name}"), bytes);
        }
        let mut worker = place.command("worker");
        worker.args(["--once", "--log-format", format]).env("RUST_LOG", "trace");
        worker.envs([
            ("AWS_ACCESS_KEY_ID", "AKIAKEY"),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_SESSION_TOKEN", TOKEN),
        ]);
        let ran = run(&mut worker).exits(3);
        for secret in [CONTENT, SECRET, TOKEN] {
            assert!(!ran.stderr.contains(secret), "{secret} in\n{}", ran.stderr);
        }
        let again = place.content(&trace(1));
        assert_eq!(again, format!("{CONTENT}\n{CONTENT} again").as_bytes(), "it was in the batch");
        let quarantined = ran.stderr.lines().filter(|line| line.contains("quarantined") && line.contains("hour=11/"));
        assert!(quarantined.count() > 8, "the bad ones were bad:\n{}", ran.stderr);
    }
}

#[test]
fn session_tokens_signatures_and_content_are_in_no_log_line_of_requests_even_at_trace() {
    let server = FaultyS3::start();
    server.bucket.put("raw-spans/dt=1/good", gz(document(&[span(1, 1).input(CONTENT)]).as_bytes()));
    for (log, rust_log) in [("", "trace"), ("", "trace,aws_sigv4=trace,hyper=trace"), ("-vvv", "")] {
        let mut worker = server.command("worker");
        worker.arg("--once").args(log.split_whitespace()).env("AWS_SESSION_TOKEN", TOKEN);
        if !rust_log.is_empty() {
            worker.env("RUST_LOG", rust_log);
        }
        let ran = run(&mut worker).exits(0);
        assert!(ran.stderr.contains("DEBUG"), "the test is vacuous:\n{}", ran.stderr);
        for secret in [CONTENT, TOKEN, faulty_s3::SECRET_KEY, "Signature=", "AWS4-HMAC-SHA256"] {
            let line = ran.stderr.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{secret} with {rust_log}");
        }
    }
    assert_eq!(server.files().keys("batches").len(), 1, "its requests were signed");
}

#[test]
fn credentials_are_in_no_log_line_of_a_store_that_refuses_them() {
    let Some(_) = std::env::var_os("GRAVITY_TEST_S3") else {
        eprintln!("SKIPPED: GRAVITY_TEST_S3 is not set; dev/seaweedfs.py run --bucket gravity-test -- cargo test");
        return;
    };
    let mut worker = gravity();
    worker.envs(std::env::vars().filter(|(name, _)| name.starts_with("AWS_") || name == "S3_REGION"));
    worker.env("AWS_SECRET_ACCESS_KEY", SECRET).env("RUST_LOG", "trace");
    worker.args([
        "worker",
        "--once",
        "--store",
        &format!("s3://{}/logs", std::env::var("GRAVITY_TEST_BUCKET").unwrap()),
    ]);
    let ran = run(&mut worker).exits(1);
    assert!(!ran.stderr.contains(SECRET), "{}", ran.stderr);
}

#[test]
fn each_batch_has_one_line_of_json_with_its_outcome_and_sums() {
    let place = Place::new();
    let names = ["a", "b"];
    for (n, name) in (1..).zip(names) {
        let text = document(&[span(n, n).input("one\ntwo\none")]);
        place.write(&format!("data/raw-spans/dt=2025-10-31/hour=11/{name}"), gz(text.as_bytes()));
    }
    place.write("data/raw-spans/dt=2025-10-31/hour=11/bad", "hello");
    let ran = place.run("worker", &["--once", "--log-format", "json"]).exits(3);
    let lines: Vec<serde_json::Value> =
        ran.stderr.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    for name in names {
        let batch = format!("raw-spans/dt=2025-10-31/hour=11/{name}");
        let of_batch: Vec<_> = lines.iter().filter(|line| line["batch"] == batch.as_str()).collect();
        let [line] = of_batch[..] else { panic!("one line for {batch}: {of_batch:?}") };
        assert_eq!((&line["level"], &line["outcome"]), (&"INFO".into(), &"committed".into()));
        for (field, value) in
            [("spans", 1), ("traces", 1), ("parts", 1), ("chunks", 3), ("content_bytes", 11), ("strays", 0)]
        {
            assert_eq!(line[field], value, "{field} of {line}");
        }
        for field in ["raw_bytes", "document_bytes", "index_bytes", "seconds"] {
            assert!(line[field].as_f64().is_some_and(|value| value > 0.0), "{field} of {line}");
        }
    }
    let bad: Vec<_> = lines.iter().filter(|line| line["outcome"] == "quarantined").collect();
    let [line] = bad[..] else { panic!("one line for the bad one: {bad:?}") };
    assert_eq!((&line["level"], &line["batch"]), (&"ERROR".into(), &"raw-spans/dt=2025-10-31/hour=11/bad".into()));
    assert!(line["error"].as_str().unwrap().starts_with("parse, byte 0"), "{line}");
    assert_eq!(line["raw_bytes"], 5, "{line}");
    assert!(line["seconds"].as_f64().is_some_and(|value| value > 0.0), "{line}");
}

#[test]
fn a_batch_for_which_there_was_nothing_to_do_or_that_failed_has_its_line_too() {
    let place = Place::new();
    place.write("data/raw-spans/dt=1/bad", "hello");
    place.run("worker", &["--once"]).exits(3);
    place.write("data/raw-spans/dt=1/good", document(&[span(1, 1).input("x")]));
    place.write("data/indexes", "a file where the folder should be");
    let ran = place.run("worker", &["--once", "--log-format", "json"]).exits(1);
    let of_batch = |name: &str| {
        let lines = ran.stderr.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let of_batch: Vec<_> = lines.filter(|line| line["batch"].as_str().is_some_and(|b| b.ends_with(name))).collect();
        let [line] = &of_batch[..] else { panic!("one line for {name}: {of_batch:?}") };
        line.clone()
    };
    let (bad, good) = (of_batch("bad"), of_batch("good"));
    assert_eq!((&bad["level"], &bad["outcome"]), (&"INFO".into(), &"settled".into()));
    assert_eq!((&bad["raw_bytes"], &bad["message"]), (&5.into(), &"in quarantine already, and unchanged".into()));
    assert_eq!((&good["level"], &good["outcome"]), (&"ERROR".into(), &"failed".into()));
    assert!(good["raw_bytes"].as_u64().is_some_and(|bytes| bytes > 100) && good["error"].is_string(), "{good}");
}
