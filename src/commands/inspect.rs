//! `gravity inspect`: what the store holds, saves and costs.

use crate::cli::InspectArgs;
use crate::config::{OpenStore, PriceArgs};
use crate::exit::{Done, Failure};
use crate::progress::Progress;
use crate::units;
use gravity_pipeline::inspect::{Folder, Inspection, inspect};
use gravity_pipeline::loose::Marker;
use gravity_pipeline::store::Requests;
use serde::Serialize;
use std::io::Write;

/// Everything that is shown.
#[derive(Serialize)]
struct Report {
    store: String,
    #[serde(flatten)]
    found: Inspection,
    /// Bytes of blobs, indexes and ledger.
    stored_bytes: u64,
    /// Decompressed raw bytes for each stored byte.
    ratio: f64,
    /// Compressed raw bytes for each stored byte.
    ratio_to_compressed: f64,
    /// Share of the decompressed raw bytes that need not be stored.
    space_saved: f64,
    /// The fewest requests that writing this took: a HEAD and a PUT a blob, a PUT an index and a ledger entry.
    write_requests_at_least: Requests,
    write_cost_at_least_usd: f64,
    storage_cost_usd_per_month: f64,
    inspect_requests: Requests,
    inspect_cost_usd: f64,
}

/// Inspects.
pub async fn run(args: InspectArgs, quiet: bool) -> Result<Done, Failure> {
    let OpenStore { store, requests, .. } = args.store.open().await?;
    Marker::read(&*store).await?;
    let progress = Progress::of_objects(quiet);
    let found = inspect(&*store, &args.store.paths()?, args.largest, |n| progress.add(n)).await?;
    progress.finish();
    let report = Report::new(store.location(), found, requests(), &args.prices);
    let mut out = std::io::stdout().lock();
    let printed = match args.json {
        true => serde_json::to_writer(&mut out, &report).map_err(Into::into).and_then(|()| writeln!(out)),
        false => report.print(&mut out),
    };
    printed.and_then(|()| out.flush()).map_err(|e| Failure::stdout(&e))?;
    Ok(Done::Well)
}

impl Report {
    fn new(store: String, found: Inspection, inspect_requests: Requests, prices: &PriceArgs) -> Self {
        let stored_bytes = found.blobs.bytes + found.indexes.bytes + found.ledger.bytes;
        let per_stored = |bytes: u64| if stored_bytes == 0 { 0.0 } else { bytes as f64 / stored_bytes as f64 };
        let document_bytes = found.sums.document_bytes;
        let written = Requests {
            head: found.blobs.objects,
            put: found.blobs.objects + found.indexes.objects + found.ledger.objects,
            ..Requests::default()
        };
        Self {
            store,
            stored_bytes,
            ratio: per_stored(document_bytes),
            ratio_to_compressed: per_stored(found.sums.raw_bytes),
            space_saved: if document_bytes == 0 { 0.0 } else { 1.0 - stored_bytes as f64 / document_bytes as f64 },
            write_requests_at_least: written,
            write_cost_at_least_usd: cost(&written, prices),
            storage_cost_usd_per_month: stored_bytes as f64 / 1e9 * prices.price_gb_month,
            inspect_cost_usd: cost(&inspect_requests, prices),
            inspect_requests,
            found,
        }
    }

    fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let Self { found, .. } = self;
        let row = |out: &mut dyn Write, name: &str, folder: Folder| {
            writeln!(out, "{name:<24}{:>12}{:>16}", units::count(folder.objects), units::bytes(folder.bytes))
        };
        writeln!(out, "{}", self.store)?;
        writeln!(out, "{:<24}{:>12}{:>16}", "", "objects", "bytes")?;
        row(out, "blobs", found.blobs)?;
        row(out, "indexes", found.indexes)?;
        row(out, "ledger", found.ledger)?;
        row(out, "raw files beside them", found.raw)?;
        row(out, "quarantined batches", found.quarantined_batches)?;
        row(out, "quarantined records", found.quarantined_records)?;
        row(out, "quarantined messages", found.quarantined_messages)?;
        writeln!(out)?;
        let batches = units::counted(found.ledger.objects, "batch");
        writeln!(
            out,
            "{batches}: {} compressed, {} decompressed, {} of content in {} and {}",
            units::bytes(found.sums.raw_bytes),
            units::bytes(found.sums.document_bytes),
            units::bytes(found.sums.content_bytes),
            units::counted(found.sums.spans, "span"),
            units::counted(found.sums.parts, "part"),
        )?;
        writeln!(
            out,
            "stored {}: ratio {:.2} to decompressed, {:.2} to compressed; space saved {:.1}% of decompressed",
            units::bytes(self.stored_bytes),
            self.ratio,
            self.ratio_to_compressed,
            self.space_saved * 100.0,
        )?;
        let Requests { head, put, .. } = self.write_requests_at_least;
        writeln!(
            out,
            "written with at least {} HEAD and {} PUT: ${:.4}; storage ${:.6} a month",
            units::count(head),
            units::count(put),
            self.write_cost_at_least_usd,
            self.storage_cost_usd_per_month,
        )?;
        let Requests { get, list, .. } = self.inspect_requests;
        writeln!(
            out,
            "this inspection: {} GET, {} LIST: ${:.6}",
            units::count(get),
            units::count(list),
            self.inspect_cost_usd
        )?;
        if !found.largest.is_empty() {
            writeln!(out, "\nlargest traces{:>29}{:>14}{:>9}{:>9}", "content", "index", "spans", "parts")?;
        }
        for trace in &found.largest {
            writeln!(
                out,
                "{:<32}{:>11}{:>14}{:>9}{:>9}",
                trace.trace_id.to_string(),
                units::bytes(trace.content_bytes),
                units::bytes(trace.index_bytes),
                trace.spans,
                trace.parts
            )?;
        }
        Ok(())
    }
}

fn cost(requests: &Requests, prices: &PriceArgs) -> f64 {
    let dear = (requests.put + requests.list) as f64 / 1000.0 * prices.price_put_1000;
    let cheap = (requests.get + requests.head) as f64 / 1000.0 * prices.price_get_1000;
    dear + cheap
}
