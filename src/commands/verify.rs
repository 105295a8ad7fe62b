//! `gravity verify`: what the store promises, proved.

use crate::cli::VerifyArgs;
use crate::config::OpenStore;
use crate::exit::{Done, Failure};
use crate::progress::Progress;
use crate::units::counted;
use gravity_pipeline::ids::TraceId;
use gravity_pipeline::verify::{Finding, Level, Options, Summary, verify};
use serde::Serialize;
use std::io::{BufWriter, Write};

/// The last line of `--json`.
#[derive(Serialize)]
struct Last<'a> {
    summary: &'a Summary,
}

/// Verifies.
pub async fn run(args: VerifyArgs, quiet: bool) -> Result<Done, Failure> {
    let trace: Option<TraceId> = match &args.trace {
        Some(id) => Some(id.parse().map_err(|e| Failure::Usage(format!("--trace {id:?}: {e}")))?),
        None => None,
    };
    let OpenStore { store, .. } = args.store.open().await?;
    let memory = usize::try_from(args.memory).unwrap_or(usize::MAX);
    let options = Options { sample: args.sample, trace, since: args.since, memory };
    let progress = Progress::of_objects(quiet);
    let mut out = BufWriter::new(std::io::stdout());
    let mut written = Ok(());
    let mut print = |finding: Finding| {
        // Whoever waits for the first fault need not wait for the last blob, so every line is sent off at once.
        if written.is_ok() && (args.json || !quiet || finding.level == Level::Error) {
            written = progress.aside(|| print(&mut out, &finding, args.json).and_then(|()| out.flush()));
        }
    };
    let paths = args.store.paths()?;
    let summary = verify(store.clone(), paths, options, &mut print, &|n| progress.add(n)).await;
    progress.finish();
    written.map_err(|e| Failure::stdout(&e))?;
    let summary = summary?;
    let printed = match (args.json, quiet) {
        (true, _) => print_json(&mut out, &Last { summary: &summary }),
        (false, true) => Ok(()),
        (false, false) => print_summary(&mut out, &store.location(), &summary),
    };
    printed.and_then(|()| out.flush()).map_err(|e| Failure::stdout(&e))?;
    Ok(if summary.errors > 0 { Done::WithFailures } else { Done::Well })
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

fn print_summary(out: &mut impl Write, location: &str, summary: &Summary) -> std::io::Result<()> {
    let Summary { errors, warnings, infos, indexes, parts, blobs, blobs_read, ledger_entries, .. } = *summary;
    writeln!(
        out,
        "{location}: {}, {}, {} listed and {} read, {}",
        counted(indexes, "trace"),
        counted(parts, "part"),
        counted(blobs, "blob"),
        counted(blobs_read, "blob"),
        counted(ledger_entries, "batch"),
    )?;
    writeln!(out, "{}, {}, {}", counted(errors, "error"), counted(warnings, "warning"), counted(infos, "info"))
}
