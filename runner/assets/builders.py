"""Derived assets: what is made once from downloaded members, so that the cache holds safe and fast formats.

A builder reads the staged members (already checked against the registry where their hash is pinned there) and the
folders of the entries it needs, and fills a folder. Its files are checked against the registry in turn.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runner.assets import backbone_builders, captions, drawing_builders, face_builders
from runner.assets.packing import LABELS, PIXELS, Picture, pack, write_json
from runner.errors import AssetError

Builder = Callable[[Path, Path, Mapping[str, Path]], None]

CIFAR10_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SKIN_TONES = "skin-tones"
SYMBOLIC_GROUPS = frozenset({"Symbols", "Flags"})
MOST_PIXELS = 89_478_485


# --- classifiers -----------------------------------------------------------------------------------------------------

RESNET_CLASSES = (
    "resnet.ResNet",
    "resnet.BasicBlock",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.batchnorm.BatchNorm2d",
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.linear.Identity",
)


def module_tensors(file: Path, classes: tuple[str, ...]) -> dict[str, Any]:
    """Tensors by state-dict key of a pickled whole module, without running any code that the pickle names.

    The restricted loader may make instances of exactly ``classes``, and for each of them it is given an empty class of
    ours: the result is a tree of plain objects. Raises ``AssetError`` when the pickle names anything else.
    """
    import pickle

    import torch

    inert = [(type(name.rpartition(".")[2], (), {}), name) for name in classes]
    try:
        foreign = set(torch.serialization.get_unsafe_globals_in_checkpoint(file)) - set(classes)
        if foreign:
            raise AssetError(f"{file.name} names {', '.join(sorted(foreign))}, more than the registered classes")
        with torch.serialization.safe_globals(inert):  # type: ignore[arg-type]
            module = torch.load(file, weights_only=True, map_location="cpu")
        return _tensors(module, "")
    except (pickle.UnpicklingError, RuntimeError, AttributeError, TypeError, ValueError, EOFError) as error:
        raise AssetError(f"{file.name} is no pickled module, or damaged ({type(error).__name__})") from error


def _tensors(module: Any, prefix: str) -> dict[str, Any]:
    found = {}
    for name, value in (*module._parameters.items(), *module._buffers.items()):
        if value is not None:
            found[prefix + name] = value.detach().clone().contiguous()
    for name, child in module._modules.items():
        found |= _tensors(child, f"{prefix}{name}.")
    return found


def cifar_resnet56(staging: Path, built: Path, needs: Mapping[str, Path]) -> None:
    """ResNet-56: pickled module -> ``model.safetensors`` with the module's own state-dict keys, and ``labels.txt``."""
    from safetensors.torch import save_file

    save_file(module_tensors(staging / "resnet56.pth", RESNET_CLASSES), built / "model.safetensors")
    (built / "labels.txt").write_text("\n".join(CIFAR10_LABELS) + "\n", "utf8", newline="\n")


LITE0 = "tf_efficientnet_lite0"
LITE0_INPUT = {
    "input_size": [3, 224, 224],
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "mean": [127 / 255] * 3,
    "std": [128 / 255] * 3,
}


def efficientnet_lite0(staging: Path, built: Path, needs: Mapping[str, Path]) -> None:
    """EfficientNet-lite0: state dict of another library -> a timm folder (``config.json``, ``model.safetensors``).

    Both libraries list the tensors of this network in the same order, so they are renamed by position; shapes must
    agree.
    """
    import timm
    import torch
    from safetensors.torch import save_file
    from timm.data.imagenet_info import ImageNetInfo

    theirs = torch.load(staging / "lite0.pth", weights_only=True, map_location="cpu")
    ours = timm.create_model(LITE0, pretrained=False).state_dict()
    pairs = list(zip(ours.items(), theirs.values(), strict=True))
    if any(old.shape != new.shape for (_, old), new in pairs):
        raise AssetError(
            f"timm's {LITE0} has other tensors than the checkpoint", hint="use the timm version in use here"
        )
    save_file({name: new.contiguous() for (name, _), new in pairs}, built / "model.safetensors")
    names = distinct([text.partition(",")[0] for text in map(ImageNetInfo().index_to_description, range(1000))])
    config = {"architecture": LITE0, "num_classes": 1000, "label_names": names, "pretrained_cfg": LITE0_INPUT}
    write_json(built / "config.json", config)


def distinct(names: list[str]) -> list[str]:
    """Number the repetitions of a name (ImageNet has two cranes): ``crane``, ``crane 2``."""
    return [f"{name} {names[:i].count(name) + 1}" if name in names[:i] else name for i, name in enumerate(names)]


