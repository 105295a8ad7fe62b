//! Any bytes as the values without a column: no panic, no more values than there are bytes, and to pass over a value is to
//! take it and look away.
#![no_main]

use gravity_pipeline::packed::format::rest::RestReader;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (Some(mut reader), Some(mut blind)) = (RestReader::new(bytes), RestReader::new(bytes)) else { return };
    let mut taken = 0;
    for stream in 0..bytes.len() as u32 + 1 {
        while let Some(value) = reader.next(stream) {
            taken += 1 + value.len();
            assert!(blind.skip(stream, 1).is_some());
        }
        assert!(blind.skip(stream, 1).is_none());
    }
    assert!(taken <= bytes.len());
});
