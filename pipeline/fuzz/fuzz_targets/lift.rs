//! Any bytes are lifted into nodes, and the nodes stand for the same bytes.
#![no_main]

use gravity_pipeline::packed::lift::{Lifter, cut};
use gravity_pipeline_fuzz::nodes::InMemory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let nodes = InMemory::default();
    let id = Lifter::new(&nodes).node(text);
    let mut out = Vec::new();
    nodes.expand(id, &mut out);
    assert!(out == text);
    let mut rest = text;
    for piece in cut(text) {
        rest = rest.strip_prefix(piece).expect("pieces come in order");
    }
    assert!(rest.is_empty());
});
