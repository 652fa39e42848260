"""Lists of links: Parquet, CSV, TSV, JSON lines and plain text, read into one table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pc_csv
import pyarrow.parquet as pq

from runner.data.sources.base import CAPTION_FIELDS
from runner.errors import DataError

URL_FIELDS = ("url", "image_url", "link")
HASHES = ("sha256", "md5")
EXTRA = "extra:"
"""Prefix of the names of further columns in the table of links."""

_BLOCK_BYTES = 16 * 2**20
_READ_ERRORS = (pa.ArrowException, OSError, ValueError)

Report = Callable[[str, str, str, int], None]
"""Hears of rows that cannot be used: reason, file, detail, how many."""


class Columns(NamedTuple):
    """What a spec says of the columns; ``names`` in order where the files have no header. None = find them."""

    url: str | None = None
    caption: str | None = None
    names: list[str] | None = None


def read_links(files: Iterable[Path], columns: Columns, report: Report, limit: int | None = None) -> pa.Table:
    """Links of all files, each once, sorted: ``url``, ``caption``, ``sha256``, ``md5`` and further columns, all strings.

    The first ``limit`` links count, in the order of the files. Raises ``DataError`` where a file has no column of links.
    """
    tables = []
    for file in files:
        try:
            raw = _READERS[file.suffix.lower()](file, columns, report)
        except KeyError:
            known = ", ".join(_READERS)
            raise DataError(f"{file.name}: lists of links are {known} files", hint="Rename or convert it.") from None
        except _READ_ERRORS as error:
            report("damaged_file", file.name, str(error)[:300], 1)
            continue
        links = _named(raw, columns, file)
        usable = links.filter(pc.field("url") != "")  # a null is not unequal either
        if len(usable) < len(links):
            report("no_url", file.name, "", len(links) - len(usable))
        tables.append(usable)
    if not tables:
        return pa.table({name: pa.array([], pa.string()) for name in ("url", "caption", *HASHES)})
    return _each_once(pa.concat_tables(tables, promote_options="default"), report, limit)


def _each_once(links: pa.Table, report: Report, limit: int | None) -> pa.Table:
    numbered = pa.table({"url": links["url"], "row": np.arange(len(links))})
    first = np.sort(numbered.group_by("url").aggregate([("row", "min")])["row_min"].to_numpy())
    if len(first) < len(links):
        report("repeated_url", "all files", "the first row counts", len(links) - len(first))
    return links.take(pa.array(first[:limit])).sort_by("url").combine_chunks()


def _named(raw: pa.Table, columns: Columns, file: Path) -> pa.Table:
    url = _column(raw, columns.url, URL_FIELDS, file)
    caption = _column(raw, columns.caption, CAPTION_FIELDS, file)
    if url is None:
        looks = any(name.lower().startswith(("http://", "https://")) for name in raw.schema.names)
        raise DataError(
            f"{file.name} has no column of links; it has {', '.join(raw.schema.names)[:300]}",
            hint="The file has no header: write `columns: [url, caption]`." if looks else "Name it with `url_column:`.",
        )
    missing = pa.nulls(len(raw), pa.string())
    named = {"url": _strings(raw[url]), "caption": missing if caption is None else _strings(raw[caption])}
    for name in HASHES:
        found = _column(raw, None, (name,), file)
        named[name] = missing if found is None else _strings(raw[found])
    taken = {url, caption, *(_column(raw, None, (name,), file) for name in HASHES)}
    return pa.table(named | {EXTRA + name: _strings(raw[name]) for name in raw.schema.names if name not in taken})


def _column(raw: pa.Table, wanted: str | None, usual: Sequence[str], file: Path) -> str | None:
    names = raw.schema.names
    if wanted is not None:
        if wanted not in names:
            raise DataError(f"{file.name} has no column {wanted!r}; it has {', '.join(names)[:300]}")
        return wanted
    folded = {name.lower(): name for name in reversed(names)}
    return next((folded[name] for name in usual if name in folded), None)


def _strings(column: pa.ChunkedArray[Any]) -> pa.ChunkedArray[Any]:
    """As text; bytes that are no UTF-8 are replaced."""
    try:
        return column.cast(pa.string())
    except pa.ArrowException:
        return pa.chunked_array([[_text(value) for value in column.to_pylist()]], pa.string())


def _text(value: Any) -> str | None:
    return value.decode("utf8", "replace") if isinstance(value, bytes) else None if value is None else str(value)


def _parquet(file: Path, columns: Columns, report: Report) -> pa.Table:
    schema = pq.read_schema(file)
    kept = [
        field.name
        for field in schema
        if not (
            pa.types.is_nested(field.type) or pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)
        )
    ]
    return pq.read_table(file, columns=kept)


def _separated(file: Path, columns: Columns, report: Report, *, tabs: bool) -> pa.Table:
    """CSV with quotes, or TSV without: captions of TSV files hold quotes that never close."""
    bad: list[int] = []

    def skip(row: Any) -> Literal["skip"]:
        bad.append(1)
        return "skip"

    parsing = pc_csv.ParseOptions(
        delimiter="\t" if tabs else ",",
        quote_char=False if tabs else '"',
        newlines_in_values=not tabs,
        invalid_row_handler=skip,
    )
    reading = pc_csv.ReadOptions(column_names=columns.names, block_size=_BLOCK_BYTES)
    with pc_csv.open_csv(file, read_options=reading, parse_options=parsing) as stream:
        types = {name: pa.binary() for name in stream.schema.names}
    bad.clear()
    converting = pc_csv.ConvertOptions(column_types=types, strings_can_be_null=False)
    table = pc_csv.read_csv(file, read_options=reading, parse_options=parsing, convert_options=converting)
    if bad:
        report("bad_row", file.name, "another number of columns", len(bad))
    return table


def _csv(file: Path, columns: Columns, report: Report) -> pa.Table:
    return _separated(file, columns, report, tabs=False)


def _tsv(file: Path, columns: Columns, report: Report) -> pa.Table:
    return _separated(file, columns, report, tabs=True)


def _json_lines(file: Path, columns: Columns, report: Report) -> pa.Table:
    rows, bad = [], 0
    with file.open(encoding="utf8", errors="replace") as lines:
        for line in filter(str.strip, lines):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            rows.append(row if isinstance(row, dict) else {})
            bad += not isinstance(row, dict)
    if bad:
        report("bad_row", file.name, "no JSON object", bad)
    rows = [row for row in rows if row]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: pa.array([_text(row.get(name)) for row in rows], pa.string()) for name in names})


def _plain(file: Path, columns: Columns, report: Report) -> pa.Table:
    lines = file.read_text("utf8", errors="replace").splitlines()
    return pa.table({"url": pa.array([line.strip() for line in lines if line.strip()], pa.string())})


_READERS: dict[str, Callable[[Path, Columns, Report], pa.Table]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".txt": _plain,
}
