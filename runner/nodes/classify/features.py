"""Features of datasets: made by an encoder, and how steps look them up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runner.artifacts import Datasets, FewShotPool, ImageFeatures
from runner.context import StepContext
from runner.data.places import Place
from runner.data.sampling import sampled
from runner.data.sources import open_sources
from runner.errors import DataError
from runner.models.base import ImageTextEncoder
from runner.nodes.embedding import ImageTower, embed

FloatArray = NDArray[np.float32]
Row = dict[str, Any]

_COLUMNS: dict[str, pa.DataType] = {
    **{name: pa.string() for name in ("dataset", "split", "sample_id", "target")},
    "class_index": pa.int32(),
}
ROWS = pa.schema(_COLUMNS)


def encoder_info(encoder: ImageTextEncoder) -> dict[str, Any]:
    """What ``ImageFeatures.encoder`` says of an encoder."""
    names = ("name", "family", "identity", "dim", "logit_scale")
    return {name: getattr(encoder, name) for name in names}


def image_rows(images: Datasets) -> list[Row]:
    """Rows of ``dataset_image`` without thumbnails."""
    rows: list[Row] = images.images.select(
        ["dataset", "split", "sample_id", "source_id", "uri", "target", "class_index"]
    ).to_pylist()
    return rows


def make_features(
    ctx: StepContext, encoder: ImageTextEncoder, images: Datasets, rows: Sequence[Row], batch_size: int
) -> ImageFeatures:
    """Embed the pictures of ``rows``. Those that cannot be read are counted, said once a dataset, and left out."""
    places = [Place(row["source_id"], row["uri"]) for row in rows]
    found = embed(ctx, ImageTower(encoder), open_sources(images.corpus), places, batch_size)
    kept = [i for i, place in enumerate(places) if place in found.vectors]
    _say_unreadable(ctx, [(row["dataset"], places[i], found.unreadable) for i, row in enumerate(rows)], set(kept))
    if not kept:
        raise DataError(f"none of the {len(rows)} pictures can be read", hint="Check the dataset's corpus.")
    vectors = np.stack([found.vectors[places[i]] for i in kept])
    return features_of(images.datasets, encoder_info(encoder), [rows[i] for i in kept], vectors)


def features_of(
    datasets: list[dict[str, Any]], encoder: dict[str, Any], rows: Sequence[Row], vectors: FloatArray
) -> ImageFeatures:
    """The artifact of rows and their vectors."""
    table = pa.Table.from_pylist([{name: row[name] for name in ROWS.names} for row in rows], schema=ROWS)
    return ImageFeatures(datasets, encoder, {"features": np.ascontiguousarray(vectors, np.float32)}, table)


def _say_unreadable(
    ctx: StepContext, looked_at: Iterable[tuple[str, Place, Mapping[Place, str]]], kept: set[int]
) -> None:
    lost = [(name, place, why) for i, (name, place, why) in enumerate(looked_at) if i not in kept]
    for name, count in Counter(name for name, _, _ in lost).items():
        place, why = next((place, why) for own, place, why in lost if own == name)
        reason = why.get(place, "not found in its source")
        ctx.warn(f"{count} pictures cannot be read and are left out, the first: {reason}", item=f"{name}: {place.uri}")


class Part(NamedTuple):
    """Some pictures of one dataset with their unit vectors float32 [n, dim]."""

    info: dict[str, Any]
    rows: list[Row]
    vectors: FloatArray

    @property
    def classes(self) -> NDArray[np.int64]:
        """Class indices [n]."""
        return np.array([row["class_index"] for row in self.rows], np.int64)


class FeatureLookup:
    """Features by dataset and split, or by dataset and picture. Raises ``DataError`` for NaN and infinity."""

    def __init__(self, features: ImageFeatures) -> None:
        self.vectors: FloatArray = features.features["features"]
        self.rows: list[Row] = features.rows.to_pylist()
        if len(self.rows) != len(self.vectors):
            raise DataError(f"{len(self.vectors)} features for {len(self.rows)} pictures: there must be one each")
        if not np.isfinite(self.vectors).all():
            raise DataError("the features contain NaN or infinity", hint="Make them again with classify.features.")
        self.datasets = features.datasets
        self._places = {(row["dataset"], row["sample_id"]): i for i, row in enumerate(self.rows)}

    def split(self, info: dict[str, Any], split: str, limit: int | None, seed: int) -> Part:
        """Pictures of a split, at most ``limit``. Raises ``DataError`` where there is none, naming the splits there are."""
        own = [i for i, row in enumerate(self.rows) if row["dataset"] == info["dataset"]]
        wanted = [i for i in own if self.rows[i]["split"] == split]
        if not wanted:
            there = ", ".join(sorted({self.rows[i]["split"] for i in own})) or "none"
            hint = f"There are features of: {there}. Add {split} to the splits of classify.features."
            raise DataError(f"{info['dataset']}: no features of the split {split!r}", hint=hint)
        wanted = sampled(wanted, limit, seed, lambda i: str(self.rows[i]["sample_id"]))
        return Part(info, [self.rows[i] for i in wanted], self.vectors[wanted])

    def has_split(self, info: dict[str, Any], split: str) -> bool:
        """Whether there is any picture of it."""
        return any(row["dataset"] == info["dataset"] and row["split"] == split for row in self.rows)

    def pool(self, ctx: StepContext, info: dict[str, Any], pool: FewShotPool) -> Part:
        """Pool pictures that have features, in the order of their slots. Says how many have none."""
        own = dataset_pool(info, pool)
        rows = [row for row in own if (info["dataset"], row["sample_id"]) in self._places]
        if len(rows) < len(own):
            ctx.warn(f"{len(own) - len(rows)} of {len(own)} pool pictures have no features", item=info["dataset"])
        places = [self._places[info["dataset"], row["sample_id"]] for row in rows]
        check_classes(info, rows)
        return Part(info, rows, self.vectors[places])


def dataset_pool(info: Mapping[str, Any], pool: FewShotPool) -> list[Row]:
    """Rows of one dataset's pool by slot. Raises ``DataError`` where it has none."""
    rows: list[Row] = [row for row in pool.pool.to_pylist() if row["dataset"] == info["dataset"]]
    if not rows:
        raise DataError(f"the pool has no picture of {info['dataset']}", hint="Draw it from the same datasets.")
    return sorted(rows, key=lambda row: int(row["slot"]))


