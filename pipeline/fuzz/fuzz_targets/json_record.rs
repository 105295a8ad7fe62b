//! Any bytes in the place of a JSON span and of a log record, with a whole document around them.
#![no_main]

use gravity_pipeline_fuzz::whole_and_in_pieces;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [piece, record @ ..] = input else { return };
    for (before, behind) in [
        (&br#"{"resourceSpans":[{"scopeSpans":[{"spans":["#[..], &b"]}]}]}"[..]),
        (br#"{"resourceLogs":[{"scopeLogs":[{"logRecords":["#, b"]}]}]}"),
    ] {
        whole_and_in_pieces(&[before, record, behind].concat(), usize::from(*piece));
    }
});
