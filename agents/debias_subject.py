"""What debiasing texts are about, how many are wanted, and one such text: shared by all who find or write them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Kind = Literal[
    "diverse", "bias", "paraphrase", "spurious", "candidate", "augmented", "insights", "scene", "content"
]  # fmt: skip
KINDS: tuple[Kind, ...] = (
    "diverse", "bias", "paraphrase", "spurious", "candidate", "augmented", "insights", "scene", "content",
)  # fmt: skip
Row = dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """The attribute with its values in order, the queries in order, and words that must not stand in neutral texts."""

    attribute: str
    classes: tuple[str, ...]
    queries: tuple[str, ...]
    forbidden: tuple[str, ...]


@dataclass(frozen=True)
class Sizes:
    """How many texts: neutral captions, bias prompts a value, paraphrases a query (the query among them), pairs of an
    insight, scenes."""

    diverse: int = 328
    per_class: int = 20
    paraphrases: int = 10
    insights: int = 5
    scenes: int = 12


@dataclass(frozen=True)
class Templates:
    """Templates of the spec; None = as shipped.

    ``spurious`` holds {class}, ``candidate`` {query} and {class}, ``insight`` {value}.
    """

    spurious: tuple[str, ...] | None = None
    candidate: tuple[str, ...] | None = None
    insight: str | None = None


class PromptText(NamedTuple):
    """One text as ``prompt_set`` holds it. ``kind`` is that of the row (``insights`` are ``harmful`` and ``helpful``)."""

    kind: str
    text: str
    idx: int
    class_name: str | None = None
    query: str | None = None
    source: str = "spec"
    llm: str | None = None
    retries: int = 0


class Unfit(ValueError):
    """Texts that cannot be used; the message says of which kind, which one and why."""


class NotShipped(ValueError):
    """No texts of a kind come with the project for this attribute; the message says why."""


def numbered(kind: str, texts: list[str], **about: Any) -> list[PromptText]:
    """Texts of one list, in order."""
    return [PromptText(kind, text, idx, **about) for idx, text in enumerate(texts)]
