"""How a spec says what a merge does: ``{method: ties, density: 0.5}``. Light: imported to validate a spec.

Two conventions exist for some names: that of mergekit 0.1.5 and that of the reference code of the DMO paper
(arXiv 2602.04937). ``convention`` says which; where only one exists it is the default.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from runner.references import InputPath

Method = Literal[
    "linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della",
    "della_linear", "slerp", "nuslerp", "multislerp", "karcher", "model_stock", "sce", "fisher", "iso",
]  # fmt: skip
Convention = Literal["mergekit", "reference"]
Section = Literal["text_decoder", "vision_tower", "multi_modal_projector"]

METHODS: tuple[str, ...] = get_args(Method)
SPARSE = {"ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear", "sce"}
"""Methods with a density."""
SUMMED = {"task_arithmetic", "dare_linear", "breadcrumbs", "della_linear"}
"""Methods whose step is a plain weighted sum of differences, so that the sum of the weights may be its length."""
RANDOM = {"dare_linear", "dare_ties", "della", "della_linear"}
SCALED = {"task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear",
          "iso"}  # fmt: skip
NORMALISED = {"linear", *SCALED, "fisher", "multislerp"} - {"iso"}
PAIRED = {"slerp", "nuslerp"}
WEIGHTLESS = {"model_stock", "sce"}
"""Methods that weigh the experts by themselves: all mixtures merge to the same model."""
REFERENCE = {"linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "fisher", "iso"}
MERGEKIT = set(METHODS) - {"fisher", "iso"}
_REFERENCE_DENSITY = {"ties": 0.2, "dare_linear": 0.8, "dare_ties": 0.8}
_NORMALISED_BY_DEFAULT = {"linear", "ties", "della", "multislerp", "fisher"}


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern[:80]!r} is no regular expression: {error}") from error
    return pattern


Regex = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_compiles)]
Weight = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]
ByExpert = dict[str, Weight]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Filter(_Part):
    """Own weights for the tensors whose name holds ``match`` or is found by ``regex``; experts not named keep theirs."""

    match: Annotated[str | None, Field(min_length=1, description="substring of the tensor's name")] = None
    regex: Regex | None = None
    weights: ByExpert

    @model_validator(mode="after")
    def _one_way(self) -> Filter:
        if (self.match is None) == (self.regex is None):
            raise ValueError("a filter needs one of match and regex")
        return self

    def applies(self, name: str) -> bool:
        """Whether the tensor ``name`` takes these weights."""
        return self.match in name if self.match is not None else re.search(self.regex or "", name) is not None


class MergeSpec(_Part):
    """How models are merged: the method, its settings, which tensors take part and with which weights."""

    method: Method = "linear"
    convention: Annotated[
        Convention | None, Field(description="whose rule; default mergekit's, for fisher and iso the reference's")
    ] = None
    scale: Annotated[float, Field(alias="lambda", allow_inf_nan=False, description="length of the step")] = 1.0
    normalize: Annotated[
        bool | None,
        Field(description="divide by the weights; default: the method's own, and weights must then sum to 1"),
    ] = None
    density: Annotated[
        Share | dict[str, Share] | None,
        Field(description="share of each difference that is kept; by expert or for all"),
    ] = None
    gamma: Annotated[float, Field(ge=0, lt=1, description="breadcrumbs: share of the largest that is dropped")] = 0.01
    epsilon: Annotated[float, Field(ge=0, lt=1, description="della: keep probabilities are density +- epsilon")] = 0.15
    rescale: Annotated[
        Literal["paper", "mergekit", "none"] | None,
        Field(description="dare, della: by 1 / density, or so that the L1 norm is kept; default: the convention's"),
    ] = None
    rows: Annotated[bool, Field(description="nuslerp, model_stock: row by row rather than the whole tensor")] = False
    seed: Annotated[int, Field(ge=0, le=2**63 - 1, description="of dare and della")] = 42
    include: Annotated[
        Literal["auto", "lora", "full"] | list[Regex],
        Field(description="tensors that are merged: what the experts change, the reference's sets, or by name"),
    ] = "auto"
    exclude: list[Regex] = []
    filters: Annotated[list[Filter], Field(description="weights of tensors by name; the first that applies")] = []
    sections: Annotated[
        dict[Section, ByExpert | Literal["base"]],
        Field(description="weights of a part of the model; base: it is not merged"),
    ] = {}
    gradients: Annotated[
        dict[str, Annotated[list[Weight], Field(min_length=2, max_length=1000)]],
        Field(description="by expert: factors of its weight from the first layer to the last, interpolated"),
    ] = {}
    dtype: Annotated[
        Literal["base", "float32", "bfloat16", "float16"],
        Field(description="of the whole merged model; arithmetic is float32 or better in any case"),
    ] = "base"
    allow_negative: bool = False
    fisher: Annotated[
        dict[str, InputPath], Field(description="fisher: by expert, a safetensors file of its Fisher values")
    ] = {}

    @property
    def rule(self) -> Convention:
        """The convention in force."""
        return self.convention or ("mergekit" if self.method in MERGEKIT else "reference")

    @property
    def rounds(self) -> bool:
        """Whether the merged model is rounded to half precision, whatever dtype it is run in."""
        return self.dtype in ("bfloat16", "float16")

    @property
    def normalizes(self) -> bool:
        """Whether the method divides by the weights."""
        return self.method in _NORMALISED_BY_DEFAULT if self.normalize is None else self.normalize

    @property
    def ignores_weights(self) -> bool:
        """Whether every mixture merges to the same model."""
        return self.method in WEIGHTLESS or (self.method in {"ties", "dare_ties"} and self.rule == "reference")

    def densities(self, names: list[str]) -> list[float]:
        """The density of each expert."""
        default = _REFERENCE_DENSITY.get(self.method, 1.0) if self.rule == "reference" else 1.0
        if isinstance(self.density, dict):
            return [self.density.get(name, default) for name in names]
        return [default if self.density is None else self.density] * len(names)

    @model_validator(mode="after")
    def _convention_exists(self) -> MergeSpec:
        known = {"mergekit": MERGEKIT, "reference": REFERENCE}
        if self.convention is not None and self.method not in known[self.convention]:
            raise ValueError(f"{self.method} has no convention {self.convention}; it exists for: "
                             + ", ".join(sorted(known[self.convention])))  # fmt: skip
        return self

    @model_validator(mode="after")
    def _settings_have_a_meaning(self) -> MergeSpec:
        users = {
            "density": SPARSE, "gamma": {"breadcrumbs", "breadcrumbs_ties"}, "epsilon": {"della", "della_linear"},
            "rescale": RANDOM, "scale": SCALED, "normalize": NORMALISED, "seed": RANDOM, "fisher": {"fisher"},
            "rows": {"nuslerp", "model_stock"},
        }  # fmt: skip
        for field in sorted(self.model_fields_set & set(users)):
            if self.method not in users[field] and getattr(self, field) != type(self).model_fields[field].default:
                word = type(self).model_fields[field].alias or field
                raise ValueError(
                    f"{word} means nothing to {self.method}; it belongs to: {', '.join(sorted(users[field]))}"
                )
        return self

    @model_validator(mode="after")
    def _needs(self) -> MergeSpec:
        if self.method == "fisher" and not self.fisher:
            raise ValueError("fisher needs the files of the experts' Fisher values: fisher: {EXPERT: file.safetensors}")
        if self.method in {"della", "della_linear"}:
            for density in self.densities(["one"]) if not isinstance(self.density, dict) else self.density.values():
                if density < 1 and not (self.epsilon < density < 1 - self.epsilon):
                    raise ValueError(
                        f"density +- epsilon must lie within 0 and 1; found {density:g} +- {self.epsilon:g}"
                    )
        if self.rescale == "none" and self.method in {"dare_linear", "dare_ties"}:
            raise ValueError("dare is the drop with a rescaling: paper or mergekit")
        if self.gradients and not (self.normalize or self.method in SUMMED | WEIGHTLESS):
            raise ValueError("gradients change the sum of the weights from layer to layer: add normalize: true")
        return self
