"""Which blocks and units stay, given their scores. The lowest go first; among equals the lower index goes first.

U units of a layer (key-value groups, query heads, neurons), each of ``channels`` channels (head_dim of a head, 1 of a neuron).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from runner.errors import DataError

Compat = Literal["none", "reference"]
Normalize = Literal["per_parameter", "zscore", "none"]
Key = tuple[int, str]
"""Layer and kind."""


# --- blocks --------------------------------------------------------------------------------------------------------------


def keep_layers(scores: Tensor, n_remove: int, protect_first: int = 0, protect_last: int = 0) -> list[int]:
    """Indices that stay when the ``n_remove`` blocks of the lowest scores go, ``scores`` [L]."""
    total = len(scores)
    open_ = list(range(protect_first, total - protect_last))
    _check_removal(total, n_remove, len(open_))
    order = torch.argsort(scores.double()[protect_first : total - protect_last], stable=True).tolist()
    return keep_explicit(total, [open_[i] for i in order[:n_remove]])


def keep_angular(distances: Tensor, n: int, protect_first: int = 0, protect_last: int = 0) -> list[int]:
    """Indices that stay when the n consecutive blocks go that turn the stream least.

    ``distances`` [L - n + 1]: entry l is d(l, l + n), the angle between what enters block l and what enters block l + n.
    """
    total = len(distances) + n - 1
    starts = len(distances) - protect_first - protect_last
    _check_removal(total, n, total - protect_first - protect_last)
    start = protect_first + int(distances.double()[protect_first : protect_first + starts].argmin())
    return keep_explicit(total, range(start, start + n))


def keep_last(n_layers: int, n_remove: int, protect_first: int = 0, protect_last: int = 1) -> list[int]:
    """Indices that stay when blocks go from the deepest upwards; the final one stays."""
    return keep_layers(torch.arange(n_layers).flip(0), n_remove, protect_first, protect_last)


def keep_random(n_layers: int, n_remove: int, seed: int, protect_first: int = 0, protect_last: int = 0) -> list[int]:
    """Indices that stay when blocks go by lot. A larger ``n_remove`` takes those of a smaller one and more."""
    return keep_layers(random_scores(n_layers, seed), n_remove, protect_first, protect_last)


def keep_every_kth(n_layers: int, k: int, n_remove: int | None = None) -> list[int]:
    """Indices that stay when blocks k-1, 2k-1, ... go, the first ``n_remove`` of them."""
    if k < 2:
        raise DataError(f"every_kth removes one block of k >= 2, not of {k}")
    going = range(k - 1, n_layers, k)
    if n_remove is not None and n_remove > len(going):
        raise DataError(f"every {k}th of {n_layers} blocks is {len(going)}: {n_remove} cannot be removed")
    return keep_explicit(n_layers, going[:n_remove])


def keep_explicit(n_layers: int, remove: Collection[int]) -> list[int]:
    """Indices that stay when those named go. DataError for an index the model lacks, or when nothing would stay."""
    beyond = sorted(i for i in remove if not 0 <= i < n_layers)
    if beyond:
        raise DataError(f"there is no block {beyond[0]}: the model has {n_layers}, counted from 0")
    _check_removal(n_layers, len(set(remove)), n_layers)
    return [i for i in range(n_layers) if i not in set(remove)]


def random_scores(count: int, seed: int) -> Tensor:
    """Uniform float64 scores [count], the same ones for one seed."""
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _check_removal(total: int, n_remove: int, available: int) -> None:
    if not 0 <= n_remove < total:
        raise DataError(f"{n_remove} of {total} blocks cannot be removed: at least one has to stay")
    if n_remove > available:
        raise DataError(f"{n_remove} blocks cannot be removed: protection leaves {max(available, 0)} of {total}")


# --- units of one layer ----------------------------------------------------------------------------------------------------


def keep_count(
    units: int, ratio: float | Fraction, round_to: int = 1, compat: Compat = "none", channels: int = 1
) -> int:
    """How many of ``units`` stay: of C = units x channels channels C - floor(C (1 - ratio)) go, in whole units.

    At least one stays. ``round_to`` m: the number that stays is brought down to a multiple of m (but not below m, and nothing is
    rounded where nothing goes). C (1 - ratio) is exact; ``compat: reference`` takes binary floats, which lose a channel at times
    (10240 at 0.9 keeps 1023).
    """
    if not 0 <= ratio < 1:
        raise DataError(f"a ratio of {float(ratio):g} is outside 0 <= ratio < 1")
    total = units * channels
    left = int(total * (1 - float(ratio))) if compat == "reference" else math.floor(total * (1 - _rational(ratio)))
    kept = units - (total - left) // channels
    if kept < units:
        kept = min(units, max(kept // round_to * round_to, round_to))
    return max(1, kept)


def keep_units(
    scores: Tensor, ratio: float | Fraction, round_to: int = 1, compat: Compat = "none", channels: int = 1
) -> Tensor:
    """The units that stay at this ratio, int64 ascending; ``scores`` [U]. Numbers by ``keep_count``."""
    return keep_best(scores, keep_count(len(scores), ratio, round_to, compat, channels))


def keep_best(scores: Tensor, count: int) -> Tensor:
    """The ``count`` units of the highest scores, int64 ascending; among equals the higher index stays."""
    order = torch.argsort(scores.double(), stable=True)
    return order[len(scores) - count :].sort().values


def _rational(ratio: float | Fraction) -> Fraction:
    """The short fraction a float stands for: 0.9 is 9/10, and 0.3 / 3 is 1/10."""
    return Fraction(ratio).limit_denominator(10**9)


# --- units of all layers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UnitScores:
    """Scores [U] of one layer and kind, with the parameters of one unit and its channels."""

    scores: Tensor
    parameters: int
    channels: int = 1


def keep_global(
    units: Mapping[Key, UnitScores],
    ratio: float | Fraction | Mapping[str, float],
    normalize: Normalize = "per_parameter",
) -> dict[Key, Tensor]:
    """Units of all layers ranked together: those that stay, by (layer, kind), int64 ascending.

    ``ratio``: share of the parameters of all units that goes (brought up to a whole channel, as ``keep_count`` does), or one share a
    kind, each kind then ranked by itself. ``normalize``: score per parameter of a unit, z-score within each layer and kind, or none.
    The best unit of each layer and kind stays. Normalisation and the measure in parameters are ours: the reference compares
    heads, which sum over head_dim channels, with neurons as they are.
    """
    if isinstance(ratio, Mapping):
        missing = {kind for _, kind in units} - set(ratio)
        if missing:
            raise DataError(f"no ratio for {', '.join(sorted(missing))}")
        kept: dict[Key, Tensor] = {}
        for kind in ratio:
            own = {key: value for key, value in units.items() if key[1] == kind}
            kept |= keep_global(own, ratio[kind], normalize) if own else {}
        return {key: kept[key] for key in units}
    if not 0 <= ratio < 1:
        raise DataError(f"a ratio of {float(ratio):g} is outside 0 <= ratio < 1")
    return _keep_together(units, _rational(ratio), normalize)


def _keep_together(units: Mapping[Key, UnitScores], ratio: Fraction, normalize: Normalize) -> dict[Key, Tensor]:
    values = [_normalised(unit, normalize) for unit in units.values()]
    sizes = [torch.full((len(unit.scores),), unit.parameters) for unit in units.values()]
    for value in values:
        value[_best(value)] = math.inf  # one of each stays
    score, size = torch.cat(values), torch.cat(sizes)
    grain = min(Fraction(unit.parameters, unit.channels) for unit in units.values())
    budget = math.ceil(int(size.sum()) * ratio / grain) * grain
    order = torch.argsort(score, stable=True)
    order = order[score[order] < math.inf]
    goes = order[size[order].cumsum(0) <= math.floor(budget)]
    stays = torch.ones(len(score), dtype=torch.bool)
    stays[goes] = False
    parts = torch.split(stays, [len(value) for value in values])
    return {key: part.nonzero().squeeze(1) for key, part in zip(units, parts, strict=True)}


def _best(value: Tensor) -> int:
    """The last among the highest, which is the one that goes last."""
    return int(torch.argsort(value, stable=True)[-1])


def _normalised(unit: UnitScores, normalize: Normalize) -> Tensor:
    scores = unit.scores.detach().double().cpu()
    if normalize == "per_parameter":
        return scores / unit.parameters
    if normalize == "none":
        return scores.clone()
    spread = scores.std(correction=0)
    return (scores - scores.mean()) / spread if spread > 0 else torch.zeros_like(scores)


# --- targets -----------------------------------------------------------------------------------------------------------------


def solve_ratio(target_params: int, count: Callable[[float], int], precision: float = 1e-6) -> float:
    """The least ratio (to ``precision``) at which ``count(ratio)`` parameters are at most ``target_params``, by bisection.

    ``count`` does not grow with the ratio. DataError where no ratio below 1 gets there.
    """
    low, high = 0.0, 1 - precision
    if count(low) <= target_params:
        return low
    if count(high) > target_params:
        raise DataError(
            f"{target_params:,} parameters cannot be reached: the largest cut leaves {count(high):,}",
            hint="Let more layers be cut, or remove whole blocks first.",
        )
    while high - low > precision:
        middle = (low + high) / 2
        low, high = (low, middle) if count(middle) <= target_params else (middle, high)
    return high


def target_params(total: int, fraction: float) -> int:
    """Parameters left when ``fraction`` of ``total`` has to go."""
    if not 0 <= fraction < 1:
        raise DataError(f"a target fraction of {fraction:g} is outside 0 <= fraction < 1")
    return math.floor(total * (1 - _rational(fraction)))


def ranks(scores: Sequence[float] | Tensor) -> list[int]:
    """Place of each in the order of removal, 0 first: the inverse of a stable ascending sort."""
    order = torch.argsort(torch.as_tensor(scores, dtype=torch.float64), stable=True)
    found = torch.empty_like(order)
    found[order] = torch.arange(len(order))
    return [int(rank) for rank in found]
