"""Rules of the texts that debiasing methods need: placeholders, articles, words that must not stand there. Pure functions.

A check returns why a text cannot be used, or None.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from agents.prompting import one_line
from runner.naming import article_for, mentions, normalised, spoken, words

TEXT_CHARACTERS = 300
MIN_WORDS = 2

_FRAMING = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "with",
        "to",
        "and",
        "or",
        "from",
        "by",
        "for",
        "is",
        "are",
        "this",
        "that",
        "photo",
        "photos",
        "photograph",
        "picture",
        "pictures",
        "image",
        "images",
        "portrait",
        "depiction",
        "drawing",
        "snapshot",
        "view",
        "person",
        "people",
        "somebody",
        "someone",
        "human",
        "adult",
        "face",
    ]
)
_FRAME = re.compile(
    r"^(?:(?:an?|the)\s+)?(?:\w+\s+)?(?:photo|photograph|picture|image|portrait|depiction|snapshot|view)s?\s+of\s+(?P<thing>.+)$",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
_SLOT_WITH_ARTICLE = re.compile(r"\b(?P<article>an?)(?P<gap>\s+)$", re.IGNORECASE)


def unended(query: str) -> str:
    """A query as other texts take it up: on one line, underscores as spaces, without its full stop."""
    return spoken(query).rstrip(".!? ")


def thing_of(query: str) -> str:
    """What a query shows: "a nurse" for "A photo of a nurse."; the query itself without a frame; underscores as spaces."""
    text = unended(query)
    match = _FRAME.match(text)
    return match["thing"] if match else text


def bare(thing: str) -> str:
    """A thing without its article."""
    return _ARTICLE.sub("", thing)


def substituted(pattern: str, slot: str, value: str) -> str:
    """``value`` in place of ``{slot}``, which stands there once, with the article before it mended.

    >>> substituted("a photo of a {bias} nurse", "bias", "old")
    'a photo of an old nurse'
    """
    before, _, after = pattern.partition(f"{{{slot}}}")
    match = _SLOT_WITH_ARTICLE.search(before)
    if match and value:
        article = article_for(value)
        if match["article"][0].isupper():
            article = article.capitalize()
        before = before[: match.start()] + article + match["gap"]
    return before + value + after


def filled(template: str, values: Mapping[str, str]) -> str:
    """A template with all slots filled at once, so that a value which looks like a slot stays text."""
    return re.sub(r"\{(\w+)\}", lambda m: values.get(m[1], m[0]), template)


def slots_missing(text: str, slots: Sequence[str]) -> str | None:
    """Each slot must stand in the text exactly once, and no other brace."""
    for slot in slots:
        if (count := text.count(f"{{{slot}}}")) != 1:
            return f"holds {{{slot}}} {'not at all' if count == 0 else f'{count} times'} instead of once"
    rest = filled(text, dict.fromkeys(slots, ""))
    return "holds a brace that belongs to no placeholder" if "{" in rest or "}" in rest else None


def forbidden_in(text: str, forbidden: Iterable[str]) -> str | None:
    """The first forbidden word that the text mentions."""
    return next((word for word in forbidden if mentions(text, word)), None)


def concept_words(queries: Iterable[str], apart_from: Iterable[str] = ()) -> list[str]:
    """Words that make the queries what they are: all but frames, function words, and those of ``apart_from``."""
    other = {word for text in apart_from for word in words(text)} | _FRAMING
    return list(dict.fromkeys(w for query in queries for w in words(query) if w not in other))


def why_no_caption(text: str, forbidden: Iterable[str]) -> str | None:
    """A caption is one short phrase without placeholders and without forbidden words."""
    if len(words(text)) < MIN_WORDS and text.isascii():
        return f"too short: write a phrase of at least {MIN_WORDS} words"
    if len(text) > TEXT_CHARACTERS:
        return f"longer than {TEXT_CHARACTERS} characters"
    if any(mark in text for mark in "{}<>"):
        return "holds a placeholder"
    word = forbidden_in(text, forbidden)
    return f"holds the word {one_line(word, 40)!r}, which must not stand there" if word else None


def why_not_augmented(text: str, query: str) -> str | None:
    """An augmented query is the query with ``{bias}`` put in once; articles may change."""
    if reason := slots_missing(text, ["bias"]):
        return reason
    kept, wanted = (_content(t) for t in (text.replace("{bias}", " "), query))
    return None if kept == wanted else "changes the caption: write it word for word and only put in {bias}"


def _content(text: str) -> list[str]:
    return [word for word in words(text) if word not in ("a", "an", "the")]


def why_no_pair(first: str, second: str) -> str | None:
    """The two values of a difference are there and differ."""
    if not normalised(first) or not normalised(second):
        return "one of the two values is empty"
    return "the two values are the same" if normalised(first) == normalised(second) else None


def name_of(text: str) -> str:
    """A text for comparison, whatever case, spacing and final full stop."""
    return normalised(text).rstrip(".!? ")


def repeated(texts: Iterable[str]) -> str | None:
    """The first text that stands there twice, as ``name_of`` compares."""
    seen: set[str] = set()
    for text in texts:
        if (name := name_of(text)) in seen:
            return text
        seen.add(name)
    return None
