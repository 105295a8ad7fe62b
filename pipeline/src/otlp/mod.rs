//! Stage 2: OTLP, from bytes to the spans and log records in them with their content.
//!
//! Two steps. A **framer** walks the stream and cuts out whole records (spans, log records) without holding more
//! than one of them; a **decoder** reads each record, on as many cores as there are. JSON and protobuf have a framer
//! and a decoder each and meet in [`model`]; [`select`] picks the content.

mod any;
mod element;
mod frame;
mod json;
mod json_framer;
pub mod model;
mod protobuf;
mod protobuf_framer;
pub mod protobuf_json;
mod select;

pub use element::{Element, Resource};
pub use frame::{Encoding, Frame, FrameBlock, FrameLimits, Framer};
pub use select::{Part, Record, RecordKind, SpanRecord, Stray};

use crate::block::Block;
use crate::error::Result;
use crate::ids::{SpanId, TraceId};
use crate::keys::ContentKeys;
use crate::observe::StageClock;
use crate::stages;
use bytes::Bytes;
use futures::{Stream, TryStreamExt, stream};
use std::sync::{Arc, Mutex, PoisonError};

/// What a batch held, as far as the framer counts it; complete when its stream has ended.
#[derive(Clone, Default)]
pub struct DocumentTally(Arc<Mutex<u64>>);

impl DocumentTally {
    pub(crate) fn set(&self, documents: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = documents;
    }

    /// OTLP documents so far.
    pub fn documents(&self) -> u64 {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How to parse.
#[derive(Debug, Clone, Default)]
pub struct ParseSettings {
    /// What is content.
    pub keys: ContentKeys,
    /// What one record may need.
    pub limits: FrameLimits,
    /// Blocks decoded at the same time.
    pub concurrency: usize,
    /// Times the decoding of each.
    pub clock: StageClock,
}

/// Reads OTLP JSON (one document, several, or JSON Lines) or OTLP protobuf into blocks of records. Blocks come in any
/// order and carry their number.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) with the place in the decompressed bytes.
pub fn parse<S>(
    bytes: S,
    settings: ParseSettings,
    tally: DocumentTally,
) -> impl Stream<Item = Result<Block<Record>>> + Send + 'static
where
    S: Stream<Item = Result<Bytes>> + Send + 'static,
{
    let frames = frames(bytes, settings.limits, tally);
    let (keys, clock) = (settings.keys, settings.clock);
    stages::concurrent(frames, settings.concurrency, move |block| {
        let keys = keys.clone();
        clock.time(async move { decode(&block, &keys) })
    })
}

/// Cuts a stream of bytes into blocks of whole records.
pub fn frames<S>(bytes: S, limits: FrameLimits, tally: DocumentTally) -> impl Stream<Item = Result<FrameBlock>> + Send
where
    S: Stream<Item = Result<Bytes>> + Send + 'static,
{
    let walk = (Box::pin(bytes), Some(Framer::new(limits)), tally);
    stream::try_unfold(walk, |(mut bytes, framer, tally)| async move {
        let Some(mut framer) = framer else { return Ok::<_, crate::Error>(None) };
        while let Some(piece) = bytes.try_next().await? {
            framer.push(&piece)?;
            let blocks = framer.full_blocks();
            if !blocks.is_empty() {
                return Ok(Some((blocks, (bytes, Some(framer), tally))));
            }
        }
        let (blocks, documents) = framer.finish()?;
        tally.set(documents);
        Ok(Some((blocks, (bytes, None, tally))))
    })
    .map_ok(|blocks| stream::iter(blocks.into_iter().map(Ok)))
    .try_flatten()
}

/// The trace, span and parent that a JSON record names; `None` if it can be in no trace.
pub(crate) fn json_ids(record: &[u8], is_log: bool) -> Option<(TraceId, Option<SpanId>, Option<SpanId>)> {
    if is_log {
        let log = json::log(record).ok()?;
        return Some((log.trace_id.ok()?, log.span_id.ok()?, None));
    }
    let span = json::span(record).ok()?;
    Some((span.trace_id.ok()?, Some(span.span_id.ok()?), span.parent_span_id.ok()?))
}

/// What a protobuf record is, as far as its fields tell.
pub(crate) fn protobuf_kind(record: &[u8]) -> Option<RecordKind> {
    protobuf::kind(record).ok().flatten()
}

/// A varint of protobuf and its size; `None` if it is none, or the bytes end in it.
pub(crate) fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    protobuf::varint(bytes).ok().flatten()
}

/// Reads the records of a block.
pub fn decode(block: &FrameBlock, keys: &ContentKeys) -> Result<Block<Record>> {
    let items = block.frames.iter().map(|frame| {
        let found = match frame.encoding {
            frame::Encoding::JsonSpan => json::span(&frame.bytes).map(model::RawRecord::Span),
            frame::Encoding::JsonLog => json::log(&frame.bytes).map(model::RawRecord::Log),
            frame::Encoding::Protobuf => protobuf::record(&frame.bytes),
        };
        let raw = found.map_err(|e| crate::InputError::parse(frame.offset + e.at as u64, e.reason))?;
        Ok(select::select(raw, frame, keys))
    });
    Ok(Block { number: block.number, items: items.collect::<Result<_>>()? })
}