# --- image sets ------------------------------------------------------------------------------------------------------


def cifar10(staging: Path, built: Path, needs: Mapping[str, Path]) -> None:
    """One PNG row an image -> ``pixels.npy`` uint8 [n, 32, 32, 3] (RGB) and ``labels.json`` (one name an image)."""
    rows, numbers = _cifar_sheet(staging)
    _write_cifar(rows, numbers, built)


def cifar10_first(staging: Path, built: Path, needs: Mapping[str, Path]) -> None:
    """The first sheet of several whose labels stand in one file: as ``cifar10``, with as many labels as the sheet has rows."""
    rows, numbers = _cifar_sheet(staging)
    _write_cifar(rows, numbers[: len(rows)], built)


def _cifar_sheet(staging: Path) -> tuple[Any, list[int]]:
    import json

    import numpy as np
    from PIL import Image

    with Image.open(staging / "batch.png") as picture:
        return np.asarray(picture.convert("RGB")), json.loads((staging / "labels.json").read_bytes())


def _write_cifar(rows: Any, numbers: list[int], built: Path) -> None:
    import numpy as np

    if rows.shape != (len(numbers), 32 * 32, 3):
        raise AssetError(f"the CIFAR-10 sheet has shape {rows.shape} for {len(numbers)} labels")
    np.save(built / PIXELS, rows.reshape(-1, 32, 32, 3))
    write_json(built / LABELS, [CIFAR10_LABELS[number] for number in numbers])


def emoji(staging: Path, built: Path, needs: Mapping[str, Path]) -> None:
    """Emoji pictures named by code points, without symbols and flags, with their CLDR names; toned ones as a variant."""
    names = captions.cldr_names(needs["cldr-annotations"])
    groups = captions.emoji_groups(needs["emoji-groups"])
    pictures, seen = {}, set()
    for path in sorted((staging / "images").iterdir()):
        text = captions.characters(path.stem)
        group = captions.group_of(text, groups) if text else None
        if not text or text in seen or group is None or group in SYMBOLIC_GROUPS:
            continue
        seen.add(text)
        variant = SKIN_TONES if captions.has_skin_tone(text) else ""
        pictures[path.name] = Picture(path, names.get(text), variant)
    pack(pictures, built)


def stamps(staging: Path, built: Path, needs: Mapping[str, Path]) -> None:
    """Tux Paint stamps that have an English text, without ``symbols/``."""
    root = staging / "stamps"
    pictures = {}
    for path in sorted(root.rglob("*.png")):
        name, text = path.relative_to(root).as_posix(), path.with_suffix(".txt")
        if name.startswith("symbols/") or not text.is_file():
            continue
        caption = captions.stamp_caption(text.read_text("utf8", "replace"))
        if caption:
            pictures[name] = Picture(path, caption)
    pack(pictures, built)


def openclipart(staging: Path, built: Path, needs: Mapping[str, Path]) -> None:
    """Titled clip art without computer icons, geometric shapes and flags; pictures too large to decode are left out."""
    root = staging / "png"
    pictures = {}
    for path in sorted(root.rglob("*.png")):
        name = path.relative_to(root).as_posix()
        drawing = staging / "svg" / Path(name).with_suffix(".svg")
        if name.startswith(("computer/", "shapes/")) or "flag" in name or not drawing.is_file():
            continue
        title, keywords = captions.clipart_texts(drawing.read_text("utf8", "replace"))
        if title and not any("flag" in word.lower() for word in keywords) and 0 < png_pixels(path) <= MOST_PIXELS:
            pictures[name] = Picture(path, captions.clipart_caption(title, keywords))
    pack(pictures, built)


def png_pixels(path: Path) -> int:
    """Number of pixels that a PNG's header declares; 0 when it is not a PNG."""
    with path.open("rb") as file:
        head = file.read(24)
    if not re.match(rb"\x89PNG\r\n\x1a\n....IHDR", head, re.DOTALL) or len(head) < 24:
        return 0
    width, height = struct.unpack(">II", head[16:24])
    return int(width * height)


BUILDERS: Mapping[str, Builder] = {
    "cifar_resnet56": cifar_resnet56,
    "efficientnet_lite0": efficientnet_lite0,
    "cifar10": cifar10,
    "cifar10_first": cifar10_first,
    "emoji": emoji,
    "stamps": stamps,
    "openclipart": openclipart,
    "bisenet": face_builders.bisenet,
    "dinov2_focus": backbone_builders.dinov2_focus,
    "openmoji": drawing_builders.openmoji,
    "outline_icons": drawing_builders.outline_icons,
}
