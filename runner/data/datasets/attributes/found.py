"""What a reader of a dataset with attributes gives, and how it becomes a dataset. Light: no pyarrow, no Pillow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from runner.data.datasets.content import Content, Picture, check_once, share
from runner.data.datasets.specs import SPLITS, Split, SplitCounts, count_of
from runner.data.datasets.tables import check_paths
from runner.data.datasets.texts import check_distinct
from runner.data.sources import Source
from runner.errors import DataError


class Labelled(NamedTuple):
    """A picture with its class and the value of each attribute; None where one is not known."""

    split: Split
    sample_id: str
    source_id: str
    uri: str
    target: str | None
    values: Mapping[str, str | None]


@dataclass(frozen=True)
class Found:
    """A dataset with attributes as read.

    ``classes`` in order; ``values``: those of each attribute, in order, empty for free text; ``class_attribute``: the
    attribute that the class repeats; ``root`` holds the pictures (None: packaged sets); ``origins``: where pictures come
    from, by class or under "".
    """

    classes: list[str]
    values: dict[str, list[str]]
    pictures: list[Labelled]
    sources: list[Source]
    licence: str
    class_attribute: str | None = None
    root: Path | None = None
    origins: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Attributed:
    """A dataset with the attributes of its pictures by ``sample_id``."""

    content: Content
    found: Found
    values: dict[str, Mapping[str, str | None]]


def attributed(title: str, found: Found) -> Attributed:
    """Pictures with a class and all values, by split; the others are counted in the notes.

    Raises ``DataError`` where a path leads elsewhere, a picture stands twice, or none is left.
    """
    check_paths(title, [picture.uri for picture in found.pictures])
    check_once(title, [(picture.split, picture.sample_id) for picture in found.pictures])
    check_distinct(title, found.classes)
    kept = [p for p in found.pictures if p.target is not None and None not in p.values.values()]
    notes = [*found.notes, *_left_out(found.pictures)]
    if not kept:
        raise DataError(f"{title} has no picture with a class and its attributes", hint="; ".join(notes) or None)
    number = {name: index for index, name in enumerate(found.classes)}
    kept.sort(key=lambda picture: SPLITS.index(picture.split))
    pictures = [Picture(p.split, p.sample_id, p.source_id, p.uri, number[p.target or ""]) for p in kept]
    present = {picture.split for picture in kept}
    splits = tuple(split for split in SPLITS if split in present)
    content = Content(found.classes, pictures, found.sources, splits, found.licence, notes)
    return Attributed(content, found, {p.sample_id: p.values for p in kept})


def _left_out(pictures: Sequence[Labelled]) -> list[str]:
    """A note for the class and for each attribute that some pictures lack; a picture may count in several."""
    lacking = Counter("class" for p in pictures if p.target is None)
    lacking.update(name for p in pictures for name, value in p.values.items() if value is None)
    return [f"left out: {count} pictures without {name}" for name, count in lacking.items()]


def per_group(made: Attributed, counts: int | SplitCounts | None, seed: int) -> Attributed:
    """At most so many pictures of each split, class and combination of values (free text aside), drawn by the seed.

    Those of the smallest numbers, so that a larger count only adds pictures.
    """
    if counts is None:
        return made
    named = [name for name, values in made.found.values.items() if values]
    seen: Counter[tuple[object, ...]] = Counter()
    chosen = set()
    for picture in sorted(made.content.pictures, key=lambda p: share("group", seed, p.sample_id)):
        most = count_of(counts, picture.split)
        values = made.values[picture.sample_id]
        group = (picture.split, picture.class_index, *(values[name] for name in named))
        seen[group] += 1
        if most is None or seen[group] <= most:
            chosen.add(picture.sample_id)
    content = made.content
    pictures = [picture for picture in content.pictures if picture.sample_id in chosen]
    kept = Content(content.classes, pictures, content.sources, content.splits, content.licence, content.notes)
    return Attributed(kept, made.found, made.values)


def folder_source(root: Path, title: str) -> Source:
    """The pictures below ``root``; nothing is listed."""
    from runner.data.sources import open_source

    return open_source({"folder": str(root), "name": title})


def below(root: Path, folder: Path) -> str:
    """What stands before a path below ``folder`` to make it one below ``root``."""
    inner = folder.relative_to(root).as_posix()
    return "" if inner == "." else inner + "/"


def require(title: str, choices: Sequence[Sequence[Path]], root: Path, origin: str) -> None:
    """Raise one ``DataError`` that lists every file of which no choice is there."""
    missing = [paths for paths in choices if not any(path.exists() for path in paths)]
    if missing:
        lines = "".join(f"\n- {' or '.join(path.relative_to(root).as_posix() for path in paths)}" for paths in missing)
        raise DataError(
            f"{title}: {len(missing)} of what must stand in {root} is missing:{lines}",
            hint=f"Put it there; it comes from {origin}. Nothing is bundled or fetched.",
        )
