//! Stores that cannot be written: full, read-only, or not a store at all.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, span, trace};
use common::{Dice, Place, finish, run, start, wait_until};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// The same command under a limit on the size of every file it writes: what a full disk is to a program, but for the
/// number of the error.
fn with_files_below_32_kib(command: &Command) -> Command {
    let mut limited = Command::new("sh");
    limited.args(["-c", r#"trap "" XFSZ; ulimit -f 64; exec "$0" "$@""#]).arg(command.get_program());
    limited.args(command.get_args()).env_clear().current_dir(command.get_current_dir().unwrap());
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited
}

fn large_and_small(place: &Place, folder: &str) {
    place.write(&format!("{folder}/a"), document(&[span(1, 1).input("small")]));
    place.write(&format!("{folder}/b-large"), document(&[span(2, 2).input(&Dice::new(3).letters(200_000))]));
    place.write(&format!("{folder}/c"), document(&[span(3, 3).input("small too")]));
}

#[test]
fn ingest_on_a_full_disk_names_the_file_and_the_place_and_commits_the_others() {
    let place = Place::new();
    large_and_small(&place, "in");
    let ran = run(&mut with_files_below_32_kib(place.command("ingest").arg("in"))).exits(1);
    let ran = ran.says(&["in/b-large: put data/blobs/", "File too large", "free some room", "1 input failed"]);
    assert_eq!(ran.lines().len(), 2);
    let store = place.store();
    assert_eq!(store.check().keys("batches"), ["batches/in/a.json", "batches/in/c.json"]);
    assert_eq!(store.keys("indexes").len(), 2);
    assert_eq!(fs::read_dir(place.data().join(".gravity/tmp")).unwrap().count(), 0, "temporary files");
    place.run("ingest", &["in"]).exits(0);
    assert_eq!(place.store().check().keys("batches").len(), 3);
}

#[test]
fn a_worker_on_a_full_disk_goes_on_and_does_the_rest_when_there_is_room() {
    let place = Place::new();
    large_and_small(&place, "data/raw-spans");
    let mut worker = place.command("worker");
    let ran = run(&mut with_files_below_32_kib(worker.arg("--once"))).exits(1);
    ran.says(&["raw-spans/b-large", "put data/blobs/", "File too large", "committed=2", "failed=1"]);
    let store = place.store();
    assert_eq!(store.check().keys("batches").len(), 2);
    assert_eq!(store.keys("quarantine"), [""; 0], "the batch is not to blame");
    place.run("worker", &["--once"]).exits(0);
    assert_eq!(place.store().check().keys("batches").len(), 3);
}

/// A folder that this user cannot write. Root may write where the mode forbids it, but not into sysfs.
fn read_only(place: &Place) -> Option<PathBuf> {
    let folder = place.path("read-only");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    [folder, "/sys/kernel".into()].into_iter().find(|f| f.is_dir() && fs::create_dir(f.join("probe")).is_err())
}

#[test]
fn a_store_that_is_read_only_is_an_error_with_its_place() {
    let place = Place::new();
    let Some(folder) = read_only(&place) else {
        return eprintln!("SKIPPED: this user can write everywhere");
    };
    let store = folder.join("store");
    let batch = place.write("b", document(&[span(1, 1).input("x")]));
    for args in [["ingest", batch.to_str().unwrap()], ["worker", "--once"]] {
        let ran = run(common::gravity().args(args).arg("--store").arg(&store)).exits(1);
        ran.says(&[store.to_str().unwrap(), "put "]);
    }
}

#[test]
fn a_store_that_becomes_unwritable_stops_nothing_but_the_batch() {
    let place = Place::new();
    place.write("data/raw-spans/dt=1/a", document(&[span(1, 1).input("x")]));
    let in_the_way = place.write("data/blobs", "a file");
    let worker = start(place.command("worker").args(["--poll-interval", "20ms"]));
    wait_until("the store is claimed", || place.data().join("gravity.json").exists());
    std::thread::sleep(std::time::Duration::from_millis(200));
    place.store().holds_no_batch();
    fs::remove_file(in_the_way).unwrap();
    wait_until("the batch is done", || place.data().join("batches").exists());
    common::signal(&worker, "TERM");
    finish(worker).exits(0).says(&["dt=1/a", "data/blobs/"]);
    assert_eq!(place.store().check().read_original(&trace(1)), b"x");
}

#[test]
fn a_store_whose_path_is_a_file_is_refused() {
    let place = Place::new();
    let batch = place.write("data", document(&[span(1, 1).input("x")]));
    for name in ["ingest", "worker", "inspect"] {
        place.run(name, &[""; 0]).exits(1).says(&["data", "is a file"]);
    }
    place.run("reconstruct", &[trace(1)]).exits(1).says(&["is a file"]);
    assert!(batch.is_file());
}

#[test]
fn an_input_that_cannot_be_read_is_named_and_the_others_are_done() {
    let place = Place::new();
    place.write("good", document(&[span(1, 1).input("x")]));
    let ran = place.run("ingest", &["absent", "good"]).exits(1).says(&["absent: ", "No such file"]);
    assert_eq!(ran.lines().len(), 1);
    assert_eq!(place.store().check().keys("batches"), ["batches/good.json"]);
}
