//! What all workers of a schedule share: the store, the dice, and the eyes that see every write.

use crate::{Came, packed};
use bytes::Bytes;
use gravity_pipeline::compress::gunzip;
use gravity_pipeline::hash::ChunkHash;
use gravity_pipeline::loose::{Layout, LedgerEntry, Paths, TraceIndex};
use gravity_pipeline::store::{self, ErrorKind, Key, Memory, PutMode, Store};
use gravity_pipeline::worker::Outcome;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Numbers that look random and follow from a seed (xorshift).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }

    pub fn split(&mut self) -> Self {
        Self::new(self.roll(u64::MAX >> 11))
    }
}

/// Raw files, and what stands in them.
pub struct Batches {
    files: Vec<(String, Vec<u8>)>,
    /// Trace, span id and content of the good ones.
    spans: BTreeSet<(String, String, String)>,
    /// Of the bad ones, as far as they are whole.
    rescued: BTreeSet<(String, String, String)>,
}

impl Batches {
    /// A few that share traces and lines; some are bad.
    pub fn roll(dice: &mut Dice) -> Self {
        let mut batches = Self { files: Vec::new(), spans: BTreeSet::new(), rescued: BTreeSet::new() };
        for n in 0..3 + dice.roll(4) {
            let key = format!("raw-spans/dt=1/hour={:02}/batch-{n}", dice.roll(3));
            let is_bad = dice.roll(6) == 0;
            let (mut spans, mut named) = (Vec::new(), Vec::new());
            for _ in 0..1 + dice.roll(4) {
                let (trace, id) = (format!("{:032x}", 1 + dice.roll(3)), format!("{:016x}", 1 + dice.roll(1 << 20)));
                let lines: Vec<_> = (0..1 + dice.roll(6)).map(|_| format!("line {}", dice.roll(30))).collect();
                let text = lines.join("\n");
                spans.push(json!({
                    "traceId": trace, "spanId": id, "name": "s", "startTimeUnixNano": "1", "endTimeUnixNano": "2",
                    "attributes": [{"key": "input.value", "value": {"stringValue": text}}],
                }));
                named.push((trace, id, text));
            }
            let mut document = json!({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).to_string();
            if is_bad {
                document.truncate(document.len() - 9);
                named.pop();
                batches.rescued.extend(named);
            } else {
                batches.spans.extend(named);
            }
            batches.files.push((key, document.into_bytes()));
        }
        batches
    }

    pub async fn upload(&self, store: &Memory) {
        for (key, bytes) in &self.files {
            store.put(&Key::new(key).unwrap(), bytes.clone().into(), PutMode::Always).await.unwrap();
        }
    }

    /// Keys and bytes.
    pub fn files(&self) -> &[(String, Vec<u8>)] {
        &self.files
    }

    /// The content of each trace's spans, sorted.
    pub fn content(&self) -> BTreeMap<String, Vec<String>> {
        Self::by_trace(&self.spans)
    }

    /// The same of a store that keeps what can be read of bad batches.
    pub fn all_content(&self) -> BTreeMap<String, Vec<String>> {
        Self::by_trace(&self.spans.union(&self.rescued).cloned().collect())
    }

    fn by_trace(spans: &BTreeSet<(String, String, String)>) -> BTreeMap<String, Vec<String>> {
        let mut traces: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (trace, _, text) in spans {
            traces.entry(trace.clone()).or_default().push(text.clone());
        }
        traces.values_mut().for_each(|texts| texts.sort());
        traces
    }
}

/// How bad the weather is, of 1,000 requests each.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    pub fail: u64,
    pub lose: u64,
    pub cut: u64,
    /// Requests with which an outage begins.
    pub storm: u64,
    /// Longest delay of a request, in milliseconds.
    pub delay: u64,
    /// How far a listing may lag behind, in milliseconds.
    pub lag: u64,
}

pub struct World {
    pub store: Arc<Memory>,
    pub weather: Weather,
    pub layout: Layout,
    /// Packed: raw files go once they are stored.
    pub deletes_raw: bool,
    pub batches: Arc<Batches>,
    pub began: Instant,
    state: Mutex<State>,
}

struct State {
    dice: Dice,
    came: Came,
    history: blake3::Hasher,
    broken: Option<String>,
    storm_until: Option<Instant>,
    /// When a key was written first.
    born: BTreeMap<String, Instant>,
    /// Packed: the batches that are in the store.
    stored: BTreeSet<String>,
}

impl World {
    pub fn new(dice: &mut Dice, batches: Arc<Batches>, layout: Layout) -> Arc<Self> {
        let weather = Weather {
            fail: dice.roll(300),
            lose: dice.roll(150),
            cut: dice.roll(300),
            storm: dice.roll(2) * dice.roll(40),
            delay: 1 + dice.roll(500),
            lag: dice.roll(2) * dice.roll(3000),
        };
        let state = State {
            dice: dice.split(),
            came: Came::default(),
            history: blake3::Hasher::new(),
            broken: None,
            storm_until: None,
            born: BTreeMap::new(),
            stored: BTreeSet::new(),
        };
        let deletes_raw = layout == Layout::Packed && dice.roll(2) == 0;
        let (store, state, began) = (Arc::new(Memory::new()), Mutex::new(state), Instant::now());
        Arc::new(Self { store, weather, layout, deletes_raw, batches, began, state })
    }

