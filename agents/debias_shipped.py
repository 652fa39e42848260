"""The texts that come with the project (``agents/prompts/debias/*.json``), all in words of our own."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from agents.debias_texts import bare, filled, name_of, thing_of, unended
from runner.naming import article_for, normalised, spoken


class ShippedValue(BaseModel):
    """One value of an attribute.

    ``word`` stands before a noun ("male"; None where no word does), ``phrase`` behind it ("who is a man"), ``words`` are
    those that PRISM's scenes take, ``spurious`` name the value alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[str, ...]
    word: str | None
    phrase: str
    words: tuple[str, ...]
    spurious: tuple[str, ...]
    bias: tuple[str, ...]


class ShippedAttribute(BaseModel):
    """An attribute with its values; ``forbidden``: words that name it; ``scenes`` hold ``{target}`` and ``{bias}``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[str, ...]
    about: str
    forbidden: tuple[str, ...]
    scenes: tuple[str, ...]
    values: tuple[ShippedValue, ...]


class Shipped(BaseModel):
    """The file of attributes, frames around a thing, and templates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str
    attributes: tuple[ShippedAttribute, ...]
    frames: tuple[str, ...]
    templates: dict[str, str]
    generic_scenes: tuple[str, ...]


class Wording(NamedTuple):
    """How one value of the spec's attribute is said; as in ``ShippedValue``."""

    word: str | None
    phrase: str
    words: tuple[str, ...]


def _read(name: str) -> Any:
    return json.loads(resources.files("agents").joinpath(f"prompts/debias/{name}.json").read_text("utf8"))


@functools.cache
def shipped() -> Shipped:
    """Attributes, frames and templates."""
    return Shipped.model_validate(_read("attributes"))


@functools.cache
def diverse_topics() -> dict[str, tuple[str, ...]]:
    """328 neutral captions by topic, in order."""
    return {topic: tuple(texts) for topic, texts in _read("diverse")["topics"].items()}


def diverse_captions() -> list[str]:
    """The 328 neutral captions in order."""
    return [text for texts in diverse_topics().values() for text in texts]


def stereotype_queries() -> list[str]:
    """25 queries with negative stereotypes of people; the list is ours."""
    return list(_read("queries")["stereotypes"]["queries"])


def attribute_named(name: str) -> ShippedAttribute | None:
    """The shipped attribute of that name."""
    return next((a for a in shipped().attributes if normalised(name) in {normalised(n) for n in a.names}), None)


def values_for(attribute: str, classes: Sequence[str]) -> list[ShippedValue] | None:
    """The shipped values behind the classes, in their order; None where one is not shipped."""
    known = attribute_named(attribute)
    if known is None:
        return None
    by_name = {normalised(name): value for value in known.values for name in value.names}
    found = [by_name.get(normalised(name)) for name in classes]
    values = [value for value in found if value is not None]
    return values if len(values) == len(classes) and len({v.names for v in values}) == len(values) else None


def wording_of(attribute: str, classes: Sequence[str]) -> list[Wording]:
    """How each class is said: as shipped, else by its own name behind a comma, underscores as spaces."""
    values = values_for(attribute, classes)
    if values is not None:
        return [Wording(value.word, value.phrase, value.words) for value in values]
    return [Wording(None, name, (name,)) for name in map(spoken, classes)]


def forbidden_words(attribute: str, classes: Sequence[str]) -> list[str]:
    """Words that name the attribute: shipped ones and, for an attribute that is not shipped, the classes."""
    known = attribute_named(attribute)
    return list(known.forbidden) if known is not None else list(classes)


def framed(query: str, count: int) -> list[str] | None:
    """The query and ``count - 1`` other frames around what it shows; None where there are too few frames."""
    thing = thing_of(query)
    texts = [filled(frame, {"thing": thing}) for frame in shipped().frames]
    others = [text for text in texts if name_of(text) != name_of(query)]
    return [query, *others[: count - 1]] if len(others) >= count - 1 else None


def augmented_pattern(query: str, attribute: str, classes: Sequence[str]) -> tuple[str, list[str]]:
    """The query with ``{bias}`` put in, and what stands there for each class.

    Before the noun where all values have such a word and the query is an article and a noun ("a photo of a {bias} nurse"),
    else behind the query.
    """
    text, wordings = unended(query), wording_of(attribute, classes)
    thing = thing_of(query)
    noun = bare(thing)
    if all(w.word for w in wordings) and noun != thing and text.endswith(thing):
        head = text.removesuffix(thing)
        article = thing.removesuffix(noun).strip()
        indefinite = article.lower() in ("a", "an")
        return f"{head}{article_for('b') if indefinite else article} {{bias}} {noun}", [str(w.word) for w in wordings]
    joint = "" if values_for(attribute, classes) is not None else ","
    return f"{text}{joint} {{bias}}", [w.phrase for w in wordings]
