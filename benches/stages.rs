//! The speed of each stage by itself, on one core, over a folder of batches:
//!
//! ```sh
//! cargo bench --bench stages                          # dev/sample
//! CORPUS=folder cargo bench --bench stages            # every batch below that folder
//! CORPUS=folder cargo bench --bench stages -- parse   # one stage
//! ```
//!
//! `decompress`, `frame` and `parse` (which is `frame` and then decoding) are in bytes of the decompressed documents,
//! `split` and `hash` in bytes of the content in them, `compress` in bytes of its distinct chunks.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(missing_docs)] // criterion's macros make public functions

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use futures::{TryStreamExt, stream};
use gravity_pipeline::block::Block;
use gravity_pipeline::compress::gzip;
use gravity_pipeline::decompress::{Limits, RawTally, decompress};
use gravity_pipeline::hash::{ByHash, hash_block};
use gravity_pipeline::keys::ContentKeys;
use gravity_pipeline::otlp::{FrameBlock, FrameLimits, Framer, Record, decode};
use gravity_pipeline::split::{Separator, SplitPart, cut, split};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::{env, fs};
use tokio::runtime::Runtime;

/// What a store hands out at a time, and what the decompressor does.
const READ: usize = 256 << 10;
const PIECE: usize = 128 << 10;

fn batches(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = fs::read_dir(folder).expect("CORPUS is a folder").map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if path.is_dir() {
            batches(&path, found);
        } else if matches!(extension, "gz" | "zst" | "json" | "jsonl" | "binpb") {
            found.push(path);
        }
    }
}

fn decompressed(runtime: &Runtime, raw: &Bytes) -> Vec<Bytes> {
    let raw = raw.clone();
    let pieces: Vec<_> = (0..raw.len()).step_by(READ).map(|at| Ok(raw.slice(at..raw.len().min(at + READ)))).collect();
    runtime.block_on(decompress(stream::iter(pieces), Limits::default(), RawTally::default()).try_collect()).unwrap()
}

fn framed(document: &Bytes) -> Vec<FrameBlock> {
    let mut framer = Framer::new(FrameLimits::default());
    let mut blocks = Vec::new();
    for piece in document.chunks(PIECE) {
        framer.push(piece).unwrap();
        blocks.append(&mut framer.full_blocks());
    }
    blocks.append(&mut framer.finish().unwrap().0);
    blocks
}

fn parsed(documents: &[Bytes], keys: &ContentKeys) -> Vec<Block<Record>> {
    documents.iter().flat_map(framed).map(|block| decode(&block, keys).unwrap()).collect()
}

fn split_up(runtime: &Runtime, blocks: Vec<Block<Record>>) -> Vec<Block<Record<SplitPart>>> {
    let blocks = stream::iter(blocks.into_iter().map(Ok));
    runtime.block_on(split(blocks, Separator::default()).try_collect()).unwrap()
}

fn stages(criterion: &mut Criterion) {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("dev/sample");
    let corpus = env::var_os("CORPUS").map_or(sample, PathBuf::from);
    let mut paths = Vec::new();
    batches(&corpus, &mut paths);
    assert!(!paths.is_empty(), "no batch below {}", corpus.display());

    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (keys, separator) = (ContentKeys::default(), Separator::default());
    let raw: Vec<Bytes> = paths.iter().map(|path| Bytes::from(fs::read(path).unwrap())).collect();
    let documents: Vec<Bytes> = raw.iter().map(|raw| decompressed(&runtime, raw).concat().into()).collect();
    let mut contents = Vec::new();
    for block in parsed(&documents, &keys) {
        for record in block.items {
            if let Record::Span(span) = record {
                contents.extend(span.parts.into_iter().map(|part| part.content));
            }
        }
    }
    let mut distinct = ByHash::default();
    for block in split_up(&runtime, parsed(&documents, &keys)) {
        distinct.extend(hash_block(block).chunks);
    }
    let chunks: Vec<Bytes> = distinct.into_values().collect();
    let bytes = |of: &[Bytes]| of.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
    println!(
        "{} batches in {}: {} bytes raw, {} decompressed, {} of content, {} of {} distinct chunks",
        paths.len(),
        corpus.display(),
        bytes(&raw),
        bytes(&documents),
        bytes(&contents),
        bytes(&chunks),
        chunks.len(),
    );

    let mut group = criterion.benchmark_group("stages");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(bytes(&documents)));
    group.bench_function("decompress", |b| {
        b.iter(|| raw.iter().map(|raw| decompressed(&runtime, raw).len()).sum::<usize>());
    });
    group
        .bench_function("frame", |b| b.iter(|| documents.iter().map(|document| framed(document).len()).sum::<usize>()));
    group.bench_function("parse", |b| {
        b.iter(|| {
            for document in &documents {
                for block in framed(document) {
                    black_box(decode(&block, &keys).unwrap());
                }
            }
        });
    });
    group.throughput(Throughput::Bytes(bytes(&contents)));
    group.bench_function("split", |b| {
        b.iter(|| contents.iter().map(|content| cut(content, &separator).len()).sum::<usize>());
    });
    group.bench_function("hash", |b| {
        b.iter_batched(
            || split_up(&runtime, parsed(&documents, &keys)),
            |blocks| blocks.into_iter().map(|block| hash_block(block).chunks.len()).sum::<usize>(),
            BatchSize::PerIteration,
        );
    });
    group.throughput(Throughput::Bytes(bytes(&chunks)));
    group.bench_function("compress", |b| b.iter(|| chunks.iter().map(|chunk| gzip(chunk).len()).sum::<usize>()));
    group.finish();
}

criterion_group!(benches, stages);
criterion_main!(benches);
