"""Contrastive methods on datasets: from features, pool and encoder to rows of ``closed_world_answer``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from results.tables import arrow_schema
from runner.artifacts import Datasets, FewShotPool, ImageFeatures
from runner.context import StepContext
from runner.data.places import Place
from runner.data.sampling import sampled
from runner.data.sources import open_sources
from runner.errors import DataError, StepError
from runner.models.base import ImageTextEncoder
from runner.nodes.classify.augment import AugmentedTower
from runner.nodes.classify.customary import DEFAULT_FINETUNE_EPOCHS, FINETUNE_EPOCHS, TipGrid, grid_of
from runner.nodes.classify.features import (
    FeatureLookup,
    Part,
    check_apart,
    check_classes,
    dataset_pool,
    image_rows,
)
from runner.nodes.classify.knn import nearest
from runner.nodes.classify.pool import rng_of
from runner.nodes.classify.tip_adapter import (
    CacheModel,
    Variant,
    cache_model,
    search_alpha_beta,
    tip_logits,
)
from runner.nodes.embedding import embed

Row = dict[str, Any]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

NO_FEATURES = "no features: the picture cannot be read"


@dataclass(frozen=True)
class Who:
    """What stands in every row of one method's answers."""

    method: str
    model: str
    shots: int
    seed: int

    def rows(self, part: Part, said: IntArray) -> list[Row]:
        """Rows of ``closed_world_answer``: class ``said[i]`` for query i."""
        classes = part.info["classes"]
        pairs = zip(part.rows, said.tolist(), strict=True)
        return [self._row(row) | {"prediction": classes[index], "failure": None} for row, index in pairs]

    def _row(self, row: Row) -> Row:
        return vars(self) | {name: row[name] for name in ("dataset", "sample_id", "target")}

    def with_failures(
        self, answered: list[Row], images: Datasets | None, split: str, limit: int | None, seed: int
    ) -> list[Row]:
        """The answers and, for pictures of ``images`` that have no features, rows with a failure, in the images' order."""
        if images is None:
            return answered
        known = {(row["dataset"], row["sample_id"]): row for row in answered}
        datasets = {row["dataset"] for row in answered}
        rows: list[Row] = []
        for name in (info["dataset"] for info in images.datasets if info["dataset"] in datasets):
            wanted = [row for row in image_rows(images) if row["dataset"] == name and row["split"] == split]
            for row in sampled(wanted, limit, seed, lambda row: str(row["sample_id"])):
                failed = self._row(row) | {"prediction": None, "failure": NO_FEATURES}
                rows.append(known.get((name, row["sample_id"]), failed))
        return rows


# --- neighbours ------------------------------------------------------------------------------------------------------


class Shown(NamedTuple):
    """Pool places int64 [Q, k] in the order shown, and their similarity float64 [Q, k] (None where drawn)."""

    slots: IntArray
    similarity: FloatArray | None


def neighbours_of(queries: Part, pool: Part, k: int, how: str, order: str, seed: int) -> Shown:
    """Which pool pictures stand beside each query. Raises ``DataError`` where the pool has fewer than ``k``."""
    name = queries.info["dataset"]
    check_apart(queries, pool)
    if k > len(pool.rows):
        raise DataError(
            f"{name}: k is {k}, and its pool has {len(pool.rows)} pictures", hint="Lower k, or raise shots."
        )
    if how == "random":
        draws = [_rng(seed, "random", row).permutation(len(pool.rows))[:k] for row in queries.rows]
        return Shown(np.stack(draws), None)
    slots, similarity = nearest(queries.vectors, pool.vectors, k)
    if order == "farthest_first":
        slots, similarity = slots[:, ::-1], similarity[:, ::-1]
    elif order == "shuffle":
        mixed = np.stack([_rng(seed, "shuffle", row).permutation(k) for row in queries.rows])
        slots, similarity = np.take_along_axis(slots, mixed, 1), np.take_along_axis(similarity, mixed, 1)
    return Shown(slots, similarity)


def _rng(seed: int, what: str, row: Row) -> np.random.Generator:
    return rng_of("neighbours", seed, what, row["dataset"], row["sample_id"])


