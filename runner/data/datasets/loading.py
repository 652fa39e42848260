"""One dataset or several, from their specs to rows of ``dataset_image``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.data.datasets.content import Content, Picture
from runner.data.datasets.folders import read_image_folder, read_sources
from runner.data.datasets.known import KNOWN
from runner.data.datasets.layouts import check_files, read_known
from runner.data.datasets.sampling import Counts, sample
from runner.data.datasets.specs import (
    DatasetModel,
    ImageFolderDataset,
    KnownDataset,
    PackagedDataset,
    SourceDataset,
)
from runner.data.images import UnreadableImage, decode, thumbnail
from runner.data.places import Place, read_pictures
from runner.data.sources import Source
from runner.errors import DataError

AnyDataset = KnownDataset | ImageFolderDataset | PackagedDataset | SourceDataset

THUMBNAIL_SIDE = 96


@dataclass(frozen=True)
class Options:
    """What holds for every dataset of a step; a dataset's own ``limit`` and ``per_class`` come first."""

    limit: Counts = None
    per_class: Counts = None
    seed: int = 0
    thumbnails: int = 24
    check_files: bool = True


@dataclass(frozen=True)
class Loaded:
    """A dataset with the pictures drawn of it. ``about`` is its entry in ``Datasets.datasets``."""

    name: str
    content: Content
    pictures: list[Picture]
    about: dict[str, Any]


def load(spec: AnyDataset, options: Options) -> Loaded:
    """Read one dataset and draw the pictures wanted. Raises ``DataError`` where it is incomplete or wrong."""
    name = spec.title
    if isinstance(spec, KnownDataset):
        content = read_known(spec.name, Path(spec.root), name)
    elif isinstance(spec, ImageFolderDataset):
        content = read_image_folder(spec, name, options.seed)
    else:
        content = read_sources(spec, name, options.seed, check=options.check_files)
    limit = options.limit if spec.limit is None else spec.limit
    per_class = options.per_class if spec.per_class is None else spec.per_class
    taken = sample(name, content, limit, per_class, options.seed)
    if isinstance(spec, KnownDataset) and options.check_files:
        splits = {picture.split for picture in taken}
        listed = [picture for picture in content.pictures if picture.split in splits]
        check_files(name, Path(spec.root), listed, origin=KNOWN[spec.name].obtained_from)
    return Loaded(name, content, taken, about_of(spec, name, content))


def about_of(spec: DatasetModel, name: str, content: Content) -> dict[str, Any]:
    """The entry of a dataset in ``Datasets.datasets``."""
    known = KNOWN[spec.name] if isinstance(spec, KnownDataset) else None
    return {
        "dataset": name,
        "known": spec.name if isinstance(spec, KnownDataset) else None,
        "group": spec.group or (known.group if known else None),
        "classes": content.classes,
        "domain_noun": spec.domain_noun or (known.domain_noun if known else None),
        "template": spec.template or (known.template if known else "a photo of a {}."),
        "licence": content.licence,
    }


def check_names(specs: Sequence[DatasetModel]) -> None:
    """Raise ``DataError`` where two datasets have one name."""
    twice = [name for name, count in Counter(spec.title for spec in specs).items() if count > 1]
    if twice:
        raise DataError(f"two datasets are called {twice[0]!r}", hint="Give each a name of its own with `as:`.")


def rows_of(loaded: Loaded, thumbnails: int, warn: Callable[[str, str], None]) -> list[dict[str, Any]]:
    """Rows of ``dataset_image``: splits train, val, test, each in the order of its split.

    The first ``thumbnails`` of each split get one; ``warn(text, item)`` is told of those that cannot be read.
    """
    small = thumbnails_of(loaded.content.sources, _first(loaded.pictures, thumbnails), warn)
    return [
        {
            "dataset": loaded.name, "split": picture.split, "sample_id": picture.sample_id,
            "source_id": picture.source_id, "uri": picture.uri,
            "target": loaded.content.classes[picture.class_index], "class_index": picture.class_index,
            "thumbnail": small.get(Place(picture.source_id, picture.uri)),
        }
        for picture in loaded.pictures
    ]  # fmt: skip


def _first(pictures: list[Picture], count: int) -> list[Place]:
    seen: Counter[str] = Counter()
    wanted = []
    for picture in pictures:
        seen[picture.split] += 1
        if seen[picture.split] <= count:
            wanted.append(Place(picture.source_id, picture.uri))
    return wanted


def thumbnails_of(
    sources: Sequence[Source], wanted: list[Place], warn: Callable[[str, str], None]
) -> dict[Place, bytes]:
    """JPEG bytes by place; ``warn(text, uri)`` is told of pictures that cannot be read, which are left out."""
    found = {}
    for place, data in _read(sources, wanted, warn):
        try:
            found[place] = thumbnail(decode(data), THUMBNAIL_SIDE)
        except UnreadableImage as error:
            warn(str(error), place.uri)
    return found


def _read(
    sources: Sequence[Source], wanted: list[Place], warn: Callable[[str, str], None]
) -> Iterator[tuple[Place, bytes]]:
    """Bytes of the pictures that can be read; one that is gone costs no other."""
    try:
        yield from list(read_pictures(sources, wanted))
    except DataError:
        for place in wanted:
            try:
                yield from list(read_pictures(sources, [place]))
            except DataError as error:
                warn(error.message, place.uri)
