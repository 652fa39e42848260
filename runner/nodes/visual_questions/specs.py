"""What a spec says of generated questions. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Domain = Literal["object", "count", "colour", "text", "position", "style"]


class Counts(BaseModel):
    """Pictures of a domain in each split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: Annotated[int, Field(ge=0, le=200_000)] = 1000
    eval: Annotated[int, Field(ge=0, le=200_000)] = 100


EVERY: dict[Domain, Counts] = {
    domain: Counts() for domain in ("object", "count", "colour", "text", "position", "style")
}
