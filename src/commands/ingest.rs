//! `gravity ingest`: raw files through the pipeline, indexes to stdout, a summary to stderr.

use crate::cli::IngestArgs;
use crate::config::OpenStore;
use crate::exit::{Done, Failure};
use crate::inputs::{self, Input, Source};
use crate::progress::Progress;
use crate::say::say;
use crate::{shutdown, units};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt, future, stream};
use gravity_pipeline::ids::TraceId;
use gravity_pipeline::index::{BatchKey, BatchReport, Committed};
use gravity_pipeline::json_text::to_json;
use gravity_pipeline::loose::{BatchSums, Layout, TraceIndex};
use gravity_pipeline::packed::packer::FLUSH_BATCHES;
use gravity_pipeline::pipeline::{Batch, Pipeline, Settings};
use gravity_pipeline::stages::ahead;
use gravity_pipeline::store::{Requests, Store};
use gravity_pipeline::upload::UploadSums;
use gravity_pipeline::{Error, ledger};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// What one input came to, piece by piece.
enum Event {
    Committed(Box<Committed>),
    /// The ledger has it already.
    Skipped,
    Failed(String, Error),
}

/// Ingests everything.
pub async fn run(args: IngestArgs, quiet: bool) -> Result<Done, Failure> {
    let started = Instant::now();
    let stop = shutdown::listen();
    let (inputs, total) = inputs::find(&args.inputs, args.key.clone(), &args.pipeline.store).await?;
    let OpenStore { store, requests, .. } = args.pipeline.store.open().await?;
    let settings = Settings { footers: args.cache.footers(&args.pipeline.store), ..args.pipeline.settings()? };
    let pipeline = Arc::new(Pipeline::open(store.clone(), settings).await?);
    let progress = Progress::of_bytes(total, quiet);
    let location = store.location();

    let interrupted = stop.clone();
    let layout = pipeline.layout();
    let in_work = match layout {
        Layout::Loose => args.pipeline.max_concurrent,
        Layout::Packed => args.pipeline.max_concurrent.max(FLUSH_BATCHES),
    };
    let one = One { pipeline, store, progress: progress.clone(), again: args.again, stop: stop.clone() };
    // One flush for all of them, where they fit: none that is done early goes alone.
    let more = one.pipeline.announce();
    let last = stream::once(async move { drop(more) }).filter_map(|()| future::ready(None));
    let mut events = inputs
        .map(Some)
        .chain(last)
        .filter_map(future::ready)
        .take_until(stop.cancelled_owned())
        .map(|input| one.clone().events(input))
        .flatten_unordered(in_work)
        .boxed();

    let mut summary = Summary::new(layout);
    let mut out = Output::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Committed(committed) => match *committed {
                Committed::Trace(index) => {
                    summary.traces += 1;
                    out.line(&index.to_json()?, || {
                        let parts = index.parts().count() as u64;
                        format!("{} {}", index.trace_id, units::counted(parts, "part"))
                    })?;
                    summary.consider(&index);
                }
                Committed::Batch(report) => {
                    summary.add(&report);
                    if layout == Layout::Packed {
                        summary.traces += report.entry.traces.len() as u64;
                        summary.example = summary.example.or(report.entry.traces.first().map(|&trace| (0, trace)));
                        out.line(&to_json(&report.entry)?, || {
                            format!(
                                "{} {}",
                                report.entry.key,
                                units::counted(report.entry.traces.len() as u64, "trace")
                            )
                        })?;
                    }
                    // Whoever reads our output need not wait for the batches that still come.
                    out.flush()?;
                    progress.say(units::counted(summary.files, "file"));
                }
            },
            Event::Skipped => summary.skipped += 1,
            Event::Failed(what, error) => {
                summary.failed += 1;
                progress.finish();
                tracing::error!("{what}: {error}");
            }
        }
    }
    out.flush()?;
    progress.finish();
    if !quiet {
        summary.print(started.elapsed(), requests(), &location);
    }
    if interrupted.is_cancelled() {
        return Err(Failure::Failed("interrupted: what is listed above is done; run it again for the rest".into()));
    }
    Ok(match (summary.failed, summary.sums.strays) {
        (0, 0) => Done::Well,
        (0, _) => Done::WithQuarantine,
        _ => Done::WithFailures,
    })
}

