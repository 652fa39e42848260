"""Which tensors take part in a merge and with which weights: by name, by part of the model, by depth. Plain Python."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence

from runner.errors import DataError
from runner.nodes.merging.specs import PAIRED, SUMMED, MergeSpec, Section

SUM_TOLERANCE = 1e-6
_LORA_LEAVES_OUT = re.compile(r"visual|embed_tokens|lm_head|norm|bias|vision_tower|multi_modal_projector")
_FULL_LEAVES_OUT = re.compile(r"visual\.blocks|visual\.patch_embed|vision_tower")
"""Names that the reference code copies from the base, where experts are LoRA and where they are whole models."""
_PROJECTOR = re.compile(
    r"multi_modal_projector|visual\.merger|visual\.deepstack_merger|(?:^|\.)(?:mlp1|connector|mm_projector)\."
)
_VISION = re.compile(r"(?:^|\.)(?:visual|vision_tower|vision_model|image_newline)(?:\.|$)")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_EMBEDDING = re.compile(r"embed_tokens|(?:^|\.)wte\.")


def section_of(name: str) -> Section:
    """The part of a vision-language model that the tensor ``name`` belongs to."""
    if _PROJECTOR.search(name):
        return "multi_modal_projector"
    return "vision_tower" if _VISION.search(name) else "text_decoder"


def merges(spec: MergeSpec, name: str) -> bool:
    """Whether the tensor ``name`` takes part; else it is the base's."""
    if any(re.search(pattern, name) for pattern in spec.exclude) or spec.sections.get(section_of(name)) == "base":
        return False
    if isinstance(spec.include, list):
        return any(re.search(pattern, name) for pattern in spec.include)
    left_out = {"lora": _LORA_LEAVES_OUT, "full": _FULL_LEAVES_OUT}.get(spec.include)
    return left_out is None or not left_out.search(name)


def weights_for(
    spec: MergeSpec, name: str, experts: Sequence[str], weights: Sequence[float], layers: int | None = None
) -> list[float]:
    """The weights of the tensor ``name``: those of the mixture, or of its filter or section, times its gradient's factor.

    ``layers``: how many the decoder has, needed where the spec has gradients.
    """
    own = next((f.weights for f in spec.filters if f.applies(name)), None)
    section = spec.sections.get(section_of(name))
    if own is None and isinstance(section, dict):
        own = section
    result = [
        float(w) if own is None else own.get(expert, float(w)) for expert, w in zip(experts, weights, strict=True)
    ]
    if not spec.gradients:
        return result
    depth = depth_of(name, layers)
    return [w * _interpolated(spec.gradients.get(expert), depth) for expert, w in zip(experts, result, strict=True)]


def depth_of(name: str, layers: int | None) -> float | None:
    """Where in the text decoder a tensor stands: 0 the embeddings and the first layer, 1 the last layer and the head.

    None outside the text decoder. Raises ``DataError`` where the number of layers is not known or too small.
    """
    if section_of(name) != "text_decoder":
        return None
    found = _LAYER.search(name)
    if found is None:
        return 0.0 if _EMBEDDING.search(name) else 1.0
    if layers is None or int(found[1]) >= layers:
        raise DataError(f"{name}: weights by depth need the decoder's number of layers; it was given as {layers}")
    return int(found[1]) / max(layers - 1, 1)


def _interpolated(values: Sequence[float] | None, depth: float | None) -> float:
    if values is None or depth is None:
        return 1.0
    place = depth * (len(values) - 1)
    below = min(int(place), len(values) - 2)
    return values[below] + (place - below) * (values[below + 1] - values[below])


def check_weights(spec: MergeSpec, experts: Sequence[str], weights: Sequence[float]) -> None:
    """Refuse a mixture, or a spec with this mixture, before anything is read. Raises ``DataError``.

    Weights must be one an expert, finite, not negative unless ``allow_negative``, and sum to 1 within 1e-6 unless the merge
    normalises or is a plain sum of differences; filters and sections likewise. Names must be those of experts.
    """
    check_experts(spec, experts)
    check_vector(spec, experts, weights, "weights")
    places = [(f"filter {f.match or f.regex!r}", f.weights) for f in spec.filters]
    places += [(f"section {part}", own) for part, own in spec.sections.items() if isinstance(own, dict)]
    for place, own in places:
        replaced = [own.get(expert, w) for expert, w in zip(experts, weights, strict=True)]
        check_vector(spec, experts, replaced, f"weights of {place[:120]}")
    for depth, where in ((0.0, "first"), (1.0, "last")) if spec.gradients else ():
        graded = [
            w * _interpolated(spec.gradients.get(expert), depth) for expert, w in zip(experts, weights, strict=True)
        ]
        check_vector(spec, experts, graded, f"weights of the {where} layer")


def check_experts(spec: MergeSpec, experts: Sequence[str]) -> None:
    """Refuse experts that the method cannot merge, and names in the spec that are no experts."""
    if len(experts) < 2:
        raise DataError(f"a merge needs two experts or more; found {len(experts)}")
    if spec.method in PAIRED and len(experts) != 2:
        raise DataError(f"{spec.method} merges exactly 2 experts; found {len(experts)}", hint="multislerp takes more.")
    named = [*spec.gradients, *spec.fisher, *(name for f in spec.filters for name in f.weights)]
    named += [name for own in spec.sections.values() if isinstance(own, dict) for name in own]
    named += list(spec.density) if isinstance(spec.density, dict) else []
    for name in named:
        if name not in experts:
            near = difflib.get_close_matches(name, experts, 1)
            raise DataError(f"{_short(name)} is no expert of this merge; they are {', '.join(map(_short, experts))}",
                            hint=f"Did you mean {_short(near[0])}?" if near else None)  # fmt: skip
    missing = [expert for expert in experts if spec.method == "fisher" and expert not in spec.fisher]
    if missing:
        raise DataError(f"fisher: no file of Fisher values for {', '.join(map(_short, missing))}")


def check_vector(spec: MergeSpec, experts: Sequence[str], weights: Sequence[float], what: str) -> None:
    """Refuse one vector of weights; ``what`` names it in the error."""
    if len(weights) != len(experts):
        raise DataError(f"{what}: one an expert is needed; found {len(weights)} for {len(experts)} experts")
    for expert, weight in zip(experts, weights, strict=True):
        if not math.isfinite(weight):
            raise DataError(f"{what}: that of {_short(expert)} is {weight}, not a finite number")
        if weight < 0 and not spec.allow_negative:
            raise DataError(f"{what}: that of {_short(expert)} is {weight:g}",
                            hint="Add allow_negative: true to the merge if that is meant.")  # fmt: skip
    check_sum(spec, weights, what)


def check_sum(spec: MergeSpec, weights: Sequence[float], what: str) -> None:
    """Refuse weights whose sum changes the length of the step (or of the model) without being asked to."""
    total = math.fsum(weights)
    if spec.normalize:
        if abs(total) < SUM_TOLERANCE:
            raise DataError(f"{what}: they sum to {total:g}, which cannot be normalised")
    elif spec.method not in SUMMED and not spec.ignores_weights and abs(total - 1) > SUM_TOLERANCE:
        raise DataError(f"{what}: they sum to {total:.8g}, not to 1",
                        hint="Add normalize: true, or use task_arithmetic, where the sum is the length of the step.")  # fmt: skip


def _short(name: str) -> str:
    flat = " ".join(str(name).split())
    return repr(flat if len(flat) <= 60 else flat[:59] + "…")
