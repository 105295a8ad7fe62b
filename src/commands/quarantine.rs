//! `gravity quarantine`: what could not be stored, to look at, to try again, to be rid of.

use crate::cli::QuarantineCommand;
use crate::config::{OpenStore, StoreArgs};
use crate::exit::{Done, Failure};
use crate::say::say;
use crate::units::{self, counted};
use futures::TryStreamExt;
use gravity_pipeline::Error;
use gravity_pipeline::ledger;
use gravity_pipeline::loose::{Layout, Marker, Paths, QuarantinedBatch, QuarantinedMessage, StrayLine};
use gravity_pipeline::packed::done::DoneBatches;
use gravity_pipeline::quarantine::{self, Entry, StrayObject};
use gravity_pipeline::store::{Key, Store};
use serde::Serialize;
use std::io::Write;
use std::sync::Arc;

/// A line of `list --json`.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Line<'a> {
    Batch(&'a QuarantinedBatch),
    Records { key: Option<&'a str>, object: &'a str, bytes: u64 },
    Message { key: String, reason: &'a str, receives: u32 },
}

/// Stands before the id of a message where a batch has its key. No batch is called so unless by intent.
const MESSAGE: &str = "%messages/";

/// What `show` knows of a batch.
#[derive(Serialize)]
struct Shown<'a> {
    key: &'a str,
    /// Bytes of the raw file; none if it is not in this store.
    raw_bytes: Option<u64>,
    /// True if the batch is in the ledger.
    stored: bool,
    /// Why it is in quarantine, if it is as a whole.
    batch: Option<QuarantinedBatch>,
    records: Vec<StrayLine>,
}

/// Does what was asked for.
pub async fn run(command: QuarantineCommand) -> Result<Done, Failure> {
    match command {
        QuarantineCommand::List { json, store } => list(&open(&store).await?.0, json).await,
        QuarantineCommand::Show { key, json, store } => {
            let (store, paths) = open(&store).await?;
            show(&store, &paths, &key, json).await
        }
        QuarantineCommand::Retry { keys, all, store } => {
            let (store, paths) = open(&store).await?;
            let keys = if all { batches(&*store).await? } else { keys };
            retry(&*store, &paths, keys).await
        }
        QuarantineCommand::Drop { yes: false, .. } => {
            Err(Failure::Usage("drop removes reasons and records for good: say --yes if that is meant".into()))
        }
        QuarantineCommand::Drop { keys, store, .. } => {
            let (store, paths) = open(&store).await?;
            remove(&store, &paths, keys).await
        }
    }
}

async fn open(args: &StoreArgs) -> Result<(Arc<dyn Store>, Paths), Failure> {
    let OpenStore { store, .. } = args.open().await?;
    Marker::read(&*store).await?;
    Ok((store, args.paths()?))
}

/// What tells whether a batch is stored.
async fn done(store: &Arc<dyn Store>) -> Result<ledger::Done, Error> {
    Ok(match Marker::layout_of(&**store).await? {
        Layout::Loose => ledger::Done::Ledger(store.clone()),
        Layout::Packed => {
            let done = DoneBatches::new(store.clone());
            done.refresh().await?;
            ledger::Done::Packed(done)
        }
    })
}

