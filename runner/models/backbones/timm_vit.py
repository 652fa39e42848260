"""Vision transformers of timm: ``VisionTransformer`` with absolute positions, ``Eva`` with rotary ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from runner.data.geometry import Geometry
from runner.imports import importing
from runner.models.backbones.transformer import About, Precision, Rotation, TokenBackbone
from runner.models.backbones.weights import draw_by_fan_in

HALF = (0.5, 0.5, 0.5)
PLANTED = "tiny_planted"
"""Name of the untrained vision transformer on which the checks of leakage are made."""


def is_rotary(network: nn.Module) -> bool:
    """Whether this is one of timm's ``Eva`` (EVA-02, DINOv3), whose positions are rotary."""
    with importing:
        from timm.models.eva import Eva
    return isinstance(network, Eva)


def _fused(network: nn.Module) -> nn.Module:
    """Make every attention the fused one, whatever timm's own switch says: it is what can be intercepted."""
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = True  # type: ignore[assignment]
    return network


class TimmVit(TokenBackbone):
    """timm's ``VisionTransformer`` (DINOv2 with and without registers, CLIP, SigLIP, MAE, AugReg, DeiT also distilled).

    The catch of this family: what stands before the patches differs by model. Registers follow the CLS token; with
    ``no_embed_class`` the prefix has no row of position embeddings, and a CLIP norms tokens before block 1. All of that is
    left to timm's own embedding; positions are interpolated once, on the full grid, when the input size is set. Models that
    pool before their last norm keep it as ``fc_norm``; it is the final norm here.
    """

    def __init__(self, network: Any, about: About) -> None:
        self._net: Any = network
        super().__init__(
            _fused(network),
            about,
            depth=len(network.blocks),
            width=network.embed_dim,
            patch_size=network.patch_embed.patch_size[0],
            prefix_tokens=network.num_prefix_tokens,
        )
        plain = not isinstance(network.norm, nn.Identity)
        self._final = network.norm if plain else network.fc_norm

    def embed(self, normalised: Tensor) -> Tensor:
        """As ``VisionBackbone.embed``."""
        net = self._net
        tokens: Tensor = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(self._checked(normalised)))))
        return tokens

    def norm(self, tokens: Tensor) -> Tensor:
        """The final norm; float32."""
        normed: Tensor = self._final(tokens).float()
        return normed

    def _layer(self, number: int, tokens: Tensor, positions: Tensor | None) -> Tensor:
        made: Tensor = self._net.blocks[number - 1](tokens)
        return made


class TimmEva(TimmVit):
    """timm's ``Eva`` (EVA-02, DINOv3): two-dimensional rotary positions on patch tokens, CLS and registers unrotated.

    The catch of this family: positions are not in the tokens but turn queries and keys inside every block. Where tokens are
    dropped or several parts are packed, rows of the rotation must be picked by ``positions``; timm's blocks rotate by place in
    the sequence, so they are run without rotation then, and queries and keys are rotated where the attention is intercepted.
    """

    def __init__(self, network: Any, about: About) -> None:
        grid = network.patch_embed.grid_size
        network.eval()  # in training mode the rotation is jittered at random
        with torch.no_grad():
            rows = None if network.rope is None else network.rope.get_embed(shape=grid)
        self._rows: Tensor | None = None if rows is None else rows.to(about.device)
        self._by_depth = bool(getattr(network, "rope_mixed", False))
        super().__init__(network, about)

    def embed(self, normalised: Tensor) -> Tensor:
        """As ``VisionBackbone.embed``; the rotary positions come in the blocks."""
        net = self._net
        tokens: Tensor = net.norm_pre(net._pos_embed(net.patch_embed(self._checked(normalised)))[0])
        return tokens

    def _rows_of(self, number: int) -> Tensor | None:
        """Sines and cosines [N, 2 d] or [heads, N, 2 d] of a block."""
        return self._rows[number - 1] if self._rows is not None and self._by_depth else self._rows

    def _layer(self, number: int, tokens: Tensor, positions: Tensor | None) -> Tensor:
        rows = self._rows_of(number) if positions is None else None
        made: Tensor = self._net.blocks[number - 1](tokens, rope=rows)
        return made

    def _rotation(self, number: int, positions: Tensor) -> Rotation | None:
        with importing:
            from timm.layers.pos_embed_sincos import apply_rot_embed_cat
        rows = self._rows_of(number)
        if rows is None:
            return None
        half = bool(self._net.blocks[number - 1].attn.rotate_half)
        sines, cosines = rows.chunk(2, -1)
        still = (torch.zeros_like(sines[..., :1, :]), torch.ones_like(cosines[..., :1, :]))
        table = torch.cat([rows, torch.cat(still, -1)], -2)  # the last row, at -1, turns nothing: the prefix
        picked = table[..., positions, :]
        picked = picked.movedim(-4, 1) if picked.ndim == 4 else picked.unsqueeze(1)

        def rotate(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
            turned = [apply_rot_embed_cat(each, picked, half=half).to(each.dtype) for each in (query, key)]
            return turned[0], turned[1]

        return rotate


def timm_backbone(network: Any, about: About) -> TimmVit:
    """The backbone around one of timm's transformers, by its kind."""
    return (TimmEva if is_rotary(network) else TimmVit)(network, about)


def planted_vit(seed: int = 0, *, device: str = "cpu", precision: Precision = "fp32") -> TimmVit:
    """The untrained transformer of the leakage checks: 64 x 64 pixels, patches of 8, width 64, 4 blocks of 4 heads.

    Its weights have a standard deviation of fan_in ** -0.5, so that its attention mixes tokens (``draw_by_fan_in``).
    """
    with importing:
        from timm.models.vision_transformer import VisionTransformer
    network = VisionTransformer(img_size=64, patch_size=8, embed_dim=64, depth=4, num_heads=4, num_classes=0)
    about = About(
        name=f"{PLANTED}/{seed}",
        family="random",
        geometry=Geometry(64, 64),
        mean=HALF,
        std=HALF,
        device=device,
        precision=precision,
        random_init=True,
    )
    return TimmVit(draw_by_fan_in(network, seed), about)
