#!/usr/bin/env python3
"""Does every content value of a corpus come back, byte for byte, and nothing else?

    benches/check_exact.py --gravity target/release/gravity --store STORE CORPUS_DIR...

Reads the batches with Python (see otlp_content.py), asks `gravity reconstruct` for every trace, and
compares what each holds as a multiset of (span id, event, key, content). Exit 1 if anything differs.
"""
import argparse
import base64
import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from otlp_content import add_corpus_arguments, corpus_of


def printed_part(line):
    part = json.loads(line)
    if "content_base64" in part:
        content = base64.b64decode(part["content_base64"], validate=True)
    else:
        content = part["content"].encode("utf-8", "surrogatepass")
    return part["trace_id"], part.get("span_id") or "", part.get("event"), part["key"], content


def differences(gravity, store, trace_id, entries):
    """What is wrong with one trace, as lines of text."""
    expected = Counter((trace_id, e.span_id, *part) for e in entries for part in e.parts)
    run = subprocess.run([gravity, "reconstruct", "--store", store, "--json", trace_id],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if run.returncode and (expected or run.stdout):
        return [f"{trace_id}: exit code {run.returncode}: {run.stderr.decode(errors='replace').strip()[-300:]}"]
    try:
        printed = Counter(printed_part(line) for line in run.stdout.split(b"\n") if line)
    except (ValueError, KeyError, TypeError) as e:
        return [f"{trace_id}: unreadable output: {type(e).__name__}: {e}"]
    return [f"{what}: trace {trace} span {span} event {event!r} key {key!r}, "
            f"{len(content)} bytes, {count} times: {content[:80]!r}"
            for what, parts in (("missing", expected - printed), ("too much", printed - expected))
            for (trace, span, event, key, content), count in parts.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_corpus_arguments(parser)
    parser.add_argument("--store", required=True)
    parser.add_argument("--jobs", type=int, default=2, help="reconstruct processes at a time (default: %(default)s)")
    parser.add_argument("--show", type=int, default=10, help="how many differences to print (default: %(default)s)")
    parser.add_argument("corpus", nargs="+", metavar="CORPUS_DIR")
    args = parser.parse_args()

    corpus = corpus_of(args)
    with ThreadPoolExecutor(args.jobs) as pool:
        found = [line for lines in pool.map(
            lambda item: differences(args.gravity, args.store, *item), corpus.traces.items()) for line in lines]
    print(f"differences: {len(found)}")
    for line in found[:args.show]:
        print(" ", line)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
