"""Which content an OTLP corpus holds, worked out a second time, without Gravity's code.

Only the key table comes from Gravity (`gravity keys --json`). JSON is read by Python's own parser;
protobuf files need `pip install opentelemetry-proto`, zstd files `pip install zstandard`.
"""
import base64
import functools
import gzip
import io
import json
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path


# --- the key table ---------------------------------------------------------------------------------

def pattern(text):
    """`{n}`: one segment of digits; `*`: one segment; a final `**`: one or more; the rest literally."""
    segments = text.split(".")
    special = {"{n}": "[0-9]+", "*": "[^.]*", "**": ".*"}
    assert "**" not in segments[:-1], f"`**` must come last: {text}"
    return re.compile(r"\.".join(special.get(s, re.escape(s)) for s in segments), re.DOTALL)


class KeyTable:
    def __init__(self, rows):
        self.attributes = [pattern(r["key"]) for r in rows if r["where"] == "attribute"]
        self.events = [(pattern(r["event"]), pattern(r["key"])) for r in rows if r["where"] == "event"]
        self.attribute = functools.lru_cache(None)(self.attribute)
        self.in_event = functools.lru_cache(None)(self.in_event)

    def attribute(self, key):
        return any(p.fullmatch(key) for p in self.attributes)

    def in_event(self, event, key):
        """Is an attribute (or the body) of a span event or log record of this name content?"""
        return event is not None and any(e.fullmatch(event) and k.fullmatch(key) for e, k in self.events)


def key_table(gravity=None, file=None):
    lines = Path(file).read_text("utf-8") if file else subprocess.run(
        [gravity, "keys", "--json"], check=True, stdout=subprocess.PIPE).stdout.decode("utf-8")
    return KeyTable([json.loads(line) for line in lines.split("\n") if line.strip()])


# --- values ----------------------------------------------------------------------------------------

def double(x):
    """As Rust's ryu writes it: 1.0, 0.25, 1e16, 1e-7; 1e15 and 0.00001 are still written out."""
    if x != x or x in (float("inf"), float("-inf")):
        return '"NaN"' if x != x else '"Infinity"' if x > 0 else '"-Infinity"'
    negative, digits, exponent = Decimal(repr(x)).normalize().as_tuple()  # repr has the shortest digits
    digits, point = "".join(map(str, digits)), len(digits) + exponent  # the value is 0.digits * 10^point
    if 0 < point <= 16:
        text = digits[:point].ljust(point, "0") + "." + (digits[point:] or "0")
    elif -5 < point <= 0:
        text = "0." + "0" * -point + digits
    else:
        text = digits[0] + ("." + digits[1:] if digits[1:] else "") + f"e{point - 1}"
    return "-" * negative + text


def base64_bytes(text):
    text = text.replace("-", "+").replace("_", "/").rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def string(text):
    return re.sub("[\ud800-\udfff]", lambda m: f"\\u{ord(m[0]):04x}", json.dumps(text, ensure_ascii=False))


def value_of(any_value):
    """(kind, value) of an OTLP JSON AnyValue; (None, None) of an empty one."""
    return next(((k, v) for k, v in (any_value or {}).items() if k in KINDS and v is not None), (None, None))


KINDS = {"stringValue", "boolValue", "intValue", "doubleValue", "bytesValue", "arrayValue", "kvlistValue"}


def canonical(any_value):
    kind, v = value_of(any_value)
    if kind is None:
        return "null"
    if kind == "stringValue":
        return string(v)
    if kind == "boolValue":
        return "true" if v else "false"
    if kind == "intValue":
        return str(int(v))
    if kind == "doubleValue":
        return double(float(v))
    if kind == "bytesValue":
        return string(base64.b64encode(base64_bytes(v)).decode())
    if kind == "arrayValue":
        return "[" + ",".join(map(canonical, v.get("values") or [])) + "]"
    return "{" + ",".join(f"{string(kv.get('key', ''))}:{canonical(kv.get('value'))}"
                          for kv in v.get("values") or []) + "}"


