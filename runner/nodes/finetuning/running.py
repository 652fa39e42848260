"""One training from data to weights: choose records, encode, train, write."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runner.artifacts import Conversations
from runner.context import StepContext
from runner.errors import DataError, StepError
from runner.models.base import VisionLanguageModel
from runner.models.lvlm.loading import LoadedLvlm
from runner.nodes.finetuning.drawing import batches, draws, fraction_of, single_pass
from runner.nodes.finetuning.examples import Kept, Live, Row, bytes_a_picture, can_keep, pictures_of
from runner.nodes.finetuning.learner import Learner, prepare
from runner.nodes.finetuning.specs import Recipe, weights_problem
from runner.nodes.finetuning.trainer import STATE, Course, Trainer, TrainLog

GIB = 1 << 30


@dataclass
class Trained:
    """A training that is over: the learner, its log and what a summary says."""

    learner: Learner
    log: TrainLog
    summary: dict[str, Any]


def chosen_rows(
    data: Conversations, fraction: float, seed: int, *, stratified: bool = False, domains: Sequence[str] | None = None
) -> list[Row]:
    """The training records, or their fraction, in the order of the data. Raises ``DataError`` where none is left."""
    rows = [row for row in data.records.to_pylist() if row["split"] == "train"]
    rows = rows if domains is None else [row for row in rows if row["domain"] in set(domains)]
    if not rows:
        where = f" in {', '.join(domains)}" if domains else ""
        raise DataError(f"{data.about.get('name', 'the data')}: there is no record of the split train{where}")
    try:
        return [rows[i] for i in fraction_of([row["domain"] for row in rows], fraction, seed, stratified=stratified)]
    except ValueError as error:
        raise DataError(str(error), hint="Raise `fraction`, or give more data.") from error


def load(model: VisionLanguageModel, recipe: Recipe) -> LoadedLvlm:
    """The network in the dtype in which its frozen part is kept."""
    return model.load(dtype="float32" if recipe.optim.precision == "fp32" else "bfloat16")


def feed_for(
    ctx: StepContext, loaded: LoadedLvlm, data: Conversations, rows: list[Row], recipe: Recipe, folder: Path
) -> Kept | Live:
    """Encoded once and kept where the layout allows it and there is room, else encoded at every pass.

    Raises ``DataError`` where truncation leaves no record.
    """
    length = recipe.optim.max_length
    room = sum(1 for _ in pictures_of(rows)) * bytes_a_picture(loaded) if can_keep(loaded) else math.inf
    if room > recipe.cache_gb * GIB:
        return Live(loaded, data, rows, length)

    def note(done: int) -> None:
        ctx.advance("records read", done)
        ctx.check()

    ctx.advance("records read", 0, len(rows))
    kept = Kept(loaded, data, rows, length, folder, note)
    if kept.dropped:
        some = ", ".join(sorted(kept.dropped)[:3])
        text = f"{len(kept.dropped)} of {len(rows)} records lose their picture or their whole answer beyond {length} tokens ({some} ...)"
        if len(kept.dropped) == len(rows):
            raise DataError(text, hint="Raise optim.max_length.")
        ctx.warn(f"{text}; they are left out")
    return kept


def course_of(feed: Kept | Live, recipe: Recipe, seed: int, shares: Mapping[str, float] | None) -> Course:
    """Which records each step takes. Raises ``DataError`` where a domain with a share has no record."""
    optim = recipe.optim
    if shares is not None and (bare := sorted(d for d, w in shares.items() if w > 0 and d not in set(feed.domains))):
        raise DataError(f"{', '.join(bare)}: a share, but no record to train on")
    once = len(feed.domains) if shares is None else single_pass(feed.domains, shares)
    steps = optim.steps or max(1, math.ceil(round(optim.epochs * once / optim.batch_size, 9)))
    drawn = draws(feed.domains, steps * optim.batch_size, seed, shares)
    cut = batches(drawn, feed.lengths, optim.batch_size, seed, by_length=optim.group_by_length)
    return Course(cut, len(feed.domains))


def run(
    ctx: StepContext, *, model: VisionLanguageModel, data: Conversations, rows: list[Row], recipe: Recipe, seed: int, state: Path,
    shares: Mapping[str, float] | None = None, teacher: VisionLanguageModel | None = None, examples: Path | None = None,
) -> Trained:  # fmt: skip
    """Train, or go on with a training that was stopped. ``state``: folder of its own; ``examples``: encoded records, which trainings of
    one model on the same rows may share."""
    check(data, recipe, shares, teacher)
    state.mkdir(parents=True, exist_ok=True)
    loaded = load(model, recipe)
    feed = feed_for(ctx, loaded, data, rows, recipe, examples or state / "examples")
    course = course_of(feed, recipe, seed, shares)
    learner = prepare(loaded, recipe, model.decoder, seed=seed)
    trainer = Trainer(learner, feed, course, recipe, seed=seed, state=state / STATE)
    ctx.advance("steps", trainer.done, len(course.steps))

    def after_step() -> None:
        ctx.advance("steps")
        ctx.check()

    log = trainer.run(after_step)
    if isinstance(feed, Live) and feed.dropped:
        ctx.warn(
            f"{len(feed.dropped)} records lost their picture or whole answer beyond {recipe.optim.max_length} tokens and were left out"
        )
    if not log.rows:
        raise DataError("truncation leaves no record an answer", hint="Raise optim.max_length.")
    return Trained(learner, log, _summary(model, data, rows, feed, course, recipe, learner, log, seed, shares))


def check(
    data: Conversations, recipe: Recipe, shares: Mapping[str, float] | None, teacher: VisionLanguageModel | None
) -> None:
    """What no spec can show by itself. Raises ``StepError`` or ``DataError`` before a weight is read."""
    if recipe.loss.uses_teacher and teacher is None:
        raise StepError(
            "the loss has a weight on hidden states or logits, but there is no teacher",
            hint="Give `teacher`, or only ce.",
        )
    if teacher is not None and not recipe.loss.uses_teacher:
        raise StepError(
            "there is a teacher, but no weight of the loss is on it",
            hint="Give loss.hidden or loss.logits, or leave the teacher out.",
        )
    if shares is not None and (problem := weights_problem(dict(shares), list(data.about["domains"]))):
        raise DataError(f"weights: {problem}")


def _summary(
    model: VisionLanguageModel, data: Conversations, rows: list[Row], feed: Kept | Live, course: Course, recipe: Recipe,
    learner: Learner, log: TrainLog, seed: int, shares: Mapping[str, float] | None,
) -> dict[str, Any]:  # fmt: skip
    names, times = np.unique([feed.domains[i] for step in course.steps for i in step], return_counts=True)
    return {
        "model": {"name": model.name, "identity": model.identity, "small": model.small},
        "recipe": recipe.told(),
        "seed": seed,
        "data": {"name": data.about.get("name"), "licences": data.about.get("licences", {}), "records": len(rows)},
        "weights": None if shares is None else dict(shares),
        "drawn": {str(name): int(n) for name, n in zip(names, times, strict=True)},
        "dropped": len(feed.dropped),
        "steps": len(course.steps),
        "skipped_steps": log.skipped,
        "trained_parameters": sum(p.numel() for p in learner.trained.values()),
        "features": "kept" if isinstance(feed, Kept) else "computed at every pass",
        "seconds": log.seconds,
    }
