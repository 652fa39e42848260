"""Does GRPO teach to ask where nothing can be seen, and only there? A tiny LLaVA on squares, half of them behind grey, over seeds.

    OMP_NUM_THREADS=1 python benchmarks/proactive_grpo_toy.py [seeds [steps [rate [warm-up steps]]]]

A random model is warmed up on the colours and, of hidden squares, on a mixture (70 % abstain, 15 % guess, 15 % ask), a tenth of all replies
being any option (what is never drawn cannot be learnt), then trained with a request, on hidden and visible squares alike, worth 0.5,
0.75 and 1 of a right answer. Printed: mean probabilities of asking on hidden and visible squares and of the right
answer on visible ones, and the share of seeds that separate: more than 0.8 asking on hidden, more than 0.8 right on visible.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests.nodes.proactive.grpo_toy import Shares, asked, samples, shares_of, warmed

REWARDS = (0.5, 0.75, 1.0)


def main(seeds: int = 5, steps: int = 500, lr: float = 1e-3, warm: int = 200) -> None:
    """Run and print."""
    found: dict[float, list[Shares]] = {ask: [] for ask in REWARDS}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            made = samples(home / "pictures", 240, seed=seed)
            model = warmed(home / "warm", made, seed=seed, steps=warm, slips=0.1)
            _say(f"seed {seed} warm-up", shares_of(model, made), 0.0)
            for ask in REWARDS:
                started = time.monotonic()
                learnt, _ = asked(home / f"ask-{ask}", model, made, ask=ask, seed=seed, steps=steps, lr=lr)
                found[ask].append(shares_of(learnt, made))
                _say(f"seed {seed} ask {ask}", found[ask][-1], time.monotonic() - started)
    for ask, some in found.items():
        print(f"ask {ask}: {sum(one.separate for one in some)} of {len(some)} seeds separate asking from answering")


def _say(name: str, shares: Shares, seconds: float) -> None:
    values = " ".join(f"{key} {value:.3f}" for key, value in shares._asdict().items())
    print(f"{name:>20}: {values} ({seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    main(*(kind(value) for kind, value in zip((int, int, float, int), given, strict=False)))  # type: ignore[arg-type]
