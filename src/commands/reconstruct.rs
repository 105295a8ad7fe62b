//! `gravity reconstruct`: a trace's content to stdout, exactly.

use crate::cli::ReconstructArgs;
use crate::config::OpenStore;
use crate::exit::{Done, Failure};
use crate::say::say;
use crate::units;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::TryStreamExt;
use gravity_pipeline::error::Error;
use gravity_pipeline::hash::ByHash;
use gravity_pipeline::ids::{SpanId, TraceId};
use gravity_pipeline::json_text::write_string;
use gravity_pipeline::loose::{Layout, Marker, PartEntry, SpanEntry, TraceIndex};
use gravity_pipeline::otlp::RecordKind;
use gravity_pipeline::otlp::protobuf_json::Losses;
use gravity_pipeline::packed::{self, catalog::Catalog, otlp::View};
use gravity_pipeline::reconstruct::{Reader, load};
use gravity_pipeline::split::Separator;
use std::io::{BufWriter, Stdout, Write};
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

/// Packed: bytes of nodes that are remembered while a trace is read.
const NODES_IN_MEMORY: usize = 64 << 20;

/// Reconstructs.
pub async fn run(args: ReconstructArgs, quiet: bool) -> Result<Done, Failure> {
    let trace: TraceId =
        args.trace_id.parse().map_err(|e| Failure::Usage(format!("trace id {:?}: {e}", args.trace_id)))?;
    let span: Option<SpanId> = match &args.span {
        Some(id) => Some(id.parse().map_err(|e| Failure::Usage(format!("--span {id:?}: {e}")))?),
        None => None,
    };
    let OpenStore { store, requests, .. } = args.store.open().await?;
    let paths = args.store.paths()?;
    // Lives as long as the answer takes: to free what it remembers takes time, too.
    let nodes = packed::reader::Reader::with_footers(store.clone(), NODES_IN_MEMORY, args.cache.footers(&args.store));
    // To a bucket each of the two is a trip; a store that turns out to be loose has nothing to list, and waits for nothing.
    let catalog = Catalog::new(nodes.clone());
    let listed = AbortOnDropHandle::new(tokio::spawn(async move { catalog.readable().await }));
    let marker = Marker::read(&*store).await?;
    let mut done = Done::Well;
    let (mut index, chunks) = match marker.filter(|marker| marker.layout == Layout::Packed) {
        None => (load(&*store, &paths, &trace).await?, ByHash::default()),
        Some(marker) => {
            let (files, broken) = listed.await.map_err(Error::Task)??;
            if broken > 0 {
                // What is in the others is given out; the exit code tells that it may not be all.
                done = Done::WithFailures;
            }
            if args.otlp {
                let view = packed::otlp::view(&nodes, &files, trace).await?;
                print_otlp(&view)?;
                return Ok(if view.left_out > 0 { Done::WithFailures } else { done });
            }
            let separator = Separator::new(marker.separator).map_err(|e| Failure::Failed(e.to_string()))?;
            let trace = packed::traces::load(&nodes, &files, trace, &args.content.keys(), &separator).await?;
            if trace.left_out > 0 {
                if trace.index.spans.is_empty() {
                    let reason = format!("none of the records of trace {} can be read", trace.index.trace_id);
                    return Err(Failure::Failed(reason));
                }
                done = Done::WithFailures;
            }
            (trace.index, trace.chunks)
        }
    };
    if args.otlp {
        let reason = "a loose store keeps content, not whole spans: --otlp needs a packed store";
        return Err(Failure::Failed(reason.into()));
    }
    select(&mut index, span, args.part.as_deref())?;
    if !quiet {
        print_header(&index);
    }
    let mut out = BufWriter::with_capacity(64 << 10, std::io::stdout());
    if args.list {
        print_list(&index, &mut out).and_then(|()| out.flush()).map_err(|e| Failure::stdout(&e))?;
        return Ok(done);
    }
    let reader = Reader::with_chunks(store, paths, chunks);
    let (bytes, chunks) = match args.json {
        true => print_json(&reader, index, &mut out).await?,
        false => print_content(&reader, index, &mut out).await?,
    };
    out.flush().map_err(|e| Failure::stdout(&e))?;
    tracing::debug!("{:?}", requests());
    if !quiet {
        say!("{} bytes from {}", bytes, units::counted(chunks, "chunk"));
    }
    Ok(done)
}

fn print_otlp(view: &View) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(&view.document).and_then(|()| out.flush()).map_err(|e| Failure::stdout(&e))?;
    let Losses { unknown_fields, repeated, texts } = view.losses;
    for (count, what, which) in [
        (unknown_fields, "field", "that OTLP JSON has no name for: left out"),
        (repeated, "field", "written more than once: the last one counts"),
        (texts, "text", "that is not UTF-8: what is not became U+FFFD"),
        (view.left_out, "record", "that cannot be read: left out"),
        (view.alone, "record", "in a batch that is not whole: without resource and scope"),
    ] {
        if count > 0 {
            let exactly = view.sources.join(" ");
            tracing::warn!("{} {which}; gravity restore gives what came: {exactly}", units::counted(count, what));
        }
    }
    Ok(())
}

