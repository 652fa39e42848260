"""A tiny random Llama and experts of it: LoRA folders written by peft, and whole checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def tiny_llama(seed: int = 0, *, tied: bool = False, layers: int = 2, hidden: int = 32, vocab: int = 64) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=vocab, tie_word_embeddings=tied, initializer_range=0.2, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def write_base(folder: Path, **settings: Any) -> Path:
    tiny_llama(**settings).save_pretrained(folder)
    return folder


def write_lora(
    base: Path, folder: Path, seed: int, *, rank: int = 4, targets: list[str] | None = None, whole: tuple[str, ...] = (),
    rslora: bool = False, zero: bool = False,
) -> Path:  # fmt: skip
    """An adapter with random factors; ``whole``: modules that it carries whole."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=targets or LINEARS, modules_to_save=list(whole) or None, use_rslora=rslora
    )  # fmt: skip
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or ".modules_to_save." in name:
            torch.nn.init.normal_(parameter, std=0.0 if zero and "lora_B" in name else 0.1)
    adapted.save_pretrained(folder)
    return folder


def write_full(base: Path, folder: Path, seed: int) -> Path:
    """The base with noise on every weight."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    network = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, folder: Path, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """The weights of the base with one adapter merged in, by peft's own code."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder))
    return dict(adapted.merge_and_unload().state_dict())


def average(weights: list[float], states: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """sum_k w_k theta_k in float64, cast once: what every way of merging is held against."""
    return {
        name: sum(w * state[name].double() for w, state in zip(weights, states, strict=True)).to(states[0][name].dtype)
        for name in states[0]
    }  # fmt: skip
