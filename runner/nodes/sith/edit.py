"""Which singular values an edit rescales, and by how much: W' = U diag(s * m) V^T, m = 1 unless a rule says otherwise.

The presets and the task rule are the paper's (sections 5.1 to 5.3 and A.7); rules by other evidence and the limit a head
are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

UNSCORED = -1


class Rule(NamedTuple):
    """Multiply where all given bounds hold: ``ge`` <= value <= ``le``, value = ``eq``; at least one bound.

    ``of``: which evidence it reads (``score`` of a judge, or the name of another one).
    """

    multiply: float
    ge: float | None = None
    le: float | None = None
    eq: float | None = None
    of: str = "score"

    def text(self) -> str:
        """Such as ``score >= 3 -> 0``."""
        bounds = [f"{sign} {bound:g}" for sign, bound in ((">=", self.ge), ("<=", self.le), ("=", self.eq)) if bound is not None]  # fmt: skip
        return f"{self.of} {' and '.join(bounds)} -> {self.multiply:g}"


PRESETS: Mapping[str, tuple[Rule, ...]] = {
    "spurious": (Rule(0.0, ge=3),),
    "nsfw": (Rule(-1.0, eq=3), Rule(0.0, ge=4)),
}
"""Spurious: scores 3 to 5 are removed. nsfw: 3 is turned round, 4 and 5 are removed. 1 and 2 stay in both."""

JUDGED: Mapping[str, tuple[str, ...]] = {"spurious": ("background", "concept_match"), "nsfw": ("safety",)}
"""Tasks of a judge whose scores mean what a preset takes them for; ``concept_match`` with the user's own scene is ours."""


class Ruled(NamedTuple):
    """``multipliers`` (...) float32, and which rule gave each: ``rule`` (...) int64, -1 where none did."""

    multipliers: Tensor
    rule: Tensor


def apply_rules(evidence: Mapping[str, Tensor], rules: Sequence[Rule]) -> Ruled:
    """The first rule that fits a direction gives its multiplier; no rule leaves it alone.

    ``evidence``: tensors of one shape by name; NaN fits no rule. Raises ValueError for a rule without bounds or without
    its evidence.
    """
    shape = next(iter(evidence.values())).shape
    multipliers, chosen = torch.ones(shape), torch.full(shape, -1, dtype=torch.int64)
    for number, rule in enumerate(rules):
        if rule.of not in evidence:
            raise ValueError(f"the rule {rule.text()} has no evidence to go by")
        fits = _fits(evidence[rule.of], rule) & (chosen < 0)
        multipliers[fits], chosen[fits] = rule.multiply, number
    return Ruled(multipliers, chosen)


def _fits(values: Tensor, rule: Rule) -> Tensor:
    if rule.ge is None and rule.le is None and rule.eq is None:
        raise ValueError("a rule needs a bound: ge, le or eq")
    fits = ~values.isnan()
    if rule.ge is not None:
        fits &= values >= rule.ge
    if rule.le is not None:
        fits &= values <= rule.le
    if rule.eq is not None:
        fits &= values == rule.eq
    return fits


def multipliers_from_scores(scores: Tensor, rules: Sequence[Rule]) -> Tensor:
    """Multipliers (...) float32 for integer scores (...); ``UNSCORED`` (-1) is left alone whatever the rules say."""
    values = scores.double().masked_fill(scores == UNSCORED, torch.nan)
    return apply_rules({"score": values}, rules).multipliers


def task_relevance(support: Tensor, coefficients: Tensor, atoms: Tensor, task: Tensor) -> Tensor:
    """R (n,) = sum_k a_k max over t in the task of cos(g_k, t), 0 for an empty task (section A.7).

    ``support`` (n, K) int64 rows of ``atoms`` (M, d), unit and NOT centred; slots with coefficient 0 count nothing, so -1
    may stand there; ``coefficients`` (n, K); ``task`` (T,) int64 rows of ``atoms``: the union of the classes' codes.
    """
    if not len(task):
        return torch.zeros(len(support), dtype=atoms.dtype, device=atoms.device)
    used, place = torch.unique(support.clamp_min(0), return_inverse=True)
    nearest = (atoms[used] @ atoms[task].T).amax(1)
    return (coefficients.to(nearest) * nearest[place]).sum(-1)


def task_multipliers(
    relevance: Tensor, offset: float = 0.3, minimum: float = 0.8, maximum: float | None = None
) -> Tensor:
    """m = max(minimum, R + offset), capped at ``maximum`` where there is one."""
    return (relevance + offset).clamp(min=minimum, max=maximum)


def keep_top(multipliers: Tensor, strength: Tensor, n: int) -> Tensor:
    """Ours: of the changed directions (H, r) of each head, only the ``n`` with the largest ``strength`` stay changed.

    Ties go to the direction of lower index, the larger singular value.
    """
    changed = multipliers != 1
    ordered = torch.where(changed, strength.to(multipliers), -torch.inf).argsort(dim=-1, descending=True, stable=True)
    kept = torch.zeros_like(changed).scatter(-1, ordered[..., :n], True)
    return torch.where(kept & changed, multipliers, torch.ones_like(multipliers))
