"""Every merge method, and the one way in for any of them: ``merge_tensor``. Pure: tensors in, tensors out.

theta_0 is the base, theta_k the experts, w_k their weights, D_k = theta_k - theta_0. What works on whole tensors stands here,
what works on differences in ``deltas``, what turns vectors in ``spherical``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from runner.errors import DataError
from runner.nodes.merging.deltas import breadcrumbs, dare, della, sce, task_arithmetic, ties, weighted_sum
from runner.nodes.merging.sparsify import Rescale
from runner.nodes.merging.specs import SUMMED, MergeSpec
from runner.nodes.merging.spherical import karcher, multislerp, nuslerp, slerp
from runner.nodes.merging.weighing import check_sum, merges, weights_for

__all__ = [
    "breadcrumbs", "dare", "della", "fisher", "iso", "karcher", "linear", "merge_state", "merge_tensor", "model_stock",
    "multislerp", "nuslerp", "sce", "slerp", "task_arithmetic", "ties",
]  # fmt: skip


def linear(tensors: Sequence[Tensor], weights: Sequence[float], normalize: bool = True) -> Tensor:
    """sum_k w_k theta_k, divided by sum_k w_k if ``normalize`` (model soups, arXiv 2203.05482; "weight_average")."""
    total = weighted_sum(tensors, weights)
    if not normalize:
        return total
    if sum(weights) == 0:
        raise DataError("linear: the weights sum to 0 and cannot be normalised")
    return total / sum(weights)


def model_stock(base: Tensor, tensors: Sequence[Tensor], rows: bool = False) -> Tensor:
    """theta_0 + t * mean_k D_k with t = K c / (1 + (K - 1) c), c the mean cosine of pairs of D_k (arXiv 2403.19522).

    ``rows``: t for each row ("filter-wise"). t is negative where differences point apart; where the denominator vanishes the
    base stays, as in mergekit. A cosine with a zero difference is 0; mergekit also shrinks those of lengths below 1e-3.
    """
    shape = (-1, base.shape[-1]) if rows and base.ndim > 1 else (1, -1)
    deltas = torch.stack([(x - base).reshape(shape) for x in tensors])
    norms = torch.linalg.vector_norm(deltas, dim=-1)
    units = deltas / norms.clamp_min(torch.finfo(deltas.dtype).tiny).unsqueeze(-1)
    n = len(tensors)
    # Of K unit vectors the squared length of the sum is K plus twice the cosines of all pairs.
    whole = units.sum(0).square().sum(-1) - (norms > 0).sum(0)
    cosine = (whole / max(n * (n - 1), 1)).clamp(-1, 1)
    divisor = 1 + (n - 1) * cosine
    singular = divisor.abs() < 1e-6
    t = torch.where(singular, 0.0, n * cosine / torch.where(singular, 1.0, divisor))
    return base + (t.unsqueeze(-1) * deltas.mean(0)).reshape(base.shape)


def fisher(
    tensors: Sequence[Tensor],
    fishers: Sequence[Tensor],
    weights: Sequence[float],
    norms: Sequence[float] | None = None,
    floor: float = 1e-6,
) -> Tensor:
    """Elementwise sum_k a_k F_k theta_k / sum_k a_k F_k with F_k + ``floor`` (arXiv 2111.09832, as the reference code has it).

    ``fishers``: diagonals of the Fisher information, not negative, shaped like the tensors. a_k = w_k; with ``norms`` (||F_k||_2
    of each whole model) times (1 / ||F_k||) / sum_j (1 / ||F_j||), so that the model with the larger values does not win.
    """
    shares = list(weights)
    if norms is not None:
        inverse = [1 / max(norm, 1e-30) for norm in norms]
        shares = [w * value / sum(inverse) for w, value in zip(weights, inverse, strict=True)]
    total, divisor = torch.zeros_like(tensors[0]), torch.zeros_like(tensors[0])
    for tensor, values, share in zip(tensors, fishers, shares, strict=True):
        importance = (values.to(tensor) + floor) * share
        total += importance * tensor
        divisor += importance
    return total / divisor


def iso(base: Tensor, tensors: Sequence[Tensor], weights: Sequence[float], scale: float = 1.0) -> Tensor:
    """theta_0 + lambda * U mean(sigma) V^T of sum_k w_k D_k = U diag(sigma) V^T (isotropic merging, arXiv 2502.04959).

    The reference code sums without weights: w_k = 1. Tensors that are not matrices are merged by ``task_arithmetic``. Equal
    experts do not give that expert back: flattening the spectrum is the point of the method.
    """
    delta = weighted_sum((x - base for x in tensors), weights)
    if delta.ndim == 2 and bool(delta.any()):
        u, sigma, v = torch.linalg.svd(delta, full_matrices=False)
        delta = sigma.mean() * (u @ v)
    return base + scale * delta


def merge_tensor(
    spec: MergeSpec,
    name: str,
    base: Tensor,
    experts: Sequence[Tensor],
    weights: Sequence[float],
    *,
    names: Sequence[str] | None = None,
    layers: int | None = None,
    fishers: Sequence[Tensor] | None = None,
    fisher_norms: Sequence[float] | None = None,
) -> Tensor:
    """One tensor merged as ``spec`` says: on the device of ``base``, computed in float32 or better, in the spec's dtype.

    ``name``: of the tensor in the base; ``experts``: one tensor each, shaped like the base; ``weights``: of the mixture, one an
    expert (``weighing.check_weights`` has judged them); ``names``: of the experts, needed where the spec has settings by expert
    and so that random drops follow the expert and not its place; ``layers``: of the decoder, for gradients; ``fishers`` and
    ``fisher_norms``: see ``fisher``. Tensors that take no part, and such that are not floating, are the base's.

    Raises ``DataError`` on shapes that differ, and on values that are not finite, naming tensor and expert.
    """
    dtype = base.dtype if spec.dtype == "base" else getattr(torch, spec.dtype)
    if not base.is_floating_point():
        return base.clone()
    if not merges(spec, name):
        return base.to(dtype, copy=True)
    who = [str(k) for k in range(len(experts))] if names is None else list(names)
    own = weights_for(spec, name, who, weights, layers)
    check_sum(spec, own, f"weights of {name}")
    for expert, tensor in zip(who, experts, strict=True):
        if tensor.shape != base.shape:
            raise DataError(
                f"{name}: expert {expert!r} has the shape {list(tensor.shape)}, the base {list(base.shape)}"
            )
    task = _Task(spec, name, who, own, fishers, fisher_norms)
    merged = task.merge(_precise(base), [_precise(x, base.device) for x in experts])
    _need_finite(name, merged, who, experts, base)
    return merged.to(dtype)


def merge_state(
    spec: MergeSpec,
    base: Mapping[str, Tensor],
    experts: Mapping[str, Mapping[str, Tensor]],
    weights: Sequence[float],
    *,
    layers: int | None = None,
) -> dict[str, Tensor]:
    """``merge_tensor`` for every tensor of the base; an expert that lacks one counts as the base there."""
    return {
        name: merge_tensor(
            spec,
            name,
            tensor,
            [e.get(name, tensor) for e in experts.values()],
            weights,
            names=[*experts],
            layers=layers,
        )
        for name, tensor in base.items()
    }


class _Task:
    """One tensor's merge with all that its method may need."""

    def __init__(
        self,
        spec: MergeSpec,
        name: str,
        experts: list[str],
        weights: list[float],
        fishers: Sequence[Tensor] | None,
        fisher_norms: Sequence[float] | None,
    ) -> None:
        self.spec, self.name, self.experts, self.weights = spec, name, experts, weights
        self.fishers, self.fisher_norms = fishers, fisher_norms
        self.density = spec.densities(experts)
        # Dividing a plain sum by its weights is the same as dividing the weights beforehand.
        if spec.normalize and spec.method in SUMMED:
            self.weights = [w / sum(weights) for w in weights]

    def merge(self, base: Tensor, tensors: list[Tensor]) -> Tensor:
        return _METHODS[self.spec.method](self, base, tensors)

    @property
    def rescale(self) -> Rescale:
        return self.spec.rescale or ("mergekit" if self.spec.rule == "mergekit" else "paper")

    @property
    def share(self) -> float:
        """Of the second of two, after normalising."""
        return self.weights[1] / sum(self.weights)


