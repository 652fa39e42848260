"""A network made ready for training: what is frozen, what trains in float32, and how that is written down."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import ModelRefused
from runner.imports import building, importing
from runner.models.lvlm.anatomy import Anatomy, anatomy, at
from runner.models.lvlm.loading import LoadedLvlm
from runner.nodes.finetuning.specs import Recipe

ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass
class Learner:
    """``loaded.network`` with its frozen weights as they were loaded and its trained ones in float32.

    ``adapted``: peft's wrapper around the same modules, None where everything trains. ``trained``: parameters by their name in the
    network; ``in_projector``: those names among them.
    """

    loaded: LoadedLvlm
    parts: Anatomy
    adapted: Any
    trained: dict[str, nn.Parameter]
    in_projector: set[str]
    dtype: torch.dtype
    _handles: list[Any] = field(default_factory=list)

    @property
    def network(self) -> Any:
        """The module whose ``model`` gives hidden states."""
        return self.loaded.network

    def training(self) -> None:
        """Dropout of adapters and what checkpointing needs; the vision tower stays in evaluation."""
        self.network.train()
        if self.parts.vision is not None:
            self.parts.vision.eval()

    def set_state(self, state: dict[str, Tensor]) -> None:
        """Put back what was learnt, by the names of ``trained``."""
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(state[name])

    def release(self) -> None:
        """Take the casts off the projector."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def prepare(loaded: LoadedLvlm, recipe: Recipe, decoder: str = "auto", *, seed: int = 0) -> Learner:
    """Freeze everything, then let train what the recipe says, in float32. Raises ``ModelRefused`` where the model lacks it."""
    dtype = loaded.dtype
    parts = anatomy(loaded.network, decoder)
    _need_head(loaded, parts)
    with_projector = recipe.train == "projector" or (recipe.projector and parts.projector is not None)
    if with_projector and parts.projector is None:
        raise ModelRefused(f"{loaded.name} reads text only: it has no projector to train", hint="Take train: lora.")
    loaded.network.requires_grad_(False)
    adapted = None
    if recipe.train == "full":
        _open_everything(loaded.network, parts, with_projector)
    else:
        adapted = _adapt(loaded, parts, recipe, with_projector, seed)
    parts = anatomy(loaded.network, decoder)  # peft has put its own modules in some places
    trained = {name: p for name, p in loaded.network.named_parameters() if p.requires_grad}
    for parameter in trained.values():
        parameter.data = parameter.data.float()
    prefix = f"{parts.projector_path}."
    learner = Learner(loaded, parts, adapted, trained, {n for n in trained if n.startswith(prefix)}, dtype)
    if learner.in_projector:
        learner._handles = _cast_around(parts.projector, dtype)
    if recipe.optim.checkpointing:
        loaded.network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return learner


def write_adapter(learner: Learner, folder: Path) -> None:
    """LoRA and projector as peft writes them, so that ``PeftModel.from_pretrained`` reads them; float32."""
    from safetensors.torch import save_file

    with importing:
        from peft import get_peft_model_state_dict
    folder.mkdir(parents=True, exist_ok=True)
    weights = get_peft_model_state_dict(learner.adapted, save_embedding_layers=False)
    save_file(
        {n: w.detach().cpu().contiguous() for n, w in weights.items()}, folder / ADAPTER_WEIGHTS, {"format": "pt"}
    )
    config = learner.adapted.peft_config["default"].to_dict() | {
        "base_model_name_or_path": learner.loaded.name, "inference_mode": True,
    }  # fmt: skip
    text = json.dumps(config, indent=2, sort_keys=True, default=lambda v: sorted(v) if isinstance(v, set) else str(v))
    (folder / "adapter_config.json").write_text(text, encoding="utf8")


