"""Episodes in lock-step against one episode after the other, on the same model in this process.

    python benchmarks/proactive_lockstep.py [--samples 6] [--batch 32] [--tokens 16]

A small random LLaVA answers through the provider `transformers`. Its replies mean nothing, so each is turned into one of the options by
its hash; episodes then last several turns. Both ways must give the same answers, turn by turn. Prints seconds and their ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/agents"), str(ROOT / "tests/chat"), str(ROOT / "tests/nodes/proactive")]

from material import record  # noqa: E402
from proactive_server import is_request, make_samples  # noqa: E402
from tiny_vlm import make_tiny_vlm  # noqa: E402

from agents.proactive import LockStep, Plan  # noqa: E402
from agents.proactive_asking import ChatAsker, Ready, Said  # noqa: E402
from agents.proactive_context import Wording  # noqa: E402
from runner.context import local_context  # noqa: E402
from runner.models.chat.providers import Transformers  # noqa: E402
from runner.models.registry import Services  # noqa: E402
from runner.nodes.proactive.episodes import Case, Episode  # noqa: E402
from runner.nodes.proactive.pictures import FramePictures  # noqa: E402
from runner.nodes.proactive.samples import cases_of  # noqa: E402


class Hashing(ChatAsker):
    """Takes the option that the hash of the reply and of the picture points at: a request seven times out of eight."""

    async def _answer(self, ready: Ready) -> Said:
        said = await super()._answer(ready)
        digest = hashlib.sha256(f"{said.text}\0{said.image_sha1}".encode()).digest()
        options = ready.question.options
        asking = [i for i, option in enumerate(options) if is_request(option)]
        return replace(said, index=asking[digest[0] % len(asking)] if digest[1] < 224 else digest[0] % len(options))


async def played(
    folder: Path, model: Path, samples: Any, groups: Sequence[Sequence[Case]], args: Any
) -> tuple[float, list[Episode]]:
    """Seconds and episodes, group after group, with a cache of its own."""
    folder.mkdir()
    ctx = local_context(folder)
    llm = Transformers(path=str(model), batch_size=args.batch, dtype="float32").load(
        Services(cache=folder, device="cpu")
    )
    try:
        await llm.check_images(1, ctx)
        import langgraph.graph  # noqa: F401 - neither the weights nor a library are read while the clock runs

        started, episodes = time.perf_counter(), []
        for group in groups:
            asker = Hashing(ctx, FramePictures(samples.corpus), llm, purpose="benchmark", max_new_tokens=args.tokens)
            episodes += await LockStep(ctx, asker, Plan(Wording())).play(group)
        return time.perf_counter() - started, episodes
    finally:
        llm.close()


def answers(episodes: Sequence[Episode]) -> list[list[str | None]]:
    """Replies by episode and turn."""
    return [[turn.answer for turn in episode.turns] for episode in episodes]


def main() -> None:
    """Both ways, and how many times faster lock-step is."""
    parser = argparse.ArgumentParser()
    for name, default in (("samples", 6), ("batch", 32), ("tokens", 16)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = make_tiny_vlm(folder / "llava", "llava")
        scenarios = ("ROD", "VSOD", "MVP-N", "IN-C", "QD", "CIT")
        records = [record(scenario, n + 1, n=5) for scenario in scenarios for n in range(args.samples)]
        samples = make_samples(folder / "frames", records, side=(96, 72))
        cases = cases_of(samples)
        together, whole = asyncio.run(played(folder / "together", model, samples, [cases], args))
        apart, single = asyncio.run(played(folder / "apart", model, samples, [[case] for case in cases], args))
    turns = sum(len(episode.turns) for episode in whole)
    print(f"{len(cases)} episodes, {turns} turns, up to {args.batch} questions at once, {args.tokens} tokens a reply")
    print(
        f"lock-step {together:.1f} s, one by one {apart:.1f} s: {apart / together:.1f} times; same answers: {answers(whole) == answers(single)}"
    )


if __name__ == "__main__":
    main()
