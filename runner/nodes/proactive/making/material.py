"""What samples are drawn with: cut-outs, photographs and icons of one split, and random numbers."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from runner.assets.packing import IMAGES, INDEX, Index
from runner.errors import DataError
from runner.nodes.dealing import dealt
from runner.nodes.nouns import NOUNS
from runner.nodes.pasting import squared
from runner.nodes.proactive.making.strokes import Stroke, flattened
from runner.nodes.proactive.making.writing import Wording
from runner.nodes.stage import Stage

SIDE = 168
"""Pixels of a cut-out at most. As `questions.make` has them by default, so that its splits are these: what is pictured twice is told
by its pixels at this size."""
CORNER = 0.4
"""Share of a photograph's sides that a ground shows."""
CHOICES = 4
"""Categories of a sample."""
SHARES = {"train": 0.75, "eval": 0.25}
SPLITS = {"test": "eval", "train": "train"}
"""Split of the material that each split of the samples is drawn with."""


class Icon(NamedTuple):
    """An outline drawing. ``strokes``: polylines (k, 2) in units of a canvas of 24, without dots."""

    name: str
    noun: str
    strokes: list[Stroke]


class Drawn(NamedTuple):
    """One sample. ``fields``: what its record says beside the choices; ``frames`` as ``frame_uris`` lists them, with the share of the
    object that each shows; ``part``: the cut-out or icon; ``layer``: of crops, the object alone, from which the share is read."""

    question: str
    answer: str
    rivals: list[str]
    asks: list[str]
    fields: dict[str, Any]
    frames: list[Image.Image]
    visible: list[float]
    part: str
    layer: Image.Image | None = None


@dataclass(frozen=True)
class Stand(Stage):
    """What one sample is drawn with: random numbers, cut-outs, pixels of a side, icons, wording."""

    icons: Mapping[str, Sequence[Icon]]
    wording: Wording

    def rivals(self, noun: str, nouns: Sequence[str], *, similar: bool = False) -> list[str]:
        """Three wrong categories. ``similar``: of the same kind of thing."""
        others = [other for other in self.mixed(nouns) if other != noun]
        if similar:
            kinds = kinds_of(nouns)
            others.sort(key=lambda other: kinds[other] != kinds[noun])
        return others[: CHOICES - 1]

    def mixed(self, items: Sequence[str]) -> list[str]:
        """The items in a random order."""
        return [items[int(place)] for place in self.draw.permutation(len(items))]

    def backdrop(self, side: int) -> Image.Image:
        """A pale ground or the corner of a photograph, too small a part to show what it is of, RGBA [side, side]."""
        if self.coin():
            pale = [255 - int(value) for value in self.draw.integers(0, 70, 3)]
            return Image.new("RGBA", (side, side), (pale[0], pale[1], pale[2], 255))
        whole = self.pick(self.kit.backgrounds)[2]
        part = (round(CORNER * whole.width), round(CORNER * whole.height))
        left, top = (self.coin() * (full - cut) for full, cut in zip(whole.size, part, strict=True))
        return squared(whole.crop((left, top, left + part[0], top + part[1])), side)

    def between(self, low: float, high: float) -> float:
        """A number, uniform."""
        return float(self.draw.uniform(low, high))


def kinds_of(nouns: Sequence[str]) -> dict[str, str]:
    """The kind of each noun. Kinds too small to fill the choices join the smallest other one: among choices of several kinds the one
    without its like, or the only pair, would be the answer."""
    held: dict[str, list[str]] = {}
    for noun in nouns:
        held.setdefault(NOUNS.get(noun, ""), []).append(noun)
    while len(held) > 1 and len(held[least := min(held, key=lambda kind: len(held[kind]))]) < CHOICES:
        few = held.pop(least)
        held[min(held, key=lambda kind: len(held[kind]))] += few
    return {noun: kind for kind, some in held.items() for noun in some}


def placed(figure: Image.Image, side: int, left: int, top: int) -> Image.Image:
    """The figure alone on a transparent canvas, RGBA [side, side]."""
    layer = Image.new("RGBA", (side, side))
    layer.paste(figure, (left, top))
    return layer


def over(ground: Image.Image, *layers: Image.Image) -> Image.Image:
    """RGBA layers upon a ground, RGB."""
    found = ground
    for layer in layers:
        found = Image.alpha_composite(found, layer)
    return found.convert("RGB")


def share_shown(layer: Image.Image, cover: Image.Image) -> float:
    """Share of a layer's opacity that a cover (RGBA, or L) leaves to be seen, 0..1."""
    opacity = np.asarray(layer.getchannel("A"), np.float64)
    left = 1 - np.asarray(cover.getchannel(cover.getbands()[-1]), np.float64) / 255
    return float((opacity * left).sum() / max(opacity.sum(), 1.0))


def icons(folder: Path, seed: int) -> dict[str, dict[str, list[Icon]]]:
    """Icons by split and noun: of a noun with several drawings some stand in each split, of one with a single drawing none does.

    Raises ``DataError`` where the folder is not the packed asset.
    """
    try:
        captions = Index.read(folder / INDEX).captions
        with zipfile.ZipFile(folder / IMAGES) as archive:
            found = [_icon(name, captions.get(name) or "", archive.read(name)) for name in sorted(archive.namelist())]
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, json.JSONDecodeError) as error:
        raise DataError(f"{folder}: not the packed icons ({str(error)[:200]!r})") from error
    by_noun: dict[str, list[Icon]] = {}
    for icon in found:
        by_noun.setdefault(icon.noun, []).append(icon)
    kept = {noun: held for noun, held in by_noun.items() if len(held) > 1}
    halves = {noun: dealt([held], {"train": 0.5, "eval": 0.5}, f"{seed}/icons/{noun}") for noun, held in kept.items()}
    return {split: {noun: halves[noun][split] for noun in kept} for split in SHARES}


def _icon(name: str, noun: str, data: bytes) -> Icon:
    """Strokes of an icon; the asset was checked when it was built."""
    root = ElementTree.fromstring(data)  # noqa: S314  verified by its hash, without document types
    paths = [element.get("d", "") for element in root if element.get("stroke") != "none"]
    return Icon(name, noun, [stroke for path in paths for stroke in flattened(path)])