async fn list(store: &Arc<dyn Store>, json: bool) -> Result<Done, Failure> {
    let mut out = std::io::stdout();
    let mut entries = std::pin::pin!(quarantine::list(&**store));
    while let Some(entry) = entries.try_next().await? {
        let line = match (&entry, json) {
            (Entry::Batch(batch), true) => json_line(&Line::Batch(batch)),
            (Entry::Strays(StrayObject { object, batch, bytes }), true) => {
                json_line(&Line::Records { key: batch.as_deref(), object: object.as_str(), bytes: *bytes })
            }
            (Entry::Message(QuarantinedMessage { message, reason, receives, .. }), true) => {
                json_line(&Line::Message { key: format!("{MESSAGE}{message}"), reason, receives: *receives })
            }
            (Entry::Message(QuarantinedMessage { message, reason, receives, .. }), false) => {
                let times = counted(u64::from(*receives), "receive");
                format!("message  {MESSAGE}{message}  ({times}): {reason}")
            }
            (Entry::Batch(QuarantinedBatch { key, reason, tries, .. }), false) => {
                format!("batch    {key}  ({}): {reason}", tries_in_words(*tries))
            }
            (Entry::Strays(StrayObject { object, batch, bytes }), false) => {
                let key = batch.as_deref().unwrap_or(object.as_str());
                format!("records  {key}  ({}): no trace can hold them", units::bytes(*bytes))
            }
        };
        writeln!(out, "{line}").map_err(|e| Failure::stdout(&e))?;
    }
    Ok(Done::Well)
}

async fn show(store: &Arc<dyn Store>, paths: &Paths, key: &str, json: bool) -> Result<Done, Failure> {
    if let Some(id) = key.strip_prefix(MESSAGE) {
        return show_message(&**store, id, json).await;
    }
    let batch = quarantine::read(&**store, paths, key).await?;
    let mut records = Vec::new();
    for strays in quarantine::strays(&**store, paths, key).await? {
        records.extend(quarantine::stray_lines(&**store, &strays.object).await?);
    }
    if batch.is_none() && records.is_empty() {
        return Err(Failure::Failed(not_there(key)));
    }
    let raw = raw_bytes(&**store, key).await?;
    let stored = done(store).await?.has(key).await?;
    let shown = Shown { key, raw_bytes: raw, stored, batch, records };
    let text = if json { json_line(&shown) } else { shown.text() };
    writeln!(std::io::stdout(), "{text}").map_err(|e| Failure::stdout(&e))?;
    Ok(Done::Well)
}

async fn show_message(store: &dyn Store, id: &str, json: bool) -> Result<Done, Failure> {
    let Some(entry) = quarantine::read_message(store, id).await? else {
        return Err(Failure::Failed(not_there(&format!("{MESSAGE}{id}"))));
    };
    let text = match json {
        true => json_line(&entry),
        false => {
            let QuarantinedMessage { message, queue, reason, receives, sent, body, gravity } = &entry;
            let sent = sent.as_deref().unwrap_or("unknown");
            // A body may hold anything, and a terminal obeys control characters.
            let body = body.escape_debug();
            format!(
                "{MESSAGE}{message}\n  reason   {reason}\n  queue    {queue}\n  sent     {sent}\n  \
                 receives {receives}, the last by gravity {gravity}\n  body     {body}"
            )
        }
    };
    writeln!(std::io::stdout(), "{text}").map_err(|e| Failure::stdout(&e))?;
    Ok(Done::Well)
}

impl Shown<'_> {
    fn text(&self) -> String {
        let mut lines = vec![self.key.to_owned()];
        if let Some(QuarantinedBatch { reason, tries, version, gravity, .. }) = &self.batch {
            lines.push(format!("  reason   {reason}"));
            lines.push(format!("  tries    {tries}, the last by gravity {gravity}"));
            lines.push(format!("  version  {}", version.as_deref().unwrap_or("unknown")));
        }
        let raw = self.raw_bytes.map_or_else(|| "not in this store".into(), units::bytes);
        lines.push(format!("  raw file {raw}"));
        lines.push(format!("  ledger   {}", if self.stored { "stored" } else { "not stored" }));
        if !self.records.is_empty() {
            lines.push(format!("  {} that no trace can hold:", counted(self.records.len() as u64, "record")));
        }
        for StrayLine { offset, reason, encoding, record, record_base64 } in &self.records {
            lines.push(format!("  byte {offset}: {reason} ({encoding})"));
            // A record may hold anything, and a terminal obeys control characters.
            let bytes = record.as_ref().map(|record| record.escape_debug().to_string());
            lines.push(format!("    {}", bytes.as_ref().or(record_base64.as_ref()).map_or("", String::as_str)));
        }
        lines.join("\n")
    }
}

