"""What samples ask and offer, and their records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from runner.errors import DataError
from runner.nodes.proactive.texts import read_own

OWN = Path(__file__).parent / "wording.yaml"
Wording = Mapping[str, Any]


def load_wording(path: Path | None) -> dict[str, Any]:
    """Questions and requests; a file's keys take the place of ours. Raises ``UsageError`` or
    ``DataError`` for one that is not like ours."""
    own: dict[str, Any] = yaml.safe_load(OWN.read_text("utf8"))
    if path is None:
        return own
    return _merged(own, read_own(path), str(path))


def _merged(own: dict[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Ours with what is given, key by key; a text, a list of texts or a mapping stands where ours has one."""
    for key, value in given.items():
        if key not in own:
            raise DataError(f"{where}: no {str(key)[:80]!r} here", hint=f"Known: {', '.join(own)}.")
        if isinstance(own[key], dict) and isinstance(value, dict):
            own[key] = _merged(own[key], value, f"{where}: {key}")
        elif (isinstance(own[key], str) and isinstance(value, str)) or (
            isinstance(own[key], list) and isinstance(value, list) and value and all(isinstance(v, str) for v in value)
        ):
            own[key] = value
        else:
            expected = {"dict": "a mapping", "list": "a list of texts"}.get(type(own[key]).__name__, "a text")
            raise DataError(f"{where}: {key}: expected {expected}")
    return own


def labelled(noun: str) -> str:
    """A category as published ones are written."""
    return f"{noun.capitalize()}."
