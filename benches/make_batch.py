#!/usr/bin/env python3
"""Writes an OTLP JSON batch of any size to stdout: the documents of a corpus again and again, with other ids.

    benches/make_batch.py --size 1GiB CORPUS_DIR > big.json

One document a line, or all in one (`--one-document`). The same ids become the same ids within a
repetition, across files too, so traces and parents hold together. Memory: the largest file of the corpus.
"""
import argparse
import functools
import hashlib
import re
import sys

from json_slices import documents, elements, json_files, members

# In a string the quote after the name would be escaped, so only fields match.
ID = re.compile(rb'("(?:traceId|spanId|parentSpanId)"\s*:\s*")([0-9a-fA-F]{32}|[0-9a-fA-F]{16})(?=")')
UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}


def size(text):
    number, unit = re.fullmatch(r"([\d.]+)\s*(|[kmg]i?)b?", text.lower()).groups()
    return int(float(number) * UNITS[unit])


def with_other_ids(piece, repetition):
    @functools.lru_cache(None)
    def other(old):
        if not old.strip(b"0"):
            return old  # all zero: no id
        digest = hashlib.blake2b(old.lower(), digest_size=len(old) // 2, key=b"%d" % repetition)
        return digest.hexdigest().encode()

    return ID.sub(lambda m: m[1] + other(m[2]), piece)


def pieces(text, one_document):
    """The documents of a file, each on one line; or only what stands in their lists of resource spans."""
    for start, end in documents(text):
        if one_document:
            fields = members(text, start)
            if fields.keys() != {"resourceSpans"}:
                continue  # logs cannot stand in one document with spans
            spans = list(elements(text, fields["resourceSpans"][0]))
            if not spans:
                continue
            start, end = spans[0][0], spans[-1][1]
        yield text[start:end].encode("latin-1").replace(b"\n", b" ").replace(b"\r", b" ")


def repetitions(folders, one_document):
    """(repetition, piece) without end. The files are read again each time: no more than one is in memory."""
    repetition = 0
    while True:
        count = 0
        for _, text in json_files(folders):
            for piece in pieces(text, one_document):
                yield repetition, piece
                count += 1
        if not count:
            raise SystemExit("no documents to repeat")
        repetition += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=size, required=True,
                        help="bytes, or 500MB, 1GiB: stops after the document that reaches it")
    parser.add_argument("--one-document", action="store_true", help="one big document instead of one a line")
    parser.add_argument("corpus", nargs="+", metavar="CORPUS_DIR")
    args = parser.parse_args()

    opening, between, closing = (b'{"resourceSpans":[', b",", b"]}\n") if args.one_document else (b"", b"\n", b"\n")
    written = sys.stdout.buffer.write(opening)
    for number, (repetition, piece) in enumerate(repetitions(args.corpus, args.one_document)):
        written += sys.stdout.buffer.write(between if number else b"")
        written += sys.stdout.buffer.write(with_other_ids(piece, repetition))
        if written >= args.size:
            break
    written += sys.stdout.buffer.write(closing)
    print(f"{written:,} bytes, {number + 1:,} documents, {repetition + 1:,} repetitions", file=sys.stderr)


if __name__ == "__main__":
    main()
