"""What the steps on part vectors give. Light: read to validate a spec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from runner.steps import Arrays, Artifact, Rows, Table


@dataclass(frozen=True)
class ProbeScores(Artifact):
    """Probes of part vectors, measures of leakage with intervals, and means by pair of parts.

    ``settings``: kind, penalty, rows, seed and the like, and ``studies``: per model and dataset the layers, the number of pictures of each
    split, the originals behind the test pictures (``n_groups``), the ``form`` of the bootstrap (``exact``, or ``projected``: first-order),
    and what was ``fitted_again`` for comparisons with extractors that lack some of its parts; those probes have no rows of their own.
    """

    settings: dict[str, Any]
    probes: Annotated[Table, Rows("leak_probe")]
    summary: Annotated[Table, Rows("leak_summary")]
    pairs: Annotated[Table, Rows("leak_pair")]


@dataclass(frozen=True)
class Dependence(Artifact):
    """What the part vectors of one backbone depend on. ``settings`` say how it was measured."""

    model: dict[str, Any]
    settings: dict[str, Any]
    pictures: Annotated[Table, Rows("leak_dependence")]
    summary: Annotated[Table, Rows("leak_dependence_summary")]
    attention: Annotated[Table, Rows("leak_attention")]
    token_norms: Annotated[Table, Rows("leak_token_norm")]


@dataclass(frozen=True)
class Discovery(Artifact):
    """Parts that were found from attribute labels alone.

    ``model``: name, identity and geometry of the backbone; ``about`` as in ``PartImages``; ``settings`` of the training. ``found``:
    ``<arch>.seed<seed>`` uint8 [n, h, w], the slot of each patch (K: background), in the order of ``rows`` (``sample_id``, ``split``);
    ``routes``: by the same names, the slot that each attribute reads most; ``weights``: what was trained beside the backbone.
    """

    model: dict[str, Any]
    about: dict[str, Any]
    settings: dict[str, Any]
    found: Arrays
    rows: Table
    routes: dict[str, dict[str, int]]
    weights: Arrays
    epochs: Annotated[Table, Rows("discover_epoch")]
    metrics: Annotated[Table, Rows("discover_metrics")]
    slots: Annotated[Table, Rows("discover_slots")]
    pictures: Annotated[Table, Rows("discover_picture")]
