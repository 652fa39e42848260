"""Vision transformers of transformers: DINOv2, DINOv3, CLIP, SigLIP, MAE, ViT and DeiT."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from runner.errors import ModelRefused
from runner.models.backbones.transformer import About, TokenBackbone


@dataclass(frozen=True)
class Layout:
    """Where a model of transformers keeps its parts: dotted names below the model, and tokens before the patches."""

    layers: str
    norm: str
    prefix: int = 1
    norm_before: str | None = None
    resizes: bool = True


LAYOUTS = {
    "dinov2": Layout("encoder.layer", "layernorm"),
    "dinov2_with_registers": Layout("encoder.layer", "layernorm"),
    "dinov3_vit": Layout("model.layer", "norm", resizes=False),
    "clip_vision_model": Layout("encoder.layers", "post_layernorm", norm_before="pre_layrnorm"),
    "siglip_vision_model": Layout("encoder.layers", "post_layernorm", prefix=0),
    "vit_mae": Layout("layers", "layernorm"),
    "vit": Layout("layers", "layernorm"),
    "deit": Layout("layers", "layernorm", prefix=2),
}


class HuggingFaceVit(TokenBackbone):
    """A vision transformer of transformers, read layer by layer without its own ``forward``.

    Catches by family. Position embeddings are interpolated once to the grid of ``image_size``, here, by the model's own
    rule. SigLIP has no CLS token. A CLIP norms tokens before block 1; its patch tokens get no training signal from the last
    block, so the layer before it is the better one to read, and ``project`` leads normed vectors to the joint space where the
    checkpoint brings the projection. DeiT has a distillation token after CLS. DINOv3 has its own class below.
    """

    def __init__(self, network: Any, about: About, projection: nn.Module | None = None) -> None:
        config, layout = network.config, LAYOUTS[network.config.model_type]
        self._net, self._layout = network, layout
        self._layers: Any = network.get_submodule(layout.layers)
        self._final = network.get_submodule(layout.norm)
        self._projection = projection
        config._attn_implementation = "sdpa"
        patch = config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0]
        if layout.resizes and about.geometry.size % patch == 0:
            _set_positions(network.embeddings, about.geometry.size, patch, layout.prefix, config.hidden_size)
        super().__init__(
            network,
            about,
            depth=len(self._layers),
            width=config.hidden_size,
            patch_size=patch,
            prefix_tokens=layout.prefix + int(getattr(config, "num_register_tokens", 0) or 0),
        )
        if projection is not None:
            projection.to(self.device, self.dtype).eval().requires_grad_(False)

    def embed(self, normalised: Tensor) -> Tensor:
        """As ``VisionBackbone.embed``."""
        tokens: Tensor = self._embedded(self._checked(normalised))
        if self._layout.norm_before is not None:
            tokens = self._net.get_submodule(self._layout.norm_before)(tokens)
        return tokens

    def _embedded(self, pixels: Tensor) -> Tensor:
        how = {"interpolate_pos_encoding": True} if _takes_flag(self._net.config.model_type) else {}
        tokens: Tensor = self._net.embeddings(pixels, **how)
        return tokens

    def norm(self, tokens: Tensor) -> Tensor:
        """The final norm; float32."""
        normed: Tensor = self._final(tokens).float()
        return normed

    def project(self, vectors: Tensor) -> Tensor | None:
        """CLIP: the visual projection, where the checkpoint has it; float32."""
        return None if self._projection is None else self._projection(vectors.to(self.dtype)).float()

    def _layer(self, number: int, tokens: Tensor, positions: Tensor | None) -> Tensor:
        made: Tensor = self._layers[number - 1](tokens, attention_mask=None)
        return made


class Dinov3(HuggingFaceVit):
    """DINOv3: rotary positions on patch tokens; CLS and registers stand still.

    The catch: the rotation goes by place in the sequence, so its rows are picked by ``positions`` where tokens were dropped or
    parts are packed.
    """

    def __init__(self, network: Any, about: About) -> None:
        network.eval()  # in training mode the rotation is jittered at random
        with torch.no_grad():
            side = about.geometry.size
            tables = network.rope_embeddings(torch.zeros(1, 3, side, side))
        self._cosines, self._sines = (table.float().to(about.device) for table in tables)
        super().__init__(network, about)

    def _layer(self, number: int, tokens: Tensor, positions: Tensor | None) -> Tensor:
        cosines, sines = self._cosines, self._sines
        if positions is not None:  # the last row, at -1, turns nothing: the prefix
            cosines = torch.cat([cosines, torch.ones_like(cosines[:1])])[positions].unsqueeze(1)
            sines = torch.cat([sines, torch.zeros_like(sines[:1])])[positions].unsqueeze(1)
        tables = (cosines.to(tokens.dtype), sines.to(tokens.dtype))
        made: Tensor = self._layers[number - 1](tokens, attention_mask=None, position_embeddings=tables)
        return made


class Mae(HuggingFaceVit):
    """A masked autoencoder's encoder.

    The catch: the library's own forward shuffles the tokens even when it masks none. Here they are embedded without that
    step, so patches stand in the order of the picture by construction.
    """

    def _embedded(self, pixels: Tensor) -> Tensor:
        own = self._net.embeddings
        patches = own.patch_embeddings.projection(pixels).flatten(2).transpose(1, 2)
        first = own.cls_token + own.position_embeddings[:, :1]
        return torch.cat([first.expand(len(pixels), -1, -1), patches + own.position_embeddings[:, 1:]], 1)


def huggingface_backbone(network: Any, about: About, projection: nn.Module | None = None) -> HuggingFaceVit:
    """The backbone around a model of transformers, by its kind. Raises ``ModelRefused`` for kinds that are not read."""
    kind = network.config.model_type
    if kind not in LAYOUTS:
        raise ModelRefused(
            f"{about.name}: transformers' {kind!r} is no backbone that can be read layer by layer",
            hint=f"Kinds that can: {', '.join(sorted(LAYOUTS))}.",
        )
    if kind == "dinov3_vit":
        return Dinov3(network, about)
    return (Mae if kind == "vit_mae" else HuggingFaceVit)(network, about, projection)


def _takes_flag(kind: str) -> bool:
    """Whether the embedding checks the size unless it is told to interpolate positions."""
    return kind in ("clip_vision_model", "siglip_vision_model", "vit", "deit")


def _set_positions(embeddings: Any, side: int, patch: int, prefix: int, width: int) -> None:
    """Interpolate the position embeddings to a picture of ``side`` once and keep them (in place)."""
    count = (side // patch) ** 2 + prefix
    with torch.no_grad():
        rows = embeddings.interpolate_pos_encoding(torch.zeros(1, count, width), side, side).detach().clone()
    table = getattr(embeddings, "position_embedding", None)
    if table is None:
        embeddings.position_embeddings = nn.Parameter(rows, requires_grad=False)
        return
    table.weight = nn.Parameter(rows[0], requires_grad=False)
    table.num_embeddings = count
    embeddings.position_ids = torch.arange(count, device=rows.device).expand(1, -1)
