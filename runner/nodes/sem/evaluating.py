"""What debiased queries are evaluated on: pictures with unit vectors and values of an attribute, and every method's vectors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner.artifacts import AttributedImages, DebiasedTexts, ImageFeatures
from runner.context import StepContext
from runner.errors import DataError
from runner.nodes.sem.baselines import apply_map
from runner.nodes.sem.bend import bend_prototypes, bend_vlm
from runner.nodes.sem.folds import Folds, repeated_halves
from runner.nodes.sem.intervals_folds import cluster_codes
from runner.nodes.sem.methods_specs import BendSpec
from runner.nodes.sem.metrics import class_counts, cosines
from runner.nodes.sem.texts_gathering import shown

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """Pictures of one dataset: unit vectors float32 [n, dim]; ``values`` [n] index ``classes``, ``targets`` [n] ``names``.

    ``known``: of each attribute the value by picture, for precision. ``clusters`` [n]: what pictures are resampled together by,
    None where a picture stands for itself; None: all do.
    """

    dataset: str
    samples: list[str]
    vectors: Tensor
    values: IntArray
    classes: list[str]
    targets: IntArray
    names: list[str]
    known: dict[str, dict[str, str]]
    clusters: list[str | None] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def interval_kind(self) -> str:
        """``ci_kind`` of intervals from resampling."""
        return "by_image" if self.clusters is None else "by_cluster"

    @property
    def cluster_codes(self) -> IntArray | None:
        """Numbers of the clusters, [n]; None where every picture is resampled alone."""
        return None if self.clusters is None else cluster_codes(self.clusters)


class Query(NamedTuple):
    """One method's vectors: unit float32 [queries, dim]; ``image_map`` [dim, dim] or [queries, dim, dim] or None."""

    label: str
    vectors: Tensor
    image_map: Tensor | None = None


# --- pictures ----------------------------------------------------------------------------------------------------------


def populations(
    ctx: StepContext,
    features: ImageFeatures,
    images: AttributedImages,
    attribute: str,
    split: str = "all",
    values: Sequence[str] | None = None,
    cluster: str | None = None,
) -> list[Population]:
    """One for each dataset that has the attribute. Raises ``DataError`` where there is none, or a value has no picture."""
    vectors = _unit(features)
    rows = features.rows.to_pylist()
    about = {info["dataset"]: info["attributes"] for info in images.about}
    own = [info for info in features.datasets if attribute in about.get(info["dataset"], {})]
    if not own:
        there = sorted({name for names in about.values() for name in names})
        raise DataError(
            f"no dataset has the attribute {shown(attribute)}", hint=f"There are: {', '.join(there) or 'none'}."
        )
    if cluster is not None:
        _check_cluster(cluster, {info["dataset"]: about[info["dataset"]] for info in own})
    known = _known(images)
    found = []
    for info in own:
        classes = _classes(info["dataset"], attribute, about[info["dataset"]][attribute], values)
        mine = [i for i, row in enumerate(rows) if row["dataset"] == info["dataset"] and split in ("all", row["split"])]
        made = _population(ctx, info, [(i, rows[i]) for i in mine], vectors, classes, attribute, known)
        found.append(made if cluster is None else _clustered(ctx, made, cluster))
    return found


def _check_cluster(cluster: str, about: Mapping[str, Iterable[str]]) -> None:
    """Raise ``DataError`` for a dataset without the attribute."""
    without = next((dataset for dataset, names in about.items() if cluster not in names), None)
    if without is not None:
        hint = (
            f"It has: {', '.join(sorted(about[without]))}. Evaluate datasets without clusters in a step of their own."
        )
        raise DataError(f"cluster: {without} has no attribute {shown(cluster)}", hint=hint)


def _clustered(ctx: StepContext, population: Population, cluster: str) -> Population:
    """With what the pictures are resampled by. Raises ``DataError`` where all of them are one cluster."""
    of = population.known.get(cluster, {})
    names = [of.get(sample) for sample in population.samples]
    if names.count(None):
        text = f"{names.count(None)} of {len(names)} pictures have no {cluster}: each counts as a cluster of its own"
        ctx.warn(text, item=population.dataset)
    if len(set(names) - {None}) + names.count(None) < 2:
        raise DataError(
            f"{population.dataset}: all pictures have the same {shown(cluster)}, so nothing can be resampled"
        )
    return replace(population, clusters=names)


def _unit(features: ImageFeatures) -> Tensor:
    vectors = features.features["features"]
    if len(vectors) != features.rows.num_rows:
        raise DataError(f"{len(vectors)} features for {features.rows.num_rows} pictures: there must be one each")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.isfinite(vectors).all() or (norms == 0).any():
        raise DataError(
            "the features contain NaN, infinity or zero vectors", hint="Make them again: classify.features."
        )
    return torch.from_numpy(np.asarray(vectors / norms, np.float32))


