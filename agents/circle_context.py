"""The pictures of a context: drawn by seed, read, and held against the queries."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agents.openworld_pictures import Pictures, place_of
from runner.context import StepContext
from runner.data.images import UnreadableImage
from runner.data.places import Place, read_pictures
from runner.data.sources import open_sources
from runner.errors import StepError
from runner.models.base import ImagePart

if TYPE_CHECKING:
    from runner.artifacts import Datasets

Row = dict[str, Any]
Readable = list[tuple[Row, ImagePart]]


def permuted(rows: Sequence[Row], seed: int, dataset: str, purpose: str = "context") -> list[Row]:
    """The rows in an order drawn with ``seed``, uniformly over all orders; a row's rank hangs on its ``sample_id`` alone.

    The first m are a draw without replacement, so that a draw of more pictures begins with that of fewer.
    """
    return sorted(
        rows, key=lambda row: hashlib.sha256(f"{purpose}\0{seed}\0{dataset}\0{row['sample_id']}".encode()).digest()
    )


def of_split(images: Datasets, dataset: str, split: str, ctx: StepContext) -> list[Row]:
    """Rows of one dataset and split. Raises ``StepError`` where there are none."""
    rows = [row for row in images.images.drop_columns(["thumbnail"]).to_pylist() if row["dataset"] == dataset]
    found = [row for row in rows if row["split"] == split]
    if not found:
        there = ", ".join(sorted({row["split"] for row in rows})) or "none"
        raise StepError(
            f"{dataset} has no picture in the split {split!r}", step=ctx.step, hint=f"its splits are: {there}"
        )
    return found


async def readable(
    rows: Sequence[Row], count: int, pictures: Pictures, lost: Callable[[Row, UnreadableImage], None]
) -> Readable:
    """The first ``count`` of the rows whose picture can be read; ``lost`` hears of those skipped."""
    found: Readable = []
    start = 0
    while len(found) < count and start < len(rows):
        part = rows[start : start + count - len(found)]
        start += len(part)
        parts = await pictures.parts(map(place_of, part))
        for row in part:
            picture = parts[place_of(row)]
            if isinstance(picture, UnreadableImage):
                lost(row, picture)
            else:
                found.append((row, picture))
    return found


async def draw(rows: Sequence[Row], shots: int, seed: int, pictures: Pictures, ctx: StepContext) -> Readable:
    """``shots`` pictures of ``rows`` (one dataset, one split), drawn with ``seed``; one that cannot be read is replaced.

    Raises ``StepError`` where there are too few.
    """
    dataset = rows[0]["dataset"]
    found = await readable(
        permuted(rows, seed, dataset), shots, pictures,
        lambda row, error: ctx.warn(f"left out of the context: {error.message}", item=f"{dataset}/{row['sample_id']}"),
    )  # fmt: skip
    if len(found) < shots:
        split, hint = rows[0]["split"], "lower shots, or name a larger context_split"
        said = f"{shots} pictures are to be shown, but the split {split!r} of {dataset} holds {len(rows)}, {len(found)} of them readable"
        raise StepError(said, step=ctx.step, hint=hint)
    return found


async def refuse_leakage(
    contexts: Sequence[Sequence[Row]], queries: Sequence[Row], corpus: Sequence[Mapping[str, Any]], ctx: StepContext
) -> None:
    """Raises ``StepError`` where a picture of a context is a query of its dataset too: the same file, or the same bytes."""
    shown = {place_of(row): row for context in contexts for row in context}
    asked = [row for row in queries if row["dataset"] in {row["dataset"] for row in shown.values()}]
    for row in asked:
        if place_of(row) in shown:
            raise _leak(shown[place_of(row)], row, "is among the queries", ctx)
    sources = open_sources([dict(spec) for spec in corpus])
    hashes = await asyncio.to_thread(_hashes, sources, shown, None, ctx)
    by_hash = {(shown[place]["dataset"], digest): shown[place] for place, digest in hashes.items()}
    rows = {place_of(row): row for row in asked}
    sizes = {size for size, _ in hashes.values()}
    for place, digest in (await asyncio.to_thread(_hashes, sources, rows, sizes, ctx)).items():
        twin = by_hash.get((rows[place]["dataset"], digest))
        if twin is not None:
            raise _leak(twin, rows[place], f"has the same bytes as the query {rows[place]['uri']!r}", ctx)


def _hashes(
    sources: Any, places: Iterable[Place], sizes: set[int] | None, ctx: StepContext
) -> dict[Place, tuple[int, bytes]]:
    """Length and SHA-256 of the bytes at ``places``; of other lengths than ``sizes`` none is taken."""
    found: dict[Place, tuple[int, bytes]] = {}
    for place, data in read_pictures(sources, places):
        ctx.check()
        if sizes is None or len(data) in sizes:
            found[place] = (len(data), hashlib.sha256(data).digest())
    return found


def _leak(context: Row, query: Row, what: str, ctx: StepContext) -> StepError:
    name = f"{query['dataset']}/{context['sample_id']}"
    return StepError(
        f"leakage: the context picture {name} (split {context['split']}) {what}", step=ctx.step,
        hint="draw the context from another split (context_split), with another seed, or remove the duplicate",
    )  # fmt: skip


def warn_of_equal_names(datasets: Iterable[Mapping[str, Any]], ctx: StepContext) -> None:
    """Classes of the same name cannot be told apart by text, which scores must be read with."""
    for dataset in datasets:
        counts = Counter(str(name).strip().casefold() for name in dataset["classes"])
        twice = sorted(name for name, count in counts.items() if count > 1)
        if twice:
            ctx.warn(
                f"{len(twice)} class names stand for several classes, such as {twice[0]!r:.80}", item=dataset["dataset"]
            )
