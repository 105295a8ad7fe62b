#!/usr/bin/env python3
"""Cuts a corpus into many small batches, as a collector with a small batch size would have written them.

    benches/cut_corpus.py --raw-bytes 500000 CORPUS_DIR OUT_DIR

Cuts between spans (or log records); every span stands byte for byte, in its own resource and scope.
Writes OUT_DIR/raw-spans/dt=.../hour=.../batch-traces_NNNNNN.json.gz, one document each.
"""
import argparse
import gzip
import re
from pathlib import Path

from json_slices import documents, elements, json_files, members

LEVELS = {"traces": ("resourceSpans", "scopeSpans", "spans"), "logs": ("resourceLogs", "scopeLogs", "logRecords")}


def leaves(text, start, end, levels, wrappers=()):
    """(wrappers, text) of each span in the object at start..end. A wrapper is (what stands before the list,
    what stands after it, where it is: pieces in the same place share it)."""
    if not levels:
        yield wrappers, text[start:end]
        return
    fields = members(text, start)
    if levels[0] in fields:
        first, last = fields[levels[0]]
        wrapper = text[start:first + 1], text[last - 1:end], start
        for element in elements(text, first):
            yield from leaves(text, *element, levels[1:], wrappers + (wrapper,))


def corpus_leaves(folder):
    """(path, signal, wrappers, text) of each span and log record."""
    for path, text in json_files([folder]):
        for start, end in documents(text):
            for signal, levels in LEVELS.items():
                for wrappers, leaf in leaves(text, start, end, levels):
                    (before, after, _), *inner = wrappers
                    # Documents of the same form run together, whatever file they are in.
                    yield path, signal, ((before, after, None), *((*w, path, start) for w in inner)), leaf


class Batch:
    def __init__(self, path, signal):
        self.path, self.signal, self.open, self.text, self.size = path, signal, (), [], 0

    def write(self, text):
        self.text.append(text)
        self.size += len(text)

    def add(self, wrappers, leaf):
        """Closes the wrappers that the leaf does not stand in, opens the ones it does."""
        shared = next((i for i, (a, b) in enumerate(zip(self.open, wrappers)) if a != b), len(self.open))
        self.close(shared)
        self.write("," if self.size else "")
        self.write("".join(before for before, *_ in wrappers[shared:]) + leaf)
        self.open = wrappers

    def close(self, keep=0):
        self.write("".join(after for _, after, *_ in reversed(self.open[keep:])))


def batches(folder, raw_bytes):
    batch = None
    for path, signal, wrappers, leaf in corpus_leaves(folder):
        full = batch and batch.size + len(leaf) // 2 > raw_bytes  # whichever is nearer
        if batch and (full or batch.signal != signal or batch.open[0] != wrappers[0]):
            batch.close()
            yield batch
            batch = None
        batch = batch or Batch(path, signal)
        batch.add(wrappers, leaf)
    if batch:
        batch.close()
        yield batch


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw-bytes", type=int, default=500_000, help="of JSON, before gzip (default: %(default)s)")
    parser.add_argument("corpus", metavar="CORPUS_DIR")
    parser.add_argument("out", metavar="OUT_DIR", type=Path)
    args = parser.parse_args()
    if (args.out / "raw-spans").exists():
        raise SystemExit(f"{args.out}/raw-spans is there already")

    count = total = 0
    for batch in batches(args.corpus, args.raw_bytes):
        partition = re.search(r"dt=[^/]+/hour=[^/]+", str(batch.path))
        folder = args.out / "raw-spans" / (partition[0] if partition else "dt=1970-01-01/hour=00")
        folder.mkdir(parents=True, exist_ok=True)
        with gzip.GzipFile(folder / f"batch-{batch.signal}_{count:06}.json.gz", "wb", 6, mtime=0) as file:
            file.write("".join(batch.text).encode("latin-1"))
        count += 1
        total += batch.size
    print(f"{count:,} batches, {total:,} bytes raw")


if __name__ == "__main__":
    main()
