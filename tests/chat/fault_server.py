"""A chat-completions server on loopback that misbehaves as told: seeded, scripted, counting.

Each request gets the next name of ``script``, else a fault drawn with probability ``rate`` from ``faults``, else the
honest reply. A fault is drawn from the request's body and how often that body came before, so that the order in which
requests arrive changes nothing.

Run by hand: ``python tests/chat/fault_server.py --rate 0.3 --port 8000``.
"""

from __future__ import annotations

import argparse
import contextlib
import email.utils
import hashlib
import json
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Responder = Callable[["Handler", dict[str, Any]], None]
Answer = Callable[[dict[str, Any]], str]
FAULTS: dict[str, Responder] = {}

# What a patient client gets over: asking again gives the honest reply.
PASSING = (
    "rate_limit", "http_500", "http_503_html", "reset", "cut_body", "broken_json", "html_200", "error_200",
    "empty_choices", "null_content", "no_usage", "length", "prose", "fences", "schema_echo", "wrong_schema",
    "duplicate_keys", "attributes_400", "nan", "huge", "no_finish_reason", "compressed",
)  # fmt: skip


def fault(function: Responder) -> Responder:
    """Register a responder under its name."""
    FAULTS[function.__name__] = function
    return function


def honest_reply(body: dict[str, Any]) -> str:
    """A reply that obeys the schema of ``response_format`` (flat objects of strings and enums), or the question."""
    wanted = body.get("response_format", {}).get("json_schema", {}).get("schema")
    if wanted is None:
        return f"You said: {last_question(body)}"
    digest = hashlib.sha256(first_question(body).encode()).hexdigest()
    return json.dumps(_instance(wanted, digest))


def first_question(body: dict[str, Any]) -> str:
    """Text of the first user message: the same for a question and its repairs."""
    return str(next(m["content"] for m in body["messages"] if m["role"] == "user"))


def last_question(body: dict[str, Any]) -> str:
    """Text of the last message."""
    return str(body["messages"][-1]["content"])


def _instance(schema: dict[str, Any], digest: str) -> Any:
    if "enum" in schema:
        return schema["enum"][int(digest, 16) % len(schema["enum"])]
    if schema.get("type") == "object":
        return {name: _instance(part, digest) for name, part in schema["properties"].items()}
    if schema.get("type") == "array":
        return [_instance(schema["items"], digest)] * schema.get("minItems", 1)
    return {"integer": int(digest[:4], 16), "boolean": True}.get(schema.get("type", ""), f"word-{digest[:8]}")


