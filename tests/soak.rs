//! Workers that are killed again and again, while batches come in: at the end every batch reads as it was sent.
//!
//! A short form runs with the other tests; `make soak` runs a long one. `SOAK_KILLS` says how often, `SOAK_SEED` with
//! which dice, and `SOAK_WORKER_ARGS` what else the workers are told. The same seed gives the same batches, faults and
//! moments; what the machine makes of them is another matter, so a failure may need a few runs to come again.
//!
//! Nothing here knows how a store is laid out: it asks `worker`, `verify`, `quarantine` and `reconstruct`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
mod faulty_s3;

use common::cloud::Cloud;
use common::otlp::{document, span, span_id, trace};
use common::store::Files;
use common::{Dice, Place, Ran, gravity, gz, run, signal, zst};
use faulty_s3::{Fault, FaultyS3};
use flate2::read::MultiGzDecoder;
use gravity_pipeline::store::{Key, PutMode, S3, S3Settings, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |value| value.parse().unwrap_or_else(|_| panic!("{name}={value}: a number")))
}

/// A store, as a worker and a collector see it.
trait Site: Sync {
    /// The program with that command, of one word or two, on this store.
    fn command(&self, words: &str) -> Command;
    fn upload(&self, key: &str, bytes: Vec<u8>);
    /// Temporary files, which must not be there when no worker runs. On S3 there are none that could be left: an
    /// object is put with one request, whole or not at all, and no multipart upload is ever begun.
    fn temporary(&self) -> Vec<String> {
        Vec::new()
    }
}

impl Site for Place {
    fn command(&self, words: &str) -> Command {
        let mut command = gravity();
        command.current_dir(self.folder.path()).args(words.split(' ')).args(["--store", "data"]);
        command
    }

    fn upload(&self, key: &str, bytes: Vec<u8>) {
        // As a collector would: it is there whole or not at all.
        let whole = self.write(&format!("uploads/{}", key.replace('/', "_")), bytes);
        let at = self.data().join(key);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::rename(whole, at).unwrap();
    }

    fn temporary(&self) -> Vec<String> {
        let temporary = fs::read_dir(self.data().join(".gravity/tmp")).into_iter().flatten().flatten();
        temporary.map(|entry| entry.path().display().to_string()).collect()
    }
}

impl Site for FaultyS3 {
    fn command(&self, words: &str) -> Command {
        FaultyS3::command(self, words)
    }

    fn upload(&self, key: &str, bytes: Vec<u8>) {
        self.bucket.put(key, bytes);
    }
}

/// A part of the bucket of a real server.
struct Bucket {
    prefix: String,
    runtime: tokio::runtime::Runtime,
    store: S3,
}

impl Bucket {
    fn new() -> Option<Self> {
        if std::env::var_os("GRAVITY_TEST_S3").is_none() {
            eprintln!("SKIPPED: GRAVITY_TEST_S3 is not set; dev/seaweedfs.py run --bucket gravity-test -- cargo test");
            return None;
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let prefix = format!("soak-{now:x}-{}", std::process::id());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let settings = S3Settings {
            prefix: prefix.clone(),
            endpoint: std::env::var("AWS_ENDPOINT_URL").ok(),
            ..S3Settings::new(bucket())
        };
        let store = runtime.block_on(S3::open(settings));
        Some(Self { prefix, runtime, store })
    }
}

fn bucket() -> String {
    std::env::var("GRAVITY_TEST_BUCKET").expect("GRAVITY_TEST_BUCKET")
}

impl Site for Bucket {
    fn command(&self, words: &str) -> Command {
        let mut command = gravity();
        command.envs(std::env::vars().filter(|(name, _)| name.starts_with("AWS_") || name == "NO_PROXY"));
        command.args(words.split(' ')).args(["--store", &format!("s3://{}/{}", bucket(), self.prefix)]);
        command
    }

