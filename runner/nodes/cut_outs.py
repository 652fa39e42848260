"""Cut-outs and photographs from image sources, for rooms that compose pictures."""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from runner.data.datasets.content import some
from runner.data.images import UnreadableImage, decode_cut_out
from runner.data.places import Place
from runner.data.sources import PackagedSource, Record, Source, open_source
from runner.errors import DataError
from runner.nodes.cut_out_specs import CutOuts, Photographs
from runner.nodes.pasting import trimmed

Warn = Callable[[str], None]
CAPTION = 300
"""Characters of a caption that words are looked for in."""


class Figure(NamedTuple):
    """A cut-out with where it comes from."""

    place: Place
    image: Image.Image


@dataclass(frozen=True)
class Material:
    """Cut-outs by class and set, places of photographs by background, and every source that something is taken of."""

    figures: Mapping[str, Mapping[str, list[Figure]]]
    photographs: Mapping[str, list[Place]]
    sources: Mapping[str, Source]

    def licences(self) -> str:
        """Licences of all parts."""
        return "; ".join(f"{name}: {source.licence or 'not stated'}" for name, source in sorted(self.sources.items()))


def gather(objects: Mapping[str, CutOuts], backgrounds: Mapping[str, Photographs], side: int, warn: Warn) -> Material:
    """Read captions and labels, and the pictures of the cut-outs. Raises ``DataError`` where a class or background has none.

    ``side``: pixels of the longest side that a cut-out needs; larger ones are made smaller once, not at every use.
    A cut-out that stands in several folders or sets counts once; one that is wanted for two classes is an error.
    """
    sources: dict[str, Source] = {}
    records = captioned({spec for pick in objects.values() for spec in pick.sets}, sources)
    owners: dict[str, str] = {}
    figures = {
        target: _figures(target, pick, [r for s in pick.sets for r in records[s]], side, owners, warn)
        for target, pick in objects.items()
    }
    photographs = {value: _photographs(value, pick, sources) for value, pick in backgrounds.items()}
    _check_apart(photographs)
    return Material(figures, photographs, sources)


def captioned(sets: Iterable[PackagedSource], sources: dict[str, Source]) -> dict[PackagedSource, list[Record]]:
    """Captioned pictures of each set; each is read once."""
    found = {}
    for spec in sets:
        source = open_source(spec)
        sources[source.source_id] = source
        found[spec] = [record for record in source if record.caption]
    return found


def matcher(words: Sequence[str]) -> re.Pattern[str]:
    """Any of the words or phrases as a whole, in any case, with or without a plural s."""
    listed = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<!\w)({listed})s?(?!\w)", re.IGNORECASE)


def _figures(
    target: str, pick: CutOuts, records: Sequence[Record], side: int, owners: dict[str, str], warn: Warn
) -> dict[str, list[Figure]]:
    wanted, unwanted = matcher(pick.captions), matcher(pick.except_captions) if pick.except_captions else None
    found: dict[str, list[Figure]] = {}
    met: set[str] = set()
    for record in records:
        caption = (record.caption or "")[:CAPTION]
        hits = wanted.findall(caption)
        ruled_out = (unwanted and unwanted.search(caption)) or any(
            fnmatch.fnmatchcase(record.uri, pattern) for pattern in pick.except_uris
        )
        image = cut_out_of(record, side, warn) if hits and not ruled_out else None
        if image is not None and _is_new(image, target, owners, record):
            met |= {hit.casefold() for hit in hits}
            found.setdefault(record.source_id, []).append(Figure(Place(record.source_id, record.uri), image))
    unmet = [word for word in pick.captions if word.casefold() not in met]
    if not found:
        raise DataError(f"no cut-out of {target!r}: no caption has {some(pick.captions)}", hint="Choose other words.")
    if unmet:
        warn(f"{target}: no cut-out is taken for {some(unmet, most=12)}")
    return found


def cut_out_of(record: Record, side: int, warn: Warn) -> Image.Image | None:
    """What is visible of a record's picture, or None (with a warning where it cannot be read)."""
    try:
        image = trimmed(decode_cut_out(record.data))
    except UnreadableImage as error:
        warn(f"{record.source_id}/{record.uri}: {error}")
        return None
    if image is not None:
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _is_new(image: Image.Image, target: str, owners: dict[str, str], record: Record) -> bool:
    """Whether these pixels were not met before. Raises ``DataError`` where another class has them."""
    key = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    owner = owners.setdefault(key, target)
    if owner == target:
        fresh = f"{target}\0{key}" not in owners
        owners[f"{target}\0{key}"] = target
        return fresh
    raise DataError(
        f"{record.source_id}/{record.uri} is a cut-out of {owner!r} and of {target!r}",
        hint="Rule it out of one with `except_captions` or `except_uris`.",
    )


def _photographs(value: str, pick: Photographs, sources: dict[str, Source]) -> list[Place]:
    source = open_source(pick.source)
    labels = source.labels()
    if labels is None:
        raise DataError(f"background {value!r}: the source {source.source_id} has no labels")
    absent = sorted({*pick.labels} - {*labels.values()})
    if absent:
        hint = f"It has {some(sorted({*labels.values()}), most=30)}."
        raise DataError(f"background {value!r}: {source.source_id} has no label {some(absent)}", hint=hint)
    sources.setdefault(source.source_id, source)
    return [Place(source.source_id, uri) for uri, label in sorted(labels.items()) if label in pick.labels]


def _check_apart(photographs: Mapping[str, list[Place]]) -> None:
    homes: dict[Place, str] = {}
    for value, places in photographs.items():
        for place in places:
            if homes.setdefault(place, value) != value:
                raise DataError(f"{place.source_id}/{place.uri} is a background of {homes[place]!r} and of {value!r}")
