"""Logistic probes: L2-penalised logistic regression of many attributes at once. Pure torch, float64.

Objective of each attribute, as scikit-learn's ``LogisticRegression``: |w|^2 / 2 + C sum of log-losses, intercept free, on features
standardised with mean and population std of the attribute's rows. Solved by Newton's method with conjugate gradients; attributes
run side by side, each with its own steps, so that a product of matrices serves them all.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from runner.nodes.leakage.linear_probe import LinearProbe, fit_by_rows

C = 1.0
TOLERANCE = 1e-9
_NEWTON, _CONJUGATE, _HALVINGS = 100, 250, 40


def logistic_probe(
    features: Tensor, targets: Tensor, valid: Tensor | None = None, c: float = C, tolerance: float = TOLERANCE
) -> LinearProbe:
    """Fit all attributes: features [n, D], targets [n, A] of 0 and 1, valid [n, A] -> weights [D, A]; scores are logits.

    Ends where the largest entry of the gradient, divided by C n, is below ``tolerance``. An attribute with one class gets weight 0
    and a logit of +-40. Raises ValueError for c <= 0 and as ``checked``.
    """
    if c <= 0:
        raise ValueError(f"C of a logistic probe must be above 0, not {c}")
    return fit_by_rows(features, targets, valid, lambda z, y, _: newton(z, y, c, tolerance))


def newton(z: Tensor, y: Tensor, c: float, tolerance: float) -> tuple[Tensor, Tensor]:
    """Minimise c sum log-loss + |w|^2 / 2: z [n, D], y [n, k] -> weight [D, k], intercept [k]."""
    weight, intercept, mixed = _start(z, y)
    x = torch.cat([z, torch.ones_like(z[:, :1])], 1)
    w = torch.cat([weight, intercept[None]])
    penalty = torch.cat([z.new_ones(z.shape[1], 1), z.new_zeros(1, 1)]) / c
    for _ in range(_NEWTON):
        logits = x @ w[:, mixed]
        share = logits.sigmoid()
        gradient = x.T @ (share - y[:, mixed]) + penalty * w[:, mixed]
        going = gradient.abs().amax(0) > tolerance * len(z)
        if not bool(going.any()):
            break
        mixed, logits, share, gradient = mixed[going], logits[:, going], share[:, going], gradient[:, going]
        step = _conjugate(x, share * (1 - share), penalty, gradient)
        w[:, mixed] -= step * _length(x, y[:, mixed], w[:, mixed], logits, step, gradient, penalty)
    return w[:-1], w[-1]


def _start(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Zero weights, logit of the base rate, and the columns that have both classes."""
    rate = y.mean(0)
    intercept = torch.logit(rate, eps=1e-15).clamp(-40, 40)
    intercept = torch.where(rate == 0, -40.0, torch.where(rate == 1, 40.0, intercept))
    return z.new_zeros(z.shape[1], y.shape[1]), intercept, ((rate > 0) & (rate < 1)).nonzero().flatten()


def _conjugate(x: Tensor, curvature: Tensor, penalty: Tensor, gradient: Tensor) -> Tensor:
    """Solve (X' diag(curvature) X + penalty) s = gradient column by column, preconditioned by the diagonal: [D + 1, k]."""
    diagonal = (x * x).T @ curvature + penalty + 1e-30
    s, residual = torch.zeros_like(gradient), gradient.clone()
    size = gradient.norm(dim=0)
    goal = size * torch.minimum(size.new_tensor(1e-2), (size / len(x)).sqrt()).clamp_min(1e-10)
    direction = residual / diagonal
    strength = (residual * direction).sum(0)
    for _ in range(_CONJUGATE):
        if bool((residual.norm(dim=0) <= goal).all()):
            break
        bent = x.T @ (curvature * (x @ direction)) + penalty * direction
        along = strength / (direction * bent).sum(0).clamp_min(1e-300)
        s, residual = s + along * direction, residual - along * bent
        preconditioned = residual / diagonal
        stronger = (residual * preconditioned).sum(0)
        direction = preconditioned + stronger / strength.clamp_min(1e-300) * direction
        strength = stronger
    return s


def _length(x: Tensor, y: Tensor, w: Tensor, logits: Tensor, step: Tensor, gradient: Tensor, penalty: Tensor) -> Tensor:
    """Halve each column's step until the objective falls by a hundredth of what its slope promises: [k]."""
    along, slope = x @ step, (step * gradient).sum(0)
    before = _objective(logits, y, w, penalty)
    length = torch.ones_like(slope)
    for _ in range(_HALVINGS):
        after = _objective(logits - length * along, y, w - length * step, penalty)
        short = after > before - 0.01 * length * slope + 1e-12 * before.abs()
        if not bool(short.any()):
            break
        length = torch.where(short, length / 2, length)
    return length


def _objective(logits: Tensor, y: Tensor, w: Tensor, penalty: Tensor) -> Tensor:
    return (softplus(logits) - y * logits).sum(0) + (penalty * w * w).sum(0) / 2
