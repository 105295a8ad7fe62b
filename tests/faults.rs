//! A store that fails, one way or another: nothing is lost, nothing is there twice, nothing waits for ever.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
mod faulty_s3;

use common::otlp::{document, span, trace};
use common::store::Files;
use common::{Dice, Ran, finish, gz, run, signal, start, wait_until};
use faulty_s3::Fault::{self, *};
use faulty_s3::{ACCESS_KEY, BUCKET, FaultyS3, Written};
use gravity_pipeline::store::{Metered, Retrying, S3, S3Settings, conformance};
use hyper::Method;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Batches that share traces and lines; the last one is larger than what a client reads at once, and one is bad.
fn batches() -> Vec<(String, Vec<u8>)> {
    let mut dice = Dice::new(4);
    let batch = |n| {
        let spans: Vec<_> = (0..4)
            .map(|_| {
                let lines: Vec<_> = (0..8).map(|_| format!("line {}", dice.roll(60))).collect();
                span(1 + dice.roll(3) as u32, 1 + dice.roll(1000) as u32).input(&lines.join("\n"))
            })
            .collect();
        (format!("raw-spans/dt=2025-10-31/hour={:02}/batch-{n}.json.gz", n % 3), gz(document(&spans).as_bytes()))
    };
    let mut batches: Vec<_> = (0..12).map(batch).collect();
    let large = document(&[span(9, 1).input(&dice.letters(1 << 20))]);
    batches.push(("raw-spans/dt=2025-10-31/hour=03/large.json".into(), large.into_bytes()));
    batches.push(("raw-spans/dt=2025-10-31/hour=03/bad.json.gz".into(), gz(b"{\"resourceSpans\": 7}")));
    batches
}

fn server() -> FaultyS3 {
    let server = FaultyS3::start();
    for (key, bytes) in batches() {
        server.bucket.put(&key, bytes);
    }
    server
}

/// What a worker makes of the batches when nothing fails.
fn undisturbed() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let server = server();
        server.run("worker", &["--once"]).exits(3).says(&["committed=13", "failed=0", "quarantined=1"]);
        let files = server.files();
        assert_eq!(files.check().keys("batches").len(), 13);
        files
    })
}

/// The store, and a baseline to compare it with.
#[track_caller]
fn is_as_undisturbed(server: &FaultyS3) {
    server.files().check().same_as(undisturbed());
}

