"""Packaged emoji of people as a factorial of role, gender, skin tone and drawing style, from their CLDR names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from runner.data.datasets.attributes.found import Found, Labelled
from runner.data.datasets.attributes.specs import EmojiDataset
from runner.data.datasets.content import dealt, some
from runner.data.sources import Source, open_source
from runner.errors import DataError

_TONE = " skin tone"
_GENDERS = ("woman", "man", "person")


class Person(NamedTuple):
    """What the CLDR name of an emoji says. ``named``: the role stands without a gender (``judge``)."""

    role: str
    gender: str
    tone: str
    named: bool


class Cell(NamedTuple):
    """A place of the factorial."""

    gender: str
    tone: str
    style: str


class Drawn(NamedTuple):
    """An emoji of a person in a style."""

    person: Person
    style: str
    source_id: str
    uri: str


def person_of(name: str) -> Person | None:
    """The person that a name such as ``woman judge: dark skin tone`` means; None where it names more or something else.

    A name without woman, man or person at its head is taken for a role of its own: only those that also stand with a
    gender are people.
    """
    base, _, rest = name.partition(": ")
    marks = rest.split(", ") if rest else []
    tones = [mark.removesuffix(_TONE) for mark in marks if mark.endswith(_TONE)]
    if len(marks) > len(tones) or len(tones) > 1:  # hair, direction, or two people
        return None
    first, _, role = base.partition(" ")
    tone = tones[0] if tones else "none"
    if first in _GENDERS:
        return Person(role, first, tone, named=False) if role and not role.startswith("and ") else None
    return Person(base, "person", tone, named=True)


def read_emoji(spec: EmojiDataset, title: str, seed: int) -> Found:
    """Roles that exist for every gender, skin tone and style asked for, a picture each.

    Raises ``DataError`` where none does, or where a role that the spec names does not.
    """
    sources = [open_source(part) for part in spec.emoji]
    styles = list(dict.fromkeys(_style(source) for source in sources))
    cells = [Cell(gender, tone, style) for gender in spec.genders for tone in spec.skin_tones for style in styles]
    filled, texts = _roles(drawn for source in sources for drawn in _people(source))
    whole = sorted(role for role, places in filled.items() if all(cell in places for cell in cells))
    roles = _wanted(spec, title, whole, filled, texts)
    pictures = []
    for role in roles:
        for cell in cells:
            drawn = filled[role][cell]
            sample_id = f"{drawn.source_id}/{drawn.uri}"
            values = {"gender": cell.gender, "skin_tone": cell.tone, "style": cell.style}
            split = dealt(sample_id, spec.fractions, seed)
            pictures.append(Labelled(split, sample_id, drawn.source_id, drawn.uri, texts[role], values))
    gendered = [role for role, places in filled.items() if role not in whole and len({c.gender for c in places}) > 1]
    partly = [texts[role] for role in gendered]
    return Found(
        classes=sorted(texts[role] for role in roles),
        values={"gender": [*spec.genders], "skin_tone": [*spec.skin_tones], "style": styles},
        pictures=pictures,
        sources=sources,
        licence="; ".join(sorted({source.licence for source in sources if source.licence})),
        notes=[f"left out: {len(partly)} roles that lack some value asked for, such as {some(partly)}"]
        if partly
        else [],
    )


def _style(source: Source) -> str:
    return source.source_id.partition("+")[0]


def _people(source: Source) -> Iterator[Drawn]:
    for record in source:
        person = person_of(record.caption or "")
        if person is not None:
            yield Drawn(person, _style(source), source.source_id, record.uri)


def _roles(people: Iterable[Drawn]) -> tuple[dict[str, dict[Cell, Drawn]], dict[str, str]]:
    """Of each role that stands with a gender: the pictures by cell, the first where there are several; and its text."""
    filled: dict[str, dict[Cell, Drawn]] = {}
    named, gendered = set(), set()
    for drawn in people:
        role, gender, tone, is_named = drawn.person
        filled.setdefault(role, {}).setdefault(Cell(gender, tone, drawn.style), drawn)
        named |= {role} if is_named else set()
        gendered |= {role} if gender != "person" else set()
    texts = {role: role if role in named else f"person {role}" for role in gendered}
    return {role: filled[role] for role in sorted(gendered)}, texts


def _wanted(
    spec: EmojiDataset, title: str, whole: list[str], filled: dict[str, dict[Cell, Drawn]], texts: dict[str, str]
) -> list[str]:
    by_text = {texts[role]: role for role in whole}
    if isinstance(spec.roles, list):
        absent = [text for text in spec.roles if text not in by_text]
        if absent:
            hint = f"Roles that do: {some(sorted(by_text), most=40)}." if by_text else None
            raise DataError(f"{title}: roles that do not exist for all values asked for: {some(absent)}", hint=hint)
        return [by_text[text] for text in dict.fromkeys(spec.roles)]
    roles = [role for role in whole if spec.roles == "all" or texts[role] == role]
    if not roles:
        there = Counter(cell.tone for places in filled.values() for cell in places)
        raise DataError(
            f"{title}: no role exists for all genders, skin tones and styles asked for",
            hint=f"Skin tones found: {some(sorted(there), most=6) or 'none'}; variants with tones are called "
            "google-emoji+skin-tones and fluent-3d+skin-tones, those without google-emoji and fluent-3d.",
        )
    return roles
