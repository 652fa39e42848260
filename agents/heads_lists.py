"""The concept list of each singular vector, as a judge is shown it: active concepts by weight, each quoted on its own line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from agents.judging import quoted

Row = Mapping[str, Any]

CONCEPT_CHARACTERS = 200
_NO_BRACES = str.maketrans("", "", "{}")
_SETTING = ("method", "k", "coherence")


class Vector(NamedTuple):
    """A singular vector by place; its order is that of results."""

    layer: int
    head: int
    sv: int
    side: str
    sign: int


class Setting(NamedTuple):
    """The coder behind a list. ``coherence``: the weight lambda."""

    method: str
    k: int
    coherence: float


class SeveralSettings(ValueError):
    """The codes come in several settings and none of them is named as the main one."""


def main_setting(codes: Iterable[Row], settings: Mapping[str, Any]) -> Setting | None:
    """The setting whose lists are judged: the only one, or ``settings["main"]`` (k, coherence, maybe method).

    None without codes. Raises ``SeveralSettings`` where several are left.
    """
    found = sorted({Setting(*(row[name] for name in _SETTING)) for row in codes})
    main = settings.get("main")
    if len(found) > 1 and isinstance(main, Mapping):
        asked = {name: main.get(name) for name in _SETTING}
        found = [s for s in found if all(v is None or getattr(s, name) == v for name, v in asked.items())]
    if len(found) > 1:
        raise SeveralSettings(", ".join(f"{s.method} k={s.k} coherence={s.coherence:g}" for s in found[:4]))
    return found[0] if found else None


def vectors_of(codes: Iterable[Row], setting: Setting | None, per_head: int | None) -> list[Vector]:
    """The vectors coded with ``setting``, in order; ``per_head``: only those with the so many largest singular values."""
    places = (_vector(row) for row in codes if _setting(row) == setting)
    return sorted({place for place in places if per_head is None or place.sv < per_head})


def lists_of(concepts: Iterable[Row], setting: Setting | None, vectors: Sequence[Vector]) -> dict[Vector, str]:
    """The list of each vector as text, '' for one without an active concept.

    Active: a positive coefficient (``rank`` is set), largest first. A signed code keeps only its positive part, since that
    is what the vector writes.
    """
    active: dict[Vector, list[Row]] = {vector: [] for vector in vectors}
    for row in concepts:
        if row["coef"] > 0 and _setting(row) == setting and (place := _vector(row)) in active:
            active[place].append(row)
    return {
        vector: list_text((row["concept"], row["coef"]) for row in _by_weight(rows)) for vector, rows in active.items()
    }


def list_text(concepts: Iterable[tuple[str, float]]) -> str:
    """One line a concept: weight with two decimals, then the text between quotation marks that it cannot close."""
    return "\n".join(f"- {weight:.2f} {quoted_concept(text)}" for text, weight in concepts)


def quoted_concept(text: str) -> str:
    """A stranger's concept as data: one line, bounded, without braces, quoted."""
    return quoted(text.translate(_NO_BRACES), CONCEPT_CHARACTERS)


def _by_weight(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row["coef"], row["atom"]))


def _vector(row: Row) -> Vector:
    return Vector(*(row[name] for name in Vector._fields))


def _setting(row: Row) -> Setting:
    return Setting(*(row[name] for name in _SETTING))
