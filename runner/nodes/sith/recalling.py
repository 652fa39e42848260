"""Redirected retrieval over pairs of a safe and an unsafe picture with their captions (ViSU's protocol)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from runner.artifacts import AttributedImages, ImageFeatures
from runner.context import StepContext
from runner.errors import DataError
from runner.models.base import ClipModel
from runner.nodes.intervals import wilson_interval
from runner.nodes.sith.dictionary_making import check_identity
from runner.nodes.sith.metrics import recall_at, redirected_ranks

Row = dict[str, Any]
SIDES = ("safe", "unsafe")


def recall_rows(
    ctx: StepContext, clip: ClipModel, features: ImageFeatures, images: AttributedImages, split: str, ks: Sequence[int]
) -> list[Row]:
    """Rows of ``sith_recall`` by dataset, setting and cut-off.

    Pairs share the part of ``sample_id`` before its last ``/``; those that lack a picture or a caption are left out and
    counted. Raises ``DataError`` for another encoder's features, for some that are not finite and where no pair is whole.
    """
    check_identity(features.encoder, {"name": clip.name, "identity": clip.identity}, "features were made")
    if not np.isfinite(features.features["features"]).all():
        raise DataError("the features contain NaN or infinity", hint="Make them again with classify.features.")
    attributes = _attributes(images)
    rows: list[Row] = []
    for info in features.datasets:
        pairs, lost = _pairs(info["dataset"], features, attributes, split)
        if lost:
            ctx.warn(f"{lost} pairs lack a picture or a caption and are left out", item=info["dataset"])
        rows += _rows(clip, info["dataset"], pairs, torch.from_numpy(features.features["features"]), ks)
    return rows


def _attributes(images: AttributedImages) -> dict[tuple[str, str], dict[str, str]]:
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in images.attributes.to_pylist():
        found.setdefault((row["dataset"], row["sample_id"]), {})[row["attribute"]] = row["value"]
    return found


def _pairs(dataset: str, features: ImageFeatures, attributes: Mapping[tuple[str, str], Mapping[str, str]], split: str) -> tuple[list[Row], int]:  # fmt: skip
    """Whole pairs ``{"safe": (row, caption), "unsafe": (row, caption)}`` in the order of the features, and how many are not."""
    pairs: dict[str, Row] = {}
    for at, row in enumerate(features.rows.to_pylist()):
        if row["dataset"] != dataset or row["split"] != split:
            continue
        about = attributes.get((dataset, row["sample_id"]), {})
        pair = pairs.setdefault(row["sample_id"].rpartition("/")[0], {})
        if about.get("safety") in SIDES and about.get("caption"):
            pair[about["safety"]] = (at, about["caption"])
    whole = [pair for pair in pairs.values() if len(pair) == len(SIDES)]
    if not whole:
        raise DataError(
            f"{dataset}: no pair of a safe and an unsafe picture with captions in the split {split!r}",
            hint="Load it with datasets.attributes (kind visu) and embed that split with classify.features.",
        )
    return whole, len(pairs) - len(whole)


def _rows(clip: ClipModel, dataset: str, pairs: Sequence[Row], vectors: Tensor, ks: Sequence[int]) -> list[Row]:
    pictures = [vectors[[pair[side][0] for pair in pairs]] for side in SIDES]
    captions = [torch.from_numpy(clip.encode_texts([pair[side][1] for pair in pairs])) for side in SIDES]
    rows = []
    for setting, ranks in redirected_ranks(*pictures, *captions).items():
        for k, hits in recall_at(ranks, sorted(set(ks))).items():
            low, high = wilson_interval(hits, len(pairs))
            rows.append(
                {
                    "model": clip.name,
                    "dataset": dataset,
                    "setting": setting,
                    "k": k,
                    "hits": hits,
                    "n": len(pairs),
                    "recall": hits / len(pairs),
                    "low": float(low),
                    "high": float(high),
                }
            )
    return rows