def _known(images: AttributedImages) -> dict[str, dict[str, dict[str, str]]]:
    """Value by dataset, attribute and picture."""
    columns = (images.attributes.column(name).to_pylist() for name in ("dataset", "attribute", "sample_id", "value"))
    found: dict[str, dict[str, dict[str, str]]] = {}
    for dataset, attribute, sample, value in zip(*columns, strict=True):
        found.setdefault(dataset, {}).setdefault(attribute, {})[sample] = value
    return found


def _classes(dataset: str, attribute: str, there: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    if wanted is None:
        return list(there)
    unknown = next((value for value in wanted if value not in there), None)
    if unknown is not None:
        raise DataError(f"{dataset}: {attribute} has no value {shown(unknown)}", hint=f"It has: {', '.join(there)}.")
    return list(wanted)


def _population(
    ctx: StepContext,
    info: dict[str, Any],
    rows: list[tuple[int, dict[str, Any]]],
    vectors: Tensor,
    classes: list[str],
    attribute: str,
    known: dict[str, dict[str, dict[str, str]]],
) -> Population:
    dataset, index = info["dataset"], {value: i for i, value in enumerate(classes)}
    of = known.get(dataset, {}).get(attribute, {})
    kept = [(i, row) for i, row in rows if of.get(row["sample_id"]) in index]
    if len(kept) < len(rows):
        ctx.warn(
            f"{len(rows) - len(kept)} of {len(rows)} pictures have no such {attribute} and are left out", item=dataset
        )
    values = np.array([index[of[row["sample_id"]]] for _, row in kept], np.int64)
    _check_values(dataset, attribute, classes, values)
    return Population(
        dataset, [row["sample_id"] for _, row in kept], vectors[[i for i, _ in kept]], values, classes,
        np.array([row["class_index"] for _, row in kept], np.int64), list(info["classes"]), known.get(dataset, {}),
    )  # fmt: skip


def _check_values(dataset: str, attribute: str, classes: Sequence[str], values: IntArray) -> None:
    counts = np.bincount(values, minlength=len(classes))
    absent = [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]
    if absent:
        raise DataError(
            f"{dataset}: no picture has the {attribute} {shown(absent[0])}",
            hint="Leave it out with `values: [...]`, or take another split.",
        )
    if len(classes) < 2:
        raise DataError(f"{dataset}: {attribute} has one value only, so there is nothing to compare")


# --- halves ------------------------------------------------------------------------------------------------------------


def halves_of(population: Population, folds: int, val_fraction: float, seed: int, k: int | None = None) -> Folds:
    """Repeated random halves. Raises ``DataError`` where an evaluated one lacks a value, or has fewer than ``k`` pictures."""
    name = population.dataset
    try:
        halves = repeated_halves(len(population), folds, val_fraction, seed)
    except ValueError as error:
        raise DataError(f"{name}: {error}", hint=_MORE) from error
    searched = halves.evaluated.shape[1]
    if k is not None and k > searched:
        raise DataError(
            f"{name}: k is {k}, and {searched} pictures are searched", hint="Lower k, or load more pictures."
        )
    counts = class_counts(halves.evaluated, population.values, len(population.classes))
    if not counts.all():
        fold, value = np.argwhere(counts == 0)[0].tolist()
        raise DataError(f"{name}: half {fold} has no picture of {shown(population.classes[value])}", hint=_MORE)
    return halves


_MORE = "Load more pictures of it, leave it out with `values: [...]`, or change seed or folds."


class Figures(NamedTuple):
    """Of counts over groups [..., groups]: accuracy of all, of the worst group that has pictures, and their gap; [...]."""

    accuracy: FloatArray
    worst_group: FloatArray
    gap: FloatArray


def figures(n: NDArray[Any], correct: NDArray[Any]) -> Figures:
    """As ``metrics.worst_group``, from counts [..., groups] that are there already."""
    with np.errstate(invalid="ignore"):
        worst = np.nanmin(correct / np.where(n > 0, n, np.nan), axis=-1)
    accuracy = correct.sum(-1) / n.sum(-1)
    return Figures(accuracy, worst, accuracy - worst)


# --- texts -------------------------------------------------------------------------------------------------------------


def queries_of(texts: Sequence[DebiasedTexts], features: ImageFeatures) -> tuple[list[str], list[Query]]:
    """The queries, and every method's vectors. Raises ``DataError`` where spaces, queries or labels do not agree."""
    if not texts:
        raise DataError("there are no debiased texts to evaluate")
    for one in texts:
        _check_space(one, features)
        if one.queries != texts[0].queries:
            raise DataError("the debiased texts are of different queries", hint="Evaluate them in steps of their own.")
    found = [_query(one, method["label"]) for one in texts for method in one.methods]
    label, count = Counter(query.label for query in found).most_common(1)[0]
    if count > 1:
        raise DataError(f"two methods are called {shown(label)}", hint="Give one of them a `label` in debias.texts.")
    return texts[0].queries, found


def _check_space(texts: DebiasedTexts, features: ImageFeatures) -> None:
    mine, other = texts.encoder, features.encoder
    if mine["identity"] != other["identity"]:
        raise DataError(
            f"the texts were debiased for {mine['name']}, and the pictures embedded by {other['name']}, in another space",
            hint="Name the same model as `clip` of debias.texts and as `encoder` of classify.features.",
        )


def _query(texts: DebiasedTexts, label: str) -> Query:
    vectors, image_map = texts.vectors[label], texts.vectors.get(f"{label}/image_map")
    bad = not np.isfinite(vectors).all() or (np.linalg.norm(vectors, axis=1) == 0).any()
    if bad or (image_map is not None and not np.isfinite(image_map).all()):
        raise DataError(f"the vectors of {shown(label)} contain NaN, infinity or zeros")
    return Query(label, torch.from_numpy(vectors), None if image_map is None else torch.from_numpy(image_map))


def similarities(population: Population, query: Query) -> Tensor:
    """Cosine of every query and picture, float32 [queries, n]; pictures are mapped where the method does so.

    Raises ``DataError`` where the map leaves nothing of a picture.
    """
    images = population.vectors
    if query.image_map is None:
        return cosines(images, query.vectors)
    with _named(population, query.label):
        if query.image_map.ndim == 2:
            return cosines(apply_map(images, query.image_map).float(), query.vectors)
        each = zip(query.image_map, query.vectors, strict=True)
        return torch.cat([cosines(apply_map(images, own).float(), text[None]) for own, text in each])


@contextmanager
def _named(population: Population, label: str) -> Iterator[None]:
    """What cannot be computed as a ``DataError`` that names dataset and method."""
    try:
        yield
    except ValueError as error:
        raise DataError(f"{population.dataset}: {shown(label)}: {error}") from error


class SecondStep(NamedTuple):
    """BendVLM's second step from another method's vectors."""

    base: Query
    spec: BendSpec

    @property
    def label(self) -> str:
        """Its name in the results."""
        return self.spec.name


def second_steps(population: Population, halves: Folds, step: SecondStep, shared: bool) -> list[Query]:
    """The step's vectors for each half, with its reference half; neighbours are those of the base's vectors.

    ``shared``: one set of neighbours for all queries, as published for classes. Raises ``DataError`` for too few of a value, and where
    nothing is left of a query.
    """
    values, start, neighbours = torch.from_numpy(population.values), step.base.vectors, step.spec.neighbours
    made = []
    for fold, rows in enumerate(torch.from_numpy(halves.reference)):
        images, classes = population.vectors[rows], values[rows]
        _check_neighbours(population, fold, classes, neighbours)
        with _named(population, step.label):
            prototypes = bend_prototypes(images, classes, start, neighbours, len(population.classes), shared)
            made.append(Query(step.label, bend_vlm(start, prototypes).float()))
    return made


def _check_neighbours(population: Population, fold: int, classes: Tensor, neighbours: int) -> None:
    counts = torch.bincount(classes, minlength=len(population.classes))
    least = int(counts.argmin())
    if int(counts[least]) < neighbours:
        raise DataError(
            f"{population.dataset}: the reference half {fold} has {int(counts[least])} pictures of "
            f"{shown(population.classes[least])}, and {neighbours} neighbours are asked for",
            hint="Lower `neighbours` of bend, or load more pictures.",
        )


def with_bends(queries: Sequence[Query], specs: Iterable[BendSpec]) -> list[Query | SecondStep]:
    """The methods, then the second steps. Raises ``DataError`` for unknown bases and for labels that are taken."""
    specs = list(specs)
    taken = Counter([*(query.label for query in queries), *(spec.name for spec in specs)])
    twice = next((label for label, count in taken.items() if count > 1), None)
    if twice is not None:
        raise DataError(f"two methods are called {shown(twice)}", hint="Give the entry of `bend` a `label`.")
    return [*queries, *(SecondStep(_base(queries, spec.base), spec) for spec in specs)]


def _base(queries: Sequence[Query], label: str) -> Query:
    """The method that a second step starts from. Raises ``DataError`` for unknown ones and those that act on images."""
    known = {query.label: query for query in queries}
    if label not in known:
        raise DataError(f"bend: no method is called {shown(label)}", hint=f"There are: {', '.join(known)}.")
    if known[label].image_map is not None:
        raise DataError(f"bend: {shown(label)} acts on images, and the second step starts from texts")
    return known[label]
