"""Step ``parts.load``: a public or own dataset with part masks. Light: imported to validate a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from runner.artifacts import PartImages
from runner.context import StepContext
from runner.data.datasets.specs import SPLITS, Limit, Split, SplitCounts
from runner.data.parts.specs import PartDatasetSpec
from runner.steps import Cost, step


def _distinct(splits: list[Split]) -> list[Split]:
    if len(set(splits)) < len(splits):
        raise ValueError("a split stands twice")
    return splits


def load_cost(params: Mapping[str, Any]) -> Cost:
    """Pictures whose masks are made, where the limits say it."""
    limit, splits = params.get("limit"), params.get("splits") or SPLITS
    if isinstance(limit, int):
        return Cost(images=limit * len(splits), bytes=None)
    counts = [getattr(limit, split) for split in splits] if isinstance(limit, SplitCounts) else [None]
    known = [count for count in counts if count is not None]
    return Cost(images=sum(known) if len(known) == len(counts) else None, bytes=None)


@step("parts.load", version="2", estimate=load_cost)
def load(
    ctx: StepContext,
    *,
    dataset: Annotated[PartDatasetSpec, Field(description="the dataset; its key says the kind")],
    splits: Annotated[
        list[Split], Field(min_length=1, description="splits that are loaded"), AfterValidator(_distinct)
    ] = list(SPLITS),  # noqa: B006  never changed
    limit: Annotated[
        Limit | None, Field(description="pictures drawn of each split, uniformly; {val: 0} leaves a split out")
    ] = None,
    val_fraction: Annotated[
        float, Field(ge=0, lt=1, description="share of train that becomes val, where the dataset has none of its own")
    ] = 0.0,
    seed: Annotated[int | None, Field(ge=0, description="of draws and of splits dealt out; default: the run's")] = None,
    thumbnails: Annotated[int, Field(ge=0, le=10_000, description="first pictures of each split shown")] = 24,
) -> PartImages:
    """Load a dataset whose pictures carry masks of parts, with attributes that each belong to a part.

    Public datasets are read from a local copy as it unpacks; finished masks survive a kill.
    """
    from runner.data.parts.loading import Options
    from runner.data.parts.loading import load as load_one

    return load_one(ctx, dataset, Options(splits, limit, val_fraction, ctx.seed if seed is None else seed, thumbnails))
