//! Any bytes in the place of a record, and of what stands before it: what it is taken apart into stands for the same.
#![no_main]

use bytes::Bytes;
use gravity_pipeline::keys::ContentKeys;
use gravity_pipeline::otlp::{Element, Encoding, Frame, FrameBlock};
use gravity_pipeline::packed::gaps::Stretch;
use gravity_pipeline::packed::rows::rows_of;
use gravity_pipeline_fuzz::nodes::InMemory;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [cut, input @ ..] = input else { return };
    let (gap, record) = input.split_at(usize::from(cut & 31).min(input.len()));
    let keys = ContentKeys::default();
    for encoding in [Encoding::JsonSpan, Encoding::JsonLog, Encoding::Protobuf] {
        let frame = |gap: &[u8]| Frame {
            offset: 0,
            encoding,
            bytes: Bytes::copy_from_slice(record),
            gap: Bytes::copy_from_slice(gap),
            element: Element::default(),
        };
        // The second is in the first one's wake, and has the head that protobuf has.
        let mut head = vec![0x12];
        let mut length = record.len();
        while length >= 0x80 {
            head.push(length as u8 | 0x80);
            length >>= 7;
        }
        head.push(length as u8);
        let block = FrameBlock { number: 0, frames: vec![frame(gap), frame(&head)] };
        let nodes = InMemory::default();
        let rows = rows_of(&Stretch::Records(block), &keys, &nodes);
        assert!(nodes.join(&rows) == [gap, record, &head, record].concat());
    }
});
