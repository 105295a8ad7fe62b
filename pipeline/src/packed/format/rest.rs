//! The values without a column, of one row group, as one value of the column `rest`.
//!
//! Values before which the same text stands (digits aside) in their shapes form a stream. Streams come in the order in
//! which the rows, read in order, first have a value of them:
//!
//! ```text
//! varint: number of streams
//! for each stream: varint: bytes of its lengths; varint: bytes of its values
//! for each stream: its lengths, a varint each; then its values, joined
//! ```

use crate::packed::row::{TextId, Texts};
use crate::packed::shape::{Op, ops};
use std::collections::HashMap;
use std::hash::Hash;

/// Which stream each value of a shape is in.
pub struct Streams<Id> {
    by_shape: HashMap<Id, Box<[TextId]>>,
}

impl<Id> Default for Streams<Id> {
    fn default() -> Self {
        Self { by_shape: HashMap::new() }
    }
}

impl<Id: Copy + Eq + Hash> Streams<Id> {
    /// The streams of the values of a record of this shape, in the values' order, by their numbers in `keys`.
    pub fn of(&mut self, id: Id, shape: &[u8], keys: &mut Texts) -> &[TextId] {
        self.by_shape.entry(id).or_insert_with(|| {
            let streams = ops(shape).filter_map(|op| match op {
                Some(Op::Rest(before)) => Some(keys.id_without_digits(before)),
                _ => None,
            });
            streams.collect()
        })
    }
}

/// Writes values.
#[derive(Default)]
pub struct RestWriter {
    by_key: HashMap<TextId, usize>,
    streams: Vec<(Vec<u8>, Vec<u8>)>,
}

impl RestWriter {
    /// Appends a value to a stream.
    pub fn push(&mut self, key: TextId, value: &[u8]) {
        let stream = *self.by_key.entry(key).or_insert(self.streams.len());
        if stream == self.streams.len() {
            self.streams.push(Default::default());
        }
        let (lengths, values) = &mut self.streams[stream];
        push_varint(value.len(), lengths);
        values.extend_from_slice(value);
    }

    /// The column's value; `None` if there are no values.
    pub fn finish(self) -> Option<Vec<u8>> {
        if self.streams.is_empty() {
            return None;
        }
        let mut out = Vec::new();
        push_varint(self.streams.len(), &mut out);
        for (lengths, values) in &self.streams {
            push_varint(lengths.len(), &mut out);
            push_varint(values.len(), &mut out);
        }
        for (lengths, values) in &self.streams {
            out.extend_from_slice(lengths);
            out.extend_from_slice(values);
        }
        Some(out)
    }
}

/// Reads values.
pub struct RestReader<'a> {
    streams: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> RestReader<'a> {
    /// Reads the column's value; an empty one if there is none.
    pub fn new(mut bytes: &'a [u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self { streams: vec![] });
        }
        let count = take_varint(&mut bytes)?;
        let sizes = (0..count).map(|_| Some((take_varint(&mut bytes)?, take_varint(&mut bytes)?)));
        let sizes: Vec<_> = sizes.collect::<Option<_>>()?;
        let streams =
            sizes.into_iter().map(|(lengths, values)| Some((bytes.split_off(..lengths)?, bytes.split_off(..values)?)));
        Some(Self { streams: streams.collect::<Option<_>>()? })
    }

    /// The next value of a stream.
    pub fn next(&mut self, stream: TextId) -> Option<&'a [u8]> {
        let (lengths, values) = self.streams.get_mut(stream as usize)?;
        let length = take_varint(lengths)?;
        values.split_off(..length)
    }

    /// Passes over the next values of a stream.
    pub fn skip(&mut self, stream: TextId, count: usize) -> Option<()> {
        let (lengths, values) = self.streams.get_mut(stream as usize)?;
        let bytes = (0..count).try_fold(0usize, |sum, _| sum.checked_add(take_varint(lengths)?))?;
        values.split_off(..bytes).map(|_| ())
    }

    /// True if every value was taken.
    pub fn is_done(&self) -> bool {
        self.streams.iter().all(|(lengths, values)| lengths.is_empty() && values.is_empty())
    }
}

fn push_varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 & 0x7f | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0usize;
    for shift in (0..usize::BITS).step_by(7) {
        let byte = *bytes.split_off_first()?;
        value |= usize::from(byte & 0x7f).checked_shl(shift)?;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn values_that_are_passed_over_are_those_that_would_have_come_next(
            values in proptest::collection::vec((0u32..4, proptest::collection::vec(any::<u8>(), 0..300)), 0..50),
            skipped in 1usize..60,
        ) {
            let mut writer = RestWriter::default();
            values.iter().for_each(|(key, value)| writer.push(*key, value));
            let bytes = writer.finish().unwrap_or_default();
            let (mut one, mut other) = (RestReader::new(&bytes).unwrap(), RestReader::new(&bytes).unwrap());
            for stream in 0..5 {
                let taken = (0..skipped).try_for_each(|_| one.next(stream).map(|_| ()));
                prop_assert_eq!(other.skip(stream, skipped), taken);
                if taken.is_some() {
                    prop_assert_eq!(other.next(stream), one.next(stream));
                }
            }
        }
    }
}
