"""Merges that keep lengths: along great circles between tensors. Pure: tensors in, tensors out, float32 or float64.

A tensor counts as one vector unless said otherwise. Formulas are those of mergekit 0.1.5; where it divides by (almost) zero or
fails, the limit is taken instead, and the docstring says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from runner.errors import DataError

PARALLEL = 0.9995
"""From this absolute cosine on, ``slerp`` is linear."""
TINY = 1e-8


def slerp(a: Tensor, b: Tensor, t: float, *, parallel: float = PARALLEL) -> Tensor:
    """sin((1-t) Omega) / sin(Omega) a + sin(t Omega) / sin(Omega) b, Omega the angle between the flattened tensors.

    Lengths are not normalised. Linear where abs(cos Omega) > ``parallel``. t = 0 gives ``a``, t = 1 gives ``b``.
    """
    cosine = torch.dot(_unit(a), _unit(b)).clamp(-1, 1)
    if abs(cosine.item()) > parallel:
        return (1 - t) * a + t * b
    return _arc(cosine, a, b, t)


def nuslerp(a: Tensor, b: Tensor, t: float, *, base: Tensor | None = None, axis: int | None = None) -> Tensor:
    """``slerp`` of the differences to ``base`` (of the tensors themselves without one), linear only where truly parallel.

    ``axis``: vectors along it are turned each on its own (-1: rows); None: the whole tensor.
    """
    if base is not None:
        return base + nuslerp(a - base, b - base, t, axis=axis)
    if axis is None:
        return nuslerp(a.flatten(), b.flatten(), t, axis=0).view_as(a)
    cosine = (_unit_along(a, axis) * _unit_along(b, axis)).sum(axis, keepdim=True).clamp(-1, 1)
    parallel = 1 - cosine.square() <= TINY**2
    turned = _arc(torch.where(parallel, 0.0, cosine), a, b, t)
    return torch.where(parallel, (1 - t) * a + t * b, turned)


def multislerp(
    tensors: Sequence[Tensor], weights: Sequence[float], *, base: Tensor | None = None, normalize: bool = True
) -> Tensor:
    """Barycentre on the sphere: the mean of the unit vectors' tangents at their normalised weighted mean, times the mean length.

    Of the differences to ``base`` where one is given. All tensors zero (nothing differs from the base): the weighted mean, where
    mergekit fails. Raises ``DataError`` where unit vectors cancel each other out and there are more than two.
    """
    if base is not None:
        return base + multislerp([x - base for x in tensors], weights, normalize=normalize)
    stack = torch.stack([x.flatten() for x in tensors])
    shares = stack.new_tensor(weights)
    shares = shares / shares.sum() if normalize else shares
    norms = length_of(stack, dim=1)
    units = stack / (norms + TINY).unsqueeze(1)
    mean = shares @ units
    length = length_of(mean)
    if length < TINY:
        if len(tensors) > 2 and bool((norms > TINY).any()):
            raise DataError("multislerp: the weighted directions cancel each other out", hint="Use other weights.")
        return (shares @ stack).view_as(tensors[0])
    mean = mean / length
    tangent = shares @ (units - (units @ mean).unsqueeze(1) * mean)
    angle = length_of(tangent) + TINY
    result = mean * angle.cos() + tangent * (angle.sin() / angle)
    return (result * (norms @ shares)).view_as(tensors[0])


def karcher(
    tensors: Sequence[Tensor], weights: Sequence[float], *, iterations: int = 10, tolerance: float = 1e-5
) -> Tensor:
    """Weighted Karcher mean of the directions, by ``iterations`` steps at most, times the weighted mean length.

    Of the tensors themselves, not of differences (mergekit; its weights are equal). The angle is taken from sine and cosine:
    an arc cosine alone loses small angles in float32. Tensors of length or weight zero have no say in the direction.
    """
    flat = [x.flatten() for x in tensors]
    norms = [length_of(x) for x in flat]
    length = sum((w * n for w, n in zip(weights, norms, strict=True)), start=norms[0].new_zeros(()))
    valid = [(w, x / n) for w, x, n in zip(weights, flat, norms, strict=True) if w != 0 and n.item() > tolerance]
    total = sum(w for w, _ in valid)
    if not valid or total == 0:
        return torch.zeros_like(tensors[0])
    valid = [(w / total, unit) for w, unit in valid]
    mean = sum((w * unit for w, unit in valid), start=torch.zeros_like(flat[0]))
    mean = valid[0][1].clone() if length_of(mean).item() < tolerance else mean / length_of(mean)
    for _ in range(iterations):
        tangent = sum((w * _logarithm(mean, unit, tolerance) for w, unit in valid), start=torch.zeros_like(mean))
        angle = length_of(tangent)
        if angle.item() < tolerance:
            break
        mean = angle.cos() * mean + angle.sin() * (tangent / angle)
        mean = mean / length_of(mean)
    return (length * mean).view_as(tensors[0])


def length_of(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Euclidean length, of the whole tensor or along an axis."""
    norm: Tensor = torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim)
    return norm


def _logarithm(mean: Tensor, unit: Tensor, tolerance: float) -> Tensor:
    """The tangent at ``mean`` that leads to ``unit``: its length is the angle."""
    cosine = torch.dot(mean, unit)
    across = unit - cosine * mean
    sine = length_of(across)
    angle = torch.atan2(sine, cosine)
    if angle.item() < tolerance or sine.item() == 0:
        return torch.zeros_like(mean)
    return across * (angle / sine)


def _arc(cosine: Tensor, a: Tensor, b: Tensor, t: float) -> Tensor:
    angle = torch.acos(cosine)
    sine = torch.sin(angle)
    return (torch.sin((1 - t) * angle) / sine) * a + (torch.sin(t * angle) / sine) * b


def _unit(x: Tensor) -> Tensor:
    flat = x.flatten()
    norm = length_of(flat)
    return flat / torch.where(norm > TINY, norm, torch.ones_like(norm))


def _unit_along(x: Tensor, axis: int) -> Tensor:
    return x / length_of(x, dim=axis, keepdim=True).clamp_min(1e-7)
