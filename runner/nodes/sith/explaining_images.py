"""Steps' side of SpLiCE and TextSpan: pictures in, rows out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from runner.artifacts import Datasets, ImageFeatures
from runner.context import StepContext
from runner.data.places import Place
from runner.data.sampling import sampled
from runner.data.sources import open_sources
from runner.errors import DataError
from runner.models.base import ClipModel
from runner.nodes.embedding import ImageTower, embed
from runner.nodes.sith.coding import reconstruct
from runner.nodes.sith.coding_picked import Code, Settings
from runner.nodes.sith.coding_relaxed import lasso
from runner.nodes.sith.coding_search import stretches
from runner.nodes.sith.dictionary import UnitRows, centred_rows
from runner.nodes.sith.dictionary_making import Dictionary
from runner.nodes.sith.splice import admm, centred_images, recomposed
from runner.nodes.sith.textspan import head_outputs, textspan
from runner.nodes.sith.tower import layer_indices, plain_tower
from runner.nodes.sith.weights import unit

Row = dict[str, Any]
_PICTURES = 4096
_TEXT_VALUES = 1 << 26


def splice_rows(
    ctx: StepContext, features: ImageFeatures, dictionary: Dictionary, l1: float, solver: str, settings: Settings
) -> tuple[list[Row], list[Row]]:
    """Rows of ``splice_image`` and ``splice_code``."""
    images, rows = torch.from_numpy(features.features["features"]), features.rows.to_pylist()
    if not torch.isfinite(images).all():
        raise DataError("the features contain NaN or infinity", hint="Make them again with classify.features.")
    mean = unit(images.double()).mean(0).float()
    atoms = centred_rows(dictionary.raw, dictionary.centring)
    pictures: list[Row] = []
    concepts: list[Row] = []
    for some in ctx.track(list(stretches(len(images), _PICTURES)), unit="batches"):
        targets = centred_images(images[some], mean)
        if solver == "admm":
            code = admm(targets, atoms.rows(0, atoms.shape[0]), l1)
        else:
            code = lasso(targets, atoms, l1, settings=settings)
        cosines = (recomposed(reconstruct(code, atoms), mean) * unit(images[some])).sum(1)
        pictures += _picture_rows(rows[some], code, cosines)
        concepts += _code_rows(rows[some], code, dictionary)
    return pictures, concepts


def _picture_rows(rows: Sequence[Row], code: Code, cosines: Tensor) -> Iterator[Row]:
    counts = (code.coefficients > 0).sum(1).tolist()
    for row, count, cosine in zip(rows, counts, cosines.tolist(), strict=True):
        own = {"dataset": row["dataset"], "sample_id": row["sample_id"], "l0": count}
        yield own | {"cosine": cosine if count else None}


def _code_rows(rows: Sequence[Row], code: Code, dictionary: Dictionary) -> Iterator[Row]:
    lines = dictionary.centring.kept[code.support.clamp_min(0)].tolist()
    for row, own, coefficients in zip(rows, lines, code.coefficients.tolist(), strict=True):
        for rank, (line, value) in enumerate(zip(own, coefficients, strict=True)):
            if value > 0:
                yield {
                    "dataset": row["dataset"], "sample_id": row["sample_id"], "rank": rank, "atom": line,
                    "concept": dictionary.texts[line], "coef": value,
                }  # fmt: skip


class HeadTower(ImageTower):
    """What the heads of some layers write on a picture, in the place of an embedding: [n, layers * H * d]."""

    def __init__(self, clip: ClipModel, layers: Sequence[int]) -> None:
        super().__init__(clip)
        self.clip, self.layers = clip, list(layers)
        self.identity = f"outputs of the heads of layers {self.layers} of {clip.identity}"
        tower = plain_tower(clip.network.visual)
        self.shape = (len(self.layers), tower.heads, clip.dim)
        self.labels = tuple(map(str, range(int(np.prod(self.shape)))))

    def logits(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Outputs of the heads, flattened."""
        visual = self.clip.network.visual
        images = torch.from_numpy(batch).to(self.clip.device, next(visual.parameters()).dtype)
        outputs: NDArray[np.float32] = head_outputs(visual, images, self.layers).float().flatten(1).cpu().numpy()
        return outputs


def textspan_rows(
    ctx: StepContext,
    clip: ClipModel,
    images: Datasets,
    dictionary: Dictionary,
    layers: Sequence[int],
    split: str,
    limit: int | None,
    texts_per_head: int,
    rank: int,
    batch_size: int,
) -> list[Row]:
    """Rows of ``textspan_concept``."""
    if dictionary.raw.numel() > _TEXT_VALUES:
        raise DataError(
            f"TextSpan takes every text out of every other: {len(dictionary.texts)} concepts are too many",
            hint=f"Give a dictionary of at most {_TEXT_VALUES // dictionary.raw.shape[1]} concepts (max_atoms).",
        )
    visual = clip.network.visual
    chosen = layer_indices(layers, plain_tower(visual).layers)
    outputs = _outputs(ctx, HeadTower(clip, chosen), images, split, limit, batch_size)
    everything = torch.arange(len(dictionary.centring.kept))
    texts = UnitRows(dictionary.raw, dictionary.centring).take(everything)
    rows: list[Row] = []
    for at, layer in enumerate(chosen):
        for head in ctx.track(range(outputs.shape[2]), unit="heads", total=outputs.shape[1] * outputs.shape[2]):
            rows += _span_rows(layer, head, outputs[:, at, head], texts, dictionary, rank, texts_per_head)
    return rows


def _outputs(
    ctx: StepContext, tower: HeadTower, images: Datasets, split: str, limit: int | None, batch_size: int
) -> Tensor:
    """Head outputs [n, layers, H, d] of the pictures of a split that can be read."""
    columns = ["dataset", "split", "sample_id", "source_id", "uri"]
    rows = [row for row in images.images.select(columns).to_pylist() if row["split"] == split]
    rows = sampled(rows, limit, ctx.seed, lambda row: f"{row['dataset']}/{row['sample_id']}")
    places = [Place(row["source_id"], row["uri"]) for row in rows]
    found = embed(ctx, tower, open_sources(images.corpus), places, batch_size)
    held = [found.vectors[place] for place in places if place in found.vectors]
    if len(held) < len(places):
        ctx.warn(f"{len(places) - len(held)} of {len(places)} pictures cannot be read and are left out")
    if len(held) < 2:
        raise DataError(f"TextSpan needs at least two pictures; the split {split!r} has {len(held)} that can be read")
    return torch.from_numpy(np.stack(held)).reshape(-1, *tower.shape)


def _span_rows(
    layer: int, head: int, data: Tensor, texts: Tensor, dictionary: Dictionary, rank: int, picks: int
) -> Iterator[Row]:
    span = textspan(data, texts, rank, picks)
    lines = dictionary.centring.kept[span.picked].tolist()
    columns = zip(lines, span.deviation.tolist(), span.explained.tolist(), strict=True)
    for pick, (line, deviation, explained) in enumerate(columns):
        yield {
            "layer": layer, "head": head, "pick": pick, "atom": line, "concept": dictionary.texts[line],
            "deviation": deviation, "explained": explained,
        }  # fmt: skip
