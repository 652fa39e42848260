"""Benchmarks from their specs to a ``VqaItems``: read, drawn, pictures looked for, checked."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runner.artifacts import VqaItems
from runner.context import StepContext
from runner.data.benchmarks import manifest
from runner.data.benchmarks.archives import ARCHIVES, SPLITS
from runner.data.benchmarks.building import climbs, vqa_items
from runner.data.benchmarks.files import Skipped, is_file
from runner.data.benchmarks.found import Found, Item, read_items
from runner.data.benchmarks.known import KNOWN, WHOLE_PAIRS
from runner.data.benchmarks.parquet import Tables, linked, parquet_files
from runner.data.benchmarks.records import READERS
from runner.data.benchmarks.specs import Benchmark
from runner.data.datasets.content import share
from runner.data.sampling import sampled
from runner.errors import DataError


def load(ctx: StepContext, specs: Mapping[str, Benchmark], limit: int | None, seed: int) -> VqaItems:
    """Every benchmark in order. Raises ``DataError`` where one is incomplete; items left out are named as failures of the step."""
    about: list[dict[str, Any]] = []
    corpus: list[dict[str, Any]] = []
    rows: list[Item] = []
    for name, spec in ctx.track(list(specs.items()), unit="benchmarks"):
        found = read(spec, name, ctx.shared / "benchmark_pictures")
        most = limit if spec.limit is None else spec.limit
        entry = about_of(name, spec, found, most)
        drawn = draw(found.items, most, seed, whole=entry["aggregate"] in WHOLE_PAIRS)
        if found.unpack is not None:
            drawn = [found.unpack(item) for item in drawn]
        for line in found.skipped.lines():
            ctx.failed(name, line)
        about.append(entry)
        corpus += found.corpus
        rows += [{**item, "benchmark": name, "source_id": name if item["uris"] else None} for item in drawn]
    return vqa_items(about, corpus, rows)


def read(spec: Benchmark, name: str, unpacked: Path) -> Found:
    """Everything that is usable in the files of one benchmark. Raises ``DataError`` where nothing is."""
    split = spec.split or SPLITS.get(spec.kind, "test")
    root = Path(spec.path)
    files = [] if spec.layout == "original" or spec.kind == "manifest" else parquet_files(root, split)
    if files:
        found = _from_parquet(spec, name, files, split, unpacked)
    elif spec.kind == "manifest":
        found = _from_files(spec, name, root.parent, split)
    elif spec.layout == "parquet" or spec.kind not in ARCHIVES:
        raise DataError(
            f"{name}: {root} holds no Parquet file",
            hint=f"{spec.kind} is published as Parquet: name the folder of these files.",
        )
    else:
        found = _from_files(spec, name, root, split)
    if spec.pictures_only:
        found.items = [item for item in found.items if item["uris"]]
        found.notes.append("questions without a picture are left out")
        found.n_total = len(found.items) + sum(found.skipped.counts.values())
    if not found.items:
        raise DataError(
            f"{name}: no item can be used", hint="; ".join(found.skipped.lines()) or "The files hold no question."
        )
    return found


def _from_files(spec: Benchmark, name: str, root: Path, split: str) -> Found:
    skipped = Skipped()
    place = Path(spec.pictures) if spec.pictures else root if root.is_dir() else root.parent
    own = spec.kind == "manifest"
    raws = manifest.rows(Path(spec.path), skipped) if own else ARCHIVES[spec.kind](root, split, skipped)
    reader = manifest.item if own else READERS[spec.kind]
    items = list(read_items(raws, reader, skipped))
    total = len(items) + sum(skipped.counts.values())
    if spec.pictures and not own:
        items = [_moved(item, place) for item in items]
    kept = [item for item in items if has_pictures(item, place, skipped)]
    return Found(kept, [{"folder": str(place), "name": name}], total, skipped=skipped)


def _moved(item: Item, place: Path) -> Item:
    """The item with its pictures below the folder that the spec names: by their paths in the archive, or the shorter ones."""
    return {**item, "uris": [_shortest(uri, place) for uri in item["uris"]]}


def _shortest(uri: str, place: Path) -> str:
    parts = uri.split("/")
    tails = ("/".join(parts[i:]) for i in range(len(parts)))
    return next((tail for tail in tails if not climbs(tail) and is_file(place / tail)), uri)


def has_pictures(item: Item, place: Path, skipped: Skipped) -> bool:
    """Whether every picture can be used; the first one that cannot goes to ``skipped``."""
    for uri in item["uris"]:
        reason = picture_problem(place, uri)
        if reason:
            skipped.add(reason, uri)
            return False
    return True


def picture_problem(root: Path, uri: str) -> str | None:
    """Why a picture below a folder cannot be used: its path leads out, also over links, or there is no such file."""
    if climbs(uri):
        return "the picture's path leads out of the folder"
    path = root / uri
    try:
        if not path.is_file():
            return "the picture is missing"
        real = _real(path.parent) / path.name
        inside = (real.resolve() if path.is_symlink() else real).is_relative_to(_real(root))
    except (OSError, ValueError, RuntimeError):  # a name too long, a circle of links
        return "the picture is missing"
    return None if inside else "a link leads out of the folder (`pictures:` names the one that really holds them)"


@functools.lru_cache(maxsize=65_536)
def _real(folder: Path) -> Path:
    return folder.resolve()


def _from_parquet(spec: Benchmark, name: str, files: Sequence[Path], split: str, unpacked: Path) -> Found:
    skipped = Skipped()
    pictures = linked(spec.kind, files, Path(spec.path), split) if Path(spec.path).is_dir() else None
    own = [file for file in files if pictures is None or not any("_images" in part for part in file.parts[-2:])]
    tables = Tables(spec.kind, own)
    items = list(read_items(tables.rows(), READERS[spec.kind], skipped))
    total = len(items) + sum(skipped.counts.values())
    if pictures is not None:
        held, places = pictures
        items = [{**item, "uris": [places[item["pair_id"]]]} for item in items if _is_linked(item, places, skipped)]
        return Found(items, held.corpus(name), total, skipped=skipped)
    if len(tables.columns) > 1:
        corpus = [{"folder": str(unpacked), "name": name}]
        unpacked.mkdir(parents=True, exist_ok=True)
        return Found(items, corpus, total, unpack=tables.unpacker(unpacked), skipped=skipped)
    if not tables.columns:
        raise DataError(
            f"{name}: {files[0]} has no column of pictures", hint="Take the files that hold the pictures' bytes."
        )
    return Found(items, tables.corpus(name), total, skipped=skipped)


def _is_linked(item: Item, places: Mapping[str, str], skipped: Skipped) -> bool:
    there = item["pair_id"] in places
    if not there:
        skipped.add("the picture is missing", item["pair_id"])
    return there


def draw(items: Sequence[Item], limit: int | None, seed: int, *, whole: bool) -> list[Item]:
    """At most ``limit`` items, drawn by seed and id; ``whole``: pairs are drawn as such, as long as they fit."""
    if not whole:
        return sampled(items, limit, seed, lambda item: str(item["item_id"]))
    if limit is None or len(items) <= limit:
        return list(items)
    sizes = Counter(pair_of(item) for item in items)
    kept: set[str] = set()
    left = limit
    for pair in sorted(sizes, key=lambda name: share("pair", seed, name)):
        if sizes[pair] <= left:
            kept.add(pair)
            left -= sizes[pair]
    return [item for item in items if pair_of(item) in kept]


def pair_of(item: Item) -> str:
    """What an item counts together with: its pair, or itself."""
    return f"pair {item['pair_id']}" if item["pair_id"] is not None else f"item {item['item_id']}"


def about_of(name: str, spec: Benchmark, found: Found, limit: int | None) -> dict[str, Any]:
    """The benchmark's entry in ``VqaItems.benchmarks``."""
    known = KNOWN.get(spec.kind)
    totals = Counter(item["category"] for item in found.items if item["category"] is not None)
    return {
        "benchmark": name,
        "known": spec.kind if known else None,
        "split": spec.split or SPLITS.get(spec.kind, "test"),
        "metric": spec.metric or (known.metric if known else None),
        "aggregate": spec.aggregate or (known.aggregate if known else "mean"),
        "full_scale": known.full_scale if known and spec.aggregate in (None, known.aggregate) else 1.0,
        "n_total": found.n_total,
        "category_totals": dict(totals),
        "limit": limit,
        "licence": spec.licence or (known.licence if known else None),
        "notes": [*found.notes, *found.skipped.lines()],
    }
