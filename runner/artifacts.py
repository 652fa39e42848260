"""The vocabulary: typed things that pass between steps of different rooms.

What only one room uses is declared in that room. Column names and types of ``Rows`` tables stand in
``results/schema.sql``; ``results.tables.arrow_schema(name)`` gives them as a pyarrow schema.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from runner.steps import Artifact, Folder, Rows, Table


@dataclass(frozen=True)
class Biases(Artifact):
    """Proposed bias attributes with values, per target class (C2B stage 1).

    ``task``: ``{"description", "outputs": [{"name", "type", "values", "caption_names"}]}`` as the audit understood it;
    ``targets``: the audited classes in order; ``attributes``: kept and dropped proposals with reasons.
    """

    task: dict[str, Any]
    targets: list[str]
    attributes: Annotated[Table, Rows("c2b_attribute")]


@dataclass(frozen=True)
class Captions(Artifact):
    """One or more captions for each (target, attribute, value), and neutral captions per target."""

    task: dict[str, Any]
    targets: list[str]
    captions: Annotated[Table, Rows("c2b_caption")]


@dataclass(frozen=True)
class ImageIndex(Artifact):
    """Embedded images: an index folder (``retrieval.index``) and what went into it."""

    index: Folder
    sources: Annotated[Table, Rows("corpus_source")]


@dataclass(frozen=True)
class RetrievedImages(Artifact):
    """Images per caption, ranked and filtered, with the captions that asked for them.

    ``corpus``: source specs (as ``runner.data.sources.open_source`` takes them) from which the bytes can be read again;
    ``retrieval``: every candidate with its fate; ``counts``: per group how many were fetched, rejected and kept.
    """

    task: dict[str, Any]
    targets: list[str]
    corpus: list[dict[str, Any]]
    encoder: dict[str, Any]
    captions: Annotated[Table, Rows("c2b_caption")]
    retrieval: Annotated[Table, Rows("c2b_retrieval")]
    counts: Annotated[Table, Rows("c2b_retrieval_count")]


@dataclass(frozen=True)
class Verdicts(Artifact):
    """Accuracy, bias score, tests and verdict per group (C2B stage 3)."""

    task: dict[str, Any]
    targets: list[str]
    settings: dict[str, Any]
    groups: Annotated[Table, Rows("c2b_group")]
    tests: Annotated[Table, Rows("c2b_attribute_test")]
    pooled: Annotated[Table, Rows("c2b_pooled_test")]
    gate: Annotated[Table, Rows("c2b_gate")]
    predictions: Annotated[Table, Rows("c2b_prediction")]
    members: Annotated[Table, Rows("c2b_member")]
    examples: Annotated[Table, Rows("c2b_example")]
