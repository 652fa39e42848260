"""Benchmarks as Parquet files: a row a question, with the picture's bytes. Columns as commonly found on the hub (general knowledge).

A picture stays in its file and is named ``FILE#ROW``. Where a question has several (MMMU), those of the drawn items are written out.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runner.data.benchmarks.found import Item, Raw
from runner.data.benchmarks.known import MME_COGNITION, MME_PERCEPTION
from runner.data.benchmarks.records import GROUPS, IDS
from runner.data.sources.base import MAX_RECORD_BYTES, file_name
from runner.data.sources.parquet import holds_bytes
from runner.errors import DataError

_PICTURES = ("decoded_image", "image", "img", "image_bytes", "jpg", "png", "bytes")
_ALIASES = {
    "val": ("val", "validation"),
    "val2014": ("val2014", "val", "validation"),
    "validation": ("validation", "val"),
}


def parquet_files(path: Path, split: str) -> list[Path]:
    """The files of a split below a folder: those whose name, or a folder's name on the way, begins with it. A single file, or the
    files of a pattern, are taken as they are. Empty where there is no Parquet at all; ``DataError`` where there is, of other splits."""
    if path.is_file():
        return [path] if path.suffix == ".parquet" else []
    if not path.is_dir():
        return sorted(match for match in path.parent.glob(path.name) if match.suffix == ".parquet")
    files = sorted(path.rglob("*.parquet"))
    names = _ALIASES.get(split, (split,))
    found = [f for f in files if any(part.startswith(names) for part in f.relative_to(path).parts)]
    if files and not found:
        held = sorted({f.name.partition("-")[0].removesuffix(".parquet") for f in files})
        raise DataError(
            f"{path} has no Parquet file of the split {split!r}", hint=f"There are: {', '.join(held[:10])}."
        )
    return found


class Tables:
    """The Parquet files of a benchmark: rows without pictures, and where their pictures are."""

    def __init__(self, kind: str, files: Sequence[Path]) -> None:
        self.kind, self._files = kind, list(files)
        self._base = Path(os.path.commonpath([file.parent for file in files]))
        self.columns = _picture_columns(self._schema(self._files[0]))

    def _schema(self, file: Path) -> pa.Schema:
        try:
            return pq.read_schema(file)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file} cannot be read as Parquet: {str(error)[:200]}") from error

    def corpus(self, name: str) -> list[dict[str, Any]]:
        """The source of the pictures, where every question has at most one."""
        if len(self.columns) != 1:
            return []
        return [{"parquet": [str(file) for file in self._files], "image_field": self.columns[0], "name": name}]

    def rows(self) -> Iterator[Raw]:
        """Records with ``FILE#ROW`` of their picture, or ``FILE#ROW#COLUMN`` where there are several columns."""
        for file in self._files:
            names = [n for n in self._schema(file).names if n not in self.columns]
            try:
                table = pq.read_table(file, columns=names)
                there = {column: _there(file, column) for column in self.columns}
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"{file} cannot be read as Parquet: {str(error)[:200]}") from error
            name = file_name(file, self._base)
            for row, record in enumerate(table.to_pylist()):
                places = [
                    f"{name}#{row}" if len(self.columns) == 1 else f"{name}#{row}#{c}"
                    for c in self.columns
                    if there[c][row]
                ]
                if self._wanted(record):
                    yield self._raw(record, f"{name}#{row}", places)

    def _wanted(self, record: dict[str, Any]) -> bool:
        if self.kind == "cv_bench_count":
            return str(record.get("task")).lower() == "count"
        tasks = {"mme_perception": MME_PERCEPTION, "mme_cognition": MME_COGNITION}.get(self.kind)
        return tasks is None or str(record.get("category")).lower() in {task.lower() for task in tasks}

    def _raw(self, record: dict[str, Any], place: str, uris: list[str]) -> Raw:
        own = next((str(record[n]) for n in IDS if record.get(n) is not None), place)
        group = next((str(record[n]) for n in GROUPS if record.get(n) is not None), None)
        if self.kind.startswith("mme_"):  # the id is the picture's; two questions share it
            return Raw(place, record, uris, f"{record.get('category')}/{own}")
        if self.kind == "pope":  # ids begin anew with each category
            own, group = f"{record.get('category')}-{own}", str(record.get("image_source") or own)
        return Raw(own, record, uris, group)

    def unpacker(self, folder: Path) -> Callable[[Item], Item]:
        """Writes pictures out by the SHA-256 of their bytes; gives the item with their names in ``folder``."""
        held: dict[str, tuple[int, dict[str, list[Any]]]] = {}
        paths = {file_name(file, self._base): file for file in self._files}

        def unpack(item: Item) -> Item:
            names = []
            for place in item["uris"]:
                file, row, column = place.rsplit("#", 2)
                if file not in held:  # items stand in the order of files: one is open at a time
                    held.clear()
                    table = pq.read_table(paths[file], columns=self.columns)
                    held[file] = (table.num_rows, {c: _bytes(table[c]) for c in self.columns})
                names.append(_written(held[file][1][column][int(row)], folder))
            return {**item, "uris": names}

        return unpack


def linked(kind: str, files: Sequence[Path], root: Path, split: str) -> tuple[Tables, dict[str, str]] | None:
    """GQA's hub form keeps pictures in files of their own (``<split>_images``): those, and the place of each by ``id``."""
    if kind != "gqa":
        return None
    pictures = [file for file in files if any("_images" in part for part in file.relative_to(root).parts)]
    if not pictures:
        return None
    tables = Tables("gqa_images", pictures)
    return tables, {raw.item_id: raw.uris[0] for raw in tables.rows() if raw.uris}


def _picture_columns(schema: pa.Schema) -> list[str]:
    several = [n for n in schema.names if n.startswith("image_") and n[6:].isdecimal() and holds_bytes(schema, n)]
    if several:
        return several
    return [n for n in _PICTURES if n in schema.names and holds_bytes(schema, n)][:1]


def _there(file: Path, column: str) -> list[bool]:
    """Whether each row has a picture, without reading pictures where the file's statistics say that all have one."""
    with pq.ParquetFile(file) as opened:
        whole = opened.metadata
        leaves = [i for i in range(whole.num_columns) if whole.schema.column(i).path in (column, f"{column}.bytes")]
        groups = [whole.row_group(g).column(i).statistics for g in range(whole.num_row_groups) for i in leaves]
        if groups and all(s is not None and s.null_count == 0 for s in groups):
            return [True] * whole.num_rows
        found: list[bool] = []
        for batch in opened.iter_batches(64, columns=[column]):
            found += [bool(data) for data in _bytes(batch.column(0))]
        return found


def _bytes(column: Any) -> list[bytes | None]:
    return [value.get("bytes") if isinstance(value, dict) else value for value in column.to_pylist()]


def _written(data: bytes | None, folder: Path) -> str:
    if not data or len(data) > MAX_RECORD_BYTES:
        raise DataError("a picture vanished from its Parquet file while it was read, or is too large")
    name = f"{hashlib.sha256(data).hexdigest()}.png"
    path = folder / name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{os.getpid()}-{name}")
        draft.write_bytes(data)
        draft.replace(path)
    return name
