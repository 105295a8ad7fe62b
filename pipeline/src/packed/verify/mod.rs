//! Proves a packed store: every batch put together and compared with its BLAKE3, every reference followed, every file
//! that another one names looked for, and what nobody names.
//!
//! Memory holds the metadata of the files of spans, the names of the packs and whom they lead to (some 100 bytes each),
//! two row groups of spans and what is remembered of nodes; it does not grow with what is in the files.

mod nodes;
mod spans;
mod trace;

use super::batches::written;
use super::catalog::{Catalog, Files};
use super::done::DoneBatches;
use super::listing::is_spans_file;
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::ids::TraceId;
use crate::ledger::Done;
use crate::store::{Key, Store};
use crate::verify::{Counts, Finding, Level, Report, Share, quarantine};
use nodes::Packs;
use serde::Serialize;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

/// What to look at, and how closely.
#[derive(Debug, Clone)]
pub struct Options {
    /// Share of the batches that are restored, the same ones every time; that the files they need are there is checked
    /// for all.
    pub sample: Share,
    /// Only the rows of this trace, and what they lead to.
    pub trace: Option<TraceId>,
    /// Only files of spans written since, and what they lead to.
    pub since: Option<SystemTime>,
}

/// What was looked at, and what came of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Findings.
    #[serde(flatten)]
    pub findings: Counts,
    /// Files of spans that were looked at.
    pub span_files: u64,
    /// Files of nodes that are there.
    pub node_files: u64,
    /// Files of nodes that were read whole.
    pub node_files_read: u64,
    /// Batches in the files, each as often as it was committed.
    pub batches: u64,
    /// Batches that were restored and found as they came.
    pub batches_restored: u64,
    /// Bytes of them.
    pub bytes_restored: u64,
    /// With `trace`: its rows that were put together.
    pub rows: u64,
}

/// Bytes of nodes remembered.
const NODE_BYTES: usize = 64 << 20;

struct Verifier<'a> {
    store: Arc<dyn Store>,
    reader: Arc<Reader>,
    options: Options,
    summary: Summary,
    packs: Packs,
    report: Report<'a>,
}

/// Verifies a packed store, giving every finding to `report` and telling `progress` of every object looked at.
///
/// # Errors
/// If the store cannot be asked, or does not have the trace; what is wrong in it is a finding.
pub async fn verify(
    store: Arc<dyn Store>,
    options: Options,
    report: &mut (dyn FnMut(Finding) + Send),
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Summary> {
    let reader = Reader::new(store.clone(), NODE_BYTES);
    let (summary, packs) = Default::default();
    let mut verifier = Verifier { store, reader, options, summary, packs, report: Report::new(report, progress) };
    let files = verifier.catalog().await?;
    match verifier.options.trace {
        Some(trace) => verifier.one_trace(&files, trace).await?,
        None => verifier.all(&files).await?,
    }
    Ok(Summary { findings: verifier.report.counts(), ..verifier.summary })
}

/// A failure that is this one object's alone; any other means that nothing can be said.
fn of_this_object<T>(result: Result<T>) -> Result<Result<T, String>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(e @ (Error::Corrupt { .. } | Error::NotFound(_))) => Ok(Err(e.to_string())),
        Err(Error::Store(e)) => crate::verify::of_this_object(e).map(Err),
        Err(e) => Err(e),
    }
}

impl Verifier<'_> {
    /// The files of spans, as far as they can be read.
    async fn catalog(&mut self) -> Result<Arc<Files>> {
        let mut broken = Vec::new();
        let files = Catalog::new(self.reader.clone()).refresh_despite(&mut |key, e| broken.push((key, e))).await?;
        for (key, e) in broken {
            match is_spans_file(&key) {
                true => self.report.tell(Level::Error, "corrupt-spans", key, e.to_string()),
                false => self.report.unknown(key),
            }
        }
        Ok(files)
    }

    async fn all(&mut self, files: &Files) -> Result<()> {
        self.list_packs().await?;
        let live: HashSet<&Key> = files.live().map(|(key, _)| key).collect();
        let (mut told, mut wanted) = (HashSet::new(), BTreeSet::new());
        for (key, file) in files.all() {
            self.report.looked_at(1);
            if !is_spans_file(key) {
                self.report.unknown(key);
            } else if !live.contains(key) {
                let why = "another file stands for it since it was compacted; `gravity gc` removes it once it is old";
                self.report.tell(Level::Info, "replaced", key, why);
            } else if self.is_selected(key).await? {
                wanted.extend(file.packs.iter().copied());
                self.spans_file(files, key, file, &mut told).await?;
            }
        }
        let reached = self.reach(wanted);
        if self.options.sample == Share::ALL {
            for key in self.files_of(&reached) {
                self.nodes_file(&key).await?;
            }
        }
        if self.options.since.is_none() {
            self.orphans(&reached);
            self.quarantine(files).await?;
        }
        Ok(())
    }

    /// True for what `since` leaves over.
    async fn is_selected(&self, key: &Key) -> Result<bool> {
        let Some(since) = self.options.since else { return Ok(true) };
        if written(key) >= since {
            return Ok(true);
        }
        // The writer's clock may have been wrong.
        let modified = self.store.head(key).await?.and_then(|meta| meta.modified);
        Ok(modified.is_some_and(|modified| modified >= since))
    }

    async fn quarantine(&mut self, files: &Files) -> Result<()> {
        // Not asked for again: a file that cannot be read was told, and takes no other one's batches with it.
        let done = DoneBatches::new(self.store.clone());
        files.batches().for_each(|batch| done.note(batch));
        quarantine::verify(self.store.clone(), Done::Packed(done), &mut self.report).await
    }
}
