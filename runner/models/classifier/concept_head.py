"""A linear head of concepts on a vision backbone: one logit an attribute, read from the pooled features of one layer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from runner.context import item_key
from runner.errors import ModelRefused
from runner.models.base import Classifier, VisionBackbone

if TYPE_CHECKING:
    from PIL.Image import Image

    from runner.models.base import FloatArray

Pool = Literal["cls", "mean"]
WEIGHTS, NOTES = "head.safetensors", "head.json"


def layer_number(backbone: VisionBackbone, layer: int) -> int:
    """0 .. depth; negative numbers count from the last layer. Raises ``ModelRefused`` for a layer that is not there."""
    number = layer + backbone.depth + 1 if layer < 0 else layer
    if not 0 <= number <= backbone.depth:
        raise ModelRefused(
            f"{backbone.name} has the layers 0 to {backbone.depth}, not {layer}", hint="-1 is the last one, 0 the stem"
        )
    return number


def check_pool(backbone: VisionBackbone, pool: Pool) -> None:
    """Raises ``ModelRefused`` where there is no CLS token to read."""
    if pool == "cls" and (backbone.kind_of_layers == "maps" or backbone.prefix_tokens == 0):
        raise ModelRefused(f"{backbone.name} has no CLS token", hint="use pool: mean")


def pooled_features(backbone: VisionBackbone, pixels: Tensor, *, layer: int, pool: Pool) -> Tensor:
    """Pictures [B, 3, H, W] in 0..1 -> float32 [B, D] of one layer; differentiable in ``pixels``.

    Tokens pass the final norm, whatever the layer; ``cls`` takes the first one, ``mean`` the mean over patches. Maps of a
    convolutional network are averaged as they are.
    """
    check_pool(backbone, pool)
    number = layer_number(backbone, layer)
    normalised = backbone.normalise(pixels)
    if backbone.kind_of_layers == "maps":
        return backbone.maps(normalised)[number].flatten(2).mean(2).float()
    tokens = backbone.embed(normalised)
    for block in range(1, number + 1):
        tokens = backbone.block(block, tokens)
    tokens = backbone.norm(tokens).float()
    return tokens[:, 0] if pool == "cls" else tokens[:, backbone.prefix_tokens :].mean(1)


@dataclass(frozen=True)
class Head:
    """``weight`` float32 [A, D] and ``bias`` float32 [A]: logits = features weight' + bias. ``backbone``: identity of the backbone
    that the features are of; ``settings``: how it was fitted."""

    labels: tuple[str, ...]
    pool: Pool
    layer: int
    backbone: str
    weight: Tensor = field(compare=False)
    bias: Tensor = field(compare=False)
    settings: dict[str, Any] = field(default_factory=dict, compare=False)


def write_head(head: Head, folder: Path) -> None:
    """Weights as safetensors, the rest as JSON."""
    from safetensors.torch import save_file

    tensors = {"weight": head.weight.float().contiguous(), "bias": head.bias.float().contiguous()}
    save_file(tensors, folder / WEIGHTS)
    notes = {name: getattr(head, name) for name in ("labels", "pool", "layer", "backbone", "settings")}
    (folder / NOTES).write_text(json.dumps(notes, ensure_ascii=False, indent=1), "utf8")


def read_head(folder: Path) -> Head:
    """What ``write_head`` wrote. Raises ``ModelRefused`` where the folder holds no such head."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        notes = json.loads((folder / NOTES).read_text("utf8"))
        tensors = load_file(folder / WEIGHTS)
        head = Head(
            tuple(map(str, notes["labels"])), notes["pool"], int(notes["layer"]), str(notes["backbone"]),
            tensors["weight"].float(), tensors["bias"].float(), dict(notes["settings"]),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        hint = "head: takes the output `head` of a step leakage.fit_concepts"
        raise ModelRefused(f"{folder}: there is no head of concepts: {error}", hint=hint) from error
    if head.pool not in ("cls", "mean") or head.weight.ndim != 2 or head.bias.shape != (len(head.labels),):
        raise ModelRefused(f"{folder}: the head of concepts is damaged: labels, weights and settings do not fit")
    return head


def relabelled(head: Head, labels: Mapping[str, str] | None) -> Head:
    """The concepts ``labels`` (label: attribute) alone, in that order; None: the head as it is. Raises ``ModelRefused`` for an
    attribute that it was not fitted on."""
    if labels is None:
        return head
    missing = [attribute for attribute in labels.values() if attribute not in head.labels]
    if missing:
        raise ModelRefused(
            f"the head of concepts knows no attribute {missing[0]!r}",
            hint=f"it knows {', '.join(map(repr, head.labels))}",
        )
    rows = [head.labels.index(attribute) for attribute in labels.values()]
    return replace(head, labels=tuple(labels), weight=head.weight[rows], bias=head.bias[rows])


class ConceptHeadClassifier(Classifier):
    """A backbone with a head of concepts; one sigmoid an attribute."""

    format = "concept_head"
    head: Literal["softmax", "multilabel"] = "multilabel"

    def __init__(self, backbone: VisionBackbone, head: Head, name: str | None = None) -> None:
        """Raises ``ModelRefused`` where the head was fitted on another backbone, or has another width."""
        if head.backbone != backbone.identity:
            raise ModelRefused(
                f"the head of concepts was fitted on another backbone than {backbone.name}",
                hint="name the same model as `backbone` of leakage.fit_concepts and here",
            )
        check_pool(backbone, head.pool)
        if head.weight.shape != (len(head.labels), backbone.widths[layer_number(backbone, head.layer)]):
            raise ModelRefused(f"the head of concepts does not have the width of {backbone.name}")
        self.backbone, self.linear = backbone, head
        self.labels, self.notes = head.labels, backbone.notes
        weights = hashlib.sha256(head.weight.numpy().tobytes() + head.bias.numpy().tobytes()).hexdigest()
        # Two heads of one backbone are told apart in the results.
        self.name = name or f"concepts of {backbone.name} ({weights[:6]})"
        self.identity = item_key("concept_head", backbone.identity, head.labels, head.pool, head.layer, weights)

    def prepare(self, image: Image) -> FloatArray:
        """The backbone's geometry; not yet normalised."""
        return self.backbone.prepare(image)

    def concept_logits(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in 0..1 on the backbone's device -> [B, A]; differentiable in ``pixels``."""
        features = pooled_features(self.backbone, pixels, layer=self.linear.layer, pool=self.linear.pool)
        return features @ self.linear.weight.to(features).T + self.linear.bias.to(features)

    def logits(self, batch: FloatArray) -> FloatArray:
        """One logit an attribute, float32 [n, A]."""
        with torch.inference_mode():
            found = self.concept_logits(torch.from_numpy(np.ascontiguousarray(batch)).to(self.backbone.device))
        return np.asarray(found.float().cpu().numpy(), np.float32)


class FeatureTower(Classifier):
    """Pooled features in the place of a classifier's logits, so that they are batched and kept as logits are."""

    format = "features"
    head: Literal["softmax", "multilabel"] = "multilabel"

    def __init__(self, backbone: VisionBackbone, *, layer: int, pool: Pool) -> None:
        check_pool(backbone, pool)
        self.backbone, self.layer, self.pool = backbone, layer_number(backbone, layer), pool
        self.name = backbone.name
        self.identity = item_key("pooled features", backbone.identity, self.layer, pool)
        self.labels = tuple(map(str, range(backbone.widths[self.layer])))

    def prepare(self, image: Image) -> FloatArray:
        """The backbone's geometry."""
        return self.backbone.prepare(image)

    def logits(self, batch: FloatArray) -> FloatArray:
        """Features, float32 [n, D]."""
        pixels = torch.from_numpy(np.ascontiguousarray(batch)).to(self.backbone.device)
        with torch.inference_mode():
            return pooled_features(self.backbone, pixels, layer=self.layer, pool=self.pool).cpu().numpy()
