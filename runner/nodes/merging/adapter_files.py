"""Stock LoRA folders of peft, read and written: ``adapter_config.json`` and ``adapter_model.safetensors``."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner.errors import ModelRefused
from runner.models.classifier.sniff import read_json
from runner.models.classifier.weights import read_safetensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])(?:\.default)?\.weight")
_WRAPPED = re.compile(r"\.modules_to_save(?:\.default)?(?=\.)")
_HARMLESS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "lora_alpha",
    "lora_dropout", "megatron_config", "megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size",
    "r", "rank_pattern", "revision", "runtime_config", "target_modules", "task_type", "use_rslora",
}  # fmt: skip
"""Settings that are read here, or change nothing but the training. Any other one that is on is a variant with other algebra."""
_CHANGES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
"""Initialisations after which the adapter belongs to a base other than the one it names."""


@dataclass(frozen=True)
class LoraAdapter:
    """``factors``: module of the base -> (A [r, in], B [out, r]), as stored; ``scaling``: module -> s; ``full``: parameter of the
    base -> tensor that takes its place; ``base_name``: the base as the adapter calls it."""

    factors: dict[str, tuple[Tensor, Tensor]]
    scaling: dict[str, float]
    full: dict[str, Tensor] = field(default_factory=dict)
    base_name: str | None = None

    @property
    def rank(self) -> int:
        """The largest of its modules."""
        return max((len(a) for a, _ in self.factors.values()), default=0)


def read_adapter(folder: Path) -> LoraAdapter:
    """Read a LoRA folder. Raises ``ModelRefused`` for pickled weights, other methods, variants (DoRA, ...) and damage.

    Ranks and alphas may differ by module (``rank_pattern``, ``alpha_pattern``); tensors that are no factors are full ones.
    """
    config = read_settings(folder)
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").exists()
        raise ModelRefused(f"{folder}: {'its weights are pickled; ' if pickled else ''}there is no {WEIGHTS}",
                           hint="Save the adapter as safetensors.")  # fmt: skip
    halves: dict[str, dict[str, Tensor]] = {}
    full = {}
    for key, tensor in read_safetensors(folder / WEIGHTS).items():
        name = key.removeprefix(PREFIX)
        if not bool(torch.isfinite(tensor).all()):
            raise ModelRefused(f"{folder}: {name[:200]!r} holds values that are not finite")
        found = _FACTOR.fullmatch(name)
        if found:
            halves.setdefault(found["module"], {})[found["half"]] = tensor
        elif "lora_" in name:
            raise ModelRefused(f"{folder}: {name[:200]!r} is neither lora_A nor lora_B of a linear layer")
        else:
            full[_WRAPPED.sub("", name)] = tensor
    factors = {module: _pair(folder, module, pair) for module, pair in halves.items()}
    scaling = {module: _scaling(folder, config, module, len(a)) for module, (a, _) in factors.items()}
    if not factors and not full:
        raise ModelRefused(f"{folder}: the adapter holds no tensor")
    base = config.get("base_model_name_or_path")
    return LoraAdapter(factors, scaling, full, base if isinstance(base, str) else None)


def read_settings(folder: Path) -> dict[str, Any]:
    """The config of a LoRA folder whose algebra is the plain one. Reads no weights. Raises ``ModelRefused``."""
    config = read_json(folder / CONFIG)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelRefused(f"{folder}: an adapter of the method {str(kind)[:60]!r}; LoRA is read")
    odd = sorted(key for key, value in config.items() if value and key not in _HARMLESS and key != "bias")
    if odd or config.get("bias", "none") != "none":
        raise ModelRefused(f"{folder}: {', '.join(odd)[:200] or 'trained biases'} of LoRA adapters cannot be merged exactly",
                           hint="Merge the adapter into its model and give the whole model as the expert.")  # fmt: skip
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_CHANGES_BASE):
        raise ModelRefused(f"{folder}: initialised by {init[:60]!r}, which changes the base",
                           hint="Convert it to plain LoRA when saving (path_initial_model_for_weight_conversion).")  # fmt: skip
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1 or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        raise ModelRefused(f"{folder}: {CONFIG} needs a rank r of 1 or more and a number lora_alpha")
    return config


def write_adapter(
    adapter: LoraAdapter, folder: Path, base_name: str | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write a folder that stock peft opens; ``dtype`` of all tensors (default: as they are). The folder is made.

    The rank of most modules is ``r``, others stand in ``rank_pattern`` and, with their alpha, in ``alpha_pattern``.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(adapter.full)
    for module, (a, b) in adapter.factors.items():
        tensors |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    save_file(
        {PREFIX + name: x.detach().to("cpu", dtype or x.dtype, copy=True).contiguous() for name, x in tensors.items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
    text = json.dumps(_settings(adapter, base_name), indent=2, sort_keys=True)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")


def _settings(adapter: LoraAdapter, base_name: str | None) -> dict[str, Any]:
    ranks = {module: len(a) for module, (a, _) in adapter.factors.items()}
    alphas = {module: adapter.scaling[module] * rank for module, rank in ranks.items()}
    rank, alpha = _commonest(ranks, 1), _commonest(alphas, 1.0)
    return {
        "peft_type": "LORA", "base_model_name_or_path": base_name or adapter.base_name, "inference_mode": True, "bias": "none",
        "r": rank, "lora_alpha": _whole(alpha), "lora_dropout": 0.0, "use_rslora": False, "use_dora": False,
        "fan_in_fan_out": False, "init_lora_weights": True,
        "target_modules": sorted(ranks),
        "modules_to_save": sorted({name.rpartition(".")[0] for name in adapter.full}) or None,
        "rank_pattern": {_exactly(module): own for module, own in ranks.items() if own != rank},
        "alpha_pattern": {_exactly(module): _whole(own) for module, own in alphas.items() if own != alpha},
    }  # fmt: skip


def _exactly(module: str) -> str:
    """A pattern that no longer name ends with by chance: peft allows any prefix before it."""
    return "^" + re.escape(module)


def _commonest(values: Mapping[str, Any], default: Any) -> Any:
    return Counter(values.values()).most_common(1)[0][0] if values else default


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value


def _pair(folder: Path, module: str, pair: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    if set(pair) != {"A", "B"}:
        raise ModelRefused(f"{folder}: {module[:200]} lacks lora_{'B' if 'A' in pair else 'A'}")
    a, b = pair["A"], pair["B"]
    if (
        a.ndim != 2
        or b.ndim != 2
        or not 0 < a.shape[0] == b.shape[1]
        or not (a.is_floating_point() and b.is_floating_point())
    ):
        raise ModelRefused(f"{folder}: {module[:200]}: lora_B {list(b.shape)} and lora_A {list(a.shape)} do not fit")
    return a, b


def _scaling(folder: Path, config: Mapping[str, Any], module: str, rank: int) -> float:
    declared = _of_pattern(folder, config, "rank_pattern", module, config["r"])
    if declared != rank:
        raise ModelRefused(f"{folder}: {module[:200]} has rank {rank}, its config says {declared}")
    alpha = _of_pattern(folder, config, "alpha_pattern", module, config["lora_alpha"])
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _of_pattern(folder: Path, config: Mapping[str, Any], key: str, module: str, default: float) -> float:
    """As peft reads its patterns: the first whose expression ends the module's name."""
    for pattern, value in (config.get(key) or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return float(value)
        except (re.error, TypeError, ValueError) as error:
            raise ModelRefused(f"{folder}: {key} holds {str(pattern)[:80]!r}: {error}") from error
    return default
