//! What was compressed comes back; what nobody compressed is an error, not a panic; and a blob cut off is an error.
#![no_main]

use gravity_pipeline::compress::{gunzip, gzip};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let blob = gzip(input);
    assert_eq!(gunzip(&blob).expect("what was compressed can be read"), input);
    let cut_off = input.first().map_or(0, |&byte| usize::from(byte)) % blob.len();
    assert!(gunzip(&blob[..cut_off]).is_err());
    if let Ok(chunk) = gunzip(input) {
        assert_eq!(gunzip(&gzip(&chunk)).expect("what was compressed can be read"), chunk);
    }
});