def neighbour_table(queries: Part, pool: Part, shown: Shown) -> pa.Table:
    """Rows of ``pool_neighbour``, query by query, column by column since there are k for each query."""
    count, k = shown.slots.shape
    flat = shown.slots.ravel()
    columns: dict[str, Any] = {
        "dataset": [queries.info["dataset"]] * (count * k),
        "sample_id": np.repeat(np.array([row["sample_id"] for row in queries.rows], object), k),
        "rank": np.tile(np.arange(k), count),
        "pool_sample_id": np.array([row["sample_id"] for row in pool.rows], object)[flat],
        "target": np.array([row["target"] for row in pool.rows], object)[flat],
        "class_index": pool.classes[flat],
        "similarity": [None] * (count * k) if shown.similarity is None else shown.similarity.ravel(),
    }
    schema = arrow_schema("pool_neighbour")
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema}, schema=schema)


def voters(table: pa.Table, queries: Part, k: int) -> IntArray:
    """Class indices [Q, k] of each query's neighbours, nearest first, from ``pool_neighbour`` rows in any shown order.

    Of equally similar ones that shown first counts as nearer, unless the farthest are shown first. Raises ``DataError`` for
    queries without neighbours or with fewer than ``k``, and for neighbours that were drawn at random.
    """
    name = queries.info["dataset"]
    found: dict[str, list[tuple[float, int, int]]] = {row["sample_id"]: [] for row in queries.rows}
    for row in table.to_pylist():
        if row["dataset"] != name or row["sample_id"] not in found:
            continue
        if row["similarity"] is None:
            raise DataError(
                f"{name}: the neighbours were drawn at random, so none is nearest", hint="Use how: similarity."
            )
        found[row["sample_id"]].append((-row["similarity"], row["rank"], row["class_index"]))
    short = next((sample for sample, own in found.items() if len(own) < k), None)
    if short is not None:
        raise DataError(
            f"{name}: {short!r} has {len(found[short])} neighbours, and {k} shall vote",
            hint="Give both steps the same split and limit, and k at most that of classify.neighbours.",
        )
    return np.array([[index for _, _, index in _nearest_first(own)[:k]] for own in found.values()], np.int64)


def _nearest_first(own: list[tuple[float, int, int]]) -> list[tuple[float, int, int]]:
    by_rank = sorted(own, key=lambda entry: entry[1])
    if by_rank[0][0] > by_rank[-1][0]:  # the farthest are shown first
        by_rank.reverse()
    return sorted(by_rank, key=lambda entry: entry[0])


# --- Tip-Adapter -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TipPlan:
    """How Tip-Adapter is run. ``alpha`` (omega of the linear variant) and ``beta``: None = the dataset's start values."""

    variant: Variant
    finetune: bool
    search: bool
    alpha: float | None
    beta: float | None
    alpha_scale: float | None
    beta_scale: float | None
    alpha_steps: int
    beta_steps: int
    augment_epochs: int
    epochs: int | None
    split: str
    val_split: str
    limit: int | None
    batch_size: int

    def training_epochs(self, info: Row) -> int:
        """The plan's, else what is customary for the dataset."""
        customary = FINETUNE_EPOCHS.get(customary_key(info), DEFAULT_FINETUNE_EPOCHS)
        return customary if self.epochs is None else self.epochs

    def grid(self, info: Row) -> TipGrid:
        """The dataset's grid with what the plan sets instead. A linear cache starts at 1 (ours)."""
        known = grid_of(customary_key(info))
        start = 1.0 if self.variant == "linear" else known.alpha
        return TipGrid(
            alpha=start if self.alpha is None else self.alpha,
            beta=known.beta if self.beta is None else self.beta,
            beta_scale=known.beta_scale if self.beta_scale is None else self.beta_scale,
            alpha_scale=known.alpha_scale if self.alpha_scale is None else self.alpha_scale,
            beta_steps=self.beta_steps,
            alpha_steps=self.alpha_steps,
        )


def customary_key(info: Row) -> str:
    """What the dataset is looked up by: the public dataset's key, or its name where it is none."""
    return str(info.get("known") or info["dataset"])


class TipResult(NamedTuple):
    """Answers of one dataset: class indices of the queries, the pair used, and rows of ``tip_grid``."""

    queries: Part
    said: IntArray
    settings: Row
    grid: list[Row]


