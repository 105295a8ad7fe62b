//! Batches as they were: every row's bytes, in order, checked against the BLAKE3 that was noted when they came.

use super::archive::BatchInfo;
use super::catalog::SpansFile;
use super::file::File;
use super::format::{Head, StoredRows, locate, read_heads, read_located, read_rows};
use super::node_set::NodeSet;
use super::reader::Reader;
use super::row::{RowKind, Rows};
use super::table::PackNumber;
use crate::error::{Error, Result};
use crate::ids::TraceId;
use crate::stages::{blocking, in_place};
use bytes::Bytes;
use futures::{Stream, future, stream};
use std::sync::Arc;

/// Rows put together at a time: their nodes are in memory.
const ROWS: usize = 64;
/// Bytes given out at a time, about.
const PIECE: usize = 256 << 10;

/// The rows of one row group with their values told apart.
///
/// # Errors
/// If the store fails, or the file is not what Gravity wrote.
pub async fn rows_of_group(reader: &Reader, file: &File, group: usize) -> Result<Rows<u64>> {
    let group = reader.group(file, group).await?;
    let stored = blocking(move || read_rows(&group)).await?;
    let stored = stored.map_err(|reason| file.corrupt(reason))?;
    let shapes = reader.nodes_alone(stored.shapes()).await?;
    told_apart(file, stored, &shapes)
}

/// The rows that a row group has of a trace: from the first to the last, others between them included. With them, the
/// nodes that its own lead to.
///
/// # Errors
/// If the store fails, or the file is not what Gravity wrote.
pub async fn rows_of_trace(
    reader: &Reader,
    file: &SpansFile,
    group: usize,
    trace: &TraceId,
) -> Result<(Rows<u64>, NodeSet)> {
    // The newest pack that the file names has the rows' shapes, and mostly more of what they lead to. Decoding begins
    // when the bytes of both are there, and two cores have work then.
    let newest = file.packs.iter().max().map(|&pack| PackNumber(pack));
    let file = &file.open()?;
    let (group, newest) = future::join(reader.group(file, group), reader.ahead(newest)).await;
    let group = group?;
    let trace = *trace.as_bytes();
    let rows_and_nodes = async {
        let located = in_place(|| locate(&group, &trace)).map_err(|reason| file.corrupt(reason))?;
        let nodes = reader.nodes(located.nodes_of(&trace).collect::<Vec<_>>());
        let stored = async { in_place(|| read_located(&group, located)).map_err(|reason| file.corrupt(reason)) };
        future::try_join(nodes, stored).await
    };
    let ((), rows_and_nodes) = future::join(reader.decode_ahead(newest), rows_and_nodes).await;
    let (nodes, stored) = rows_and_nodes?;
    Ok((told_apart(file, stored, &nodes)?, nodes))
}

fn told_apart(file: &File, stored: StoredRows, shapes: &NodeSet) -> Result<Rows<u64>> {
    stored.with_rest(|shape| shapes.get(shape).map(|node| node.text)).map_err(|e: Error| match e {
        Error::Corrupt { key, reason } if key == "spans" => file.corrupt(reason),
        e => e,
    })
}

/// The same, remembered for the batch that comes next.
async fn recent_rows_of_group(reader: &Reader, file: &File, group: usize) -> Result<Arc<Rows<u64>>> {
    let recent = reader.recent_rows().get(&file.key, group);
    if let Some(rows) = recent {
        return Ok(rows);
    }
    let rows = Arc::new(rows_of_group(reader, file, group).await?);
    reader.recent_rows().remember(&file.key, group, rows.clone());
    Ok(rows)
}

/// A batch of a file.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its key.
    pub source: String,
    /// What it was.
    pub info: BatchInfo,
    /// The row group in which it begins.
    pub group: usize,
}

/// The batches of a file in their order, without reading what is in them.
///
/// # Errors
/// If the store fails, or the file is not what Gravity wrote.
pub async fn batches_in(reader: &Reader, file: &File) -> Result<Vec<Place>> {
    let (mut places, mut begun): (_, Option<(Vec<u8>, usize)>) = (Vec::new(), None);
    for number in 0..file.metadata.num_row_groups() {
        for head in heads_of_group(reader, file, number).await? {
            if begun.as_ref().is_none_or(|(source, _)| source != head.source()) {
                begun = Some((head.source().to_vec(), number));
            }
            if head.kind == RowKind::Batch {
                let group = begun.take().map_or(number, |(_, group)| group);
                let source = String::from_utf8_lossy(head.source()).into_owned();
                places.push(Place { source, info: info_of_head(file, &head)?, group });
            }
        }
    }
    Ok(places)
}

