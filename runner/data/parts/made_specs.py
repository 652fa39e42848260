"""What a spec says of made pictures: colours, ties between them, how drawings are placed. Light: imported to validate a spec."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from runner.data.datasets.specs import Fractions, Split

HairColour = Literal["black", "brown", "blond", "red", "grey"]
SkinTone = Literal["light", "medium-light", "medium", "medium-dark", "dark"]
Dye = Literal["red", "green", "blue", "yellow", "purple"]
Coloured = Literal["hair", "skin", "clothing", "headwear"]
Apart = Literal["role", "drawing"]
Background = Literal["white", "plain", "photographs"]

HEX: dict[str, dict[str, str]] = {
    "hair": {"black": "#2a2626", "brown": "#7a4a2b", "blond": "#eccb6a", "red": "#c9542b", "grey": "#b8b8bc"},
    "skin": {
        "light": "#fadcbc", "medium-light": "#debb90", "medium": "#c19a65", "medium-dark": "#a57939", "dark": "#5c4037",
    },
    "clothing": {"red": "#d22f27", "green": "#5c9e31", "blue": "#3f7fd0", "yellow": "#f1b31c", "purple": "#8d5fb5"},
}  # fmt: skip
"""Colours by part and name; skin as OpenMoji draws its five tones."""
HEX["headwear"] = HEX["clothing"]

DEALT = Fractions(train=0.6, val=0.1, test=0.3)

T = TypeVar("T", bound=str)


def _different(values: list[T]) -> list[T]:
    if len({*values}) < len(values):
        raise ValueError("a colour stands twice")
    return values


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Colours = Annotated[list[T], Field(min_length=2), AfterValidator(_different)]


class Recolour(_Model):
    """Colours that the parts are given, each picture one of each list; a part without a list stays as it is drawn and is no part."""

    hair: Colours[HairColour] = ["black", "brown", "blond", "red", "grey"]
    skin: Colours[SkinTone] = ["light", "medium-light", "medium", "medium-dark", "dark"]
    clothing: Colours[Dye] | None = ["red", "green", "blue", "yellow", "purple"]
    headwear: Colours[Dye] | None = ["red", "blue", "yellow"]

    def by_part(self) -> dict[str, list[str]]:
        """Colours by part, in the order of the parts."""
        return {part: list(values) for part in type(self).model_fields if (values := getattr(self, part)) is not None}


class Tie(_Model):
    """Makes the colour of ``second`` follow that of ``first`` (by their places in the lists) in a share of a split's pictures."""

    first: Coloured = "hair"
    second: Coloured = "skin"
    strength: Annotated[float, Field(ge=0, le=1, description="0 = independent, 1 = one tells the other")] = 0.7
    splits: Annotated[list[Split], Field(min_length=1)] = ["train"]

    @model_validator(mode="after")
    def _two(self) -> Tie:
        if self.first == self.second:
            raise ValueError("a part cannot be tied to itself")
        return self


def check_tie(tie: Tie, recolour: Recolour) -> None:
    """Raises ``ValueError`` where the tied parts have no lists of colours, or lists of different length."""
    lists = recolour.by_part()
    for part in (tie.first, tie.second):
        if part not in lists:
            raise ValueError(f"{part} is tied but not recoloured; give it colours in recolour")
    first, second = len(lists[tie.first]), len(lists[tie.second])
    if first != second:
        raise ValueError(
            f"{tie.first} has {first} colours and {tie.second} has {second}: a tie needs as many of both; give them lists of "
            "equal length in recolour"
        )


class Jitter(_Model):
    """How far drawings are moved, scaled and mirrored, drawn uniformly."""

    shift: Annotated[float, Field(ge=0, le=0.3, description="as a share of the picture's side, each way")] = 0.06
    smallest: Annotated[float, Field(ge=0.3, le=1.5)] = 0.85
    largest: Annotated[float, Field(ge=0.3, le=1.5)] = 1.1
    mirror: Annotated[bool, Field(description="every other drawing, by chance")] = True

    @model_validator(mode="after")
    def _ordered(self) -> Jitter:
        if self.smallest > self.largest:
            raise ValueError("smallest is larger than largest")
        return self
