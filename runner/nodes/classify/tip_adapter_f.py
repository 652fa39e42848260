"""Tip-Adapter-F: the keys of the cache, trained from their training-free values. torch, float32, seeded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional

from runner.nodes.classify.tip_adapter import LOGIT_SCALE

FloatArray = NDArray[np.float64]


def train_keys(
    features: ArrayLike,
    labels: ArrayLike,
    keys: ArrayLike,
    values: ArrayLike,
    class_weights: ArrayLike,
    *,
    alpha: float,
    beta: float,
    epochs: int = 20,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    epsilon: float = 1e-4,
    seed: int = 0,
    device: str = "cpu",
    on_epoch: Callable[[float], None] | None = None,
) -> FloatArray:
    """Keys [D, N] after training on labelled features [N, D], or [views, N, D]: epoch t sees view t modulo views.

    Loss: cross-entropy of ``100 f W + alpha exp(-beta (1 - f F)) L``; only F is trained and is not scaled to unit norm
    again. AdamW with a cosine schedule over all batches, batches drawn by ``seed``. Shapes otherwise as in
    ``tip_logits``; features are scaled to unit norm first. Source: Tip-Adapter, section 3.2, and its reference
    implementation, which keeps the epoch that is best on the test images; here the last one is kept.
    ``on_epoch`` is told the mean loss. Raises ValueError where the loss is not finite, or nothing can be trained on.
    """
    views = _tensor(features, device)
    views = functional.normalize(views[None] if views.ndim == 2 else views, dim=-1)
    truth = torch.as_tensor(np.asarray(labels), dtype=torch.long, device=device)
    if not len(truth) or views.shape[1] != len(truth) or epochs < 1:
        raise ValueError(f"{views.shape[1]} features, {len(truth)} labels, {epochs} epochs: nothing to train on")
    F = _tensor(keys, device).clone().requires_grad_(True)
    L, W = _tensor(values, device), _tensor(class_weights, device)
    optimiser = torch.optim.AdamW([F], lr=learning_rate, eps=epsilon)
    batches = -(-len(truth) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * batches)
    draw = torch.Generator().manual_seed(seed)
    for epoch in range(epochs):
        f, losses = views[epoch % len(views)], []
        for rows in torch.split(torch.randperm(len(truth), generator=draw).to(device), batch_size):
            logits = LOGIT_SCALE * f[rows] @ W + alpha * torch.exp(-beta * (1 - f[rows] @ F)) @ L
            loss = functional.cross_entropy(logits, truth[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append(loss.detach())
        _report(torch.stack(losses).mean().item(), epoch, on_epoch)
    return F.detach().cpu().numpy().astype(np.float64)


def _tensor(values: ArrayLike, device: str) -> torch.Tensor:
    array = np.asarray(values, np.float32)
    if not np.isfinite(array).all():
        raise ValueError("features, keys and weights must not contain NaN or infinity")
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def _report(loss: float, epoch: int, on_epoch: Callable[[float], None] | None) -> None:
    if not np.isfinite(loss):
        raise ValueError(f"the training of the keys diverged in epoch {epoch}: lower alpha, beta or the learning rate")
    if on_epoch is not None:
        on_epoch(loss)
