"""What CLIP's heads write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from runner.steps import Arrays, Artifact, Folder, Rows, Table


@dataclass(frozen=True)
class ConceptDictionary(Artifact):
    """Concepts with their text embeddings by one encoder. ``index``: ``concepts.txt`` (one a line) and ``embeddings.npy``
    (float32 [M, d], as the encoder gives them, memory-mapped); ``info``: name, sha256 of the text, count, encoder identity."""

    info: dict[str, Any]
    index: Folder


@dataclass(frozen=True)
class HeadDirections(Artifact):
    """Singular vectors of the heads' value-output matrices.

    ``model``: ``{"name", "identity", "small", "layers", "heads", "width", "head_dim", "dim", "fold_ln", "rank", "ln_post",
    "centre", "image_mean_source", "sign", "minus"}``: ``layers`` and ``heads`` are the numbers that were read, ``minus`` the model
    whose weights were taken off before (None: none). ``arrays``: per layer ``"L<layer>.u"`` [H, D, r], ``".s"`` [H, r], ``".vh"``
    [H, r, D], ``".joint"`` [H, r, d] (right vectors in the joint space, unit rows, centred), ``".joint_neg"`` (the same of -v, which
    is not their negative), ``".joint_left"`` and ``".joint_neg_left"`` where asked; and ``"mu"`` [d], ``"proj"`` [D, d]. All float32.
    """

    model: dict[str, Any]
    heads: Annotated[Table, Rows("sith_head")]
    directions: Annotated[Table, Rows("sith_direction")]
    arrays: Arrays


@dataclass(frozen=True)
class HeadConcepts(Artifact):
    """Sparse concept codes of singular vectors. ``settings``: method, k, lambda and what else was asked for."""

    model: dict[str, Any]
    dictionary: dict[str, Any]
    settings: dict[str, Any]
    codes: Annotated[Table, Rows("sith_code")]
    concepts: Annotated[Table, Rows("sith_concept")]


@dataclass(frozen=True)
class HeadJudgements(Artifact):
    """What a judge said of each vector's concept list; ``model``: as in ``HeadConcepts``; ``task``: coherence, background,
    safety or concept_match."""

    model: dict[str, Any]
    task: str
    judge: str
    judgements: Annotated[Table, Rows("sith_judgement")]


@dataclass(frozen=True)
class EditedClip(Artifact):
    """A CLIP checkpoint with rescaled singular values. ``checkpoint``: a folder that stock open_clip and the provider
    ``open_clip`` (``written:``) load, with ``edit.json``; ``summary``: rule, directions changed, share of sum s^2 changed."""

    checkpoint: Folder
    summary: dict[str, Any]
    edits: Annotated[Table, Rows("sith_edit")]