def keys_of(
    ctx: StepContext, encoder: ImageTextEncoder, info: Row, pool: FewShotPool, lookup: FeatureLookup, plan: TipPlan
) -> tuple[Part, NDArray[Any]]:
    """Pool pictures with their features [N, D], or with those of their random views [epochs, N, D].

    Encoders give unit vectors, so views are averaged after scaling each; the reference averages before (ours differs).
    """
    if not plan.augment_epochs:
        part = lookup.pool(ctx, info, pool)
        return part, part.vectors
    rows = dataset_pool(info, pool)
    places = [Place(row["source_id"], row["uri"]) for row in rows]
    tower = AugmentedTower(encoder, plan.augment_epochs, pool.seed)
    batch = max(1, plan.batch_size // plan.augment_epochs)
    found = embed(ctx, tower, open_sources(pool.corpus), places, batch).vectors
    kept = [i for i, place in enumerate(places) if place in found]
    if len(kept) < len(rows):
        ctx.warn(f"{len(rows) - len(kept)} of {len(rows)} pool pictures cannot be read", item=info["dataset"])
    check_classes(info, [rows[i] for i in kept])
    views = np.stack([found[places[i]] for i in kept]).reshape(len(kept), plan.augment_epochs, encoder.dim)
    return Part(info, [rows[i] for i in kept], views.mean(1)), views.transpose(1, 0, 2)


def tip_answers(
    ctx: StepContext,
    plan: TipPlan,
    queries: Part,
    validation: Part | None,
    pool: Part,
    features: NDArray[Any],
    weights: FloatArray,
    shots: int,
) -> TipResult:
    """Keys, perhaps trained; perhaps the search on ``validation``; answers to ``queries``. Weights [D, C]."""
    info = queries.info
    grid = plan.grid(info)
    cache = cache_model(features, pool.classes, len(info["classes"]))
    if plan.finetune:
        cache = cache._replace(keys=_trained(ctx, plan, grid, cache, features, pool, weights))
    settings: Row = {"alpha": grid.alpha, "beta": grid.beta, "val_accuracy": None}
    searched: list[Row] = []
    if validation is not None:
        settings, searched = _search(plan, grid, validation, cache, weights, shots)
    logits = tip_logits(queries.vectors, *cache, weights, settings["alpha"], settings["beta"], plan.variant)
    return TipResult(queries, logits.argmax(1), settings, searched)


def _search(
    plan: TipPlan, grid: TipGrid, validation: Part, cache: CacheModel, weights: FloatArray, shots: int
) -> tuple[Row, list[Row]]:
    """The best pair, and rows of ``tip_grid``. The linear variant has no beta: one row with 0."""
    betas = [0.0] if plan.variant == "linear" else grid.betas()
    alphas = grid.alphas()
    found = search_alpha_beta(
        validation.vectors, validation.classes, *cache, weights, betas, alphas, variant=plan.variant
    )
    rows = [
        {"dataset": validation.info["dataset"], "shots": shots, "alpha": alpha, "beta": beta, "val_accuracy": accuracy,
         "chosen": (alpha, beta) == (found.alpha, found.beta)}
        for beta, accuracies in zip(betas, found.grid.tolist(), strict=True)
        for alpha, accuracy in zip(alphas, accuracies, strict=True)
    ]  # fmt: skip
    return {"alpha": found.alpha, "beta": found.beta, "val_accuracy": found.accuracy}, rows


def _trained(
    ctx: StepContext,
    plan: TipPlan,
    grid: TipGrid,
    cache: CacheModel,
    features: NDArray[Any],
    pool: Part,
    weights: FloatArray,
) -> FloatArray:
    from runner.nodes.classify.tip_adapter_f import train_keys

    name = pool.info["dataset"]
    epochs = plan.training_epochs(pool.info)
    ctx.advance("epochs", 0, epochs)

    def on_epoch(loss: float) -> None:
        ctx.check()
        ctx.advance("epochs")

    try:
        return train_keys(
            features, pool.classes, *cache, weights, alpha=grid.alpha, beta=grid.beta, epochs=epochs,
            seed=ctx.seed, device=ctx.device, on_epoch=on_epoch,
        )  # fmt: skip
    except ValueError as error:
        raise StepError(f"{name}: {error}", step=ctx.step, item=name) from error


def validation_of(lookup: FeatureLookup, info: Row, plan: TipPlan) -> Part | None:
    """Pictures to search on, or None where nothing is searched. Raises ``DataError`` where there are none."""
    if not plan.search:
        return None
    if not lookup.has_split(info, plan.val_split):
        raise DataError(
            f"{info['dataset']}: no features of the split {plan.val_split!r} to search alpha and beta on",
            hint="Add it to the splits of classify.features, or set search: false.",
        )
    return lookup.split(info, plan.val_split, None, 0)


def chosen_datasets(features: ImageFeatures) -> Iterable[Row]:
    """Datasets that have features, in order. Raises ``DataError`` where none has."""
    named = set(features.rows.column("dataset").to_pylist())
    datasets: Sequence[Row] = [info for info in features.datasets if info["dataset"] in named]
    if not datasets:
        raise DataError("there are no features", hint="Check the splits of classify.features.")
    return datasets
