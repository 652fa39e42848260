"""Vision-language models of a few hundred thousand random parameters, in the folder layouts of the published ones.

    make_tiny_vlm(Path("folder"), layout="qwen2_vl")

Run by hand: ``python tests/chat/tiny_vlm.py FOLDER [LAYOUT]``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

END, START, PAD = "<|im_end|>", "<|im_start|>", "<|endoftext|>"
QWEN_SPECIAL = (
    PAD,
    START,
    END,
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
LLAVA_SPECIAL = (PAD, START, END, "<image>", "<video>")
QWEN_PICTURE, LLAVA_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>", "<image>"
HIDDEN = 128
# Attention heads of 64 channels, as real models have them: kernels of serving engines take no odd ones.
TEXT: dict[str, Any] = {
    "hidden_size": HIDDEN, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 4096, "initializer_range": 0.2, "tie_word_embeddings": False,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": HIDDEN, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14,
    "image_size": 56, "initializer_range": 0.2,
}  # fmt: skip
LINES = (
    '{"animal": "cat", "colour": "red", "legs": 4}', "Which animal is it? a dog, a cat", "label 0 label 1 label 2",
    "a photo of a frog beside this text", "current labels: pale green frog",
)  # fmt: skip

Maker = Callable[[Any, Path], Any]


def template_for(picture: str) -> str:
    """A chat template that shows text and pictures in the order they are given."""
    part = "{% if part.type == 'text' %}{{ part.text }}{% else %}" + picture + "{% endif %}"
    content = (
        "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
        + part
        + "{% endfor %}{% endif %}"
    )
    return (
        "{% for message in messages %}" + START + "{{ message.role }}\n" + content + END + "\n{% endfor %}"
        "{% if add_generation_prompt %}" + START + "assistant\n{% endif %}"
    )


def make_tiny_vlm(folder: Path, layout: str = "qwen2_vl", *, seed: int = 0) -> Path:
    """Write a random model of the layout: ``qwen2_vl``, ``qwen2_5_vl``, ``llava`` or ``llava_onevision``.

    Weights in safetensors, tokenizer, preprocessing, chat template, generation settings; the same files for one seed.
    """
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    is_qwen = layout.startswith("qwen")
    tokenizer = _tokenizer(QWEN_SPECIAL if is_qwen else LLAVA_SPECIAL)
    tokenizer.chat_template = template_for(QWEN_PICTURE if is_qwen else LLAVA_PICTURE)
    torch.manual_seed(seed)
    model = _MODELS[layout](tokenizer, folder)
    _set_generation(model, tokenizer)
    model.save_pretrained(folder)
    _name_weights_as_published(folder / "model.safetensors")
    _add_template_to_tokenizer_config(folder, tokenizer.chat_template)
    return folder


def _tokenizer(special: tuple[str, ...]) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=384, special_tokens=list(special), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(LINES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, additional_special_tokens=list(special[3:])
    )


def _ids(tokenizer: Any, **names: str) -> dict[str, int]:
    return {field: tokenizer.convert_tokens_to_ids(token) for field, token in names.items()}


def _text(tokenizer: Any, **changes: Any) -> dict[str, Any]:
    ends = {"bos_token_id": None, **_ids(tokenizer, eos_token_id=END, pad_token_id=PAD)}
    return {**TEXT, **ends, "vocab_size": len(tokenizer), **changes}


def _qwen2_vl(tokenizer: Any, folder: Path) -> Any:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor

    _save_qwen_processor(Qwen2VLProcessor, tokenizer, folder)
    vision = {"depth": 1, "embed_dim": HIDDEN, "hidden_size": HIDDEN, "num_heads": 2, "initializer_range": 0.2}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(vision_config=vision, **_qwen_config(tokenizer)))


def _qwen2_5_vl(tokenizer: Any, folder: Path) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

    _save_qwen_processor(Qwen2_5_VLProcessor, tokenizer, folder)
    vision = {
        "depth": 2, "hidden_size": HIDDEN, "intermediate_size": 192, "out_hidden_size": HIDDEN, "num_heads": 2,
        "fullatt_block_indexes": [1], "initializer_range": 0.2,
    }  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(vision_config=vision, **_qwen_config(tokenizer)))


def _qwen_config(tokenizer: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]}
    ids = _ids(
        tokenizer, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>",
        vision_start_token_id="<|vision_start|>", vision_end_token_id="<|vision_end|>",
    )  # fmt: skip
    return {"text_config": _text(tokenizer, rope_parameters=rope), **ids}


def _save_qwen_processor(kind: Any, tokenizer: Any, folder: Path) -> None:
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    size = {"shortest_edge": 56 * 56, "longest_edge": 224 * 224}
    images, videos = Qwen2VLImageProcessor(size=size), Qwen2VLVideoProcessor(size=size)
    kind(images, tokenizer, videos, chat_template=tokenizer.chat_template).save_pretrained(folder)
    images.save_pretrained(folder)
    videos.save_pretrained(folder)


def _llava(tokenizer: Any, folder: Path) -> Any:
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    images = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    LlavaProcessor(
        images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)  # fmt: skip
    images.save_pretrained(folder)
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION},
        text_config={"model_type": "llama", **_text(tokenizer)}, image_seq_length=16,
        **_ids(tokenizer, image_token_index="<image>"),
    )  # fmt: skip
    return LlavaForConditionalGeneration(config)


def _llava_onevision(tokenizer: Any, folder: Path) -> Any:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    grid = [[56, 56], [56, 112], [112, 56]]
    images = LlavaOnevisionImageProcessor(size={"height": 56, "width": 56}, image_grid_pinpoints=grid)
    videos = LlavaOnevisionVideoProcessor(size={"height": 56, "width": 56})
    LlavaOnevisionProcessor(
        images, tokenizer, videos, num_image_tokens=16, vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)  # fmt: skip
    images.save_pretrained(folder)
    videos.save_pretrained(folder)
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False, **VISION},
        text_config={"model_type": "qwen2", **_text(tokenizer)}, image_grid_pinpoints=grid,
        **_ids(tokenizer, image_token_index="<image>", video_token_index="<video>"),
    )  # fmt: skip
    return LlavaOnevisionForConditionalGeneration(config)


_MODELS: dict[str, Maker] = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "llava": _llava,
    "llava_onevision": _llava_onevision,
}


def _set_generation(model: Any, tokenizer: Any) -> None:
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = None


def _name_weights_as_published(path: Path) -> None:
    """Published LLaVA weights have one more level in the names of the vision tower, and serving engines ask for it."""
    from safetensors.torch import load_file, save_file

    tower = "vision_tower."
    named = {
        n.replace(tower, f"{tower}vision_model.") if f"{tower}vision_model" not in n else n: w
        for n, w in load_file(path).items()
    }
    save_file(named, path, {"format": "pt"})


def _add_template_to_tokenizer_config(folder: Path, template: str) -> None:
    """Older readers look for the template here only."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}, indent=2))


if __name__ == "__main__":
    print(make_tiny_vlm(Path(sys.argv[1]), *sys.argv[2:3]))