def merge(learner: Learner) -> Any:
    """The network with everything learnt in its own weights, in the dtype it was loaded in; sums are taken in float32.

    The learner is used up.
    """
    learner.release()
    if learner.adapted is None:
        return learner.network.to(learner.dtype).eval()
    with torch.no_grad():
        for layer in _lora_layers(learner.network):
            weight = layer.get_base_layer().weight
            weight.copy_(weight.float() + layer.get_delta_weight("default").float())
    network = learner.adapted.unload()
    learner.adapted = None
    return network.to(learner.dtype).eval()


# --- what trains -----------------------------------------------------------------------------------------------------


def linear_names(parts: Anatomy) -> list[str]:
    """Last names of the linear layers in the decoder's blocks."""
    return sorted(
        {name.rpartition(".")[2] for name, module in parts.layers.named_modules() if isinstance(module, nn.Linear)}
    )


def _adapt(loaded: LoadedLvlm, parts: Anatomy, recipe: Recipe, with_projector: bool, seed: int) -> Any:
    """Wrap by peft. A training of the projector alone gets one adapter that stays zero: peft reads no folder without any."""
    with importing:
        from peft import LoraConfig, get_peft_model
    idle = recipe.train == "projector"
    lora, names = recipe.lora, linear_names(parts)
    alpha: Any = 1 if idle else lora.alpha  # peft takes any number
    unknown = sorted(set(lora.targets or ()) - set(names))
    if unknown:
        raise ModelRefused(
            f"lora.targets: {loaded.name} has no linear layer {', '.join(unknown)} in its blocks",
            hint=f"It has {', '.join(names)}.",
        )
    chosen = sorted(lora.targets or names)
    prefix = f"{parts.decoder_path}.layers." if parts.decoder_path else "layers."
    others = [path for path in (parts.vision_path, parts.projector_path) if path]
    config = LoraConfig(
        r=1 if idle else lora.r, lora_alpha=alpha, lora_dropout=0.0 if idle else lora.dropout,
        target_modules=re.escape(_first_linear(parts, prefix)) if idle else chosen,
        exclude_modules="|".join(f"{re.escape(path)}(\\..*)?" for path in others) if others and not idle else None,
        modules_to_save=[parts.projector_path] if with_projector and parts.projector_path else None, bias="none",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with building:
            adapted = get_peft_model(loaded.network, config)
    wrapped = [name for name, module in loaded.network.named_modules() if hasattr(module, "lora_A")]
    if stray := [name for name in wrapped if not name.startswith(prefix)]:
        raise ModelRefused(f"{loaded.name}: the adapter would also change {stray[0]}", hint="Name lora.targets.")
    if idle:
        for name, parameter in loaded.network.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and ".lora_" not in name)
    return adapted


def _first_linear(parts: Anatomy, prefix: str) -> str:
    return prefix + next(str(name) for name, module in parts.layers.named_modules() if isinstance(module, nn.Linear))


def _open_everything(network: Any, parts: Anatomy, with_projector: bool) -> None:
    network.requires_grad_(True)
    for module, trains in ((parts.vision, False), (parts.projector, with_projector)):
        if module is not None:
            module.requires_grad_(trains)


def _lora_layers(network: Any) -> Iterator[Any]:
    return (module for module in network.modules() if hasattr(module, "lora_A") and hasattr(module, "get_delta_weight"))


def _cast_around(projector: Any, dtype: torch.dtype) -> list[Any]:
    """Let a float32 projector stand between parts of another dtype."""

    def widen(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)

    def narrow(_: Any, __: Any, found: Any) -> Any:
        return found.to(dtype) if isinstance(found, Tensor) else found

    return [projector.register_forward_pre_hook(widen), projector.register_forward_hook(narrow)]


def _need_head(loaded: LoadedLvlm, parts: Anatomy) -> None:
    if parts.lm_head is None or at(loaded.network, loaded.network.base_model_prefix) is None:
        raise ModelRefused(
            f"{loaded.name} has no output head: it predicts no tokens", hint="Take the causal model's folder."
        )
