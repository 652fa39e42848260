"""Step ``leakage.probe``. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo

from runner.artifacts import PartFeatures
from runner.context import StepContext
from runner.nodes.leakage.names import each_once, misplaced
from runner.nodes.leakage.outputs import ProbeScores
from runner.steps import step

Metric = Literal["auroc", "ap"]
Control = Literal["label_only", "label_shuffle", "decorrelate"]
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]


class Bootstrap(BaseModel):
    """How intervals are made: test pictures are resampled, the same ones for every extractor, layer, part and attribute."""

    model_config = ConfigDict(extra="forbid")
    resamples: Annotated[int, Field(ge=0, le=20_000, description="0: no intervals")] = 1000
    form: Annotated[
        Literal["auto", "exact", "projected"],
        Field(
            description="projected: first-order expansion, for many attributes and layers; auto: exact where it takes about a minute"
        ),
    ] = "auto"


def _meant_penalty(penalty: float | None, info: ValidationInfo) -> float | None:
    wrong = misplaced((info.data or {}).get("param_kind", "ridge"), penalty, None)
    if wrong is not None:
        raise ValueError(wrong)
    return penalty


def _meant_grid(grid: list[float] | None, info: ValidationInfo) -> list[float] | None:
    given = info.data or {}
    wrong = misplaced(given.get("param_kind", "ridge"), given.get("param_penalty"), grid)
    if wrong is not None:
        raise ValueError(wrong)
    return grid


@step("leakage.probe", version="2")
def probe(
    ctx: StepContext,
    *,
    features: Annotated[
        list[PartFeatures], Field(min_length=1, description="of one leakage.features or several: models, datasets")
    ],
    kind: Annotated[
        Literal["ridge", "logreg", "mlp"], Field(description="linear probes give a lower bound on leakage")
    ] = "ridge",
    penalty: Annotated[
        Positive | None,
        Field(description="lambda of ridge (default 0.01), C of logreg (default 1)"),
        AfterValidator(_meant_penalty),
    ] = None,
    penalty_grid: Annotated[
        Annotated[list[Positive], Field(min_length=1, max_length=50), AfterValidator(each_once)] | None,
        Field(
            description="ridge: lambda of each attribute chosen by AUROC on val (a tenth of train where there is no val)"
        ),
        AfterValidator(_meant_grid),
    ] = None,
    min_pos: Annotated[
        int, Field(ge=1, le=1_000_000, description="fewest positives and negatives of train and of test")
    ] = 10,
    rows: Annotated[
        Literal["pairwise", "common"],
        Field(description="pictures where the source and the owner part are there; common: where all parts are"),
    ] = "pairwise",
    metrics: Annotated[list[Metric], Field(min_length=1), AfterValidator(each_once)] = ["auroc", "ap"],  # noqa: B006
    bootstrap: Annotated[Bootstrap, Field(description="intervals")] = Bootstrap(),  # noqa: B008
    controls: Annotated[
        list[Control], Field(description="on the side of the labels; ours"), AfterValidator(each_once)
    ] = ["label_only", "label_shuffle"],  # noqa: B006
    layers: Annotated[
        Literal["all"] | Annotated[list[int], Field(min_length=1, max_length=1000)],
        Field(description="of those that the features hold; -1 is the last one held"),
    ] = "all",
    seed: Annotated[int | None, Field(ge=0, le=2**31 - 1, description="of draws; default: the run's")] = None,
) -> ProbeScores:
    """Read attributes from part vectors: own part against other parts, single-stage against two-stage (definitions of this project)."""
    from runner.nodes.leakage.probe_run import Plan, probe_all

    plan = Plan(
        kind, penalty, tuple(penalty_grid or ()), min_pos, rows, tuple(metrics), bootstrap.resamples, bootstrap.form,
        tuple(controls), layers, ctx.seed if seed is None else seed,
    )  # fmt: skip
    settings, tables = probe_all(ctx, features, plan)
    return ProbeScores(settings, *tables)
