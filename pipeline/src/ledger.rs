//! Reading the ledger.

use crate::error::{Error, Result};
use crate::loose::{LedgerEntry, Paths};
use crate::store::Store;

/// What the ledger says of a batch; `None` if it is not done.
pub async fn read(store: &dyn Store, batch: &str) -> Result<Option<LedgerEntry>> {
    let key = Paths::default().ledger(batch);
    let Some((json, _)) = store.read(&key).await? else { return Ok(None) };
    let corrupt =
        |e: serde_json::Error| Error::Corrupt { key: key.to_string(), reason: format!("not a ledger entry: {e}") };
    serde_json::from_slice(&json).map(Some).map_err(corrupt)
}
