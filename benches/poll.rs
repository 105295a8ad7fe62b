//! What does a look for new batches cost, in requests and time, when many are stored already?
//!
//! ```text
//! cargo bench --bench poll -- FOLDER [BATCHES]            a directory store
//! AWS_ENDPOINT_URL=... cargo bench --bench poll -- s3://BUCKET/PREFIX [BATCHES]
//! ```
//! Stores BATCHES (100,000) past batches, 500 an hour, all of them in the ledger, then one new one, and prints what
//! the full pass of a fresh worker and the polls after it take. The store must be empty; nothing is removed.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use gravity_pipeline::intake::Intake;
use gravity_pipeline::ledger::Done;
use gravity_pipeline::loose::Paths;
use gravity_pipeline::retry::Policy;
use gravity_pipeline::store::{Directory, Key, Metered, PutMode, Retrying, S3, S3Settings, Store};
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

const PER_HOUR: usize = 500;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // `cargo bench` adds `--bench`; without a place to write there is nothing to measure.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let Some(place) = arguments.first() else {
        println!("poll: skipped; usage: cargo bench --bench poll -- FOLDER|s3://BUCKET/PREFIX [BATCHES]");
        return Ok(());
    };
    let batches: usize = arguments.get(1).map_or(Ok(100_000), |n| n.parse())?;
    match place.strip_prefix("s3://") {
        None => measure(Metered::new(Directory::open(place)?), batches).await,
        Some(rest) => {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let settings = S3Settings { prefix: prefix.into(), ..S3Settings::new(bucket) };
            measure(Metered::new(S3::open(settings).await), batches).await
        }
    }
}

async fn measure<S: Store>(store: Metered<S>, batches: usize) -> Result<(), Box<dyn Error>> {
    let requests = store.requests();
    let store: Arc<dyn Store> = Arc::new(Retrying::new(store, Policy::default()));
    let paths = Paths::default();

    let started = Instant::now();
    let objects = (0..batches)
        .flat_map(|n| [Key::encode("raw-spans", raw(n).trim_start_matches("raw-spans/"), ""), paths.ledger(&raw(n))]);
    stream::iter(objects.map(Ok::<_, Box<dyn Error>>))
        .try_for_each_concurrent(32, |key| {
            let store = store.clone();
            async move {
                store.put(&key, Bytes::from_static(b"{}"), PutMode::Always).await?;
                Ok(())
            }
        })
        .await?;
    println!("{batches} past batches stored in {:.0} s at {}", started.elapsed().as_secs_f64(), store.location());

    let intake = Intake::new(store.clone(), paths, Done::Ledger(store.clone()));
    for round in ["full pass", "poll", "poll"] {
        let new = Key::new(format!("{}-new-{round}", raw(batches - 1)).replace(' ', "-"))?;
        store.put(&new, Bytes::from_static(b"{}"), PutMode::Always).await?;
        let (before, started) = (requests(), Instant::now());
        let found = if round == "poll" { intake.poll() } else { intake.full_pass() };
        let found = found.map(|meta| meta.map(|_| ())).try_collect::<Vec<()>>().await?.len();
        println!(
            "{round}: {found} found, {} LIST, {:.1} ms",
            requests().list - before.list,
            started.elapsed().as_secs_f64() * 1e3
        );
    }
    Ok(())
}

fn raw(n: usize) -> String {
    let (day, hour) = (n / PER_HOUR / 24, n / PER_HOUR % 24);
    // As the collector's default names them: in no order of time.
    let name = n.wrapping_mul(2_654_435_761) % 1_000_000_007;
    format!("raw-spans/dt=2025-{:02}-{:02}/hour={hour:02}/batch-traces_{name:09}.json.gz", 1 + day / 28, 1 + day % 28)
}
