"""Things of a spec whose key says their kind, such as ``{folder: ./photos}`` or ``{cub: ./data}``. Light."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import Discriminator

_NO_KEYS: Mapping[str, str] = {}


def keyed(
    word: str,
    kinds: Mapping[str, type[Any]],
    *,
    what: str,
    code: str,
    implied: Mapping[str, str] = _NO_KEYS,
    alone: bool = False,
    one: bool = False,
) -> Discriminator:
    """The discriminator of a union whose members are tagged ``"<word> <key>"``.

    ``kinds``: class by key. A misspelt key means the nearest one, so that the error names the right kind. ``implied``: keys
    that stand for a kind where none is named; ``alone``: a kind may also be written as a bare word; ``one``: two keys at once
    mean nothing. ``what``: begins the message where no kind is meant, ``code`` names that error. Tags differ from the keys: a
    tag in an error's place must not be taken for the YAML key of the same name.
    """

    def tag(value: Any) -> str | None:
        if isinstance(value, tuple(kinds.values())):
            return next(f"{word} {key}" for key, kind in kinds.items() if type(value) is kind)
        if alone and isinstance(value, str):
            return f"{word} {value}" if value in kinds else None
        if not isinstance(value, Mapping):
            return None
        found = meant([str(key) for key in value], kinds, implied)
        return None if not found or (one and len(found) > 1) else f"{word} {found[0]}"

    message = what + ", ".join(kinds)
    message += ", alone or as a key with its settings" if alone else "; give one of them" if one else ""
    return Discriminator(tag, custom_error_type=code, custom_error_message=message)


def meant(keys: list[str], kinds: Mapping[str, Any], implied: Mapping[str, str] = _NO_KEYS) -> list[str]:
    """The kinds that the keys name; else the nearest ones; else those that they imply."""
    near = [m for key in keys for m in difflib.get_close_matches(re.sub(r"\W", "_", key.lower()), kinds, 1, 0.6)]
    return [key for key in keys if key in kinds] or near or [implied[key] for key in keys if key in implied]
