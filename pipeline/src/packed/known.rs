//! What a process knows by key, in no more memory than it may need: what is forgotten costs something, and loses nothing.

use super::node::NodeKey;
use crate::hash::FirstBytes;
use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::{Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 16;

/// Values by key.
pub(super) struct Known<V>(Vec<Mutex<Shard<V>>>);

impl<V: Copy> Known<V> {
    /// Nothing yet, and at most about `budget` bytes.
    pub fn new(budget: usize) -> Self {
        let shard = || Shard { young: Entries::default(), old: Entries::default(), entries: Self::entries(budget) };
        Self((0..SHARDS).map(|_| Mutex::new(shard())).collect())
    }

    /// How many a generation of a shard has room for.
    fn entries(budget: usize) -> usize {
        // In a table that has just doubled.
        let bytes = 2 * (size_of::<(NodeKey, V)>() + 1);
        (budget / SHARDS / bytes / 2).max(16)
    }

    /// How many a generation has room for.
    pub fn capacity(&self) -> usize {
        self.0.iter().map(|shard| lock(shard).entries).sum()
    }

    /// The part that has a key.
    pub fn shard(&self, key: &NodeKey) -> MutexGuard<'_, Shard<V>> {
        lock(&self.0[key.shard() % SHARDS])
    }

    /// Forgets everything.
    pub fn forget(&self) {
        for shard in &self.0 {
            let mut shard = lock(shard);
            shard.young.clear();
            shard.old.clear();
        }
    }
}

fn lock<V>(shard: &Mutex<Shard<V>>) -> MutexGuard<'_, Shard<V>> {
    // What it holds is whole between any two statements that could panic.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Two generations: when the young one is full it becomes the old one, and what was old is forgotten unless it was
/// asked for meanwhile.
pub(super) struct Shard<V> {
    young: Entries<V>,
    old: Entries<V>,
    entries: usize,
}

type Entries<V> = HashMap<NodeKey, V, BuildHasherDefault<FirstBytes>>;

impl<V: Copy> Shard<V> {
    /// The value of a key.
    pub fn get(&mut self, key: &NodeKey) -> Option<V> {
        if let Some(&value) = self.young.get(key) {
            return Some(value);
        }
        let value = *self.old.get(key)?;
        self.insert(*key, value);
        Some(value)
    }

    /// Notes a value.
    pub fn insert(&mut self, key: NodeKey, value: V) {
        if self.young.len() >= self.entries {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}
