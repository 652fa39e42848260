"""The ten public datasets as they stand on disk: what is there, which picture is of which class and split."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from runner.data.datasets.content import Content, Picture, check_once, quoted, some
from runner.data.datasets.known import CLASS_TABLE, COOP, KNOWN, LABEL_TABLE, SPLIT_TABLE, Known, KnownName
from runner.data.datasets.official import official_files, read_official
from runner.data.datasets.specs import SPLITS, Split
from runner.data.datasets.tables import (
    ClassRow,
    check_paths,
    class_rows,
    read_class_table,
    read_coop,
    read_label_table,
    read_split_table,
    read_text,
)
from runner.data.datasets.texts import check_distinct, class_name, scene_of, target_text
from runner.errors import DataError

VARIANTS = "variants.txt"


class Entry(NamedTuple):
    """A picture as a split file names it: split, path below the pictures, place of its class in the list of classes."""

    split: Split
    path: str
    place: int


class _Need(NamedTuple):
    """Something that must be there. ``choices``: paths of which one is enough; ``what`` and ``origin`` for the error."""

    choices: tuple[Path, ...]
    what: str
    origin: str


def read_known(name: KnownName, root: Path, source_id: str) -> Content:
    """Read one public dataset below ``root``.

    Raises ``DataError``: one that names everything missing and where it comes from, or the first thing that is wrong in
    a split file or table. Pictures are not touched.
    """
    known = KNOWN[name]
    check_complete(name, root)
    pictures = _pictures(known, root)
    rows, entries = _read(name, known, root, pictures)
    texts = [target_text(known, row.name) for row in rows]
    check_distinct(name, texts, [row.name for row in rows])
    check_once(name, [(entry.split, entry.path) for entry in entries])
    below = pictures.relative_to(root).as_posix()
    prefix = "" if below == "." else below + "/"
    from runner.data.sources import open_source

    source = open_source({"folder": str(root), "name": source_id})
    ordered = sorted(entries, key=lambda entry: SPLITS.index(entry.split))
    listed = [Picture(e.split, e.path, source_id, prefix + e.path, e.place) for e in ordered]
    return Content(texts, listed, [source], licence=known.licence)


def _read(name: str, known: Known, root: Path, pictures: Path) -> tuple[list[ClassRow], list[Entry]]:
    if known.split_file is None:
        return _aircraft(pictures)
    if _is_official(name, known, root, pictures):
        return _official(name, pictures)
    return _public(known, root, known.split_file)


def _is_official(name: str, known: Known, root: Path, pictures: Path) -> bool:
    """Whether only the makers' own split stands here: CoOp's, which comparisons use, goes first."""
    others = [root / SPLIT_TABLE, root / (known.split_file or SPLIT_TABLE)]
    return not any(path.exists() for path in others) and any(p.exists() for p in official_files(name, pictures))


# --- what is there ----------------------------------------------------------------------------------------------------


def check_complete(name: KnownName, root: Path) -> None:
    """Raise one ``DataError`` that lists all that is missing below ``root`` and where each part comes from."""
    known = KNOWN[name]
    if not root.is_dir():
        raise DataError(f"{name}: {root} is no folder", hint=f"Pictures come from {known.obtained_from}.")
    missing = [need for need in _needs(name, known, root) if not any(path.exists() for path in need.choices)]
    if not missing:
        return
    lines = [
        f"\n- {' or '.join(_below(path, root) for path in need.choices)}: {need.what}, from {need.origin}"
        for need in missing
    ]
    raise DataError(
        f"{name}: {len(missing)} of what must stand in {root} is missing:{''.join(lines)}",
        hint=f"Put it there. Nothing is bundled or fetched: the pictures' licence is {known.licence}.",
    )


def _below(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _needs(name: str, known: Known, root: Path) -> Iterator[_Need]:
    pictures = _pictures(known, root)
    homes = _homes(known, root) if not pictures.is_dir() else [pictures]
    for part in known.parts or ("",):
        yield _Need(tuple(home / part for home in homes), "the pictures", known.obtained_from)
    if known.split_file is None:
        yield _Need((pictures / VARIANTS,), "the class table", known.obtained_from)
        for split in SPLITS:
            yield _Need((pictures / _variant_file(split),), f"the {split} split", known.obtained_from)
        return
    if _is_official(name, known, root, pictures):
        for path in official_files(name, pictures):
            yield _Need((path,), "the makers' split", known.obtained_from)
        return
    origin = f"{COOP}; or as a table split,filename with {CLASS_TABLE}"
    yield _Need((root / SPLIT_TABLE, root / known.split_file), "the split", origin)
    if (root / SPLIT_TABLE).exists() or not (root / known.split_file).exists():
        beside = f"whoever made {SPLIT_TABLE} (not needed with {known.split_file})"
        yield _Need((root / CLASS_TABLE,), "the class table idx,folder_name,class_name", beside)
        if known.class_key == "label_table":
            yield _Need((root / LABEL_TABLE,), "the label table filename,class_idx", beside)


def _homes(known: Known, root: Path) -> list[Path]:
    """Where the pictures may stand: the unpacked path or a last part of it; the root itself where parts tell it apart."""
    names = known.pictures.split("/")
    tails = ["/".join(names[start:]) for start in range(len(names))]
    return [root / tail for tail in (*tails, *([""] if known.parts else []))]


def _pictures(known: Known, root: Path) -> Path:
    """The place that holds most of the parts, the unpacked path first."""
    return max(_homes(known, root), key=lambda home: sum((home / part).is_dir() for part in known.parts or ("",)))


def _variant_file(split: Split) -> str:
    return f"images_variant_{split}.txt"


# --- which picture is of which class ----------------------------------------------------------------------------------


def _public(known: Known, root: Path, split_file: str) -> tuple[list[ClassRow], list[Entry]]:
    table = (root / SPLIT_TABLE).exists()
    rows, entries = _from_tables(known, root) if table else _from_coop(known, root / split_file)
    name = SPLIT_TABLE if table else split_file
    unused = [e.path for e in entries if e.path.partition("/")[0] in known.left_out]
    if unused:
        raise DataError(
            f"{root / name}: {len(unused)} pictures are of folders that the protocol leaves out, such as {quoted(unused[0])}",
            hint=f"Leave out {' and '.join(known.left_out)}.",
        )
    return rows, entries


def _official(name: str, pictures: Path) -> tuple[list[ClassRow], list[Entry]]:
    """Classes by name, in alphabetical order, and pictures of the makers' own split."""
    listed = read_official(name, pictures)
    names = sorted({item.name for item in listed})
    place = {text: number for number, text in enumerate(names)}
    rows = [ClassRow(number, "", class_name(text, name)) for text, number in place.items()]
    return rows, [Entry(item.split, item.path, place[item.name]) for item in listed]


