"""Which class an answer names: the strict rule beside text inclusion. Pure Python."""

from __future__ import annotations

from collections.abc import Sequence


def strict_match(answer: str | None, classes: Sequence[str]) -> int | None:
    """The class that the answer names: the longest class name contained in it, where there is one longest.

    Names and answer are compared stripped and in lower case, as in text inclusion, so "hermit crab" is no "crab". None
    where no name is contained, or several names of the same length are. Ours; the published protocol has text inclusion
    alone. Names that several classes share are never unique.
    """
    if answer is None:
        return None
    text = answer.strip().lower()
    contained = [(len(name), index) for index, name in enumerate(_plain(classes)) if name and name in text]
    longest = max((length for length, _ in contained), default=0)
    best = [index for length, index in contained if length == longest]
    return best[0] if len(best) == 1 else None


def _plain(classes: Sequence[str]) -> list[str]:
    return [name.strip().lower() for name in classes]
