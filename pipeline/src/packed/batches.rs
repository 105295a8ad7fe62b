//! Batches by their keys: which a command means, their bytes from whichever file has them whole, and a copy of them
//! elsewhere.

use super::catalog::{Files, SpansFile};
use super::reader::Reader;
use super::restore::{Place, batches_in, restore_from};
use crate::compress::Gzip;
use crate::decompress::{Limits, RawTally, decompress};
use crate::error::{Error, Result};
use crate::store::{self, ErrorKind, Key, Object, PutMode, Store};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt, TryStreamExt};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of a batch that are put together and not given out yet, so that a file in which it is broken shows itself
/// before another one is too late. A batch up to this size is checked before any of it is given out.
const HELD: usize = 8 << 20;

/// The bytes of a batch, from the newest file in which it is whole.
///
/// # Errors
/// [`Error::NotFound`] if no file has it; [`Error::Corrupt`] if none has it whole. In the stream: if what was to come
/// is not what went in, then more than 8 MiB of it have been given out.
pub async fn open(reader: &Arc<Reader>, files: &Files, batch: &str) -> Result<BoxStream<'static, Result<Bytes>>> {
    first_whole(reader, files.of_batch(batch).map(|file| (file.clone(), 0)), batch).await
}

/// The bytes of a batch that was found by [`selected`].
///
/// # Errors
/// As [`open`].
pub async fn open_found(
    reader: &Arc<Reader>,
    files: &Files,
    found: &Found,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    let batch = &found.place.source;
    let group_in = |file: &Arc<SpansFile>| if Arc::ptr_eq(file, &found.file) { found.place.group } else { 0 };
    first_whole(reader, files.of_batch(batch).map(|file| (file.clone(), group_in(file))), batch).await
}

async fn first_whole(
    reader: &Arc<Reader>,
    files: impl Iterator<Item = (Arc<SpansFile>, usize)>,
    batch: &str,
) -> Result<BoxStream<'static, Result<Bytes>>> {
    let mut failed = None;
    for (file, group) in files {
        match begin(restore_from(reader.clone(), file.open()?, batch.to_owned(), group)).await {
            Ok(bytes) => return Ok(bytes),
            Err(e @ (Error::Corrupt { .. } | Error::NotFound(_))) => {
                tracing::warn!("{batch}: {e}");
                failed = failed.or(Some(e));
            }
            Err(e) => return Err(e),
        }
    }
    let not_there = || Error::NotFound(format!("batch {batch} is not in {}", reader.store().location()));
    Err(failed.unwrap_or_else(not_there))
}

async fn begin(bytes: impl Stream<Item = Result<Bytes>> + Send + 'static) -> Result<BoxStream<'static, Result<Bytes>>> {
    let mut bytes = bytes.boxed();
    let (mut held, mut size) = (Vec::new(), 0);
    while let Some(piece) = bytes.try_next().await? {
        size += piece.len();
        held.push(Ok(piece));
        if size > HELD {
            return Ok(stream::iter(held).chain(bytes).boxed());
        }
    }
    Ok(stream::iter(held).boxed())
}

/// Which batches are meant.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// Those whose key begins so.
    pub prefix: String,
    /// Those of that time or later.
    pub since: Option<SystemTime>,
    /// Those of before.
    pub until: Option<SystemTime>,
}

impl Range {
    /// True if a batch of this key, stored in a file of this name, is meant. Its time is the hour, or whatever else the
    /// `name=value` folders of its key tell; without any, the moment in which the file was written.
    pub fn has(&self, batch: &str, file: &Key) -> bool {
        if !batch.starts_with(&self.prefix) {
            return false;
        }
        let (begin, end) = partition(batch).unwrap_or_else(|| {
            let written = written(file);
            (written, written + Duration::from_millis(1))
        });
        self.since.is_none_or(|since| end > since) && self.until.is_none_or(|until| begin < until)
    }
}