    pub fn roll(&self, below: u64) -> u64 {
        self.state.lock().unwrap().dice.roll(below)
    }

    /// True if this request fails; an outage takes longer than a batch is patient.
    pub fn fails(&self) -> bool {
        let mut state = self.state.lock().unwrap();
        let now = Instant::now();
        if state.dice.roll(1000) < self.weather.storm {
            state.storm_until = Some(now + Duration::from_millis(state.dice.roll(15_000)));
        }
        let fails = state.dice.roll(1000) < self.weather.fail || state.storm_until.is_some_and(|until| now < until);
        state.came.failed += u64::from(fails);
        fails
    }

    /// Something is not as it must be.
    fn is_broken(&self, what: String) {
        self.state.lock().unwrap().broken.get_or_insert(what);
    }

    /// A worker says what became of a batch.
    pub fn hear(&self, batch: &str, outcome: &Outcome) {
        let is_stored = || self.state.lock().unwrap().stored.contains(batch);
        if self.layout == Layout::Packed && matches!(outcome, Outcome::Committed(..)) && !is_stored() {
            self.is_broken(format!("{batch} was acknowledged, and is not in the store"));
        }
    }

    pub fn note(&self, change: impl FnOnce(&mut Came)) {
        change(&mut self.state.lock().unwrap().came);
    }

    pub fn write_down(&self, operation: &str, key: &str, end: &str) {
        self.state.lock().unwrap().history.update(format!("{operation} {key} {end}\n").as_bytes());
    }

    pub fn came(&self) -> Came {
        let state = self.state.lock().unwrap();
        Came { history: state.history.finalize().to_hex().to_string(), ..state.came.clone() }
    }

    pub fn broken(&self) -> Result<(), String> {
        self.state.lock().unwrap().broken.clone().map_or(Ok(()), Err)
    }

    /// True if a listing that lags so far behind has that key.
    pub fn was_there(&self, key: &str, lag: Duration) -> bool {
        self.state.lock().unwrap().born.get(key).is_none_or(|born| born.elapsed() >= lag)
    }

    /// Writes to the store, and looks at what would be left if everything ended here.
    pub async fn put(&self, key: &Key, body: Bytes, mode: PutMode) -> store::Result<Option<store::ETag>> {
        let before = self.store.read(key).await?;
        let written = self.store.put(key, body.clone(), mode).await;
        let was_taken = matches!(&written, Err(store::Error { kind: ErrorKind::Precondition, .. }));
        if was_taken && key.as_str().starts_with("nodes/") && before.as_ref().is_some_and(|(there, _)| *there != body) {
            self.note(|came| came.collisions += 1);
        }
        let written = written?;
        self.state.lock().unwrap().born.entry(key.to_string()).or_insert_with(Instant::now);
        let before = before.as_ref().map(|(bytes, _)| bytes);
        let looked = match self.layout {
            Layout::Loose => self.look(key, &body, before).await,
            Layout::Packed => {
                let found = packed::look(self, key, &body, before).await;
                found.map(|batches| self.state.lock().unwrap().stored.extend(batches))
            }
        };
        if let Err(broken) = looked {
            self.is_broken(format!("{key}: {broken}"));
        }
        Ok(written)
    }

    /// Deletes, but no raw file that is not stored.
    pub async fn delete(&self, key: &Key) -> store::Result<()> {
        if key.as_str().starts_with("raw-spans/") && !self.state.lock().unwrap().stored.contains(key.as_str()) {
            self.is_broken(format!("{key} was deleted, and is not stored"));
        }
        self.store.delete(key).await
    }

    async fn look(&self, key: &Key, body: &Bytes, before: Option<&Bytes>) -> Result<(), String> {
        let paths = Paths::default();
        if let Some(hash) = paths.hash_of(key) {
            let chunk = gunzip(body).map_err(|e| e.to_string())?;
            return (ChunkHash::of(&chunk) == hash).then_some(()).ok_or("holds another chunk".into());
        }
        if key.as_str().starts_with("indexes/") {
            let index = TraceIndex::from_json(key.as_str(), body).map_err(|e| e.to_string())?;
            for chunk in index.chunks() {
                let blob = paths.blob(chunk);
                if self.store.head(&blob).await.unwrap().is_none() {
                    return Err(format!("names {blob}, which is not there"));
                }
            }
            let Some(before) = before else { return Ok(()) };
            let before = TraceIndex::from_json(key.as_str(), before).map_err(|e| e.to_string())?;
            let merged = index.clone().merge(before).map_err(|e| e.to_string())?;
            return (merged == index).then_some(()).ok_or("lost a span that it had".into());
        }
        if key.as_str().starts_with("batches/") {
            let entry: LedgerEntry = serde_json::from_slice(body).map_err(|e| e.to_string())?;
            for trace in &entry.traces {
                let at = paths.index(trace);
                let Some((index, _)) = self.store.read(&at).await.unwrap() else {
                    return Err(format!("names {at}, which is not there"));
                };
                let index = TraceIndex::from_json(at.as_str(), &index).map_err(|e| e.to_string())?;
                // A span that came in two batches stands under the smaller name.
                if !index.spans.iter().any(|span| span.source <= entry.key) {
                    return Err(format!("{at} has no span of it"));
                }
            }
        }
        Ok(())
    }
}
