//! Machines that fail: a disk that is full, a place for temporary files that is, no more file handles.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, span, trace};
use common::{Dice, Place, finish, gz, run, start, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system of its own, of so many KiB; unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    /// `None`, and a word about it, where nothing may be mounted.
    fn mount(at: PathBuf, kib: u32) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "gravity-test"]).arg(&at);
        if mount.output().is_ok_and(|ran| ran.status.success()) {
            return Some(Self(at));
        }
        assert!(
            std::env::var_os("GRAVITY_TEST_TOOLS").is_none(),
            "GRAVITY_TEST_TOOLS is set, so a tmpfs must be mountable: run it as root, or in `unshare -rm`"
        );
        eprintln!("SKIPPED: this user cannot mount a tmpfs; `unshare -rm cargo test --test machine` can");
        None
    }

    /// Takes or gives room.
    fn resize(&self, kib: u32) {
        let resized =
            Command::new("mount").args(["-o", &format!("remount,size={kib}k")]).arg(&self.0).status().unwrap();
        assert!(resized.success());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Batches whose chunks take about 4 KiB each.
fn write_batches(place: &Place, count: u32) {
    let mut dice = Dice::new(7);
    for n in 0..count {
        let text = dice.letters(4000);
        place.write(
            &format!("data/raw-spans/dt=1/batch-{n:03}"),
            gz(document(&[span(n + 1, 1).input(&text)]).as_bytes()),
        );
    }
}

#[test]
fn a_worker_whose_disk_is_full_goes_on_when_there_is_room() {
    let place = Place::new();
    let Some(disk) = Disk::mount(place.data(), 400) else { return };
    write_batches(&place, 40);
    // A try of each batch is a line in the log, and nobody reads the pipe meanwhile: few enough that it does not fill up.
    let worker = start(place.command("worker").args(["--poll-interval", "400ms"]));
    wait_until("some batches are done", || !place.store().keys("batches").is_empty());
    // Full, and it has been for a while.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let full = place.store();
    let done = full.check().keys("batches").len();
    assert!((1..40).contains(&done), "{done} of 40");
    assert_eq!(full.keys("quarantine"), [""; 0], "the batches are not to blame");
    disk.resize(20_000);
    wait_until("all batches are done", || place.store().keys("batches").len() == 40);
    common::signal(&worker, "TERM");
    finish(worker).exits(0).says(&["No space left on device", "free some room", "will be tried again"]);
    place.run("verify", &[""; 0]).exits(0);
    let files = place.store();
    assert!(!files.check().read_original(&trace(40)).is_empty());
    assert_eq!(fs::read_dir(place.data().join(".gravity/tmp")).unwrap().count(), 0, "temporary files");
}

#[test]
fn a_full_folder_for_temporary_files_is_named_and_quarantines_nothing() {
    let place = Place::new();
    let Some(disk) = Disk::mount(place.path("tmp"), 100) else { return };
    // The index of so many spans needs more than the 4 MiB that are kept in memory.
    let lines = "x\n".repeat(200_000);
    place.write("data/raw-spans/dt=1/large", document(&[span(1, 1).input(&lines)]));
    place.write("data/raw-spans/dt=1/small", document(&[span(2, 1).input("small")]));
    let worker = |place: &Place| run(place.command("worker").arg("--once").env("TMPDIR", place.path("tmp")));
    let ran = worker(&place).exits(1);
    ran.says(&["dt=1/large", "TMPDIR", "No space left on device", "committed=1", "failed=1", "quarantined=0"]);
    place.store().check();
    disk.resize(100_000);
    worker(&place).exits(0);
    assert_eq!(place.store().check().read_original(&trace(1)), lines.as_bytes());
    assert_eq!(fs::read_dir(place.path("tmp")).unwrap().count(), 0, "temporary files");
}

/// The same command with so many file handles.
fn with_file_handles(count: u32, command: &Command) -> Command {
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!(r#"ulimit -n {count}; exec "$0" "$@""#)]).arg(command.get_program());
    limited.args(command.get_args()).env_clear().current_dir(command.get_current_dir().unwrap_or(Path::new(".")));
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited
}

#[test]
fn few_file_handles_make_a_worker_slower_and_lose_nothing() {
    let place = Place::new();
    write_batches(&place, 60);
    for n in 0..10 {
        let lines: String = (0..200).map(|line| format!("{n} {line}\n")).collect();
        place.write(&format!("data/raw-spans/dt=2/batch-{n}"), document(&[span(100 + n, 1).input(&lines)]));
    }
    let mut worker = place.command("worker");
    let ran = run(&mut with_file_handles(24, worker.args(["--once", "--max-concurrent", "32", "-vv"])));
    assert!(ran.stderr.contains("Too many open files"), "the test is vacuous:\n{}", ran.stderr);
    place.store().check();
    assert_eq!(place.store().keys("quarantine"), [""; 0]);
    place.run("worker", &["--once"]).exits(0);
    assert_eq!(place.store().check().keys("batches").len(), 70);
    place.run("verify", &[""; 0]).exits(0);
}
