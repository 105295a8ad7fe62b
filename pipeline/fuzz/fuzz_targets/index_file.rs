//! Any bytes as a stored index: no panic, and what can be read is written and read again to the same.
#![no_main]

use gravity_pipeline::loose::TraceIndex;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| {
    let Ok(index) = TraceIndex::from_json("indexes/x.json", json) else { return };
    let again = TraceIndex::from_json("indexes/x.json", &index.to_json().expect("an index has a JSON form"))
        .expect("what was written can be read");
    assert_eq!(again, index);
    let merged = index.clone().merge(index.clone()).expect("an index has one separator");
    assert_eq!(merged.clone().merge(index).expect("an index has one separator"), merged);
});
