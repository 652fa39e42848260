"""What a spec says of a cut: stages in order. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Ratio = Annotated[float, Field(ge=0, lt=1)]
LayerCriterion = Literal["block_influence", "angular", "perplexity", "random", "last", "every_kth", "explicit"]
WidthCriterion = Literal[
    "taylor/param_first", "taylor/vectorize", "taylor/param_second", "taylor/param_mix", "activation", "wanda_sp", "flap", "l1",
    "l2", "random",
]  # fmt: skip
NEEDS_SCORES = ("block_influence", "angular", "perplexity")
"""Criteria of layers that read calibration data."""
WITHOUT_DATA = ("l1", "l2", "random")
"""Criteria of units that read none."""


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Protect(_Spec):
    """Layers that stay whatever they score."""

    first: int = Field(default=0, ge=0, description="so many from the start")
    last: int = Field(default=0, ge=0, description="so many at the end")


class LayerStage(_Spec):
    """Whole decoder blocks go."""

    kind: Literal["layer"]
    criterion: LayerCriterion = "block_influence"
    n_layers: int | None = Field(default=None, ge=0, description="blocks to remove")
    target_fraction: Ratio | None = Field(
        default=None,
        description="share of the original language model that this stage alone takes: the number of blocks that comes nearest",
    )
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(
        default=None, min_length=1, description="for explicit: indices in the original model"
    )
    k: int | None = Field(default=None, ge=2, description="for every_kth")
    protect: Protect = Field(default=Protect(), description="not for explicit and every_kth")
    iterative_steps: int = Field(default=1, ge=1, le=1000, description="score anew so many times on the way")

    @model_validator(mode="after")
    def _one_amount(self) -> LayerStage:
        amounts = [self.n_layers is not None, self.target_fraction is not None]
        if self.criterion == "explicit":
            if self.layers is None or any(amounts):
                raise ValueError("criterion explicit wants layers, and neither n_layers nor target_fraction")
        elif self.layers is not None:
            raise ValueError("layers belongs to criterion explicit")
        elif sum(amounts) != 1 and not (self.criterion == "every_kth" and not any(amounts)):
            raise ValueError("give n_layers or target_fraction, one of them")
        if (self.criterion == "every_kth") != (self.k is not None):
            raise ValueError("k belongs to criterion every_kth, which wants it")
        if self.layers is not None and len(set(self.layers)) < len(self.layers):
            twice = next(layer for layer in self.layers if self.layers.count(layer) > 1)
            raise ValueError(f"layers names layer {twice} more than once")
        if self.criterion in ("explicit", "every_kth") and self.protect != Protect():
            raise ValueError(f"criterion {self.criterion} says itself which layers go: protect has no part in it")
        if self.iterative_steps > 1 and self.criterion not in NEEDS_SCORES:
            raise ValueError(f"criterion {self.criterion} scores nothing that several steps could score anew")
        return self


class Part(_Spec):
    """How much of attention or of the MLP goes, in which layers."""

    ratio: Ratio | None = Field(
        default=None, description="share of the channels; left out where the stage has a target"
    )
    layers: tuple[int, int] | None = Field(
        default=None,
        description="first and end (not included), counted in the model as the stage finds it; default: all",
    )
    round_to: int = Field(default=1, ge=1, le=4096, description="what stays is a multiple of this")

    @model_validator(mode="after")
    def _in_order(self) -> Part:
        if self.layers is not None and not 0 <= self.layers[0] < self.layers[1]:
            raise ValueError(f"layers [{self.layers[0]}, {self.layers[1]}] must be [first, end] with 0 <= first < end")
        return self


class AttentionPart(Part):
    """Attention heads."""

    unit: Literal["kv_group", "query_per_group"] = Field(
        default="kv_group",
        description="whole groups that share keys and values, or the same number of query heads from each",
    )


class WidthStage(_Spec):
    """Attention heads and neurons go."""

    kind: Literal["width"]
    criterion: WidthCriterion = "taylor/param_first"
    attention: AttentionPart | None = None
    mlp: Part | None = None
    target_fraction: Ratio | None = Field(
        default=None,
        description="share of the original language model that is gone after this stage, by earlier stages or by it",
    )
    target_params: int | None = Field(
        default=None, ge=1, description="parameters of the language model that stay, at most"
    )
    scope: Literal["local", "global"] = Field(
        default="local", description="global: units of all layers ranked together (ours: by score per parameter)"
    )
    normalize: Literal["per_parameter", "zscore", "none"] = "per_parameter"
    iterative_steps: int = Field(default=1, ge=1, le=1000, description="score anew so many times on the way")
    compensate: bool = Field(
        default=False, description="add what goes gives on average to the output bias; with criterion flap"
    )
    compat: Literal["none", "reference"] = Field(
        default="none", description="reference: channel counts in binary floats, as published code has them"
    )

    @model_validator(mode="after")
    def _consistent(self) -> WidthStage:
        parts = [part for part in (self.attention, self.mlp) if part is not None]
        ratios = [part.ratio for part in parts]
        targets = (self.target_fraction is not None) + (self.target_params is not None)
        if not parts:
            raise ValueError("give attention, mlp or both")
        if targets > 1 or (targets and any(r is not None for r in ratios)):
            raise ValueError("give ratio (of each part), target_fraction or target_params, only one of them")
        if not targets and any(r is None for r in ratios):
            raise ValueError("give each part a ratio, or the stage a target_fraction or target_params")
        if self.scope == "global" and any(part.round_to > 1 for part in parts):
            raise ValueError("round_to wants scope local: globally each layer keeps a number of its own")
        if self.scope == "global" and self.attention is not None and self.attention.unit != "kv_group":
            raise ValueError("scope global ranks units of kind kv_group")
        if self.compensate and (self.criterion != "flap" or self.iterative_steps > 1):
            raise ValueError("compensate wants criterion flap, in one step")
        return self


Stage = Annotated[LayerStage | WidthStage, Field(discriminator="kind")]


class Recalibration(_Spec):
    """Records that scores are taken of anew, as in `prune.score`."""

    n: int = Field(default=50, ge=1, le=1_000_000)
    max_text_tokens: int | None = Field(default=128, ge=1)
    batch_size: int = Field(default=1, ge=1, le=4096)
    modality: Literal["image_text", "text", "any"] = "image_text"
    gradients: int = Field(default=10, ge=1, description="the first so many are what Taylor criteria take gradients of")
    last_state: Literal["pre_norm", "post_norm"] = "pre_norm"
