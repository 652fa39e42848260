"""Debias the queries of a spec with every method: what the step ``debias.texts`` does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch

from results.tables import arrow_table
from runner.artifacts import DebiasedTexts, DebiasPrompts, SparseCoder
from runner.context import StepContext
from runner.errors import DataError
from runner.models.base import ClipModel
from runner.nodes.sem.methods import Material, Outcome, apply_method
from runner.nodes.sem.methods_specs import Method, expanded
from runner.nodes.sem.rows import neuron_rows, text_rows
from runner.nodes.sem.sae import SparseAutoencoder, read_sae
from runner.nodes.sem.texts_gathering import Encoded, Prompts, imagenet_templates, shown

LEAST_COSINE = 0.8
"""Below this mean reconstruction cosine an autoencoder does not fit the scale of the texts (ours)."""

IDENTITY = "/encoder"
"""Array that tells whose space the vectors are in: UTF-8 bytes of the encoder's identity. No label holds a slash."""


def debias(
    ctx: StepContext,
    clip: ClipModel,
    prompts: DebiasPrompts,
    sae: SparseCoder | None,
    methods: Sequence[Method],
    templates: Sequence[str] | Literal["imagenet"] | None,
    top_neurons: int,
    seed: int,
    other_backbone: bool,
) -> DebiasedTexts:
    """Vectors, maps and rows of every method, in their order."""
    read = Prompts(prompts)
    filled = imagenet_templates() if templates == "imagenet" else templates
    material = material_of(ctx, clip, read, sae, seed, other_backbone, filled)
    original, every = material.raw(read.queries), expanded(list(methods))
    vectors: dict[str, Any] = {IDENTITY: np.frombuffer(clip.identity.encode(), np.uint8).copy()}
    texts, neurons, about = [], [], []
    for method in ctx.track(every, unit="methods"):
        outcome = apply_method(material, method)
        vectors |= _arrays(method.name, outcome)
        texts += text_rows(read.attribute, method.name, read.queries, original, outcome)
        if outcome.moved is not None:
            neurons += neuron_rows(method.name, read.queries, outcome.moved, top_neurons)
        about.append(_about(method, outcome))
    info = {name: getattr(clip, name) for name in ("name", "family", "identity", "dim", "logit_scale", "small")}
    return DebiasedTexts(
        info, read.attribute, read.classes, read.queries, about, vectors,
        arrow_table("debias_text", texts), arrow_table("neuron_score", neurons),
    )  # fmt: skip


def material_of(
    ctx: StepContext,
    clip: ClipModel,
    prompts: Prompts,
    sae: SparseCoder | None,
    seed: int,
    other_backbone: bool,
    templates: Sequence[str] | None = None,
) -> Material:
    """What methods work on, the autoencoder checked against model and diverse prompts."""
    encoded = Encoded(clip, prompts.queries, templates)
    material = Material(ctx, prompts, encoded, coder_of(ctx, clip, sae, other_backbone), seed)
    _check_reconstruction(material)
    return material


def _about(method: Method, outcome: Outcome) -> dict[str, Any]:
    settings = method.options.model_dump(mode="json", by_alias=True)
    return {
        "label": method.name,
        "method": method.key,
        "settings": settings,
        "uses_images": outcome.image_map is not None,
    }


def _arrays(label: str, outcome: Outcome) -> dict[str, Any]:
    """Unit vectors and the map, float32. Raises ``DataError`` where nothing is left of a query."""
    norms = outcome.vectors.norm(dim=1, keepdim=True)
    if not torch.isfinite(outcome.vectors).all() or not bool((norms > 0).all()):
        raise DataError(f"{shown(label)} leaves a zero or non-finite vector of a query")
    arrays = {label: (outcome.vectors / norms).float().numpy()}
    if outcome.image_map is not None:
        arrays[f"{label}/image_map"] = outcome.image_map.float().numpy()
    return arrays


# --- the autoencoder --------------------------------------------------------------------------------------------------


def coder_of(
    ctx: StepContext, clip: ClipModel, sae: SparseCoder | None, other_backbone: bool
) -> SparseAutoencoder | None:
    """The autoencoder, frozen. Raises ``DataError`` where its width or its backbone is not that of ``clip``."""
    if sae is None:
        return None
    coder = read_sae(sae.folder)
    if coder.d != clip.dim:
        raise DataError(
            f"the autoencoder codes embeddings of {coder.d} numbers, and those of {clip.name} have {clip.dim}",
            hint="Train one on this model with sem.train_sae, or name the model that it was trained on.",
        )
    known = coder.about.encoder
    backbone = sae.models.to_pylist()[0]["backbone"]
    if backbone != clip.name if known is None else known != clip.identity:
        said = (
            f"the autoencoder was trained on {shown(backbone)}, and the texts are encoded by {clip.name}, other weights"
        )
        if not other_backbone:
            hint = "Set other_backbone: true where the text tower is the same, as after an edit of the vision tower."
            raise DataError(said, hint=hint)
        ctx.warn(f"{said}; other_backbone says that this is meant")
    return coder


def _check_reconstruction(material: Material) -> None:
    """Warn where the diverse prompts are not reconstructed: texts and autoencoder differ in scale."""
    if material.sae is None or not material.prompts.has("diverse"):
        return
    texts = material.prompts.diverse("the autoencoder")
    raw, again = material.raw(texts), material.sae.decode(material.coded(texts, "the autoencoder"))
    cosine = float(torch.nn.functional.cosine_similarity(raw, again, dim=1).mean())
    if not cosine >= LEAST_COSINE:
        material.ctx.warn(
            f"the autoencoder reconstructs the diverse prompts with a mean cosine of {cosine:.2f}, below {LEAST_COSINE}: "
            "it was trained on embeddings of another scale (unit norm instead of raw?) or of another kind of text"
        )
