"""Runs of several variants: what is the same in several of them is said once, under the settings that it holds for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]

VARIANTS = "SELECT variant, params FROM variants WHERE run_id = $run ORDER BY rowid"
VARIES = frozenset(["variant", "run_id"])


@dataclass(frozen=True)
class Sweep:
    """Parameters, as text, by variant; variants stand in the order of the run."""

    variants: dict[str, dict[str, str]]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> Sweep:
        """From rows of ``VARIANTS``."""
        return cls({r["variant"]: _texts(r["params"]) for r in rows})

    def place(self, variant: str) -> tuple[int, str]:
        """By which variants are ordered; those that the run does not list come last, by name."""
        return {name: i for i, name in enumerate(self.variants)}.get(variant, len(self.variants)), variant

    def setting(self, held: Sequence[str], among: Sequence[str]) -> str:
        """What the variants ``held`` have in common that the others of ``among`` have not; '' where they are all."""
        if set(held) >= set(among):
            return ""
        known = [self.variants[v] for v in among if self.variants.get(v)]
        if len(known) < len(among) or len(held) == 1:
            return " or ".join(held)
        values = {p: [v for v in _values(known, p) if v in {self.variants[h].get(p) for h in held}] for p in known[0]}
        covered = [v for v in among if all(self.variants[v].get(p) in own for p, own in values.items())]
        if set(covered) != set(held):
            return " or ".join(held)
        return ",".join(f"{p}={' or '.join(own)}" for p, own in values.items() if len(own) < len(_values(known, p)))

    def once(self, rows: Sequence[Row], keys: Sequence[str], ignored: Iterable[str] = ()) -> list[Row]:
        """Rows with ``setting`` beside them, in the order of variants. Rows of equal ``keys`` form a block; blocks that say the same in
        several variants are one, with the variant of the first. ``ignored``: columns that do not make blocks differ."""
        hidden = VARIES | set(ignored)
        among = sorted({r["variant"] for r in rows}, key=self.place)
        blocks: dict[tuple[Any, ...], list[Row]] = {}
        for row in sorted(rows, key=lambda r: self.place(r["variant"])):
            blocks.setdefault((row["variant"], *(row[k] for k in keys)), []).append(row)
        merged: dict[str, tuple[list[str], list[Row]]] = {}
        for (variant, *about), own in blocks.items():
            told = repr((about, [[(k, v) for k, v in r.items() if k not in hidden] for r in own]))
            merged.setdefault(told, ([], own))[0].append(variant)
        return [{**r, "setting": self.setting(held, among)} for held, own in merged.values() for r in own]


def _texts(params: Any) -> dict[str, str]:
    found = json.loads(params) if isinstance(params, str) else params or {}
    return {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in found.items()}


def _values(known: Sequence[dict[str, str]], parameter: str) -> list[str]:
    """Values that variants have of a parameter, in their order."""
    return list(dict.fromkeys(p[parameter] for p in known if parameter in p))
