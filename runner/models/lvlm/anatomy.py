"""Where the parts of a vision-language model of transformers stand: decoder, projector, vision tower, output head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runner.errors import ModelRefused

DECODERS = (
    "model", "language_model.model", "model.language_model", "model.text_model", "language_model", "text_model",
    "model.language_model.model", "model.decoder", "",
)  # fmt: skip
"""Tried in this order. ``""`` is the network itself: a bare decoder."""
PROJECTORS = (
    "model.multi_modal_projector", "multi_modal_projector", "model.connector", "connector", "model.mm_projector", "mm_projector",
    "model.visual.merger", "visual.merger", "mlp1",
)  # fmt: skip
TOWERS = (
    "model.vision_tower", "vision_tower", "model.visual", "visual", "model.vision_model", "vision_model",
)  # fmt: skip
NORMS = ("norm", "final_layernorm")
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class Anatomy:
    """Parts of a network, and their dotted paths in it.

    ``decoder``: holds ``layers``; ``norm``: what follows the last layer (``norm_path`` is relative to the decoder). ``lm_head`` is
    None for a bare decoder, ``projector`` and ``vision`` are None for a text-only model. ``projector`` may stand inside ``vision``
    (Qwen2-VL). ``config``: of the text model. ``architecture``: its ``model_type``.
    """

    decoder_path: str
    decoder: Any
    layers: Any
    norm: Any
    norm_path: str
    lm_head: Any
    projector: Any
    projector_path: str | None
    vision: Any
    vision_path: str | None
    config: Any
    architecture: str


def anatomy(network: Any, decoder: str = "auto") -> Anatomy:
    """Find the parts. ``decoder``: dotted path of the module that holds ``layers``, or ``auto``.

    Raises ``ModelRefused`` that names what was tried, or says why the layers are of no kind that can be cut.
    """
    path = _decoder_path(network, decoder)
    module = at(network, path)
    config = getattr(module, "config", None) or network.config.get_text_config()
    _refuse_experts(config)
    norm_path = next((name for name in NORMS if at(module, name) is not None), None)
    if norm_path is None:
        raise ModelRefused(f"the decoder {path or 'itself'!r} has no final norm; tried {', '.join(NORMS)}")
    projector, vision = _first(network, PROJECTORS), _first(network, TOWERS)
    return Anatomy(
        path, module, module.layers, at(module, norm_path), norm_path, _head(network), at(network, projector), projector,
        at(network, vision), vision, config, str(config.model_type),
    )  # fmt: skip


def at(module: Any, path: str | None) -> Any:
    """The submodule at a dotted path, or None."""
    for name in (path or "").split(".") if path else ():
        module = getattr(module, name, None)
        if module is None:
            return None
    return None if path is None else module


def text_configs(network: Any, found: Anatomy) -> list[Any]:
    """Every config object that describes the decoder, each once: wrappers and modules may hold copies."""
    holders = [found.decoder, *found.decoder.modules()]
    configs = [found.config, network.config.get_text_config()]
    configs += [h.config for h in holders if getattr(h, "config", None) is not None]
    return list({id(config): config for config in configs}.values())


def _decoder_path(network: Any, decoder: str) -> str:
    tried = DECODERS if decoder == "auto" else (decoder,)
    for path in tried:
        module = at(network, path)
        if module is not None and _is_list(getattr(module, "layers", None)):
            return path
    names = ", ".join(f"{path}.layers" if path else "layers" for path in tried)
    raise ModelRefused(
        f"no decoder with a list of layers in {type(network).__name__}; tried {names}",
        hint="Name the module that holds the layers with `decoder: path.of.it`.",
    )


def _is_list(layers: Any) -> bool:
    from torch.nn import ModuleList

    return isinstance(layers, ModuleList) and len(layers) > 0


def _first(network: Any, paths: Sequence[str]) -> str | None:
    return next((path for path in paths if at(network, path) is not None), None)


def _head(network: Any) -> Any:
    given = getattr(network, "get_output_embeddings", None)
    return given() if given is not None else getattr(network, "lm_head", None)


def _refuse_experts(config: Any) -> None:
    """Mixtures of experts have no single MLP a layer."""
    for name in EXPERT_COUNTS:
        count = getattr(config, name, None)
        if isinstance(count, int) and count > 1:
            raise ModelRefused(
                f"{config.model_type} is a mixture of {count} experts ({name}); only dense decoders are supported"
            )
