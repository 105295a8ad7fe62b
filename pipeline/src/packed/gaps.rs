//! Stage 2: cuts a batch into records and what stands between them. Joined, they are the batch, whatever it is.

use crate::error::{Error, InputError, Result};
use crate::otlp::{DocumentTally, FrameBlock, FrameLimits, Framer};
use bytes::Bytes;
use futures::{Stream, TryStreamExt, stream};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// What a stretch of the batch is.
pub enum Stretch {
    /// Records, each with what stands before it.
    Records(FrameBlock),
    /// Anything else.
    Text(Bytes),
}

/// Why not all of a batch could be read as OTLP, if it could not; known once it has been read.
#[derive(Clone, Default)]
pub struct Problem(Arc<Mutex<Option<String>>>);

impl Problem {
    /// The reason.
    pub fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn add(&self, reason: &InputError) {
        let mut problem = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *problem = Some(match problem.take() {
            Some(before) => format!("{before}; {reason}"),
            None => reason.to_string(),
        });
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
                self.add_gap(gap.unwrap_or_default());
                self.framer = Some(framer);
                return Ok(());
            }
            Ok(()) => {}
            Err(Error::Input(e)) => self.problem.add(&e),
            Err(e) => return Err(e),
        }
        if let Some(reason) = framer.passed_over() {
            self.problem.add(reason);
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
        self.ready.extend(blocks.into_iter().map(Stretch::Records));
    }

    /// A gap comes whole, since records may follow.
    fn add_gap(&mut self, mut gap: Bytes) {
        while !gap.is_empty() {
            self.ready.push_back(Stretch::Text(gap.split_to(TEXT_BYTES.min(gap.len()))));
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
