//! SIGKILL at any moment: what the store says is there is there, and the next run makes it whole.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, span};
use common::{Dice, Place, finish, gz, start};
use std::fs;
use std::time::{Duration, Instant};

const BATCHES: usize = 40;

/// Batches that share traces and lines.
fn write_batches(place: &Place, dice: &mut Dice) {
    for n in 0..BATCHES {
        let spans: Vec<_> = (0..5)
            .map(|_| {
                let lines: Vec<_> = (0..15).map(|_| format!("line {}", dice.roll(300))).collect();
                span(1 + dice.roll(6) as u32, 1 + dice.roll(1000) as u32).input(&lines.join("\n"))
            })
            .collect();
        place.write(&format!("data/raw-spans/dt=1/batch-{n:02}"), gz(document(&spans).as_bytes()));
    }
}

fn batches_done(place: &Place) -> usize {
    fs::read_dir(place.data().join("batches/raw-spans/dt=1")).into_iter().flatten().count()
}

fn temporary_folders(place: &Place) -> usize {
    fs::read_dir(place.data().join(".gravity/tmp")).into_iter().flatten().count()
}

#[test]
fn a_store_is_whole_after_every_kill_and_complete_after_the_last_run() {
    for seed in [1, 2, 3] {
        let undisturbed = Place::new();
        write_batches(&undisturbed, &mut Dice::new(seed));
        undisturbed.run("worker", &["--once"]).exits(0);

        let place = Place::new();
        let mut dice = Dice::new(seed);
        write_batches(&place, &mut dice);
        let mut killed_in_the_middle = 0;
        // Each round is killed a few milliseconds after it has done a few more batches; the first one before any.
        for round in 0..8 {
            let mut worker = start(place.command("worker").arg("--once"));
            let deadline = Instant::now() + Duration::from_secs(30);
            while batches_done(&place) < round * BATCHES / 10 && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_micros(dice.roll(8000)));
            worker.kill().unwrap();
            finish(worker);
            let done = place.store().check().keys("batches").len();
            killed_in_the_middle += usize::from(done > 0 && done < BATCHES);
        }
        assert!(killed_in_the_middle > 0, "seed {seed}: no kill came in the middle");
        place.run("worker", &["--once"]).exits(0);
        assert_eq!(place.store().check(), &undisturbed.store(), "seed {seed}");
    }
}

#[test]
fn the_next_writer_removes_the_temporary_files_of_one_that_was_killed() {
    let place = Place::new();
    write_batches(&place, &mut Dice::new(9));
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut worker = start(&mut place.command("worker"));
    while temporary_folders(&place) == 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    worker.kill().unwrap();
    finish(worker);
    assert_eq!(temporary_folders(&place), 1, "the killed worker's");
    // A folder that has just been made may be another writer's, and is left alone for two seconds.
    std::thread::sleep(Duration::from_millis(2100));
    place.run("worker", &["--once"]).exits(0);
    assert_eq!(temporary_folders(&place), 0);
}

#[test]
fn a_writer_that_finds_nothing_to_write_removes_them_too() {
    let place = Place::new();
    write_batches(&place, &mut Dice::new(10));
    place.run("worker", &["--once"]).exits(0);
    let left = place.data().join(".gravity/tmp/wLeft");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("half"), "half").unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    place.run("verify", &[""; 0]);
    assert_eq!(temporary_folders(&place), 1, "whoever reads leaves it alone");
    place.run("worker", &["--once"]).exits(0).says(&["committed=0"]);
    assert_eq!(temporary_folders(&place), 0);
}

#[test]
fn a_writer_at_work_keeps_its_temporary_files() {
    let place = Place::new();
    write_batches(&place, &mut Dice::new(9));
    let worker = start(place.command("worker").args(["--poll-interval", "20ms"]));
    common::wait_until("it has written", || temporary_folders(&place) == 1);
    std::thread::sleep(Duration::from_millis(2100));
    place.ingest(document(&[span(77, 1).input("beside it")]).as_bytes()).exits(0);
    assert_eq!(temporary_folders(&place), 1);
    place.write("data/raw-spans/dt=1/later", document(&[span(78, 1).input("later")]));
    common::wait_until("the later one", || place.data().join("batches/raw-spans/dt=1/later.json").exists());
    common::signal(&worker, "TERM");
    finish(worker).exits(0);
    place.store().check();
    assert_eq!(temporary_folders(&place), 0);
}
