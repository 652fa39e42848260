"""A server of the chat protocol that really applies the adapters it is told to load, as vLLM does, with a tiny model."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

from runner.models.lvlm.generating import Question, generate
from runner.models.lvlm.loading import LoadedLvlm, read
from runner.nodes.merging.lora import merged_weight, read_adapter

KEY = "secret-key"


class AdapterServer(ThreadingHTTPServer):
    """``static``: adapters it was started with; ``updating``: whether it takes others; ``posts``: (path, body) of what it was sent."""

    daemon_threads = True

    def __init__(self, base: Path, *, static: dict[str, Path] | None = None, updating: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.base, self.updating, self.lock = base, updating, threading.Lock()
        self.adapters: dict[str, LoadedLvlm] = {}
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.broken: set[str] = set()
        for name, folder in (static or {}).items():
            self.load(name, folder)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def load(self, name: str, folder: Path) -> None:
        adapter = read_adapter(folder)
        config = json.loads((folder / "adapter_config.json").read_text())
        # vLLM reads one rank for all modules, and no whole tensors.
        assert not adapter.full and not config["rank_pattern"] and not config["alpha_pattern"]
        loaded = read(self.base, dtype="float32")
        modules = dict(loaded.network.named_modules())
        for module in adapter.factors:
            weight = modules[module].weight
            weight.data = merged_weight(weight.data, [adapter], [1.0], module)
        self.adapters[name] = loaded

    def asked(self, path: str) -> list[dict[str, Any]]:
        return [body for where, body in self.posts if where == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: AdapterServer

    def log_message(self, format: str, *args: Any) -> None:
        """Silence."""

    def do_GET(self) -> None:
        assert self.path == "/v1/models" and self.headers["Authorization"] == f"Bearer {KEY}"
        self.send(200, {"object": "list", "data": [{"id": name} for name in ["base", *self.server.adapters]]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.posts.append((self.path, body))
            status, reply = self.answer(body)
        self.send(status, reply)

    def answer(self, body: dict[str, Any]) -> tuple[int, Any]:
        if self.path == "/v1/chat/completions":
            return self.complete(body)
        if not self.server.updating:
            return 404, {"detail": "Not Found"}
        name = body["lora_name"]
        if self.path == "/v1/unload_lora_adapter":
            assert set(body) == {"lora_name"}
            return (200, "gone") if self.server.adapters.pop(name, None) else (404, "unknown")
        assert self.path == "/v1/load_lora_adapter" and set(body) == {"lora_name", "lora_path"}
        if name in self.server.adapters:
            return 400, {"error": {"message": "already loaded"}}
        self.server.load(name, Path(body["lora_path"]))
        return 200, "added"

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body["model"] == "base":
            return 200, completion("I see them", "stop")
        if body["model"] not in self.server.adapters:
            return 404, {"error": {"message": f"The model {body['model']} does not exist"}}
        assert body["temperature"] == 0 and len(body["messages"]) == 1
        *pictures, text = body["messages"][0]["content"]
        if text["text"] in self.server.broken:
            return 400, {"error": {"message": "too long"}}
        data = [base64.b64decode(part["image_url"]["url"].partition("base64,")[2]) for part in pictures]
        images = [Image.open(io.BytesIO(one)).convert("RGB") for one in data]
        loaded = self.server.adapters[body["model"]]
        (reply,) = generate(loaded, [Question(images, text["text"])], max_new_tokens=body["max_tokens"])
        return 200, completion(reply, "length")

    def send(self, status: int, reply: Any) -> None:
        data = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def completion(text: str, finish: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    return {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": finish}]}


@contextlib.contextmanager
def serving(base: Path, **settings: Any) -> Iterator[AdapterServer]:
    server = AdapterServer(base, **settings)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