#[test]
fn the_server_is_one_that_a_store_can_be_held_to() {
    let server = FaultyS3::start();
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--ignored", "--exact", "conformance_with_the_variables_of_a_server"]).envs(server.variables());
    let ran = run(&mut child).exits(0);
    assert!(ran.text().contains("1 passed"), "{}", ran.text());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by the test above"]
async fn conformance_with_the_variables_of_a_server() {
    let endpoint = std::env::var("AWS_ENDPOINT_URL").ok();
    let store = S3::open(S3Settings { prefix: "deep/er".into(), endpoint, ..S3Settings::new(BUCKET) }).await;
    conformance::all(Arc::new(Retrying::new(Metered::new(store), Default::default())), "test").await;
}

/// A worker on a store that fails this way at every place in turn.
#[track_caller]
fn survives(fault: Fault, method: Method, folders: &[&str]) {
    let server = server();
    for folder in folders {
        server.fail_next(method.clone(), folder, fault);
    }
    server.run("worker", &["--once"]).exits(3).says(&["failed=0"]);
    assert_eq!(server.injected(fault), folders.len() as u64, "{fault:?}");
    is_as_undisturbed(&server);
}

const WRITTEN: [&str; 5] = ["gravity.json", "blobs/", "indexes/", "batches/", "quarantine/"];

#[test]
fn an_error_of_the_server_is_asked_again() {
    for fault in [InternalError, SlowDown, SkewedTime, ExpiredToken] {
        survives(fault, Method::PUT, &WRITTEN);
        survives(fault, Method::GET, &["gravity.json", "quarantine/", "raw-spans/", "indexes/", "", "", ""]);
    }
    survives(InternalError, Method::HEAD, &["batches/", "batches/"]);
}

#[test]
fn a_connection_that_is_reset_is_opened_again() {
    survives(Reset, Method::PUT, &WRITTEN);
    survives(Reset, Method::GET, &["gravity.json", "quarantine/", "raw-spans/", "indexes/", "", ""]);
    survives(Reset, Method::HEAD, &["batches/"]);
}

#[test]
fn a_request_without_an_answer_is_sent_again() {
    survives(Silence, Method::PUT, &WRITTEN);
    survives(Silence, Method::GET, &["raw-spans/"]);
}

#[test]
fn a_put_whose_answer_was_lost_is_neither_an_error_nor_done_twice() {
    survives(LostAnswer, Method::PUT, &WRITTEN);
    // Twice in a row, and while the index is merged.
    survives(LostAnswer, Method::PUT, &["indexes/", "indexes/", "indexes/", "indexes/", "gravity.json"]);
}

#[test]
fn a_conditional_put_that_meets_another_one_ends_the_same() {
    for fault in [Conflict, Precondition] {
        survives(fault, Method::PUT, &["indexes/", "indexes/", "indexes/", "indexes/"]);
    }
    survives(Conflict, Method::PUT, &["gravity.json"]);
}

#[test]
fn a_body_that_breaks_off_is_read_on_from_there() {
    for fault in [CutBody, StalledBody] {
        let server = server();
        // The rest of the large batch breaks off too, twice.
        for _ in 0..3 {
            server.fail_next(Method::GET, "raw-spans/dt=2025-10-31/hour=03/large", fault);
        }
        server.run("worker", &["--once"]).exits(3).says(&["failed=0"]);
        assert_eq!(server.injected(fault), 3);
        is_as_undisturbed(&server);
    }
    survives(CutBody, Method::GET, &["indexes/", "gravity.json", "raw-spans/"]);
}

#[test]
fn a_batch_that_was_changed_on_its_way_is_not_believed() {
    let server = server();
    server.fail_next(Method::GET, "raw-spans/dt=2025-10-31/hour=03/large", ChangedBody);
    let ran = server.run("worker", &["--once"]).exits(1).says(&["hour=03/large", "checksum", "failed=1"]);
    assert!(!ran.stderr.contains("quarantined=2"), "the batch is not to blame: {}", ran.stderr);
    server.run("worker", &["--once"]).exits(0);
    is_as_undisturbed(&server);
}

#[test]
fn a_batch_whose_rest_was_changed_on_its_way_is_not_believed() {
    let server = server();
    for fault in [CutBody, ChangedBody] {
        server.fail_next(Method::GET, "raw-spans/dt=2025-10-31/hour=03/large", fault);
    }
    server.run("worker", &["--once"]).exits(1).says(&["hour=03/large", "CRC-32", "failed=1"]);
    server.run("worker", &["--once"]).exits(0);
    is_as_undisturbed(&server);
}

#[test]
fn a_chunk_that_was_changed_on_its_way_is_fetched_again() {
    let server = server();
    server.run("worker", &["--once"]).exits(3);
    server.fail_next(Method::GET, "blobs/", ChangedBody);
    let content = server.run("reconstruct", &[&trace(9)]).exits(0).stdout;
    assert_eq!(server.injected(ChangedBody), 1);
    assert_eq!(content, undisturbed().read_original(&trace(9)));
}

#[test]
fn every_put_has_a_checksum() {
    let server = server();
    server.run("worker", &["--once"]).exits(3);
    let files = server.files();
    let written: Vec<_> = files.0.keys().filter(|key| !key.starts_with("raw-spans/")).collect();
    assert!(written.len() > 50);
    for key in written {
        assert_eq!(server.bucket.written(key), Written { checked: true, ..Written::default() }, "{key}");
    }
}

#[test]
fn encryption_and_storage_class_are_asked_for_as_configured() {
    let key_id = "arn:aws:kms:eu-central-1:111122223333:key/1234";
    let server = server();
    let classes = ["--s3-storage-class", "blobs/=STANDARD_IA,indexes/=INTELLIGENT_TIERING"];
    let kms = ["--s3-sse", "aws:kms", "--s3-sse-kms-key-id", key_id];
    server.run("worker", &[&["--once"], &classes[..], &kms].concat()).exits(3);
    for (folder, class) in [("blobs", Some("STANDARD_IA")), ("indexes", Some("INTELLIGENT_TIERING")), ("batches", None)]
    {
        let key = server.files().keys(folder)[0].to_owned();
        let Written { encryption, kms_key, storage_class, .. } = server.bucket.written(&key);
        assert_eq!((encryption.as_deref(), kms_key.as_deref()), (Some("aws:kms"), Some(key_id)), "{key}");
        assert_eq!(storage_class.as_deref(), class, "{key}");
    }
    let server = self::server();
    run(server.command("worker").arg("--once").env("S3_SSE", "AES256").env("S3_STORAGE_CLASS", "ONEZONE_IA")).exits(3);
    let written = server.bucket.written("gravity.json");
    assert_eq!((written.encryption.as_deref(), written.kms_key), (Some("AES256"), None));
    assert_eq!(written.storage_class.as_deref(), Some("ONEZONE_IA"));
}

#[test]
fn settings_of_a_bucket_that_contradict_each_other_are_refused() {
    let server = FaultyS3::start();
    for (args, said) in [
        (&["--s3-sse", "AES256", "--s3-sse-kms-key-id", "k"][..], "aws:kms"),
        (&["--s3-sse", "rot13"], "aws:kms:dsse"),
        (&["--s3-sse-kms-key-id", "k"], "--s3-sse"),
        (&["--s3-storage-class", "blobs/=GLACIER"], "GLACIER_IR"),
        (&["--s3-storage-class", "blobs/=standard"], "S3_STORAGE_CLASS"),
    ] {
        server.run("worker", &[&["--once"], args].concat()).exits(2).says(&[said]);
    }
    assert_eq!(server.requests(), 0);
}

#[test]
fn a_store_that_is_dead_ends_a_batch_within_the_time_for_one_request() {
    let server = server();
    let many = document(&[span(1, 1).input(&(0..4000).map(|n| format!("{n}\n")).collect::<String>())]);
    server.bucket.put("raw-spans/a-many", many.into_bytes());
    server.fail(1000, &[SlowDown], 1);
    let began = Instant::now();
    let ran = run(server.command("worker").arg("--once").env("RETRY_FOR", "2s"));
    ran.exits(1).says(&["SlowDown", "injected"]);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    // The store dies when the batch is half done.
    server.fail_no_more();
    let worker = start(server.command("worker").arg("--once").env("RETRY_FOR", "2s"));
    wait_until("chunks are written", || server.files().keys("blobs").len() > 500);
    server.fail(1000, &[InternalError], 1);
    let (began, before) = (Instant::now(), server.requests());
    finish(worker).exits(1).says(&["failed="]);
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert!(server.requests() - before < 3000, "{} requests to a dead store", server.requests() - before);
    server.files().check();
    server.fail_no_more();
    server.run("worker", &["--once"]);
    assert_eq!(server.files().check().keys("batches").len(), 14);
}

#[test]
fn what_cannot_succeed_is_not_asked_again() {
    let server = server();
    server.bucket.deny_writes(true);
    let began = Instant::now();
    server.run("worker", &["--once"]).exits(1).says(&["AccessDenied", "check the credentials"]);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(server.requests() < 10, "{}", server.requests());
    assert_eq!(server.files().keys("blobs"), [""; 0]);
}

#[test]
fn a_worker_outlives_throttling_that_is_longer_than_its_patience() {
    let server = server();
    let mut worker = server.command("worker");
    let worker = start(worker.args(["--poll-interval", "200ms", "--full-scan-interval", "1s"]).env("RETRY_FOR", "1s"));
    wait_until("it has begun", || !server.files().keys("batches").is_empty());
    server.throttle_for(Duration::from_secs(6));
    wait_until("all is done", || server.files().keys("batches").len() == 13);
    signal(&worker, "TERM");
    finish(worker).exits(0);
    server.run("worker", &["--once"]);
    is_as_undisturbed(&server);
}

#[test]
fn listings_that_lag_behind_cost_requests_and_nothing_else() {
    for seed in 1..=3 {
        let server = FaultyS3::start();
        server.bucket.lag(Duration::from_millis(800), seed);
        for (key, bytes) in batches() {
            server.bucket.put(&key, bytes);
        }
        let args = ["--poll-interval", "100ms", "--full-scan-interval", "300ms"];
        let workers: Vec<_> = (0..2).map(|_| start(server.command("worker").args(args))).collect();
        wait_until("all is done", || {
            let files = server.files();
            files.keys("batches").len() == 13 && files.keys("quarantine").len() == 1
        });
        for worker in workers {
            signal(&worker, "TERM");
            finish(worker).exits(0);
        }
        is_as_undisturbed(&server);
        server.run("verify", &[]).exits(0);
    }
}

#[test]
fn a_fifth_of_all_requests_may_fail() {
    for seed in 1..=3 {
        let server = server();
        server.fail(200, &Fault::QUICK, seed);
        let ran: Ran = server.run("worker", &["--once"]);
        assert!(server.all_injected() > 20, "seed {seed}: {}", server.all_injected());
        ran.exits(3).says(&["failed=0"]);
        is_as_undisturbed(&server);
        server.run("verify", &[]).exits(0);
    }
}

#[test]
fn credentials_that_expire_are_asked_for_again() {
    let server = server();
    server.expire_key(ACCESS_KEY);
    let folder = tempfile::tempdir().unwrap();
    // A key for every call, each good for a second and a half by the server, which the client hears a minute early.
    let script = folder.path().join("credentials");
    let count = folder.path().join("count");
    std::fs::write(
        &script,
        format!(
            r#"#!/bin/sh
echo x >> {count}
printf '{{"Version":1,"AccessKeyId":"key-%s","SecretAccessKey":"gravity-test-secret","Expiration":"%s"}}' \
    "$(wc -l < {count} | tr -d ' ')" "$(date -u -d '+3 seconds' +%Y-%m-%dT%H:%M:%SZ)"
"#,
            count = count.display()
        ),
    )
    .unwrap();
    let config = folder.path().join("config");
    std::fs::write(&config, format!("[default]\ncredential_process = sh {}\n", script.display())).unwrap();
    for n in 1..=400 {
        server.accept_key(&format!("key-{n}"));
    }
    let issued = || std::fs::read_to_string(&count).map_or(0, |lines| lines.lines().count());
    let mut worker = server.command("worker");
    worker.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").env("AWS_CONFIG_FILE", &config);
    let worker = start(worker.args(["--poll-interval", "100ms"]));
    wait_until("the first batches are done", || server.files().keys("batches").len() == 13);
    let so_far = issued();
    (1..=so_far).for_each(|n| server.expire_key(&format!("key-{n}")));
    server.bucket.put("raw-spans/dt=2025-10-31/hour=03/z", document(&[span(20, 1).input("later")]).into_bytes());
    wait_until("one that came later is done", || server.files().keys("batches").len() == 14);
    assert!(issued() > so_far);
    signal(&worker, "TERM");
    finish(worker).exits(0);
    assert_eq!(server.files().check().read_original(&trace(20)), b"later");
}

#[test]
fn credentials_that_have_expired_for_good_are_told() {
    let server = server();
    server.expire_key(ACCESS_KEY);
    let ran = run(server.command("worker").arg("--once").env("RETRY_FOR", "1s"));
    ran.exits(1).says(&["ExpiredToken", "the credentials have expired"]);
    server.files().holds_no_batch();
}