def check_classes(info: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Raise ``DataError`` unless every class has a usable pool picture: its scores could not be compared."""
    there = {row["class_index"] for row in rows}
    missing = [name for index, name in enumerate(info["classes"]) if index not in there]
    if missing:
        raise DataError(
            f"{info['dataset']}: {len(missing)} classes have no usable picture in the pool, the first is {missing[0][:80]!r}",
            hint="Every class needs one: raise shots_per_class, or replace pictures that cannot be read.",
        )


def check_apart(queries: Part, pool: Part) -> None:
    """Raise ``DataError`` where a query is in the pool: it would find itself."""
    shared = {row["sample_id"] for row in queries.rows} & {row["sample_id"] for row in pool.rows}
    if shared:
        name = queries.info["dataset"]
        hint = "Draw the pool from another split than the one that is asked about."
        raise DataError(f"{name}: {len(shared)} queries are in the pool, such as {min(shared)!r}", hint=hint)


def check_encoder(encoder: ImageTextEncoder, features: ImageFeatures) -> None:
    """Raise ``DataError`` unless the encoder is the one that made the features."""
    known = features.encoder
    if known["identity"] != encoder.identity:
        raise DataError(
            f"the features were made by {known['name']}, and texts would be embedded by {encoder.name}, in another space",
            hint="Name the same encoder in both; for imported features, name it in classify.import_features.",
        )
