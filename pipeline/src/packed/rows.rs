//! Stage 3: lifts each record: its texts become nodes, what is left is a shape and values in columns.

use super::gaps::Stretch;
use super::lift::{Lifter, Nodes};
use super::row::{Row, RowKind, Rows};
use super::shape::{Builder, shred_json, shred_protobuf};
use super::table::{NodeRef, NodeTable};
use crate::error::{Error, Result};
use crate::keys::ContentKeys;
use crate::observe::StageClock;
use crate::otlp::{Encoding, Frame};
use futures::{Stream, TryStreamExt};
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

/// What stands between two records is part of the second one's shape if it is shorter than this: a comma mostly.
pub const GLUED: usize = 16;

/// Lifts a batch, `concurrency` stretches at a time; the rows come in order.
pub fn rows<S>(
    stretches: S,
    keys: ContentKeys,
    table: Arc<NodeTable>,
    concurrency: usize,
    clock: StageClock,
) -> impl Stream<Item = Result<Rows<NodeRef>>> + Send
where
    S: Stream<Item = Result<Stretch>> + Send,
{
    let tasks = stretches.map_ok(move |stretch| {
        let (keys, table) = (keys.clone(), table.clone());
        let work = clock.time(async move { Ok(rows_of(&stretch, &keys, &*table)) });
        let task = AbortOnDropHandle::new(tokio::spawn(work));
        async move { task.await.map_err(Error::Task).and_then(|rows| rows) }
    });
    tasks.try_buffered(concurrency.max(1))
}

/// Lifts one stretch.
pub fn rows_of<N: Nodes>(stretch: &Stretch, keys: &ContentKeys, nodes: &N) -> Rows<N::Id> {
    let mut rows = Rows::default();
    let mut lifter = Lifter::new(nodes);
    match stretch {
        Stretch::Text(text) => push_text(text, &mut lifter, &mut rows),
        Stretch::Records(block) => {
            for frame in &block.frames {
                let first = rows.rows.len();
                push_record(frame, keys, &mut lifter, &mut rows);
                rows.belong_to(&frame.element, first);
            }
        }
    }
    rows
}

fn push_record<N: Nodes>(frame: &Frame, keys: &ContentKeys, lifter: &mut Lifter<'_, N>, rows: &mut Rows<N::Id>) {
    let glued = if frame.gap.len() < GLUED { &frame.gap[..] } else { b"" };
    if glued.is_empty() && !frame.gap.is_empty() {
        push_text(&frame.gap, lifter, rows);
    }
    let kind = if frame.encoding == Encoding::JsonLog { RowKind::Log } else { RowKind::Span };
    let builder = Builder::new(keys, lifter, rows, kind);
    let shredded = match frame.encoding {
        Encoding::JsonSpan | Encoding::JsonLog => {
            shred_json(glued, &frame.bytes, builder);
            true
        }
        Encoding::Protobuf => shred_protobuf(glued, &frame.bytes, builder),
    };
    if !shredded {
        if !glued.is_empty() {
            push_text(glued, lifter, rows);
        }
        push_text(&frame.bytes, lifter, rows);
    }
}

fn push_text<N: Nodes>(text: &[u8], lifter: &mut Lifter<'_, N>, rows: &mut Rows<N::Id>) {
    rows.refs.push(lifter.node(text));
    rows.push(Row::new(RowKind::Text));
}
