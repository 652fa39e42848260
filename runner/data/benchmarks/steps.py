"""Steps ``benchmarks.load``, ``conversations.load``. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from runner.artifacts import Conversations, VqaItems
from runner.context import StepContext
from runner.data.benchmarks.specs import Benchmark, ConversationSpec, Text, Title
from runner.steps import step


@step("benchmarks.load", version="2")
def load_benchmarks(
    ctx: StepContext,
    *,
    benchmarks: Annotated[dict[Title, Benchmark], Field(min_length=1, description="name in the results: where it is")],
    limit: Annotated[
        int | None,
        Field(ge=1, description="items drawn of each benchmark; default: all. MME: whole pairs, at most so many items"),
    ] = None,
    seed: Annotated[int | None, Field(ge=0, description="of the draws; default: the run's")] = None,
    thumbnails: Annotated[int, Field(ge=0, le=10_000, description="first items of each benchmark shown")] = 24,
) -> VqaItems:
    """Load benchmarks of visual question answering from local files.

    Nothing is downloaded. Items whose picture is missing or whose record is malformed are left out, counted and named.
    """
    from runner.data.benchmarks.loading import load
    from runner.data.benchmarks.showing import with_thumbnails

    items = load(ctx, benchmarks, limit, ctx.seed if seed is None else seed)
    return with_thumbnails(items, thumbnails, lambda text, uri: ctx.warn(text, item=uri))


@step("conversations.load", version="1")
def load_conversations(
    ctx: StepContext,
    *,
    source: Annotated[ConversationSpec, Field(description="the data; its key says the kind")],
    limit: Annotated[int | None, Field(ge=1, description="records drawn of each domain; default: all")] = None,
    seed: Annotated[int | None, Field(ge=0, description="of the draws; default: the run's")] = None,
    thumbnails: Annotated[int, Field(ge=0, le=10_000, description="first items of each benchmark shown")] = 24,
    name: Annotated[Text, Field(description="of the data in the results")] = "conversations",
) -> Conversations:
    """Load conversations about pictures to train, calibrate or measure a loss on, from local files.

    Records whose picture is missing, whose path leads out of its folder or whose turns are no conversation are left out, counted and named.
    """
    from runner.data.benchmarks.conversing import load

    return load(ctx, source, name, limit, ctx.seed if seed is None else seed)
