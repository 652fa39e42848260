"""Backbones from published tags, safetensors files and folders; nothing but configurations and tensors is read."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from runner.data.geometry import Geometry
from runner.errors import AssetError, ModelRefused
from runner.imports import building, importing
from runner.models.backbones.convolutional import KINDS, ConvolutionalBackbone
from runner.models.backbones.huggingface import LAYOUTS, huggingface_backbone
from runner.models.backbones.open_clip import OPENAI_MEAN, OPENAI_STD, clip_tower
from runner.models.backbones.timm_vit import HALF, PLANTED, planted_vit, timm_backbone
from runner.models.backbones.transformer import About, Precision
from runner.models.backbones.weights import open_layer_scales, seeded
from runner.models.base import VisionBackbone
from runner.models.classifier.sniff import read_json
from runner.models.classifier.weights import fill, read_safetensors

__all__ = ["clip_tower", "lineage", "load_huggingface", "load_timm"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RANDOM = "random"
_LINEAGES = {
    "dinov3": "dinov3", "dinov2": "dinov2", "dino": "dino", "siglip": "siglip", "metaclip": "metaclip",
    "clip_laion": "laion-clip", "clip_openai": "openai-clip", "clip_datacomp": "datacomp-clip", "openai": "openai-clip",
    "laion": "laion-clip", "clip": "clip", "mae": "mae", "eva": "eva", "beit": "beit",
}  # fmt: skip


def lineage(name: str) -> str:
    """Training lineage by the name of a model or checkpoint; ``supervised`` where the name tells no other."""
    return next((family for part, family in _LINEAGES.items() if part in name.lower()), "supervised")


def load_timm(
    name: str,
    *,
    checkpoint: Path | None = None,
    image_size: int | None = None,
    random_init: bool = False,
    seed: int = 0,
    precision: Precision = "fp32",
    device: str = "cpu",
) -> VisionBackbone:
    """A backbone of timm. Raises ``ModelRefused`` for names, files and sizes that do not fit, ``AssetError`` offline."""
    if name == PLANTED:
        return planted_vit(seed, device=device, precision=precision)
    with importing:
        import timm
    if not timm.is_model(name):
        raise ModelRefused(
            f"timm has no model {name!r}", hint=_nearest(name, timm.list_models() + timm.list_pretrained())
        )
    with seeded(seed):
        network: Any = _made(name)
    if random_init:
        opened = open_layer_scales(network)
    else:
        _fill_timm(network, name, checkpoint)
    settings = network.pretrained_cfg
    side = image_size or settings["input_size"][-1]
    _resize(network, name, side)
    small, notes = (False, ()) if checkpoint is None else _told(checkpoint)
    notes += _untrained(seed, opened) if random_init else ()
    about = About(
        name=name + _weights_shown(checkpoint, seed if random_init else None),
        family=RANDOM if random_init else lineage(name),
        geometry=_geometry(side, settings["interpolation"]),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        device=device,
        precision=precision,
        random_init=random_init,
        small=small,
        notes=notes,
    )
    return (ConvolutionalBackbone if type(network).__name__ in KINDS else timm_backbone)(network, about)


def _untrained(seed: int, opened: int) -> tuple[str, ...]:
    """What is said of a network that was never trained."""
    scales = f", each of its {opened} layer scales set to 1 (ours: it mixes no tokens otherwise)" if opened else ""
    return (f"untrained: weights as the library draws them with seed {seed}{scales}",)


def _geometry(side: int, interpolation: str) -> Geometry:
    """The whole short side is kept (our choice, the same for all backbones), scaled as the checkpoint wants it."""
    return Geometry(side, side, "bilinear" if interpolation == "bilinear" else "bicubic")


def _weights_shown(checkpoint: Path | None, untrained: int | None) -> str:
    """What a model's name says of its weights: the file's own name, or its folder's where all files are called alike."""
    if untrained is not None:
        return f" (untrained, seed {untrained})"
    if checkpoint is None:
        return ""
    return f" ({checkpoint.parent.name if checkpoint.stem == 'model' else checkpoint.stem})"


def _made(name: str) -> nn.Module:
    """timm's network with its own untrained weights, without a head. Raises ``ModelRefused`` for other kinds of network."""
    with importing:
        import timm
        from timm.models.eva import Eva
        from timm.models.vision_transformer import VisionTransformer
    try:
        network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    except Exception as error:  # tags are checked only here, and some architectures take no empty head
        raise ModelRefused(
            f"timm cannot build {name!r}: {error}", hint=_nearest(name, timm.list_pretrained())
        ) from error
    if not isinstance(network, VisionTransformer | Eva) and type(network).__name__ not in KINDS:
        raise ModelRefused(
            f"{name}: timm's {type(network).__name__} is no backbone that can be read layer by layer",
            hint=f"Kinds that can: VisionTransformer, Eva, {', '.join(KINDS)}.",
        )
    return network


