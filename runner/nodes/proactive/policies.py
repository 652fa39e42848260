"""Policies that need no model: baselines to print beside every table, and oracles."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal

from runner.errors import UsageError
from runner.nodes.proactive.env import Option, ProactiveEnv, State
from runner.nodes.proactive.episodes import Case, Episode, Turn, drawn

Name = Literal["uniform", "always_ask", "always_true", "abstain", "oracle", "ask_k"]
Choice = Callable[[ProactiveEnv, State, Sequence[Option]], int]


class Scripted:
    """A policy by name. ``probabilities`` is a pure function of the state; calling it draws with a generator of its own."""

    def __init__(self, name: Name, choice: Choice | None, seed: int) -> None:
        self.name, self._choice = name, choice
        self._rng = random.Random(seed)  # noqa: S311 - not for secrets

    def probabilities(self, env: ProactiveEnv, state: State, options: Sequence[Option]) -> Sequence[float]:
        """Of each option: the same for all (uniform), else 1 for the one chosen."""
        if self._choice is None:
            return (1 / len(options),) * len(options)
        chosen = self._choice(env, state, options)
        return [float(i == chosen) for i in range(len(options))]

    def __call__(self, batch: Sequence[tuple[Case, State, tuple[Option, ...]]]) -> Sequence[int | str]:
        """An index for each state."""
        return [drawn(self.probabilities(case.env, state, options), self._rng) for case, state, options in batch]


def scripted(name: Name, *, k: int | None = None, seed: int = 0) -> Scripted:
    """``uniform``: any shown option; ``always_ask``: a request that helps while one is shown; ``always_true``: the right category at once;
    ``abstain``; ``oracle``: the shortest way to the most telling view (with ``k``: at most so many requests), then the right category;
    ``ask_k``: ``k`` requests, then the right category. Raises ``UsageError``.
    """
    if (name == "ask_k") != (k is not None) and name != "oracle":
        raise UsageError(f"policy {name!r}: `k` is for `ask_k`, which needs it, and for `oracle`")
    choices: dict[str, Choice | None] = {
        "uniform": None, "always_ask": _ask, "always_true": _truth, "abstain": _abstain,
        "oracle": _oracle(k), "ask_k": _ask_k(k or 0),
    }  # fmt: skip
    if name not in choices:
        raise UsageError(f"no scripted policy {name!r}", hint=f"one of {', '.join(choices)}")
    return Scripted(name, choices[name], seed)


def _truth(env: ProactiveEnv, state: State, options: Sequence[Option]) -> int:
    return next(i for i, o in enumerate(options) if o.kind == "category" and o.text == env.record.answer)


def _abstain(env: ProactiveEnv, state: State, options: Sequence[Option]) -> int:
    """Where nothing abstains (reference mode) the first option."""
    return next((i for i, o in enumerate(options) if o.kind == "abstain"), 0)


def _ask(env: ProactiveEnv, state: State, options: Sequence[Option]) -> int:
    """A request that helps, else one that does not, else an abstention."""
    asks = [i for i, o in enumerate(options) if o.kind == "ask"]
    return next((i for i in asks if options[i].valid), asks[0] if asks else _abstain(env, state, options))


def _oracle(k: int | None) -> Choice:
    def choose(env: ProactiveEnv, state: State, options: Sequence[Option]) -> int:
        ahead = _ahead(env, state, options)
        on = ahead is not None and state.turn + 1 < env.max_turns and (k is None or state.turn < k)
        return ahead if on and ahead is not None else _truth(env, state, options)

    return choose


def _ahead(env: ProactiveEnv, state: State, options: Sequence[Option]) -> int | None:
    """A request that shortens the way to the most telling view; None: there, or no such request."""
    here = env.dynamics.remaining(state)
    if env.mode == "reference" or here == 0:
        return None
    valid = [i for i, o in enumerate(options) if o.kind == "ask" and o.valid]
    shorter = [i for i in valid if _after(env, state, options[i]) < here]
    # Foreign requests do something at random: any of them may help.
    return next(iter(shorter), next(iter(valid), None) if env.options_mode == "foreign" else None)


def _after(env: ProactiveEnv, state: State, option: Option) -> int:
    return env.dynamics.remaining(env.dynamics.move(state, option.action or env.drawn_action(state)))


def _ask_k(k: int) -> Choice:
    def choose(env: ProactiveEnv, state: State, options: Sequence[Option]) -> int:
        ahead = _ahead(env, state, options)
        asking = ahead if ahead is not None else _ask(env, state, options)
        wanted = state.turn < k and options[asking].kind == "ask" and options[asking].valid
        return asking if wanted else _truth(env, state, options)

    return choose


def exact_episodes(cases: Sequence[Case], policy: Scripted) -> list[Episode]:
    """Expected values of a scripted policy on each case; the turns are the views on the way to the most telling one, with what it would do."""
    return [_exact(case, policy) for case in cases]


def _exact(case: Case, policy: Scripted) -> Episode:
    from runner.nodes.proactive.exact import value

    env = case.env

    def odds(state: State, options: tuple[Option, ...]) -> Sequence[float]:
        return policy.probabilities(env, state, options)

    turns = tuple(
        Turn(
            state, env.frame(state), shown, None, None, place=env.place(state), probabilities=tuple(odds(state, shown))
        )
        for state in env.ask_path()
        for shown in (env.shown(state),)
    )
    return Episode(case, 0, turns, None, False, "ok", expected=value(env, odds, by_turn=policy.name != "uniform"))