/// What is needed for one input.
#[derive(Clone)]
struct One {
    pipeline: Arc<Pipeline>,
    store: Arc<dyn Store>,
    progress: Progress,
    again: bool,
    stop: CancellationToken,
}

impl One {
    /// Runs one input as a task of its own, so that several use several cores.
    fn events(self, input: Result<Input, Error>) -> BoxStream<'static, Event> {
        let input = match input {
            Ok(input) => input,
            Err(e) => return stream::iter([Event::Failed("not read".into(), e)]).boxed(),
        };
        let name = input.key.clone().unwrap_or_else(|| "standard input".into());
        let what = name.clone();
        let announced = self.pipeline.announce();
        let run = async move {
            if !self.again && self.is_in_ledger(&input).await? {
                self.progress.add(input.size.unwrap_or(0));
                return Ok::<_, Error>(stream::iter([Ok(Event::Skipped)]).boxed());
            }
            let progress = self.progress.clone();
            let raw = input.open(&self.stop).await?.inspect_ok(move |piece| progress.add(piece.len() as u64)).boxed();
            let key = input.key.map_or(BatchKey::FromContent, BatchKey::Named);
            let committed = self.pipeline.run(Batch { key, raw });
            drop(announced);
            Ok(committed.map_ok(|committed| Event::Committed(Box::new(committed))).boxed())
        };
        let events = ahead(run.into_stream().try_flatten(), 4);
        // A stream that failed has nothing more to say.
        let mut failed = false;
        events
            .take_while(move |event| future::ready(!std::mem::replace(&mut failed, event.is_err())))
            .map(move |event| event.unwrap_or_else(|e| Event::Failed(what.clone(), e)))
            .boxed()
    }

    /// True if the ledger has this batch with the same bytes.
    async fn is_in_ledger(&self, input: &Input) -> Result<bool, Error> {
        let Some(key) = &input.key else { return Ok(false) };
        if let ledger::Done::Packed(done) = self.pipeline.done() {
            // The collector gives every object a key of its own; what else comes twice is stored as little as twice the
            // ids, and reads as one.
            let Source::Object(..) = &input.source else { return Ok(false) };
            done.refresh().await?;
            return Ok(done.has(key));
        }
        let Some(entry) = ledger::read(&*self.store, key).await? else { return Ok(false) };
        match &input.source {
            Source::Stdin => Ok(false),
            // The collector gives every object a key of its own.
            Source::Object(..) => Ok(input.size == Some(entry.sums.raw_bytes)),
            Source::File(path) if input.size == Some(entry.sums.raw_bytes) => {
                let path = path.clone();
                let hashed = tokio::task::spawn_blocking(move || {
                    let mut hasher = gravity_pipeline::blake3::Hasher::new();
                    hasher.update_reader(std::fs::File::open(path)?)?;
                    Ok::<_, std::io::Error>(hasher.finalize().to_hex())
                });
                Ok(hashed.await?.is_ok_and(|hash| *hash == *entry.raw_blake3))
            }
            Source::File(_) => Ok(false),
        }
    }
}

/// Standard output: JSON Lines for programs, a short line for people. When the reader goes, the work goes on.
struct Output {
    out: Option<std::io::BufWriter<std::io::Stdout>>,
    for_people: bool,
}

impl Output {
    fn new() -> Self {
        let stdout = std::io::stdout();
        Self { for_people: stdout.is_terminal(), out: Some(std::io::BufWriter::with_capacity(64 << 10, stdout)) }
    }

    fn line(&mut self, json: &[u8], short: impl FnOnce() -> String) -> Result<(), Failure> {
        let for_people = self.for_people;
        self.write(|out| match for_people {
            true => writeln!(out, "{}", short()),
            false => out.write_all(json).and_then(|()| out.write_all(b"\n")),
        })
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.write(Write::flush)
    }

