"""Concepts of an answer: its noun chunks and entities, and the whole answer. Pure; no heavy import.

What becomes of the spans that a chunker finds (``concepts_of``) is the same for all chunkers and follows the concept similarity
of "On Large Multimodal Models as Open-World Image Classifiers" (arXiv 2503.21851).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

# A longer text is parsed as far as this (ours): a parser's memory grows with the text.
PARSED_CHARACTERS = 20_000

PREFIXES = ("a ", "an ", "the ", "his ", "her ", "its ", "their ")
_SKIPPED = """
1 2 3 4 5 6 7 8 9 10 one two three four five six seven eight nine ten * a the image object photo type
it they them that this those which who whom whose where when what why how some
"""
SKIPPED = frozenset(_SKIPPED.split()) | {"this photo"}

ConceptSource = Literal["chunk", "entity", "whole"]


class Concept(NamedTuple):
    """A text that is compared with the label, and where it comes from."""

    text: str
    source: ConceptSource


class Spans(NamedTuple):
    """What a chunker found in one text, as it stands there and in its order."""

    chunks: list[str]
    entities: list[str]


class Chunker(ABC):
    """Finds noun chunks and entities. ``name`` is recorded with every score, ``version`` with the settings."""

    name: str
    version: str = "1"

    @abstractmethod
    def spans(self, texts: Sequence[str]) -> Iterator[Spans]:
        """Spans of each text, in order."""


def concepts_of(prediction: str, spans: Spans) -> list[Concept]:
    """The concepts of a prediction: cleaned chunks (repeats stay), then entities that are new, then the whole prediction.

    Cleaned means lower-case and without one leading article or possessive; what is then a word that names nothing
    ("photo", "two", "it") is left out. The whole prediction is never changed, so that there is at least one concept.
    """
    chunks = [text for text in map(cleaned, spans.chunks) if text is not None]
    known = set(chunks)
    entities = []
    for text in map(cleaned, spans.entities):
        if text is not None and text not in known:
            known.add(text)
            entities.append(text)
    named = [Concept(text, "chunk") for text in chunks] + [Concept(text, "entity") for text in entities]
    return [*named, Concept(prediction, "whole")]


def cleaned(span: str) -> str | None:
    """Lower-case, without the first prefix that matches; None where nothing is named."""
    text = span.lower()
    prefix = next((prefix for prefix in PREFIXES if text.startswith(prefix)), "")
    text = text.removeprefix(prefix)
    return None if text in SKIPPED or not text else text
