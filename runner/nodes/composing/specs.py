"""What a spec says of pictures and splits of a composed set. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from runner.data.datasets.specs import SPLITS, Fractions, Split

DEALT = Fractions(train=0.5, val=0.2, test=0.3)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Share = Annotated[float, Field(ge=0, le=1)]


def _sums(shares: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    for target, values in shares.items():
        if abs(sum(values.values()) - 1) > 1e-6:
            raise ValueError(f"the shares of {target!r} add up to {sum(values.values()):g}, not to 1")
    return shares


class SplitPlan(_Model):
    """How many pictures a split has, the same number of each class, and the share of each background in a class."""

    pictures: Annotated[int, Field(ge=1, le=200_000)]
    shares: Annotated[
        dict[str, dict[str, Share]] | None,
        Field(description="{class: {background: share}}; default: every background as often"),
        AfterValidator(lambda value: None if value is None else _sums(value)),
    ] = None


class SplitPlans(_Model):
    """A plan for each split that is wanted."""

    train: SplitPlan | None = None
    val: SplitPlan | None = None
    test: SplitPlan | None = None

    @model_validator(mode="after")
    def _some(self) -> SplitPlans:
        if not self.by_split():
            raise ValueError("expected at least one of train, val and test")
        return self

    def by_split(self) -> dict[Split, SplitPlan]:
        """The plans there are."""
        return {split: plan for split in SPLITS if (plan := getattr(self, split)) is not None}


class Sizes(_Model):
    """Longest side of a cut-out as a share of the picture's side, drawn uniformly."""

    least: Annotated[float, Field(ge=0.05, le=1)] = 0.45
    most: Annotated[float, Field(ge=0.05, le=1)] = 0.8

    @model_validator(mode="after")
    def _ordered(self) -> Sizes:
        if self.least > self.most:
            raise ValueError("least is larger than most")
        return self
