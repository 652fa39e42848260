"""Probes with one hidden layer, one network an attribute, trained side by side. Pure torch, float32.

Hidden width 256, GELU, dropout 0.1; AdamW, learning rate 1e-3, weight decay 1e-4; 50 epochs of batches of 256; the epoch with the
best average precision on held-out rows is kept. Initial weights, order of rows and dropout are drawn by the seed and are the same for
every attribute, so that an attribute's probe does not depend on the others beside it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu, softplus

from runner.nodes.leakage.linear_probe import Moments, checked, moments, row_groups
from runner.nodes.leakage.ranking import average_precision

HIDDEN, DROPOUT, RATE, DECAY, EPOCHS, BATCH = 256, 0.1, 1e-3, 1e-4, 50, 256
_TOGETHER = 1 << 24
"""Hidden weights of networks that are trained at once; more attributes follow."""


class _Net(NamedTuple):
    """Networks of k attributes: w1 [k, D, H], b1 [k, 1, H], w2 [k, H, 1], b2 [k, 1, 1]."""

    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    def logits(self, z: Tensor, kept: Tensor | None = None) -> Tensor:
        """[r, D] -> [r, k]; ``kept`` [r, H]: dropout mask, scaled."""
        hidden = gelu(z @ self.w1 + self.b1)
        return (((hidden if kept is None else hidden * kept) @ self.w2) + self.b2)[..., 0].T


class _Part(NamedTuple):
    columns: Tensor
    local: Moments
    net: _Net


class MlpProbe(NamedTuple):
    """Networks by groups of attributes. ``attributes``: how many there are; those in no group score NaN."""

    parts: tuple[_Part, ...]
    attributes: int

    def scores(self, features: Tensor) -> Tensor:
        """[m, D] -> float64 [m, A], logits."""
        found = torch.full((len(features), self.attributes), torch.nan, dtype=torch.float64, device=features.device)
        for part in self.parts:
            z = (features.float() - part.local.mean) / part.local.scale
            found[:, part.columns] = torch.cat([part.net.logits(rows) for rows in torch.split(z, 4096)]).double()
        return found


def mlp_probe(
    features: Tensor,
    targets: Tensor,
    valid: Tensor | None,
    held_out: tuple[Tensor, Tensor, Tensor],
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
) -> MlpProbe:
    """Fit all attributes: features [n, D], targets [n, A], valid [n, A]; ``held_out``: the same three of other rows.

    An attribute without a held-out positive keeps its last epoch. Raises ValueError as ``checked``.
    """
    features, targets, valid = checked(features, targets, valid)
    other = checked(*held_out)
    most = max(1, _TOGETHER // (features.shape[1] * HIDDEN))
    parts = []
    for group in row_groups(valid):
        local = Moments(*(t.float() for t in moments(features[group.rows])))
        z, seen = ((t.float() - local.mean) / local.scale for t in (features[group.rows], other[0]))
        for columns in torch.split(group.columns, most):
            y = targets[group.rows][:, columns].float()
            net = _train(z, y, (seen, other[1][:, columns], other[2][:, columns]), seed, epochs)
            parts.append(_Part(columns, local, net))
    return MlpProbe(tuple(parts), targets.shape[1])


def _fresh(width: int, attributes: int, generator: torch.Generator, device: torch.device) -> _Net:
    """Uniform in +- fan_in^-0.5, as ``torch.nn.Linear``."""
    shapes = ((width, HIDDEN, width), (1, HIDDEN, width), (HIDDEN, 1, HIDDEN), (1, 1, HIDDEN))
    drawn = [(torch.rand(a, b, generator=generator) * 2 - 1) * fan**-0.5 for a, b, fan in shapes]
    return _Net(*(t.to(device).repeat(attributes, 1, 1).requires_grad_(True) for t in drawn))


def _train(z: Tensor, y: Tensor, held_out: tuple[Tensor, Tensor, Tensor], seed: int, epochs: int) -> _Net:
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        net = _fresh(z.shape[1], y.shape[1], generator, z.device)
        optimiser = torch.optim.AdamW(list(net), lr=RATE, weight_decay=DECAY)
        kept, best = _Net(*(t.detach().clone() for t in net)), torch.full_like(y[0], -1.0)
        for _ in range(epochs):
            _epoch(net, optimiser, z, y, generator)
            kept, best = _better(net, kept, best, held_out)
    return kept


def _epoch(net: _Net, optimiser: torch.optim.Optimizer, z: Tensor, y: Tensor, generator: torch.Generator) -> None:
    order = torch.randperm(len(z), generator=generator).to(z.device)
    for rows in torch.split(order, BATCH):
        mask = (torch.rand(len(rows), HIDDEN, generator=generator) >= DROPOUT).to(z) / (1 - DROPOUT)
        logits = net.logits(z[rows], mask)
        loss = (softplus(logits) - y[rows] * logits).mean(0).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


@torch.no_grad()
def _better(net: _Net, kept: _Net, best: Tensor, held_out: tuple[Tensor, Tensor, Tensor]) -> tuple[_Net, Tensor]:
    """Take the attributes whose held-out average precision grew, or that have none."""
    seen, y, valid = held_out
    quality = average_precision(net.logits(seen), y, valid).to(best)
    take = ~(quality <= best)
    shaped = take[:, None, None]
    return _Net(*(torch.where(shaped, new, old) for new, old in zip(net, kept, strict=True))), torch.where(
        take & quality.isfinite(), quality, best
    )
