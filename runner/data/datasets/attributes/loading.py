"""One dataset with attributes, from its spec to what the step returns of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runner.data.datasets.attributes.emoji import read_emoji
from runner.data.datasets.attributes.faces import read_fairface, read_utkface
from runner.data.datasets.attributes.found import Attributed, Found, attributed, per_group
from runner.data.datasets.attributes.scenes import read_celeba, read_visu, read_waterbirds
from runner.data.datasets.attributes.specs import (
    AnyAttributed,
    CelebaDataset,
    EmojiDataset,
    FairfaceDataset,
    TableDataset,
    UtkfaceDataset,
    VisuDataset,
)
from runner.data.datasets.attributes.table import read_table
from runner.data.datasets.content import Picture
from runner.data.datasets.layouts import check_files
from runner.data.datasets.loading import Loaded, Options, about_of
from runner.data.datasets.sampling import Counts, sample

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class LoadedAttributes:
    """A dataset as ``datasets.load`` has it, with the attributes of the pictures drawn of it."""

    loaded: Loaded
    about: dict[str, Any]
    values: dict[str, Mapping[str, str | None]]


def load(spec: AnyAttributed, options: Options, group_count: Counts = None) -> LoadedAttributes:
    """Read one dataset and draw the pictures wanted, at most ``group_count`` a group first.

    Raises ``DataError`` where the dataset is incomplete or wrong.
    """
    title = spec.title
    made = attributed(title, _read(spec, title, options.seed))
    made = per_group(made, spec.per_group if spec.per_group is not None else group_count, options.seed)
    limit = options.limit if spec.limit is None else spec.limit
    each = options.per_class if spec.per_class is None else spec.per_class
    taken = sample(title, made.content, limit, each, options.seed)
    if options.check_files:
        splits = {picture.split for picture in taken}
        _check(title, made, [picture for picture in made.content.pictures if picture.split in splits])
    about = {"dataset": title, "attributes": made.found.values, "class_attribute": made.found.class_attribute}
    return LoadedAttributes(Loaded(title, made.content, taken, about_of(spec, title, made.content)), about, made.values)


def _read(spec: AnyAttributed, title: str, seed: int) -> Found:
    if isinstance(spec, CelebaDataset):
        return read_celeba(spec, title, seed)
    if isinstance(spec, FairfaceDataset):
        return read_fairface(spec, title)
    if isinstance(spec, UtkfaceDataset):
        return read_utkface(spec, title, seed)
    if isinstance(spec, VisuDataset):
        return read_visu(spec, title)
    if isinstance(spec, EmojiDataset):
        return read_emoji(spec, title, seed)
    if isinstance(spec, TableDataset):
        return read_table(spec, title, seed)
    return read_waterbirds(spec, title)


def _check(title: str, made: Attributed, pictures: list[Picture]) -> None:
    """Raise ``DataError`` where pictures are missing, with where those of their class come from."""
    found = made.found
    if found.root is None:
        return
    by_origin: dict[str, list[Picture]] = {}
    for picture in pictures:
        name = found.classes[picture.class_index]
        by_origin.setdefault(found.origins.get(name, found.origins.get("", "its makers")), []).append(picture)
    for origin, listed in by_origin.items():
        check_files(title, found.root, listed, origin=origin)


def attribute_table(made: Iterable[LoadedAttributes]) -> pa.Table:
    """Rows of ``dataset_attribute`` for the pictures drawn; columns, since CelebA has a million rows."""
    import pyarrow as pa

    from results.tables import arrow_schema

    rows = [
        (one.loaded.name, picture.sample_id, name, value)
        for one in made
        for picture in one.loaded.pictures
        for name, value in one.values[picture.sample_id].items()
    ]
    schema = arrow_schema("dataset_attribute")
    columns = zip(*rows, strict=True) if rows else [[] for _ in schema]
    return pa.table([pa.array(list(c), f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
