//! Cuts large texts (files, tool outputs) at places that their content decides, so that two that share most of their
//! lines share most of their pieces: content-defined chunking as in LBFS (Muthitacharoen et al., 2001), aligned to
//! lines.

/// Texts shorter than this stay whole.
pub const CUT_FROM: usize = 16 << 10;
const LEAST: usize = 2 << 10;
const MOST: usize = 32 << 10;
/// Of the lines that could end a piece, one in so many does.
const LINES: u64 = 32;
/// Bytes before a cut that decide on it.
const WINDOW: usize = 32;

/// The pieces, in order; joined they are `text`.
pub fn cut(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, behind) = rest.split_at(next_cut(rest));
        rest = behind;
        Some(piece)
    })
}

fn next_cut(text: &[u8]) -> usize {
    if text.len() <= LEAST {
        return text.len();
    }
    let most = last_cut(text);
    let line_ends = memchr::memchr_iter(b'\n', &text[LEAST..most]).map(|at| LEAST + at + 1);
    line_ends.into_iter().find(|&end| mix(&text[end - WINDOW..end]).is_multiple_of(LINES)).unwrap_or(most)
}

/// Where a piece without a good line end ends: between two characters, so that the pieces of UTF-8 are UTF-8.
fn last_cut(text: &[u8]) -> usize {
    let is_inside = |at: usize| text.get(at).is_some_and(|byte| byte & 0b1100_0000 == 0b1000_0000);
    let most = text.len().min(MOST);
    (most - 3..=most).rev().find(|&at| !is_inside(at)).unwrap_or(most)
}

/// Any function of the window does, as long as it never changes: FNV-1a with a last multiplication.
fn mix(window: &[u8]) -> u64 {
    let hash = window
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}
