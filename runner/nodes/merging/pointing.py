"""Rows of ``dmo_mixture`` from what a spec asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from runner.errors import DataError
from runner.nodes.merging import mixtures
from runner.nodes.merging.mixture_specs import Anchor, Generator


def mixture_rows(domains: list[str], generator: Generator, add: Sequence[Anchor], most: int) -> list[dict[str, Any]]:
    """The generator's mixtures, then the anchors; what repeats an earlier one is left out. Raises ``DataError``."""
    if len(domains) < 2 or len(set(domains)) < len(domains):
        raise DataError(f"mixtures want at least two different domains, not {', '.join(domains) or 'none'}")
    size = generator.size(len(domains)) + ("uniform" in add) + len(domains) * ("one_hot" in add)
    if size > most:
        raise DataError(f"{size} mixtures are more than max_mixtures = {most}", hint="ask for fewer, or raise it")
    try:
        points = generator.points(domains)
    except ValueError as error:
        raise DataError(f"no mixtures of {len(domains)} domains: {error}") from error
    width = len(str(len(points)))
    named = [(f"m{number:0{width}}", generator.key, point) for number, point in enumerate(points, 1)]
    return [mixture_row(*named_one, domains) for named_one in _distinct(named + _anchors(domains, add))]


def mixture_row(name: str, source: str, weights: Any, domains: list[str]) -> dict[str, Any]:
    """One row."""
    shares = np.asarray(weights, np.float64)
    spread = float(mixtures.entropy(shares[None])[0])
    return {"mixture_id": name, "domains": domains, "weights": shares.tolist(), "source": source, "entropy": spread}


def _anchors(domains: list[str], add: Sequence[Anchor]) -> list[tuple[str, str, Any]]:
    found = [("uniform", "uniform", mixtures.uniform(len(domains))[0])] if "uniform" in add else []
    if "one_hot" in add:
        found += [
            (f"only {name}", "one_hot", row) for name, row in zip(domains, mixtures.one_hot(len(domains)), strict=True)
        ]
    return found


def _distinct(named: list[tuple[str, str, Any]]) -> list[tuple[str, str, Any]]:
    kept = mixtures.distinct(np.stack([point for _, _, point in named]))
    return [named[i] for i in kept]
