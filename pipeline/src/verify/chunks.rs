//! The blobs of a pass: which are there, which were read, how large their chunks are.

use super::{Level, READS, Verifier, of_this_object};
use crate::error::Result;
use crate::hash::{ByHash, ChunkHash};
use crate::stages;
use crate::store::{Key, Store};
use flate2::bufread::MultiGzDecoder;
use futures::{StreamExt, TryStreamExt, stream};
use std::io::{self, Read};
use std::sync::Arc;

/// What is known of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is there.
    Listed,
    /// It was read: its chunk has so many bytes and the right name.
    Whole(u64),
    /// It is not there, or not what its name says; that was told.
    Bad,
}

#[derive(Debug, Clone, Copy)]
struct Blob {
    state: State,
    named: bool,
}

/// The blobs of a pass.
#[derive(Default)]
pub(super) struct Chunks(ByHash<Blob>);

/// Bytes that a blob takes in the table when it has just grown and is half empty.
const BLOB_BYTES: usize = 128;

impl Chunks {
    /// True if the table has all that it may have.
    pub fn is_over(&self, memory: usize) -> bool {
        self.0.len() * BLOB_BYTES >= memory
    }

    pub fn list(&mut self, hash: ChunkHash) {
        self.0.insert(hash, Blob { state: State::Listed, named: false });
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The chunk's bytes, if it was read and is whole.
    pub fn size(&self, hash: &ChunkHash) -> Option<u64> {
        match self.0.get(hash)?.state {
            State::Whole(size) => Some(size),
            State::Listed | State::Bad => None,
        }
    }
}

/// What a look at a blob showed.
enum Look {
    Absent,
    There,
    Whole(u64),
    Bad(String),
}

impl Verifier<'_> {
    /// Looks at the chunks that an index names, where they are not known yet. With `tell` what is wrong is a finding.
    pub(super) async fn look_at<'n>(
        &mut self,
        chunks: &mut Chunks,
        named: impl Iterator<Item = (&'n ChunkHash, &'n Key)>,
        tell: bool,
    ) -> Result<()> {
        let mut unknown = ByHash::default();
        for (hash, index) in named {
            let sampled = self.options.sample.has(hash);
            match chunks.0.get_mut(hash) {
                Some(blob) => {
                    blob.named = true;
                    if blob.state == State::Listed && sampled {
                        unknown.insert(*hash, (index.clone(), true));
                    }
                }
                None => {
                    unknown.insert(*hash, (index.clone(), sampled));
                }
            }
        }
        let wanted = unknown.into_iter().map(|(hash, (index, read))| (hash, Some(index), read));
        self.look(chunks, wanted.collect(), tell).await
    }

    /// Tells of the blobs that no index names. They are read like all others: another batch may need one tomorrow,
    /// and will find it there and not write it.
    pub(super) async fn orphans(&mut self, chunks: &mut Chunks) -> Result<()> {
        let unnamed = || chunks.0.iter().filter(|(_, blob)| !blob.named).map(|(hash, _)| *hash);
        let sampled = unnamed().filter(|hash| self.options.sample.has(hash));
        let wanted = sampled.map(|hash| (hash, None, true)).collect();
        let orphans: Vec<_> = unnamed().collect();
        self.look(chunks, wanted, true).await?;
        for hash in orphans {
            if chunks.0.get(&hash).is_some_and(|blob| blob.state != State::Bad) {
                let why = match self.has_unreadable_index {
                    true => "no index names it, but there are indexes that cannot be read",
                    false => "no index names it: a batch in work, or one that a crash ended; harmless",
                };
                self.report.tell(Level::Info, "orphan-blob", self.paths.blob(&hash), why);
            }
        }
        Ok(())
    }

    async fn look(
        &mut self,
        chunks: &mut Chunks,
        wanted: Vec<(ChunkHash, Option<Key>, bool)>,
        tell: bool,
    ) -> Result<()> {
        let (store, paths) = (self.store.clone(), self.paths.clone());
        let looks = stages::concurrent(stream::iter(wanted).map(Ok), READS, move |(hash, index, read)| {
            let (store, key) = (store.clone(), paths.blob(&hash));
            async move { Ok((hash, index, look(store, &key, &hash, read).await?, key)) }
        });
        let mut looks = std::pin::pin!(looks);
        while let Some((hash, index, look, key)) = looks.try_next().await? {
            self.report.looked_at(1);
            let by = index.as_ref().map_or("nobody".into(), |index| format!("{index} names it"));
            let state = match look {
                Look::There => State::Listed,
                Look::Whole(size) => {
                    self.summary.blobs_read += u64::from(tell);
                    State::Whole(size)
                }
                // It was listed, and someone has removed it since.
                Look::Absent if index.is_none() => State::Bad,
                Look::Absent => {
                    if tell {
                        self.report.tell(Level::Error, "missing-blob", key, format!("{by} and it is not there"));
                    }
                    State::Bad
                }
                Look::Bad(reason) => {
                    if tell {
                        self.report.tell(Level::Error, "corrupt-blob", key, format!("{reason} ({by})"));
                    }
                    State::Bad
                }
            };
            chunks.0.insert(hash, Blob { state, named: index.is_some() });
        }
        Ok(())
    }
}

async fn look(store: Arc<dyn Store>, key: &Key, hash: &ChunkHash, read: bool) -> Result<Look> {
    if !read {
        return Ok(if store.head(key).await?.is_some() { Look::There } else { Look::Absent });
    }
    let blob = match store.read(key).await {
        Ok(Some((blob, _))) => blob,
        Ok(None) => return Ok(Look::Absent),
        Err(e) => return of_this_object(e).map(Look::Bad),
    };
    Ok(match measure(&blob) {
        Ok((found, size)) if found == *hash => Look::Whole(size),
        Ok((found, _)) => Look::Bad(format!("its content has the hash {found}")),
        Err(e) => Look::Bad(format!("not a whole gzip file: {e}")),
    })
}

/// The hash and the size of what a blob holds, without holding it.
fn measure(blob: &[u8]) -> io::Result<(ChunkHash, u64)> {
    let mut chunk = MultiGzDecoder::new(blob);
    let mut hasher = blake3::Hasher::new();
    let mut piece = [0; 16 << 10];
    loop {
        match chunk.read(&mut piece)? {
            0 => return Ok((ChunkHash::from_bytes(*hasher.finalize().as_bytes()), hasher.count())),
            n => hasher.update(&piece[..n]),
        };
    }
}
