//! Joining what was cut gives the content back, whatever the separator, and no chunk holds the separator.
#![no_main]

use bytes::Bytes;
use gravity_pipeline::split::{Separator, cut};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &[u8])| {
    let (separator, content) = input;
    let Ok(separator) = Separator::new(separator) else { return };
    let chunks = cut(&Bytes::copy_from_slice(content), &separator);
    assert_eq!(chunks.join(separator.as_bytes()), content);
    for chunk in &chunks {
        assert!(!chunk.windows(separator.as_bytes().len()).any(|bytes| bytes == separator.as_bytes()));
    }
});
