"""What was chosen turn by turn, and asking against competence along the way from the first frame to the most telling one.

Over-asking: it asks although it would be right if it had to choose a category. Under-asking: it does not ask although it would be wrong.
Ours; the answer under compulsion is that of a turn with categories only (mode ``frames``), else its likeliest category (exact).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from runner.nodes.proactive import metrics
from runner.nodes.proactive.metrics import Estimate, Numbers, Ratio, Values
from runner.nodes.proactive.records import SCENARIOS
from runner.nodes.proactive.score_reading import KINDS, Drawings, Entry, Samples, Turns

Row = dict[str, Any]

STRETCHES = 5
PLACES = (0.0, *((i + 0.5) / STRETCHES for i in range(STRETCHES)), 1.0)
"""Both ends, and the middles of the stretches between them."""
BY_TURN = ("asked", "invalid", "abstained", "correct", "wrong", "unreadable")
"""Columns of ``pb_by_turn`` in the order of ``KINDS``."""


def by_turn_rows(entry: Entry) -> list[Row]:
    """Rows of ``pb_by_turn``: shares of what was chosen at each turn; of an exact evaluation the first turn, by probability."""
    if entry.mode not in ("mcqa", "person", "exact", "reference"):
        return []
    turns = entry.turns.taken(~entry.turns.forced & ~np.isnan(entry.turns.kinds[:, 0]))
    if entry.mode == "exact":
        turns = turns.taken(turns.turn == 1)
    rows = []
    for number, name in enumerate(SCENARIOS):
        own = turns.taken(entry.scenario[turns.episode] == number)
        last = int(own.turn.max()) if len(own.turn) else 0
        alive = np.bincount(own.turn, minlength=last + 1)
        sums = np.stack([np.bincount(own.turn, own.kinds[:, i], last + 1) for i in range(len(KINDS))], 1)
        rows += [
            {"model": entry.label, "mode": entry.mode, "scenario": name, "turn": turn, "alive": int(alive[turn])}
            | dict(zip(BY_TURN, (sums[turn] / alive[turn]).tolist(), strict=True))
            for turn in range(1, last + 1) if alive[turn]
        ]  # fmt: skip
    return rows


class Asked(NamedTuple):
    """Frames [F] that were asked about: ``episode``, ``stretch`` (number in ``PLACES``), ``asks`` (share or fact), ``right`` when a category must be
    chosen (part of 1 where several are as likely)."""

    episode: Numbers
    stretch: Numbers
    asks: Values
    right: Values


def stretch_of(place: Values) -> Numbers:
    """Number in ``PLACES`` of each place in [0, 1]: its end, or the stretch between them."""
    inside = 1 + np.minimum((place * STRETCHES).astype(np.int64), STRETCHES - 1)
    return np.where(place <= 0, 0, np.where(place >= 1, len(PLACES) - 1, inside)).astype(np.int64)


def frames_asked(turns: Turns) -> Asked:
    """Free turns that showed a request and whose place is known, with what a category would have been there; others are left out."""
    free = turns.taken(~turns.forced & turns.can_ask & ~np.isnan(turns.place) & ~np.isnan(turns.kinds[:, 0]))
    forced = turns.taken(turns.forced & ~np.isnan(turns.best))
    right = _forced_right(free, forced)
    known = ~np.isnan(right)
    return Asked(free.episode[known], stretch_of(free.place[known]), free.asks[known], right[known])


def _forced_right(free: Turns, forced: Turns) -> Values:
    """Whether the category chosen under compulsion at the same turn is right; without such a turn, the likeliest one's, of an
    evaluation by probabilities; else NaN."""
    step = int(max(free.turn.max(initial=0), forced.turn.max(initial=0))) + 1
    keys, wanted = forced.episode * step + forced.turn, free.episode * step + free.turn
    order = np.argsort(keys)
    at = np.searchsorted(keys[order], wanted)
    found = np.zeros(len(wanted), bool)
    inside = at < len(keys)
    found[inside] = keys[order][at[inside]] == wanted[inside]
    right = np.where(len(keys) == 0 and bool(len(wanted)), free.best, np.nan)
    right[found] = forced.best[order][at[found]]
    return np.asarray(right, np.float64)


def curve_rows(entry: Entry, samples: Samples, seed: int) -> list[Row]:
    """Rows of ``pb_curves`` of an entry of mode ``frames`` or ``exact``: by scenario and stretch, then plain means over the scenarios."""
    if entry.mode not in ("frames", "exact"):
        return []
    asked, drawings = frames_asked(entry.turns), Drawings(entry, samples)
    found: dict[int, list[tuple[int, list[Estimate]]]] = {}
    rows = []
    for number, name in enumerate(SCENARIOS):
        rows_of = np.flatnonzero(entry.scenario == number)
        names, of = np.unique(entry.sample[rows_of].astype(str), return_inverse=True)
        sample = np.full(len(entry.scenario), -1, np.int64)
        sample[rows_of] = of
        draws = np.bincount(of, minlength=len(names))
        group = drawings.of(name, names.tolist())
        for stretch in range(len(PLACES)):
            here = (asked.stretch == stretch) & (sample[asked.episode] >= 0)
            if not here.any():
                continue
            own = sample[asked.episode[here]]
            ratios = _ratios(own, 1.0 / draws[own], asked.asks[here], asked.right[here], len(names))
            draws_of = [*drawings.seed(seed, name), stretch]
            estimates = metrics.estimates(ratios, group, groups=drawings.groups, seed=draws_of)
            found.setdefault(stretch, []).append((int(here.sum()), estimates))
            rows.append(_row(entry.label, name, stretch, int(here.sum()), estimates))
    for stretch, parts in sorted(found.items()):
        whole = [metrics.macro_estimate([estimates[i] for _, estimates in parts]) for i in range(4)]
        rows.append(_row(entry.label, "macro", stretch, sum(n for n, _ in parts), whole))
    return rows


def _ratios(sample: Numbers, weight: Values, asks: Values, right: Values, size: int) -> list[Ratio]:
    """Asked, right under compulsion, over-asking, under-asking: sums by sample [size], draws averaged."""
    sums: Mapping[str, Values] = {
        name: np.bincount(sample, weight * values, size).astype(np.float64)
        for name, values in {
            "one": np.ones(len(sample)), "asks": asks, "right": right, "over": asks * right,
            "under": (1 - asks) * (1 - right), "wrong": 1 - right,
        }.items()
    }  # fmt: skip
    pairs: Sequence[tuple[str, str]] = (("asks", "one"), ("right", "one"), ("over", "right"), ("under", "wrong"))
    return [Ratio(sums[above], sums[below], 1.0) for above, below in pairs]


def _row(label: str, scenario: str, stretch: int, n: int, found: Sequence[Estimate]) -> Row:
    asked, right, over, under = found
    row = {"model": label, "scenario": scenario, "place": PLACES[stretch], "n": n, "asked": asked.value, "forced_correct": right.value}  # fmt: skip
    for name, estimate in (("over", over), ("under", under)):
        told = zip((f"{name}_asking", f"{name}_low", f"{name}_high"), estimate[:3], strict=True)
        row |= {column: None if np.isnan(value) else float(value) for column, value in told}
    return row


def of_each_label(entries: Sequence[Entry]) -> list[Entry]:
    """Whose curves are drawn: of each label the frames that were asked about, else its probabilities."""
    ranked = sorted((entry for entry in entries if entry.mode in ("frames", "exact")), key=lambda e: e.mode == "exact")
    return list({entry.label: entry for entry in reversed(ranked)}.values())[::-1]
