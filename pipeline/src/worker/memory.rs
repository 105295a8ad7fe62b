//! What a worker need not ask again.

use super::Outcome;
use crate::store::{Key, Meta};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

/// What need not be asked again.
#[derive(Default)]
pub(super) struct Memory {
    pub in_work: HashSet<Key>,
    /// Batches that were named once more while they were in work.
    pub named_again: HashSet<Key>,
    /// Batches in quarantine, by what tells their version.
    pub quarantined: HashMap<Key, Meta>,
    /// Raw files that are not what is stored of them, by what tells their version: not to be compared again.
    pub kept: HashMap<Key, Meta>,
    /// Batches that failed: how often, and when to try again.
    pub failed: HashMap<Key, (u32, Instant)>,
}

/// Entries of one of the tables at most: losing them costs requests, nothing else.
const REMEMBERED: usize = 100_000;

impl Memory {
    pub fn note_quarantined(&mut self, raw: &Meta) {
        if self.quarantined.len() >= REMEMBERED {
            self.quarantined.clear();
        }
        self.quarantined.insert(raw.key.clone(), raw.clone());
    }

    pub fn note_kept(&mut self, raw: &Meta) {
        if self.kept.len() >= REMEMBERED {
            self.kept.clear();
        }
        self.kept.insert(raw.key.clone(), raw.clone());
    }

    pub fn note_end(&mut self, key: &Key, outcome: &Outcome, poll_interval: Duration) {
        self.in_work.remove(key);
        match outcome {
            Outcome::Failed(_) => self.note_failure(key.clone(), poll_interval),
            _ => {
                self.failed.remove(key);
            }
        }
    }

    /// How long a batch that failed should still wait.
    pub fn pause_of(&self, key: &Key) -> Duration {
        self.failed.get(key).map_or(Duration::ZERO, |(_, again)| again.saturating_duration_since(Instant::now()))
    }

    /// Batches that failed and have waited long enough.
    pub fn due(&self) -> Vec<Key> {
        let now = Instant::now();
        let due = self.failed.iter().filter(|(key, (_, again))| *again <= now && !self.in_work.contains(*key));
        due.map(|(key, _)| key.clone()).collect()
    }

    /// Each failure doubles the pause before the next try, from one poll to about ten minutes.
    pub fn note_failure(&mut self, key: Key, poll_interval: Duration) {
        if self.failed.len() >= REMEMBERED {
            self.failed.clear();
        }
        let (count, again) = self.failed.entry(key).or_insert((0, Instant::now()));
        *count += 1;
        let pause = poll_interval.max(Duration::from_millis(100)) * 2u32.saturating_pow((*count - 1).min(10));
        *again = Instant::now() + pause.min(Duration::from_secs(600));
    }
}
