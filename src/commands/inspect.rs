//! `gravity inspect`: what the store holds, saves and costs.

use crate::cli::InspectArgs;
use crate::config::{OpenStore, PriceArgs};
use crate::exit::{Done, Failure};
use crate::progress::Progress;
use crate::units;
use gravity_pipeline::inspect::{Folder, Inspection, Quarantined, inspect};
use gravity_pipeline::loose::{Layout, Marker};
use gravity_pipeline::packed::inspect as packed;
use gravity_pipeline::store::Requests;
use serde::Serialize;
use std::io::Write;

/// What was counted.
#[derive(Serialize)]
#[serde(untagged)]
enum Found {
    Loose(Inspection),
    Packed(packed::Inspection),
}

impl Found {
    fn stored_bytes(&self) -> u64 {
        match self {
            Self::Loose(found) => found.blobs.bytes + found.indexes.bytes + found.ledger.bytes,
            Self::Packed(found) => found.node_files.bytes + found.span_files.bytes,
        }
    }

    /// Bytes of all batches, compressed and decompressed.
    fn raw_and_document_bytes(&self) -> (u64, u64) {
        match self {
            Self::Loose(Inspection { sums, .. }) => (sums.raw_bytes, sums.document_bytes),
            Self::Packed(packed::Inspection { sums, .. }) => (sums.raw_bytes, sums.document_bytes),
        }
    }

    fn written(&self) -> Requests {
        match self {
            Self::Loose(found) => Requests {
                head: found.blobs.objects,
                put: found.blobs.objects + found.indexes.objects + found.ledger.objects,
                ..Requests::default()
            },
            Self::Packed(found) => {
                Requests { put: found.node_files.objects + found.span_files.objects, ..Requests::default() }
            }
        }
    }
}

/// Everything that is shown.
#[derive(Serialize)]
struct Report {
    store: String,
    #[serde(flatten)]
    found: Found,
    /// Bytes of blobs, indexes and ledger; packed: of nodes and spans.
    stored_bytes: u64,
    /// Decompressed raw bytes for each stored byte.
    ratio: f64,
    /// Compressed raw bytes for each stored byte.
    ratio_to_compressed: f64,
    /// Share of the decompressed raw bytes that need not be stored.
    space_saved: f64,
    /// The fewest requests that writing this took: a HEAD and a PUT a blob, a PUT an index and a ledger entry; packed:
    /// a PUT a file, of which a flush writes one of nodes and one of spans.
    write_requests_at_least: Requests,
    write_cost_at_least_usd: f64,
    storage_cost_usd_per_month: f64,
    inspect_requests: Requests,
    inspect_cost_usd: f64,
}

/// Inspects.
pub async fn run(args: InspectArgs, quiet: bool) -> Result<Done, Failure> {
    let OpenStore { store, requests, .. } = args.store.open().await?;
    let layout = Marker::layout_of(&*store).await?;
    let progress = Progress::of_objects(quiet);
    let paths = args.store.paths()?;
    let add = |n| progress.add(n);
    let found = match layout {
        Layout::Loose => Found::Loose(inspect(&*store, &paths, args.largest, add).await?),
        Layout::Packed => {
            let footers = args.cache.footers(&args.store);
            Found::Packed(packed::inspect(&store, footers, &paths.raw_spans, args.largest, add).await?)
        }
    };
    let done = match &found {
        Found::Packed(found) if found.damaged_files > 0 => Done::WithFailures,
        _ => Done::Well,
    };
    progress.finish();
    let report = Report::new(store.location(), found, requests(), &args.prices);
    let mut out = std::io::stdout().lock();
    let printed = match args.json {
        true => serde_json::to_writer(&mut out, &report).map_err(Into::into).and_then(|()| writeln!(out)),
        false => report.print(&mut out),
    };
    printed.and_then(|()| out.flush()).map_err(|e| Failure::stdout(&e))?;
    Ok(done)
}

