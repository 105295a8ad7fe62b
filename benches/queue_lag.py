#!/usr/bin/env python3
"""How long from the end of an upload until the batch is committed, when S3's events come through SQS?

    benches/cut_corpus.py --raw-bytes 500000 DIR CUT
    dev/ministack.py run -- benches/queue_lag.py --gravity target/release/gravity CUT

One batch after the other is uploaded, the next one a moment after the last was committed, so that each
finds a worker that waits. The commit is when the worker's log line of it is read.
"""
import argparse
import http.client
import json
import os
import queue
import statistics
import subprocess
import threading
import time
import urllib.parse

from otlp_content import files

PAUSE = 0.05  # seconds between two batches
BUCKET = "lag"
ARN = "arn:aws:sqs:us-east-1:000000000000:lag"


def call(address, method, path, body=b"", headers=None):
    """One request; ministack takes it without a signature."""
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status // 100 != 2:
        raise SystemExit(f"{method} {path}: {answer.status} {content.decode(errors='replace')}")
    return content


def set_up(address):
    """A bucket whose events come into a queue; returns the queue's URL."""
    allow = {"Effect": "Allow", "Principal": {"Service": "s3.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": ARN}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
    sqs = {"X-Amz-Target": "AmazonSQS.CreateQueue", "Content-Type": "application/x-amz-json-1.0"}
    body = json.dumps({"QueueName": "lag", "Attributes": {"Policy": policy}}).encode()
    url = json.loads(call(address, "POST", "/", body, sqs))["QueueUrl"]
    call(address, "PUT", f"/{BUCKET}")
    events = ("<NotificationConfiguration><QueueConfiguration>"
              f"<Queue>{ARN}</Queue><Event>s3:ObjectCreated:*</Event>"
              "<Filter><S3Key><FilterRule><Name>prefix</Name><Value>raw-spans/</Value></FilterRule></S3Key></Filter>"
              "</QueueConfiguration></NotificationConfiguration>")
    call(address, "PUT", f"/{BUCKET}?notification", events.encode())
    return url


def read_commits(worker, commits):
    """Puts (key, time) into `commits` for each batch that the worker says is committed."""
    for line in worker.stderr:
        now = time.perf_counter()
        entry = json.loads(line)
        if entry.get("outcome") == "committed":
            commits.put((entry["batch"], now))
        elif entry["level"] != "INFO":
            print(line, end="")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gravity", metavar="BIN", default="target/release/gravity", help="default: %(default)s")
    parser.add_argument("--most", type=int, default=100, help="batches, the first ones; default: %(default)s")
    parser.add_argument("cut", metavar="CUT_DIR")
    args = parser.parse_args()
    if "GRAVITY_TEST_MINISTACK" not in os.environ:
        raise SystemExit("GRAVITY_TEST_MINISTACK is not set: dev/ministack.py run -- " + parser.prog)
    address = os.environ["GRAVITY_TEST_MINISTACK"].removeprefix("http://")
    batches = [path.read_bytes() for path in list(files([args.cut]))[:args.most]]
    if not batches:
        raise SystemExit(f"no batches in {args.cut}")

    url = set_up(address)
    env = {"PATH": os.environ["PATH"], "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "us-east-1",
           "AWS_ENDPOINT_URL": f"http://{address}", "NO_PROXY": "127.0.0.1", "GRAVITY_LISTEN": "off"}
    worker = subprocess.Popen([args.gravity, "worker", "--store", f"s3://{BUCKET}", "--queue", url, "--log-format", "json"],
                              env=env, stderr=subprocess.PIPE, text=True)
    commits = queue.Queue()
    threading.Thread(target=read_commits, args=(worker, commits), daemon=True).start()
    lags, raw = [], 0
    try:
        for n, batch in enumerate([batches[0], *batches]):
            key = f"raw-spans/dt=2025-10-31/hour=11/lag-{n:06}.json.gz"
            time.sleep(PAUSE if n else 2)  # until the worker's first listing is over
            call(address, "PUT", f"/{BUCKET}/{urllib.parse.quote(key)}", batch)
            uploaded = time.perf_counter()
            done, committed = commits.get(timeout=60)
            assert done == key, f"{done} was committed, {key} uploaded"
            if n:  # the first one pays for connections
                lags.append(committed - uploaded)
                raw += len(batch)
    finally:
        worker.terminate()
        worker.wait(30)
    lags.sort()
    print(f"{len(lags)} batches of {raw / len(lags) / 1000:.0f} kB compressed; upload to commit: "
          f"median {statistics.median(lags) * 1000:.0f} ms, p95 {lags[int(len(lags) * 0.95) - 1] * 1000:.0f} ms, "
          f"max {lags[-1] * 1000:.0f} ms")


if __name__ == "__main__":
    main()