/// Every batch that is in quarantine as a whole.
async fn batches(store: &dyn Store) -> Result<Vec<String>, Error> {
    let mut keys = Vec::new();
    let mut entries = std::pin::pin!(quarantine::list(store));
    while let Some(entry) = entries.try_next().await? {
        if let Entry::Batch(batch) = entry {
            keys.push(batch.key);
        }
    }
    Ok(keys)
}

async fn retry(store: &dyn Store, paths: &Paths, keys: Vec<String>) -> Result<Done, Failure> {
    let mut retried = 0;
    let mut done = Done::Well;
    for key in keys {
        if key.starts_with(MESSAGE) {
            done = Done::WithFailures;
            say!(
                "{key}: messages are not tried again; a full pass finds the batches that they meant, `drop` removes them"
            );
            continue;
        }
        if store.head(&paths.quarantined(&key)).await?.is_none() {
            done = Done::WithFailures;
            match quarantine::strays(store, paths, &key).await?.is_empty() {
                true => say!("{}", not_there(&key)),
                false => {
                    say!("{key}: the batch is stored; what it has in quarantine are records that no trace can hold")
                }
            }
            continue;
        }
        quarantine::retry(store, paths, &key).await?;
        retried += 1;
        match raw_bytes(store, &key).await? {
            Some(_) => say!("{key}: out of quarantine"),
            None => say!("{key}: out of quarantine, but its raw file is not in this store: no worker will find it"),
        }
    }
    if retried > 0 {
        say!(
            "{}: a worker tries again at its next full pass (FULL_SCAN_INTERVAL, with a queue RECONCILE_INTERVAL), `gravity worker --once` at once",
            counted(retried, "batch")
        );
    }
    Ok(done)
}

async fn remove(store: &Arc<dyn Store>, paths: &Paths, keys: Vec<String>) -> Result<Done, Failure> {
    let is_done = done(store).await?;
    let store = &**store;
    let mut done = Done::Well;
    for key in keys {
        if let Some(id) = key.strip_prefix(MESSAGE) {
            match quarantine::read_message(store, id).await? {
                Some(_) => {
                    quarantine::remove_message(store, id).await?;
                    say!("{key}: dropped");
                }
                None => {
                    done = Done::WithFailures;
                    say!("{}", not_there(&key));
                }
            }
            continue;
        }
        let has_entry = store.head(&paths.quarantined(&key)).await?.is_some();
        let strays = quarantine::strays(store, paths, &key).await?.len() as u64;
        if !has_entry && strays == 0 {
            done = Done::WithFailures;
            say!("{}", not_there(&key));
            continue;
        }
        quarantine::remove(store, paths, &key).await?;
        let is_stored = is_done.has(&key).await?;
        match raw_bytes(store, &key).await? {
            Some(_) if !is_stored => {
                say!("{key}: dropped; its raw file stays, and as long as it does a worker tries it again")
            }
            Some(_) => say!("{key}: dropped; its raw file stays"),
            None => say!("{key}: dropped"),
        }
    }
    Ok(done)
}

/// Bytes of a batch's raw file, if it is in this store: what was ingested from elsewhere may have any name.
async fn raw_bytes(store: &dyn Store, batch: &str) -> Result<Option<u64>, Error> {
    let Ok(key) = Key::new(batch) else { return Ok(None) };
    Ok(store.head(&key).await?.map(|raw| raw.size))
}

fn not_there(key: &str) -> String {
    format!("{key}: not in quarantine; `gravity quarantine list` shows what is")
}

fn tries_in_words(tries: u32) -> String {
    match tries {
        1 => "1 try".into(),
        n => format!("{n} tries"),
    }
}

fn json_line(value: &impl Serialize) -> String {
    // Strings, numbers and lists of them: there is nothing in it that JSON could refuse.
    serde_json::to_string(value).unwrap_or_default()
}
