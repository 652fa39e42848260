"""Which records are trained on, in which order: functions of a seed, so that a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from runner.nodes.apportioning import apportioned

Numbers = NDArray[np.int64]
WINDOW = 32
"""Batches among which records are ordered by length."""


def stream(seed: int, *names: object) -> np.random.Generator:
    """A generator of its own for each purpose."""
    text = "\0".join(str(part) for part in (seed, *names))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))


def fraction_of(domains: Sequence[str], fraction: float, seed: int, *, stratified: bool = False) -> Numbers:
    """int(N * fraction) of the N records, drawn without replacement, ascending (2604.24380: ``data_size``).

    ``stratified``: as many of each domain as its share says, by largest remainder (ours). Raises ``ValueError`` where nothing is left.
    """
    total = len(domains)
    wanted = math.floor(round(total * fraction, 9))
    if wanted < 1:
        raise ValueError(f"a fraction of {fraction:g} leaves none of {total} records")
    if wanted == total:
        return np.arange(total)
    if not stratified:
        return np.sort(stream(seed, "fraction").permutation(total)[:wanted])
    groups = by_domain(domains)
    counts = apportioned(wanted, {name: len(rows) / total for name, rows in groups.items()})
    picked = [stream(seed, "fraction", name).permutation(rows)[: counts[name]] for name, rows in groups.items()]
    return np.sort(np.concatenate(picked))


def by_domain(domains: Sequence[str]) -> dict[str, Numbers]:
    """Rows of each domain, domains in order of appearance."""
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(domains):
        rows.setdefault(name, []).append(row)
    return {name: np.array(found, np.int64) for name, found in rows.items()}


def single_pass(domains: Sequence[str], shares: Mapping[str, float]) -> int:
    """How many records can be drawn by the shares before the first domain is used up."""
    have = {name: len(rows) for name, rows in by_domain(domains).items()}
    return math.floor(round(min(have.get(name, 0) / share for name, share in shares.items() if share > 0), 9))


def draws(domains: Sequence[str], total: int, seed: int, shares: Mapping[str, float] | None = None) -> Numbers:
    """The ``total`` records of a training in order.

    Without shares: every record once, shuffled, then all of them again in another order, and so on. With shares: exact quotas
    by largest remainder, each domain shuffled and repeated as often as its quota needs, all of them mixed.
    """
    if shares is None:
        return _cycled(np.arange(len(domains)), total, seed, "all")
    groups = by_domain(domains)
    quota = apportioned(total, shares)
    parts = [_cycled(groups[name], count, seed, f"domain {name}") for name, count in quota.items() if count]
    return stream(seed, "mixed").permutation(np.concatenate(parts))


def batches(drawn: Numbers, lengths: Numbers, size: int, seed: int, *, by_length: bool = True) -> list[Numbers]:
    """The draws cut into batches of ``size`` (which divides their number).

    ``by_length``: among ``WINDOW`` batches, records of like lengths come together and the batches are shuffled; what is drawn stays the
    same.
    """
    if not by_length:
        return list(drawn.reshape(-1, size))
    found: list[Numbers] = []
    for number, start in enumerate(range(0, len(drawn), size * WINDOW)):
        window = drawn[start : start + size * WINDOW]
        ordered = window[np.argsort(lengths[window], kind="stable")].reshape(-1, size)
        found += list(ordered[stream(seed, "window", number).permutation(len(ordered))])
    return found


def _cycled(rows: Numbers, total: int, seed: int, name: str) -> Numbers:
    rounds = math.ceil(total / len(rows))
    return np.concatenate([stream(seed, name, r).permutation(rows) for r in range(rounds)])[:total]
