"""What an audit of a classifier passes on (C2B)."""

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
class Bindings(Artifact):
    """Which measurement of the picture stands for each proposed attribute, with its values in the order of the measurement."""

    bindings: Annotated[Table, Rows("c2b_binding")]


@dataclass(frozen=True)
class CheckedTargets(Artifact):
    """What a verifier, which is not the retriever, saw on the retrieved pictures.

    ``rejects``: pictures whose ``checks.shows`` is false are left out of the assessment. ``precisions``: per caption group.
    """

    rejects: bool
    verifier: Annotated[Table, Rows("c2b_verifier")]
    checks: Annotated[Table, Rows("c2b_target_check")]
    value_checks: Annotated[Table, Rows("c2b_value_check")]
    precisions: Annotated[Table, Rows("c2b_precision")]


@dataclass(frozen=True)
class MeasuredGroups(Artifact):
    """Groups formed by measuring the target's pictures instead of believing a caption.

    ``precisions`` are those of the groups formed here, where a verifier looked at the pictures.
    """

    measurements: Annotated[Table, Rows("c2b_measurement")]
    bins: Annotated[Table, Rows("c2b_bin")]
    members: Annotated[Table, Rows("c2b_measured_member")]
    precisions: Annotated[Table, Rows("c2b_precision")]


@dataclass(frozen=True)
class Separability(Artifact):
    """Whether the values of each attribute can be told apart in what was retrieved for them."""

    groups: Annotated[Table, Rows("c2b_separability")]


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
