//! One span of 100 MB: refused by default, stored and given back exactly if that is asked for.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::otlp::{document, span, trace};
use common::{Place, run};

#[test]
fn a_string_of_100_mb_is_refused_and_with_a_higher_limit_comes_back_exactly() {
    let place = Place::new();
    // One chunk, of two bytes that come in turns: it is the size that counts here.
    let text = "xy".repeat(50_000_000);
    place.write("large", document(&[span(1, 1).input(&text)]));
    place.run("ingest", &["large"]).exits(1).says(&["large: parse, byte ", "67108864", "MAX_SPAN_BYTES"]);
    place.store().holds_no_batch();
    run(place.command("ingest").arg("large").env("MAX_SPAN_BYTES", "256MiB")).exits(0);
    assert!(place.content(&trace(1)) == text.as_bytes(), "the content differs");
}
