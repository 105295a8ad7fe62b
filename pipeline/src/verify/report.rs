//! What verifying a store of either layout tells.

use super::{Finding, Level, UNKNOWN};
use serde::Serialize;
use std::fmt;

/// Findings, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Findings that are errors.
    pub errors: u64,
    /// Findings that are warnings.
    pub warnings: u64,
    /// Findings that only inform.
    pub infos: u64,
}

/// Tells and counts findings, and tells of progress.
pub(crate) struct Report<'a> {
    told: &'a mut (dyn FnMut(Finding) + Send),
    progress: &'a (dyn Fn(u64) + Sync),
    counts: Counts,
}

impl<'a> Report<'a> {
    pub fn new(told: &'a mut (dyn FnMut(Finding) + Send), progress: &'a (dyn Fn(u64) + Sync)) -> Self {
        Self { told, progress, counts: Counts::default() }
    }

    pub fn tell(&mut self, level: Level, kind: &'static str, key: impl fmt::Display, detail: impl Into<String>) {
        *match level {
            Level::Error => &mut self.counts.errors,
            Level::Warning => &mut self.counts.warnings,
            Level::Info => &mut self.counts.infos,
        } += 1;
        (self.told)(Finding { level, kind, key: key.to_string(), detail: detail.into() });
    }

    /// Tells of an object with a name of its own.
    pub fn unknown(&mut self, key: impl fmt::Display) {
        self.tell(Level::Warning, "unknown-object", key, UNKNOWN);
    }

    /// Objects were looked at.
    pub fn looked_at(&self, objects: u64) {
        (self.progress)(objects);
    }

    /// What was told so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}
