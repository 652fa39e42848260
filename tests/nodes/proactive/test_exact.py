"""Exact values against closed forms, against draws, and against plain stepping."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.nodes.proactive.env import Option, ProactiveEnv, State, make_env
from runner.nodes.proactive.episodes import Case, play
from runner.nodes.proactive.exact import KINDS, table_of, uniform_value, value
from runner.nodes.proactive.policies import Name, scripted
from runner.nodes.proactive.records import Record
from tests.nodes.proactive.material import record, records, sides


def chain(asks: list[int], shown: list[int], right: list[int]) -> tuple[float, float, float]:
    """acc, psr, exhausted of uniform guessing where turn t shows ``shown[t]`` options, ``asks[t]`` of them lead on, ``right[t]`` are right."""
    alive, acc, psr = 1.0, 0.0, 0.0
    for t, (a, s, r) in enumerate(zip(asks, shown, right, strict=True)):
        acc += alive * r / s
        if t + 1 == len(asks):
            return acc, psr, alive
        alive *= a / s
        psr += alive
    raise AssertionError


def path_sum(asks: int, shown: int, n: int) -> tuple[float, float]:
    """acc and psr where every turn is alike: geometric sums."""
    q = asks / shown
    return (1 - q**n) / (1 - q) / shown, q * (1 - q ** (n - 1)) / (1 - q)


def test_uniform_on_rings() -> None:
    q = 2 / 7
    rod = uniform_value(make_env(record("ROD", n=14)))
    assert rod.acc == pytest.approx(q / 7 * (1 - q**13) / (1 - q), abs=1e-12)
    assert rod.psr == pytest.approx(q * (1 - q**13) / (1 - q), abs=1e-12)
    assert (round(100 * rod.acc, 2), round(rod.psr, 2)) == (5.71, 0.40)  # as the method's notes give them
    assert rod.exhausted == pytest.approx(q**13, abs=1e-15) and rod.first_turn_acc == pytest.approx(1 / 7)
    for n in (1, 2, 9, 230):
        found = uniform_value(make_env(record("VSOD", n=n)))
        assert (found.acc, found.psr) == pytest.approx(path_sum(2, 7, n), abs=1e-12)
    assert (round(100 * found.acc, 2), round(found.psr, 2)) == (20.0, 0.40)


@pytest.mark.parametrize(
    ("scenario", "n", "shown", "acc", "psr"),
    [("MVP-N", 4, 6, 19.98, 0.20), ("QD", 5, 6, 20.0, 0.20), ("IN-C", 5, 9, 12.5, 0.12)],
)
def test_uniform_on_paths(scenario: str, n: int, shown: int, acc: float, psr: float) -> None:
    found = uniform_value(make_env(record(scenario, n=n)))
    assert (found.acc, found.psr) == pytest.approx(path_sum(1, shown, n), abs=1e-12)
    assert found.exhausted == pytest.approx(shown ** -(n - 1), abs=1e-15)
    assert (round(100 * found.acc, 2), round(found.psr, 2)) == (acc, psr)


def test_uniform_in_a_long_video() -> None:
    """From the first window on: alive and position together, summed over all sequences of ways by recursion."""
    n, most = 6, 9

    def follow(position: int, turn: int) -> tuple[float, float]:
        ways = [p for p in (position - 1, position + 1) if 0 <= p < n]
        shown = 5 + len(ways)
        rest = [follow(p, turn + 1) for p in ways] if turn < most else []
        return 1 / shown + sum(a for a, _ in rest) / shown, sum(1 + s for _, s in rest) / shown

    found = uniform_value(make_env(record("CIT", n=n, max_steps=most)))
    assert (found.acc, found.psr) == pytest.approx(follow(0, 1), abs=1e-12)
    assert 0.199 < found.acc < 0.2 and 0.22 < found.psr < 0.24


@given(records("COCO"))
def test_uniform_on_growing_crops(one: Record) -> None:
    g, axes = one.granularity or 1, len(sides(one))
    found = uniform_value(make_env(one))
    if axes < 2:
        views = g if axes else g + 1
        asks = [1] * (views - 1) + [0]
        expected = chain(asks, [5 + a for a in asks], [1] * views)
        assert (found.acc, found.psr, found.exhausted) == pytest.approx(expected, abs=1e-12)
        return
    # a and b steps taken along the two axes: ways to have taken them, each step out of the options then shown
    acc = psr = 0.0
    alive = {(0, 0): 1.0}
    while alive:
        after: dict[tuple[int, int], float] = {}
        for (a, b), mass in alive.items():
            open_axes = [(a + 1, b)] * (a < g - 1) + [(a, b + 1)] * (b < g - 1)
            acc += mass / (5 + len(open_axes))
            for place in open_axes:
                after[place] = after.get(place, 0.0) + mass / (5 + len(open_axes))
        psr += sum(after.values())
        alive = after
    assert (found.acc, found.psr, found.exhausted) == pytest.approx((acc, psr, 0.0), abs=1e-12)


def random_policy(seed: int) -> Callable[[State, tuple[Option, ...]], list[float]]:
    """Some distribution for each state and number of options, asking more than not."""

    def odds(state: State, options: tuple[Option, ...]) -> list[float]:
        chance = random.Random(f"{seed} {state[:4]} {len(options)}")
        weights = [chance.random() * (3 if o.kind == "ask" else 1) + 1e-3 for o in options]
        return [w / sum(weights) for w in weights]

    return odds


class Drawing:
    """The same as a policy for ``play``."""

    def __init__(self, odds: Callable[[State, tuple[Option, ...]], list[float]]) -> None:
        self._odds = odds

    def probabilities(self, env: ProactiveEnv, state: State, options: tuple[Option, ...]) -> list[float]:
        return self._odds(state, options)


@pytest.mark.parametrize("options", ["native", "foreign"])
@pytest.mark.parametrize(
    "one",
    [record("ROD", n=5), record("VSOD", n=4), record("MVP-N", n=4), record("IN-C"), record("QD"), record("CIT", n=4, max_steps=5),
     record("COCO", n=3, direction="up_left"), record("COCO", n=3, direction="zoom")],
    ids=lambda r: f"{r.scenario} {r.direction or ''}".strip(),
)  # fmt: skip
def test_draws_agree_with_exact_values_within_four_sigma(one: Record, options: str) -> None:
    env = make_env(one, options=options, seed=3)  # type: ignore[arg-type]
    odds, draws = random_policy(7), 1500
    expected = value(env, odds)
    played = play([Case("s", one, env, None, "test")], Drawing(odds), draws=draws, seed=11)
    successes = np.array([e.success for e in played], float)
    turns = np.array([len(e.turns) for e in played], float)
    full = np.array([len(e.turns) == env.max_turns for e in played], float)
    for drawn, exact in ((successes, expected.acc), (turns, expected.turns), (full, expected.exhausted)):
        assert abs(drawn.mean() - exact) <= 4 * max(drawn.std(), 1 / math.sqrt(draws)) / math.sqrt(draws)
    assert expected.psr == expected.turns - 1


@given(records(), st.sampled_from(["native", "foreign"]), st.sampled_from(["always_ask", "always_true", "abstain", "oracle", "ask_k"]), st.integers(0, 4))  # fmt: skip
def test_one_hot_policies_are_plain_stepping(one: Record, options: str, name: Name, k: int) -> None:
    env = make_env(one, options=options)  # type: ignore[arg-type]
    policy = scripted(name, k=k if name == "ask_k" else None)
    (episode,) = play([Case("s", one, env, None, "test")], policy)
    found = value(env, lambda s, o: policy.probabilities(env, s, o))
    assert (found.acc, found.turns, found.psr) == (episode.success, len(episode.turns), len(episode.turns) - 1)
    assert found.exhausted == (len(episode.turns) == env.max_turns)


@given(records(), st.sampled_from(["native", "foreign"]), st.integers(0, 9))
def test_a_policy_of_views_has_one_value_however_it_is_asked(one: Record, options: str, seed: int) -> None:
    env = make_env(one, options=options)  # type: ignore[arg-type]

    def odds(state: State, shown: tuple[Option, ...]) -> list[float]:
        return random_policy(seed)(state._replace(turn=state.turn if options == "foreign" else 0), shown)

    assert value(env, odds, by_turn=True) == pytest.approx(value(env, odds, by_turn=False), abs=1e-12)


@given(records(), st.sampled_from(["native", "foreign"]))
def test_tables_lead_where_stepping_leads(one: Record, options: str) -> None:
    env = make_env(one, options=options)  # type: ignore[arg-type]
    table = table_of(env)
    assert len({env.view_key(state) for state in table.states}) == len(table.states)
    for view, state in enumerate(table.states):
        assert table.options[view] == env.shown(state)
        for i in range(table.kinds.shape[1]):
            if i >= len(table.options[view]):
                assert (table.kinds[view, i], table.follows[view, i]) == (-1, -1)
                continue
            outcome = env.advance(state, i)
            right = KINDS[table.kinds[view, i]] == "category_true"
            assert right == outcome.success
            after = table.follows[view, i]
            assert (after >= 0) == (outcome.next_state is not None)
            if outcome.next_state is not None:
                assert env.view_key(table.states[after]) == env.view_key(outcome.next_state)


@pytest.mark.parametrize("wrong", [[1.0], [0.5] * 6, [1.5, -0.5, 0, 0, 0, 0], [math.nan] * 6])
def test_what_is_no_distribution_is_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="6 probabilities that sum to 1"):
        value(make_env(record("QD")), lambda s, o: wrong)


def test_reference_mode_has_one_turn() -> None:
    found = uniform_value(make_env(record("ROD"), mode="reference"))
    assert found == pytest.approx((0.25, 0.0, 1.0, 0.25, 1.0))
