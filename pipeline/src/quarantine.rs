//! Reading and writing the quarantine.

use crate::error::{Error, Result};
use crate::loose::{Paths, QuarantinedBatch};
use crate::store::{Meta, PutMode, Store};

/// What is said of a batch; `None` if it is not in quarantine.
pub async fn read(store: &dyn Store, paths: &Paths, batch: &str) -> Result<Option<QuarantinedBatch>> {
    let key = paths.quarantined(batch);
    let Some((json, _)) = store.read(&key).await? else { return Ok(None) };
    let corrupt = |e| Error::Corrupt { key: key.to_string(), reason: format!("not a quarantine entry: {e}") };
    serde_json::from_slice(&json).map(Some).map_err(corrupt)
}

/// Puts a batch into quarantine; `before` is what was said of it so far.
pub async fn put(
    store: &dyn Store,
    paths: &Paths,
    raw: &Meta,
    reason: &Error,
    before: Option<&QuarantinedBatch>,
) -> Result<()> {
    let entry = QuarantinedBatch {
        key: raw.key.to_string(),
        reason: reason.to_string(),
        tries: before.map_or(0, |before| before.tries) + 1,
        version: QuarantinedBatch::version_of(raw),
        gravity: env!("CARGO_PKG_VERSION").into(),
    };
    let json = serde_json::to_vec(&entry).map_err(|e| Error::Config(e.to_string()))?;
    // The last one to try has the last word; nothing else depends on it.
    store.put(&paths.quarantined(&entry.key), json.into(), PutMode::Always).await?;
    Ok(())
}

/// True if trying again would only find the same.
pub fn is_settled(entry: &QuarantinedBatch, raw: &Meta) -> bool {
    entry.version.is_some()
        && entry.version == QuarantinedBatch::version_of(raw)
        && entry.gravity == env!("CARGO_PKG_VERSION")
}