class FaultServer(ThreadingHTTPServer):
    """The server; ``requests`` counts all, ``seen`` by fault name ('ok' for honest replies), ``bodies`` keeps them."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self, *, script: tuple[str, ...] = (), rate: float = 0.0, faults: tuple[str, ...] = PASSING, seed: int = 0,
        answer: Answer = honest_reply, seconds: float = 0.0, port: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(("127.0.0.1", port), Handler)
        self.script, self.rate, self.faults, self.seed = list(script), rate, faults, seed
        self.answer, self.seconds = answer, seconds
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.requests, self.most_at_once, self._at_once = 0, 0, 0
        self.seen: Counter[str] = Counter()
        self.repeats: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []

    @property
    def base_url(self) -> str:
        """Address for ``base_url``."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def choose(self, body: dict[str, Any]) -> str:
        """Name of the next behaviour."""
        with self.lock:
            self.requests += 1
            self.bodies.append(body)
            digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
            self.repeats[digest] += 1
            name = self.script.pop(0) if self.script else self._drawn(digest, self.repeats[digest])
            self.seen[name] += 1
        return name

    def _drawn(self, digest: str, repeat: int) -> str:
        draw = hashlib.sha256(f"{self.seed}:{digest}:{repeat}".encode()).digest()
        if int.from_bytes(draw[:4], "big") / 2**32 >= self.rate:
            return "ok"
        return self.faults[int.from_bytes(draw[4:8], "big") % len(self.faults)]

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count requests under way."""
        with self.lock:
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            yield
        finally:
            with self.lock:
                self._at_once -= 1

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the game."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        with self.server.counted():
            self.server.stopping.wait(self.server.seconds)
            FAULTS[self.server.choose(body)](self, body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def send(self, status: int, data: bytes, kind: str = "application/json", **headers: str) -> None:
        """A whole answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def send_json(self, status: int, data: Any, **headers: str) -> None:
        """A whole JSON answer."""
        self.send(status, json.dumps(data).encode(), **headers)

    def reply(self, body: dict[str, Any], text: str | None, finish: str | None = "stop", **changes: Any) -> None:
        """A completion; ``changes`` replace top-level fields (None removes them)."""
        self.send_json(200, completion(body, text, finish, **changes))

    def error(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        """An error object as OpenAI writes it."""
        self.send_json(status, {"error": {"message": message, "type": code or "error", "code": code}}, **headers)


def completion(body: dict[str, Any], text: str | None, finish: str | None = "stop", **changes: Any) -> dict[str, Any]:
    """The body of an ordinary completion."""
    message = {"role": "assistant", "content": text}
    data = {
        "id": "x", "object": "chat.completion", "created": 1, "model": body.get("model"),
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
    }  # fmt: skip
    return {name: value for name, value in (data | changes).items() if value is not None}


@fault
def ok(h: Handler, body: dict[str, Any]) -> None:
    h.reply(body, h.server.answer(body))


@fault
def rate_limit(h: Handler, body: dict[str, Any]) -> None:
    h.error(429, "slow down", "rate_limit_exceeded")


@fault
def rate_limit_1(h: Handler, body: dict[str, Any]) -> None:
    h.error(429, "slow down", "rate_limit_exceeded", Retry_After="1")


@fault
def rate_limit_short(h: Handler, body: dict[str, Any]) -> None:
    h.error(429, "slow down", "rate_limit_exceeded", Retry_After="0.05")


@fault
def rate_limit_3600(h: Handler, body: dict[str, Any]) -> None:
    h.error(429, "slow down", "rate_limit_exceeded", Retry_After="3600")


@fault
def rate_limit_date(h: Handler, body: dict[str, Any]) -> None:
    when = email.utils.formatdate(time.time() + 1, usegmt=True)
    h.error(429, "slow down", "rate_limit_exceeded", Retry_After=when)


@fault
def quota(h: Handler, body: dict[str, Any]) -> None:
    h.error(429, "You exceeded your current quota", "insufficient_quota")


@fault
def http_500(h: Handler, body: dict[str, Any]) -> None:
    h.error(500, "boom")


@fault
def http_503_html(h: Handler, body: dict[str, Any]) -> None:
    h.send(503, b"<html><body>Service Unavailable</body></html>", "text/html")


@fault
def http_400(h: Handler, body: dict[str, Any]) -> None:
    h.error(400, "this model's maximum context length is 100 tokens", "context_length_exceeded")


@fault
def no_response_format(h: Handler, body: dict[str, Any]) -> None:
    if "response_format" in body:
        return h.error(400, "unknown field: response_format", "invalid_request_error")
    return ok(h, body)


@fault
def strict_parameters(h: Handler, body: dict[str, Any]) -> None:
    if "max_tokens" in body:
        return h.error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "unsupported")
    if "temperature" in body:
        return h.error(400, "Unsupported value: 'temperature' does not support 0.0.", "unsupported_value")
    return ok(h, body)


@fault
def http_401(h: Handler, body: dict[str, Any]) -> None:
    h.error(401, f"Incorrect API key provided: {h.headers.get('Authorization')}", "invalid_api_key")


@fault
def http_403(h: Handler, body: dict[str, Any]) -> None:
    h.error(403, "country not supported")


@fault
def http_404(h: Handler, body: dict[str, Any]) -> None:
    h.error(404, "The model does not exist", "model_not_found")


@fault
def redirect(h: Handler, body: dict[str, Any]) -> None:
    h.send(307, b"", Location="http://127.0.0.1:9/elsewhere")


@fault
def reset(h: Handler, body: dict[str, Any]) -> None:
    h.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    h.close_connection = True
    h.connection.close()


