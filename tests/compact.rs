//! `gravity compact` and `gravity gc`: a packed store gets smaller, and gives what it gave before.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::Place;
use common::otlp::{document, span, trace};

const TRACES: u32 = 4;

/// Three runs that know nothing of each other, with one batch in two of them.
fn filled() -> Place {
    let place = Place::new();
    for run in 1..=3 {
        let input = format!("what all of them say\n{}", "a longer line of text\n".repeat(20));
        place.write(
            &format!("in/{run}/batch-{run}"),
            document(&[span(run, 1).input(&input), span(TRACES, 10 + run).input(&input)]),
        );
        let folder = place.path(&format!("in/{run}"));
        let folder = folder.to_string_lossy();
        // As workers do at the same time: none knows what the others store.
        place.run("ingest", &["--layout", "packed", "--dedup-bytes", "1000", &folder]).exits(0);
    }
    place
}

fn contents(place: &Place) -> Vec<Vec<u8>> {
    (1..=TRACES).map(|id| place.content(&trace(id))).collect()
}

fn tables(place: &Place) -> usize {
    let store = place.store();
    store.keys("nodes").len() + store.keys("spans").len()
}

#[test]
fn many_files_become_two_and_every_trace_reads_as_before() {
    let place = filled();
    let before = contents(&place);
    assert_eq!(tables(&place), 6);
    let report = place.run("compact", &["--json"]).exits(0);
    let report = &report.lines()[0];
    assert_eq!((report["files_before"].as_u64(), report["files_after"].as_u64()), (Some(6), Some(2)));
    assert!(report["duplicate_nodes"].as_u64() > Some(0), "{report}");
    assert_eq!(contents(&place), before);
    // What was replaced stays as long as somebody may be reading it.
    place.run::<&str>("gc", &[]).exits(0).says(&["0 files"]);
    assert_eq!(tables(&place), 8);
    let removed = place.run("gc", &["--older-than", "0s", "--json"]).exits(0).lines();
    assert_eq!(removed.len(), 6);
    assert!(removed.iter().all(|line| line["why"] == "replaced"), "{removed:?}");
    assert_eq!(tables(&place), 2);
    assert_eq!(contents(&place), before);
    place.run::<&str>("compact", &[]).exits(0).says(&["nothing to compact"]);
}

#[test]
fn a_dry_run_changes_nothing() {
    let place = filled();
    let before = place.store();
    place.run("compact", &["--dry-run"]).exits(0).says(&["would become 2"]);
    place.run("gc", &["--dry-run", "--older-than", "0s"]).exits(0).says(&["0 files"]);
    assert_eq!(place.store().0, before.0);
    place.run::<&str>("compact", &[]).exits(0);
    let before = place.store();
    place.run("gc", &["--dry-run", "--older-than", "0s"]).exits(0).says(&["6 files", "would be removed"]);
    assert_eq!(place.store().0, before.0);
}

#[test]
fn other_days_are_left_alone() {
    let place = filled();
    place.run("compact", &["--until", "2020-01-01"]).exits(0).says(&["nothing to compact in 0 days"]);
    place.run("compact", &["--day", "2020-01-01"]).exits(0).says(&["nothing to compact in 0 days"]);
    place.run("compact", &["--day", "yesterday"]).exits(2).says(&["--day must be a day such as 2025-10-31"]);
    assert_eq!(tables(&place), 6);
    place.run("compact", &["--since", "2020-01-01"]).exits(0).says(&["became 2"]);
}

#[test]
fn a_loose_store_is_refused() {
    let place = Place::new();
    place.write("in/batch", document(&[span(1, 1).input("a")]));
    place.run("ingest", &["--layout", "loose", &place.path("in").to_string_lossy()]).exits(0);
    for command in ["compact", "gc"] {
        place.run::<&str>(command, &[]).exits(1).says(&["is for packed stores"]);
    }
}
