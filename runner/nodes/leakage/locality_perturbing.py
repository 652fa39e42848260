"""Concepts of a ``PartImages`` pushed by pixels outside their part, and by as strong a perturbation of as many pixels inside it.

The larger of the two sides is cut to a random subset of its pixels, the same for all concepts of a part, drawn with seed, picture and
part: otherwise the side with more pixels would move a concept farther whatever the predictor looks at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from runner.context import item_key
from runner.data.images import UnreadableImage
from runner.data.parts.reading import PartReader
from runner.data.sampling import sampled
from runner.errors import StepError
from runner.models.classifier.concept_head import ConceptHeadClassifier
from runner.nodes.leakage.loading import Loader
from runner.nodes.leakage.locality_pictures import groups_of
from runner.nodes.leakage.perturbation import equal_areas, largest_change

if TYPE_CHECKING:
    from runner.artifacts import PartImages
    from runner.context import StepContext
    from runner.models.base import Classifier

SIDES = ("outside", "inside")


class Plan(NamedTuple):
    """``pictures`` of ``split`` at most; a perturbation of at most ``epsilon`` (pixels in 0..1) in ``steps`` steps, of pixels drawn
    with ``seed``."""

    pictures: int
    split: str
    epsilon: float
    steps: int
    batch_size: int
    seed: int


class _Batch(NamedTuple):
    """``pixels`` [B, 3, H, W], ``masks`` bool [B, P, H, W] at the backbone's size."""

    names: list[str]
    pixels: Tensor
    masks: Tensor


def perturbed_rows(ctx: StepContext, predictor: Classifier, images: PartImages, plan: Plan) -> pa.Table:
    """Rows ``sample_id``, ``concept``, ``side``, ``change``, ``n_pixels`` of every concept that has one part. Raises ``StepError`` for predictors whose
    gradient is not open, and where no concept has one part."""
    if not isinstance(predictor, ConceptHeadClassifier):
        raise StepError(
            f"{predictor.name} cannot be differentiated in its pictures", step=ctx.step,
            hint="use a classifier of the provider concept_head",
        )  # fmt: skip
    reader = PartReader(images)
    owners = images.about["owners"]
    concepts = [
        (a, reader.parts.index(owners[c])) for a, c in enumerate(predictor.labels) if owners.get(c) in reader.parts
    ]
    if not concepts:
        raise StepError(
            f"no concept of {predictor.name} belongs to one part of {images.about['dataset']}", step=ctx.step
        )
    rows: list[dict[str, Any]] = []
    for batch in _batches(ctx, predictor, reader, images.about, plan):
        rows += _saved_rows(ctx, predictor, batch, concepts, plan)
    table = pa.Table.from_pylist(rows, schema=_schema())
    group = groups_of(images, plan.split)
    return table.append_column("group", pa.array([group.get(row["sample_id"]) for row in rows], pa.int32()))


def _saved_rows(
    ctx: StepContext, predictor: ConceptHeadClassifier, batch: _Batch, concepts: Sequence[tuple[int, int]], plan: Plan
) -> list[dict[str, Any]]:
    """Rows of one batch, from the item cache where an attempt before computed them."""
    content = hashlib.sha256(batch.pixels.cpu().numpy().tobytes() + batch.masks.cpu().numpy().tobytes()).hexdigest()
    key = item_key(
        "leakage.perturb", 2, predictor.identity, batch.names, content, concepts, plan.epsilon, plan.steps, plan.seed
    )  # fmt: skip
    stored = ctx.items.get(key)
    if stored is not None:
        return list(json.loads(stored))
    rows: list[dict[str, Any]] = []
    for label, part in concepts:
        ctx.check()
        rows += _concept_rows(predictor, batch, label, part, plan)
    ctx.items.put(key, json.dumps(rows).encode())
    return rows


def _schema() -> pa.Schema:
    text: pa.DataType = pa.string()
    return pa.schema(
        [("sample_id", text), ("concept", text), ("side", text), ("change", pa.float64()), ("n_pixels", pa.int64())]
    )


def _batches(
    ctx: StepContext, predictor: ConceptHeadClassifier, reader: PartReader, about: dict[str, Any], plan: Plan
) -> Iterator[_Batch]:
    """Pictures and masks at the backbone's size. Raises ``DataError`` where a mask does not have its picture's size."""
    listed = [row for row, split in enumerate(reader.splits) if split == plan.split]
    rows = sampled(listed, plan.pictures, ctx.seed, lambda row: reader.sample_ids[row])
    if not rows:
        raise StepError(f"there is no picture in the split {plan.split!r}", step=ctx.step, hint="use another split")
    loader = Loader(reader, predictor.backbone, about, (), {}, plan.seed)
    ready: list[tuple[str, Any, Any]] = []
    for row, image in ctx.track(reader.pictures(rows), unit="pictures", total=len(rows)):
        if isinstance(image, UnreadableImage):
            ctx.failed(reader.sample_ids[row], str(image.message))
            continue
        drawn = loader.draw(row, image)
        ready.append((reader.sample_ids[row], drawn.pixels, drawn.masks))
        if len(ready) == plan.batch_size:
            yield _batch(ready, predictor.backbone.device)
            ready = []
    if ready:
        yield _batch(ready, predictor.backbone.device)


def _batch(ready: Sequence[tuple[str, Any, Any]], device: str) -> _Batch:
    names, pixels, masks = zip(*ready, strict=True)
    return _Batch(
        list(names), torch.from_numpy(np.stack(pixels)).to(device), torch.from_numpy(np.stack(masks)).to(device)
    )  # fmt: skip


def _concept_rows(
    predictor: ConceptHeadClassifier, batch: _Batch, label: int, part: int, plan: Plan
) -> Iterator[dict[str, Any]]:
    """Both sides of one concept; pictures that do not show its part, or nothing else, have no row."""
    own = batch.masks[:, part]
    kept = (own.flatten(1).any(1) & ~own.flatten(1).all(1)).nonzero().flatten()
    if not len(kept):
        return

    def value(pixels: Tensor) -> Tensor:
        return predictor.concept_logits(pixels)[:, label].sigmoid()

    order = torch.from_numpy(np.stack([_order(batch.names[b], part, own.shape[1:], plan.seed) for b in kept.tolist()]))
    for side, allowed in zip(SIDES, equal_areas(own[kept], order.to(own.device)), strict=True):
        changes = largest_change(value, batch.pixels[kept], allowed, epsilon=plan.epsilon, steps=plan.steps)
        counts = allowed.flatten(1).sum(1)
        for place, change, n in zip(kept.tolist(), changes.tolist(), counts.tolist(), strict=True):
            own_row = {"sample_id": batch.names[place], "concept": predictor.labels[label], "side": side}
            yield own_row | {"change": change, "n_pixels": n}


def _order(name: str, part: int, shape: tuple[int, ...], seed: int) -> Any:
    """Random numbers float64 [H, W] that depend on seed, picture and part alone, not on the batch."""
    return np.random.default_rng([seed, part, *np.frombuffer(name.encode(), np.uint8).tolist()]).random(shape)
