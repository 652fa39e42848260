"""Two-stage vectors of 11 parts in one packed pass, against one plain pass and against one masked pass a part.

    OMP_NUM_THREADS=1 python benchmarks/packed_parts.py [rounds]

A ViT-S (12 blocks, width 384, 6 heads, patch 16, 224 pixels: 196 patches and a CLS) with random weights on one thread, one
picture, 11 parts of 17 or 18 whole patches that cover it. Times are medians of interleaved rounds; the first round warms up. Also
printed: the same for a batch of 8 pictures with parts of uneven sizes, where the plain pass takes the batch too.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from runner.data.geometry import Geometry
from runner.models.backbones.timm_vit import timm_backbone
from runner.models.backbones.transformer import About
from runner.models.backbones.weights import draw_by_fan_in
from runner.models.base import VisionBackbone
from runner.nodes.leakage.features import single_stage, two_stage
from runner.nodes.leakage.masks import in_pixels

SIDE, PATCH, PARTS = 224, 16, 11
MODES = ("packed", "token_drop", "attn_mask")


def vit_s() -> VisionBackbone:
    import timm

    network = timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=0)
    half = (0.5, 0.5, 0.5)
    return timm_backbone(draw_by_fan_in(network, 0), About("vit_s", "random", Geometry(SIDE, SIDE), half, half))


def equal_parts() -> Tensor:
    """Bool [1, 11, H, W]: the patches dealt in rows of 17 or 18."""
    owner = torch.arange(196) * PARTS // 196
    return in_pixels(owner == torch.arange(PARTS)[:, None], PATCH, SIDE)[None]


def uneven_parts(count: int) -> Tensor:
    """Bool [count, 11, H, W]: each patch goes to a part drawn with odds 1 : 2 : ... : 11; a fifth of the parts is absent."""
    generator = torch.Generator().manual_seed(1)
    odds = torch.arange(1, PARTS + 1).float()
    owner = torch.multinomial(odds.expand(count * 196, -1), 1, generator=generator).view(count, 1, 196)
    there = torch.rand(count, PARTS, 1, generator=generator) < 0.8
    return in_pixels((owner == torch.arange(PARTS)[:, None]) & there, PATCH, SIDE)


def medians(work: dict[str, Callable[[], Tensor]], rounds: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    seconds: dict[str, list[float]] = {name: [] for name in work}
    made: dict[str, Tensor] = {}
    for number in range(rounds + 1):
        for name, run in work.items():
            start = time.perf_counter()
            made[name] = run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in seconds.items()}, made


def compare(title: str, backbone: VisionBackbone, images: Tensor, masks: Tensor, rounds: int) -> None:
    def with_mode(mode: str) -> Callable[[], Tensor]:
        return lambda: two_stage(backbone, images, masks, mode)  # type: ignore[arg-type]

    work = {"plain": lambda: single_stage(backbone, images, masks)} | {mode: with_mode(mode) for mode in MODES}
    seconds, made = medians(work, rounds)
    print(f"{title}: plain pass {seconds['plain'] * 1000:.0f} ms")
    for mode in MODES:
        far = (made[mode] - made["attn_mask"]).abs().nan_to_num(0).max().item()
        print(f"  {mode:10} {seconds[mode] / seconds['plain']:5.2f} x the plain pass, largest difference {far:.1e}")
        if far > 1e-5:
            sys.exit(f"{mode} gives other vectors")


@torch.inference_mode()
def main() -> None:
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    backbone = vit_s()
    generator = torch.Generator().manual_seed(0)
    compare(
        "1 picture, 11 equal parts", backbone, torch.rand(1, 3, SIDE, SIDE, generator=generator), equal_parts(), rounds
    )
    images = torch.rand(8, 3, SIDE, SIDE, generator=generator)
    compare("8 pictures, uneven parts", backbone, images, uneven_parts(8), max(1, rounds // 3))


if __name__ == "__main__":
    main()
