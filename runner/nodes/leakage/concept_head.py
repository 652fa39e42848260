"""Concepts read from pooled features of a whole picture: one logistic regression an attribute. Pure torch.

What comes out is a concept predictor to be audited, such as the first half of a concept bottleneck model (a definition of this
project: trunk frozen, concepts fitted one by one).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from runner.nodes.leakage.logistic_probe import logistic_probe
from runner.nodes.leakage.ranking import auroc


class ConceptFit(NamedTuple):
    """``weight`` float32 [K, D], ``bias`` float32 [K] on raw features, of the attributes ``kept`` int64 [K]; for all attributes
    ``n``, ``positives`` int64 [A] and ``auroc`` float64 [A] on the pictures that it was fitted on (NaN where not kept)."""

    weight: Tensor
    bias: Tensor
    kept: Tensor
    n: Tensor
    positives: Tensor
    auroc: Tensor


def fit_concepts(features: Tensor, value: Tensor, valid: Tensor, c: float = 1.0) -> ConceptFit:
    """Minimise |w|^2 / 2 + C sum of log-losses for each attribute, on standardised features; standardisation is folded into the weights.

    ``features`` [n, D]; ``value``, ``valid`` [n, A] of 0 and 1. Attributes without both classes are not kept. Raises ValueError
    for features that are not finite.
    """
    counted = valid.bool()
    n, positives = counted.sum(0), (counted & value.bool()).sum(0)
    kept = ((positives > 0) & (positives < n)).nonzero().flatten()
    scores = features.new_full((value.shape[1],), torch.nan, dtype=torch.float64)
    if not len(kept):
        empty = features.new_zeros((0, features.shape[1]), dtype=torch.float32)
        return ConceptFit(empty, empty.new_zeros(0), kept, n, positives, scores)
    probe = logistic_probe(features, value[:, kept], counted[:, kept], c)
    scores[kept] = auroc(probe.scores(features), value[:, kept], counted[:, kept])
    weight = (probe.weight / probe.scale[:, None]).T
    bias = probe.intercept - weight @ probe.mean
    return ConceptFit(weight.float(), bias.float(), kept, n, positives, scores)
