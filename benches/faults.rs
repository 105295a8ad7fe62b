//! How much faults cost: a worker on a store in this process, of whose requests so many fail at random.
//!
//! `cargo bench --bench faults` or, with another share than 5%, `cargo bench --bench faults -- 20`. Runs with and
//! without faults take turns; what is compared are their medians.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/faulty_s3/mod.rs"]
mod faulty_s3;

use common::otlp::{document, span};
use common::{Dice, gz};
use faulty_s3::{Fault, FaultyS3};
use std::time::{Duration, Instant};

const RUNS: usize = 7;
const BATCHES: u32 = 60;

/// Batches of some 150 KB decompressed; of their lines most are known by the time they come, as in a conversation.
fn batches() -> Vec<(String, Vec<u8>)> {
    let mut dice = Dice::new(1);
    let batch = |n: u32| {
        let spans: Vec<_> = (0..20)
            .map(|at| {
                let line = |dice: &mut Dice| format!("{} {}", dice.roll(1500), "what was said before ".repeat(6));
                let lines: Vec<_> = (0..50).map(|_| line(&mut dice)).collect();
                let output = dice.letters(400);
                span(1 + n, 1 + at).input(&lines.join("\n")).attribute("output.value", &output)
            })
            .collect();
        (format!("raw-spans/dt=2025-10-31/hour=00/batch-{n:04}.json.gz"), gz(document(&spans).as_bytes()))
    };
    (0..BATCHES).map(batch).collect()
}

/// One run; how long it took, and how many requests were sent and failed.
fn run(batches: &[(String, Vec<u8>)], of_1000: u64, seed: u64) -> (Duration, u64, u64) {
    let server = FaultyS3::start();
    for (key, bytes) in batches {
        server.bucket.put(key, bytes.clone());
    }
    server.fail(of_1000, &Fault::QUICK, seed);
    let began = Instant::now();
    let ran = server.run("worker", &["--once"]).exits(0);
    let took = began.elapsed();
    assert!(ran.stderr.contains(&format!("committed={BATCHES}")), "{}", ran.stderr);
    (took, server.requests(), server.all_injected())
}

fn main() {
    // Cargo hands on `--bench`.
    let percent = std::env::args().skip(1).find_map(|arg| arg.parse::<u64>().ok()).unwrap_or(5);
    let batches = batches();
    let (mut calm, mut stormy) = (Vec::new(), Vec::new());
    for seed in 1..=RUNS as u64 {
        let (without, requests, _) = run(&batches, 0, seed);
        let (with, more, failed) = run(&batches, percent * 10, seed);
        println!("without {without:.2?} ({requests} requests), with {with:.2?} ({failed} of {more} requests failed)");
        calm.push(without);
        stormy.push(with);
    }
    calm.sort();
    stormy.sort();
    let (without, with) = (calm[RUNS / 2], stormy[RUNS / 2]);
    let share = 100.0 * without.as_secs_f64() / with.as_secs_f64();
    println!(
        "{BATCHES} batches, medians of {RUNS}: {without:.2?} without, {with:.2?} while {percent}% fail: {share:.0}% of the throughput"
    );
}