impl Report {
    fn new(store: String, found: Found, inspect_requests: Requests, prices: &PriceArgs) -> Self {
        let stored_bytes = found.stored_bytes();
        let per_stored = |bytes: u64| if stored_bytes == 0 { 0.0 } else { bytes as f64 / stored_bytes as f64 };
        let (raw_bytes, document_bytes) = found.raw_and_document_bytes();
        let written = found.written();
        Self {
            store,
            stored_bytes,
            ratio: per_stored(document_bytes),
            ratio_to_compressed: per_stored(raw_bytes),
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
        writeln!(out, "{}", self.store)?;
        writeln!(out, "{:<24}{:>12}{:>16}", "", "objects", "bytes")?;
        match &self.found {
            Found::Loose(found) => print_loose(found, out)?,
            Found::Packed(found) => print_packed(found, out)?,
        }
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
        self.print_largest(out)
    }

    fn print_largest(&self, out: &mut impl Write) -> std::io::Result<()> {
        let rows: Vec<_> = match &self.found {
            Found::Loose(found) => found
                .largest
                .iter()
                .map(|trace| {
                    (trace.trace_id, trace.content_bytes, units::bytes(trace.index_bytes), trace.spans, trace.parts)
                })
                .collect(),
            Found::Packed(found) => found
                .largest
                .iter()
                .map(|trace| (trace.trace_id, trace.content_bytes, "none".into(), trace.spans, trace.parts))
                .collect(),
        };
        if !rows.is_empty() {
            writeln!(out, "\nlargest traces{:>29}{:>14}{:>9}{:>9}", "content", "index", "spans", "parts")?;
        }
        for (id, content, index, spans, parts) in rows {
            writeln!(out, "{:<32}{:>11}{index:>14}{spans:>9}{parts:>9}", id.to_string(), units::bytes(content))?;
        }
        Ok(())
    }
}

fn row(out: &mut impl Write, name: &str, folder: Folder) -> std::io::Result<()> {
    writeln!(out, "{name:<24}{:>12}{:>16}", units::count(folder.objects), units::bytes(folder.bytes))
}

fn print_beside(raw: Folder, quarantined: &Quarantined, out: &mut impl Write) -> std::io::Result<()> {
    row(out, "raw files beside them", raw)?;
    row(out, "quarantined batches", quarantined.quarantined_batches)?;
    row(out, "quarantined records", quarantined.quarantined_records)?;
    row(out, "quarantined messages", quarantined.quarantined_messages)?;
    writeln!(out)
}

fn print_loose(found: &Inspection, out: &mut impl Write) -> std::io::Result<()> {
    row(out, "blobs", found.blobs)?;
    row(out, "indexes", found.indexes)?;
    row(out, "ledger", found.ledger)?;
    print_beside(found.raw, &found.quarantined, out)?;
    writeln!(
        out,
        "{}: {} compressed, {} decompressed, {} of content in {} and {}",
        units::counted(found.ledger.objects, "batch"),
        units::bytes(found.sums.raw_bytes),
        units::bytes(found.sums.document_bytes),
        units::bytes(found.sums.content_bytes),
        units::counted(found.sums.spans, "span"),
        units::counted(found.sums.parts, "part"),
    )
}

fn print_packed(found: &packed::Inspection, out: &mut impl Write) -> std::io::Result<()> {
    row(out, "nodes", found.node_files)?;
    row(out, "spans", found.span_files)?;
    print_beside(found.raw, &found.quarantined, out)?;
    let sums = &found.sums;
    writeln!(
        out,
        "{}: {} compressed, {} decompressed, {} and {}",
        units::counted(sums.batches, "batch"),
        units::bytes(sums.raw_bytes),
        units::bytes(sums.document_bytes),
        units::counted(sums.spans, "span"),
        units::counted(sums.logs, "log record"),
    )?;
    if sums.unreadable_batches > 0 {
        writeln!(
            out,
            "{} of them not OTLP, or not all of it: stored all the same",
            units::count(sums.unreadable_batches)
        )?;
    }
    if found.damaged_files > 0 {
        let files = units::counted(found.damaged_files, "file");
        writeln!(out, "{files} of spans cannot be read and are in no sum; `gravity verify` tells which")?;
    }
    if found.replaced_files > 0 {
        writeln!(out, "{} compacted away, to be removed by gc", units::counted(found.replaced_files, "file"))?;
    }
    Ok(())
}

fn cost(requests: &Requests, prices: &PriceArgs) -> f64 {
    let dear = (requests.put + requests.list) as f64 / 1000.0 * prices.price_put_1000;
    let cheap = (requests.get + requests.head) as f64 / 1000.0 * prices.price_get_1000;
    dear + cheap
}
