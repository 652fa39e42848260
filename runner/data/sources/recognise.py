"""Which kind of source a path is, for commands where a person names only the path."""

from __future__ import annotations

import re
from pathlib import Path

_STATS = re.compile(r"\d+_stats\.json")
_LISTS = (".csv", ".tsv", ".jsonl", ".txt")
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def recognise(text: str) -> str | None:
    """Key of the source kind that a folder, file or pattern is; None where it is nothing that can be read.

    A folder is img2dataset's where a shard has its statistics or its Parquet file beside it. A Parquet file is a list of
    links where it has a column of them and no pictures.
    """
    path, name = Path(text).expanduser(), text.lower()
    if path.is_dir():
        return "img2dataset" if _is_img2dataset(path) else "folder"
    if name.endswith(_TARS):
        return "webdataset"
    if name.endswith(_LISTS):
        return "urls"
    if name.endswith(".parquet"):
        return "urls" if _is_list(path) else "parquet"
    return None


def _is_img2dataset(folder: Path) -> bool:
    names = {entry.name for entry in folder.iterdir()}
    shards = {name.removesuffix(".parquet") for name in names if re.fullmatch(r"\d+\.parquet", name)}
    return any(_STATS.fullmatch(name) for name in names) or any(names & {s, f"{s}.tar"} for s in shards)


def _is_list(pattern: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from runner.data.sources.links import URL_FIELDS
    from runner.data.sources.parquet import holds_bytes

    files = [pattern] if pattern.is_file() else sorted(pattern.parent.glob(pattern.name))
    try:
        schema = pq.read_schema(files[0])
    except (IndexError, OSError, pa.ArrowException):  # said where it is opened
        return False
    links = any(name.lower() in URL_FIELDS for name in schema.names)
    return links and not any(holds_bytes(schema, name) for name in schema.names)
