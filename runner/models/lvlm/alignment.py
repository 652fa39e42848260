"""A projector that speaks the language model's words before the language model runs. Pure torch.

Ours: cheap on a processor without an accelerator, where every forward through a language model is dear. Image tokens are compared with
the embeddings of the words that answer questions about their picture, and become like them; where in the picture a word stands is left
open. It is a start for training, not a replacement of it: relations and counts are not words of a bag.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

SHARPNESS = 20.0
"""Cosines are multiplied by it before the softmax over words."""
LENGTH_WEIGHT = 0.05
"""Weight of the squared deviation of token lengths from those of word embeddings."""


def bag_loss(tokens: Tensor, words: Tensor, centre: Tensor, targets: Tensor, length: float) -> Tensor:
    """Cross-entropy of a picture's words given its tokens, float32 scalar.

    ``tokens`` (B, T, D) come out of the projector; ``words`` (V, D) are embeddings of all answer words and ``centre`` (D,) the mean of
    the whole vocabulary, which is taken off both; ``targets`` (B, V) 0/1, at least one a row, weigh alike. A word's score is the
    log-mean-exp over tokens of ``SHARPNESS`` times the cosine. ``length``: mean norm of embeddings, to which token norms are drawn.
    """
    score = bag_scores(tokens, words, centre)
    shares = targets / targets.sum(1, keepdim=True)
    deviation = tokens.float().norm(dim=-1) / length - 1
    loss: Tensor = -(score.log_softmax(-1) * shares).sum(1).mean() + LENGTH_WEIGHT * deviation.pow(2).mean()
    return loss


def bag_scores(tokens: Tensor, words: Tensor, centre: Tensor) -> Tensor:
    """Scores (B, V) float32 of words for pictures, as in ``bag_loss``."""
    heard = nn.functional.normalize(tokens.float() - centre.float(), dim=-1)
    named = nn.functional.normalize(words.float() - centre.float(), dim=-1)
    scores: Tensor = (SHARPNESS * heard @ named.T).logsumexp(1) - math.log(tokens.shape[1])
    return scores


def fit(
    projector: nn.Module, batches: Callable[[], Iterator[tuple[Tensor, Tensor]]], words: Tensor, embeddings: Tensor,
    *, epochs: int, lr: float,
) -> Iterator[float]:  # fmt: skip
    """Train a float32 projector in place; yields the mean loss of each epoch.

    ``batches()`` gives one pass of (features (B, T, F), targets (B, V)); ``embeddings``: the whole vocabulary (N, D).
    """
    table = embeddings.detach().float()
    centre, length = table.mean(0), float(table.norm(dim=-1).mean())
    optimiser = torch.optim.AdamW(projector.parameters(), lr, weight_decay=0.01)
    for _ in range(epochs):
        total, count = 0.0, 0
        for features, targets in batches():
            loss = bag_loss(projector(features.float()), words, centre, targets.float(), length)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total, count = total + float(loss.detach()), count + 1
        yield total / max(1, count)
