"""Any table of files, classes and attributes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from runner.data.datasets.attributes.found import Found, Labelled, folder_source
from runner.data.datasets.attributes.specs import TableDataset
from runner.data.datasets.content import dealt, quoted, some
from runner.data.datasets.specs import SPLITS, Split
from runner.data.datasets.tables import table_rows
from runner.data.datasets.texts import optional_name
from runner.errors import DataError

PARQUET = (".parquet", ".pq")


def read_table(spec: TableDataset, title: str, seed: int) -> Found:
    """Pictures in the order of the table; classes and values in alphabetical order. Errors name file and line."""
    path, root = Path(spec.table), Path(spec.root)
    columns = list(dict.fromkeys([spec.file, spec.target, *spec.attributes, *([spec.split] if spec.split else [])]))
    rows = _parquet(path, columns) if path.suffix.lower() in PARQUET else table_rows(path, tuple(columns))
    pictures = []
    for line, texts in rows:
        where = f"{path}, line {line}"
        row = dict(zip(columns, texts, strict=True))
        split = _split(row[spec.split], where) if spec.split else dealt(row[spec.file], spec.fractions, seed)
        values = {name: optional_name(row[name], where) for name in spec.attributes}
        target = optional_name(row[spec.target], where)
        pictures.append(Labelled(split, row[spec.file], title, row[spec.file], target, values))
    return Found(
        classes=sorted({p.target for p in pictures if p.target is not None}),
        values={name: sorted({v for p in pictures if (v := p.values[name])}) for name in spec.attributes},
        pictures=pictures,
        sources=[folder_source(root, title)],
        licence=spec.licence or "not stated in the spec",
        class_attribute=spec.target if spec.target in spec.attributes else None,
        root=root,
        origins={"": f"whoever made {path.name}"},
    )


def _split(text: str, where: str) -> Split:
    for split in SPLITS:
        if text == split:
            return split
    raise DataError(f"{where}: the split {quoted(text)} is none of {', '.join(SPLITS)}")


def _parquet(path: Path, columns: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Rows with their numbers from 1; a missing value is an empty text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            absent = [name for name in columns if name not in file.schema_arrow.names]
            if absent:
                raise DataError(
                    f"{path}: no column {absent[0]!r}; found {some(file.schema_arrow.names, most=12) or 'nothing'}"
                )
            number = 0
            for batch in file.iter_batches(columns=columns):
                for row in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                    number += 1
                    yield number, ["" if value is None else str(value).strip() for value in row]
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error)[:200]}") from error
