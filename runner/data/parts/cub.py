"""CUB-200-2011 (Wah et al., 2011) with parts: keypoints, masks made of them, and 312 attributes.

There are no part masks in it, only 15 keypoints a picture and, as a download of its own, the mask of the whole bird. What
is made of them here, and which part an attribute belongs to, are definitions of this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runner.data.datasets.content import quoted, some
from runner.data.datasets.tables import check_paths
from runner.data.parts import cub_labels, keypoints
from runner.data.parts.cub_labels import Labels
from runner.data.parts.found import Drawn, FoundParts, grey_image, owners_of, picture_size, read_mask
from runner.data.parts.numbers import read_named, read_numbers, whole_ids
from runner.data.parts.owners import Owner
from runner.data.parts.reading import OBJECT
from runner.data.parts.specs import CubParts
from runner.errors import DataError

PARTS = ["back", "beak", "belly", "breast", "crown", "forehead", "eye", "leg", "wing", "nape", "tail", "throat"]
"""CUB's order; left and right of eye, leg and wing are one part each, which counts once where keypoints are counted: its left one
where that is visible, else its right one."""

LICENCE = "CUB-200-2011: for research; the photographs belong to third parties and must not be passed on"
HEAD = "its owner is the head (crown, forehead, eye, nape), not a single part"
SPECIES_NOTE = (
    "labels are those of the species: any cue of the species predicts every attribute, so that leakage is overstated; "
    "label_mode: image is free of that"
)
BOX_NOTE = "there are no segmentations: the whole bird is the rectangle of its bounding box"


@dataclass(frozen=True)
class Birds:
    """CUB's tables, pictures in the order of their ids. ``box`` float64 [n, 4] (x, y, width, height); ``points`` float64
    [n, 15, 2] and ``visible`` bool [n, 15] in CUB's order of parts; ``owner`` [15]: place in ``PARTS``; ``species`` [n]: place in
    ``names``. Nothing is ever rescaled in place."""

    home: Path
    ids: NDArray[np.int64]
    paths: list[str]
    train: NDArray[np.bool_]
    species: NDArray[np.int64]
    names: list[str]
    box: NDArray[np.float64]
    points: NDArray[np.float64]
    visible: NDArray[np.bool_]
    owner: NDArray[np.int64]


def read_cub(spec: CubParts) -> FoundParts:
    """The dataset that ``spec`` names. Raises ``DataError`` naming the file that is missing or wrong."""
    birds = read_birds(home_of(Path(spec.cub)))
    texts = _attributes(birds.home)
    labels = _labels(spec, birds, np.array(sorted(texts)))
    names = [texts[i] for i in sorted(texts)]
    kept = [names[a] for a in labels.kept]
    draw = Drawing(spec, birds)
    notes = [] if spec.label_mode == "image" else [SPECIES_NOTE]
    if draw.segmentations is None:
        notes.append(BOX_NOTE)
    if spec.label_mode == "class_112":
        notes.append(
            f"{len(kept)} attributes are present in at least ten species by vote (112 in the published training set)"
        )
    return FoundParts(
        root=birds.home / "images", object="bird", parts=PARTS, attributes=kept,
        owners=attribute_owners(spec.title, names, kept, owners_of(spec, "cub")), pictures=_pictures(birds),
        value=labels.value, valid=labels.valid, draw=draw, licence=LICENCE,
        excluded={name: HEAD for name in kept if name.startswith("head_pattern::")},
        part_source=spec.part_source, label_mode=spec.label_mode, notes=notes,
    )  # fmt: skip


def home_of(root: Path) -> Path:
    """The folder that holds ``images.txt``: the one named, or ``CUB_200_2011`` inside."""
    for home in (root, root / "CUB_200_2011"):
        if (home / "images.txt").is_file():
            return home
    raise DataError(f"{root} holds no images.txt, nor does CUB_200_2011 in it", hint="Unpack CUB_200_2011.tgz there.")


def read_birds(home: Path) -> Birds:
    """Tables of pictures, species, boxes and keypoints."""
    paths = read_named(home / "images.txt")
    check_paths(str(home / "images.txt"), list(paths.values()))
    ids = np.array(sorted(paths))
    names = read_named(home / "classes.txt")
    labels = _by_picture(home / "image_class_labels.txt", 2, ids)[:, 0]
    part_ids = read_named(home / "parts/parts.txt")
    points, visible = _keypoints(home / "parts/part_locs.txt", ids, np.array(sorted(part_ids)))
    box = _by_picture(home / "bounding_boxes.txt", 5, ids)
    if not (box[:, 2:] > 0).all():
        place = int(np.flatnonzero(~(box[:, 2:] > 0).all(1))[0])
        raise DataError(f"{home / 'bounding_boxes.txt'}: picture {ids[place]} has a box without area")
    return Birds(
        home, ids, [paths[i] for i in ids], _by_picture(home / "train_test_split.txt", 2, ids)[:, 0] == 1,
        whole_ids(labels, home / "image_class_labels.txt", "species", np.array(sorted(names))),
        [names[i] for i in sorted(names)], box, points, visible,
        np.array([_part(home, part_ids[i]) for i in sorted(part_ids)]),
    )  # fmt: skip


def _by_picture(path: Path, columns: int, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """Lines ``PICTURE NUMBER ...``: the numbers in the order of ``ids``."""
    rows = read_numbers(path, columns)
    places = whole_ids(rows[:, 0], path, "picture", ids)
    if len(rows) != len(ids) or len(np.unique(places)) < len(ids):
        raise DataError(f"{path}: {len(rows)} lines for {len(ids)} pictures; each has one")
    values = np.empty((len(ids), columns - 1))
    values[places] = rows[:, 1:]
    return values


def _keypoints(
    path: Path, ids: NDArray[np.int64], parts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    rows = read_numbers(path, 5)
    i, k = whole_ids(rows[:, 0], path, "picture", ids), whole_ids(rows[:, 1], path, "part", parts)
    points, visible = np.full((len(ids), len(parts), 2), np.nan), np.zeros((len(ids), len(parts)), bool)
    points[i, k], visible[i, k] = rows[:, 2:4], rows[:, 4] == 1
    return points, visible


def _part(home: Path, name: str) -> int:
    merged = name.removeprefix("left ").removeprefix("right ")
    if merged not in PARTS:
        raise DataError(f"{home / 'parts/parts.txt'}: {quoted(name)} is none of CUB's parts ({some(PARTS, most=20)})")
    return PARTS.index(merged)


def _attributes(home: Path) -> dict[int, str]:
    """``attributes.txt`` stands beside the folder in the archive, and inside it in many copies."""
    places = [home.parent / "attributes.txt", home / "attributes/attributes.txt", home / "attributes.txt"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise DataError(f"attributes.txt is neither beside nor in {home}", hint="It stands at the root of the archive.")
    return {number: name.removeprefix("has_") for number, name in read_named(path).items()}


def attribute_owners(
    title: str, attributes: list[str], kept: list[str], table: Mapping[str, Owner]
) -> dict[str, Owner]:
    """Owners of the attributes kept, by whole attribute, else by its group (``bill_shape`` of ``bill_shape::dagger``); ``has_``
    may stand before both.

    Raises ``DataError`` where a key of the table names no attribute and no group.
    """
    plain = {key.removeprefix("has_"): owner for key, owner in table.items()}
    groups = {name: name.partition("::")[0] for name in attributes}
    unknown = {*plain} - {*groups, *groups.values()}
    if unknown:
        raise DataError(
            f"{title}: owners name attributes that do not exist: {some(sorted(unknown))}",
            hint=f"Groups are {some(dict.fromkeys(groups.values()), most=40)}.",
        )
    found = {name: plain.get(name, plain.get(groups[name])) for name in kept}
    return {name: owner for name, owner in found.items() if owner is not None}


def _labels(spec: CubParts, birds: Birds, ids: NDArray[np.int64]) -> Labels:
    folder = birds.home / "attributes"
    if spec.label_mode == "class":
        path = folder / "class_attribute_labels_continuous.txt"
        return cub_labels.class_labels(cub_labels.read_percentages(path, len(birds.names), len(ids)), birds.species)
    answers = cub_labels.read_answers(folder / "image_attribute_labels.txt", birds.ids, ids)
    if spec.label_mode == "image":
        return cub_labels.image_labels(answers, spec.min_certainty)
    return cub_labels.voted_labels(answers, birds.species, birds.train, len(birds.names))


def _pictures(birds: Birds) -> list[dict[str, Any]]:
    names = [name.partition(".")[2].replace("_", " ") or name for name in birds.names]
    return [
        {"sample_id": path, "split": "train" if train else "test", "uri": path, "target": names[species]}
        for path, train, species in zip(birds.paths, birds.train.tolist(), birds.species.tolist(), strict=True)
    ]


class Drawing:
    """Draws the masks of one bird."""

    def __init__(self, spec: CubParts, birds: Birds) -> None:
        self.spec, self.birds = spec, birds
        self.segmentations = _segmentations(spec, birds.home)

    def __call__(self, i: int) -> list[Drawn]:
        """Masks and keypoints of bird i, and the whole bird: segmented, else its bounding box."""
        birds, spec = self.birds, self.spec
        width, height = picture_size(birds.home / "images" / birds.paths[i])
        whole = self._whole(i, height, width)
        seen = birds.visible[i]
        points, owner = birds.points[i][seen], birds.owner[seen]
        if spec.part_source == "masks":
            masks = [self._own(i, part, (height, width)) for part in PARTS]
        else:
            fitted = keypoints.voronoi if spec.part_source == "keypoint_voronoi" else keypoints.discs
            share = spec.voronoi_radius if spec.part_source == "keypoint_voronoi" else spec.disc_radius
            foreground = np.ones((height, width), bool) if whole is None else whole
            masks = list(fitted(points, owner, len(PARTS), foreground, share * float(np.sqrt(birds.box[i, 2:].prod()))))
        rows = [Drawn(OBJECT, boxed(birds.box[i], height, width) if whole is None else whole)]
        # of a part seen on both sides the left one, which stands first, gives the keypoint
        first = {int(part): points[k] for k, part in reversed(list(enumerate(owner.tolist())))}
        for part, mask in enumerate(masks):
            point = (float(first[part][0]), float(first[part][1])) if part in first else None
            if point is not None or (mask is not None and mask.any()):
                rows.append(Drawn(part, mask, point))
        return rows

    def _whole(self, i: int, height: int, width: int) -> NDArray[np.bool_] | None:
        if self.segmentations is None:
            return None
        path = (self.segmentations / self.birds.paths[i]).with_suffix(".png")
        if not path.is_file():
            raise DataError(f"{path} is missing", hint="Unpack segmentations.tgz completely.")
        grey = grey_image(path)
        if grey.shape != (height, width):
            raise DataError(f"{path} has {grey.shape} pixels (height, width), its picture {(height, width)}")
        return np.asarray(grey > self.spec.foreground)

    def _own(self, i: int, part: str, size: tuple[int, int]) -> NDArray[np.bool_] | None:
        path = (Path(str(self.spec.part_masks)) / part / self.birds.paths[i]).with_suffix(".png")
        if not path.is_file():
            return None
        mask = read_mask(path)
        if mask.shape != size:
            raise DataError(f"{path} has {mask.shape} pixels (height, width), its picture {size}")
        return mask


def boxed(box: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """Pixels bool [H, W] whose centres lie in the box (x, y, width, height)."""
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    left, top, across, down = box
    inside = (columns >= left) & (columns < left + across)
    return np.asarray(inside & ((rows >= top) & (rows < top + down))[:, None])


def _segmentations(spec: CubParts, home: Path) -> Path | None:
    places = (
        [Path(spec.segmentations)] if spec.segmentations else [home / "segmentations", home.parent / "segmentations"]
    )
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None and spec.part_source == "keypoint_voronoi":
        raise DataError(
            f"{home}: part_source keypoint_voronoi needs the masks of the birds, and there is no folder segmentations",
            hint="Unpack segmentations.tgz beside images, name it with `segmentations:`, or take part_source: keypoint_disc.",
        )
    return folder
