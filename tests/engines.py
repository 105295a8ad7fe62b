#!/usr/bin/env python3
"""Do DuckDB, ClickHouse and pyarrow read a packed store, and are the answers of dev/sql right?

    tests/engines.py batches FOLDER
    tests/engines.py check --gravity target/debug/gravity FOLDER RAW...

`batches` writes batches whose texts are hard to put together. `check` looks at the store FOLDER/packed, which was made
from the batches RAW: what the queries give is compared with what Python reads from the batches, without Gravity's code,
and with what `gravity reconstruct` prints. Needs what `dev/tools.sh engines` installs. Exit code 1 if anything differs.
"""
import argparse
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import datetime, timezone
from pathlib import Path

import pyarrow.dataset

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benches"), str(ROOT / "dev/sql")]
import query  # noqa: E402
from otlp_content import decompressed, documents, files, key_table  # noqa: E402

# The columns `model`, `input_tokens` and `output_tokens` are the first attribute with one of these keys.
MODEL = {"llm.model_name", "gen_ai.request.model", "gen_ai.response.model", "llm.response.model", "llm.request.model"}
TOKENS_IN = {"gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt",
             "llm.usage.prompt_tokens"}
TOKENS_OUT = {"gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens", "llm.token_count.completion",
              "llm.usage.completion_tokens"}
WORD = "weather"


# --- batches whose texts are hard to put together ------------------------------------------------------

def escaped(text, characters):
    """JSON as Go writes it, or the collector."""
    out = json.dumps(text, ensure_ascii=False)
    for c in characters:
        out = out.replace({"\b": "\\b", "\f": "\\f"}.get(c, c), f"\\u{ord(c):04x}")
    return out


def hard_texts():
    dice = random.Random(7)
    hard = ("tab\t, \"double\", back\\slash, \b\f\x01\x1f\x7f, line\r\nend, <b>&amp;</b>, \u2028\u2029, zero\u200bwidth, "
            "no\xa0break, 日本語, é, 🚀, \U000e0041 and what the weather is")
    single = hard.replace('"', "") + ", it's quoted so"
    long = "\n".join("".join(dice.choices("abcdefgh <>\"\\é", k=90)) for _ in range(250))
    texts = [hard, long, json.dumps({"file": long}), repr([long]), "\x00 and \ufffc stand here " + hard, json.dumps("\ufffc" + hard)]
    for text in (hard, single, hard + single, hard.replace('"', ""), json.dumps([hard, single]), repr([single, hard])):
        value = {"role": "user", "content": text, "again": [text, "short"]}
        texts += [json.dumps(value), json.dumps(value, ensure_ascii=False), repr(value), repr([(text, [text])]),
                  '{"content": ' + escaped(text, "\b\f") + "}",
                  '{"content": ' + escaped(text, "<>&\u2028\u2029") + "}",
                  '{"content": ' + escaped(text, "<>&\u2028\u2029\b\f") + "}",
                  json.dumps([json.dumps(value), repr([json.dumps(value)])], ensure_ascii=False)]
    return texts


def hard_document():
    start = 1_761_868_800_000_000_000
    spans = []
    for n, text in enumerate(hard_texts(), 1):
        values = {"gen_ai.request.model": "hard", "gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": text,
                  "gen_ai.completion.0.role": "assistant", "gen_ai.completion.0.content": text[::-1]}
        attributes = [{"key": key, "value": {"stringValue": value}} for key, value in values.items()]
        attributes.append({"key": "gen_ai.usage.prompt_tokens", "value": {"intValue": str(n)}})
        spans.append({"traceId": f"{0xabcd0000 + n:032x}", "spanId": f"{n:016x}", "name": "hard",
                      "startTimeUnixNano": str(start + n), "endTimeUnixNano": str(start + 2 * n), "attributes": attributes})
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": spans}]}]}