def _resize(network: Any, name: str, side: int) -> None:
    """Set the input size of a transformer, which interpolates its position embeddings once. Raises ``ModelRefused``."""
    embed = getattr(network, "patch_embed", None)
    if embed is None:
        return
    patch = embed.patch_size[0]
    if side % patch:
        raise ModelRefused(
            f"{name}: image_size {side} is no multiple of the patch size {patch}",
            hint=f"Take {side // patch * patch or patch} or {(side // patch + 1) * patch}.",
        )
    if tuple(embed.img_size) != (side, side):
        network.set_input_size(img_size=(side, side))


def _fill_timm(network: Any, name: str, checkpoint: Path | None) -> None:
    """Published weights, or those of a safetensors file whose head is left out."""
    if checkpoint is None:
        _fetch_timm(network, name)
        return
    _need_safetensors(checkpoint)
    heads = network.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    tensors = {key: value for key, value in read_safetensors(checkpoint).items() if not key.startswith(heads)}
    fill(network, tensors, str(checkpoint))


def _need_safetensors(path: Path) -> None:
    if path.suffix != ".safetensors":
        raise ModelRefused(
            f"{path}: backbones are read from safetensors only, which cannot run code",
            hint="Save the state dict with safetensors.torch.save_file.",
        )


def _fetch_timm(network: Any, name: str) -> None:
    with importing:
        import timm
        from timm.models import load_pretrained
    if not timm.is_model_pretrained(name):
        raise ModelRefused(
            f"timm has no published weights of {name}",
            hint="Give `checkpoint:` a safetensors file, or `random_init: true`.",
        )
    try:
        load_pretrained(network, num_classes=0)
    except Exception as error:  # downloads fail in many ways
        raise _not_available(name, error, "`checkpoint:` a safetensors file") from error


def _not_available(name: str, error: Exception, instead: str) -> AssetError:
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "ON", "YES")
    why = "they are not in the local cache, and HF_HUB_OFFLINE forbids to fetch them" if offline else _one_line(error)
    return AssetError(
        f"the published weights of {name} are not available: {why}",
        hint=f"Fetch them once on a machine with a network, or give {instead}.",
    )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _nearest(name: str, known: list[str]) -> str:
    begun = sorted((each for each in known if each.startswith(name)), key=len)
    close = begun[:3] or difflib.get_close_matches(name, known, 3)
    return f"Did you mean {' or '.join(close)}?" if close else "Such as vit_small_patch14_dinov2.lvd142m."


def _told(checkpoint: Path) -> tuple[bool, tuple[str, ...]]:
    """What a checkpoint of this project says of itself in its header: whether it is small, and notes."""
    from safetensors import safe_open

    with safe_open(checkpoint, "pt") as file:
        header = (file.metadata() or {}).get("runner", "{}")
    try:
        told = json.loads(header)
        return told.get("small") is True, tuple(str(note) for note in told.get("notes", ()))
    except (ValueError, AttributeError, TypeError):
        return False, ()


# --- transformers ----------------------------------------------------------------------------------------------------


def load_huggingface(
    folder: Path | None,
    name: str | None = None,
    *,
    image_size: int | None = None,
    random_init: bool = False,
    seed: int = 0,
    precision: Precision = "fp32",
    device: str = "cpu",
) -> VisionBackbone:
    """A backbone of transformers, from a folder or by its name on the hub. Raises ``ModelRefused`` or ``AssetError``."""
    root = folder or _fetched(str(name), weights=not random_init)
    kind, config = _vision_config(root)
    shown = name or root.name
    network: Any = _network(root, kind, config, shown, seed if random_init else None)
    notes = _untrained(seed, open_layer_scales(network)) if random_init else ()
    projection = getattr(network, "visual_projection", None)
    inner = network.vision_model if hasattr(network, "vision_model") else network
    settings = _preprocessing(root, kind)
    side = image_size or _int(config.image_size)
    about = About(
        name=shown + _weights_shown(None, seed if random_init else None),
        family=RANDOM if random_init else _lineage_of(kind, shown),
        geometry=_geometry(side, settings[2]),
        mean=settings[0],
        std=settings[1],
        device=device,
        precision=precision,
        random_init=random_init,
        notes=notes,
    )
    return huggingface_backbone(inner, about, projection)


