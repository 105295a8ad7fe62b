//! Other engines read a packed store: DuckDB, ClickHouse (chdb) and pyarrow, with the queries of `dev/sql/`. What is right
//! is told by `tests/engines.py`, which reads the raw batches by itself. `tests/packed_reader.py` restores the batches
//! with `docs/packed.md` alone.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::packed::packed;
use common::{Place, run, samples};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Python with the engines; `None`, and a word about it, if it is not there.
fn python() -> Option<PathBuf> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/engines/bin/python");
    if python.exists() {
        return Some(python);
    }
    assert!(
        std::env::var_os("GRAVITY_TEST_TOOLS").is_none(),
        "GRAVITY_TEST_TOOLS is set, so {} must be there",
        python.display()
    );
    eprintln!("SKIPPED: no DuckDB, ClickHouse and pyarrow; `dev/tools.sh engines` installs them");
    None
}

fn script(python: &Path, command: &str) -> Command {
    named_script(python, "tests/engines.py", command)
}

fn named_script(python: &Path, name: &str, command: &str) -> Command {
    let mut script = Command::new(python);
    script.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).arg(command);
    script
}

/// The samples in one flush, texts that are hard to put together in another, and one of the samples again by a worker
/// that knew nothing of it.
fn filled(python: &Path) -> Place {
    let place = packed();
    run(script(python, "batches").arg(place.path("hard"))).exits(0);
    let hour = samples().join("dt=2026-11-22/hour=19");
    let again = hour.join("batch-traces_390426523.json.gz");
    run(place.command("ingest").arg(samples())).exits(0);
    run(place.command("ingest").arg("hard")).exits(0);
    run(place.command("ingest").args(["--again", "--dedup-bytes", "1000"]).arg(again)).exits(0);
    let store = place.store();
    assert_eq!((store.keys("spans").len(), store.keys("nodes").len()), (3, 3));
    place
}

/// Passes if all queries give on all engines what they should; every 30th trace from `offset` on is put together.
#[track_caller]
fn engines_agree(python: &Path, place: &Place, offset: &str) {
    // Where the queries look for a store by default.
    std::os::unix::fs::symlink("data", place.path("packed")).unwrap();
    let mut check = script(python, "check");
    check.args(["--every", "30", "--offset", offset, "--gravity", env!("CARGO_BIN_EXE_gravity")]);
    let ran = run(check.arg(place.folder.path()).arg(samples()).arg(place.path("hard")));
    let said = format!("{}{}", ran.text(), ran.stderr);
    assert_eq!(ran.code, 0, "{said}");
    assert!(said.contains("DuckDB: ") && said.contains("ClickHouse: "), "{said}");
}

#[test]
fn engines_read_what_was_ingested_and_a_batch_that_is_there_twice_once() {
    let Some(python) = python() else { return };
    engines_agree(&python, &filled(&python), "0");
}

#[test]
fn engines_leave_out_what_compaction_replaced() {
    let Some(python) = python() else { return };
    let place = filled(&python);
    let before = place.store().keys("spans").len();
    place.run::<&str>("compact", &[]).exits(0);
    assert_eq!(place.store().keys("spans").len(), before + 1);
    engines_agree(&python, &place, "7");
}

#[test]
fn engines_read_what_compaction_left() {
    let Some(python) = python() else { return };
    let place = filled(&python);
    place.run::<&str>("compact", &[]).exits(0);
    place.run("gc", &["--older-than", "0s"]).exits(0);
    assert_eq!(place.store().keys("spans").len(), 1);
    engines_agree(&python, &place, "14");
}

/// Passes if a reader that knows nothing but `docs/packed.md` restores every batch, and has met all of this.
#[track_caller]
fn a_stranger_restores(python: &Path, place: &Place, met: &[&str]) {
    let mut check = named_script(python, "tests/packed_reader.py", "check");
    // The keys of batches are their paths.
    let ran = run(check.current_dir(place.folder.path()).args(["data", "hard", "columns"]).arg(samples()));
    let said = format!("{}{}", ran.text(), ran.stderr);
    assert_eq!(ran.code, 0, "{said}");
    let missing: Vec<_> = met.iter().filter(|what| !said.contains(&format!(" {what}: "))).collect();
    assert!(missing.is_empty(), "{missing:?} in {said}");
}

#[test]
fn a_reader_made_from_the_documentation_alone_restores_every_batch() {
    let Some(python) = python() else { return };
    let place = filled(&python);
    run(named_script(&python, "tests/packed_reader.py", "batches").arg(place.path("columns"))).exits(0);
    run(place.command("ingest").arg("columns")).exits(0);
    let kinds = ["kind 0", "kind 1", "kind 3", "kind 4"];
    let habits = ["kind 16", "kind 17", "kind 18", "kind 19", "kind 20", "kind 21", "kind 22"];
    let json: Vec<String> = "ABCDEFGHIJK01234r[".chars().map(|place| format!("JSON {place}")).collect();
    let protobuf: Vec<String> = "ABCDEFGHIJKxr()[z".chars().map(|place| format!("protobuf {place}")).collect();
    let places = json.iter().chain(&protobuf).map(String::as_str);
    let met: Vec<&str> = kinds.into_iter().chain(habits).chain(places).chain(["parent"]).collect();
    a_stranger_restores(&python, &place, &met);
    let spans = |place: &Place| -> Vec<PathBuf> {
        place.store().keys("spans").into_iter().map(|key| place.data().join(key)).collect()
    };
    let before: Vec<_> = spans(&place).into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect();
    place.run::<&str>("compact", &[]).exits(0);
    place.run("gc", &["--older-than", "0s"]).exits(0);
    a_stranger_restores(&python, &place, &met);
    // As if the spans were of another day than the nodes: what they name are duplicates now, some of it.
    spans(&place).into_iter().for_each(|path| std::fs::remove_file(path).unwrap());
    before.into_iter().for_each(|(bytes, path)| std::fs::write(path, bytes).unwrap());
    a_stranger_restores(&python, &place, &[&met[..], &["kind 2"]].concat());
}
