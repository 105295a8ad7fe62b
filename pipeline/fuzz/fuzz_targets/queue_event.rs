//! Any text as a message of the queue: no panic; a batch is an object of the watched folder; and an SNS envelope
//! around it changes nothing.
#![no_main]

use gravity_pipeline::queue::event::{Event, Watched, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &str| {
    let parsed = parse(body);
    for event in parsed.iter().flatten() {
        let Event::Created { bucket, key } = event else { continue };
        for prefix in ["", "p"] {
            let watched = Watched { bucket: "b".into(), prefix: prefix.into(), raw_spans: "raw-spans".into() };
            if let Some(batch) = watched.batch(bucket, key) {
                assert!(bucket == "b" && batch.starts_with("raw-spans/") && !batch.ends_with('/'));
                assert_eq!(*key, if prefix.is_empty() { batch.to_owned() } else { format!("{prefix}/{batch}") });
            }
        }
    }
    // An envelope in an envelope is no event.
    if !body.contains("Type") {
        let text: String = body.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
        if body.chars().all(|c| u32::from(c) < 0x1_0000) {
            assert_eq!(parse(&format!(r#"{{"Type":"Notification","Message":"{text}"}}"#)), parsed);
        }
    }
});
