//! The program on a real S3 server: `make test` starts one. Without `GRAVITY_TEST_S3` these tests say that they are
//! skipped.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, span, trace};
use common::store::Files;
use common::{Dice, Ran, finish, gravity, gz, run, run_with_stdin, samples, signal, start, wait_until};
use futures::{StreamExt, TryStreamExt, stream};
use gravity_pipeline::store::{Key, PutMode, S3, S3Settings, Store};
use std::collections::BTreeMap;
use std::io::Read;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// A part of the test bucket that no other test uses.
struct Bucket {
    name: String,
    prefix: String,
}

impl Bucket {
    /// `None`, and a word about it, if there is no server.
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if std::env::var_os("GRAVITY_TEST_S3").is_none() {
            eprintln!("SKIPPED: GRAVITY_TEST_S3 is not set; dev/seaweedfs.py run --bucket gravity-test -- cargo test");
            return None;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let prefix = format!("cli-{now:x}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Some(Self { name: std::env::var("GRAVITY_TEST_BUCKET").expect("GRAVITY_TEST_BUCKET"), prefix })
    }

    fn url(&self) -> String {
        format!("s3://{}/{}", self.name, self.prefix)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = program();
        command.arg(name).args(["--store", &self.url()]);
        command
    }

    fn run(&self, name: &str, args: &[&str]) -> Ran {
        run(self.command(name).args(args))
    }

    /// Does something with the store by itself, as the collector does.
    fn with_store<T>(&self, work: impl AsyncFnOnce(&S3) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let settings = S3Settings {
                prefix: self.prefix.clone(),
                endpoint: std::env::var("AWS_ENDPOINT_URL").ok(),
                ..S3Settings::new(&self.name)
            };
            work(&S3::open(settings).await).await
        })
    }

    fn upload(&self, name: &str, bytes: Vec<u8>) {
        let key = Key::new(name).unwrap();
        self.with_store(async |store| store.put(&key, bytes.into(), PutMode::Always).await.unwrap());
    }

    fn delete(&self, name: &str) {
        let key = Key::new(name).unwrap();
        self.with_store(async |store| store.delete(&key).await.unwrap());
    }

    /// All objects.
    fn files(&self) -> Files {
        self.with_store(async |store| {
            let listed: Vec<_> = store.list("", None).try_collect().await.unwrap();
            let read = async |key: Key| (key.to_string(), store.read(&key).await.unwrap().unwrap().0.to_vec());
            let read = stream::iter(listed).map(|meta| read(meta.key)).buffer_unordered(16);
            Files(read.collect().await)
        })
    }

    fn content(&self, trace: &str) -> Vec<u8> {
        self.run("reconstruct", &[trace]).exits(0).stdout
    }
}

