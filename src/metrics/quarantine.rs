//! How much is in quarantine.

use super::Metrics;
use futures::{StreamExt, TryStreamExt};
use gravity_pipeline::loose::QUARANTINE;
use gravity_pipeline::quarantine::is_stray_object;
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
                Ok((batches, records)) => metrics.quarantine_holds(batches, records),
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

/// Batches, and objects of records.
async fn count_quarantine(store: &dyn Store) -> Result<(u64, u64), gravity_pipeline::store::Error> {
    let mut objects = store.list(&format!("{QUARANTINE}/"), None).take(COUNTED);
    let (mut batches, mut records) = (0, 0);
    while let Some(object) = objects.try_next().await? {
        match is_stray_object(&object.key) {
            true => records += 1,
            false => batches += 1,
        }
    }
    Ok((batches, records))
}
