//! What becomes of a batch.

use crate::error::Error;
use crate::index::BatchReport;
use crate::observe::signed;
use crate::store::{Key, Meta};
use std::time::Duration;
use tracing::Span;
use tracing::field::Empty;

/// A batch that the worker has done with, for now.
#[derive(Debug)]
pub struct Ended {
    /// The raw file; its size is 0 where it was not there.
    pub raw: Meta,
    /// What became of it.
    pub outcome: Outcome,
    /// How long it was in work.
    pub took: Duration,
}

/// What became of one batch.
#[derive(Debug)]
pub enum Outcome {
    /// In the store.
    Committed(BatchReport),
    /// There was nothing to do.
    Settled(NothingToDo),
    /// In quarantine, since now.
    Quarantined(Error),
    /// To be tried again later.
    Failed(Error),
}

/// Why there was nothing to do for a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NothingToDo {
    /// Another worker was quicker, or its message came again.
    Stored,
    /// It is in quarantine, and unchanged.
    InQuarantine,
    /// There is no such object.
    Gone,
}

impl Outcome {
    /// One word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Outcome::Committed(..) => "committed",
            Outcome::Settled(_) => "settled",
            Outcome::Quarantined(_) => "quarantined",
            Outcome::Failed(_) => "failed",
        }
    }

    pub(super) fn record(&self, span: &Span) {
        span.record("outcome", self.name());
        match self {
            Outcome::Committed(report) => {
                span.record("raw_bytes", signed(report.entry.sums.raw_bytes));
                span.record("content_bytes", signed(report.entry.sums.content_bytes));
                span.record("spans", signed(report.entry.sums.spans));
                span.record("new_blobs", signed(report.upload.new_blobs));
                span.record("new_bytes", signed(report.upload.new_bytes));
            }
            Outcome::Settled(_) => {}
            Outcome::Quarantined(error) | Outcome::Failed(error) => {
                span.record("otel.status_code", "ERROR");
                span.record("otel.status_description", error.to_string());
            }
        }
    }
}

/// A batch's trace: the stages' spans are below it.
pub(super) fn batch_span(batch: &Key) -> Span {
    tracing::info_span!(
        "batch",
        otel.name = "batch",
        otel.status_code = Empty,
        otel.status_description = Empty,
        %batch,
        outcome = Empty,
        raw_bytes = Empty,
        content_bytes = Empty,
        spans = Empty,
        new_blobs = Empty,
        new_bytes = Empty,
    )
}
