//! `/healthz`, `/readyz` and `/metrics` of a running worker, and what its log does not say.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::cloud::Cloud;
use common::line::Line;
use common::otlp::{document, span};
use common::running::{Metrics, Running, request};
use common::{Place, gravity, gz, run, samples, signal, wait_until};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const HOUR: &str = "data/raw-spans/dt=2025-10-31/hour=11";

fn batch(n: u32) -> Vec<u8> {
    gz(document(&[span(n, n).input(&format!("content {n}"))]).as_bytes())
}

fn start(place: &Place) -> Running {
    Running::start(place.command("worker").args(["--poll-interval", "20ms", "--full-scan-interval", "1s"]))
}

/// Puts the sample batches where the collector would.
fn put_samples(place: &Place) -> u64 {
    let samples = common::store::Files::of(&samples());
    for (name, bytes) in &samples.0 {
        place.write(&format!("data/raw-spans/{name}"), bytes);
    }
    samples.0.len() as u64
}

#[track_caller]
fn wait_for(worker: &Running, name: &str, value: f64) -> Metrics {
    wait_until(&format!("{name} is {value}"), || worker.metrics().value(name) == value);
    worker.metrics()
}

#[test]
fn health_tells_a_worker_that_is_ready_from_one_that_is_not_and_from_none() {
    let place = Place::new();
    let worker = start(&place);
    wait_until("it is ready", || worker.is_ready());
    let port = worker.address.rsplit_once(':').unwrap().1.to_owned();
    // As a container has it: the worker listens on every address.
    let ask = || run(gravity().args(["health", "--listen", &format!("0.0.0.0:{port}")]));
    let asked = ask();
    assert_eq!((asked.code, asked.stdout), (0, b"store: ok\n".to_vec()), "{}", asked.stderr);

    fs::rename(place.data(), place.path("elsewhere")).unwrap();
    wait_until("it notices", || !worker.is_ready());
    let asked = ask();
    assert_eq!(asked.code, 1, "{}", asked.stderr);
    assert!(asked.stdout.starts_with(b"store: ") && asked.stdout != b"store: ok\n", "{:?}", asked.stdout);
    worker.stop();

    let asked = ask();
    assert_eq!(asked.code, 1);
    assert!(asked.stderr.contains("no worker answers at 127.0.0.1:"), "{}", asked.stderr);
}

const COMMITTED: &str = r#"gravity_batches_total{outcome="committed"}"#;
const QUARANTINED: &str = r#"gravity_batches_total{outcome="quarantined"}"#;

#[test]
fn a_worker_without_work_is_alive_and_ready_and_has_counted_nothing() {
    let place = Place::new();
    let worker = start(&place);
    wait_until("it is ready", || worker.is_ready());
    assert_eq!(worker.get("/healthz"), Some((200, "alive\n".into())));
    assert_eq!(worker.get("/readyz"), Some((200, "store: ok\n".into())));
    let metrics = worker.metrics();
    for nothing in [COMMITTED, QUARANTINED, "gravity_batches_in_flight", "gravity_last_commit_timestamp_seconds"] {
        assert_eq!(metrics.value(nothing), 0.0, "{nothing}");
    }
    assert_eq!(metrics.value("gravity_ready"), 1.0);
    assert_eq!(metrics.value(&format!("gravity_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"))), 1.0);
    assert_eq!(worker.stop().0, 0);
}

