"""What all transformer backbones share: blocks with masked, gated or shown attention, whatever library they come from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from runner.context import item_key
from runner.data.geometry import Geometry
from runner.errors import ModelRefused
from runner.models.backbones.attention import (
    attention_weights,
    masked_attention,
    multiplicative_mask_attention,
    with_attention,
)
from runner.models.backbones.weights import weights_digest
from runner.models.base import VisionBackbone

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Rotation = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class About:
    """What is said of a backbone beside its network; see ``VisionBackbone``."""

    name: str
    family: str
    geometry: Geometry
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    device: str = "cpu"
    precision: Precision = "fp32"
    random_init: bool = False
    small: bool = False
    notes: tuple[str, ...] = ()


class OpenBackbone(VisionBackbone):
    """A backbone around one torch module: evaluation mode, no gradient in the weights, moved and cast as ``About`` says."""

    def __init__(self, network: nn.Module, about: About) -> None:
        self.network = network.to(about.device, DTYPES[about.precision]).eval().requires_grad_(False)
        self.name, self.family, self.geometry = about.name, about.family, about.geometry
        self.mean, self.std, self.device = about.mean, about.std, about.device
        self.random_init, self.small, self.notes = about.random_init, about.small, about.notes
        self.image_size = about.geometry.size
        self.dtype = DTYPES[about.precision]
        self.identity = item_key(
            "vision_backbone",
            type(self).__name__,
            about.name,
            weights_digest(network),
            str(about.geometry),
            about.mean,
            about.std,
            about.precision,
        )

    def _checked(self, normalised: Tensor) -> Tensor:
        side = self.image_size
        if normalised.ndim != 4 or normalised.shape[1:] != (3, side, side):
            raise ValueError(f"{self.name} takes pixels [B, 3, {side}, {side}], not {list(normalised.shape)}")
        return normalised.to(self.device, self.dtype)


class TokenBackbone(OpenBackbone):
    """A transformer whose blocks call the fused attention of torch once each.

    A family gives ``embed``, ``norm`` and ``_layer``. Masks and gates are not handed to the library's blocks, whose
    conventions differ: the one call of the fused attention is intercepted instead. In half precision every attention
    is computed in float32 (the softmax above all). Constructing checks that every block can be intercepted, and that
    the embedding of a patch reads that patch alone: where it does not (convolutional stems), no vector is a part's own.
    """

    kind_of_layers = "tokens"

    def __init__(
        self, network: nn.Module, about: About, *, depth: int, width: int, patch_size: int, prefix_tokens: int
    ) -> None:
        super().__init__(network, about)
        if self.image_size % patch_size:
            below = self.image_size // patch_size * patch_size
            raise ModelRefused(
                f"{about.name}: image_size {self.image_size} is no multiple of the patch size {patch_size}",
                hint=f"Take {below or patch_size} or {below + patch_size}.",
            )
        self.depth, self.prefix_tokens = depth, prefix_tokens
        self.patch_sizes, self.widths = (patch_size,) * (depth + 1), (width,) * (depth + 1)
        self._check_blocks()
        self._check_embedding()

    @property
    def patches(self) -> int:
        """Number of patches of a picture."""
        return (self.image_size // self.patch_sizes[0]) ** 2

    @abstractmethod
    def _layer(self, number: int, tokens: Tensor, positions: Tensor | None) -> Tensor:
        """The library's block ``number`` (1 .. depth) on tokens [B, T, D], without a mask."""

    def _rotation(self, number: int, positions: Tensor) -> Rotation | None:
        """What rotates queries and keys of a sequence whose positions are given, where ``_layer`` left that out."""
        return None

    def block(
        self,
        number: int,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        allowed: Tensor | None = None,
        gate: Tensor | None = None,
    ) -> Tensor:
        """As ``VisionBackbone.block``."""
        if not 1 <= number <= self.depth:
            raise ValueError(f"{self.name} has blocks 1 .. {self.depth}, not {number}")
        if allowed is not None and gate is not None:
            raise ValueError("a block takes allowed or gate, not both")
        rotation = None if positions is None else self._rotation(number, positions)
        if rotation is None and allowed is None and gate is None and self.dtype == torch.float32:
            return self._layer(number, tokens, positions)

        def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any, scale: float | None = None, **__: Any) -> Tensor:
            query, key = rotation(query, key) if rotation else (query, key)
            if gate is not None:
                return multiplicative_mask_attention(query, key, value, gate, scale)
            return masked_attention(query, key, value, allowed, scale)

        return with_attention(attend, lambda: self._layer(number, tokens, positions), self.name)

    def attention(self, number: int, tokens: Tensor) -> Tensor:
        """As ``VisionBackbone.attention``: float32."""
        shown: list[Tensor] = []

        def attend(query: Tensor, key: Tensor, value: Tensor, *_: Any, scale: float | None = None, **__: Any) -> Tensor:
            shown.append(attention_weights(query, key, scale))
            return value

        with_attention(attend, lambda: self._layer(number, tokens, None), self.name)
        return shown[0]

    def _check_blocks(self) -> None:
        """Raise ``ModelRefused`` unless the attention of every block can be intercepted."""
        length = self.prefix_tokens + 1
        with torch.no_grad():
            tokens = torch.zeros(1, length, self.widths[0], device=self.device, dtype=self.dtype)
            positions = torch.tensor([[-1] * self.prefix_tokens + [0]], device=self.device)
            allowed = torch.ones(1, length, length, dtype=torch.bool, device=self.device)
            for number in range(1, self.depth + 1):
                self.block(number, tokens, positions=positions, allowed=allowed)

    def _check_embedding(self) -> None:
        """Raise ``ModelRefused`` unless the embedding is one projection of patches that do not overlap.

        Two pictures that share nothing but a patch in the middle: its token and the prefix must be equal, bit for bit.
        """
        side, size = self.image_size, self.patch_sizes[0]
        across = side // size
        middle = across // 2 * (across + 1)
        first, other = torch.rand(2, 1, 3, side, side, generator=torch.Generator().manual_seed(0))
        own = slice(across // 2 * size, across // 2 * size + size)
        other[..., own, own] = first[..., own, own]
        with torch.no_grad():  # one by one, so that both are computed alike
            before, after = (self.embed(each)[0] for each in (first, other))
        kept = [*range(self.prefix_tokens), self.prefix_tokens + middle]
        if len(before) != self.prefix_tokens + self.patches or not torch.equal(before[kept], after[kept]):
            raise ModelRefused(
                f"{self.name}: it has no token that reads the pixels of one patch alone before block 1, so none is of a part alone",
                hint="Take a backbone that embeds patches by one projection without overlap (no hybrid, no convolutional stem).",
            )
