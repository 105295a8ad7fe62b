//! Which files of a day become one.

use super::spans::Contents;
use crate::packed::listing::Listed;
use crate::packed::table::PackNumber;
use std::collections::{BTreeSet, HashMap, HashSet};

/// How what a group holds stands to what a file does.
pub enum Relation {
    /// It is something else.
    None,
    /// Both hold the same: they become one.
    Overlaps,
    /// They must not become one.
    Excludes,
}

/// What files hold, as far as it tells which become one.
pub trait Holds {
    /// How this group stands to a file that holds `file`.
    fn relation(&self, file: &Self) -> Relation;
    /// Takes in what a file holds.
    fn add(&mut self, file: Self);
    /// True if this group may come to sort behind a newer one by taking in a file of `file`, the newest of all: nothing
    /// old may hide what is new.
    fn may_pass(&self, newer: &Self, file: &Self) -> bool;
}

/// Files of nodes.
impl Holds for HashSet<PackNumber> {
    fn relation(&self, file: &Self) -> Relation {
        if self.is_disjoint(file) { Relation::None } else { Relation::Overlaps }
    }

    fn add(&mut self, file: Self) {
        self.extend(file);
    }

    fn may_pass(&self, _: &Self, _: &Self) -> bool {
        true
    }
}

/// Files of spans: of each batch's key, the documents that they have, by BLAKE3 and bytes.
pub struct Versions(HashMap<String, BTreeSet<(String, u64)>>);

impl Versions {
    /// What is in a file.
    pub fn of(contents: &Contents) -> Self {
        let mut versions: HashMap<String, BTreeSet<_>> = HashMap::new();
        for (key, hash, bytes) in &contents.batches {
            versions.entry(key.clone()).or_default().insert((hash.clone(), *bytes));
        }
        Self(versions)
    }
}

impl Holds for Versions {
    /// A reader finds one batch of a key in a file: two that differ must not be in one.
    fn relation(&self, file: &Self) -> Relation {
        let mut relation = Relation::None;
        for (key, theirs) in &file.0 {
            match self.0.get(key) {
                Some(ours) if ours != theirs => return Relation::Excludes,
                Some(_) => relation = Relation::Overlaps,
                None => {}
            }
        }
        relation
    }

    fn add(&mut self, file: Self) {
        self.0.extend(file.0);
    }

    /// Of a key that was stored in two versions, a reader takes the file that sorts last. That must stay the one with the
    /// version that was stored last.
    fn may_pass(&self, newer: &Self, file: &Self) -> bool {
        let is_older = |(key, ours): (&String, _)| newer.0.get(key).is_some_and(|theirs| theirs != ours);
        self.0.iter().filter(|entry| is_older(*entry)).all(|(key, _)| file.0.contains_key(key))
    }
}

/// Files that become one, and what they hold. It sorts where its last file does.
pub struct Group<H> {
    /// The files, in the order of their names.
    pub files: Vec<Listed>,
    /// What they hold.
    pub holds: H,
    bytes: u64,
}

impl<H> Group<H> {
    /// True if it is one file that was compacted.
    pub fn is_done(&self) -> bool {
        matches!(&self.files[..], [one] if one.is_compacted())
    }

    /// The names of the files.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.files.iter().map(|file| file.key().to_string())
    }

    fn sorts_behind(&self, other: &Self) -> bool {
        self.files.last().map(Listed::key) > other.files.last().map(Listed::key)
    }
}

/// Files that overlap become one up to so many times the size of others: what two workers stored of the same day might
/// else be one file.
const OVERLAPPING: u64 = 4;

/// Files in the order of their names, shared out by size. Whole files: what a new one stands for, it holds alone.
pub struct Groups<H> {
    /// The groups so far.
    pub groups: Vec<Group<H>>,
    most: u64,
}

impl<H: Holds> Groups<H> {
    /// None yet; each to hold `most` decompressed bytes.
    pub fn new(most: u64) -> Self {
        Self { groups: vec![], most }
    }

    /// Adds the next file.
    pub fn add(&mut self, file: Listed, holds: H) {
        let bytes = file.decompressed_bytes();
        let place = (0..self.groups.len()).find(|&at| self.may_take(at, bytes, &holds));
        match place {
            Some(at) => {
                let group = &mut self.groups[at];
                group.files.push(file);
                group.holds.add(holds);
                group.bytes += bytes;
            }
            None => self.groups.push(Group { files: vec![file], holds, bytes }),
        }
    }

    fn may_take(&self, at: usize, bytes: u64, holds: &H) -> bool {
        let group = &self.groups[at];
        let mut newer = self.groups.iter().filter(|other| other.sorts_behind(group)).peekable();
        let most = match group.holds.relation(holds) {
            Relation::Excludes => return false,
            Relation::Overlaps => self.most.saturating_mul(OVERLAPPING),
            Relation::None if newer.peek().is_none() => self.most,
            Relation::None => return false,
        };
        group.bytes.saturating_add(bytes) <= most && newer.all(|newer| group.holds.may_pass(&newer.holds, holds))
    }
}