/// What `dt=2025-10-31/hour=11`, or `year=2025/month=10/day=31/hour=11/minute=59`, stands for.
fn partition(key: &str) -> Option<(SystemTime, SystemTime)> {
    let folders: HashMap<&str, &str> = key.split('/').filter_map(|folder| folder.split_once('=')).collect();
    let part = |name: &str| folders.get(name).copied();
    let two = |value: &str| if value.len() == 1 { format!("0{value}") } else { value.to_owned() };
    let day = match (part("dt"), part("year"), part("month"), part("day")) {
        (Some(day), ..) => day.to_owned(),
        (None, Some(year), Some(month), Some(day)) => format!("{year}-{}-{}", two(month), two(day)),
        _ => return None,
    };
    let (hour, minute) = (part("hour").map(two), part("hour").and(part("minute")).map(two));
    let length = match (&hour, &minute) {
        (_, Some(_)) => 60,
        (Some(_), None) => 60 * 60,
        (None, None) => 24 * 60 * 60,
    };
    let [hour, minute] = [hour, minute].map(|value| value.unwrap_or_else(|| "00".into()));
    let begin = humantime::parse_rfc3339(&format!("{day}T{hour}:{minute}:00Z")).ok()?;
    Some((begin, begin + Duration::from_secs(length)))
}

/// When a file of spans was written, by its name.
pub fn written(file: &Key) -> SystemTime {
    let name = file.as_str().rsplit('/').next().unwrap_or_default();
    let milliseconds = name.get(..12).and_then(|digits| u64::from_str_radix(digits, 16).ok());
    UNIX_EPOCH + Duration::from_millis(milliseconds.unwrap_or(0))
}

/// A batch, and the newest file that has it.
#[derive(Clone)]
pub struct Found {
    /// The file.
    pub file: Arc<SpansFile>,
    /// The batch in it.
    pub place: Place,
}

/// The batches of a file for which it is the newest that has them, as far as they are meant.
pub fn own<'f>(files: &'f Files, key: &'f Key, file: &'f SpansFile, range: &'f Range) -> impl Iterator<Item = &'f str> {
    let batches = file.batches.iter().map(String::as_str);
    let is_newest = |batch: &&str| files.of_batch(batch).next().is_some_and(|newest| newest.key == *key);
    batches.filter(|batch| range.has(batch, key)).filter(is_newest)
}

/// All batches that are meant, each once; for a file that cannot be read, its batches' keys and the reason.
pub fn selected(
    reader: Arc<Reader>,
    files: Arc<Files>,
    range: Range,
) -> impl Stream<Item = Result<Found, (Vec<String>, Error)>> + Send {
    let live: Vec<_> = files.live().map(|(key, file)| (key.clone(), file.clone())).collect();
    stream::iter(live)
        .filter_map(move |(key, file)| {
            let wanted: HashSet<String> = own(&files, &key, &file, &range).map(str::to_owned).collect();
            let reader = reader.clone();
            async move {
                if wanted.is_empty() {
                    return None;
                }
                Some(match batches_of(&reader, &file).await {
                    Ok(mut places) => {
                        places.retain(|place| wanted.contains(&place.source));
                        let there: HashSet<&str> = places.iter().map(|place| &*place.source).collect();
                        let missing: Vec<_> = wanted.into_iter().filter(|batch| !there.contains(&**batch)).collect();
                        let lost = (!missing.is_empty())
                            .then(|| Err((missing, file.corrupt("its metadata names them and it does not have them"))));
                        let found = places.into_iter().map(|place| Ok(Found { file: file.clone(), place }));
                        found.chain(lost).collect()
                    }
                    Err(e) => vec![Err((wanted.into_iter().collect(), e))],
                })
            }
        })
        .flat_map(stream::iter)
}

async fn batches_of(reader: &Reader, file: &SpansFile) -> Result<Vec<Place>> {
    batches_in(reader, &file.open()?).await
}

/// What came of a batch that was to be restored elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// It was written, in so many bytes.
    Written(u64),
    /// It was there.
    There,
}

