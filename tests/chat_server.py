"""A server that answers chat completions as a language-model judge would."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rlhf.judges.chat_completions import Endpoint
from rlhf.judges.judge import blind_pairs
from rlhf.judges.language_model import LlmJudge


class Server(ThreadingHTTPServer):
    """Answers by `behave(request, attempt)`: a status, headers, a body, or None to hang up."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave = lambda request, attempt: (200, {}, completion(verdict_by_length(request)))
        self.lock = threading.Lock()
        self.seen = Counter()  # idempotency key -> requests
        self.answered = Counter()  # idempotency key -> replies of status 200
        self.requests = []
        self.headers = []
        self.delay = 0.0
        self.busy = self.most_busy = 0

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_):
        pass  # a client that was killed


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server, key = self.server, self.headers["Idempotency-Key"]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = json.loads(body)
        with server.lock:
            attempt = server.seen[key]
            server.seen[key] += 1
            server.requests.append(request)
            server.headers.append(dict(self.headers))
            server.busy += 1
            server.most_busy = max(server.most_busy, server.busy)
        time.sleep(server.delay)
        with server.lock:
            server.busy -= 1
        reply = server.behave(request, attempt)
        if reply is None or self.path != "/v1/chat/completions":
            self.close_connection = True
            return
        status, headers, text = reply
        raw = text.encode()
        with server.lock:
            server.answered[key] += status == 200
        self.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


def completion(text, tokens=50):
    return json.dumps({"choices": [{"message": {"content": text}}], "usage": {"total_tokens": tokens}})


def responses(request):
    """What the request shows as A and as B."""
    user = request["messages"][1]["content"]
    return [re.search(rf"\[response {x} \w+\]\n(.*?)\n\[end of response", user, re.S)[1] for x in "AB"]


def verdict_by_length(request):
    a, b = (len(text) for text in responses(request))
    return f"Let me see.\n\nVerdict: {'A' if a > b else 'B' if b > a else 'tie'}"


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def make(server, tmp_path, limits=None, **changes):
    settings = {"backoff": 0.01, "timeout": 60.0} | changes
    return LlmJudge(Endpoint(server.url, "judge-1", **settings), tmp_path / "answers.jsonl", **limits or {})


def pairs(n):
    """Outputs that are longer than the reference (even numbers) or shorter (odd)."""
    outputs = [f"output {i}" + " more" * (0 if i % 2 else 3) for i in range(n)]
    references = [f"reference {i}!!" for i in range(n)]
    prompts = [{"prompt": f"prompt {i}"} for i in range(n)]
    return blind_pairs("ppo-7", prompts, references, outputs, split="test", source="here", seed=3)