def write_batches(folder):
    from google.protobuf.json_format import ParseDict
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    import base64

    folder.mkdir(parents=True, exist_ok=True)
    document = hard_document()
    (folder / "hard.json").write_text(json.dumps(document, ensure_ascii=False))
    record = {"traceId": "ab" * 16, "spanId": "cd" * 8, "timeUnixNano": "1761868800000000000",
              "body": {"stringValue": "a log of the weather, which is longer than what stays where it is"},
              "attributes": [{"key": "event.name", "value": {"stringValue": "gen_ai.user.message"}}]}
    logs = {"resourceLogs": [{"resource": {}, "scopeLogs": [{"scope": {}, "logRecords": [record]}]}]}
    (folder / "log.json").write_text(json.dumps(logs))
    # The same as protobuf, in other traces.
    for span in document["resourceSpans"][0]["scopeSpans"][0]["spans"]:
        for field, other in (("traceId", "ef" + span["traceId"][2:]), ("spanId", span["spanId"])):
            span[field] = base64.b64encode(bytes.fromhex(other)).decode()
    (folder / "hard.binpb").write_bytes(ParseDict(document, ExportTraceServiceRequest()).SerializeToString())


# --- the engines -----------------------------------------------------------------------------------------

class DuckDb:
    name = "DuckDB"

    def __init__(self):
        self.connection = query.duckdb("packed")

    def rows(self, sql):
        return self.connection.sql(sql).fetchall()

    def call(self, name, *args):
        return f"{name}({', '.join(map(quoted, args))})"

    def file(self, pattern):
        return f"read_parquet('{pattern}')"


class ClickHouse:
    name = "ClickHouse"
    ARGUMENTS = {"search": ["words"], "texts": ["trace"], "conversation": ["trace"], "message": ["trace", "span", "attribute"]}

    def __init__(self):
        self.session = query.clickhouse("packed")

    def rows(self, sql):
        text = self.session.query(sql, "JSONCompactEachRow").bytes().decode()
        return [tuple(json.loads(line)) for line in text.split("\n") if line]

    def call(self, name, *args):
        named = (f"{argument} = {quoted(value)}" for argument, value in zip(self.ARGUMENTS[name], args, strict=True))
        return f"{name}({', '.join(named)})"

    def file(self, pattern):
        return f"file('{pattern}', Parquet)"


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


# --- what they must say ------------------------------------------------------------------------------------

