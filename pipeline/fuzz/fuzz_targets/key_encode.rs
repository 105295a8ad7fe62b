//! Any name becomes a valid key, from which it comes back unless it was too long; and any key may be decoded.
#![no_main]

use gravity_pipeline::store::Key;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|name: &str| {
    let key = Key::encode("batches", name, ".json");
    let checked = Key::new(key.as_str()).expect("an encoded name is a valid key");
    match key.decode("batches", ".json") {
        Some(decoded) => assert_eq!(decoded, name),
        None => assert!(key.as_str().starts_with("batches/%long/"), "{key}"),
    }
    assert_eq!(checked, key);
    if let Ok(other) = Key::new(format!("batches/{name}.json")) {
        // Names that Gravity has not made are in a listing too.
        let _ = other.decode("batches", ".json");
    }
});
