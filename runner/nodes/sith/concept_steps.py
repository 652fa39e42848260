"""Steps of SITH on the concepts' side. Light: imported to validate a spec.

``sith.dictionary``; ``sith.explain``, ``sith.ground``; the baselines ``sith.textspan`` and ``sith.splice``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from runner.artifacts import ConceptDictionary, Datasets, HeadConcepts, HeadDirections, ImageFeatures
from runner.context import StepContext
from runner.models.base import ClipModel
from runner.nodes.sith.dictionary_specs import Concepts
from runner.steps import Artifact, Rows, Table, step


@dataclass(frozen=True)
class Grounding(Artifact):
    """Pictures that singular directions retrieve."""

    model: dict[str, Any]
    pictures: Annotated[Table, Rows("sith_grounding")]


@dataclass(frozen=True)
class SpliceCodes(Artifact):
    """Pictures as sums of concepts. ``settings``: solver, l1."""

    settings: dict[str, Any]
    images: Annotated[Table, Rows("splice_image")]
    codes: Annotated[Table, Rows("splice_code")]


@dataclass(frozen=True)
class HeadSpans(Artifact):
    """Texts that span what each head writes on pictures. ``settings``: layers, split, texts a head, rank."""

    settings: dict[str, Any]
    concepts: Annotated[Table, Rows("textspan_concept")]


def _each_once(values: list[float]) -> list[float]:
    if len(set(values)) < len(values):
        raise ValueError(f"a value stands twice in {values}")
    return values


Count = Annotated[int, Field(ge=1, le=100_000)]
Weight = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]
Penalty = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False, description="weight of the sum of coefficients")]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"],
    Field(description="of the product that proposes atoms; what is picked does not depend on it"),
]
Backend = Annotated[
    Literal["auto", "gemm", "faiss"], Field(description="what proposes atoms; what is picked does not depend on it")
]
TopSingular = Annotated[int | None, Field(ge=1, description="only the first so many directions of a head")]
Side = Annotated[Literal["right", "left", "both"], Field(description="what is written, what is read, or both")]
BatchSize = Annotated[int, Field(ge=1, le=65536, description="texts, or pictures, encoded and saved together")]


@step("sith.dictionary", version="1")
def dictionary(
    ctx: StepContext,
    *,
    clip: ClipModel,
    concepts: Concepts,
    batch: BatchSize = 1024,
    dedupe: Annotated[
        bool,
        Field(description="each text once; otherwise repeated lines are only counted; before the mean is taken (ours)"),
    ] = False,
    max_atoms: Annotated[
        int | None, Field(ge=1, description="the first so many; before the mean is taken (ours)")
    ] = None,
    exclude: Annotated[
        list[str], Field(description="texts to leave out, compared letter by letter; before the mean is taken (ours)")
    ] = [],  # noqa: B006
    name: Annotated[str | None, Field(min_length=1, max_length=80, description="default: its kind")] = None,
) -> ConceptDictionary:
    """Embed concepts by the text tower, as they are written, to explain heads with.

    ``exclude``, ``dedupe`` and ``max_atoms`` act before the embedding, so that the mean which later steps take off is that of
    the concepts that are left. Ours: the released code takes the mean of the whole file before any filter.
    """
    from runner.nodes.sith.dictionary_making import listed, make_dictionary, name_of

    found = listed(concepts, dedupe=dedupe, max_atoms=max_atoms, exclude=exclude)
    return make_dictionary(ctx, clip, name or name_of(concepts), found, batch)


@step("sith.explain", version="2")
def explain(
    ctx: StepContext,
    *,
    directions: HeadDirections,
    dictionary: ConceptDictionary,
    method: Annotated[
        Literal["comp", "nnomp", "omp", "mp", "top_k", "lasso"], Field(description="coder; comp is SITH's own")
    ] = "comp",
    k: Annotated[
        Count | Annotated[list[Count], Field(min_length=1), AfterValidator(_each_once)],
        Field(description="concepts a direction; of several, later steps use the first"),
    ] = 5,
    coherence: Annotated[
        Weight | Annotated[list[Weight], Field(min_length=1), AfterValidator(_each_once)],
        Field(description="the method's lambda, comp only; of several, later steps use the first"),
    ] = 0.3,
    l1: Penalty = 0.25,
    signs: Annotated[
        Literal["positive", "both"], Field(description="both: explain the negated vectors too (ours)")
    ] = "positive",
    side: Side = "right",
    backend: Backend = "auto",
    precision: Precision = "auto",
    top_singular: TopSingular = None,
) -> HeadConcepts:
    """Explain singular vectors by sparse non-negative sums of concepts."""
    from results.tables import arrow_table
    from runner.nodes.sith.coding_picked import Settings
    from runner.nodes.sith.dictionary_making import read_dictionary
    from runner.nodes.sith.explaining import asked_of, explained, precision_for, settings_of

    ks = list(k) if isinstance(k, list) else [k]
    weights = list(coherence) if isinstance(coherence, list) else [coherence]
    how = Settings(precision=precision_for(ctx.device, precision), backend="faiss" if backend == "faiss" else "gemm")
    asked = asked_of(ctx, method, ks, weights, l1, signs, side, top_singular, how)
    read = read_dictionary(dictionary, directions.model["identity"], ctx)
    codes, concepts = explained(ctx, directions, read, asked)
    tables = arrow_table("sith_code", codes), arrow_table("sith_concept", concepts)
    return HeadConcepts(directions.model, dictionary.info, settings_of(asked), *tables)


@step("sith.ground", version="1")
def ground(
    ctx: StepContext,
    *,
    directions: HeadDirections,
    features: ImageFeatures,
    images: Datasets | None = None,
    concepts: HeadConcepts | None = None,
    dictionary: ConceptDictionary | None = None,
    top: Annotated[int, Field(ge=1, le=1000, description="pictures a direction")] = 8,
    side: Side = "right",
    backend: Backend = "auto",
    top_singular: TopSingular = None,
) -> Grounding:
    """Retrieve the pictures that each direction points at; with `concepts` and their `dictionary`, say how these fit."""
    from results.tables import arrow_table
    from runner.errors import StepError
    from runner.nodes.sith.coding_picked import Settings
    from runner.nodes.sith.dictionary_making import check_identity, read_dictionary
    from runner.nodes.sith.explaining import asked_of, targets_of
    from runner.nodes.sith.grounding import grounding_rows

    check_identity(features.encoder, directions.model, "pictures were embedded")
    if (concepts is None) != (dictionary is None):
        raise StepError("give concepts together with the dictionary they were picked from", step=ctx.step)
    asked = asked_of(ctx, "top_k", [1], [0.0], 0.25, "positive", side, top_singular, Settings())
    lists = None
    if concepts is not None and dictionary is not None:
        lists = concepts, read_dictionary(dictionary, directions.model["identity"], ctx)
    faiss: Literal["faiss", "gemm"] = "gemm" if backend == "gemm" else "faiss"
    rows = list(grounding_rows(directions, targets_of(directions, asked), features, images, lists, top, faiss))
    return Grounding(directions.model, arrow_table("sith_grounding", rows))


@step("sith.splice", version="1")
def splice(
    ctx: StepContext,
    *,
    features: ImageFeatures,
    dictionary: ConceptDictionary,
    l1: Penalty = 0.25,
    solver: Annotated[Literal["lasso", "admm"], Field(description="lasso: exact (ours); admm: as published")] = "lasso",
    precision: Precision = "auto",
) -> SpliceCodes:
    """Write image embeddings as sparse non-negative sums of concepts (SpLiCE). The image mean is that of `features`."""
    from results.tables import arrow_table
    from runner.nodes.sith.coding_picked import Settings
    from runner.nodes.sith.dictionary_making import read_dictionary
    from runner.nodes.sith.explaining import precision_for
    from runner.nodes.sith.explaining_images import splice_rows

    read = read_dictionary(dictionary, features.encoder["identity"], ctx)
    how = Settings(precision=precision_for(ctx.device, precision))
    images, codes = splice_rows(ctx, features, read, l1, solver, how)
    settings = {"l1": l1, "solver": solver, "dictionary": dictionary.info, "pictures": len(images)}
    return SpliceCodes(settings, arrow_table("splice_image", images), arrow_table("splice_code", codes))


@step("sith.textspan", version="1")
def textspan(
    ctx: StepContext,
    *,
    clip: ClipModel,
    images: Datasets,
    dictionary: ConceptDictionary,
    layers: Annotated[list[int], Field(min_length=1, description="blocks from 0, or from the end")] = [-4, -3, -2, -1],  # noqa: B006
    split: Annotated[str, Field(min_length=1)] = "test",
    limit: Annotated[int | None, Field(ge=2, description="pictures, drawn by the run's seed")] = 1000,
    texts_per_head: Annotated[int, Field(ge=1, le=1000)] = 20,
    rank: Annotated[int, Field(ge=1, description="leading directions of a head's outputs that texts may use")] = 80,
    batch_size: BatchSize = 32,
) -> HeadSpans:
    """Name the texts that span what each head writes on pictures (TextSpan)."""
    from results.tables import arrow_table
    from runner.nodes.sith.dictionary_making import read_dictionary
    from runner.nodes.sith.explaining_images import textspan_rows

    read = read_dictionary(dictionary, clip.identity, ctx)
    rows = textspan_rows(ctx, clip, images, read, layers, split, limit, texts_per_head, rank, batch_size)
    settings = {"layers": layers, "split": split, "limit": limit, "texts_per_head": texts_per_head, "rank": rank}
    return HeadSpans(settings | {"dictionary": dictionary.info}, arrow_table("textspan_concept", rows))
