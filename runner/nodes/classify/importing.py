"""Stored features of several splits as one artifact."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runner.artifacts import Datasets, ImageFeatures
from runner.assets import resolve
from runner.context import StepContext, item_key
from runner.errors import DataError
from runner.models.base import ImageTextEncoder
from runner.nodes.classify.features import encoder_info, features_of, image_rows
from runner.nodes.classify.stored_features import matched_rows, read_stored

PUBLISHED_LOGIT_SCALE = 100.0


def import_stored(
    ctx: StepContext, images: Datasets, files: Sequence[Mapping[str, str]], encoder: ImageTextEncoder | None
) -> ImageFeatures:
    """Read every pair and join them. Raises ``DataError`` for unknown datasets, and features that do not fit together."""
    infos = {info["dataset"]: info for info in images.datasets}
    every, rows, vectors = image_rows(images), [], []
    for file in ctx.track(files, unit="files"):
        if file["dataset"] not in infos:
            raise DataError(f"there is no dataset {file['dataset']!r}", hint=f"There are: {', '.join(infos)}.")
        own = [row for row in every if row["dataset"] == file["dataset"] and row["split"] == file["split"]]
        if not own:
            raise DataError(f"{file['dataset']} has no picture in the split {file['split']!r}")
        stored = read_stored(ctx, Path(resolve(file["features"])), Path(resolve(file["metadata"])))
        found, part = matched_rows(ctx, stored, infos[file["dataset"]], file["split"], own)
        rows += found
        vectors.append(part)
    _check_dims([part.shape[1] for part in vectors], files, encoder)
    _check_once(rows)
    joined = np.concatenate(vectors)
    return features_of(images.datasets, _about(joined, files, encoder), rows, joined)


def _about(vectors: Any, files: Sequence[Mapping[str, str]], encoder: ImageTextEncoder | None) -> dict[str, Any]:
    """What is known of the encoder; without one its identity is that of the vectors."""
    if encoder is not None:
        return encoder_info(encoder)
    content = hashlib.sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest()
    return {
        "name": Path(files[0]["features"]).stem, "family": "imported", "identity": item_key("imported", content),
        "dim": int(vectors.shape[1]), "logit_scale": PUBLISHED_LOGIT_SCALE,
    }  # fmt: skip


def _check_dims(dims: Sequence[int], files: Sequence[Mapping[str, str]], encoder: ImageTextEncoder | None) -> None:
    wanted = dims[0] if encoder is None else encoder.dim
    for dim, file in zip(dims, files, strict=True):
        if dim != wanted:
            whose = "the first file" if encoder is None else f"the encoder {encoder.name}"
            raise DataError(f"{file['features']}: {dim} numbers a picture, {whose} has {wanted}")


def _check_once(rows: Sequence[Mapping[str, Any]]) -> None:
    seen: set[tuple[str, str]] = set()
    for row in rows:
        key = (row["dataset"], row["sample_id"])
        if key in seen:
            raise DataError(f"{key[0]}: {key[1]!r} is in two of the files", hint="Give each dataset and split once.")
        seen.add(key)
