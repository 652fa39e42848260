"""One dataset with parts from its spec to a ``PartImages``: pictures drawn, masks made chunk by chunk, everything checked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from runner.artifacts import PartImages
from runner.context import StepContext, item_key
from runner.data.datasets.content import Picture, share, some
from runner.data.datasets.layouts import check_files
from runner.data.datasets.sampling import Counts
from runner.data.datasets.specs import SPLITS, Split, count_of
from runner.data.images import UnreadableImage
from runner.data.parts.building import MaskRow, check_plain, mask_table, part_images
from runner.data.parts.celebamask import read_celebamask
from runner.data.parts.cub import read_cub
from runner.data.parts.found import FoundParts
from runner.data.parts.manifest import read_manifest
from runner.data.parts.paco import read_paco
from runner.data.parts.partimagenet import read_partimagenet
from runner.data.parts.specs import AnyParts, CelebaMaskParts, CubParts, PacoParts, PartImageNetParts
from runner.data.parts.twins import same_bytes
from runner.data.sampling import sampled

CHUNK = 128
"""Pictures whose masks are saved together: what a kill loses, and what stands in memory."""

_DROPPED = b"dropped"
_LINKS = "Links must stay below the folder of the dataset: put the pictures there, or name the folder that really holds them."
_ABSENT = "Complete the copy of the dataset, or take these pictures out of its tables."


@dataclass(frozen=True)
class Options:
    """Which pictures are taken; ``val_fraction``: share of train that becomes val where the dataset has no val of its own."""

    splits: Sequence[Split] = SPLITS
    limit: Counts = None
    val_fraction: float = 0.0
    seed: int = 0
    thumbnails: int = 24


def load(ctx: StepContext, spec: AnyParts, options: Options) -> PartImages:
    """Read, draw and check one dataset. Raises ``DataError`` saying where it is wrong."""
    found = _read(ctx, spec, options.seed)
    names = [*found.attributes]
    excluded = (
        dict(found.excluded) if spec.exclude == "default" else dict.fromkeys(spec.exclude, "the spec excludes it")
    )
    taken, pictures = _taken(found, options)
    check_plain(
        spec.title, found.parts, names, found.owners, excluded, found.swaps,
        [{**p, "source_id": spec.title} for p in pictures], [{"name": spec.title}], _needed(found, options),
    )  # fmt: skip
    if found.cut is None:
        listed = [Picture(p["split"], p["sample_id"], "", p["uri"], 0) for p in pictures]
        check_files(spec.title, found.root, listed, links=_LINKS, absent=_ABSENT)
        _warn_of_twins(ctx, spec.title, found.root, pictures)
    masks, kept = _masks(ctx, found, taken, [p["sample_id"] for p in pictures], spec.model_dump_json())
    held = [{**pictures[place], "source_id": spec.title} for place in kept]
    rows = np.array(taken, np.int64)[kept]
    for note in found.notes:
        ctx.warn(note, item=spec.title)
    return part_images(
        name=spec.title, object=found.object, parts=found.parts, attributes=names, owners=found.owners,
        pictures=held, corpus=[{"folder": str(found.root), "name": spec.title}], masks=masks,
        value=found.value[rows], valid=found.valid[rows], excluded=excluded, swaps=found.swaps,
        part_source=found.part_source, label_mode=found.label_mode, mask_resize=found.mask_resize,
        notes=[f"licence: {found.licence}", *found.notes], licence=found.licence, thumbnails=options.thumbnails,
        needed=_needed(found, options), known=spec.key, warn=lambda text, item: ctx.warn(text, item=item),
    )  # fmt: skip


def _read(ctx: StepContext, spec: AnyParts, seed: int) -> FoundParts:
    if isinstance(spec, CubParts):
        return read_cub(spec)
    if isinstance(spec, CelebaMaskParts):
        return read_celebamask(spec, seed)
    if isinstance(spec, PacoParts):
        return read_paco(spec, ctx.shared / "part_crops")
    if isinstance(spec, PartImageNetParts):
        return read_partimagenet(spec)
    return read_manifest(spec)


def _warn_of_twins(ctx: StepContext, name: str, root: Path, pictures: Sequence[Mapping[str, Any]]) -> None:
    """Warn of test pictures that are also training pictures, byte by byte."""
    train, test = ([root / p["uri"] for p in pictures if p["split"] == split] for split in ("train", "test"))
    twins = same_bytes(train, test)
    if twins:
        text = f"{len(twins)} of {len(test)} test pictures have the bytes of a training picture"
        ctx.warn(f"{text}: {some([path.relative_to(root).as_posix() for path in twins])}", item=name)


def _needed(found: FoundParts, options: Options) -> list[Split]:
    """Splits that must have pictures: with attributes train and test, unless the spec leaves one out."""
    wanted: list[Split] = [s for s in options.splits if s != "val" and count_of(options.limit, s) != 0]
    return wanted if found.attributes else []


def _taken(found: FoundParts, options: Options) -> tuple[list[int], list[dict[str, Any]]]:
    """Places of the pictures taken in ``found.pictures``, and these pictures with the splits that they now have."""
    own_val = any(picture["split"] == "val" for picture in found.pictures)
    splits = [
        "val"
        if not own_val and p["split"] == "train" and share("val", options.seed, p["sample_id"]) < options.val_fraction
        else p["split"]
        for p in found.pictures
    ]
    taken = []
    for split in options.splits:
        places = [i for i, own in enumerate(splits) if own == split]
        most = count_of(options.limit, split)
        taken += sampled(places, most, options.seed, lambda i: str(found.pictures[i]["sample_id"]))
    return taken, [{**found.pictures[i], "split": splits[i]} for i in taken]


def _masks(
    ctx: StepContext, found: FoundParts, taken: Sequence[int], sample_ids: Sequence[str], key: str
) -> tuple[pa.Table, list[int]]:
    """The mask table of the pictures that can be read, and their places in ``taken``."""
    dropped: dict[int, str] = {}
    tables = []
    ctx.advance("pictures", 0, len(taken))
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(taken), CHUNK):
            ctx.check()
            part = range(start, min(start + CHUNK, len(taken)))
            table = _chunk(ctx, found, taken, sample_ids, part, pool, key)
            tables.append(table)
            dropped |= {int(k): v for k, v in json.loads(table.schema.metadata[_DROPPED]).items()}
            ctx.advance("pictures", len(part))
    for place, reason in dropped.items():
        ctx.failed(sample_ids[place], reason)
    kept = [place for place in range(len(taken)) if place not in dropped]
    masks = (
        pa.concat_tables([table.replace_schema_metadata() for table in tables]) if tables else mask_table([], [], [])
    )
    if dropped and masks.num_rows:
        moved = np.searchsorted(kept, masks["row"].to_numpy())
        masks = masks.set_column(0, "row", pa.array(moved, pa.int32()))
    return masks, kept


def _chunk(
    ctx: StepContext,
    found: FoundParts,
    taken: Sequence[int],
    sample_ids: Sequence[str],
    places: range,
    pool: ThreadPoolExecutor,
    key: str,
) -> pa.Table:
    """Masks of some pictures, from the scratch folder where an earlier attempt saved them."""
    path = ctx.scratch / f"masks-{item_key('part masks', key, [sample_ids[p] for p in places])}.parquet"
    if path.is_file():
        return pq.read_table(path)
    dropped: dict[int, str] = {}

    def rows() -> Iterator[MaskRow]:
        for place, drawn in zip(places, pool.map(lambda p: _drawn(found, taken[p]), places), strict=True):
            if isinstance(drawn, UnreadableImage):
                dropped[place] = drawn.message
            else:
                yield from (MaskRow(place, *row) for row in drawn)

    table = mask_table(rows(), found.parts, sample_ids)
    table = table.replace_schema_metadata({_DROPPED: json.dumps(dropped).encode()})
    draft = path.with_suffix(".draft")
    pq.write_table(table, draft, compression="zstd")
    draft.replace(path)
    return table


def _drawn(found: FoundParts, i: int) -> Any:
    """Masks of picture i, or why it cannot be read; cuts the picture out where that is due."""
    try:
        rows = found.draw(i)
        if found.cut is not None:
            _save(found, i)
        return rows
    except UnreadableImage as error:
        return error


def _save(found: FoundParts, i: int) -> None:
    """The cut-out picture as a file whose name exists only when it is whole."""
    assert found.cut is not None
    path = found.root / found.pictures[i]["uri"]
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{os.getpid()}-{path.name}")
    found.cut(i).save(draft, "PNG")
    draft.replace(path)
