"""Identities by content: keys of the reply cache, seeds of draws, hashes of model files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from runner.models.base import ImagePart, Message
from runner.models.chat.wire import Payload


def canonical(value: Any) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def reply_key(identity: dict[str, Any], payload: Payload, seed: int, sample: int) -> str:
    """SHA-256 (hex) of everything that can change the reply; images enter by the SHA-256 of their bytes."""
    content: dict[str, Any] = {
        "model": identity,
        "messages": [[m.role, _content(m)] for m in payload.messages],
        "sampling": [payload.temperature, payload.max_tokens, seed, sample],
        "schema": [payload.schema_name, payload.schema] if payload.schema is not None else None,
    }
    asked = {"allow_cut": payload.allow_cut, "allow_empty": payload.allow_empty, "logprobs": payload.logprobs}
    # Only what is set: keys of replies stored before these existed stay as they were.
    content |= {name: True for name, is_set in asked.items() if is_set}
    return hashlib.sha256(canonical(content).encode()).hexdigest()


def draw_seed(seed: int, sample: int) -> int:
    """The seed sent for draw ``sample`` (31 bits): draws and seeds never share one by simple counting."""
    digest = hashlib.sha256(f"{seed}:{sample}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def content_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file, or of the names and hashes of all files of a folder."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted(p for p in path.rglob("*") if p.is_file())
    parts = [[p.relative_to(path).as_posix(), content_sha256(p)] for p in files]
    return hashlib.sha256(canonical(parts).encode()).hexdigest()


def _content(message: Message) -> Any:
    if isinstance(message.content, str):
        return message.content
    return [_part(part) for part in message.content]


def _part(part: str | ImagePart) -> Any:
    if isinstance(part, str):
        return part
    return {"image": hashlib.sha256(part.data).hexdigest(), "media_type": part.media_type}
