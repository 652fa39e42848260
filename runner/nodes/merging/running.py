"""From the inputs of the scoring steps to ``MixtureScores``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.artifacts import Conversations, Experts, Mixtures, MixtureScores, TrainedScores, VqaItems
from runner.errors import DataError, RunnerError
from runner.models.base import ChatModel, VisionLanguageModel
from runner.nodes.merging.checkpoints import Checkpoint
from runner.nodes.merging.checks import weights_sha256
from runner.nodes.merging.describing import expert_paths
from runner.nodes.merging.experts import open_expert
from runner.nodes.merging.merge_steps import base_folder
from runner.nodes.merging.scoring import Evaluator, Outcome, item_rows, merge_rows, need_some, score_rows
from runner.nodes.merging.sessions import Mixture, Sessions, open_sessions
from runner.nodes.merging.specs import MergeSpec
from runner.nodes.merging.tasks import Task, tasks_of
from runner.nodes.merging.weighing import check_weights
from runner.nodes.merging.writing import check_base

if TYPE_CHECKING:
    import pyarrow as pa

    from runner.context import StepContext


@dataclass(frozen=True)
class Job:
    """What is scored, on what, and how."""

    base: VisionLanguageModel
    experts: Experts
    mixtures: Mixtures
    items: VqaItems | None
    data: Conversations | None
    spec: MergeSpec
    execution: str
    batch_size: int = 64
    max_new_tokens: int = 16
    max_length: int | None = None
    split: str = "eval"
    server: ChatModel | None = None
    load: bool = True

    def __post_init__(self) -> None:
        if (self.execution == "served_lora") != (self.server is not None):
            raise DataError(
                "server and execution: served_lora belong together; one of them is missing",
                hint="give server a model of the provider openai, or leave both out to merge in this process",
            )

    def tasks(self) -> list[Task]:
        """Raises ``DataError`` where there is nothing to score on."""
        return tasks_of(
            self.items, self.data, split=self.split, max_new_tokens=self.max_new_tokens, max_length=self.max_length
        )


def evaluator_of(ctx: StepContext, job: Job, tasks: Sequence[Task], names: Sequence[str] | None = None) -> Evaluator:
    """An evaluator of merges of the job's experts (those in ``names``, in order). Loads no network yet."""
    folder = base_folder(job.base)
    check_base(folder, job.experts)
    own, paths = Checkpoint(folder), expert_paths(job.experts)
    chosen = list(paths) if names is None else list(names)
    if job.execution == "served_lora":
        return _served(ctx, job, tasks, own, {name: paths[name] for name in chosen})
    experts = [open_expert(name, paths[name], own) for name in chosen]
    sessions: Sessions = open_sessions(job.execution, job.base, own, experts, job.spec, ctx.scratch)
    return Evaluator(ctx, sessions, tasks, _about(job, chosen, sessions.execution), job.batch_size)


def _served(
    ctx: StepContext, job: Job, tasks: Sequence[Task], own: Checkpoint, experts: Mapping[str, Path]
) -> Evaluator:
    from runner.nodes.merging.served import ServedEvaluator, ServedMerges

    assert job.server is not None
    # What a server is started with must outlive the step; what it loads by the way need not.
    folder = (ctx.scratch if job.load else ctx.shared) / "adapters"
    merges = ServedMerges(
        job.server, experts, job.spec, folder, load=job.load, tensors=len(own.entries), base_name=job.base.name
    )
    return ServedEvaluator(ctx, merges, tasks, _about(job, list(experts), merges.execution), job.batch_size)


def _about(job: Job, names: Sequence[str], execution: str) -> dict[str, Any]:
    """What besides the weights makes a result what it is."""
    sha = {row["name"]: row["sha256"] for row in job.experts.experts.to_pylist()}
    merge = job.spec.model_dump(mode="json", by_alias=True)
    # By content, as the experts: other values may be written to the same file.
    merge["fisher"] = {name: weights_sha256([Path(file)]) for name, file in job.spec.fisher.items()}
    return {
        # Names too: random drops, densities and weights of tensors follow them.
        "base": job.base.identity, "dtype": job.base.dtype, "experts": [[name, sha[name]] for name in names],
        "merge": merge, "execution": execution,
    }  # fmt: skip


def score_merged(ctx: StepContext, job: Job) -> MixtureScores:
    """Scores of merges, ``kind`` proxy."""
    names = list(expert_paths(job.experts))
    if list(job.mixtures.domains) != names:
        raise DataError(
            f"the mixtures weigh {', '.join(job.mixtures.domains)}, the experts are {', '.join(names)}",
            hint="both must name the same domains in the same order: give dmo.mixtures the experts as its domains",
        )
    mixtures = [Mixture(row["mixture_id"], tuple(row["weights"])) for row in job.mixtures.mixtures.to_pylist()]
    if job.spec.ignores_weights and len({mixture.weights for mixture in mixtures}) > 1:
        ctx.warn(
            f"{job.spec.method} weighs the experts by itself: all mixtures are the same model, their order says nothing"
        )
    tasks = job.tasks()
    evaluator = evaluator_of(ctx, job, tasks)
    usable = _usable(ctx, job.spec, names, mixtures, evaluator.outcome)
    with closing(evaluator.sessions):
        outcome = evaluator.evaluate(usable)
    return scores_of(job, mixtures, tasks, outcome, "proxy", evaluator.sessions.execution)


