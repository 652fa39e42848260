"""Leakage measures of a table of probe scores. Pure torch. All of them are definitions of this project.

``M[..., p, a]``: how well attribute a is read from the vector of part p: AUROC (chance 0.5) or average precision minus base rate
(chance 0); NaN where there is no probe. ``owner`` int64 [A]: index of the part an attribute describes; -1 for attributes that
belong to no part or to several, or are excluded: they enter nothing. Leading dimensions (bootstrap resamples) are kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

INFORMED, DECIDED = 0.05, 0.02
"""Least own score above chance for ``leak_ratio``; least denominator of ``normalised_leakage``."""


class LeakageScores(NamedTuple):
    """Measures of single-stage against two-stage vectors, each of the leading shape; NaN where no attribute allows one.

    ``own``, ``cross``: mean score on the owner part and on the other parts. ``locality_gap``: their mean difference, 0 where the
    source part does not matter. ``leak_ratio``: cross above chance as a share of own above chance. ``excess_leakage``:
    cross-part information that comes from outside the part's pixels. ``normalised_leakage``: 0 local, 1 any part is as good
    as the right one. ``own_delta``: what the restriction to the part's pixels costs on the part's own attributes.
    """

    own: Tensor
    cross: Tensor
    locality_gap: Tensor
    leak_ratio: Tensor
    excess_leakage: Tensor
    normalised_leakage: Tensor
    own_delta: Tensor
    own_two: Tensor
    cross_two: Tensor
    locality_gap_two: Tensor
    leak_ratio_two: Tensor


def _mine(parts: int, owner: Tensor) -> Tensor:
    """Bool [P, A]: whether part p owns attribute a."""
    return torch.arange(parts, device=owner.device)[:, None] == owner


def _own(table: Tensor, owner: Tensor) -> Tensor:
    """M[o(a), a]: [..., P, A] -> [..., A]."""
    return torch.where(_mine(table.shape[-2], owner), table, torch.nan).nanmean(-2)


def _others(table: Tensor, owner: Tensor) -> Tensor:
    """M[p, a] for p other than o(a), NaN elsewhere: [..., P, A]."""
    return torch.where(~_mine(table.shape[-2], owner) & (owner >= 0), table, torch.nan)


def terms_of_one(table: Tensor, owner: Tensor, chance: float = 0.5) -> dict[str, Tensor]:
    """What ``own``, ``cross``, ``locality_gap``, ``leak_ratio`` are means of: [..., P, A] -> [..., A] each, NaN = left out.

    own and cross run over attributes that have both, leak_ratio over those with own - chance > 0.05.
    """
    own, cross = _own(table, owner), _others(table, owner).nanmean(-2)
    both = own.isfinite() & cross.isfinite()
    above = own - chance
    ratio = (cross - chance).clamp_min(0) / torch.where(above > INFORMED, above, torch.nan)
    terms = {"own": own, "cross": cross, "locality_gap": own - cross, "leak_ratio": ratio}
    return {name: torch.where(both, values, torch.nan) for name, values in terms.items()}


def terms_of_two(single: Tensor, two: Tensor, owner: Tensor) -> dict[str, Tensor]:
    """What ``excess_leakage`` [..., P, A], ``normalised_leakage`` and ``own_delta`` [..., A] are means of; NaN = left out.

    A cross score counts where both extractors have it; normalised leakage needs a denominator above 0.02.
    """
    missing = (single + two).isnan()
    single, two = (torch.where(missing, torch.nan, table) for table in (single, two))
    own_single, own_two = _own(single, owner), _own(two, owner)
    cross_single, cross_two = (_others(table, owner).nanmean(-2) for table in (single, two))
    span = own_single - cross_two
    normalised = (cross_single - cross_two) / torch.where(span > DECIDED, span, torch.nan)
    excess = _others(single - two, owner)
    return {"excess_leakage": excess, "normalised_leakage": normalised, "own_delta": own_two - own_single}


def mean_of(terms: Tensor, leading: int) -> Tensor:
    """Mean over all but the first ``leading`` dimensions, NaN left out; NaN where nothing is left."""
    return terms.flatten(leading).nanmean(-1) if terms.ndim > leading else terms


def attributes_in(terms: Tensor) -> int:
    """How many attributes of [A] or [P, A] terms are averaged."""
    finite = terms.isfinite()
    return int((finite.any(0) if finite.ndim == 2 else finite).sum())


def leakage_scores(auroc_single: Tensor, auroc_two: Tensor, owner: Tensor, *, chance: float = 0.5) -> LeakageScores:
    """All measures of single-stage against two-stage scores [..., P, A]; ``chance`` 0 for average precision minus base rate."""
    _check(auroc_single, owner)
    _check(auroc_two, owner)
    leading = auroc_single.ndim - 2
    single = {n: mean_of(t, leading) for n, t in terms_of_one(auroc_single, owner, chance).items()}
    two = {n: mean_of(t, leading) for n, t in terms_of_one(auroc_two, owner, chance).items()}
    pair = {n: mean_of(t, leading) for n, t in terms_of_two(auroc_single, auroc_two, owner).items()}
    return LeakageScores(**single, **pair, **{f"{name}_two": value for name, value in two.items()})


def _check(table: Tensor, owner: Tensor) -> None:
    if table.ndim < 2 or owner.shape != table.shape[-1:]:
        raise ValueError(f"a table [..., P, A] and owners [A] are needed, not {table.shape} and {owner.shape}")
    if owner.numel() and int(owner.max()) >= table.shape[-2]:
        raise ValueError(f"an owner is part {int(owner.max())}, and there are {table.shape[-2]} parts")


def pair_matrix(auroc: Tensor, owner: Tensor, parts: int) -> Tensor:
    """Lk[..., p, q] = mean over attributes a with o(a) = q of M[..., p, a]: [..., S, A] -> [..., S, parts]; NaN without any."""
    owned = _mine(parts, owner).to(auroc)
    known = auroc.isfinite()
    total = torch.where(known, auroc, 0) @ owned.T
    count = known.to(auroc) @ owned.T
    return torch.where(count > 0, total / count.clamp_min(1), torch.nan)