def _from_coop(known: Known, path: Path) -> tuple[list[ClassRow], list[Entry]]:
    listed = read_coop(path)
    rows = class_rows(path, listed)
    place = {row.idx: place for place, row in enumerate(rows)}
    return rows, [Entry(item.split, _moved(known, item.path), place[item.label]) for item in listed]


def _from_tables(known: Known, root: Path) -> tuple[list[ClassRow], list[Entry]]:
    rows = [row for row in read_class_table(root) if row.folder not in known.left_out]
    listed = read_split_table(root)
    if known.class_key == "label_table":
        labels = read_label_table(root)
        place = {row.idx: place for place, row in enumerate(rows)}
        _require(root / LABEL_TABLE, [p for _, p in listed if p not in labels], "have no row")
        _require(
            root / CLASS_TABLE,
            [f"{p} ({labels[p]})" for _, p in listed if labels[p] not in place],
            "have a class_idx without row",
        )
        return rows, [Entry(split, _moved(known, path), place[labels[path]]) for split, path in listed]
    key = _KEYS[known.class_key]
    by_key = _class_keys(known, root / CLASS_TABLE, rows)
    _require(root / CLASS_TABLE, [p for _, p in listed if key(p) not in by_key], "are of a folder that is not in it")
    return rows, [Entry(split, _moved(known, path), by_key[key(path)]) for split, path in listed]


