#!/usr/bin/env python3
"""Tells an SQS queue of new objects, as S3's own event notifications do. AWS needs nothing of this.

SeaweedFS and MinIO can post what happens to a web hook, and neither can send to SQS. This is the hook: it takes
SeaweedFS's notifications (notification.webhook) and MinIO's (which are S3 events already), and sends S3 events.

  dev/s3_events.py [--host 0.0.0.0] --port 9325 --sqs http://127.0.0.1:9324 --queue gravity

The queue is created if it is not there. GET /healthz answers once it is. What cannot be sent is answered with 503, and
the server posts it again; what it gives up on, Gravity's reconciling poll finds.
"""

import argparse
import http.client
import json
import re
import sys
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def call_sqs(endpoint, path, **parameters):
    """One request of SQS's query protocol; returns the body, or raises OSError."""
    url = urllib.parse.urlsplit(endpoint)
    connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=10)
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        # Not checked by local servers, but some tell the service and region by it.
        "Authorization": "AWS4-HMAC-SHA256 Credential=local/20250101/us-east-1/sqs/aws4_request, SignedHeaders=host, "
        "Signature=0",
    }
    try:
        connection.request("POST", path, urllib.parse.urlencode(parameters), headers)
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
    except http.client.HTTPException as error:
        raise OSError(f"SQS: {error!r}") from None
    finally:
        connection.close()
    if response.status != 200:
        raise OSError(f"SQS: {response.status} {body[:200]}")
    return body


def create_queue(endpoint, name):
    """The path of the queue `name`, once the server is up."""
    while True:
        try:
            body = call_sqs(endpoint, "/", Action="CreateQueue", QueueName=name, Version="2012-11-05")
            return urllib.parse.urlsplit(re.search(r"<QueueUrl>\s*(.*?)\s*</QueueUrl>", body)[1]).path
        except OSError:
            time.sleep(0.2)


def s3_event(posted):
    """What was posted, as an S3 event; None if it is not about a new object."""
    if "Records" in posted:  # MinIO
        return posted
    entry = posted.get("message", {}).get("new_entry")
    # SeaweedFS keeps a bucket in a folder, and tells of folders too.
    place = re.fullmatch(r"/buckets/([^/]+)/(.+)", posted.get("key", ""), re.DOTALL)
    if posted.get("event_type") not in ("create", "update", "rename") or not entry or not place:
        return None
    if entry.get("is_directory"):
        return None
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {
            "bucket": {"name": place[1]},
            "object": {
                "key": urllib.parse.quote_plus(place[2], safe="/"),
                "size": entry.get("attributes", {}).get("file_size", 0),
            },
        },
    }
    return {"Records": [record]}


def handler(endpoint, queue):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            try:
                event = s3_event(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                if event:
                    body = json.dumps(event)
                    call_sqs(endpoint, queue, Action="SendMessage", MessageBody=body, Version="2012-11-05")
                self.answer(200)
            except OSError as error:
                print(f"s3_events: {error}", file=sys.stderr, flush=True)
                self.answer(503)
            except (ValueError, TypeError, AttributeError) as error:
                print(f"s3_events: not an event: {error}", file=sys.stderr, flush=True)
                self.answer(400)

        def do_GET(self):
            self.answer(200 if self.path == "/healthz" else 404)

        def answer(self, status):
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args):
            pass

    return Handler


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--sqs", required=True, metavar="URL")
    parser.add_argument("--queue", required=True, metavar="NAME")
    args = parser.parse_args()
    queue = create_queue(args.sqs, args.queue)
    server = ThreadingHTTPServer((args.host, args.port), handler(args.sqs, queue))
    print(f"s3_events: http://{args.host}:{args.port} to {args.sqs}{queue}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
