//! What the dialects share.

use super::habit::Habits;
use crate::lanes::{LANES, Lanes};

/// A literal whose end was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Bytes between the quotes.
    pub length: usize,
    /// Who writes the text that it stands for exactly so: none if it may not be lifted.
    pub habits: Habits,
    /// True if the text is not what stands between the quotes.
    pub escaped: bool,
}

/// The number that these digits (lowercase, two to eight) give in base 16.
pub fn hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number: u32, &digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u32::from(value))
    })
}

/// A lone surrogate at the front, in WTF-8's three bytes.
pub fn surrogate_at(bytes: &[u8]) -> Option<u32> {
    match *bytes {
        [0xed, second @ 0xa0..=0xbf, third @ 0x80..=0xbf, ..] => {
            Some(0xd000 | (u32::from(second) & 0x3f) << 6 | (u32::from(third) & 0x3f))
        }
        _ => None,
    }
}

/// Appends a lone surrogate.
pub fn push_surrogate(unit: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xed, 0x80 | (unit >> 6 & 0x3f) as u8, 0x80 | (unit & 0x3f) as u8]);
}

/// How many bytes stand before the next `quote` or backslash, and the classes of these. `write` is given them, at the
/// front of sixteen at a time.
#[inline]
pub fn plain_run(text: &[u8], quote: u8, mut write: impl FnMut(&[u8; LANES], usize)) -> Option<(usize, u8)> {
    let (mut at, mut seen) = (0, 0);
    loop {
        let rest = &text[at..];
        let mut last = [0; LANES];
        let next = match rest.first_chunk() {
            Some(next) => next,
            None => {
                last[..rest.len()].copy_from_slice(rest);
                &last
            }
        };
        let lanes = Lanes::new(next);
        let ends = (lanes.equal(quote) | lanes.equal(b'\\')).to_bitmask();
        let length = (ends.trailing_zeros() as usize).min(LANES).min(rest.len());
        let rare = lanes.below(b' ') | lanes.at_least(0x7f) | lanes.equal_with(2, b'>') | lanes.equal(b'&');
        if rare.to_bitmask() & !(u32::MAX << length) != 0 {
            seen = next[..length].iter().fold(seen, |seen, &byte| seen | CLASS[usize::from(byte)]);
        }
        write(next, length);
        at += length;
        if ends != 0 {
            return Some((at, seen));
        }
        if at == text.len() {
            return None;
        }
    }
}

/// Appends the first `length` bytes: more are copied, since the number of these is known to the compiler.
pub fn push_front(bytes: &[u8; LANES], length: usize, out: &mut Vec<u8>) {
    let end = out.len() + length;
    out.extend_from_slice(bytes);
    out.truncate(end);
}

/// Classes of bytes that not every encoder writes as they are.
pub const CONTROL: u8 = 1;
/// The first bit of the byte is set.
pub const NOT_ASCII: u8 = 2;
/// DEL.
pub const DELETE: u8 = 4;
/// `<`, `>` and `&`.
pub const MARKUP: u8 = 8;
/// The first byte of a surrogate in WTF-8.
pub const MAY_BE_SURROGATE: u8 = 16;
/// The first byte of U+2028 and U+2029.
pub const MAY_BE_LINE: u8 = 32;

const CLASS: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte as u8 {
            0..0x20 => CONTROL,
            0x7f => DELETE,
            0xed => NOT_ASCII | MAY_BE_SURROGATE,
            0xe2 => NOT_ASCII | MAY_BE_LINE,
            0x80.. => NOT_ASCII,
            b'<' | b'>' | b'&' => MARKUP,
            _ => 0,
        };
        byte += 1;
    }
    table
};
