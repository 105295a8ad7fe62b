//! Workers that crash at any point, on a store that fails, delays and reorders, in simulated time, each schedule from
//! one seed: 2,000 of them took 190 s (debug build, two cores shared with other work).
//!
//! `SIM_SCHEDULES=5000` runs more of them, `SIM_SEED=17` that one alone, on each layout. What must hold is checked at
//! every write, since any of them may be the last before a crash, and once more at the end.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod packed;
mod toxic;
mod world;

use futures::future;
use futures::{StreamExt, TryStreamExt};
use gravity_pipeline::ids::TraceId;
use gravity_pipeline::loose::{Layout, Paths};
use gravity_pipeline::packed::packer::FlushSettings;
use gravity_pipeline::pipeline::{Pipeline, Settings};
use gravity_pipeline::reconstruct;
use gravity_pipeline::retry::Policy;
use gravity_pipeline::store::{Memory, Retrying, Store};
use gravity_pipeline::verify::{self, Share};
use gravity_pipeline::worker::{Worker, WorkerSettings};
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use toxic::{Life, Toxic};
use world::{Batches, Dice, World};

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value}: a number")))
}

/// Runs the schedules that are asked for, and says what came.
fn schedules(layout: Layout) -> Option<(u64, Came)> {
    if let Some(seed) = number("SIM_SEED") {
        println!("{:?}", schedule(seed, layout));
        return None;
    }
    let mut all = Came::default();
    let schedules = number("SIM_SCHEDULES").unwrap_or(300);
    for seed in 1..=schedules {
        let came = schedule(seed, layout);
        all.crashes += came.crashes;
        all.failed += came.failed;
        all.unanswered += came.unanswered;
        all.cut += came.cut;
        all.twice += came.twice;
        all.collisions += came.collisions;
    }
    let Came { crashes, failed, unanswered, cut, .. } = all;
    println!(
        "{schedules} schedules: {crashes} crashes, {failed} requests failed, {unanswered} unanswered, {cut} bodies cut"
    );
    // Or the simulation is not what it says.
    assert!(crashes > schedules && failed > 10 * schedules && unanswered > 5 * schedules && cut > schedules / 2);
    Some((schedules, all))
}

#[test]
fn whatever_crashes_and_fails_nothing_is_lost_and_nothing_dangles() {
    schedules(Layout::Loose);
}

#[test]
fn whatever_crashes_and_fails_every_batch_of_a_packed_store_is_restored() {
    let Some((schedules, came)) = schedules(Layout::Packed) else { return };
    let Came { twice, collisions, .. } = came;
    println!("{twice} batches stored more than once, {collisions} packs whose number another worker had taken");
    assert!(twice > schedules / 2 && collisions > 0);
}

#[test]
fn a_seed_is_one_schedule() {
    for seed in [3, 4] {
        for layout in [Layout::Loose, Layout::Packed] {
            assert_eq!(schedule(seed, layout), schedule(seed, layout));
        }
    }
}

/// What happened in a schedule.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Came {
    pub crashes: u64,
    pub failed: u64,
    /// Requests that were given up, though the store did them then or later.
    pub unanswered: u64,
    pub cut: u64,
    /// Packed: batches that are in more than one file.
    pub twice: u64,
    /// Packed: packs that were to have a number that was taken.
    pub collisions: u64,
    /// Every request in order.
    pub history: String,
}

fn schedule(seed: u64, layout: Layout) -> Came {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let came = run(seed, layout).await;
        came.unwrap_or_else(|broken| {
            panic!(
                "{layout:?}: {broken}\nagain: SIM_SEED={seed} cargo test -p gravity-pipeline --test simulation whatever"
            )
        })
    })
}

async fn run(seed: u64, layout: Layout) -> Result<Came, String> {
    let mut dice = Dice::new(seed);
    let batches = Arc::new(Batches::roll(&mut dice));
    let world = World::new(&mut dice, batches.clone(), layout);
    batches.upload(&world.store).await;
    let workers: Vec<_> = (0..1 + dice.roll(4)).map(|_| tokio::spawn(lives(world.clone(), dice.split()))).collect();
    for worker in workers {
        worker.await.map_err(|e| format!("a worker: {e}"))?;
    }
    // What was sent by those that crashed may still arrive.
    tokio::time::sleep(Duration::from_secs(60)).await;
    world.broken()?;

    work_to_the_end(world.store.clone(), &world).await?;
    if layout == Layout::Packed {
        packed::is_whole(&world).await?;
        return Ok(world.came());
    }
    let undisturbed = Arc::new(Memory::new());
    batches.upload(&undisturbed).await;
    work_to_the_end(undisturbed.clone(), &world).await?;
    same(&objects(&world.store).await, &objects(&undisturbed).await)?;
    is_whole(&world.store, &batches).await?;
    Ok(world.came())
}

/// One worker after the other crashes and is started again; the last one is stopped.
async fn lives(world: Arc<World>, mut dice: Dice) {
    let clock = Arc::new(packed::Clock::roll(&world, &mut dice));
    for _ in 0..1 + dice.roll(5) {
        let requests = 1 + dice.roll(120);
        let life = Arc::new(Life::new(requests));
        let store = Toxic { world: world.clone(), life: life.clone() };
        let _ = future::select(pin!(live(store, &clock)), pin!(life.ended())).await;
        world.note(|came| came.crashes += 1);
        tokio::time::sleep(Duration::from_millis(dice.roll(2000))).await;
    }
    let store = Toxic { world, life: Arc::new(Life::new(u64::MAX)) };
    let _ = tokio::time::timeout(Duration::from_millis(dice.roll(60_000)), live(store, &clock)).await;
}

