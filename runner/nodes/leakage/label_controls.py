"""Controls on the side of the labels. Pure torch. All of them are definitions of this project.

``label_only``: what the labels of a part tell about another part's attribute, which is correlation and no leakage.
``label_shuffle``: labels of other pictures, which no vector can know. ``decorrelate``: test pictures weighted so that the attribute and
the labels of the source part are balanced.
"""

from __future__ import annotations

import torch
from torch import Tensor


def label_features(value: Tensor, valid: Tensor, train: Tensor) -> Tensor:
    """Labels as features: value [n, K] where valid, else the mean over valid training rows (0.5 without any): float64 [n, K].

    ``train`` int64 [t]: the training rows.
    """
    known = valid[train].double()
    count = known.sum(0)
    mean = torch.where(count > 0, (value[train].double() * known).sum(0) / count.clamp_min(1), 0.5)
    return torch.where(valid.bool(), value.double(), mean)


def shuffle_within(groups: list[Tensor], seed: int) -> Tensor:
    """A permutation of all rows that keeps each of ``groups`` (row numbers int64, disjoint) to itself: int64 [n].

    Row i takes the labels of row permutation[i], all attributes together: base rates of a split and correlations stay.
    """
    device = groups[0].device if groups else torch.device("cpu")
    permutation = torch.arange(sum(len(rows) for rows in groups), device=device)
    generator = torch.Generator().manual_seed(seed)
    for rows in groups:
        permutation[rows] = rows[torch.randperm(len(rows), generator=generator).to(device)]
    return permutation


def strata(value: Tensor, valid: Tensor) -> Tensor:
    """Number of the pattern of labels of each row: value, valid [m, K] -> int64 [m]; not valid is a value of its own."""
    if not value.numel():
        return torch.zeros(len(value), dtype=torch.int64, device=value.device)
    pattern = torch.where(valid.bool(), value.to(torch.int64), 2)
    numbers: Tensor = torch.unique(pattern, dim=0, return_inverse=True)[1]
    return numbers


def balance_weights(targets: Tensor, valid: Tensor, stratum: Tensor) -> Tensor:
    """Weights float64 [m, A] under which positives and negatives weigh the same in every stratum.

    In a stratum with p positives and q negatives (valid ones), a positive weighs min(p, q) / p and a negative min(p, q) / q: what
    drawing min(p, q) of each without replacement keeps on average. Strata with one class weigh nothing. So the attribute is
    independent of whatever the strata are made of. ``targets``, ``valid`` [m, A]; ``stratum`` int64 [m].
    """
    sides = (valid.bool() & targets.bool(), valid.bool() & ~targets.bool())
    size = int(stratum.max()) + 1 if len(stratum) else 0
    counts = [s.new_zeros((size, s.shape[1]), dtype=torch.float64).index_add_(0, stratum, s.double()) for s in sides]
    fewer = torch.minimum(*counts)
    weights = [s * (fewer / c.clamp_min(1))[stratum] for s, c in zip(sides, counts, strict=True)]
    return weights[0] + weights[1]
