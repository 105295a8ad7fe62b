#!/usr/bin/env python3
"""The whole chain, with the real programs: requests -> LiteLLM -> OpenTelemetry Collector -> S3 -> Gravity's worker
-> `gravity reconstruct`. Every prompt and completion that was sent must come back, byte for byte.

  dev/e2e/run.py            all on free ports of 127.0.0.1, without a network; a minute or two
  dev/e2e/run.py --keep     leaves everything running, and says where
"""

import argparse
import concurrent.futures
import functools
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "native"))
import stack  # noqa: E402 (it stands in dev/native/)
from seaweedfs import Stopped, on_stop_signals, raise_stopped  # noqa: E402
from cases import all_cases, last_case  # noqa: E402
from checks import (  # noqa: E402
    Store, Wrong, check_all, check_case, check_collector, check_hook, check_queue_empties, check_restored, expect,
    sample_checks, send_samples,
)  # fmt: skip
from watch import check_prometheus  # noqa: E402
from upstream import Upstream  # noqa: E402


def send(case, port):
    """Sends the request, and checks that the proxy passes on what the provider said."""
    headers = {"Content-Type": "application/json", "traceparent": f"00-{case.trace_id}-{case.trace_id[:16]}-01"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(case.body()), headers)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    if case.error:
        expect(f"{case.name}: status", response.status, 400)
        return
    expect(f"{case.name}: status ({body:.300})", response.status, 200)
    if case.extra.get("stream"):
        events = [json.loads(line[6:]) for line in body.split("\n") if line.startswith("data: {")]
        content = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
    else:
        message = json.loads(body)["choices"][0]["message"]
        content, called = message.get("content"), message.get("tool_calls") or []
        functions = [call["function"] for call in case.answer.get("tool_calls", [])]
        expect(f"{case.name}: tool calls", [call["function"] for call in called], functions)
    expect(f"{case.name}: answer", content, case.answer["content"])


def send_all(cases, upstream, port):
    for case in cases:
        if not case.burst:
            send(case, port)
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        for sent in [pool.submit(send, case, port) for case in cases if case.burst]:
            sent.result()
    for case in cases:
        if case.provider:
            got = upstream.received[case.trace_id]["messages"]
            expect(f"{case.name}: what the provider got", got, case.messages)


def script(services, name, *args):
    """Runs one of scripts/ on a stack, and gives what it prints."""
    env = {**os.environ, "NATIVE": "1", "STACK_DIR": str(services.folder), "GRAVITY": services.gravity()}
    done = subprocess.run([stack.ROOT / "scripts" / name, *args], env=env, capture_output=True, text=True)
    if done.returncode:
        raise Wrong(f"scripts/{name}: code {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def check_scripts(services, case):
    """That what a newcomer types shows what is stored."""
    expect("whether scripts/inspect.sh says something", bool(script(services, "inspect.sh").strip()), True)
    shown = script(services, "reconstruct.sh", case.trace_id)
    expect("whether scripts/reconstruct.sh shows the answer", case.answer["content"] in shown, True)


def check_stop(services):
    """That scripts/stop-services.sh ends whatever runs."""
    script(services, "stop-services.sh")
    answering = [name for name, place in stack.PLACES.items() if stack.get(services.url(place))[0]]
    expect("what still answers", answering, [])
    expect("whether the folder is still there", services.folder.exists(), False)


def run(folder, stacks, step):
    """Starts each stack into `stacks`, so that the caller ends it whatever happens."""
    cases, last = all_cases(), last_case()
    upstream = Upstream([*cases, last])
    # The real provider's route, to a provider of ours.
    os.environ.update(OPENAI_API_KEY="sk-local", OPENAI_BASE_URL=upstream.url)

    # One S3 server tells a queue of new objects, and that queue's worker keeps a packed store; the other's worker looks
    # for itself, and keeps a loose one. The collector of the first gets what the second one's sends to Jaeger.
    events = stack.Stack(folder / "by-events")
    events.create({**stack.settings(free_ports=True), "S3_SERVER": "ministack", "LAYOUT": "packed"})
    polling = stack.Stack(folder / "by-polling")
    jaeger = f"{stack.HOST}:{events.port('OTLP_GRPC')}"
    polling.create({**stack.settings(free_ports=True), "WORKER": "polling", "JAEGER_ENDPOINT": jaeger})
    stacks += [events, polling]
    events.start(["collector", "s3", "worker", "prometheus"])
    script(polling, "start-services.sh")
    step("all programs are up")

    send_all(cases, upstream, int(polling.port("LITELLM")))
    send_samples(polling, "traces")
    for services in stacks:  # Jaeger is for traces: logs do not go on to the second collector
        send_samples(services, "logs")
    checks = [(f"{case.name} ({case.trace_id})", functools.partial(check_case, case)) for case in cases]
    checks += sample_checks(polling.gravity(), folder / "samples")
    step(f"{len(cases)} requests answered; sample batches sent")

    for services in stacks:
        name = services.folder.name
        store = Store(services.gravity(), f"s3://{services.settings['TRACES_BUCKET']}", services.s3_variables())
        check_all(name, store, checks)
        check_collector(services)
        step(f"{name}: all content of {len(checks)} traces came back, byte for byte")
    packed = Store(events.gravity(), f"s3://{events.settings['TRACES_BUCKET']}", events.s3_variables())
    check_all("by-events", packed, [("raw batches", functools.partial(check_restored, events))])
    step("by-events: every raw batch was restored, byte for byte")
    check_prometheus(events, polling)
    step("Prometheus has scraped, and dashboard and alerts name what there is")
    check_hook(polling)
    check_queue_empties(polling, store)
    step("every batch in SeaweedFS was told to the queue, and a worker on it left none in it and nothing in quarantine")
    check_scripts(polling, next(case for case in cases if case.name == "chat"))
    step("scripts/ show what is stored")

    # Ended in order, neither proxy nor collector takes anything with it that was answered.
    send(last, int(polling.port("LITELLM")))
    for service in ("litellm", "collector"):
        expect(f"whether {service} ended by itself", polling.end(service), True)
    store = Store(polling.gravity(), f"s3://{polling.settings['TRACES_BUCKET']}", polling.s3_variables())
    check_all("after the shutdown", store, [(last.name, functools.partial(check_case, last))])
    step("what was answered just before the shutdown came back too")
    check_stop(polling)
    step("scripts/stop-services.sh ended all of it")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="leave everything running")
    args = parser.parse_args()
    began, folder, stacks = time.monotonic(), Path(tempfile.mkdtemp(prefix="gravity-e2e-")), []

    def step(what):
        print(f"e2e: {time.monotonic() - began:5.1f} s  {what}", flush=True)

    on_stop_signals(raise_stopped)  # whatever ends this, ends what it has started
    try:
        run(folder, stacks, step)
        return 0
    except Stopped as stopped:
        return 128 + stopped.args[0]
    except (Wrong, stack.Failed) as wrong:
        for services in stacks:
            for service in ("litellm", "collector", "events", "worker"):
                print(f"==> {services.folder.name}: {service}\n{services.log(service)}", file=sys.stderr)
        print(f"e2e: {wrong}", file=sys.stderr)
        return 1
    finally:
        on_stop_signals(signal.SIG_IGN)
        for services in stacks:
            if args.keep:
                print(f"e2e: dev/native/stack.py status --dir {services.folder}")
            else:
                services.stop()
        if not args.keep:
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
