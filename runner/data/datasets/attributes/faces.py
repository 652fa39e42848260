"""FairFace and UTKFace: faces with gender, race and age."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from runner.data.datasets.attributes.found import Found, Labelled, below, folder_source, require
from runner.data.datasets.attributes.specs import FairfaceDataset, UtkfaceDataset
from runner.data.datasets.content import dealt, quoted, some
from runner.data.datasets.specs import Split
from runner.data.datasets.tables import table_rows
from runner.data.datasets.texts import optional_name
from runner.errors import DataError

FAIRFACE_FILES: Mapping[Split, str] = {"train": "fairface_label_train.csv", "val": "fairface_label_val.csv"}
FAIRFACE_VALUES: Mapping[str, list[str]] = {
    "gender": ["Male", "Female"],
    "race": ["Black", "East Asian", "Indian", "Latino_Hispanic", "Middle Eastern", "Southeast Asian", "White"],
    "age": ["0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70"],
}
FAIRFACE_LICENCE, FAIRFACE_ORIGIN = "CC-BY-4.0", "the FairFace repository (joojs/fairface, padding 0.25)"

UTK_GENDERS = ["Male", "Female"]
UTK_RACES = ["White", "Black", "Asian", "Indian"]
UTK_LICENCE = "non-commercial research use; the pictures belong to their photographers"
UTK_ORIGIN = "the UTKFace page (aligned and cropped faces)"
_ENDINGS = (".jpg", ".jpeg", ".png")
_OLDEST = 120


def read_fairface(spec: FairfaceDataset, title: str) -> Found:
    """Pictures of the label files that are there. Raises ``DataError`` naming file and line of a malformed row."""
    root = Path(spec.fairface)
    files = {split: root / name for split, name in FAIRFACE_FILES.items()}
    require(title, [list(files.values())], root, FAIRFACE_ORIGIN)
    names = list(dict.fromkeys([*spec.attributes, spec.target]))
    pictures = []
    for split, path in files.items():
        if path.exists():
            for line, (file, *texts) in table_rows(path, ("file", *names)):
                values = {n: _fairface_value(path, line, n, text) for n, text in zip(names, texts, strict=True)}
                kept: dict[str, str | None] = {name: values[name] for name in spec.attributes}
                pictures.append(Labelled(split, file, title, file, values[spec.target], kept))
    absent = [path.name for path in files.values() if not path.exists()]
    return Found(
        classes=list(FAIRFACE_VALUES[spec.target]),
        values={name: list(FAIRFACE_VALUES[name]) for name in spec.attributes},
        pictures=pictures,
        sources=[folder_source(root, title)],
        licence=FAIRFACE_LICENCE,
        class_attribute=spec.target if spec.target in spec.attributes else None,
        root=root,
        origins={"": FAIRFACE_ORIGIN},
        notes=[f"without {name}: it is not there" for name in absent],
    )


def _fairface_value(path: Path, line: int, name: str, text: str) -> str | None:
    value = optional_name(text, f"{path}, line {line}")
    if value is not None and value not in FAIRFACE_VALUES[name]:
        raise DataError(
            f"{path}, line {line}: {name} is one of {', '.join(FAIRFACE_VALUES[name])}, not {quoted(value)}"
        )
    return value


def read_utkface(spec: UtkfaceDataset, title: str, seed: int) -> Found:
    """Pictures in the order of their names. Raises ``DataError`` where the folder holds none."""
    root = Path(spec.utkface)
    home = next((root / name for name in ("images", "UTKFace/images", "UTKFace") if (root / name).is_dir()), root)
    labels = {name: _utk_values(name, spec.race_4) for name in _files(home)}
    strange = [name for name, values in labels.items() if values is None]
    prefix = below(root, home)
    known = {name: values for name, values in labels.items() if values}
    orders = {
        "gender": UTK_GENDERS,
        "race": [*UTK_RACES, spec.race_4],
        "age": sorted({values["age"] for values in known.values()}, key=int),
    }
    pictures = [
        Labelled(
            dealt(name, spec.fractions, seed), name, title, prefix + name, values[spec.target],
            {attribute: values[attribute] for attribute in spec.attributes},
        )
        for name, values in known.items()
    ]  # fmt: skip
    return Found(
        classes=orders[spec.target],
        values={name: orders[name] for name in spec.attributes},
        pictures=pictures,
        sources=[folder_source(root, title)],
        licence=UTK_LICENCE,
        class_attribute=spec.target if spec.target in spec.attributes else None,
        root=root,
        origins={"": UTK_ORIGIN},
        notes=[f"left out: {len(strange)} names that are not AGE_GENDER_RACE_TIME, {some(strange)}"] if strange else [],
    )


def _files(folder: Path) -> list[str]:
    """Names of the pictures of a folder, sorted: an unsorted listing differs from machine to machine."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.name.lower().endswith(_ENDINGS) and not e.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror or error}") from error


def _utk_values(name: str, race_4: str) -> dict[str, str] | None:
    """Labels of a name, or None where it does not split into four fields with values that exist."""
    fields = name.split("_")
    races = [*UTK_RACES, race_4]
    if len(fields) != 4 or not all(field.isascii() and field.isdigit() and len(field) <= 3 for field in fields[:3]):
        return None
    age, gender, race = (int(field) for field in fields[:3])
    if age > _OLDEST or gender >= len(UTK_GENDERS) or race >= len(races):
        return None
    return {"age": str(age), "gender": UTK_GENDERS[gender], "race": races[race]}
