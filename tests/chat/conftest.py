"""Chat clients against a scripted server, with backoff small enough for tests."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.context import StepContext, local_context
from runner.models.chat.cache import ReplyCache
from runner.models.chat.client import Client, ClientSettings
from runner.models.chat.openai_backend import OpenAIBackend
from runner.models.chat.sender import Patience

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"animal": {"enum": ["cat", "dog", "frog"]}, "why": {"type": "string", "maxLength": 40}},
    "required": ["animal", "why"],
    "additionalProperties": False,
}
QUICK = Patience(timeout=5.0, deadline=20.0, max_retries=8, max_wait=3.0, base=0.002, cap=0.02, give_ups=5)


def _load_fault_server() -> Any:
    name = "tests_chat_fault_server"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("fault_server.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def faults() -> Any:
    """The module ``fault_server``."""
    return _load_fault_server()


@pytest.fixture
def schema() -> dict[str, Any]:
    return SCHEMA


@pytest.fixture
def ctx(tmp_path: Path) -> StepContext:
    return local_context(tmp_path / "step")


MakeClient = Callable[..., Client]


@pytest.fixture
def make_client(tmp_path: Path) -> Iterator[MakeClient]:
    """Clients of a server at ``base_url``; they share the cache file ``replies.sqlite`` unless told otherwise."""
    made: list[Client] = []

    def make(base_url: str, *, key: str | None = None, cache: str = "replies.sqlite", **changes: Any) -> Client:
        patience = dataclasses.replace(QUICK, **changes.pop("patience", {}))
        backend = OpenAIBackend(base_url, "tiny", key, patience.timeout)
        settings = ClientSettings(
            "openai", "tiny", lambda: {"model": "tiny"}, base_url + str(len(made)), patience=patience, **changes
        )
        made.append(Client(backend, ReplyCache(tmp_path / cache), settings))
        return made[-1]

    yield make
    for client in made:
        client.close()
