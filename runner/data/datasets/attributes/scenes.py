"""Waterbirds, CelebA and ViSU."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from runner.data.datasets.attributes.found import Found, Labelled, below, folder_source, require
from runner.data.datasets.attributes.specs import CelebaDataset, VisuDataset, WaterbirdsDataset
from runner.data.datasets.celeba import ATTRIBUTE_FILES, PARTITION_FILES, image_folder, read_attributes, read_partition
from runner.data.datasets.celeba import text_file as celeba_file
from runner.data.datasets.content import dealt, quoted, some
from runner.data.datasets.specs import SPLITS, Split
from runner.data.datasets.tables import read_text, table_rows
from runner.data.datasets.texts import one_line
from runner.errors import DataError

WATERBIRDS_FOLDERS = ("waterbird_complete95_forest2water2", "waterbirds_complete95_forest2water2")
WATERBIRDS_TABLE = "metadata.csv"
BIRDS, PLACES = ("landbird", "waterbird"), ("land", "water")
WATERBIRDS_LICENCE = "birds: CUB-200-2011, non-commercial research use; places: Places, research use"
WATERBIRDS_ORIGIN = "the group_DRO repository (kohpangwei/group_DRO, waterbird_complete95_forest2water2.tar.gz)"

CELEBA_LICENCE = "non-commercial research use"
CELEBA_ORIGIN = "the CelebA page (aligned and cropped faces)"
CELEBA_CLASSES = {"Blond_Hair": ["dark hair", "blond hair"], "Male": ["Female", "Male"]}
GENDERS = ("Female", "Male")

VISU_LICENCE = "ViSU: gated, non-commercial use; safe pictures: COCO, terms of their photographers"
VISU_SAFE = "COCO (as visu/coco_images/<coco_id>.jpg)"
VISU_UNSAFE = (
    "nowhere, they are not distributed: generate each from its unsafe caption and store it as <split folder>/"
    "<incremental_id>.jpg, or write `pictures: safe`"
)
VISU_BYTES = 512 * 2**20
MAX_CAPTION = 2000
SAFETY = ("safe", "unsafe")

C = TypeVar("C", bound=str)


# --- Waterbirds -------------------------------------------------------------------------------------------------------


def read_waterbirds(spec: WaterbirdsDataset, title: str) -> Found:
    """Pictures of all splits in the order of ``metadata.csv``. Raises ``DataError`` naming the line of a malformed row."""
    root = Path(spec.waterbirds)
    homes = [root / name for name in WATERBIRDS_FOLDERS]
    home = next((place for place in (root, *homes) if (place / WATERBIRDS_TABLE).exists()), None)
    if home is None:
        require(title, [[place / WATERBIRDS_TABLE for place in (*homes, root)]], root, WATERBIRDS_ORIGIN)
    assert home is not None
    path, prefix = home / WATERBIRDS_TABLE, below(root, home)
    pictures = []
    for line, (file, bird, split, place) in table_rows(path, ("img_filename", "y", "split", "place")):
        where = f"{path}, line {line}"
        values = {"place": _choice(PLACES, place, "place", where)}
        named = _choice(SPLITS, split, "split", where)
        pictures.append(Labelled(named, file, title, prefix + file, _choice(BIRDS, bird, "y", where), values))
    return Found(
        classes=[*BIRDS], values={"place": [*PLACES]}, pictures=pictures, sources=[folder_source(root, title)],
        licence=WATERBIRDS_LICENCE, root=root, origins={"": WATERBIRDS_ORIGIN},
    )  # fmt: skip


def _choice(choices: tuple[C, ...], text: str, column: str, where: str) -> C:
    """What a column's number from 0 on stands for."""
    if text not in [str(number) for number in range(len(choices))]:
        raise DataError(f"{where}: {column} is a number from 0 to {len(choices) - 1}, not {quoted(text)}")
    return choices[int(text)]


# --- CelebA -----------------------------------------------------------------------------------------------------------


