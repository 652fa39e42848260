"""How much a server reads to refine labels in context, counted from the messages that a run sends.

    python benchmarks/prefix_blocks.py

A run of CIRCLE labels m pictures and refines them over T rounds. A block is a picture with the labels beside it; the target with its
labels is another block than the same picture among the examples. Without a prefix cache a server reads every block of every
message; with one, each beginning once. The model here is a recorder: it answers from the message alone and keeps what it was sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agents.circle import Circle, CirclePlan, ContextOrder, ContextPicture, blocks_to_prefill
from agents.circle_calls import Talk
from agents.circle_prompts import Prompts, Shown
from agents.openworld_chunks import Losses
from runner.context import StepContext, local_context
from runner.models.base import ChatModel, ChatReply, ChatRequest, ImagePart

SHOTS = (4, 8, 16, 32)
ROUNDS = 3

Block = tuple[str, str]


class Recorder(ChatModel):
    """Keeps the messages of refinements and answers with a word that hangs on the message alone."""

    name = "recorder"

    def __init__(self) -> None:
        self.prompts: list[list[Block]] = []

    async def complete(self, request: ChatRequest, ctx: StepContext) -> ChatReply:
        content = request.messages[-1].content
        assert not isinstance(content, str)
        if request.purpose == "circle.refine":
            self.prompts.append(blocks_of(content))
        word = "word" + hashlib.sha256(repr(content).encode()).hexdigest()[:8]
        return ChatReply(word, None, "stop", 1, 1, 1, False, self.name)


def blocks_of(content: Sequence[str | ImagePart]) -> list[Block]:
    """Pictures with the text after each; the last one, the target, has its delimiter in front."""
    pairs = [
        (hashlib.sha256(part.data).hexdigest(), str(text))
        for part, text in itertools.pairwise(content)
        if isinstance(part, ImagePart)
    ]
    target, labels = pairs[-1]
    return [*pairs[:-1], (f"target {target}", labels)]


async def rounds_of(m: int, order: ContextOrder, folder: Path) -> list[list[list[Block]]]:
    """The refinement prompts of each round, as they were sent."""
    recorder, ctx = Recorder(), local_context(folder)
    context = [ContextPicture(i, {"sample_id": str(i)}, ImagePart(f"picture {i}".encode())) for i in range(m)]

    async def nothing(shown: list[Shown]) -> list[dict[str, object]]:
        return []

    plan = CirclePlan("circle", ROUNDS, order)
    await Circle(Talk(recorder, ctx, "bench", 0), Prompts(), plan, context, nothing, Losses(ctx, "calls")).run()
    return [recorder.prompts[start : start + m] for start in range(0, ROUNDS * m, m)]


def counted(m: int) -> tuple[int, int, int]:
    """Blocks a round: without a prefix cache, with one in the fixed order, with one in the order of the prefix tree."""
    with tempfile.TemporaryDirectory() as folder:
        fixed = asyncio.run(rounds_of(m, "fixed", Path(folder)))
        tree = asyncio.run(rounds_of(m, "prefix_tree", Path(folder)))
    plain = {sum(map(len, prompts)) for prompts in fixed}
    found = [{blocks_to_prefill(prompts) for prompts in rounds} for rounds in (fixed, tree)]
    (whole,), (kept,), (least,) = plain, *found  # every round counts the same
    return whole, kept, least


def main() -> None:
    """Print the table, each count beside its formula."""
    print("  m   no cache (m^2)   fixed order (m(m-1)/2 + 2m - 1)   prefix tree (m log2 m + m)")
    for m in SHOTS:
        whole, kept, least = counted(m)
        formulas = (m * m, m * (m - 1) // 2 + 2 * m - 1, m * (m.bit_length() - 1) + m)
        print(f"{m:3}   {whole:8} {formulas[0]:7}   {kept:8} {formulas[1]:7}   {least:22} {formulas[2]:7}")


if __name__ == "__main__":
    main()
