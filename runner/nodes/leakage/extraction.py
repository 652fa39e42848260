"""One whole extraction: batches computed once and kept until all are there, then arrays, rows and overlays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from runner.context import StepContext
from runner.data.parts.reading import PartReader
from runner.errors import DataError
from runner.models.base import VisionBackbone
from runner.nodes.leakage.extracting import Recipe, extract
from runner.nodes.leakage.loading import Loaded, Loader
from runner.nodes.leakage.storing import load_array, save_piece, write_rows

Array = NDArray[Any]
MOST_REMOVED = 0.2
"""Share of a source's patches above which leaving out high norms leaves out more than artefacts."""
COUNTS = ("n_pixels", "n_patches", "n_patches_two", "visible")


@dataclass(frozen=True)
class Extraction:
    """What is extracted from which pictures. ``rows``: row numbers of the dataset, in order; ``sources``: parts, then further."""

    backbone: VisionBackbone
    recipe: Recipe
    reader: PartReader
    loader: Loader
    rows: list[int]
    sources: list[str]
    dtype: str
    scratch: Path

    @property
    def pieces(self) -> list[list[int]]:
        """Row numbers batch by batch; the same after a restart, so that batches have the same bits."""
        size = self.recipe.batch
        return [self.rows[first : first + size] for first in range(0, len(self.rows), size)]

    def path(self, number: int) -> Path:
        """Where a finished batch is kept."""
        return self.scratch / f"batch-{number:06d}.npz"

    def blocks(self, name: str) -> Iterator[Array]:
        """An array of all batches, in order."""
        for number in range(len(self.pieces)):
            yield load_array(self.path(number), name)

    def gathered(self, name: str) -> Array:
        """The same in one array."""
        return np.concatenate(list(self.blocks(name)))


@dataclass
class Outcome:
    """What is left to say of a finished extraction: ``unreadable`` by row; ``present`` by extractor and counts, [n, S];
    ``removed``: the share of its patches that ``no_artefacts`` left out, by source and layer (where it has any)."""

    unreadable: dict[int, str] = field(default_factory=dict)
    present: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    counts: dict[str, Array] = field(default_factory=dict)
    removed: dict[str, dict[int, float]] = field(default_factory=dict)


def run(ctx: StepContext, job: Extraction, vectors: Path) -> Outcome:
    """Compute what is not there yet, then write ``<extractor>/L<layer>.npy`` into ``vectors``."""
    compute(ctx, job)
    for name in job.recipe.extractors:
        for layer in job.recipe.layers:
            write_rows(vectors / name / f"L{layer}.npy", job.blocks(f"{name}/L{layer}"), len(job.rows))
    outcome = Outcome(
        present={name: job.gathered(f"present/{name}") for name in job.recipe.extractors},
        counts={name: job.gathered(name) for name in COUNTS},
    )
    if "no_artefacts" in job.recipe.controls:
        outcome.removed = removed_shares(job)
    for row, why in zip(job.rows, job.gathered("why").tolist(), strict=True):
        if why:
            outcome.unreadable[row] = why
    _report(ctx, job, outcome)
    return outcome


def removed_shares(job: Extraction) -> dict[str, dict[int, float]]:
    """Share of a source's patches, over all pictures, that ``no_artefacts`` left out: by source, then layer."""
    found: dict[str, dict[int, float]] = {source: {} for source in job.sources}
    for layer in job.recipe.layers:
        held, gone = job.gathered(f"removed/L{layer}").sum(0)
        for source, all_, out in zip(job.sources, held.tolist(), gone.tolist(), strict=True):
            if all_:
                found[source][layer] = out / all_
    return found


def compute(ctx: StepContext, job: Extraction) -> None:
    """Batches that have no file yet: the next is read while one is computed; each is on disk before the next begins."""
    pieces = job.pieces
    ctx.advance("images", 0, len(job.rows))
    waiting = [number for number in range(len(pieces)) if not job.path(number).is_file()]
    ctx.advance("images", len(job.rows) - sum(len(pieces[number]) for number in waiting))
    with ThreadPoolExecutor(1, thread_name_prefix="pictures") as pool:
        following: Future[Loaded] | None = None
        for place, number in enumerate(waiting):
            ctx.check()
            loaded = (following or pool.submit(job.loader.load, pieces[number])).result()
            following = pool.submit(job.loader.load, pieces[waiting[place + 1]]) if place + 1 < len(waiting) else None
            ctx.budget.spend("images", len(loaded.rows))
            save_piece(job.path(number), piece_of(job, pieces[number], loaded))
            ctx.advance("images", len(pieces[number]))


@torch.inference_mode()
def piece_of(job: Extraction, rows: Sequence[int], loaded: Loaded) -> dict[str, Array]:
    """The arrays of one batch; pictures that cannot be read have NaN and nothing present."""
    widths = {layer: job.backbone.widths[layer] for layer in job.recipe.layers}
    at = [rows.index(row) for row in loaded.rows]
    shape = (len(rows), len(job.sources))
    made = None if loaded.batch is None else extract(job.backbone, loaded.batch.to(job.backbone.device), job.recipe)
    piece: dict[str, Array] = {"why": np.array([loaded.unreadable.get(row, "") for row in rows], np.str_)}
    for name in job.recipe.extractors:
        piece[f"present/{name}"] = _placed(at, shape, made and made.present[name].cpu().numpy(), np.uint8, 0)
        for layer in job.recipe.layers:
            key = f"{name}/L{layer}"
            found = None if made is None else made.vectors[name, layer].float().cpu().numpy()
            width = _width(job, widths[layer]) if found is None else found.shape[-1]
            piece[key] = _placed(at, (*shape, width), found, job.dtype, np.nan)
            _check_finite(job, rows, piece[key], piece[f"present/{name}"], key)
    for layer in job.recipe.layers if "no_artefacts" in job.recipe.controls else ():
        gone = made and made.removed[layer].cpu().numpy()
        piece[f"removed/L{layer}"] = _placed(at, (len(rows), 2, len(job.sources)), gone, np.int64, 0)
    masks = None if loaded.batch is None else loaded.batch.masks.flatten(2).sum(-1).numpy()
    piece["n_pixels"] = _placed(at, shape, masks, np.int64, 0)
    piece["n_patches"] = _placed(at, shape, made and made.n_patches.cpu().numpy(), np.int64, 0)
    piece["n_patches_two"] = _placed(at, shape, made and made.n_patches_two.cpu().numpy(), np.int64, 0)
    piece["visible"] = _placed(at, shape, loaded.visible if loaded.rows else None, np.uint8, 0)
    return piece


