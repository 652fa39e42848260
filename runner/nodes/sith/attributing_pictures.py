"""Pictures through the vision tower: running sums of what directions do, group by group."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.artifacts import Datasets
from runner.context import StepContext
from runner.data.images import UnreadableImage, decode
from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.errors import DataError
from runner.models.base import ClipModel, FloatArray
from runner.nodes.sith.activations import Directions, Sums, activity, no_sums

Row = dict[str, Any]
_BATCH = 64


def summed_activity(
    ctx: StepContext,
    clip: ClipModel,
    directions: Directions,
    images: Datasets,
    rows: Sequence[Row],
    strata: Tensor,
    values: Tensor,
) -> Sums:
    """Sums over the pictures of ``rows`` (dataset, sample_id) with their ``strata`` and ``values`` int64 [n].

    Pictures that cannot be read are said and left out. Raises ``DataError`` for rows that ``images`` lacks and for
    activations that are not finite.
    """
    numbers = _numbers(images, rows)
    sums = no_sums(int(strata.max()) + 1, int(values.max()) + 1, directions.s.shape)
    pictures = read_pictures(open_sources(images.corpus), numbers)
    tracked = ctx.track(_batches(pictures), unit="batches of pictures", total=-(-len(numbers) // _BATCH))
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="decode") as pool:
        for batch in tracked:
            prepared = list(pool.map(lambda picture: _prepared(clip, picture[1]), batch))
            whole = [(place, pixels) for (place, _), pixels in zip(batch, prepared, strict=True) if pixels is not None]
            _add(ctx, clip, directions, sums, whole, [numbers[place] for place, _ in whole], strata, values)
    if (lost := len(rows) - int(sums.number.sum())) > 0:
        ctx.warn(f"{lost} of {len(rows)} pictures cannot be read and are left out")
    return sums


def _add(
    ctx: StepContext,
    clip: ClipModel,
    directions: Directions,
    sums: Sums,
    pictures: Sequence[tuple[Place, FloatArray]],
    numbers: Sequence[Sequence[int]],
    strata: Tensor,
    values: Tensor,
) -> None:
    if not pictures:
        return
    ctx.budget.spend("images", len(pictures))
    visual = clip.network.visual
    pixels = torch.from_numpy(np.stack([pixels for _, pixels in pictures]))
    found = activity(visual, pixels.to(clip.device, next(visual.parameters()).dtype), directions)
    if not (torch.isfinite(found.coefficients).all() and torch.isfinite(found.scale).all()):
        raise DataError(f"{clip.name} gave NaN or infinite activations on a real picture")
    # A picture that stands in several rows counts in each.
    of = torch.tensor([at for at, own in enumerate(numbers) for _ in own])
    own = torch.tensor([number for several in numbers for number in several])
    repeated = type(found)(found.coefficients.cpu()[of], found.scale.cpu()[of])
    sums.add(repeated, strata[own], values[own])


def _numbers(images: Datasets, rows: Sequence[Row]) -> dict[Place, list[int]]:
    """Which rows show the picture at each place."""
    columns = images.images.select(["dataset", "sample_id", "source_id", "uri"]).to_pylist()
    places = {(row["dataset"], row["sample_id"]): Place(row["source_id"], row["uri"]) for row in columns}
    numbers: dict[Place, list[int]] = {}
    for number, row in enumerate(rows):
        place = places.get((row["dataset"], row["sample_id"]))
        if place is None:
            raise DataError(
                f"{row['dataset']}: the picture {row['sample_id'][:80]!r} has features and is not among the images",
                hint="Give the images that the features were made of.",
            )
        numbers.setdefault(place, []).append(number)
    return numbers


def _batches(pictures: Iterable[tuple[Place, bytes]]) -> Iterator[list[tuple[Place, bytes]]]:
    iterator = iter(pictures)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _prepared(clip: ClipModel, data: bytes) -> FloatArray | None:
    try:
        return clip.prepare(decode(data))
    except UnreadableImage:
        return None
