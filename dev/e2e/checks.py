"""What comes back from storage, compared with what was sent."""

import ast
import functools
import gzip
import html
import http.client
import json
import os
import re
import subprocess
import time
import urllib.parse

import seaweedfs
import stack
from s3_events import call_sqs

# From the last request until the worker has the last batch: the SDK's 5 s, the collector's wait and batch, a poll;
# the rest is for a slow machine.
PATIENCE_SECONDS = 240


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

    def __init__(self, store, trace_id, raw):
        self.store, self.trace_id, self.raw = store, trace_id, raw
        self.parts = [json.loads(line) for line in store.parts(trace_id)]

    def text(self, key):
        """The one part with this key; with `raw`, also as its bytes come out of the pipe."""
        parts = [part for part in self.parts if part["key"] == key]
        if len(parts) != 1:
            raise Wrong(f"{len(parts)} spans have {key}, not 1; keys: {sorted({p['key'] for p in self.parts})}")
        content, span = parts[0]["content"], parts[0]["span_id"]
        if self.raw:
            got = self.store.gravity("reconstruct", "--span", span, "--part", key, self.trace_id)
            expect(f"{key}, its bytes", got, content.encode())
        return content


def check_case(case, store):
    """Every prompt, completion, tool and error of the request."""
    trace = Trace(store, case.trace_id, raw=not case.burst)
    for at, message in enumerate(case.messages):
        key = f"gen_ai.prompt.{at}"
        expect(f"{key}.role", trace.text(f"{key}.role"), message["role"])
        content = message.get("content")
        if isinstance(content, str):
            expect(f"{key}.content", trace.text(f"{key}.content"), content)
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
        expect("completion", trace.text("gen_ai.completion.0.content"), case.answer["content"])
    for at, call in enumerate(case.answer.get("tool_calls", [])):
        for name, value in call["function"].items():
            key = f"gen_ai.completion.{at}.function_call.{name}"
            expect(key, trace.text(key), value)
    if case.provider:  # the request as the provider got it, earlier tool calls too
        expect("llm.openai.messages", ast.literal_eval(trace.text("llm.openai.messages")), case.messages)


# Sample batches of shapes that this LiteLLM does not write as it is set up here: OpenInference, a newer version, content
# as log records. They show that the collector's policy picks all of them.
SAMPLES = {
    "batch-traces_390426523.json.gz": "traces",
    "batch-traces_346048237.json.gz": "traces",
    "batch-logs_157726992.json.gz": "logs",
}
# A span of thousands of lines costs thousands of requests, and shows nothing that a small one does not.
LARGEST_SPAN = 50_000


def sample(name):
    """The sample batch, without its largest spans."""
    (path,) = (stack.DEV / "sample").rglob(name)
    document = json.loads(gzip.decompress(path.read_bytes()))
    for resource in document.get("resourceSpans", []):
        for scope in resource["scopeSpans"]:
            scope["spans"] = [span for span in scope["spans"] if len(json.dumps(span)) <= LARGEST_SPAN]
    return json.dumps(document).encode()


def send_samples(services, signal):
    """Sends the sample batches of one signal to the collector, as their producers once did."""
    for name in [name for name, its_signal in SAMPLES.items() if its_signal == signal]:
        connection = http.client.HTTPConnection(stack.HOST, int(services.port("OTLP_HTTP")), timeout=60)
        connection.request("POST", f"/v1/{signal}", sample(name), {"Content-Type": "application/json"})
        response = connection.getresponse()
        expect(f"{name}: status ({response.read()[:300]})", response.status, 200)
        connection.close()


def sample_checks(binary, folder):
    """A check for every sample trace: the same content as when the batch is ingested as it is."""
    folder.mkdir()
    for name in SAMPLES:
        (folder / name.removesuffix(".gz")).write_bytes(sample(name))
    local = Store(binary, str(folder / "store"), {})
    indexes = [json.loads(line) for line in local.gravity("ingest", *folder.glob("*.json")).decode().split("\n")[:-1]]
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
            told = "\n".join(f"  {name}: {why}" for name, _, why in wrong[:10])
            raise Wrong(f"{place}: {len(wrong)} traces are not as they were sent, such as\n{told}")
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


def raw_batches(services):
    """The keys of the raw batches in the stack's bucket."""
    port, bucket = int(services.port("S3")), services.settings["TRACES_BUCKET"]
    status, listing = seaweedfs.s3(port, "GET", f"/{bucket}?list-type=2&prefix=raw-spans%2F")
    expect("status of the listing", status, 200)
    batches = set(re.findall("<Key>(.*?)</Key>", listing.decode()))
    expect("whether there are batches", bool(batches), True)
    return batches


def check_restored(services, store):
    """That a packed store gives back each raw batch, byte for byte."""
    for key in raw_batches(services):
        path = urllib.parse.quote(f"/{services.settings['TRACES_BUCKET']}/{key}", safe="/")
        status, raw = seaweedfs.s3(int(services.port("S3")), "GET", path)
        expect(f"{key}: status", status, 200)
        if store.gravity("restore", key) != gzip.decompress(raw):
            raise Wrong(f"{key}: what was restored is not what was written")


def ask_queue(services, **parameters):
    return call_sqs(services.url("SQS"), f"/000000000000/{stack.QUEUE}", Version="2012-11-05", **parameters)


def check_queue_empties(services, store):
    """That a worker which takes its batches from that queue leaves nothing in it, nor in quarantine."""
    env = {**store.env, **services.queue_variables()}
    with open(services.folder / "queue-worker.log", "wb") as log:
        worker = subprocess.Popen([store.binary, "worker", "--listen", "off"], env=env, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while left := messages(services):
            if time.monotonic() > deadline or worker.poll() is not None:
                said = (services.folder / "queue-worker.log").read_text(errors="replace")[-2000:]
                raise Wrong(f"{left} messages are still in the queue; its worker said\n{said}")
            time.sleep(0.2)
    finally:
        worker.terminate()
        worker.wait()
    expect("quarantine", store.gravity("quarantine", "list", "--json"), b"")


def messages(services):
    """How many messages the queue has, those in somebody's hand included."""
    told = ask_queue(services, **{"Action": "GetQueueAttributes", "AttributeName.1": "All"})
    counts = dict(re.findall(r"<Name>(\w+)</Name>\s*<Value>(\d+)</Value>", told))
    return int(counts["ApproximateNumberOfMessages"]) + int(counts["ApproximateNumberOfMessagesNotVisible"])


def check_hook(services):
    """That s3_events.py told the queue, which nobody read so far, of every batch, and of nothing else."""
    batches, told = raw_batches(services), set()
    while True:
        # Soon visible again, for whom it is meant.
        receive = {"Action": "ReceiveMessage", "MaxNumberOfMessages": 10, "VisibilityTimeout": 3}
        bodies = re.findall("<Body>(.*?)</Body>", ask_queue(services, **receive), re.DOTALL)
        if not bodies:
            break
        for record in [record for body in bodies for record in json.loads(html.unescape(body))["Records"]]:
            told.add(urllib.parse.unquote_plus(record["s3"]["object"]["key"]))
    expect("objects that the queue was told of", sorted(told), sorted(batches))
