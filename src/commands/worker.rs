//! `gravity worker`: new batches through the pipeline until told to stop.

use crate::cli::WorkerArgs;
use crate::config::OpenStore;
use crate::exit::{Done, Failure};
use crate::health::{Check, Health};
use crate::listener::{Listen, Listener};
use crate::metrics::{Metrics, watch_quarantine};
use crate::shutdown;
use futures::StreamExt;
use gravity_pipeline::loose::Layout;
use gravity_pipeline::packed::packer::FLUSH_BATCHES;
use gravity_pipeline::pipeline::{Pipeline, Settings};
use gravity_pipeline::queue::{IntakeSettings, QueueIntake, Sqs};
use gravity_pipeline::store::Requests;
use gravity_pipeline::worker::{Ended, Events, NothingToDo, Outcome, Worker, WorkerSettings};
use std::sync::Arc;
use std::time::Duration;

/// Works.
pub async fn run(args: WorkerArgs) -> Result<Done, Failure> {
    let stop = shutdown::listen();
    let queue = if args.once { None } else { args.queue.settings(&args.pipeline)? };
    // Longer than it takes to find a batch again.
    let forget_after = 2 * args.full_scan_interval.max(args.queue.reconcile_interval) + Duration::from_secs(600);
    let metrics = Arc::new(Metrics::new(forget_after));
    let health = Health::new(metrics.clone(), stop.clone());
    // First to come and last to go.
    let _listener = listen(&args, &health).await?;
    let OpenStore { store, untried, requests } = args.pipeline.store.open_observed(metrics.clone()).await?;
    let paths = args.pipeline.store.paths()?;
    let mut settings = Settings { observer: metrics.clone(), ..args.pipeline.settings()? };
    settings.footers = args.cache.footers(&args.pipeline.store);
    settings.read_back = args.delete_raw.is_some();
    settings.flush.interval = Some(args.pipeline.packed.flush_interval).filter(|_| !args.once);
    let pipeline = tokio::select! {
        pipeline = Pipeline::open(store.clone(), settings) => pipeline?,
        () = stop.cancelled() => return Ok(Done::Well),
    };
    if args.delete_raw.is_some() && pipeline.layout() == Layout::Loose {
        let reason =
            "--delete-raw (DELETE_RAW) needs a packed store: a loose one keeps content, and not whole raw files";
        return Err(Failure::Usage(reason.into()));
    }
    let max_concurrent = match pipeline.layout() {
        Layout::Loose => args.pipeline.max_concurrent,
        // Those that wait for their flush are in work as well; the pipeline itself lifts no more than it may.
        Layout::Packed => args.pipeline.max_concurrent.max(FLUSH_BATCHES),
    };
    let events = match queue {
        Some((queue, intake)) => {
            let queue = Sqs::open(&queue).await;
            // A wrong URL or policy is told now, and not when the first batch is missed.
            queue.depth().await?;
            let intake = IntakeSettings { messages: max_concurrent, ..intake };
            let intake = QueueIntake::new(queue, store.clone(), pipeline.done(), intake, metrics.clone());
            Some(Events { intake, reconcile_interval: args.queue.reconcile_interval })
        }
        None => None,
    };
    let mut checks = vec![Check::of_store(&untried)];
    checks.extend(events.iter().map(|events| Check::of_queue(events.intake.clone(), metrics.clone())));
    health.started(checks);
    let quarantine_watch = watch_quarantine(store.clone(), metrics, args.full_scan_interval);
    let worker_settings = WorkerSettings {
        once: args.once,
        poll_interval: args.poll_interval,
        full_scan_interval: args.full_scan_interval,
        max_concurrent,
        delete_raw: args.delete_raw.is_some(),
        shutdown_grace: args.shutdown_grace,
        events,
    };
    let queue = worker_settings.events.as_ref().map(|events| events.intake.queue().url());
    tracing::info!(store = store.location(), raw = args.pipeline.store.raw_spans_path, queue, "worker started");
    let worker = Worker::new(store, paths, pipeline, worker_settings);
    let (mut committed, mut failed, mut quarantined) = (0u64, 0u64, 0u64);
    let mut outcomes = std::pin::pin!(worker.run(stop));
    while let Some(ended) = outcomes.next().await {
        match &ended.outcome {
            Outcome::Settled(_) => {}
            Outcome::Committed(report) => {
                committed += 1;
                quarantined += report.entry.sums.strays;
            }
            Outcome::Quarantined(_) => quarantined += 1,
            Outcome::Failed(_) => failed += 1,
        }
        log(&ended);
    }
    for batch in worker.in_work() {
        tracing::warn!(%batch, outcome = "given back", "not done within SHUTDOWN_GRACE: left to the next worker");
    }
    // It holds the store, which tidies up when nobody does.
    quarantine_watch.abort();
    let _ = quarantine_watch.await;
    let Requests { put, get, head, list, delete } = requests();
    tracing::info!(committed, failed, quarantined, put, get, head, list, delete, "worker stopped");
    Ok(match args.once {
        true if failed > 0 || worker.a_pass_failed() => Done::WithFailures,
        true if quarantined > 0 => Done::WithQuarantine,
        _ => Done::Well,
    })
}

/// One line for a batch, with its outcome and sums.
fn log(Ended { raw, outcome, took }: &Ended) {
    let (batch, outcome_name, seconds, raw_bytes) = (&raw.key, outcome.name(), took.as_secs_f64(), raw.size);
    match outcome {
        Outcome::Committed(report) => {
            let sums = report.entry.sums;
            tracing::info!(
                %batch,
                outcome = outcome_name,
                seconds,
                raw_bytes = sums.raw_bytes,
                document_bytes = sums.document_bytes,
                content_bytes = sums.content_bytes,
                traces = report.entry.traces.len(),
                spans = sums.spans,
                parts = sums.parts,
                chunks = sums.chunks,
                new_blobs = report.upload.new_blobs,
                known_blobs = report.upload.known_blobs,
                new_bytes = report.upload.new_bytes,
                index_bytes = report.index_bytes,
                strays = sums.strays,
            );
        }
        Outcome::Settled(NothingToDo::Stored) => {
            tracing::info!(%batch, outcome = outcome_name, seconds, raw_bytes, "stored already");
        }
        Outcome::Settled(NothingToDo::InQuarantine) => {
            tracing::info!(%batch, outcome = outcome_name, seconds, raw_bytes, "in quarantine already, and unchanged");
        }
        Outcome::Settled(NothingToDo::Gone) => {
            tracing::warn!(%batch, outcome = outcome_name, seconds, "gone before it could be read");
        }
        // How far it was read before the error says nothing of the batch: of sums there is its size alone.
        Outcome::Quarantined(error) => {
            tracing::error!(%batch, outcome = outcome_name, seconds, raw_bytes, %error);
        }
        Outcome::Failed(error) => {
            tracing::error!(%batch, outcome = outcome_name, seconds, raw_bytes, %error, "will be tried again");
        }
    }
}

async fn listen(args: &WorkerArgs, health: &Arc<Health>) -> Result<Option<Listener>, Failure> {
    let at = match &args.listen {
        Some(Listen::Off) => return Ok(None),
        Some(Listen::At(address)) => address,
        // A run that ends by itself is not scraped, and may well come beside a worker that is.
        None if args.once => return Ok(None),
        None => Listen::DEFAULT,
    };
    let listener = Listener::open(at, health.clone()).await?;
    tracing::info!(address = %listener.address, "listening: /healthz, /readyz, /metrics");
    Ok(Some(listener))
}
