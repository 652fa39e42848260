"""Rows of the dependence audit, made of what was measured chunk by chunk; without dataset and model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from runner.nodes.leakage.dependence import bootstrap_means
from runner.nodes.leakage.names import Norm, Pool, Rule
from runner.nodes.leakage.resampling import groups_among, resample_counts

Arrays = dict[str, "np.ndarray[Any, Any]"]
Row = dict[str, Any]
MEASURES = ("grad_share_out", "d_out", "d_in", "out_share")
ON = ("on_part", "on_object", "on_background", "on_prefix")
RESAMPLES = 1000


@dataclass(frozen=True)
class Audit:
    """What is measured and how: plain values, part of the key of what is kept."""

    layers: tuple[int, ...]
    extractors: tuple[str, ...]
    two_stage: Mapping[str, Any]
    pooling: Pool
    norm: Norm
    patch_rule: Rule
    replace: str
    gradient: bool
    attention: bool
    token_norms: bool
    seed: int


def picture_rows(sample_ids: Sequence[str], parts: Sequence[str], found: Arrays, audit: Audit) -> Iterator[Row]:
    """Rows of ``leak_dependence`` of a chunk, picture by picture: where a part's vector exists."""
    values = np.stack([found[f"values {name}"] for name in audit.extractors])  # [extractors, measures, L, B, P]
    there = np.isfinite(values[:, 1]).transpose(2, 0, 1, 3)
    for picture, which, layer, part in zip(*np.nonzero(there), strict=True):
        cell = dict(zip(MEASURES, map(_number, values[which, :, layer, picture, part]), strict=True))
        yield {"sample_id": sample_ids[picture], "part": parts[part], "extractor": audit.extractors[which],
               "layer": audit.layers[layer], "replacement": audit.replace, **cell}  # fmt: skip


def summary_rows(
    chunks: Sequence[Arrays], parts: Sequence[str], audit: Audit, groups: Sequence[int] | None = None
) -> Iterator[Row]:
    """Rows of ``leak_dependence_summary``: each part, and ``all`` (a picture's mean over its parts, then over pictures).

    ``groups``: the original of each picture, in the order of the chunks; originals are resampled whole. None: pictures stand alone.
    """
    originals = None if groups is None else torch.tensor(groups)
    for name in audit.extractors:
        values = torch.from_numpy(np.concatenate([found[f"values {name}"] for found in chunks], 2))
        columns = torch.cat([values, values.nanmean(-1, keepdim=True)], -1)
        counts = resample_counts(columns.shape[2], RESAMPLES, audit.seed, originals)
        flat = columns.permute(2, 0, 1, 3).reshape(columns.shape[2], -1)
        statistics = [s.view(len(MEASURES), len(audit.layers), -1) for s in bootstrap_means(flat, counts)]
        largest = torch.where(values.isnan(), -torch.inf, values).amax(2)
        largest = torch.cat([largest, largest.amax(-1, keepdim=True)], -1)
        known = columns.isfinite().movedim(2, 0)
        n, n_groups = known.sum(0), None if originals is None else groups_among(known, originals)
        for m, measure in enumerate(MEASURES):
            for place, layer in enumerate(audit.layers):
                for part, label in enumerate([*parts, "all"]):
                    mean, low, high = (_number(s[m, place, part]) for s in statistics)
                    yield {"part": label, "extractor": name, "layer": layer, "measure": measure, "mean": mean, "ci_low": low,
                           "ci_high": high, "largest": _number(largest[m, place, part]), "n": int(n[m, place, part]),
                           "n_groups": None if n_groups is None else int(n_groups[m, place, part])}  # fmt: skip


def attention_rows(chunks: Sequence[Arrays], parts: Sequence[str]) -> Iterator[Row]:
    """Rows of ``leak_attention``: means over the pictures that show a part."""
    kept = [found for found in chunks if "attention" in found]
    if not kept:
        return
    total, area, n = (np.sum([c[name] for c in kept], 0) for name in ("attention", "attention_area", "attention_n"))
    for block, head, part in np.ndindex(*total.shape[:3]):
        if n[part]:
            shares = map(float, total[block, head, part] / n[part])
            yield {"layer": block + 1, "head": None if head == total.shape[1] - 1 else head, "part": parts[part],
                   **dict(zip(ON, shares, strict=True)), "area": float(area[part] / n[part]), "n": int(n[part])}  # fmt: skip


def norm_rows(chunks: Sequence[Arrays], audit: Audit) -> Iterator[Row]:
    """Rows of ``leak_token_norm``; distances over the same pictures and parts with and without high-norm tokens."""
    kept = [found for found in chunks if "norms" in found]
    if not kept:
        return
    norms, high, distances = (np.concatenate([f[name] for f in kept], axis) for name, axis in (("norms", 1), ("high", 1), ("norm_distances", 2)))  # fmt: skip
    inside = np.concatenate([f["in_parts"] for f in kept])
    for place, layer in enumerate(audit.layers):
        both = np.where(np.isfinite(distances[:, place]).all(0), distances[:, place], np.nan)
        count = int(high[place].sum())
        with_, without = (_number(np.nanmean(d)) if np.isfinite(d).any() else None for d in both)
        yield {"layer": layer, "n_pictures": norms.shape[1], "n_tokens": norms[place].size, "n_high": count,
               "share_in_parts": float((high[place] & inside).sum() / count) if count else None,
               "median_norm": float(np.median(norms[place])), "largest_norm": float(norms[place].max()),
               "d_out_with": with_, "d_out_without": without}  # fmt: skip


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(float(value)) else None
