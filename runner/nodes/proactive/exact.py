"""Exact values without sampling: what a policy gains in expectation, by dynamic programming over the views of one record.

Zero-shot a policy is a function of what is shown, so the few views that can be reached and their option probabilities tell everything:
W(s) = p(right category | s) + sum over valid requests o of p(o | s) W(s'), over at most ``max_turns`` turns [ours; float64].
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from runner.nodes.proactive.env import Option, ProactiveEnv, State

OptionPolicy = Callable[["State", "tuple[Option, ...]"], Sequence[float]]
KINDS = ("ask_invalid", "ask_valid", "abstain", "category_false", "category_true")
"""Kinds of options in a ``Table``, by their numbers."""
ASKED, RIGHT = KINDS.index("ask_valid"), KINDS.index("category_true")


class Value(NamedTuple):
    """``acc``: probability of success, 0..1; ``psr``: expected requests met; ``exhausted``: probability that all turns are used;
    ``first_turn_acc``: that the right category is named on turn 1, whether it counts or not; ``turns``: expected answers, psr + 1."""

    acc: float
    psr: float
    exhausted: float
    first_turn_acc: float
    turns: float


class Table(NamedTuple):
    """Views in the order first reached (V), as states, with what they show; O options at most.

    ``kinds``: int8 (V, O), numbers in ``KINDS``, -1 where there is no such option; ``follows``: int32 (V, O), the view that a valid request
    leads to, -1 where the episode ends (also beyond the turns allowed).
    """

    states: tuple[State, ...]
    options: tuple[tuple[Option, ...], ...]
    kinds: NDArray[np.int8]
    follows: NDArray[np.int32]


def table_of(env: ProactiveEnv) -> Table:
    """All views that some answers reach within the turns."""
    from runner.nodes.proactive.env import option_kind

    first = env.initial()
    places: dict[Hashable, int] = {env.view_key(first): 0}
    states, options, links = [first], list[tuple["Option", ...]](), list[tuple[int, int, int]]()
    for view, state in enumerate(states):  # grows while it is walked through
        options.append(env.shown(state))
        for i, option in enumerate(options[view]):
            following = env.advance(state, i).next_state if option.kind == "ask" and option.valid else None
            if following is None:
                continue
            key = env.view_key(following)
            if key not in places:
                places[key] = len(states)
                states.append(following)
            links.append((view, i, places[key]))
    shape = len(states), max(map(len, options))
    kinds, follows = np.full(shape, -1, np.int8), np.full(shape, -1, np.int32)
    for view, shown in enumerate(options):
        kinds[view, : len(shown)] = [KINDS.index(option_kind(option)) for option in shown]
    for view, i, after in links:
        follows[view, i] = after
    return Table(tuple(states), tuple(options), kinds, follows)


def value(env: ProactiveEnv, policy: OptionPolicy, *, by_turn: bool = True) -> Value:
    """Exact value of a policy that gives each shown option a probability.

    ``by_turn``: the policy may look at ``state.turn``; False: it depends on what is shown only and is asked once a view, which is faster.
    Raises ValueError where it gives no distribution over the options shown.
    """
    table = table_of(env)
    fixed = None if by_turn else _odds(table, policy, range(len(table.states)), None)
    alive: NDArray[np.float64] = np.zeros(len(table.states))
    alive[0], acc, turns, last = 1.0, 0.0, 0.0, 0.0
    right, on = table.kinds == RIGHT, table.follows >= 0
    for turn in range(env.max_turns):
        last = float(alive.sum())
        if last == 0.0:
            break
        odds = _odds(table, policy, np.flatnonzero(alive).tolist(), turn) if fixed is None else fixed
        if turn == 0:
            named = _named(env, table, odds)
        turns += last
        flow = alive[:, None] * odds
        acc += float(flow[right].sum())
        alive = np.bincount(table.follows[on], flow[on], len(alive)).astype(np.float64)
    return Value(acc, turns - 1, last, named, turns)


def uniform_value(env: ProactiveEnv) -> Value:
    """Exact value of choosing among the shown options at random."""
    return value(env, lambda _, options: (1 / len(options),) * len(options), by_turn=False)


def _odds(table: Table, policy: OptionPolicy, views: Sequence[int], turn: int | None) -> NDArray[np.float64]:
    """float64 (V, O): the policy at some views, 0 elsewhere."""
    odds = np.zeros(table.kinds.shape)
    for view in views:
        state = table.states[view] if turn is None else table.states[view]._replace(turn=turn)
        given = np.asarray(policy(state, table.options[view]), np.float64)
        count = len(table.options[view])
        if given.shape != (count,) or not (given >= 0).all() or abs(float(given.sum()) - 1) > 1e-6:
            raise ValueError(f"a policy must give {count} probabilities that sum to 1, not {given.tolist()}")
        odds[view, :count] = given
    return odds


def _named(env: ProactiveEnv, table: Table, odds: NDArray[np.float64]) -> float:
    answer = env.record.answer
    places = [i for i, option in enumerate(table.options[0]) if option.kind == "category" and option.text == answer]
    return float(odds[0, places].sum())
