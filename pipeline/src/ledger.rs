//! Which batches are done, in either layout.

use crate::error::{Error, Result};
use crate::loose::{LedgerEntry, Paths};
use crate::packed::done::DoneBatches;
use crate::store::Store;
use std::sync::Arc;

/// What the ledger says of a batch; `None` if it is not done.
pub async fn read(store: &dyn Store, batch: &str) -> Result<Option<LedgerEntry>> {
    let key = Paths::default().ledger(batch);
    let Some((json, _)) = store.read(&key).await? else { return Ok(None) };
    let corrupt =
        |e: serde_json::Error| Error::Corrupt { key: key.to_string(), reason: format!("not a ledger entry: {e}") };
    serde_json::from_slice(&json).map(Some).map_err(corrupt)
}

/// Where it is noted that a batch is done.
#[derive(Clone)]
pub enum Done {
    /// Loose: an object each.
    Ledger(Arc<dyn Store>),
    /// Packed: the metadata of the files of spans.
    Packed(Arc<DoneBatches>),
}

impl Done {
    /// Learns what other processes have stored since it was last asked, at most once a second. A ledger needs no
    /// such thing.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn refresh(&self) -> Result<()> {
        match self {
            Self::Ledger(_) => Ok(()),
            Self::Packed(done) => done.refresh().await,
        }
    }

    /// True if this batch is done.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn has(&self, batch: &str) -> Result<bool> {
        match self {
            Self::Ledger(store) => Ok(store.head(&Paths::default().ledger(batch)).await?.is_some()),
            Self::Packed(done) => Ok(done.has(batch)),
        }
    }
}
