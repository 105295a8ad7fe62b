//! What travels between the stages: a few hundred kilobytes of work with its place in the batch.

/// Consecutive items of a batch.
#[derive(Debug)]
pub struct Block<T> {
    /// Its place: blocks of a batch are numbered from 0 and may overtake each other.
    pub number: u64,
    /// The items, in the batch's order.
    pub items: Vec<T>,
}

impl<T> Block<T> {
    /// The same block with every item replaced.
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Block<U> {
        Block { number: self.number, items: self.items.into_iter().map(f).collect() }
    }
}