    fn write(
        &mut self,
        write: impl FnOnce(&mut std::io::BufWriter<std::io::Stdout>) -> std::io::Result<()>,
    ) -> Result<(), Failure> {
        let Some(out) = &mut self.out else { return Ok(()) };
        match write(out).map_err(|e| Failure::stdout(&e)) {
            Err(Failure::ReaderGone) => {
                // Dropping it would try to write the rest once more.
                if let Some(out) = self.out.take() {
                    let _ = out.into_parts();
                }
                Ok(())
            }
            result => result,
        }
    }
}

/// What all inputs came to.
struct Summary {
    layout: Layout,
    files: u64,
    skipped: u64,
    failed: u64,
    traces: u64,
    sums: BatchSums,
    upload: UploadSums,
    index_bytes: u64,
    /// The trace with the most parts, to try `reconstruct` on.
    example: Option<(usize, TraceId)>,
}

impl Summary {
    fn new(layout: Layout) -> Self {
        Self {
            layout,
            files: 0,
            skipped: 0,
            failed: 0,
            traces: 0,
            sums: BatchSums::default(),
            upload: UploadSums::default(),
            index_bytes: 0,
            example: None,
        }
    }

    fn add(&mut self, report: &BatchReport) {
        self.files += 1;
        self.upload += report.upload;
        self.index_bytes += report.index_bytes;
        self.sums += report.entry.sums;
    }

    fn consider(&mut self, index: &TraceIndex) {
        self.example = self.example.max(Some((index.parts().count(), index.trace_id)));
    }

    fn print(&self, elapsed: Duration, requests: Requests, store: &str) {
        let Self { sums, upload, .. } = self;
        let stored = upload.new_bytes + self.index_bytes;
        let seconds = elapsed.as_secs_f64();
        say!(
            "{}, {} ({} decompressed): {}, {}, {} of {} content",
            units::counted(self.files, "file"),
            units::bytes(sums.raw_bytes),
            units::bytes(sums.document_bytes),
            units::counted(self.traces, "trace"),
            units::counted(sums.spans, "span"),
            units::counted(sums.parts, "part"),
            units::bytes(sums.content_bytes),
        );
        match self.layout {
            Layout::Packed => say!("stored {} (nodes and spans)", units::bytes(stored)),
            Layout::Loose => self.print_blobs(stored),
        }
        let ratio = sums.document_bytes as f64 / stored.max(1) as f64;
        self.print_rest(ratio, seconds, requests, store);
    }

    fn print_blobs(&self, stored: u64) {
        let Self { sums, upload, .. } = self;
        say!(
            "chunks {}; blobs {} new, {} known; stored {} ({} blobs, {} indexes and ledger)",
            units::count(sums.chunks),
            units::count(upload.new_blobs),
            units::count(upload.known_blobs),
            units::bytes(stored),
            units::bytes(upload.new_bytes),
            units::bytes(self.index_bytes),
        );
    }

    fn print_rest(&self, ratio: f64, seconds: f64, requests: Requests, store: &str) {
        let sums = &self.sums;
        say!(
            "ratio {ratio:.1} (decompressed to stored); requests {} HEAD, {} PUT, {} GET, {} LIST, {} DELETE",
            units::count(requests.head),
            units::count(requests.put),
            units::count(requests.get),
            units::count(requests.list),
            units::count(requests.delete),
        );
        let rate = sums.document_bytes as f64 / 1e6 / seconds.max(1e-9);
        say!("{seconds:.2} s, {rate:.1} MB/s");
        if self.skipped > 0 {
            say!("{} already in the ledger (--again processes them once more)", units::counted(self.skipped, "file"));
        }
        if sums.strays > 0 {
            say!("{} went to quarantine: no valid trace or span id", units::counted(sums.strays, "record"));
        }
        if self.failed > 0 {
            say!("{} failed, nothing of them was committed", units::counted(self.failed, "input"));
        }
        if let Some((_, trace)) = self.example {
            say!("read one back: gravity reconstruct --store {store} {trace}");
        }
    }
}
