"""Cut-outs by the noun that they depict, and photographs, dealt to splits: no drawing stands in two."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from runner.data.images import decode
from runner.data.places import Place
from runner.data.sources import PackagedSource, Record, Source, open_source
from runner.errors import DataError
from runner.nodes.cut_outs import Figure, captioned, cut_out_of
from runner.nodes.dealing import dealt
from runner.nodes.nouns import ALIASES, FACES, NOT_THESE, NOUNS

Warn = Callable[[str], None]
_ENDS = re.compile(r"[,:;(.]| with | of | in | on | and ")
_UNWANTED = re.compile(rf"(?<!\w)({'|'.join(NOT_THESE)})s?(?!\w)")


def depicted(caption: str) -> str | None:
    """The noun that a caption names as its head ("guide dog": dog; "dog house", "hot dog": not a dog), or None."""
    text = caption[:120].casefold().strip()
    if _UNWANTED.search(text):
        return None
    words = re.findall(r"[a-z]+", _ENDS.split(text)[0])
    if words and words[-1] in FACES:
        words.pop()
    if not words or len(words) > 4:
        return None
    head = words[-1]
    head = ALIASES.get(head, head)
    return head if head in NOUNS else None


@dataclass(frozen=True)
class Kit:
    """What pictures of one split are made of. ``photographs``: decoded, with their labels."""

    figures: Mapping[str, Sequence[Figure]]
    photographs: Sequence[tuple[Place, str, Image.Image]]

    @cached_property
    def nouns(self) -> list[str]:
        """The nouns with a cut-out, in the order of the list."""
        return [noun for noun in NOUNS if self.figures.get(noun)]

    @cached_property
    def backgrounds(self) -> list[tuple[Place, str, Image.Image]]:
        """Photographs that show none of the nouns, so that what stands before them is the only answer."""
        return [photograph for photograph in self.photographs if depicted(photograph[1]) is None]


@dataclass(frozen=True)
class Stock:
    """Kits by split; licence and fingerprint of every set that something is taken of."""

    kits: Mapping[str, Kit]
    licences: Mapping[str, str]
    fingerprints: Mapping[str, str]


def stocked(
    sets: Sequence[PackagedSource], photographs: PackagedSource, fractions: Mapping[str, float], side: int, seed: int,
    warn: Warn, *, photograph_limit: int = 1500,
) -> Stock:  # fmt: skip
    """Cut-outs of the sets by noun and photographs, each in one split. ``side``: pixels that a cut-out needs at most.

    Of a noun that the sets depict fewer times than there are splits nothing is taken: it could not stand in all of them.
    Raises ``DataError`` where no noun remains.
    """
    sources: dict[str, Source] = {}
    records = captioned(sets, sources)
    found = _by_noun([record for spec in sets for record in records[spec]], side, warn)
    kept = {noun: figures for noun, figures in found.items() if len(figures) >= 2 * len(fractions)}
    if not kept:
        raise DataError("no noun is depicted often enough", hint="Name more image sets under `sets`.")
    figures = {noun: dealt(_grouped(figures), fractions, f"{seed}/{noun}") for noun, figures in kept.items()}
    photos = open_source(photographs)
    sources[photos.source_id] = photos
    grounds = _photographs(photos, fractions, seed, photograph_limit)
    kits = {split: Kit({n: f[split] for n, f in figures.items()}, grounds[split]) for split in fractions}
    listed = sorted(sources.items())
    licences = {name: source.licence or "not stated" for name, source in listed}
    return Stock(kits, licences, {name: source.fingerprint() for name, source in listed})


def _by_noun(records: Sequence[Record], side: int, warn: Warn) -> dict[str, list[Figure]]:
    """Cut-outs by noun; the same pixels count once."""
    found: dict[str, list[Figure]] = {}
    met: set[bytes] = set()
    for record in records:
        noun = depicted(record.caption or "")
        image = None if noun is None else cut_out_of(record, side, warn)
        if noun is None or image is None:
            continue
        key = hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
        if key not in met:
            met.add(key)
            place = Place(record.source_id, record.uri)
            found.setdefault(noun, []).append(Figure(place, image))
    return found


def _grouped(figures: Sequence[Figure]) -> list[list[Figure]]:
    groups: dict[str, list[Figure]] = {}
    for figure in figures:
        groups.setdefault(figure.place.source_id, []).append(figure)
    return list(groups.values())


def _photographs(
    source: Source, fractions: Mapping[str, float], seed: int, limit: int
) -> dict[str, list[tuple[Place, str, Image.Image]]]:
    labels = source.labels() or {}
    places = [Place(source.source_id, uri) for uri in sorted(labels)]
    dealt_out = dealt([places], fractions, f"{seed}/photographs")
    found: dict[str, list[tuple[Place, str, Image.Image]]] = {}
    for split, share in fractions.items():
        wanted = dealt_out[split][: max(1, round(limit * share))]
        data = dict(source.read_many([place.uri for place in wanted]))
        found[split] = [(place, labels[place.uri], decode(data[place.uri])) for place in wanted]
    return found