/// Where the rows of a row group belong.
///
/// # Errors
/// If the store fails, or the file is not what Gravity wrote.
pub async fn heads_of_group(reader: &Reader, file: &File, group: usize) -> Result<Vec<Head>> {
    let group = reader.group(file, group).await?;
    let heads = blocking(move || read_heads(&group)).await?;
    heads.map_err(|reason| file.corrupt(reason))
}

/// The bytes of a batch of this file, in pieces.
///
/// # Errors
/// [`Error::NotFound`] if the file has no such batch; [`Error::Corrupt`] if what comes out is not what went in. Then
/// some of it has been given out already.
pub fn restore(reader: Arc<Reader>, file: File, source: String) -> impl Stream<Item = Result<Bytes>> + Send {
    restore_from(reader, file, source, 0)
}

/// The same for a batch that begins in this row group.
pub fn restore_from(
    reader: Arc<Reader>,
    file: File,
    source: String,
    group: usize,
) -> impl Stream<Item = Result<Bytes>> + Send {
    let hasher = blake3::Hasher::new();
    let restoring = Restoring { reader, file, source, group, rows: None, hasher, bytes: 0, info: None };
    stream::try_unfold(Some(restoring), |restoring| async move {
        let Some(mut restoring) = restoring else { return Ok(None) };
        loop {
            if let Some(piece) = restoring.next().await? {
                if !piece.is_empty() {
                    return Ok(Some((piece, Some(restoring))));
                }
            } else {
                restoring.check()?;
                return Ok(None);
            }
        }
    })
}

struct Restoring {
    reader: Arc<Reader>,
    file: File,
    source: String,
    group: usize,
    /// The group in work, and the next row of it.
    rows: Option<(Arc<Rows<u64>>, usize)>,
    hasher: blake3::Hasher,
    bytes: u64,
    info: Option<BatchInfo>,
}

impl Restoring {
    /// The next bytes; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.info.is_some() {
            return Ok(None);
        }
        let (rows, at) = match self.rows.take() {
            Some(rows) => rows,
            None if self.group < self.file.metadata.num_row_groups() => {
                self.group += 1;
                (recent_rows_of_group(&self.reader, &self.file, self.group - 1).await?, 0)
            }
            None => return Ok(None),
        };
        let is_ours = |at: &usize| rows.texts.get(rows.rows[*at].source) == self.source.as_bytes();
        let Some(first) = (at..rows.rows.len()).find(is_ours) else { return Ok(Some(Bytes::new())) };
        let last = (first..rows.rows.len()).take(ROWS).take_while(is_ours).last().unwrap_or(first);
        let wanted = (first..=last).flat_map(|at| rows.refs_of(at).iter().copied().chain(rows.rows[at].shape));
        let nodes = self.reader.nodes(wanted).await?;
        let (mut piece, mut next) = (Vec::new(), first);
        while next <= last && piece.len() < PIECE {
            let row = &rows.rows[next];
            if row.kind == RowKind::Batch {
                self.info = Some(info_of(&self.file, &rows, next)?);
                break;
            }
            nodes.row(&rows, next, &mut piece)?;
            next += 1;
        }
        self.hasher.update(&piece);
        self.bytes += piece.len() as u64;
        self.rows = Some((rows, next));
        Ok(Some(piece.into()))
    }

    fn check(&self) -> Result<()> {
        let source = &self.source;
        let Some(info) = &self.info else {
            return Err(Error::NotFound(format!("{} has no batch {source}", self.file.key)));
        };
        let found = self.hasher.finalize().to_hex();
        match info.document_bytes == self.bytes && info.blake3 == *found {
            true => Ok(()),
            false => Err(self.file.corrupt(format!(
                "batch {source}: {} bytes with BLAKE3 {found}, and not {} with {}",
                self.bytes, info.document_bytes, info.blake3
            ))),
        }
    }
}

/// What the last row of a batch says.
///
/// # Errors
/// If it is not that.
pub fn info_of(file: &File, rows: &Rows<u64>, at: usize) -> Result<BatchInfo> {
    info_from(file, rows.rows[at].batch.map(|id| rows.texts.get(id)).unwrap_or_default())
}

/// The same, from where its row belongs.
///
/// # Errors
/// If it is not that.
pub fn info_of_head(file: &File, head: &Head) -> Result<BatchInfo> {
    info_from(file, head.batch())
}

fn info_from(file: &File, json: &[u8]) -> Result<BatchInfo> {
    serde_json::from_slice(json).map_err(|e| file.corrupt(format!("the sums of a batch: {e}")))
}
