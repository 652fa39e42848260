"""The network of part discovery: prototypes, modulation, routing, heads, and stage 2 through a vision backbone. Pure torch."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from runner.errors import ModelRefused
from runner.models.base import VisionBackbone
from runner.nodes.leakage.discovery import foreground_gate, part_vectors, routed, slot_gates
from runner.nodes.leakage.discovery_specs import HeadPlan, Modulation

PAIRS_AT_ONCE = 64
"""Pairs of picture and slot that go through stage 2 together."""
LONG_SEQUENCE = 300
"""Tokens from which blocks are computed again in the backward pass instead of keeping their attention."""
_TOKENS = re.compile(r"(cls|class|reg|register|dist|pos|position)\w*_?(token|embed|embedding)", re.IGNORECASE)


class Routes(NamedTuple):
    """Which slots an attribute reads. ``shares`` [A, K], rows summing to 1 (fixed), or None (learned); ``groups`` int64 [A]: the
    attribute's group, whose slots are learned together."""

    shares: Tensor | None
    groups: Tensor


class PerPart(nn.Module):
    """An MLP of its own for every part vector: [B, K + 1, D] -> the same, one hidden layer of D with GELU, added to its input."""

    def __init__(self, parts: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Parameter(torch.randn(parts, width, width) * width**-0.5)
        self.outer = nn.Parameter(torch.zeros(parts, width, width))

    def forward(self, vectors: Tensor) -> Tensor:
        """As the class says."""
        hidden = nn.functional.gelu(torch.einsum("bkd,kde->bke", vectors, self.inner))
        return vectors + torch.einsum("bke,ked->bkd", hidden, self.outer)


class Elementwise(nn.Module):
    """A weight for every part and dimension, 1 at first (PDiscoFormer's ``original``)."""

    def __init__(self, parts: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(parts, width))

    def forward(self, vectors: Tensor) -> Tensor:
        """[B, K + 1, D] times the weights."""
        return vectors * self.weight


def modulation(kind: Modulation, parts: int, width: int) -> nn.Module:
    """What tells the part vectors apart before the shared head. ``layer_norm``: over the whole [K + 1, D] matrix (iFAM)."""
    if kind == "layer_norm":
        return nn.LayerNorm([parts, width])
    if kind == "original":
        return Elementwise(parts, width)
    return PerPart(parts, width) if kind == "mlp" else nn.Identity()


class DiscoveryHead(nn.Module):
    """Everything that is trained beside a backbone.

    ``prototypes`` [K + 1, D]; ``modulation`` (single stage) or ``norm`` (stage 2); ``attributes`` weights [A, D] with ``bias`` [A]: attribute
    a is told from the vectors of its slots only; ``classes``: a bias-free head, or None; ``route`` [G, K] logits (learned).
    """

    def __init__(self, plan: HeadPlan, routes: Routes, *, two_stage: bool) -> None:
        super().__init__()
        parts, width, attributes = plan.slots + 1, plan.width, len(routes.groups)
        self.plan, self.two_stage = plan, two_stage
        # As a 1 x 1 convolution starts: maps are soft at first.
        self.prototypes = nn.Parameter((2 * torch.rand(parts, width) - 1) * width**-0.5)
        self.modulation: nn.Module = nn.LayerNorm(width) if two_stage else modulation(plan.modulation, parts, width)
        self.attributes = nn.Parameter(torch.randn(attributes, width) * 0.02)
        self.bias = nn.Parameter(torch.zeros(attributes))
        self.classes = nn.Linear(width, plan.classes, bias=False) if plan.classes else None
        self.register_buffer("groups", routes.groups)
        self.register_buffer("fixed", routes.shares)
        self.route: nn.Parameter | None = None
        if routes.shares is None:
            self.route = nn.Parameter(0.01 * torch.randn(int(routes.groups.max()) + 1, plan.slots))

    def shares(self, temperature: float) -> Tensor:
        """Shares of the slots that each attribute reads [A, K]; ``temperature`` as in ``discovery.routed``."""
        if self.route is None:
            return torch.as_tensor(self.fixed)
        return routed(self.route, temperature)[torch.as_tensor(self.groups)]

    def single_vectors(self, tokens: Tensor, maps: Tensor) -> Tensor:
        """Modulated single-stage vectors of the slots [B, K, D]."""
        vectors = part_vectors(tokens, maps, by_area=self.plan.pooling == "mean")
        modulated: Tensor = self.modulation(vectors)
        return modulated[:, :-1]

    def attribute_logits(self, vectors: Tensor, shares: Tensor) -> Tensor:
        """[B, A] of slot vectors [B, K, D]; ``shares`` [A, K] or [B, A, K]."""
        each = torch.einsum("bkd,ad->bak", vectors, self.attributes)
        return (each * shares).sum(2) + self.bias

    def class_logits(self, vectors: Tensor, kept: Tensor) -> Tensor:
        """[B, C]: mean over the kept vectors; ``vectors`` [B, S, D], ``kept`` [B, S]."""
        if self.classes is None:
            raise ValueError("this head was made without classes")
        each: Tensor = self.classes(vectors)
        weight = kept.to(each.dtype)[..., None]
        return (each * weight).sum(1) / weight.sum(1).clamp_min(1)


def kept_shares(shares: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Shares [B, A, K] over the slots that part dropout left, and whether an attribute can still be told, bool [B, A].

    ``shares`` [A, K], ``kept`` bool [B, K]. Attributes that lose half of their shares or more are not trained on that picture.
    """
    left = shares[None] * kept[:, None].to(shares.dtype)
    total = left.sum(2)
    return left / total.clamp_min(1e-6)[..., None], total.detach() > 0.5


# --- backbones -------------------------------------------------------------------------------------------------------


def own_copy(backbone: VisionBackbone, *, train: bool) -> VisionBackbone:
    """A copy of the backbone with weights of its own, in evaluation mode; ``train``: they take gradients."""
    copied = copy.deepcopy(backbone)
    network_of(copied).requires_grad_(train)
    return copied


def network_of(backbone: VisionBackbone) -> nn.Module:
    """The torch module behind a backbone. Raises ``ModelRefused`` where there is none or where it has no tokens."""
    if backbone.kind_of_layers != "tokens":
        raise ModelRefused(
            f"{backbone.name} is a convolutional network: parts are discovered among the tokens of a transformer",
            hint="Take a vision transformer.",
        )
    network = getattr(backbone, "network", None)
    if not isinstance(network, nn.Module):
        raise ModelRefused(f"{backbone.name} shows no weights that could be copied")
    return network


def token_parameters(backbone: VisionBackbone) -> dict[str, nn.Parameter]:
    """CLS, register and position embeddings by name. Raises ``ModelRefused`` where none is found."""
    found = {n: p for n, p in network_of(backbone).named_parameters() if _TOKENS.search(n) and "patch" not in n}
    if not found:
        raise ModelRefused(
            f"{backbone.name} has no CLS, register or position embedding to train", hint="Set train_tokens to false."
        )
    return found


def patch_tokens(backbone: VisionBackbone, normalised: Tensor) -> Tensor:
    """Stage 1: patch tokens after the final norm [B, N, D], float32, of normalised pixels [B, 3, H, W]."""
    tokens = backbone.embed(normalised)
    for number in range(1, backbone.depth + 1):
        tokens = backbone.block(number, tokens)
    return backbone.norm(tokens)[:, backbone.prefix_tokens :].float()


def second_stage(
    backbone: VisionBackbone, normalised: Tensor, gates: Tensor, pictures: Tensor, pool: str = "cls"
) -> Tensor:
    """Stage 2 in training: vectors [M, D] of masked passes whose gradient reaches the masks.

    ``normalised`` [B, 3, H, W]; ``gates`` [M, N] of exact zeros and ones; ``pictures`` int64 [M]: whose picture. In every block a token
    reads the prefix and the kept patches only. ``pool`` ``cls``: the first prefix token; ``mean``: of the kept patches. An empty
    mask gives a vector that knows nothing of the picture: zeros where there is no prefix, and with ``mean``.
    """
    parts = [
        _gated(backbone, embedded, chosen, pool) for embedded, chosen in _chunks(backbone, normalised, gates, pictures)
    ]
    return torch.cat(parts) if parts else normalised.new_zeros((0, backbone.widths[-1]))


def _gated(backbone: VisionBackbone, tokens: Tensor, gates: Tensor, pool: str) -> Tensor:
    prefix = backbone.prefix_tokens
    gate = torch.cat([gates.new_ones(len(gates), prefix), gates], 1)
    if (
        not prefix
    ):  # a picture without any kept key has no attention: it attends to its first patch, and is zeroed below
        empty = gates.detach().sum(1) == 0
        gate = torch.cat([gate[:, :1] + empty[:, None].to(gate.dtype), gate[:, 1:]], 1)
    again = gate.shape[1] > LONG_SEQUENCE and gate.requires_grad
    for number in range(1, backbone.depth + 1):

        def block(tokens: Tensor, gate: Tensor, number: int = number) -> Tensor:
            return backbone.block(number, tokens, gate=gate)

        tokens = checkpoint(block, tokens, gate, use_reentrant=False) if again else block(tokens, gate)
    return _pooled(backbone.norm(tokens).float(), gates, prefix, pool)


def hard_stage(
    backbone: VisionBackbone, normalised: Tensor, kept: Tensor, pictures: Tensor, pool: str = "cls"
) -> Tensor:
    """Stage 2 at evaluation: as ``second_stage`` with ``kept`` bool [M, N] and an exact boolean mask; no gradient."""
    prefix, parts = backbone.prefix_tokens, []
    for tokens, chosen in _chunks(backbone, normalised, kept, pictures):
        keys = torch.cat([chosen.new_ones(len(chosen), prefix), chosen], 1)
        if not prefix:
            keys[:, 0] |= ~chosen.any(1)
        allowed = keys[:, None].expand(-1, keys.shape[1], -1)
        for number in range(1, backbone.depth + 1):
            tokens = backbone.block(number, tokens, allowed=allowed)
        normed = backbone.norm(tokens).float()
        parts.append(_pooled(normed, chosen.to(normed.dtype), prefix, pool))
    return torch.cat(parts) if parts else normalised.new_zeros((0, backbone.widths[-1]))


def _chunks(
    backbone: VisionBackbone, normalised: Tensor, masks: Tensor, pictures: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    embedded = backbone.embed(normalised)
    for chosen, of in zip(chunks(masks, PAIRS_AT_ONCE), chunks(pictures, PAIRS_AT_ONCE), strict=True):
        yield embedded[of], chosen


def chunks(rows: Tensor, size: int) -> list[Tensor]:
    """``rows`` in order, at most ``size`` at once."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _pooled(normed: Tensor, gates: Tensor, prefix: int, pool: str) -> Tensor:
    if pool == "cls" and prefix:
        return normed[:, 0]
    weight = gates.to(normed.dtype)[..., None]
    return (normed[:, prefix:] * weight).sum(1) / weight.sum(1).clamp_min(1)


def slot_and_foreground_gates(maps: Tensor, kept: Tensor, dropout: float, *, foreground: bool) -> Tensor:
    """Masks for stage 2 [B, K (+ 1), N] of ``maps`` [B, K + 1, N]: of each slot, and of their union where a class is told too."""
    gates = slot_gates(maps)
    if not foreground:
        return gates
    return torch.cat([gates, foreground_gate(maps, kept, dropout)[:, None]], 1)
