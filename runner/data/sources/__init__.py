"""Image sources: where pictures come from, as streams of records.

``open_source({"folder": "photos"})`` opens one; iterating gives ``Record``s in a stable order. What cannot be used
stands in ``source.problems``. Opening imports only what the kind needs.
"""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from runner.data.sources.base import NOTES, Problem, Problems, Record, Shard, Source
from runner.data.sources.specs import (
    KINDS,
    Corpus,
    FolderSource,
    FolderTreeSource,
    Img2DatasetSource,
    PackagedSource,
    ParquetSource,
    SourceSpec,
    UrlsSource,
    WebDatasetSource,
)
from runner.errors import DataError
from runner.references import ASSET_SCHEME, AssetRef

__all__ = [
    "KINDS",
    "NOTES",
    "Corpus",
    "FolderSource",
    "FolderTreeSource",
    "Img2DatasetSource",
    "PackagedSource",
    "ParquetSource",
    "Problem",
    "Problems",
    "Record",
    "Shard",
    "Source",
    "SourceSpec",
    "UrlsSource",
    "WebDatasetSource",
    "is_here",
    "open_source",
    "open_sources",
]


@functools.cache
def _adapter() -> TypeAdapter[Any]:
    return TypeAdapter(SourceSpec)


def open_source(spec: SourceSpec | dict[str, Any], *, base: Path | None = None) -> Source:
    """Open one source. A dict is validated first; its relative paths start at ``base`` (default: current folder).

    Raises ``DataError`` where the spec is wrong or the files are not what it says.
    """
    try:
        model = _adapter().validate_python(spec, context={"base": base or Path.cwd()})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if not str(part).startswith("source "))
        raise DataError(f"image source {spec!r}: {place + ': ' if place else ''}{first['msg']}") from error
    return _OPENERS[type(model)](model)


def open_sources(specs: Any) -> list[Source]:
    """Open one or several; every source needs a name of its own."""
    listed = list(specs) if isinstance(specs, (list, tuple)) else [specs]
    sources = [spec if isinstance(spec, Source) else open_source(spec) for spec in listed]
    twice = [name for name, count in Counter(s.source_id for s in sources).items() if count > 1]
    if twice:
        raise DataError(f"two image sources are called {twice[0]!r}", hint="Give each a different `name:`.")
    return sources


def is_here(spec: SourceSpec | dict[str, Any]) -> bool:
    """Whether the source can be opened without fetching a packaged asset. Raises ``AssetError`` for an unknown one."""
    values = dict(spec).values()
    names = [value.removeprefix(ASSET_SCHEME) for value in values if str(value).startswith(ASSET_SCHEME)]
    if not names:
        return True
    from runner.assets import status

    return all(status(name) == "present" for name in names)


def _local(path: str) -> Path:
    if isinstance(path, AssetRef):
        from runner.assets import ensure

        return Path(ensure(path.name, lambda line: None).path)
    return Path(path)


def _files(patterns: str | list[str]) -> list[Path]:
    """Files of one or several paths or patterns, each once, sorted."""
    found: set[Path] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        path = _local(pattern)
        matches = [path] if path.is_file() else list(path.parent.glob(path.name))
        files = {match for match in matches if match.is_file()}
        if not files:
            raise DataError(f"no file matches {pattern}", hint="Write a file or a pattern such as `shards/*.tar`.")
        found |= files
    return sorted(found)


def _folder(spec: FolderSource) -> Source:
    from runner.data.sources.folder import Folder

    root = _local(spec.folder)
    return Folder(
        root, spec.name or root.name or "folder", spec.plain(), limit=spec.limit, labelled=spec.label_from_folder
    )


def _folder_tree(spec: FolderTreeSource) -> Source:
    from runner.data.sources.folder import FolderTree

    root = _local(spec.folder_tree)
    return FolderTree(root, spec.name or root.name or "folder_tree", spec.plain(), limit=spec.limit)


def _webdataset(spec: WebDatasetSource) -> Source:
    from runner.data.sources.webdataset import WebDataset

    files = _files(spec.webdataset)
    fields = {"image": spec.image_field, "caption": spec.caption_field, "label": spec.label_field}
    return WebDataset(files, spec.name or files[0].parent.name, spec.plain(), limit=spec.limit, fields=fields)


def _parquet(spec: ParquetSource) -> Source:
    from runner.data.sources.parquet import Parquet

    files = _files(spec.parquet)
    fields = {"image": spec.image_field, "caption": spec.caption_field, "label": spec.label_field}
    return Parquet(files, spec.name or files[0].parent.name, spec.plain(), limit=spec.limit, fields=fields)


def _img2dataset(spec: Img2DatasetSource) -> Source:
    from runner.data.sources.img2dataset import Img2Dataset

    root = _local(spec.img2dataset)
    crop, verify = str(spec.crop_borders).lower(), str(spec.verify_sha256).lower()
    return Img2Dataset(root, spec.name or root.name, spec.plain(), limit=spec.limit, crop=crop, verify=verify)  # type: ignore[arg-type]


def _urls(spec: UrlsSource) -> Source:
    from runner.data.sources.addresses import networks
    from runner.data.sources.download import Fetcher
    from runner.data.sources.urls import Columns, Urls

    files = _files(spec.urls)
    # From the machine's owner alone: a spec that somebody else wrote must not open what is not public.
    text = os.environ.get("RUNNER_ALLOW_ADDRESSES", "")
    try:
        allowed = networks(text.split(","))
    except ValueError as error:
        raise DataError(
            f"RUNNER_ALLOW_ADDRESSES={text!r}: {error}", hint="Write addresses like 10.1.0.0/16."
        ) from error
    fetcher = Fetcher(timeout=spec.timeout, max_bytes=spec.max_bytes, allowed=allowed)
    plain = {name: value for name, value in spec.plain().items() if name not in ("timeout", "concurrency")}
    return Urls(
        files,
        spec.name or files[0].name.partition(".")[0] or "urls",
        plain,  # how fast and how patiently links are fetched makes no other source
        limit=spec.limit,
        columns=Columns(spec.url_column, spec.caption_column, spec.columns),
        fetcher=fetcher,
        cache=None if spec.cache is None else Path(spec.cache),
        concurrency=spec.concurrency,
    )


def _packaged(spec: PackagedSource) -> Source:
    from runner.data.sources.packaged import Packaged

    name = AssetRef(spec.packaged).name + (f"+{spec.variant}" if spec.variant else "")
    return Packaged(name, spec.name or name, spec.plain(), limit=spec.limit)


_OPENERS: dict[type, Callable[[Any], Source]] = {
    FolderSource: _folder,
    FolderTreeSource: _folder_tree,
    WebDatasetSource: _webdataset,
    Img2DatasetSource: _img2dataset,
    ParquetSource: _parquet,
    UrlsSource: _urls,
    PackagedSource: _packaged,
}
