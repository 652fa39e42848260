"""Steps `dmo.mixtures`, `dmo.rank`, `dmo.baselines`, `dmo.quota`. Light: imported to validate a spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from runner.artifacts import Conversations, Experts, MixtureRanking, Mixtures, MixtureScores
from runner.context import StepContext
from runner.nodes.merging.mixture_specs import Anchor, GeneratorSpec, Objective
from runner.steps import step

if TYPE_CHECKING:
    from runner.nodes.merging.validity import Objectives

Domain = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,100}$")]


@step("dmo.mixtures", version="1")
def mixtures(
    ctx: StepContext,
    *,
    domains: Annotated[Experts | list[Domain], Field(description="names in order, or the experts that have them")],
    generator: GeneratorSpec,
    add: Annotated[list[Anchor], Field(description="anchors: the equal mixture, one domain alone")] = ["uniform"],  # noqa: B006
    max_mixtures: Annotated[int, Field(ge=1, le=100_000, description="more than this are refused")] = 1000,
) -> Mixtures:
    """Points of the simplex: which shares of the domains to try."""
    from results.tables import arrow_table
    from runner.nodes.merging.pointing import mixture_rows

    names = domains if isinstance(domains, list) else domains.domains
    return Mixtures(names, arrow_table("dmo_mixture", mixture_rows(names, generator, add, max_mixtures)))


@step("dmo.rank", version="4")
def rank(
    ctx: StepContext,
    *,
    proxy: MixtureScores,
    true: Annotated[MixtureScores | None, Field(description="scores of models really trained on mixtures")] = None,
    others: Annotated[list[MixtureScores], Field(description="further stand-ins, such as regressions")] = [],  # noqa: B006
    objective: Objective = Objective(),  # noqa: B008 - frozen
    k: Annotated[int, Field(ge=1, le=1000, description="of top-k overlap")] = 3,
    draws: Annotated[int, Field(ge=100, le=100_000, description="of the bootstrap")] = 1000,
    halves: Annotated[
        bool, Field(description="choose on one half of the items, report values and gaps on the other")
    ] = False,
    surrogate: Annotated[bool, Field(description="fit Scheffe's quadratic to the objective and to each task")] = True,
    experts: Annotated[Experts | None, Field(description="for the account of costs: how long experts trained")] = None,
    trained: Annotated[Experts | None, Field(description="for the account of costs: models of mixtures")] = None,
    seed: Annotated[int | None, Field(ge=0, description="none = the run's seed")] = None,
) -> MixtureRanking:
    """Rank mixtures by their stand-ins, say which to train on, and how far the ranking agrees with trained models."""
    from results.tables import arrow_table
    from runner.errors import DataError
    from runner.nodes.merging import validity
    from runner.nodes.merging.costs import account, cost_rows
    from runner.nodes.merging.ranking import indistinguishable

    seed = ctx.seed if seed is None else seed
    strange = next((s for s in (true, *others) if s is not None and list(s.domains) != list(proxy.domains)), None)
    if strange is not None:
        raise DataError(
            f"scores of kind {strange.kind} weigh {', '.join(strange.domains)}, the stand-ins {', '.join(proxy.domains)}",
            hint="mixtures are compared by their weights: name the same domains in the same order",
        )
    try:
        table = validity.score_table(proxy)
        choosing, reporting = validity.halves(table, seed) if halves else (table, table)
        by_choice = validity.objectives(choosing, objective, draws, seed)
        best = int(by_choice.order[0])
        found = validity.objectives(reporting, objective, draws, seed, best)
        tables = validity.told_apart(proxy.kind, [validity.score_table(other) for other in others])
        truth = None if true is None else validity.score_table(true)
        rows = [row | {"chosen": i == best} for i, row in enumerate(found.rows())]
        checks: list[dict[str, Any]] = []
        for stand_in in [table, *tables] if truth is not None else []:
            checks += validity.validity_rows(stand_in, truth, objective, k=k, draws=draws, seed=seed)  # type: ignore[arg-type]
        for other in [*tables, *([] if truth is None else [truth])]:
            rows += validity.objectives(other, objective, draws, seed).rows()
        fits = validity.surrogate_rows(table, objective) if surrogate else []
    except (ValueError, KeyError) as error:
        raise DataError(f"these scores cannot be ranked: {error}") from error
    _say(ctx, by_choice, checks)
    _say_of_fits(ctx, fits)
    same = [] if found.gaps is None else [table.ids[int(i)] for i in indistinguishable(found.gaps)]
    chosen = {
        "mixture_id": table.ids[best],
        "weights": table.weights[best].tolist(),
        "value": float(found.values[best]),
    }
    return MixtureRanking(
        proxy.domains, chosen, same, arrow_table("dmo_objective", rows), arrow_table("dmo_validity", checks),
        arrow_table("dmo_surrogate", fits), arrow_table("dmo_cost", cost_rows(account(proxy, experts, trained))),
    )  # fmt: skip


def _say(ctx: StepContext, found: Objectives, checks: list[dict[str, Any]]) -> None:
    """Warn of what a reader could take for more than it is."""
    from runner.errors import DataError

    if found.values.size and (found.values != found.values).all():
        raise DataError("no mixture has all the tasks of the objective", hint="see `failures` for what went wrong")
    missing = [found.table.ids[i] for i, value in enumerate(found.values) if value != value]
    if missing:
        ctx.warn(f"{len(missing)} mixtures lack a task of the objective and have no rank, such as {missing[0]}")
    few = [row["n"] for row in checks if row["task"] == "objective" and row["n"] < 10]
    if few:
        ctx.warn(f"rank correlations over {few[0]} mixtures are fragile: read them with their interval")


def _say_of_fits(ctx: StepContext, fits: list[dict[str, Any]]) -> None:
    for fit in fits[:1]:
        if fit["n"] <= len(fit["coefficients"]):
            ctx.warn(
                f"the quadratic has {len(fit['coefficients'])} coefficients and {fit['n']} mixtures: its maximum is a guess"
            )


@step("dmo.baselines", version="2")
def baselines(
    ctx: StepContext,
    *,
    runs: Annotated[MixtureScores, Field(description="scores of small runs really trained on mixtures")],
    mixtures: Annotated[Mixtures | None, Field(description="what to predict; default: the runs' own mixtures")] = None,
    model: Annotated[
        Literal["regmix_linear", "regmix_boosting", "mixing_law"],
        Field(description="regression of RegMix by a line or by trees, or exponential mixing laws (for losses)"),
    ] = "regmix_linear",
    seed: Annotated[int | None, Field(ge=0, description="none = the run's seed")] = None,
) -> MixtureScores:
    """Predict the scores of mixtures by regression over training runs, each from runs other than its own."""
    import numpy as np
    import pyarrow as pa

    from results.tables import arrow_table
    from runner.errors import DataError
    from runner.nodes.merging.regression import predictions, score_rows
    from runner.nodes.merging.validity import score_table

    table = score_table(runs)
    wanted = runs.mixtures if mixtures is None else mixtures.mixtures
    weights = np.array(wanted.column("weights").to_pylist(), np.float64)
    try:
        found = predictions(table, weights, model, ctx.seed if seed is None else seed)
    except ValueError as error:
        raise DataError(f"no regression over {len(table.ids)} runs: {error}") from error
    kind = f"regression/{model}"
    names = [str(name) for name in wanted.column("mixture_id").to_pylist()]
    rows = arrow_table("dmo_score", score_rows(names, runs.tasks, found, len(table.ids), kind))
    nothing = runs.items.slice(0, 0) if isinstance(runs.items, pa.Table) else runs.items
    return MixtureScores(runs.domains, kind, runs.tasks, wanted, arrow_table("dmo_merge", []), rows, nothing)


@step("dmo.quota", version="1")
def quota(
    ctx: StepContext,
    *,
    ranking: Annotated[MixtureRanking, Field(description="whose chosen mixture is drawn")],
    data: Conversations,
    n: Annotated[int, Field(ge=1, description="training records")],
    repeat: Annotated[bool, Field(description="go through a domain again where it has too few records")] = False,
    seed: Annotated[int | None, Field(ge=0, description="none = the run's seed")] = None,
) -> Conversations:
    """The training records of the chosen mixture, by exact quotas; other splits stay as they are."""
    import pyarrow as pa

    from runner.nodes.merging.drawing import quota_rows

    records = data.records.to_pylist()
    by_domain = {
        name: [i for i, row in enumerate(records) if row["split"] == "train" and row["domain"] == name]
        for name in ranking.domains
    }
    weights = ranking.chosen["weights"]
    rows, counts = quota_rows(ranking.domains, weights, by_domain, n, ctx.seed if seed is None else seed, repeat=repeat)
    rest = [i for i, row in enumerate(records) if row["split"] != "train"]
    taken = data.records.take(pa.array([*rows, *rest], pa.int64()))
    note = f"mixture {ranking.chosen['mixture_id']}: " + ", ".join(f"{name} {count}" for name, count in counts.items())
    if len(set(rows)) < len(rows):
        ctx.warn(f"{len(rows) - len(set(rows))} of {n} records stand more than once: a domain has fewer than its quota")
    return Conversations({**data.about, "notes": [*data.about.get("notes", []), note]}, data.corpus, taken)
