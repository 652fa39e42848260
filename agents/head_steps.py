"""Step of the judge of CLIP's heads: ``sith.judge``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from runner.artifacts import HeadConcepts, HeadJudgements
from runner.context import StepContext
from runner.errors import StepError
from runner.models.base import ChatModel
from runner.steps import Cost, step

if TYPE_CHECKING:
    from agents.heads_judging import Verdict
    from agents.heads_lists import Vector

Target = Annotated[
    str | None, Field(min_length=1, max_length=200, description="concept_match: the subject to look for, in your words")
]


def _cost(params: Mapping[str, Any]) -> Cost:
    """One question a distinct list, retries left out."""
    return Cost(llm_calls=params.get("limit"))


@step("sith.judge", version="2", estimate=_cost, tags=frozenset({"llm"}))
async def judge(
    ctx: StepContext,
    *,
    llm: ChatModel,
    concepts: HeadConcepts,
    task: Annotated[
        Literal["coherence", "background", "safety", "concept_match"],
        Field(description="what is rated from 1 to 5: one theme; an outdoor scene; unsafe content; your own subject"),
    ] = "coherence",
    target: Target = None,
    retries: Annotated[int, Field(ge=0, le=10, description="further questions where a reply has no score")] = 2,
    limit: Annotated[int | None, Field(ge=1, description="most distinct lists, drawn with the run's seed")] = None,
    per_head: Annotated[int | None, Field(ge=1, description="only the so many largest singular values a head")] = None,
    schema: Annotated[
        Literal["auto", "constrained", "free"],
        Field(
            description="constrained: the server allows only the JSON; free: text is read; auto: first one, then the other"
        ),
    ] = "auto",
    max_unscored: Annotated[
        float, Field(ge=0, le=1, description="fail above this share of distinct lists without a score")
    ] = 0.05,
    max_tokens: Annotated[
        int, Field(ge=8, le=32768, description="most new tokens of a reply; more for models that reason")
    ] = 256,
) -> HeadJudgements:
    """Rate the concept list of each singular vector with a language model, each distinct list once.

    A vector without concepts has the status ``empty``; one whose replies had no score stays ``unscored``.
    """
    from agents.heads_judging import ListJudge
    from results.tables import arrow_table
    from runner.data.sampling import sampled

    _check_target(task, target, ctx)
    lists = _lists(concepts, per_head, ctx)
    distinct = sorted({text for text in lists.values() if text})
    chosen = sampled(distinct, limit, ctx.seed, str)
    if len(chosen) < len(distinct):
        ctx.warn(f"judged {len(chosen):,} of {len(distinct):,} distinct lists; vectors with the others have no row")
    judged_by = ListJudge(llm, ctx, task, target, retries, schema, max_tokens)
    verdicts = dict(zip(chosen, await judged_by.judge(chosen, max_unscored), strict=True))
    about = {"task": task, "judge": llm.name, "prompt_hash": judged_by.prompt_hash}
    rows = [_row(vector, verdicts.get(text), about) for vector, text in lists.items() if not text or text in verdicts]
    return HeadJudgements(concepts.model, task, llm.name, arrow_table("sith_judgement", rows))


def _check_target(task: str, target: str | None, ctx: StepContext) -> None:
    if (task == "concept_match") != bool(target and target.strip()):
        problem = "needs a target" if task == "concept_match" else f"goes with concept_match, not with {task}"
        raise StepError(
            f"`target`: the task {task} {problem}" if task == "concept_match" else f"`target` {problem}", step=ctx.step,
            hint="write task: concept_match with target: 'anything about water', or leave the target out",
        )  # fmt: skip


def _lists(concepts: HeadConcepts, per_head: int | None, ctx: StepContext) -> dict[Vector, str]:
    from agents.heads_lists import SeveralSettings, lists_of, main_setting, vectors_of

    codes = concepts.codes.to_pylist()
    try:
        setting = main_setting(codes, concepts.settings)
    except SeveralSettings as error:
        raise StepError(
            f"the concepts come in several settings ({error}), and one list a vector is judged", step=ctx.step,
            hint="explain with one k, coherence and method in the step that is judged",
        ) from None  # fmt: skip
    lists = lists_of(concepts.concepts.to_pylist(), setting, vectors_of(codes, setting, per_head))
    if not lists:
        raise StepError("there is no concept list to judge", step=ctx.step, hint="explain some vectors first")
    return lists


def _row(vector: Vector, verdict: Verdict | None, about: dict[str, Any]) -> dict[str, Any]:
    """A row of ``sith_judgement``; without a verdict the vector's list is empty."""
    row = about | vector._asdict()
    if verdict is None:
        return row | {"score": None, "theme": None, "status": "empty", "attempts": 0, "cached": False}
    status = "unscored" if verdict.score is None else "scored"
    return row | {
        "score": verdict.score, "theme": verdict.theme, "status": status, "attempts": verdict.asked, "cached": verdict.cached,
    }  # fmt: skip
