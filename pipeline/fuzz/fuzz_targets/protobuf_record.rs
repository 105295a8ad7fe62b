//! Any bytes in the place of a protobuf record, with the lengths of a request around them; and turned into JSON.
#![no_main]

use gravity_pipeline::otlp::protobuf_json::{LOG, Losses, RESOURCE_GROUP, SCOPE_GROUP, SPAN, write_members};
use gravity_pipeline_fuzz::whole_and_in_pieces;
use libfuzzer_sys::fuzz_target;

fn message(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let mut length = content.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(content);
    out
}

fuzz_target!(|input: &[u8]| {
    let [piece, record @ ..] = input else { return };
    let request = message(0x0a, &message(0x12, &message(0x12, record)));
    whole_and_in_pieces(&request, usize::from(*piece));
    for schema in [&SPAN, &LOG, &RESOURCE_GROUP, &SCOPE_GROUP] {
        let mut json = b"{".to_vec();
        if write_members(schema, record, &mut json, &mut Losses::default()).is_ok() {
            json.push(b'}');
            serde_json::from_slice::<serde::de::IgnoredAny>(&json).expect("JSON");
        }
    }
});
