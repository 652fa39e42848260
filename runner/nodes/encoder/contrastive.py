"""The contrastive head: both frozen towers projected into one space by a symmetric multi-positive InfoNCE loss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from runner.models.encoders.heads import ContrastiveHead
from runner.nodes.contrastive_loss import multi_positive_info_nce

FloatArray = NDArray[np.floating[Any]]

HIDDEN, WIDTH = 512, 256
DROPOUT = 0.3
EPOCHS, BATCH = 40, 512
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.1
INITIAL_LOG_SCALE, MAX_SCALE = 2.66, 60.0


class Towers(nn.Module):
    """Image: layer norm, linear, GELU, dropout, linear; text: linear; a learnt logarithm of the logit scale."""

    def __init__(self, image_dim: int, text_dim: int) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.LayerNorm(image_dim),
            nn.Linear(image_dim, HIDDEN),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, WIDTH),
        )
        self.text = nn.Linear(text_dim, WIDTH)
        self.log_scale = nn.Parameter(torch.tensor(INITIAL_LOG_SCALE))

    def forward(self, v: Tensor, t: Tensor) -> Tensor:
        """Scaled cosines [n, n] of images [n, image_dim] and texts [n, text_dim]."""
        images = functional.normalize(self.image(v), dim=1)
        texts = functional.normalize(self.text(t), dim=1)
        return self.log_scale.exp().clamp(max=MAX_SCALE) * images @ texts.T


def fit_contrastive(
    v: FloatArray,
    t: FloatArray,
    caption: NDArray[np.integer[Any]],
    *,
    seed: int,
    epochs: int = EPOCHS,
    on_epoch: Any = None,
) -> ContrastiveHead:
    """Train the towers: AdamW, learning rate falling linearly to zero, batches of 512 pairs in random order.

    ``v`` [n, p] unit image features, ``t`` [n, q] unit embeddings of their captions, ``caption`` [n] numbers of the
    captions (equal = positive pair). Same seed and machine: same head. ``on_epoch()`` is called after every epoch.
    Raises ValueError for fewer than two pairs.
    """
    if not len(v) == len(t) == len(caption) or len(v) < 2:
        raise ValueError("fit_contrastive needs at least two pairs, with as many features as captions")
    images, texts = (torch.from_numpy(np.asarray(x, np.float32)) for x in (v, t))
    number = torch.from_numpy(np.asarray(caption, np.int64))
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(seed)
        towers = Towers(images.shape[1], texts.shape[1])
        optimiser = torch.optim.AdamW(towers.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        steps = epochs * math.ceil(len(number) / BATCH)
        decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: max(0.0, 1 - step / steps))
        for _ in range(epochs):
            for batch in torch.split(torch.randperm(len(number)), BATCH):
                same = number[batch][:, None] == number[batch][None]
                loss = multi_positive_info_nce(towers(images[batch], texts[batch]), same)
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                decay.step()
            if on_epoch is not None:
                on_epoch()
    return as_head(towers)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The matrices are too small to share out, and so sums do not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def as_head(towers: Towers) -> ContrastiveHead:
    """The trained towers as numpy matrices [in, out]."""
    norm, hidden, _, _, last = towers.image

    def array(parameter: Any) -> NDArray[np.float32]:
        return np.ascontiguousarray(parameter.detach().numpy().T)

    return ContrastiveHead(
        norm_weight=array(norm.weight),
        norm_bias=array(norm.bias),
        hidden_weight=array(hidden.weight),
        hidden_bias=array(hidden.bias),
        image_weight=array(last.weight),
        image_bias=array(last.bias),
        text_weight=array(towers.text.weight),
        text_bias=array(towers.text.bias),
        logit_scale=float(towers.log_scale.detach().exp().clamp(max=MAX_SCALE)),
    )
