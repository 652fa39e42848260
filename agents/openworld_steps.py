"""Steps in which a model answers or judges: ``owc.ask``, ``owc.judge`` and others, and ``circle.multiple_choice``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from agents.openworld_prompts import OwnPrompt, PromptKey
from runner.artifacts import (
    Categories,
    ClosedAnswers,
    Datasets,
    EloGames,
    FewShotPool,
    Judgements,
    Neighbours,
    OpenAnswers,
)
from runner.context import StepContext
from runner.errors import StepError
from runner.models.base import ChatModel
from runner.references import InputPath, ResolvedPath
from runner.steps import Artifact, Cost, Rows, Table, step

if TYPE_CHECKING:
    from agents.multiple_choice import Shots
    from agents.openworld_prompts import Question

LLM = frozenset({"llm"})

Label = Annotated[
    str | None, Field(min_length=1, max_length=60, pattern=r"^[\w.+-]+$", description="method name in results")
]
Split = Annotated[str, Field(min_length=1, max_length=40, description="split that is asked about")]
Limit = Annotated[int | None, Field(ge=1, description="pictures a dataset, drawn with the run's seed (default: all)")]
Side = Annotated[int | None, Field(ge=16, le=8192, description="longer side in pixels at most (default: as it is)")]
Sent = Annotated[
    Literal["jpeg75", "jpeg", "png", "raw"],
    Field(description="jpeg75 as published; jpeg: quality 95; png; raw: as found"),
]
Tokens = Annotated[int | None, Field(ge=1, le=8192, description="most new tokens of a reply")]
System = Annotated[str | None, Field(min_length=1, max_length=4000, description="system message (default: none)")]
Probe = Annotated[bool, Field(description="find out first whether the model takes pictures this way")]
Parse = Annotated[
    Literal["strict", "first_digit", "constrained"],
    Field(description="strict: exactly 0 or 1 (published); first_digit; constrained: the server allows only the two"),
]
SlotOrder = Annotated[
    Literal["prefix", "published"],
    Field(
        description="prefix: answer and target last, so that servers read the rest once; published: before the rules"
    ),
]


@dataclass(frozen=True)
class JudgeAgreement(Artifact):
    """How well a judge agrees with pairs that were labelled by hand."""

    judge: str
    parse: str
    agreement: Annotated[Table, Rows("owc_judge_agreement")]
    pairs: Annotated[Table, Rows("owc_judge_pair")]


def _unknown_cost(params: Mapping[str, Any]) -> Cost:
    """One question a picture, pair or game; how many there are is not known beforehand."""
    return Cost(llm_calls=None, images=None)


def _limited_cost(params: Mapping[str, Any]) -> Cost:
    """One question a distinct pair, retries left out."""
    return Cost(llm_calls=params.get("limit"))


def _agreement_cost(params: Mapping[str, Any]) -> Cost:
    """One question a pair, retries left out."""
    from agents.judge_pairs import packaged_pairs

    return Cost(llm_calls=None if params.get("pairs") else len(packaged_pairs()))


@step("owc.ask", version="2", estimate=_unknown_cost, tags=LLM)
async def ask(
    ctx: StepContext,
    *,
    lmm: ChatModel,
    images: Datasets,
    prompt: Annotated[
        PromptKey | OwnPrompt,
        Field(description="a variant of the question, or {text: ...} or {rounds: [...]} of your own"),
    ] = "base",
    split: Split = "test",
    limit: Limit = None,
    max_side: Side = None,
    transport: Sent = "jpeg75",
    max_tokens: Tokens = None,
    compat: Annotated[
        Literal["sane", "official"],
        Field(description="official: llava_cot as published runs had it, scored as a whole"),
    ] = "sane",
    system: System = None,
    logprobs: Annotated[bool, Field(description="ask for the log-likelihood of replies")] = False,
    label: Label = None,
    probe: Probe = True,
) -> OpenAnswers:
    """Ask a model that takes pictures what each one shows, without a list of classes.

    Greedy; at most 64 new tokens, 256 a turn for reasoning prompts. The prompts follow the published variants in words of
    our own.
    """
    from agents.openworld import Asking, ask_pictures, queries
    from agents.openworld_pictures import Pictures
    from results.tables import arrow_table

    questions = _questions(images, prompt, compat, ctx)
    rows = queries(images, split, limit, ctx)
    pictures = Pictures(images.corpus, max_side=max_side, transport=transport)
    if probe:
        await lmm.check_images(1, ctx)
    asking = Asking(questions, label or "zero_shot", system, max_tokens, compat, logprobs)
    answers = await ask_pictures(lmm, rows, pictures, asking, ctx)
    settings: dict[str, Any] = {
        "prompt": prompt if isinstance(prompt, str) else prompt.model_dump(), "split": split, "limit": limit, "max_side": max_side,
        "transport": transport, "max_tokens": max_tokens, "compat": compat, "system": system, "model": lmm.name,
        "questions": {name: list(question.rounds) for name, question in questions.items()},
    }  # fmt: skip
    return OpenAnswers(images.datasets, asking.method, settings, arrow_table("owc_prediction", answers))


def _questions(images: Datasets, prompt: Any, compat: Any, ctx: StepContext) -> dict[str, Question]:
    """The question for each dataset; a dataset that the prompt does not fit ends the step before anything is asked."""
    from agents.openworld_prompts import question

    found: dict[str, Question] = {}
    for dataset in images.datasets:
        name = dataset["dataset"]
        try:
            found[name] = question(prompt, domain_noun=dataset["domain_noun"], compat=compat)
        except ValueError as error:
            raise StepError(
                f"the prompt fine_grained does not fit the dataset {name}: {error}", step=ctx.step,
                hint="give the dataset a domain_noun (such as bird), leave it out, or use another prompt",
            ) from None  # fmt: skip
    return found


@step("owc.judge", version="1", estimate=_limited_cost, tags=LLM)
async def judge(
    ctx: StepContext,
    *,
    llm: ChatModel,
    answers: list[OpenAnswers],
    parse: Parse = "strict",
    retries: Annotated[
        int, Field(ge=0, le=10, description="further questions where a reply is no verdict; 0 published")
    ] = 2,
    first_item: Annotated[bool, Field(description="judge the first item of comma lists too")] = True,
    limit: Annotated[int | None, Field(ge=1, description="most distinct pairs, drawn with the run's seed")] = None,
    max_unparsable: Annotated[
        float, Field(ge=0, le=1, description="fail above this share of pairs without a verdict")
    ] = 0.5,
    slot_order: SlotOrder = "prefix",
) -> Judgements:
    """Judge each distinct pair of label and answer once with a language model (Llama inclusion of the published protocol).

    A reply that is no verdict stays unscored after ``retries``; scoring counts it both ways.
    """
    from agents.judging import Judge, distinct_pairs, judge_pairs
    from results.tables import arrow_table
    from runner.data.sampling import sampled

    pairs = distinct_pairs(_rows(answers, ctx), first_items=first_item)
    chosen = sampled(pairs, limit, ctx.seed, "\0".join)
    if len(chosen) < len(pairs):
        ctx.warn(f"judged {len(chosen):,} of {len(pairs):,} distinct pairs; the others stay unscored")
    judgements = await judge_pairs(Judge(llm, ctx, parse, retries, slot_order), chosen, max_unparsable=max_unparsable)
    return Judgements(llm.name, parse, arrow_table("owc_judgement", [j.row(llm.name) for j in judgements]))


@step("owc.judge_agreement", version="1", estimate=_agreement_cost, tags=LLM)
async def judge_agreement(
    ctx: StepContext,
    *,
    llm: ChatModel,
    pairs: Annotated[
        InputPath | None, Field(description="JSON file of labelled pairs (default: the 60 packaged ones)")
    ] = None,
    parse: Parse = "strict",
    retries: Annotated[int, Field(ge=0, le=10, description="further questions where a reply is no verdict")] = 2,
    slot_order: SlotOrder = "prefix",
) -> JudgeAgreement:
    """Measure how well a judge agrees with pairs of label and answer that a person labelled, over all and by kind."""
    from agents.judge_pairs import agreement_rows, packaged_pairs, read_pairs
    from agents.judging import Judge, Pair, judge_pairs
    from results.tables import arrow_table

    labelled = packaged_pairs() if pairs is None else read_pairs(ResolvedPath(pairs).path)
    asked = [Pair(pair.reference, pair.answer) for pair in labelled]
    judgements = await judge_pairs(Judge(llm, ctx, parse, retries, slot_order), asked)
    rows = [
        {**pair.model_dump(exclude={"domain"}), "reply": judgement.reply, "verdict": judgement.verdict}
        for pair, judgement in zip(labelled, judgements, strict=True)
    ]
    agreement = arrow_table("owc_judge_agreement", agreement_rows(rows, llm.name))
    return JudgeAgreement(llm.name, parse, agreement, arrow_table("owc_judge_pair", rows))


@step("owc.taxonomy", version="1", estimate=_limited_cost, tags=LLM)
async def taxonomy(
    ctx: StepContext,
    *,
    llm: ChatModel,
    answers: list[OpenAnswers],
    batch: Annotated[int, Field(ge=1, le=50, description="pairs in one question")] = 1,
    limit: Annotated[int | None, Field(ge=1, description="most distinct pairs, drawn with the run's seed")] = None,
) -> Categories:
    """Sort each distinct pair of label and prediction into one of six categories with a language model."""
    from agents.judge_taxonomy import Taxonomist
    from agents.judging import Pair
    from results.tables import arrow_table
    from runner.data.sampling import sampled

    pairs = sorted({Pair(r["target"], r["prediction"]) for r in _rows(answers, ctx) if r["prediction"] is not None})
    chosen = sampled(pairs, limit, ctx.seed, "\0".join)
    if len(chosen) < len(pairs):
        ctx.warn(f"sorted {len(chosen):,} of {len(pairs):,} distinct pairs; the others stay without a category")
    rows = await Taxonomist(llm, ctx, batch).categories(chosen)
    return Categories(llm.name, arrow_table("owc_category", rows))


def _rows(answers: list[OpenAnswers], ctx: StepContext) -> list[dict[str, Any]]:
    """Target, prediction, judged text and first item of every answer. Raises ``StepError`` where no step is named."""
    if not answers:
        raise StepError(
            "`answers` is an empty list", step=ctx.step, hint="name steps that answer, such as [$zero_shot]"
        )
    columns = ["target", "prediction", "judged", "first_item"]
    return [row for one in answers for row in one.answers.select(columns).to_pylist()]


@step("owc.judge_games", version="1", estimate=_unknown_cost, tags=LLM)
async def judge_games(ctx: StepContext, *, llm: ChatModel, games: EloGames) -> EloGames:
    """Decide games between answers with a language model: each distinct pair of answers to a label once.

    A rule of ours, without a question: a missing answer loses, equal answers draw.
    """
    from agents.judge_games import GameJudge
    from results.tables import arrow_table

    if games.criterion != "llama_score":
        raise StepError(
            f"these games are decided by {games.criterion} already", step=ctx.step,
            hint="draw them with criterion: llama_score (owc.games), or leave this step out",
        )  # fmt: skip
    rows = games.games.to_pylist()
    scores = await GameJudge(llm, ctx).scores(rows)
    decided = [row | {"score": score} for row, score in zip(rows, scores, strict=True)]
    return EloGames(games.criterion, games.players, arrow_table("owc_elo_game", decided))


@step("circle.multiple_choice", version="3", estimate=_unknown_cost, tags=LLM)
async def multiple_choice(
    ctx: StepContext,
    *,
    lmm: ChatModel,
    images: Datasets,
    context: Annotated[
        Literal["none", "random", "similarity"],
        Field(description="labelled pictures shown first: none, drawn from the pool, or the query's neighbours"),
    ] = "none",
    pool: FewShotPool | None = None,
    neighbours: Neighbours | None = None,
    shots: Annotated[int, Field(ge=1, le=256, description="pictures shown with their labels")] = 16,
    seed: Annotated[int | None, Field(ge=0, le=2**31 - 1, description="of the draw (default: the pool's)")] = None,
    class_list_position: Annotated[
        Literal["query", "begin"], Field(description="query: after the query picture (published); begin: first of all")
    ] = "query",
    split: Split = "test",
    limit: Limit = None,
    max_side: Side = None,
    context_max_side: Side = 224,
    transport: Sent = "jpeg75",
    max_tokens: Tokens = 64,
    system: System = None,
    schema_choice: Annotated[bool, Field(description="allow the names of the list only, as a JSON string")] = False,
    label: Label = None,
    probe: Probe = True,
) -> ClosedAnswers:
    """Ask a model that takes pictures which class of a list each one shows, with or without labelled pictures before it."""
    from agents.multiple_choice import Chooser, Choosing, names_of
    from agents.openworld import queries
    from agents.openworld_pictures import Pictures
    from results.tables import arrow_table

    names, originals = names_of(images.datasets, ctx)
    rows = queries(images, split, limit, ctx)
    shown = _shots(rows, context, pool, neighbours, shots, seed, ctx)
    drawn_with = _seed_of(context, pool, neighbours, seed, ctx)
    choosing = Choosing(
        names, originals, label or _method(context, neighbours),
        shots=0 if pool is None or context == "none" else pool.shots or shots, seed=drawn_with,
        list_position=class_list_position, system=system, max_tokens=max_tokens or 64, schema_choice=schema_choice,
    )  # fmt: skip
    asked = Pictures(images.corpus, max_side=max_side, transport=transport)
    beside = None
    if pool is not None and context != "none":
        beside = Pictures(pool.corpus, max_side=context_max_side, transport=transport)
    if probe:
        await _check(lmm, 0 if context == "none" else shots, ctx)
    answers = await Chooser(lmm, ctx, choosing, asked, beside, shown).choose(rows)
    settings: dict[str, Any] = {
        "context": context, "shown": 0 if context == "none" else shots, "class_list_position": class_list_position, "split": split,
        "limit": limit, "max_side": max_side, "context_max_side": context_max_side, "transport": transport,
        "max_tokens": max_tokens, "system": system, "schema_choice": schema_choice, "model": lmm.name,
    }  # fmt: skip
    return ClosedAnswers(images.datasets, choosing.method, settings, arrow_table("closed_world_answer", answers))


def _method(context: str, neighbours: Neighbours | None) -> str:
    """Neighbours may have been drawn at random too."""
    if context == "similarity" and neighbours is not None:
        return f"multiple_choice_{neighbours.how}"
    return "multiple_choice" if context == "none" else f"multiple_choice_{context}"


def _seed_of(
    context: str, pool: FewShotPool | None, neighbours: Neighbours | None, seed: int | None, ctx: StepContext
) -> int:
    """The seed of the draw: of the neighbours' pool, else the one given, else the pool's, else the run's."""
    if context == "similarity" and neighbours is not None:
        return neighbours.seed
    if seed is not None:
        return seed
    return ctx.seed if pool is None else pool.seed


