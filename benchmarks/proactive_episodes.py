"""Scripted episodes in lock-step against the naive form: an environment an episode, options and texts made anew each turn.

    OMP_NUM_THREADS=1 python benchmarks/proactive_episodes.py [episodes]

All seven scenarios mixed, 700 samples, a policy that chooses among the shown options at random, no picture opened. The naive form makes an
environment from the published JSON, resets it, renders each turn and answers in words that are matched again, one episode after another.
Exact values of the same samples are timed beside them, and compared with what was drawn.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from runner.nodes.proactive.env import make_env
from runner.nodes.proactive.episodes import Case, play
from runner.nodes.proactive.exact import uniform_value
from runner.nodes.proactive.policies import scripted
from runner.nodes.proactive.records import SCENARIOS, parse_record
from runner.nodes.proactive.rendering import option_line, render
from tests.nodes.proactive.material import published

EACH, FRAMES = 100, {"ROD": 14, "VSOD": 60, "MVP-N": 4, "CIT": 20, "COCO": 4}


def samples() -> list[tuple[str, dict[str, Any]]]:
    return [(s, published(s, number, FRAMES.get(s, 5))) for number in range(EACH) for s in SCENARIOS]


def naive(data: list[tuple[str, dict[str, Any]]], draws: int) -> np.ndarray[Any, Any]:
    """Turns of each episode."""
    chance, turns = random.Random(0), []
    for _ in range(draws):
        for scenario, one in data:
            env = make_env(parse_record(scenario, one))
            seen, _ = env.reset()
            count = 0
            while seen is not None:
                render(seen)
                i = chance.randrange(len(seen.options))
                seen = env.step(option_line(i, seen.options[i]))[0]
                count += 1
            turns.append(count)
    return np.array(turns)


def lock_step(cases: list[Case], draws: int) -> np.ndarray[Any, Any]:
    return np.array([len(episode.turns) for episode in play(cases, scripted("uniform"), draws=draws)])


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    data = samples()
    draws = math.ceil(wanted / len(data))
    cases = [Case("s", env.record, env, None, "test") for env in (make_env(parse_record(s, one)) for s, one in data)]
    plain, by_plain = timed(lambda: naive(data, draws))
    ours, by_ours = min((timed(lambda: lock_step(cases, draws)) for _ in range(3)), key=lambda found: found[0])
    exact, values = timed(lambda: [uniform_value(case.env) for case in cases])
    expected = float(np.mean([value.turns for value in values]))
    sigma = by_ours.std() / math.sqrt(len(by_ours))
    print(f"{len(by_ours):,} episodes: naive {plain:.2f} s, lock-step {ours:.2f} s, {plain / ours:.1f} x (CPU time)")
    print(f"exact values of {len(cases)} samples: {exact:.2f} s")
    print(
        f"turns an episode: naive {by_plain.mean():.4f}, lock-step {by_ours.mean():.4f} +- {sigma:.4f}, exact {expected:.4f}"
    )


if __name__ == "__main__":
    main()
