"""Pictures of OpenMoji's people with hair, skin, clothing and headwear in colours drawn at random, and their exact masks.

A pixel belongs to a part when the part's colour covers it wholly and nothing but line art lies above: pixels on smoothed edges
between two colours belong to no part, so that no pixel of a part tells of another part's colour. Line art belongs to what lies
below it, where there is nothing below to the object only. All of this is a definition of this project.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.assets.packing import IMAGES, INDEX, Index
from runner.data.datasets.content import quoted
from runner.data.datasets.specs import SPLITS, Fractions, Split
from runner.data.parts.made_design import apportioned, deck, generator, spread, tied
from runner.data.parts.made_specs import HEX, Apart, Jitter, Recolour, Tie, check_tie
from runner.data.parts.openmoji_parts import LINE, PARTS, Person, person, shade
from runner.data.parts.openmoji_svg import View, rendered, shapes, svg
from runner.errors import DataError

LEAST_SHARE = 0.002
"""A part that covers less of its picture does not count as shown."""
MASK_COLOURS = {"hair": "#ff0000", "skin": "#00ff00", "clothing": "#0000ff", "headwear": "#ffff00", "other": "#00ffff"}
"""Corners of the colour cube: no mixture of two of them is a third, so that a pure one means that nothing else is there."""

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Design:
    """One picture to make. ``colours``: name of the colour of each recoloured part; ``ground``: number of its background."""

    sample_id: str
    split: Split
    person: Person
    colours: Mapping[str, str]
    view: View
    ground: int


class Rendered(NamedTuple):
    """``pixels`` RGBA uint8 [side, side, 4]; ``masks`` by part, those that are shown; ``object`` lines and all."""

    pixels: Pixels
    masks: dict[str, Mask]
    object: Mask


def people(folder: Path) -> list[Person]:
    """The drawings of the packed asset. Raises ``DataError`` where the folder is not that."""
    try:
        captions = Index.read(folder / INDEX).captions
        with zipfile.ZipFile(folder / IMAGES) as archive:
            return [person(n, captions.get(n) or "", shapes(n, archive.read(n))) for n in sorted(archive.namelist())]
    except (OSError, zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise DataError(f"{folder}: not the packed drawings ({quoted(str(error))})") from error


def designs(
    drawings: Sequence[Person],
    pictures: int,
    fractions: Fractions,
    apart: Apart,
    recolour: Recolour,
    tie: Tie | None,
    jitter: Jitter | None,
    seed: int,
) -> list[Design]:
    """Every picture of every split. In a split all drawings, and all colours of a part, are used as often, give or take one, each
    drawn independently of the others (but for the tie).

    ``apart``: a drawing stands in one split only; with ``role`` all drawings of its role stand there too. A role's woman, man and
    person wear the same: dealt to different splits, the clothes would tell by elimination who is missing in the other split,
    and probes of such attributes would fall below chance. Roles are dealt so that splits have long hair alike.

    Raises ``DataError`` where a split that has a share gets no drawing or no picture, and for a tie that cannot hold.
    """
    if tie is not None:
        try:
            check_tie(tie, recolour)
        except ValueError as error:
            raise DataError(str(error)) from None
    shares = {split: share for split in SPLITS if (share := getattr(fractions, split)) > 0}
    roles: dict[str, list[Person]] = {}
    for drawing in drawings:
        roles.setdefault(drawing.role, []).append(drawing)
    dealt = _dealt(list(roles.values()), shares, apart, generator(seed, "drawings"))
    found = []
    for split, count in apportioned(pictures, shares).items():
        if not count or not dealt[split]:
            raise DataError(f"the split {split} gets no picture", hint="Ask for more `pictures` or fewer splits.")
        found += _split(split, count, dealt[split], recolour, tie, jitter, seed)
    return found


def _dealt(
    roles: list[list[Person]], shares: Mapping[Split, float], apart: Apart, draw: np.random.Generator
) -> dict[Split, list[Person]]:
    if apart == "drawing":
        return spread(roles, shares, draw)
    found = spread(_by_long_hair(roles), shares, draw)
    return {split: [who for role in held for who in role] for split, held in found.items()}


def _by_long_hair(roles: list[list[Person]]) -> list[list[list[Person]]]:
    """Roles by how many of their drawings have long hair, and of how many: each group is spread over the splits by itself."""
    groups: dict[tuple[int, int], list[list[Person]]] = {}
    for role in roles:
        groups.setdefault((sum(who.long_hair for who in role), len(role)), []).append(role)
    return [groups[key] for key in sorted(groups, reverse=True)]


def _split(
    split: Split, count: int, drawings: Sequence[Person], recolour: Recolour, tie: Tie | None, jitter: Jitter | None,
    seed: int,
) -> list[Design]:  # fmt: skip
    palettes = recolour.by_part()
    which = deck(count, len(drawings), generator(seed, split, "which"))
    chosen = {part: deck(count, len(names), generator(seed, split, part)) for part, names in palettes.items()}
    if tie is not None and split in tie.splits:
        draw = generator(seed, split, "tie")
        chosen[tie.second] = tied(chosen[tie.first], chosen[tie.second], tie.strength, draw)
    views = _views(count, jitter, generator(seed, split, "views"))
    grounds = generator(seed, split, "grounds").integers(0, 2**31, count)
    return [
        Design(
            f"{split}-{i:05d}.png", split, drawings[which[i]],
            {part: palettes[part][numbers[i]] for part, numbers in chosen.items()}, views[i], int(grounds[i]),
        )
        for i in range(count)
    ]  # fmt: skip


def _views(count: int, jitter: Jitter | None, draw: np.random.Generator) -> list[View]:
    if jitter is None:
        return [View()] * count
    scales = draw.uniform(jitter.smallest, jitter.largest, count)
    shifts = draw.uniform(-jitter.shift, jitter.shift, (count, 2))
    turned = draw.random(count) < (0.5 if jitter.mirror else 0.0)
    return [
        View(float(scale), float(right), float(down), bool(turn))
        for scale, (right, down), turn in zip(scales, shifts, turned, strict=True)
    ]


def drawn(design: Design, side: int) -> Rendered:
    """Render one picture and its masks (two renderings)."""
    who, painted, coded = design.person, [], []
    for shape, part in zip(who.shapes, who.parts, strict=True):
        recoloured = part in design.colours and shape.colour is not None
        painted.append(shape.coloured(_colour(design, part, shape.colour or "")) if recoloured else shape)
        if part != LINE:
            coded.append(shape.coloured(MASK_COLOURS[part]))
    pixels = rendered(svg(painted, design.view), side)
    codes = rendered(svg(coded, design.view), side)
    masks = {part: pure(codes, MASK_COLOURS[part]) for part in PARTS if part in design.colours}
    shown = {part: mask for part, mask in masks.items() if mask.mean() >= LEAST_SHARE}
    return Rendered(pixels, shown, pixels[..., 3] >= 128)


def _colour(design: Design, part: str, colour: str) -> str:
    return shade(HEX[part][design.colours[part]], colour, design.person.mains[part])


def pure(codes: Pixels, colour: str) -> Mask:
    """Where RGBA pixels uint8 [H, W, 4] are exactly one opaque colour: bool [H, W]."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)] + [255], np.uint8)
    return np.asarray(np.ascontiguousarray(codes).view(np.uint32)[..., 0] == wanted.view(np.uint32))


