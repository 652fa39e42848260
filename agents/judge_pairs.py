"""Hand-labelled pairs of label and answer, and how well a judge agrees with them."""

from __future__ import annotations

import functools
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runner.errors import DataError

Row = dict[str, Any]

_MAX_BYTES = 4 << 20
_ALL = "all"

Text = Annotated[str, Field(max_length=4000)]


class LabelledPair(BaseModel):
    """One answer to one label, and whether a person calls it good."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    reference: Annotated[str, Field(min_length=1, max_length=300)]
    answer: Text
    good: bool
    kind: Annotated[str, Field(min_length=1, max_length=40)] = "other"
    domain: Annotated[str, Field(max_length=40)] | None = None


class PairFile(BaseModel):
    """A file of labelled pairs; ``rule`` says in words how they were labelled."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rule: Text = ""
    pairs: Annotated[list[LabelledPair], Field(min_length=1, max_length=10_000)]


@functools.cache
def packaged_pairs() -> tuple[LabelledPair, ...]:
    """The 60 pairs that come with the project, over the domains of the protocol's ten datasets."""
    return _parsed(resources.files("agents").joinpath("prompts/judge_pairs.json").read_text("utf8"), "packaged pairs")


def read_pairs(path: Path) -> tuple[LabelledPair, ...]:
    """Pairs of a JSON file ``{"rule": ..., "pairs": [{"reference", "answer", "good", "kind"}, ...]}``. Raises ``DataError``."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} is larger than {_MAX_BYTES >> 20} MB", hint="give fewer labelled pairs")
        return _parsed(path.read_text("utf8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _parsed(text: str, where: str) -> tuple[LabelledPair, ...]:
    hint = 'write {"pairs": [{"reference": "beagle", "answer": "a dog", "good": true, "kind": "generic"}]}'
    try:
        pairs = PairFile.model_validate(json.loads(text)).pairs
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{where}: {place + ': ' if place else ''}{first['msg']}", hint=hint) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is no JSON: {error}", hint=hint) from error
    seen: set[tuple[str, str]] = set()
    for pair in pairs:
        if (pair.reference, pair.answer) in seen:
            raise DataError(f"{where} holds the pair {pair.reference!r}, {pair.answer[:80]!r} twice")
        seen.add((pair.reference, pair.answer))
    return tuple(pairs)


class Counts(NamedTuple):
    """Pairs by hand label and verdict, and those without a verdict."""

    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int
    unscored: int

    @property
    def n(self) -> int:
        """Scored pairs."""
        return self.true_positive + self.false_positive + self.true_negative + self.false_negative


def count(rows: Iterable[Row]) -> Counts:
    """Counts over rows with ``good`` (bool) and ``verdict`` (1, 0 or None)."""
    seen = Counter((row["good"], row["verdict"]) for row in rows)
    unscored = seen[True, None] + seen[False, None]
    return Counts(seen[True, 1], seen[False, 1], seen[False, 0], seen[True, 0], unscored)


def cohens_kappa(counts: Counts) -> float | None:
    """Agreement beyond chance, (p_o - p_e) / (1 - p_e); None without pairs or where chance alone agrees always.

    p_o is the share of agreement, p_e the sum over both labels of the product of their shares by hand and by judge. Source: Cohen
    (1960), Educational and Psychological Measurement 20, 37-46.
    """
    tp, fp, tn, fn, _ = counts
    n = counts.n
    chance = (tp + fn) * (tp + fp) + (tn + fp) * (tn + fn)
    return None if n == 0 or chance == n * n else ((tp + tn) * n - chance) / (n * n - chance)


def agreement_rows(rows: Sequence[Row], judge: str) -> list[Row]:
    """Rows of ``owc_judge_agreement``: over all pairs, then kind by kind in order of appearance."""
    kinds = dict.fromkeys(row["kind"] for row in rows)
    return [_agreement(rows, judge, _ALL)] + [_agreement([r for r in rows if r["kind"] == k], judge, k) for k in kinds]


def _agreement(rows: Sequence[Row], judge: str, subset: str) -> Row:
    counts = count(rows)
    agreed = counts.true_positive + counts.true_negative
    low, high = wilson(agreed, counts.n)
    return {
        "judge": judge, "subset": subset, "n": counts.n, "unscored": counts.unscored,
        "agreement": agreed / counts.n if counts.n else None, "low": low, "high": high, "kappa": cohens_kappa(counts),
        **{name: getattr(counts, name) for name in Counts._fields[:4]},
    }  # fmt: skip


def wilson(k: int, n: int) -> tuple[float | None, float | None]:
    """95 % score interval of Wilson (1927) for ``k`` of ``n``; None twice where there is nothing to count."""
    from scipy.stats import binomtest

    if n == 0:
        return None, None
    limits = binomtest(k, n).proportion_ci(0.95, method="wilson")
    return (None, None) if math.isnan(limits.low) else (float(limits.low), float(limits.high))
