"""Your own data: ``images``, ``parts`` and ``attributes`` as parquet or csv, and ``owners.yaml``, in one folder.

``images``: image_id, path, split (train, val, test), and if you like target, width, height. ``parts``: image_id, part, and
mask_path or rle (COCO's JSON) and/or keypoint_x, keypoint_y, and if you like visible. ``attributes``: image_id, attribute, value,
and if you like valid. Paths start at the folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from runner.data.datasets.content import quoted, some
from runner.data.datasets.specs import SPLITS
from runner.data.datasets.tables import check_paths
from runner.data.parts import coco
from runner.data.parts.found import Drawn, FoundParts, picture_size, read_mask
from runner.data.parts.owners import read_owners
from runner.data.parts.specs import ManifestParts
from runner.errors import DataError

_BITS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "False": 0, "True": 1}

_NO_ROW = "Delete the file where pictures have no attributes."
_NAME = "one line of at most 1000 characters"


class Columns(NamedTuple):
    """A table of texts, empty where a cell is; ``first``: the number of its first row, in csv its line."""

    path: Path
    first: int
    columns: dict[str, list[str]]

    def line(self, row: int) -> str:
        """Where a row stands."""
        return f"{self.path}, {'line' if self.path.suffix == '.csv' else 'row'} {row + self.first}"


def read_manifest(spec: ManifestParts) -> FoundParts:
    """The dataset that ``spec`` names. Raises ``DataError`` naming table and line."""
    root = Path(spec.manifest)
    images = _table(root, "images", ("image_id", "path", "split"), ("target", "width", "height"))
    ids = images.columns["image_id"]
    rows = _by_id(images)
    check_paths(str(images.path), images.columns["path"])
    parts = _table(root, "parts", ("image_id", "part"), ("mask_path", "rle", "keypoint_x", "keypoint_y", "visible"))
    drawn, names = _parts(parts, rows, len(ids))
    value, valid, attributes = _attributes(root, rows)
    owners = root / "owners.yaml" if spec.owners == "default" else Path(spec.owners)
    return FoundParts(
        root=root, object=spec.object, parts=names, attributes=attributes,
        owners=read_owners(owners) if attributes else {}, pictures=_pictures(images, spec.object),
        value=value, valid=valid, draw=_drawing(spec, root, images, parts, drawn),
        licence=spec.licence or "not stated in the spec", swaps=spec.swaps, mask_resize=spec.mask_resize,
        part_source="manifest",
    )  # fmt: skip


def _table(root: Path, stem: str, required: tuple[str, ...], optional: tuple[str, ...]) -> Columns:
    found = [root / f"{stem}{ending}" for ending in (".parquet", ".csv") if (root / f"{stem}{ending}").is_file()]
    if len(found) != 1:
        raise DataError(
            f"{root}: expected {stem}.parquet or {stem}.csv, found {some([p.name for p in found]) or 'neither'}"
        )
    path = found[0]
    table = _parquet(path) if path.suffix == ".parquet" else _csv(path)
    absent = [name for name in required if table.column_names.count(name) != 1]
    if absent:
        raise DataError(
            f"{path}: no single column {absent[0]!r}; found {some(table.column_names, most=12) or 'nothing'}"
        )
    wanted = [name for name in (*required, *optional) if name in table.column_names]
    columns = {name: [text.strip() for text in _texts(path, table, name)] for name in wanted}
    read = Columns(path, 2 if path.suffix == ".csv" else 1, columns)
    for name in required:
        if not columns[name]:
            raise DataError(f"{path}: no row", hint=_NO_ROW if stem == "attributes" else None)
        if "" in columns[name]:
            raise DataError(f"{read.line(columns[name].index(''))}: {name} is empty")
    return read


def _texts(path: Path, table: pa.Table, name: str) -> list[str]:
    try:
        return [text or "" for text in table[name].cast(pa.string()).to_pylist()]
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the column {name!r} cannot be read as text: {str(error)[:200]}") from error


def _parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error)[:200]}") from error


def _csv(path: Path) -> pa.Table:
    try:
        with pacsv.open_csv(path) as reader:
            names = reader.schema.names
        options = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
        return pacsv.read_csv(
            path, pacsv.ReadOptions(use_threads=False), pacsv.ParseOptions(newlines_in_values=True), options
        )
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"{path} cannot be read: {str(error)[:200]}", hint="Save it as comma-separated UTF-8."
        ) from error


def _pictures(images: Columns, what: str) -> list[dict[str, Any]]:
    columns = images.columns
    targets = columns.get("target", [what] * len(columns["path"]))
    rows = zip(columns["image_id"], columns["split"], columns["path"], targets, strict=True)
    return [{"sample_id": i, "split": split, "uri": path, "target": target} for i, split, path, target in rows]


def _by_id(images: Columns) -> dict[str, int]:
    """Rows of the table of images by picture. Raises ``DataError`` where one stands twice or in no split."""
    rows: dict[str, int] = {}
    targets = images.columns.get("target", [""] * len(images.columns["split"]))
    for row, (name, split) in enumerate(zip(images.columns["image_id"], images.columns["split"], strict=True)):
        if split not in SPLITS:
            raise DataError(f"{images.line(row)}: the split {quoted(split)} is none of {', '.join(SPLITS)}")
        for what, text in (("picture", name), ("target", targets[row])):
            if not text.isprintable() or len(text) > 1000:
                raise DataError(f"{images.line(row)}: {quoted(text)} cannot name a {what}: {_NAME}")
        if rows.setdefault(name, row) != row:
            first = images.columns["split"][rows[name]]
            raise DataError(f"{images.line(row)}: {quoted(name)} stands twice, in {first} and {split}")
    return rows


def _row_of(table: Columns, row: int, rows: dict[str, int]) -> int:
    name = table.columns["image_id"][row]
    if name not in rows:
        raise DataError(f"{table.line(row)}: there is no picture {quoted(name)} in the table of images")
    return rows[name]


def _parts(table: Columns, rows: dict[str, int], count: int) -> tuple[list[list[int]], list[str]]:
    """Rows of ``parts`` by picture, and the parts in the order in which they first stand."""
    by_picture: list[list[int]] = [[] for _ in range(count)]
    for row in range(len(table.columns["part"])):
        by_picture[_row_of(table, row, rows)].append(row)
    if "mask_path" in table.columns:
        check_paths(str(table.path), [path for path in table.columns["mask_path"] if path])
    return by_picture, list(dict.fromkeys(table.columns["part"]))


def _attributes(root: Path, rows: dict[str, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[str]]:
    if not any((root / f"attributes{ending}").exists() for ending in (".parquet", ".csv")):
        return np.zeros((len(rows), 0), np.uint8), np.zeros((len(rows), 0), np.uint8), []
    table = _table(root, "attributes", ("image_id", "attribute", "value"), ("valid",))
    i = pc.index_in(pa.array(table.columns["image_id"]), pa.array(list(rows), pa.string()))
    if i.null_count:
        _row_of(table, pc.index(pc.is_null(i), True).as_py(), rows)
    coded = pa.array(table.columns["attribute"], pa.string()).dictionary_encode()
    names = [str(name) for name in coded.dictionary.to_pylist()]
    places = np.array(list(rows.values()))[i.to_numpy()] * len(names) + coded.indices.to_numpy()
    if len(np.unique(places)) < len(places):
        again = int(np.setdiff1d(np.arange(len(places)), np.unique(places, return_index=True)[1])[0])
        raise DataError(f"{table.line(again)}: this picture and attribute stand twice")
    value, valid = (np.zeros(len(rows) * len(names), np.uint8) for _ in range(2))
    value[places] = _bits(table, "value")
    valid[places] = _bits(table, "valid") if "valid" in table.columns else 1
    return (value * valid).reshape(len(rows), -1), valid.reshape(len(rows), -1), names


def _bits(table: Columns, name: str) -> NDArray[np.uint8]:
    bits = [_BITS.get(text, 2) for text in table.columns[name]]
    if 2 in bits:
        row = bits.index(2)
        raise DataError(f"{table.line(row)}: {name} is {quoted(table.columns[name][row])}; expected 0 or 1")
    return np.array(bits, np.uint8)


def _drawing(
    spec: ManifestParts, root: Path, images: Columns, parts: Columns, drawn: list[list[int]]
) -> Callable[[int], list[Drawn]]:
    def draw(i: int) -> list[Drawn]:
        width, height = picture_size(_inside(root, images.columns["path"][i], images.line(i)))
        for side, number in (("width", width), ("height", height)):
            stated = images.columns.get(side, [""] * (i + 1))[i]
            if stated and stated.removesuffix(".0") != str(number):
                raise DataError(f"{images.line(i)}: {side} is {quoted(stated)}, the picture's is {number}")
        return [_part(spec, root, parts, row, (height, width)) for row in drawn[i]]

    return draw


def _inside(root: Path, name: str, where: str) -> Path:
    """A file below the folder, whatever links say. Raises ``DataError`` where it is not there."""
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{where}: {quoted(name)} leads out of the folder")
    if not path.is_file():
        raise DataError(f"{where}: there is no file {quoted(name)}")
    return path


def _part(spec: ManifestParts, root: Path, table: Columns, row: int, size: tuple[int, int]) -> Drawn:
    cell = {name: texts[row] for name, texts in table.columns.items() if texts[row]}
    where = table.line(row)
    if "mask_path" in cell and "rle" in cell:
        raise DataError(f"{where}: a part has a mask_path or an rle, not both")
    mask = None
    if "mask_path" in cell:
        mask = read_mask(_inside(root, cell["mask_path"], where))
    elif "rle" in cell:
        mask = _runs(cell["rle"], where)
    if mask is not None and mask.shape != size and spec.mask_resize == "none":
        raise DataError(
            f"{where}: the mask is {mask.shape} (height, width), its picture {size}",
            hint="Write mask_resize: nearest if it shows the same cut at another size.",
        )
    shown = _shown(cell.get("visible"), where)
    point = _point(cell, where, size if shown is not False else None)
    if mask is None and point is None and shown is not False:
        raise DataError(f"{where}: a visible part has a mask_path, an rle or a keypoint")
    return Drawn(cell["part"], mask, point, shown)


def _shown(text: str | None, where: str) -> bool | None:
    if text is None:
        return None
    if text not in _BITS:
        raise DataError(f"{where}: visible is {quoted(text)}; expected 0 or 1")
    return bool(_BITS[text])


def _point(cell: dict[str, str], where: str, size: tuple[int, int] | None) -> tuple[float, float] | None:
    """The keypoint, which a visible part has within its picture of ``size`` (height, width), borders included."""
    given = [cell[name] for name in ("keypoint_x", "keypoint_y") if name in cell]
    if not given:
        return None
    try:
        x, y = map(float, given)
    except ValueError:
        raise DataError(f"{where}: a keypoint is two numbers, not {some(given)}") from None
    if size is not None and not (0 <= x <= size[1] and 0 <= y <= size[0]):
        raise DataError(
            f"{where}: the keypoint ({x:g}, {y:g}) lies outside its picture of {size[1]} x {size[0]} pixels",
            hint="Keypoints are x and y in pixels. Where a part cannot be seen, write visible 0.",
        )
    return x, y


def _runs(text: str, where: str) -> NDArray[np.bool_]:
    """A mask from COCO's run lengths as JSON."""
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        read = None
    match read:
        case {"size": [int(height), int(width)], "counts": str() | list()} if (
            0 < height * width <= 50_000_000 and height > 0 and bool not in (type(height), type(width))
        ):
            return coco.decode(read, height, width, where)
    raise DataError(f'{where}: rle is JSON like {{"size": [height, width], "counts": ...}}, not {quoted(text)}')