def _lineage_of(kind: str, shown: str) -> str:
    """The kind of model tells its lineage, except of a CLIP and a plain ViT, which many have trained."""
    several = kind in ("clip_vision_model", "vit", "deit")
    named = lineage(shown) if several else "supervised"
    return named if named != "supervised" else lineage(kind)


def _int(value: Any) -> int:
    return int(value if isinstance(value, int) else value[0])


def _fetched(name: str, *, weights: bool) -> Path:
    """The folder of a model on the hub: configurations and safetensors only. Raises ``AssetError``."""
    with importing:
        from huggingface_hub import snapshot_download
    repository, _, revision = name.partition("@")
    patterns = ["config.json", "preprocessor_config.json", *(["model*.safetensors*"] if weights else [])]
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
    except Exception as error:  # the network, the hub and the name may each be wrong
        raise _not_available(name, error, "`path:` a downloaded folder") from error


_MODELS = {
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "vit_mae": "ViTMAEModel",
    "vit": "ViTModel",
    "deit": "DeiTModel",
}
_WHOLE = {"clip": "clip_vision_model", "siglip": "siglip_vision_model"}


def _vision_config(root: Path) -> tuple[str, Any]:
    """Kind and configuration of the vision model in a folder. Raises ``ModelRefused``."""
    with importing:
        import transformers
    stated = str(read_json(root / "config.json").get("model_type"))
    kind = _WHOLE.get(stated, stated)
    if kind not in LAYOUTS:
        raise ModelRefused(
            f"{root.name}: transformers' {stated[:60]!r} is no backbone that can be read layer by layer",
            hint=f"Kinds that can: {', '.join(sorted({*LAYOUTS, *_WHOLE}))}.",
        )
    try:
        config: Any = getattr(transformers, _MODELS[kind]).config_class.from_pretrained(str(root))
    except Exception as error:  # a stranger's configuration may fail in any way
        raise ModelRefused(f"{root.name}: transformers cannot read its config.json: {_one_line(error)}") from error
    return kind, config


def _network(root: Path, kind: str, config: Any, shown: str, seed: int | None) -> Any:
    """The model with the weights of the folder, or drawn with ``seed``. Raises ``ModelRefused``."""
    with importing:
        import transformers
        from transformers.utils import logging
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    projected = kind == "clip_vision_model" and _has_projection(root)
    cls = getattr(transformers, "CLIPVisionModelWithProjection" if projected else _MODELS[kind])
    options = {"add_pooling_layer": False} if kind in ("vit", "deit") else {}
    config._attn_implementation = "sdpa"
    if seed is not None:
        with building, seeded(seed):
            return cls(config, **options)
    try:
        with building:
            network, report = cls.from_pretrained(
                str(root),
                config=config,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                attn_implementation="sdpa",
                dtype=torch.float32,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # a stranger's folder may fail in any way
        raise ModelRefused(f"{shown}: transformers cannot load it: {_one_line(error)}") from error
    missing = sorted(key for key in report["missing_keys"] if "mask_token" not in key)
    if missing or report["mismatched_keys"]:
        raise ModelRefused(
            f"{shown}: weights are missing or do not fit: {', '.join(missing[:5]) or report['mismatched_keys'][:3]}",
            hint="Give the folder of a whole checkpoint in safetensors.",
        )
    return network


def _has_projection(root: Path) -> bool:
    """Whether the folder's checkpoint is a whole CLIP or a vision tower with its projection."""
    content = read_json(root / "config.json")
    named = content.get("architectures")
    return content.get("model_type") == "clip" or (isinstance(named, list) and "CLIPVisionModelWithProjection" in named)


Triple = tuple[float, float, float]


def _preprocessing(root: Path, kind: str) -> tuple[Triple, Triple, str]:
    """Mean, deviation and interpolation: the folder's, or its family's where the folder does not say."""
    family = {"clip_vision_model": (OPENAI_MEAN, OPENAI_STD), "siglip_vision_model": (HALF, HALF), "vit": (HALF, HALF)}
    mean, std = family.get(kind, (IMAGENET_MEAN, IMAGENET_STD))
    path = root / "preprocessor_config.json"
    content = read_json(path) if path.is_file() else {}
    interpolation = "bilinear" if content.get("resample") == 2 else "bicubic"
    return _triple(content.get("image_mean"), mean), _triple(content.get("image_std"), std), interpolation


def _triple(value: Any, default: Triple) -> Triple:
    given = isinstance(value, list) and len(value) == 3 and all(isinstance(v, int | float) for v in value)
    return (float(value[0]), float(value[1]), float(value[2])) if given else default
