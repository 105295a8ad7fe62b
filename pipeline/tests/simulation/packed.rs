//! What must hold of a packed store.

use crate::trace_id;
use crate::world::{Dice, World};
use bytes::Bytes;
use futures::TryStreamExt;
use gravity_pipeline::loose::Paths;
use gravity_pipeline::packed::catalog::{Catalog, Files};
use gravity_pipeline::packed::file::{File, packs_of};
use gravity_pipeline::packed::packer::{Names, nodes_key};
use gravity_pipeline::packed::reader::Reader;
use gravity_pipeline::packed::restore::restore;
use gravity_pipeline::packed::table::PackNumber;
use gravity_pipeline::packed::{batches, otlp, traces, verify};
use gravity_pipeline::split::Separator;
use gravity_pipeline::store::{Key, Store};
use gravity_pipeline::verify::{Level, Share};
use gravity_pipeline::{keys::ContentKeys, reconstruct};
use std::fmt;
use std::sync::Arc;

/// A worker's clock, which is wrong, and may be so coarse that workers meet in one moment.
pub struct Clock {
    world: Arc<World>,
    ahead: u64,
    grain: u64,
}

impl Clock {
    pub fn roll(world: &Arc<World>, dice: &mut Dice) -> Self {
        let grain = [1, 1000, 10_000][dice.roll(3) as usize];
        Self { world: world.clone(), ahead: dice.roll(2) * dice.roll(10_000), grain }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ms ahead", self.ahead)
    }
}

impl Names for Clock {
    fn now(&self) -> u64 {
        // A moment before a day ends.
        const BEGAN: u64 = 1_761_955_190_000;
        let now = BEGAN + self.world.began.elapsed().as_millis() as u64 + self.ahead;
        now - now % self.grain
    }

    fn random(&self) -> u32 {
        self.world.roll(1 << 32) as u32
    }
}

/// A reader that nothing disturbs.
fn reader(world: &World) -> Arc<Reader> {
    Reader::new(world.store.clone(), 1 << 20)
}

/// Looks at what was written; gives the batches in it. A crash right behind it must leave nothing that cannot be read.
pub async fn look(world: &World, key: &Key, body: &Bytes, before: Option<&Bytes>) -> Result<Vec<String>, String> {
    let is_ours = ["nodes/", "spans/"].iter().any(|folder| key.as_str().starts_with(folder));
    if !is_ours {
        return Ok(vec![]);
    }
    if before.is_some_and(|before| before != body) {
        return Err("was replaced".into());
    }
    let file = File::of_bytes(key, body.clone()).map_err(|e| e.to_string())?;
    for pack in packs_of(&file).map_err(|e| e.to_string())? {
        let nodes = nodes_key(PackNumber(pack));
        if world.store.head(&nodes).await.unwrap().is_none() {
            return Err(format!("names {nodes}, which is not there"));
        }
    }
    if key.as_str().starts_with("nodes/") {
        return Ok(vec![]);
    }
    let batches: Vec<String> = file.list("gravity.batches").map_err(|e| e.to_string())?;
    for batch in &batches {
        let restored = restore(reader(world), file.clone(), batch.clone());
        is_restored(world, batch, restored.try_collect().await)?;
    }
    Ok(batches)
}

fn is_restored(world: &World, batch: &str, restored: gravity_pipeline::Result<Vec<Bytes>>) -> Result<(), String> {
    let restored = restored.map_err(|e| format!("{batch}: {e}"))?.concat();
    let sent = world.batches.files().iter().find(|(key, _)| key == batch);
    let (_, sent) = sent.ok_or_else(|| format!("{batch} was never sent"))?;
    (restored == *sent).then_some(()).ok_or_else(|| format!("{batch} is not what was sent"))
}

/// Every batch is restored byte for byte, every trace reads as it was sent, and `verify` finds no error.
pub async fn is_whole(world: &World) -> Result<(), String> {
    let reader = reader(world);
    let (files, unreadable) = Catalog::new(reader.clone()).readable().await.map_err(|e| e.to_string())?;
    if unreadable > 0 {
        return Err(format!("{unreadable} files of spans cannot be read"));
    }
    for (key, _) in world.batches.files() {
        let restored = match batches::open(&reader, &files, key).await {
            Ok(bytes) => bytes.try_collect().await,
            Err(e) => Err(e),
        };
        is_restored(world, key, restored)?;
        world.note(|came| came.twice += u64::from(files.of_batch(key).count() > 1));
    }
    if files.batches().count() != world.batches.files().len() {
        return Err("there are batches that were never sent".into());
    }
    if world.deletes_raw {
        let left: Vec<_> = world.store.list("raw-spans/", None).try_collect().await.map_err(|e| e.to_string())?;
        if let Some(raw) = left.first() {
            return Err(format!("{} is stored, and was not deleted", raw.key));
        }
    }
    traces_are_whole(world, &reader, &files).await?;
    let options = verify::Options { sample: Share::ALL, trace: None, since: None };
    let mut errors = Vec::new();
    let mut report = |finding: gravity_pipeline::verify::Finding| {
        if finding.level == Level::Error {
            errors.push(format!("{} {}: {}", finding.kind, finding.key, finding.detail));
        }
    };
    let verified = verify::verify(world.store.clone(), options, &mut report, &|_| {}).await;
    verified.map_err(|e| e.to_string())?;
    if errors.is_empty() { Ok(()) } else { Err(errors.join("\n")) }
}

/// Also a span of a batch that is stored twice is there once.
async fn traces_are_whole(world: &World, reader: &Arc<Reader>, files: &Files) -> Result<(), String> {
    for (trace, expected) in world.batches.all_content() {
        let id = trace_id(&trace);
        let (keys, separator) = (ContentKeys::default(), Separator::default());
        let read = traces::load(reader, files, id, &keys, &separator).await.map_err(|e| e.to_string())?;
        let content = reconstruct::Reader::with_chunks(world.store.clone(), Paths::default(), read.chunks);
        let mut found = Vec::new();
        for span in &read.index.spans {
            let pieces = content.content(span.parts.clone(), &read.index.separator);
            let text: Vec<_> = pieces.try_collect().await.map_err(|e| e.to_string())?;
            found.push(String::from_utf8(text.concat()).unwrap());
        }
        found.sort();
        if found != expected {
            return Err(format!("trace {trace}: {found:?} instead of {expected:?}"));
        }
        let view = otlp::view(reader, files, id).await.map_err(|e| e.to_string())?;
        let spans = String::from_utf8_lossy(&view.document).matches("\"spanId\"").count();
        if spans != expected.len() {
            return Err(format!("trace {trace}: {spans} spans instead of {}", expected.len()));
        }
    }
    Ok(())
}
