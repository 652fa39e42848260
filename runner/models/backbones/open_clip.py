"""The vision tower of a CLIP model of open_clip, edited or not."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from runner.data.geometry import Geometry
from runner.errors import ModelRefused
from runner.imports import importing
from runner.models.backbones.timm_vit import timm_backbone
from runner.models.backbones.transformer import DTYPES, About, Precision, TokenBackbone
from runner.models.base import ClipModel, VisionBackbone

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
_PRECISIONS: dict[Any, Precision] = {dtype: name for name, dtype in DTYPES.items()}


class OpenClipTower(TokenBackbone):
    """open_clip's ``VisionTransformer``; it shares its weights with the CLIP it was taken from.

    The catch: the attention of its blocks is torch's ``MultiheadAttention``, which cannot be looked into while it runs; the
    same projections are applied here around the fused attention. Patch tokens get no training signal from the last block;
    ``project`` is the projection that follows the final norm (``ln_post``).
    """

    def __init__(self, network: Any, about: About) -> None:
        self._net = network
        super().__init__(
            network,
            about,
            depth=len(network.transformer.resblocks),
            width=network.conv1.out_channels,
            patch_size=network.patch_size[0],
            prefix_tokens=1,
        )

    def embed(self, normalised: Tensor) -> Tensor:
        """As ``VisionBackbone.embed``."""
        tokens: Tensor = self._net._embeds(self._checked(normalised))
        return tokens

    def norm(self, tokens: Tensor) -> Tensor:
        """``ln_post``; float32."""
        normed: Tensor = self._net.ln_post(tokens).float()
        return normed

    def project(self, vectors: Tensor) -> Tensor | None:
        """Normed vectors times the vision projection; float32."""
        proj: Tensor | None = self._net.proj
        return None if proj is None else (vectors.to(self.dtype) @ proj).float()

    def _layer(self, number: int, tokens: Tensor, positions: Tensor | None) -> Tensor:
        block = self._net.transformer.resblocks[number - 1]
        if not isinstance(block.attn, nn.MultiheadAttention):
            made: Tensor = block(tokens)
            return made
        tokens = tokens + block.ls_1(_self_attention(block.attn, block.ln_1(tokens)))
        out: Tensor = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
        return out


def _self_attention(module: nn.MultiheadAttention, tokens: Tensor) -> Tensor:
    """What ``module(tokens, tokens, tokens)`` gives in evaluation mode: [B, T, D] -> [B, T, D]."""
    count, length, width = tokens.shape
    joined = linear(tokens, module.in_proj_weight, module.in_proj_bias)
    query, key, value = joined.view(count, length, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    read = scaled_dot_product_attention(query, key, value)
    made: Tensor = module.out_proj(read.transpose(1, 2).reshape(count, length, width))
    return made


def clip_tower(clip: ClipModel) -> VisionBackbone:
    """The vision tower of a CLIP model as a backbone. Raises ``ModelRefused`` where it is no transformer that can be read."""
    with importing:
        from open_clip.transformer import VisionTransformer
        from timm.models.eva import Eva
        from timm.models.vision_transformer import VisionTransformer as TimmTransformer
    visual = clip.network.visual
    trunk = getattr(visual, "trunk", None)
    if isinstance(trunk, TimmTransformer | Eva):
        return timm_backbone(trunk, _about(clip, visual))
    if not isinstance(visual, VisionTransformer):
        raise ModelRefused(
            f"{clip.name}: its vision tower ({type(trunk or visual).__name__}) is no vision transformer",
            hint="Take a CLIP whose vision tower is a ViT, such as ViT-B-32.",
        )
    if visual.attn_pool is not None:
        raise ModelRefused(
            f"{clip.name}: its vision tower pools with attention before the final norm (CoCa), so tokens have no final norm",
            hint="Take a CLIP with the plain ViT tower.",
        )
    return OpenClipTower(visual, _about(clip, visual))


def _about(clip: ClipModel, visual: Any) -> About:
    settings = dict(getattr(visual, "preprocess_cfg", None) or {})
    side = visual.image_size if isinstance(visual.image_size, int) else visual.image_size[0]
    interpolation = settings.get("interpolation", "bicubic")
    return About(
        name=f"{clip.name} (vision tower)",
        family=clip.family,
        geometry=Geometry(side, side, interpolation if interpolation in ("bilinear", "bicubic") else "bicubic"),
        mean=tuple(settings.get("mean", OPENAI_MEAN)),
        std=tuple(settings.get("std", OPENAI_STD)),
        device=clip.device,
        precision=_PRECISIONS[next(visual.parameters()).dtype],
        small=clip.small,
        notes=("a small CLIP trained by this project, far below a published one",) if clip.small else (),
    )
