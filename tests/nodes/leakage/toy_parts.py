"""A small dataset with parts, and what the child process of the kill test does. A test puts this folder on ``sys.path``."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from runner.artifacts import PartFeatures, PartImages
from runner.context import StepContext, local_context
from runner.data.parts.building import MaskRow, part_images
from runner.models.base import VisionBackbone

WIDTH, HEIGHT, COUNT = 48, 36, 9
PARTS = ("head", "tail", "leg", "horn")


def masks_of(number: int) -> dict[str, np.ndarray]:
    """Masks of one picture: ``leg`` is hidden in every third, ``horn`` in all; ``head`` and ``tail`` overlap."""
    shift = number % 3
    found = {name: np.zeros((HEIGHT, WIDTH), bool) for name in PARTS[:3]}
    found["head"][: 22 + shift, 4:28] = True
    found["tail"][12:, 20 : 44 - shift] = True
    if shift:
        found["leg"][24:, 8:19] = True
    return {name: mask for name, mask in found.items() if mask.any()}


def toy(folder: Path, *, broken: int | None = None, odd: int | None = None, **change: Any) -> PartImages:
    """Nine pictures of noise (six to train on). ``broken``: number of a picture that cannot be read; ``odd``: of one whose masks
    have another size."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    rows: list[MaskRow] = []
    for number in range(COUNT):
        pixels = generator.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        for name, mask in masks_of(number).items():
            tall = np.repeat(np.repeat(mask, 2, 0), 2, 1) if number == odd else mask
            inside = np.argwhere(mask).mean(0)
            rows.append(MaskRow(number, name, tall, keypoint=(float(inside[1]), float(inside[0]))))
    if broken is not None:
        (folder / f"{broken}.png").write_bytes(b"no picture")
    rest: dict[str, Any] = {
        "pictures": [
            {"sample_id": f"n{i}", "split": "train" if i < 6 else "test", "source_id": "toy", "uri": f"{i}.png"}
            for i in range(COUNT)
        ],
        "value": np.arange(COUNT * 2).reshape(COUNT, 2) % 2,
        "valid": np.ones((COUNT, 2), int),
    }
    return part_images(
        name="toy", object="animal", parts=PARTS, attributes=("red", "long"), owners={"red": "head", "long": "tail"},
        corpus=[{"folder": str(folder), "name": "toy"}], masks=rows, **(rest | change),
    )  # fmt: skip


def backbone() -> VisionBackbone:
    """A tiny transformer with registers, 32 pixels, patches of 8, random weights. Few imports, since a child process pays them."""
    from timm.models.vision_transformer import VisionTransformer

    from runner.data.geometry import Geometry
    from runner.models.backbones.timm_vit import timm_backbone
    from runner.models.backbones.transformer import About
    from runner.models.backbones.weights import draw_by_fan_in

    network = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=0, reg_tokens=2, no_embed_class=True
    )
    about = About("tiny", "random", Geometry(32, 32), (0.5,) * 3, (0.5,) * 3, random_init=True)
    return timm_backbone(draw_by_fan_in(network, 1, token_std=0.5), about)


SETTINGS: dict[str, Any] = {
    "controls": ["whole", "background", "random_region", "mask_only", "swap", "no_artefacts"],
    "batch": 2, "pictures": 2, "seed": 5, "layers": [0, -1],
}  # fmt: skip


def extracted(ctx: StepContext, images: PartImages, **change: Any) -> PartFeatures:
    from runner.nodes.leakage.feature_steps import features

    return features(ctx, backbone=change.pop("backbone", None) or backbone(), images=images, **(SETTINGS | change))


def child(folder: str, survive: int) -> None:
    """Run the step in ``folder`` and die by SIGKILL while batch ``survive`` is being written."""
    from runner.nodes.leakage import extraction

    save = extraction.save_piece

    def deadly(path: Path, arrays: Any) -> None:
        if path.stem == f"batch-{survive:06d}":
            path.with_name(f".{path.name}.{os.getpid()}").write_bytes(b"half of a f")
            os.kill(os.getpid(), signal.SIGKILL)
        save(path, arrays)

    extraction.save_piece = deadly
    extracted(local_context(Path(folder) / "work"), toy(Path(folder) / "pictures", broken=1))