@fault
def cut_body(h: Handler, body: dict[str, Any]) -> None:
    data = json.dumps(completion(body, "half")).encode()
    h.send_response(200)
    h.send_header("Content-Length", str(len(data)))
    h.end_headers()
    h.wfile.write(data[: len(data) // 2])
    h.close_connection = True


@fault
def hang(h: Handler, body: dict[str, Any]) -> None:
    h.server.stopping.wait(60)
    h.close_connection = True


@fault
def drip(h: Handler, body: dict[str, Any]) -> None:
    data = json.dumps(completion(body, h.server.answer(body))).encode()
    h.send_response(200)
    h.send_header("Content-Length", str(len(data)))
    h.end_headers()
    for byte in data:
        if h.server.stopping.wait(0.05):
            break
        h.wfile.write(bytes([byte]))
    h.close_connection = True


@fault
def broken_json(h: Handler, body: dict[str, Any]) -> None:
    h.send(200, b'{"choices": [{"message": {"content": "ha')


@fault
def html_200(h: Handler, body: dict[str, Any]) -> None:
    h.send(200, b"<html>please log in</html>", "text/html")


@fault
def error_200(h: Handler, body: dict[str, Any]) -> None:
    h.error(200, "overloaded", "server_error")


@fault
def empty_choices(h: Handler, body: dict[str, Any]) -> None:
    h.reply(body, None, choices=[])


@fault
def null_content(h: Handler, body: dict[str, Any]) -> None:
    h.reply(body, None)


@fault
def no_finish_reason(h: Handler, body: dict[str, Any]) -> None:
    h.reply(body, h.server.answer(body), None)


@fault
def no_usage(h: Handler, body: dict[str, Any]) -> None:
    h.reply(body, h.server.answer(body), usage=None)


@fault
def length(h: Handler, body: dict[str, Any]) -> None:
    h.reply(body, h.server.answer(body)[:-2], "length")


@fault
def prose(h: Handler, body: dict[str, Any]) -> None:
    h.reply(body, _if_json(body, f"Sure {{no problem}}! Here it is: {h.server.answer(body)} I hope that helps [1]."))


@fault
def fences(h: Handler, body: dict[str, Any]) -> None:
    h.reply(body, _if_json(body, f"<think>a {{hard}} one</think>\n```json\n{h.server.answer(body)}\n```\n"))


@fault
def schema_echo(h: Handler, body: dict[str, Any]) -> None:
    wanted = body.get("response_format", {}).get("json_schema", {}).get("schema", {})
    h.reply(body, _if_json(body, json.dumps(wanted)))


@fault
def wrong_schema(h: Handler, body: dict[str, Any]) -> None:
    h.reply(body, _if_json(body, '{"something": "else"}'))


@fault
def duplicate_keys(h: Handler, body: dict[str, Any]) -> None:
    text = h.server.answer(body)
    h.reply(body, _if_json(body, "{" + text[1:-1] + ", " + text[1:-1] + "}"))


@fault
def attributes_400(h: Handler, body: dict[str, Any]) -> None:
    many = json.dumps({"attributes": [{"name": f"attribute {i}"} for i in range(400)]})
    h.reply(body, _if_json(body, many))


@fault
def nan(h: Handler, body: dict[str, Any]) -> None:
    h.reply(body, _if_json(body, '{"animal": NaN}'))


@fault
def huge(h: Handler, body: dict[str, Any]) -> None:
    h.reply(body, "x" * 10_000_000)


@fault
def compressed(h: Handler, body: dict[str, Any]) -> None:
    h.send(200, b"\x1f\x8b not asked for", Content_Encoding="gzip")


@fault
def refusal(h: Handler, body: dict[str, Any]) -> None:
    message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}
    h.reply(body, None, choices=[{"index": 0, "message": message, "finish_reason": "stop"}])


@fault
def content_filter(h: Handler, body: dict[str, Any]) -> None:
    h.reply(body, "", "content_filter")


def _if_json(body: dict[str, Any], text: str) -> str:
    """Faults of JSON replies are honest replies where no JSON was asked for."""
    return text if "response_format" in body else honest_reply(body)


@contextlib.contextmanager
def serving(**settings: Any) -> Iterator[FaultServer]:
    """A ``FaultServer`` that answers until the block ends."""
    server = FaultServer(**settings)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--faults", nargs="*", default=PASSING, choices=sorted(FAULTS))
    options = parser.parse_args()
    with FaultServer(rate=options.rate, seed=options.seed, port=options.port, faults=tuple(options.faults)) as server:
        print(server.base_url, flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
