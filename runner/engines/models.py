"""Loaded models: each configuration once a run, on first use, closed at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable

from runner.steps import ModelHandle


class ModelPool:
    """Handles by key. Threads that ask for the same model wait for one loading; different models load side by side."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._handles: dict[str, ModelHandle] = {}

    def get(self, key: str, load: Callable[[], ModelHandle]) -> ModelHandle:
        """The handle for ``key``; ``load`` is called where it is not there yet. Its errors pass through."""
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self._handles:
                self._handles[key] = load()
            return self._handles[key]

    def loaded(self, key: str) -> ModelHandle | None:
        """The handle for ``key`` where it is there already."""
        return self._handles.get(key)

    def close(self) -> None:
        """Close all handles, the last loaded first: it may stand on earlier ones. Raises the first error, after all."""
        errors = []
        while self._handles:
            _, handle = self._handles.popitem()
            try:
                handle.close()
            except Exception as error:  # noqa: BLE001  every handle gets its chance to close
                errors.append(error)
        if errors:
            raise errors[0]