def content(any_value):
    """The bytes of a value that can be a part, else None."""
    kind, v = value_of(any_value)
    if kind == "stringValue":
        return v.encode("utf-8", "surrogatepass")
    if kind == "bytesValue":
        return base64_bytes(v)
    if kind in ("arrayValue", "kvlistValue"):
        return canonical(any_value).encode("utf-8")
    return None


# --- spans and log records ---------------------------------------------------------------------------

@dataclass(frozen=True)
class Entry:
    """A span or a log record. Two that are equal stand once."""
    trace_id: str
    span_id: str
    parent: str
    name: str
    start: int
    end: int
    dropped: int
    parts: tuple  # of (event or None, key, content), in order


def attributes(owner):
    return [(a.get("key", ""), a.get("value")) for a in owner.get("attributes") or []]


def parts(owner, event, table):
    return [(event, key, c) for key, value in attributes(owner)
            if table.attribute(key) or table.in_event(event, key)
            for c in [content(value)] if c is not None]


def number(owner, *fields):
    """The first of these fields that is there and not zero (64-bit integers come as text or numbers)."""
    return next((n for f in fields for n in [int(owner.get(f) or 0)] if n), 0)


def entry_of_span(span, table):
    found = parts(span, None, table)
    for event in span.get("events") or []:
        found += parts(event, event.get("name") or "", table)
    return Entry((span.get("traceId") or "").lower(), (span.get("spanId") or "").lower(),
                 (span.get("parentSpanId") or "").lower(), span.get("name") or "",
                 number(span, "startTimeUnixNano"), number(span, "endTimeUnixNano"),
                 number(span, "droppedAttributesCount"), tuple(found))


def entry_of_log_record(record, table):
    named = {k: v.get("stringValue") for k, v in reversed(attributes(record)) if isinstance(v, dict)}
    event = record.get("eventName") or named.get("event.name") or named.get("event_name") or None
    is_content = table.in_event(event, "body") or any(
        table.attribute(k) or table.in_event(event, k) for k, _ in attributes(record))
    body = content(record.get("body")) if is_content else None
    found = ([(event, "body", body)] if body is not None else []) + parts(record, event, table)
    return Entry((record.get("traceId") or "").lower(), (record.get("spanId") or "").lower(), "", event or "",
                 number(record, "timeUnixNano", "observedTimeUnixNano"), 0,
                 number(record, "droppedAttributesCount"), tuple(found))


def valid_id(text, digits):
    return re.fullmatch(f"[0-9a-f]{{{digits}}}", text) is not None and text.strip("0") != ""


def entries(document, table):
    """(entry, is its place in a trace valid?) of each span and log record of an OTLP JSON document."""
    for resource in document.get("resourceSpans") or []:
        for scope in resource.get("scopeSpans") or []:
            for span in scope.get("spans") or []:
                e = entry_of_span(span, table)
                yield e, valid_id(e.trace_id, 32) and valid_id(e.span_id, 16)
    for resource in document.get("resourceLogs") or []:
        for scope in resource.get("scopeLogs") or []:
            for record in scope.get("logRecords") or []:
                e = entry_of_log_record(record, table)
                yield e, valid_id(e.trace_id, 32) and (e.span_id == "" or valid_id(e.span_id, 16))


# --- batches -----------------------------------------------------------------------------------------

def files(folders):
    """Every file under the folders (or the files themselves), sorted, without hidden ones."""
    for folder in map(Path, folders):
        if not folder.exists():
            raise SystemExit(f"{folder}: no such file or folder")
        yield from [folder] if folder.is_file() else sorted(
            p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))


def decompressed(path):
    """Told by magic bytes, not by name; a batch may be compressed twice."""
    data = Path(path).read_bytes()
    while True:
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
        elif data.startswith(b"\x28\xb5\x2f\xfd"):
            try:
                import zstandard
            except ImportError:
                raise SystemExit(f"{path} is zstd: pip install zstandard") from None
            data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
        else:
            return data


def no_constant(name):
    raise ValueError(f"{name} is not JSON")


def json_documents(data):
    """One document, or several, with or without line ends between them."""
    text, at = data.decode("utf-8", "surrogatepass"), 0
    decoder = json.JSONDecoder(parse_constant=no_constant)
    while at < len(text) and (at := re.compile(r"[ \t\r\n]*").match(text, at).end()) < len(text):
        document, at = decoder.raw_decode(text, at)
        yield document


