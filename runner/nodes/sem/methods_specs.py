"""How a spec names debiasing methods: ``vanilla``, ``{sem: {variant: bi}}``, ``{orth_cali: {lambda: 1000}, label: mine}``, ...

The key says the method; a method without settings may stand as its bare name. pydantic judges; ``runner.nodes.sem.methods``
applies. Light: imported to validate a spec.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Tag,
    ValidationInfo,
    model_validator,
)

from runner.keyed import keyed

Label = Annotated[
    str, Field(pattern=r"^[^/\x00-\x1f\x7f]{1,60}$", description="name in the results; no slash; default: the method's")
]
Count = Annotated[int, Field(ge=1, le=100_000)]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class VanillaOptions(_Options):
    """Nothing to set."""


class SemOptions(_Options):
    """Sparse Embedding Modulation. The defaults are the published method's.

    The three values of ``variant`` are published, and so is ``content``; every other value of the rest is a switch of ours.
    """

    variant: Annotated[
        Literal["i", "b", "bi"], Field(description="texts used: i paraphrases, b bias prompts, bi both")
    ] = "bi"
    exponent: Annotated[float, Field(gt=0, le=16, description="of the score")] = 2.0
    clamp_max: Annotated[float | None, Field(gt=0, le=16, description="largest multiplier; 1 = no boosting")] = None
    target: Annotated[
        Literal["diverse_median", "zero", "diverse_mean"], Field(description="where attenuated neurons go")
    ] = "diverse_median"
    bias_score: Annotated[
        Literal["min", "general", "specific"],
        Field(description="bias sensitivity against the diverse prompts, against the other classes, or the lesser"),
    ] = "min"
    median: Literal["lower", "midpoint"] = "lower"
    add_residual: Annotated[bool, Field(description="add what the autoencoder does not reconstruct of the query")] = (
        False
    )
    top_k: Annotated[int | None, Field(ge=1, description="latents kept of each text; default: all")] = None
    space: Annotated[
        Literal["sae", "clip"], Field(description="clip: the same scores on embedding coordinates, no autoencoder")
    ] = "sae"
    content: Annotated[bool, Field(description="content relevance from the prompts of kind content")] = False
    n_diverse: Annotated[Count | None, Field(description="diverse prompts, drawn by the seed; default: all")] = None
    n_bias: Annotated[Count | None, Field(description="bias prompts a class, drawn by the seed; default: all")] = None
    n_paraphrases: Annotated[
        Count | None, Field(description="paraphrases a query, the query among them; default: all")
    ] = None


class _RankOptions(_Options):
    rank_tol: Annotated[
        float, Field(gt=0, lt=1, description="singular values below this share of the largest are rank defects")
    ] = 1e-6


class OrthProjOptions(_RankOptions):
    """Projection off the spurious texts (Chuang et al. 2023)."""


class OrthCaliOptions(_RankOptions):
    """Calibrated projection (Chuang et al. 2023): texts of a query that differ in the attribute only are drawn together."""

    weight: Annotated[float, Field(alias="lambda", ge=0, le=1e9, description="weight of the pairs; 0 = orth_proj")] = (
        1000.0
    )


class RoboShotOptions(_Options):
    """Images lose harmful differences and gain helpful ones (Adila et al. 2023)."""

    reject: bool = True
    accept: bool = True

    @model_validator(mode="after")
    def _something(self) -> RoboShotOptions:
        if not (self.reject or self.accept):
            raise ValueError("reject and accept are both off: that is vanilla")
        return self


class PrismMiniOptions(_RankOptions):
    """Projection off the spurious texts, of texts and images (Molahasani et al. 2025)."""


class PrismOptions(_Options):
    """A linear map learnt on synthetic sentences (Molahasani et al. 2025); one method a seed, labelled ``prism[0]``, ...

    The published figures are means over seeds; in SQL ``SELECT run_id, variant, step, dataset, split_part(method, '[', 1) AS family,
    metric, ci_kind, avg(mean), stddev_samp(mean) FROM debias_summary WHERE method LIKE 'prism[%' GROUP BY ALL``.
    """

    samples: Annotated[int, Field(ge=1, le=10_000, description="sentences")] = 100
    lr: Annotated[float, Field(gt=0, le=10)] = 0.01
    margin: Annotated[float, Field(ge=-1, le=1)] = 0.6
    batch: Annotated[int, Field(ge=1, le=10_000)] = 64
    epochs: Annotated[int, Field(ge=1, le=1000)] = 1
    init: Annotated[
        Literal["random", "identity", "orthogonal"], Field(description="orthogonal starts from prism_mini")
    ] = "random"
    rank: Annotated[int | None, Field(ge=1, le=4096, description="learn so many directions and project them out")] = (
        None
    )
    seeds: Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(min_length=1, max_length=20)] = [0, 1, 2]


class BendOptions(_RankOptions):
    """First step of BendVLM (Gerych et al. 2024): projection off spurious and augmented texts. The second is at evaluation."""


class SaeTopKOptions(_Options):
    """Projection off the encoder rows of the most bias-sensitive latents (after Barbalau et al. 2025; ranking ours)."""

    k: Annotated[int, Field(ge=1, le=4096, description="latents")] = 10
    average: Annotated[bool, Field(description="project off their mean only")] = False
    bias_score: Literal["min", "general", "specific"] = "min"


class Method(_Options):
    """What every method has."""

    key: ClassVar[str]
    label: Label | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        """``orth_proj`` is short for ``{orth_proj: {}}``, and so is ``orth_proj:`` with nothing behind it."""
        if isinstance(value, str):
            return {value: {}}
        if isinstance(value, dict) and value.get(cls.key, {}) is None:
            return {**value, cls.key: {}}
        return value

    @property
    def options(self) -> Any:
        """Its settings."""
        return getattr(self, self.key)

    @property
    def name(self) -> str:
        """Its label in the results."""
        return self.label or self.default_label

    @property
    def default_label(self) -> str:
        """Label where none is given."""
        return self.key


class Vanilla(Method):
    """The query's own embedding."""

    key: ClassVar[str] = "vanilla"
    vanilla: VanillaOptions


