"""Pictures in folders that are called like their classes, and image sources with labels or captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from runner.data.datasets.content import Content, Picture, dealt, quoted, some
from runner.data.datasets.specs import SPLITS, Fractions, ImageFolderDataset, SourcesDataset, Split
from runner.data.datasets.texts import caption_target, check_distinct, class_name
from runner.data.sources import NOTES, Source, open_source
from runner.errors import DataError

EMOJI = frozenset({"asset:google-emoji", "asset:fluent-3d"})
"""Sets whose captions are names as a whole (CLDR)."""


class Found(NamedTuple):
    """A picture with what is known of it; ``split`` is None where it is yet to be dealt out."""

    split: Split | None
    source_id: str
    uri: str
    name: str


class Deal(NamedTuple):
    """How pictures come to splits where none is given: shares, seed, and whether ``classes`` are dealt out whole."""

    fractions: Fractions
    seed: int
    classes: bool

    def splits(self, found: list[Found]) -> tuple[Split, ...]:
        """The splits that folders or sources stand for, else those with a share."""
        present = {item.split for item in found if item.split}
        return tuple(s for s in SPLITS if (s in present if present else getattr(self.fractions, s) > 0))


def read_image_folder(spec: ImageFolderDataset, title: str, seed: int) -> Content:
    """Classes are first folders, alphabetically; splits are folders above them, or dealt out by the hash of the uri."""
    from runner.data.sources.folder import Folder

    folder = Path(spec.image_folder)
    source = Folder(folder, title, {"folder": str(folder)})
    uris = source.uris()
    firsts = {uri.partition("/")[0] for uri in uris if "/" in uri}
    split_folders = firsts & {*SPLITS}
    if split_folders and firsts - split_folders:
        raise DataError(
            f"{title}: {folder} holds both splits ({some(sorted(split_folders))}) and other folders "
            f"({some(sorted(firsts - split_folders))})",
            hint="Sort all pictures into train, val and test, or none.",
        )
    placed, loose = _placed(uris, title, with_splits=bool(split_folders))
    notes = [f"left out: {len(loose)} pictures outside of class folders, such as {quoted(loose[0])}"] if loose else []
    notes += _problems(source)
    return assembled(placed, [source], title, Deal(spec.fractions, seed, classes=False), notes)


def _problems(source: Source) -> list[str]:
    """A note on what the source itself could not use."""
    counts = {reason: count for reason, count in source.problems.counts().items() if reason not in NOTES}
    return [f"left out of {source.source_id}: {counts}"] if counts else []


def _placed(uris: list[str], title: str, *, with_splits: bool) -> tuple[list[Found], list[str]]:
    placed, loose = [], []
    for uri in uris:
        first, *rest = uri.split("/")
        split = next((s for s in SPLITS if with_splits and s == first), None)
        folders = [first, *rest][1:-1] if split else [first, *rest][:-1]
        if folders:
            placed.append(Found(split, title, uri, class_name(folders[0].replace("_", " "), f"{title}: {uri}")))
        else:
            loose.append(uri)
    return placed, loose


def read_sources(spec: SourcesDataset, title: str, seed: int, *, check: bool) -> Content:
    """A dataset of image sources: classes are labels or names from captions, alphabetically."""
    found: list[Found] = []
    sources: list[Source] = []
    notes: list[str] = []
    for split, part in spec.parts().items():
        name = f"{title}:{split}" if split else title
        source = open_source(part.model_copy(update={"name": name}))
        if spec.target == "caption":
            names = _captions(source, whole=part.plain().get("packaged") in EMOJI)
        else:
            names = _labels(source, title, check=check)
        found += [Found(split, name, uri, text) for uri, text in names.items() if text is not None]
        nameless = [uri for uri, text in names.items() if text is None]
        if nameless:
            notes.append(
                f"left out: {len(nameless)} pictures of {name} without a {spec.target}, such as {quoted(nameless[0])}"
            )
        notes += _problems(source)
        sources.append(source)
    return assembled(found, sources, title, Deal(spec.fractions, seed, classes=spec.disjoint == "target"), notes)


def _captions(source: Source, *, whole: bool) -> dict[str, str | None]:
    return {record.uri: caption_target(record.caption, whole=whole) for record in source}


def _labels(source: Source, title: str, *, check: bool) -> dict[str, str | None]:
    """Label by uri. ``check`` reads through sources that may list pictures which they cannot read."""
    labels = source.labels()
    if labels is None:
        raise DataError(
            f"{title}: the source {source.source_id} ({source.kind}) has no labels",
            hint="Write `target: caption`, or tell where its labels stand (label_field, label_from_folder).",
        )
    if check and source.kind not in ("folder", "packaged"):
        return {r.uri: _label(labels.get(r.uri), title) for r in source}
    return {uri: _label(label, title) for uri, label in labels.items()}


def _label(label: str | None, title: str) -> str | None:
    return None if label is None else class_name(label.replace("_", " "), title)


def assembled(found: list[Found], sources: list[Source], title: str, deal: Deal, notes: list[str]) -> Content:
    """Classes in alphabetical order and pictures by split; raises ``DataError`` where no picture has a class."""
    check_distinct(title, sorted({item.name for item in found}))
    placed = list(_placed_in_splits(found, deal))
    classes = sorted({item.name for item, _ in placed})
    if not classes:
        raise DataError(f"{title} has no labelled picture", hint="; ".join(notes) or None)
    if len(placed) < len(found):
        notes = [*notes, f"left out: {len(found) - len(placed)} pictures whose class was dealt to another split"]
    number = {name: index for index, name in enumerate(classes)}
    several = len(sources) > 1
    pictures = [
        Picture(
            split, f"{item.source_id}/{item.uri}" if several else item.uri, item.source_id, item.uri, number[item.name]
        )
        for item, split in placed
    ]
    licences = sorted({source.licence for source in sources if source.licence})
    pictures.sort(key=lambda picture: SPLITS.index(picture.split))
    return Content(classes, pictures, sources, deal.splits(found), "; ".join(licences) or None, notes)


def _placed_in_splits(found: list[Found], deal: Deal) -> Iterator[tuple[Found, Split]]:
    """Each picture with its split.

    Where classes are dealt out, a picture of a source that stands for one split is used only if its class was dealt to
    that split: no class is met in two splits, not even in another source's style.
    """
    fractions = _restricted(deal, found)
    for item in found:
        if not deal.classes:
            yield item, item.split or dealt(item.uri, fractions, deal.seed)
        elif item.split in (None, split := dealt(item.name, fractions, deal.seed)):
            yield item, split


def _restricted(deal: Deal, found: list[Found]) -> Fractions:
    """The shares of the splits that can have pictures, made to add up to 1."""
    shares = {split: getattr(deal.fractions, split) for split in deal.splits(found)}
    total = sum(shares.values())
    if total <= 0 and deal.classes:
        raise DataError(f"the fractions leave nothing for {' and '.join(shares)}")
    return Fractions(**{split: value / total for split, value in shares.items()}) if total > 0 else deal.fractions