/// The program with the credentials and the address of the test server.
fn program() -> Command {
    let mut command = gravity();
    let of_aws =
        std::env::vars().filter(|(name, _)| name.starts_with("AWS_") || name == "S3_REGION" || name == "NO_PROXY");
    command.envs(of_aws);
    command
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

/// Batches that share traces and lines.
fn shared_batches() -> Vec<(String, Vec<u8>)> {
    let mut dice = Dice::new(11);
    let batch = |n| {
        let spans: Vec<_> = (0..4)
            .map(|_| {
                let lines: Vec<_> = (0..8).map(|_| format!("line {}", dice.roll(40))).collect();
                span(1 + dice.roll(3) as u32, 1 + dice.roll(1000) as u32).input(&lines.join("\n"))
            })
            .collect();
        (format!("raw-spans/dt=2025-10-31/hour={:02}/batch-{n}.json.gz", n % 3), gz(document(&spans).as_bytes()))
    };
    (0..16).map(batch).collect()
}

#[test]
fn what_is_ingested_into_a_bucket_comes_back_and_is_counted() {
    let Some(bucket) = Bucket::new() else { return };
    let text = "from stdin\n\n to S3 ";
    run_with_stdin(&mut bucket.command("ingest"), document(&[span(1, 1).input(text)]).as_bytes()).exits(0);
    assert_eq!(bucket.content(&trace(1)), text.as_bytes());
    let found = bucket.run("inspect", &["--json"]).exits(0).json();
    assert_eq!((&found["store"], &found["spans"]), (&bucket.url().into(), &1.into()));
    assert_eq!(bucket.files().check().read_original(&trace(1)), text.as_bytes());
}

#[test]
fn the_variables_name_the_bucket() {
    let Some(bucket) = Bucket::new() else { return };
    let raw = format!("{}/raw", bucket.prefix);
    let folders = [
        ("RAW_SPANS_PATH", raw),
        ("BLOBS_PATH", bucket.prefix.clone() + "/b"),
        ("INDEXES_PATH", bucket.prefix.clone() + "/i"),
    ];
    bucket.upload("raw/a", document(&[span(1, 1).input("x")]).into_bytes());
    let mut worker = program();
    run(worker.args(["worker", "--once"]).env("S3_BUCKET", &bucket.name).envs(folders)).exits(0).says(&["committed=1"]);
    assert_eq!(bucket.files().keys("b").len(), 1);
}

#[test]
fn a_url_is_an_object_or_all_below_a_prefix() {
    let Some(bucket) = Bucket::new() else { return };
    for (name, bytes) in shared_batches() {
        bucket.upload(&name, bytes);
    }
    let one = format!("{}/raw-spans/dt=2025-10-31/hour=00/batch-0.json.gz", bucket.url());
    assert!(!bucket.run("ingest", &[&one]).exits(0).lines().is_empty());
    let all = format!("{}/raw-spans/", bucket.url());
    bucket.run("ingest", &[&all]).exits(0).says(&["15 files", "1 file already in the ledger"]);
    bucket.run("ingest", &[&format!("{all}absent")]).exits(1).says(&["no such object"]);
    bucket.files().check();
}

#[test]
fn a_worker_finds_what_is_uploaded_while_it_runs() {
    let Some(bucket) = Bucket::new() else { return };
    let mut batches = shared_batches().into_iter();
    let done = |name: &str| bucket.files().0.contains_key(&format!("batches/{name}.json"));
    // The fourth goes into an hour that a poll has left behind if it saw the third before.
    let args = ["--poll-interval", "200ms", "--full-scan-interval", "1s"];
    let worker = start(bucket.command("worker").args(args));
    let mut names = Vec::new();
    for (name, bytes) in batches.by_ref().take(4) {
        bucket.upload(&name, bytes);
        names.push(name);
    }
    wait_until("the batches are done", || names.iter().all(|name| done(name)));
    signal(&worker, "TERM");
    finish(worker).exits(0);
    bucket.run("worker", &["--once"]).exits(0);
    assert_eq!(bucket.files().check().keys("batches").len(), 4);
}

#[test]
fn workers_that_race_on_one_bucket_agree_with_one_worker_on_every_byte() {
    let Some(alone) = Bucket::new() else { return };
    let Some(shared) = Bucket::new() else { return };
    for (name, bytes) in shared_batches() {
        alone.upload(&name, bytes.clone());
        shared.upload(&name, bytes);
    }
    alone.run("worker", &["--once"]).exits(0);
    let workers: Vec<_> = (0..3).map(|_| start(shared.command("worker").arg("--once"))).collect();
    for worker in workers {
        finish(worker).exits(0);
    }
    let files = shared.files();
    assert_eq!(files.check(), &alone.files());
    for n in 1..=3 {
        assert_eq!(shared.content(&trace(n)), files.read_original(&trace(n)));
    }
}

#[test]
fn a_worker_that_was_killed_leaves_a_bucket_that_the_next_one_completes() {
    let Some(alone) = Bucket::new() else { return };
    let Some(bucket) = Bucket::new() else { return };
    for (name, bytes) in shared_batches() {
        alone.upload(&name, bytes.clone());
        bucket.upload(&name, bytes);
    }
    let began = Instant::now();
    alone.run("worker", &["--once"]).exits(0);
    let whole_run = began.elapsed();
    for part in 1..=3 {
        let mut worker = start(bucket.command("worker").arg("--once"));
        std::thread::sleep(whole_run.mul_f64(f64::from(part) / 5.0));
        worker.kill().unwrap();
        finish(worker);
        bucket.files().check();
    }
    bucket.run("worker", &["--once"]).exits(0);
    assert_eq!(bucket.files().check(), &alone.files());
}

#[test]
fn the_samples_come_back_from_a_bucket() {
    let Some(bucket) = Bucket::new() else { return };
    let samples = Files::of(&samples());
    for (name, bytes) in samples.0.iter().filter(|(name, _)| name.contains("logs") || name.ends_with(".zst")) {
        bucket.upload(&format!("raw-spans/{name}"), bytes.clone());
    }
    bucket.run("worker", &["--once"]).exits(0);
    let files = bucket.files();
    let traces = files.check().keys("indexes");
    assert!(traces.len() > 10, "{}", traces.len());
    for key in traces.iter().step_by(10) {
        let id = &key["indexes/".len()..key.len() - ".json".len()];
        assert_eq!(bucket.content(id), files.read_original(id));
    }
}

#[test]
fn a_packed_store_in_a_bucket_is_restored_into_another_place() {
    let Some(bucket) = Bucket::new() else { return };
    let Some(target) = Bucket::new() else { return };
    let mut documents = BTreeMap::new();
    for (name, bytes) in shared_batches() {
        documents.insert(name.clone(), gunzip(&bytes));
        bucket.upload(&name, bytes);
    }
    for (_, bytes) in Files::of(&samples()).0.into_iter().filter(|(name, _)| name.ends_with(".zst")) {
        documents.insert("raw-spans/sample.binpb.gz".into(), zstd::decode_all(&bytes[..]).unwrap());
        bucket.upload("raw-spans/sample.binpb.zst", bytes);
    }
    bucket.run("worker", &["--once", "--layout", "packed"]).exits(0).says(&["committed=17"]);
    let restore = || bucket.run("restore", &["--all", "--to", &target.url()]);
    restore().exits(0).says(&["17 batches restored to", &target.url(), "0 there already, 0 failed"]);
    let restored = target.files();
    let found: BTreeMap<_, _> = restored.0.iter().map(|(name, bytes)| (name.clone(), gunzip(bytes))).collect();
    assert!(found == documents, "{:?}", found.keys());

    restore().exits(0).says(&["0 batches restored", "17 there already, 0 failed"]);
    assert_eq!(target.files(), restored);

    // One is gone, one has another content, one was compressed by somebody else.
    let [(gone, _), (other, _), (same, document), ..] = &documents.iter().collect::<Vec<_>>()[..] else { panic!() };
    target.delete(gone);
    target.upload(other, gz(b"something else"));
    target.upload(same, [gz(b""), gz(document)].concat());
    let before = target.files();
    restore().exits(1).says(&["1 batch restored", "15 there already, 1 failed", "another content", other]);
    let after = target.files();
    assert_eq!(gunzip(&after.0[*gone]), documents[*gone]);
    assert!(before.0.iter().all(|(name, bytes)| after.0[name] == *bytes), "what was there was touched");
}

#[test]
fn a_bucket_that_is_not_there_is_named() {
    let Some(bucket) = Bucket::new() else { return };
    let absent = format!("s3://no-such-bucket-{}", std::process::id());
    for args in [&["ingest", "-"][..], &["worker", "--once"], &["inspect"], &["reconstruct", &trace(1)]] {
        let began = Instant::now();
        run(program().args(args).args(["--store", &absent])).exits(1).says(&[&absent, "NoSuchBucket", "S3_BUCKET"]);
        assert!(began.elapsed() < Duration::from_secs(20), "it cannot get better by itself");
    }
    assert_eq!(bucket.files(), Files::default());
}

#[test]
fn access_that_is_denied_is_said_and_nothing_is_written() {
    let Some(bucket) = Bucket::new() else { return };
    for args in [&["ingest", "-"][..], &["worker", "--once"], &["inspect"], &["reconstruct", &trace(1)]] {
        let mut command = program();
        let ran = run(command.args(args).args(["--store", &bucket.url()]).env("AWS_SECRET_ACCESS_KEY", "wrong-secret"));
        let ran = ran.exits(1).says(&[&bucket.url(), "SignatureDoesNotMatch", "check the credentials"]);
        assert!(!ran.stderr.contains("wrong-secret"), "{}", ran.stderr);
    }
    assert_eq!(bucket.files(), Files::default());
}

#[test]
fn the_ends_of_a_packed_buckets_files_are_read_once_and_a_damaged_copy_is_none() {
    let Some(bucket) = Bucket::new() else { return };
    let cache = tempfile::tempdir().unwrap();
    let batch = |n: u32| document(&[span(n, 1).input(&format!("batch {n}: {}", "text ".repeat(30)))]);
    for n in 1..=3 {
        run_with_stdin(bucket.command("ingest").args(["--layout", "packed"]), batch(n).as_bytes()).exits(0);
    }
    let content = |n: u32| {
        let mut command = bucket.command("reconstruct");
        command.env("GRAVITY_CACHE_DIR", cache.path()).args(["-q", &trace(n)]);
        String::from_utf8(run(&mut command).exits(0).stdout).unwrap()
    };
    let entries = || {
        let stores: Vec<_> = std::fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(stores.len(), 1);
        let entries = std::fs::read_dir(stores[0].join("spans")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
    };
    assert!(content(1).starts_with("batch 1: text"));
    assert_eq!(entries().len(), 3);
    assert!(content(2).starts_with("batch 2: text"));
    for entry in entries() {
        std::fs::write(entry, "damaged").unwrap();
    }
    assert!(content(3).starts_with("batch 3: text"));
    assert!(entries().iter().all(|entry| std::fs::read(entry).unwrap() != b"damaged"), "read again");
}
