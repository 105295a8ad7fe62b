#!/usr/bin/env python3
"""Restores a packed store with docs/packed.md alone: no code of Gravity's, and not its way of doing it.

    tests/packed_reader.py batches FOLDER
    tests/packed_reader.py check STORE RAW...

`batches` writes batches that have what the samples lack. `check` restores every batch of every file of STORE that counts
and compares it with its raw file, whose path is the batch's key; every file below RAW must be there. It says which kinds
of nodes and which places of shapes it met. Needs pyarrow (`dev/tools.sh engines`), and compares with the BLAKE3 of the
store, too, if the package `blake3` is there. Exit code 1 if anything differs.
"""
import json
import re
import struct
import sys
import unicodedata
from collections import Counter
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benches")]
from otlp_content import decompressed, files  # noqa: E402

try:
    from blake3 import blake3
except ImportError:
    blake3 = None

HOLE = "\ufffc".encode()
MET = Counter()


# --- literals --------------------------------------------------------------------------------------------

# A character, a lone surrogate in WTF-8 included; bytes that are none of them stay as they are.
CHARACTER = re.compile(rb"[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
SHORT = {0x22: b'\\"', 0x5C: b"\\\\", 8: b"\\b", 9: b"\\t", 10: b"\\n", 12: b"\\f", 13: b"\\r"}


def json_literal(text, habit):
    is_pdata, is_ascii, is_html = habit in (1, 4), habit == 2, habit in (3, 4)

    def written(match):
        raw = match[0]
        try:
            c = ord(raw.decode("utf-8", "surrogatepass"))
        except UnicodeDecodeError:
            return raw
        if c in SHORT and not (is_pdata and c in (8, 12)):
            return SHORT[c]
        escaped = (c < 0x20 or 0xD800 <= c < 0xE000 or is_ascii and c >= 0x7F
                   or is_html and c in (0x3C, 0x3E, 0x26, 0x2028, 0x2029))
        if not escaped:
            return raw
        units = chr(c).encode("utf-16-be", "surrogatepass")
        return b"".join(b"\\u%04x" % unit for (unit,) in struct.iter_unpack(">H", units))

    return CHARACTER.sub(written, text)


def ranges(table):
    """A table of printable.rs, which docs/packed.md names as a part of the format."""
    source = (ROOT / "pipeline/src/packed/lift/printable.rs").read_text()
    body = re.search(r"const %s: [^=]*= &\[(.*?)\];" % table, source, re.S)[1]
    pairs = re.findall(r"\((0x[0-9a-f_]+), (0x[0-9a-f_]+)\)", body)
    return {c for first, last in pairs for c in range(int(first, 16), int(last, 16) + 1)}


UNPRINTABLE_16 = ranges("UNPRINTABLE")
UNPRINTABLE = {5: UNPRINTABLE_16 | ranges("SINCE_14"), 6: UNPRINTABLE_16}


def check_tables():
    """The tables are Python's own, where this Python has that Unicode."""
    habit = {"14.0.0": 5, "16.0.0": 6}.get(unicodedata.unidata_version)
    for c in range(0x7F, 0x110000) if habit else ():
        assert chr(c).isprintable() == (c not in UNPRINTABLE[habit]), hex(c)
    print(f"Unicode of this Python: {unicodedata.unidata_version}, checked: {habit is not None}")


def python_literal(text, habit):
    text = text.decode()
    quote = '"' if "'" in text and '"' not in text else "'"
    short = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"} | ({"'": "\\'"} if quote == "'" else {})
    out = []
    for c in text:
        code = ord(c)
        if c in short:
            out.append(short[c])
        elif 0x20 <= code < 0x7F or code > 0x7F and code not in UNPRINTABLE[habit]:
            out.append(c)
        else:
            out.append(f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return "".join(out).encode()


def literal(text, habit):
    return json_literal(text, habit) if habit < 5 else python_literal(text, habit)


# --- nodes -----------------------------------------------------------------------------------------------

def metadata(path):
    pairs = parquet.read_metadata(path).metadata or {}
    return {key.decode(): json.loads(value) for key, value in pairs.items() if key.startswith(b"gravity.")}


class Nodes:
    def __init__(self, store):
        self.store, self.packs = store, {}

    def file_of(self, pack):
        day = datetime.fromtimestamp(pack / 1000, timezone.utc).strftime("%Y-%m-%d")
        folder = self.store / f"nodes/dt={day}"
        name = f"nodes/dt={day}/{pack:012x}.parquet"
        if (self.store / name).exists():
            return self.store / name
        return next(path for path in sorted(folder.iterdir()) if name in metadata(path).get("gravity.replaces", []))

    def get(self, number):
        pack = number >> 21
        if pack not in self.packs:
            table = parquet.read_table(self.file_of(pack)).to_pydict()
            texts = (t.encode() if t is not None else b for t, b in zip(table["text"], table["bytes"]))
            self.packs[pack] = dict(zip(table["id"], zip(table["kind"], texts, table["refs"])))
        kind, text, refs = self.packs[pack][number]
        MET[f"kind {kind}"] += 1
        return self.get(refs[0]) if kind == 2 else (kind, text, refs)

    def text(self, number):
        kind, text, refs = self.get(number)
        if kind == 0:
            return text
        if kind == 1:
            return b"".join(map(self.text, refs))
        assert kind >= 16, f"node {number} is a shape"
        first, *others = text.split(HOLE)
        assert len(others) == len(refs), f"node {number} has {len(others)} holes for {len(refs)} references"
        return first + b"".join(literal(self.text(ref), kind - 16) + rest for ref, rest in zip(refs, others))


# --- rows ------------------------------------------------------------------------------------------------

def varint(number):
    number &= 2**64 - 1
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out + bytes([number]))


def take_varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at


def places(shape):
    """The text before each place, and the place's byte; then the text that is left."""
    at = 0
    while (nul := shape.find(b"\0", at)) >= 0:
        yield shape[at:nul], chr(shape[nul + 1])
        at = nul + 2
    yield shape[at:], None


def streams_of(rest):
    """The values of each stream."""
    if rest is None:
        return []
    count, at = take_varint(rest, 0)
    sizes = []
    for _ in range(count):
        lengths, at = take_varint(rest, at)
        values, at = take_varint(rest, at)
        sizes.append((lengths, values))
    streams = []
    for lengths, values in sizes:
        value, end, stream = at + lengths, at + lengths + values, []
        while at < end - values:
            length, at = take_varint(rest, at)
            stream.append(rest[value:value + length])
            value += length
        assert value == end, "a stream whose lengths are not those of its values"
        at = end
        streams.append(iter(stream))
    assert at == len(rest)
    return streams


class Rest:
    """The values of one row group, told apart while its rows are read in order."""

    def __init__(self, value):
        self.left, self.by_key = streams_of(value), {}

    def next(self, before):
        key = re.sub(rb"[0-9]", b"", before[-64:])
        if key not in self.by_key:
            self.by_key[key] = self.left.pop(0)
        return next(self.by_key[key])

    def is_done(self):
        return not self.left and all(next(stream, None) is None for stream in self.by_key.values())


def decimal(cost):
    text = format(Decimal(repr(cost)), "f")
    return text.removesuffix(".0").encode()


def column(row, letter, is_json):
    if letter in "ABC":
        value = row[{"A": "trace_id", "B": "span_id", "C": "parent_span_id"}[letter]]
        return value.hex().encode() if is_json else value
    if letter in "DGH":
        value = row[{"D": "name", "G": "model", "H": "provider"}[letter]].encode()
        return literal(value, 0) if is_json else varint(len(value)) + value
    if letter == "K":
        return decimal(row["cost"]) if is_json else struct.pack("<d", row["cost"])
    number = row[{"E": "start", "F": "end", "I": "input_tokens", "J": "output_tokens"}[letter]]
    if is_json:
        return str(number).encode()
    return struct.pack("<q", number) if letter in "EF" else varint(number)


def record(row, nodes, rest):
    kind, shape, _ = nodes.get(row["shape"])
    assert kind in (3, 4)
    is_json, refs = kind == 3, iter(row["refs"])
    # What stands in a message that is open is put together apart, since its length stands before it.
    parts = [b""]
    for text, place in places(shape):
        parts[-1] += text
        if place is None:
            break
        MET[f"{'JSON' if is_json else 'protobuf'} {place}"] += 1
        if place == "z":
            parts[-1] += b"\0"
        elif place in "ABCDEFGHIJK":
            parts[-1] += column(row, place, is_json)
        elif place in "01234":
            parts[-1] += literal(nodes.text(next(refs)), int(place))
        elif place == "x":
            value = nodes.text(next(refs))
            parts[-1] += varint(len(value)) + value
        elif place == "r":
            parts[-1] += rest.next(text)
        elif place == "(":
            parts.append(b"")
        elif place == ")":
            message = parts.pop()
            parts[-1] += varint(len(message)) + message
        else:
            assert place == "[", f"a place {place!r}"
    assert len(parts) == 1 and next(refs, None) is None
    return parts[0]


def rows_of(group):
    """The rows of a row group, with what follows from the others."""
    group = group.set_column(group.column_names.index("start"), "start", group["start"].cast(pa.int64()))
    rows = group.to_pylist()
    for at, row in enumerate(rows):
        if row["parent"] is not None:
            row["parent_span_id"] = rows[at + row["parent"]]["span_id"]
            MET["parent"] += 1
        if row["duration"] is not None:
            end = (row["start"] or 0) + row["duration"]
            row["end"] = (end + 2**63) % 2**64 - 2**63
    return rows


def restored(path, nodes):
    """Key, bytes and sums of each batch of a file."""
    file, out = parquet.ParquetFile(path), {}
    for number in range(file.num_row_groups):
        rows = rows_of(file.read_row_group(number))
        rest = Rest(rows[0]["rest"])
        for row in rows:
            so_far = out.setdefault(row["source"], bytearray())
            if row["kind"] == "batch":
                yield row["source"], bytes(out.pop(row["source"])), json.loads(row["batch"])
            elif row["kind"] == "text":
                so_far += b"".join(map(nodes.text, row["refs"]))
            else:
                so_far += record(row, nodes, rest)
        assert rest.is_done(), f"{path}: values that belong to no row"
    assert not out, f"{path}: batches without an end: {list(out)}"


# --- what is asked ---------------------------------------------------------------------------------------

def check(store, raws):
    check_tables()
    spans = {str(path.relative_to(store)): path for path in sorted(store.glob("spans/*/*.parquet"))}
    about = {name: metadata(path) for name, path in spans.items()}
    replaced = {other for said in about.values() for other in said.get("gravity.replaces", [])}
    nodes, seen = Nodes(store), set()
    for name in spans.keys() - replaced:
        keys = set()
        for key, found, sums in restored(spans[name], nodes):
            assert found == decompressed(Path(key)), f"{key} in {name} differs"
            assert len(found) == sums["document_bytes"]
            assert blake3 is None or blake3(found).hexdigest() == sums["blake3"]
            keys.add(key)
        assert keys == set(about[name]["gravity.batches"]), name
        seen |= keys
    missing = {str(path) for raw in raws for path in files([raw])} - seen
    assert not missing, f"not in the store: {missing}"
    print(f"{len(seen)} batches are what they were")
    print("met: " + ", ".join(f"{what}: {count}" for what, count in sorted(MET.items())))


def batches(folder):
    """All columns, what no column has, and NULs, in both encodings."""
    folder.mkdir(parents=True)
    long = "a text of more than sixty-four bytes, so that it is lifted: \u00e9 <b>&amp;</b>\b"

    def string(key, value):
        return {"key": key, "value": {"stringValue": value}}

    attributes = [
        string("llm.model_name", "gpt-4o"), string("llm.provider", "openai"), string("short", "v1"),
        string("other", "v2"), string("short", "v3"), string("long", long + "\u0378\U0001FAE9"),
        string("repr", repr([long, "\U0001FAE9 " + long]).replace("\\U0001fae9", "\U0001FAE9")),
        {"key": "llm.token_count.prompt", "value": {"intValue": "12"}},
        {"key": "llm.token_count.completion", "value": {"intValue": 7}},
        {"key": "gen_ai.usage.cost", "value": {"doubleValue": 0.00002}},
        {"key": "cost", "value": {"doubleValue": 2e-05}},
    ]
    ids = {"traceId": "44e0a6b4c1d24f7f9c8e5b7a3d2f1e00", "spanId": "1ac2b3d4e5f60718"}
    times = {"startTimeUnixNano": "1761908523000000001", "endTimeUnixNano": "1761908524500000000"}
    span = {**ids, "name": 'a "name"', **times, "attributes": attributes}
    child = {**ids, "spanId": "1ac2b3d4e5f60719", "parentSpanId": ids["spanId"], "name": "child", **times}
    spans = json.dumps([span, child, span], ensure_ascii=False)[1:-1]
    spans = spans.replace("2e-05", "0.00002", 1)
    document = '{"resourceSpans":[{"scopeSpans":[{"spans":[' + spans.replace(": ", ":") + "]}]}]}"
    (folder / "columns.json").write_text(document)
    (folder / "html.json").write_text(document.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
    (folder / "pdata.json").write_text(document.replace("\\b", "\\u0008"))
    (folder / "old.json").write_text((folder / "html.json").read_text().replace("\\b", "\\u0008"))
    (folder / "ascii.json").write_text(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span, child]}]}]},
                                                  separators=(",", ":")))
    (folder / "bytes").write_bytes(b"\0\xff not text \xed\xa0\x80" * 100)
    (folder / "empty").write_bytes(b"")
    binary = protobuf(span, child)
    (folder / "columns.binpb").write_bytes(binary)


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def protobuf(span, child):
    def value(json_value):
        (name, inner), = json_value.items()
        if name == "stringValue":
            return field(1, inner.encode("utf-8"))
        return field(3, int(inner)) if name == "intValue" else field(4, inner)

    def message(span):
        out = field(1, bytes.fromhex(span["traceId"])) + field(2, bytes.fromhex(span["spanId"]))
        if "parentSpanId" in span:
            out += field(4, bytes.fromhex(span["parentSpanId"]))
        out += field(5, span["name"].encode()) + field(6, 0)
        for number, key in ((7, "startTimeUnixNano"), (8, "endTimeUnixNano")):
            out += varint(number << 3 | 1) + struct.pack("<q", int(span[key]))
        for attribute in span.get("attributes", []):
            out += field(9, field(1, attribute["key"].encode()) + field(2, value(attribute["value"])))
        return out

    spans = b"".join(field(2, message(span)) for span in (span, child, span))
    return field(1, field(2, spans))


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "batches":
        batches(Path(arguments[0]))
    else:
        check(Path(arguments[0]), [Path(raw) for raw in arguments[1:]])
