//! Bytes looked at sixteen at a time: what is looked for gives a bit for each byte, the first byte's lowest.

use wide::u8x16;

/// Bytes in [`Lanes`].
pub(crate) const LANES: usize = 16;

/// Sixteen bytes.
#[derive(Clone, Copy)]
pub(crate) struct Lanes(u8x16);

impl Lanes {
    pub(crate) fn new(bytes: &[u8; LANES]) -> Self {
        Self(u8x16::new(*bytes))
    }

    /// Bytes that are this one.
    pub(crate) fn equal(self, byte: u8) -> u8x16 {
        self.0.simd_eq(u8x16::splat(byte))
    }

    /// Bytes that are this one once `bits` are set in them.
    pub(crate) fn equal_with(self, bits: u8, byte: u8) -> u8x16 {
        (self.0 | u8x16::splat(bits)).simd_eq(u8x16::splat(byte))
    }

    /// Bytes below this one.
    pub(crate) fn below(self, byte: u8) -> u8x16 {
        self.0.simd_lt(u8x16::splat(byte))
    }

    /// This byte and those above it.
    pub(crate) fn at_least(self, byte: u8) -> u8x16 {
        self.0.simd_ge(u8x16::splat(byte))
    }
}

/// Bytes in a [`Block`].
pub(crate) const BLOCK: usize = 64;

/// Where in 64 bytes of JSON what decides on its structure stands.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) quotes: u64,
    pub(crate) backslashes: u64,
    /// `{` and `[`.
    pub(crate) opens: u64,
    /// `}` and `]`.
    pub(crate) closes: u64,
}

impl Block {
    pub(crate) fn new(bytes: &[u8; BLOCK]) -> Self {
        Self {
            quotes: places(bytes, |lanes| lanes.equal(b'"')),
            backslashes: places(bytes, |lanes| lanes.equal(b'\\')),
            // `[` and `]` are `{` and `}` without this bit.
            opens: places(bytes, |lanes| lanes.equal_with(0x20, b'{')),
            closes: places(bytes, |lanes| lanes.equal_with(0x20, b'}')),
        }
    }
}

/// Where in 64 bytes those stand that are looked for.
#[inline]
fn places(bytes: &[u8; BLOCK], looked_for: impl Fn(Lanes) -> u8x16) -> u64 {
    let sixteens = bytes.as_chunks::<LANES>().0.iter().rev();
    sixteens.fold(0, |bits, sixteen| bits << LANES | u64::from(looked_for(Lanes::new(sixteen)).to_bitmask()))
}

/// Bytes behind one of these backslashes that escapes them, if the first byte is not one.
///
/// This and [`through_strings`] are from Langdale and Lemire, [Parsing Gigabytes of JSON per
/// Second](https://arxiv.org/abs/1902.08318) (2019), in the form that simdjson has now.
pub(crate) fn escaped(backslashes: u64) -> u64 {
    const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;
    // In a run of backslashes every other byte is escaped, and what follows it if the run is odd: subtracting the
    // run from what may be escaped carries through it, and tells where it ended.
    let escapes_or_ends = ((backslashes << 1) | ODD).wrapping_sub(backslashes) ^ ODD;
    escapes_or_ends ^ backslashes
}

/// Where the first `quote` stands that no backslash escapes.
pub(crate) fn unescaped(quote: u8, text: &[u8]) -> Option<usize> {
    let first = memchr::memchr2(quote, b'\\', text)?;
    if text[first] == quote {
        return Some(first);
    }
    // One if the block's first byte is escaped.
    let mut carried = 0;
    for (number, bytes) in text[first..].chunks(BLOCK).enumerate() {
        let mut last = [0; BLOCK];
        let block = bytes.first_chunk().unwrap_or_else(|| {
            last[..bytes.len()].copy_from_slice(bytes);
            &last
        });
        let backslashes = places(block, |lanes| lanes.equal(b'\\')) & !carried;
        let escaped = escaped(backslashes);
        let ends = places(block, |lanes| lanes.equal(quote)) & !(escaped | carried);
        if ends != 0 {
            return Some(first + number * BLOCK + ends.trailing_zeros() as usize);
        }
        carried = (backslashes & !escaped) >> (BLOCK - 1);
    }
    None
}

/// All bytes from each first of two quotes up to the second, which does not count.
pub(crate) fn through_strings(quotes: u64) -> u64 {
    [1, 2, 4, 8, 16, 32].into_iter().fold(quotes, |mask, shift| mask ^ mask << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = [u8; BLOCK]> {
        let byte = prop_oneof![Just(b'\\'), Just(b'"'), Just(b'{'), Just(b']'), any::<u8>()];
        proptest::collection::vec(byte, BLOCK).prop_map(|bytes| *bytes.first_chunk().unwrap())
    }

    fn places(bytes: &[u8; BLOCK], is: impl Fn(usize) -> bool) -> u64 {
        (0..bytes.len()).filter(|&at| is(at)).fold(0, |mask, at| mask | 1 << at)
    }

    proptest! {
        #[test]
        fn a_block_knows_where_everything_stands(bytes in bytes()) {
            let block = Block::new(&bytes);
            prop_assert_eq!(block.quotes, places(&bytes, |at| bytes[at] == b'"'));
            prop_assert_eq!(block.backslashes, places(&bytes, |at| bytes[at] == b'\\'));
            prop_assert_eq!(block.opens, places(&bytes, |at| matches!(bytes[at], b'{' | b'[')));
            prop_assert_eq!(block.closes, places(&bytes, |at| matches!(bytes[at], b'}' | b']')));
        }

        #[test]
        fn the_quote_that_no_backslash_escapes_is_found_as_byte_by_byte(
            text in proptest::collection::vec(prop_oneof![4 => Just(b'\\'), 1 => Just(b'"'), 4 => any::<u8>()], 0..300),
        ) {
            let mut at = 0;
            while at < text.len() && text[at] != b'"' {
                at += if text[at] == b'\\' { 2 } else { 1 };
            }
            prop_assert_eq!(unescaped(b'"', &text), (at < text.len()).then_some(at));
        }

        #[test]
        fn what_is_escaped_and_what_is_in_a_string_is_told_as_byte_by_byte(bytes in bytes()) {
            let block = Block::new(&bytes);
            let mut is_escaped = [false; BLOCK];
            for at in 1..BLOCK {
                is_escaped[at] = bytes[at - 1] == b'\\' && !is_escaped[at - 1];
            }
            prop_assert_eq!(escaped(block.backslashes), places(&bytes, |at| is_escaped[at]));
            let inside = |at| (0..=at).filter(|&at| bytes[at] == b'"').count() % 2 == 1;
            prop_assert_eq!(through_strings(block.quotes), places(&bytes, inside));
        }
    }
}