def over(pixels: Pixels, ground: Pixels) -> Pixels:
    """RGBA uint8 [H, W, 4] laid over an opaque picture uint8 [H, W, 3]; exact where alpha is 0 or 255."""
    alpha = pixels[..., 3:].astype(np.uint32)
    mixed = pixels[..., :3] * alpha + ground * (255 - alpha)
    return ((mixed + 127) // 255).astype(np.uint8)


def drawing_numbers(made: Sequence[Design]) -> list[int]:
    """The number of each picture's drawing: pictures of one drawing differ in colours only and are no independent sample."""
    number = {name: i for i, name in enumerate(sorted({design.person.name for design in made}))}
    return [number[design.person.name] for design in made]


def attribute_names(recolour: Recolour) -> dict[str, str]:
    """Attributes with their owners: one for each colour of each part, ``hair: long``, and two of the whole person."""
    found = {f"{part}: {name}": part for part, names in recolour.by_part().items() for name in names}
    return found | {"hair: long": "hair", "woman": "global", "man": "global"}


def labels(design: Design, shown: Mapping[str, Mask], names: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """(value, valid) of each attribute; those of a part that is not shown are not valid."""
    who = design.person
    for name, owner in names.items():
        if owner == "global":
            yield int(who.gender == name), 1
        elif owner not in shown:
            yield 0, 0
        elif name == "hair: long":
            yield int(who.long_hair), 1
        else:
            yield int(name == f"{owner}: {design.colours[owner]}"), 1