def _usable(
    ctx: StepContext, spec: MergeSpec, names: list[str], mixtures: Sequence[Mixture], outcome: Outcome
) -> list[Mixture]:
    """Mixtures that the method can merge; the others are failures."""
    found = []
    for mixture in mixtures:
        try:
            check_weights(spec, names, mixture.weights)
        except RunnerError as error:
            outcome.failures[mixture.mixture_id] = error.message
            ctx.failed(mixture.mixture_id, error.message)
        else:
            found.append(mixture)
    if not found:
        raise DataError(f"no mixture can be merged: {next(iter(outcome.failures.values()))}")
    return found


def _need_same_shares(rows: list[dict[str, Any]], models: Experts) -> None:
    """DataError where a model was trained on other shares than the mixture of its name: names alone repeat between sets of mixtures."""
    trained = {model["name"]: model.get("weights") for model in models.models}
    for row in rows:
        said, had = dict(zip(row["domains"], row["weights"], strict=True)), trained[row["mixture_id"]]
        if had is not None and any(abs(said.get(d, 0.0) - had.get(d, 0.0)) > 1e-6 for d in {*said, *had}):
            raise DataError(
                f"mixture {row['mixture_id']} is {_listed(said)}, but the model of that name was trained on {_listed(had)}",
                hint="`mixtures` must be those that dmo.train_mixtures was given",
            )


def _listed(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{domain} {share:.3g}" for domain, share in list(shares.items())[:10])


def score_each(ctx: StepContext, job: Job, experts: Experts | None = None) -> TrainedScores:
    """Scores of models trained on mixtures, ``kind`` true: each is itself with weight one. ``experts``: to project them on."""
    from results.tables import arrow_table

    known = expert_paths(job.experts)
    rows = [row for row in job.mixtures.mixtures.to_pylist() if row["mixture_id"] in known]
    if not rows:
        raise DataError("none of the models is named like a mixture", hint="models come from dmo.train_mixtures")
    _need_same_shares(rows, job.experts)
    if len(rows) < job.mixtures.mixtures.num_rows:
        ctx.warn(f"{job.mixtures.mixtures.num_rows - len(rows)} of the mixtures have no trained model and are left out")
    names = [row["mixture_id"] for row in rows]
    one_hot = [Mixture(name, tuple(float(other == name) for other in names)) for name in names]
    tasks = job.tasks()
    projected = (
        [] if experts is None else _projections(job, experts, {row["mixture_id"]: row["weights"] for row in rows})
    )
    evaluator = evaluator_of(ctx, job, tasks, names)
    with closing(evaluator.sessions):
        outcome = evaluator.evaluate(one_hot)
    scores = scores_of(job, one_hot, tasks, outcome, "true", evaluator.sessions.execution)
    return TrainedScores(**vars(scores), projections=arrow_table("dmo_projection", projected))


def _projections(job: Job, experts: Experts, weights: Mapping[str, list[float]]) -> list[dict[str, Any]]:
    """Rows of ``dmo_projection``; experts in the order of the mixtures' domains."""
    from runner.nodes.merging.projecting import projection_rows

    folder, paths, models = base_folder(job.base), expert_paths(experts), expert_paths(job.experts)
    check_base(folder, experts)
    lacking = [name for name in job.mixtures.domains if name not in paths]
    if lacking:
        raise DataError(f"there is no expert of the domain {lacking[0]!r}; there are {', '.join(paths)}")
    chosen = {name: paths[name] for name in job.mixtures.domains}
    return projection_rows(folder, chosen, {name: models[name] for name in weights}, weights)


def scores_of(
    job: Job, mixtures: Sequence[Mixture], tasks: Sequence[Task], outcome: Outcome, kind: str, execution: str
) -> MixtureScores:
    """The artifact of evaluated mixtures; rows of those that ``job.mixtures`` names."""
    from results.tables import arrow_table

    need_some(tasks, outcome)
    ids = {mixture.mixture_id for mixture in mixtures}
    rows = [row for row in job.mixtures.mixtures.to_pylist() if row["mixture_id"] in ids]
    method = job.spec.method if kind == "proxy" else "trained"
    return MixtureScores(
        domains=list(job.mixtures.domains), kind=kind, tasks=[task.about for task in tasks],
        mixtures=arrow_table("dmo_mixture", rows),
        merges=arrow_table("dmo_merge", merge_rows(mixtures, outcome, method, execution)),
        scores=arrow_table("dmo_score", score_rows(tasks, mixtures, outcome, kind)), items=_item_table(tasks, mixtures, outcome),
    )  # fmt: skip


def _item_table(tasks: Sequence[Task], mixtures: Sequence[Mixture], outcome: Outcome) -> pa.Table:
    import pyarrow as pa

    kinds: dict[str, pa.DataType] = {name: pa.string() for name in ("mixture_id", "task", "item_id", "group")}
    kinds["value"] = pa.float64()
    return pa.Table.from_pylist(item_rows(tasks, mixtures, outcome), pa.schema(kinds))
