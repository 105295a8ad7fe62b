//! Ledger entries against indexes.

use super::{Level, Verifier, of_this_object};
use crate::error::{Error, Result};
use crate::ids::TraceId;
use crate::ledger;
use crate::loose::{LEDGER, LedgerEntry, TraceIndex};
use crate::store::{Key, Meta, Store};
use futures::{StreamExt, TryStreamExt, stream};
use std::sync::Arc;

/// Indexes, and ledger entries, read at the same time: each may be as large as its limit.
const LARGE_READS: usize = 8;

/// What a trace's index has of a batch.
#[derive(Default)]
struct Share {
    /// Its spans, their parts, chunks and bytes.
    sums: [u64; 4],
    /// True if there are spans of a batch with a smaller key: of a span that came twice, the smaller key stands.
    may_stand_elsewhere: bool,
}

/// What a look at an index showed.
enum Look {
    Absent,
    /// That was told when the index itself was looked at.
    Unreadable,
    Read(Share),
}

impl Verifier<'_> {
    /// Every ledger entry against the indexes of its traces.
    pub(super) async fn ledger(&mut self) -> Result<()> {
        let (store, since) = (self.store.clone(), self.options.since);
        let mut entries = self
            .store
            .list(&format!("{LEDGER}/"), None)
            .map(move |meta| {
                let store = store.clone();
                async move {
                    let Meta { key, modified, .. } = meta?;
                    let is_old = since.zip(modified).is_some_and(|(since, modified)| modified < since);
                    let skip = is_old || !key.as_str().ends_with(".json");
                    let read = if skip { Ok(None) } else { store.read(&key).await };
                    Ok::<_, Error>((key, read))
                }
            })
            .buffered(LARGE_READS)
            .boxed();
        while let Some((key, read)) = entries.try_next().await? {
            self.report.looked_at(1);
            let entry = match read {
                Ok(None) if key.as_str().ends_with(".json") => continue,
                Ok(None) => {
                    self.report.unknown(key);
                    continue;
                }
                Ok(Some((json, _))) => serde_json::from_slice::<LedgerEntry>(&json).map_err(|e| e.to_string()),
                Err(e) => Err(of_this_object(e)?),
            };
            match entry {
                Ok(entry) if self.paths.ledger(&entry.key) == key => self.batch(&key, &entry).await?,
                Ok(entry) => {
                    let reason = format!("it is the entry of {}", entry.key);
                    self.report.tell(Level::Error, "corrupt-ledger", key, reason);
                }
                Err(reason) => self.report.tell(Level::Error, "corrupt-ledger", key, reason),
            }
        }
        Ok(())
    }

    async fn batch(&mut self, key: &Key, entry: &LedgerEntry) -> Result<()> {
        self.summary.ledger_entries += 1;
        let store = self.store.clone();
        let mut looks = stream::iter(entry.traces.iter().map(|trace| self.paths.index(trace)).collect::<Vec<_>>())
            .map(|index| {
                let (store, batch) = (store.clone(), entry.key.clone());
                async move { Ok::<_, Error>((share(store, &index, &batch).await?, index)) }
            })
            .buffered(LARGE_READS);
        let (mut found, mut all_read) = ([0; 4], true);
        while let Some((look, index)) = looks.try_next().await? {
            match look {
                Look::Absent => {
                    all_read = false;
                    self.report.tell(
                        Level::Error,
                        "missing-index",
                        index,
                        format!("{key} names it and it is not there"),
                    );
                }
                Look::Unreadable => all_read = false,
                Look::Read(Share { sums: [0, ..], may_stand_elsewhere: false }) => {
                    all_read = false;
                    self.report.tell(
                        Level::Error,
                        "missing-spans",
                        index,
                        format!("{key} names it and it has none of its spans"),
                    );
                }
                Look::Read(share) => found.iter_mut().zip(share.sums).for_each(|(sum, n)| *sum += n),
            }
        }
        if all_read {
            self.sums(key, entry, found);
        }
        Ok(())
    }

    /// Compares what the indexes have of a batch with what it was. Only a warning: a batch that was replaced under its
    /// name, or ingested again with other content keys, leaves the spans of both.
    fn sums(&mut self, key: &Key, entry: &LedgerEntry, found: [u64; 4]) {
        let sums = entry.sums;
        let expected = [sums.spans, sums.parts, sums.chunks, sums.content_bytes];
        let words = |[spans, parts, chunks, bytes]: [u64; 4]| {
            format!("{spans} spans, {parts} parts, {chunks} chunks, {bytes} bytes")
        };
        let detail = format!("it has {}; in the indexes are {}", words(expected), words(found));
        if found[0] < expected[0] {
            let why = format!("{detail}: the others came twice, or with a batch of a smaller name");
            self.report.tell(Level::Info, "fewer-spans", key, why);
        } else if found != expected {
            let why = format!("{detail}: was the batch replaced, or ingested with other content keys?");
            self.report.tell(Level::Warning, "other-sums", key, why);
        }
    }

    /// A batch that an index names, and whether the ledger knows that.
    pub(super) async fn batch_of_trace(&mut self, batch: &str, trace: &TraceId) -> Result<()> {
        let key = self.paths.ledger(batch);
        match ledger::read(&*self.store, batch).await {
            Ok(None) => {
                let why = "the index has spans of it and the ledger does not: it is in work, or to be done";
                self.report.tell(Level::Info, "unfinished-batch", key, why);
            }
            Ok(Some(entry)) => {
                self.summary.ledger_entries += 1;
                if !entry.traces.contains(trace) {
                    let why =
                        format!("{} has spans of it, and the entry does not name that trace", self.paths.index(trace));
                    self.report.tell(Level::Warning, "unnamed-trace", key, why);
                }
            }
            Err(Error::Corrupt { reason, .. }) => self.report.tell(Level::Error, "corrupt-ledger", key, reason),
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

async fn share(store: Arc<dyn Store>, key: &Key, batch: &str) -> Result<Look> {
    let json = match store.read(key).await {
        Ok(Some((json, _))) => json,
        Ok(None) => return Ok(Look::Absent),
        Err(e) => return of_this_object(e).map(|_| Look::Unreadable),
    };
    let Ok(index) = TraceIndex::from_json(key.as_str(), &json) else { return Ok(Look::Unreadable) };
    let mut share = Share::default();
    for span in &index.spans {
        if span.source == batch {
            let chunks = span.parts.iter().map(|part| part.chunks.len() as u64).sum::<u64>();
            let bytes = span.parts.iter().map(|part| part.bytes).sum::<u64>();
            let of_span = [1, span.parts.len() as u64, chunks, bytes];
            share.sums.iter_mut().zip(of_span).for_each(|(sum, n)| *sum += n);
        }
        share.may_stand_elsewhere |= span.source.as_str() < batch;
    }
    Ok(Look::Read(share))
}
