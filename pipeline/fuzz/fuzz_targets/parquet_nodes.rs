//! Any bytes as a file of nodes: no panic, and no more memory than the file can be worth.
#![no_main]

use gravity_pipeline::packed::format::read_nodes;
use gravity_pipeline_fuzz::{groups, let_panics_be_contained};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: let_panics_be_contained(), |file: &[u8]| {
    for group in groups(file, 5) {
        let Ok(nodes) = read_nodes(&group) else { continue };
        for (id, node) in nodes.iter() {
            assert_eq!(nodes.get(id).map(|found| found.text), Some(node.text));
        }
    }
});
