"""A head of concepts fitted on the pictures of a ``PartImages``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.errors import DataError, StepError
from runner.models.classifier.concept_head import FeatureTower, Head, Pool, write_head
from runner.nodes.leakage.concept_head import ConceptFit, fit_concepts
from runner.nodes.predicting import predict

if TYPE_CHECKING:
    from runner.artifacts import PartImages
    from runner.context import StepContext
    from runner.models.base import VisionBackbone


def fit_head(
    ctx: StepContext,
    backbone: VisionBackbone,
    images: PartImages,
    *,
    pool: Pool,
    layer: int,
    c: float,
    split: str,
    batch_size: int,
) -> tuple[Path, pa.Table, dict[str, Any]]:
    """Folder of the head, a row an attribute, settings. Raises ``StepError`` where no attribute can be fitted."""
    tower = FeatureTower(backbone, layer=layer, pool=pool)
    rows, features = _features(ctx, tower, images, split, batch_size)
    value, valid = (torch.from_numpy(np.ascontiguousarray(images.labels[key][rows])) for key in ("value", "valid"))
    fit = fit_concepts(features.to(backbone.device), value.to(backbone.device), valid.to(backbone.device), c)
    attributes: list[str] = images.about["attributes"]
    if not len(fit.kept):
        hint = "use another split, or attributes that hold for some of its pictures and not for others"
        raise StepError(f"no attribute has both values among {len(rows)} pictures of {split}", step=ctx.step, hint=hint)
    table = _fits(attributes, fit)
    if len(fit.kept) < len(attributes):
        ctx.warn(
            f"{len(attributes) - len(fit.kept)} of {len(attributes)} attributes have one value only and get no concept"
        )
    settings = {
        "pool": pool, "layer": tower.layer, "c": c, "split": split, "pictures": len(rows),
        "dataset": images.about["dataset"], "backbone": backbone.name,
    }  # fmt: skip
    labels = tuple(attributes[a] for a in fit.kept.tolist())
    folder = ctx.folder("head")
    write_head(Head(labels, pool, tower.layer, backbone.identity, fit.weight.cpu(), fit.bias.cpu(), settings), folder)
    return folder, table, settings


def _features(
    ctx: StepContext, tower: FeatureTower, images: PartImages, split: str, batch_size: int
) -> tuple[list[int], torch.Tensor]:
    """Row numbers of the readable pictures of ``split``, and their features [n, D]."""
    listed = images.images.select(["split", "source_id", "uri"]).to_pylist()
    places = {row: Place(r["source_id"], r["uri"]) for row, r in enumerate(listed) if r["split"] == split}
    if not places:
        raise DataError(f"{images.about['dataset']} has no picture in the split {split!r}")
    read = read_pictures(open_sources(images.corpus), places.values())
    found = predict(tower, read, ctx, total=len(set(places.values())), batch_size=batch_size)
    for place, reason in found.unreadable.items():
        ctx.failed(place.uri, reason)
    rows = [row for row, place in places.items() if place in found.logits]
    if not rows:
        raise DataError(f"{images.about['dataset']}: no picture of the split {split!r} can be read")
    return rows, torch.from_numpy(np.stack([found.logits[places[row]] for row in rows]))


def _fits(attributes: list[str], fit: ConceptFit) -> pa.Table:
    kept = set(fit.kept.tolist())
    rows = [
        {
            "attribute": name, "n": int(fit.n[a]), "positives": int(fit.positives[a]),
            "auroc": float(fit.auroc[a]) if a in kept else None,
            "dropped": None if a in kept else "one value only" if int(fit.n[a]) else "never annotated",
        }
        for a, name in enumerate(attributes)
    ]  # fmt: skip
    text: pa.DataType = pa.string()
    types = {"attribute": text, "n": pa.int64(), "positives": pa.int64(), "auroc": pa.float64(), "dropped": text}
    return pa.Table.from_pylist(rows, schema=pa.schema(list(types.items())))