async fn live(store: Toxic, clock: &Arc<packed::Clock>) {
    // Without jitter: its dice are not ours.
    let policy = Policy { max_elapsed: Duration::from_secs(5), jitter: 0.0, ..Policy::default() };
    let world = store.world.clone();
    let store: Arc<dyn Store> = Arc::new(Retrying::new(store, policy));
    let settings = Settings {
        requests: 8,
        layout: Some(world.layout),
        flush: FlushSettings { interval: Some(Duration::from_millis(500)), ..FlushSettings::default() },
        read_back: world.deletes_raw,
        names: clock.clone(),
        ..Settings::default()
    };
    let pipeline = loop {
        match Pipeline::open(store.clone(), settings.clone()).await {
            Ok(pipeline) => break pipeline,
            Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
        }
    };
    let worker = Worker::new(store, Paths::default(), pipeline, worker_settings(false, &world));
    let mut ends = worker.run(CancellationToken::new());
    while let Some(ended) = ends.next().await {
        world.hear(ended.raw.key.as_str(), &ended.outcome);
    }
}

fn worker_settings(once: bool, world: &World) -> WorkerSettings {
    WorkerSettings {
        once,
        poll_interval: Duration::from_secs(1),
        full_scan_interval: Duration::from_secs(5),
        max_concurrent: 3,
        shutdown_grace: Duration::ZERO,
        delete_raw: world.deletes_raw,
        events: None,
    }
}

/// What a worker does that nothing disturbs.
async fn work_to_the_end(store: Arc<Memory>, world: &World) -> Result<(), String> {
    let settings = Settings { layout: Some(world.layout), ..Settings::default() };
    let pipeline = Pipeline::open(store.clone(), settings).await.map_err(|e| e.to_string())?;
    let worker = Worker::new(store, Paths::default(), pipeline, worker_settings(true, world));
    let ends = worker.run(CancellationToken::new()).map(|ended| match ended.outcome {
        gravity_pipeline::worker::Outcome::Failed(e) => Err(format!("{}: {e}", ended.raw.key)),
        _ => Ok(()),
    });
    ends.try_collect::<()>().await
}

async fn objects(store: &Memory) -> BTreeMap<String, Vec<u8>> {
    let keys: Vec<_> = store.list("", None).try_collect().await.unwrap();
    let mut objects = BTreeMap::new();
    for meta in keys {
        let (bytes, _) = store.read(&meta.key).await.unwrap().unwrap();
        objects.insert(meta.key.to_string(), bytes.to_vec());
    }
    objects
}

/// Both hold the same, but for the tries of what is in quarantine, and blobs of a batch that was given up half way.
fn same(ours: &BTreeMap<String, Vec<u8>>, undisturbed: &BTreeMap<String, Vec<u8>>) -> Result<(), String> {
    if let Some(key) = ours.keys().find(|key| !key.starts_with("blobs/") && !undisturbed.contains_key(*key)) {
        return Err(format!("{key} is too much"));
    }
    for (key, expected) in undisturbed {
        let found = ours.get(key).ok_or_else(|| format!("{key} is not there"))?;
        let differs = match key.starts_with("quarantine/") {
            true => without_tries(found) != without_tries(expected),
            false => found != expected,
        };
        if differs {
            let shown = [found, expected].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            return Err(format!("{key} differs:\n{}\n{}", shown[0], shown[1]));
        }
    }
    Ok(())
}

fn without_tries(entry: &[u8]) -> serde_json::Value {
    let mut entry: serde_json::Value = serde_json::from_slice(entry).unwrap();
    entry["tries"] = 0.into();
    entry
}

/// `verify` finds no error, and every trace reads as it was sent.
async fn is_whole(store: &Arc<Memory>, batches: &Batches) -> Result<(), String> {
    let options = verify::Options { sample: Share::ALL, trace: None, since: None, memory: 1 << 20 };
    let mut errors = Vec::new();
    let mut report = |finding: verify::Finding| {
        if finding.level == verify::Level::Error {
            errors.push(format!("{} {}: {}", finding.kind, finding.key, finding.detail));
        }
    };
    let verified = verify::verify(store.clone(), Paths::default(), options, &mut report, &|_| {}).await;
    verified.map_err(|e| e.to_string())?;
    if !errors.is_empty() {
        return Err(errors.join("\n"));
    }
    let reader = reconstruct::Reader::new(store.clone(), Paths::default());
    for (trace, expected) in batches.content() {
        let id = trace_id(&trace);
        let index = reconstruct::load(&**store, &Paths::default(), &id).await.map_err(|e| e.to_string())?;
        let mut found = Vec::new();
        for span in &index.spans {
            let pieces = reader.content(span.parts.clone(), &index.separator);
            let text: Vec<_> = pieces.try_collect().await.map_err(|e| e.to_string())?;
            found.push(String::from_utf8(text.concat()).unwrap());
        }
        found.sort();
        if found != expected {
            return Err(format!("trace {trace}: {found:?} instead of {expected:?}"));
        }
    }
    Ok(())
}

fn trace_id(hex: &str) -> TraceId {
    TraceId::from_bytes(&u128::from_str_radix(hex, 16).unwrap().to_be_bytes()).unwrap()
}
