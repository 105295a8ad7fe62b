//! Any bytes at all as a raw file: no panic, and the same outcome however they arrive. The first byte is the size of
//! the pieces.
#![no_main]

use gravity_pipeline_fuzz::whole_and_in_pieces;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let [piece, raw @ ..] = input {
        whole_and_in_pieces(raw, usize::from(*piece));
    }
});
