"""One training from data to weights: choose records, encode, train, write."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from runner.artifacts import Conversations
from runner.context import StepContext
from runner.errors import DataError, ModelRefused, StepError
from runner.models.base import VisionLanguageModel
from runner.models.lvlm.loading import LoadedLvlm
from runner.nodes.finetuning.drawing import batches, draws, fraction_of, single_pass
from runner.nodes.finetuning.examples import Kept, Live, Row, bytes_a_picture, can_keep, pictures_of
from runner.nodes.finetuning.group import Group
from runner.nodes.finetuning.learner import Learner, prepare
from runner.nodes.finetuning.sharding import shard
from runner.nodes.finetuning.specs import Recipe, weights_problem
from runner.nodes.finetuning.teaching import Outputs, Sight, Teacher, bytes_of_outputs, make_teacher, same_sight
from runner.nodes.finetuning.trainer import STATE, Course, Trainer, TrainLog, enough_memory

GIB = 1 << 30
FEWER = "Take optim.precision: bf16, a smaller model, or a device with more memory."


@dataclass(frozen=True)
class Job:
    """A training to be done. ``state``: folder of its own that outlives a killed attempt; ``examples``: folder of encoded records, which
    trainings of one model on the same rows may share (none: below ``state``); ``shares``: of the domains, None as the data are."""

    model: VisionLanguageModel
    data: Conversations
    rows: list[Row]
    recipe: Recipe
    seed: int
    state: Path
    shares: Mapping[str, float] | None = None
    teacher: VisionLanguageModel | None = None
    examples: Path | None = None


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


def run(ctx: StepContext, job: Job) -> Trained:
    """Train, or go on with a training that was stopped; in several processes where the recipe says so."""
    check(job.data, job.recipe, job.shares, job.teacher)
    job.state.mkdir(parents=True, exist_ok=True)
    if job.recipe.optim.processes > 1:
        from runner.nodes.finetuning.workers import MessagesOnly, train_apart

        train_apart(ctx, job)
        quiet = replace(ctx, sink=MessagesOnly(ctx.sink))  # what is done has been shown
        return train(quiet, job, Group(), None)
    return train(ctx, job, Group(), job.teacher)


def train(ctx: StepContext, job: Job, group: Group, teacher: VisionLanguageModel | None) -> Trained:
    """One process' part of a training; every process of ``group`` calls this, and takes its share of each batch.

    ``teacher``: of the job, or None where nothing is left to train.
    """
    with enough_memory("loading the model and reading pictures", FEWER):
        loaded = load(job.model, job.recipe)
        with group.first():
            feed = feed_for(ctx, job, loaded, job.examples or job.state / "examples")
    course = course_of(feed, job.recipe, job.seed, job.shares)
    with enough_memory("running the teacher", FEWER), group.first():
        guide = None if teacher is None else guided(ctx, job, teacher, loaded, feed, course)
    learner = prepare(loaded, job.recipe, job.model.decoder, seed=job.seed)
    if group.size > 1 and job.recipe.train == "full":
        shard(learner, group)
    layers = guide.pairing.student if guide is not None else ()
    trainer = Trainer(
        learner,
        feed,
        course,
        job.recipe,
        seed=job.seed,
        state=job.state / STATE,
        teach=guide,
        layers=layers,
        group=group,
    )
    ctx.advance("steps", trainer.done, len(course.steps))

    def after_step() -> None:
        ctx.advance("steps")
        ctx.check()

    log = trainer.run(after_step)
    _tell_dropped(ctx, feed, job, log)
    return Trained(learner, log, _summary(job, feed, course, learner, log))


def check(
    data: Conversations, recipe: Recipe, shares: Mapping[str, float] | None, teacher: VisionLanguageModel | None
) -> None:
    """What no spec can show by itself. Raises ``StepError`` or ``DataError`` before a weight is read."""
    if recipe.loss.uses_teacher and teacher is None:
        raise StepError(
            "the loss has a weight on hidden states or logits, but there is no teacher",
            hint="Give `teacher`, or only loss.ce.",
        )
    if teacher is not None and not recipe.loss.uses_teacher:
        raise StepError(
            "there is a teacher, but no weight of the loss is on it",
            hint="Give loss.hidden or loss.logits, or leave the teacher out.",
        )
    if shares is not None and (problem := weights_problem(dict(shares), list(data.about["domains"]))):
        raise DataError(f"weights: {problem}")


def feed_for(ctx: StepContext, job: Job, loaded: LoadedLvlm, folder: Path) -> Kept | Live:
    """Encoded once and kept where the layout allows it and there is room, else encoded at every pass.

    Raises ``DataError`` where truncation leaves no record.
    """
    length, rows = job.recipe.optim.max_length, job.rows
    room = len(pictures_of(rows)) * bytes_a_picture(loaded) if can_keep(loaded) else math.inf
    if room > job.recipe.cache_gb * GIB:
        return Live(loaded, job.data, rows, length)
    kept = Kept(loaded, job.data, rows, length, folder, _counting(ctx, "records read", len(rows)))
    if kept.dropped:
        some = ", ".join(sorted(kept.dropped)[:3])
        text = f"{len(kept.dropped)} of {len(rows)} records lose a picture or their answers beyond {length} tokens ({some} ...)"
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


def _counting(ctx: StepContext, unit: str, total: int) -> Callable[[int], None]:
    """Reports finished records and stops when asked to."""
    ctx.advance(unit, 0, total)

    def note(done: int) -> None:
        ctx.advance(unit, done)
        ctx.check()

    return note


def _tell_dropped(ctx: StepContext, feed: Kept | Live, job: Job, log: TrainLog) -> None:
    """What is only known after a training that encodes as it goes."""
    length = job.recipe.optim.max_length
    if isinstance(feed, Live) and feed.dropped:
        ctx.warn(
            f"{len(feed.dropped)} records lost a picture or their answers beyond {length} tokens and were left out"
        )
    if not log.rows:
        raise DataError(f"no record keeps an answer within {length} tokens", hint="Raise optim.max_length.")


# --- the teacher -----------------------------------------------------------------------------------------------------


def guided(
    ctx: StepContext, job: Job, handle: VisionLanguageModel, loaded: LoadedLvlm, feed: Kept | Live, course: Course
) -> Teacher:
    """The teacher, shown what the recipe says; its outputs are computed once where records come again and there is room."""
    network, recipe = load(handle, job.recipe), job.recipe
    own = recipe.teacher_inputs == "own"
    features = None
    if own and isinstance(feed, Kept) and loaded.sees and not same_sight(loaded, network):
        features = _own_pictures(ctx, job, network, feed).features
    teacher = make_teacher(handle, network, job.model, loaded, recipe.loss, Sight(recipe.teacher_inputs, features))
    used = [int(row) for step in course.steps for row in step]
    distinct = sorted(set(used))
    # Outputs at all positions hang on the padding, and with it on the batch.
    if own and isinstance(feed, Kept) and recipe.loss.kd_mask != "all" and len(distinct) < len(used):
        _keep_outputs(ctx, job, teacher, feed, distinct)
    return teacher


def _keep_outputs(ctx: StepContext, job: Job, teacher: Teacher, feed: Kept, rows: list[int]) -> None:
    if bytes_of_outputs(feed, rows, teacher) > job.recipe.cache_gb * GIB:
        return
    outputs = Outputs(job.state / "teacher", rows)
    outputs.fill(teacher, feed, _counting(ctx, "records taught", len(rows)))
    teacher.kept = outputs


def _own_pictures(ctx: StepContext, job: Job, network: LoadedLvlm, feed: Kept) -> Kept:
    """Pictures as the teacher's tower gives them, for the same tokens."""
    theirs = feed_for(ctx, job, network, job.state / "teacher-examples")
    if not isinstance(theirs, Kept) or not theirs.same_tokens(feed):
        raise ModelRefused(
            f"{network.name} reads other tokens than the student, so their positions do not correspond",
            hint="Take teacher_inputs: student, or a teacher with the same processor.",
        )
    return theirs


def _summary(job: Job, feed: Kept | Live, course: Course, learner: Learner, log: TrainLog) -> dict[str, Any]:
    names, times = np.unique([feed.domains[i] for step in course.steps for i in step], return_counts=True)
    about, model = job.data.about, job.model
    return {
        "model": {"name": model.name, "identity": model.identity, "small": model.small},
        "teacher": job.teacher and {"name": job.teacher.name, "identity": job.teacher.identity},
        "recipe": job.recipe.model_dump(mode="json"),
        "seed": job.seed,
        "data": {"name": about.get("name"), "licences": about.get("licences", {}), "records": len(job.rows)},
        "weights": None if job.shares is None else dict(job.shares),
        "drawn": {str(name): int(n) for name, n in zip(names, times, strict=True)},
        "dropped": len(feed.dropped),
        "steps": len(course.steps),
        "skipped_steps": log.skipped,
        "trained_parameters": sum(p.numel() for p in learner.trained.values()),
        "features": "kept" if isinstance(feed, Kept) else "computed at every pass",
        "seconds": log.seconds,
    }
