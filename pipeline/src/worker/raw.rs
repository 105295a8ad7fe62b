//! Raw files go when what was made of them has been read back, and they are what it was made of.

use super::Worker;
use crate::error::{Error, Result};
use crate::packed::prove::Stored;
use crate::store::Meta;
use futures::{StreamExt, TryStreamExt};

impl Worker {
    /// Deletes the raw file of a batch that was stored and read back a moment ago. It is read once more: it may have been
    /// replaced by another of the same size, and not every store has a tag that would tell.
    pub(super) async fn delete_raw(&self, raw: &Meta, raw_blake3: &str) -> Result<()> {
        let Some(mut object) = self.store.get(&raw.key).await? else { return Ok(()) };
        let mut hasher = blake3::Hasher::new();
        while let Some(piece) = object.body.try_next().await? {
            hasher.update(&piece);
        }
        match raw_blake3 == hasher.finalize().to_hex().as_str() {
            true => self.delete_version(&object.meta).await,
            false => {
                self.keep(raw, "replaced since it was read: not deleted");
                Ok(())
            }
        }
    }

    /// Deletes the raw file of a batch that was done before, by whomever: one that died before it could, or that was not
    /// asked to. False if what is stored cannot be restored: then it is to be stored again.
    pub(super) async fn delete_done(&self, raw: &Meta) -> Result<bool> {
        let Some(object) = self.store.get(&raw.key).await? else { return Ok(true) };
        let read = object.meta;
        match self.pipeline.compare(raw.key.as_str(), object.body.map_err(Error::from).boxed()).await? {
            Stored::Same => self.delete_version(&read).await.map(|()| true),
            Stored::Other => {
                self.keep(raw, "not what is stored under its name: not deleted, and not stored either");
                Ok(true)
            }
            Stored::Broken(e) => {
                tracing::error!(batch = %raw.key, "was stored and cannot be restored, and is stored again: {e}");
                Ok(false)
            }
        }
    }

    /// Deletes an object if it is still the version that was read. It could only be replaced unseen between these two
    /// requests; the collector never writes a key twice.
    async fn delete_version(&self, read: &Meta) -> Result<()> {
        match self.store.head(&read.key).await? {
            Some(now) if now == *read => Ok(self.store.delete(&read.key).await?),
            Some(_) => {
                tracing::warn!(batch = %read.key, "replaced while it was compared: not deleted");
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn keep(&self, raw: &Meta, why: &str) {
        tracing::warn!(batch = %raw.key, "{why}");
        self.memory().note_kept(raw);
    }
}
