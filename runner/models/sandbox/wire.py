"""What passes between the two processes: a length, a JSON header, then raw bytes. Never a pickle.

A frame is ``u32`` length of the header, ``u64`` length of the body (little-endian), the header, the body. Neither side
allocates more than it expects.
"""

from __future__ import annotations

import json
import os
import selectors
import struct
import time
from typing import Any

from runner.errors import ModelRefused

PREFIX = struct.Struct("<IQ")
MAX_HEADER = 4 << 20


class SandboxFailure(ModelRefused):
    """The child crashed, hung, or sent something that is no reply."""


def pack(header: dict[str, Any], body: bytes | memoryview = b"") -> tuple[bytes, bytes | memoryview]:
    """A frame in two pieces, so that a large body is not copied."""
    text = json.dumps(header).encode()
    return PREFIX.pack(len(text), len(body)) + text, body


def write_all(descriptor: int, pieces: tuple[bytes | memoryview, ...]) -> None:
    """Blocking write, for the child."""
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def read_exactly(descriptor: int, size: int) -> bytearray:
    """Blocking read, for the child. Raises EOFError where the parent is gone."""
    data = bytearray(size)
    view, have = memoryview(data), 0
    while have < size:
        count = os.readv(descriptor, [view[have:]])
        if count == 0:
            raise EOFError
        have += count
    return data


class Channel:
    """The parent's ends of the two pipes; every operation ends by a deadline."""

    def __init__(self, to_child: int, from_child: int) -> None:
        self.to_child, self.from_child = to_child, from_child
        for descriptor in (to_child, from_child):
            os.set_blocking(descriptor, False)

    def send(self, header: dict[str, Any], body: bytes | memoryview, deadline: float) -> None:
        """Send a frame. Raises ``TimeoutError``, or ``BrokenPipeError`` where the child is gone."""
        for piece in pack(header, body):
            rest = memoryview(piece).cast("B")
            while rest:
                _wait(self.to_child, selectors.EVENT_WRITE, deadline)
                rest = rest[os.write(self.to_child, rest[: 1 << 20]) :]

    def receive(self, max_body: int, deadline: float) -> tuple[dict[str, Any], bytearray]:
        """The next frame. Raises ``TimeoutError``, ``EOFError`` (the child is gone) or ``ValueError`` (no reply)."""
        header_size, body_size = PREFIX.unpack(self._read(PREFIX.size, deadline))
        if header_size > MAX_HEADER or body_size > max_body:
            raise ValueError(f"it announces {header_size} + {body_size} bytes, at most {max_body} were expected")
        try:
            header = json.loads(self._read(header_size, deadline))
        except RecursionError as error:
            raise ValueError("its header is nested too deeply") from error
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        return header, self._read(body_size, deadline)

    def close(self) -> None:
        """Close both ends."""
        os.close(self.to_child)
        os.close(self.from_child)

    def _read(self, size: int, deadline: float) -> bytearray:
        data = bytearray()  # grows as bytes arrive: an announced size costs nothing
        while len(data) < size:
            _wait(self.from_child, selectors.EVENT_READ, deadline)
            piece = os.read(self.from_child, min(1 << 20, size - len(data)))
            if not piece:
                raise EOFError
            data += piece
        return data


def _wait(descriptor: int, event: int, deadline: float) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, event)
        if not selector.select(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
