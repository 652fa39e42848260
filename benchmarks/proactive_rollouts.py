"""Rollouts of one token: one forward pass a prompt against ``generate`` with G copies of it, on the same network in one run.

    OMP_NUM_THREADS=1 python benchmarks/proactive_rollouts.py [prompts [rollouts [repeats]]]

Both draw ``rollouts`` answers of one token for each prompt from the same distribution (temperature 1) and give their log-probabilities: the
same estimator. The tiny LLaVA of the tests; printed are the seconds of both (best of the repeats, taken in turn), their ratio, and the
largest difference of the log-probabilities of the tokens that generating drew.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from runner.models.lvlm.loading import read
from runner.nodes.finetuning.learner import prepare
from runner.nodes.finetuning.specs import Optim, Recipe
from runner.nodes.proactive.pictures import FramePictures
from runner.nodes.proactive.rendering import render
from runner.nodes.proactive.rollouts import FirstToken, Generated, Policy, Turns
from runner.nodes.proactive.samples import cases_of
from runner.nodes.proactive.warming import situations
from tests.nodes.proactive import grpo_toy


def main(prompts: int = 32, rollouts: int = 8, repeats: int = 5) -> None:
    """Run and print."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        made = grpo_toy.samples(Path(folder) / "pictures", prompts)
        model = grpo_toy.make_model(Path(folder) / "model", grpo_toy.prompts(made))
        learner = prepare(read(model, dtype="float32"), Recipe(projector=False, optim=Optim(precision="fp32")))
        policy = Policy(Turns(learner, FramePictures(made.corpus), render, 1e9), 1.0)
        starts = [one for one in situations(cases_of(made, split="train"), "first") for _ in range(rollouts)]
        ways = FirstToken(policy, "text", 0), Generated(policy, 1, 0)
        best = [float("inf")] * 2
        for number in range(repeats + 1):  # the first one fills what is kept
            for place, way in enumerate(ways):
                seconds = _timed(lambda way=way, number=number: way(starts, number))  # type: ignore[misc]
                best[place] = min(best[place], seconds) if number else best[place]
        answers, told = ways[1](starts, 0)
        log_p = policy.log_probs(policy.states([(start, ()) for start in starts[::rollouts]]))
        rows = torch.arange(len(starts)) // rollouts
        gap = (log_p[rows, torch.tensor([answer.tokens[0] for answer in answers])] - told.logp).abs().max()
    print(
        f"{prompts} prompts x {rollouts}: one pass {best[0]:.4f} s, generate {best[1]:.4f} s, ratio {best[1] / best[0]:.1f}"
    )
    print(f"largest difference of log-probabilities {float(gap):.2e}")


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
