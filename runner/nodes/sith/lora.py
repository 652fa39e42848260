"""Low-rank adapters of a CLIP's attention merged into its weights: W + (alpha / rank) B A, from a PEFT adapter folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner.errors import ModelRefused
from runner.models.classifier.sniff import read_json
from runner.models.classifier.weights import read_safetensors
from runner.nodes.sith.tower import precise

_KEY = re.compile(
    r"(?:base_model\.model\.)?(?P<tower>visual\.|vision_model\.|text_model\.|text\.|)(?:transformer\.resblocks|encoder\.layers)\."
    r"(?P<layer>\d+)\.(?:attn|self_attn)\.(?:base_layer\.)?(?:(?P<part>q_proj|k_proj|v_proj|out_proj)\.)?"
    r"lora_(?P<factor>[AB])(?:\.default)?\.weight"
)
_ROWS = {"q_proj": 0, "k_proj": 1, "v_proj": 2}


def merged_state(network: Any, adapter: Path) -> dict[str, Tensor]:
    """State dict of the CLIP network with the adapter merged.

    ``adapter``: a folder with ``adapter_config.json`` and ``adapter_model.safetensors``; names of transformers' CLIP
    (``vision_model.encoder.layers.N.self_attn.q_proj``, also k, v and out) and of open_clip (``visual.transformer.resblocks.N.
    attn``, q, k and v in one, and its ``out_proj``) are known. Raises ``ModelRefused`` for other names, missing halves, ranks
    or shapes that do not fit, and variants of the method.
    """
    scale = _scale(adapter)
    state = {name: precise(value).clone() for name, value in network.state_dict().items()}
    for (weight, part), (a, b) in _pairs(adapter, state).items():
        target = state[weight]
        rows = (
            slice(None) if part is None else slice(_ROWS[part] * len(target) // 3, (_ROWS[part] + 1) * len(target) // 3)
        )
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1] or (len(b), a.shape[1]) != target[rows].shape:
            raise ModelRefused(
                f"{adapter.name}: lora_B {list(b.shape)} times lora_A {list(a.shape)} does not fit {weight} {list(target[rows].shape)}"
            )
        rank = a.shape[0]
        target[rows] += scale(rank) * (b.to(target) @ a.to(target))
    return state


def _scale(adapter: Path) -> Any:
    config = read_json(adapter / "adapter_config.json")
    alpha, rank = config.get("lora_alpha"), config.get("r")
    if config.get("peft_type") != "LORA" or type(rank) is not int or rank < 1 or not isinstance(alpha, (int, float)):
        raise ModelRefused(
            f"{adapter.name}: adapter_config.json is not that of a LoRA adapter (peft_type, r, lora_alpha)"
        )
    odd = [
        name
        for name in ("use_dora", "fan_in_fan_out", "alpha_pattern", "rank_pattern", "modules_to_save")
        if config.get(name)
    ]
    if odd or config.get("bias", "none") != "none":
        raise ModelRefused(f"{adapter.name}: {', '.join(odd) or 'trained biases'} of LoRA adapters is not supported")
    return lambda own: alpha / (own**0.5 if config.get("use_rslora") else own)


def _pairs(adapter: Path, state: Mapping[str, Tensor]) -> dict[tuple[str, str | None], tuple[Tensor, Tensor]]:
    halves: dict[tuple[str, str | None], dict[str, Tensor]] = {}
    for name, tensor in read_safetensors(adapter / "adapter_model.safetensors").items():
        found = _KEY.fullmatch(name)
        place = None if found is None else _place(found, state)
        if found is None or place is None or not bool(torch.isfinite(tensor).all()):
            raise ModelRefused(
                f"{adapter.name}: {name[:120]!r} is no adapter of this model's attention, or not finite",
                hint="Adapters of the attention's q, k, v and output projections are read.",
            )
        halves.setdefault(place, {})[found["factor"]] = tensor
    if not halves or any(set(pair) != {"A", "B"} for pair in halves.values()):
        raise ModelRefused(f"{adapter.name}: every adapter needs both lora_A and lora_B")
    return {place: (pair["A"], pair["B"]) for place, pair in halves.items()}


def _place(found: re.Match[str], state: Mapping[str, Tensor]) -> tuple[str, str | None] | None:
    """The weight that an adapter changes, and which third of it."""
    part = found["part"]
    weight = "attn.out_proj.weight" if part == "out_proj" else "attn.in_proj_weight"
    towers = ["visual."] if found["tower"].startswith("vis") else ["", "text."]
    names = [f"{tower}transformer.resblocks.{int(found['layer'])}.{weight}" for tower in towers]
    name = next((name for name in names if name in state), None)
    return None if name is None else (name, part if part in _ROWS else None)
