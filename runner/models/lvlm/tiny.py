"""A small stock LLaVA put together from packaged parts: a language model, a vision tower and a projector between them.

``assemble`` writes a folder that transformers' ``AutoProcessor`` and ``AutoModelForImageTextToText`` open by themselves. What
its projector and adapter have learnt comes from this project's own training; without them the projector is random and the
model is blind. It is small: fit to try methods on a genuine architecture, not for claims on accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner.errors import ModelRefused
from runner.imports import building, importing

if TYPE_CHECKING:
    from torch import Tensor

PICTURE = "<image>"
PATCH = 14
PROJECTOR = "multi_modal_projector."
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}" + PICTURE + "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)  # fmt: skip
"""Turns alone, without a system message: every token of it would be paid for in each answer."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, as DINOv2 was trained with."""
BLOCK = {
    "norm1": "norm1", "norm2": "norm2", "attn.proj": "attention.output.dense", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2",
}  # fmt: skip
"""Modules of a block that differ in their names only: timm's and the published ones."""

NOTE = "put together and trained by this project, or not at all: small, for trying methods, not for claims on accuracy"

Dtype = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class Look:
    """Side of the pictures in pixels, and the block whose patches the projector reads: -1 is the last one."""

    image_size: int = 84
    feature_layer: int = -1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.image_size % PATCH or self.image_size < PATCH:
            raise ModelRefused(f"an image size of {self.image_size} is no multiple of the patch size {PATCH}")

    @property
    def tokens(self) -> int:
        """Image tokens of a picture."""
        return (self.image_size // PATCH) ** 2


def assemble(
    language: Path,
    vision: Path,
    out: Path,
    *,
    image_size: int = 84,
    feature_layer: int = -4,
    projector: Path | None = None,
    adapter: Path | None = None,
    dtype: Dtype = "bfloat16",
    seed: int = 0,
) -> None:
    """Write a LLaVA folder: weights, config, processor, chat template and a card.

    ``feature_layer``: of the packaged tower, which fine-tuning dulled towards its end, the fourth block state from the end told probes more
    of words and counts than the last one. ``language``: a Llama-like model as GGUF. ``vision``: weights of timm's ``vit_*_patch14_dinov2`` as safetensors.
    ``projector``: safetensors with its two linear layers; random from ``seed`` without it. ``adapter``: a folder of peft's
    with a LoRA adapter of the whole model; it is merged in float32. Raises ``ModelRefused`` where parts do not fit.
    """
    look = Look(image_size, feature_layer, seed)
    with building:
        text, tokenizer = read_language(language)
        model, processor = compose(text, tokenizer, read_weights(vision), look)
        if projector is not None:
            set_projector(model, read_weights(projector))
        if adapter is not None:
            model = merged(model, adapter)
    write(model, processor, out, dtype)
    (out / "README.md").write_text(_card(model.config), encoding="utf8")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file. Raises ``ModelRefused`` where it is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelRefused(f"{path.name}: no readable safetensors file ({error})") from error


def read_language(path: Path) -> tuple[Any, Any]:
    """A language model in float32 and its tokenizer from a GGUF file, quantised weights unpacked."""
    import torch

    with importing:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    packed = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    given = {k: v for k, v in packed.config.to_dict().items() if k not in ("quantization_config", "_name_or_path")}
    model = type(packed)(type(packed.config)(**given))  # afresh: a model from GGUF counts as quantised and is not saved
    model.load_state_dict(packed.state_dict())
    model.tie_weights()
    return model, tokenizer


def published_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of timm's ``vit_*_dinov2`` under the names of the published ``Dinov2Model``; fused q, k, v come apart."""
    import torch

    width = weights["norm.weight"].shape[0]
    found = {
        "embeddings.cls_token": weights["cls_token"],
        "embeddings.mask_token": torch.zeros(1, width),  # of pretraining alone: nothing reads it
        "embeddings.position_embeddings": weights["pos_embed"],
        **{f"embeddings.patch_embeddings.projection.{p}": weights[f"patch_embed.proj.{p}"] for p in ("weight", "bias")},
        **{f"layernorm.{p}": weights[f"norm.{p}"] for p in ("weight", "bias")},
    }
    for number in range(_depth(weights)):
        theirs, ours = f"blocks.{number}.", f"encoder.layer.{number}."
        for parameter in ("weight", "bias"):
            found |= {f"{ours}{to}.{parameter}": weights[f"{theirs}{name}.{parameter}"] for name, to in BLOCK.items()}
            parts = weights[f"{theirs}attn.qkv.{parameter}"].chunk(3)
            for part, name in zip(parts, ("query", "key", "value"), strict=True):
                found[f"{ours}attention.attention.{name}.{parameter}"] = part.contiguous()
        found |= {f"{ours}layer_scale{n}.lambda1": weights[f"{theirs}ls{n}.gamma"] for n in (1, 2)}
    return found


def _depth(weights: Mapping[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in weights if name.startswith("blocks.")})


def resized_positions(positions: Tensor, side: int) -> Tensor:
    """Position embeddings [1, 1 + G*G, d] for a grid of ``side`` patches, as the stock model would do at every forward."""
    import torch

    grid = round((positions.shape[1] - 1) ** 0.5)
    patches = positions[:, 1:].float().reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    scaled = torch.nn.functional.interpolate(patches, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], scaled.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def vision_tower(weights: Mapping[str, Tensor], image_size: int) -> Any:
    """A stock ``Dinov2Model`` in float32 for pictures of one size. Raises ``ModelRefused`` for weights of another network."""
    with importing:
        from transformers import Dinov2Config, Dinov2Model
    try:
        named = published_names(weights)
    except KeyError as error:
        raise ModelRefused(f"the vision weights lack {error}: expected those of timm's DINOv2") from error
    place = "embeddings.position_embeddings"
    named[place] = resized_positions(named[place], image_size // PATCH)
    width = named["layernorm.weight"].shape[0]
    config = Dinov2Config(
        hidden_size=width, num_hidden_layers=_depth(weights), num_attention_heads=max(1, width // 64),
        mlp_ratio=weights["blocks.0.mlp.fc1.weight"].shape[0] // width, image_size=image_size, patch_size=PATCH,
    )  # fmt: skip
    # From published names, so that whatever the library calls them inside is its own affair.
    made: Any = Dinov2Model.from_pretrained(None, config=config, state_dict=named, output_loading_info=True)
    tower, told = made
    if told["missing_keys"] or told["unexpected_keys"]:
        raise ModelRefused(f"the vision weights do not fill the tower: {sorted(told['missing_keys'])[:3]} missing")
    return tower


def compose(text: Any, tokenizer: Any, vision: Mapping[str, Tensor], look: Look) -> tuple[Any, Any]:
    """A LLaVA with a random projector, and its processor, in float32.

    ``text``: a causal language model of transformers; it gets one token more, ``<image>``. ``vision``: timm's weights.
    """
    import torch

    with importing:
        from transformers import LlavaConfig, LlavaForConditionalGeneration
    tower = vision_tower(vision, look.image_size)
    _add_picture_token(text, tokenizer)
    tied = bool(text.config.tie_word_embeddings)
    config = LlavaConfig(
        vision_config=tower.config, text_config=text.config, projector_hidden_act="gelu", tie_word_embeddings=tied,
        image_token_index=tokenizer.convert_tokens_to_ids(PICTURE), image_seq_length=look.tokens,
        vision_feature_select_strategy="default", vision_feature_layer=look.feature_layer,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(look.seed)
        model: Any = LlavaForConditionalGeneration(config)
        _draw(model.model.multi_modal_projector, float(text.get_input_embeddings().weight.detach().std()))
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.lm_head.load_state_dict(text.lm_head.state_dict())
    model.tie_weights()
    _set_ends(model, tokenizer)
    model.config.runner = {"small": True, "notes": [NOTE]}  # what results say of it
    return model.eval(), _processor(tokenizer, look)


def _add_picture_token(text: Any, tokenizer: Any) -> None:
    """One row more, the mean of the others: it is never read, and as an output it is never likely."""
    import torch

    tokenizer.add_special_tokens({"additional_special_tokens": [PICTURE]})
    text.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for layer in (text.get_input_embeddings(), text.get_output_embeddings()):
        with torch.no_grad():
            layer.weight[-1] = layer.weight[:-1].mean(0)


def _draw(projector: Any, scale: float) -> None:
    """Weights of variance 1 / inputs, zero biases; what comes out has about the scale of word embeddings."""
    import torch

    for linear, factor in ((projector.linear_1, 1.0), (projector.linear_2, scale)):
        torch.nn.init.normal_(linear.weight, std=factor * linear.in_features**-0.5)
        torch.nn.init.zeros_(linear.bias)


def _set_ends(model: Any, tokenizer: Any) -> None:
    with importing:
        from transformers import GenerationConfig
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    made: Any = GenerationConfig
    model.generation_config = made(do_sample=False, bos_token_id=tokenizer.bos_token_id, **ends)


def _processor(tokenizer: Any, look: Look) -> Any:
    with importing:
        from transformers import LlavaImageProcessor, LlavaProcessor
    kind: Any = LlavaProcessor  # whose constructor has no annotations
    side = {"height": look.image_size, "width": look.image_size}
    pictures = LlavaImageProcessor(
        size=side, crop_size=side, do_center_crop=False, do_pad=True, image_mean=[*MEAN], image_std=[*STD]
    )
    tokenizer.padding_side = "left"  # what is generated follows the prompt
    return kind(
        pictures, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )  # fmt: skip


def set_projector(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Put weights into the projector, whatever stands before their names. Raises ``ModelRefused`` where they do not fit."""
    module = model.model.multi_modal_projector
    named = {name.rpartition(PROJECTOR)[2]: value for name, value in weights.items()}
    wanted = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    if {name: tuple(value.shape) for name, value in named.items()} != wanted:
        raise ModelRefused(
            f"the projector's weights do not fit: expected {wanted}, found {[*named][:8]}",
            hint="They belong to a model of other widths, or are not those of a projector.",
        )
    module.load_state_dict({name: value.float() for name, value in named.items()})


def merged(model: Any, adapter: Path) -> Any:
    """The model with a LoRA adapter merged into its weights."""
    with importing:
        from peft import PeftModel
    if not (adapter / "adapter_config.json").is_file():
        raise ModelRefused(f"{adapter.name}: no adapter_config.json", hint="Expected a folder that peft has written.")
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


def write(model: Any, processor: Any, out: Path, dtype: str = "bfloat16") -> None:
    """Save model and processor as one folder."""
    import torch

    out.mkdir(parents=True, exist_ok=True)
    model.to(getattr(torch, dtype)).save_pretrained(out)
    processor.save_pretrained(out)


def _card(config: Any) -> str:
    text, vision = config.text_config, config.vision_config
    return (
        "# A tiny LLaVA\n\n"
        f"Language model: {text.num_hidden_layers} layers, width {text.hidden_size}. Vision tower: {vision.model_type}, "
        f"{vision.num_hidden_layers} blocks, width {vision.hidden_size}, pictures of {vision.image_size} px = "
        f"{config.image_seq_length} image tokens. Put together by this project from packaged parts; projector and adapter are "
        "trained by it, if at all, on pictures it composed. Small: for trying methods, not for claims on accuracy.\n\n"
        "Licences: those of its parts (SmolLM2: Apache-2.0; DINOv2: Apache-2.0, packaged under MIT).\n"
    )