def _dare(task: _Task, base: Tensor, tensors: list[Tensor]) -> Tensor:
    spec = task.spec
    return dare(
        base, tensors, task.weights, task.density, spec.seed, task.name, task.rescale,
        "ties" if spec.method == "dare_ties" else "linear", experts=task.experts, convention=spec.rule,
        normalize=spec.normalizes and spec.method == "dare_ties", scale=spec.scale,
    )  # fmt: skip


def _breadcrumbs(task: _Task, base: Tensor, tensors: list[Tensor]) -> Tensor:
    spec = task.spec
    elects = spec.method == "breadcrumbs_ties"
    return breadcrumbs(
        base, tensors, task.weights, task.density, spec.gamma, "ties" if elects else "linear",
        normalize=spec.normalizes and elects, scale=spec.scale,
    )  # fmt: skip


def _della(task: _Task, base: Tensor, tensors: list[Tensor]) -> Tensor:
    spec = task.spec
    elects = spec.method == "della"
    return della(
        base, tensors, task.weights, task.density, spec.epsilon, spec.seed, task.name, task.rescale,
        "ties" if elects else "linear", experts=task.experts, normalize=spec.normalizes and elects, scale=spec.scale,
    )  # fmt: skip


def _fisher(task: _Task, base: Tensor, tensors: list[Tensor]) -> Tensor:
    if task.fishers is None or len(task.fishers) != len(tensors):
        raise DataError(f"{task.name}: fisher needs one tensor of Fisher values an expert")
    return fisher(tensors, task.fishers, task.weights, task.fisher_norms if task.spec.normalizes else None)


