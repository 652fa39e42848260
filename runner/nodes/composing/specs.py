"""What a spec says of cut-outs, backgrounds and splits. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from runner.data.datasets.specs import SPLITS, Fractions, PackagedSet, Split
from runner.data.sources.specs import SourceSpec

FolderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _-]{0,59}$")]
"""A class or a background: it becomes a folder."""
Word = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,60}$")]
Glob = Annotated[str, Field(pattern=r"^[^\x00-\x1f]{1,200}$")]
DEALT = Fractions(train=0.5, val=0.2, test=0.3)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CutOuts(_Model):
    """Cut-outs of a class: pictures with transparency whose caption has one of the words."""

    sets: Annotated[
        list[PackagedSet], Field(min_length=1, max_length=20, description="packaged sets, such as fluent-3d")
    ]
    captions: Annotated[
        list[Word], Field(min_length=1, max_length=500, description="words or phrases; whole words, any case, plural too")
    ]  # fmt: skip
    except_captions: Annotated[list[Word], Field(max_length=500, description="words that rule a picture out")] = []
    except_uris: Annotated[list[Glob], Field(max_length=200, description="patterns of names that are ruled out")] = []


class Photographs(_Model):
    """Photographs of a background: those of a source with one of the labels, or with a caption that has one of the words."""

    # Told apart by type, so that a misspelt name is answered with the nearest one.
    source: Annotated[
        Annotated[PackagedSet, Tag("packaged set")] | Annotated[SourceSpec, Tag("any source")],
        Discriminator(lambda value: "packaged set" if isinstance(value, str) else "any source"),
    ]
    labels: Annotated[list[Word], Field(min_length=1, max_length=500, description="true labels of the source")]


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
