"""How far a concept's value can be pushed by pixels that should not matter. Pure torch.

Companion measure of "Do Concept Bottleneck Models Respect Localities?" (arXiv 2401.01259): the maximal change of a concept under an
optimised perturbation that is restricted to irrelevant pixels. The optimiser (signed gradient steps, both directions) and its
defaults are definitions of this project; what it finds is a lower bound of the maximum.

A perturbation of more pixels reaches farther, so sides of different areas are made equal before they are compared.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def equal_areas(inside: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """As many pixels outside a part as inside it: bool [B, H, W] -> (outside, inside), bool [B, H, W] each.

    The larger side keeps its pixels of lowest ``order``, float [B, H, W] without ties (random numbers: a random subset).
    """
    flat = inside.flatten(1)
    n = torch.minimum(flat.sum(1), (~flat).sum(1))[:, None]

    def fewest(side: Tensor) -> Tensor:
        rank = order.flatten(1).masked_fill(~side, torch.inf).argsort(1).argsort(1)
        return (side & (rank < n)).view(inside.shape)

    return fewest(~flat), fewest(flat)


def largest_change(
    predict: Callable[[Tensor], Tensor], pixels: Tensor, allowed: Tensor, *, epsilon: float = 8 / 255, steps: int = 10
) -> Tensor:
    """Largest |g(x + d) - g(x)| found with |d| <= ``epsilon`` and d = 0 outside ``allowed``; x + d stays in 0..1.

    ``predict``: [B, 3, H, W] -> [B], differentiable, each value of its own picture; ``pixels`` float [B, 3, H, W] in 0..1;
    ``allowed`` bool [B, H, W] -> float [B], 0 where no pixel is allowed. ``steps`` projected steps of 2.5 ``epsilon`` / ``steps``
    up, and as many down; no random start, so that the same input gives the same number.
    """
    open_to = allowed[:, None].to(pixels.dtype)
    with torch.no_grad():
        plain = predict(pixels)
    largest = torch.zeros_like(plain)
    for sign in (1.0, -1.0):
        delta = torch.zeros_like(pixels)
        for step in range(steps + 1):
            delta.requires_grad_(step < steps)
            value = predict(pixels + delta)
            largest = torch.maximum(largest, (value.detach() - plain).abs())
            if step < steps:
                (slope,) = torch.autograd.grad(sign * value.sum(), delta)
                moved = (delta.detach() + 2.5 * epsilon / steps * slope.sign() * open_to).clamp(-epsilon, epsilon)
                delta = (pixels + moved).clamp(0, 1) - pixels
    return largest
