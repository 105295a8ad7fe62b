//! How much is in quarantine.

use super::Metrics;
use futures::{StreamExt, TryStreamExt};
use gravity_pipeline::loose::QUARANTINE;
use gravity_pipeline::quarantine::{is_message, is_stray_object};
use gravity_pipeline::store::Store;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// Objects of the quarantine that are counted at the most: ten pages.
const COUNTED: usize = 10_000;
/// How often is looked where something goes into quarantine all the time.
const NO_MORE_OFTEN: Duration = Duration::from_secs(60);

/// Counts what is in quarantine: at the start, at every `interval`, and soon after something went in.
pub fn watch_quarantine(store: Arc<dyn Store>, metrics: Arc<Metrics>, interval: Duration) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let seen = metrics.quarantined();
            match count_quarantine(&*store).await {
                Ok(held) => metrics.quarantine_holds(held),
                Err(error) => tracing::warn!(%error, "the quarantine could not be counted"),
            }
            let mut waited = Duration::ZERO;
            while waited < interval && (waited < NO_MORE_OFTEN || metrics.quarantined() == seen) {
                let pause = NO_MORE_OFTEN.min(interval - waited);
                tokio::time::sleep(pause).await;
                waited += pause;
            }
        }
    }))
}

/// Objects in quarantine by what they hold.
#[derive(Debug, Default)]
pub struct Quarantined {
    pub batches: u64,
    pub records: u64,
    pub messages: u64,
}

async fn count_quarantine(store: &dyn Store) -> Result<Quarantined, gravity_pipeline::store::Error> {
    let mut objects = store.list(&format!("{QUARANTINE}/"), None).take(COUNTED);
    let mut held = Quarantined::default();
    while let Some(object) = objects.try_next().await? {
        let of_kind = match object.key {
            key if is_message(&key) => &mut held.messages,
            key if is_stray_object(&key) => &mut held.records,
            _ => &mut held.batches,
        };
        *of_kind += 1;
    }
    Ok(held)
}