def _shots(
    rows: list[dict[str, Any]], context: str, pool: FewShotPool | None, neighbours: Neighbours | None, shots: int,
    seed: int | None, ctx: StepContext,
) -> Shots:  # fmt: skip
    """The context of every query; whatever is missing ends the step before anything is asked."""
    from agents.multiple_choice import Shots, nearest_shots, random_shots, refuse_leakage

    if context == "none":
        return Shots({})
    if pool is None:
        raise StepError(
            f"context: {context} needs a pool", step=ctx.step, hint="add classify.pool and write pool: $name"
        )
    if context == "similarity" and neighbours is None:
        hint = "add classify.neighbours and write neighbours: $name"
        raise StepError("context: similarity needs neighbours", step=ctx.step, hint=hint)
    labelled = pool.pool.to_pylist()
    try:
        refuse_leakage(rows, labelled)
    except ValueError as error:
        raise StepError(str(error), step=ctx.step, hint="draw the pool from another split than the queries") from None
    try:
        if context == "random" or neighbours is None:
            return random_shots(rows, labelled, shots, _seed_of(context, pool, neighbours, seed, ctx))
        if (neighbours.seed, neighbours.shots) != (pool.seed, pool.shots):
            raise ValueError("the neighbours are of another pool (its shots or seed differ)")
        return nearest_shots(rows, labelled, neighbours, shots)
    except ValueError as error:
        hint = "lower shots, or make pool and neighbours larger, from another split and for these datasets"
        raise StepError(str(error), step=ctx.step, hint=hint) from None


async def _check(lmm: ChatModel, shots: int, ctx: StepContext) -> None:
    """Raises ``ModelRefused`` for a model that does not take so many pictures, ``StepError`` where labels would lose theirs."""
    from runner.models.chat.probing import INTERLEAVE_HINT

    support = await lmm.check_images(shots + 1, ctx, interleaving=shots > 0)
    if support.interleaved is False:
        raise StepError(
            f"{lmm.name} sees pictures and labels apart, so that no label belongs to its picture", step=ctx.step,
            hint=f"{INTERLEAVE_HINT} (probe: false asks all the same)",
        )  # fmt: skip