def read_celeba(spec: CelebaDataset, title: str, seed: int) -> Found:
    """Pictures in the order of the attribute file; splits of the partition file, else dealt out."""
    root = Path(spec.celeba)
    table = read_attributes(celeba_file(root, ATTRIBUTE_FILES))
    unknown = [name for name in (spec.target, *spec.attributes) if name not in table.names]
    if unknown:
        raise DataError(
            f"{title}: CelebA has no attribute {some(unknown)}",
            hint=f"It has {some(table.names, most=len(table.names))}.",
        )
    classes = spec.classes or CELEBA_CLASSES.get(spec.target) or _yes_no_texts(spec.target)
    columns = {name: table.present[:, table.names.index(name)].tolist() for name in (spec.target, *spec.attributes)}
    splits, notes = _celeba_splits(spec, root, table.files, seed)
    prefix = below(root, image_folder(root, table.files[0]))
    called = {name: ("gender", GENDERS) if name == "Male" else (name, ("no", "yes")) for name in spec.attributes}
    pictures = [
        Labelled(
            split, file, title, prefix + file, classes[columns[spec.target][row]],
            {label: texts[columns[name][row]] for name, (label, texts) in called.items()},
        )
        for row, file in enumerate(table.files)
        if (split := splits.get(file))
    ]  # fmt: skip
    return Found(
        classes=classes, values={label: [*texts] for label, texts in called.values()}, pictures=pictures,
        sources=[folder_source(root, title)], licence=CELEBA_LICENCE,
        class_attribute=called[spec.target][0] if spec.target in called else None,
        root=root, origins={"": CELEBA_ORIGIN}, notes=notes,
    )  # fmt: skip


def _yes_no_texts(name: str) -> list[str]:
    text = name.replace("_", " ").lower()
    return [f"not {text}", text]


def _celeba_splits(spec: CelebaDataset, root: Path, files: list[str], seed: int) -> tuple[dict[str, Split], list[str]]:
    """Split by file, and notes: the partition's, or dealt by the file's name where there is no partition file."""
    try:
        path = celeba_file(root, PARTITION_FILES)
    except DataError:
        note = f"{PARTITION_FILES[0]} is not there: pictures are dealt to splits by `fractions`"
        return {file: dealt(file, spec.fractions, seed) for file in files}, [note]
    parts = read_partition(path)
    found = {file: SPLITS[parts[file]] for file in files if file in parts}
    without = len(files) - len(found)
    return found, [f"left out: {without} pictures that {path.name} does not name"] if without else []


# --- ViSU -------------------------------------------------------------------------------------------------------------


def read_visu(spec: VisuDataset, title: str) -> Found:
    """Each quadruple as ``<incremental_id>/safe`` and ``<incremental_id>/unsafe``; splits whose file is there."""
    root = Path(spec.visu)
    home = root / "visu" if (root / "visu").is_dir() else root
    files = {split: home / f"{split}.json" for split in SPLITS}
    require(title, [list(files.values())], root, "the ViSU page (aimagelab/ViSU-Text, gated)")
    wanted = SAFETY if spec.pictures == "both" else SAFETY[:1]
    prefix = below(root, home)
    pictures = [
        picture
        for split, path in files.items()
        if path.exists()
        for number, entry in enumerate(_entries(path), start=1)
        for picture in _quadruple(entry, split, title, prefix, f"{path}, entry {number}")
        if picture.target in wanted
    ]
    return Found(
        classes=[*wanted], values={"safety": [*wanted], "caption": []}, pictures=pictures,
        sources=[folder_source(root, title)], licence=VISU_LICENCE, class_attribute="safety", root=root,
        origins={"safe": VISU_SAFE, "unsafe": VISU_UNSAFE},
    )  # fmt: skip


def _entries(path: Path) -> list[Any]:
    try:
        content = json.loads(read_text(path, most=VISU_BYTES))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {str(error)[:200]}") from error
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of objects with incremental_id, coco_id, safe and nsfw")
    return content


def _quadruple(entry: object, split: Split, title: str, prefix: str, where: str) -> Iterator[Labelled]:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: expected an object, found {quoted(entry)}")
    number, coco = (_identifier(entry, key, where) for key in ("incremental_id", "coco_id"))
    folder = "test" if split == "test" else "train"  # pictures of val stand with those of train
    uris = {"safe": f"{prefix}coco_images/{coco}.jpg", "unsafe": f"{prefix}{folder}/{number}.jpg"}
    for safety, key in zip(SAFETY, ("safe", "nsfw"), strict=True):
        values = {"safety": safety, "caption": _caption(entry, key, where)}
        yield Labelled(split, f"{number}/{safety}", title, uris[safety], safety, values)


def _identifier(entry: dict[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    text = str(value) if isinstance(value, (int, str)) and not isinstance(value, bool) else ""
    if not (text.isascii() and text.replace("_", "").replace("-", "").isalnum()) or len(text) > 100:
        raise DataError(f"{where}: {key} is a number or a plain name, not {quoted(value)}")
    return text


def _caption(entry: dict[str, Any], key: str, where: str) -> str | None:
    """The caption on one line and of bounded length; None where it is empty."""
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: {key} is a caption, not {quoted(value)}")
    return one_line((value or "")[: 2 * MAX_CAPTION])[:MAX_CAPTION] or None
