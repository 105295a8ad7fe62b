//! `gravity worker`: new batches through the pipeline until told to stop.

use crate::cli::WorkerArgs;
use crate::config::OpenStore;
use crate::exit::{Done, Failure};
use crate::shutdown;
use futures::StreamExt;
use gravity_pipeline::pipeline::Pipeline;
use gravity_pipeline::store::Requests;
use gravity_pipeline::worker::{Outcome, Worker, WorkerSettings};

/// Works.
pub async fn run(args: WorkerArgs) -> Result<Done, Failure> {
    let stop = shutdown::listen();
    let OpenStore { store, requests } = args.pipeline.store.open().await?;
    let pipeline = Pipeline::open(store.clone(), args.pipeline.settings()?).await?;
    let events = match args.once {
        true => None,
        false => args.queue.open(&args.pipeline.store, &store, args.pipeline.max_concurrent).await?,
    };
    let worker_settings = WorkerSettings {
        once: args.once,
        poll_interval: args.poll_interval,
        full_scan_interval: args.full_scan_interval,
        max_concurrent: args.pipeline.max_concurrent,
        shutdown_grace: args.shutdown_grace,
        events,
    };
    let queue = args.queue.queue.filter(|_| !args.once);
    tracing::info!(store = store.location(), raw = args.pipeline.store.raw_spans_path, queue, "worker started");
    let worker = Worker::new(store, args.pipeline.store.paths()?, pipeline, worker_settings);
    let (mut committed, mut failed, mut quarantined) = (0u64, 0u64, 0u64);
    let mut outcomes = std::pin::pin!(worker.run(stop));
    while let Some((batch, outcome)) = outcomes.next().await {
        match outcome {
            Outcome::Settled => tracing::debug!(%batch, "nothing to do"),
            Outcome::Committed(report, took) => {
                committed += 1;
                let sums = report.entry.sums;
                quarantined += sums.strays;
                tracing::info!(
                    %batch,
                    outcome = "committed",
                    seconds = took.as_secs_f64(),
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
            Outcome::Quarantined(error) => {
                quarantined += 1;
                tracing::error!(%batch, outcome = "quarantined", %error);
            }
            Outcome::Failed(error) => {
                failed += 1;
                tracing::error!(%batch, outcome = "failed", %error, "will be tried again");
            }
        }
    }
    let Requests { put, get, head, list, delete } = requests();
    tracing::info!(committed, failed, quarantined, put, get, head, list, delete, "worker stopped");
    Ok(match args.once {
        true if failed > 0 || worker.a_pass_failed() => Done::WithFailures,
        true if quarantined > 0 => Done::WithQuarantine,
        _ => Done::Well,
    })
}
