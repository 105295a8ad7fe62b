"""What comes back from storage, compared with what was sent."""

import ast
import functools
import http.client
import json
import os
import subprocess
import time

import stack

# From the last request until the worker has the last batch: the SDK's 5 s, the collector's wait and batch, a poll;
# the rest is for a slow machine.
PATIENCE_SECONDS = 120


class Wrong(Exception):
    """What came back is not what was sent."""


def expect(what, got, wanted):
    if got != wanted:
        raise Wrong(f"{what}: got {got!r:.300}, not {wanted!r:.300}")


class Store:
    """A store that `gravity` reads: in a folder, or on a stack's S3."""

    def __init__(self, binary, location, variables):
        env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "S3_", "GRAVITY_"))}
        self.binary, self.env = binary, {**env, **variables, "GRAVITY_STORE": location}

    def gravity(self, *args):
        done = subprocess.run([self.binary, "-q", *map(str, args)], env=self.env, capture_output=True)
        if done.returncode:
            raise Wrong(f"gravity {' '.join(map(str, args))}: code {done.returncode}: {done.stderr.decode().strip()}")
        return done.stdout

    def parts(self, trace_id):
        """The trace's parts, in an order that does not depend on how its spans came."""
        # Not splitlines: content may hold other characters that Python takes for the end of a line.
        return sorted(self.gravity("reconstruct", "--json", trace_id).decode().split("\n")[:-1])


class Trace:
    """What `gravity reconstruct` gives of one trace."""

    def __init__(self, store, trace_id):
        self.store, self.trace_id = store, trace_id
        self.parts = [json.loads(line) for line in store.parts(trace_id)]

    def part(self, key):
        """The bytes of the one part with this key, as they come out of the pipe."""
        spans = [part["span_id"] for part in self.parts if part["key"] == key]
        if len(spans) != 1:
            raise Wrong(f"{len(spans)} spans have {key}, not 1; keys: {sorted({p['key'] for p in self.parts})}")
        return self.store.gravity("reconstruct", "--span", spans[0], "--part", key, self.trace_id)

    def text(self, key):
        return self.part(key).decode()


def check_case(case, store):
    """Every prompt, completion, tool and error of the request."""
    trace = Trace(store, case.trace_id)
    for at, message in enumerate(case.messages):
        key = f"gen_ai.prompt.{at}"
        expect(f"{key}.role", trace.text(f"{key}.role"), message["role"])
        content = message.get("content")
        if isinstance(content, str):
            expect(f"{key}.content", trace.part(f"{key}.content"), content.encode())
        elif content is not None:  # LiteLLM writes a list as Python does
            expect(f"{key}.content", ast.literal_eval(trace.text(f"{key}.content")), content)
    for at, tool in enumerate(case.extra.get("tools", [])):
        function, key = tool["function"], f"llm.request.functions.{at}"
        expect(f"{key}.name", trace.text(f"{key}.name"), function["name"])
        expect(f"{key}.description", trace.text(f"{key}.description"), function["description"])
        expect(f"{key}.parameters", json.loads(trace.text(f"{key}.parameters")), function["parameters"])
    if case.error:
        if case.error not in trace.text("exception"):
            raise Wrong(f"exception: {trace.text('exception')!r:.300} does not have {case.error!r}")
        return
    if case.answer.get("content"):
        expect("completion", trace.part("gen_ai.completion.0.content"), case.answer["content"].encode())
    for at, call in enumerate(case.answer.get("tool_calls", [])):
        for name, value in call["function"].items():
            key = f"gen_ai.completion.{at}.function_call.{name}"
            expect(key, trace.part(key), value.encode())
    if case.provider:  # the request as the provider got it, earlier tool calls too
        expect("llm.openai.messages", ast.literal_eval(trace.text("llm.openai.messages")), case.messages)


# The sample batches have shapes that this LiteLLM does not write: other versions, OpenInference, content as log
# records. They show that the collector's policy picks all of them.
SAMPLES = sorted((stack.DEV / "sample").rglob("batch-*.json.gz"))


def send_samples(services):
    """Sends the sample batches to the collector, as their producers once did."""
    for sample in SAMPLES:
        signal = "logs" if sample.name.startswith("batch-logs") else "traces"
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        connection = http.client.HTTPConnection("127.0.0.1", int(services.port("OTLP_HTTP")), timeout=60)
        connection.request("POST", f"/v1/{signal}", sample.read_bytes(), headers)
        response = connection.getresponse()
        expect(f"{sample.name}: status ({response.read()[:300]})", response.status, 200)
        connection.close()


def sample_checks(binary, folder):
    """A check for every sample trace: the same content as when the file is ingested as it is."""
    local = Store(binary, str(folder), {})
    indexes = [json.loads(line) for line in local.gravity("ingest", *SAMPLES).decode().split("\n")[:-1]]
    checks = []
    for trace_id in sorted({index["trace_id"] for index in indexes}):
        parts = local.parts(trace_id)
        if parts:  # a trace without content, the collector may drop
            checks.append((f"sample trace {trace_id}", functools.partial(check_sample, trace_id, parts)))
    return checks


def check_sample(trace_id, parts, store):
    expect("parts", store.parts(trace_id), parts)


def check_all(place, store, checks):
    """Makes each check until it holds: nobody says when a trace's last span has come."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while checks:
        wrong = []
        for at, (name, check) in enumerate(checks):
            try:
                check(store)
            except Wrong as why:
                wrong.append((name, check, why))
                if time.monotonic() < deadline:  # those after it are hardly there yet
                    wrong += [(*later, "not asked") for later in checks[at + 1 :]]
                    break
        if wrong and time.monotonic() > deadline:
            told = "\n".join(f"  {name}: {why}" for name, _, why in wrong)
            raise Wrong(f"{place}: {len(wrong)} traces are not as they were sent:\n{told}")
        checks = [(name, check) for name, check, _ in wrong]
        if checks:
            time.sleep(0.5)
    store.gravity("verify")
    expect(f"{place}: quarantine", store.gravity("quarantine", "list", "--json"), b"")


def check_collector(services):
    """That the collector lost nothing on its own account."""
    status, text = stack.get(services.url("COLLECTOR_METRICS") + "/metrics")
    expect("collector's metrics", status, 200)
    lost = ("_refused_", "_failed_", "_dropped_")
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    bad = [f"{name} {value}" for name, value in lines if any(word in name for word in lost) and float(value)]
    expect("what the collector lost", bad, [])
