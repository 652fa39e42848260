"""Random networks of a few ten thousand parameters, one for each layout of decoder and of wrapper.

    network("phi3")            the module, float32, evaluation mode, the same weights for one seed
    folder("llava", path)      saved as a published checkpoint is, with a tokenizer (and a processor where that is cheap)

Text: ``TEXTS``; wrapped, with a vision tower: ``WRAPPED``. Names ending in ``_gqa`` share key-value heads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

VOCABULARY = 112
IMAGE_TOKEN = 111
LAYERS, HIDDEN, HEADS, MLP = 4, 48, 4, 40
TEXT: dict[str, Any] = {
    "hidden_size": HIDDEN, "intermediate_size": MLP, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS, "vocab_size": VOCABULARY, "max_position_embeddings": 256, "initializer_range": 0.2,
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
GQA = {"num_key_value_heads": 2}
VISION: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14,
    "image_size": 28, "initializer_range": 0.2,
}  # fmt: skip
ROTARY = {"rope_type": "default", "rope_theta": 10000.0}
TEXTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama_gqa": ("LlamaConfig", GQA),
    "llama_tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "qwen2": ("Qwen2Config", GQA),
    "qwen3": ("Qwen3Config", {**GQA, "head_dim": 16}),
    "phi": ("PhiConfig", {"rope_parameters": {**ROTARY, "partial_rotary_factor": 0.5}}),
    "phi3": ("Phi3Config", {}),
    "phi3_gqa": ("Phi3Config", GQA),
    "mistral": ("MistralConfig", {**GQA, "sliding_window": None}),
    "gemma": ("GemmaConfig", {**GQA, "head_dim": 16}),
    "gemma2": ("Gemma2Config", {**GQA, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8}),
}
"""Name -> class of the config, what differs from ``TEXT``."""


def network(name: str, *, seed: int = 0, **changes: Any) -> Any:
    """The layout ``name`` with random weights. ``changes``: fields of the text config."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = _text(name, changes) if name in TEXTS else WRAPPED[name](changes)
        _stir(made)
    return made.eval()


def folder(name: str, path: Path, *, seed: int = 0, **changes: Any) -> Path:
    """``network(name)`` saved in float32 with tokenizer and generation settings."""
    network(name, seed=seed, **changes).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def tokenizer() -> Any:
    """A byte-level tokenizer of ``VOCABULARY`` tokens; the last is ``<image>``."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    letters = [chr(code) for code in range(33, 127)]
    words = [*special, *letters, "Ġ"]
    words += [f"<extra_{i}>" for i in range(VOCABULARY - 1 - len(words))] + ["<image>"]
    inner = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip


def inputs(name: str, *, rows: int = 2, length: int = 9, seed: int = 1) -> dict[str, Any]:
    """Token ids (rows, length) without padding; wrapped models also get one picture a row where they take plain pixels."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, IMAGE_TOKEN, (rows, length), generator=generator)
    found: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if name == "llava":
        ids[:, 1:5] = IMAGE_TOKEN
        found["pixel_values"] = torch.randn(rows, 3, 28, 28, generator=generator)
    return found


def _text(name: str, changes: dict[str, Any]) -> Any:
    import transformers

    kind, own = TEXTS[name]
    return transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**{**TEXT, **own, **changes}))


def _stir(made: Any) -> None:
    """Norms and biases away from ones and zeros, so that forgetting one shows."""
    import torch

    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def _llava(changes: dict[str, Any]) -> Any:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    return LlavaForConditionalGeneration(
        LlavaConfig(
            text_config={"model_type": "llama", **TEXT, **changes}, tie_word_embeddings=False,
            vision_config={"model_type": "clip_vision_model", **VISION}, image_seq_length=4, image_token_index=IMAGE_TOKEN,
        )
    )  # fmt: skip


def _qwen2_vl(changes: dict[str, Any]) -> Any:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vision = {"depth": 1, "embed_dim": 32, "hidden_size": HIDDEN, "num_heads": 2, "initializer_range": 0.2}
    rope = {**ROTARY, "mrope_section": [2, 2, 2]}
    text = {**TEXT, **GQA, "rope_parameters": rope, **changes}
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(vision_config=vision, text_config=text, tie_word_embeddings=False, image_token_id=IMAGE_TOKEN)
    )


def _internvl(changes: dict[str, Any]) -> Any:
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    vision = {**VISION, "image_size": [28, 28], "patch_size": [14, 14]}
    text = {"model_type": "qwen2", **TEXT, **GQA, **changes}
    return InternVLForConditionalGeneration(
        InternVLConfig(
            text_config=text,
            vision_config=vision,
            image_seq_length=1,
            image_token_id=IMAGE_TOKEN,
            tie_word_embeddings=False,
        )
    )


def _smolvlm(changes: dict[str, Any]) -> Any:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    text = {"model_type": "llama", **TEXT, **GQA, **changes}
    return SmolVLMForConditionalGeneration(
        SmolVLMConfig(
            text_config=text,
            vision_config=VISION,
            image_token_id=IMAGE_TOKEN,
            scale_factor=2,
            tie_word_embeddings=False,
        )
    )


WRAPPED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "llava": _llava,
    "qwen2_vl": _qwen2_vl,
    "internvl": _internvl,
    "smolvlm": _smolvlm,
}
