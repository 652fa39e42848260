"""Made data as ``PartImages``: pictures drawn and written once, masks and labels beside them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runner.assets.packing import IMAGES
from runner.context import item_key
from runner.data.datasets.specs import Fractions
from runner.data.parts import openmoji_set, planted
from runner.data.parts.building import MaskRow, mask_table, part_images
from runner.data.parts.made_design import generator
from runner.data.parts.made_home import home, png
from runner.data.parts.made_specs import Apart, Background, Jitter, Recolour, Tie
from runner.data.parts.openmoji_parts import PARTS
from runner.data.parts.openmoji_set import Design, Pixels
from runner.data.parts.reading import OBJECT
from runner.errors import DataError

if TYPE_CHECKING:
    from runner.artifacts import PartImages
    from runner.assets.packaged import PackagedImages
    from runner.context import StepContext

LAYOUT = "2"
"""Raised when the same parameters would give other pictures."""
MOST_BYTES = 4 << 30
"""Pixels of planted pictures, which stand in memory together."""
PHOTOGRAPHS = "cifar10-train-sample"
OPENMOJI_LICENCE = "CC-BY-SA-4.0 (OpenMoji, the open-source emoji project; recoloured by this project)"
OPENMOJI_NOTE = (
    "drawings by OpenMoji (CC BY-SA 4.0) in colours drawn at random; colours of different parts are independent by design, "
    "unless `correlate` ties them; masks hold no pixel of a smoothed edge between two colours, which holds at "
    "`side` pixels: choose the size that the backbone scales pictures to, since scaling mixes colours across edges again"
)
PLANTED_NOTE = "planted data: noise and one colour sign a quadrant; every bit's place is known, exactly so where pictures are not scaled"


class OpenmojiPlan(NamedTuple):
    """Parameters of ``parts.openmoji``."""

    pictures: int | None
    side: int
    fractions: Fractions
    apart: Apart
    recolour: Recolour
    tie: Tie | None
    background: Background
    jitter: Jitter | None
    seed: int

    def plain(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {k: v.model_dump() if hasattr(v, "model_dump") else v for k, v in self._asdict().items()}


def openmoji_images(ctx: StepContext, plan: OpenmojiPlan, drawings: Path, thumbnails: int) -> PartImages:
    """Draw the set and gather its masks and labels."""
    people = openmoji_set.people(drawings)
    pictures = len(people) if plan.pictures is None else plan.pictures
    made = openmoji_set.designs(
        people, pictures, plan.fractions, plan.apart, plan.recolour, plan.tie, plan.jitter, plan.seed
    )
    photographs = _photographs() if plan.background == "photographs" else None
    grounds = _grounds(plan.background, plan.side, photographs, plan.seed)
    names = openmoji_set.attribute_names(plan.recolour)
    parts = [part for part in PARTS if part in plan.recolour.by_part()]
    given: list[list[tuple[int, int]]] = []
    with home(ctx, "openmoji", _key(plan, drawings, photographs)) as (draft, final):
        rows = _drawn(ctx, made, draft, plan.side, grounds, names, given)
        masks = mask_table(rows, parts, [design.sample_id for design in made])
    labels = np.array(given, np.uint8)
    return part_images(
        name="openmoji",
        object="person",
        parts=parts,
        attributes=list(names),
        owners=names,
        pictures=[_row(design) for design in made],
        corpus=[{"folder": str(final), "name": "openmoji"}],
        masks=masks,
        value=labels[..., 0],
        valid=labels[..., 1],
        groups=openmoji_set.drawing_numbers(made),
        notes=[OPENMOJI_NOTE, *_tie_notes(plan.tie)],
        exact_masks=True,
        licence=OPENMOJI_LICENCE + (f"; {PHOTOGRAPHS}: {photographs.licence}" if photographs else ""),
        thumbnails=thumbnails,
        needed=[split for split in ("train", "test") if getattr(plan.fractions, split) > 0],
    )


def _key(plan: OpenmojiPlan, drawings: Path, photographs: PackagedImages | None) -> str:
    identity = hashlib.sha256((drawings / IMAGES).read_bytes()).hexdigest()
    grounds = photographs.fingerprint if photographs else None
    return item_key("openmoji", LAYOUT, identity, plan.plain(), grounds, version("resvg_py"))[:24]


def _drawn(
    ctx: StepContext,
    made: Sequence[Design],
    folder: Path,
    side: int,
    grounds: Callable[[Design], Pixels],
    names: Mapping[str, str],
    given: list[list[tuple[int, int]]],
) -> Iterator[MaskRow]:
    """Masks of each picture; writes the picture and appends its labels on the way."""
    for row, design in enumerate(ctx.track(made, unit="images")):
        found = openmoji_set.drawn(design, side)
        (folder / design.sample_id).write_bytes(png(openmoji_set.over(found.pixels, grounds(design))))
        given.append(list(openmoji_set.labels(design, found.masks, names)))
        yield MaskRow(row, OBJECT, found.object)
        for part, mask in found.masks.items():
            yield MaskRow(row, part, mask)


def _row(design: Design) -> dict[str, Any]:
    name = design.sample_id
    return {
        "sample_id": name, "split": design.split, "source_id": "openmoji", "uri": name, "target": design.person.gender or "person",
    }  # fmt: skip


def _tie_notes(tie: Tie | None) -> list[str]:
    if tie is None:
        return []
    share = f"{tie.strength:g} of the pictures of {', '.join(tie.splits)}"
    return [f"the colour of {tie.second} follows that of {tie.first} in {share}"]


def _photographs() -> PackagedImages:
    from runner.assets import source_of

    return source_of(PHOTOGRAPHS)


def _grounds(
    background: Background, side: int, photographs: PackagedImages | None, seed: int
) -> Callable[[Design], Pixels]:
    """What a picture stands on, by its design. Photographs of different splits are different ones."""
    if photographs is not None:
        return _photograph_of(photographs, side, seed)
    white = np.full((side, side, 3), 255, np.uint8)
    if background == "white":
        return lambda design: white
    return lambda design: np.broadcast_to(_plain(design.ground), (side, side, 3))


def _plain(number: int) -> Pixels:
    return generator("plain", number).integers(40, 256, 3).astype(np.uint8)


def _photograph_of(photographs: PackagedImages, side: int, seed: int) -> Callable[[Design], Pixels]:
    from PIL import Image

    uris = photographs.uris()
    order = generator(seed, "photographs").permutation(len(uris))
    halves = {"train": order[0::3], "val": order[1::3], "test": order[2::3]}

    def ground(design: Design) -> Pixels:
        pool = halves[design.split]
        data = photographs.read(uris[pool[design.ground % len(pool)]])
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))

    return ground


def planted_images(
    ctx: StepContext, pictures: int, correlation: float, side: int, noise: float, seed: int, thumbnails: int
) -> PartImages:
    """Planted quadrants, half for training, half for testing."""
    if side % 2:
        raise DataError(f"a side of {side} pixels has no quadrants", hint="Give an even `side`.")
    if pictures * side**2 * 3 > MOST_BYTES:
        raise DataError(
            f"{pictures} pictures of {side} pixels do not fit into memory", hint="Ask for fewer, or smaller."
        )
    made = planted.planted(pictures, correlation, side, noise, seed)
    ids = [f"{'train' if train else 'test'}-{i:05d}.png" for i, train in enumerate(made.train)]
    names = [f"{part}: bit" for part in planted.PARTS]
    with home(ctx, "planted", item_key("planted", LAYOUT, pictures, correlation, side, noise, seed)[:24]) as (
        new,
        final,
    ):
        for name, pixels in zip(ctx.track(ids, unit="images"), made.pictures, strict=True):
            (new / name).write_bytes(png(pixels))
    return part_images(
        name="planted",
        object="picture",
        parts=planted.PARTS,
        attributes=names,
        owners=dict(zip(names, planted.PARTS, strict=True)),
        pictures=[_planted_row(name) for name in ids],
        corpus=[{"folder": str(final), "name": "planted"}],
        masks=_quadrants(len(ids), planted.masks(side)),
        value=made.bits,
        valid=np.ones_like(made.bits),
        notes=[f"{PLANTED_NOTE}; one unit of the picture is {planted.scale(noise):.1f} steps of 8 bits around 127.5"],
        exact_masks=True,
        licence="made by this project",
        thumbnails=thumbnails,
    )


def _planted_row(name: str) -> dict[str, Any]:
    return {"sample_id": name, "split": name.partition("-")[0], "source_id": "planted", "uri": name}


def _quadrants(count: int, masks: NDArray[np.bool_]) -> Iterator[MaskRow]:
    for row in range(count):
        for part, mask in zip(planted.PARTS, masks, strict=True):
            yield MaskRow(row, part, mask)