#[test]
fn what_is_counted_on_a_packed_store_agrees_with_what_inspect_says() {
    let place = Place::new();
    let batches = put_samples(&place);
    let args = ["--layout", "packed", "--flush-interval", "50ms", "--poll-interval", "20ms"];
    let worker = Running::start(place.command("worker").args(args));
    let metrics = wait_for(&worker, COMMITTED, batches as f64);
    let found = place.run("inspect", &["--json"]).exits(0).json();
    let number = |name: &str| found[name].as_f64().unwrap();
    assert_eq!(metrics.value("gravity_raw_bytes_total"), number("raw_bytes"));
    assert_eq!(metrics.value("gravity_document_bytes_total"), number("document_bytes"));
    assert_eq!(metrics.value(r#"gravity_stored_bytes_total{kind="blob"}"#), number("stored_bytes"));
    assert_eq!(metrics.label("gravity_stage_duration_seconds_count", "stage"), ["decompress", "flush", "lift"]);
    assert_eq!(worker.stop().0, 0);
}

#[test]
fn what_is_counted_agrees_with_what_inspect_says() {
    let place = Place::new();
    let batches = put_samples(&place);
    place.write(&format!("{HOUR}/bad"), "hello");
    let worker = start(&place);
    wait_for(&worker, COMMITTED, batches as f64);
    wait_for(&worker, QUARANTINED, 1.0);
    let metrics = wait_for(&worker, r#"gravity_quarantine_objects{kind="batch"}"#, 1.0);
    let found = place.run("inspect", &["--json"]).exits(0).json();
    let number = |pointer: &str| found.pointer(pointer).unwrap().as_f64().unwrap();
    for (name, pointer) in [
        ("gravity_raw_bytes_total", "/raw_bytes"),
        ("gravity_document_bytes_total", "/document_bytes"),
        ("gravity_content_bytes_total", "/content_bytes"),
        (r#"gravity_stored_bytes_total{kind="blob"}"#, "/blobs/bytes"),
        (r#"gravity_chunks_total{result="new"}"#, "/blobs/objects"),
        (r#"gravity_records_total{kind="span"}"#, "/spans"),
        (COMMITTED, "/ledger/objects"),
        (QUARANTINED, "/quarantined_batches/objects"),
    ] {
        assert!(number(pointer) > 0.0, "{pointer}");
        assert_eq!(metrics.value(name), number(pointer), "{name} {pointer}");
    }
    let known = metrics.value(r#"gravity_chunks_total{result="known"}"#);
    assert_eq!(metrics.value(r#"gravity_chunks_total{result="new"}"#) + known, number("/chunks"));
    let written = metrics.value(r#"gravity_stored_bytes_total{kind="index"}"#);
    assert!(written >= number("/indexes/bytes") + number("/ledger/bytes"), "an index may be written twice");
    let ratio = number("/content_bytes") / number("/blobs/bytes");
    assert!((metrics.value("gravity_dedupe_ratio") - ratio).abs() < 1e-9);

    assert_eq!(metrics.value("gravity_batch_lag_seconds_count"), batches as f64);
    assert_eq!(metrics.value("gravity_batch_duration_seconds_count"), batches as f64);
    assert_eq!(metrics.value("gravity_batches_in_flight"), 0.0);
    assert_eq!(metrics.value("gravity_oldest_batch_age_seconds"), 0.0);
    assert!(metrics.value("gravity_last_commit_timestamp_seconds") > 1.7e9);
    assert_eq!(
        metrics.label("gravity_stage_duration_seconds_count", "stage"),
        ["decompress", "hash", "index", "parse", "upload"]
    );
    let puts = metrics.value(r#"gravity_store_requests_total{operation="put",status="ok"}"#);
    assert!(puts >= number("/blobs/objects") + number("/indexes/objects"), "{puts}");
    let (code, log) = worker.stop();
    assert_eq!(code, 0);
    let lines = log.lines().filter(|line| line.contains("outcome=\"committed\"")).count();
    assert_eq!(lines as u64, batches, "a line a batch:\n{log}");
}

#[test]
fn a_batch_in_work_is_in_flight_and_has_an_age() {
    let place = Place::new();
    let (worker, mut pipe, _) = with_a_slow_batch(&place);
    let metrics = wait_for(&worker, "gravity_batches_in_flight", 1.0);
    let age = metrics.value("gravity_oldest_batch_age_seconds");
    assert!(age > 0.0 && age < 60.0, "{age}");
    assert_eq!(metrics.value(COMMITTED), 0.0);
    pipe.write_all(&batch(1)).unwrap();
    drop(pipe);
    let metrics = wait_for(&worker, COMMITTED, 1.0);
    assert_eq!(metrics.value("gravity_batches_in_flight"), 0.0);
    assert_eq!(worker.stop().0, 0);
}

#[test]
fn a_batch_that_fails_is_counted_each_time_and_keeps_its_age_until_it_is_in() {
    let place = Place::new();
    place.write(&format!("{HOUR}/a"), batch(1));
    let in_the_way = place.write("data/indexes", "a file where the folder should be");
    let worker = start(&place);
    let failed = r#"gravity_batches_total{outcome="failed"}"#;
    wait_until("it has failed twice", || worker.metrics().value(failed) >= 2.0);
    let metrics = worker.metrics();
    assert!(metrics.value("gravity_oldest_batch_age_seconds") > 0.0);
    assert_eq!(metrics.value("gravity_batch_lag_seconds_count"), 0.0);
    fs::remove_file(in_the_way).unwrap();
    let metrics = wait_for(&worker, COMMITTED, 1.0);
    assert_eq!(metrics.value("gravity_oldest_batch_age_seconds"), 0.0);
    assert_eq!(worker.stop().0, 0);
}

#[test]
fn a_store_that_is_gone_makes_it_unready_but_not_dead() {
    let place = Place::new();
    let worker = start(&place);
    wait_until("it is ready", || worker.is_ready());
    fs::rename(place.data(), place.path("elsewhere")).unwrap();
    wait_until("it notices", || !worker.is_ready());
    let (status, reason) = worker.get("/readyz").unwrap();
    assert_eq!(status, 503);
    assert!(reason.starts_with("store: ") && reason.contains("gravity.json") && reason.contains("data"), "{reason}");
    assert_eq!(worker.get("/healthz").unwrap().0, 200);
    assert_eq!(worker.metrics().value("gravity_ready"), 0.0);
    // The worker may have made the folder again to look for work in it.
    let _ = fs::remove_dir_all(place.data());
    fs::rename(place.path("elsewhere"), place.data()).unwrap();
    wait_until("it is ready again", || worker.is_ready());
    assert_eq!(worker.stop().0, 0);
}

#[test]
fn a_worker_that_cannot_reach_s3_is_alive_while_it_tries() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let mut command = gravity();
    command.args(["worker", "--store", "s3://bucket"]).envs([
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ]);
    let worker = Running::start(&mut command);
    assert_eq!(worker.get("/healthz"), Some((200, "alive\n".into())));
    assert_eq!(worker.get("/readyz"), Some((503, "starting\n".into())));
    let failed = r#"gravity_store_requests_total{operation="get",status="transient"}"#;
    wait_until("its requests are counted", || worker.metrics().value(failed) > 0.0);
    assert_eq!(worker.stop().0, 0, "SIGTERM ends it while it starts");
}

#[test]
fn s3_that_goes_away_makes_it_unready_with_the_reason_until_it_is_back() {
    let Some(endpoint) =
        std::env::var("AWS_ENDPOINT_URL").ok().filter(|_| std::env::var_os("GRAVITY_TEST_S3").is_some())
    else {
        eprintln!("SKIPPED: GRAVITY_TEST_S3 is not set; dev/seaweedfs.py run --bucket gravity-test -- cargo test");
        return;
    };
    let line = Line::to(endpoint.trim_start_matches("http://"));
    let store = format!("s3://{}/health-{}", std::env::var("GRAVITY_TEST_BUCKET").unwrap(), std::process::id());
    let mut command = gravity();
    command.envs(std::env::vars().filter(|(name, _)| name.starts_with("AWS_") || name == "S3_REGION"));
    command.args(["worker", "--store", &store, "--endpoint-url", &format!("http://{}", line.address)]);
    let worker = Running::start(&mut command);
    wait_until("it is ready", || worker.is_ready());
    line.cut();
    wait_until("it notices", || !worker.is_ready());
    let (status, reason) = worker.get("/readyz").unwrap();
    assert_eq!(status, 503);
    assert!(reason.starts_with("store: ") && reason.len() > 20, "{reason}");
    assert_eq!(worker.get("/healthz").unwrap().0, 200);
    line.mend();
    wait_until("it is ready again", || worker.is_ready());
    assert_eq!(worker.stop().0, 0);
}

#[test]
fn a_queue_must_answer_too_and_says_how_much_waits_in_it() {
    let Some(cloud) = Cloud::new() else { return };
    let line = Line::to(cloud.endpoint.trim_start_matches("http://"));
    let endpoint = format!("http://{}", line.address);
    let worker = Running::start(cloud.worker().args(["--queue-endpoint-url", &endpoint]));
    wait_until("it is ready", || worker.is_ready());
    assert_eq!(worker.get("/readyz"), Some((200, "store: ok\nqueue: ok\n".into())));
    cloud.upload("raw-spans/dt=2025-10-31/hour=11/a", batch(1));
    wait_for(&worker, COMMITTED, 1.0);
    let metrics = wait_for(&worker, r#"gravity_queue_messages{state="in_flight"}"#, 0.0);
    assert_eq!(metrics.label("gravity_queue_messages", "state"), ["delayed", "in_flight", "visible"]);
    assert_eq!(metrics.families()["gravity_queue_messages"], "gauge");
    line.cut();
    wait_until("it notices", || !worker.is_ready());
    let (status, reason) = worker.get("/readyz").unwrap();
    assert_eq!(status, 503);
    assert!(reason.starts_with("store: ok\nqueue: ") && !reason.ends_with("ok\n"), "{reason}");
    line.mend();
    wait_until("it is ready again", || worker.is_ready());
    assert_eq!(worker.stop().0, 0);
}

#[test]
fn messages_that_cannot_be_received_are_looks_for_batches_that_failed() {
    let Some(cloud) = Cloud::new() else { return };
    let line = Line::to(cloud.endpoint.trim_start_matches("http://"));
    let endpoint = format!("http://{}", line.address);
    let worker = Running::start(cloud.worker().args(["--queue-endpoint-url", &endpoint]));
    wait_until("it is ready", || worker.is_ready());
    assert_eq!(worker.metrics().value("gravity_intake_errors_total"), 0.0);
    line.cut();
    wait_until("it counts them", || worker.metrics().value("gravity_intake_errors_total") >= 2.0);
    assert_eq!(worker.stop().0, 0);
}

#[test]
fn messages_in_quarantine_are_counted() {
    let Some(cloud) = Cloud::new() else { return };
    let worker = Running::start(&mut cloud.worker());
    cloud.send("no event");
    wait_for(&worker, "gravity_messages_quarantined_total", 1.0);
    assert_eq!(worker.metrics().value(QUARANTINED), 0.0, "it is no batch");
    assert_eq!(worker.stop().0, 0);
}

#[test]
fn while_it_stops_it_is_alive_and_not_ready_and_the_listener_goes_last() {
    let place = Place::new();
    let (worker, mut pipe, address) = with_a_slow_batch(&place);
    wait_until("it is ready", || worker.is_ready());
    signal(&worker.child, "TERM");
    wait_until("it says so", || worker.get("/readyz") == Some((503, "stopping\n".into())));
    assert_eq!(worker.get("/healthz").unwrap().0, 200);
    let metrics = worker.metrics();
    assert_eq!((metrics.value("gravity_ready"), metrics.value("gravity_batches_in_flight")), (0.0, 1.0));
    pipe.write_all(&batch(1)).unwrap();
    drop(pipe);
    let (code, log) = worker.finish();
    assert_eq!(code, 0);
    assert!(log.contains("committed=1"), "{log}");
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn a_port_in_use_is_said_with_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let place = Place::new();
    let ran = place.run("worker", &["--listen", &address]).exits(1);
    ran.says(&[&format!("cannot listen on {address}"), "in use", "--listen", "GRAVITY_LISTEN", "`off`"]);
    assert!(!place.data().join("gravity.json").exists(), "nothing was begun");
}

#[test]
fn where_to_listen_is_a_host_and_a_port_or_off() {
    let place = Place::new();
    for wrong in ["9464", "localhost", ":9464", "127.0.0.1:99999", ""] {
        place.run("worker", &["--once", "--listen", wrong]).exits(2).says(&["GRAVITY_LISTEN", "127.0.0.1:9464"]);
    }
    let ran = place.run("worker", &["--once", "--listen", "off"]).exits(0);
    assert!(!ran.stderr.contains("listening"), "{}", ran.stderr);
    place.run("worker", &["--once", "--listen", "localhost:0"]).exits(0).says(&["listening"]);
}

#[test]
fn a_run_with_once_listens_only_when_asked_to() {
    let place = Place::new();
    let ran = run(place.command("worker").arg("--once").env_remove("GRAVITY_LISTEN")).exits(0);
    assert!(!ran.stderr.contains("listening"), "{}", ran.stderr);
}

#[test]
fn other_paths_and_methods_are_refused() {
    let place = Place::new();
    let worker = start(&place);
    assert_eq!(worker.get("/").unwrap().0, 404);
    assert_eq!(worker.get("/metrics/x").unwrap().0, 404);
    let send = |text: &str| request(&worker.address, text).unwrap().0;
    assert_eq!(send("POST /metrics HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"), 405);
    assert_eq!(send("HEAD /healthz HTTP/1.1\r\nHost: test\r\n\r\n"), 200);
    assert_eq!(worker.stop().0, 0);
}

#[test]
fn callers_that_say_nothing_keep_nobody_out_for_long() {
    let place = Place::new();
    let worker = start(&place);
    let silent: Vec<_> = (0..40).map(|_| TcpStream::connect(&worker.address).unwrap()).collect();
    assert_eq!(worker.get("/healthz").unwrap().0, 200);
    drop(silent);
    assert_eq!(worker.stop().0, 0);
}

#[test]
fn every_metric_is_documented_and_every_documented_metric_is_there() {
    let place = Place::new();
    put_samples(&place);
    let worker = start(&place);
    let metrics = {
        wait_until("stages have worked", || worker.metrics().families().contains_key("gravity_stage_duration_seconds"));
        wait_until("the quarantine is counted", || worker.metrics().text.contains("gravity_quarantine_objects{"));
        worker.metrics()
    };
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let rows: Vec<Vec<_>> = page
        .lines()
        .filter(|line| line.starts_with("| `gravity_") || line.starts_with("| `process_"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let always = rows.iter().filter(|row| !row[4].starts_with("with `--queue` only"));
    let documented: Vec<_> = always.map(|row| (row[1].trim_matches('`'), row[2])).collect();
    let mut sorted = documented.clone();
    sorted.sort_unstable();
    assert_eq!(metrics.families().into_iter().collect::<Vec<_>>(), sorted);
    // What is documented of their labels holds for every sample.
    for line in metrics.text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let row = rows.iter().find(|row| name.starts_with(row[1].trim_matches('`'))).unwrap();
        let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(labels, _)| labels);
        for (label, value) in labels.split(',').filter_map(|label| label.split_once('=')) {
            let value = value.trim_matches('"');
            assert!(label == "le" || row[3].contains(&format!("`{label}`")), "{label} of {name}");
            let listed = row[3].contains(&format!("`{label}`:"));
            assert!(!listed || row[3].contains(&format!("`{value}`")), "{label}={value} of {name}");
        }
    }
    assert_eq!(worker.stop().0, 0);
}

#[test]
fn promtool_finds_nothing_to_say_about_the_metrics() {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/prometheus/usr/bin/promtool");
    let mut promtool = Command::new(if ours.exists() { ours.as_os_str() } else { "promtool".as_ref() });
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = match promtool.spawn() {
        Ok(promtool) => promtool,
        Err(e) if std::env::var_os("GRAVITY_TEST_TOOLS").is_none() => {
            eprintln!("SKIPPED: promtool: {e}; `dev/tools.sh prometheus` has it");
            return;
        }
        Err(e) => panic!("GRAVITY_TEST_TOOLS is set, so promtool must be there: {e}"),
    };
    let place = Place::new();
    put_samples(&place);
    let worker = start(&place);
    wait_until("something is counted", || worker.metrics().value(COMMITTED) > 0.0);
    promtool.stdin.take().unwrap().write_all(worker.metrics().text.as_bytes()).unwrap();
    let checked = promtool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    assert!(checked.status.success() && said.is_empty(), "{said}");
    assert_eq!(worker.stop().0, 0);
}

/// A worker that has begun to read a batch which comes as slowly as the test likes; and where it listens.
fn with_a_slow_batch(place: &Place) -> (Running, fs::File, String) {
    const NONBLOCKING: i32 = 0o4000;
    let path: PathBuf = place.path(HOUR).join("slow");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let worker = start(place);
    let mut pipe = None;
    wait_until("the batch is in work", || {
        pipe = OpenOptions::new().write(true).custom_flags(NONBLOCKING).open(&path).ok();
        pipe.is_some()
    });
    let address = worker.address.clone();
    (worker, pipe.unwrap(), address)
}
