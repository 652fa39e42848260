"""What the words of an attribute and its values say about a measurement. Pure rules; the lists stand in ``prompts/``."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import NamedTuple

from runner.naming import mentions, normalised
from runner.nodes.bias.measures import MEASURES

_DEGREES = (("low", "weak", "little"), ("high", "strong", "much"))
_BY_NAME = ("object_x", "object_y")
"""Their words mean other things elsewhere: the top of a viewpoint is no place in the picture."""


class MeasureWords(NamedTuple):
    """Names of attributes that a measurement stands for, and names of its low and its high end."""

    attribute: tuple[str, ...]
    low: tuple[str, ...]
    high: tuple[str, ...]


class Binding(NamedTuple):
    """A measurement (None = none fits) with the values from low to high, who chose it, and why none fits."""

    measure: str | None
    values: tuple[str, ...]
    source: str
    reason: str | None = None


@functools.cache
def measure_words() -> dict[str, MeasureWords]:
    """By measurement: the packaged lists together with the words of the registry."""
    packaged = json.loads(resources.files("agents").joinpath("prompts/measure_words.json").read_text("utf8"))
    return {
        name: MeasureWords(
            tuple(packaged[name]["attribute"]),
            (*measure.low_words, *packaged[name]["low"]),
            (*measure.high_words, *packaged[name]["high"]),
        )
        for name, measure in MEASURES.items()
    }


def end_of(measure: str, value: str, attribute: str = "") -> int:
    """-1 where the value's words mean the low end of the measurement, 1 for the high end, 0 where they do not say.

    The longest phrase counts: "low light" is not light. Where the attribute is the measurement itself, so do "low" and "high".
    """
    words = measure_words()[measure]
    named = names_attribute(measure, attribute)
    if measure in _BY_NAME and attribute and not named:
        return 0
    degrees = _DEGREES if named else ((), ())
    low, high = (
        max((len(phrase.split()) for phrase in phrases if mentions(value, phrase)), default=0)
        for phrases in (words.low + degrees[0], words.high + degrees[1])
    )
    return (high > low) - (high < low)


def names_attribute(measure: str, attribute: str) -> bool:
    """Whether the attribute is called what the measurement measures (its last words decide: "background lighting")."""
    name = normalised(attribute)
    return any(name == phrase or name.endswith(" " + phrase) for phrase in measure_words()[measure].attribute)


def speaks_of(measure: str, attribute: str, values: Iterable[str]) -> bool:
    """Whether any of the values uses words of the measurement; of one that gives names, whether all name one.

    The attribute alone is not enough: "lighting: natural, artificial" is about another side of light.
    """
    if MEASURES[measure].is_category:
        return all(MEASURES[measure].category_named(value) for value in values)
    return any(end_of(measure, value, attribute) for value in values)


def misfit(measure: str, values: Sequence[str], attribute: str = "") -> str | None:
    """Why these values, in this order from low to high, contradict the measurement; None where nothing does."""
    if MEASURES[measure].is_category:
        return _category_misfit(measure, values)
    ends = [end_of(measure, value, attribute) for value in values]
    highs = [i for i, end in enumerate(ends) if end > 0]
    late = [i for i, end in enumerate(ends) if end < 0 and highs and i > highs[0]]
    if late:
        low, high = values[late[0]], values[highs[0]]
        return f"{low!r} means low {measure} and {high!r} high {measure}, so {low!r} must come first"
    return None


def _category_misfit(measure: str, values: Sequence[str]) -> str | None:
    named = [MEASURES[measure].category_named(value) for value in values]
    strange = [value for value, name in zip(values, named, strict=True) if name is None]
    if strange:
        return f"{strange[0]!r} names none of its categories ({', '.join(MEASURES[measure].categories)})"
    if len(set(named)) < len(named):
        return "two values name the same category"
    return None


def by_ends(measure: str, values: Sequence[str], attribute: str = "") -> tuple[str, ...] | None:
    """The only order that the words allow, from low to high: two values, one of each end. None where they do not decide."""
    if MEASURES[measure].is_category:
        return None
    ends = {end_of(measure, value, attribute): value for value in values}
    return (ends[-1], ends[1]) if len(values) == 2 and set(ends) == {-1, 1} else None


def likely_order(measure: str, values: Sequence[str], attribute: str = "") -> tuple[str, ...] | None:
    """The order of two values of which at least one is known to lie at an end; the other then lies nearer to the other end."""
    if MEASURES[measure].is_category or len(values) != 2:
        return None
    first, second = (end_of(measure, value, attribute) for value in values)
    if first == second:
        return None
    return tuple(values) if first < second else (values[1], values[0])


def trusted(measure: str, values: Sequence[str], attribute: str = "") -> tuple[str, ...] | None:
    """What can be believed of a model's order of ``values``, from low to high; None where nothing can.

    Two values: their order. More: small models string unknown words together in any order, so only a known low and a known
    high end count, and of three values the unknown one that stands between them.
    """
    if MEASURES[measure].is_category or len(values) == 2:
        return tuple(values)
    ends = [end_of(measure, value, attribute) for value in values]
    if ends == [-1, 0, 1]:
        return tuple(values)
    return ends_of(measure, values, attribute)


def ends_of(measure: str, values: Sequence[str], attribute: str = "") -> tuple[str, str] | None:
    """The first value that means the low end and the last that means the high end; None without one of each."""
    if MEASURES[measure].is_category:
        return None
    low = [value for value in values if end_of(measure, value, attribute) < 0]
    high = [value for value in values if end_of(measure, value, attribute) > 0]
    return (low[0], high[-1]) if low and high else None


def bound_by_words(attribute: str, values: Sequence[str]) -> Binding | None:
    """The one measurement that attribute and values name beyond doubt; None where none or several do."""
    named = [name for name in MEASURES if names_attribute(name, attribute)]
    found = [Binding(name, order, "words") for name in named if (order := _order(name, attribute, values))]
    return found[0] if len(found) == 1 else None


def _order(measure: str, attribute: str, values: Sequence[str]) -> tuple[str, ...] | None:
    if MEASURES[measure].is_category:
        return None if misfit(measure, values) else tuple(values)
    return by_ends(measure, values, attribute)
