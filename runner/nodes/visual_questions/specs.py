"""What a spec says of generated questions. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from runner.data.sources import PackagedSource

Domain = Literal["object", "count", "colour", "text", "position", "style"]


class Counts(BaseModel):
    """Pictures of a domain in each split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: Annotated[int, Field(ge=0, le=200_000)] = 1000
    eval: Annotated[int, Field(ge=0, le=200_000)] = 100


EVERY: dict[Domain, Counts] = {
    domain: Counts() for domain in ("object", "count", "colour", "text", "position", "style")
}


def packaged(name: str) -> PackagedSource:
    """An image set of the asset registry by name."""
    return PackagedSource.model_validate({"packaged": name})


SETS = [packaged(name) for name in ("google-emoji", "fluent-3d", "tuxpaint-stamps", "openclipart")]
PHOTOGRAPHS = packaged("cifar10-train-sample")
