"""PRISM: a linear map of CLIP's space learned from synthetic sentences. Pure torch.

Source: Molahasani et al. (2025), "PRISM: Reducing Spurious Implicit Biases in Vision-Language Models with LLM-Guided
Embedding Projection", in the form in which SEM's evaluation ran it. The map acts on texts and images.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from runner.nodes.sem.baselines import prism_mini_map
from runner.nodes.sem.checks import check_rows

Init = Literal["random", "identity", "orthogonal"]


def prism_loss(positives: Tensor, negatives: Tensor, margin: float) -> Tensor:
    """Contrast of mapped sentences: positives [s, c, d] (same target, each bias value), negatives [s, t, d] (the reverse).

    mean(1 - cos(positive, unit mean of its scene's positives)) + mean over pairs of a scene's negatives of relu(cos - margin).
    """
    near, far = functional.normalize(positives, dim=-1), functional.normalize(negatives, dim=-1)
    centre = functional.normalize(near.mean(1, keepdim=True), dim=-1)
    first, second = torch.triu_indices(far.shape[1], far.shape[1], offset=1, device=far.device)
    similar = (far @ far.mT)[:, first, second]
    return (1 - (near * centre).sum(-1)).mean() + functional.relu(similar - margin).mean()


def prism_map(
    positives: Tensor,
    negatives: Tensor,
    *,
    lr: float = 0.01,
    margin: float = 0.6,
    batch: int = 64,
    epochs: int = 1,
    seed: int = 0,
    init: Init = "random",
    rank: int | None = None,
    spurious: Tensor | None = None,
) -> Tensor:
    """Learn the map float32 [d, d] (``x @ map``) with Adam; sentence embeddings [s, c, d] and [s, t, d].

    ``init``: ``random`` (uniform within 1 / sqrt(d), the default of a linear layer), ``identity``, or ``orthogonal`` (PRISM-mini's
    projection of ``spurious`` [n, d]). ``rank``: learn that many directions instead, and project them out. Draws come from
    ``seed`` alone, so the same call gives the same map on one machine. Raises ValueError for fewer than two bias values
    or targets, unequal numbers of scenes, NaN, a norm of 0.
    """
    _check_scenes(positives, negatives)
    rng = torch.Generator().manual_seed(seed)
    near, far = (functional.normalize(x.float(), dim=-1) for x in (positives, negatives))
    weight = _start(near.shape[-1], init, rank, spurious, rng).to(near.device).requires_grad_()
    optimiser = torch.optim.Adam([weight], lr=lr)
    for _ in range(epochs):
        for rows in torch.randperm(len(near), generator=rng).to(near.device).split(batch):  # type: ignore[no-untyped-call]
            optimiser.zero_grad()
            map_ = _map_of(weight, rank)
            prism_loss(near[rows] @ map_, far[rows] @ map_, margin).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return _map_of(weight.detach(), rank)


def _map_of(weight: Tensor, rank: int | None) -> Tensor:
    """The weight itself, or I - Q Q' with Q an orthonormal basis of its rows [rank, d]."""
    if rank is None:
        return weight
    identity = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    projected: Tensor = identity - weight.mT @ torch.linalg.solve(weight @ weight.mT, weight)
    return projected


def _start(width: int, init: Init, rank: int | None, spurious: Tensor | None, rng: torch.Generator) -> Tensor:
    if rank is not None:
        if not 1 <= rank < width:
            raise ValueError(f"the rank must lie in 1 .. {width - 1}, not {rank}")
        return torch.randn(rank, width, generator=rng)
    if init == "identity":
        return torch.eye(width)
    if init == "orthogonal":
        if spurious is None or spurious.shape[-1] != width:
            raise ValueError(f"init orthogonal needs spurious texts {width} wide")
        return prism_mini_map(spurious).float()
    drawn: Tensor = (torch.rand(width, width, generator=rng) * 2 - 1) / width**0.5
    return drawn


def _check_scenes(positives: Tensor, negatives: Tensor) -> None:
    for name, x in (("positives", positives), ("negatives", negatives)):
        if x.ndim != 3 or x.shape[1] < 2:
            raise ValueError(f"{name} must be [scenes, at least 2, width], not of shape {tuple(x.shape)}")
        check_rows(name, x.flatten(0, 1), positives.shape[-1], nonzero=True)
    if len(positives) != len(negatives):
        raise ValueError(f"there are {len(positives)} scenes of positives and {len(negatives)} of negatives")