class Raw:
    """The batches as Python reads them."""

    def __init__(self, folders, table):
        self.spans, self.records = [], []
        for path in files(folders):
            for document in documents(decompressed(path)):
                for resource in document.get("resourceSpans") or []:
                    self.spans += [s for scope in resource["scopeSpans"] for s in scope.get("spans") or []]
                for resource in document.get("resourceLogs") or []:
                    self.records += [r for scope in resource["scopeLogs"] for r in scope.get("logRecords") or []]
        self.table = table
        self.traces = defaultdict(list)
        for span in self.spans:
            self.traces[span["traceId"].lower()].append(span)

    def tokens_by_day(self):
        sums = defaultdict(lambda: [0, None, None])
        for span in self.spans:
            model, tokens_in, tokens_out = (first(span, keys) for keys in (MODEL, TOKENS_IN, TOKENS_OUT))
            if model is not None:
                day = datetime.fromtimestamp(int(span["startTimeUnixNano"]) // 10**9, timezone.utc).date()
                row = sums[str(day), model]
                row[0] += 1
                for at, tokens in ((1, tokens_in), (2, tokens_out)):
                    row[at] = row[at] if tokens is None else (row[at] or 0) + int(tokens)
        return sorted((*key, *row) for key, row in sums.items())

    def strings(self, span):
        """(key, text) of the span's own content that is text."""
        return [(key, text) for key, text in string_attributes(span) if self.table.attribute(key)]

    def spans_with(self, word, all_values):
        """Spans and log records with a text that has the word: in content, or in all values."""
        found = set()
        for span in self.spans:
            values = every_string(span) if all_values else [text for _, text in self.strings(span)]
            if any(word in value.lower() for value in values):
                found.add((span["traceId"].lower(), span["spanId"].lower()))
        for record in self.records if all_values else []:
            if any(word in value.lower() for value in every_string(record)):
                found.add((record["traceId"].lower(), record["spanId"].lower()))
        return found

    def conversation(self, trace):
        """Roles and texts of the messages of the span that has the most of them."""
        best = (0,)
        for span in self.traces[trace]:
            sides = defaultdict(lambda: defaultdict(dict))
            for key, text in self.strings(span):
                if match := re.fullmatch(r"(gen_ai|llm)\.(prompt|completion|input_messages|output_messages)\."
                                         r"(\d+)\.(?:message\.)?(role|content)", key):
                    owner, side, number, field = match.groups()
                    sides[owner][side in ("completion", "output_messages"), int(number)][field] = text
                elif key in ("gen_ai.input.messages", "gen_ai.output.messages"):
                    for number, message in enumerate(json.loads(text)):
                        content = "".join(part.get("content", "") for part in message.get("parts", []))
                        sides["json"][key == "gen_ai.output.messages", number] = {
                            "role": message.get("role"), "content": content}
            for messages in sides.values():
                rows = [(m.get("role"), m.get("content")) for _, m in sorted(messages.items())]
                best = max(best, (len(rows), int(span["startTimeUnixNano"]), span["spanId"], rows))
        return best[-1] if best[0] else []


def string_attributes(owner):
    return [(a["key"], a["value"]["stringValue"]) for a in owner.get("attributes") or []
            if "stringValue" in (a.get("value") or {})]


def every_string(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from every_string(inner)


def first(span, keys):
    values = (a["value"] for a in span.get("attributes") or [] if a["key"] in keys)
    return next((next(iter(v.values())) for v in values), None)


class Check:
    def __init__(self, gravity, raw, every, offset):
        self.gravity, self.raw, self.every, self.offset, self.bad = gravity, raw, every, offset, 0

    def same(self, what, found, expected):
        if found != expected:
            self.bad += 1
            if isinstance(found, Counter):
                found, expected = found - expected, expected - found
            found, expected = str(found), str(expected)
            at = max(0, len(os.path.commonprefix([found, expected])) - 100)
            print(f"DIFFERENT: {what}\n  found    {found[at:at + 400]}\n  expected {expected[at:at + 400]}")

    def true(self, what, holds):
        self.same(what, bool(holds), True)

    def reconstruct(self, *args):
        command = [self.gravity, "-q", "reconstruct", "--store", "packed", *args]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout

    def tables(self, engine):
        for table in ("nodes", "spans"):
            rows = pyarrow.dataset.dataset(f"packed/{table}", format="parquet", partitioning=None).to_table().num_rows
            self.true(f"pyarrow: rows of {table}", rows)
            pattern = f"packed/{table}/**/*.parquet"
            found = engine.rows(f"select count(*) from {engine.file(pattern)}")
            self.same(f"{engine.name}: rows of {table}, as pyarrow counts them", int(found[0][0]), rows)

    def references(self, engine):
        unnested = "select {0} as node from {1}".format if engine.name == "DuckDB" else (
            "select r as node from {1} array join refs as r".format)
        for table in ("nodes", "spans"):
            refs = unnested("unnest(refs)", table)
            count, = engine.rows(f"select count(*) from ({refs})")[0]
            self.true(f"{engine.name}: {table} have references", int(count))
            dangling, = engine.rows(f"select count(*) from ({refs}) r left anti join nodes on nodes.id = r.node"
                                    if engine.name == "ClickHouse" else
                                    f"select count(*) from ({refs}) r anti join nodes on nodes.id = r.node")[0]
            self.same(f"{engine.name}: references of {table} that lead to no node", int(dangling), 0)
        total, distinct = engine.rows("select count(*), count(distinct id) from nodes")[0]
        self.same(f"{engine.name}: nodes, each once", int(total), int(distinct))

    def tokens(self, engine):
        text = "day::varchar" if engine.name == "DuckDB" else "toString(day)"
        rows = engine.rows(f"select {text}, model, spans, tokens_in, tokens_out from tokens_by_day")
        rows = sorted((day, model, *(n if n is None else int(n) for n in sums)) for day, model, *sums in rows)
        self.true("the batches have tokens", any(row[3] for row in self.raw.tokens_by_day()))
        self.same(f"{engine.name}: tokens_by_day", rows, self.raw.tokens_by_day())

    def search(self, engine):
        rows = engine.rows(f"select trace_id, span_id, text from {engine.call('search', WORD)}")
        found = {row[:2] for row in rows}
        content, all_values = self.raw.spans_with(WORD, False), self.raw.spans_with(WORD, True)
        self.true("the batches have the word", content)
        self.true(f"{engine.name}: every text found has the word", all(WORD in row[2].lower() for row in rows))
        self.same(f"{engine.name}: spans whose content has the word and that are not found", content - found, set())
        self.same(f"{engine.name}: spans that are found and do not have the word", found - all_values, set())
        none = engine.rows(f"select count(*) from {engine.call('search', 'no text has these words')}")
        self.same(f"{engine.name}: a search for what is nowhere", int(none[0][0]), 0)

    def trace(self, engine, trace):
        rows = engine.rows(f"select span_id, kind, key, text from {engine.call('texts', trace)}")
        found = Counter((span, key, text) for span, kind, key, text in rows
                        if kind == "span" and key and self.raw.table.attribute(key))
        spans = self.raw.traces[trace]
        in_raw = Counter((s["spanId"].lower(), *part) for s in spans for part in self.raw.strings(s))
        self.same(f"{engine.name}: texts of {trace}, as the batches have them", found, in_raw)
        lines = [json.loads(line) for line in self.reconstruct("--json", trace).split(b"\n") if line]
        printed = Counter((line["span_id"], line["key"], line["content"]) for line in lines if not line.get("event"))
        self.same(f"{engine.name}: texts of {trace}, as reconstruct prints them", found, printed)
        for span, key, text in list(found)[:1]:
            rows = engine.rows(f"select text from {engine.call('message', trace, span, key)}")
            message = self.reconstruct("--span", span, "--part", key, trace).decode()
            self.same(f"{engine.name}: message {key} of span {span}", rows, [(message,)])
        conversation = self.raw.conversation(trace)
        if any(re.search("[\ud800-\udfff]", text or "") for row in conversation for text in row):
            return 0  # One half of a surrogate pair is no text, and JSON with its escape no JSON to DuckDB.
        rows = engine.rows(f"select role, content from {engine.call('conversation', trace)}")
        self.same(f"{engine.name}: conversation of {trace}", rows, conversation)
        return len(rows)

    def log(self, engine):
        for record in self.raw.records:
            body = (record.get("body") or {}).get("stringValue")
            if body is not None:
                rows = engine.rows(f"select text from {engine.call('texts', record['traceId'])} where key = 'body'")
                self.same(f"{engine.name}: body of a log record", rows, [(body,)])

    def all(self):
        traces = sorted(self.raw.traces)[self.offset::self.every]
        for engine in (DuckDb(), ClickHouse()):
            for part in (self.tables, self.references, self.tokens, self.search, self.log):
                part(engine)
            messages = sum(self.trace(engine, trace) for trace in traces)
            self.true("the traces looked at have conversations", messages > 10)
            print(f"{engine.name}: {len(traces)} traces, {messages} messages of conversations")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    batches = commands.add_parser("batches")
    batches.add_argument("folder", type=Path)
    check = commands.add_parser("check")
    check.add_argument("--gravity", required=True, metavar="BIN", type=Path)
    check.add_argument("--every", type=int, default=1, metavar="N", help="put together every Nth trace (default: all)")
    check.add_argument("--offset", type=int, default=0, metavar="N", help="begin with trace N (default: %(default)s)")
    check.add_argument("folder", type=Path, metavar="FOLDER")
    check.add_argument("raw", type=Path, nargs="+", metavar="RAW")
    args = parser.parse_args()
    if args.command == "batches":
        return write_batches(args.folder)
    gravity = str(args.gravity.resolve())
    raw = Raw([path.resolve() for path in args.raw], key_table(gravity))
    os.chdir(args.folder)
    check = Check(gravity, raw, args.every, args.offset)
    check.all()
    if check.bad:
        raise SystemExit(f"{check.bad} differences")


if __name__ == "__main__":
    main()