    fn upload(&self, key: &str, bytes: Vec<u8>) {
        let key = Key::new(key).unwrap();
        self.runtime.block_on(self.store.put(&key, bytes.into(), PutMode::Always)).unwrap();
    }
}

/// Fed by events through a queue. Messages of killed workers come again, as often as these are killed.
impl Site for Cloud {
    fn command(&self, words: &str) -> Command {
        let mut command = Cloud::command(self, words);
        if words == "worker" {
            command.env("SQS_QUEUE_URL", &self.queue);
            command.envs([("SQS_VISIBILITY_TIMEOUT", "3s"), ("SQS_MAX_RECEIVES", "100000")]);
        }
        command
    }

    fn upload(&self, key: &str, bytes: Vec<u8>) {
        Cloud::upload(self, key, bytes);
    }
}

/// A worker that nobody kills, until no message is left. ministack answers requests of workers that were killed too,
/// so each of these may have taken messages once more.
fn empty_the_queue(cloud: &Cloud) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = worker(cloud);
    command.args(["--poll-interval", "20ms"]).stdout(Stdio::null()).stderr(log.reopen().unwrap());
    let mut worker = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    while cloud.depth() != (0, 0) {
        let said = || fs::read_to_string(log.path()).unwrap();
        assert!(Instant::now() < deadline, "{:?} messages are left:\n{}", cloud.depth(), said());
        std::thread::sleep(Duration::from_millis(50));
    }
    signal(&worker, "TERM");
    assert!(worker.wait().unwrap().success());
}

/// Span id, key and content.
type Part = (String, String, String);

/// What was sent.
#[derive(Default)]
struct Sent {
    parts: BTreeMap<String, BTreeSet<Part>>,
    /// What each batch that can be decompressed is then, by its key.
    documents: BTreeMap<String, Vec<u8>>,
    good: u64,
    bad: BTreeSet<String>,
}

impl Sent {
    /// One batch more, under a key that a collector would give it.
    fn batch(&mut self, n: u64, dice: &mut Dice) -> (String, Vec<u8>) {
        let key = format!("raw-spans/dt=2025-10-31/hour={:02}/batch-{n:06}.json", n / 400 % 24);
        if dice.roll(20) == 0 {
            self.bad.insert(key.clone());
            let good = document(&[span(1, 1).input("never stored")]).into_bytes();
            let cut = |bytes: Vec<u8>| bytes[..bytes.len() - 12].to_vec();
            if dice.roll(2) == 0 {
                self.documents.insert(key.clone(), cut(good.clone()));
                return (key, cut(good));
            }
            return (key, cut(gz(&good)));
        }
        self.good += 1;
        let spans: Vec<_> = (0..1 + dice.roll(5))
            .map(|at| {
                let (of, id) = (1 + dice.roll(40) as u32, (n * 10 + at + 1) as u32);
                let lines: Vec<_> = (0..dice.roll(20)).map(|_| format!("line {}", dice.roll(500))).collect();
                let (input, output) = (lines.join("\n"), dice.letters(20));
                let parts = self.parts.entry(trace(of)).or_default();
                parts.insert((span_id(id), "input.value".into(), input.clone()));
                parts.insert((span_id(id), "output.value".into(), output.clone()));
                span(of, id).input(&input).attribute("output.value", &output)
            })
            .collect();
        let bytes = document(&spans).into_bytes();
        self.documents.insert(key.clone(), bytes.clone());
        (key, vec![bytes.clone(), gz(&bytes), zst(&bytes)].swap_remove(dice.roll(3) as usize))
    }
}

/// Numbers that say whether a run was worth anything.
#[derive(Debug, Default)]
struct Tally {
    kills: AtomicU64,
    ended_alone: AtomicU64,
    committed: AtomicU64,
}

fn worker(site: &dyn Site) -> Command {
    let mut command = site.command("worker");
    command.args(std::env::var("SOAK_WORKER_ARGS").unwrap_or_default().split_whitespace());
    command
}

