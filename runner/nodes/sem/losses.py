"""What a sparse autoencoder is trained to make small. Pure torch; float32, any device.

Sources: SEM's autoencoder (arXiv 2603.19028, its public code), MSAE (arXiv 2502.20578), TopK and BatchTopK autoencoders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from runner.nodes.sem.sae import SparseAutoencoder, keep_largest_of_batch
from runner.nodes.sem.sae_about import Architecture, Weighting

LossName = Literal["mse", "nmse", "cosine"]


def mse(recon: Tensor, x: Tensor) -> Tensor:
    """Mean of (recon - x)^2 over all entries of [n, d]."""
    return functional.mse_loss(recon, x)


def nmse(recon: Tensor, x: Tensor) -> Tensor:
    """Mean over rows of ``mean_d (recon - x)^2 / mean_d (x - mean_d x)^2`` of [n, d] (MSAE)."""
    error = (recon - x).square().mean(-1)
    return (error / (x - x.mean(-1, keepdim=True)).square().mean(-1)).mean()


def cosine(recon: Tensor, x: Tensor) -> Tensor:
    """Mean over rows of ``(1 - cos(recon, x))^2`` of [n, d] (MSAE)."""
    similarity: Tensor = functional.cosine_similarity(recon, x, dim=-1)
    return (1 - similarity).square().mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"mse": mse, "nmse": nmse, "cosine": cosine}


def l1_penalty(h: Tensor, x: Tensor) -> Tensor:
    """Mean over rows of ``|h|_1 / |x|_2`` of latents [n, L] and inputs [n, d] (MSAE's ReLU autoencoder)."""
    ratios: Tensor = h.abs().sum(-1) / x.norm(dim=-1)
    return ratios.mean()


def level_weights(n: int, weighting: Weighting) -> tuple[float, ...]:
    """Weights of ``n`` levels, sparsest first: ``reverse`` n, ..., 1 (SEM; RW in MSAE), ``uniform`` all 1 (UW)."""
    return tuple(float(n - i) if weighting == "reverse" else 1.0 for i in range(n))


class Objective(NamedTuple):
    """``weights`` one a level; ``averaged``: divide their sum of losses by the sum of weights (MSAE), else not (SEM);
    ``l1``: weight of ``l1_penalty``."""

    architecture: Architecture
    levels: tuple[int, ...]
    weights: tuple[float, ...]
    loss: LossName = "mse"
    averaged: bool = False
    l1: float = 0.0


class Losses(NamedTuple):
    """``total`` [] is minimised; ``levels`` [n_levels] reconstruction losses; ``active`` bool [n, L]: latents above 0."""

    total: Tensor
    levels: Tensor
    active: Tensor


def training_losses(sae: SparseAutoencoder, x: Tensor, objective: Objective) -> Losses:
    """Losses of standardised embeddings ``x`` [n, d].

    ``sum_i w_i loss_i`` over levels k_i, of which each keeps the k_i largest pre-activations of a row; ``batch_topk`` keeps n k of the batch,
    ``relu_l1`` all.
    """
    pre = sae.pre_activations(x)
    compare = LOSSES[objective.loss]
    levels = torch.stack([compare(recon, x) for recon in _reconstructions(sae, pre, objective)])
    weights = levels.new_tensor(objective.weights)
    total = (weights * levels).sum()
    if objective.averaged:
        total = total / weights.sum()
    if objective.l1:
        total = total + objective.l1 * l1_penalty(pre.relu(), x)
    return Losses(total, levels.detach(), pre.detach() > 0)


def _reconstructions(sae: SparseAutoencoder, pre: Tensor, objective: Objective) -> Iterator[Tensor]:
    if objective.architecture == "relu_l1":
        yield sae.decoder(pre.relu()) + sae.b_pre
    elif objective.architecture == "batch_topk":
        yield sae.decoder(keep_largest_of_batch(pre, objective.levels[0])) + sae.b_pre
    else:
        yield from nested_reconstructions(sae, pre, objective.levels)


def nested_reconstructions(sae: SparseAutoencoder, pre: Tensor, levels: Sequence[int]) -> Iterator[Tensor]:
    """Reconstructions [n, d] from the k largest pre-activations [n, L] of each row, for ascending ``levels``.

    One selection serves all levels: each level adds what its further latents give. Equal to selecting anew for each one.
    """
    partial = [k for k in levels if k < sae.latents]
    recon, start = sae.b_pre.expand(len(pre), -1), 0
    if partial:
        values, where = pre.topk(partial[-1], dim=-1)
        values = values.relu()
    for k in partial:
        added = torch.zeros_like(pre).scatter(-1, where[:, start:k], values[:, start:k])
        recon, start = recon + sae.decoder(added), k
        yield recon
    if len(partial) < len(levels):
        yield sae.decoder(pre.relu()) + sae.b_pre