def _width(job: Extraction, width: int) -> int:
    """Of vectors as they are kept: a projection changes it."""
    if job.recipe.norm != "projected":
        return width
    projected = job.backbone.project(torch.zeros(1, width, device=job.backbone.device))
    return width if projected is None else projected.shape[-1]


def _placed(at: list[int], shape: tuple[int, ...], found: Any, dtype: Any, empty: float) -> Array:
    """``found`` at the rows ``at`` of an array that is ``empty`` elsewhere."""
    target = np.full(shape, empty, dtype)
    if found is not None:
        with np.errstate(over="ignore"):  # beyond float16 becomes infinite, which is refused below
            target[at] = found
    return target


def _check_finite(job: Extraction, rows: Sequence[int], vectors: Array, present: Array, key: str) -> None:
    bad = np.argwhere((present > 0) & ~np.isfinite(vectors).all(-1))
    if len(bad):
        i, source = bad[0]
        hint = "The network overflows on it, or float16 is too narrow: try dtype: float32, or leave the picture out."
        where = f"{job.reader.sample_ids[rows[i]]}, {job.sources[source]}"
        raise DataError(f"{where}: {job.backbone.name} gives features that are not finite ({key})", hint=hint)


def _report(ctx: StepContext, job: Extraction, outcome: Outcome) -> None:
    """Say which pictures and which parts have no vectors. Raises ``DataError`` where no picture can be read."""
    if len(outcome.unreadable) == len(job.rows):
        raise DataError(f"none of the {len(job.rows)} pictures can be read: {next(iter(outcome.unreadable.values()))}")
    for row, why in outcome.unreadable.items():
        ctx.failed(job.reader.sample_ids[row], why)
    known: set[str] = set()
    for name, present in outcome.present.items():
        never = {source for source, there in zip(job.sources, present.max(0).tolist(), strict=True) if not there}
        if name in ("random_region", "swap"):  # these are of parts alone
            never &= set(job.reader.parts)
        if never - known:
            listed = ", ".join(source for source in job.sources if source in never - known)
            ctx.warn(f"{name}: no picture has vectors of {listed}; leak_parts says why", item=job.backbone.name)
        known |= never if name == "single" else set()
    _warn_of_removed(ctx, job, outcome.removed)


def _warn_of_removed(ctx: StepContext, job: Extraction, removed: dict[str, dict[int, float]]) -> None:
    worst = {source: max(shares.values()) for source, shares in removed.items() if shares}
    much = [f"{source} ({share:.0%})" for source, share in worst.items() if share > MOST_REMOVED]
    if much:
        ctx.warn(
            f"no_artefacts leaves out more than {MOST_REMOVED:.0%} of the patches of {', '.join(much)} in some layer: these are "
            "not artefacts alone. The rule (median + 5 MAD of a picture's norms) needs textured backgrounds",
            item=job.backbone.name,
        )


def part_rows(job: Extraction, outcome: Outcome, about: dict[str, Any], two_rule: str) -> list[dict[str, Any]]:
    """Rows of ``leak_parts``: one a picture and source."""
    recipe, counts = job.recipe, outcome.counts
    two = outcome.present.get("two_stage")
    rows = []
    for i, row in enumerate(job.rows):
        for s, source in enumerate(job.sources):
            found = {name: int(values[i, s]) for name, values in counts.items()}
            there = bool(outcome.present["single"][i, s]), two is not None and bool(two[i, s])
            why = None if all(there) else outcome.unreadable.get(row) or _reason(recipe, source, found, there, two_rule)
            rows.append(
                {
                    "dataset": about["dataset"], "model": job.backbone.name, "sample_id": job.reader.sample_ids[row],
                    "part": source, "present": there[0], "present_two_stage": there[1], "n_pixels": found["n_pixels"],
                    "n_patches": found["n_patches"], "n_patches_two_stage": found["n_patches_two"], "rule": recipe.rule,
                    "rule_two_stage": two_rule,
                    "reason": why,
                }
            )  # fmt: skip
    return rows


def _reason(recipe: Recipe, source: str, found: dict[str, int], there: tuple[bool, bool], two_rule: str) -> str:
    """Why a source has no vector in a picture that could be read."""
    if not found["visible"]:
        return (
            "the object fills the picture, or is not there"
            if source == "background"
            else "the picture does not show it"
        )
    if not there[0] and recipe.pooling == "keypoint":
        return "no keypoint of it lies in the network's input"
    if not found["n_pixels"]:
        return "nothing of its mask lies in the network's input"
    if not there[0]:
        return f"no patch belongs to it by the rule {recipe.rule}"
    if recipe.two is None:
        return "two-stage vectors were not asked for"
    return f"no patch belongs to it by the two-stage rule {two_rule}"
