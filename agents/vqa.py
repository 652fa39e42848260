"""Questions about pictures put to a chat model: the prompts, scores and failures of a model in this process, through its client."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agents.asking import NotAnswered, reply_to
from agents.openworld_chunks import in_chunks
from agents.openworld_pictures import Part, Pictures, ahead
from agents.prompting import one_line
from runner.context import StepContext
from runner.data.images import UnreadableImage
from runner.data.places import Place
from runner.models.base import ChatModel, ChatRequest, ImagePart, Message
from runner.models.lvlm.batches import places_of
from runner.nodes.vqa.answering import Answer, Answers, Key, key_of, tell
from runner.nodes.vqa.prompts import prompt

if TYPE_CHECKING:
    from runner.artifacts import VqaItems

Row = Mapping[str, Any]


async def chat_answers(ctx: StepContext, llm: ChatModel, items: VqaItems, *, max_new_tokens: int) -> Answers:
    """Answers of a chat model at temperature 0; many questions are under way at once, as many as its client allows.

    Raises ``ModelRefused`` before any question where the model does not take as many pictures as one of them shows.
    """
    rows = items.items.to_pylist()
    most = max((len(row["uris"]) for row in rows), default=0)
    if most:
        await llm.check_images(most, ctx)
    pictures = Pictures(items.corpus, max_side=None, transport="png")
    answers = Answers()
    ctx.advance("answers", 0, len(rows))
    for benchmark in items.benchmarks:
        name, started = str(benchmark["benchmark"]), time.perf_counter()
        work = functools.partial(_ask, ctx, llm, benchmark, max_new_tokens)
        answers.found |= await _benchmark(ctx, work, [row for row in rows if row["benchmark"] == name], pictures)
        answers.seconds[name] = time.perf_counter() - started
    tell(ctx, answers)
    return answers


async def _benchmark(ctx: StepContext, ask: Any, rows: Sequence[Row], pictures: Pictures) -> dict[Key, Answer]:
    async def read(some: Sequence[Row]) -> dict[Place, Part]:
        return await pictures.parts({place for row in some for place in places_of(row)})

    found: dict[Key, Answer] = {}
    async for some, parts in ahead(rows, read):
        told = await in_chunks(some, functools.partial(ask, parts), ctx, unit="answers", total=False)
        found |= {key_of(row): answer for row, answer in zip(some, told, strict=True)}
    return found


async def _ask(
    ctx: StepContext, llm: ChatModel, benchmark: Row, max_new_tokens: int, parts: Mapping[Place, Part], row: Row
) -> Answer:
    """One question; what is lost costs this answer alone."""
    shown = [parts.get(place) for place in places_of(row)]
    lost = [part for part in shown if not isinstance(part, ImagePart)]
    if lost:
        reason = lost[0].message if isinstance(lost[0], UnreadableImage) else "it is not there"
        return Answer(None, f"a picture cannot be read: {reason}")
    content: tuple[str | ImagePart, ...] = (
        *(part for part in shown if isinstance(part, ImagePart)),
        prompt(benchmark, row),
    )
    request = ChatRequest(
        (Message("user", content),), "evaluate.vqa", item=one_line("/".join(key_of(row)), 120), max_tokens=max_new_tokens,
        seed=ctx.seed, max_repairs=0, allow_cut=True, allow_empty=True,
    )  # fmt: skip
    try:
        return Answer((await reply_to(llm, request, ctx)).text.strip())
    except NotAnswered as error:
        return Answer(None, str(error))
