//! `gravity compact`: few files instead of many, and smaller.

use crate::cli::CompactArgs;
use crate::config::OpenStore;
use crate::exit::{Done, Failure};
use crate::progress::Progress;
use crate::say::say;
use crate::shutdown;
use crate::units::{bytes, count, counted};
use gravity_pipeline::Error;
use gravity_pipeline::loose::{Layout, Marker};
use gravity_pipeline::packed::compact::{Report, Settings, compact, days};
use gravity_pipeline::store::Store;
use std::io::Write;

/// Compacts day by day.
pub async fn run(args: CompactArgs, quiet: bool) -> Result<Done, Failure> {
    let stop = shutdown::listen();
    let OpenStore { store, .. } = args.store.open().await?;
    must_be_packed(&*store, "compact").await?;
    let mut days = days(&*store).await?;
    days.retain(|day| {
        let is_named = args.day.is_empty() || args.day.contains(day);
        is_named
            && args.since.as_ref().is_none_or(|since| day >= since)
            && args.until.as_ref().is_none_or(|until| day <= until)
    });
    let settings = Settings { dry_run: args.dry_run, ..Settings::default() };
    let progress = Progress::of_objects(quiet);
    let (mut sum, mut failed) = (Report::default(), 0);
    for day in &days {
        if stop.is_cancelled() {
            break;
        }
        let report = compact(store.clone(), day, settings, &stop, &|step| progress.say(step)).await;
        let report = match report {
            Ok(report) => report,
            // The other days can do without it.
            Err(e @ Error::Corrupt { .. }) => {
                progress.aside(|| tracing::error!("{day}: {e}"));
                failed += 1;
                continue;
            }
            Err(e) => {
                progress.finish();
                return Err(e.into());
            }
        };
        progress.add(report.files_before);
        add(&mut sum, &report);
        if args.json {
            let line = serde_json::to_string(&report).map_err(|e| Failure::Failed(e.to_string()))?;
            progress.aside(|| writeln!(std::io::stdout(), "{line}")).map_err(|e| Failure::stdout(&e))?;
        } else if !quiet && report.files_before > 0 {
            let line = format!("{day}: {}", in_words(&report, args.dry_run));
            progress.aside(|| writeln!(std::io::stdout(), "{line}")).map_err(|e| Failure::stdout(&e))?;
        }
    }
    progress.finish();
    if !quiet && !args.json {
        match sum.files_before {
            0 => say!("{}: nothing to compact in {}", store.location(), counted(days.len() as u64, "day")),
            _ => say!("{}: {}", store.location(), in_words(&sum, args.dry_run)),
        }
    }
    if stop.is_cancelled() {
        return Err(Failure::Failed("interrupted: what was written counts; run it again for the rest".into()));
    }
    Ok(if failed + sum.damaged > 0 { Done::WithFailures } else { Done::Well })
}

/// Ends the command for a store of the other layout, where there is nothing to do.
pub async fn must_be_packed(store: &dyn Store, command: &str) -> Result<(), Failure> {
    match Marker::layout_of(store).await? {
        Layout::Packed => Ok(()),
        Layout::Loose => {
            let location = store.location();
            Err(Failure::Failed(format!("{location}: `gravity {command}` is for packed stores, and this one is not")))
        }
    }
}

fn add(sum: &mut Report, day: &Report) {
    sum.files_before += day.files_before;
    sum.bytes_before += day.bytes_before;
    sum.files_after += day.files_after;
    sum.bytes_after += day.bytes_after;
    sum.duplicate_nodes += day.duplicate_nodes;
    sum.duplicate_batches += day.duplicate_batches;
    sum.damaged += day.damaged;
}

fn in_words(report: &Report, dry_run: bool) -> String {
    let would = if dry_run { "would become" } else { "became" };
    format!(
        "{}, {}, {would} {}, {}; {} and {} were there before",
        counted(report.files_before, "file"),
        bytes(report.bytes_before),
        count(report.files_after),
        bytes(report.bytes_after),
        counted(report.duplicate_nodes, "text"),
        counted(report.duplicate_batches, "batch"),
    )
}
