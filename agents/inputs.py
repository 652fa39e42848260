"""What a spec may write under the proposal and caption steps, checked when the spec is compiled."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from agents.brief import looks_like_id
from runner.naming import normalised, words

_MIN_TASK_WORDS = 2
MAX_CLASSES = 5000

ShortName = Annotated[str, Field(min_length=1, max_length=120)]


class UserAttribute(BaseModel):
    """A circumstance the user wants tested whatever the model proposes.

    ``measure`` names the measurement that stands for it; then ``values`` go from the lowest to the highest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    attribute: ShortName
    values: list[ShortName] = Field(min_length=2)
    measure: ShortName | None = Field(None, description="measurement for c2b.bind; values then go from low to high")

    @model_validator(mode="after")
    def _distinct(self) -> UserAttribute:
        refuse_repeats(self.values, "values")
        if self.measure is not None:
            check_measure(self.measure, self.attribute, self.values)
        return self


def refuse_repeats(names: list[str], what: str) -> list[str]:
    """Raises ``ValueError`` naming two entries that are the same whatever case, spacing and underscores."""
    seen: dict[str, str] = {}
    for name in names:
        key = normalised(name)
        if not key:
            raise ValueError(f"{what} hold an empty name")
        if key in seen:
            raise ValueError(f"{what} hold {seen[key]!r} and {name!r}, which are the same name")
        seen[key] = name
    return names


def check_measure(measure: str, attribute: str, values: list[str]) -> None:
    """Refuse a measurement that does not exist, and values that contradict it."""
    from agents.binding_words import misfit
    from runner.nodes.bias.measures import MEASURES

    if measure not in MEASURES:
        raise ValueError(f"there is no measurement {measure!r}; there are {', '.join(MEASURES)}")
    if problem := misfit(measure, values, attribute):
        raise ValueError(f"the values do not suit the measurement {measure!r}: {problem}")


def check_task(text: str) -> str:
    """A description of at least two words."""
    if len(words(text)) < _MIN_TASK_WORDS:
        raise ValueError("describe the task in a sentence, such as 'Tell which animal is in a photo.'")
    return " ".join(text.split())


def check_names(names: list[str], caption_names: dict[str, str]) -> None:
    """Refuse class names that are ids and have no readable name for captions."""
    ids = [n for n in names if looks_like_id(n) and not caption_names.get(n)]
    if ids:
        raise ValueError(
            f"{', '.join(map(repr, ids[:3]))}{' ...' if len(ids) > 3 else ''} says nothing to a language model; "
            f"give caption_names, such as {{{ids[0]}: a readable name}}"
        )


def _known(info: ValidationInfo, field: str) -> Any:
    """A field that was validated before this one, under its own name or a prefixed one; None where it is not known."""
    data = info.data or {}
    return data.get(f"param_{field}", data.get(field))


def _check_classes(names: list[str], info: ValidationInfo) -> list[str]:
    refuse_repeats(names, "classes")
    if _known(info, "outputs") == "multi" and len(names) < 2:
        raise ValueError("a classifier of kind multi needs at least two classes (or set outputs: binary)")
    caption_names = _known(info, "caption_names")
    if caption_names is not None:
        unknown = sorted(set(caption_names) - set(names))
        if unknown:
            raise ValueError(f"caption_names names {', '.join(map(repr, unknown))}, which is no class")
        check_names(names, caption_names)
    return names


def _check_targets(names: list[str] | None, info: ValidationInfo) -> list[str] | None:
    classes = _known(info, "classes")
    if names is not None:
        refuse_repeats(names, "targets")
    if names is not None and classes is not None and (unknown := sorted(set(names) - set(classes))):
        raise ValueError(f"targets name {', '.join(map(repr, unknown))}, which is no class of the task")
    return names


TaskDescription = Annotated[
    str, Field(min_length=1, max_length=4000, description="what the classifier is for, in a sentence"),
    AfterValidator(check_task),
]  # fmt: skip
ClassNames = Annotated[
    list[ShortName], Field(min_length=1, max_length=MAX_CLASSES, description="classes of the classifier, readable names"),
    AfterValidator(_check_classes),
]  # fmt: skip
TargetNames = Annotated[
    list[ShortName] | None, Field(description="classes to audit (default: all)"), AfterValidator(_check_targets)
]
Names = Annotated[list[ShortName], Field(description="names")]
