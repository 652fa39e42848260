"""Pictures with attributes, and queries that should not depend on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from runner.artifacts.classification import Datasets
from runner.steps import Arrays, Artifact, Folder, Rows, Table


@dataclass(frozen=True)
class AttributedImages(Datasets):
    """Datasets whose pictures also carry attributes (gender, race, place, skin tone, drawing style).

    ``attributes``: one row a picture and attribute. ``about``: per dataset ``{"dataset", "attributes": {name: [values in
    order]}, "class_attribute"}``: the attribute that ``images.target`` repeats, or None.
    """

    about: list[dict[str, Any]]
    attributes: Annotated[Table, Rows("dataset_attribute")]


@dataclass(frozen=True)
class DebiasPrompts(Artifact):
    """Texts that a debiasing method needs for one protected or spurious attribute.

    ``attribute``; ``classes``: its values in order; ``queries``: what is searched or classified with, in order. ``prompts``:
    rows of kind ``query`` (idx 0 .. ), ``diverse``, ``bias`` (class_name = a value), ``paraphrase`` (query = which; idx 0 is
    the query itself), ``spurious`` (class_name = a value), ``candidate`` (query and class_name), ``augmented`` (query and
    class_name), ``harmful`` and ``helpful`` (pairs of rows with the same idx: class_name ``a`` and ``b``; query = which or
    NULL for all), ``scene`` (``{target}`` and ``{bias}`` in the text) with ``target_word`` (query = which) and ``bias_word``
    (class_name = a value), which stand for the two, ``content`` (query = which).
    """

    attribute: str
    classes: list[str]
    queries: list[str]
    prompts: Annotated[Table, Rows("prompt_set")]


@dataclass(frozen=True)
class DebiasedTexts(Artifact):
    """Query embeddings by method. ``methods``: ``{"label", "method", "settings", "uses_images"}``, in order.

    ``vectors``: ``"<label>"`` float32 [queries, dim], unit norm, rows in the order of ``queries``; where a method also acts on
    images, ``"<label>/image_map"`` float32 [dim, dim] for row vectors: image embeddings times it, then scaled to unit norm
    (or [queries, dim, dim], one for each query). ``"/encoder"`` uint8: the encoder's identity, for who gets the arrays alone.
    """

    encoder: dict[str, Any]
    attribute: str
    classes: list[str]
    queries: list[str]
    methods: list[dict[str, Any]]
    vectors: Arrays
    texts: Annotated[Table, Rows("debias_text")]
    neurons: Annotated[Table, Rows("neuron_score")]


@dataclass(frozen=True)
class SparseCoder(Artifact):
    """A trained or imported sparse autoencoder. ``folder``: as ``runner.nodes.sem.sae`` reads and writes it."""

    folder: Folder
    models: Annotated[Table, Rows("sae_model")]
