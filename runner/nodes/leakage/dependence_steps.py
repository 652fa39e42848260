"""Step ``leakage.dependence``. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from runner.artifacts import PartImages
from runner.context import StepContext
from runner.models.base import VisionBackbone
from runner.nodes.leakage.feature_steps import PatchRule, TwoStageSpec, layers_once, refuse_leaky
from runner.nodes.leakage.names import Norm
from runner.nodes.leakage.outputs import Dependence
from runner.steps import step

Extractors = Annotated[list[Literal["single", "two_stage"]], Field(min_length=1, max_length=2)]


@step("leakage.dependence", version="2")
def dependence(
    ctx: StepContext,
    *,
    backbone: VisionBackbone,
    images: PartImages,
    layers: Annotated[
        Literal["last", "all"] | list[int],
        Field(description="numbers, 0 = patch embedding; negative from the end"),
        AfterValidator(layers_once),
    ] = "last",
    extractors: Extractors = ["single", "two_stage"],  # noqa: B006
    patch_rule: PatchRule = PatchRule(),  # noqa: B008 - frozen
    two_stage: Annotated[TwoStageSpec, AfterValidator(refuse_leaky)] = TwoStageSpec(),  # noqa: B008 - frozen
    pictures: Annotated[int, Field(ge=1, le=100_000, description="pictures measured")] = 200,
    split: Annotated[Literal["all", "train", "val", "test"], Field(description="where they come from")] = "test",
    replace: Annotated[
        Literal["donor", "mean", "noise"],
        Field(description="what replaces pixels: another picture, the mean colour of the normalisation, noise"),
    ] = "donor",
    gradient: Annotated[bool, Field(description="one backward pass for each part, layer and extractor")] = True,
    attention: Annotated[bool, Field(description="where attention goes, by block and head (descriptive)")] = True,
    token_norms: Annotated[bool, Field(description="tokens of high norm, and distances without them")] = True,
    pooling: Annotated[Literal["mean", "mean_all", "max"], Field(description="of single-stage vectors")] = "mean",
    norm: Annotated[Norm, Field(description="final norm on every layer, none, or also a CLIP's projection")] = "final",
    seed: Annotated[int | None, Field(ge=0, le=2**31 - 1, description="of the draw; default: the run's")] = None,
    batch: Annotated[int, Field(ge=1, le=256, description="pictures at once")] = 8,
) -> Dependence:
    """What part vectors depend on, without labels: gradients outside the part, replaced pixels, attention, high-norm tokens."""
    from runner.nodes.leakage.dependence_rows import Audit
    from runner.nodes.leakage.dependence_run import layers_of, run

    audit = Audit(
        layers_of(ctx, backbone, layers), tuple(dict.fromkeys(extractors)), two_stage.model_dump() | {"rule": patch_rule.two_stage},
        pooling, norm, patch_rule.pool, replace, gradient, attention, token_norms, ctx.seed if seed is None else seed,
    )  # fmt: skip
    return run(ctx, backbone, images, audit, split, pictures, batch)
