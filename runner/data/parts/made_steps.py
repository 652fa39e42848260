"""Steps ``parts.openmoji``, ``parts.planted``, ``parts.tree``. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo

from runner.artifacts import PartImages
from runner.context import StepContext
from runner.data.datasets.specs import Fractions, Split
from runner.data.parts.made_specs import DEALT, Apart, Background, Jitter, Recolour, Tie, check_tie
from runner.references import AssetRef, InputPath
from runner.steps import Artifact, Cost, Folder, step

OPENMOJI = AssetRef("asset:openmoji")
FOLDER_NAME = r"^[A-Za-z0-9][A-Za-z0-9 _.-]{0,59}$"
FolderName = Annotated[str, Field(pattern=FOLDER_NAME)]
AttributeName = Annotated[str, Field(min_length=1, max_length=200)]
Seed = Annotated[int | None, Field(ge=0, description="none = the run's seed")]
Thumbnails = Annotated[int, Field(ge=0, le=10_000, description="first pictures of each split shown")]


@dataclass(frozen=True)
class PartTree(Artifact):
    """Pictures sorted by their labels. ``tree``: TARGET/ATTRIBUTE/VALUE/file; ``summary``: pictures of each folder, and left out."""

    tree: Folder
    summary: dict[str, Any]


def _cost(params: Mapping[str, Any]) -> Cost:
    return Cost(images=params.get("pictures"), bytes=None)


def _tie_holds(tie: Tie | None, info: ValidationInfo) -> Tie | None:
    recolour = (info.data or {}).get("param_recolour")
    if tie is not None and recolour is not None:
        check_tie(tie, recolour)
    return tie


@step("parts.openmoji", version="3", estimate=_cost)
def openmoji(
    ctx: StepContext,
    *,
    pictures: Annotated[
        int | None, Field(ge=4, le=200_000, description="in all splits; none = as many as there are drawings")
    ] = 500,
    side: Annotated[int, Field(ge=32, le=1024, description="pixels of a picture's side")] = 224,
    split: Annotated[Fractions, Field(description="shares of the splits; no drawing stands in two of them")] = DEALT,
    apart: Annotated[
        Apart, Field(description="role: nor does a role, such as farmer, whose woman, man and person wear the same")
    ] = "role",
    recolour: Annotated[Recolour, Field(description="colours that each part is given at random")] = Recolour(),  # noqa: B008
    correlate: Annotated[
        Tie | None,
        Field(description="ties one part's colour to another's, by their places in lists of equal length"),
        AfterValidator(_tie_holds),
    ] = None,
    background: Background = "white",
    jitter: Annotated[Jitter | None, Field(description="shift, size, mirroring; none = as drawn")] = Jitter(),  # noqa: B008
    seed: Seed = None,
    drawings: Annotated[InputPath, Field(description="the packed drawings")] = OPENMOJI,
    thumbnails: Thumbnails = 24,
) -> PartImages:
    """Drawings of people whose hair, skin, clothing and headwear have colours drawn at random, with exact masks of them.

    A factorial set with known truth: colours of different parts are independent by design, so that what a part's vector tells
    of another part's colour came from outside the part. With ``correlate`` it may also come from the part itself.
    """
    from runner.assets import resolve
    from runner.data.parts.made_sets import OpenmojiPlan, openmoji_images

    drawn = ctx.seed if seed is None else seed
    plan = OpenmojiPlan(pictures, side, split, apart, recolour, correlate, background, jitter, drawn)
    return openmoji_images(ctx, plan, resolve(drawings), thumbnails)


@step("parts.planted", version="2", estimate=_cost)
def planted(
    ctx: StepContext,
    *,
    pictures: Annotated[int, Field(ge=2, le=1_000_000, description="half for training, half for testing")] = 1200,
    correlation: Annotated[
        float,
        Field(ge=0, le=1, description="of each bit's latent number with one that all share; 0 = independent bits"),
    ] = 0.0,
    side: Annotated[int, Field(ge=8, le=1024, multiple_of=2, description="pixels of a picture's side")] = 64,
    noise: Annotated[
        float, Field(gt=0, le=100, description="standard deviation; a quadrant's colour has length 0.5")
    ] = 0.7,
    seed: Seed = None,
    thumbnails: Thumbnails = 8,
) -> PartImages:
    """Noise in which each quadrant carries one bit as the sign of its colour: everything about its parts is known."""
    from runner.data.parts.made_sets import planted_images

    return planted_images(ctx, pictures, correlation, side, noise, ctx.seed if seed is None else seed, thumbnails)


@step("parts.tree", version="1")
def tree(
    ctx: StepContext,
    *,
    images: PartImages,
    targets: Annotated[
        dict[FolderName, AttributeName],
        Field(min_length=2, description="attribute that holds, by class; `not NAME`: that does not hold"),
    ],
    groups: Annotated[
        dict[FolderName, dict[FolderName, AttributeName]],
        Field(min_length=1, description="for each attribute of an audit: value, and what holds then"),
    ],
    split: Annotated[Split, Field(description="whose pictures are sorted")] = "test",
    limit: Annotated[int | None, Field(ge=1, description="most pictures of each class and value")] = None,
    least: Annotated[int, Field(ge=0, description="a folder with fewer pictures is warned of")] = 10,
    seed: Seed = None,
) -> PartTree:
    """Sort pictures into TARGET/ATTRIBUTE/VALUE folders by their labels, as ``retrieval.folder_tree`` reads them.

    A picture without a valid label for exactly one class, or one value, stays out of what it has none for.
    """
    from runner.data.parts.made_tree import sort_pictures

    folder = ctx.folder("tree")
    drawn = ctx.seed if seed is None else seed
    return PartTree(folder, sort_pictures(ctx, images, folder, targets, groups, split, limit, least, drawn))
