//! Parts whose chunks are in several passes: their sizes are added up over the passes, in a table of fixed size.
//!
//! Each part has a cell and a weight, both from its place; what its chunks lack to its size is added to the cell times
//! the weight. A cell that is not zero at the end puts the parts in it in doubt, and those are looked at once more.
//! That two wrong parts make a zero has the odds of 1 to 2^63.

use crate::hash::ChunkHash;
use crate::ids::TraceId;
use crate::loose::PartEntry;

/// Cells, of 8 bytes.
const CELLS: usize = 1 << 16;

/// Which chunks are in this pass, and the sums over several.
#[derive(Default)]
pub(super) struct Straddling {
    /// First and last two digits of every pass so far; none if all are in one.
    passes: Vec<(u8, u8)>,
    cells: Vec<u64>,
    confirming: bool,
}

/// How a part is to be checked now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// All its chunks are at hand.
    Now,
    /// Those of this pass are to be added to the others.
    Add,
    /// It was checked, or will be.
    No,
}

impl Straddling {
    pub fn begin_pass(&mut self, first: u8, last: u8) {
        self.passes.push((first, last));
    }

    /// True if what needs to be said once is to be said now.
    pub fn is_first(&self) -> bool {
        self.passes.len() <= 1 && !self.confirming
    }

    pub fn is_confirming(&self) -> bool {
        self.confirming
    }

    /// From now on only the parts in doubt are looked at, with all their chunks.
    pub fn confirm(&mut self) {
        self.confirming = true;
    }

    pub fn is_in_doubt(&self) -> bool {
        self.cells.iter().any(|&cell| cell != 0)
    }

    /// True if the chunk is in this pass.
    pub fn has(&self, hash: &ChunkHash) -> bool {
        self.confirming || self.passes.last().is_none_or(|pass| is_in(*pass, hash))
    }

    pub fn check(&self, trace: &TraceId, nth: usize, part: &PartEntry) -> Check {
        if self.confirming {
            let in_one = |pass: &(u8, u8)| part.chunks.iter().all(|hash| is_in(*pass, hash));
            let (cell, _) = place(trace, nth);
            let in_doubt = self.cells.get(cell).is_some_and(|&cell| cell != 0) && !self.passes.iter().any(in_one);
            return if in_doubt { Check::Now } else { Check::No };
        }
        match part.chunks.iter().filter(|hash| self.has(hash)).count() {
            n if n == part.chunks.len() && (n > 0 || self.is_first()) => Check::Now,
            0 => Check::No,
            _ => Check::Add,
        }
    }

    /// Adds the chunks of this pass; with its first chunk, what the part should come to.
    pub fn add(
        &mut self,
        trace: &TraceId,
        nth: usize,
        part: &PartEntry,
        separators: u64,
        size: impl Fn(&ChunkHash) -> u64,
    ) {
        let here = part.chunks.iter().filter(|hash| self.has(hash)).map(size);
        let mut lack = here.fold(0u64, u64::wrapping_add);
        if part.chunks.first().is_some_and(|first| self.has(first)) {
            lack = lack.wrapping_add(separators).wrapping_sub(part.bytes);
        }
        self.cells.resize(CELLS, 0);
        let (cell, weight) = place(trace, nth);
        self.cells[cell] = self.cells[cell].wrapping_add(lack.wrapping_mul(weight));
    }
}

fn is_in((first, last): (u8, u8), hash: &ChunkHash) -> bool {
    (first..=last).contains(&hash.as_bytes()[0])
}

/// A part's cell and weight.
fn place(trace: &TraceId, nth: usize) -> (usize, u64) {
    let mut hasher = blake3::Hasher::new();
    hasher.update(trace.as_bytes()).update(&(nth as u64).to_le_bytes());
    let [a, b, c, d, e, f, g, h, i, j, ..] = *hasher.finalize().as_bytes();
    // An odd weight has an inverse: no single part's lack is lost in it.
    (usize::from(u16::from_le_bytes([a, b])), u64::from_le_bytes([c, d, e, f, g, h, i, j]) | 1)
}
