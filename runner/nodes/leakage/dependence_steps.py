"""Step ``leakage.dependence``. Light: imported to validate a spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from runner.artifacts import PartImages
from runner.context import StepContext
from runner.models.base import VisionBackbone
from runner.steps import Artifact, Rows, Table, step

PatchRule = Literal["any", "majority", "all", "nearest_exact"]


@dataclass(frozen=True)
class Dependence(Artifact):
    """What the part vectors of one backbone depend on. ``settings`` say how it was measured."""

    model: dict[str, Any]
    settings: dict[str, Any]
    pictures: Annotated[Table, Rows("leak_dependence")]
    summary: Annotated[Table, Rows("leak_dependence_summary")]
    attention: Annotated[Table, Rows("leak_attention")]
    token_norms: Annotated[Table, Rows("leak_token_norm")]


class TwoStageOptions(BaseModel):
    """How two-stage vectors are made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["attn_mask", "token_drop", "packed", "pixel_fill", "crop"] = "packed"
    pool: Literal["mean", "cls"] = "mean"
    rule: Annotated[PatchRule, Field(description="which patches a part keeps")] = "all"
    strict_pixels: Annotated[bool, Field(description="overwrite pixels outside the part too")] = True
    allow_boundary_leak: Annotated[
        bool, Field(description="pixels outside the part that lie in its patches may reach the vector")
    ] = False

    @model_validator(mode="after")
    def _boundary(self) -> TwoStageOptions:
        if self.rule != "all" and not self.strict_pixels and not self.allow_boundary_leak:
            raise ValueError(
                f"with rule: {self.rule} patches hold pixels outside the part: say strict_pixels: true or rule: all, "
                "or allow_boundary_leak: true"
            )
        return self


Extractors = Annotated[list[Literal["single", "two_stage"]], Field(min_length=1, max_length=2)]


@step("leakage.dependence", version="1")
def dependence(
    ctx: StepContext,
    *,
    backbone: VisionBackbone,
    images: PartImages,
    layers: Annotated[
        Literal["last", "all"] | list[int], Field(description="numbers, 0 = patch embedding; negative from the end")
    ] = "last",
    extractors: Extractors = ["single", "two_stage"],  # noqa: B006
    two_stage: TwoStageOptions = TwoStageOptions(),  # noqa: B008
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
    norm_layers: Annotated[
        Literal["final", "raw"], Field(description="the final norm before pooling, or none")
    ] = "final",
    patch_rule: Annotated[PatchRule, Field(description="which patches are a part's, single-stage")] = "majority",
    seed: Annotated[int | None, Field(ge=0, le=2**31 - 1, description="of the draw; default: the run's")] = None,
    batch: Annotated[int, Field(ge=1, le=256, description="pictures at once")] = 8,
) -> Dependence:
    """What part vectors depend on, without labels: gradients outside the part, replaced pixels, attention, high-norm tokens."""
    from runner.nodes.leakage.dependence_run import Audit, run

    audit = Audit(
        _layers(backbone, layers), tuple(dict.fromkeys(extractors)), two_stage.model_dump(), pooling, norm_layers, patch_rule,
        replace, gradient, attention, token_norms, ctx.seed if seed is None else seed,
    )  # fmt: skip
    return run(ctx, backbone, images, audit, split, pictures, batch)


def _layers(backbone: VisionBackbone, layers: Literal["last", "all"] | list[int]) -> tuple[int, ...]:
    """Layer numbers, each once, in order. Raises ``UsageError`` for one that the backbone does not have."""
    from runner.errors import UsageError

    deepest = backbone.depth
    if isinstance(layers, str):
        return (deepest,) if layers == "last" else tuple(range(deepest + 1))
    found = [layer + deepest + 1 if layer < 0 else layer for layer in layers]
    wrong = [layer for layer, number in zip(layers, found, strict=True) if not 0 <= number <= deepest]
    if wrong or not found:
        raise UsageError(f"layers: {wrong or 'none'}: {backbone.name} has layers 0 to {deepest}")
    return tuple(sorted(set(found)))
