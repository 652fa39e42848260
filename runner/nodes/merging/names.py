"""Names of tensors across versions of transformers: the same weight stands under several prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

WRAPPERS = frozenset({"base_model", "model", "language_model", "module"})
"""Levels that only hold the model inside: ``language_model.model.layers`` and ``model.language_model.layers`` are one place."""


def canonical(name: str) -> str:
    """The name without wrapping levels: ``model.visual.x`` and ``visual.x`` agree, as do both orders of the language model's.

    ``vision_tower.vision_model.x`` agrees with ``vision_tower.x``.
    """
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in WRAPPERS:
        parts.pop(0)
    if len(parts) > 2 and parts[0] == "vision_tower" and parts[1] == "vision_model":
        parts.pop(1)
    return ".".join(parts)


@dataclass(frozen=True)
class Matching:
    """``found``: name of the other side -> name of the base. ``ignored``: names the base does not have. ``missing``: names of
    the base that the other side does not have."""

    found: Mapping[str, str]
    ignored: tuple[str, ...]
    missing: tuple[str, ...]


def match(base: Iterable[str], other: Iterable[str]) -> Matching:
    """Pair names of two models: as they stand where they agree, else without wrapping levels where that is unambiguous."""
    base, other = list(base), list(other)
    exact, by_canonical = set(base), _unambiguous(base)
    ambiguous = set(other) - set(_unambiguous(other).values())
    found = {}
    for name in other:
        target = name if name in exact else None if name in ambiguous else by_canonical.get(canonical(name))
        if target is not None:
            found[name] = target
    taken = set(found.values())
    return Matching(found, tuple(n for n in other if n not in found), tuple(n for n in base if n not in taken))


def _unambiguous(names: Iterable[str]) -> dict[str, str]:
    seen: dict[str, list[str]] = {}
    for name in names:
        seen.setdefault(canonical(name), []).append(name)
    return {key: several[0] for key, several in seen.items() if len(several) == 1}
