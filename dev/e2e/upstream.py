"""A provider of models: an HTTP server that speaks OpenAI's chat completions and gives prepared answers."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Upstream:
    """Answers each request as its `user` says, and keeps what it was sent."""

    def __init__(self, cases):
        self.cases = {case.trace_id: case for case in cases}
        self.received = {}
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                upstream.received[body["user"]] = body
                case = upstream.cases[body["user"]]
                if case.error:
                    self.reply(400, {"error": {"message": case.error, "type": "invalid_request_error"}})
                elif body.get("stream"):
                    self.stream(body, case.answer)
                else:
                    self.reply(200, completion(body, "chat.completion", message=case.answer))

            def reply(self, status, document):
                data = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def stream(self, body, answer):
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                content = answer["content"]
                # Cut anywhere: a line break or an emoji may fall on either side.
                pieces = [content[at : at + 5] for at in range(0, len(content), 5)]
                deltas = [{"role": "assistant", "content": ""}, *({"content": piece} for piece in pieces)]
                for delta in deltas:
                    self.event(completion(body, "chat.completion.chunk", delta=delta, finish=None))
                self.event(completion(body, "chat.completion.chunk", delta={}))
                self.wfile.write(b"data: [DONE]\n\n")
                self.close_connection = True

            def event(self, document):
                self.wfile.write(b"data: " + json.dumps(document).encode() + b"\n\n")

            def log_message(self, *_args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def completion(body, kind, finish="stop", **choice):
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    document = {
        "id": "chatcmpl-" + body["user"],
        "object": kind,
        "created": 1700000000,
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": finish, **choice}],
    }
    return {**document, "usage": usage} if kind == "chat.completion" else document
