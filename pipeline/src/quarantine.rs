//! Reading and writing the quarantine.

use crate::error::{Error, Result};
use crate::loose::{Paths, QUARANTINE, QUARANTINED_MESSAGES, QuarantinedBatch, QuarantinedMessage, StrayLine};
use crate::store::{Key, Meta, PutMode, Store};
use futures::{Stream, TryStreamExt, future};

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

/// Something in quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A batch that could not be stored.
    Batch(QuarantinedBatch),
    /// Records of a batch that was stored, which no trace can hold.
    Strays(StrayObject),
    /// A message of the queue that makes no sense, or came too often.
    Message(QuarantinedMessage),
}

/// An object of stray records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrayObject {
    /// The object.
    pub object: Key,
    /// The batch they came in; `None` if its name is too long to be the object's.
    pub batch: Option<String>,
    /// Bytes of the object.
    pub bytes: u64,
}

impl StrayObject {
    fn new(meta: Meta) -> Self {
        Self { batch: batch_of_strays(&meta.key), object: meta.key, bytes: meta.size }
    }
}

/// Entries read at the same time.
const READS: usize = 32;

/// All that is in quarantine, in the order of the keys.
pub fn list(store: &dyn Store) -> impl Stream<Item = Result<Entry>> {
    below(store, QUARANTINE)
}

/// The messages in quarantine.
pub fn messages(store: &dyn Store) -> impl Stream<Item = Result<QuarantinedMessage>> {
    let entries = below(store, QUARANTINED_MESSAGES);
    entries.try_filter_map(|entry| {
        future::ok(match entry {
            Entry::Message(message) => Some(message),
            Entry::Batch(_) | Entry::Strays(_) => None,
        })
    })
}

fn below(store: &dyn Store, folder: &str) -> impl Stream<Item = Result<Entry>> {
    let objects = store.list(&format!("{folder}/"), None).map_err(Error::from);
    objects
        .map_ok(move |meta| async move {
            if is_stray_object(&meta.key) {
                return Ok(Some(Entry::Strays(StrayObject::new(meta))));
            }
            if !meta.key.as_str().ends_with(".json") {
                // Not ours; `verify` tells of it.
                return Ok(None);
            }
            let Some((json, _)) = store.read(&meta.key).await? else { return Ok(None) };
            let corrupt =
                |e| Error::Corrupt { key: meta.key.to_string(), reason: format!("not a quarantine entry: {e}") };
            let entry = match is_message(&meta.key) {
                true => serde_json::from_slice(&json).map(Entry::Message),
                false => serde_json::from_slice(&json).map(Entry::Batch),
            };
            entry.map(Some).map_err(corrupt)
        })
        .try_buffered(READS)
        .try_filter_map(future::ok)
}

/// The objects that hold stray records of a batch, in the order of the records.
pub async fn strays(store: &dyn Store, paths: &Paths, batch: &str) -> Result<Vec<StrayObject>> {
    let first = paths.strays(batch, 0);
    let folder = first.as_str().rsplit_once('/').map_or(QUARANTINE, |(folder, _)| folder);
    let objects = store.list(&format!("{folder}/"), None).map_ok(StrayObject::new);
    let of_batch = objects.try_filter(|strays| future::ready(strays.batch.as_deref() == Some(batch)));
    Ok(of_batch.try_collect().await?)
}

/// Reads stray records.
pub async fn stray_lines(store: &dyn Store, object: &Key) -> Result<Vec<StrayLine>> {
    let Some((lines, _)) = store.read(object).await? else { return Ok(Vec::new()) };
    let corrupt = |e| Error::Corrupt { key: object.to_string(), reason: format!("not stray records: {e}") };
    let lines = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).map_err(corrupt)).collect()
}

/// Takes a batch out, so that a worker tries it again.
pub async fn retry(store: &dyn Store, paths: &Paths, batch: &str) -> Result<()> {
    Ok(store.delete(&paths.quarantined(batch)).await?)
}

/// Removes all that quarantine has of a batch. The entry goes last: as long as something is there, it is listed.
pub async fn remove(store: &dyn Store, paths: &Paths, batch: &str) -> Result<()> {
    for strays in strays(store, paths, batch).await? {
        store.delete(&strays.object).await?;
    }
    retry(store, paths, batch).await
}

/// Puts a message into quarantine. A message that comes again has the same id, and so the same place.
pub async fn put_message(store: &dyn Store, entry: &QuarantinedMessage) -> Result<()> {
    let json = serde_json::to_vec(entry).map_err(|e| Error::Config(e.to_string()))?;
    store.put(&message_key(&entry.message), json.into(), PutMode::Always).await?;
    Ok(())
}

/// A message in quarantine; `None` if it is not there.
pub async fn read_message(store: &dyn Store, id: &str) -> Result<Option<QuarantinedMessage>> {
    let key = message_key(id);
    let Some((json, _)) = store.read(&key).await? else { return Ok(None) };
    let corrupt = |e| Error::Corrupt { key: key.to_string(), reason: format!("not a quarantined message: {e}") };
    serde_json::from_slice(&json).map(Some).map_err(corrupt)
}

/// Removes a message from quarantine.
pub async fn remove_message(store: &dyn Store, id: &str) -> Result<()> {
    Ok(store.delete(&message_key(id)).await?)
}

fn message_key(id: &str) -> Key {
    Key::encode(QUARANTINED_MESSAGES, id, ".json")
}

/// True for the name of a message in quarantine.
pub fn is_message(key: &Key) -> bool {
    key.as_str().strip_prefix(QUARANTINED_MESSAGES).is_some_and(|name| name.starts_with('/'))
}

/// True for the name of an object of stray records.
pub fn is_stray_object(key: &Key) -> bool {
    let name = key.as_str().strip_prefix(QUARANTINE).and_then(|name| name.strip_suffix(".jsonl"));
    name.is_some_and(|name| name.starts_with("/%long/")) || batch_of_strays(key).is_some()
}

fn batch_of_strays(key: &Key) -> Option<String> {
    let name = key.decode(QUARANTINE, ".jsonl")?;
    let (batch, offset) = name.rsplit_once('/')?;
    let is_offset = offset.len() >= 16 && offset.bytes().all(|byte| byte.is_ascii_digit());
    is_offset.then(|| batch.to_owned())
}
