//! The command line itself: help, settings, exit codes, completions, manual pages.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, span, trace};
use common::{Place, finish, gravity, run, start};

const COMMANDS: [&str; 9] =
    ["ingest", "worker", "reconstruct", "inspect", "verify", "quarantine", "keys", "completions", "man"];
const WITH_STORE: [&str; 5] = ["ingest", "worker", "reconstruct", "inspect", "verify"];

#[test]
fn help_of_every_command_has_an_example_of_it() {
    for name in COMMANDS {
        let ran = run(gravity().args([name, "--help"])).exits(0);
        let (_, examples) = ran.text().split_once("Example").unwrap_or_else(|| panic!("{name} has no example"));
        assert!(examples.contains(&format!("gravity {name} ")), "{name}: {examples}");
    }
    let ran = run(gravity().arg("--help")).exits(0);
    assert!(COMMANDS.iter().all(|name| ran.text().contains(name)));
    assert!(ran.text().contains("Exit codes: 0"));
}

#[test]
fn every_command_on_a_store_takes_the_store_and_its_variables() {
    for name in WITH_STORE {
        let ran = run(gravity().args([name, "--help"])).exits(0);
        let variables = ["S3_BUCKET", "S3_REGION", "AWS_ENDPOINT_URL", "RAW_SPANS_PATH", "BLOBS_PATH", "INDEXES_PATH"];
        for word in ["--store", "--log-format", "--quiet", "--verbose"].into_iter().chain(variables) {
            assert!(ran.text().contains(word), "{name} --help does not name {word}");
        }
    }
    let worker = run(gravity().args(["worker", "--help"])).exits(0);
    for variable in ["POLL_INTERVAL", "MAX_CONCURRENT", "CHUNK_SEPARATOR"] {
        assert!(worker.text().contains(variable), "{variable}");
    }
}

#[test]
fn a_setting_that_makes_no_sense_is_named_with_its_value() {
    let cases = [
        ("POLL_INTERVAL", "soon"),
        ("POLL_INTERVAL", "-1"),
        ("FULL_SCAN_INTERVAL", "never"),
        ("SHUTDOWN_GRACE", "1 parsec"),
        ("MAX_CONCURRENT", "0"),
        ("MAX_CONCURRENT", "many"),
        ("MAX_CONCURRENT", "1.5"),
        ("MAX_REQUESTS", "-4"),
        ("MAX_SPAN_BYTES", "64 potatoes"),
        ("MAX_SPAN_BYTES", "0"),
        ("MAX_BATCH_BYTES", "99999999999TiB"),
        ("MAX_RATIO", "x"),
        ("MAX_INDEX_BYTES", "-1"),
        ("KNOWN_CHUNKS_BYTES", "much"),
        ("CHUNK_SEPARATOR", "\\q"),
        ("S3_REGION", "a b"),
        ("RAW_SPANS_PATH", "../raw"),
        ("BLOBS_PATH", "a/../../b"),
        ("INDEXES_PATH", "a//b"),
        ("AWS_ENDPOINT_URL", "127.0.0.1:8333"),
        ("AWS_ENDPOINT_URL", "http://"),
        ("LOG_FORMAT", "xml"),
    ];
    let place = Place::new();
    for (variable, value) in cases {
        let ran = run(place.command("worker").arg("--once").env(variable, value)).exits(2);
        assert!(ran.stderr.contains(variable), "{variable}={value:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(value), "{variable}={value:?}: {}", ran.stderr);
    }
    assert!(!place.data().exists(), "nothing was written");
}

#[test]
fn a_store_that_makes_no_sense_is_named() {
    for store in ["s3://", "s3://Bad Bucket", "http://example.org/store"] {
        run(gravity().args(["worker", "--once"]).env("GRAVITY_STORE", store)).exits(2).says(&[store]);
    }
}

#[test]
fn a_variable_that_is_set_to_nothing_is_not_set() {
    let place = Place::new();
    let mut command = place.command("worker");
    for variable in ["CHUNK_SEPARATOR", "KNOWN_CHUNKS_BYTES", "S3_BUCKET", "AWS_ENDPOINT_URL", "LOG_FORMAT"] {
        command.env(variable, "");
    }
    run(command.arg("--once")).exits(0);
    assert!(place.data().join("gravity.json").exists(), "the default store was used");
}

#[test]
fn flags_win_over_variables() {
    let place = Place::new();
    place.write("data/raw-spans/a", document(&[span(1, 1).input("x")]));
    let mut command = place.command("worker");
    command.args(["--once", "--max-concurrent", "1", "--raw-spans-path", "raw-spans"]);
    run(command.env("MAX_CONCURRENT", "0").env("RAW_SPANS_PATH", "elsewhere")).exits(0).says(&["committed=1"]);
}

#[test]
fn the_folders_of_the_store_are_those_of_the_variables() {
    let place = Place::new();
    place.write("data/in/a", document(&[span(1, 1).input("x")]));
    let variables = [("RAW_SPANS_PATH", "in"), ("BLOBS_PATH", "parts/of"), ("INDEXES_PATH", "/traces/")];
    run(place.command("worker").arg("--once").envs(variables)).exits(0).says(&["committed=1"]);
    let store = place.store();
    assert_eq!((store.keys("parts/of").len(), store.keys("traces").len()), (1, 1));
    assert!(store.0.contains_key("batches/in/a.json"));
    let ran = run(place.command("reconstruct").arg(trace(1)).envs(variables)).exits(0);
    assert_eq!(ran.text(), "x");
}

#[test]
fn without_a_store_it_is_the_folder_gravity_data_here() {
    let place = Place::new();
    let batch = place.write("b.json", document(&[span(1, 1).input("x")]));
    run(gravity().current_dir(place.folder.path()).arg("ingest").arg(batch)).exits(0);
    assert!(place.path("gravity-data/gravity.json").exists());
    let mut inspect = gravity();
    let ran = run(inspect.args(["inspect", "--json"]).env("GRAVITY_STORE", place.path("gravity-data"))).exits(0);
    assert_eq!(ran.json()["spans"], 1);
}

#[test]
fn what_it_does_not_know_is_a_usage_error() {
    for args in [&["frobnicate"][..], &["ingest", "--frobnicate"], &["reconstruct"], &["completions", "sh"], &[]] {
        run(gravity().args(args)).exits(2);
    }
    run(gravity().args(["inspect", "--store", "https://x"])).exits(2).says(&["https://x"]);
    run(gravity().args(["inspect", "--store", "s3://"])).exits(2).says(&["bucket"]);
}

#[test]
fn keys_is_the_content_table_as_text_and_as_json_lines() {
    let text = run(gravity().arg("keys")).exits(0);
    let lines = run(gravity().args(["keys", "--json"])).exits(0).lines();
    assert_eq!(text.text().lines().count(), lines.len());
    let litellm = lines.iter().find(|line| line["key"] == "gen_ai.prompt.{n}.**").unwrap();
    assert_eq!((&litellm["producer"], &litellm["where"]), (&"LiteLLM".into(), &"attribute".into()));
    assert!(lines.iter().all(|line| line["source"].as_str().is_some_and(|source| !source.is_empty())));
}

#[test]
fn content_keys_and_exclude_keys_change_what_is_content() {
    let place = Place::new();
    let batch = place.write("b", document(&[span(1, 1).attribute("my.key", "mine").input("theirs")]));
    let mut ingest = place.command("ingest");
    run(ingest.arg(batch).env("CONTENT_KEYS", "my.*").env("EXCLUDE_KEYS", "input.value")).exits(0);
    assert_eq!(place.content(&trace(1)), b"mine");
}

#[test]
fn completions_name_every_command_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = run(gravity().args(["completions", shell])).exits(0);
        for name in COMMANDS {
            assert!(ran.text().contains(name), "{shell}: {name}");
        }
    }
}

