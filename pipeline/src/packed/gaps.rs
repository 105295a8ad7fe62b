//! Stage 2: cuts a batch into records and what stands between them. Joined, they are the batch, whatever it is.

use crate::error::{Error, Result};
use crate::otlp::{DocumentTally, FrameBlock, FrameLimits, Framer};
use bytes::Bytes;
use futures::{Stream, TryStreamExt, stream};
use memchr::memmem;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// What a stretch of the batch is.
pub enum Stretch {
    /// Records, each with what stands before it.
    Records(FrameBlock, Resource),
    /// Anything else.
    Text(Bytes),
}

/// Why the rest of a batch could not be read as OTLP, if it could not; known once it has been read.
#[derive(Clone, Default)]
pub struct Problem(Arc<Mutex<Option<String>>>);

impl Problem {
    /// The reason.
    pub fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, reason: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }
}

/// Bytes of text that are not in a record are cut so.
const TEXT_BYTES: usize = 1 << 20;

/// Cuts a batch. What is not OTLP, from where it ceases to be, comes as text, and `problem` says why.
///
/// # Errors
/// Only those of `bytes`.
pub fn gaps<S>(
    bytes: S,
    limits: FrameLimits,
    tally: DocumentTally,
    problem: Problem,
) -> impl Stream<Item = Result<Stretch>> + Send
where
    S: Stream<Item = Result<Bytes>> + Send + 'static,
{
    let cutter = Cutter {
        bytes: Box::pin(bytes),
        framer: Some(Framer::keeping_gaps(limits)),
        ready: VecDeque::new(),
        text: Vec::new(),
        resource: Resource::default(),
        is_done: false,
        tally,
        problem,
    };
    stream::try_unfold(cutter, |mut cutter| async move {
        while cutter.ready.is_empty() && !cutter.is_done {
            cutter.step().await?;
        }
        Ok(cutter.ready.pop_front().map(|stretch| (stretch, cutter)))
    })
}

struct Cutter<S> {
    bytes: std::pin::Pin<Box<S>>,
    /// Gone once the batch ceased to be OTLP.
    framer: Option<Framer>,
    ready: VecDeque<Stretch>,
    text: Vec<u8>,
    resource: Resource,
    is_done: bool,
    tally: DocumentTally,
    problem: Problem,
}

impl<S: Stream<Item = Result<Bytes>> + Send> Cutter<S> {
    async fn step(&mut self) -> Result<()> {
        let piece = self.bytes.try_next().await?;
        let Some(mut framer) = self.framer.take() else {
            match piece {
                Some(piece) => self.add_text(piece),
                None => self.end(),
            }
            return Ok(());
        };
        let pushed = match &piece {
            Some(piece) => framer.push(piece),
            None => framer.end().map(|documents| self.tally.set(documents)),
        };
        match pushed {
            Ok(()) if piece.is_some() => {
                let gap = framer.take_gap(TEXT_BYTES);
                self.add_records(framer.full_blocks());
                self.ready.extend(gap.map(Stretch::Text));
                self.framer = Some(framer);
                return Ok(());
            }
            Ok(()) => {}
            Err(Error::Input(e)) => self.problem.set(e.to_string()),
            Err(e) => return Err(e),
        }
        let (blocks, rest) = framer.into_rest();
        self.add_records(blocks);
        self.add_text(rest);
        if piece.is_none() {
            self.end();
        }
        Ok(())
    }

    fn add_records(&mut self, blocks: Vec<FrameBlock>) {
        for block in blocks {
            let before = self.resource.clone();
            for frame in &block.frames {
                self.resource.follow(&frame.gap);
            }
            self.ready.push_back(Stretch::Records(block, before));
        }
    }

    /// Whole pieces share the memory of what they are cut from: a value that is too long may be most of the batch.
    fn add_text(&mut self, mut text: Bytes) {
        if !self.text.is_empty() {
            let room = TEXT_BYTES - self.text.len();
            self.text.extend_from_slice(&text.split_to(room.min(text.len())));
            if self.text.len() < TEXT_BYTES {
                return;
            }
            self.ready.push_back(Stretch::Text(std::mem::take(&mut self.text).into()));
        }
        while text.len() >= TEXT_BYTES {
            self.ready.push_back(Stretch::Text(text.split_to(TEXT_BYTES)));
        }
        self.text.extend_from_slice(&text);
    }

    fn end(&mut self) {
        if !self.text.is_empty() {
            self.ready.push_back(Stretch::Text(std::mem::take(&mut self.text).into()));
        }
        self.is_done = true;
    }
}

/// What the resource says that the records behind it belong to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resource {
    /// `service.name`.
    pub service: Option<Bytes>,
    /// The tenant.
    pub tenant: Option<Bytes>,
}

impl Resource {
    /// Follows what stands before a record: if a resource begins there, this is it from now on.
    pub fn follow(&mut self, gap: &[u8]) {
        if gap.len() < crate::packed::rows::GLUED {
            return;
        }
        let service = attribute(gap, b"service.name");
        let tenant = super::shape::TENANT_KEYS.iter().find_map(|key| attribute(gap, key.as_bytes()));
        if service.is_some() || tenant.is_some() || memmem::find(gap, b"\"resource\"").is_some() {
            *self = Self { service, tenant };
        }
    }
}

/// The string value of the last attribute of this key, in JSON or protobuf; none if it is written in an unusual way.
fn attribute(gap: &[u8], key: &[u8]) -> Option<Bytes> {
    let at = memmem::rfind_iter(gap, key).next()? + key.len();
    let behind = &gap[at..];
    const JSON: &[u8] = b"\",\"value\":{\"stringValue\":\"";
    let value = match behind {
        // KeyValue.value, its length, AnyValue.string_value, its length.
        [0x12, _, 0x0a, length @ 0..0x80, rest @ ..] => rest.get(..usize::from(*length))?,
        _ => {
            let rest = behind.strip_prefix(JSON)?;
            let end = memchr::memchr2(b'"', b'\\', rest).filter(|&end| rest[end] == b'"')?;
            &rest[..end]
        }
    };
    std::str::from_utf8(value).is_ok().then(|| Bytes::copy_from_slice(value))
}