class Sem(Method):
    """Sparse Embedding Modulation."""

    key: ClassVar[str] = "sem"
    sem: SemOptions

    @property
    def default_label(self) -> str:
        """By variant."""
        return f"sem_{self.sem.variant}"


class OrthProj(Method):
    """Orthogonal projection."""

    key: ClassVar[str] = "orth_proj"
    orth_proj: OrthProjOptions


class OrthCali(Method):
    """Calibrated projection."""

    key: ClassVar[str] = "orth_cali"
    orth_cali: OrthCaliOptions


class RoboShot(Method):
    """RoboShot."""

    key: ClassVar[str] = "roboshot"
    roboshot: RoboShotOptions


class PrismMini(Method):
    """PRISM-mini."""

    key: ClassVar[str] = "prism_mini"
    prism_mini: PrismMiniOptions


class Prism(Method):
    """PRISM."""

    key: ClassVar[str] = "prism"
    prism: PrismOptions


class BendVlm(Method):
    """BendVLM, step 1."""

    key: ClassVar[str] = "bend_vlm"
    bend_vlm: BendOptions


class SaeTopK(Method):
    """Encoder rows of an autoencoder projected off."""

    key: ClassVar[str] = "sae_top_k"
    sae_top_k: SaeTopKOptions


KINDS: dict[str, type[Method]] = {
    cls.key: cls for cls in (Vanilla, Sem, OrthProj, OrthCali, RoboShot, PrismMini, Prism, BendVlm, SaeTopK)
}


MethodSpec = Annotated[
    Annotated[Vanilla, Tag("method vanilla")]
    | Annotated[Sem, Tag("method sem")]
    | Annotated[OrthProj, Tag("method orth_proj")]
    | Annotated[OrthCali, Tag("method orth_cali")]
    | Annotated[RoboShot, Tag("method roboshot")]
    | Annotated[PrismMini, Tag("method prism_mini")]
    | Annotated[Prism, Tag("method prism")]
    | Annotated[BendVlm, Tag("method bend_vlm")]
    | Annotated[SaeTopK, Tag("method sae_top_k")],
    keyed("method", KINDS, what="a debiasing method is one of ", code="method_kind", alone=True),
]
"""One debiasing method; the key decides which."""


def expanded(methods: list[Any]) -> list[Any]:
    """The methods with one PRISM for each seed. Raises ValueError for labels that stand twice."""
    every = [one for method in methods for one in _by_seed(method)]
    labels = [method.name for method in every]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is not None:
        raise ValueError(f"two methods are called {twice!r} in the results: give one of them a `label`")
    return every


def _by_seed(method: Any) -> list[Any]:
    if not isinstance(method, Prism) or len(method.prism.seeds) == 1:
        return [method]
    options = [method.prism.model_copy(update={"seeds": [seed]}) for seed in method.prism.seeds]
    return [Prism(prism=one, label=f"{method.name}[{one.seeds[0]}]") for one in options]


def _distinct(methods: list[Any]) -> list[Any]:
    expanded(methods)
    return methods


def needs_sae(method: Any) -> bool:
    """Whether the method codes by a sparse autoencoder."""
    if isinstance(method, Sem):
        return method.sem.space == "sae" or method.sem.add_residual
    return isinstance(method, SaeTopK)


def _with_sae(methods: list[Any], info: ValidationInfo) -> list[Any]:
    """Refuse methods that need an autoencoder under a step that names none."""
    without = "param_sae" in (info.data or {}) and info.data["param_sae"] is None
    named = [method.name for method in methods if without and needs_sae(method)]
    if named:
        raise ValueError(f"{', '.join(named)} needs an autoencoder: give `sae`, such as sae: $step of sem.train_sae")
    return methods


Methods = Annotated[
    list[MethodSpec], Field(min_length=1, max_length=60), AfterValidator(_distinct), AfterValidator(_with_sae)
]
"""Methods in the order of the results."""


class BendSpec(_Options):
    """BendVLM's second step from the vectors of another method; it uses labelled reference pictures."""

    base: Annotated[str, Field(min_length=1, max_length=60, description="label of the method that it starts from")]
    neighbours: Annotated[int, Field(ge=1, le=1_000_000, description="reference pictures of each value")] = 100
    label: Label | None = None

    @property
    def name(self) -> str:
        """Its label in the results."""
        return self.label or f"bend({self.base})"


class Relevant(_Options):
    """What a query asks for, so that precision is known: a class of the dataset, or a value of an attribute."""

    target: str | None = None
    attribute: str | None = None
    value: str | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Relevant:
        if (self.target is None) == (self.attribute is None) or (self.attribute is None) != (self.value is None):
            raise ValueError("give target (a class), or attribute and value")
        return self
