//! The quarantine of a store of either layout.

use super::{Level, READS, Report, UNKNOWN};
use crate::error::Result;
use crate::ledger::Done;
use crate::loose::{QUARANTINE, QuarantinedBatch, QuarantinedMessage};
use crate::quarantine;
use crate::store::{Key, Store};
use futures::{Stream, StreamExt, TryStreamExt};
use std::sync::Arc;

/// Tells of entries whose batches are done after all, and of what is no entry.
///
/// # Errors
/// If the store cannot be asked.
pub(crate) async fn verify(store: Arc<dyn Store>, done: Done, report: &mut Report<'_>) -> Result<()> {
    let mut findings = std::pin::pin!(findings(store, done));
    while let Some(finding) = findings.try_next().await? {
        report.looked_at(1);
        if let Some((level, kind, key, detail)) = finding {
            report.tell(level, kind, key, detail);
        }
    }
    Ok(())
}

/// A finding that is not told yet.
type Found = (Level, &'static str, Key, String);

/// Entries of the quarantine whose batches are done after all, and what is no entry; `None` for each that is as it
/// should be.
fn findings(store: Arc<dyn Store>, done: Done) -> impl Stream<Item = Result<Option<Found>>> {
    let listed = store.list(&format!("{QUARANTINE}/"), None);
    listed
        .map(move |meta| {
            let (store, done) = (store.clone(), done.clone());
            async move {
                let key = meta?.key;
                if !key.as_str().ends_with(".json") {
                    let is_ours = quarantine::is_stray_object(&key);
                    return Ok((!is_ours).then(|| (Level::Warning, "unknown-object", key, UNKNOWN.to_owned())));
                }
                let Some((json, _)) = store.read(&key).await? else { return Ok(None) };
                if quarantine::is_message(&key) && serde_json::from_slice::<QuarantinedMessage>(&json).is_ok() {
                    return Ok(None);
                }
                let entry = match serde_json::from_slice::<QuarantinedBatch>(&json) {
                    Ok(entry) => entry,
                    Err(e) => return Ok(Some((Level::Error, "corrupt-quarantine", key, e.to_string()))),
                };
                let why = format!("{} is stored too; `gravity quarantine drop` takes it out", entry.key);
                let is_done = done.has(&entry.key).await?;
                Ok(is_done.then_some((Level::Warning, "quarantined-and-stored", key, why)))
            }
        })
        .buffered(READS)
}
