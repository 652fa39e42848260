"""Choosing among the shown options at random, exactly: the columns of which the metrics beside each model are computed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from runner.nodes.proactive import exact
from runner.nodes.proactive.env import ProactiveEnv, option_kind
from runner.nodes.proactive.metrics import Values
from runner.nodes.proactive.samples import case_of
from runner.nodes.proactive.score_reading import KINDS, Entry, Samples

if TYPE_CHECKING:
    from runner.nodes.proactive.env import State

_NAMES = (
    "success", "interventions", "exhausted", "first", "after", "ask_first", "ask_last",
    *(f"kind_{i}" for i in range(len(KINDS))), *(f"first_{i}" for i in range(len(KINDS))),
)  # fmt: skip
_OPEN = ("ps", "cc", "agg")
_KIND_OF = np.array([KINDS.index(name) for name in exact.KINDS])


class UniformColumns:
    """Columns of uniform guessing by sample; samples that move alike are worked out once."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._found: dict[Hashable, tuple[float, ...]] = {}
        self._keys: dict[tuple[str, str, str, str], Hashable] = {}

    def knows(self, mode: str, metric: str) -> bool:
        """Whether uniform guessing has that metric: not where answers are open, and never an unreadable answer's."""
        return not mode.startswith("oeg") and metric not in ("unreadable", "first_unreadable")

    def columns(self, entry: Entry, scenario: str, names: Sequence[str]) -> dict[str, Values]:
        """``success``, ``interventions`` ... float64 [n], for these samples as the entry played them."""
        nothing = dict.fromkeys(_OPEN, np.full(len(names), np.nan))
        if entry.mode.startswith("oeg"):
            return nothing | dict.fromkeys(_NAMES, np.full(len(names), np.nan))
        mode = "reference" if entry.mode == "reference" else "mcqa"
        values = [self._of(scenario, name, mode, entry.options_mode) for name in names]
        table = np.array(values, np.float64).reshape(len(names), len(_NAMES))
        return nothing | dict(zip(_NAMES, table.T, strict=True))

    def _of(self, scenario: str, name: str, mode: str, options: str) -> tuple[float, ...]:
        place = scenario, name, mode, options
        if place not in self._keys:
            case = case_of(self._samples[scenario, name], mode=mode, options=options)
            key = self._keys[place] = _moves(case.env)
            if key not in self._found:
                self._found[key] = uniform_columns(case.env)
        return self._found[self._keys[place]]


def _moves(env: ProactiveEnv) -> Hashable:
    """What decides the expectations of a policy that looks at nothing: how the record moves, and how many options of each kind there are."""
    r = env.record
    shown = sorted((option_kind(option), option.action or "") for option in env.shown(env.initial()))
    return (
        r.scenario, env.mode, env.options_mode, env.max_turns, r.first_image, r.num_images, r.reference_image, r.step_size, r.direction,
        r.granularity, len(r.options), len(r.categories), *shown,
    )  # fmt: skip


def uniform_columns(env: ProactiveEnv) -> tuple[float, ...]:
    """Expectations of one record, in the order of the columns' names."""
    value = exact.uniform_value(env)
    table = exact.table_of(env)
    there = table.kinds >= 0
    odds = there / there.sum(1, keepdims=True)
    of_kind = np.stack([(odds * (table.kinds == i)).sum(1) for i in range(len(exact.KINDS))], 1)  # [V, kinds]
    kinds = _ordered(_visits(table, odds, env.max_turns) @ of_kind)
    first = _ordered(of_kind[0])
    path = env.ask_path()
    ends = [_asks(env, state) for state in (path[0], path[-1])] if len(path) > 1 else [float("nan")] * 2
    after = value.acc - first[KINDS.index("category_true")]
    return (value.acc, value.psr, value.exhausted, value.first_turn_acc, after, *ends, *kinds, *first)


def _visits(table: exact.Table, odds: Values, turns: int) -> Values:
    """Expected number of turns at each view [V]."""
    on = table.follows >= 0
    alive: Values = np.zeros(len(table.states))
    alive[0] = 1.0
    seen = np.zeros(len(alive))
    for _ in range(turns):
        seen += alive
        alive = np.bincount(table.follows[on], (alive[:, None] * odds)[on], len(alive)).astype(np.float64)
    return seen


def _ordered(by_kind: Values) -> list[float]:
    """From the order of ``exact.KINDS`` to that of ``KINDS``."""
    return [float(x) for x in np.bincount(_KIND_OF, by_kind, len(KINDS))]


def _asks(env: ProactiveEnv, state: State) -> float:
    """Share of requests among the options; NaN where none is shown."""
    shown = env.shown(state)
    return sum(option.kind == "ask" for option in shown) / len(shown) or float("nan")