/// Keeps only what was asked for.
fn select(index: &mut TraceIndex, span: Option<SpanId>, part: Option<&str>) -> Result<(), Failure> {
    let trace = index.trace_id;
    if let Some(id) = span {
        index.spans.retain(|span| span.span_id == Some(id));
        if index.spans.is_empty() {
            return Err(Failure::Failed(format!("trace {trace} has no span {id}; --list shows those it has")));
        }
    }
    if let Some(key) = part {
        for span in &mut index.spans {
            span.parts.retain(|part| part.key == key);
        }
        index.spans.retain(|span| !span.parts.is_empty());
        if index.spans.is_empty() {
            return Err(Failure::Failed(format!("trace {trace} has no part {key:?} there; --list shows those it has")));
        }
    }
    Ok(())
}

fn print_header(index: &TraceIndex) {
    let spans = units::counted(index.spans.len() as u64, "span");
    say!("trace {}: {spans}, {}", index.trace_id, units::counted(index.parts().count() as u64, "part"));
    for span in &index.spans {
        if span.dropped_attributes > 0 {
            let id = span.span_id.map(|id| id.to_string()).unwrap_or_default();
            let dropped = units::counted(u64::from(span.dropped_attributes), "attribute");
            say!("span {id} {}: its producer had dropped {dropped} before Gravity saw it", span.name);
        }
    }
}

fn print_list(index: &TraceIndex, out: &mut impl Write) -> std::io::Result<()> {
    for span in &index.spans {
        let kind = match span.kind {
            RecordKind::Span => "span",
            RecordKind::Log => "log ",
        };
        let id = span.span_id.map_or_else(|| "-".repeat(16), |id| id.to_string());
        let dropped = match span.dropped_attributes {
            0 => String::new(),
            n => format!("  ({} dropped by the producer)", units::counted(n.into(), "attribute")),
        };
        writeln!(out, "{kind} {id} {}  {}{dropped}", span.name, span.source)?;
        for part in &span.parts {
            let key = part.event.as_ref().map_or(part.key.clone(), |event| format!("[{event}] {}", part.key));
            let chunks = units::counted(part.chunks.len() as u64, "chunk");
            writeln!(out, "  {:>10} bytes {:>12}  {key}", units::count(part.bytes), chunks)?;
        }
    }
    Ok(())
}

async fn print_content(
    reader: &Arc<Reader>,
    index: TraceIndex,
    out: &mut BufWriter<Stdout>,
) -> Result<(u64, u64), Failure> {
    let count = index.chunks().count() as u64;
    let separator = index.separator.clone();
    let parts = index.spans.into_iter().flat_map(|span| span.parts);
    let mut content = std::pin::pin!(reader.content(parts, &separator));
    let (mut bytes, mut first) = (0, true);
    while let Some(piece) = content.try_next().await? {
        out.write_all(&piece).map_err(|e| Failure::stdout(&e))?;
        bytes += piece.len() as u64;
        if std::mem::take(&mut first) {
            out.flush().map_err(|e| Failure::stdout(&e))?;
        }
    }
    Ok((bytes, count))
}

async fn print_json(
    reader: &Arc<Reader>,
    index: TraceIndex,
    out: &mut BufWriter<Stdout>,
) -> Result<(u64, u64), Failure> {
    let chunks = index.chunks().count() as u64;
    let mut bytes = 0;
    for span in &index.spans {
        for part in &span.parts {
            let mut content = Vec::with_capacity(part.bytes as usize);
            let mut pieces = std::pin::pin!(reader.content([part.clone()], &index.separator));
            while let Some(piece) = pieces.try_next().await? {
                content.extend_from_slice(&piece);
            }
            bytes += content.len() as u64;
            out.write_all(&json_line(&index, span, part, &content)).map_err(|e| Failure::stdout(&e))?;
        }
    }
    Ok((bytes, chunks))
}

/// A part as a line of JSON; content that no JSON string can hold comes as base64.
fn json_line(index: &TraceIndex, span: &SpanEntry, part: &PartEntry, content: &[u8]) -> Vec<u8> {
    let string = |text: &[u8]| {
        let mut json = Vec::with_capacity(text.len() + 2);
        write_string(text, &mut json).ok().map(|()| json)
    };
    let mut line = format!("{{\"trace_id\":\"{}\"", index.trace_id).into_bytes();
    let mut field = |name: &str, json: &[u8]| {
        line.extend_from_slice(format!(",\"{name}\":").as_bytes());
        line.extend_from_slice(json);
    };
    if let Some(id) = span.span_id {
        field("span_id", format!("\"{id}\"").as_bytes());
    }
    if let Some(event) = part.event.as_ref().and_then(|event| string(event.as_bytes())) {
        field("event", &event);
    }
    if let Some(key) = string(part.key.as_bytes()) {
        field("key", &key);
    }
    match string(content) {
        Some(json) => field("content", &json),
        None => field("content_base64", format!("\"{}\"", STANDARD.encode(content)).as_bytes()),
    }
    line.extend_from_slice(b"}\n");
    line
}
