"""The frozen teachers: sentence embeddings reduced to the shared dimension, and pictures carried into that space. Pure.

The scheme is ours: no paper's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class TextSpace:
    """Centred sentence embeddings along their first principal axes: ``mean`` [q], ``axes`` [q, d] (orthonormal columns)."""

    mean: Tensor
    axes: Tensor

    def project(self, t: Tensor) -> Tensor:
        """Sentence embeddings [n, q] -> unit vectors [n, d]."""
        return functional.normalize((t - self.mean) @ self.axes, dim=1)


def fit_text_space(t: Tensor, dim: int) -> TextSpace:
    """Mean and the ``dim`` leading eigenvectors of the covariance of ``t`` [n, q], computed in float64.

    Signs are fixed (the largest entry of an axis is positive). Raises ValueError where ``dim`` > q or n < 2.
    """
    if len(t) < 2 or dim > t.shape[1]:
        raise ValueError(f"a text space of {dim} dimensions needs two texts and embeddings of {dim} dimensions or more")
    exact = t.double()
    mean = exact.mean(0)
    centred = exact - mean
    axes = torch.linalg.eigh(centred.T @ centred / len(t)).eigenvectors.flip(1)[:, :dim]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return TextSpace(mean.to(t.dtype), (axes * largest.sign()).to(t.dtype))


def ridge_targets(v: Tensor, t: Tensor, train: Tensor, ridge: float) -> Tensor:
    """Unit predictions [n, d] of captions' vectors from image features, fitted on the ``train`` rows.

    W = (A'A + ridge I)^-1 A'B, A = v - mean(v), B = t - mean(t) over the training rows, in float64; the target of a row is
    (v - mean(v)) W. ``v`` [n, p] unit features, ``t`` [n, d] the vectors of the captions, ``train`` [n] boolean.
    """
    x, y = v.double(), t.double()
    mean_x, mean_y = x[train].mean(0), y[train].mean(0)
    A, B = x[train] - mean_x, y[train] - mean_y
    gram = A.T @ A + ridge * torch.eye(A.shape[1], dtype=A.dtype, device=A.device)
    return functional.normalize((x - mean_x) @ torch.linalg.solve(gram, A.T @ B), dim=1).to(v.dtype)


def standardised(v: Tensor, train: Tensor) -> Tensor:
    """Features [n, p] with mean 0 and deviation 1 over the training rows, then of unit length."""
    mean, deviation = v[train].mean(0), v[train].std(0).clamp(min=1e-6)
    return functional.normalize((v - mean) / deviation, dim=1)
