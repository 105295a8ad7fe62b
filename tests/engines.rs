//! Other engines read a packed store: DuckDB, ClickHouse (chdb) and pyarrow, with the queries of `dev/sql/`. What is right
//! is told by `tests/engines.py`, which reads the raw batches by itself.

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
    let mut script = Command::new(python);
    script.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engines.py")).arg(command);
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
