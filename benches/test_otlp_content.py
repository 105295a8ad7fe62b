"""python3 -m unittest discover benches"""
import gzip
import json
import tempfile
import unittest
from pathlib import Path

from cut_corpus import batches
from make_batch import pieces, with_other_ids
from otlp_content import Corpus, KeyTable, canonical, content, double
from read_original import same_content

TABLE = KeyTable([
    {"where": "attribute", "key": "prompt.{n}.**"},
    {"where": "attribute", "key": "llm.*.messages"},
    {"where": "event", "event": "gen_ai.*.message", "key": "body"},
    {"where": "event", "event": "exception", "key": "exception.*"},
])
TRACE, SPAN = "5C87427f3e06c9576fe5370ecd5621b7", "690a97930850d8e9"


def span(*attributes, **fields):
    return {"traceId": TRACE, "spanId": SPAN, "name": "s", "startTimeUnixNano": "5",
            "attributes": [{"key": k, "value": v} for k, v in attributes], **fields}


def spans(*found):
    return {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {"name": "x"}, "spans": list(found)}]}]}


def logs(*found):
    return {"resourceLogs": [{"scopeLogs": [{"logRecords": list(found)}]}]}


def corpus(*documents):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "batch.json.gz").write_bytes(gzip.compress("".join(map(json.dumps, documents)).encode()))
        return Corpus([folder], TABLE)


def parts(*documents):
    return [p for entries in corpus(*documents).traces.values() for e in entries for p in e.parts]


class Tests(unittest.TestCase):
    def test_keys(self):
        for key, yes in {"prompt.0.a": 1, "prompt.12.a.b": 1, "prompt.0": 0, "prompt.x.a": 0, "llm.None.messages": 1,
                         "llm.a.b.messages": 0, "llm.messages": 0, "xprompt.0.a": 0, "prompt.٣.a": 0}.items():
            self.assertEqual(TABLE.attribute(key), bool(yes), key)

    def test_values(self):
        value = {"kvlistValue": {"values": [
            {"key": "b\"", "value": {"stringValue": "\ud83d é\u2028\x00\x1f\x7f\b/\n😀"}},
            {"key": "a", "value": {"arrayValue": {"values": [{"intValue": "-7"}, {"boolValue": False}, {}]}}},
            {"key": "a", "value": {"doubleValue": "NaN"}}, {"key": "c", "value": {"bytesValue": "AAH/"}}]}}
        self.assertEqual(canonical(value), r'{"b\"":"\ud83d é' "\u2028" r'\u0000\u001f' "\x7f" r'\b/\n😀",'
                                           '"a":[-7,false,null],"a":"NaN","c":"AAH/"}')
        self.assertEqual(content({"stringValue": "\ud83d"}), b"\xed\xa0\xbd")
        self.assertEqual(content({"bytesValue": "_wA"}), b"\xff\x00")
        self.assertEqual(content({"arrayValue": {}}), b"[]")
        self.assertEqual([content(v) for v in ({"intValue": 1}, {}, None, {"stringValue": None})], [None] * 4)

    def test_doubles(self):
        for text in ("0.0 -0.0 1.0 0.25 100.0 1e16 1e-7 1e-6 0.00001 0.000015 1000000000000000.0 "
                     "1.2345678901234568e17 5e-324 1.7976931348623157e308 -12.5").split():
            self.assertEqual(double(float(text)), text)

    def test_spans_and_events(self):
        event = {"name": "exception", "attributes": [{"key": "exception.type", "value": {"stringValue": ""}},
                                                     {"key": "prompt.1.a", "value": {"stringValue": "y"}}]}
        one = span(("prompt.0.a", {"stringValue": "x"}), ("exception.type", {"stringValue": "no"}), events=[event])
        self.assertEqual(parts(spans(one)), [(None, "prompt.0.a", b"x"), ("exception", "exception.type", b""),
                                             ("exception", "prompt.1.a", b"y")])

    def test_log_records(self):
        body = {"stringValue": "b"}
        name = {"key": "event.name", "value": {"stringValue": "gen_ai.user.message"}}
        self.assertEqual(parts(logs({"traceId": TRACE, "body": body, "attributes": [name]})),
                         [("gen_ai.user.message", "body", b"b")])
        self.assertEqual(parts(logs({"traceId": TRACE, "eventName": "other", "body": body, "attributes": [name]})), [])
        prompt = {"key": "prompt.0.a", "value": {"stringValue": "p"}}
        self.assertEqual(parts(logs({"traceId": TRACE, "body": body, "attributes": [prompt]})),
                         [(None, "body", b"b"), (None, "prompt.0.a", b"p")])

    def test_repeated_and_invalid(self):
        a, b = (span(("prompt.0.a", {"stringValue": text})) for text in "ab")
        counts = corpus(spans(a, a), spans(b, a), spans({**a, "traceId": "0" * 32}, {**a, "spanId": "xy"})).counts
        self.assertEqual((counts["spans"], counts["repeated"], counts["invalid_ids"], counts["traces"]), (2, 2, 2, 1))

    def test_same_content(self):
        a, b = (next(iter(t)) for text in ("1\n", "2") for t in
                corpus(spans(span(("prompt.0.a", {"stringValue": text})))).traces.values())
        self.assertTrue(same_content(b"2\n1\n", [a, b]))
        self.assertTrue(same_content(b"1\n\n2", [a, b]))
        self.assertFalse(same_content(b"1\n2", [a, b]))
        self.assertFalse(same_content(b"1\n\n2\n", [a, b]))

    def test_cut(self):
        ids = [f"{n:016x}" for n in range(1, 8)]
        found = [span(spanId=i) for i in ids]
        documents = [spans(*found[:4]), logs(found[4]), spans(*found[5:])]
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "a.json").write_text("\n".join(json.dumps(d, indent=1) for d in documents))
            cut = [json.loads("".join(b.text)) for b in batches(folder, 500)]
        self.assertGreater(len(cut), 3)
        found = [s["spanId"] for d in cut for r in d.get("resourceSpans", d.get("resourceLogs")) for c in
                 r.get("scopeSpans", r.get("scopeLogs")) for s in c.get("spans", c.get("logRecords"))]
        self.assertEqual(found, ids)

    def test_other_ids(self):
        text = json.dumps(spans(span(("traceId", {"stringValue": f'"traceId":"{TRACE}"'}), parentSpanId=SPAN)),
                          indent=1)
        (piece,) = pieces(text, one_document=False)
        (old,), (new,) = ([s for r in json.loads(p)["resourceSpans"] for c in r["scopeSpans"] for s in c["spans"]]
                          for p in (piece, with_other_ids(piece, 3)))
        self.assertEqual(new["attributes"], old["attributes"])
        self.assertEqual(new["spanId"], new["parentSpanId"])
        self.assertNotEqual(new["spanId"], SPAN)
        self.assertEqual(len(new["traceId"]), 32)


if __name__ == "__main__":
    unittest.main()
