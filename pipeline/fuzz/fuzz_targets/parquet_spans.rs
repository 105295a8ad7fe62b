//! Any bytes as a file of spans: no panic, and no more memory than the file can be worth.
#![no_main]

use gravity_pipeline::packed::format::{bloom_of, locate, read_located, read_rows};
use gravity_pipeline_fuzz::{groups, let_panics_be_contained};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: let_panics_be_contained(), |file: &[u8]| {
    for group in groups(file, 22) {
        bloom_of(group.metadata.row_group(group.number).column(2), &group.window);
        if let Ok(located) = locate(&group, &[0; 16]) {
            located.nodes_of(&[0; 16]).for_each(drop);
            let _ = read_located(&group, located);
        }
        let Ok(rows) = read_rows(&group) else { continue };
        let Ok(rows) = rows.with_rest(|_| Ok::<_, String>(b"a\0rb\0r\0r".as_slice())) else { continue };
        for at in 0..rows.rows.len() {
            assert!(rows.refs_of(at).len() <= rows.refs.len());
            assert!(rows.rest_of(at).count() <= rows.values.len());
        }
    }
});
