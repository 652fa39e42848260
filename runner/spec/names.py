"""The nearest existing name for one that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

CUTOFF = 0.6


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name most like ``word`` (case, ``-`` and ``_`` do not count), or None when nothing is near."""
    folded: dict[str, str] = {}
    for name in names:
        folded.setdefault(_fold(name), name)
    found = difflib.get_close_matches(_fold(word), list(folded), 1, CUTOFF)
    return folded[found[0]] if found else None


def _fold(name: str) -> str:
    return name.casefold().replace("-", "_")


def listed(names: Iterable[str], limit: int = 24) -> str:
    """Names for a message, comma-separated, cut after ``limit``."""
    shown = list(names)
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more
