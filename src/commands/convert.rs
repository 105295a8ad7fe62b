//! `gravity convert`: a packed store, batch by batch, into a loose one.

use crate::cli::ConvertArgs;
use crate::exit::{Done, Failure};
use crate::progress::Progress;
use crate::say::say;
use crate::{shutdown, units};
use futures::{StreamExt, TryStreamExt};
use gravity_pipeline::blake3::Hash;
use gravity_pipeline::decompress::RawSums;
use gravity_pipeline::index::Committed;
use gravity_pipeline::loose::{BatchSums, Layout, Marker};
use gravity_pipeline::packed::batches::{Found, Range, open_found, selected};
use gravity_pipeline::packed::catalog::{Catalog, Files};
use gravity_pipeline::packed::reader::Reader;
use gravity_pipeline::pipeline::{Pipeline, Settings};
use gravity_pipeline::store::Store;
use gravity_pipeline::{Error, ledger};
use std::sync::Arc;

/// Bytes of nodes remembered.
const NODE_BYTES: usize = 64 << 20;
const LOOSE: &str = "convert writes a packed store out as a loose one. The other way there is nothing to convert, since a \
                     loose store keeps no envelope: `gravity ingest --layout packed` the raw files into another prefix or folder";

/// Converts.
pub async fn run(args: ConvertArgs, quiet: bool) -> Result<Done, Failure> {
    let stop = shutdown::listen();
    let stores = &args.pipeline.store;
    let from = match &args.from {
        Some(from) => stores.open_at(from, Arc::new(())).await?.store,
        None => stores.open().await?.store,
    };
    Marker::expect_packed(&*from, LOOSE).await?;
    let to = stores.open_at(&args.to, Arc::new(())).await?.store;
    if Marker::read(&*to).await?.is_some_and(|marker| marker.layout == Layout::Packed) {
        let why = "it is packed, and convert writes a loose store: --to must name another prefix or folder";
        return Err(Failure::Failed(format!("{}: {why}", to.location())));
    }
    let settings = Settings { layout: Some(Layout::Loose), ..args.pipeline.settings()? };
    let pipeline = Arc::new(Pipeline::open(to.clone(), settings).await?);
    let reader = Reader::new(from, NODE_BYTES);
    let (files, broken) = Catalog::new(reader.clone()).readable().await?;
    let mut sums = Sums { failed: broken, ..Sums::default() };
    let one = One { reader: reader.clone(), files: files.clone(), pipeline, to: to.clone() };

    let progress = Progress::of_bytes(None, quiet);
    let mut converted = selected(reader, files, Range::default())
        .take_until(stop.clone().cancelled_owned())
        .map(|found| {
            let one = one.clone();
            // A task of its own, so that several use several cores.
            let task = tokio::spawn(async move {
                let found = found?;
                one.convert(&found).await.map_err(|e| (vec![found.place.source], e))
            });
            async move { task.await.unwrap_or_else(|e| Err((vec![], Error::Task(e)))) }
        })
        .buffer_unordered(args.pipeline.max_concurrent)
        .boxed();
    while let Some(outcome) = converted.next().await {
        match outcome {
            Ok(Some(of_batch)) => {
                sums.converted += 1;
                sums.batches += of_batch;
                progress.add(of_batch.document_bytes);
            }
            Ok(None) => sums.there += 1,
            Err((batches, e)) => {
                sums.failed += batches.len().max(1) as u64;
                progress.aside(|| tracing::error!("{}: {e}", batches.join(", ")));
            }
        }
        progress.say(units::counted(sums.converted + sums.there, "batch"));
    }
    progress.finish();
    if !quiet {
        sums.print(&to.location());
    }
    if stop.is_cancelled() {
        return Err(Failure::Failed("interrupted: what is listed above is done; run it again for the rest".into()));
    }
    Ok(match (sums.failed, sums.batches.strays) {
        (0, 0) => Done::Well,
        (0, _) => Done::WithQuarantine,
        _ => Done::WithFailures,
    })
}

/// What is needed for one batch.
#[derive(Clone)]
struct One {
    reader: Arc<Reader>,
    files: Arc<Files>,
    pipeline: Arc<Pipeline>,
    to: Arc<dyn Store>,
}

impl One {
    /// Converts a batch; `None` if the target has it.
    async fn convert(&self, found: &Found) -> Result<Option<BatchSums>, Error> {
        let (batch, info) = (&found.place.source, &found.place.info);
        let entry = ledger::read(&*self.to, batch).await?;
        if entry.is_some_and(|entry| entry.raw_blake3 == info.raw_blake3) {
            return Ok(None);
        }
        let corrupt = |e| Error::Corrupt { key: found.file.key.to_string(), reason: format!("{batch}: {e}") };
        let raw_blake3 = Hash::from_hex(&info.raw_blake3).map_err(corrupt)?;
        let raw = RawSums::known(info.raw_bytes, info.document_bytes, raw_blake3);
        let document = open_found(&self.reader, &self.files, found).await?;
        let mut committed = self.pipeline.run_document(batch.clone(), document, raw);
        let mut sums = BatchSums::default();
        while let Some(committed) = committed.try_next().await? {
            if let Committed::Batch(report) = committed {
                sums = report.entry.sums;
            }
        }
        Ok(Some(sums))
    }
}

/// What all batches came to.
#[derive(Default)]
struct Sums {
    converted: u64,
    there: u64,
    failed: u64,
    batches: BatchSums,
}

impl Sums {
    fn print(&self, to: &str) {
        let Self { converted, there, failed, batches } = self;
        say!(
            "{} written to {to} ({} decompressed, {}, {}), {} there already, {} failed",
            units::counted(*converted, "batch"),
            units::bytes(batches.document_bytes),
            units::counted(batches.spans, "span"),
            units::counted(batches.parts, "part"),
            units::count(*there),
            units::count(*failed),
        );
        if batches.strays > 0 {
            say!("{} went to quarantine: no valid trace or span id", units::counted(batches.strays, "record"));
        }
    }
}
