"""What the end to end sends: requests to the LLM proxy, and the answers that the provider behind it gives."""

import base64
import json
import secrets
import struct
import zlib
from dataclasses import dataclass, field

MODEL = "openai/gpt-4o-mini"  # the name of a real model: it is a real provider's route, to a server of ours


@dataclass
class Case:
    """One request, and what is to come back from storage."""

    name: str
    messages: list
    answer: dict = field(default_factory=dict)  # an assistant message, as the provider gives it
    error: str = ""  # what the provider says instead
    model: str = MODEL
    extra: dict = field(default_factory=dict)  # the rest of the request
    burst: bool = False  # sent beside others
    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))

    def body(self):
        # The provider finds its answer by `user`, which the proxy passes on.
        return {"model": self.model, "messages": self.messages, "user": self.trace_id, **self.extra}

    @property
    def provider(self):
        return self.model == MODEL


def text(role, content):
    return {"role": role, "content": content}


# Everything that a careless stage would trim, normalise, escape or cut.
AWKWARD = (
    "\r\n  leading blanks, CRLF\r\n\r\n\ttabs\t\nlone CR\rtrailing blanks   \n"
    "Grüße, 你好, שלום, 👩‍👩‍👧‍👦 e\u0301 \u200b\u2028\ufeff \\n \\u0041 \"quoted\" 'it''s' <b>&amp;</b> \x00\x01\x1b[0m\x7f\n\n\n"
)


def png():
    """A small picture, one that a viewer would open."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((x * y) % 256 for x in range(3 * 64)) for y in range(64))
    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather, now.\nIn °C — or in “Fahrenheit”.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "e.g. München"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


def calls(*arguments):
    return [
        {"id": f"call_{i}", "type": "function", "function": {"name": "get_weather", "arguments": value}}
        for i, value in enumerate(arguments)
    ]


def conversation(turns):
    """Each turn sends all that was said before it."""
    history, cases = [text("system", "You are terse.\nYou answer in one line, or two.")], []
    for turn in range(turns):
        history = [*history, text("user", f"Question {turn}:\nwhat is {turn} + {turn}?\n")]
        answer = text("assistant", f"Answer {turn}:\nit is {turn + turn}.")
        cases.append(Case(f"turn {turn} of a conversation", history, answer))
        history = [*history, answer]
    return cases


def tools():
    """A call of two tools, and the turn after it, with what they said."""
    asked = text("user", "How is the weather in Köln, and in Москва?")
    arguments = ('{"city": "Köln",\n "days": 1}', '{"city":"\\u041c\\u043e\\u0441\\u043a\\u0432\\u0430"}')
    called = {"role": "assistant", "tool_calls": calls(*arguments)}
    results = [
        {"role": "tool", "tool_call_id": f"call_{i}", "content": json.dumps({"celsius": i, "sky": "klar\n"})}
        for i in range(2)
    ]
    return [
        Case("tool calls", [asked], {**called, "content": None}, extra={"tools": [WEATHER]}),
        Case("tool results", [asked, called, *results], text("assistant", "Cold.\nColder."), extra={"tools": [WEATHER]}),
    ]


def all_cases():
    image = [
        {"type": "text", "text": "What's in it?\r\n\"Look\" closely: 👀"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(png()).decode()}},
    ]
    long_prompt = "".join(f"{n}: the quick brown fox\n" for n in range(500)) + "x" * 300_000
    burst = [
        Case(f"one of many: {n}", [text("user", f"{n}\n{secrets.token_hex(200)}")], text("assistant", f"{n}.\n"), burst=True)
        for n in range(60)
    ]
    return [
        Case("chat", [text("system", "Be kind."), text("user", "Hello.\n\nWho are you?")], text("assistant", "Nobody.\n")),
        *conversation(5),
        *tools(),
        Case("streaming", [text("user", "Count.\n")], text("assistant", "1\n2\n3 — drei…\n"), extra={"stream": True}),
        Case("awkward text", [text("system", AWKWARD), text("user", AWKWARD * 3)], text("assistant", AWKWARD)),
        Case("awkward text, streamed", [text("user", AWKWARD)], text("assistant", AWKWARD), extra={"stream": True}),
        Case("an image", [text("user", image)], text("assistant", "A gradient.")),
        Case("a long prompt", [text("user", long_prompt)], text("assistant", "Too long; did not read." * 2000)),
        Case("an empty answer", [text("user", "Say nothing.")], text("assistant", "")),
        Case("an error", [text("user", "This is\r\nrefused.")], error="The provider says no: «quota»."),
        Case("the mock model", [text("user", "Hi.\n")], text("assistant", "I am\r\na mock.\n"), model="mock",
             extra={"mock_response": "I am\r\na mock.\n"}),
        *burst,
    ]  # fmt: skip


def last_case():
    """Sent just before everything is told to end."""
    return Case("the last before a shutdown", [text("user", "Quick!\r\n")], text("assistant", "Done.\n"))
