//! The formats, byte for byte, and what a reader of the original format makes of them.
//!
//! `tests/golden/` is a store: raw batches, and what they give. A change to any byte of that is a change of format:
//! `GRAVITY_WRITE_GOLDEN=1 cargo test --test formats every_byte` writes the files anew, for the change to be looked at.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::trace;
use common::store::Files;
use common::{Place, samples};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The store of the raw batches in `golden/raw-spans`: one with all that an index can say and a stray, and a bad one.
fn golden_store() -> Place {
    let place = Place::new();
    for (name, bytes) in Files::of(&golden().join("raw-spans")).0 {
        let path = place.write(&format!("data/raw-spans/{name}"), bytes);
        // The version of a raw file in a folder is its time.
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_761_908_400);
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }
    place.run("worker", &["--once"]).exits(3);
    place
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// What can be compared: an entry of the quarantine names the release that wrote it, and how well a blob is compressed
/// is no matter of format, so of a blob the header counts and the content.
fn comparable(key: &str, bytes: &[u8]) -> Vec<u8> {
    if !key.ends_with(".gz") {
        let version = concat!(r#""gravity":""#, env!("CARGO_PKG_VERSION"), '"');
        return String::from_utf8_lossy(bytes).replace(version, r#""gravity":"0.0.0""#).into_bytes();
    }
    let (mut content, header) = (Vec::new(), &bytes[..10]);
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut content).unwrap();
    [header, &content].concat()
}

#[test]
fn every_byte_of_the_store_is_that_of_the_golden_files() {
    let place = golden_store();
    let store = place.store().check().clone();
    if std::env::var_os("GRAVITY_WRITE_GOLDEN").is_some() {
        let _ = fs::remove_dir_all(golden());
        for (key, bytes) in &store.0 {
            let path = golden().join(key);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let bytes = if key.ends_with(".gz") { bytes.clone() } else { comparable(key, bytes) };
            fs::write(path, bytes).unwrap();
        }
    }
    let expected = Files::of(&golden());
    assert_eq!(store.0.keys().collect::<Vec<_>>(), expected.0.keys().collect::<Vec<_>>());
    for (key, bytes) in &store.0 {
        let [found, expected] = [bytes, &expected.0[key]].map(|bytes| comparable(key, bytes));
        assert!(found == expected, "{key}:\n{}\n{}", found.escape_ascii(), expected.escape_ascii());
    }
}

#[test]
fn the_golden_store_can_be_read() {
    let place = Place::new();
    for (key, bytes) in Files::of(&golden()).0 {
        place.write(&format!("data/{key}"), bytes);
    }
    place.store().check();
    assert_eq!(place.content(&trace(0xa1)), "user\n What is\n\nthis?\r\n\nin an event".as_bytes());
    let found = place.run("inspect", &["--json"]).exits(0).json();
    assert_eq!((&found["spans"], &found["quarantined_batches"]["objects"]), (&3.into(), &1.into()));
}

#[test]
fn a_reader_of_the_original_format_gets_the_same_content() {
    let place = golden_store();
    let store = place.store();
    for n in [0xa1, 0xb2] {
        assert_eq!(store.read_original(&trace(n)), place.content(&trace(n)));
    }
    assert_eq!(store.json(&format!("indexes/{}.json", trace(0xa1)))["span_id"], "0000000000000001");
}

#[test]
fn a_reader_of_the_original_format_gets_every_sample_trace() {
    let place = Place::new();
    let lines = place.run("ingest", &[samples()]).exits(0).lines();
    let store = place.store();
    store.check();
    assert!(lines.len() > 100, "{} traces", lines.len());
    for line in lines.iter().step_by(7) {
        let id = line["trace_id"].as_str().unwrap();
        assert_eq!(store.read_original(id), place.content(id), "{id}");
    }
}

/// All string attributes of the spans of a JSON batch, by trace, span and key.
fn attributes(batch: &[u8]) -> BTreeMap<[String; 3], Vec<String>> {
    let mut found = BTreeMap::<_, Vec<_>>::new();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    for batch in serde_json::Deserializer::from_slice(batch).into_iter::<Value>() {
        let batch = batch.unwrap();
        let scopes = list(&batch["resourceSpans"]).into_iter().flat_map(|resource| list(&resource["scopeSpans"]));
        for span in scopes.flat_map(|scope| list(&scope["spans"])) {
            for attribute in list(&span["attributes"]) {
                let Some(text) = attribute["value"]["stringValue"].as_str() else { continue };
                let place =
                    [&span["traceId"], &span["spanId"], &attribute["key"]].map(|v| v.as_str().unwrap().to_owned());
                found.entry(place).or_default().push(text.to_owned());
            }
        }
    }
    found
}

#[test]
fn every_prompt_and_completion_of_the_samples_comes_back_as_it_stands_in_them() {
    let place = Place::new();
    let ids = place.run("ingest", &[samples()]).exits(0).lines();
    let mut stored = BTreeMap::<_, BTreeMap<_, Vec<_>>>::new();
    // Batches are done in any order.
    let ids: BTreeSet<&str> = ids.iter().map(|line| line["trace_id"].as_str().unwrap()).collect();
    for id in ids.into_iter().step_by(2) {
        let parts = stored.entry(id.to_owned()).or_default();
        for part in place.run("reconstruct", &["--json", id]).exits(0).lines() {
            let at = ["span_id", "key"].map(|field| part[field].as_str().unwrap().to_owned());
            parts.entry(at).or_default().push(part["content"].as_str().unwrap().to_owned());
        }
    }
    let mut compared = 0;
    for file in Files::of(&samples()).0.iter().filter(|(name, _)| name.ends_with(".json.gz")) {
        let mut json = Vec::new();
        flate2::read::MultiGzDecoder::new(&file.1[..]).read_to_end(&mut json).unwrap();
        for (at, texts) in attributes(&json) {
            let [trace, span, key] = at;
            let Some(parts) = stored.get(&trace) else { continue };
            if key.starts_with("gen_ai.prompt.") || key.starts_with("gen_ai.completion.") || key == "input.value" {
                let at = [span, key];
                assert_eq!(parts.get(&at), Some(&texts), "trace {trace} {at:?}");
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "{compared}");
}
