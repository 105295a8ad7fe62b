//! Proves a loose store: every index against its blobs, every ledger entry against its indexes, and what nobody names.
//!
//! A pass takes as many blobs as fit into memory, by the first two digits of their names, and walks all indexes with
//! them; most stores need one pass. Whatever a listing seems to lack is asked for once more, since workers may be
//! writing meanwhile: a finding is what the object itself said, not what a listing left out.

mod batches;
mod chunks;
pub(crate) mod quarantine;
mod report;
mod sums;
mod traces;

use crate::error::Result;
use crate::hash::ChunkHash;
use crate::ids::TraceId;
use crate::ledger::Done;
use crate::loose::{Marker, Paths};
use crate::store::{self, ErrorKind, Store};
pub use report::Counts;
pub(crate) use report::Report;

use chunks::Chunks;
use futures::TryStreamExt;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;
use sums::Straddling;

/// What to look at, and how closely.
#[derive(Debug, Clone)]
pub struct Options {
    /// Share of the blobs that are read and hashed; that they are there is checked for all.
    pub sample: Share,
    /// Only this trace.
    pub trace: Option<TraceId>,
    /// Only indexes and ledger entries written since.
    pub since: Option<SystemTime>,
    /// Bytes for the names of a pass's blobs; those with the same first two digits are always in one pass.
    pub memory: usize,
}

/// A share of all chunks, the same chunks every time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(f64);

impl Share {
    /// All of them.
    pub const ALL: Self = Self(1.0);

    /// `part` of 1; `None` for what is not from 0 to 1.
    pub fn new(part: f64) -> Option<Self> {
        (0.0..=1.0).contains(&part).then_some(Self(part))
    }

    /// True if the chunk belongs to the share. Told by bytes that do not choose its folder, so that a small share has
    /// chunks from all of them.
    pub(crate) fn has(self, hash: &ChunkHash) -> bool {
        let [.., a, b, c, d] = *hash.as_bytes();
        f64::from(u32::from_be_bytes([a, b, c, d])) < self.0 * 4_294_967_296.0
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Something that was promised is not there, or is not what it was.
    Error,
    /// Something that Gravity did not write, or that contradicts itself harmlessly.
    Warning,
    /// What a crash or a worker at work leaves.
    Info,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Info => "info",
        })
    }
}

/// Something worth telling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What it is, in a word that stays the same from release to release.
    pub kind: &'static str,
    /// The object.
    pub key: String,
    /// What was expected and what was found.
    pub detail: String,
}

/// What was looked at, and what came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Findings.
    #[serde(flatten)]
    pub findings: Counts,
    /// Indexes that were read.
    pub indexes: u64,
    /// Content values in them.
    pub parts: u64,
    /// Blobs that are there.
    pub blobs: u64,
    /// Blobs that were read and hashed.
    pub blobs_read: u64,
    /// Ledger entries that were read.
    pub ledger_entries: u64,
    /// Walks through the blobs and indexes.
    pub passes: u64,
}

/// What is said of an object with a name of its own.
pub(crate) const UNKNOWN: &str = "no name that Gravity gives; nothing reads it";

/// Reads of blobs, and requests for other objects that are small, at the same time.
const READS: usize = 32;

struct Verifier<'a> {
    store: Arc<dyn Store>,
    paths: Paths,
    options: Options,
    marker: Option<Marker>,
    summary: Summary,
    /// True if there is an index whose chunks are not known.
    has_unreadable_index: bool,
    report: Report<'a>,
}

/// Verifies a store, giving every finding to `report` and telling `progress` of every object looked at.
///
/// # Errors
/// If the store cannot be asked, or its marker is of another format; what is wrong in it is a finding.
pub async fn verify(
    store: Arc<dyn Store>,
    paths: Paths,
    options: Options,
    report: &mut (dyn FnMut(Finding) + Send),
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Summary> {
    let marker = Marker::read(&*store).await?;
    let (summary, has_unreadable_index) = Default::default();
    let mut verifier = Verifier {
        store,
        paths,
        options,
        marker,
        summary,
        has_unreadable_index,
        report: Report::new(report, progress),
    };
    match (verifier.options.trace, verifier.options.since) {
        (Some(trace), _) => verifier.one_trace(&trace).await?,
        (None, Some(_)) => {
            verifier.selected_traces().await?;
            verifier.ledger().await?;
        }
        (None, None) => {
            verifier.all_traces().await?;
            verifier.ledger().await?;
            let done = Done::Ledger(verifier.store.clone());
            quarantine::verify(verifier.store.clone(), done, &mut verifier.report).await?;
        }
    }
    Ok(Summary { findings: verifier.report.counts(), ..verifier.summary })
}

impl Verifier<'_> {
    /// True for what `--since` leaves over.
    fn is_selected(&self, modified: Option<SystemTime>) -> bool {
        match (self.options.since, modified) {
            (Some(since), Some(modified)) => modified >= since,
            _ => true,
        }
    }

    /// Pass after pass through the blobs, and through the indexes with them.
    async fn all_traces(&mut self) -> Result<()> {
        let mut blobs = self.store.list(&format!("{}/", self.paths.blobs), None);
        let mut next = blobs.try_next().await?;
        let mut straddling = Straddling::default();
        let mut first = 0;
        loop {
            let mut chunks = Chunks::default();
            let mut digits_so_far = None;
            while let Some(meta) = next.take() {
                match self.paths.hash_of(&meta.key) {
                    None => self.report.unknown(&meta.key),
                    Some(hash) => {
                        let digits = hash.as_bytes()[0];
                        let is_in_a_new_folder = digits_so_far.is_some_and(|so_far| digits > so_far);
                        if is_in_a_new_folder && chunks.is_over(self.options.memory) {
                            next = Some(meta);
                            break;
                        }
                        digits_so_far = digits_so_far.max(Some(digits));
                        chunks.list(hash);
                        self.summary.blobs += 1;
                    }
                }
                next = blobs.try_next().await?;
            }
            // The last pass also has the names for which there is no blob at all.
            let last = if next.is_some() { digits_so_far.unwrap_or(255) } else { 255 };
            straddling.begin_pass(first, last);
            self.walk(&mut chunks, &mut straddling).await?;
            self.orphans(&mut chunks).await?;
            self.summary.passes += 1;
            if last == 255 {
                break;
            }
            first = last + 1;
        }
        if straddling.is_in_doubt() {
            straddling.confirm();
            self.walk(&mut Chunks::default(), &mut straddling).await?;
        }
        Ok(())
    }

    /// The indexes that `--since` leaves over, and the blobs they name.
    async fn selected_traces(&mut self) -> Result<()> {
        self.summary.passes = 1;
        self.walk(&mut Chunks::default(), &mut Straddling::default()).await
    }
}

/// A store's failure that is this one object's alone; any other means that nothing can be said.
pub(crate) fn of_this_object(error: store::Error) -> Result<String> {
    match error.kind {
        ErrorKind::Other | ErrorKind::BadKey => Ok(error.to_string()),
        _ => Err(error.into()),
    }
}