def protobuf_document(data):
    """The same shape as OTLP JSON. Traces and logs cannot be told apart but by trying."""
    try:
        from google.protobuf.json_format import MessageToDict
        from google.protobuf.message import DecodeError
        from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    except ImportError:
        raise SystemExit("a batch is not JSON, perhaps protobuf: pip install opentelemetry-proto") from None
    try:
        message = ExportTraceServiceRequest.FromString(data)
        spans = [s for r in message.resource_spans for c in r.scope_spans for s in c.spans]
        if spans and not any(s.trace_id for s in spans):
            raise DecodeError("no trace ids: these are not spans")
    except DecodeError as not_traces:
        try:
            message = ExportLogsServiceRequest.FromString(data)
        except DecodeError:
            raise ValueError(f"neither JSON nor protobuf traces or logs: {not_traces}") from None
    document = MessageToDict(message)
    for resource in document.get("resourceSpans", []) + document.get("resourceLogs", []):
        for scope in resource.get("scopeSpans", []) + resource.get("scopeLogs", []):
            for owner in scope.get("spans", []) + scope.get("logRecords", []):
                for field in {"traceId", "spanId", "parentSpanId"} & owner.keys():
                    owner[field] = base64.b64decode(owner[field]).hex()  # OTLP JSON has hex, proto3 JSON base64
    return document


def documents(data):
    """A protobuf batch starts with a line feed (field 1), and its length byte can be `{`: so try."""
    try:
        if data.lstrip(b" \t\r\n")[:1] in (b"{", b""):
            return list(json_documents(data))
    except ValueError:
        if not data.startswith(b"\n"):
            raise
    return [protobuf_document(data)]


class Corpus:
    """`traces`: {trace id: its distinct entries, in the order of arrival}; `counts`; `unreadable`: [(path, why)]."""

    def __init__(self, folders, table):
        self.traces, self.counts, self.unreadable = {}, Counter(), []
        for path in files(folders):
            self.counts["batches"] += 1
            try:
                found = [e for d in documents(decompressed(path)) for e in entries(d, table)]
            except Exception as e:  # whatever a broken batch makes the parsers say
                self.unreadable.append((path, f"{type(e).__name__}: {e}"))
                continue
            for entry, valid in found:
                trace = self.traces.setdefault(entry.trace_id, {}) if valid else {}
                self.counts["invalid_ids"] += not valid
                self.counts["repeated"] += entry in trace
                trace.setdefault(entry)
        self.counts["traces"] = len(self.traces)
        for trace in self.traces.values():
            for entry in trace:
                self.counts["spans"] += 1
                self.counts["parts"] += len(entry.parts)
                self.counts["bytes"] += sum(len(c) for _, _, c in entry.parts)

    def __str__(self):
        c = self.counts
        lines = [f"{c['batches']:,} batches, {c['traces']:,} traces, {c['spans']:,} spans and log records, "
                 f"{c['parts']:,} parts, {c['bytes']:,} bytes",
                 f"{c['repeated']:,} repeated, {c['invalid_ids']:,} with invalid ids, "
                 f"{len(self.unreadable):,} unreadable batches"]
        return "\n".join(lines + [f"  {path}: {why}" for path, why in self.unreadable[:5]])


def add_corpus_arguments(parser):
    parser.add_argument("--gravity", metavar="BIN", default="target/release/gravity", help="default: %(default)s")
    parser.add_argument("--keys", metavar="FILE", help="a saved `gravity keys --json`, instead of asking BIN")
    parser.add_argument("--unreadable", type=int, default=0, metavar="N",
                        help="how many batches are broken on purpose (default: %(default)s)")


def corpus_of(args):
    """Reads and prints the corpus; ends the program where a comparison would prove nothing."""
    corpus = Corpus(args.corpus, key_table(args.gravity, args.keys))
    print(corpus)
    if len(corpus.unreadable) != args.unreadable:
        raise SystemExit(f"{len(corpus.unreadable)} unreadable batches, not {args.unreadable} (--unreadable)")
    if not corpus.counts["parts"]:
        raise SystemExit("nothing to compare: the corpus has no content")
    return corpus