/// Restores a batch as a gzip file of that name. It is in memory compressed, not as a whole document.
///
/// # Errors
/// If it cannot be restored, or something else has that name.
pub async fn restore_to(
    reader: &Arc<Reader>,
    files: &Files,
    found: &Found,
    target: &dyn Store,
    name: &Key,
) -> Result<Restored> {
    if target.head(name).await?.is_some() {
        return is_there(target, name, found).await;
    }
    let mut bytes = open_found(reader, files, found).await?;
    let mut file = Gzip::default();
    while let Some(piece) = bytes.try_next().await? {
        file.write(&piece).map_err(Error::io(name.as_str()))?;
    }
    let file = file.finish().map_err(Error::io(name.as_str()))?;
    let size = file.len() as u64;
    match target.put(name, file, PutMode::IfAbsent).await {
        Ok(_) => Ok(Restored::Written(size)),
        // Somebody was quicker.
        Err(store::Error { kind: ErrorKind::Precondition, .. }) => is_there(target, name, found).await,
        Err(e) => Err(e.into()),
    }
}

/// Passes if what has that name holds the batch, however it is compressed.
async fn is_there(target: &dyn Store, name: &Key, found: &Found) -> Result<Restored> {
    let info = &found.place.info;
    let other = |what: &str| {
        let why = format!("{what} has that name already; it was left as it is");
        Error::Config(format!("{name} in {}: {why}", target.location()))
    };
    let Some(Object { body, .. }) = target.get(name).await? else { return Err(other("something that went meanwhile")) };
    let limits = Limits { max_bytes: info.document_bytes, max_ratio: u64::MAX };
    let mut bytes = std::pin::pin!(decompress(body.map_err(Error::from), limits, RawTally::default()));
    let mut hasher = blake3::Hasher::new();
    loop {
        match bytes.try_next().await {
            Ok(Some(piece)) => drop(hasher.update(&piece)),
            Ok(None) if info.blake3 == *hasher.finalize().to_hex() => return Ok(Restored::There),
            Ok(None) | Err(Error::Input(_)) => return Err(other("another content")),
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> SystemTime {
        humantime::parse_rfc3339_weak(text).unwrap()
    }

    #[test]
    fn a_batch_is_of_the_time_that_its_folders_tell() {
        for (key, begin, end) in [
            ("raw-spans/dt=2025-10-31/hour=11/b.gz", "2025-10-31T11:00:00Z", "2025-10-31T12:00:00Z"),
            ("raw-spans/dt=2025-10-31/b.gz", "2025-10-31T00:00:00Z", "2025-11-01T00:00:00Z"),
            ("year=2025/month=10/day=31/hour=9/minute=5/b", "2025-10-31T09:05:00Z", "2025-10-31T09:06:00Z"),
        ] {
            assert_eq!(partition(key), Some((time(begin), time(end))), "{key}");
        }
        for key in ["stdin/0123", "dt=yesterday/b", "hour=11/b", "dt=2025-10-31/hour=25/b"] {
            assert_eq!(partition(key), None, "{key}");
        }
    }

    #[test]
    fn a_range_takes_what_overlaps_it() {
        let file = Key::listed("spans/dt=2025-11-02/019a41b06c00-00000000.parquet");
        let range = |since: Option<&str>, until: Option<&str>| Range {
            prefix: String::new(),
            since: since.map(time),
            until: until.map(time),
        };
        let batch = "raw-spans/dt=2025-10-31/hour=11/b.gz";
        assert!(range(Some("2025-10-31T11:30:00Z"), None).has(batch, &file));
        assert!(!range(Some("2025-10-31T12:00:00Z"), None).has(batch, &file));
        assert!(!range(None, Some("2025-10-31T11:00:00Z")).has(batch, &file));
        assert!(range(None, Some("2025-10-31T11:00:01Z")).has(batch, &file));
        let written = written(&file);
        let around = |since, until| Range { prefix: "stdin/".into(), since: Some(since), until: Some(until) };
        assert!(around(written, written + Duration::from_secs(1)).has("stdin/0", &file));
        assert!(!around(written + Duration::from_secs(1), written + Duration::from_secs(2)).has("stdin/0", &file));
        assert!(!around(written, written + Duration::from_secs(1)).has("other/0", &file));
    }
}
