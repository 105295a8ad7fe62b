//! What the dialects share.

use super::habit::Habits;

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
