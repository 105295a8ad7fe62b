#!/usr/bin/env python3
"""Can a reader of the original format read a loose store, and does it get the content of the corpus?

    benches/read_original.py --gravity target/release/gravity STORE_DIR CORPUS_DIR...

The reader below knows only `trace_id`, `span_id` and `hashes` of indexes/{trace_id}.json, and
blobs/{hash[0:2]}/{hash}.gz, joined by line ends. Exit 1 if anything differs.
"""
import argparse
import functools
import gzip
import itertools
import json
import sys
from pathlib import Path

from otlp_content import add_corpus_arguments, corpus_of


class OriginalReader:
    def __init__(self, store):
        self.store = Path(store)
        self.blob = functools.lru_cache(200_000)(self.blob)

    def blob(self, name):
        return gzip.decompress((self.store / "blobs" / name[:2] / f"{name}.gz").read_bytes())

    def trace(self, trace_id):
        """(trace id, span id, text)"""
        index = json.loads((self.store / "indexes" / f"{trace_id}.json").read_bytes())
        return index["trace_id"], index["span_id"], b"\n".join(map(self.blob, index["hashes"]))


def lines_of(entries):
    return [line for e in entries for _, _, content in e.parts for line in content.split(b"\n")]


def same_content(text, entries):
    """Entries of the same start and span id may stand in any order. `entries` are sorted."""
    lines, at = text.split(b"\n"), 0
    for _, group in itertools.groupby((e for e in entries if e.parts), lambda e: (e.start, e.span_id)):
        group = list(group)
        found = lines[at:at + len(lines_of(group))]
        at += len(found)
        if len(group) > 5:  # too many orders to try
            same = sorted(found) == sorted(lines_of(group))
        else:
            same = any(found == lines_of(order) for order in itertools.permutations(group))
        if not same:
            return False
    return at == len(lines)


def difference(reader, trace_id, entries):
    """What is wrong with one trace, or None."""
    entries = sorted(entries, key=lambda e: (e.start, e.span_id))
    with_content = [e for e in entries if e.parts]
    try:
        found_id, span_id, text = reader.trace(trace_id)
    except (OSError, ValueError, KeyError, EOFError) as e:
        absent = isinstance(e, FileNotFoundError) and not with_content
        return None if absent else f"{type(e).__name__}: {e}"
    if found_id != trace_id:
        return f"trace_id is {found_id}"
    if span_id not in {e.span_id for e in entries[:1] + with_content[:1]}:
        return f"span_id is {span_id}, the first span is {entries[0].span_id}"
    if not with_content:
        return None if text == b"" else "content where the corpus has none"
    if not same_content(text, entries):
        expected = b"\n".join(lines_of(entries))
        return f"other content: {len(text)} bytes, expected {len(expected)}"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_corpus_arguments(parser)
    parser.add_argument("--show", type=int, default=10, help="how many differences to print (default: %(default)s)")
    parser.add_argument("store", metavar="STORE_DIR")
    parser.add_argument("corpus", nargs="+", metavar="CORPUS_DIR")
    args = parser.parse_args()

    corpus = corpus_of(args)
    reader = OriginalReader(args.store)
    found = [f"{trace_id}: {why}" for trace_id, entries in corpus.traces.items()
             if (why := difference(reader, trace_id, entries))]
    others = {p.stem for p in (reader.store / "indexes").glob("*.json")} - corpus.traces.keys()
    print(f"{len(others):,} traces in the store are not in the corpus")
    print(f"differences: {len(found)}")
    for line in found[:args.show]:
        print(" ", line)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
