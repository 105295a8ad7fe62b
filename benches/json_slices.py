"""Where the pieces of a JSON text are, so that they can be copied as they stand.

Texts are bytes decoded as latin-1: JSON's own characters are ASCII, so places in the text are places in
the bytes, and encoding as latin-1 gives the bytes back. Also what make_batch and cut_corpus share.
"""
import json
import re
import sys

from otlp_content import decompressed, files

DECODER = json.JSONDecoder()
BLANKS = re.compile(r"[ \t\r\n]*")


def after_blanks(text, at):
    return BLANKS.match(text, at).end()


def documents(text):
    """(start, end) of each document."""
    at = after_blanks(text, 0)
    while at < len(text):
        end = DECODER.raw_decode(text, at)[1]
        yield at, end
        at = after_blanks(text, end)


def elements(text, start):
    """(start, end) of each element of the array that starts at `start`."""
    at = after_blanks(text, start + 1)
    while text[at] != "]":
        end = DECODER.raw_decode(text, at)[1]
        yield at, end
        at = after_blanks(text, end)
        at = after_blanks(text, at + 1) if text[at] == "," else at


def members(text, start):
    """{key: (start, end) of its value} of the object that starts at `start`."""
    found, at = {}, after_blanks(text, start + 1)
    while text[at] != "}":
        key, at = DECODER.raw_decode(text, at)
        at = after_blanks(text, after_blanks(text, at) + 1)  # the colon
        end = DECODER.raw_decode(text, at)[1]
        found[key] = at, end
        at = after_blanks(text, end)
        at = after_blanks(text, at + 1) if text[at] == "," else at
    return found


def json_files(folders):
    """(path, text) of each file that holds JSON, one in memory at a time; the others are named on stderr."""
    for path in files(folders):
        text = decompressed(path).decode("latin-1")
        if re.match(r'\s*\{\s*["}]', text):
            yield path, text
        else:
            print(f"skipped, not JSON: {path}", file=sys.stderr)
