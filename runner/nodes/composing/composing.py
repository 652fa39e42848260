"""The pictures of a composed set: what stands on what, and the folders they are written to."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from runner.data.datasets.specs import SPLITS, Fractions, Split
from runner.data.images import decode
from runner.data.places import Place, read_pictures
from runner.errors import DataError
from runner.nodes.composing.specs import Sizes, SplitPlan
from runner.nodes.cut_outs import Figure, Material
from runner.nodes.dealing import cells, dealt, generator, rounds
from runner.nodes.pasting import Pose, drawn_pose, pasted

COLUMNS = ("img_id", "img_filename", "y", "split", "place", "place_filename", "object_filename")
"""Those of Waterbirds, and where the cut-out comes from."""


class Planned(NamedTuple):
    """One picture to compose. ``file`` is its path below the set's folder."""

    split: Split
    target: str
    background: str
    file: str
    figure: Figure
    photograph: Place
    pose: Pose


class Look(NamedTuple):
    """Side of the pictures, sizes of cut-outs in them, and whether half of these are mirrored."""

    size: int
    sizes: Sizes
    mirror: bool


def planned(
    material: Material, plans: Mapping[Split, SplitPlan], fractions: Fractions, look: Look, seed: int
) -> list[Planned]:
    """Every picture of every split. No cut-out and no photograph stands in two splits.

    In a split all backgrounds of a class go through the same cut-outs as often, give or take one, so that a class differs
    between its backgrounds in nothing else. Raises ``DataError`` where a split gets no cut-out or no photograph.
    """
    shares = _fractions(plans, fractions)
    figures = {t: dealt(list(sets.values()), shares, f"{seed}/{t}") for t, sets in material.figures.items()}
    grounds = {b: dealt([places], shares, f"{seed}/{b}") for b, places in material.photographs.items()}
    found: list[Planned] = []
    for split, plan in plans.items():
        _check_some(split, {t: f[split] for t, f in figures.items()} | {b: g[split] for b, g in grounds.items()})
        below = {b: rounds(g[split], f"{seed}/{split}/{b}") for b, g in grounds.items()}
        for (target, background), count in cells(plan.pictures, _shares(plan, material)).items():
            draw = generator(f"{seed}/{split}/{target}/{background}")
            above = rounds(figures[target][split], f"{seed}/{split}/{target}")  # the same order on every background
            folder = f"{[*material.figures].index(target) + 1:03d}.{target}"
            for number, figure in enumerate(islice(above, count), start=1):
                pose = drawn_pose(draw, look.size, look.sizes.least, look.sizes.most, mirror=look.mirror)
                file = f"{folder}/{split}-{background}-{number:05d}.png"
                found.append(Planned(split, target, background, file, figure, next(below[background]), pose))
    return found


def _fractions(plans: Mapping[Split, SplitPlan], fractions: Fractions) -> dict[str, float]:
    shares = {split: getattr(fractions, split) for split in plans}
    empty = [split for split, share in shares.items() if share <= 0]
    if empty:
        raise DataError(f"the split {empty[0]} has no share of the cut-outs", hint="Change `fractions`.")
    return {split: share / sum(shares.values()) for split, share in shares.items()}


def _check_some(split: str, dealt_out: Mapping[str, Sequence[object]]) -> None:
    empty = [name for name, items in dealt_out.items() if not items]
    if empty:
        raise DataError(
            f"the split {split} gets no cut-out or photograph of {empty[0]!r}",
            hint="Choose further words or sets, or fewer splits: nothing may stand in two of them.",
        )


def _shares(plan: SplitPlan, material: Material) -> dict[str, dict[str, float]]:
    """Share of each background for each class. Raises ``DataError`` for names that are no class or background."""
    even = {background: 1 / len(material.photographs) for background in material.photographs}
    given = plan.shares or {}
    wrong = [n for n in given if n not in material.figures]
    wrong += [n for values in given.values() for n in values if n not in material.photographs]
    if wrong:
        raise DataError(f"the shares name {wrong[0]!r}, which is no class or background of this set")
    return {target: dict(given.get(target, even)) for target in material.figures}


def composed(pictures: Sequence[Planned], material: Material, look: Look) -> Iterator[tuple[Planned, bytes]]:
    """PNG bytes of each picture, in order; photographs are read together, some hundred at a time."""
    sources = list(material.sources.values())
    for start in range(0, len(pictures), 512):
        part = pictures[start : start + 512]
        grounds = dict(read_pictures(sources, [picture.photograph for picture in part]))
        for picture in part:
            image = pasted(decode(grounds[picture.photograph]), picture.figure.image, look.size, picture.pose)
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            yield picture, buffer.getvalue()


def write_table(folder: Path, pictures: Sequence[Planned], material: Material, about: str) -> None:
    """``metadata.csv`` as Waterbirds has it, and what the set is made of, as text."""
    targets, backgrounds = [*material.figures], [*material.photographs]
    with (folder / "metadata.csv").open("w", newline="", encoding="utf8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for number, p in enumerate(pictures, start=1):
            y, place = targets.index(p.target), backgrounds.index(p.background)
            sources = ["/".join(p.photograph), "/".join(p.figure.place)]
            writer.writerow([number, p.file, y, SPLITS.index(p.split), place, *sources])
    (folder / "README.txt").write_text(about + "\n", encoding="utf8")


def branch(picture: Planned, attribute: str) -> str:
    """Path of a picture in a tree TARGET/ATTRIBUTE/VALUE/file, which ``retrieval.folder_tree`` reads."""
    return f"{picture.target}/{attribute}/{picture.background}/{picture.file.rpartition('/')[2]}"


def write_picture(path: Path, data: bytes) -> None:
    """Write a file into a folder that need not be there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def summary(pictures: Sequence[Planned]) -> dict[str, Any]:
    """Numbers of pictures, and of different cut-outs and photographs, as a reader wants to see them."""
    shown = Counter(f"{p.split}, {p.target} on {p.background}" for p in pictures)
    figures = Counter(f"{s}, {t}, {place.source_id}" for s, t, place in {(p.split, p.target, p.figure.place) for p in pictures})  # fmt: skip
    grounds = Counter(f"{s}, {b}" for s, b, _ in {(p.split, p.background, p.photograph) for p in pictures})
    return {"pictures": dict(shown), "cut_outs": dict(sorted(figures.items())), "photographs": dict(grounds)}