_METHODS: Mapping[str, Callable[[_Task, Tensor, list[Tensor]], Tensor]] = {
    "linear": lambda task, base, x: linear(x, task.weights, task.spec.normalizes),
    "task_arithmetic": lambda task, base, x: task_arithmetic(base, x, task.weights, task.spec.scale),
    "ties": lambda task, base, x: ties(
        base, x, task.weights, task.density, task.spec.rule, task.spec.normalizes, task.spec.scale
    ),
    "dare_linear": _dare,
    "dare_ties": _dare,
    "breadcrumbs": _breadcrumbs,
    "breadcrumbs_ties": _breadcrumbs,
    "della": _della,
    "della_linear": _della,
    "slerp": lambda task, base, x: slerp(x[0], x[1], task.share),
    "nuslerp": lambda task, base, x: nuslerp(x[0], x[1], task.share, base=base, axis=-1 if task.spec.rows else None),
    "multislerp": lambda task, base, x: multislerp(x, task.weights, base=base, normalize=task.spec.normalizes),
    "karcher": lambda task, base, x: karcher(x, task.weights),
    "model_stock": lambda task, base, x: model_stock(base, x, task.spec.rows),
    "sce": lambda task, base, x: sce(base, x, task.density[0]),
    "fisher": _fisher,
    "iso": lambda task, base, x: iso(base, x, task.weights, task.spec.scale),
}


def _precise(tensor: Tensor, device: torch.device | None = None) -> Tensor:
    """Float32, or float64 where it is that already: differences of half precision lose most of their bits."""
    return tensor.to(device or tensor.device, tensor.dtype if tensor.dtype == torch.float64 else torch.float32)


def _need_finite(name: str, merged: Tensor, experts: Sequence[str], tensors: Sequence[Tensor], base: Tensor) -> None:
    if bool(torch.isfinite(merged).all()):
        return
    for who, tensor in [("the base", base), *((f"expert {e!r}", x) for e, x in zip(experts, tensors, strict=True))]:
        if not bool(torch.isfinite(tensor).all()):
            raise DataError(
                f"{name}: {who} holds values that are not finite", hint="Its training diverged, or the file is damaged."
            )
    raise DataError(f"{name}: the merge gives values that are not finite")