/// Starts a worker and kills it in a while, until there were kills enough.
fn kill_again_and_again(site: &dyn Site, kills: u64, tally: &Tally, mut dice: Dice, log: &Path) {
    while tally.kills.load(Ordering::Relaxed) < kills {
        let mut command = worker(site);
        command.args(["--poll-interval", "20ms", "--full-scan-interval", "1s", "--max-concurrent", "2"]);
        let logged = File::create(log).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(logged);
        let mut child = command.spawn().unwrap();
        // By progress, not by the clock alone: a slow machine must not make the test vacuous. Some are hardly begun.
        let is_short = dice.roll(5) == 0;
        let commits = if is_short { 0 } else { dice.roll(4) as usize };
        let deadline = Instant::now() + Duration::from_secs(20);
        while committed(log) < commits && Instant::now() < deadline && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(3));
        }
        std::thread::sleep(Duration::from_micros(dice.roll(if is_short { 100_000 } else { 300_000 })));
        match child.try_wait().unwrap() {
            Some(_) => tally.ended_alone.fetch_add(1, Ordering::Relaxed),
            None => tally.kills.fetch_add(1, Ordering::Relaxed),
        };
        // SIGKILL
        let _ = child.kill();
        child.wait().unwrap();
        let said = fs::read_to_string(log).unwrap();
        assert!(!said.contains("panicked"), "{said}");
        tally.committed.fetch_add(committed(log) as u64, Ordering::Relaxed);
    }
}

fn committed(log: &Path) -> usize {
    String::from_utf8_lossy(&fs::read(log).unwrap()).matches("outcome=\"committed\"").count()
}

