//! `gravity verify`: what the store promises, proved.

use crate::cli::VerifyArgs;
use crate::config::OpenStore;
use crate::exit::{Done, Failure};
use crate::progress::Progress;
use crate::units::{bytes, count, counted};
use gravity_pipeline::ids::TraceId;
use gravity_pipeline::loose::{Layout, Marker};
use gravity_pipeline::packed::verify as packed;
use gravity_pipeline::verify::{Counts, Finding, Level, Options, Summary, verify};
use serde::Serialize;
use std::io::{BufWriter, Write};

/// The last line of `--json`.
#[derive(Serialize)]
struct Last<'a> {
    summary: &'a AnySummary,
}

#[derive(Serialize)]
#[serde(untagged)]
enum AnySummary {
    Loose(Summary),
    Packed(packed::Summary),
}

impl AnySummary {
    fn findings(&self) -> Counts {
        match self {
            Self::Loose(summary) => summary.findings,
            Self::Packed(summary) => summary.findings,
        }
    }
}

/// Verifies.
pub async fn run(args: VerifyArgs, quiet: bool) -> Result<Done, Failure> {
    let trace: Option<TraceId> = match &args.trace {
        Some(id) => Some(id.parse().map_err(|e| Failure::Usage(format!("--trace {id:?}: {e}")))?),
        None => None,
    };
    let OpenStore { store, .. } = args.store.open().await?;
    let memory = usize::try_from(args.memory).unwrap_or(usize::MAX);
    // Nothing is whole in a place that is mistyped.
    let layout = Marker::expect(&*store).await?.layout;
    let progress = Progress::of_objects(quiet);
    let mut out = BufWriter::new(std::io::stdout());
    let mut written = Ok(());
    let mut print = |finding: Finding| {
        // Whoever waits for the first fault need not wait for the last blob, so every line is sent off at once.
        if written.is_ok() && (args.json || !quiet || finding.level == Level::Error) {
            written = progress.aside(|| print(&mut out, &finding, args.json).and_then(|()| out.flush()));
        }
    };
    let add = |n| progress.add(n);
    let summary = match layout {
        Layout::Loose => {
            let options = Options { sample: args.sample, trace, since: args.since, memory };
            let summary = verify(store.clone(), args.store.paths()?, options, &mut print, &add).await;
            summary.map(AnySummary::Loose)
        }
        Layout::Packed => {
            let options = packed::Options { sample: args.sample, trace, since: args.since };
            packed::verify(store.clone(), options, &mut print, &add).await.map(AnySummary::Packed)
        }
    };
    progress.finish();
    let summary = summary?;
    let written = written.and_then(|()| {
        match (args.json, quiet) {
            (true, _) => print_json(&mut out, &Last { summary: &summary })?,
            (false, true) => {}
            (false, false) => print_summary(&mut out, &store.location(), &summary)?,
        }
        out.flush()
    });
    match written.map_err(|e| Failure::stdout(&e)) {
        // What was found stays found: the exit code is for whoever does not read on.
        Ok(()) | Err(Failure::ReaderGone) => {}
        Err(e) => return Err(e),
    }
    Ok(if summary.findings().errors > 0 { Done::WithFailures } else { Done::Well })
}

fn print(out: &mut impl Write, finding: &Finding, json: bool) -> std::io::Result<()> {
    if json {
        return print_json(out, finding);
    }
    let Finding { level, kind, key, detail } = finding;
    writeln!(out, "{level} {kind} {key}: {detail}")
}

fn print_json(out: &mut impl Write, value: &impl Serialize) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    writeln!(out)
}

fn print_summary(out: &mut impl Write, location: &str, summary: &AnySummary) -> std::io::Result<()> {
    match *summary {
        AnySummary::Loose(Summary { indexes, parts, blobs, blobs_read, ledger_entries, .. }) => writeln!(
            out,
            "{location}: {}, {}, {} listed and {} read, {}",
            counted(indexes, "trace"),
            counted(parts, "part"),
            counted(blobs, "blob"),
            counted(blobs_read, "blob"),
            counted(ledger_entries, "batch"),
        )?,
        // Of one trace.
        AnySummary::Packed(packed::Summary { span_files, rows, .. }) if rows > 0 => {
            writeln!(out, "{location}: {} in {}", counted(rows, "row"), counted(span_files, "file"))?;
        }
        AnySummary::Packed(summary) => writeln!(
            out,
            "{location}: {} of spans, {} of nodes, {} and {} of them restored ({})",
            counted(summary.span_files, "file"),
            counted(summary.node_files, "file"),
            counted(summary.batches, "batch"),
            count(summary.batches_restored),
            bytes(summary.bytes_restored),
        )?,
    }
    let Counts { errors, warnings, infos } = summary.findings();
    writeln!(out, "{}, {}, {}", counted(errors, "error"), counted(warnings, "warning"), counted(infos, "info"))
}
