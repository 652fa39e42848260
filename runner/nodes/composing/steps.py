"""Step ``datasets.compose``. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field

from runner.artifacts import AttributedImages
from runner.context import StepContext, item_key
from runner.data.datasets.specs import SPLITS, Fractions, Split
from runner.nodes.composing.specs import DEALT, Sizes, SplitPlans
from runner.nodes.cut_out_specs import CutOuts, FolderName, Photographs
from runner.nodes.made_pictures import kept
from runner.steps import Cost, Folder, step

if TYPE_CHECKING:
    from pathlib import Path

    from runner.nodes.composing.composing import Planned
    from runner.nodes.cut_outs import Material

LAYOUT = "1"
"""Raised when the same parameters would give other pictures."""
NAME = r"^[^\W_][\w .+-]{0,99}$"


@dataclass(frozen=True)
class ComposedImages(AttributedImages):
    """A composed set. ``pictures``: the set in Waterbirds' layout; ``tree``: TARGET/ATTRIBUTE/VALUE/file, of some splits;
    ``summary``: numbers of pictures, cut-outs and photographs."""

    pictures: Folder
    tree: Folder
    summary: dict[str, Any]


@dataclass(frozen=True)
class _Composed:
    name: str
    attribute: str
    material: Material
    pictures: list[Planned]
    about: str
    template: str


def _cost(params: Mapping[str, Any]) -> Cost:
    plans = params.get("splits")
    made = plans.by_split().values() if isinstance(plans, SplitPlans) else []
    return Cost(images=sum(plan.pictures for plan in made), bytes=None)


@step("datasets.compose", version="1", estimate=_cost)
def compose(
    ctx: StepContext,
    *,
    objects: Annotated[dict[FolderName, CutOuts], Field(min_length=2, description="cut-outs by class, in order")],
    backgrounds: Annotated[
        dict[FolderName, Photographs],
        Field(min_length=2, description="photographs by value of the attribute, in order"),
    ],
    splits: Annotated[SplitPlans, Field(description="pictures of each split and shares of the backgrounds")],
    name: Annotated[str, Field(pattern=NAME, description="name of the set in the results")] = "composed",
    attribute: Annotated[FolderName, Field(description="what the backgrounds are values of")] = "place",
    fractions: Annotated[Fractions, Field(description="shares of cut-outs and photographs by split")] = DEALT,
    size: Annotated[int, Field(ge=16, le=1024, description="pixels of a picture's side")] = 64,
    object_size: Annotated[Sizes, Field(description="longest side of a cut-out as a share of the side")] = Sizes(),  # noqa: B008
    mirror: Annotated[bool, Field(description="turn every other cut-out round, by chance")] = True,
    tree: Annotated[list[Split], Field(min_length=1, description="splits that the folder tree holds")] = ["test"],  # noqa: B006
    template: Annotated[
        str, Field(pattern=r"^[^{}]*\{\}[^{}]*$", description="prompt with one {}")
    ] = "a picture of a {}.",
    seed: Annotated[int | None, Field(ge=0, description="default: the run's")] = None,
    thumbnails: Annotated[int, Field(ge=0, le=10_000, description="first pictures of each split shown")] = 24,
) -> ComposedImages:
    """Paste cut-outs of classes on photographs of backgrounds, with the shares that each split is meant to have.

    A small set of ours, after the idea of Waterbirds: no cut-out and no photograph stands in two splits, and in a split every
    background of a class shows the same cut-outs as often.
    """
    from runner.nodes.composing.composing import (
        Look,
        branch,
        composed,
        planned,
        summary,
        write_picture,
        write_table,
    )  # fmt: skip
    from runner.nodes.cut_outs import gather

    drawn = ctx.seed if seed is None else seed
    material = gather(objects, backgrounds, 2 * size, lambda text: ctx.warn(text, item=name))
    look = Look(size, object_size, mirror)
    pictures = planned(material, splits.by_split(), fractions, look, drawn)
    folder, branches = ctx.folder("pictures"), ctx.folder("tree")
    for picture, png in ctx.track(composed(pictures, material, look), unit="images", total=len(pictures)):
        write_picture(folder / picture.file, png)
        if picture.split in tree:
            write_picture(branches / branch(picture, attribute), png)
    about = _description(name, attribute, material)
    write_table(folder, pictures, material, about)
    key = item_key("composed", LAYOUT, name, attribute, _plain(objects), _plain(backgrounds), _plain(splits),
                   _plain(fractions), _plain(object_size), size, mirror, drawn,
                   {n: s.fingerprint() for n, s in material.sources.items()})  # fmt: skip
    set_ = _Composed(name, attribute, material, pictures, about, template)
    rows = _rows(set_, folder, thumbnails)
    return _artifact(set_, rows, kept(ctx, "composed", key[:24], folder), folder, branches, summary(pictures))


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return {key: _plain(one) for key, one in value.items()}


def _description(name: str, attribute: str, material: Material) -> str:
    return (
        f"{name}: composed by this project of cut-outs ({', '.join(material.figures)}) on photographs "
        f"({attribute}: {', '.join(material.photographs)}). A small set for trying methods, not a published benchmark.\n"
        f"Licences of its parts: {material.licences()}"
    )


def _rows(made: _Composed, folder: Path, thumbnails: int) -> list[dict[str, Any]]:
    """Rows of ``dataset_image``; the first of each split have a thumbnail, as many of each class and background."""
    from runner.data.datasets.loading import THUMBNAIL_SIDE
    from runner.data.images import decode, thumbnail

    shown: set[str] = set()
    for split in SPLITS:
        files = [p.file for p in made.pictures if p.split == split]
        shown |= {
            *sorted(files, key=lambda file: file.rpartition("-")[2])[:thumbnails]
        }  # by number: all groups in turn
    targets = [*made.material.figures]
    return [
        {
            "dataset": made.name, "split": p.split, "sample_id": p.file, "source_id": made.name, "uri": p.file,
            "target": p.target, "class_index": targets.index(p.target),
            "thumbnail": thumbnail(decode((folder / p.file).read_bytes()), THUMBNAIL_SIDE) if p.file in shown else None,
        }
        for p in made.pictures
    ]  # fmt: skip


def _artifact(
    made: _Composed, rows: list[dict[str, Any]], home: Path, folder: Path, tree: Path, counted: dict[str, Any]
) -> ComposedImages:
    from results.tables import arrow_table

    values = [
        {"dataset": made.name, "sample_id": p.file, "attribute": label, "value": value}
        for p in made.pictures
        for label, value in (
            (made.attribute, p.background), ("style", p.figure.place.source_id), ("cut_out", "/".join(p.figure.place))
        )
    ]  # fmt: skip
    dataset = {
        "dataset": made.name, "known": None, "group": None, "classes": [*made.material.figures], "domain_noun": None,
        "template": made.template, "licence": made.material.licences(), "description": made.about,
    }  # fmt: skip
    styles = sorted({p.figure.place.source_id for p in made.pictures})
    attributes = {made.attribute: [*made.material.photographs], "style": styles, "cut_out": []}
    return ComposedImages(
        datasets=[dataset],
        corpus=[{"folder": str(home), "name": made.name}],
        images=arrow_table("dataset_image", rows),
        about=[{"dataset": made.name, "attributes": attributes, "class_attribute": None}],
        attributes=arrow_table("dataset_attribute", values),
        pictures=folder,
        tree=tree,
        summary=counted,
    )