/// So many workers, of which so many are killed in the short form.
fn soak(name: &str, site: &dyn Site, workers: u64, short: u64, calm: impl FnOnce()) {
    let (seed, kills) = (number("SOAK_SEED", 1), number("SOAK_KILLS", short));
    println!("{name}: SOAK_SEED={seed} SOAK_KILLS={kills} cargo test --test soak {name} -- --nocapture");
    let began = Instant::now();
    let (tally, over) = (Tally::default(), AtomicBool::new(false));
    let sent = Mutex::new(Sent::default());
    let logs = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Two batches for every kill, so that there is always something to do.
            let mut dice = Dice::new(seed);
            let mut n = 0;
            while !over.load(Ordering::Relaxed) {
                while n < 20 + 2 * tally.kills.load(Ordering::Relaxed) {
                    let (key, bytes) = sent.lock().unwrap().batch(n, &mut dice);
                    site.upload(&key, bytes);
                    n += 1;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let killers: Vec<_> = (0..workers)
            .map(|n| {
                let (tally, dice, log) = (&tally, Dice::new(seed * 1000 + n), logs.path().join(n.to_string()));
                scope.spawn(move || kill_again_and_again(site, kills, tally, dice, &log))
            })
            .collect();
        let ended: Vec<_> = killers.into_iter().map(|killer| killer.join()).collect();
        over.store(true, Ordering::Relaxed);
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
    calm();
    // A folder of temporary files that has just been made may be another writer's, and is left alone for two seconds.
    std::thread::sleep(Duration::from_millis(2100));
    let sent = sent.into_inner().unwrap();
    let last = run(worker(site).arg("--once"));
    assert!([0, 3].contains(&last.code), "{}: {}", last.code, last.stderr);
    println!(
        "{name}: {tally:?}, {} batches and {} bad ones, {} left for the last run, {:.0} s",
        sent.good,
        sent.bad.len(),
        last.stderr.matches("outcome=\"committed\"").count(),
        began.elapsed().as_secs_f64()
    );
    is_whole(site, &sent);
    // Or it was no test: the kills came before anything was done, or workers ended otherwise.
    assert!(tally.committed.into_inner() >= kills / 2, "the killed workers did nothing");
    assert!(tally.ended_alone.into_inner() <= kills / 10, "workers ended by themselves");
}

/// All that was sent is there, once, and nothing else.
fn is_whole(site: &dyn Site, sent: &Sent) {
    run(worker(site).arg("--once")).exits(0).says(&["committed=0", "failed=0", "quarantined=0"]);
    assert_eq!(site.temporary(), [""; 0], "temporary files");
    let verified = run(site.command("verify").arg("--json"));
    assert_eq!(verified.code, 0, "{}{}", verified.text(), verified.stderr);
    let findings = verified.lines();
    let warnings: Vec<_> = findings.iter().filter(|f| f["level"] == "error" || f["level"] == "warning").collect();
    assert_eq!(warnings, [&serde_json::Value::Null; 0]);

    let listed = run(site.command("quarantine list").arg("--json"));
    let quarantined: BTreeSet<_> =
        listed.exits(0).lines().iter().map(|entry| entry["key"].as_str().unwrap().to_owned()).collect();
    if std::env::var("SOAK_WORKER_ARGS").is_ok_and(|args| args.contains("packed")) {
        // What can be decompressed is kept as it is, OTLP or not.
        let broken: BTreeSet<_> = sent.bad.iter().filter(|key| !sent.documents.contains_key(*key)).cloned().collect();
        assert_eq!(quarantined, broken, "files that cannot be decompressed");
        every_batch_is_restored(site, sent);
    } else {
        assert_eq!(quarantined, sent.bad, "bad files");
    }

    let mut found_parts = 0;
    for (trace, expected) in &sent.parts {
        let printed: Ran = run(site.command("reconstruct").args(["--json", trace])).exits(0);
        let parts: Vec<Part> = printed.lines().iter().map(part).collect();
        found_parts += parts.len();
        let found: BTreeSet<_> = parts.iter().cloned().collect();
        assert_eq!(parts.len(), found.len(), "trace {trace} has a part twice");
        let differences: Vec<_> = found.symmetric_difference(expected).take(3).collect();
        assert!(differences.is_empty(), "trace {trace}: {differences:?}");
    }
    println!("  {found_parts} parts in {} traces: 0 differences", sent.parts.len());
}

/// Every batch of a packed store comes back as it was sent, byte for byte, and no other does.
fn every_batch_is_restored(site: &dyn Site, sent: &Sent) {
    let to = tempfile::tempdir().unwrap();
    run(site.command("restore").args(["--all", "--to"]).arg(to.path())).exits(0);
    let restored = Files::of(to.path());
    assert_eq!(restored.keys("raw-spans").len(), sent.documents.len(), "batches restored");
    for (key, document) in &sent.documents {
        let file = restored.0.get(&format!("{key}.gz")).unwrap_or_else(|| panic!("{key} was not restored"));
        let mut bytes = Vec::new();
        MultiGzDecoder::new(&file[..]).read_to_end(&mut bytes).unwrap();
        assert!(bytes == *document, "{key}: {} bytes restored, {} sent", bytes.len(), document.len());
    }
    println!("  {} batches restored: 0 differences", sent.documents.len());
}

fn part(line: &serde_json::Value) -> Part {
    let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
    (text("span_id"), text("key"), text("content"))
}

#[test]
fn one_worker_on_a_directory() {
    let place = Place::new();
    soak("one_worker_on_a_directory", &place, 1, 6, || {});
}

#[test]
fn four_workers_on_a_directory() {
    let place = Place::new();
    soak("four_workers_on_a_directory", &place, 4, 12, || {});
}

#[test]
fn four_workers_on_a_real_s3_server() {
    let Some(bucket) = Bucket::new() else { return };
    soak("four_workers_on_a_real_s3_server", &bucket, 4, 8, || {});
}

#[test]
fn four_workers_on_a_queue() {
    let Some(cloud) = Cloud::new() else { return };
    soak("four_workers_on_a_queue", &cloud, 4, 8, || empty_the_queue(&cloud));
    assert_eq!(cloud.depth(), (0, 0), "the last runs leave the queue alone");
}

#[test]
fn four_workers_while_a_fifth_of_all_requests_fails() {
    let server = FaultyS3::start();
    server.fail(200, &Fault::QUICK, number("SOAK_SEED", 1));
    soak("four_workers_while_a_fifth_of_all_requests_fails", &server, 4, 12, || {
        println!("  {} of {} requests failed", server.all_injected(), server.requests());
        assert!(server.all_injected() > server.requests() / 10);
        server.fail_no_more();
    });
}
