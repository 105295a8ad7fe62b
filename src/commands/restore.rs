//! `gravity restore`: raw batches out of a packed store, exactly.

use crate::cli::RestoreArgs;
use crate::config::OpenStore;
use crate::exit::{Done, Failure};
use crate::progress::Progress;
use crate::say::say;
use crate::{shutdown, units};
use futures::{StreamExt, TryStreamExt};
use gravity_pipeline::Error;
use gravity_pipeline::loose::Marker;
use gravity_pipeline::packed::batches::{Range, Restored, open, own, restore_to, selected};
use gravity_pipeline::packed::catalog::{Catalog, Files};
use gravity_pipeline::packed::names::Names;
use gravity_pipeline::packed::reader::Reader;
use gravity_pipeline::store::Store;
use std::io::{BufWriter, Write};
use std::sync::Arc;

/// Bytes of nodes remembered.
const NODE_BYTES: usize = 64 << 20;
const LOOSE: &str = "it keeps content and no envelope, so no batch can be restored from it; the raw files have them, and \
                     `gravity reconstruct` reads a trace's content";

/// Restores.
pub async fn run(args: RestoreArgs, quiet: bool) -> Result<Done, Failure> {
    if args.to.is_some() && !args.all {
        return Err(Failure::Usage("--to is where --all writes; a single batch goes to stdout".into()));
    }
    let OpenStore { store, .. } = args.store.open().await?;
    Marker::expect_packed(&*store, LOOSE).await?;
    let reader = Reader::with_footers(store.clone(), NODE_BYTES, args.cache.footers(&args.store));
    let (files, broken) = Catalog::new(reader.clone()).readable().await?;
    let range = Range { prefix: args.prefix.clone(), since: args.since, until: args.until };
    let done = match (&args.raw_key, &args.to) {
        (Some(batch), _) => {
            let found = one(&reader, &files, batch).await;
            return found.map_err(|e| match e {
                Failure::Failed(reason) if broken > 0 && !files.has_batch(batch) => {
                    let others = units::counted(broken, "file");
                    Failure::Failed(format!("{reason}; {others} of spans could not be read and may have had it"))
                }
                e => e,
            });
        }
        (None, Some(to)) => {
            let target = args.store.open_target(to).await?.store;
            all(reader, files, range, target, args.max_concurrent, quiet).await?
        }
        (None, None) => list(&files, &range)?,
    };
    Ok(if broken > 0 { Done::WithFailures } else { done })
}

async fn one(reader: &Arc<Reader>, files: &Files, batch: &str) -> Result<Done, Failure> {
    let mut pieces = open(reader, files, batch).await?;
    let mut out = BufWriter::with_capacity(64 << 10, std::io::stdout());
    while let Some(piece) = pieces.try_next().await.transpose() {
        // What is whole so far goes out before the reason why there is no more.
        let piece = match piece {
            Ok(piece) => piece,
            Err(e) => {
                out.flush().map_err(|e| Failure::stdout(&e))?;
                return Err(e.into());
            }
        };
        out.write_all(&piece).map_err(|e| Failure::stdout(&e))?;
    }
    out.flush().map_err(|e| Failure::stdout(&e))?;
    Ok(Done::Well)
}

fn list(files: &Files, range: &Range) -> Result<Done, Failure> {
    let mut batches: Vec<&str> = files.live().flat_map(|(key, file)| own(files, key, file, range)).collect();
    batches.sort_unstable();
    let mut out = BufWriter::new(std::io::stdout());
    let written = batches.iter().try_for_each(|batch| writeln!(out, "{batch}"));
    written.and_then(|()| out.flush()).map_err(|e| Failure::stdout(&e))?;
    Ok(Done::Well)
}

/// What a range came to.
#[derive(Default)]
struct Sums {
    restored: u64,
    bytes: u64,
    compressed: u64,
    there: u64,
    failed: u64,
}

async fn all(
    reader: Arc<Reader>,
    files: Arc<Files>,
    range: Range,
    target: Arc<dyn Store>,
    at_once: usize,
    quiet: bool,
) -> Result<Done, Failure> {
    let stop = shutdown::listen();
    let names = Arc::new(Names::new(files.batches()));
    let progress = Progress::of_bytes(None, quiet);
    let mut restored = selected(reader.clone(), files.clone(), range)
        .take_until(stop.clone().cancelled_owned())
        .map(|found| {
            let (reader, files, target, names) = (reader.clone(), files.clone(), target.clone(), names.clone());
            // A task of its own, so that several use several cores.
            let task = tokio::spawn(async move {
                let found = found?;
                let batch = found.place.source.clone();
                let came = restore_to(&reader, &files, &found, &*target, &names.get(&batch)).await;
                let came = came.map_err(|e| (vec![batch], e))?;
                Ok((found.place.info.document_bytes, came))
            });
            async move { task.await.unwrap_or_else(|e| Err((vec![], Error::Task(e)))) }
        })
        .buffer_unordered(at_once)
        .boxed();
    let mut sums = Sums::default();
    while let Some(outcome) = restored.next().await {
        match outcome {
            Ok((bytes, Restored::Written(compressed))) => {
                sums.restored += 1;
                sums.bytes += bytes;
                sums.compressed += compressed;
                progress.add(bytes);
            }
            Ok((_, Restored::There)) => sums.there += 1,
            Err((batches, e)) => {
                sums.failed += batches.len().max(1) as u64;
                progress.aside(|| tracing::error!("{}: {e}", batches.join(", ")));
            }
        }
        progress.say(units::counted(sums.restored + sums.there, "batch"));
    }
    progress.finish();
    if !quiet {
        say!(
            "{} restored to {} ({}, {} compressed), {} there already, {} failed",
            units::counted(sums.restored, "batch"),
            target.location(),
            units::bytes(sums.bytes),
            units::bytes(sums.compressed),
            units::count(sums.there),
            units::count(sums.failed),
        );
    }
    if stop.is_cancelled() {
        return Err(Failure::Failed("interrupted: what is listed above is done; run it again for the rest".into()));
    }
    Ok(if sums.failed > 0 { Done::WithFailures } else { Done::Well })
}