#[test]
fn man_writes_a_page_for_every_command() {
    let place = Place::new();
    std::fs::create_dir(place.path("man")).unwrap();
    run(gravity().arg("man").arg(place.path("man"))).exits(0);
    for name in COMMANDS {
        let page = std::fs::read_to_string(place.path(&format!("man/gravity-{name}.1"))).unwrap();
        assert!(page.contains(".TH") && page.contains("gravity"), "{name}");
    }
    run(gravity().arg("man").arg(place.path("absent"))).exits(1).says(&["absent"]);
}

#[test]
fn json_logs_are_one_object_a_line_and_carry_no_content() {
    let place = Place::new();
    place.write("data/raw-spans/good", document(&[span(1, 1).input("secret words")]));
    place.write("data/raw-spans/worse", "secret words");
    let ran = place.run("worker", &["--once", "--log-format", "json", "-vvv"]).exits(3);
    let lines = ran.stderr.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let outcomes: Vec<_> = lines.filter(|line| !line["outcome"].is_null()).collect();
    let find = |outcome| outcomes.iter().find(|line| line["outcome"] == outcome).expect("a line for it");
    assert_eq!(find("committed")["batch"], "raw-spans/good");
    assert_eq!(find("committed")["spans"], 1);
    assert_eq!(find("quarantined")["level"], "ERROR");
    assert!(!ran.stderr.contains("secret"), "{}", ran.stderr);
}

#[test]
fn quiet_and_verbose_set_how_much_is_logged() {
    let place = Place::new();
    assert_eq!(place.run("worker", &["--once", "-q"]).exits(0).stderr, "");
    let usual = place.run("worker", &["--once"]).exits(0).stderr.len();
    assert!(place.run("worker", &["--once", "-vvv"]).exits(0).stderr.len() >= usual);
    place.run("worker", &["-q", "-v"]).exits(2);
}

#[test]
fn a_reader_that_goes_away_is_no_error_for_any_listing() {
    let place = Place::new();
    for args in [&["keys"][..], &["completions", "zsh"], &["--help"]] {
        let mut child = start(gravity().args(args));
        drop(child.stdout.take());
        let ran = finish(child).exits(0);
        assert!(!ran.stderr.contains("panicked"), "{}", ran.stderr);
    }
    let mut child = start(&mut place.command("inspect"));
    drop(child.stdout.take());
    finish(child).exits(0);
}

#[test]
fn a_stderr_that_nobody_reads_is_no_error_either() {
    let place = Place::new();
    for n in 1..=3 {
        place.write(&format!("data/raw-spans/{n}"), document(&[span(n, n).input("x")]));
    }
    for args in [&["worker", "--once"][..], &["ingest", "data/raw-spans"], &["reconstruct", &trace(1)]] {
        let mut child = start(place.command(args[0]).args(&args[1..]));
        drop(child.stderr.take());
        finish(child).exits(0);
    }
    assert_eq!(place.store().check().keys("indexes").len(), 3);
}

#[test]
fn folders_that_are_the_same_are_refused() {
    let place = Place::new();
    for (variable, value) in [("INDEXES_PATH", "batches"), ("BLOBS_PATH", "quarantine"), ("BLOBS_PATH", "indexes")] {
        run(place.command("worker").arg("--once").env(variable, value)).exits(2).says(&[variable, value]);
    }
}

#[test]
fn a_pause_of_nothing_between_two_looks_is_refused() {
    let place = Place::new();
    run(place.command("worker").arg("--once").env("POLL_INTERVAL", "0")).exits(2).says(&["POLL_INTERVAL", "\"0\""]);
}
