//! `gravity restore` and `gravity convert`: what comes out of a packed store is what went in, byte for byte.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, protobuf, span, trace};
use common::packed::{command_on, files_below, packed};
use common::{Dice, Place, finish, gz, run, samples, start, zst};
use std::fs;
use std::io::Read;
use std::process::Stdio;

const FIRST: &str = "raw-spans/dt=2025-10-31/hour=11/a.json.gz";
const SECOND: &str = "raw-spans/dt=2025-10-31/hour=12/b.json";
const THIRD: &str = "raw-spans/dt=2025-11-01/hour=00/c.binpb.zst";

fn first() -> String {
    document(&[span(1, 1).input("one\r\n\n  two \u{1f600}"), span(2, 2).input(&"again and again\n".repeat(40))])
}

fn second() -> String {
    // Not as any encoder of ours would write it.
    format!(" {}\n\n{}\t", document(&[span(1, 3).input("one\r\n\n  two \u{1f600}")]), document(&[]))
}

fn third() -> Vec<u8> {
    protobuf(3, 4, &"again and again\n".repeat(40))
}

/// Three batches, three flushes.
fn filled() -> Place {
    let place = packed();
    place.ingest_file(FIRST, gz(first().as_bytes()));
    place.ingest_file(SECOND, second());
    place.ingest_file(THIRD, zst(&third()));
    place
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

#[track_caller]
fn restored(place: &Place, key: &str) -> Vec<u8> {
    place.run("restore", &[key]).exits(0).stdout
}

#[test]
fn a_batch_is_restored_as_it_was_before_it_was_compressed() {
    let place = filled();
    assert_eq!(restored(&place, FIRST), first().as_bytes());
    assert_eq!(restored(&place, SECOND), second().as_bytes());
    assert_eq!(restored(&place, THIRD), third());
}

#[test]
fn what_is_not_otlp_and_what_is_nothing_at_all_are_restored_too() {
    let place = packed();
    let mut dice = Dice::new(1);
    let random: Vec<u8> = (0..300_000).map(|_| dice.roll(256) as u8 | 1).collect();
    let cut_off = &first().into_bytes()[..100];
    for (name, bytes) in [("random", &random[..]), ("cut-off", cut_off), ("text", b"hello"), ("empty", b"")] {
        place.ingest_file(name, bytes);
        assert!(restored(&place, name) == bytes, "{name}");
    }
}

#[test]
fn the_samples_are_restored_and_nothing_else_is_in_their_folder() {
    let place = packed();
    run(place.command("ingest").arg(samples())).exits(0);
    place.run("restore", &["--all", "--to", "out"]).exits(0).says(&["5 batches restored", "0 failed"]);
    let out = files_below(&place.path("out"));
    assert_eq!(out.len(), 5);
    for name in out {
        // The samples were named by an absolute path.
        let original = name.strip_prefix("%--").unwrap();
        let (path, ours) = (std::path::Path::new(original), fs::read(place.path("out").join(&name)).unwrap());
        let theirs = match path.exists() {
            true => gunzip(&fs::read(path).unwrap()),
            false => zstd::decode_all(&fs::read(path.with_extension("zst")).unwrap()[..]).unwrap(),
        };
        assert_eq!(gunzip(&ours), theirs, "{name}");
    }
}

#[test]
fn a_key_that_is_not_there_is_said() {
    let place = filled();
    let ran = place.run("restore", &["raw-spans/none"]).exits(1).says(&["batch raw-spans/none is not in data"]);
    assert!(ran.stdout.is_empty());
}

#[test]
fn list_shows_the_keys_of_the_range() {
    let place = filled();
    let listed = |args: &[&str]| -> Vec<String> {
        let ran = place.run("restore", &[&["--list"], args].concat()).exits(0);
        ran.text().lines().map(str::to_owned).collect()
    };
    assert_eq!(listed(&[]), [FIRST, SECOND, THIRD]);
    assert_eq!(listed(&["--prefix", "raw-spans/dt=2025-10-31/"]), [FIRST, SECOND]);
    assert_eq!(listed(&["--since", "2025-10-31T12:00:00Z"]), [SECOND, THIRD]);
    assert_eq!(listed(&["--since", "2025-10-31T12:59:59Z", "--until", "2025-11-01"]), [SECOND]);
    assert_eq!(listed(&["--until", "2025-10-31T11:00:00Z"]), [""; 0]);
}

#[test]
fn a_range_is_restored_as_gzip_files_that_a_replay_can_ingest() {
    let place = filled();
    place.run("restore", &["--all", "--to", "out"]).exits(0).says(&["3 batches restored to out"]);
    let out = |name: &str| gunzip(&fs::read(place.path("out").join(name)).unwrap());
    assert_eq!(out(FIRST), first().as_bytes());
    assert_eq!(out(&format!("{SECOND}.gz")), second().as_bytes());
    assert_eq!(out(&THIRD.replace(".zst", ".gz")), third());
    assert_eq!(files_below(&place.path("out")).len(), 3);
    run(command_on(&place, "worker", "out").arg("--once")).exits(0);
    let content = |store: &str| run(command_on(&place, "reconstruct", store).arg(trace(3))).exits(0).stdout;
    assert_eq!(content("out"), "again and again\n".repeat(40).as_bytes());
}

#[test]
fn only_the_range_is_restored() {
    let place = filled();
    place.run("restore", &["--all", "--to", "out", "--prefix", "raw-spans/dt=2025-11"]).exits(0);
    assert_eq!(files_below(&place.path("out")), [THIRD.replace(".zst", ".gz")]);
}

#[test]
fn what_is_there_already_is_left_and_what_is_another_content_is_not_overwritten() {
    let place = filled();
    // Compressed by somebody else, in another way.
    let same = place.write(&format!("out/{FIRST}"), [gz(b""), gz(first().as_bytes())].concat());
    let other = place.write(&format!("out/{SECOND}.gz"), gz(b"something else"));
    let before = [&same, &other].map(|path| fs::read(path).unwrap());
    let says = ["1 batch restored", "1 there already, 1 failed", "another content", SECOND];
    place.run("restore", &["--all", "--to", "out"]).exits(1).says(&says);
    assert_eq!([&same, &other].map(|path| fs::read(path).unwrap()), before);
    fs::remove_file(other).unwrap();
    place.run("restore", &["--all", "--to", "out"]).exits(0).says(&["1 batch restored", "2 there already"]);
}

#[test]
fn batches_that_would_have_one_name_get_two_and_the_same_ones_again() {
    let place = packed();
    let batches = ["raw-spans/a.zst", "raw-spans/a.gz", "raw-spans/a.gz/below", "empty", "empty.gz", "b.json"];
    for key in batches {
        common::run_with_stdin(place.command("ingest").args(["--key", key, "-"]), key.as_bytes()).exits(0);
    }
    place.run("restore", &["--all", "--to", "out"]).exits(0).says(&["6 batches restored", "0 failed"]);
    let hash = |key: &str| blake3::hash(key.as_bytes()).to_hex()[..16].to_owned();
    let name_of = |key: &str| format!("{key}.{}.gz", hash(key));
    let names = [
        name_of("raw-spans/a.zst"),
        // It cannot be a file where a folder must be.
        name_of("raw-spans/a.gz"),
        "raw-spans/a.gz/below.gz".into(),
        name_of("empty"),
        "empty.gz".into(),
        "b.json.gz".into(),
    ];
    for (name, key) in names.iter().zip(batches) {
        assert_eq!(gunzip(&fs::read(place.path("out").join(name)).unwrap()), key.as_bytes(), "{name}");
    }
    // Of a part of them, too.
    place.run("restore", &["--all", "--to", "part", "--prefix", "empty"]).exits(0);
    assert_eq!(files_below(&place.path("part")).len(), 2);
    assert!(place.path("part").join(&names[3]).exists());
    place.run("restore", &["--all", "--to", "out"]).exits(0).says(&["0 batches restored", "6 there already"]);
}

#[test]
fn a_key_too_long_for_a_file_is_restored_under_its_hash() {
    let place = packed();
    let key = format!("raw-spans/{}", "x".repeat(253));
    common::run_with_stdin(place.command("ingest").args(["--key", &key, "-"]), b"content").exits(0);
    place.run("restore", &["--all", "--to", "out"]).exits(0).says(&["1 batch restored"]);
    let name = format!("%long/{}.gz", blake3::hash(format!("{key}.gz").as_bytes()).to_hex());
    assert_eq!(files_below(&place.path("out")), [&*name]);
    assert_eq!(gunzip(&fs::read(place.path("out").join(&name)).unwrap()), b"content");
}

#[test]
fn no_symbolic_link_is_followed_out_of_the_folder() {
    use std::os::unix::fs::symlink;
    let place = packed();
    for key in ["linked/deep/a", "linked/a", "other/a"] {
        common::run_with_stdin(place.command("ingest").args(["--key", key, "-"]), key.as_bytes()).exits(0);
    }
    place.write("outside/untouched", "");
    place.write("out/untouched", "");
    symlink("../outside", place.path("out/linked")).unwrap();
    let ran = place.run("restore", &["--all", "--to", "out"]).exits(1);
    ran.says(&["1 batch restored", "2 failed", "out/linked is a symbolic link, and none is followed here"]);
    assert_eq!(files_below(&place.path("outside")), ["untouched"]);
    // The folder itself is where its owner has it.
    symlink("outside", place.path("there")).unwrap();
    place.run("restore", &["--all", "--to", "there"]).exits(0).says(&["3 batches restored"]);
    fs::create_dir(place.path("own")).unwrap();
    symlink("../outside", place.path("own/.gravity")).unwrap();
    place.run("restore", &["--all", "--to", "own"]).exits(1).says(&["own/.gravity is a symbolic link"]);
}

#[test]
fn no_key_is_written_outside() {
    let place = packed();
    place.write("outside/secret", "untouched");
    let hostile = [
        "../outside/secret",
        "../../x",
        "/tmp/gravity-restore-test-must-not-exist",
        "a/../../outside/secret",
        "..",
        "a//b",
        "./x",
        "%2E%2E/outside/other",
        "%2e%2e%2foutside%2fsecret",
        "..%2Foutside",
        "..\\outside\\secret",
        "C:\\outside\\secret",
        ".gravity/locks/00",
        "x\ny\u{1b}[2J",
    ];
    for key in hostile {
        let mut command = place.command("ingest");
        common::run_with_stdin(command.args(["--key", key, "-"]), key.as_bytes()).exits(0);
    }
    place.run("restore", &["--all", "--to", "sub/out"]).exits(0).says(&["14 batches restored"]);
    let below = files_below(&place.path("sub/out"));
    assert_eq!(below.len(), hostile.len(), "{below:?}");
    assert!(below.iter().all(|name| !name.contains('\\')), "{below:?}");
    let everywhere: Vec<_> = files_below(place.folder.path());
    let strangers: Vec<_> = everywhere
        .iter()
        .filter(|name| !["data/", "sub/out/", "outside/secret"].iter().any(|ours| name.starts_with(ours)))
        .collect();
    assert_eq!(strangers, [""; 0]);
    assert_eq!(fs::read(place.path("outside/secret")).unwrap(), b"untouched");
    assert!(!std::path::Path::new("/tmp/gravity-restore-test-must-not-exist.gz").exists());
    // Each is there with its own content, and on stdout by its own name.
    for key in hostile {
        assert_eq!(restored(&place, key), key.as_bytes());
    }
}

#[test]
fn a_reader_that_goes_is_no_error() {
    let place = packed();
    let mut dice = Dice::new(7);
    place.ingest_file("large", document(&[span(1, 1).input(&dice.letters(4_000_000))]));
    let mut child = start(place.command("restore").arg("large").stdin(Stdio::null()));
    let mut some = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    finish(child).exits(0);
}

#[test]
fn a_batch_that_is_not_what_it_was_is_an_error() {
    let place = packed();
    let text = "a text that can be found in the file of nodes";
    place.ingest_file("a", document(&[span(1, 1).input(&text.repeat(2))]));
    let nodes = place.only("nodes");
    let bytes = fs::read(&nodes).unwrap();
    let mut found = false;
    for at in 4..bytes.len() - 8 {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        fs::write(&nodes, damaged).unwrap();
        let ran = place.run("restore", &["a"]);
        // Some bytes say nothing about the content; none may change it unseen.
        assert!(ran.code == 1 || ran.stdout == fs::read(place.path("a")).unwrap(), "byte {at}");
        if ran.code == 1 {
            found = true;
            assert!(ran.stdout.is_empty(), "a small batch is checked before it is given out");
        }
        if found && at > 200 {
            return;
        }
    }
    panic!("no byte mattered");
}

#[test]
fn of_two_files_with_a_batch_the_one_that_is_whole_is_taken() {
    let place = packed();
    place.ingest_file("a", first());
    let old: Vec<_> = place.store().0.into_keys().collect();
    place.ingest_file("a", first());
    let newest = place.store().keys("spans").into_iter().find(|key| !old.iter().any(|o| o == key)).unwrap().to_owned();
    // Its last page: the sums of the batch.
    let path = place.data().join(&newest);
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() / 3;
    bytes[at..at + 64].fill(0);
    fs::write(&path, bytes).unwrap();
    assert_eq!(place.run("restore", &["a"]).exits(0).stdout, first().as_bytes());
}

#[test]
fn a_damaged_file_takes_no_other_batch_with_it() {
    let place = filled();
    let store = place.store();
    let newest = place.data().join(store.keys("spans").last().unwrap());
    fs::write(newest, "not Parquet").unwrap();
    assert_eq!(place.run("restore", &[FIRST]).exits(0).stdout, first().as_bytes());
    place.run("restore", &[THIRD]).exits(1).says(&["could not be read and may have had it"]);
    place.run("restore", &["--all", "--to", "out"]).exits(1).says(&["2 batches restored", "is left out"]);
}

#[test]
fn a_loose_store_and_no_store_are_told_apart() {
    let place = Place::new();
    place.run("restore", &["x"]).exits(1).says(&["there is no store"]);
    place.ingest(document(&[span(1, 1).input("x")]).as_bytes()).exits(0);
    place.run("restore", &["x"]).exits(1).says(&["this store is loose", "keeps content and no envelope"]);
    place.run("restore", &["--all", "--to", "out"]).exits(1).says(&["this store is loose"]);
    let ran = run(command_on(&place, "convert", "data").args(["--to", "out"])).exits(1);
    ran.says(&["this store is loose", "ingest --layout packed"]);
    assert!(!place.path("out").exists());
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let place = filled();
    for args in [
        &[][..],
        &["--all"],
        &["--to", "x", FIRST],
        &["--all", "--to", "x", FIRST],
        &["--prefix", "x", FIRST],
        &["--list", "--all", "--to", "x"],
        &["--list", "--since", "soon"],
    ] {
        place.run("restore", args).exits(2);
    }
}

#[test]
fn converted_is_what_ingesting_the_raw_files_gives() {
    let place = filled();
    let convert = || run(command_on(&place, "convert", "unused").args(["--from", "data", "--to", "loose"]));
    convert().exits(0).says(&["3 batches written to loose", "0 there already"]);
    run(command_on(&place, "ingest", "other").args([FIRST, SECOND, THIRD])).exits(0);
    let of = |name: &str| common::store::Files::of(&place.path(name));
    of("loose").same_as(&of("other"));
    assert!(!of("loose").keys("batches").is_empty());
    convert().exits(0).says(&["0 batches written", "3 there already"]);
    run(command_on(&place, "verify", "loose").arg("--json")).exits(0);
}

#[test]
fn an_interrupted_conversion_goes_on_with_what_is_left() {
    let place = filled();
    let convert = || run(command_on(&place, "convert", "data").args(["--to", "loose"]));
    convert().exits(0);
    let whole = common::store::Files::of(&place.path("loose"));
    // As if it had been killed before the last batch.
    fs::remove_file(place.path("loose/batches").join(format!("{SECOND}.json"))).unwrap();
    convert().exits(0).says(&["1 batch written", "2 there already"]);
    common::store::Files::of(&place.path("loose")).same_as(&whole);
}

#[test]
fn what_loose_cannot_hold_is_told_by_convert_and_the_rest_is_done() {
    let place = filled();
    place.ingest_file("raw-spans/bad", "hello");
    let ran = run(command_on(&place, "convert", "data").args(["--to", "loose"])).exits(1);
    ran.says(&["raw-spans/bad: parse, byte 0", "3 batches written", "1 failed"]);
}

#[test]
fn convert_into_a_packed_store_is_refused() {
    let place = filled();
    place.write("other/gravity.json", r#"{"format":1,"layout":"packed","separator":"\n"}"#);
    let ran = run(command_on(&place, "convert", "data").args(["--to", "other"])).exits(1);
    ran.says(&["it is packed", "another prefix or folder"]);
}

#[test]
fn a_document_that_looks_compressed_is_converted_as_what_it_is() {
    let place = packed();
    place.ingest_file("twice", gz(&gz(first().as_bytes())));
    assert_eq!(restored(&place, "twice"), gz(first().as_bytes()));
    // As ingest into a loose store would: decompressed once, it is no OTLP.
    run(command_on(&place, "convert", "data").args(["--to", "loose"])).exits(1).says(&["twice: parse, byte 0"]);
}

#[test]
fn a_batch_from_a_pipe_is_restored_by_the_name_that_its_bytes_give() {
    let place = packed();
    let bytes = first().into_bytes();
    place.ingest(&bytes).exits(0);
    let name = format!("stdin/{}", &blake3::hash(&bytes).to_hex()[..16]);
    assert_eq!(restored(&place, &name), bytes);
}