def _class_keys(known: Known, table: Path, rows: list[ClassRow]) -> dict[str, int]:
    """Place of each class by what its pictures' paths call it."""
    nameless = [row.name for row in rows if not row.folder]
    if nameless:
        raise DataError(f"{table}: the classes {some(nameless)} have no folder_name")
    keys = [scene_of(row.folder) if known.class_key == "scene" else row.folder for row in rows]
    check_distinct(str(table), keys, [row.folder for row in rows])
    return {key: place for place, key in enumerate(keys)}


_KEYS: dict[str, Callable[[str], str]] = {
    "folder": lambda path: path.rpartition("/")[0],
    "scene": lambda path: scene_of(path.rpartition("/")[0]),
    "stem": lambda path: path.rpartition("/")[2].rpartition("_")[0],
}


def _moved(known: Known, path: str) -> str:
    """The path with the first folder's name on disk."""
    first, slash, rest = path.partition("/")
    return f"{known.moved[first]}/{rest}" if slash and first in known.moved else path


def _require(table: Path, offenders: list[str], what: str) -> None:
    if offenders:
        raise DataError(f"{table}: {len(offenders)} pictures of the split {what}: {some(offenders)}")


def _aircraft(pictures: Path) -> tuple[list[ClassRow], list[Entry]]:
    """FGVC-Aircraft's own lists: a line is an image id, a space, and a variant that may hold spaces."""
    path = pictures / VARIANTS
    names = [class_name(line, str(path)) for line in _lines(path)]
    check_distinct(str(path), names)
    place = {name: number for number, name in enumerate(names)}
    entries = []
    for split in SPLITS:
        file = pictures / _variant_file(split)
        pairs = [(number, *line.partition(" ")[::2]) for number, line in enumerate(_lines(file), start=1)]
        unknown = [variant for _, _, variant in pairs if variant.strip() not in place]
        if unknown:
            raise DataError(f"{file}: {len(unknown)} lines have a variant that is not in {path}: {some(unknown)}")
        check_paths(str(file), [f"images/{image}.jpg" for _, image, _ in pairs])
        entries += [Entry(split, f"images/{image}.jpg", place[variant.strip()]) for _, image, variant in pairs]
    return [ClassRow(number, "", name) for name, number in place.items()], entries


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


# --- are the pictures there -------------------------------------------------------------------------------------------


_LINKS = "Links must stay below the root; point `root:` at the folder that really holds the pictures."


def check_files(
    name: str, root: Path, pictures: list[Picture], *, origin: str = "", links: str = _LINKS, absent: str | None = None
) -> None:
    """Raise ``DataError`` where pictures are missing or lead out of ``root``. Reads folders, not pictures.

    ``links`` and ``absent`` are the hints, for steps without the options ``root`` and ``check_files``.
    """
    real = os.path.realpath(root)
    missing: list[str] = []
    outside: list[str] = []
    by_folder: dict[str, list[str]] = {}
    for picture in pictures:
        folder, _, file = picture.uri.rpartition("/")
        by_folder.setdefault(folder, []).append(file)
    for folder, files in by_folder.items():
        _sort_out(real, folder, files, missing, outside)
    if outside:
        raise DataError(
            f"{name}: {len(outside)} pictures lead out of {root}: {some(outside)}",
            hint=links,
        )
    if missing:
        raise DataError(
            f"{name}: {len(missing)} of {len(pictures)} pictures that the split names are missing: {some(missing)}",
            hint=absent or f"Pictures come from {origin}. With `check_files: false` the split is taken as it is.",
        )


def _sort_out(root: str, folder: str, files: list[str], missing: list[str], outside: list[str]) -> None:
    """Add to ``missing`` and ``outside`` those files of one folder that cannot be read from it."""
    place = Path(root, folder)
    names = [f"{folder}/{file}" if folder else file for file in files]
    if not Path(os.path.realpath(place)).is_relative_to(root):
        outside += names
        return
    try:
        with os.scandir(place) as entries:
            there = {entry.name: entry for entry in entries}
    except OSError:
        there = {}
    for file, name in zip(files, names, strict=True):
        entry = there.get(file)
        if entry is not None and entry.is_symlink() and not Path(os.path.realpath(entry.path)).is_relative_to(root):
            outside.append(name)
        elif entry is None or not entry.is_file():
            missing.append(name)
